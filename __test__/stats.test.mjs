// Guards stats(): every figure counts what its name says.

import { randomBytes } from 'node:crypto'
import { assert, EXPIRED, open, reasonOf, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, settle, sleep, until } from './helpers/async.mjs'

const NUMBERS = [
  'hits', 'nearHits', 'misses', 'stale', 'backgroundUpdates', 'errors', 'evictions', 'invalidations', 'swept', 'coalesced',
  'hitRatio', 'staleRatio', 'entries', 'bytes', 'bytesBeforeCompression', 'queued', 'running', 'refreshesDropped'
]

test('it is whole from the start: every figure is a number, and 0', t => {
  const stats = open(t).stats()
  for (const name of NUMBERS) {
    assert.equal(typeof stats[name], 'number', name)
    if (name !== 'bytes') assert.equal(stats[name], 0, name)
  }
  assert.deepEqual(stats.tiers, {})
  for (const op of ['hit', 'stale', 'miss', 'fetch'])
    assert.deepEqual(stats.latency[op], { count: 0, p50: 0, p99: 0, p999: 0, max: 0 }, op)
})

test('hits, stale answers and misses, and their ratios', async t => {
  const cache = open(t)
  await cache.put('fresh', 1)
  await cache.put('stale', 1, STALE)
  for (let i = 0; i < 3; i++) await cache.get('fresh', counted())
  await cache.get('fresh')
  await cache.getWithMetadata('fresh')
  await cache.get('stale')
  await cache.get('missing')
  await cache.get('loaded', counted())
  const { hits, stale, misses, hitRatio, staleRatio, coalesced } = cache.stats()
  assert.deepEqual({ hits, stale, misses, coalesced }, { hits: 6, stale: 1, misses: 2, coalesced: 0 })
  assert.ok(Math.abs(hitRatio - 6 / 8) < 1e-9)
  assert.ok(Math.abs(staleRatio - 1 / 6) < 1e-9)
})

test('a stale answer with a fetcher is a hit and a stale one, though a refresh follows', async t => {
  const cache = open(t)
  await cache.put('k', 1, STALE)
  await cache.get('k', counted(), STALE)
  await cache.flush()
  await cache.get('k', counted(), STALE)
  await cache.flush()
  const { hits, stale, misses, backgroundUpdates } = cache.stats()
  assert.deepEqual({ hits, stale, misses, backgroundUpdates }, { hits: 2, stale: 2, misses: 0, backgroundUpdates: 2 })
})

test('those who join a load are misses and coalesced', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = Array.from({ length: 5 }, () => cache.get('k', fetcher))
  ;(await fetcher.call(0)).resolve(1)
  await Promise.all(gets)
  const { hits, misses, coalesced } = cache.stats()
  assert.deepEqual({ hits, misses, coalesced }, { hits: 0, misses: 5, coalesced: 4 })
})

test('an answer from staleIfError is a miss, and the failure an error', async t => {
  const cache = open(t)
  await cache.put('k', 1, EXPIRED)
  await cache.get('k', () => Promise.reject(new Error('down')))
  const { hits, misses, stale, errors } = cache.stats()
  assert.deepEqual({ hits, misses, stale, errors }, { hits: 0, misses: 1, stale: 0, errors: 1 })
})

test('getMany counts key by key', async t => {
  const cache = open(t)
  await cache.put('fresh', 1)
  await cache.put('stale', 1, STALE)
  await cache.getMany(['fresh', 'stale', 'a', 'b'], async keys => Object.fromEntries(keys.map(key => [key, 1])))
  await cache.flush()
  const { hits, stale, misses } = cache.stats()
  assert.deepEqual({ hits, stale, misses }, { hits: 2, stale: 1, misses: 2 })
})

test('has, peek, put, delete and list are no gets', async t => {
  const cache = open(t)
  await cache.put('k', 1)
  await cache.has('k')
  await cache.has('missing')
  cache.peek('k')
  cache.peek('missing')
  await cache.list()
  await cache.delete('k')
  const { hits, misses } = cache.stats()
  assert.deepEqual({ hits, misses }, { hits: 0, misses: 0 })
})

