// Guards processes that share a Redis: what one invalidates no other serves, and Redis being slow, gone or emptied is survived by all.

import { cloudflareKV, redis } from '../index.js'
import { assert, openTiered as open, rejects, test } from './helpers/kv.mjs'
import { controlled, counted, until } from './helpers/async.mjs'
import { startRedis } from './helpers/redis.mjs'
import { silentPort, deadPort } from './helpers/silent.mjs'
import { childProcess } from './helpers/threads.mjs'

const ROUNDS = 28

/** @param {any} scope @param {{ url: string, lock?: boolean }} options */
const start = ({ state, KvCache, redis }, options) => {
  state.errors = []
  state.cache = new KvCache({ tiers: [redis(options)] })
  state.cache.on('error', (/** @type {any} */ error) => state.errors.push(error.code))
}

/**
 * Processes with a cache each over one Redis.
 * @param {import('node:test').TestContext} t
 * @param {number} count
 * @param {{ durable?: boolean, lock?: boolean }} [options]
 */
async function processes(t, count, { durable, lock } = {}) {
  const server = await startRedis(t, { durable })
  if (server === undefined) return undefined
  const all = Array.from({ length: count }, () => childProcess(t))
  await Promise.all(all.map(one => one.run(start, { url: server.url, lock })))
  return { server, all }
}

const get = (/** @type {any} */ { state }, /** @type {string} */ key) => state.cache.get(key)

/**
 * Waits until a process gives that for a key.
 * @param {ReturnType<typeof childProcess>} one
 * @param {string} key
 * @param {unknown} value
 */
const gives = (one, key, value) => until(async () => await one.run(get, key) === value, `${key} is ${value}`)

test('all kinds of invalidation in one process reach another, near copies included', async t => {
  const setting = await processes(t, 2)
  if (setting === undefined) return
  const { all: [writer, reader] } = setting
  for (let i = 0; i < ROUNDS; i++) {
    await writer.run(({ state }, i) => state.cache.put('k', i, { tags: ['t'], dependsOn: ['p'] }).then(() => state.cache.flush()), i)
    await gives(reader, 'k', i)
    for (let n = 0; n < 3; n++) await reader.run(get, 'k')
    await writer.run(({ state }, i) => [
      () => state.cache.delete('k'), () => state.cache.invalidate('k'), () => state.cache.invalidate({ tag: 't' }),
      () => state.cache.invalidate('k*'), () => state.cache.invalidate('*k*'), () => state.cache.invalidate('p'),
      () => state.cache.invalidate({ all: true })
    ][i % 7](), i)
    await gives(reader, 'k', undefined)
  }
})

test('a soft invalidation makes values stale elsewhere, which one refresh brings up to date', async t => {
  const setting = await processes(t, 2)
  if (setting === undefined) return
  const { all: [writer, reader] } = setting
  for (const target of ['k', { tag: 't' }, 'k*']) {
    await writer.run(({ state }) => state.cache.put('k', 'old', { tags: ['t'] }).then(() => state.cache.flush()))
    await gives(reader, 'k', 'old')
    await writer.run(({ state }, target) => state.cache.invalidate(target, { soft: true }), target)
    await until(async () => await reader.run(({ state }) => state.cache.getWithMetadata('k').then(
      (/** @type {any} */ entry) => entry.state)) === 'stale', 'it is stale there')
    assert.equal(await reader.run(async ({ state, counted }) => {
      const fetcher = counted(() => 'new')
      await Promise.all([state.cache.get('k', fetcher), state.cache.get('k', fetcher)])
      await state.cache.flush()
      return fetcher.count
    }), 1)
    assert.equal(await reader.run(get, 'k'), 'new')
  }
})

test('what one declares to depend, another cuts, and a third does not serve', async t => {
  const setting = await processes(t, 3)
  if (setting === undefined) return
  const { all: [declares, cuts, reads] } = setting
  for (let i = 0; i < 10; i++) {
    await declares.run(async ({ state }, i) => {
      await state.cache.put('parent', i)
      await state.cache.put('child', i, { dependsOn: ['parent'] })
      await state.cache.put('grandchild', i, { dependsOn: ['child'] })
      await state.cache.flush()
    }, i)
    // Every other time it is met cold.
    if (i % 2 === 0) await gives(reads, 'grandchild', i)
    await cuts.run(({ state }, i) => i % 4 < 2 ? state.cache.invalidate('parent') : state.cache.put('parent', 'new'), i)
    await gives(reads, 'grandchild', undefined)
    await gives(reads, 'child', undefined)
    await gives(declares, 'grandchild', undefined)
  }
})

