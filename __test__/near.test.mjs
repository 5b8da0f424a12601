// Guards the near cache: what it gives is what the engine would give, it is bounded, what it answers is counted and
// keeps entries in the engine, and nothing that was changed is ever given.

import { KvCache, STALE, assert, open, rejects, test, throws } from './helpers/kv.mjs'
import { deferred, sleep, until } from './helpers/async.mjs'

/**
 * Gets a key until the near cache answers: the first get of a value goes to the engine, and so does one when the
 * engine's clock is asleep.
 * @param {KvCache} cache
 * @param {string} key
 * @param {any} [fetcher]
 */
async function near(cache, key, fetcher) {
  const before = cache.stats().nearHits
  await until(async () => {
    await cache.get(key, fetcher)
    return cache.stats().nearHits > before
  }, `the near cache answers for ${key}`)
}

test('a near hit gives every caller the same frozen value, and is counted', async t => {
  const cache = open(t)
  const load = () => ({ list: [1] })
  await near(cache, 'k', load)
  const { hits, nearHits } = cache.stats()
  const [a, b] = await Promise.all([cache.get('k', load), cache.get('k')])
  assert.equal(a, b)
  assert.equal(a, cache.peek('k'))
  assert.ok(Object.isFrozen(a) && Object.isFrozen(a.list))
  const after = cache.stats()
  assert.deepEqual([after.hits - hits, after.nearHits - nearHits], [2, 2])
})

test('what is put or deleted is seen by the very next get and peek', async t => {
  const cache = open(t)
  await cache.put('k', 0)
  for (let i = 1; i < 300; i++) {
    await near(cache, 'k')
    await cache.put('k', i)
    assert.equal(i % 2 ? await cache.get('k') : cache.peek('k'), i)
    if (i % 10 === 0) {
      await cache.delete('k')
      assert.equal(await cache.get('k'), undefined)
      assert.equal(cache.peek('k'), undefined)
      await cache.put('k', i)
    }
  }
})

test('putMany, and a load that replaces a value, are seen as well', async t => {
  const cache = open(t)
  await cache.putMany([['a', 1], ['b', 1]])
  await near(cache, 'a')
  await near(cache, 'b')
  await cache.putMany([['a', 2]])
  assert.equal(await cache.get('a'), 2)
  assert.equal(await cache.get('b', () => 3, { forceFresh: true }), 3)
  assert.equal(await cache.get('b'), 3)
})

test('an aborted signal and forceFresh are obeyed although a copy is near', async t => {
  const cache = open(t)
  await near(cache, 'k', () => 1)
  await assert.rejects(cache.get('k', () => 1, { signal: AbortSignal.abort(new Error('gone')) }), { message: 'gone' })
  assert.equal(await cache.get('k', () => 2, { forceFresh: true }), 2)
  await rejects(cache.get('k', /** @type {any} */ (5)), 'INVALID_OPTION', 'fetcher')
  await rejects(cache.get(/** @type {any} */ (5)), 'INVALID_KEY')
})

test('a getter among the options that throws rejects the get', async t => {
  const cache = open(t)
  await near(cache, 'k', () => 1)
  const options = { get signal() { throw new Error('getter') } }
  await assert.rejects(cache.get('k', () => 1, /** @type {any} */ (options)), { message: 'getter' })
})

test('a value is fresh until its maxAge, near or not', async t => {
  const cache = open(t, { maxAge: '300ms', staleAge: '300ms' })
  const began = performance.now()
  await cache.put('k', 1)
  while ((await cache.get('k')) !== undefined) {
    if (performance.now() - began > 20_000) assert.fail('it never ends')
    await (performance.now() % 2 < 1 ? sleep(1) : undefined)
  }
  assert.ok(performance.now() - began >= 299)
})

test('stale hits are near hits while the refresh runs, and the new value follows it', async t => {
  const cache = open(t, STALE)
  await cache.put('k', 'old')
  const fetched = deferred()
  let calls = 0
  const load = () => {
    calls++
    return fetched.promise
  }
  assert.equal(await cache.get('k', load), 'old')
  await near(cache, 'k', load)
  const before = cache.stats()
  for (let i = 0; i < 100; i++) assert.equal(await cache.get('k', load), 'old')
  const after = cache.stats()
  assert.ok(after.nearHits - before.nearHits > 90, 'most are near hits')
  assert.equal(after.stale - before.stale, 100)
  fetched.resolve('new')
  await cache.flush()
  assert.equal(await cache.get('k'), 'new')
  assert.equal(calls, 1)
})

