// @ts-check
/** Cold reads of Workers KV: the tier beside Cloudflare's own SDK, against the API's stand-in over a real namespace in workerd. */
import Cloudflare from 'cloudflare'
import { KvCache, cloudflareKV } from '../../index.js'
import { startRest } from '../../__test__/helpers/kv-rest.mjs'
import { median } from '../report.mjs'
import { DAY, count, readAll, shuffled } from './common.mjs'

const KEYS = 1_000

/** @param {{ rounds: number, quick: boolean }} how */
export async function workersKV({ rounds }) {
  const rest = await startRest()
  const { accountId, namespaceId, apiToken, baseUrl } = rest
  // As patient as the SDK is by default.
  const tiers = [cloudflareKV({ accountId, namespaceId, apiToken, baseUrl, timeout: '60s' })]
  const keys = Array.from({ length: KEYS }, (_, n) => `item:${n}`)
  const ids = new Map(keys.map((key, n) => [key, n]))
  const isRight = (/** @type {any} */ value, /** @type {string} */ key) => value?.id === ids.get(key)
  const filling = new KvCache({ maxAge: DAY, tiers })
  await filling.putMany(keys.map((key, id) => [key, { id, text: 'It was a dark and stormy night.' }]))
  await filling.flush()
  await filling.close()
  const { values } = new Cloudflare({ apiToken, baseURL: baseUrl, maxRetries: 0 }).kv.namespaces
  const ours = { account_id: accountId, namespace_id: namespaceId }

  /** @type {{ name: string, run: (order: string[]) => Promise<unknown> }[]} */
  const peers = [
    {
      name: 'kvcache, all at once',
      async run(order) {
        const cache = new KvCache({ maxAge: DAY, tiers })
        const never = () => { throw new Error('a fetcher was called: the value is in KV') }
        await readAll(order, KEYS, key => cache.get(key, never), isRight)
        return () => cache.close()
      }
    },
    {
      // All at once some of its connections are reset.
      name: 'SDK values.get(), 64 at a time',
      async run(order) {
        await readAll(order, 64, async key => (await values.get(key, ours)).json(), isRight)
      }
    }
  ]
  const took = peers.map(() => /** @type {number[]} */ ([]))
  const calls = peers.map(() => 0)
  for (let round = -1; round < rounds; round++) {
    for (let turn = 0; turn < peers.length; turn++) {
      const n = (turn + round + 1) % peers.length
      await rest.control({})
      const start = performance.now()
      const close = await peers[n].run(shuffled(keys))
      if (round >= 0) took[n].push(performance.now() - start)
      calls[n] = (await rest.seen()).calls.length
      if (typeof close === 'function') await close()
    }
  }
  console.log(`\nWorkers KV: ${count(KEYS)} cold keys, of a stand-in for the API in workerd on this machine`)
  console.log(`  ${''.padEnd(32)}   calls    ratio         ms`)
  const base = median(took[0])
  peers.forEach(({ name }, n) => {
    const ms = median(took[n])
    console.log(`  ${name.padEnd(32)}   ${count(calls[n]).padStart(5)}   ${(ms / base).toFixed(2).padStart(6)}   ${ms.toFixed(1).padStart(8)}`)
  })
  await rest.stop()
}
