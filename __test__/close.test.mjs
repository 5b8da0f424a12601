// Guards close(): what waits is answered or told, nothing starts any more, memory is given back, and twice is once.

import { assert, isError, KvCache, open, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { controlled, isPending, settle } from './helpers/async.mjs'

test('after close() every call is refused with ERR_KVCACHE_CLOSED, and nothing starts', async () => {
  const cache = new KvCache()
  await cache.put('k', 1)
  cache.define('d:*', () => assert.fail('a fetcher is called'))
  const wrapped = cache.wrap(async () => assert.fail('a function is called'), { key: () => 'w' })
  assert.equal(await cache.close(), undefined)
  const never = () => assert.fail('a fetcher is called')
  const calls = [
    cache.get('k'), cache.get('x', never), cache.get('d:1'), cache.getWithMetadata('k'), cache.getMany(['k']),
    cache.getMany(['x'], never), cache.has('k'), cache.put('k', 1), cache.putMany([['k', 1]]), cache.delete('k'),
    cache.delete(['k']), cache.list(), cache.flush(), wrapped()
  ]
  for (const call of calls) await rejects(call, 'CLOSED')
  throws(() => cache.peek('k'), 'CLOSED')
  throws(() => cache.define('a:*', never), 'CLOSED')
})

test('stats() still tells the last figures, and the memory is given back', async () => {
  const cache = new KvCache()
  await cache.putMany(Array.from({ length: 1000 }, (_, i) => [`k${i}`, 'x'.repeat(1000)]))
  await cache.get('k1')
  await cache.close()
  const { hits, running, queued } = cache.stats()
  assert.deepEqual({ hits, running, queued }, { hits: 1, running: 0, queued: 0 })
})

test('close() waits for loads and refreshes that end in time', async () => {
  const cache = new KvCache()
  const fetcher = controlled()
  await cache.put('stale', 'old', STALE)
  await cache.get('stale', fetcher)
  const get = cache.get('k', fetcher)
  await fetcher.call(1)
  const closed = cache.close()
  await rejects(
    cache.get('other', () => 1),
    'CLOSED'
  )
  assert.ok(await isPending(closed))
  for (const call of fetcher.calls) assert.equal(call.context.signal.aborted, false)
  for (const call of fetcher.calls) call.resolve('value')
  assert.equal(await get, 'value')
  await closed
})

test('after its timeout it aborts what remains: waiters are told, signals fire', async () => {
  const cache = new KvCache()
  const fetcher = controlled()
  await cache.put('stale', 'old', STALE)
  await cache.get('stale', fetcher)
  const gets = [cache.get('k', fetcher), cache.get('k', fetcher), cache.getWithMetadata('j', fetcher)]
  const many = cache.getMany(['m', 'n'], fetcher)
  await fetcher.call(3)
  await Promise.all([
    cache.close({ timeout: 20 }),
    ...gets.map(get => rejects(get, 'CLOSED')),
    many.then(
      found => found.errors.forEach(error => isError(error, 'CLOSED')),
      error => isError(error, 'CLOSED')
    )
  ])
  for (const call of fetcher.calls) assert.equal(call.context.signal.aborted, true)
  for (const call of fetcher.calls) call.resolve('too late')
  await settle()
})

test('queued refreshes and those that wait for a retry do not hold it up beyond its timeout', async () => {
  const cache = new KvCache({ refresh: { concurrency: 1, retries: 1, backoff: '10m' } })
  for (const key of ['a', 'b', 'c']) await cache.put(key, 'old', STALE)
  await cache.get('a', () => Promise.reject(new Error('down')))
  await cache.get('b', () => new Promise(() => {}))
  await cache.get('c', () => 'new')
  await cache.close({ timeout: 30 })
  const { queued, running } = cache.stats()
  assert.deepEqual({ queued, running }, { queued: 0, running: 0 })
})

test('close() again is the same closing', async () => {
  const cache = new KvCache()
  const first = cache.close()
  assert.equal(cache.close(), first)
  assert.equal(cache[Symbol.asyncDispose](), first)
  await first
  assert.equal(cache.close(), first)
})

test('a cache that is closed while a softTimeout, a flush and a signal wait leaves nothing hanging', async () => {
  const cache = new KvCache()
  await cache.put('k', 'old', { maxAge: 0, staleAge: 0, staleIfError: 60 })
  await cache.put('s', 'old', STALE)
  await cache.get('s', () => new Promise(() => {}))
  const outcomes = Promise.allSettled([
    cache.get('k', () => new Promise(() => {}), { softTimeout: '1h' }),
    cache.flush(),
    cache.flush({ timeout: '1h' }),
    cache.get('x', () => new Promise(() => {}), { signal: new AbortController().signal, hardTimeout: Infinity })
  ])
  await settle()
  await cache.close({ timeout: 20 })
  const [soft, , , signalled] = await outcomes
  assert.ok(soft.value === 'old' || soft.reason?.code === 'ERR_KVCACHE_CLOSED')
  isError(signalled.reason, 'CLOSED')
})

test('Symbol.asyncDispose closes, as `await using` does', async () => {
  const cache = new KvCache()
  assert.equal(typeof cache[Symbol.asyncDispose], 'function')
  await cache[Symbol.asyncDispose]()
  await rejects(cache.get('k'), 'CLOSED')
  const AsyncFunction = Object.getPrototypeOf(async () => {}).constructor
  let block
  try {
    block = new AsyncFunction('KvCache', 'await using cache = new KvCache(); await cache.put("k", 1); return cache')
  } catch {
    // A Node that does not know the syntax yet.
    return
  }
  await rejects((await block(KvCache)).get('k'), 'CLOSED')
})

test('a refused close() closes nothing', async t => {
  const cache = open(t)
  await rejects(cache.close({ timeout: 'soon' }), 'INVALID_OPTION', 'timeout', 'soon')
  await cache.put('k', 1)
  assert.equal(await cache.get('k'), 1)
})

test('closing one cache leaves another as it is', async t => {
  const one = new KvCache()
  const two = open(t)
  await one.put('k', 1)
  await two.put('k', 2)
  const fetcher = controlled()
  const get = two.get('x', fetcher)
  await one.close()
  ;(await fetcher.call(0)).resolve('value')
  assert.equal(await get, 'value')
  assert.equal(await two.get('k'), 2)
})

test('hundreds of caches are made, used and closed', async () => {
  for (let i = 0; i < 300; i++) {
    const cache = new KvCache({ memory: '1mb' })
    await cache.put('k', i)
    assert.equal(await cache.get('k'), i)
    assert.equal(await cache.get('l', () => i), i)
    await cache.close()
  }
})

test('thousands of open caches, given up without closing, do not run out of anything', async () => {
  for (let i = 0; i < 2000; i++) {
    const cache = new KvCache({ memory: '64kb' })
    await cache.put('k', i)
    assert.equal(await cache.get('k'), i)
  }
})
