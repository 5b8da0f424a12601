// Guards softTimeout (a slow fetcher is left running and an old value answered) and hardTimeout (the load fails,
// its signal fires, the key is free again): nothing hangs, whatever a fetcher does.

import { assert, EXPIRED, KvCacheError, open, rejects, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, isPending, settle, until } from './helpers/async.mjs'

const never = () => new Promise(() => {})

test('after softTimeout a value within staleIfError is answered, and the fetcher is left running', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const entry = await cache.getWithMetadata('k', fetcher, { softTimeout: 20, maxAge: 60 })
  assert.equal(entry.value, 'old')
  assert.equal(entry.state, 'stale-if-error')
  const [{ context, resolve }] = fetcher.calls
  assert.equal(context.signal.aborted, false)
  resolve('new')
  await until(async () => (await cache.get('k')) === 'new', 'the late result is stored')
  assert.equal(context.signal.aborted, false)
  assert.equal((await cache.getWithMetadata('k')).state, 'fresh')
})

test('softTimeout without a value in hand waits on', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const get = cache.get('k', fetcher, { softTimeout: 1 })
  const call = await fetcher.call(0)
  await new Promise(resolve => setTimeout(resolve, 40))
  assert.ok(await isPending(get))
  call.resolve('late')
  assert.equal(await get, 'late')
})

test('softTimeout is each caller’s own: one is answered, another waits on for the same load', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const patient = cache.getWithMetadata('k', fetcher)
  const hasty = cache.getWithMetadata('k', fetcher, { softTimeout: 10 })
  assert.equal((await hasty).value, 'old')
  assert.ok(await isPending(patient))
  assert.equal(fetcher.calls.length, 1)
  fetcher.calls[0].resolve('new')
  const entry = await patient
  assert.equal(entry.value, 'new')
  assert.equal(entry.state, 'loaded')
})

test('a caller that comes after a softTimeout joins the load left running', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  assert.equal(await cache.get('k', fetcher, { softTimeout: 5 }), 'old')
  const next = cache.get('k', fetcher)
  await settle()
  assert.equal(fetcher.calls.length, 1)
  fetcher.calls[0].resolve('new')
  assert.equal(await next, 'new')
})

test('a load that fails before its softTimeout is answered from staleIfError at once', async t => {
  const cache = open(t)
  await cache.put('k', 'old', EXPIRED)
  const get = cache.get('k', () => Promise.reject(new Error('down')), { softTimeout: '1h' })
  assert.equal(await get, 'old')
})

test('a load left running by softTimeout may fail later without harm', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  assert.equal(await cache.get('k', fetcher, { softTimeout: 5 }), 'old')
  fetcher.calls[0].reject(new Error('late failure'))
  await until(() => cache.stats().errors === 1)
  assert.equal(await cache.get('k', counted()), 1)
})

test('softTimeout does not hold a stale answer back', async t => {
  const cache = open(t)
  await cache.put('k', 'old', STALE)
  const entry = await cache.getWithMetadata('k', never, { softTimeout: '1h', hardTimeout: 50 })
  assert.equal(entry.state, 'stale')
})

test('a forced load that is slow is stood in for by the fresh value in hand', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', { maxAge: 3600 })
  assert.equal(await cache.get('k', fetcher, { forceFresh: true, softTimeout: 5 }), 'old')
  fetcher.calls[0].resolve('new')
  await until(async () => (await cache.get('k')) === 'new')
})

test('after hardTimeout the load fails, the fetcher’s signal fires and the key is free', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = [cache.get('k', fetcher, { hardTimeout: 30 }), cache.get('k', fetcher), cache.get('k', fetcher)]
  const settled = await Promise.allSettled(gets)
  for (const { reason } of settled) {
    assert.ok(reason instanceof KvCacheError)
    assert.equal(reason.code, 'ERR_KVCACHE_TIMEOUT')
    assert.match(reason.message, /30/)
    assert.match(reason.message, /"?k"?/)
  }
  const [first] = fetcher.calls
  assert.equal(fetcher.calls.length, 1)
  assert.equal(first.context.signal.aborted, true)
  const second = cache.get('k', fetcher)
  ;(await fetcher.call(1)).resolve('second')
  assert.equal(await second, 'second')
  first.resolve('too late')
  await settle()
  assert.equal(await cache.get('k'), 'second')
})

test('what a timed-out fetcher brings later is not stored', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await rejects(cache.get('k', fetcher, { hardTimeout: 10 }), 'TIMEOUT')
  fetcher.calls[0].resolve('too late')
  await settle()
  assert.equal(await cache.get('k'), undefined)
})

test('a timed-out fetcher that rejects later does no harm', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await rejects(cache.get('k', fetcher, { hardTimeout: 10 }), 'TIMEOUT')
  fetcher.calls[0].reject(new Error('late'))
  await settle()
  assert.equal(await cache.get('k', counted()), 1)
})

