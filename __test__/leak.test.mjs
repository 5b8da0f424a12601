// Guards memory: after millions of calls of every kind the process is as large as it was.

import { assert, test } from './helpers/kv.mjs'
import { run } from './helpers/child.mjs'

/**
 * Runs `body` (an async function body with `i` and `cache`) in batches, first to warm up and then `calls` times,
 * and returns by how many MB the resident set and the JavaScript heap have grown in between.
 */
async function growth(calls, body, { options = '{}', setup = '' } = {}) {
  const { out } = await run(
    `
    const cache = new KvCache({ memory: '4mb', breaker: false, ...${options} })
    ${setup}
    const body = async i => { ${body} }
    const rounds = async (from, to) => {
      for (let i = from; i < to; i += 100) await Promise.all(Array.from({ length: 100 }, (_, j) => body(i + j)))
      await cache.flush()
    }
    const measure = async () => {
      for (let i = 0; i < 4; i++) {
        await sleep(20)
        gc()
      }
      const { rss, heapUsed } = process.memoryUsage()
      return [rss / 2 ** 20, heapUsed / 2 ** 20]
    }
    await rounds(0, ${calls / 2})
    const before = await measure()
    await rounds(${calls / 2}, ${calls * 1.5})
    const after = await measure()
    console.log(JSON.stringify([after[0] - before[0], after[1] - before[1], cache.stats().bytes]))
  `,
    { flags: ['--expose-gc'], timeout: 90_000 }
  )
  const [rss, heap, bytes] = JSON.parse(out)
  assert.ok(bytes <= 4 * 2 ** 20)
  return { rss, heap }
}

const flat = ({ rss, heap }) => {
  assert.ok(heap < 4, `the heap has grown by ${heap.toFixed(1)} MB`)
  assert.ok(rss < 30, `the process has grown by ${rss.toFixed(1)} MB`)
}

test(
  'a million misses leave nothing behind',
  async () => {
    flat(await growth(1_000_000, "await cache.get('key:' + i, () => 'value ' + i)"))
  },
  { timeout: 100_000 }
)

test(
  'neither do failures, time-outs, aborts, refreshes, batches and writes',
  async () => {
    flat(
      await growth(
        60_000,
        `
    const key = 'key:' + i
    switch (i % 6) {
      case 0: return cache.get(key, () => Promise.reject(new Error('down'))).catch(() => {})
      case 1: return cache.get(key, async () => i, { hardTimeout: '1h', softTimeout: '1h', signal })
      case 2: {
        const controller = new AbortController()
        const get = cache.get(key, () => new Promise(() => {}), { signal: controller.signal }).catch(() => {})
        controller.abort()
        return get
      }
      case 3: {
        await cache.put('stale:' + i, i, { maxAge: 0, staleAge: '5ms', staleIfError: 0 })
        return cache.get('stale:' + i, async () => i, { maxAge: '5ms', staleAge: '5ms', staleIfError: 0 })
      }
      case 4: return cache.getMany([key, 'm:' + i, 'm:' + (i - 6)], async keys => new Map(keys.map(k => [k, i])))
      case 5: {
        await cache.putMany([[key, i], ['p:' + i, Buffer.alloc(100)]])
        return cache.delete([key, 'p:' + i])
      }
    }`,
        { setup: 'const { signal } = new AbortController()' }
      )
    )
  },
  { timeout: 100_000 }
)

test(
  'nor do listeners that come and go, and keys that fail to refresh and end',
  async () => {
    flat(
      await growth(
        100_000,
        `
    await cache.put('k' + i, i, { maxAge: 0, staleAge: '3ms', staleIfError: 0 })
    await cache.get('k' + i, () => { throw new Error('down') }).catch(() => {})
    const listener = () => {}
    cache.on('evict', listener)
    cache.off('evict', listener)`,
        { options: "{ refresh: { cooldown: '5ms' } }" }
      )
    )
  },
  { timeout: 100_000 }
)

test(
  'nor do caches that are closed',
  async () => {
    flat(
      await growth(
        3_000,
        `
    const own = new KvCache({ memory: '1mb' })
    await own.put('k', 'x'.repeat(100_000))
    await own.get('l', async () => 'x'.repeat(100_000))
    await own.close()`
      )
    )
  },
  { timeout: 100_000 }
)
