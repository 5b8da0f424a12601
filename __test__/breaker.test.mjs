// Guards the circuit breaker: consecutive failures of an origin open it, nothing is asked while it is open, one
// trial decides.

import { assert, EXPIRED, isError, KvCache, open, reasonOf, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { controlled, counted, settle, until } from './helpers/async.mjs'

const down = new Error('down')
const failing = () => Promise.reject(down)
let unique = 0
const key = () => `key${unique++}`

/** Fails as often as it takes to open the circuit. */
async function trip(cache, times, options) {
  for (let i = 0; i < times; i++) assert.equal(await reasonOf(cache.get(key(), failing, options)), down)
}

/** Waits until the next attempt that an open breaker announces is due. */
async function due(cache, origin) {
  const { nextAttempt } = cache.breaker(origin)
  await until(() => Date.now() > nextAttempt + 10)
}

test('it is closed at first, counts failures in a row and opens at the threshold', async t => {
  const cache = open(t, { breaker: { threshold: 3, timeout: '1h' } })
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 0 })
  await trip(cache, 2)
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 2 })
  await trip(cache, 1)
  const { state, failures, nextAttempt } = cache.breaker()
  assert.equal(state, 'open')
  assert.equal(failures, 3)
  assert.ok(Math.abs(nextAttempt - Date.now() - 3_600_000) < 30_000)
})

test('a success in between starts the count again', async t => {
  const cache = open(t, { breaker: { threshold: 3 } })
  for (let round = 0; round < 5; round++) {
    await trip(cache, 2)
    await cache.get(key(), () => 'up')
    assert.deepEqual(cache.breaker(), { state: 'closed', failures: 0 })
  }
})

test('while open nothing is fetched: the error says which origin, and when it will be tried again', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: '1h' } })
  await trip(cache, 1)
  const fetcher = counted()
  const error = await reasonOf(cache.get('k', fetcher))
  isError(error, 'CIRCUIT_OPEN', 'default')
  assert.equal(error.origin, 'default')
  assert.ok(Math.abs(error.nextAttempt - Date.now() - 3_600_000) < 30_000)
  // The monotonic clock is told as a date anew each time: a millisecond's rounding.
  assert.ok(Math.abs(error.nextAttempt - cache.breaker().nextAttempt) <= 2)
  assert.equal(fetcher.count, 0)
})

test('while open a value within staleIfError is answered, fresh and stale values as ever', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: '1h' } })
  await cache.put('fresh', 1)
  await cache.put('stale', 2, STALE)
  await cache.put('expired', 3, EXPIRED)
  await trip(cache, 1)
  const fetcher = counted()
  assert.equal((await cache.getWithMetadata('fresh', fetcher)).state, 'fresh')
  assert.equal((await cache.getWithMetadata('stale', fetcher)).state, 'stale')
  const entry = await cache.getWithMetadata('expired', fetcher)
  assert.equal(entry.value, 3)
  assert.equal(entry.state, 'stale-if-error')
  await cache.flush()
  assert.equal(fetcher.count, 0)
  assert.equal(cache.stats().queued, 0)
})

test('after its timeout exactly one load is the trial, under a hundred concurrent gets of other keys', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 30 } })
  await trip(cache, 1)
  await due(cache)
  const fetcher = controlled()
  const gets = Array.from({ length: 100 }, (_, i) => cache.get(`k${i}`, fetcher))
  const settled = Promise.allSettled(gets)
  const trial = await fetcher.call(0)
  await settle()
  assert.equal(fetcher.calls.length, 1)
  assert.equal(cache.breaker().state, 'half-open')
  trial.resolve('up')
  const outcomes = await settled
  assert.equal(outcomes.filter(({ value }) => value === 'up').length, 1)
  for (const { reason } of outcomes.filter(({ status }) => status === 'rejected')) isError(reason, 'CIRCUIT_OPEN')
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 0 })
  assert.equal(await cache.get('after', () => 'value'), 'value')
})

test('gets of the trial’s own key join it', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 10 } })
  await trip(cache, 1)
  await due(cache)
  const fetcher = controlled()
  const gets = Array.from({ length: 100 }, () => cache.get('k', fetcher))
  ;(await fetcher.call(0)).resolve('up')
  assert.deepEqual(new Set(await Promise.all(gets)), new Set(['up']))
  assert.equal(fetcher.calls.length, 1)
})

