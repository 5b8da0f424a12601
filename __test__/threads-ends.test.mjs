// Guards the ends of threads: whatever a thread was doing when it ended, nothing crashes, nobody waits for ever, no key, slot
// or circuit stays taken, and nothing is left behind.
//
// KVCACHE_TEST_ROUNDS in the environment makes the last test last longer: how many workers come and go.

import { assert, KvCache, open, reasonOf, STALE, test } from './helpers/kv.mjs'
import { controlled, settle, until } from './helpers/async.mjs'
import { run } from './helpers/child.mjs'
import { freshName, thread } from './helpers/threads.mjs'

const ROUNDS = Number(process.env.KVCACHE_TEST_ROUNDS ?? 100)

/** A cache here, and the same in workers. */
async function shared(t, workers, options = {}) {
  const name = freshName()
  const cache = open(t, { name, ...options })
  const threads = Array.from({ length: workers }, () => thread(t))
  for (const worker of threads) {
    await worker.run(({ KvCache, state }, options) => void (state.cache = new KvCache(options)), { name, ...options })
  }
  return { cache, name, threads }
}

/** Has a worker lead a load of a key that never ends. */
const lead = (worker, key) => worker.run(async ({ state, until }, key) => {
  let called = false
  state.cache.get(key, () => new Promise(() => (called = true)), { hardTimeout: Infinity }).catch(() => {})
  await until(() => called)
}, key)

for (const [how, end] of [
  ['is terminated', worker => worker.end()],
  ['calls process.exit()', worker => worker.run(() => process.exit(3))],
  ['throws what nobody catches', worker => worker.run(() => setImmediate(() => { throw new Error('uncaught') }))],
  ['is blocked and terminated', async worker => {
    worker.run(() => { for (;;); }).catch(() => {})
    await settle()
    return worker.end()
  }]
]) {
  test(`the load of a thread that ${how} is run by one who waits for it, once`, async t => {
    const { cache, threads: [first, second] } = await shared(t, 2)
    await lead(first, 'k')
    const fetcher = controlled()
    const waits = [cache.get('k', fetcher), cache.get('k', fetcher)]
    const there = second.run(({ state }) => {
      state.calls = 0
      state.got = state.cache.get('k', async () => ++state.calls && 'second')
    }).then(() => second.run(({ state }) => state.got.then(value => [value, state.calls])))
    await until(() => cache.stats().coalesced === 3)
    end(first).catch(() => {})
    await first.ended
    await until(() => fetcher.calls.length === 1 || cache.peek('k') !== undefined)
    fetcher.calls[0]?.resolve('main')
    const values = await Promise.all(waits)
    const [value, calls] = await there
    assert.deepEqual(new Set([...values, value]).size, 1)
    assert.equal(fetcher.calls.length + calls, 1)
  })
}

test('a load that nobody else waits for ends with its thread, and the key is free', async t => {
  const { cache, threads: [worker] } = await shared(t, 1)
  await lead(worker, 'k')
  await worker.end()
  assert.equal(await cache.get('k', async () => 'anew'), 'anew')
})

test('a thread that ends while it waits for another one disturbs nobody', async t => {
  const { cache, threads: [worker] } = await shared(t, 1)
  const fetcher = controlled()
  const got = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await worker.run(({ state }) => void state.cache.get('k', () => 'not there').catch(() => {}))
  assert.equal(cache.stats().coalesced, 1)
  await worker.end()
  call.resolve('v')
  assert.equal(await got, 'v')
})

test('a load left only to a thread that then ends is given up', async t => {
  const { cache, threads: [worker] } = await shared(t, 1)
  const fetcher = controlled()
  const abort = new AbortController()
  const got = reasonOf(cache.get('k', fetcher, { signal: abort.signal }))
  const { context } = await fetcher.call(0)
  await worker.run(({ state }) => void state.cache.get('k', () => 'not there').catch(() => {}))
  abort.abort('left')
  assert.equal(await got, 'left')
  await settle()
  assert.equal(context.signal.aborted, false)
  await worker.end()
  await until(() => context.signal.aborted)
  assert.equal(context.signal.reason, 'left')
})

