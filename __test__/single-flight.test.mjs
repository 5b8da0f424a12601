// Guards I3: per key at most one fetcher runs, everyone else waits for it and gets the same.

import { assert, open, reasonOf, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, settle, sleep } from './helpers/async.mjs'

test('ten thousand concurrent gets of one missing key run one fetch', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = Array.from({ length: 10_000 }, () => cache.get('k', fetcher))
  const call = await fetcher.call(0)
  call.resolve({ n: 1 })
  const values = await Promise.all(gets)
  assert.ok(values.every(value => value.n === 1))
  assert.equal(fetcher.calls.length, 1)
  const { misses, coalesced, hits } = cache.stats()
  assert.deepEqual({ misses, coalesced, hits }, { misses: 10_000, coalesced: 9_999, hits: 0 })
})

test('gets that come while the fetch runs join it', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = []
  for (let i = 0; i < 50; i++) {
    gets.push(cache.get('k', fetcher))
    await new Promise(resolve => setImmediate(resolve))
  }
  fetcher.calls[0].resolve('one')
  assert.deepEqual(new Set(await Promise.all(gets)), new Set(['one']))
  assert.equal(fetcher.calls.length, 1)
})

test('a thousand keys run a thousand fetches, one each', async t => {
  const cache = open(t)
  const fetcher = counted((_, key) => sleep(5).then(() => key))
  const gets = []
  for (let round = 0; round < 10; round++) {
    for (let i = 0; i < 1000; i++) gets.push(cache.get(`k${i}`, fetcher).then(value => assert.equal(value, `k${i}`)))
  }
  await Promise.all(gets)
  assert.equal(fetcher.count, 1000)
  assert.equal(new Set(fetcher.keys).size, 1000)
})

test('the first caller’s fetcher is the one that runs', async t => {
  const cache = open(t)
  const second = counted(() => 'second')
  const values = await Promise.all([
    cache.get('k', () => sleep(5).then(() => 'first')),
    cache.get('k', second),
    cache.get('k', second)
  ])
  assert.deepEqual(values, ['first', 'first', 'first'])
  assert.equal(second.count, 0)
})

test('all ways of reading join one load', async t => {
  const cache = open(t)
  const fetcher = controlled()
  cache.define('k', fetcher)
  const batch = counted(() => ({}))
  const gets = [
    cache.get('k'),
    cache.get('k', fetcher),
    cache.getWithMetadata('k').then(({ value }) => value),
    cache.get('k', fetcher, { forceFresh: true }),
    cache.getMany(['k'], batch).then(found => found.get('k')),
    cache.getMany(['k', 'k']).then(found => found.get('k'))
  ]
  ;(await fetcher.call(0)).resolve('one')
  assert.deepEqual(await Promise.all(gets), Array(6).fill('one'))
  assert.equal(fetcher.calls.length, 1)
  assert.equal(batch.count, 0)
})

test('all who wait get the fetcher’s own error, and the key is free at once', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const error = new Error('down')
  const gets = Array.from({ length: 1000 }, () => reasonOf(cache.get('k', fetcher)))
  ;(await fetcher.call(0)).reject(error)
  for (const reason of await Promise.all(gets)) assert.equal(reason, error)
  assert.equal(fetcher.calls.length, 1)
  const next = cache.get('k', fetcher)
  ;(await fetcher.call(1)).resolve('up again')
  assert.equal(await next, 'up again')
})

test('a get made the moment another is answered finds the value', async t => {
  const cache = open(t)
  const fetcher = counted()
  for (let i = 0; i < 100; i++) {
    const seen = await cache.get(`k${i}`, fetcher).then(() => cache.get(`k${i}`, fetcher))
    assert.equal(seen, i + 1)
  }
  assert.equal(fetcher.count, 100)
})

test('a get made the moment another failed starts anew', async t => {
  const cache = open(t, { breaker: false })
  const fetcher = counted(n => (n % 2 ? Promise.reject(new Error('odd')) : n))
  for (let i = 0; i < 50; i++) {
    const value = await cache.get(`k${i}`, fetcher).catch(() => cache.get(`k${i}`, fetcher))
    assert.equal(value, 2 * i + 2)
  }
})

test('a foreground get of a key whose refresh runs joins it', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', STALE)
  await cache.get('k', fetcher)
  await fetcher.call(0)
  const forced = [cache.get('k', fetcher, { forceFresh: true }), cache.get('k', fetcher, { forceFresh: true })]
  await settle()
  assert.equal(fetcher.calls.length, 1)
  fetcher.calls[0].resolve('new')
  assert.deepEqual(await Promise.all(forced), ['new', 'new'])
})

test('the first caller gets what later callers get', async t => {
  const cache = open(t)
  class Point {
    constructor() {
      this.x = -0
      this.at = new Date(0)
      this.none = undefined
    }
  }
  const first = await cache.get('k', () => new Point())
  const later = await cache.get('k')
  assert.deepStrictEqual(first, later)
  assert.equal(Object.getPrototypeOf(first), Object.prototype)
  assert.equal(first.at, '1970-01-01T00:00:00.000Z')
  assert.ok(!('none' in first))
})

test('the key is free after ten thousand loads of every outcome', async t => {
  const cache = open(t, { breaker: false })
  const outcomes = [
    () => 'sync',
    async () => 'async',
    () => undefined,
    () => {
      throw new Error('sync')
    },
    async () => {
      throw new Error('async')
    },
    (_, context) => context.noStore(),
    () => () => {}
  ]
  for (let round = 0; round < 1500; round++) {
    await Promise.allSettled(
      outcomes.map((outcome, i) => cache.get(`k${i}`, outcome, { maxAge: 0, staleAge: 0, staleIfError: 0 }))
    )
  }
  for (let i = 0; i < outcomes.length; i++) assert.equal(await cache.get(`k${i}`, () => 'free'), 'free')
})
