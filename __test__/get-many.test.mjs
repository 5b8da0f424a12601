// Guards getMany(): one batched fetch for what is missing, errors key by key, stale keys refreshed in one batch.

import { runInNewContext } from 'node:vm'
import { assert, EXPIRED, isError, open, reasonOf, rejects, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, isPending, settle, until } from './helpers/async.mjs'

test('the fetcher gets the missing keys once, in their order', async t => {
  const cache = open(t)
  await cache.putMany([
    ['b', 'B'],
    ['d', 'D']
  ])
  const fetcher = counted((_, keys) => new Map(keys.map(key => [key, key.toUpperCase()])))
  const found = await cache.getMany(['e', 'd', 'c', 'b', 'a'], fetcher)
  assert.deepEqual(fetcher.keys, [['e', 'c', 'a']])
  assert.ok(found instanceof Map)
  assert.deepEqual(
    [...found],
    [
      ['e', 'E'],
      ['d', 'D'],
      ['c', 'C'],
      ['b', 'B'],
      ['a', 'A']
    ]
  )
  assert.ok(found.errors instanceof Map)
  assert.equal(found.errors.size, 0)
  assert.deepEqual(
    [...(await cache.getMany(['a', 'c'], fetcher))],
    [
      ['a', 'A'],
      ['c', 'C']
    ]
  )
  assert.equal(fetcher.count, 1)
})

test('the fetcher is given a signal, and nothing is fetched when nothing is missing', async t => {
  const cache = open(t)
  await cache.put('a', 1)
  const fetcher = counted()
  await cache.getMany(['a'], fetcher)
  await cache.getMany([], fetcher)
  assert.equal(fetcher.count, 0)
  let context
  await cache.getMany(['b'], (keys, given) => {
    context = given
    return {}
  })
  assert.ok(context.signal instanceof AbortSignal)
  assert.equal(context.signal.aborted, false)
})

test('no keys: no values', async t => {
  const found = await open(t).getMany([])
  assert.equal(found.size, 0)
  assert.equal(found.errors.size, 0)
})

test('without a fetcher those with no value are absent', async t => {
  const cache = open(t)
  await cache.put('fresh', 1)
  await cache.put('stale', 2, STALE)
  await cache.put('expired', 3, EXPIRED)
  assert.deepEqual(
    [...(await cache.getMany(['missing', 'stale', 'expired', 'fresh']))],
    [
      ['stale', 2],
      ['fresh', 1]
    ]
  )
})

test('a key given twice is one key', async t => {
  const cache = open(t)
  const fetcher = counted((_, keys) => Object.fromEntries(keys.map(key => [key, key])))
  const found = await cache.getMany(['a', 'b', 'a', 'b', 'a'], fetcher)
  assert.deepEqual(fetcher.keys, [['a', 'b']])
  assert.deepEqual(
    [...found],
    [
      ['a', 'a'],
      ['b', 'b']
    ]
  )
})

test('the fetcher may answer with a Map or an object, at once or later', async t => {
  const cache = open(t)
  const shapes = [
    () => new Map([['k', 1]]),
    async () => new Map([['k', 1]]),
    () => ({ k: 1 }),
    async () => Object.assign(Object.create(null), { k: 1 }),
    () => ({ then: resolve => resolve({ k: 1 }) }),
    async () =>
      new (class Answer {
        k = 1
      })()
  ]
  for (const shape of shapes) {
    assert.deepEqual([...(await cache.getMany(['k'], shape))], [['k', 1]])
    assert.equal(await cache.get('k'), 1)
    await cache.delete('k')
  }
})

test('a Map, an Error and a promise of another realm are what they are', async t => {
  const cache = open(t)
  const answer = runInNewContext('async () => new Map([["a", 1], ["b", new TypeError("just b")]])')
  const found = await cache.getMany(['a', 'b', 'c'], answer)
  assert.deepEqual([...found], [['a', 1]])
  assert.equal(found.errors.get('b').message, 'just b')
  assert.deepEqual(
    [...(await cache.getMany(runInNewContext('["d"]'), runInNewContext('() => ({ d: 4 })')))],
    [['d', 4]]
  )
})