test('a load that runs in one process while another invalidates is kept nowhere', async t => {
  const setting = await processes(t, 2)
  if (setting === undefined) return
  const { server, all: [loader, cutter] } = setting
  for (let i = 0; i < 20; i++) {
    await loader.run(async ({ state, controlled }) => {
      state.fetcher = controlled()
      state.get = state.cache.get('k', state.fetcher, { tags: ['t'] })
      await state.fetcher.call(0)
    })
    await cutter.run(({ state }, i) => i % 2 === 0 ? state.cache.invalidate({ tag: 't' }) : state.cache.delete('k'), i)
    assert.equal(await loader.run(async ({ state }) => {
      state.fetcher.calls[0].resolve('old')
      const value = await state.get
      await state.cache.flush()
      return value
    }), 'old')
    await gives(loader, 'k', undefined)
    assert.equal(await cutter.run(get, 'k'), undefined)
  }
  const fresh = open(t, { tiers: [redis({ url: server.url })] })
  assert.equal(await fresh.get('k'), undefined)
})

test('versions that several processes publish at once are distinct, and all show the highest at the end', async t => {
  const setting = await processes(t, 3)
  if (setting === undefined) return
  for (const id of ['home', 'about', 'contact']) {
    const published = await Promise.all(setting.all.map(one => one.run(async ({ state }, id) => {
      const page = state.cache.versioned('page')
      const all = await Promise.all(Array.from({ length: 10 }, async (_, i) => {
        const value = `${process.pid} ${i}`
        return { value, ...await page.publish(id, value) }
      }))
      await state.cache.flush()
      return all
    }, id)))
    const all = published.flat().sort((a, b) => a.version - b.version)
    assert.equal(new Set(all.map(one => one.version)).size, 30, 'each has a number of its own')
    const last = all[29]
    for (const one of setting.all) {
      const shown = () => one.run(({ state }, id) => state.cache.versioned('page').get(id), id)
      await until(async () => (await shown())?.version === 30, 'the highest is shown')
      assert.equal((await shown())?.value, last?.value)
    }
  }
})

// --- Redis away ----------------------------------------------------------------------------------------------------------

test('while Redis is stopped gets go on, and what was invalidated meanwhile is caught up with', async t => {
  const setting = await processes(t, 2)
  if (setting === undefined) return
  const { server, all: [writer, reader] } = setting
  await writer.run(({ state }) => state.cache.put('k', 'old', { tags: ['t'] }).then(() => state.cache.flush()))
  await gives(reader, 'k', 'old')
  server.pause()
  t.after(server.resume)
  for (let i = 0; i < 3; i++) {
    assert.equal(await reader.run(({ state }, i) => state.cache.get(`new${i}`, () => i), i), i)
    assert.equal(await reader.run(get, 'k'), 'old')
  }
  const error = await writer.run(({ state }) => state.cache.invalidate({ tag: 't' }).then(() => undefined, (/** @type {any} */ error) => error.code))
  assert.equal(error, 'ERR_KVCACHE_TIER')
  assert.equal(await writer.run(get, 'k'), undefined)
  server.resume()
  await gives(reader, 'k', undefined)
  assert.equal(await writer.run(get, 'k'), undefined)
  await writer.run(({ state }) => state.cache.flush())
  assert.deepEqual(await writer.run(({ state }) => state.cache.stats().tiers.redis.pending), 0)
})

for (const durable of [true, false]) {
  test(`Redis killed and started again ${durable ? 'with' : 'without'} its data: nothing invalidated is served`, async t => {
    const setting = await processes(t, 2, { durable })
    if (setting === undefined) return
    const { server, all: [writer, reader] } = setting
    await writer.run(({ state }) => state.cache.putMany([['k', 'old', { tags: ['t'] }], ['other', 1]]).then(() => state.cache.flush()))
    await gives(reader, 'k', 'old')
    await gives(reader, 'other', 1)
    await server.kill()
    assert.equal(await reader.run(({ state }) => state.cache.get('k2', () => 'loaded')), 'loaded')
    assert.equal(await writer.run(({ state }) => state.cache.invalidate({ tag: 't' }).then(
      () => undefined, (/** @type {any} */ error) => error.code)), 'ERR_KVCACHE_TIER')
    await server.start()
    await gives(reader, 'k', undefined)
    // What nobody invalidated is there if Redis has it, else everything is loaded anew.
    if (durable) await gives(reader, 'other', 1)
    await until(() => writer.run(({ state }) => state.cache.put('after', 'there').then(() => state.cache.flush()).then(() => true, () => false)), 'it is taken')
    await gives(reader, 'after', 'there')
    await writer.run(({ state }) => state.cache.delete('after'))
    await gives(reader, 'after', undefined)
  })
}

