// Guards loads that one thread runs and others wait for: what they are given, whose options and signals count, how errors
// travel, and that nobody waits for ever.

import { AsyncLocalStorage } from 'node:async_hooks'
import { assert, EXPIRED, isError, KvCacheError, open, reasonOf, rejects, test } from './helpers/kv.mjs'
import { controlled, isPending, settle, until } from './helpers/async.mjs'
import { freshName, thread } from './helpers/threads.mjs'

/** A cache here, and the same in a worker as `state.cache`. */
async function both(t, options = {}) {
  const name = freshName()
  const cache = open(t, { name, ...options })
  const worker = thread(t)
  await worker.run(({ KvCache, state }, options) => void (state.cache = new KvCache(options)), { name, ...options })
  return { cache, worker, name }
}

/** Has the worker lead a load of a key; `finish` ends it. */
async function leads(worker, key, options) {
  await worker.run(async ({ state, until }, { key, options }) => {
    const run = { ended: false, aborted: undefined }
    state[key] = run
    run.got = state.cache.get(key, (key, context) => new Promise((resolve, reject) => {
      run.resolve = resolve
      run.reject = reject
      run.context = context
      context.signal.addEventListener('abort', () => {
        run.aborted = String(context.signal.reason?.message ?? context.signal.reason)
      })
    }), { ...options, ...(options?.withSignal ? { withSignal: undefined, signal: (run.controller = new AbortController()).signal } : {}) })
    run.got.then(() => (run.ended = true), () => (run.ended = true))
    await until(() => run.resolve !== undefined)
  }, { key, options })
}

test('who waits in another thread gets what was loaded, decoded for itself', async t => {
  const { cache, worker } = await both(t)
  await leads(worker, 'k', { maxAge: 7, metadata: { from: 'worker' } })
  const fetcher = controlled()
  const waits = [cache.get('k', fetcher), cache.getWithMetadata('k', fetcher), cache.getMany(['k', 'l'], keys => {
    assert.deepEqual(keys, ['l'])
    return { l: 'own' }
  })]
  assert.ok(await isPending(Promise.race(waits)))
  await worker.run(({ state }) => state.k.resolve({ deep: { n: [1, 'é', null] } }))
  const [value, entry, many] = await Promise.all(waits)
  assert.deepEqual(value, { deep: { n: [1, 'é', null] } })
  assert.ok(Object.isFrozen(value.deep.n))
  assert.deepEqual(entry, {
    value, metadata: { from: 'worker' }, state: 'loaded', age: 0, maxAge: 7, tags: [], dependsOn: []
  })
  assert.deepEqual([...many], [['k', value], ['l', 'own']])
  assert.equal(fetcher.calls.length, 0)
  assert.equal(cache.stats().coalesced, 3)
  assert.equal(cache.stats().latency.miss.count, 5)
})

test('every kind of value crosses, those that are not stored too', async t => {
  const { cache, worker } = await both(t, { serializer: 'v8', compression: { threshold: 100 } })
  for (const [what, make, check] of [
    ['text', () => 'ü'.repeat(3000), value => assert.equal(value, 'ü'.repeat(3000))],
    ['a Map', () => new Map([[1, new Date(3)]]), value => assert.deepEqual(value, new Map([[1, new Date(3)]]))],
    ['bytes', () => new Uint8Array([1, 2]), value => assert.deepEqual(value, new Uint8Array([1, 2]))],
    ['null', () => null, value => assert.equal(value, null)],
    ['undefined', () => undefined, value => assert.equal(value, undefined)],
    ['a megabyte', () => 'x'.repeat(2 ** 20), value => assert.equal(value.length, 2 ** 20)]
  ]) {
    for (const passing of [false, true]) {
      const key = `${what} ${passing}`
      await leads(worker, key)
      const waits = cache.getWithMetadata(key, () => assert.fail('it is loaded in the worker'))
      await settle()
      await worker.run(({ state }, { key, make, passing }) => {
        if (passing) state[key].context.noStore()
        state[key].resolve((0, eval)(`(${make})`)())
      }, { key, make: make.toString(), passing })
      const entry = await waits
      check(entry.value)
      assert.deepEqual([entry.state, entry.maxAge], ['loaded', passing || what === 'undefined' ? 0 : 300])
      assert.equal(await cache.has(key), !passing && what !== 'undefined')
    }
  }
})

