// Guards signal: it ends one caller's wait and no one else's; when nobody is left the load is given up and its key
// is free.

import { getEventListeners } from 'node:events'
import { assert, EXPIRED, open, reasonOf, rejects, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, isPending, settle, until } from './helpers/async.mjs'

test('a signal already aborted rejects at once with its reason, and nothing starts', async t => {
  const cache = open(t)
  const fetcher = counted()
  const reason = new Error('changed my mind')
  const signal = AbortSignal.abort(reason)
  assert.equal(await reasonOf(cache.get('k', fetcher, { signal })), reason)
  assert.equal(await reasonOf(cache.getWithMetadata('k', fetcher, { signal })), reason)
  assert.equal(await reasonOf(cache.getMany(['k'], fetcher, { signal })), reason)
  assert.equal(await reasonOf(cache.get('k', fetcher, { signal, forceFresh: true })), reason)
  await settle()
  assert.equal(fetcher.count, 0)
})

test('aborting rejects with the signal’s reason, whatever it is', async t => {
  const cache = open(t)
  for (const reason of [new Error('mine'), 'a string', null, 0, { any: 'object' }]) {
    const controller = new AbortController()
    const get = cache.get('k', () => new Promise(() => {}), { signal: controller.signal })
    await settle()
    controller.abort(reason)
    assert.equal(await reasonOf(get), reason)
  }
  const controller = new AbortController()
  const get = cache.get('k', () => new Promise(() => {}), { signal: controller.signal })
  controller.abort()
  assert.equal((await reasonOf(get)).name, 'AbortError')
})

test('one caller’s abort cancels nobody else’s load, be it the first caller’s', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const first = new AbortController()
  const third = new AbortController()
  const gets = [
    cache.get('k', fetcher, { signal: first.signal }),
    cache.get('k', fetcher),
    cache.get('k', fetcher, { signal: third.signal }),
    cache.get('k', fetcher, { signal: new AbortController().signal })
  ]
  const call = await fetcher.call(0)
  first.abort(new Error('first'))
  third.abort(new Error('third'))
  assert.equal((await reasonOf(gets[0])).message, 'first')
  assert.equal((await reasonOf(gets[2])).message, 'third')
  await settle()
  assert.equal(call.context.signal.aborted, false)
  call.resolve('value')
  assert.equal(await gets[1], 'value')
  assert.equal(await gets[3], 'value')
  assert.equal(fetcher.calls.length, 1)
  assert.equal(await cache.get('k'), 'value')
})

test('when all have aborted, the fetcher’s signal fires and the key is free', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const controllers = [new AbortController(), new AbortController(), new AbortController()]
  const gets = controllers.map(({ signal }) => cache.get('k', fetcher, { signal }))
  const call = await fetcher.call(0)
  for (const [i, controller] of controllers.entries()) {
    assert.equal(call.context.signal.aborted, false)
    controller.abort(i)
    assert.equal(await reasonOf(gets[i]), i)
  }
  await until(() => call.context.signal.aborted)
  const next = cache.get('k', fetcher)
  const second = await fetcher.call(1)
  call.resolve('abandoned')
  await settle()
  assert.ok(await isPending(next), 'the abandoned load answers nobody')
  second.resolve('second')
  assert.equal(await next, 'second')
  assert.equal(await cache.get('k'), 'second')
})

test('what an abandoned fetcher brings is not stored, and its failure does no harm', async t => {
  const cache = open(t)
  const fetcher = controlled()
  for (const end of ['resolve', 'reject']) {
    const controller = new AbortController()
    const get = cache.get(end, fetcher, { signal: controller.signal })
    await settle()
    controller.abort()
    await reasonOf(get)
    fetcher.calls.at(-1)[end]('abandoned')
    await settle()
    assert.equal(await cache.get(end), undefined)
  }
})

test('a get begun in the same moment as the last abort starts a load of its own', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const controller = new AbortController()
  const first = cache.get('k', fetcher, { signal: controller.signal })
  await fetcher.call(0)
  controller.abort('gone')
  const second = cache.get('k', fetcher)
  assert.equal(await reasonOf(first), 'gone')
  const call = await fetcher.call(1)
  fetcher.calls[0].resolve('abandoned')
  call.resolve('own')
  assert.equal(await second, 'own')
})

test('of ten thousand callers half abort, the others are answered', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const controllers = []
  const gets = Array.from({ length: 10_000 }, (_, i) => {
    if (i % 2 === 0) return cache.get('k', fetcher)
    const controller = new AbortController()
    controllers.push(controller)
    return cache.get('k', fetcher, { signal: controller.signal })
  })
  const settled = Promise.allSettled(gets)
  const call = await fetcher.call(0)
  for (const controller of controllers) controller.abort('gone')
  call.resolve('value')
  for (const [i, outcome] of (await settled).entries()) {
    if (i % 2 === 0) assert.equal(outcome.value, 'value')
    else assert.equal(outcome.reason, 'gone')
  }
  assert.equal(fetcher.calls.length, 1)
})

test('a signal kept for long does not gather listeners', async t => {
  const cache = open(t)
  const { signal } = new AbortController()
  for (let i = 0; i < 200; i++) {
    await cache.get(`k${i}`, () => i, { signal })
    await cache.get(`k${i}`, () => i, { signal })
    await reasonOf(cache.get(`e${i}`, () => Promise.reject(new Error()), { signal, origin: `o${i}` }))
    await cache.getMany([`m${i}`], keys => new Map(keys.map(key => [key, 1])), { signal })
  }
  await cache.flush()
  assert.equal(getEventListeners(signal, 'abort').length, 0)
})

