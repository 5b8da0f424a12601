// Guards stale-while-revalidate: fresh below maxAge, old value at once and exactly one refresh below staleAge, a
// fetch while the caller waits beyond it, the old value when that fetch fails below staleIfError; and forceFresh
// and jitter on top of these.

import { assert, EXPIRED, open, reasonOf, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, isPending, settle, sleep, until } from './helpers/async.mjs'

test('a missing value is fetched while the caller waits, and is then fresh', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const first = cache.get('k', fetcher)
  assert.ok(await isPending(first))
  assert.equal(fetcher.calls.length, 1)
  fetcher.calls[0].resolve({ n: 1 })
  assert.deepEqual(await first, { n: 1 })
  assert.deepEqual(await cache.get('k', fetcher), { n: 1 })
  assert.equal((await cache.getWithMetadata('k', fetcher)).state, 'fresh')
  assert.equal(fetcher.calls.length, 1)
})

test('a stale value is answered at once while exactly one refresh runs, and the new one from then on', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', STALE)
  for (let i = 0; i < 100; i++) assert.equal(await cache.get('k', fetcher, { maxAge: 60 }), 'old')
  const crowd = await Promise.all(Array.from({ length: 1000 }, () => cache.get('k', fetcher, { maxAge: 60 })))
  assert.ok(crowd.every(value => value === 'old'))
  const call = await fetcher.call(0)
  assert.equal(call.context.reason, 'stale')
  call.resolve('new')
  await cache.flush()
  assert.equal(await cache.get('k', fetcher), 'new')
  assert.equal((await cache.getWithMetadata('k', fetcher)).state, 'fresh')
  assert.equal(fetcher.calls.length, 1)
})

test('a value past staleAge is not answered: the caller waits for the fetch', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const get = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  assert.equal(call.context.reason, 'expired')
  assert.ok(await isPending(get))
  call.resolve('new')
  assert.equal(await get, 'new')
})

test('a value goes from fresh to stale to expired as time passes', async t => {
  const cache = open(t)
  await cache.put('stale', 1, { maxAge: '30ms', staleAge: 3600 })
  await cache.put('gone', 1, { maxAge: '15ms', staleAge: '30ms', staleIfError: 0 })
  await cache.put('stays', 1, { maxAge: 3600 })
  await until(async () => (await cache.getWithMetadata('stale')).state === 'stale')
  await until(async () => (await cache.get('gone')) === undefined)
  assert.equal(await cache.has('gone'), false)
  assert.equal(cache.peek('gone'), undefined)
  assert.equal((await cache.getWithMetadata('stays')).state, 'fresh')
  assert.equal(await cache.get('stale'), 1)
})

test('a value is never stale before its maxAge is over', async t => {
  const cache = open(t)
  for (let i = 0; i < 5; i++) {
    const start = performance.now()
    await cache.put('k', i, { maxAge: '50ms', staleAge: 3600 })
    await until(async () => (await cache.getWithMetadata('k')).state === 'stale')
    // One millisecond for the rounding of the two clocks.
    assert.ok(performance.now() - start >= 49)
  }
})

test('without a fetcher a stale value is answered and nothing is refreshed', async t => {
  const cache = open(t)
  await cache.put('k', 'old', STALE)
  assert.equal(await cache.get('k'), 'old')
  const entry = await cache.getWithMetadata('k')
  assert.equal(entry.state, 'stale')
  await cache.flush()
  assert.equal(await cache.get('k'), 'old')
  const { queued, running, backgroundUpdates } = cache.stats()
  assert.deepEqual({ queued, running, backgroundUpdates }, { queued: 0, running: 0, backgroundUpdates: 0 })
})

test('without a fetcher a missing or expired value is undefined', async t => {
  const cache = open(t)
  assert.equal(await cache.get('k'), undefined)
  await cache.put('k', 'old', EXPIRED)
  assert.equal(await cache.get('k'), undefined)
  assert.equal(await cache.getWithMetadata('k'), undefined)
})

test('ages belong to an entry from the moment it is stored: options of a get change nothing that is there', async t => {
  const cache = open(t)
  const fetcher = counted()
  await cache.put('fresh', 'kept', { maxAge: 3600 })
  assert.equal(await cache.get('fresh', fetcher, { maxAge: 0, staleAge: 0, staleIfError: 0 }), 'kept')
  assert.equal((await cache.getWithMetadata('fresh')).state, 'fresh')
  await cache.put('expired', 'old', EXPIRED)
  assert.equal(await cache.get('expired', fetcher, { maxAge: 3600, staleAge: 7200 }), 1)
  await cache.put('stale', 'old', STALE)
  assert.equal(await cache.get('stale', fetcher, { maxAge: 3600 }), 'old')
  await cache.flush()
  assert.equal(await cache.get('stale', fetcher), 2)
  assert.equal((await cache.getWithMetadata('stale')).maxAge, 3600)
})

