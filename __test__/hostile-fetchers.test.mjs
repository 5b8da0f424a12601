// Guards I5 against the fetcher itself: however it fails, whatever it returns, each get ends in a value or an error
// and the key is free again; its own error reaches the callers as the same thing; nothing becomes an unhandled
// rejection.

import { assert, EXPIRED, isError, open, reasonOf, rejects, STALE, test } from './helpers/kv.mjs'
import { settle } from './helpers/async.mjs'
import { run } from './helpers/child.mjs'

const { proxy: revoked, revoke } = Proxy.revocable({}, {})
revoke()

const REASONS = [
  new Error('plain'),
  new TypeError('typed'),
  Object.freeze(new Error('frozen')),
  Object.freeze({ frozen: true }),
  Object.create(null),
  undefined,
  null,
  0,
  '',
  'a string',
  Symbol('s'),
  1n,
  () => 'a function',
  new Proxy(
    {},
    {
      get() {
        throw new Error('trap get')
      },
      getPrototypeOf() {
        throw new Error('trap getPrototypeOf')
      },
      has() {
        throw new Error('trap has')
      },
      ownKeys() {
        throw new Error('trap ownKeys')
      }
    }
  ),
  revoked,
  ['stack', 'message', 'name', 'code', 'cause', 'then'].reduce(
    (error, name) =>
      Object.defineProperty(error, name, {
        get() {
          throw new Error('getter')
        }
      }),
    new Error()
  ),
  { code: 'ERR_KVCACHE_TIMEOUT' },
  new AggregateError([new Error('a')], 'many')
]

const WAYS = {
  'throws synchronously': reason => () => {
    throw reason
  },
  'is async and throws': reason => async () => {
    throw reason
  },
  'returns a rejected promise': reason => () => Promise.reject(reason),
  'rejects later': reason => () => new Promise((_, reject) => setTimeout(reject, 2, reason)),
  'returns a thenable that rejects at once': reason => () => ({ then: (_, reject) => reject(reason) }),
  'returns a thenable that throws': reason => () => ({
    then() {
      throw reason
    }
  }),
  'returns an object whose then is a throwing getter': reason => () => ({
    get then() {
      throw reason
    }
  })
}

for (const [way, make] of Object.entries(WAYS)) {
  test(`a fetcher that ${way}: its callers get the very reason, and the key is free`, async t => {
    const cache = open(t, { breaker: false })
    for (const [i, reason] of REASONS.entries()) {
      const key = `k${i}`
      const gets = [
        cache.get(key, make(reason)),
        cache.getWithMetadata(key, make(reason)),
        cache.get(key, make(reason))
      ]
      for (const { status, reason: got } of await Promise.allSettled(gets)) {
        assert.equal(status, 'rejected')
        assert.ok(Object.is(got, reason), `reason ${i}`)
      }
      assert.equal(await cache.get(key, () => 'free'), 'free')
    }
  })

  test(`a fetcher that ${way}, in the background: the stale value stays, nothing is unhandled`, async t => {
    const cache = open(t, { refresh: { retries: 1, backoff: 1, cooldown: 1 }, breaker: false })
    let events = 0
    cache.on('refresh', () => (events += 1))
    for (const [i, reason] of REASONS.entries()) {
      await cache.put(`k${i}`, 'old', STALE)
      assert.equal(await cache.get(`k${i}`, make(reason)), 'old')
    }
    await cache.flush()
    for (const i of REASONS.keys()) assert.equal(await cache.get(`k${i}`), 'old')
    assert.equal(events, REASONS.length)
    assert.equal(cache.stats().errors, 2 * REASONS.length)
    assert.equal(cache.stats().running, 0)
  })

  test(`a fetcher that ${way}: an old value stands in, and a breaker counts it`, async t => {
    const cache = open(t, { breaker: { threshold: 1000 } })
    for (const [i, reason] of REASONS.entries()) {
      await cache.put(`k${i}`, 'old', EXPIRED)
      assert.equal(await cache.get(`k${i}`, make(reason)), 'old')
    }
    assert.equal(cache.breaker().failures, REASONS.length)
  })

  test(`a batch fetcher that ${way}: each missing key has the reason`, async t => {
    const cache = open(t, { breaker: false })
    for (const [i, reason] of REASONS.entries()) {
      const found = await cache.getMany([`a${i}`, `b${i}`], make(reason))
      assert.equal(found.size, 0)
      assert.deepEqual([...found.errors.keys()], [`a${i}`, `b${i}`])
      for (const error of found.errors.values()) assert.ok(Object.is(error, reason), `reason ${i}`)
      assert.equal(await cache.get(`a${i}`, () => 'free'), 'free')
    }
  })
}