test('a copy called not modified reaches those who wait in another thread, stored or not, compressed or not', async t => {
  const { cache, worker } = await both(t, { compression: { threshold: 100 } })
  for (const passing of [false, true]) {
    for (const size of [10, 2 ** 20]) {
      const key = `${passing} ${size}`
      await cache.put(key, 'x'.repeat(size), { ...EXPIRED, metadata: 'old' })
      await cache.flush()
      await leads(worker, key)
      const waits = cache.getWithMetadata(key, () => assert.fail('it is loaded in the worker'))
      await settle()
      await worker.run(({ state }, { key, passing }) => {
        const run = state[key]
        if (passing) run.context.noStore()
        run.resolve(run.context.notModified())
      }, { key, passing })
      const { value, metadata, state } = await waits
      assert.deepEqual([value.length, metadata, state], [size, 'old', 'loaded'])
    }
  }
})

test('a put during the load wins, and those who waited are answered with what was loaded', async t => {
  const { cache, worker } = await both(t)
  await leads(worker, 'k')
  const waits = cache.get('k', () => assert.fail('it is loaded in the worker'))
  await settle()
  await cache.put('k', 'put')
  await worker.run(({ state }) => state.k.resolve('loaded'))
  assert.equal(await waits, 'loaded')
  assert.equal(await cache.get('k'), 'put')
})

test('an aborted caller leaves alone, the load ends when the last one of all threads has left', async t => {
  const { cache, worker } = await both(t)
  await leads(worker, 'k', { withSignal: true })
  const [first, second] = [new AbortController(), new AbortController()]
  const waits = [first, second].map(({ signal }) => reasonOf(cache.get('k', () => assert.fail('not here'), { signal })))
  await settle()
  const aborted = () => worker.run(({ state }) => state.k.aborted ?? null)
  await worker.run(({ state }) => state.k.controller.abort(new Error('the worker left')))
  first.abort('the first left')
  assert.equal(await waits[0], 'the first left')
  await settle()
  assert.equal(await aborted(), null, 'one still waits')
  second.abort('the second left')
  assert.equal(await waits[1], 'the second left')
  await until(aborted)
  assert.equal(await aborted(), 'the worker left')
  // The key is free again.
  assert.equal(await cache.get('k', async () => 'anew'), 'anew')
})

test('a load that its own thread has left goes on for another one', async t => {
  const { cache, worker } = await both(t)
  await leads(worker, 'k', { withSignal: true })
  const waits = cache.get('k', () => assert.fail('not here'))
  await settle()
  await worker.run(({ state }) => state.k.controller.abort(new Error('left')))
  assert.ok(await isPending(waits))
  await worker.run(({ state }) => state.k.resolve('kept on'))
  assert.equal(await waits, 'kept on')
  assert.equal(cache.peek('k'), 'kept on')
})

test('softTimeout and staleIfError work for who waits for another thread', async t => {
  const { cache, worker } = await both(t)
  await cache.put('k', 'old', EXPIRED)
  await leads(worker, 'k', { withSignal: true })
  const soft = await cache.getWithMetadata('k', () => assert.fail('not here'), { softTimeout: 10 })
  assert.deepEqual([soft.value, soft.state], ['old', 'stale-if-error'])
  // It was left running, so it is not given up when its own thread leaves.
  await worker.run(({ state }) => state.k.controller.abort(new Error('left')))
  await settle()
  assert.equal(await worker.run(({ state }) => state.k.aborted ?? null), null)
  const waits = cache.getWithMetadata('k', () => assert.fail('not here'))
  await settle()
  await worker.run(({ state }) => state.k.reject(new Error('down')))
  const entry = await waits
  assert.deepEqual([entry.value, entry.state], ['old', 'stale-if-error'])
})