test('a trial that fails opens it again for the whole timeout', async t => {
  const cache = open(t, { breaker: { threshold: 2, timeout: 30 } })
  await trip(cache, 2)
  const first = cache.breaker().nextAttempt
  await until(() => Date.now() > first + 10)
  assert.equal(await reasonOf(cache.get('trial', failing)), down)
  const { state, nextAttempt } = cache.breaker()
  assert.ok(nextAttempt > first)
  assert.ok(state === 'open' || Date.now() >= nextAttempt)
})

test('a trial that hangs is ended by hardTimeout and counts as failed', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  await trip(cache, 1)
  await due(cache)
  await rejects(
    cache.get('trial', () => new Promise(() => {}), { hardTimeout: 20 }),
    'TIMEOUT'
  )
  assert.notEqual(cache.breaker().state, 'closed')
  await until(() =>
    cache
      .get('next', () => 'up')
      .then(
        value => value === 'up',
        () => false
      )
  )
  assert.equal(cache.breaker().state, 'closed')
})

test('a trial that is aborted decides nothing: the next load is the trial', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  await trip(cache, 1)
  await due(cache)
  const controller = new AbortController()
  const fetcher = controlled()
  const trial = cache.get('trial', fetcher, { signal: controller.signal })
  await fetcher.call(0)
  controller.abort('gone')
  assert.equal(await reasonOf(trial), 'gone')
  assert.notEqual(cache.breaker().state, 'closed')
  assert.equal(await until(() => cache.get('next', () => 'up').catch(() => false)), 'up')
  assert.equal(cache.breaker().state, 'closed')
})

test('a trial whose key is deleted meanwhile still decides', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  await trip(cache, 1)
  await due(cache)
  const fetcher = controlled()
  const trial = cache.get('trial', fetcher)
  const call = await fetcher.call(0)
  await cache.delete('trial')
  call.resolve('up')
  assert.equal(await trial, 'up')
  assert.equal(cache.breaker().state, 'closed')
})

test('a trial that answers undefined, or noStore(), is a success', async t => {
  for (const fetcher of [() => undefined, (_, context) => context.noStore()]) {
    const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
    await trip(cache, 1)
    await due(cache)
    await cache.get('trial', fetcher)
    assert.equal(cache.breaker().state, 'closed')
  }
})

test('a background refresh can be the trial', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  await cache.put('k', 'old', STALE)
  await trip(cache, 1)
  const fetcher = counted(() => 'new')
  await until(async () => (await cache.get('k', fetcher)) === 'new')
  assert.equal(fetcher.count, 1)
  assert.equal(cache.breaker().state, 'closed')
})

test('failures of background refreshes count, each attempt', async t => {
  const cache = open(t, { breaker: { threshold: 3, timeout: '1h' }, refresh: { retries: 1, backoff: 1 } })
  await cache.put('k', 'old', STALE)
  await cache.get('k', failing)
  await cache.flush()
  assert.equal(cache.breaker().failures, 2)
  await trip(cache, 1)
  assert.equal(cache.breaker().state, 'open')
})

test('a refresh whose retry is refused is over, and its event tells the failure', async t => {
  const cache = open(t, { breaker: { threshold: 3, timeout: '1h' }, refresh: { retries: 10, backoff: 1 } })
  const events = []
  cache.on('refresh', event => events.push(event))
  await cache.put('k', 'old', STALE)
  const fetcher = counted(failing)
  await cache.get('k', fetcher)
  await cache.flush()
  assert.equal(fetcher.count, 3)
  await until(() => events.length === 1)
  assert.ok(events[0].error instanceof Error)
  assert.equal(await cache.get('k'), 'old')
})

test('refreshes queued before it opened are not run while it is open', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: '1h' }, refresh: { concurrency: 1 } })
  const blocker = controlled()
  await cache.put('blocker', 'old', STALE)
  await cache.get('blocker', blocker)
  await blocker.call(0)
  const fetcher = counted()
  for (let i = 0; i < 5; i++) {
    await cache.put(`k${i}`, 'old', STALE)
    await cache.get(`k${i}`, fetcher)
  }
  await trip(cache, 1)
  blocker.calls[0].reject(down)
  await cache.flush()
  assert.equal(fetcher.count, 0)
  for (let i = 0; i < 5; i++) assert.equal(await cache.get(`k${i}`), 'old')
})

