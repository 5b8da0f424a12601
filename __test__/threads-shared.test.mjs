// Guards caches with a name: whoever opens it, in whichever thread, has the same one; options that disagree are refused by
// name; it lives until the last who has it open is gone.

import { assert, KvCache, open, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { counted, until } from './helpers/async.mjs'
import { run } from './helpers/child.mjs'
import { freshName, thread } from './helpers/threads.mjs'

/** Opens the cache of that name in a worker, as `state.cache`. */
const openThere = ({ KvCache, state }, options) => void (state.cache = new KvCache(options))

test('two of one name in one thread are one cache, others are not', async t => {
  const name = freshName()
  const [one, two, other, none] = [open(t, { name }), open(t, { name }), open(t, { name: name + 'x' }), open(t)]
  await one.put('k', { n: 1 }, { metadata: [1] })
  assert.deepEqual(two.peek('k'), { n: 1 })
  assert.deepEqual((await two.getWithMetadata('k')).metadata, [1])
  assert.deepEqual([other.peek('k'), none.peek('k')], [undefined, undefined])
  assert.equal(await two.delete('k'), true)
  assert.equal(await one.get('k'), undefined)
  assert.deepEqual(one.stats(), two.stats())
})

test('four workers and the main thread: one fetch, one cache', async t => {
  const name = freshName()
  const cache = open(t, { name })
  const workers = Array.from({ length: 4 }, () => thread(t))
  await Promise.all(workers.map(worker => worker.run(openThere, { name })))
  const asked = workers.map(worker =>
    worker.run(async ({ state, sleep }) => {
      let fetched = 0
      const values = await Promise.all(Array.from({ length: 50 }, (_, i) =>
        state.cache.get(`k${i}`, async key => {
          fetched++
          await sleep(20)
          return { key }
        })))
      return { fetched, values }
    }))
  const answers = await Promise.all(asked)
  assert.equal(answers.reduce((sum, { fetched }) => sum + fetched, 0), 50)
  for (const { values } of answers) assert.deepEqual(values, Array.from({ length: 50 }, (_, i) => ({ key: `k${i}` })))
  const { entries, misses, coalesced } = cache.stats()
  assert.deepEqual({ entries, all: misses + cache.stats().hits }, { entries: 50, all: 200 })
  assert.ok(coalesced <= 150)
  assert.deepEqual(cache.peek('k7'), { key: 'k7' })
})

test('a put, and a delete, are seen by the very next get in another thread', async t => {
  const name = freshName()
  const cache = open(t, { name })
  const worker = thread(t)
  await worker.run(openThere, { name })
  // Each turn is taken by a word of shared memory, so that no message gives time.
  const turn = new Int32Array(new SharedArrayBuffer(4))
  const rounds = 400
  const seen = worker.run(async ({ state }, { turn, rounds }) => {
    const wrong = []
    for (let i = 1; i <= rounds; i++) {
      while (Atomics.load(turn, 0) < 2 * i - 1) Atomics.wait(turn, 0, Atomics.load(turn, 0), 50)
      const value = await state.cache.get('k')
      const expected = i % 3 === 0 ? undefined : i
      if (value !== expected) wrong.push([i, value])
      Atomics.store(turn, 0, 2 * i)
      Atomics.notify(turn, 0)
    }
    return wrong
  }, { turn, rounds })
  for (let i = 1; i <= rounds; i++) {
    if (i % 3 === 0) await cache.delete('k')
    else await cache.put('k', i)
    Atomics.store(turn, 0, 2 * i - 1)
    Atomics.notify(turn, 0)
    while (Atomics.load(turn, 0) < 2 * i) Atomics.wait(turn, 0, Atomics.load(turn, 0), 50)
  }
  assert.deepEqual(await seen, [])
})

test('the budget, the queue and the breaker are one for all threads', async t => {
  const name = freshName()
  const options = { name, memory: '300kb', refresh: { concurrency: 2 }, breaker: { threshold: 2, timeout: 60_000 } }
  const cache = open(t, options)
  const worker = thread(t)
  await worker.run(openThere, options)
  const fill = async ({ state }, from) => {
    for (let i = from; i < from + 300; i++) await state.cache.put(`fill${i}`, 'x'.repeat(1000))
    return state.cache.stats().bytes
  }
  const bytes = await Promise.all([worker.run(fill, 0), fill({ state: { cache } }, 1000)])
  assert.ok(bytes.every(bytes => bytes <= 300 * 1024), String(bytes))
  assert.ok(cache.stats().evictions > 200)
  // Two failures, one in each thread, open the circuit for both.
  const broken = () => Promise.reject(new Error('down'))
  await assert.rejects(cache.get('a', broken), /down/)
  await assert.rejects(worker.run(({ state }) => state.cache.get('b', () => Promise.reject(new Error('down')))), /down/)
  assert.equal(cache.breaker().state, 'open')
  await rejects(cache.get('c', counted()), 'CIRCUIT_OPEN')
  const refused = await worker.run(({ state }) => state.cache.get('c', () => 1).catch(error => error.code))
  assert.equal(refused, 'ERR_KVCACHE_CIRCUIT_OPEN')
  // Two slots for refreshes, whoever asks.
  await cache.put('s1', 1, STALE)
  await cache.put('s2', 1, STALE)
  await cache.put('s3', 1, STALE)
  const never = new Promise(() => {})
  await cache.get('s1', () => never, { origin: 'good' })
  await worker.run(async ({ state }) => void await state.cache.get('s2', () => new Promise(() => {}), { origin: 'good' }))
  await until(() => cache.stats().running === 2)
  await worker.run(async ({ state }) => void await state.cache.get('s3', () => 2, { origin: 'good' }))
  assert.equal(cache.stats().queued, 1)
  await worker.end()
  // Its slot is given to the next, its own queued one is gone with it.
  await until(() => cache.stats().running === 1 && cache.stats().queued === 0)
  await cache.get('s3', () => 3, { origin: 'good' })
  await until(() => cache.peek('s3') === 3)
})

test('metrics count by pattern, whatever number a thread gave it', async t => {
  const name = freshName()
  const [one, two] = [open(t, { name }), open(t, { name })]
  one.define('a:*', key => key)
  one.define('b:*', key => key)
  two.define('b:*', key => key)
  await one.get('a:1')
  await one.get('b:1')
  await two.get('b:2')
  const loads = new Map(two.metrics().split('\n').flatMap(line => {
    const found = /^kvcache_pattern_loads_total\{.*pattern="([^"]+)".*\} (\d+)$/.exec(line)
    return found === null ? [] : [[found[1], Number(found[2])]]
  }))
  assert.deepEqual([loads.get('a:*'), loads.get('b:*')], [1, 2], two.metrics())
  assert.equal(await two.get('a:2'), undefined, 'a define() is of who made it')
})

