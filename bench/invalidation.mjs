// @ts-check
/**
 * `node bench/invalidation.mjs`: what an invalidation takes until it resolves, what its sweep does to the event loop, and what
 * near hits lose while other things are invalidated.
 *
 * Usage: node bench/invalidation.mjs [--entries N] [--rounds N]
 *   --entries  in the cache, default 1,000,000
 *   --rounds   for each kind and size, default 9; the median is printed
 *
 * Beside it the peers that have tags: BentoCache's deleteByTag and Cacheable's tags, at sizes they can do.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { parseArgs } from 'node:util'
import { KvCache } from '../index.js'

const { values: given } = parseArgs({
  options: { entries: { type: 'string', default: '1000000' }, rounds: { type: 'string', default: '9' } }
})
const ENTRIES = Number(given.entries)
const ROUNDS = Number(given.rounds)
const SIZES = [1_000, 100_000, 1_000_000].filter(size => size <= ENTRIES)
const DAY = 86_400

/** @param {number} ms */
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
/** @param {number[]} numbers */
const median = numbers => numbers.sort((a, b) => a - b)[numbers.length >> 1]
/** @param {number} n */
const count = n => n.toLocaleString('en-US')

/**
 * The event loop's delay beyond the timer's own milliseconds, at its 99th percentile, while `work` runs.
 * @param {() => Promise<unknown>} work
 */
async function delayDuring(work) {
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  await work()
  delay.disable()
  return delay.percentile(99) / 1e6
}

/** What covers the keys of a size, by kind: their keys and tags are made for it. */
const KINDS = {
  tag: (/** @type {number} */ size) => ({ tag: `size:${size}` }),
  prefix: (/** @type {number} */ size) => ({ prefix: `s${size}:` }),
  pattern: (/** @type {number} */ size) => `s${size}:*:x`
}

const cache = new KvCache({ memory: '2gb', near: false })

/**
 * Entries of a size, in pieces that let the event loop live.
 * @param {number} size
 * @param {number} much
 */
async function fill(size, much) {
  for (let from = 0; from < much; from += 10_000) {
    const entries = []
    for (let n = from; n < Math.min(from + 10_000, much); n++) entries.push([`s${size}:${n}:x`, 'value'])
    await cache.putMany(/** @type {any} */ (entries), { maxAge: DAY, tags: [`size:${size}`] })
    await sleep(0)
  }
}

// What a cache tells of its own accord holds no process open.
const alive = setInterval(() => {}, 1000)

console.log(`${count(ENTRIES)} entries, ${ROUNDS} rounds, medians`)
console.log('invalidate, covering      resolves after       swept after   event loop delay p99: idle -> while it is swept')
for (const size of SIZES) {
  await fill(0, ENTRIES - size)
  for (const [kind, target] of Object.entries(KINDS)) {
    /** @type {number[]} */
    const took = []
    /** @type {number[]} */
    const swept = []
    /** @type {number[]} */
    const idle = []
    /** @type {number[]} */
    const busy = []
    for (let round = 0; round < (size > 100_000 ? Math.min(ROUNDS, 3) : ROUNDS); round++) {
      await fill(size, size)
      // After a sweep the next one rests a second.
      await sleep(1500)
      idle.push(await delayDuring(() => sleep(500)))
      /** @type {Promise<{ swept: number }>} */
      const over = new Promise(resolve => {
        cache.on('invalidate', function listener(event) {
          if (event.swept === 0) return
          cache.off('invalidate', listener)
          resolve(event)
        })
      })
      const start = performance.now()
      await cache.invalidate(target(size))
      took.push(performance.now() - start)
      if (await cache.get(`s${size}:1:x`) !== undefined) throw new Error('it is still served')
      busy.push(await delayDuring(async () => {
        const event = await over
        if (event.swept !== size) throw new Error(`${event.swept} swept, not ${size}`)
        swept.push(performance.now() - start)
        // Long enough to have a percentile.
        await sleep(Math.max(0, 500 - (performance.now() - start)))
      }))
    }
    const [a, b] = [median(idle), median(busy)]
    console.log(`${kind.padEnd(8)} ${count(size).padStart(12)}   ${(median(took) * 1000).toFixed(0).padStart(8)} us   ` +
      `${median(swept).toFixed(0).padStart(12)} ms   ${a.toFixed(2)} -> ${b.toFixed(2)} ms (${(b / a).toFixed(2)} x)`)
  }
  await cache.invalidate({ all: true })
  await sleep(3000)
}
await cache.close()