test('a refresh that succeeds is kept every time, not thrown away again and again', async t => {
  const cache = open(t)
  const fetcher = counted()
  await cache.put('k', 0, STALE)
  for (let i = 0; i < 50; i++) {
    assert.equal(await cache.get('k', fetcher, STALE), i)
    await cache.flush()
    assert.equal(fetcher.count, i + 1)
  }
  assert.equal(cache.stats().backgroundUpdates, 50)
})

test('a refresh that fails leaves the stale value, and is counted', async t => {
  const cache = open(t)
  await cache.put('k', 'old', STALE)
  const fetcher = counted(() => {
    throw new Error('origin down')
  })
  assert.equal(await cache.get('k', fetcher), 'old')
  await cache.flush()
  assert.equal(fetcher.count, 1)
  assert.equal(await cache.get('k'), 'old')
  assert.equal(cache.stats().errors, 1)
  assert.equal(cache.stats().backgroundUpdates, 0)
})

test('a value that is only ever answered stale still ends at its staleAge', async t => {
  const cache = open(t, { refresh: { cooldown: 1 }, breaker: false })
  const fetcher = counted(() => {
    throw new Error('origin down')
  })
  await cache.put('k', 'old', { maxAge: 0, staleAge: '80ms', staleIfError: 0 })
  await until(async () => {
    try {
      assert.equal(await cache.get('k', fetcher), 'old')
      return false
    } catch (error) {
      return error.message === 'origin down'
    }
  })
  await until(() => cache.stats().entries === 0)
})

test('when the fetcher fails, a value within staleIfError is answered, whoever waits', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const waiting = [cache.get('k', fetcher), cache.getWithMetadata('k', fetcher), cache.getWithMetadata('k', fetcher)]
  ;(await fetcher.call(0)).reject(new Error('origin down'))
  const [value, ...entries] = await Promise.all(waiting)
  assert.equal(value, 'old')
  for (const entry of entries) {
    assert.equal(entry.value, 'old')
    assert.equal(entry.state, 'stale-if-error')
  }
  assert.equal(fetcher.calls.length, 1)
  assert.equal(cache.stats().errors, 1)
})

test('a value answered because of an error grows no younger', async t => {
  const cache = open(t, { breaker: false })
  const failing = counted(() => Promise.reject(new Error('origin down')))
  await cache.put('k', 'old', { maxAge: 0, staleAge: 0, staleIfError: '120ms' })
  await until(async () => {
    try {
      assert.equal(await cache.get('k', failing), 'old')
      return false
    } catch {
      return true
    }
  }, 'the value is past staleIfError')
  assert.ok(failing.count > 0)
})

test('past staleIfError the fetcher’s own error is what the caller gets', async t => {
  const cache = open(t)
  const error = new Error('origin down')
  await cache.put('k', 'old', { maxAge: 0, staleAge: 0, staleIfError: '10ms' })
  await sleep(30)
  assert.equal(await reasonOf(cache.get('k', () => Promise.reject(error))), error)
})

test('staleIfError is staleAge unless given', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { maxAge: 0, staleAge: '20ms' })
  await until(async () => (await cache.get('k')) === undefined)
  const error = new Error('origin down')
  assert.equal(await reasonOf(cache.get('k', () => Promise.reject(error))), error)
})

test('staleIfError below staleAge ends nothing: a stale value is still answered', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { maxAge: 0, staleAge: 3600, staleIfError: 0 })
  assert.equal(await cache.get('k', counted()), 'old')
})

test('a get with an own staleIfError does not widen that of an entry stored with another', async t => {
  const cache = open(t)
  const error = new Error('origin down')
  await cache.put('k', 'old', { maxAge: 0, staleAge: '1ms', staleIfError: 0 })
  await sleep(10)
  assert.equal(await reasonOf(cache.get('k', () => Promise.reject(error), { staleIfError: 3600 })), error)
})

test('staleIfError 0 lets no value stand in for a failed load, be it fresh or stale', async t => {
  const cache = open(t)
  const error = new Error('origin down')
  for (const ages of [{ maxAge: 3600 }, { maxAge: 0, staleAge: 3600 }]) {
    await cache.put('k', 'old', { ...ages, staleIfError: 0 })
    assert.equal(await reasonOf(cache.get('k', () => Promise.reject(error), { forceFresh: true })), error)
    assert.equal(await cache.get('k'), 'old', 'the value itself is as good as it was')
  }
})