test('after three threads that ended while loading it, a key fails with ERR_KVCACHE_THREAD_ENDED', async t => {
  const { cache, name } = await shared(t, 0)
  // Three caches of the same name in this thread stand for threads: they are closed one after the other, each while it leads.
  const leaders = [1, 2, 3].map(() => new KvCache({ name }))
  const never = () => new Promise(() => {})
  const left = leaders.map(leader => reasonOf(leader.get('k', never)))
  await settle()
  const waits = reasonOf(cache.get('k', () => assert.fail('the others come first')))
  for (const leader of leaders) {
    await leader.close({ timeout: 1 })
    await settle()
  }
  const error = await waits
  assert.deepEqual([error.code, error.key], ['ERR_KVCACHE_THREAD_ENDED', 'k'])
  assert.match(error.message, /'k'.*3 threads/)
  for (const reason of left) assert.equal((await reason).code, 'ERR_KVCACHE_CLOSED')
  assert.equal(await cache.get('k', () => 'anew'), 'anew')
})

test('the trial of a half-open circuit that ends with its thread is given to the next', async t => {
  const { cache, threads: [worker] } = await shared(t, 1, { breaker: { threshold: 1, timeout: 1 } })
  await assert.rejects(cache.get('a', () => Promise.reject(new Error('down'))), /down/)
  await until(() => (cache.breaker().nextAttempt ?? 0) < Date.now())
  await lead(worker, 'b')
  assert.equal(cache.breaker().state, 'half-open')
  await assert.rejects(cache.get('c', () => 1), { code: 'ERR_KVCACHE_CIRCUIT_OPEN' })
  await worker.end()
  assert.equal(await cache.get('c', async () => 1), 1)
  assert.equal(cache.breaker().state, 'closed')
})

test('refreshes of a thread that ended, running, waiting and resting, free their slots and their keys', async t => {
  const options = { refresh: { concurrency: 2, retries: 5, backoff: 60_000 } }
  const { cache, threads: [worker] } = await shared(t, 1, options)
  for (const key of ['failing', 'a', 'b', 'c', 'd']) await cache.put(key, 'old', STALE)
  await worker.run(async ({ state, until }) => {
    const { cache } = state
    let failed = false
    await cache.get('failing', async () => {
      failed = true
      throw new Error('down')
    }, { origin: 'x' })
    await until(() => failed && cache.stats().running === 0)
    for (const key of ['a', 'b', 'c']) await cache.get(key, () => new Promise(() => {}), { hardTimeout: Infinity })
    await until(() => cache.stats().running === 2)
  })
  await cache.get('d', async () => 'new')
  assert.deepEqual([cache.stats().running, cache.stats().queued], [2, 3])
  // One of the running ones has a caller here: it goes on with a fetcher of his own.
  const joined = cache.get('a', async () => 'own', { forceFresh: true })
  await worker.end()
  assert.equal(await joined, 'own')
  await until(() => cache.peek('d') === 'new')
  await until(() => cache.stats().running === 0 && cache.stats().queued === 0)
  for (const key of ['failing', 'b', 'c']) {
    await cache.get(key, async () => 'new')
    await until(() => cache.peek(key) === 'new', key)
  }
})

test('what a thread waited for is no circle once it has ended', async t => {
  const { cache, threads: [worker] } = await shared(t, 1)
  const fetchB = controlled()
  const b = cache.get('b', fetchB)
  const call = await fetchB.call(0)
  await worker.run(async ({ state, until }) => {
    state.cache.get('a', () => state.cache.get('b', () => 'not there')).catch(() => {})
    await until(() => state.cache.stats().coalesced === 1)
  })
  await worker.end()
  // Were it remembered that the load of a waits for b, b could not wait for a.
  const a = await new Promise((resolve, reject) => {
    const again = cache.get('c', () => cache.get('a', async () => 'a'))
    again.then(resolve, reject)
  })
  assert.equal(a, 'a')
  call.resolve('b')
  assert.equal(await b, 'b')
})

test('a thread that ends while workers decompress for it leaves nothing', async t => {
  const { cache, threads: [worker] } = await shared(t, 1)
  await cache.put('k', 'x'.repeat(4e6))
  await cache.flush()
  await worker.run(({ state }) => {
    for (let i = 0; i < 50; i++) state.cache.get('k').catch(() => {})
  })
  await worker.end()
  assert.equal((await cache.get('k')).length, 4e6)
  await cache.flush()
})

