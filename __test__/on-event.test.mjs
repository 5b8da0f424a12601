// Guards events from outside: all rules of a type are asked and checked before anything is invalidated.

import { assert, open, rejects, test, throws } from './helpers/kv.mjs'
import { deferred, isPending } from './helpers/async.mjs'

/** A cache with these keys in it. */
async function holding(t, ...keys) {
  const cache = open(t)
  for (const key of keys) await cache.put(key, key, { tags: [`tag of ${key}`] })
  return cache
}

test('an event invalidates what the rules of its type name, and gives back what that was', async t => {
  const cache = await holding(t, 'user:1:profile', 'user:1:posts', 'user:2:profile', 'feed', 'list')
  cache.onEvent('user.updated', event => [`user:${event.id}:*`, { tag: 'tag of feed' }])
  cache.onEvent('user.updated', async () => [{ key: 'list' }])
  cache.onEvent('user.deleted', () => [{ all: true }])
  assert.deepEqual(await cache.dispatch({ type: 'user.updated', id: 1 }), ['user:1:*', { tag: 'tag of feed' }, { key: 'list' }])
  for (const gone of ['user:1:profile', 'user:1:posts', 'feed', 'list']) assert.equal(await cache.get(gone), undefined, gone)
  assert.equal(await cache.get('user:2:profile'), 'user:2:profile')
})

test('a target that several rules name is invalidated once', async t => {
  const cache = await holding(t, 'a')
  const told = []
  cache.on('invalidate', ({ target }) => told.push(target))
  for (let i = 0; i < 3; i++) cache.onEvent('e', () => [{ key: 'a' }, { key: 'b' }, { key: 'a' }])
  assert.deepEqual(await cache.dispatch({ type: 'e' }), [{ key: 'a' }, { key: 'b' }])
  assert.equal(cache.stats().invalidations, 2)
})

test('an event that no rule knows invalidates nothing', async t => {
  const cache = await holding(t, 'a')
  cache.onEvent('known', () => [{ all: true }])
  for (const type of ['unknown', '__proto__', 'constructor', 'KNOWN']) assert.deepEqual(await cache.dispatch({ type }), [])
  assert.equal(await cache.get('a'), 'a')
})

for (const [what, rule, needle] of [
  ['throws', () => { throw new Error('no database') }, 'no database'],
  ['rejects', async () => { throw new Error('no database') }, 'no database'],
  ['gives nothing', () => undefined, 'targets'],
  ['gives one target instead of an array', () => ({ key: 'a' }), 'targets'],
  ['gives a string', () => 'a', 'targets'],
  ['gives what is no target', () => [{ key: 'a' }, { tga: 'x' }], 'tga'],
  ['gives a hole', () => [, 'a'], 'target'], // eslint-disable-line no-sparse-arrays
  ['gives an empty key', () => [{ key: '' }], 'empty']
]) {
  test(`nothing is invalidated when one rule ${what}`, async t => {
    const cache = await holding(t, 'a', 'b')
    cache.onEvent('e', () => [{ key: 'b' }])
    cache.onEvent('e', rule)
    cache.onEvent('e', () => [{ all: true }])
    const error = await cache.dispatch({ type: 'e' }).then(() => assert.fail('it was dispatched'), error => error)
    await rejects(Promise.reject(error), 'EVENT', "type 'e'", needle)
    assert.equal(error.event, 'e')
    assert.ok(error.cause instanceof Error)
    assert.deepEqual([await cache.get('a'), await cache.get('b')], ['a', 'b'])
    assert.equal(cache.stats().invalidations, 0)
  })
}

test('nothing is invalidated before the last rule has answered', async t => {
  const cache = await holding(t, 'a')
  const slow = deferred()
  cache.onEvent('e', () => ['a'])
  cache.onEvent('e', () => slow.promise)
  const dispatched = cache.dispatch({ type: 'e' })
  assert.ok(await isPending(dispatched))
  assert.equal(await cache.get('a'), 'a')
  slow.resolve([])
  assert.deepEqual(await dispatched, ['a'])
  assert.equal(await cache.get('a'), undefined)
})

test('a rule that never answers ends the event with the hardTimeout of the cache', async t => {
  const cache = open(t, { hardTimeout: '20ms' })
  cache.onEvent('e', () => new Promise(() => {}))
  const error = await cache.dispatch({ type: 'e' }).then(() => assert.fail('it was dispatched'), error => error)
  assert.equal(error.code, 'ERR_KVCACHE_EVENT')
  assert.equal(error.cause.code, 'ERR_KVCACHE_TIMEOUT')
  assert.equal(error.cause.timeout, 20)
})

test('what is no event and no rule is refused', async t => {
  const cache = open(t)
  for (const event of [undefined, null, 'e', {}, { type: '' }, { type: 7 }]) {
    await rejects(cache.dispatch(event), 'INVALID_OPTION', 'event')
  }
  for (const type of ['', 7, undefined]) throws(() => cache.onEvent(type, () => []), 'INVALID_OPTION', 'type')
  throws(() => cache.onEvent('e', ['a']), 'INVALID_OPTION', 'targets')
})

test('a cache closed while the rules are asked refuses the event', async t => {
  const cache = open(t)
  cache.onEvent('e', async () => {
    await cache.close()
    return ['a']
  })
  await rejects(cache.dispatch({ type: 'e' }), 'CLOSED')
  await rejects(cache.dispatch({ type: 'e' }), 'CLOSED')
  throws(() => cache.onEvent('e', () => []), 'CLOSED')
})