test('breaker events go to all who have it open, those of a refresh to whose it was, evictions to who listens', async t => {
  const name = freshName()
  const options = { name, memory: '64kb', breaker: { threshold: 1 } }
  const [one, two] = [open(t, options), open(t, options)]
  const told = { one: [], two: [] }
  for (const event of ['breaker', 'refresh']) {
    one.on(event, () => told.one.push(event))
    two.on(event, () => told.two.push(event))
  }
  two.on('evict', () => told.two.push('evict'))
  await one.put('s', 1, STALE)
  await two.get('s', () => 2)
  await until(() => told.two.length > 0)
  await assert.rejects(one.get('k', () => Promise.reject(new Error('down'))))
  await until(() => told.one.length > 0 && told.two.length > 1)
  assert.deepEqual(told, { one: ['breaker'], two: ['refresh', 'breaker'] })
  for (let i = 0; i < 200; i++) await one.put(`k${i}`, 'x'.repeat(1000))
  await until(() => told.two.includes('evict'))
  assert.ok(!told.one.includes('evict'))
})

// --- Options ------------------------------------------------------------------------------------------------------------

test('options of the engine that disagree are refused by name, with what was given and what is there', t => {
  const name = freshName()
  const first = {
    name, memory: '1mb', serializer: 'v8', compression: { algorithm: 'zstd', level: 3, threshold: '2kb' },
    refresh: { concurrency: 3, maxQueued: 5, retries: 1, backoff: 200, cooldown: 2000 }, breaker: { threshold: 4, timeout: 500 }
  }
  open(t, first)
  for (const [option, given, ...needles] of [
    ['memory', { memory: '2mb' }, '2097152 bytes', '1048576 bytes'],
    ['serializer', { serializer: 'json' }, "'json'", "'v8'"],
    ['serializer', { serializer: { name: 'v8', serialize: () => new Uint8Array(), deserialize: () => 1 } }, 'of its own'],
    ['compression', { compression: false }, 'false', 'an object'],
    ['compression.algorithm', { compression: { algorithm: 'gzip' } }, 'gzip', 'zstd'],
    ['compression.level', { compression: { algorithm: 'zstd', level: 4 } }, '4', '3'],
    ['compression.threshold', { compression: { algorithm: 'zstd', threshold: 1 } }, '1 bytes', '2048 bytes'],
    ['refresh.concurrency', { refresh: { concurrency: 4 } }, '4', '3'],
    ['refresh.maxQueued', { refresh: { maxQueued: 6 } }, '6', '5'],
    ['refresh.retries', { refresh: { retries: 0 } }, '0', '1'],
    ['refresh.backoff', { refresh: { backoff: 100 } }, '100 ms', '200 ms'],
    ['refresh.cooldown', { refresh: { cooldown: 1000 } }, '1000 ms', '2000 ms'],
    ['breaker', { breaker: false }, 'false', 'an object'],
    ['breaker.threshold', { breaker: { threshold: 5 } }, '5', '4'],
    ['breaker.timeout', { breaker: { timeout: 501 } }, '501 ms', '500 ms']
  ]) {
    throws(() => new KvCache({ name, ...given }), 'CONFIG_MISMATCH', `'${option}'`, name, ...needles)
    const error = (() => {
      try {
        new KvCache({ name, ...given })
      } catch (error) {
        return error
      }
    })()
    assert.deepEqual([error.option, error.cache], [option, name])
  }
})

