// Guards ages and timeouts as options: their units, bounds and defaults, how layers merge, and that ages hold even
// in a loop that never yields to timers.

import { assert, open, rejects, test, throws, KvCache } from './helpers/kv.mjs'
import { counted, settle, sleep } from './helpers/async.mjs'

const GOOD = [
  [0, 0], [5, 5], [0.5, 0.5], [0.25, 0.25], [Infinity, Infinity], ['0s', 0], ['250ms', 0.25], ['1ms', 0.001],
  ['30s', 30], ['5m', 300], ['1h', 3600], ['7d', 604_800], ['1.5h', 5400], ['0.5s', 0.5], ['90m', 5400]
]
const BAD = [
  -1, -0.001, NaN, -Infinity, '', '5', 's', 'ms', '5 m', ' 5m', '5m ', '5M', '5S', '-1s', '+1s', '1e3s', '5w', '5y',
  '5sec', 'Infinity', 'forever', '1m30s', '٣s', '0x10s', '1,5h', '1.2.3s', 'NaNs', null, true, false, {}, [], [5], 5n,
  () => 5, new Date()
]

test('an age is a number of seconds, or a string with its unit', async t => {
  const cache = open(t)
  for (const [given, seconds] of GOOD) {
    await cache.put('k', 1, { maxAge: given, staleAge: Infinity })
    const entry = await cache.getWithMetadata('k')
    assert.equal(entry.maxAge, seconds, `maxAge: ${String(given)}`)
  }
})

test('staleAge and staleIfError take the same units', async t => {
  const cache = open(t)
  const now = () => Date.now() / 1000
  await cache.put('h', 1, { maxAge: 1, staleAge: '2h' })
  await cache.put('n', 1, { maxAge: '1s', staleAge: 90 })
  const [h, n] = (await cache.list()).keys
  assert.ok(Math.abs(h.expiration - now() - 7200) < 30)
  assert.ok(Math.abs(n.expiration - now() - 90) < 30)
})

for (const option of ['maxAge', 'staleAge', 'staleIfError']) {
  test(`a ${option} that is no age is refused, with the option, the value and what is allowed`, async t => {
    const cache = open(t)
    for (const bad of BAD) {
      throws(() => new KvCache({ [option]: bad }), 'INVALID_OPTION', option)
      await rejects(cache.put('k', 1, { [option]: bad }), 'INVALID_OPTION', option)
      await rejects(
        cache.get('k', () => 1, { [option]: bad }),
        'INVALID_OPTION',
        option
      )
    }
    await rejects(
      cache.put('k', 1, { [option]: '5 parsecs' }),
      'INVALID_OPTION',
      option,
      '5 parsecs',
      /second|'\d+s'|30s/
    )
    await rejects(cache.put('k', 1, { [option]: -7 }), 'INVALID_OPTION', option, '-7')
    assert.equal(cache.stats().entries, 0)
  })
}

for (const option of ['softTimeout', 'hardTimeout']) {
  test(`a ${option} is a positive number of milliseconds, Infinity, or a string with its unit`, async t => {
    const cache = open(t)
    const bads = [0, '0ms', '0s', ...BAD.filter(bad => bad !== -Infinity)]
    for (const bad of bads) {
      throws(() => new KvCache({ [option]: bad }), 'INVALID_OPTION', option)
      await rejects(
        cache.get('k', () => 1, { [option]: bad }),
        'INVALID_OPTION',
        option
      )
    }
    for (const good of [1, 0.5, 30_000, Infinity, '250ms', '30s', '5m', '1h', '1d', '1.5s']) {
      await new KvCache({ [option]: good }).close()
      await cache.get(`k${good}`, () => 1, { [option]: good })
    }
  })
}

test('a timeout or age beyond what 32 bits of milliseconds hold does not fire at once', async t => {
  const long = [
    2 ** 31, 2 ** 32, 2 ** 32 + 1, 1e12, 1e15, Number.MAX_SAFE_INTEGER, Number.MAX_VALUE, '30d', '9999d', Infinity
  ]
  const cache = open(t)
  const slow = async () => {
    await sleep(30)
    return 'done'
  }
  await Promise.all(
    long.map(async (hardTimeout, i) => {
      assert.equal(await cache.get(`hard${i}`, slow, { hardTimeout }), 'done')
      await cache.put(`soft${i}`, 'old', { maxAge: 0, staleAge: 0, staleIfError: 3600 })
      assert.equal(await cache.get(`soft${i}`, slow, { softTimeout: hardTimeout }), 'done')
      await cache.flush({ timeout: hardTimeout })
    })
  )
  for (const age of [
    2 ** 31, 2 ** 32, 1e12, 1e15, 1e17, Number.MAX_SAFE_INTEGER, Number.MAX_VALUE, '99999999999d', Infinity
  ]) {
    await cache.put('k', 1, { maxAge: age })
    assert.equal((await cache.getWithMetadata('k'))?.state, 'fresh', `maxAge: ${age}`)
    await cache.put('s', 1, { maxAge: 0, staleAge: age })
    assert.equal((await cache.getWithMetadata('s'))?.state, 'stale', `staleAge: ${age}`)
    await cache.list()
  }
  const closing = new KvCache({
    hardTimeout: 2 ** 33,
    breaker: { timeout: 2 ** 33 },
    refresh: { backoff: 2 ** 33, cooldown: 2 ** 33 }
  })
  await closing.close({ timeout: 2 ** 33 })
})

test('unless told otherwise a value is fresh for 300 s and stale for an hour', async t => {
  const cache = open(t)
  const now = Date.now() / 1000
  await cache.put('put', 1)
  await cache.get('got', () => 1)
  for (const key of ['put', 'got']) assert.equal((await cache.getWithMetadata(key)).maxAge, 300)
  for (const { expiration } of (await cache.list()).keys)
    assert.ok(expiration >= Math.floor(now + 3600) && expiration < now + 3630)
})

