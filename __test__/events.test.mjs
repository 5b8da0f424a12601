// Guards events: each carries what its type says, listeners come and go, and none that throws breaks the cache.

import { assert, isError, open, STALE, test, throws } from './helpers/kv.mjs'
import { settle, sleep, until } from './helpers/async.mjs'

test('on() and off() return the cache; a listener is called until it is taken off', async t => {
  const cache = open(t)
  const seen = []
  const listener = event => seen.push(event.key)
  assert.equal(cache.on('refresh', listener), cache)
  await cache.put('a', 1, STALE)
  await cache.get('a', () => 2)
  await cache.flush()
  await until(() => seen.length === 1)
  assert.equal(cache.off('refresh', listener), cache)
  await cache.put('b', 1, STALE)
  await cache.get('b', () => 2)
  await cache.flush()
  await settle()
  assert.deepEqual(seen, ['a'])
  assert.equal(
    cache.off('refresh', () => {}),
    cache,
    'taking off what is not on is nothing'
  )
})

test('several listeners are each called', async t => {
  const cache = open(t)
  const seen = []
  cache.on('refresh', () => seen.push(1)).on('refresh', () => seen.push(2))
  await cache.put('a', 1, STALE)
  await cache.get('a', () => 2)
  await cache.flush()
  await until(() => seen.length === 2)
  assert.deepEqual(seen, [1, 2])
})

test('a refresh event says which key, how long in milliseconds, and how it failed', async t => {
  const cache = open(t)
  const seen = []
  cache.on('refresh', event => seen.push(event))
  const error = new Error('down')
  await cache.put('good', 1, STALE)
  await cache.put('bad', 1, STALE)
  await cache.get('good', () => sleep(30).then(() => 2))
  await cache.flush()
  await cache.get('bad', () => Promise.reject(error))
  await cache.flush()
  await until(() => seen.length === 2)
  assert.equal(seen[0].key, 'good')
  assert.ok(seen[0].ms >= 28 && seen[0].ms < 20_000, String(seen[0].ms))
  assert.equal(seen[0].error, undefined)
  assert.equal(seen[1].key, 'bad')
  assert.equal(seen[1].error, error)
})

test('a batch refresh is an event for each of its keys', async t => {
  const cache = open(t)
  const seen = []
  cache.on('refresh', event => seen.push(event))
  await cache.putMany(
    [
      ['a', 1],
      ['b', 1]
    ],
    STALE
  )
  await cache.getMany(['a', 'b'], async () => ({ a: 2, b: new Error('just b') }))
  await cache.flush()
  await until(() => seen.length === 2)
  const error = Object.fromEntries(seen.map(event => [event.key, event.error?.message]))
  assert.deepEqual(error, { a: undefined, b: 'just b' })
})

test('a listener that throws breaks nothing: the error goes to the error event', async t => {
  const cache = open(t)
  const own = new Error('listener')
  const errors = []
  let second = 0
  cache.on('refresh', () => {
    throw own
  })
  cache.on('refresh', () => (second += 1))
  cache.on('error', error => errors.push(error))
  await cache.put('k', 'old', STALE)
  await cache.get('k', () => 'new')
  await cache.flush()
  await until(() => errors.length === 1)
  isError(errors[0], 'LISTENER')
  assert.equal(errors[0].cause, own)
  assert.equal(second, 1, 'the other listener is called all the same')
  assert.equal(await cache.get('k'), 'new')
  assert.ok(cache.stats().errors >= 1)
})

test('a listener of error that throws is swallowed', async t => {
  const cache = open(t)
  let called = 0
  cache.on('error', () => {
    called += 1
    throw new Error('again')
  })
  cache.on('refresh', () => {
    throw new Error('listener')
  })
  await cache.put('k', 'old', STALE)
  await cache.get('k', () => 'new')
  await cache.flush()
  await until(() => called > 0)
  await settle()
  assert.ok(called < 5, 'and is not called for its own error over and over')
  assert.equal(await cache.get('k'), 'new')
})

test('errors without a listener never throw', async t => {
  const cache = open(t, { memory: '64kb' })
  assert.equal((await cache.get('k', () => 'x'.repeat(70_000))).length, 70_000)
  await settle()
})

test('an error event is an Error with a code, and the key where there is one', async t => {
  const cache = open(t, { memory: '64kb' })
  const errors = []
  cache.on('error', error => errors.push(error))
  await cache.get('the:key', () => 'x'.repeat(70_000))
  await until(() => errors.length === 1)
  isError(errors[0], 'VALUE_TOO_LARGE')
  assert.equal(errors[0].key, 'the:key')
})

test('a listener may use the cache, and take itself off', async t => {
  const cache = open(t)
  const seen = []
  const listener = async ({ key }) => {
    cache.off('refresh', listener)
    seen.push(key, await cache.get(key), cache.stats().running)
    await cache.put('from listener', 1)
  }
  cache.on('refresh', listener)
  await cache.put('a', 'old', STALE)
  await cache.get('a', () => 'new')
  await cache.flush()
  await until(() => cache.peek('from listener') === 1)
  assert.equal(seen[0], 'a')
  assert.equal(seen[1], 'new')
})

test('what is no event or no listener is refused', t => {
  const cache = open(t)
  for (const event of ['nothing', '', 5, undefined, null, '__proto__', 'constructor', 'toString'])
    throws(() => cache.on(event, () => {}), 'INVALID_OPTION')
  for (const listener of [undefined, null, 5, 'x', {}])
    throws(() => cache.on('error', listener), 'INVALID_OPTION', 'listener')
})

test('evictions of many entries are told one by one, without holding anything up', async t => {
  const cache = open(t, { memory: '64kb' })
  let told = 0
  cache.on('evict', () => (told += 1))
  await cache.putMany(Array.from({ length: 10_000 }, (_, i) => [`k${i}`, i]))
  await until(() => told === cache.stats().evictions && told > 1000)
  assert.equal(told + cache.stats().entries, 10_000)
})
