// Guards I4: the memory tier's bytes never exceed its budget, whatever is written how fast, and what can no longer
// be served is given back without anybody reading it.

import { randomBytes } from 'node:crypto'
import { assert, isError, KvCache, open, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { counted, until } from './helpers/async.mjs'

const MB = 1024 * 1024

test('the budget holds after every single put, of sizes great and small', async t => {
  const budget = 256 * 1024
  const noise = randomBytes(40_000)
  const cache = open(t, { memory: budget })
  let seed = 1
  const random = n => (seed = (seed * 48_271) % 2_147_483_647) % n
  for (let i = 0; i < 20_000; i++) {
    const size = random(20) === 0 ? random(40_000) : random(600)
    // Noise: nothing makes it smaller after it has been stored.
    await cache.put(`key:${random(3000)}`, noise.subarray(0, size))
    const { bytes } = cache.stats()
    assert.ok(bytes <= budget, `${bytes} bytes after put ${i}`)
  }
  const { evictions, entries, bytes } = cache.stats()
  assert.ok(evictions > 1000)
  assert.ok(entries > 10)
  assert.ok(bytes > budget / 2, `only ${bytes} bytes of the budget are used`)
})

test('the budget holds under loads, refreshes and batches at once', async t => {
  const budget = 300_000
  const cache = open(t, { memory: '300000b' })
  let over = 0
  let stop = false
  const watch = (async () => {
    while (!stop) {
      if (cache.stats().bytes > budget) over += 1
      await new Promise(resolve => setImmediate(resolve))
    }
  })()
  const value = key => key.repeat(1 + (Number(key.slice(1)) % 200))
  const names = from => Array.from({ length: 50 }, (_, i) => `k${from + i}`)
  await Promise.all(
    [0, 1, 2, 3].map(async lane => {
      for (let i = 0; i < 100; i++) {
        const from = ((lane * 100 + i) * 37) % 5000
        await Promise.all(names(from).map(key => cache.get(key, async () => value(key), STALE)))
        await cache.getMany(names(from + 25), async missing => new Map(missing.map(key => [key, value(key)])))
        await cache.putMany(names(from).map(key => [key, value(key)]))
        assert.ok(cache.stats().bytes <= budget)
      }
    })
  )
  stop = true
  await watch
  await cache.flush()
  assert.equal(over, 0)
})

test('keys, metadata and bookkeeping count, not values alone', async t => {
  const cache = open(t, { memory: '64kb' })
  for (let i = 0; i < 2000; i++) await cache.put(`${'k'.repeat(490)}${i}`, 0, { metadata: 'm'.repeat(900) })
  const { entries, bytes } = cache.stats()
  assert.ok(bytes <= 65_536)
  assert.ok(entries * 1390 <= 65_536, `${entries} entries of more than 1390 bytes each`)
  assert.ok(entries > 5)
  const small = open(t, { memory: '64kb' })
  for (let i = 0; i < 5000; i++) await small.put(`k${i}`, 0)
  assert.ok(small.stats().entries < 5000, 'even the smallest entry has bookkeeping')
})

test('bytes are given back by delete, and by overwriting', async t => {
  const cache = open(t, { memory: '64mb' })
  assert.equal(cache.stats().entries, 0)
  const empty = cache.stats().bytes
  for (let i = 0; i < 1000; i++) await cache.put('k', 'x'.repeat(10_000))
  assert.equal(cache.stats().entries, 1)
  assert.ok(cache.stats().bytes - empty < 20_000)
  await cache.put('k', '')
  assert.ok(cache.stats().bytes - empty < 1000)
  await cache.putMany(Array.from({ length: 1000 }, (_, i) => [`k${i}`, randomBytes(1000)]))
  assert.ok(cache.stats().bytes > MB / 2)
  await cache.delete(Array.from({ length: 1000 }, (_, i) => `k${i}`))
  await cache.delete('k')
  assert.equal(cache.stats().entries, 0)
  assert.ok(cache.stats().bytes - empty < 1000, `${cache.stats().bytes - empty} bytes are left`)
})

test('what has expired is given back without being read', async t => {
  const cache = open(t)
  const evicted = []
  cache.on('evict', event => evicted.push(event))
  const empty = cache.stats().bytes
  const dead = { maxAge: '30ms', staleAge: '30ms', staleIfError: '30ms' }
  await cache.putMany(
    Array.from({ length: 5000 }, (_, i) => [`k${i}`, 'x'.repeat(100)]),
    dead
  )
  await cache.put('stays', 1)
  await until(() => cache.stats().entries === 1, 'all that expired is gone')
  assert.ok(cache.stats().bytes - empty < 2000, `${cache.stats().bytes - empty} bytes are left`)
  await until(() => evicted.length === 5000)
  for (const { key, bytes, reason } of evicted) {
    assert.match(key, /^k\d+$/)
    assert.equal(reason, 'expired')
    assert.ok(bytes >= 100 && bytes < 1000, String(bytes))
  }
  assert.equal(await cache.get('stays'), 1)
})

test('a value is kept until the later of staleAge and staleIfError, and not longer', async t => {
  const cache = open(t)
  await cache.put('error', 'old', { maxAge: 0, staleAge: 0, staleIfError: 3600 })
  await cache.put('stale', 'old', { maxAge: 0, staleAge: 3600, staleIfError: 0 })
  await cache.put('none', 'old', { maxAge: 0, staleAge: 0, staleIfError: 0 })
  await until(() => cache.stats().entries === 2)
  assert.equal(await cache.get('error', () => Promise.reject(new Error('down'))), 'old')
  assert.equal(await cache.get('stale'), 'old')
  assert.equal(await cache.get('none'), undefined)
})

test('entries that expire at many different times each go at theirs', async t => {
  const cache = open(t)
  for (let i = 0; i < 200; i++) {
    const age = `${1 + i}ms`
    await cache.put(`k${i}`, i, { maxAge: age, staleAge: age, staleIfError: age })
    await cache.put(`later${i}`, i, { maxAge: 3600 + i })
  }
  await until(() => cache.stats().entries === 200)
  for (let i = 0; i < 200; i++) assert.equal(cache.peek(`later${i}`), i)
})

test('an entry whose age starts again is not taken away at its old end', async t => {
  const cache = open(t)
  const short = { maxAge: '40ms', staleAge: '40ms', staleIfError: '40ms' }
  await cache.put('k', 'old', short)
  await cache.put('other', 'old', short)
  await cache.put('k', 'new', { maxAge: 3600 })
  await until(() => cache.stats().entries === 1)
  assert.equal(cache.peek('k'), 'new')
})

test('eviction by budget is told with key, bytes and reason, and counted', async t => {
  const cache = open(t, { memory: '64kb' })
  const evicted = []
  cache.on('evict', event => evicted.push(event))
  for (let i = 0; i < 500; i++) await cache.put(`k${i}`, randomBytes(1000))
  const { evictions, entries } = cache.stats()
  assert.equal(evictions + entries, 500)
  await until(() => evicted.length === evictions)
  for (const { key, bytes, reason } of evicted) {
    assert.equal(cache.peek(key), undefined)
    assert.equal(reason, 'budget')
    assert.ok(bytes >= 1000 && bytes < 2000, String(bytes))
  }
  assert.equal(new Set(evicted.map(({ key }) => key)).size, evicted.length)
})

test('deleting and overwriting are no evictions', async t => {
  const cache = open(t)
  const evicted = []
  cache.on('evict', event => evicted.push(event))
  await cache.put('k', 1)
  await cache.put('k', 2)
  await cache.delete('k')
  await new Promise(resolve => setTimeout(resolve, 30))
  assert.deepEqual(evicted, [])
  assert.equal(cache.stats().evictions, 0)
})

test('a value larger than a share of the budget, but within it, is stored', async t => {
  for (const [memory, size] of [
    ['8mb', 6 * MB],
    ['1mb', 900 * 1024],
    ['64kb', 50_000],
    ['30mb', 25 * MB]
  ]) {
    const cache = open(t, { memory })
    const noise = randomBytes(size)
    for (let i = 0; i < 100; i++) await cache.put(`small${i}`, 'x'.repeat(200))
    for (const key of ['large', 'another', 'large']) {
      await cache.put(key, noise)
      assert.equal(cache.peek(key)?.length, size, `${size} bytes within ${memory}`)
      assert.ok(cache.stats().bytes <= new KvMemory(memory).bytes)
    }
    assert.equal((await cache.get('loaded', async () => noise)).length, size)
    assert.equal(cache.peek('loaded')?.length, size)
    await cache.put('small', 1)
    assert.equal(cache.peek('small'), 1)
  }
})

/** What a budget written with a unit is in bytes. */
class KvMemory {
  constructor(text) {
    this.bytes = parseInt(text, 10) * (text.endsWith('mb') ? MB : 1024)
  }
}

test('a put of a value larger than the whole budget is refused, and the old value kept', async t => {
  const cache = open(t, { memory: '64kb' })
  await cache.put('k', 'old')
  await rejects(cache.put('k', 'x'.repeat(70_000)), 'VALUE_TOO_LARGE', 'k')
  await rejects(cache.put('k', 'x'.repeat(65_536)), 'VALUE_TOO_LARGE')
  assert.equal(await cache.get('k'), 'old')
  await rejects(
    cache.putMany([
      ['a', 1],
      ['b', 'x'.repeat(70_000)],
      ['c', 1]
    ]),
    'VALUE_TOO_LARGE',
    'b'
  )
  assert.deepEqual([cache.peek('a'), cache.peek('b'), cache.peek('c')], [undefined, undefined, undefined])
})

test('a load of a value larger than the whole budget is delivered, not stored, and told', async t => {
  const cache = open(t, { memory: '64kb' })
  const errors = []
  cache.on('error', error => errors.push(error))
  const fetcher = counted(() => 'x'.repeat(70_000))
  for (const value of await Promise.all([cache.get('k', fetcher), cache.get('k', fetcher)]))
    assert.equal(value.length, 70_000)
  assert.equal(fetcher.count, 1)
  assert.equal(cache.peek('k'), undefined)
  await until(() => errors.length === 1)
  isError(errors[0], 'VALUE_TOO_LARGE')
  assert.equal(errors[0].key, 'k')
  assert.equal(cache.stats().errors, 1)
  const found = await cache.getMany(['a', 'b'], async () => ({ a: 'x'.repeat(70_000), b: 1 }))
  assert.equal(found.get('a').length, 70_000)
  assert.equal(cache.peek('a'), undefined)
  assert.equal(cache.peek('b'), 1)
})

test('a value that is asked for often survives a scan of many that are not', async t => {
  const cache = open(t, { memory: '256kb' })
  const hot = Array.from({ length: 50 }, (_, i) => `hot${i}`)
  const value = 'x'.repeat(200)
  for (const key of hot) await cache.put(key, value)
  let kept = 0
  for (let i = 0; i < 20_000; i++) {
    await cache.put(`cold${i}`, value)
    if (i % 10 === 0) {
      const key = hot[(i / 10) % hot.length]
      if (await cache.get(key)) kept += 1
      else await cache.put(key, value)
    }
  }
  assert.ok(kept > 1500, `${kept} of 2000 gets of what is asked for often were hits`)
})

test('memory is a number of bytes or a string with a unit of powers of 1024', async t => {
  for (const memory of [1024, 4096, '1kb', '1024b', '64kb', '2mb', '1gb', '1.5mb']) {
    const cache = open(t, { memory })
    await cache.put('k', 1).catch(error => isError(error, 'VALUE_TOO_LARGE'))
    assert.equal(await cache.get('v', () => 'delivered'), 'delivered')
  }
  const bads = [
    0, 1, 1023, -1, 1.5, 1024.5, NaN, Infinity, '1b', '1023b', '', '64', '64 kb', '64KB', '64kib', '64k', '-64kb',
    'lots', null, true, {}, [], 64n
  ]
  for (const memory of bads) throws(() => new KvCache({ memory }), 'INVALID_OPTION', 'memory')
  throws(() => new KvCache({ memory: '64 parsecs' }), 'INVALID_OPTION', 'memory', '64 parsecs', /mb/)
})

test('64kb is 64 * 1024 bytes, as the metrics tell', t => {
  const cache = open(t, { memory: '64kb' })
  assert.match(cache.metrics(), /^kvcache_memory_budget_bytes 65536$/m)
  assert.match(open(t).metrics(), /^kvcache_memory_budget_bytes 268435456$/m, '256mb unless told otherwise')
})

test('the smallest cache there may be works', async t => {
  const cache = open(t, { memory: 1024 })
  for (let i = 0; i < 1000; i++) {
    assert.equal(await cache.get(`k${i}`, () => i), i)
    assert.ok(cache.stats().bytes <= 1024)
  }
})

test('a budget that is full of stale values makes room for new ones', async t => {
  const cache = open(t, { memory: '64kb' })
  for (let i = 0; i < 1000; i++) await cache.put(`old${i}`, 'x'.repeat(500), STALE)
  for (let i = 0; i < 1000; i++) {
    await cache.put(`new${i}`, i)
    assert.equal(cache.peek(`new${i}`), i, 'what was just put is there')
  }
})