test('keys such as __proto__ and constructor are keys like others', async t => {
  const cache = open(t)
  const keys = ['__proto__', 'constructor', 'toString', 'hasOwnProperty', '0', '-1', '😀']
  const empty = await cache.getMany(keys, async () => ({}))
  assert.equal(empty.size, 0, 'what an object only inherits is no answer')
  assert.equal(empty.errors.size, 0)
  const own = await cache.getMany(keys, async missing => {
    assert.deepEqual(missing, keys)
    return JSON.parse(`{${missing.map(key => `${JSON.stringify(key)}:${JSON.stringify(key)}`)}}`)
  })
  assert.deepEqual(
    [...own],
    keys.map(key => [key, key])
  )
  await cache.delete(keys)
  const map = await cache.getMany(keys, async missing => new Map(missing.map(key => [key, key])))
  assert.deepEqual([...map.keys()], keys)
  assert.equal({}.polluted, undefined)
})

test('what the fetcher does not answer is absent and not stored; null is a value', async t => {
  const cache = open(t)
  const found = await cache.getMany(['a', 'b', 'c'], async () => ({ a: null, b: undefined, extra: 1 }))
  assert.deepEqual([...found], [['a', null]])
  assert.equal(found.errors.size, 0)
  assert.deepEqual(await Promise.all(['a', 'b', 'c', 'extra'].map(key => cache.has(key))), [true, false, false, false])
})

test('a value that is an Error is that key’s failure and nobody else’s', async t => {
  const cache = open(t)
  const error = new TypeError('just this one')
  await cache.put('old', 'kept', EXPIRED)
  const found = await cache.getMany(['a', 'b', 'old', 'c'], async () => ({
    a: 1,
    b: error,
    old: new Error('also'),
    c: 3
  }))
  assert.deepEqual(
    [...found],
    [
      ['a', 1],
      ['old', 'kept'],
      ['c', 3]
    ]
  )
  assert.deepEqual([...found.errors], [['b', error]])
  assert.equal(found.errors.get('b'), error)
  assert.equal(await cache.has('b'), false)
})

test('a value that cannot be stored is that key’s failure', async t => {
  const cache = open(t)
  const cycle = {}
  cycle.self = cycle
  const found = await cache.getMany(['a', 'b', 'c', 'd'], async () => ({ a: 1, b: cycle, c: () => {}, d: 4 }))
  assert.deepEqual(
    [...found],
    [
      ['a', 1],
      ['d', 4]
    ]
  )
  isError(found.errors.get('b'), 'SERIALIZE', 'b')
  isError(found.errors.get('c'), 'INVALID_VALUE', 'c')
})

test('when the fetcher fails every missing key has its error, but where an old value can stand in', async t => {
  const cache = open(t)
  const error = new Error('down')
  await cache.put('here', 1)
  await cache.put('old', 2, EXPIRED)
  const found = await cache.getMany(['a', 'here', 'old', 'b'], () => Promise.reject(error))
  assert.deepEqual(
    [...found],
    [
      ['here', 1],
      ['old', 2]
    ]
  )
  assert.deepEqual(
    [...found.errors],
    [
      ['a', error],
      ['b', error]
    ]
  )
})

test('a fetcher that answers with something else fails the missing keys', async t => {
  const cache = open(t, { breaker: false })
  for (const answer of [undefined, null, 5, 'text', () => {}]) {
    const found = await cache.getMany(['a', 'b'], async () => answer)
    assert.equal(found.size, 0)
    assert.deepEqual([...found.errors.keys()], ['a', 'b'], String(answer))
    for (const bad of found.errors.values()) isError(bad, 'INVALID_VALUE')
  }
})