test('failure(error) says which errors count; one that does not is a sign of life', async t => {
  const seen = []
  const cache = open(t, {
    breaker: {
      threshold: 2,
      timeout: '1h',
      failure(error) {
        seen.push(error)
        return error.status !== 404
      }
    }
  })
  const notFound = Object.assign(new Error('not found'), { status: 404 })
  for (let i = 0; i < 10; i++) assert.equal(await reasonOf(cache.get(key(), () => Promise.reject(notFound))), notFound)
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 0 })
  await trip(cache, 1)
  await reasonOf(cache.get(key(), () => Promise.reject(notFound)))
  assert.equal(cache.breaker().failures, 0)
  await trip(cache, 2)
  assert.equal(cache.breaker().state, 'open')
  assert.ok(seen.includes(down) && seen.includes(notFound))
})

test('failure(error) is given whatever the fetcher rejected with, and time-outs', async t => {
  const seen = []
  const cache = open(t, { breaker: { threshold: 100, failure: error => seen.push(error) > 0 } })
  for (const reason of [undefined, null, 'text']) await cache.get(key(), () => Promise.reject(reason)).catch(() => {})
  assert.deepEqual(seen, [undefined, null, 'text'])
  await rejects(
    cache.get(key(), () => new Promise(() => {}), { hardTimeout: 5 }),
    'TIMEOUT'
  )
  isError(seen[3], 'TIMEOUT')
  assert.equal(cache.breaker().failures, 4)
})

test('a failure(error) that itself throws breaks nothing: callers get the fetcher’s error', async t => {
  const cache = open(t, {
    breaker: {
      threshold: 2,
      timeout: '1h',
      failure() {
        throw new Error('filter')
      }
    }
  })
  cache.on('error', () => {})
  await trip(cache, 1)
  await cache.put('k', 'old', STALE)
  assert.equal(await cache.get('k', failing), 'old')
  await cache.flush()
  assert.equal(await cache.get('k'), 'old')
  assert.equal(
    await cache.get(key(), () => 'up').catch(error => error.code),
    cache.breaker().state === 'open' ? 'ERR_KVCACHE_CIRCUIT_OPEN' : 'up'
  )
})

test('time-outs count as failures', async t => {
  const cache = open(t, { breaker: { threshold: 2, timeout: '1h' } })
  for (let i = 0; i < 2; i++)
    await rejects(
      cache.get(key(), () => new Promise(() => {}), { hardTimeout: 5 }),
      'TIMEOUT'
    )
  assert.equal(cache.breaker().state, 'open')
})

test('an aborted load counts as nothing, neither failure nor success', async t => {
  const cache = open(t, { breaker: { threshold: 3 } })
  await trip(cache, 2)
  const controller = new AbortController()
  const get = cache.get(
    key(),
    (_, { signal }) => new Promise((_, reject) => signal.addEventListener('abort', reject)),
    { signal: controller.signal }
  )
  await settle()
  controller.abort('gone')
  assert.equal(await reasonOf(get), 'gone')
  await settle()
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 2 })
})

test('one load that a thousand wait for is one failure', async t => {
  const cache = open(t, { breaker: { threshold: 10 } })
  await Promise.allSettled(Array.from({ length: 1000 }, () => cache.get('k', failing)))
  assert.equal(cache.breaker().failures, 1)
})

test('an answer from staleIfError is a failure of the origin all the same', async t => {
  const cache = open(t, { breaker: { threshold: 2, timeout: '1h' } })
  await cache.put('k', 'old', EXPIRED)
  assert.equal(await cache.get('k', failing), 'old')
  assert.equal(await cache.get('k', failing), 'old')
  assert.equal(cache.breaker().state, 'open')
  const fetcher = counted()
  assert.equal(await cache.get('k', fetcher), 'old')
  assert.equal(fetcher.count, 0)
})

test('each origin has its own: that of the define(), or the one named', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: '1h' } })
  cache.define('user:*', failing)
  cache.define('post:*', () => 'post')
  cache.define('news:*', failing, { origin: 'newsroom' })
  assert.equal(await reasonOf(cache.get('user:1')), down)
  assert.equal(await reasonOf(cache.get('news:1')), down)
  assert.equal(cache.breaker('user:*').state, 'open')
  assert.equal(cache.breaker('newsroom').state, 'open')
  for (const origin of ['post:*', 'news:*', 'default', 'never heard of']) {
    assert.deepEqual(cache.breaker(origin), { state: 'closed', failures: 0 }, origin)
  }
  assert.equal(await cache.get('post:1'), 'post')
  await rejects(cache.get('user:2'), 'CIRCUIT_OPEN', 'user:*')
  assert.equal((await reasonOf(cache.get('news:2'))).origin, 'newsroom')
  await trip(cache, 1, { origin: 'db' })
  await rejects(
    cache.get('k', () => 1, { origin: 'db' }),
    'CIRCUIT_OPEN',
    'db'
  )
  assert.equal(await cache.get('k', () => 1, { origin: 'db2' }), 1)
  assert.equal(await cache.get('k2', () => 1), 1)
})

