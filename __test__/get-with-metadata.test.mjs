// Guards getWithMetadata(): what is told of an entry, with and without a fetcher, and metadata itself.

import { assert, EXPIRED, open, rejects, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, sleep } from './helpers/async.mjs'

test('without a fetcher it tells what is there, and undefined where nothing is', async t => {
  const cache = open(t)
  assert.equal(await cache.getWithMetadata('k'), undefined)
  await cache.put('k', { n: 1 }, { maxAge: 60, metadata: { by: 'put' } })
  const entry = await cache.getWithMetadata('k')
  assert.ok(entry.age >= 0 && entry.age < 30)
  assert.deepEqual(
    { ...entry, age: 0 },
    {
      value: { n: 1 },
      metadata: { by: 'put' },
      state: 'fresh',
      age: 0,
      maxAge: 60,
      tags: [],
      dependsOn: []
    }
  )
})

test('with a fetcher everyone who waited for the load is told loaded, of age 0', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = Array.from({ length: 5 }, () => cache.getWithMetadata('k', fetcher, { maxAge: 9, metadata: [1] }))
  ;(await fetcher.call(0)).resolve('value')
  for (const entry of await Promise.all(gets)) {
    assert.deepEqual(entry, {
      value: 'value',
      metadata: [1],
      state: 'loaded',
      age: 0,
      maxAge: 9,
      tags: [],
      dependsOn: []
    })
  }
  assert.equal((await cache.getWithMetadata('k', fetcher)).state, 'fresh')
})

test('the state tells fresh, stale, loaded and stale-if-error apart', async t => {
  const cache = open(t)
  const state = async (...args) => (await cache.getWithMetadata(...args)).state
  const ok = counted()
  const down = () => Promise.reject(new Error('down'))
  await cache.put('fresh', 1)
  await cache.put('stale', 1, STALE)
  await cache.put('expired', 1, EXPIRED)
  assert.equal(await state('fresh', ok), 'fresh')
  assert.equal(await state('stale', down), 'stale')
  assert.equal(await state('expired', down), 'stale-if-error')
  assert.equal(await state('expired', ok), 'loaded')
  assert.equal(await state('missing', ok), 'loaded')
})

test('age is in seconds, grows, and starts again with each store', async t => {
  const cache = open(t)
  const age = async () => (await cache.getWithMetadata('k')).age
  await cache.put('k', 1)
  const start = performance.now()
  await sleep(50)
  const later = await age()
  assert.ok(later >= 0.048 && later <= (performance.now() - start) / 1000 + 0.05, String(later))
  await cache.put('k', 2)
  const again = performance.now()
  assert.ok((await age()) <= (performance.now() - again) / 1000 + 0.02)
})

test('metadata may be any JSON', async t => {
  const cache = open(t)
  for (const metadata of [
    null, true, 0, 1.5, '', 'text', 'ünï😀', [], {}, [1, { a: null }], { etag: 'x', tags: ['a'] }
  ]) {
    await cache.put('k', 1, { metadata })
    assert.deepEqual((await cache.getWithMetadata('k')).metadata, metadata)
  }
  await cache.put('k', 1)
  assert.equal((await cache.getWithMetadata('k')).metadata, undefined)
})

test('metadata is a copy: changing what was given or got changes nothing', async t => {
  const cache = open(t)
  const metadata = { list: [1] }
  await cache.put('k', 1, { metadata })
  metadata.list.push(2)
  const got = (await cache.getWithMetadata('k')).metadata
  try {
    got.list.push(3)
  } catch {
    // Frozen is as good as copied.
  }
  assert.deepEqual((await cache.getWithMetadata('k')).metadata, { list: [1] })
  assert.ok(!Object.isFrozen(metadata))
})

test('an entry that was got is the caller’s own', async t => {
  const cache = open(t)
  await cache.put('k', 'value')
  const entry = await cache.getWithMetadata('k')
  try {
    entry.value = 'changed'
    entry.tags.push('changed')
  } catch {
    // Frozen is as good as copied.
  }
  const again = await cache.getWithMetadata('k')
  assert.equal(again.value, 'value')
  assert.deepEqual(again.tags, [])
})

test('metadata is at most 1024 bytes of UTF-8 as JSON', async t => {
  const cache = open(t)
  await cache.put('k', 1, { metadata: 'x'.repeat(1022) })
  assert.equal((await cache.getWithMetadata('k')).metadata.length, 1022)
  await rejects(cache.put('k', 2, { metadata: 'x'.repeat(1023) }), 'INVALID_OPTION', 'metadata', '1024', '1025')
  await cache.put('k', 1, { metadata: 'é'.repeat(511) })
  await rejects(cache.put('k', 2, { metadata: 'é'.repeat(512) }), 'INVALID_OPTION', 'metadata', '1024')
  await rejects(
    cache.get('other', () => 1, { metadata: 'x'.repeat(5000) }),
    'INVALID_OPTION',
    'metadata',
    '1024'
  )
  assert.equal(await cache.get('k'), 1)
})

test('metadata that JSON cannot carry is refused', async t => {
  const cache = open(t)
  const cycle = {}
  cycle.self = cycle
  for (const metadata of [
    cycle,
    1n,
    () => 1,
    Symbol('s'),
    {
      toJSON() {
        throw new Error('no')
      }
    }
  ]) {
    await rejects(cache.put('k', 1, { metadata }), 'INVALID_OPTION', 'metadata')
  }
})

test('metadata lives with its entry: a new value without it has none', async t => {
  const cache = open(t)
  await cache.put('k', 1, { ...EXPIRED, metadata: 'first' })
  const entry = await cache.getWithMetadata('k', () => 2)
  assert.equal(entry.metadata, undefined)
  assert.equal((await cache.getWithMetadata('k')).metadata, undefined)
})