test('the hard timeout is told by the engine, even while the thread that loads is blocked', async t => {
  const { cache, worker } = await both(t)
  await leads(worker, 'k', { hardTimeout: 100 })
  const waits = cache.get('k', () => assert.fail('not here'))
  waits.catch(() => {})
  await settle()
  const word = new Int32Array(new SharedArrayBuffer(4))
  const blocked = worker.run((_, word) => void Atomics.wait(word, 0, 0), word)
  const error = await rejects(waits, 'TIMEOUT', "'k'", '100 ms').then(() => reasonOf(waits))
  assert.equal(error.timeout, 100)
  // The key is free although its thread does not answer.
  assert.equal(await cache.get('k', async () => 'own'), 'own')
  Atomics.store(word, 0, 1)
  Atomics.notify(word, 0)
  await blocked
  assert.equal(cache.peek('k'), 'own')
})

test('a fetcher that would wait for itself through another thread is refused', async t => {
  const { cache, worker } = await both(t)
  await worker.run(({ state }) => {
    state.got = state.cache.get('a', async () => {
      await new Promise(resolve => (state.go = resolve))
      return state.cache.get('b', () => 'b')
    }).catch(error => error.code)
  })
  const fetchB = async () => `b of ${await cache.get('a', () => assert.fail('not here'))}`
  const got = reasonOf(cache.get('b', fetchB))
  await settle()
  await worker.run(({ state }) => state.go())
  assert.equal(await worker.run(({ state }) => state.got), 'ERR_KVCACHE_RECURSION')
  isError(await got, 'RECURSION', "'b'")
})

test('two KvCache of one name in one thread wait for each other as threads do', async t => {
  const name = freshName()
  const [one, two] = [open(t, { name }), open(t, { name })]
  const fetcher = controlled()
  const gets = [one.get('k', fetcher), two.get('k', fetcher), one.get('k', fetcher), two.get('k', fetcher)]
  const call = await fetcher.call(0)
  call.resolve({ n: 1 })
  for (const value of await Promise.all(gets)) assert.deepEqual(value, { n: 1 })
  const failing = controlled()
  const [own, other] = [reasonOf(one.get('l', failing)), reasonOf(two.get('l', failing))]
  const error = new Error('down')
  ;(await failing.call(0)).reject(error)
  assert.equal(await own, error)
  assert.notEqual(await other, error)
  assert.equal((await other).message, 'down')
  assert.deepEqual([fetcher.calls.length, failing.calls.length], [1, 1])
})

test('closing hands what it loads to who waits elsewhere, who runs a fetcher of his own', async t => {
  const { cache, worker } = await both(t)
  await leads(worker, 'k')
  const context = new AsyncLocalStorage()
  const own = controlled()
  const waits = context.run('of the get', () =>
    cache.getWithMetadata('k', (key, { reason, signal }) => {
      assert.equal(context.getStore(), 'of the get')
      return own(key, { reason, signal })
    }, { maxAge: 9 }))
  const together = cache.get('k', () => assert.fail('one of them loads'))
  await settle()
  await worker.run(({ state }) => state.cache.close({ timeout: 1 }))
  assert.equal(await worker.run(({ state }) => state.k.got.catch(error => error.code)), 'ERR_KVCACHE_CLOSED')
  const call = await own.call(0)
  assert.equal(call.context.reason, 'miss')
  call.resolve('own')
  assert.deepEqual([(await waits).value, (await waits).maxAge, await together], ['own', 9, 'own'])
  const { misses, coalesced, hits, latency } = cache.stats()
  assert.deepEqual({ misses, coalesced, hits }, { misses: 3, coalesced: 2, hits: 0 })
  assert.equal(latency.miss.count, 2)
})

test('closing while waiting for another thread ends the wait and nothing else', async t => {
  const { cache, worker, name } = await both(t)
  await leads(worker, 'k')
  const other = open(t, { name })
  const waits = reasonOf(other.get('k', () => assert.fail('not here')))
  const stays = cache.get('k', () => assert.fail('not here'))
  await settle()
  await other.close({ timeout: 10 })
  assert.equal((await waits).code, 'ERR_KVCACHE_CLOSED')
  await worker.run(({ state }) => state.k.resolve('v'))
  assert.equal(await stays, 'v')
})