test('stale keys are answered at once and refreshed in one batch; the missing are waited for in another', async t => {
  const cache = open(t)
  await cache.putMany(
    [
      ['s1', 'old'],
      ['s2', 'old']
    ],
    STALE
  )
  await cache.put('fresh', 'fresh')
  const fetcher = controlled()
  const stale = await cache.getMany(['s1', 'fresh', 's2'], fetcher)
  assert.deepEqual(
    [...stale],
    [
      ['s1', 'old'],
      ['fresh', 'fresh'],
      ['s2', 'old']
    ]
  )
  const refresh = await fetcher.call(0)
  assert.deepEqual(refresh.key, ['s1', 's2'])
  const mixed = cache.getMany(['s1', 'm', 's2'], fetcher)
  const load = await fetcher.call(1)
  assert.deepEqual(load.key, ['m'])
  load.resolve({ m: 'loaded' })
  assert.deepEqual(
    [...(await mixed)],
    [
      ['s1', 'old'],
      ['m', 'loaded'],
      ['s2', 'old']
    ]
  )
  refresh.resolve({ s1: 'new', s2: 'new' })
  await cache.flush()
  assert.equal(fetcher.calls.length, 2)
  assert.deepEqual(
    [...(await cache.getMany(['s1', 's2']))],
    [
      ['s1', 'new'],
      ['s2', 'new']
    ]
  )
  assert.equal(cache.stats().running, 0)
})

test('a batch that mixes stale and missing keys settles, though its refresh never does', async t => {
  const cache = open(t)
  await cache.put('s', 'old', STALE)
  const found = await cache.getMany(['s', 'm'], keys => (keys.includes('s') ? new Promise(() => {}) : { m: 'loaded' }))
  assert.deepEqual(
    [...found],
    [
      ['s', 'old'],
      ['m', 'loaded']
    ]
  )
  assert.deepEqual(
    [...(await cache.getMany(['s', 'm'], () => new Promise(() => {})))],
    [
      ['s', 'old'],
      ['m', 'loaded']
    ]
  )
})

test('a batch refresh that fails, in whole or in part, leaves what was there', async t => {
  const cache = open(t, { refresh: { cooldown: 1 } })
  await cache.putMany(
    [
      ['a', 'old'],
      ['b', 'old']
    ],
    STALE
  )
  await cache.getMany(['a', 'b'], () => Promise.reject(new Error('down')))
  await cache.flush()
  assert.deepEqual(
    [...(await cache.getMany(['a', 'b']))],
    [
      ['a', 'old'],
      ['b', 'old']
    ]
  )
  await until(async () => {
    await cache.getMany(['a', 'b'], async () => ({ a: 'new', b: new Error('just b') }))
    await cache.flush()
    return cache.peek('a') === 'new'
  })
  assert.equal(await cache.get('b'), 'old')
})

test('keys that are already loading are joined, and only the others fetched', async t => {
  const cache = open(t)
  const single = controlled()
  const get = cache.get('a', single)
  await single.call(0)
  const batch = controlled()
  const many = cache.getMany(['a', 'b'], batch)
  assert.deepEqual((await batch.call(0)).key, ['b'])
  batch.calls[0].resolve({ b: 2 })
  assert.ok(await isPending(many))
  single.calls[0].resolve(1)
  assert.deepEqual(
    [...(await many)],
    [
      ['a', 1],
      ['b', 2]
    ]
  )
  assert.equal(await get, 1)
})

test('a single get joins a batch, and so does another batch', async t => {
  const cache = open(t)
  const batch = controlled()
  const many = cache.getMany(['a', 'b'], batch)
  await batch.call(0)
  const single = counted()
  const second = controlled()
  const get = cache.get('b', single)
  const other = cache.getMany(['b', 'c', 'a'], second)
  assert.deepEqual((await second.call(0)).key, ['c'])
  second.calls[0].resolve({ c: 3 })
  batch.calls[0].resolve({ a: 1, b: 2 })
  assert.equal(await get, 2)
  assert.deepEqual(
    [...(await many)],
    [
      ['a', 1],
      ['b', 2]
    ]
  )
  assert.deepEqual(
    [...(await other)],
    [
      ['b', 2],
      ['c', 3],
      ['a', 1]
    ]
  )
  assert.equal(single.count, 0)
})

test('a joined load that fails is that key’s failure, with its own error', async t => {
  const cache = open(t)
  const single = controlled()
  const error = new Error('single')
  const get = reasonOf(cache.get('a', single))
  await single.call(0)
  const many = cache.getMany(['a', 'b'], async () => ({ b: 2 }))
  single.calls[0].reject(error)
  const found = await many
  assert.deepEqual([...found], [['b', 2]])
  assert.equal(found.errors.get('a'), error)
  assert.equal(await get, error)
})

