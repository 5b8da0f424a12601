// Guards memory: after millions of calls of every kind the process is as large as it was.

import { assert, test } from './helpers/kv.mjs'
import { run } from './helpers/child.mjs'

/**
 * Runs `body` (an async function body with `i` and `cache`) in batches, a while to warm up and then `calls` times, and
 * measures the process on the way, after each of `parts`. What leaks grows from each measurement to the next; what V8 and malloc only keep
 * for later grows once or twice. So it is the least growth that counts.
 */
async function isFlat(calls, body, { options = '{}', setup = '', parts = 4 } = {}) {
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
      return { rss: rss / 2 ** 20, heap: heapUsed / 2 ** 20 }
    }
    const part = ${calls} / ${parts}
    const start = part / 2
    await rounds(0, start)
    const measured = [await measure()]
    for (let i = 0; i < ${parts}; i++) {
      await rounds(start + i * part, start + (i + 1) * part)
      measured.push(await measure())
    }
    console.log(JSON.stringify({ measured, bytes: cache.stats().bytes }))
  `,
    // V8's young generation is kept small: left alone it grows to what it likes, and hides what is ours.
    { flags: ['--expose-gc', '--max-semi-space-size=2'], timeout: 200_000 }
  )
  const { measured, bytes } = JSON.parse(out)
  assert.ok(bytes <= 4 * 2 ** 20)
  for (const [kind, least] of [['heap', 0.5], ['rss', 3]]) {
    const sizes = measured.map(each => each[kind])
    const growths = sizes.slice(1).map((size, i) => size - sizes[i])
    const shown = sizes.map(size => size.toFixed(1)).join(', ')
    assert.ok(Math.min(...growths) < least, `the ${kind} grows: ${shown} MB`)
    assert.ok(sizes.at(-1) - sizes[0] < 100, `the ${kind} has grown: ${shown} MB`)
  }
}

const LONG = { timeout: 210_000 }

test('a million misses leave nothing behind', async () => {
  await isFlat(1_000_000, "await cache.get('key:' + i, () => 'value ' + i)")
}, LONG)

test('neither do failures, time-outs, aborts, refreshes, batches and writes', async () => {
  const body = `
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
    }`
  await isFlat(48_000, body, { setup: 'const { signal } = new AbortController()' })
}, LONG)

test('nor do listeners that come and go, and keys that fail to refresh and end', async () => {
  const body = `
    const key = 'k' + (i % 5000)
    await cache.put(key, i, { maxAge: 0, staleAge: '3ms', staleIfError: 0 })
    await cache.get(key, () => { throw new Error('down') }).catch(() => {})
    const listener = () => {}
    cache.on('evict', listener)
    cache.off('evict', listener)`
  await isFlat(48_000, body, { options: "{ refresh: { cooldown: '5ms' } }" })
}, LONG)

test('nor do caches that are closed', async () => {
  const body = `
    const own = new KvCache({ memory: '1mb' })
    await own.put('k', 'x'.repeat(100_000))
    await own.get('l', async () => 'x'.repeat(100_000))
    await own.close()`
  // The arenas of malloc grow for the first few thousand closings: more parts, of which one at least must be flat.
  await isFlat(6_000, body, { parts: 10 })
}, LONG)