test('a delete that Redis did not get is told, holds here, and arrives later', async t => {
  const server = await startRedis(t)
  if (server === undefined) return
  const tiers = [redis({ url: server.url, timeout: 200 })]
  const [here, there] = [open(t, { tiers }), open(t, { tiers })]
  /** @type {any[]} */
  const errors = []
  here.on('error', error => void errors.push(error))
  await here.put('k', 1)
  await here.flush()
  assert.equal(await there.get('k'), 1)
  server.pause()
  t.after(server.resume)
  const calls = [here.delete('k'), here.invalidate('k'), here.invalidate('a*'), here.versioned('v').publish('x', 1)]
  await Promise.all(calls.map(call => rejects(call, 'TIER', 'redis')))
  await here.put('p', 1)
  assert.equal(await here.get('k'), undefined)
  await until(() => here.stats().tiers.redis.breaker !== 'closed', 'it rests')
  assert.ok(here.stats().tiers.redis.pending > 0)
  server.resume()
  await until(async () => await there.get('k') === undefined, 'the delete has arrived')
  await until(() => here.stats().tiers.redis.pending === 0, 'all has arrived')
  assert.equal(await there.get('p'), 1)
})

test('a cache whose Redis is away from the start works by itself, and says so once', async t => {
  for (const port of [await deadPort(), await silentPort(t)]) {
    const cache = open(t, { tiers: [redis({ url: `redis://user:secret@127.0.0.1:${port}`, timeout: 100 })] })
    /** @type {any[]} */
    const errors = []
    cache.on('error', error => void errors.push(error))
    const fetcher = counted()
    for (let i = 0; i < 20; i++) await cache.get(`k${i}`, fetcher)
    assert.equal(fetcher.count, 20)
    assert.equal(await cache.get('k1'), 2)
    await cache.put('k1', 'put')
    assert.equal(await cache.get('k1'), 'put')
    await rejects(cache.delete('k1'), 'TIER', 'redis')
    assert.equal(await cache.get('k1'), undefined)
    await until(() => errors.length > 0, 'it is told')
    const told = JSON.stringify([errors.map(error => [error.code, error.message, error.stack]), cache.stats(), cache.metrics()])
    assert.doesNotMatch(told, /secret/)
    await rejects(cache.close({ timeout: 20 }), 'TIER', 'redis')
  }
})

test('a version that cannot be had is an error of the tier that was asked for it, not of the farthest', async t => {
  const port = await deadPort()
  const far = { accountId: 'a', namespaceId: 'n', apiToken: 't', baseUrl: `http://127.0.0.1:${port}`, timeout: 100 }
  const cache = open(t, { tiers: [redis({ url: `redis://127.0.0.1:${port}`, timeout: 100 }), cloudflareKV(far)] })
  await assert.rejects(cache.versioned('v').publish('x', 1), { code: 'ERR_KVCACHE_TIER', tier: 'redis' })
})

test('a look-up of a tier without a log to read does not hold a get up, however long its timeout', async t => {
  const cache = open(t, { tiers: [redis({ url: `redis://127.0.0.1:${await deadPort()}`, timeout: 1000 })] })
  const fetcher = counted()
  // The first may wait for the log; were each to do so, the test would be over before them all.
  for (let i = 0; i < 50; i++) await cache.get(`k${i}`, fetcher)
  assert.equal(fetcher.count, 50)
})

// --- Leases --------------------------------------------------------------------------------------------------------------

test('with lock: true one process loads a key, and the others get what it brings', async t => {
  const setting = await processes(t, 3, { lock: true })
  if (setting === undefined) return
  const loads = await Promise.all(setting.all.map(one => one.run(async ({ state, counted, sleep }) => {
    const fetcher = counted(async () => {
      await sleep(100)
      return 'value'
    })
    const values = []
    for (let i = 0; i < 5; i++) values.push(await state.cache.get(`k${i}`, fetcher))
    if (values.some(value => value !== 'value')) throw new Error(`got ${values}`)
    return fetcher.count
  })))
  assert.equal(loads.reduce((a, b) => a + b), 5)
})

test('the lease of a process that is killed is taken over', async t => {
  const setting = await processes(t, 2, { lock: true })
  if (setting === undefined) return
  const { all: [holder, heir] } = setting
  await holder.run(async ({ state, controlled }) => {
    const fetcher = controlled()
    state.cache.get('k', fetcher).catch(() => {})
    await fetcher.call(0)
  })
  const get = heir.run(({ state }) => state.cache.get('k', () => 'from the heir'))
  await holder.end()
  assert.equal(await get, 'from the heir')
})

test('a load that fails lets go of its lease, and so does one that nobody waits for', async t => {
  const server = await startRedis(t)
  if (server === undefined) return
  const tiers = [redis({ url: server.url, lock: true })]
  const [one, other] = [open(t, { tiers }), open(t, { tiers })]
  await assert.rejects(one.get('k', () => Promise.reject(new Error('down'))), { message: 'down' })
  assert.equal(await other.get('k', () => 'up'), 'up')
  const fetcher = controlled()
  const controller = new AbortController()
  const left = one.get('l', fetcher, { signal: controller.signal })
  await fetcher.call(0)
  controller.abort(new Error('enough'))
  await assert.rejects(left, { message: 'enough' })
  assert.equal(await other.get('l', () => 'up'), 'up')
})