test('getMany() runs its fetcher once for each key that a thread has left behind', async t => {
  const { cache, worker } = await both(t)
  for (const key of ['a', 'b', 'c']) await leads(worker, key)
  const calls = []
  const waits = cache.getMany(['a', 'b', 'c', 'd'], async keys => {
    calls.push(keys)
    return new Map(keys.map(key => [key, key.toUpperCase()]))
  })
  await settle()
  assert.deepEqual(calls, [['d']])
  await worker.end()
  assert.deepEqual([...await waits], [['a', 'A'], ['b', 'B'], ['c', 'C'], ['d', 'D']])
  // A thread ends key by key: what this one hears of in one moment is loaded by one call, all of it as a rule.
  assert.deepEqual(calls.flat().sort(), ['a', 'b', 'c', 'd'])
})

// --- Errors -------------------------------------------------------------------------------------------------------------

/** What a failed load in a worker gives here. */
async function failure(t, make) {
  const { cache, worker } = await both(t)
  await leads(worker, 'k')
  const waits = reasonOf(cache.get('k', () => assert.fail('not here')))
  await settle()
  await worker.run(({ state, KvCacheError }, make) => {
    const error = (0, eval)(`(${make})`)(KvCacheError)
    state.same = state.k.got.catch(reason => reason === error)
    state.k.reject(error)
  }, make.toString())
  assert.equal(await worker.run(({ state }) => state.same), true, 'in its own thread it is the same object')
  return { error: await waits, threadId: await worker.run(({ threadId }) => threadId) }
}

test('an error arrives with its name, message, code, cause and fields, and says which thread failed', async t => {
  const { error, threadId } = await failure(t, () => {
    class NotFound extends Error {
      get code() {
        return 'E_NOT_FOUND'
      }
    }
    const root = Object.assign(new RangeError('too far'), { limit: 5n })
    const cause = new TypeError('not that', { cause: { plain: new Map([[1, 2]]) } })
    const error = new NotFound('no user', { cause: new AggregateError([root, 'text'], 'two', { cause }) })
    error.name = 'NotFound'
    return Object.assign(error, { status: 404, when: new Date(7), helper: () => {}, nested: { fn() {} } })
  })
  assert.ok(error instanceof Error)
  assert.deepEqual([error.name, error.message, error.code, error.status], ['NotFound', 'no user', 'E_NOT_FOUND', 404])
  assert.deepEqual(error.when, new Date(7))
  assert.deepEqual(Object.keys(error).sort(), ['code', 'status', 'when'])
  assert.match(error.stack, new RegExp(`no user\\n    at [^]*\\n    in worker thread ${threadId}$`))
  const { cause } = error
  assert.ok(cause instanceof AggregateError)
  assert.deepEqual([cause.name, cause.message, cause.errors[1]], ['AggregateError', 'two', 'text'])
  assert.ok(cause.errors[0] instanceof RangeError)
  assert.deepEqual([cause.errors[0].message, cause.errors[0].limit], ['too far', 5n])
  assert.ok(cause.cause instanceof TypeError)
  assert.deepEqual(cause.cause.cause, { plain: new Map([[1, 2]]) })
})

test('an error of the cache arrives as one', async t => {
  const { error } = await failure(t, KvCacheError =>
    new KvCacheError('ERR_KVCACHE_TIMEOUT', 'too slow', { key: 'inner', timeout: 3, cause: new Error('why') }))
  assert.ok(error instanceof KvCacheError)
  assert.deepEqual([error.code, error.message, error.key, error.timeout, error.cause.message],
    ['ERR_KVCACHE_TIMEOUT', 'too slow', 'inner', 3, 'why'])
  assert.equal(error.name, 'KvCacheError')
})

test('an abort arrives as one', async t => {
  const { error } = await failure(t, () => new DOMException('it was stopped', 'AbortError'))
  assert.ok(error instanceof DOMException)
  assert.deepEqual([error.name, error.message, error.code], ['AbortError', 'it was stopped', DOMException.ABORT_ERR])
})