test('hostile names of origins are names like others', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: '1h' } })
  for (const origin of ['__proto__', 'constructor', 'toString', '0', '😀', 'a "quoted"\n\\ name']) {
    assert.equal(cache.breaker(origin).state, 'closed')
    await trip(cache, 1, { origin })
    assert.equal(cache.breaker(origin).state, 'open')
  }
})

test('an origin that is no name is refused', async t => {
  const cache = open(t)
  for (const origin of [5, null, {}, '', true])
    await rejects(
      cache.get('k', () => 1, { origin }),
      'INVALID_OPTION',
      'origin'
    )
})

test('getMany counts as one call of its origin, and is refused while it is open', async t => {
  const cache = open(t, { breaker: { threshold: 2, timeout: '1h' } })
  await cache.put('here', 1)
  await cache.put('expired', 2, EXPIRED)
  await cache.getMany(['a', 'b', 'c'], failing)
  assert.equal(cache.breaker().failures, 1)
  await cache.getMany(['a', 'b', 'c'], failing)
  assert.equal(cache.breaker().state, 'open')
  const fetcher = counted(() => ({}))
  const found = await cache.getMany(['a', 'here', 'expired'], fetcher)
  assert.deepEqual(
    [...found],
    [
      ['here', 1],
      ['expired', 2]
    ]
  )
  assert.deepEqual([...found.errors.keys()], ['a'])
  isError(found.errors.get('a'), 'CIRCUIT_OPEN')
  assert.equal(fetcher.count, 0)
})

test('a getMany can be the trial, one for all its keys', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  await trip(cache, 1)
  await due(cache)
  const fetcher = controlled()
  const many = cache.getMany(['a', 'b', 'c'], fetcher)
  const call = await fetcher.call(0)
  assert.equal(cache.breaker().state, 'half-open')
  await rejects(
    cache.get('d', () => 1),
    'CIRCUIT_OPEN'
  )
  call.resolve({ a: 1, b: new Error('just b'), c: 3 })
  assert.deepEqual([...(await many).keys()], ['a', 'c'])
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 0 })
})

test('breaker: false switches it off', async t => {
  const cache = open(t, { breaker: false })
  await trip(cache, 50)
  assert.deepEqual(cache.breaker(), { state: 'closed', failures: 0 })
})

test('five failures open it unless told otherwise, for thirty seconds', async t => {
  const cache = open(t)
  await trip(cache, 4)
  assert.equal(cache.breaker().state, 'closed')
  await trip(cache, 1)
  assert.equal(cache.breaker().state, 'open')
  const wait = cache.breaker().nextAttempt - Date.now()
  assert.ok(wait > 20_000 && wait <= 30_100, String(wait))
})

test('each change of state is an event', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  const events = []
  cache.on('breaker', event => events.push(event))
  await trip(cache, 1, { origin: 'o' })
  await due(cache, 'o')
  await trip(cache, 1, { origin: 'o' })
  await until(() =>
    cache
      .get(key(), () => 'up', { origin: 'o' })
      .then(
        () => true,
        () => false
      )
  )
  await settle()
  assert.deepEqual(
    events.map(({ state }) => state),
    ['open', 'half-open', 'open', 'half-open', 'closed']
  )
  assert.ok(events.every(({ origin }) => origin === 'o'))
})

test('the time of the next attempt does not move once it is over', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: 20 } })
  await trip(cache, 1)
  const { nextAttempt } = cache.breaker()
  await until(() => Date.now() > nextAttempt + 30)
  assert.equal(cache.breaker().state, 'open')
  assert.ok(Math.abs(cache.breaker().nextAttempt - nextAttempt) <= 2)
})

test('the breaker options are checked when the cache is made', () => {
  const bads = [
    { threshold: 0 }, { threshold: -1 }, { threshold: 1.5 }, { threshold: '5' }, { threshold: NaN },
    { threshold: null }, { timeout: 0 }, { timeout: -1 }, { timeout: 'later' }, { timeout: null }, { failure: true },
    { failure: 'all' }, { failure: null }, { resetAfter: 5 }
  ]
  for (const breaker of bads) {
    const [[name]] = Object.entries(breaker)
    throws(() => new KvCache({ breaker }), 'INVALID_OPTION', 'breaker', name)
  }
  for (const breaker of [true, 5, 'x', null]) throws(() => new KvCache({ breaker }), 'INVALID_OPTION', 'breaker')
})