test(`${ROUNDS} workers come and go with loads in flight: no crash, no stuck key, no leak`, async () => {
  const { out } = await run(
    `
    import { Worker } from 'node:worker_threads'
    const rounds = ${ROUNDS}
    const options = { name: 'churn', memory: '4mb', refresh: { concurrency: 3, retries: 1, backoff: 1, cooldown: 1 }, breaker: { timeout: 5 } }
    const source = \`
      const { parentPort } = require('node:worker_threads')
      import(\${JSON.stringify(new URL('./index.js', 'file://' + process.cwd() + '/').href)}).then(({ KvCache }) => {
        const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
        const cache = new KvCache(\${JSON.stringify(options)})
        for (const event of ['evict', 'refresh', 'breaker', 'error']) cache.on(event, () => {})
        let n = Math.floor(Math.random() * 1000)
        const work = async () => {
          for (;;) {
            n++
            const fetcher = async (key, context) => {
              if (n % 6 === 0) throw new Error('sixth')
              if (n % 7 === 0) return new Promise(() => {})
              if (n % 8 === 0) await cache.get('nested' + (n % 10), () => sleep(2)).catch(() => {})
              await sleep(n % 4)
              return 'x'.repeat(n % 5000)
            }
            const ages = { maxAge: 0, staleAge: '5ms', staleIfError: 1, hardTimeout: n % 3 ? 30 : Infinity }
            cache.get('k' + (n % 40), fetcher, ages).catch(() => {})
            if (n % 5 === 0) cache.getMany(['k' + (n % 40), 'k' + (n % 13)], () => sleep(3).then(() => ({})), ages).catch(() => {})
            if (n % 9 === 0) cache.put('k' + (n % 40), 'put', { maxAge: 0, staleAge: '5ms' })
            if (n % 10 === 0) cache.delete('k' + (n % 40))
            if (n % 50 === 0) new KvCache({ name: 'churn' })
            await sleep(0)
          }
        }
        for (let i = 0; i < 5; i++) work()
        parentPort.postMessage('working')
      })
    \`
    const cache = new KvCache(options)
    const sizes = []
    let answered = 0
    const one = async i => {
      const worker = new Worker(source, { eval: true, execArgv: [] })
      if (i % 5) await new Promise(resolve => worker.once('message', resolve))
      await sleep(i % 5 ? (i * 7) % 50 : i % 10)
      // Join what it is loading, then end it.
      const ages = { maxAge: 0, staleAge: '5ms', staleIfError: 1, origin: 'main', hardTimeout: 5000 }
      const waits = Array.from({ length: 40 }, (_, k) => cache.get('k' + k, async () => 'main', ages).catch(error => {
        if (!['sixth', 'ERR_KVCACHE_TIMEOUT', 'ERR_KVCACHE_CIRCUIT_OPEN', 'ERR_KVCACHE_THREAD_ENDED'].includes(error.code ?? error.message)) throw error
      }))
      await worker.terminate()
      await Promise.all(waits)
      answered += waits.length
    }
    const width = 3
    for (let i = 0; i < rounds; i += width) {
      await Promise.all(Array.from({ length: width }, (_, j) => one(i + j)))
      gc()
      sizes.push(process.memoryUsage().rss)
    }
    // Every key can be loaded, and the queue and the circuits are free.
    for (let k = 0; k < 40; k++) {
      const value = await cache.get('k' + k, () => 'end', { forceFresh: true, origin: 'end' })
      if (value !== 'end' && typeof value !== 'string') throw new Error('k' + k + ' is stuck')
    }
    await until(() => cache.stats().queued === 0 && cache.stats().running === 0)
    const third = Math.floor(sizes.length / 3)
    const mean = part => part.reduce((sum, size) => sum + size, 0) / part.length
    const growth = (mean(sizes.slice(-third)) - mean(sizes.slice(third, 2 * third))) / 1e6
    console.log(answered >= 40 * rounds, growth < 30 || growth)
    await cache.close()`,
    { flags: ['--expose-gc'], timeout: 60_000 + ROUNDS * 300 }
  )
  assert.equal(out, 'true true')
}, { timeout: 70_000 + ROUNDS * 300 })
