// Guards the memory that JavaScript reads without a call: each way to see it, forced, shows what the engine writes and
// outlives its cache, and a runtime without any has caches that work.

import { assert, test } from './helpers/kv.mjs'
import { run } from './helpers/child.mjs'

const [MAJOR = 0, MINOR = 0] = process.versions.node.split('.').map(Number)
/** Whether this Node.js can show memory as a SharedArrayBuffer. */
const SHARED = MAJOR > 26 || [[22, 23], [24, 16], [26, 1]].some(([major, minor]) => MAJOR === major && MINOR >= minor)

const [BEST, BEST_BUFFER] = SHARED ? ['shared', 'SharedArrayBuffer'] : ['external', 'ArrayBuffer']
/** What is forced, what comes of it, and what views then are. */
const WAYS = [
  ['shared', SHARED ? 'shared' : 'none', SHARED ? 'SharedArrayBuffer' : undefined],
  ['external', 'external', 'ArrayBuffer'],
  ['none', 'none', undefined],
  ['', BEST, BEST_BUFFER],
  ['nonsense', BEST, BEST_BUFFER]
]

/** Opens caches by the addon alone: views are not to be had otherwise. */
const OPEN = `
const binding = await import('./binding.js')
globalThis.header = new Float64Array(64)
const place = binding.init(header, () => {})
const open = () => binding.open(place, {
  settings: [],
  memory: 2 ** 20, concurrency: 1, maxQueued: 1, retries: 0, backoff: 1, cooldown: 1, breakerThreshold: 0,
  breakerTimeout: 1, algorithm: '', level: 0, threshold: 0, tiers: []
}).number
const collect = async () => {
  gc()
  await settle()
}
`

for (const [forced, expected, buffer] of WAYS) {
  const env = { KVCACHE_SHARED_MEMORY: forced }
  const named = forced === '' ? 'left to choose' : `told '${forced}'`

  test(`${named}, stats() says '${expected}', and the cache works`, async () => {
    const { out } = await run(
      `
      const cache = new KvCache()
      await cache.put('k', 1)
      await cache.put('k', 2)
      console.log(cache.stats().nearMemory, await cache.get('k'), await cache.get('l', async () => 3))
      await cache.close()
      console.log(cache.stats().nearMemory)`,
      { env }
    )
    assert.equal(out, `${expected} 2 3\n${expected}`)
  })

  test(`${named}, views are ${buffer ?? 'not there'}, one memory behind all of a cache’s`, async () => {
    const { out } = await run(
      `${OPEN}
      const [one, other] = [open(), open()]
      const views = [binding.stampMemory(one, 1), binding.stampMemory(one, 1), binding.stampMemory(other, 1)]
      const clock = binding.clockMemory()
      if (views[0] !== null) {
        const [a, b, c] = views.map(view => new Int32Array(view))
        Atomics.add(a, 20, 5)
        console.log(Atomics.load(b, 20), Atomics.load(c, 20), new Int32Array(clock).length)
      }
      console.log([...views, clock].map(view => view?.constructor.name).join())
      console.log(binding.stampMemory(4000, 1))`,
      { env }
    )
    const names = Array(4).fill(buffer).join()
    assert.equal(out, buffer === undefined ? `${names}\nnull` : `5 0 1\n${names}\nnull`)
  })

  if (expected === BEST && forced !== BEST) continue

  test(`${named}, views outlive their caches, in workers too, and leave nothing behind`, async () => {
    const { out } = await run(
      `${OPEN}
      const { Worker } = await import('node:worker_threads')
      const churn = async rounds => {
        for (let i = 0; i < rounds; i++) {
          const cache = open()
          const view = binding.stampMemory(cache, 1)
          const words = view === null ? undefined : new Int32Array(view)
          if (words !== undefined) Atomics.add(words, 20, 1)
          binding.close(cache)
          if (words !== undefined && Atomics.add(words, 20, 1) !== 1) throw new Error('the memory has changed')
          if (i % 50 === 0) await collect()
        }
      }
      await churn(200)
      const before = process.memoryUsage().rss
      // 8 MB of stamps would stay if no finalizer ran.
      await churn(2000)
      const grown = process.memoryUsage().rss - before
      const source = \`
        const { KvCache } = await import(\${JSON.stringify(new URL('./index.js', import.meta.url).href)})
        const caches = Array.from({ length: 20 }, () => new KvCache())
        await Promise.all(caches.map(cache => cache.put('k', 1)))
        if (caches[0].peek('k') !== 1) throw new Error('it does not work')\`
      for (let i = 0; i < 3; i++) {
        const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(source)))
        const code = await new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject))
        if (code !== 0) throw new Error('the worker failed')
      }
      await collect()
      console.log(grown < 6e6 || grown)`,
      { env, flags: ['--expose-gc'], timeout: 50_000 }
    )
    assert.equal(out, 'true')
  }, { timeout: 60_000 })
}
