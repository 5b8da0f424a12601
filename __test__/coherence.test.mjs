// Guards I1 and I2 across threads, near caches included. Several threads read, load, put and delete the same few keys at once: what
// each of them saw, taken together, must be one story of each key, near caches being free to differ on a write that has not ended;
// and when what the values are made from changes, no get begun
// after the put or delete that told of it may give what was made before, whatever loads and refreshes were under way.
//
// KVCACHE_COHERENCE_SECONDS in the environment makes it last longer: `KVCACHE_COHERENCE_SECONDS=300 node --test
// __test__/coherence.test.mjs`.

import { disk, redis } from '../index.js'
import { folder } from './helpers/folder.mjs'
import { assert, KvCache, test } from './helpers/kv.mjs'
import { outdated, unexplained } from './helpers/linear.mjs'
import { startRedis } from './helpers/redis.mjs'
import { freshName, thread } from './helpers/threads.mjs'

const SECONDS = Number(process.env.KVCACHE_COHERENCE_SECONDS ?? 5)

/** What a thread does for one round. `order` counts every begin and every end in all threads. Must stand alone. */
async function play({ state, KvCache, threadId }, { options, round, seed, order, clients, operations }) {
  const cache = (state.cache ??= new KvCache(options))
  const now = () => Atomics.add(order, 0, 1)
  let random = seed
  const next = n => (random = (random * 48_271) % 2_147_483_647) % n
  const history = []
  const client = async client => {
    const by = `${threadId}.${client}`
    for (let i = 0; i < operations; i++) {
      const key = `${round}:k${next(3)}`
      const id = `${by}.${i}`
      // Some are compressed, some are decompressed by workers.
      const value = { id, pad: 'x'.repeat(next(20) === 0 ? 300_000 : next(4) === 0 ? 2000 : 10) }
      let loaded = false
      const fetcher = async () => {
        loaded = true
        for (let wait = next(4); wait > 0; wait--) await new Promise(resolve => setImmediate(resolve))
        return value
      }
      const begin = now()
      const did = (kind, value) => history.push({ key, kind, value, begin, end: now(), by })
      switch (next(20)) {
        case 0:
        case 1:
          await cache.put(key, value)
          did('write', id)
          break
        case 2:
          await cache.delete(key)
          did('write', undefined)
          break
        case 3:
          await cache.get(key, fetcher, { forceFresh: true }).then(value => did(loaded ? 'write' : 'read', value.id))
          break
        case 4: {
          const many = await cache.getMany([key], () => fetcher().then(value => ({ [key]: value })))
          did(loaded ? 'write' : 'read', many.get(key)?.id)
          break
        }
        case 5:
          did('read', cache.peek(key)?.id)
          break
        case 6:
        case 7:
        case 8: {
          const got = await cache.get(key, fetcher)
          did(loaded ? 'write' : 'read', got.id)
          break
        }
        case 9:
          await new Promise(resolve => setImmediate(resolve))
          break
        default: {
          const got = await cache.get(key)
          did('read', got?.id)
        }
      }
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, n) => client(n)))
  return history
}

for (const near of [undefined, { values: 'copy' }, false]) {
  const named = near === undefined ? 'near caches' : near === false ? 'no near cache' : 'near caches that copy'

  const seen = near === false ? 'see one story of each key' : 'see nothing that was outdated before they asked'
  test(`threads with ${named} ${seen}`, async t => {
    const options = { name: freshName(), memory: '256mb', maxAge: Infinity, ...(near === undefined ? {} : { near }) }
    const here = { state: {}, KvCache, threadId: 0 }
    t.after(() => here.state.cache?.close())
    const workers = [thread(t), thread(t), thread(t)]
    const order = new Int32Array(new SharedArrayBuffer(4))
    const end = performance.now() + (SECONDS * 1000) / 3
    let seed = Number(process.env.KVCACHE_COHERENCE_SEED ?? 1 + (Date.now() % 1_000_000))
    const reads = { all: 0, found: 0, writes: 0 }
    for (let round = 0; round === 0 || performance.now() < end; round++) {
      const part = { options, round, order, clients: 2, operations: 400 }
      const histories = await Promise.all([
        play(here, { ...part, seed: ++seed }),
        ...workers.map(worker => worker.run(play, { ...part, seed: ++seed }))
      ])
      const byKey = grouped(histories.flat())
      for (const [key, history] of byKey) {
        // The engine is one register for each key. A copy near its reader is told of a write when that ends: two threads may
        // differ in whether they see one that has not.
        const wrong = near === false ? unexplained(history) : outdated(history)
        if (wrong !== undefined) assert.fail(story(key, history, wrong))
        for (const { kind, value } of history) {
          if (kind === 'write') reads.writes++
          else if (++reads.all && value !== undefined) reads.found++
        }
      }
      for (const key of byKey.keys()) await here.state.cache.delete(key)
    }
    // It would prove nothing if nothing was read, or nothing written.
    assert.ok(reads.found > 500 && reads.all > reads.found && reads.writes > 200, JSON.stringify(reads))
    assert.equal(here.state.cache.stats().evictions, 0, 'an eviction is no part of the story')
  }, { timeout: 60_000 + SECONDS * 2000 })
}

