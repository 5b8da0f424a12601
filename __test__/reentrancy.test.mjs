// Guards calls against user code that runs in the middle of them: serializers, toJSON, getters of options, filters, iterables and
// listeners may use the cache, its own key included, and each call still does what it was asked.

import { assert, EXPIRED, open, STALE, test } from './helpers/kv.mjs'
import { settle, until } from './helpers/async.mjs'

/** Uses every part of the cache that leaves traces in what calls share. */
function stir(cache) {
  cache.peek('stirred')
  const others = [
    cache.put('stirred', 'x'.repeat(50), { maxAge: 7, metadata: { stirred: true } }),
    cache.getWithMetadata('stirred'),
    cache.get('missing'),
    cache.get('loaded', () => ({ loaded: true }), { forceFresh: true, maxAge: 3, origin: 'another' }),
    cache.getMany(['stirred', 'more'], () => ({ more: 1 })),
    cache.get('', () => 1).catch(() => {}),
    cache.delete('nothing'),
    cache.list()
  ]
  cache.stats()
  return Promise.all(others)
}

test('toJSON may use the cache while its value is put or loaded', async t => {
  const cache = open(t)
  const value = n => ({
    toJSON() {
      stir(cache)
      return { n }
    }
  })
  await cache.put('put', value(1), { maxAge: 50, metadata: 'mine' })
  assert.deepEqual(await cache.get('get', () => value(2), { maxAge: 60, metadata: 'its own' }), { n: 2 })
  await cache.putMany([
    ['many1', value(3)],
    ['many2', value(4), { maxAge: 70 }]
  ])
  const batch = await cache.getMany(['batch1', 'batch2'], () => ({ batch1: value(5), batch2: value(6) }), {
    maxAge: 80
  })
  assert.deepEqual([...batch.values()], [{ n: 5 }, { n: 6 }])
  await cache.put('stale', 'old', STALE)
  await cache.get('stale', () => value(7), { maxAge: 90 })
  await cache.flush()
  const expected = {
    put: [1, 50],
    get: [2, 60],
    many1: [3, 300],
    many2: [4, 70],
    batch1: [5, 80],
    batch2: [6, 80],
    stale: [7, 90]
  }
  for (const [key, [n, maxAge]] of Object.entries(expected)) {
    const entry = await cache.getWithMetadata(key)
    assert.deepEqual([entry.value, entry.maxAge], [{ n }, maxAge], key)
  }
  assert.equal((await cache.getWithMetadata('put')).metadata, 'mine')
  assert.equal((await cache.getWithMetadata('get')).metadata, 'its own')
})

test('a serializer may use the cache on both ways', async t => {
  const cache = open(t, {
    serializer: {
      name: 'stirring',
      serialize(value) {
        stir(cache)
        return Buffer.from(JSON.stringify(value))
      },
      deserialize(bytes) {
        cache.peek('none')
        cache.get('nor this')
        cache.put('from deserialize', 'text')
        return JSON.parse(Buffer.from(bytes))
      }
    }
  })
  await cache.put('a', [1], { maxAge: 11, metadata: 'a' })
  await cache.put('b', [2], { maxAge: 22, metadata: 'b' })
  assert.deepEqual(cache.peek('a'), [1])
  const entry = await cache.getWithMetadata('b')
  assert.deepEqual([entry.value, entry.maxAge, entry.metadata, entry.state], [[2], 22, 'b', 'fresh'])
  assert.deepEqual(
    [...(await cache.getMany(['a', 'b', 'c'], () => ({ c: [3] })))],
    [
      ['a', [1]],
      ['b', [2]],
      ['c', [3]]
    ]
  )
  await cache.put('e', [4], EXPIRED)
  const stood = await cache.getWithMetadata('e', () => Promise.reject(new Error('down')))
  assert.deepEqual([stood.value, stood.state], [[4], 'stale-if-error'])
  await cache.put('s', [5], { ...STALE, metadata: 's' })
  let inHand
  await cache.get('s', (_, context) => {
    inHand = context.stale
    return context.notModified()
  })
  await cache.flush()
  assert.deepEqual([inHand.value, inHand.metadata], [[5], 's'])
  assert.deepEqual(await cache.get('s'), [5])
})

test('a write to the very key from within its toJSON is a write during the load', async t => {
  const cache = open(t)
  const get = cache.get('deleted', () => ({
    toJSON() {
      cache.delete('deleted')
      return 1
    }
  }))
  assert.equal(await get, 1)
  assert.equal(await cache.get('deleted'), undefined)
  assert.equal(await cache.get('put', () => ({ toJSON: () => (cache.put('put', 'put'), 1) })), 1)
  assert.equal(await cache.get('put'), 'put')
  await cache.put('k', { toJSON: () => (cache.put('k', 'inner'), 'outer') })
  assert.equal(await cache.get('k'), 'outer')
})

test('a get of the very key from within its toJSON does not hang', async t => {
  const cache = open(t)
  let inner
  assert.equal(
    await cache.get('k', () => ({ toJSON: () => ((inner = cache.get('k', () => 'inner')), 'outer') })),
    'outer'
  )
  assert.match(await inner.catch(error => error.code), /^(outer|inner|ERR_KVCACHE_RECURSION)$/)
})

