// Guards the errors of options: each names the option, the value given and what is allowed; a part not built is
// refused, not ignored.

import { assert, KvCache, KvCacheError, open, reasonOf, rejects, test, throws } from './helpers/kv.mjs'

test('errors are Errors with a code, a name, a message and a stack', async t => {
  const error = await reasonOf(open(t).get(''))
  assert.ok(error instanceof KvCacheError && error instanceof Error)
  assert.equal(error.code, 'ERR_KVCACHE_INVALID_KEY')
  assert.equal(error.name, 'KvCacheError')
  assert.equal(Object.prototype.toString.call(error), '[object Error]')
  assert.match(error.stack, /options\.test\.mjs|KvCacheError/)
  assert.equal(error.cause, undefined)
})

test('an option nobody knows is refused by name, wherever options are taken', async t => {
  const cache = open(t)
  throws(() => new KvCache({ maxage: 5 }), 'INVALID_OPTION', 'maxage', 'maxAge')
  throws(() => new KvCache({ refresh: { concurency: 5 } }), 'INVALID_OPTION', 'concurency', 'concurrency')
  throws(() => new KvCache({ breaker: { treshold: 5 } }), 'INVALID_OPTION', 'treshold', 'threshold')
  throws(() => cache.define('a:*', () => 1, { ttl: 5 }), 'INVALID_OPTION', 'ttl')
  throws(() => cache.wrap(async () => 1, { key: () => 'k', ttl: 5 }), 'INVALID_OPTION', 'ttl')
  for (const promise of [
    cache.get('k', () => 1, { ttl: 5 }),
    cache.getWithMetadata('k', () => 1, { ttl: 5 }),
    cache.getMany(['k'], () => ({}), { ttl: 5 }),
    cache.put('k', 1, { ttl: 5 }),
    cache.putMany([['k', 1]], { ttl: 5 }),
    cache.putMany([['k', 1, { ttl: 5 }]])
  ])
    await rejects(promise, 'INVALID_OPTION', 'ttl', 'maxAge')
  await rejects(cache.list({ ttl: 5 }), 'INVALID_OPTION', 'ttl')
  await rejects(cache.flush({ ttl: 5 }), 'INVALID_OPTION', 'ttl')
})

test('tags and dependencies belong to entries, not to a cache', () => {
  for (const options of [{ tags: ['a'] }, { tags: [] }, { dependsOn: ['a'] }]) {
    throws(() => new KvCache(options), 'INVALID_OPTION', Object.keys(options)[0])
  }
})

test('options of a single call are refused by the cache', () => {
  for (const options of [
    { signal: new AbortController().signal },
    { forceFresh: true },
    { metadata: 1 },
    { origin: 'o' }
  ]) {
    throws(() => new KvCache(options), 'INVALID_OPTION', Object.keys(options)[0])
  }
})

test('options that are no object are refused', async t => {
  const cache = open(t)
  for (const options of [5, 'x', true, null, () => {}, Symbol('s')]) {
    throws(() => new KvCache(options), 'INVALID_OPTION')
    await rejects(
      cache.get('k', () => 1, options),
      'INVALID_OPTION'
    )
    await rejects(cache.put('k', 1, options), 'INVALID_OPTION')
    await rejects(cache.close(options), 'INVALID_OPTION')
  }
})

test('forceFresh is true or false', async t => {
  const cache = open(t)
  for (const forceFresh of [1, 0, 'true', '', null, {}])
    await rejects(
      cache.get('k', () => 1, { forceFresh }),
      'INVALID_OPTION',
      'forceFresh'
    )
  assert.equal(await cache.get('k', () => 1, { forceFresh: false }), 1)
})

test('options are taken as they are when given, and not changed', async t => {
  const refresh = Object.freeze({ concurrency: 3 })
  const options = Object.freeze({ maxAge: 7, refresh, breaker: Object.freeze({ threshold: 2 }) })
  const cache = open(t, options)
  const call = { maxAge: 8 }
  const put = cache.put('k', 1, call)
  call.maxAge = 9
  await put
  assert.equal((await cache.getWithMetadata('k')).maxAge, 8)
  const loading = { maxAge: 8 }
  const get = cache.get('l', async () => 1, loading)
  loading.maxAge = 'nonsense'
  await get
  assert.equal((await cache.getWithMetadata('l')).maxAge, 8)
  const given = { maxAge: 20 }
  cache.define('d:*', () => 1, given)
  given.maxAge = 30
  await cache.get('d:1')
  assert.equal((await cache.getWithMetadata('d:1')).maxAge, 20)
})

test('a frozen options literal used for every call works for every call', async t => {
  const cache = open(t)
  const options = Object.freeze({ maxAge: 11 })
  for (let i = 0; i < 100; i++) assert.equal((await cache.getWithMetadata(`k${i}`, () => i, options)).maxAge, 11)
})

test('only own properties count as options', async t => {
  const cache = open(t)
  const inherited = Object.create({ unknownToAll: 1 })
  inherited.maxAge = 5
  await cache.put('k', 1, inherited)
  assert.equal((await cache.getWithMetadata('k')).maxAge, 5)
  await cache.put('k', 1, Object.assign(Object.create(null), { maxAge: 6 }))
  assert.equal((await cache.getWithMetadata('k')).maxAge, 6)
})

test('a KvCache is made with new, and its methods belong to it', async t => {
  assert.throws(() => KvCache(), TypeError)
  const cache = open(t)
  class Sub extends KvCache {
    hello() {
      return this.get('k', () => 'hello')
    }
  }
  const sub = new Sub()
  assert.equal(await sub.hello(), 'hello')
  await sub.close()
  assert.equal(cache instanceof KvCache, true)
})

test('KvCacheError carries the code and cause it is given', () => {
  const cause = new Error('why')
  const error = new KvCacheError('ERR_KVCACHE_TIMEOUT', 'too slow', { cause })
  assert.ok(error instanceof Error)
  assert.equal(typeof error.message, 'string')
})