/**
 * As `play`, with a source that values are made from: `source` counts its changes, `told` those that the cache was told of. What is made of it
 * lies under a key of its own and under one that depends on that. The cache is told by each way there is; loads say what they are
 * tied to when they begin, before they look at the source, or at their end only.
 */
async function change({ state, KvCache, disk, redis }, { options, tiers, seed, source, told, mine, clients, operations }) {
  const cache = (state.cache ??= new KvCache({
    ...options,
    ...(tiers && { tiers: [...(tiers.disk ? [disk(tiers.disk)] : []), ...(tiers.redis ? [redis(tiers.redis)] : [])] })
  }))
  let random = seed
  const next = n => (random = (random * 48_271) % 2_147_483_647) % n
  const wrong = []
  const seen = { read: 0, loaded: 0, joined: 0 }
  const made = k => ({ n: Atomics.load(source, k), pad: 'x'.repeat(next(20) === 0 ? 300_000 : 10) })
  const tied = k => ({ tags: [`t${k}`], dependsOn: [`parent:${k}`] })
  const tell = {
    put: k => cache.put(`source:${k}:`, made(k), { maxAge: 0, staleAge: 3600, ...tied(k) }),
    delete: k => cache.delete(`source:${k}:`),
    key: k => cache.invalidate(`source:${k}:`),
    tag: k => cache.invalidate({ tag: `t${k}` }),
    // The child's key begins otherwise: it goes with what it depends on.
    prefix: k => cache.invalidate({ prefix: `source:${k}:` }),
    pattern: k => cache.invalidate(`s*e:${k}:`),
    parent: k => cache.put(`parent:${k}`, next(1_000_000_000)),
    parentGone: k => cache.invalidate(`parent:${k}`)
  }
  const client = async first => {
    for (let i = 0; i < operations; i++) {
      const k = next(source.length)
      // Each key has one thread that changes it, and one client there: changes come one after the other.
      if (first && next(6) === 0) {
        const n = Atomics.add(source, mine, 1) + 1
        const ways = Object.values(tell)
        await ways[next(ways.length)](mine)
        Atomics.store(told, mine, n)
        continue
      }
      const isChild = next(4) === 0
      const key = isChild ? `made:${k}` : `source:${k}:`
      const ties = isChild ? { ...tied(k), dependsOn: [`parent:${k}`, `source:${k}:`] } : tied(k)
      const says = next(3)
      const isPassing = next(10) === 0
      let loaded = false
      const fetcher = async (_, context) => {
        loaded = true
        seen.loaded++
        if (says === 1) context.set(ties)
        if (isPassing) context.noStore()
        const value = made(k)
        for (let wait = next(4); wait > 0; wait--) await new Promise(resolve => setImmediate(resolve))
        if (says === 2) context.set(ties)
        return value
      }
      const least = Atomics.load(told, k)
      const ages = next(2) ? { maxAge: 0, staleAge: 3600 } : { maxAge: 3600 }
      const how = { ...ages, ...(says === 0 ? ties : {}) }
      let value
      switch (next(8)) {
        case 0:
          value = cache.peek(key)
          break
        case 1: {
          const many = await cache.getMany([key], async () => {
            loaded = true
            return { [key]: made(k) }
          }, { ...ages, ...ties })
          value = many.get(key)
          break
        }
        case 2:
          value = await cache.get(key)
          break
        default:
          value = await cache.get(key, fetcher, { ...how, forceFresh: next(20) === 0 })
      }
      if (value === undefined) continue
      seen.read++
      if (!loaded) seen.joined++
      if (value.n < least) wrong.push(`${key}: ${value.n} after it was told of ${least}, tied ${says}, loaded ${loaded}`)
    }
  }
  await Promise.all(Array.from({ length: clients }, (_, n) => client(n === 0)))
  return { wrong, seen }
}