test('after a refresh failed the next one begins when the rest is over', async t => {
  const cache = open(t, { ...STALE, refresh: { cooldown: 50 } })
  await cache.put('k', 'old')
  let calls = 0
  const load = () => {
    calls++
    throw new Error('down')
  }
  await until(async () => {
    assert.equal(await cache.get('k', load), 'old')
    return calls >= 3
  }, 'three refreshes were tried')
})

test('near: false and copy give each caller a value of its own, which is not frozen', async t => {
  for (const options of [{ near: false }, { near: { values: 'copy' } }]) {
    const cache = open(t, /** @type {any} */ (options))
    const load = () => ({ list: [1] })
    const [first, second] = await Promise.all([cache.get('k', load), cache.get('k', load)])
    for (let i = 0; i < 5; i++) {
      const value = await cache.get('k', load)
      value.list.push(2)
      assert.deepEqual(value, { list: [1, 2] })
      await sleep(1)
    }
    assert.notEqual(first, second)
    first.list.push(3)
    assert.deepEqual(second, { list: [1] })
    assert.deepEqual(await cache.get('k'), { list: [1] })
    if (options.near === false) assert.equal(cache.stats().nearHits, 0)
    else await near(cache, 'k')
  }
})

test('shared gives all callers one mutable value', async t => {
  const cache = open(t, { near: { values: 'shared' } })
  await near(cache, 'k', () => ({ n: 1 }))
  const value = await cache.get('k')
  value.n = 2
  assert.equal((await cache.get('k')).n, 2)
})

test('what cannot be frozen is made anew for each caller from what is near', async t => {
  const cache = open(t, { serializer: 'v8' })
  await cache.put('k', { seen: new Map([['x', 1]]) })
  await cache.put('b', Buffer.from('bytes'))
  await near(cache, 'k')
  await near(cache, 'b')
  const [a, b] = [await cache.get('k'), await cache.get('k')]
  a.seen.set('x', 2)
  assert.equal(b.seen.get('x'), 1)
  const [c, d] = [await cache.get('b'), cache.peek('b')]
  c.fill(0)
  assert.equal(d.toString(), 'bytes')
  assert.equal((await cache.get('b')).toString(), 'bytes')
})

test('an unchanged value is confirmed without being decoded anew', async t => {
  let decoded = 0
  const serializer = {
    name: 'counting',
    serialize: (/** @type {any} */ value) => Buffer.from(JSON.stringify(value)),
    deserialize: (/** @type {Uint8Array} */ bytes) => {
      decoded++
      return JSON.parse(Buffer.from(bytes).toString())
    }
  }
  const cache = open(t, { serializer })
  await cache.put('k', { n: 1 })
  await near(cache, 'k')
  const before = decoded
  // The engine's clock falls asleep after a second without use; then the engine is asked.
  await sleep(1300)
  const { nearHits } = cache.stats()
  assert.deepEqual(await cache.get('k'), { n: 1 })
  assert.equal(cache.stats().nearHits, nearHits)
  const { value, state, age } = await cache.getWithMetadata('k')
  assert.deepEqual([value, state], [{ n: 1 }, 'fresh'])
  assert.ok(age >= 1.2)
  assert.equal(decoded, before)
  await cache.put('k', { n: 1 })
  await cache.get('k')
  assert.equal(decoded, before + 1)
})

test('metadata comes with the entry whether its value is near or not', async t => {
  const cache = open(t)
  await cache.put('k', { n: 1 }, { metadata: { etag: 'a' } })
  for (let i = 0; i < 3; i++) {
    const { value, metadata } = await cache.getWithMetadata('k')
    assert.deepEqual([value, metadata], [{ n: 1 }, { etag: 'a' }])
    await cache.get('k')
  }
})

test('getMany takes what is near', async t => {
  const cache = open(t)
  await cache.putMany([['a', { n: 1 }], ['b', 'x']])
  await near(cache, 'a')
  const value = await cache.get('a')
  const found = await cache.getMany(['a', 'b', 'c'], async () => new Map([['c', 3]]))
  assert.deepEqual([...found], [['a', { n: 1 }], ['b', 'x'], ['c', 3]])
  assert.equal(found.get('a'), value)
  const { nearHits } = cache.stats()
  await cache.getMany(['a', 'a'], async () => new Map())
  assert.equal(cache.stats().nearHits, nearHits + 1, 'each key counts once')
})