const THENABLES = {
  'resolves synchronously': () => ({ then: resolve => resolve('value') }),
  'resolves later': () => ({ then: resolve => setTimeout(resolve, 2, 'value') }),
  'resolves twice': () => ({
    then(resolve) {
      resolve('value')
      resolve('other')
    }
  }),
  'resolves and then rejects': () => ({
    then(resolve, reject) {
      resolve('value')
      reject(new Error('too late'))
    }
  }),
  'resolves and then throws': () => ({
    then(resolve) {
      resolve('value')
      throw new Error('too late')
    }
  }),
  'resolves twice, later': () => ({
    then(resolve) {
      setTimeout(resolve, 1, 'value')
      setTimeout(resolve, 3, 'other')
    }
  }),
  'resolves with a promise': () => ({ then: resolve => resolve(Promise.resolve('value')) }),
  'resolves with another thenable': () => ({ then: resolve => resolve({ then: again => again('value') }) }),
  'is a function': () => Object.assign(() => {}, { then: resolve => resolve('value') }),
  'is a subclass of Promise': () => class extends Promise {}.resolve('value'),
  'has then on its prototype': () => Object.create({ then: resolve => resolve('value') })
}

for (const [kind, make] of Object.entries(THENABLES)) {
  test(`a thenable that ${kind} is waited for`, async t => {
    const cache = open(t)
    const gets = [cache.get('k', make), cache.get('k', make)]
    assert.deepEqual(await Promise.all(gets), ['value', 'value'])
    assert.equal(await cache.get('k'), 'value')
    await cache.put('s', 'old', STALE)
    await cache.get('s', make)
    await cache.flush()
    assert.equal(await cache.get('s'), 'value')
    await settle()
  })
}

test('a thenable that rejects twice, or rejects and then resolves, has rejected', async t => {
  const cache = open(t)
  const error = new Error('first')
  assert.equal(
    await reasonOf(
      cache.get('a', () => ({
        then(_, reject) {
          reject(error)
          reject(new Error('second'))
        }
      }))
    ),
    error
  )
  assert.equal(
    await reasonOf(
      cache.get('b', () => ({
        then(resolve, reject) {
          reject(error)
          resolve('value')
        }
      }))
    ),
    error
  )
  assert.equal(await cache.get('b'), undefined)
})

test('a thenable that never settles is ended by hardTimeout', async t => {
  const cache = open(t)
  await rejects(
    cache.get('k', () => ({ then() {} }), { hardTimeout: 10 }),
    'TIMEOUT'
  )
  assert.equal(await cache.get('k', () => 'free'), 'free')
})

test('a fetcher may return its value without a promise', async t => {
  const cache = open(t)
  for (const value of ['text', 0, null, false, '', [], { a: 1 }]) {
    assert.deepEqual(await cache.get('k', () => value, { forceFresh: true }), value)
    assert.deepEqual(await cache.get('k'), value)
  }
})

test('a fetcher that is no function is refused, and nothing starts', async t => {
  const cache = open(t)
  for (const fetcher of [5, 'x', {}, null, true, Promise.resolve(1), []]) {
    await rejects(cache.get('k', fetcher), 'INVALID_OPTION', 'fetcher')
    await rejects(cache.getWithMetadata('k', fetcher), 'INVALID_OPTION', 'fetcher')
    await rejects(cache.getMany(['k'], fetcher), 'INVALID_OPTION', 'fetcher')
  }
})

test('a value that cannot be stored fails its load, and the key is free', async t => {
  const cache = open(t)
  const cycle = {}
  cycle.self = cycle
  const own = new Error('toJSON')
  const bads = [
    [() => () => {}, 'INVALID_VALUE'],
    [() => Symbol('s'), 'INVALID_VALUE'],
    [() => cycle, 'SERIALIZE'],
    [() => 1n, 'SERIALIZE'],
    [() => ({ deep: [1n] }), 'SERIALIZE'],
    [
      () => ({
        toJSON() {
          throw own
        }
      }),
      'SERIALIZE'
    ]
  ]
  for (const [fetcher, code] of bads) {
    const error = await reasonOf(cache.get('k', fetcher))
    isError(error, code, 'k')
    if (code === 'SERIALIZE') assert.ok(error.cause instanceof Error)
    assert.equal(await cache.get('k'), undefined)
  }
  assert.equal((await reasonOf(cache.get('k', bads[5][0]))).cause, own)
  assert.equal(await cache.get('k', () => 'free'), 'free')
})