test('a close from within toJSON ends in a value or an error', async t => {
  for (const call of [
    (cache, value) => cache.put('k', value),
    (cache, value) => cache.get('k', () => value),
    (cache, value) => cache.get('k', async () => value),
    (cache, value) =>
      cache.putMany([
        ['a', 1],
        ['k', value],
        ['b', 2]
      ]),
    (cache, value) => cache.getMany(['a', 'k', 'b'], () => ({ a: 1, k: value, b: 2 }))
  ]) {
    const cache = open(t)
    let closed
    const outcome = await call(cache, { toJSON: () => ((closed = cache.close({ timeout: 20 })), 'value') }).catch(
      error => error
    )
    assert.ok(!(outcome instanceof Error) || outcome.code === 'ERR_KVCACHE_CLOSED', String(outcome))
    await closed
  }
})

test('getters of options may use the cache', async t => {
  const cache = open(t)
  const options = maxAge => ({
    get maxAge() {
      stir(cache)
      return maxAge
    },
    get metadata() {
      stir(cache)
      return { toJSON: () => (stir(cache), maxAge) }
    }
  })
  await cache.put('a', 1, options(10))
  await cache.get('b', () => 2, options(20))
  await cache.getMany(['c', 'd'], () => ({ c: 3, d: 4 }), options(30))
  await cache.putMany([['e', 5, options(40)]], options(50))
  for (const [key, maxAge] of [
    ['a', 10],
    ['b', 20],
    ['c', 30],
    ['d', 30],
    ['e', 40]
  ]) {
    const entry = await cache.getWithMetadata(key)
    assert.deepEqual([entry.maxAge, entry.metadata], [maxAge, maxAge], key)
  }
})

test('an iterable given to putMany may use the cache between its entries', async t => {
  const cache = open(t)
  await cache.put('old', 'old')
  await cache.putMany(
    (function* () {
      yield ['a', 1]
      stir(cache)
      cache.delete('old')
      yield ['b', 2]
      cache.put('a', 'meanwhile')
      yield ['c', 3]
    })()
  )
  assert.deepEqual(
    [...(await cache.getMany(['a', 'b', 'c', 'old']))],
    [
      ['a', 1],
      ['b', 2],
      ['c', 3]
    ]
  )
})

test('failure(error) may use the cache', async t => {
  const cache = open(t, {
    breaker: {
      threshold: 3,
      timeout: '1h',
      failure() {
        stir(cache)
        return cache.breaker().state === 'closed'
      }
    }
  })
  for (let i = 0; i < 2; i++) await cache.get(`k${i}`, () => Promise.reject(new Error('down'))).catch(() => {})
  assert.equal(cache.breaker().failures, 2)
  await cache.put('old', 'old', EXPIRED)
  const entry = await cache.getWithMetadata('old', () => Promise.reject(new Error('down')))
  assert.deepEqual([entry.value, entry.state], ['old', 'stale-if-error'])
  assert.equal(cache.breaker().state, 'open')
})

test('listeners may use the cache', async t => {
  const cache = open(t, { memory: '64kb', breaker: { threshold: 1, timeout: '1h' } })
  const seen = new Set()
  for (const event of ['refresh', 'breaker', 'error']) {
    cache.on(event, () => {
      seen.add(event)
      stir(cache)
    })
  }
  cache.on('evict', () => {
    seen.add('evict')
    cache.peek('k')
    cache.get('k')
  })
  await cache.put('k', 'old', STALE)
  await cache.get('k', () => 'new')
  await cache.flush()
  await cache.get('x', () => Promise.reject(new Error('down')), { origin: 'o' }).catch(() => {})
  await cache.get('large', () => 'x'.repeat(70_000))
  for (let i = 0; i < 200; i++) await cache.put(`fill${i}`, 'x'.repeat(1000))
  await until(() => seen.size === 4)
  await settle()
  await cache.put('k', 'still works')
  assert.equal(await cache.get('k'), 'still works')
})

test('calls from one key to the next within one tick do not mix', async t => {
  const cache = open(t)
  const keys = Array.from({ length: 300 }, (_, i) => `k${i}`)
  const results = await Promise.all(
    keys.flatMap((key, i) => [
      cache.put(`p${key}`, i, { maxAge: i + 1, metadata: i }),
      cache.getWithMetadata(key, () => ({ i }), { maxAge: 1000 + i, metadata: key }),
      cache.getWithMetadata(`p${key}`),
      cache.get(key, () => 'never')
    ])
  )
  for (const [i, key] of keys.entries()) {
    const [, loaded, put, joined] = results.slice(i * 4, i * 4 + 4)
    assert.deepEqual([loaded.value, loaded.maxAge, loaded.metadata], [{ i }, 1000 + i, key])
    assert.deepEqual([put.value, put.maxAge, put.metadata], [i, i + 1, i])
    assert.deepEqual(joined, { i })
  }
})