// --- Near hits while other things are invalidated -----------------------------------------------------------------------------

const near = new KvCache({ memory: '256mb' })
const keys = Array.from({ length: 10_000 }, (_, n) => `user:${n}:profile`)
for (const key of keys) await near.put(key, { key }, { maxAge: DAY, tags: ['mine'] })
for (const key of keys) await near.get(key)

/**
 * The share of 50,000 gets a second that the near cache answers, over some seconds.
 * @param {number} perSecond invalidations of other tags and prefixes
 */
async function share(perSecond) {
  const SECONDS = 5
  const before = near.stats()
  let invalidations = 0
  for (let tick = 0; tick < SECONDS * 100; tick++) {
    for (let n = 0; n < 500; n++) await near.get(keys[(tick * 500 + n * 7919) % keys.length])
    while (invalidations < tick * perSecond / 100) {
      const n = invalidations++
      await near.invalidate(n % 2 === 0 ? { tag: `other:${n}` } : { prefix: `other:${n}:` })
    }
    await sleep(10)
  }
  const after = near.stats()
  return (after.nearHits - before.nearHits) / (after.hits - before.hits)
}

const quiet = await share(0)
const noisy = await share(100)
console.log(`\nnear hits of all hits: ${(quiet * 100).toFixed(2)} % quiet, ${(noisy * 100).toFixed(2)} % with 100 invalidations a second`)
await near.close()

// --- Peers -----------------------------------------------------------------------------------------------------------------------

/** @type {Record<string, () => Promise<{ set(key: string, tag: string): Promise<unknown>, cut(tag: string): Promise<unknown>, close(): unknown }>>} */
const PEERS = {
  'BentoCache deleteByTag': async () => {
    const { BentoCache, bentostore } = await import('bentocache')
    const { memoryDriver } = await import('bentocache/drivers/memory')
    const store = bentostore().useL1Layer(memoryDriver({ maxItems: 200_000 }))
    const bento = new BentoCache({ default: 'memory', stores: { memory: store } })
    return {
      set: (key, tag) => bento.set({ key, value: 'value', tags: [tag] }),
      cut: tag => bento.deleteByTag({ tags: [tag] }),
      close: () => bento.disconnectAll()
    }
  },
  'Cacheable tags': async () => {
    const { Cacheable } = await import('cacheable')
    const cacheable = /** @type {any} */ (new Cacheable({ tags: true }))
    return {
      set: (key, tag) => cacheable.set(key, 'value', { tags: [tag] }),
      cut: tag => cacheable.tags.invalidateTag(tag),
      close: () => {}
    }
  }
}
console.log('\npeers, until their call resolves')
for (const [name, open] of Object.entries(PEERS)) {
  try {
    const peer = await open()
    for (const size of [1_000, 100_000]) {
      const took = []
      for (let round = 0; round < Math.min(ROUNDS, 5); round++) {
        for (let n = 0; n < size; n++) await peer.set(`k${n}`, `round:${round}`)
        const start = performance.now()
        await peer.cut(`round:${round}`)
        took.push(performance.now() - start)
      }
      console.log(`${name.padEnd(24)} ${count(size).padStart(9)}   ${(median(took) * 1000).toFixed(0).padStart(8)} us`)
    }
    await peer.close()
  } catch (error) {
    console.log(`${name.padEnd(24)} not measured: ${/** @type {Error} */ (error).message.split('\n')[0]}`)
  }
}
clearInterval(alive)