test('the same options, other units of them, fewer, or none open it', async t => {
  const name = freshName()
  const first = open(t, { name, memory: '1mb', serializer: 'v8', breaker: { threshold: 4 } })
  open(t, { name, memory: 1024 ** 2, serializer: 'v8', breaker: { threshold: 4, timeout: '30s', failure: () => false } })
  open(t, { name, breaker: { threshold: 4 } })
  const plain = open(t, { name })
  // Who gave no serializer has the one that is there.
  await plain.put('k', { at: new Date(5), big: 1n })
  assert.deepEqual(first.peek('k'), { at: new Date(5), big: 1n })
  assert.deepEqual(await plain.get('k'), { at: new Date(5), big: 1n })
})

test('options of loads, fetchers and listeners are of who gave them', async t => {
  const name = freshName()
  const [brief, lasting] = [open(t, { name, maxAge: 1 }), open(t, { name, maxAge: 100 })]
  assert.equal((await brief.getWithMetadata('a', () => 1)).maxAge, 1)
  assert.equal((await lasting.getWithMetadata('b', () => 1)).maxAge, 100)
  assert.equal((await lasting.getWithMetadata('a', () => 1)).maxAge, 1)
})

test('a serializer of your own must be given by all', async t => {
  const name = freshName()
  const serializer = {
    name: 'upper',
    serialize: value => Buffer.from(JSON.stringify(value).toUpperCase()),
    deserialize: bytes => JSON.parse(Buffer.from(bytes).toString())
  }
  const first = open(t, { name, serializer })
  throws(() => new KvCache({ name }), 'CONFIG_MISMATCH', "'serializer'", 'upper', 'not given')
  throws(() => new KvCache({ name, serializer: { ...serializer, name: 'lower' } }), 'CONFIG_MISMATCH', 'upper', 'lower')
  const second = open(t, { name, serializer: { ...serializer } })
  await first.put('k', { a: 'b' })
  assert.deepEqual(await second.get('k'), { A: 'B' })
})

test('a refusal leaves nothing open', async t => {
  const name = freshName()
  const first = new KvCache({ name, memory: '1mb' })
  for (let i = 0; i < 10; i++) throws(() => new KvCache({ name, memory: '2mb' }), 'CONFIG_MISMATCH')
  await first.close()
  const second = open(t, { name, memory: '2mb' })
  assert.equal(second.stats().entries, 0)
})

test('a name is a string of 1 to 256 characters', t => {
  for (const name of ['', 'x'.repeat(257), 'a\ud800', 5, null, {}, []]) {
    throws(() => new KvCache({ name }), 'INVALID_OPTION', "'name'", '1 to 256')
  }
  open(t, { name: 'x'.repeat(256) })
  open(t, { name: '__proto__' })
  open(t, { name: undefined })
})

// --- How long it lives ------------------------------------------------------------------------------------------------

