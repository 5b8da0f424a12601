// Guards the background refresh queue: bounded, deduplicated, retried, resting after failure, drained by flush(),
// taken over by foreground loads, visible in stats().

import { assert, isError, KvCache, open, reasonOf, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { controlled, counted, isPending, settle, sleep, until } from './helpers/async.mjs'

/** Puts stale values under `names` and gets each, so that each wants a refresh. */
async function wantRefresh(cache, names, fetcher, options) {
  for (const name of names) await cache.put(name, 'old', STALE)
  for (const name of names) assert.equal(await cache.get(name, fetcher, options), 'old')
}

const names = (n, prefix = 'k') => Array.from({ length: n }, (_, i) => `${prefix}${i}`)

test('at most `concurrency` refreshes run at a time, the others wait their turn', async t => {
  const cache = open(t, { refresh: { concurrency: 2 } })
  const fetcher = controlled()
  await wantRefresh(cache, names(20), fetcher)
  await fetcher.call(1)
  await settle()
  assert.equal(fetcher.calls.length, 2)
  assert.equal(cache.stats().running, 2)
  assert.equal(cache.stats().queued, 18)
  for (let i = 0; i < 20; i++) {
    const call = await fetcher.call(i)
    await settle()
    assert.ok(fetcher.running() <= 2, `${fetcher.running()} run`)
    call.resolve('new')
  }
  await cache.flush()
  assert.equal(fetcher.calls.length, 20)
  for (const name of names(20)) assert.equal(await cache.get(name), 'new')
  const { running, queued, backgroundUpdates } = cache.stats()
  assert.deepEqual({ running, queued, backgroundUpdates }, { running: 0, queued: 0, backgroundUpdates: 20 })
})

test('refreshes run in the order in which they were wanted', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const fetcher = counted(() => 'new')
  await wantRefresh(cache, names(50), fetcher)
  await cache.flush()
  assert.deepEqual(fetcher.keys, names(50))
})

test('ten run at a time unless told otherwise', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await wantRefresh(cache, names(30), fetcher)
  await fetcher.call(9)
  await settle()
  assert.equal(fetcher.calls.length, 10)
})

test('a full queue drops the newest refresh and counts it', async t => {
  const cache = open(t, { refresh: { concurrency: 1, maxQueued: 2 } })
  const fetcher = controlled()
  await wantRefresh(cache, ['first'], fetcher)
  await fetcher.call(0)
  await wantRefresh(cache, names(10), fetcher)
  assert.equal(cache.stats().queued, 2)
  assert.equal(cache.stats().refreshesDropped, 8)
  for (let i = 0; i < 3; i++) (await fetcher.call(i)).resolve('new')
  await cache.flush()
  assert.deepEqual(
    fetcher.calls.map(({ key }) => key),
    ['first', 'k0', 'k1']
  )
  assert.equal(await cache.get('k9'), 'old', 'what was dropped is still served')
})

test('what was dropped is queued by the next get that finds room', async t => {
  const cache = open(t, { refresh: { concurrency: 1, maxQueued: 1 } })
  const fetcher = controlled()
  await wantRefresh(cache, ['running'], fetcher)
  await fetcher.call(0)
  await wantRefresh(cache, ['queued', 'dropped'], fetcher)
  fetcher.calls[0].resolve('new')
  ;(await fetcher.call(1)).resolve('new')
  await cache.flush()
  assert.equal(await cache.get('dropped', fetcher), 'old')
  ;(await fetcher.call(2)).resolve('new')
  await cache.flush()
  assert.equal(await cache.get('dropped'), 'new')
})

test('maxQueued 0 keeps none waiting, and refreshes that can run at once still run', async t => {
  let cache
  try {
    cache = open(t, { refresh: { concurrency: 1, maxQueued: 0 } })
  } catch (error) {
    isError(error, 'INVALID_OPTION', 'maxQueued')
    return
  }
  const fetcher = controlled()
  await wantRefresh(cache, ['a', 'b'], fetcher)
  ;(await fetcher.call(0)).resolve('new')
  await cache.flush()
  assert.equal(await cache.get('a'), 'new')
  assert.equal(await cache.get('b'), 'old')
})