test('a value within staleIfError stands in for a load that timed out', async t => {
  const cache = open(t)
  await cache.put('k', 'old', EXPIRED)
  const entry = await cache.getWithMetadata('k', never, { hardTimeout: 10 })
  assert.equal(entry.value, 'old')
  assert.equal(entry.state, 'stale-if-error')
  assert.equal(cache.stats().errors, 1)
})

test('hardTimeout belongs to the load: a caller that joins with a shorter one does not end it', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const first = cache.get('k', fetcher, { hardTimeout: Infinity })
  await fetcher.call(0)
  const joined = cache.get('k', fetcher, { hardTimeout: 10 })
  await new Promise(resolve => setTimeout(resolve, 60))
  assert.ok(await isPending(joined))
  assert.equal(fetcher.calls[0].context.signal.aborted, false)
  fetcher.calls[0].resolve('value')
  assert.deepEqual(await Promise.all([first, joined]), ['value', 'value'])
})

test('a refresh that hangs is ended by hardTimeout, and its place in the queue is free', async t => {
  const cache = open(t, { refresh: { concurrency: 1 }, hardTimeout: 30 })
  const hanging = controlled()
  const next = counted(() => 'new')
  await cache.put('hangs', 'old', STALE)
  await cache.put('next', 'old', STALE)
  assert.equal(await cache.get('hangs', hanging), 'old')
  assert.equal(await cache.get('next', next), 'old')
  await cache.flush()
  assert.equal(hanging.calls[0].context.signal.aborted, true)
  assert.equal(await cache.get('next'), 'new')
  assert.equal(await cache.get('hangs'), 'old')
  const { running, queued, errors } = cache.stats()
  assert.deepEqual({ running, queued, errors }, { running: 0, queued: 0, errors: 1 })
})

test('getMany ends by hardTimeout too, with that error for each missing key', async t => {
  const cache = open(t)
  await cache.put('here', 1)
  await cache.put('old', 'old', EXPIRED)
  let signal
  const hang = (missing, context) => {
    signal = context.signal
    return never()
  }
  const result = await cache.getMany(['a', 'here', 'b', 'old'], hang, { hardTimeout: 20 })
  assert.deepEqual(
    [...result],
    [
      ['here', 1],
      ['old', 'old']
    ]
  )
  assert.deepEqual([...result.errors.keys()].sort(), ['a', 'b'])
  for (const error of result.errors.values()) assert.equal(error.code, 'ERR_KVCACHE_TIMEOUT')
  assert.equal(signal.aborted, true)
  assert.equal(await cache.get('a', counted()), 1)
})

test('the fetcher’s signal does not fire after a load that went well', async t => {
  const cache = open(t, { hardTimeout: 20 })
  const signals = []
  await cache.get('k', (_, context) => {
    signals.push(context.signal)
    return 1
  })
  await new Promise(resolve => setTimeout(resolve, 60))
  assert.equal(signals[0].aborted, false)
})

test('a fetcher that heeds its signal and rejects with its reason ends as the time-out it is', async t => {
  const cache = open(t)
  const heeding = (_, { signal }) =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  await rejects(cache.get('k', heeding, { hardTimeout: 15 }), 'TIMEOUT')
})

test('both timeouts may be the cache’s or a define()’s', async t => {
  const cache = open(t, { softTimeout: 15, hardTimeout: 40 })
  cache.define('d:*', never, { hardTimeout: 15 })
  await cache.put('k', 'old', EXPIRED)
  assert.equal(await cache.get('k', never), 'old')
  await rejects(cache.get('missing', never), 'TIMEOUT', '40')
  await rejects(cache.get('d:1'), 'TIMEOUT', '15')
})

test('a fetcher that blocks the thread beyond its hardTimeout ends in a value or a time-out, and the key is free', async t => {
  const cache = open(t, { breaker: false })
  const block = ms => {
    const end = performance.now() + ms
    while (performance.now() < end);
  }
  const fetchers = {
    sync: () => {
      block(60)
      return 'value'
    },
    async: async () => {
      await null
      block(60)
      return 'value'
    },
    later: () => new Promise(resolve => setTimeout(() => resolve(block(60) ?? 'value'), 1))
  }
  for (const [key, fetcher] of Object.entries(fetchers)) {
    const outcome = await cache.get(key, fetcher, { hardTimeout: 20 }).catch(error => error.code)
    assert.match(outcome, /^(value|ERR_KVCACHE_TIMEOUT)$/, key)
    assert.equal(await cache.get(key, () => 'free', { forceFresh: true }), 'free')
    assert.equal(await cache.get(key), 'free')
  }
})

test('a thousand loads with a thousand timeouts each end by their own', async t => {
  const cache = open(t, { breaker: false })
  const gets = Array.from({ length: 1000 }, (_, i) => cache.get(`k${i}`, never, { hardTimeout: 1 + (i % 50) }))
  const settled = await Promise.allSettled(gets)
  assert.ok(settled.every(({ reason }) => reason?.code === 'ERR_KVCACHE_TIMEOUT'))
  assert.equal(cache.stats().errors, 1000)
})