/** What the caches of the next test are like. With little memory most is read from the tiers, and what comes from there goes again soon. */
const CACHES = {
  'near caches': { memory: '256mb' },
  'no near cache': { memory: '256mb', near: false },
  'little memory and a disk': { memory: '1mb', tiers: ['disk'] },
  'little memory and Redis': { memory: '1mb', near: false, tiers: ['redis'] },
  'a disk and Redis': { memory: '1mb', tiers: ['disk', 'redis'] }
}

for (const [what, { tiers: kinds, ...rest }] of Object.entries(CACHES)) {
  test(`what was made before a change is not given after it: ${what}`, async t => {
    const options = { name: freshName(), ...rest }
    const here = { state: {}, KvCache, disk, redis }
    const server = kinds?.includes('redis') ? await startRedis(t) : undefined
    if (kinds?.includes('redis') && server === undefined) return
    t.after(() => here.state.cache?.close({ timeout: 1 }).catch(() => {}))
    // A busy machine is not what this is about.
    const tiers = kinds && {
      ...(kinds.includes('disk') && { disk: { path: folder(), timeout: '30s' } }),
      ...(server && { redis: { url: server.url, timeout: '30s' } })
    }
    const workers = [thread(t), thread(t), thread(t)]
    const [source, told] = [0, 1].map(() => new Int32Array(new SharedArrayBuffer(16)))
    const end = performance.now() + (SECONDS * 1000) / 3
    let seed = Number(process.env.KVCACHE_COHERENCE_SEED ?? 1 + (Date.now() % 1_000_000))
    const seen = { read: 0, loaded: 0, joined: 0 }
    do {
      const part = { options, tiers, source, told, clients: 3, operations: 400 }
      const all = await Promise.all([
        change(here, { ...part, seed: ++seed, mine: 0 }),
        ...workers.map((worker, n) => worker.run(change, { ...part, seed: ++seed, mine: n + 1 }))
      ])
      assert.deepEqual(all.flatMap(({ wrong }) => wrong), [])
      for (const one of all) {
        seen.read += one.seen.read
        seen.loaded += one.seen.loaded
        seen.joined += one.seen.joined
      }
    } while (performance.now() < end)
    assert.ok(seen.read > 1000 && seen.loaded > 100 && seen.joined > 100 && told.every(n => n > 10), JSON.stringify([seen, ...told]))
  }, { timeout: 60_000 + SECONDS * 2000 })
}

function grouped(operations) {
  const groups = new Map()
  for (const operation of operations) {
    const group = groups.get(operation.key)
    if (group === undefined) groups.set(operation.key, [operation])
    else group.push(operation)
  }
  return groups
}

/** What led to an operation that nothing explains. */
function story(key, history, { operation, around }) {
  const from = Math.min(...around.map(({ begin }) => begin)) - 200
  const before = history.filter(({ begin, end }) => end >= from && begin <= operation.end)
  before.sort((a, b) => a.begin - b.begin)
  const lines = before.map(({ begin, end, by, kind, value }) => `${begin}..${end} ${by} ${kind} ${value}`)
  return `${key}: nothing explains ${operation.begin}..${operation.end} ${operation.by} ${operation.kind} ${operation.value}\n` +
    lines.join('\n')
}

/** Puts the number that `turn` tells it, some time after it was told. Must stand alone. */
async function putOnTurn({ KvCache }, { options, turn, rounds }) {
  const cache = new KvCache(options)
  for (let n = 1; n <= rounds; n++) {
    Atomics.wait(turn, 0, n - 1)
    Atomics.wait(turn, 1, 0, n % 3)
    await cache.put('k', n)
  }
  await cache.close()
}

test('a loop that gives no other code a turn sees a change by another thread', async t => {
  const options = { name: freshName() }
  const cache = new KvCache(options)
  t.after(() => cache.close({ timeout: 1 }))
  const turn = new Int32Array(new SharedArrayBuffer(8))
  const rounds = 300
  await cache.put('k', 0)
  const putting = thread(t).run(putOnTurn, { options, turn, rounds })
  let spins = 0
  for (let n = 1; n <= rounds; n++) {
    const before = cache.stats().nearHits
    do await cache.get('k')
    while (cache.stats().nearHits === before)
    Atomics.store(turn, 0, n)
    Atomics.notify(turn, 0)
    const late = performance.now() + 20_000
    // By turns: one that V8 may take reads out of, one of microtasks alone.
    if (n % 2 === 0) while (cache.peek('k') !== n) spins++
    else while ((await cache.get('k')) !== n) spins++
    assert.ok(performance.now() < late, 'it was seen, but late')
  }
  await putting
  assert.ok(spins > rounds, 'it did spin')
}, { timeout: 120_000 })
