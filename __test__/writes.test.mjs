// Guards put, putMany, delete, has and peek.

import { assert, EXPIRED, open, reasonOf, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { counted, settle } from './helpers/async.mjs'

test('what is put is got, by whatever way of reading', async t => {
  const cache = open(t)
  assert.equal(await cache.put('k', { n: 1 }), undefined)
  assert.deepEqual(await cache.get('k'), { n: 1 })
  assert.deepEqual(await cache.get('k', counted()), { n: 1 })
  assert.deepEqual(cache.peek('k'), { n: 1 })
  assert.equal(await cache.has('k'), true)
  assert.deepEqual((await cache.getMany(['k'])).get('k'), { n: 1 })
})

test('a put replaces value, ages and metadata', async t => {
  const cache = open(t)
  await cache.put('k', 1, { ...STALE, metadata: 'old' })
  await cache.put('k', 2)
  const entry = await cache.getWithMetadata('k')
  assert.equal(entry.value, 2)
  assert.equal(entry.state, 'fresh')
  assert.equal(entry.maxAge, 300)
  assert.equal(entry.metadata, undefined)
})

test('a put takes the ages of the cache, then its own', async t => {
  const cache = open(t, { maxAge: 50, staleAge: 100 })
  await cache.put('a', 1)
  assert.equal((await cache.getWithMetadata('a')).maxAge, 50)
  await cache.put('a', 1, { maxAge: 60 })
  assert.equal((await cache.getWithMetadata('a')).maxAge, 60)
})

test('puts that are not waited for take effect in their order', async t => {
  const cache = open(t)
  const puts = Array.from({ length: 1000 }, (_, i) => cache.put('k', i))
  await Promise.all(puts)
  assert.equal(await cache.get('k'), 999)
  const writes = [cache.put('k', 'a'), cache.delete('k'), cache.put('k', 'b'), cache.delete('k')]
  await Promise.all(writes)
  assert.equal(await cache.get('k'), undefined)
})

test('a put that is refused keeps what was there', async t => {
  const cache = open(t)
  await cache.put('k', 'old')
  const cycle = {}
  cycle.self = cycle
  await rejects(cache.put('k', undefined), 'INVALID_VALUE', 'k', 'undefined')
  await rejects(cache.put('k'), 'INVALID_VALUE')
  await rejects(
    cache.put('k', () => {}),
    'INVALID_VALUE'
  )
  await rejects(cache.put('k', Symbol('s')), 'INVALID_VALUE')
  await rejects(cache.put('k', cycle), 'SERIALIZE', 'k')
  await rejects(cache.put('k', 1n), 'SERIALIZE')
  await rejects(cache.put('k', 'new', { maxAge: 'soon' }), 'INVALID_OPTION')
  await rejects(cache.put('k', 'new', { colour: 'red' }), 'INVALID_OPTION', 'colour')
  await rejects(cache.put('k', 'new', 5), 'INVALID_OPTION')
  await rejects(cache.put('k', 'new', null), 'INVALID_OPTION')
  await rejects(cache.put('', 'new'), 'INVALID_KEY')
  assert.equal(await cache.get('k'), 'old')
})

test('options that only a load can have are refused by put', async t => {
  const cache = open(t)
  for (const options of [
    { signal: new AbortController().signal }, { forceFresh: true }, { hardTimeout: 5 }, { softTimeout: 5 },
    { origin: 'o' }
  ]) {
    await rejects(cache.put('k', 1, options), 'INVALID_OPTION', Object.keys(options)[0])
    await rejects(cache.putMany([['k', 1]], options), 'INVALID_OPTION', Object.keys(options)[0])
  }
})

test('putMany takes any iterable of entries, with options for each and for all', async t => {
  const cache = open(t)
  assert.equal(
    await cache.putMany(
      [
        ['a', 1],
        ['b', 2, { maxAge: 7 }]
      ],
      { maxAge: 5, metadata: 'all' }
    ),
    undefined
  )
  await cache.putMany(new Map([['c', 3]]))
  await cache.putMany(
    (function* () {
      yield ['d', 4]
      yield ['e', null]
    })()
  )
  await cache.putMany(Object.entries({ f: 6, __proto__x: 7 }))
  await cache.putMany(new Set([['g', 8]]))
  const found = await cache.getMany(['a', 'b', 'c', 'd', 'e', 'f', 'g'])
  assert.deepEqual([...found.values()], [1, 2, 3, 4, null, 6, 8])
  const [a, b] = await Promise.all([cache.getWithMetadata('a'), cache.getWithMetadata('b')])
  assert.deepEqual([a.maxAge, b.maxAge, a.metadata, b.metadata], [5, 7, 'all', 'all'])
})

test('putMany of nothing is nothing; of the same key twice, the last', async t => {
  const cache = open(t)
  await cache.putMany([])
  await cache.putMany(new Map())
  assert.equal(cache.stats().entries, 0)
  await cache.putMany([
    ['k', 1],
    ['k', 2],
    ['k', 3]
  ])
  assert.equal(await cache.get('k'), 3)
  assert.equal(cache.stats().entries, 1)
})

test('a bad entry anywhere among many: nothing is half done', async t => {
  const cache = open(t)
  await cache.put('first', 'old')
  const cycle = {}
  cycle.self = cycle
  const bads = [
    [['', 1], 'INVALID_KEY'],
    [[5, 1], 'INVALID_KEY'],
    [['x'.repeat(513), 1], 'INVALID_KEY'],
    [['\uD800', 1], 'INVALID_KEY'],
    [['bad', undefined], 'INVALID_VALUE', 'bad'],
    [['bad'], 'INVALID_VALUE', 'bad'],
    [['bad', () => {}], 'INVALID_VALUE', 'bad'],
    [['bad', cycle], 'SERIALIZE', 'bad'],
    [['bad', 'x'.repeat(25 * 1024 * 1024 + 1)], 'VALUE_TOO_LARGE', 'bad'],
    [['bad', 1, { maxAge: -1 }], 'INVALID_OPTION', 'maxAge'],
    [['bad', 1, { colour: 'red' }], 'INVALID_OPTION', 'colour'],
    [['bad', 1, 5], 'INVALID_OPTION']
  ]
  for (const [bad, code, ...needles] of bads) {
    for (const at of [0, 1, 2]) {
      const entries = [
        ['first', 'new'],
        ['second', 'new']
      ]
      entries.splice(at, 0, bad)
      await rejects(cache.putMany(entries), code, ...needles)
      assert.equal(cache.peek('first'), 'old')
      assert.equal(cache.peek('second'), undefined)
    }
  }
  assert.equal(cache.stats().entries, 1)
})

test('what is no iterable of entries is refused', async t => {
  const cache = open(t)
  for (const entries of [undefined, null, 5, {}, { a: 1 }, () => {}])
    await rejects(cache.putMany(entries), 'INVALID_OPTION', 'iterable')
  for (const entry of [5, null, undefined, 'ab', {}, []]) {
    const { code } = await reasonOf(cache.putMany([['ok', 1], entry]))
    assert.match(code, /^ERR_KVCACHE_INVALID_(OPTION|VALUE|KEY)$/)
  }
  assert.equal(cache.stats().entries, 0)
})

test('an iterable that throws on its way: its own error, and nothing is half done', async t => {
  const cache = open(t)
  const error = new Error('on my way')
  let closed = false
  const iterable = (function* () {
    try {
      yield ['a', 1]
      yield ['b', 2]
      throw error
    } finally {
      closed = true
    }
  })()
  assert.equal(await reasonOf(cache.putMany(iterable)), error)
  assert.ok(closed)
  assert.equal(cache.stats().entries, 0)
})

test('ten thousand entries at once are all there', async t => {
  const cache = open(t)
  await cache.putMany(Array.from({ length: 10_000 }, (_, i) => [`k${i}`, { i }]))
  assert.equal(cache.stats().entries, 10_000)
  for (const i of [0, 1, 5000, 9999]) assert.deepEqual(cache.peek(`k${i}`), { i })
})

test('more entries at once than the budget holds: it holds all the same', async t => {
  const cache = open(t, { memory: '64kb' })
  await cache.putMany(Array.from({ length: 1000 }, (_, i) => [`k${i}`, 'x'.repeat(500)]))
  assert.ok(cache.stats().bytes <= 65_536)
  assert.ok(cache.stats().entries > 10)
})

test('delete says whether anything was there', async t => {
  const cache = open(t)
  await cache.putMany(['a', 'b', 'c'].map(key => [key, 1]))
  assert.equal(await cache.delete('a'), true)
  assert.equal(await cache.delete('a'), false)
  assert.equal(await cache.delete(['x', 'b']), true)
  assert.equal(await cache.delete(['x', 'b']), false)
  assert.equal(await cache.delete([]), false)
  assert.equal(await cache.delete(['c', 'c']), true)
  assert.equal(cache.stats().entries, 0)
})

test('a bad key among many: none is deleted', async t => {
  const cache = open(t)
  await cache.putMany(['a', 'b'].map(key => [key, 1]))
  for (const bad of ['', 5, null, 'x'.repeat(513)]) await rejects(cache.delete(['a', bad, 'b']), 'INVALID_KEY')
  await rejects(cache.delete(undefined), 'INVALID_KEY')
  await rejects(cache.delete({ key: 'a' }), 'INVALID_KEY')
  assert.equal(cache.stats().entries, 2)
})

test('a deleted value is gone for the error path as well', async t => {
  const cache = open(t)
  await cache.put('k', 'old', EXPIRED)
  await cache.delete('k')
  const error = new Error('down')
  assert.equal(await reasonOf(cache.get('k', () => Promise.reject(error))), error)
})

test('has() says whether get() would give a value without any fetcher', async t => {
  const cache = open(t)
  await cache.put('fresh', 1)
  await cache.put('stale', 1, STALE)
  await cache.put('expired', 1, EXPIRED)
  await cache.put('null', null)
  const has = key => cache.has(key)
  assert.deepEqual(await Promise.all(['fresh', 'stale', 'expired', 'null', 'missing'].map(has)), [
    true,
    true,
    false,
    true,
    false
  ])
  await rejects(cache.has(''), 'INVALID_KEY')
  await rejects(cache.has(5), 'INVALID_KEY')
})

test('peek() gives what is in memory, fresh or stale, at once, and starts nothing', async t => {
  const cache = open(t)
  const fetcher = counted()
  cache.define('*', fetcher)
  await cache.put('fresh', { n: [1] })
  await cache.put('stale', 2, STALE)
  await cache.put('expired', 3, EXPIRED)
  assert.deepEqual(cache.peek('fresh'), { n: [1] })
  assert.ok(Object.isFrozen(cache.peek('fresh').n))
  assert.equal(cache.peek('stale'), 2)
  assert.equal(cache.peek('expired'), undefined)
  assert.equal(cache.peek('missing'), undefined)
  await settle()
  await cache.flush()
  assert.equal(fetcher.count, 0)
  throws(() => cache.peek(''), 'INVALID_KEY')
  throws(() => cache.peek(5), 'INVALID_KEY')
})

test('asynchronous methods never throw: bad arguments are rejections', async t => {
  const cache = open(t)
  const calls = [
    () => cache.get(5), () => cache.get(), () => cache.get('k', 5), () => cache.get('k', () => 1, 5),
    () => cache.getWithMetadata(null), () => cache.getMany(5), () => cache.getMany(), () => cache.has(5),
    () => cache.put(5, 1), () => cache.put(), () => cache.putMany(5), () => cache.delete(5), () => cache.list(5),
    () => cache.flush(5), () => cache.flush({ timeout: -1 }), () => cache.close({ timeout: -1 })
  ]
  for (const call of calls) {
    const promise = call()
    assert.ok(promise instanceof Promise, String(call))
    assert.match((await reasonOf(promise)).code, /^ERR_KVCACHE_INVALID_/, String(call))
  }
})