test('a value that cannot be stored leaves a stale value as it is, and an old value stands in for it', async t => {
  const cache = open(t)
  await cache.put('stale', 'old', STALE)
  await cache.put('expired', 'old', EXPIRED)
  assert.equal(await cache.get('stale', () => 1n), 'old')
  await cache.flush()
  assert.equal(await cache.get('stale'), 'old')
  assert.equal(await cache.get('expired', () => 1n), 'old')
  assert.ok(cache.stats().errors >= 2)
})

test('a value nested deeper than the stack ends in a value or in a coded error', async t => {
  const cache = open(t)
  for (const depth of [2_000, 200_000]) {
    let deep = []
    for (let i = 0; i < depth; i++) deep = [deep]
    const outcome = await cache
      .get(`k${depth}`, () => deep)
      .then(
        () => 'value',
        error => error.code
      )
    assert.match(outcome, depth === 2_000 ? /^value$/ : /^(value|ERR_KVCACHE_(SERIALIZE|INVALID_VALUE))$/)
    assert.equal(await cache.get(`k${depth}`, () => 'free', { forceFresh: true }), 'free')
  }
})

test('a fetcher that closes the cache does not hang', async t => {
  const cache = open(t)
  const outcome = await cache
    .get('k', async () => {
      await cache.close({ timeout: 50 })
      return 'value'
    })
    .catch(error => error.code)
  assert.match(outcome, /^(value|ERR_KVCACHE_CLOSED)$/)
})

test('a fetcher that settles after the cache is closed does no harm', async t => {
  const cache = open(t)
  let resolve
  const get = cache.get('k', () => new Promise(yes => (resolve = yes)))
  await settle()
  const closed = cache.close({ timeout: 10 })
  await rejects(get, 'CLOSED')
  await closed
  resolve('too late')
  await settle()
})

test('nothing becomes an unhandled rejection, whatever fails and whether anybody listens', async () => {
  const { out } = await run(
    `
    const refresh = { retries: 1, backoff: 1, cooldown: 1 }
    const cache = new KvCache({ refresh, breaker: { threshold: 3, timeout: 5 } })
    cache.on('error', () => { throw new Error('listener') })
    cache.on('refresh', () => { throw new Error('listener') })
    cache.on('breaker', async () => { throw new Error('async listener') })
    const stale = { maxAge: 0, staleAge: 3600 }
    const fail = [
      () => { throw undefined }, async () => { throw new Error('x') }, () => ({ then() { throw null } }),
      () => ({ then(yes, no) { no(1); no(2); throw 3 } }), () => 1n, () => () => {}, () => new Promise(() => {})
    ]
    for (let round = 0; round < 5; round++) {
      for (const [i, fetcher] of fail.entries()) {
        const key = 'k' + i
        await cache.put(key, 'old', stale)
        await cache.get(key, fetcher, { hardTimeout: 5 })
        await cache.getMany([key, 'x' + i], fetcher, { hardTimeout: 5 })
        await cache.get('m' + i, fetcher, { hardTimeout: 5 }).catch(() => {})
        const controller = new AbortController()
        const aborted = cache.get('a' + i, fetcher, { signal: controller.signal, hardTimeout: 5 }).catch(() => {})
        controller.abort()
        await aborted
      }
      await sleep(10)
    }
    await cache.flush()
    const late = controlled()
    const soft = cache.put('soft', 'old', { maxAge: 0, staleAge: 0, staleIfError: 60 })
      .then(() => cache.get('soft', late, { softTimeout: 1, origin: 'late' }))
    console.log(await soft)
    late.calls[0].reject(new Error('after everybody has gone'))
    await sleep(20)
    await cache.close()
    await sleep(20)
    console.log('done')
  `,
    { flags: ['--unhandled-rejections=strict'] }
  )
  assert.equal(out, 'old\ndone')
})