test('the default staleAge is never below maxAge', async t => {
  const cache = open(t)
  const now = Date.now() / 1000
  await cache.put('k', 1, { maxAge: '2h' })
  const [{ expiration }] = (await cache.list()).keys
  assert.ok(expiration >= Math.floor(now + 7200) && expiration < now + 7230)
})

test('a staleAge below a maxAge given with it is refused, in every layer', async t => {
  const cache = open(t)
  const bad = { maxAge: 10, staleAge: 5 }
  throws(() => new KvCache(bad), 'INVALID_OPTION', 'staleAge', 'maxAge')
  throws(() => new KvCache({ maxAge: Infinity, staleAge: 5 }), 'INVALID_OPTION', 'staleAge')
  throws(() => cache.define('x:*', () => 1, bad), 'INVALID_OPTION', 'staleAge')
  await rejects(cache.put('k', 1, bad), 'INVALID_OPTION', 'staleAge')
  await rejects(
    cache.get('k', () => 1, bad),
    'INVALID_OPTION',
    'staleAge'
  )
  await rejects(
    cache.getMany(['k'], () => ({ k: 1 }), bad),
    'INVALID_OPTION',
    'staleAge'
  )
  await rejects(cache.putMany([['k', 1, bad]]), 'INVALID_OPTION', 'staleAge')
  await rejects(cache.putMany([['k', 1]], bad), 'INVALID_OPTION', 'staleAge')
  await rejects(
    cache.get('k', (_, context) => context.set(bad)),
    'INVALID_OPTION',
    'staleAge'
  )
  assert.equal(cache.stats().entries, 0)
  await cache.put('k', 1, { maxAge: 10, staleAge: 10 })
})

test('where maxAge and staleAge come from different layers, staleAge is raised to maxAge', async t => {
  const expiresIn = async cache => (await cache.list()).keys[0].expiration - Date.now() / 1000
  const narrow = open(t, { maxAge: 5, staleAge: 10 })
  await narrow.put('k', 1, { maxAge: 1000 })
  assert.ok((await expiresIn(narrow)) > 900)
  const wide = open(t, { maxAge: 2000 })
  await wide.put('k', 1, { staleAge: 100 })
  assert.ok((await expiresIn(wide)) > 1900)
  assert.equal((await wide.getWithMetadata('k')).maxAge, 2000)
})

test('options given as undefined count as not given', async t => {
  const cache = open(t, {
    maxAge: undefined,
    staleAge: undefined,
    memory: undefined,
    refresh: undefined,
    breaker: undefined,
    jitter: undefined
  })
  await cache.get('k', () => 1, {
    maxAge: undefined,
    signal: undefined,
    softTimeout: undefined,
    metadata: undefined,
    origin: undefined
  })
  assert.equal((await cache.getWithMetadata('k')).maxAge, 300)
  await cache.put('k', 1, undefined)
  await new KvCache(undefined).close()
})

test('a jitter outside 0 to 1 is refused', async t => {
  const cache = open(t)
  for (const bad of [-0.1, 1.1, NaN, Infinity, '0.5', '', null, true, {}]) {
    throws(() => new KvCache({ jitter: bad }), 'INVALID_OPTION', 'jitter')
    await rejects(cache.put('k', 1, { jitter: bad }), 'INVALID_OPTION', 'jitter')
    await rejects(
      cache.get('k', () => 1, { jitter: bad }),
      'INVALID_OPTION',
      'jitter'
    )
  }
})

test('ages hold in a loop of microtasks that never yields to timers', async t => {
  const cache = open(t)
  await cache.put('stale', 'old', { maxAge: '30ms', staleAge: 3600 })
  await cache.put('gone', 'old', { maxAge: '10ms', staleAge: '40ms' })
  await cache.get('peeked', () => 'old', { maxAge: '10ms', staleAge: '40ms' })
  let timers = 0
  const timer = setInterval(() => (timers += 1), 1)
  t.after(() => clearInterval(timer))
  await settle()
  timers = 0
  const end = performance.now() + 10_000
  const seen = { stale: new Set(), gone: new Set(), peeked: new Set() }
  for (;;) {
    const { state } = await cache.getWithMetadata('stale')
    seen.stale.add(state)
    seen.gone.add(await cache.get('gone'))
    seen.peeked.add(cache.peek('peeked'))
    const done = seen.stale.has('stale') && seen.gone.has(undefined) && seen.peeked.has(undefined)
    if (done || performance.now() > end) break
  }
  assert.equal(timers, 0, 'the loop yielded, so this test shows nothing')
  assert.ok(seen.stale.has('stale'), 'the value became stale')
  assert.ok(seen.gone.has(undefined), 'the value expired')
  assert.ok(seen.peeked.has(undefined), 'for peek() too')
})

test('a stale value is refreshed in a loop of microtasks that never yields to timers', async t => {
  const cache = open(t)
  const fetcher = counted()
  await cache.put('k', 'old', { maxAge: '20ms', staleAge: 3600 })
  const end = performance.now() + 10_000
  let value
  do value = await cache.get('k', fetcher, { maxAge: 3600 })
  while (value === 'old' && performance.now() < end)
  assert.equal(value, 1)
  assert.equal(fetcher.count, 1)
})

test('a value expired for good is fetched anew in a loop of microtasks', async t => {
  const cache = open(t)
  const fetcher = counted()
  const end = performance.now() + 10_000
  let value
  do value = await cache.get('k', fetcher, { maxAge: '10ms', staleAge: '10ms', staleIfError: 0 })
  while (value < 5 && performance.now() < end)
  assert.equal(value, 5)
})