test('a signal shared by many gets at once warns of nothing, and ends them all', async t => {
  const cache = open(t)
  const warnings = []
  const warn = warning => warnings.push(warning.message)
  process.on('warning', warn)
  t.after(() => process.off('warning', warn))
  const { signal } = new AbortController()
  await Promise.all(Array.from({ length: 50 }, (_, i) => cache.get(`k${i}`, async () => i, { signal })))
  await Promise.all(Array.from({ length: 50 }, () => cache.get('same', async () => 1, { signal })))
  assert.equal(getEventListeners(signal, 'abort').length, 0)
  const controller = new AbortController()
  const never = () => new Promise(() => {})
  const gets = Array.from({ length: 50 }, (_, i) => cache.get(`n${i % 25}`, never, { signal: controller.signal }))
  const many = cache.getMany(['m1', 'm2'], never, { signal: controller.signal })
  controller.abort('gone')
  for (const get of [...gets, many]) assert.equal(await reasonOf(get), 'gone')
  assert.equal(getEventListeners(controller.signal, 'abort').length, 0)
  await settle()
  assert.deepEqual(warnings, [])
})

test('an abort after the answer changes nothing', async t => {
  const cache = open(t)
  const controller = new AbortController()
  let signal
  await cache.get(
    'k',
    (_, context) => {
      signal = context.signal
      return 'value'
    },
    { signal: controller.signal }
  )
  controller.abort()
  await settle()
  assert.equal(signal.aborted, false)
  assert.equal(await cache.get('k'), 'value')
})

test('a background refresh goes on when the caller that caused it aborts', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const controller = new AbortController()
  await cache.put('k', 'old', STALE)
  assert.equal(await cache.get('k', fetcher, { signal: controller.signal }), 'old')
  const call = await fetcher.call(0)
  controller.abort()
  await settle()
  assert.equal(call.context.signal.aborted, false)
  call.resolve('new')
  await cache.flush()
  assert.equal(await cache.get('k'), 'new')
})

test('a refresh that a caller joined goes on when that caller aborts', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const controller = new AbortController()
  await cache.put('k', 'old', STALE)
  await cache.get('k', fetcher)
  const call = await fetcher.call(0)
  const joined = cache.get('k', fetcher, { forceFresh: true, signal: controller.signal })
  await settle()
  controller.abort('gone')
  assert.equal(await reasonOf(joined), 'gone')
  await settle()
  assert.equal(call.context.signal.aborted, false)
  call.resolve('new')
  await cache.flush()
  assert.equal(await cache.get('k'), 'new')
})

test('a load left running by a softTimeout is not given up for want of waiters', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const controller = new AbortController()
  await cache.put('k', 'old', EXPIRED)
  assert.equal(await cache.get('k', fetcher, { softTimeout: 5, signal: controller.signal }), 'old')
  controller.abort()
  await settle()
  assert.equal(fetcher.calls[0].context.signal.aborted, false)
  fetcher.calls[0].resolve('new')
  await until(async () => (await cache.get('k')) === 'new')
})

test('getMany is aborted like get: its caller is rejected, its fetcher’s signal fires, the keys are free', async t => {
  const cache = open(t)
  const controller = new AbortController()
  const fetcher = controlled()
  const many = cache.getMany(['a', 'b'], fetcher, { signal: controller.signal })
  const call = await fetcher.call(0)
  controller.abort('gone')
  assert.equal(await reasonOf(many), 'gone')
  await until(() => call.context.signal.aborted)
  assert.equal(await cache.get('a', counted()), 1)
})

test('a get that waits for a key of somebody’s getMany keeps that load alive', async t => {
  const cache = open(t)
  const controller = new AbortController()
  const fetcher = controlled()
  const many = cache.getMany(['a', 'b'], fetcher, { signal: controller.signal })
  const call = await fetcher.call(0)
  const single = counted(() => 'single')
  const get = cache.get('a', single)
  await settle()
  controller.abort('gone')
  assert.equal(await reasonOf(many), 'gone')
  await settle()
  assert.equal(call.context.signal.aborted, false)
  call.resolve(
    new Map([
      ['a', 1],
      ['b', 2]
    ])
  )
  assert.equal(await get, 1)
  assert.equal(single.count, 0)
})

test('an abort from within the fetcher ends the wait', async t => {
  const cache = open(t)
  const controller = new AbortController()
  const get = cache.get(
    'k',
    () => {
      controller.abort('from within')
      return new Promise(() => {})
    },
    { signal: controller.signal }
  )
  assert.equal(await reasonOf(get), 'from within')
  assert.equal(await cache.get('k', counted()), 1)
})

test('AbortSignal.timeout ends the wait with its TimeoutError', async t => {
  const cache = open(t)
  const keepAlive = setTimeout(() => {}, 20_000)
  t.after(() => clearTimeout(keepAlive))
  const reason = await reasonOf(cache.get('k', () => new Promise(() => {}), { signal: AbortSignal.timeout(10) }))
  assert.equal(reason.name, 'TimeoutError')
})

test('an abort does not count as a failure of the origin', async t => {
  const cache = open(t, { breaker: { threshold: 1 } })
  const controller = new AbortController()
  const heeding = (_, { signal }) =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
  const get = cache.get('k', heeding, { signal: controller.signal })
  await settle()
  controller.abort('gone')
  assert.equal(await reasonOf(get), 'gone')
  await settle()
  assert.equal(cache.breaker().state, 'closed')
  assert.equal(cache.breaker().failures, 0)
})

test('a signal that is none is refused', async t => {
  const cache = open(t)
  for (const signal of [{}, 'abort', 1, null, true, new AbortController()]) {
    await rejects(
      cache.get('k', () => 1, { signal }),
      'INVALID_OPTION',
      'signal'
    )
  }
})
