// @ts-check
/** The other process of seen.mjs: puts and invalidates as it is told, and says when. `writer.mjs disk PATH` or `redis URL`. */
import { KvCache, disk, redis } from '../../index.js'
import { DAY, hearing, now, say, sleep } from './common.mjs'

const [kind, where] = process.argv.slice(2)
const hear = hearing()
const cache = new KvCache({ maxAge: DAY, near: false, tiers: [kind === 'disk' ? disk({ path: where }) : redis({ url: where })] })
await cache.get('nothing')
let storming = false

/** @param {string[]} keys */
async function storm(keys) {
  /** @type {number[]} */
  const gone = []
  for (let value = 0; storming; value++) {
    const key = keys[value % keys.length]
    await cache.put(key, value)
    // Long enough to be read by the other.
    await sleep(value % 3)
    await cache.invalidate(key)
    gone[value] = now()
  }
  say({ gone })
}

process.on('disconnect', () => void cache.close().then(() => process.exit()))
say({ ready: true })
for (;;) {
  const told = await hear()
  if (told.put !== undefined) {
    await cache.put(told.put, told.value)
    say({ put: true })
  } else if (told.invalidate !== undefined) {
    // The other one is at it by then.
    await sleep(2)
    const before = now()
    await cache.invalidate(told.invalidate)
    say({ before, after: now() })
  } else if (told.storm !== undefined) {
    storming = true
    void storm(told.storm)
  } else if (told.rest !== undefined) storming = false
}