test('a get joined to a batch that does not answer its key gets undefined', async t => {
  const cache = open(t)
  const batch = controlled()
  const many = cache.getMany(['a', 'b'], batch)
  await batch.call(0)
  const get = cache.get('b', counted())
  await settle()
  batch.calls[0].resolve({ a: 1 })
  await many
  assert.equal(await get, undefined)
})

test('options apply to what the batch loads', async t => {
  const cache = open(t)
  await cache.getMany(['a', 'b'], async () => ({ a: 1, b: 2 }), { maxAge: 42, metadata: 'batch' })
  for (const key of ['a', 'b']) {
    const entry = await cache.getWithMetadata(key)
    assert.equal(entry.maxAge, 42)
    assert.equal(entry.metadata, 'batch')
  }
})

test('forceFresh fetches all keys anew', async t => {
  const cache = open(t)
  await cache.putMany([
    ['a', 'old'],
    ['b', 'old']
  ])
  const fetcher = counted((_, keys) => Object.fromEntries(keys.map(key => [key, 'new'])))
  const found = await cache.getMany(['a', 'b'], fetcher, { forceFresh: true })
  assert.deepEqual([...found.values()], ['new', 'new'])
  assert.deepEqual(fetcher.keys, [['a', 'b']])
  assert.equal(await cache.get('a'), 'new')
})

test('after softTimeout old values stand in for those that have one', async t => {
  const cache = open(t)
  await cache.put('a', 'old', EXPIRED)
  const fetcher = controlled()
  const found = await cache.getMany(['a'], fetcher, { softTimeout: 10 })
  assert.deepEqual([...found], [['a', 'old']])
  fetcher.calls[0].resolve({ a: 'new' })
  await until(async () => (await cache.get('a')) === 'new')
})

test('a bad key rejects the whole call before anything starts', async t => {
  const cache = open(t)
  const fetcher = counted(() => ({}))
  for (const bad of ['', 5, null, undefined, 'x'.repeat(513), '\uD800'])
    await rejects(cache.getMany(['a', bad, 'b'], fetcher), 'INVALID_KEY')
  // A list with a hole holds undefined there.
  await rejects(cache.getMany(Object.assign(Array(3), { 0: 'a', 2: 'b' }), fetcher), 'INVALID_KEY')
  for (const keys of [undefined, null, 5, 'ab', {}])
    assert.match((await reasonOf(cache.getMany(keys, fetcher))).code, /^ERR_KVCACHE_INVALID_/)
  await rejects(cache.getMany(['a'], fetcher, { maxAge: -1 }), 'INVALID_OPTION', 'maxAge')
  await rejects(cache.getMany(['a'], fetcher, { colour: 'red' }), 'INVALID_OPTION', 'colour')
  await settle()
  assert.equal(fetcher.count, 0)
})

test('the list of keys may be changed once the call is made, and so may what the fetcher got', async t => {
  const cache = open(t)
  const keys = ['a', 'b']
  const many = cache.getMany(keys, async missing => {
    const answer = Object.fromEntries(missing.map(key => [key, key]))
    missing.length = 0
    return answer
  })
  keys.length = 0
  assert.deepEqual(
    [...(await many)],
    [
      ['a', 'a'],
      ['b', 'b']
    ]
  )
})

test('results are frozen copies: the fetcher’s own objects are neither frozen nor kept', async t => {
  const cache = open(t)
  const own = { list: [1] }
  const found = await cache.getMany(['a'], async () => ({ a: own }))
  assert.notEqual(found.get('a'), own)
  assert.ok(Object.isFrozen(found.get('a').list))
  assert.ok(!Object.isFrozen(own))
  own.list.push(2)
  assert.deepEqual((await cache.getMany(['a'])).get('a'), { list: [1] })
})

test('ten thousand keys at once', async t => {
  const cache = open(t)
  const keys = Array.from({ length: 10_000 }, (_, i) => `k${i}`)
  const fetcher = counted((_, missing) => new Map(missing.map(key => [key, key])))
  const [one, two] = await Promise.all([cache.getMany(keys, fetcher), cache.getMany(keys, fetcher)])
  assert.equal(fetcher.count, 1)
  assert.equal(one.size, 10_000)
  assert.deepEqual([...two.keys()], keys)
})
