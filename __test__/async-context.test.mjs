// Guards the async context (AsyncLocalStorage): a fetcher runs in that of the get() that caused it, in the
// background too.

import { AsyncLocalStorage } from 'node:async_hooks'
import { assert, EXPIRED, open, STALE, test } from './helpers/kv.mjs'
import { controlled, settle } from './helpers/async.mjs'

const storage = new AsyncLocalStorage()

/**
 * A fetcher that notes the context it is called in and the one it has after awaiting, and answers what `answer`
 * says.
 */
function noting(answer = () => 'value') {
  const seen = []
  const fetcher = async (key, context) => {
    const at = storage.getStore()
    await settle()
    seen.push([at, storage.getStore()])
    return answer(key, context)
  }
  fetcher.seen = seen
  return fetcher
}

test('a fetcher runs in the context of its get', async t => {
  const cache = open(t)
  const fetcher = noting()
  await storage.run('mine', () => cache.get('k', fetcher))
  assert.deepEqual(fetcher.seen, [['mine', 'mine']])
  await cache.put('e', 'old', EXPIRED)
  await storage.run('yours', () => cache.get('e', fetcher))
  assert.deepEqual(fetcher.seen[1], ['yours', 'yours'])
})

test('a fetcher outside any context runs outside any', async t => {
  const cache = open(t)
  const fetcher = noting()
  await storage.run('first', () => cache.get('first', fetcher))
  await storage.exit(() => cache.get('second', fetcher))
  assert.deepEqual(fetcher.seen, [
    ['first', 'first'],
    [undefined, undefined]
  ])
})

test('a background refresh runs in the context of the get that caused it', async t => {
  const cache = open(t)
  const fetcher = noting()
  await cache.put('k', 'old', STALE)
  await storage.run('cause', () => cache.get('k', fetcher))
  await storage.run('another', () => cache.flush())
  assert.deepEqual(fetcher.seen, [['cause', 'cause']])
})

test('refreshes that waited in the queue each keep their own context', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const blocker = controlled()
  const fetcher = noting()
  await cache.put('blocker', 'old', STALE)
  await cache.get('blocker', blocker)
  for (let i = 0; i < 5; i++) {
    await cache.put(`k${i}`, 'old', STALE)
    await storage.run(i, () => cache.get(`k${i}`, fetcher))
  }
  ;(await blocker.call(0)).resolve('new')
  await cache.flush()
  assert.deepEqual(
    fetcher.seen,
    [0, 1, 2, 3, 4].map(i => [i, i])
  )
})

test('a retry runs in the same context as the first attempt', async t => {
  const cache = open(t, { refresh: { retries: 2, backoff: 1 } })
  const fetcher = noting(() => Promise.reject(new Error('again')))
  await cache.put('k', 'old', STALE)
  await storage.run('cause', () => cache.get('k', fetcher))
  await cache.flush()
  assert.deepEqual(fetcher.seen, Array(3).fill(['cause', 'cause']))
})

test('a batch fetcher runs in the context of its getMany, for a batch refresh too', async t => {
  const cache = open(t)
  const fetcher = noting(keys => Object.fromEntries(keys.map(key => [key, 'new'])))
  await storage.run('missing', () => cache.getMany(['a', 'b'], fetcher))
  await cache.put('a', 'old', STALE)
  await storage.run('stale', () => cache.getMany(['a'], fetcher))
  await storage.exit(() => cache.flush())
  assert.deepEqual(fetcher.seen, [
    ['missing', 'missing'],
    ['stale', 'stale']
  ])
})

test('a define() and a wrap() run in the context of the call that caused them', async t => {
  const cache = open(t)
  const fetcher = noting()
  cache.define('d:*', fetcher)
  const wrapped = storage.run('wrapping', () => cache.wrap(fetcher, { key: () => 'w' }))
  await storage.run('defined', () => cache.get('d:1'))
  await storage.run('wrapped', () => wrapped())
  assert.deepEqual(fetcher.seen, [
    ['defined', 'defined'],
    ['wrapped', 'wrapped']
  ])
})

test('a foreground load that takes a queued refresh over runs in its own context', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const blocker = controlled()
  const fetcher = noting()
  await cache.put('blocker', 'old', STALE)
  await cache.put('k', 'old', STALE)
  await cache.get('blocker', blocker)
  await storage.run('queued', () => cache.get('k', fetcher))
  await storage.run('foreground', () => cache.get('k', fetcher, { forceFresh: true }))
  assert.deepEqual(fetcher.seen, [['foreground', 'foreground']])
  ;(await blocker.call(0)).resolve('new')
})

test('callers go on in their own context, whoever led the load', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const seen = []
  const callers = ['a', 'b', 'c'].map(name =>
    storage.run(name, async () => {
      await cache.get('k', fetcher)
      seen.push([name, storage.getStore()])
      await cache.get('k')
      seen.push([name, storage.getStore()])
    })
  )
  ;(await fetcher.call(0)).resolve('value')
  await Promise.all(callers)
  for (const [name, store] of seen) assert.equal(store, name)
  assert.equal(seen.length, 6)
})
