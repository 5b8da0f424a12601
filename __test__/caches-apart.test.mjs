// Guards the privacy of unnamed caches: what happens in one is not seen in another of the same process.

import { assert, open, reasonOf, STALE, test } from './helpers/kv.mjs'
import { controlled, until } from './helpers/async.mjs'

test('two caches in one process are apart in keys, routes, events, breakers and figures', async t => {
  const one = open(t, { breaker: { threshold: 1 } })
  const two = open(t, { breaker: { threshold: 1 } })
  const seen = []
  one.on('breaker', () => seen.push('one'))
  two.on('breaker', () => seen.push('two'))
  one.define('d:*', () => 'one')
  await one.put('k', 1)
  assert.equal(await two.get('k'), undefined)
  assert.equal(await two.get('d:1'), undefined)
  assert.equal(await one.get('d:1'), 'one')
  await Promise.all([one.get('same', async () => 'from one'), two.get('same', async () => 'from two')])
  assert.deepEqual([await one.get('same'), await two.get('same')], ['from one', 'from two'])
  await reasonOf(one.get('x', () => Promise.reject(new Error('down'))))
  await until(() => seen.length === 1)
  assert.equal(one.breaker().state, 'open')
  assert.equal(two.breaker().state, 'closed')
  await two.delete('k')
  assert.equal(await one.get('k'), 1)
  assert.deepEqual(seen, ['one'])
  assert.equal(two.stats().errors, 0)
})

test('a thousand caches each hold their own value of one key', async t => {
  const caches = Array.from({ length: 1000 }, () => open(t, { memory: '64kb' }))
  await Promise.all(caches.map((cache, i) => cache.get('k', async () => i)))
  for (const [i, cache] of caches.entries()) assert.equal(cache.peek('k'), i)
})

test('the refreshes of one cache do not wait for those of another', async t => {
  const busy = open(t, { refresh: { concurrency: 1 } })
  const free = open(t, { refresh: { concurrency: 1 } })
  const blocker = controlled()
  await busy.put('k', 'old', STALE)
  await busy.get('k', blocker)
  await blocker.call(0)
  await free.put('k', 'old', STALE)
  await free.get('k', () => 'new')
  await free.flush()
  assert.equal(free.peek('k'), 'new')
  assert.equal(busy.stats().running, 1)
  blocker.calls[0].resolve('new')
})

test('a cache opened after another was closed is empty, and takes no calls meant for that one', async t => {
  for (let i = 0; i < 20; i++) {
    const old = open(t)
    const fetcher = controlled()
    const get = old.get('k', fetcher).catch(error => error.code)
    await fetcher.call(0)
    await old.put('other', 'old')
    await old.close({ timeout: 1 })
    const cache = open(t)
    assert.equal(await cache.get('other'), undefined)
    fetcher.calls[0].resolve('too late')
    assert.equal(await get, 'ERR_KVCACHE_CLOSED')
    assert.equal(await cache.get('k'), undefined)
    assert.equal(cache.stats().entries, 0)
  }
})