for (const [what, make, check] of [
  ['a string', () => 'text', error => assert.equal(error, 'text')],
  ['undefined', () => undefined, error => assert.equal(error, undefined)],
  ['an object', () => ({ a: [1] }), error => assert.deepEqual(error, { a: [1] })],
  ['a function', () => () => {}, error => assert.equal(error, 'a function')],
  ['a circle', () => {
    const error = new Error('round')
    error.cause = error
    return error
  }, error => assert.equal(error.cause.cause.cause.message, 'round')],
  ['one whose accessors throw', () => Object.defineProperties(new Error('x'), {
    stack: { get: () => { throw new Error('no') } },
    message: { get: () => { throw new Error('no') } },
    own: { enumerable: true, get: () => { throw new Error('no') } }
  }), error => assert.ok(error instanceof Error)],
  ['a revoked proxy', () => {
    const { proxy, revoke } = Proxy.revocable(new Error('x'), {})
    revoke()
    return proxy
  }, error => assert.equal(error, 'an object')],
  ['a huge one', () => Object.assign(new Error('y'.repeat(2 ** 20)), { big: 'z'.repeat(2 ** 20), small: 1 }), error => {
    assert.deepEqual([error.message.length, error.small, error.big], [16 * 1024, 1, undefined])
  }]
]) {
  test(`what cannot be carried whole degrades: ${what}`, async t => check((await failure(t, make)).error))
}

test('many threads, many keys, all ends at once: every caller is answered, nothing stays', async t => {
  const name = freshName()
  const cache = open(t, { name, breaker: false })
  const workers = Array.from({ length: 3 }, () => thread(t))
  const work = async ({ KvCache, state, sleep }, { name, seed }) => {
    const cache = (state.cache = new KvCache({ name, breaker: false }))
    let random = seed
    const next = n => (random = (random * 48_271) % 2_147_483_647) % n
    const counts = { value: 0, failed: 0, aborted: 0, nothing: 0 }
    const one = async () => {
      const key = `k${next(8)}`
      const fetcher = async (_, context) => {
        const fate = next(10)
        if (next(2)) await sleep(next(3))
        if (fate === 0) throw new Error('down')
        if (fate === 1) return undefined
        if (fate === 2) context.noStore()
        return key
      }
      const options = { maxAge: next(2) / 1000, staleAge: 0.001 + next(3) / 1000, staleIfError: 0 }
      const abort = next(5) === 0 ? new AbortController() : undefined
      if (abort) setTimeout(() => abort.abort(new Error('aborted')), next(3))
      try {
        const value = await cache.get(key, fetcher, { ...options, signal: abort?.signal })
        if (value !== undefined && value !== key) throw new Error(`wrong value ${value} of ${key}`)
        counts[value === undefined ? 'nothing' : 'value']++
      } catch (error) {
        if (error.message === 'down') counts.failed++
        else if (error.message === 'aborted') counts.aborted++
        else throw error
      }
      if (next(9) === 0) await cache.delete(key)
      if (next(9) === 0) await cache.put(key, key, options)
    }
    await Promise.all(Array.from({ length: 10 }, async () => {
      for (let i = 0; i < 300; i++) await one()
    }))
    return counts
  }
  const scope = { KvCache: cache.constructor, state: {}, sleep: ms => new Promise(resolve => setTimeout(resolve, ms)) }
  const counts = await Promise.all([
    work(scope, { name, seed: 7 }),
    ...workers.map((worker, i) => worker.run(work, { name, seed: 11 + i }))
  ])
  await scope.state.cache.close()
  for (const { value, failed, aborted, nothing } of counts) {
    assert.equal(value + failed + aborted + nothing, 3000)
    assert.ok(value > 1000 && failed > 0 && aborted > 0)
  }
  await until(() => cache.stats().queued === 0 && cache.stats().running === 0)
  for (let i = 0; i < 8; i++) assert.equal(await cache.get(`k${i}`, () => 'end', { forceFresh: true }), 'end')
}, { timeout: 60_000 })