test('is bounded by count: what was used stays, and what is asked for again displaces what was not', async t => {
  const cache = open(t, { near: { max: 10 } })
  for (let i = 0; i < 200; i++) await cache.put(`k${i}`, i)
  await near(cache, 'k0')
  for (let i = 1; i < 200; i++) {
    await cache.get(`k${i}`)
    await cache.get(`k${i}`)
    await cache.get('k0')
  }
  const before = cache.stats().nearHits
  await cache.get('k0')
  assert.equal(cache.stats().nearHits, before + 1)
  for (let i = 1; i < 180; i++) await cache.get(`k${i}`)
  assert.equal(cache.stats().nearHits, before + 1, 'those were displaced')
})

test('what is asked for once displaces nothing, and what is asked for again comes in', async t => {
  const cache = open(t, { near: { max: 10 } })
  for (let i = 0; i < 210; i++) await cache.put(`k${i}`, i)
  for (let i = 0; i < 10; i++) await near(cache, `k${i}`)
  let before = cache.stats().nearHits
  for (let i = 10; i < 210; i++) await cache.get(`k${i}`)
  for (let i = 0; i < 10; i++) await cache.get(`k${i}`)
  // Two keys in some thousand cannot be told apart.
  assert.ok(cache.stats().nearHits >= before + 9)
  before = cache.stats().nearHits
  await cache.get('k209')
  await cache.get('k209')
  assert.equal(cache.stats().nearHits, before + 1, 'the third get is answered near')
})

test('the second get of what was loaded here keeps it near', async t => {
  const cache = open(t)
  // The engine's clock wakes up.
  await near(cache, 'other', () => 1)
  await cache.get('k', () => 1)
  const before = cache.stats().nearHits
  await cache.get('k')
  await cache.get('k')
  assert.equal(cache.stats().nearHits, before + 1)
})

test('is bounded by bytes, and leaves large values out', async t => {
  const cache = open(t, { near: { maxBytes: 16_000 }, compression: false })
  await cache.put('large', 'x'.repeat(1100))
  await cache.put('small', 'x'.repeat(900))
  await near(cache, 'small')
  const before = cache.stats().nearHits
  for (let i = 0; i < 20; i++) await cache.get('large')
  assert.equal(cache.stats().nearHits, before)
  for (let i = 0; i < 100; i++) await cache.put(`k${i}`, 'x'.repeat(900))
  for (let round = 0; round < 3; round++) for (let i = 0; i < 100; i++) await cache.get(`k${i}`)
  const answered = cache.stats().nearHits - before
  assert.ok(answered <= 3 * 17, `17 of these fit, and ${answered} gets of three rounds were answered near`)
})

test('near hits keep an entry in the engine, past which thousands of others go', async t => {
  const cache = open(t, { memory: '1mb', compression: false })
  await cache.put('hot', { n: 1 })
  const filler = 'x'.repeat(1000)
  for (let i = 0; i < 5000; i++) {
    await cache.put(`k${i}`, filler)
    await cache.get('hot')
    if (i % 50 === 0) cache.stats()
  }
  const { nearHits } = cache.stats()
  assert.ok(nearHits > 2500, `${nearHits} near hits`)
  assert.ok(await cache.has('hot'), 'the engine has kept it')
})

test('hits are counted by route and state', async t => {
  const cache = open(t)
  cache.define('user:*', () => ({ n: 1 }))
  await near(cache, 'user:1')
  await near(cache, 'other', () => 1)
  for (let i = 0; i < 10; i++) await cache.get('user:1')
  const line = cache.metrics().split('\n').find(one => one.startsWith('kvcache_route_hits_total{pattern="user:*"}') ||
    /hits_total\{.*user:\*/.test(one))
  assert.ok(line, cache.metrics())
  assert.ok(Number(line.split(' ').at(-1)) >= 10, line)
})

test('a closed cache answers nothing from near', async t => {
  const cache = open(t)
  await near(cache, 'k', () => 1)
  const { hits } = cache.stats()
  await cache.close()
  await rejects(cache.get('k'), 'CLOSED')
  throws(() => cache.peek('k'), 'CLOSED')
  assert.equal(cache.stats().hits, hits)
})

test('bad options of near are refused by name', () => {
  for (const [value, name] of /** @type {[any, string][]} */ ([
    [true, 'near'], [null, 'near'], [5, 'near'], [{ max: 0 }, 'near.max'], [{ max: 1.5 }, 'near.max'],
    [{ maxBytes: '0b' }, 'near.maxBytes'], [{ values: 'freeze' }, 'near.values'], [{ size: 1 }, 'near.size']
  ])) {
    throws(() => new KvCache({ near: value }), 'INVALID_OPTION', name)
  }
})