test('a key is queued or running at most once, however often it is asked for', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const fetcher = controlled()
  await wantRefresh(cache, ['a', 'b'], fetcher)
  for (let i = 0; i < 200; i++) {
    await cache.get('a', fetcher)
    await cache.get('b', fetcher)
    await cache.getMany(['a', 'b'], () => ({}))
  }
  assert.equal(cache.stats().queued, 1)
  assert.equal(cache.stats().running, 1)
  ;(await fetcher.call(0)).resolve('new')
  ;(await fetcher.call(1)).resolve('new')
  await cache.flush()
  await settle()
  assert.equal(fetcher.calls.length, 2)
  assert.equal(cache.stats().refreshesDropped, 0)
})

test('a refresh that fails is tried again `retries` times, and only then is it over', async t => {
  const cache = open(t, { refresh: { retries: 3, backoff: 1 } })
  const events = []
  cache.on('refresh', event => events.push(event))
  const fetcher = counted(n => (n < 4 ? Promise.reject(new Error(`attempt ${n}`)) : 'new'))
  await wantRefresh(cache, ['k'], fetcher)
  await cache.flush()
  assert.equal(fetcher.count, 4)
  assert.equal(await cache.get('k'), 'new')
  const { errors, backgroundUpdates } = cache.stats()
  assert.deepEqual({ errors, backgroundUpdates }, { errors: 3, backgroundUpdates: 1 })
  assert.equal(events.length, 1)
  assert.equal(events[0].key, 'k')
  assert.equal(events[0].error, undefined)
})

test('a refresh whose retries are used up ends with its last error', async t => {
  const cache = open(t, { refresh: { retries: 2, backoff: 1 } })
  const events = []
  cache.on('refresh', event => events.push(event))
  const fetcher = counted(n => Promise.reject(new Error(`attempt ${n}`)))
  await wantRefresh(cache, ['k'], fetcher)
  await cache.flush()
  assert.equal(fetcher.count, 3)
  assert.equal(events.length, 1)
  assert.equal(events[0].error.message, 'attempt 3')
  assert.equal(cache.stats().errors, 3)
  assert.equal(cache.stats().backgroundUpdates, 0)
})

test('without retries a refresh is tried once', async t => {
  const cache = open(t, { refresh: { cooldown: '1h' } })
  const fetcher = counted(() => Promise.reject(new Error('down')))
  await wantRefresh(cache, ['k'], fetcher)
  await cache.flush()
  assert.equal(fetcher.count, 1)
})

test('foreground loads are not retried', async t => {
  const cache = open(t, { refresh: { retries: 5, backoff: 1 } })
  const fetcher = counted(() => Promise.reject(new Error('down')))
  await reasonOf(cache.get('k', fetcher))
  await settle()
  assert.equal(fetcher.count, 1)
})

test('a refresh that waits for its retry holds no place among the running', async t => {
  // A random wait between 0 and 10 minutes: shorter than this test in one of ten thousand runs.
  const cache = open(t, { refresh: { concurrency: 1, retries: 1, backoff: '10m' } })
  const failing = counted(() => Promise.reject(new Error('down')))
  await wantRefresh(cache, ['fails'], failing)
  await until(() => failing.count === 1)
  const fetcher = counted(() => 'new')
  await wantRefresh(cache, ['next'], fetcher)
  await until(() => cache.peek('next') === 'new')
  assert.equal(cache.stats().running, 0)
})

test('flush() waits for what waits for its retry; with a timeout it gives up and says so', async t => {
  const cache = open(t, { refresh: { retries: 1, backoff: '10m' } })
  const failing = counted(() => Promise.reject(new Error('down')))
  await wantRefresh(cache, ['fails'], failing)
  await until(() => failing.count === 1)
  await rejects(cache.flush({ timeout: 30 }), 'TIMEOUT')
})

test('a stale get of a key that waits for its retry queues no second refresh', async t => {
  const cache = open(t, { refresh: { retries: 1, backoff: '10m' } })
  const failing = counted(() => Promise.reject(new Error('down')))
  await wantRefresh(cache, ['k'], failing)
  await until(() => failing.count === 1)
  for (let i = 0; i < 20; i++) assert.equal(await cache.get('k', failing), 'old')
  await settle()
  assert.equal(failing.count, 1)
})

test('a forced load of a key that waits for its retry runs at once', async t => {
  const cache = open(t, { refresh: { retries: 1, backoff: '10m' } })
  const failing = counted(() => Promise.reject(new Error('down')))
  await wantRefresh(cache, ['k'], failing)
  await until(() => failing.count === 1)
  assert.equal(await cache.get('k', () => 'forced', { forceFresh: true }), 'forced')
  await cache.flush({ timeout: 5000 })
  assert.equal(await cache.get('k'), 'forced')
  assert.equal(failing.count, 1)
})