test('forceFresh skips a fresh value, loads, and stores what it loaded', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { maxAge: 3600 })
  const fetcher = controlled()
  const forced = cache.getWithMetadata('k', fetcher, { forceFresh: true })
  const call = await fetcher.call(0)
  assert.equal(call.context.reason, 'forced')
  assert.equal(await cache.get('k'), 'old', 'others are answered as ever')
  call.resolve('new')
  const entry = await forced
  assert.equal(entry.value, 'new')
  assert.equal(entry.state, 'loaded')
  assert.equal(await cache.get('k'), 'new')
})

test('forceFresh joins a load of its key that is already running', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = [cache.get('k', fetcher)]
  for (let i = 0; i < 50; i++) gets.push(cache.get('k', fetcher, { forceFresh: true }))
  ;(await fetcher.call(0)).resolve('one')
  assert.deepEqual(new Set(await Promise.all(gets)), new Set(['one']))
  await settle()
  assert.equal(fetcher.calls.length, 1)
})

test('forceFresh joins a refresh that is already running', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', STALE)
  assert.equal(await cache.get('k', fetcher), 'old')
  const call = await fetcher.call(0)
  const forced = cache.get('k', fetcher, { forceFresh: true })
  assert.ok(await isPending(forced))
  assert.equal(fetcher.calls.length, 1)
  call.resolve('new')
  assert.equal(await forced, 'new')
  assert.equal(await cache.get('k'), 'new')
  await cache.flush()
})

test('one forceFresh after another loads each time', async t => {
  const cache = open(t)
  const fetcher = counted()
  for (let i = 1; i <= 20; i++) assert.equal(await cache.get('k', fetcher, { forceFresh: true }), i)
  assert.equal(await cache.get('k'), 20)
})

test('when a forced load fails, the value in hand stands in, fresh though it is', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { maxAge: 3600 })
  const entry = await cache.getWithMetadata('k', () => Promise.reject(new Error('down')), { forceFresh: true })
  assert.equal(entry.value, 'old')
  assert.equal(entry.state, 'stale-if-error')
  assert.equal(await cache.get('k'), 'old')
})

test('jitter shortens maxAge by a random share, each entry by its own', async t => {
  const cache = open(t)
  const ages = []
  for (let i = 0; i < 300; i++) {
    await cache.put(`k${i}`, i, { maxAge: 1000, jitter: 0.5 })
    ages.push((await cache.getWithMetadata(`k${i}`)).maxAge)
  }
  assert.ok(
    ages.every(age => age >= 500 && age <= 1000),
    `outside [500, 1000]: ${ages}`
  )
  assert.ok(new Set(ages).size > 100, 'the ages differ')
  assert.ok(Math.min(...ages) < 600 && Math.max(...ages) > 900, 'the ages fill the range')
})

test('jitter applies to loads and refreshes too, from the cache’s options and from the call’s', async t => {
  const cache = open(t, { jitter: 0.5, maxAge: 1000 })
  const maxAge = async (key, options) => (await cache.getWithMetadata(key, () => 1, options)).maxAge
  const ages = await Promise.all(Array.from({ length: 50 }, (_, i) => maxAge(`cache${i}`)))
  assert.ok(ages.every(age => age >= 500 && age <= 1000))
  assert.ok(new Set(ages).size > 10)
  const plain = await Promise.all(Array.from({ length: 20 }, (_, i) => maxAge(`none${i}`, { jitter: 0 })))
  assert.deepEqual(new Set(plain), new Set([1000]))
  const whole = await Promise.all(Array.from({ length: 50 }, (_, i) => maxAge(`whole${i}`, { jitter: 1 })))
  assert.ok(whole.every(age => age >= 0 && age <= 1000))
  assert.ok(Math.min(...whole) < 400)
})

test('jitter leaves staleAge as it is, and Infinity infinite', async t => {
  const cache = open(t)
  const before = Math.floor(Date.now() / 1000)
  for (let i = 0; i < 50; i++) await cache.put(`k${i}`, i, { maxAge: 1000, staleAge: 2000, jitter: 1 })
  for (const { expiration } of (await cache.list()).keys)
    assert.ok(expiration >= before + 1999, `${expiration - before}`)
  for (let i = 0; i < 20; i++) {
    await cache.put('ever', 1, { maxAge: Infinity, jitter: 1 })
    assert.equal((await cache.getWithMetadata('ever')).maxAge, Infinity)
  }
})