test('errors counts failed loads, each attempt of them, and values that cannot be stored', async t => {
  const cache = open(t, { refresh: { retries: 2, backoff: 1 } })
  await reasonOf(cache.get('a', () => Promise.reject(new Error('one'))))
  assert.equal(cache.stats().errors, 1)
  await cache.put('b', 1, STALE)
  await cache.get('b', () => Promise.reject(new Error('three')))
  await cache.flush()
  assert.equal(cache.stats().errors, 4)
  await reasonOf(cache.get('c', () => 1n))
  assert.equal(cache.stats().errors, 5)
  await reasonOf(cache.get('d', () => new Promise(() => {}), { hardTimeout: 5 }))
  assert.equal(cache.stats().errors, 6)
})

test('entries and bytes follow what is stored', async t => {
  const cache = open(t)
  const empty = cache.stats().bytes
  await cache.put('k', randomBytes(5000))
  let { entries, bytes, bytesBeforeCompression } = cache.stats()
  assert.equal(entries, 1)
  assert.ok(bytes - empty > 5000 && bytes - empty < 6000, String(bytes))
  assert.equal(bytesBeforeCompression, 5000)
  await cache.put('j', [1, 2])
  assert.equal(cache.stats().bytesBeforeCompression, 5005)
  await cache.delete(['k', 'j'])
  ;({ entries, bytes, bytesBeforeCompression } = cache.stats())
  assert.deepEqual({ entries, bytesBeforeCompression }, { entries: 0, bytesBeforeCompression: 0 })
  assert.ok(bytes - empty < 1000)
})

test('queued and running show the refresh queue as it is', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  const fetcher = controlled()
  for (const key of ['a', 'b', 'c']) {
    await cache.put(key, 1, STALE)
    await cache.get(key, fetcher)
  }
  await fetcher.call(0)
  const { queued, running } = cache.stats()
  assert.deepEqual({ queued, running }, { queued: 2, running: 1 })
  for (let i = 0; i < 3; i++) (await fetcher.call(i)).resolve(2)
  await cache.flush()
  const after = cache.stats()
  assert.deepEqual([after.queued, after.running], [0, 0])
})

test('latencies are in microseconds, by kind of answer, and their quantiles in order', async t => {
  const cache = open(t)
  await cache.put('stale', 1, STALE)
  for (let i = 0; i < 10; i++) {
    await cache.get(`k${i}`, () => sleep(20).then(() => i))
    await cache.get(`k${i}`)
    await cache.get('stale')
  }
  const { latency } = cache.stats()
  for (const [op, { count, p50, p99, p999, max }] of Object.entries(latency)) {
    assert.equal(count, 10, op)
    assert.ok(p50 > 0 && p50 <= p99 && p99 <= p999 && p999 <= max, `${op}: ${p50} ${p99} ${p999} ${max}`)
  }
  for (const op of ['miss', 'fetch'])
    assert.ok(latency[op].p50 > 19_000 * 0.95 && latency[op].p50 < 20_000_000, `${op}: ${latency[op].p50}`)
  assert.ok(latency.hit.p50 < latency.miss.p50)
})

test('what stats() gave is a picture of that moment', async t => {
  const cache = open(t)
  const before = cache.stats()
  await cache.put('k', 1)
  await cache.get('k')
  assert.equal(before.hits, 0)
  assert.equal(before.entries, 0)
  before.hits = 1000
  before.latency.hit.count = 1000
  assert.equal(cache.stats().hits, 1)
  assert.equal(cache.stats().latency.hit.count, 1)
})

test('it can be turned into JSON', t => {
  const stats = open(t).stats()
  assert.deepEqual(JSON.parse(JSON.stringify(stats)), stats)
})

test('counting does not lose anything over a hundred thousand hits', async t => {
  const cache = open(t)
  await cache.put('k', 1)
  for (let i = 0; i < 100_000; i++) await cache.get('k')
  const { hits, nearHits, latency } = cache.stats()
  assert.equal(hits, 100_000)
  // A near hit is not timed: asking for the time would cost more than the hit.
  assert.equal(latency.hit.count + nearHits, 100_000)
})

test('gets that were aborted or refused leave nothing counted as running', async t => {
  const cache = open(t)
  const controller = new AbortController()
  const get = cache.get('k', () => new Promise(() => {}), { signal: controller.signal })
  await settle()
  controller.abort()
  await reasonOf(get)
  await until(() => cache.stats().running === 0)
  assert.equal(cache.stats().hits, 0)
})