test('it lives until the last who has it open closes', async () => {
  const name = freshName()
  const [one, two] = [new KvCache({ name }), new KvCache({ name })]
  await one.put('k', 1)
  await one.close()
  await rejects(one.get('k'), 'CLOSED')
  assert.equal(await two.get('k'), 1)
  const three = new KvCache({ name })
  await two.close()
  assert.equal(three.peek('k'), 1)
  await three.close()
  const again = new KvCache({ name, memory: '1mb' })
  assert.equal(again.peek('k'), undefined)
  await again.close()
})

test('a worker that ends lets go of it, one that goes on keeps it', async t => {
  const name = freshName()
  const [stays, goes] = [thread(t), thread(t)]
  const first = new KvCache({ name })
  await first.put('k', 1)
  await stays.run(openThere, { name })
  await goes.run(openThere, { name })
  await first.close()
  await goes.end()
  assert.equal(await stays.run(({ state }) => state.cache.get('k')), 1)
  const again = open(t, { name })
  assert.equal(again.peek('k'), 1)
  await stays.end()
  assert.equal(again.peek('k'), 1)
})

test('it stays open when nobody holds it, until its thread ends or it is closed; further ones are let go of', async () => {
  const { out } = await run(
    `
    const name = 'forgotten'
    await new KvCache({ name, memory: '1mb' }).put('k', 1)
    for (let i = 0; i < 20; i++) {
      for (let n = 0; n < 500; n++) new KvCache({ name })
      gc()
      await settle()
    }
    console.log(await new KvCache({ name }).get('k'))
    const [a, b] = [new KvCache({ name: 'other' }), new KvCache({ name: 'other' })]
    await a.put('k', 2)
    await a.close()
    console.log(await b.get('k'))
    await b.close()
    console.log(await new KvCache({ name: 'other' }).get('k'))`,
    { flags: ['--expose-gc'] }
  )
  assert.equal(out, '1\n2\nundefined')
})

test('close() of one waits for its own refreshes, not for those of others', async t => {
  const name = freshName()
  const [one, two] = [open(t, { name }), open(t, { name })]
  await one.put('a', 1, STALE)
  await one.put('b', 1, STALE)
  let finish
  await one.get('a', () => new Promise(resolve => (finish = resolve)), { hardTimeout: Infinity })
  await until(() => finish)
  await two.close({ timeout: Infinity })
  assert.equal(one.stats().running, 1)
  let closed = false
  const closing = one.close({ timeout: Infinity }).then(() => (closed = true))
  await new Promise(resolve => setTimeout(resolve, 20))
  assert.equal(closed, false)
  finish(2)
  await closing
})

test('a worker with an idle named cache ends by itself, and so does the process', async () => {
  const { out } = await run(
    `
    import { Worker } from 'node:worker_threads'
    const source = "import(" + JSON.stringify(new URL('./index.js', 'file://' + process.cwd() + '/').href) +
      ").then(({ KvCache }) => new KvCache({ name: 'idle' }).put('k', 1))"
    const cache = new KvCache({ name: 'idle' })
    const worker = new Worker(source, { eval: true })
    worker.on('exit', code => console.log(code, cache.peek('k')))`
  )
  assert.equal(out, '0 1')
})

test('processes made by fork() and cluster have caches of their own', async () => {
  const { out } = await run(
    `
    import { fork } from 'node:child_process'
    import cluster from 'node:cluster'
    import { once } from 'node:events'
    import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
    import { tmpdir } from 'node:os'
    import { join } from 'node:path'
    const folder = mkdtempSync(join(tmpdir(), 'kvcache-'))
    const file = join(folder, 'child.mjs')
    writeFileSync(file, \`
      import { KvCache } from \${JSON.stringify(new URL('./index.js', 'file://' + process.cwd() + '/').href)}
      const cache = new KvCache({ name: 'one', memory: '2mb' })
      const before = await cache.get('k')
      process.send([before ?? null, await cache.get('k', () => 'child')], () => process.disconnect())
    \`)
    const cache = new KvCache({ name: 'one', memory: '1mb' })
    await cache.put('k', 'parent')
    const child = fork(file, [], { execArgv: [] })
    console.log(JSON.stringify((await once(child, 'message'))[0]))
    await once(child, 'exit')
    cluster.setupPrimary({ exec: file, execArgv: [] })
    const worker = cluster.fork()
    console.log(JSON.stringify((await once(worker, 'message'))[0]))
    await once(worker, 'exit')
    rmSync(folder, { recursive: true })
    console.log(cache.peek('k'))`
  )
  assert.equal(out, '[null,"child"]\n[null,"child"]\nparent')
})