test('after a failed refresh a key rests: stale gets queue nothing, foreground loads are free', async t => {
  const cache = open(t, { refresh: { cooldown: '1h' } })
  const failing = counted(() => Promise.reject(new Error('down')))
  await wantRefresh(cache, ['k'], failing)
  await cache.flush()
  for (let i = 0; i < 50; i++) assert.equal(await cache.get('k', failing), 'old')
  await cache.getMany(['k'], failing)
  await cache.flush()
  assert.equal(failing.count, 1)
  await wantRefresh(
    cache,
    ['another'],
    counted(() => 'new')
  )
  await cache.flush()
  assert.equal(await cache.get('another'), 'new', 'other keys do not rest')
  assert.equal(await cache.get('k', () => 'forced', { forceFresh: true, ...STALE }), 'forced')
})

test('a success ends the rest', async t => {
  const cache = open(t, { refresh: { cooldown: '1h' } })
  await wantRefresh(cache, ['k'], () => Promise.reject(new Error('down')))
  await cache.flush()
  assert.equal(await cache.get('k', () => 'forced', { forceFresh: true, ...STALE }), 'forced')
  const fetcher = counted(() => 'refreshed')
  assert.equal(await cache.get('k', fetcher, STALE), 'forced')
  await cache.flush()
  assert.equal(fetcher.count, 1)
  assert.equal(await cache.get('k'), 'refreshed')
})

test('the rest is over after the cool-down, and doubles while the key keeps failing', async t => {
  const cache = open(t, { refresh: { cooldown: 40 } })
  const at = []
  const failing = counted(() => {
    at.push(performance.now())
    return Promise.reject(new Error('down'))
  })
  await cache.put('k', 'old', STALE)
  const end = performance.now() + 15_000
  while (at.length < 4 && performance.now() < end) {
    await cache.get('k', failing)
    await sleep(1)
  }
  assert.equal(at.length, 4)
  const rests = at.slice(1).map((time, i) => time - at[i])
  // Lower bounds only: how much later a busy machine comes to it says nothing. A millisecond or two for rounding.
  assert.ok(rests[0] >= 38 && rests[1] >= 78 && rests[2] >= 158, `rests: ${rests}`)
})

test('flush() waits for queued and running refreshes, and resolves at once where there are none', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  assert.equal(await cache.flush(), undefined)
  const fetcher = controlled()
  await wantRefresh(cache, ['a', 'b'], fetcher)
  const flushed = cache.flush()
  assert.ok(await isPending(flushed))
  ;(await fetcher.call(0)).resolve('new')
  assert.ok(await isPending(flushed))
  ;(await fetcher.call(1)).resolve('new')
  await flushed
  assert.deepEqual([cache.peek('a'), cache.peek('b')], ['new', 'new'])
})

test('flush() with a timeout leaves what runs running', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await wantRefresh(cache, ['k'], fetcher)
  const call = await fetcher.call(0)
  await rejects(cache.flush({ timeout: 10 }), 'TIMEOUT', '10')
  assert.equal(call.context.signal.aborted, false)
  call.resolve('new')
  await cache.flush({ timeout: '1h' })
  assert.equal(await cache.get('k'), 'new')
})

test('flush() does not wait for foreground loads', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const get = cache.get('k', fetcher)
  await fetcher.call(0)
  await cache.flush({ timeout: '1h' })
  fetcher.calls[0].resolve('value')
  assert.equal(await get, 'value')
})

test('flush() waits for a refresh that its own fetcher’s key queued behind', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  await cache.put('b', 'old', STALE)
  await wantRefresh(cache, ['a'], () => cache.get('b', () => 'new'))
  await cache.flush()
  assert.equal(cache.peek('b'), 'new')
})

test('flush() refuses what is no timeout', async t => {
  const cache = open(t)
  for (const timeout of [0, -1, NaN, 'soon', null, {}])
    await rejects(cache.flush({ timeout }), 'INVALID_OPTION', 'timeout')
  await rejects(cache.flush({ within: 5 }), 'INVALID_OPTION', 'within')
})

test('a foreground load takes over a refresh that is only queued: one fetch in all, not behind the queue', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const blocker = controlled()
  await wantRefresh(cache, ['blocker'], blocker)
  await blocker.call(0)
  const queued = counted(() => 'from the queue')
  await wantRefresh(cache, ['k'], queued)
  assert.equal(cache.stats().queued, 1)
  assert.equal(await cache.get('k', () => 'foreground', { forceFresh: true }), 'foreground')
  assert.equal(cache.stats().queued, 0)
  blocker.calls[0].resolve('new')
  await cache.flush()
  assert.equal(queued.count, 0)
  assert.equal(await cache.get('k'), 'foreground')
})

test('a write to a key whose refresh is only queued takes it out of the queue', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const blocker = controlled()
  await wantRefresh(cache, ['blocker'], blocker)
  await blocker.call(0)
  const fetcher = counted(() => 'refreshed')
  await wantRefresh(cache, ['put', 'deleted'], fetcher)
  await cache.put('put', 'put')
  await cache.delete('deleted')
  assert.equal(cache.stats().queued, 0)
  blocker.calls[0].resolve('new')
  await cache.flush()
  assert.equal(fetcher.count, 0)
  assert.deepEqual([cache.peek('put'), cache.peek('deleted')], ['put', undefined])
})

test('a stale value put while a refresh runs is refreshed by one of its own', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await wantRefresh(cache, ['k'], fetcher)
  await fetcher.call(0)
  await cache.put('k', 'put', STALE)
  assert.equal(await cache.get('k', fetcher), 'put')
  ;(await fetcher.call(1)).resolve('second')
  await until(() => cache.peek('k') === 'second')
  fetcher.calls[0].resolve('first')
  await cache.flush()
  assert.equal(cache.peek('k'), 'second')
})

test('a refresh that hangs holds up neither others nor foreground loads', async t => {
  const cache = open(t, { refresh: { concurrency: 2 } })
  await wantRefresh(cache, ['hangs'], () => new Promise(() => {}))
  await wantRefresh(cache, names(5), () => 'new')
  await until(() => names(5).every(name => cache.peek(name) === 'new'))
  assert.equal(await cache.get('other', () => 'value'), 'value')
})

test('a thousand refreshes through a queue of ten leave nothing behind', async t => {
  const cache = open(t)
  const fetcher = counted(n => (n % 3 ? sleep(n % 4).then(() => 'new') : Promise.reject(new Error('third'))))
  await wantRefresh(cache, names(1000), fetcher, { origin: 'o' + Math.random() })
  await cache.flush()
  const { queued, running } = cache.stats()
  assert.deepEqual({ queued, running }, { queued: 0, running: 0 })
})

test('a refresh is answered with undefined: nothing is stored, the stale value stays', async t => {
  const cache = open(t)
  await wantRefresh(cache, ['k'], () => undefined)
  await cache.flush()
  assert.equal(await cache.get('k'), 'old')
})

test('a refresh whose key is gone by the time it ends is stored only if nothing was written meanwhile', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await wantRefresh(cache, ['k'], fetcher)
  const call = await fetcher.call(0)
  await cache.delete('k')
  call.resolve('new')
  await cache.flush()
  assert.equal(await cache.get('k'), undefined)
})

test('a hundred keys of one getMany are one refresh', async t => {
  const cache = open(t, { refresh: { concurrency: 1, maxQueued: 1 } })
  const fetcher = controlled()
  for (const name of names(100)) await cache.put(name, 'old', STALE)
  const found = await cache.getMany(names(100), fetcher)
  assert.ok([...found.values()].every(value => value === 'old'))
  const call = await fetcher.call(0)
  assert.deepEqual(call.key, names(100))
  call.resolve(Object.fromEntries(names(100).map(name => [name, 'new'])))
  await cache.flush()
  assert.equal(fetcher.calls.length, 1)
  assert.equal(cache.stats().refreshesDropped, 0)
  for (const name of names(100)) assert.equal(cache.peek(name), 'new')
})

test('the refresh options are checked when the cache is made', () => {
  const bads = [
    { concurrency: 0 }, { concurrency: -1 }, { concurrency: 1.5 }, { concurrency: '2' }, { concurrency: NaN },
    { concurrency: null }, { maxQueued: -1 }, { maxQueued: 1.5 }, { maxQueued: '2' }, { maxQueued: NaN },
    { retries: -1 }, { retries: 0.5 }, { retries: '1' }, { backoff: -1 }, { backoff: 'later' }, { backoff: NaN },
    { cooldown: -1 }, { cooldown: 'later' }, { cooldown: null }, { threads: 4 }
  ]
  for (const refresh of bads) {
    const [[name]] = Object.entries(refresh)
    throws(() => new KvCache({ refresh }), 'INVALID_OPTION', 'refresh', name)
  }
  for (const refresh of [false, 5, 'x', null, []]) throws(() => new KvCache({ refresh }), 'INVALID_OPTION', 'refresh')
})
