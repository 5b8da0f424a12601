// Guards list(): the keys that would be served, in byte order, by prefix, page by page while the cache changes.

import { assert, EXPIRED, open, rejects, STALE, test } from './helpers/kv.mjs'
import { until } from './helpers/async.mjs'

/** All pages, one after another; `between` runs after each. */
async function all(cache, options, between = () => {}) {
  const names = []
  let cursor
  for (let pages = 0; ; pages++) {
    assert.ok(pages < 100_000, 'paging comes to an end')
    const page = await cache.list({ ...options, cursor })
    names.push(...page.keys.map(({ name }) => name))
    if (page.complete) {
      assert.equal(page.cursor, undefined)
      return names
    }
    assert.equal(typeof page.cursor, 'string')
    cursor = page.cursor
    await between(page)
  }
}

const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))

test('an empty cache lists nothing', async t => {
  assert.deepEqual(await open(t).list(), { keys: [], complete: true })
})

test('keys are listed in the order of their bytes of UTF-8, which is not that of UTF-16', async t => {
  const cache = open(t)
  const keys = [
    'a', 'b', 'B', '_', ' ', '\0', '\x7f', '~', '10', '9', '1', 'aa', 'ab', 'a\0', 'é', 'e\u0301', 'ÿ', 'Ā', '߿', 'ࠀ',
    '한', '中', '\u{FFFD}', '\u{FFFF}', '\uE000', '\u{10000}', '😀', '\u{10FFFF}', 'a😀', 'a\uFFFD', '__proto__',
    'constructor'
  ]
  await cache.putMany(keys.map(key => [key, 1]))
  const listed = (await cache.list()).keys.map(({ name }) => name)
  assert.deepEqual(listed, [...keys].sort(byBytes))
  assert.notDeepEqual(listed, [...keys].sort(), 'else this test shows nothing')
  assert.deepEqual(await all(cache, { limit: 1 }), listed)
})

test('a prefix is a prefix, whatever it holds', async t => {
  const cache = open(t)
  const keys = [
    'user:1', 'user:10', 'user:2', 'user', 'user:', 'users:1', 'v', '*', '*a', 'é1', 'é2', 'e', '\u{10FFFF}',
    '\u{10FFFF}a', '😀1'
  ]
  await cache.putMany(keys.map(key => [key, 1]))
  const listed = async prefix => (await cache.list({ prefix })).keys.map(({ name }) => name)
  assert.deepEqual(await listed('user:'), ['user:', 'user:1', 'user:10', 'user:2'])
  assert.deepEqual(await listed('user:1'), ['user:1', 'user:10'])
  assert.deepEqual(await listed('*'), ['*', '*a'])
  assert.deepEqual(await listed('é'), ['é1', 'é2'])
  assert.deepEqual(await listed('\u{10FFFF}'), ['\u{10FFFF}', '\u{10FFFF}a'])
  assert.deepEqual(await listed('😀'), ['😀1'])
  assert.deepEqual(await listed('nothing'), [])
  assert.deepEqual(await listed(''), [...keys].sort(byBytes))
  assert.deepEqual(await listed(undefined), [...keys].sort(byBytes))
})

test('pages follow one another without gap or repetition', async t => {
  const cache = open(t)
  const keys = Array.from({ length: 2500 }, (_, i) => `k:${i}`)
  await cache.putMany(keys.map(key => [key, 1]))
  const sorted = [...keys].sort(byBytes)
  for (const limit of [1, 7, 100, 999, 1000, 2499, 2500, 2501, 10_000]) {
    assert.deepEqual(await all(cache, { limit, prefix: 'k:' }), sorted, `limit ${limit}`)
  }
  const first = await cache.list()
  assert.equal(first.keys.length, 1000, 'a thousand unless told otherwise')
  assert.equal(first.complete, false)
})

test('a page says complete only when nothing more follows', async t => {
  const cache = open(t)
  await cache.putMany(['a', 'b', 'c', 'x1'].map(key => [key, 1]))
  assert.equal((await cache.list({ limit: 3 })).complete, false)
  assert.equal((await cache.list({ limit: 4 })).complete, true)
  assert.equal((await cache.list({ limit: 5 })).complete, true)
  assert.equal((await cache.list({ prefix: 'x', limit: 1 })).complete, true)
  assert.equal((await cache.list({ prefix: 'b', limit: 1 })).complete, true)
})

test('while keys come and go, what stays is listed exactly once, in order', async t => {
  const cache = open(t)
  const stays = Array.from({ length: 500 }, (_, i) => `s:${String(i).padStart(4, '0')}`)
  await cache.putMany(stays.map(key => [key, 1]))
  let n = 0
  const churn = async page => {
    n += 1
    const last = page.keys.at(-1).name
    // Before, at and after the cursor; and what was put is taken away again.
    await cache.putMany([
      [`r:${n}`, 1],
      [`${last}+`, 1],
      [`s:${String(n * 17).padStart(4, '0')}x`, 1],
      [`t:${n}`, 1]
    ])
    await cache.delete([`r:${n - 1}`, `t:${n - 1}`])
    await cache.put(stays[n], 2)
  }
  const listed = await all(cache, { limit: 10 }, churn)
  assert.deepEqual(listed, [...listed].sort(byBytes))
  assert.equal(new Set(listed).size, listed.length)
  assert.deepEqual(
    listed.filter(key => /^s:\d{4}$/.test(key)),
    stays
  )
  assert.ok(n > 10)
})

test('a cursor holds although the key it stands at is deleted', async t => {
  const cache = open(t)
  await cache.putMany(['a', 'b', 'c', 'd'].map(key => [key, 1]))
  const { cursor } = await cache.list({ limit: 2 })
  await cache.delete(['a', 'b', 'c'])
  assert.deepEqual(await cache.list({ cursor }), {
    keys: [{ name: 'd', expiration: (await cache.list()).keys[0].expiration }],
    complete: true
  })
})

test('what would not be served is not listed, whether read or not', async t => {
  const cache = open(t)
  await cache.put('fresh', 1)
  await cache.put('stale', 1, STALE)
  await cache.put('expired', 1, EXPIRED)
  await cache.put('soon', 1, { maxAge: '20ms', staleAge: '20ms', staleIfError: 3600 })
  await until(async () => (await cache.list()).keys.length === 2)
  assert.deepEqual(
    (await cache.list()).keys.map(({ name }) => name),
    ['fresh', 'stale']
  )
  assert.deepEqual(await all(cache, { limit: 1 }), ['fresh', 'stale'])
})

test('thousands of keys that would not be served do not end the paging early', async t => {
  const cache = open(t)
  await cache.putMany(Array.from({ length: 5000 }, (_, i) => [`k${i}`, 1, i % 100 === 0 ? {} : EXPIRED]))
  assert.equal((await all(cache, { limit: 7 })).length, 50)
  assert.equal((await cache.list({ limit: 50 })).keys.length, 50)
})

test('each key tells when it stops being served, in UNIX seconds, and its metadata', async t => {
  const cache = open(t)
  const before = Date.now() / 1000
  await cache.put('a', 1, { maxAge: 10, staleAge: 100, metadata: { n: 1 } })
  await cache.put('b', 1, { maxAge: Infinity })
  await cache.put('c', 1, { maxAge: 1, staleAge: Infinity })
  await cache.put('d', 1, { metadata: null })
  const [a, b, c, d] = (await cache.list()).keys
  assert.deepEqual(Object.keys(a).sort(), ['expiration', 'metadata', 'name'])
  assert.ok(Number.isInteger(a.expiration))
  assert.ok(a.expiration >= Math.floor(before + 100) && a.expiration <= before + 130)
  assert.deepEqual(a.metadata, { n: 1 })
  assert.deepEqual(b, { name: 'b' })
  assert.deepEqual(c, { name: 'c' })
  assert.equal(d.metadata, null)
})

test('a limit is a whole number from 1 to 10,000', async t => {
  const cache = open(t)
  await cache.put('k', 1)
  for (const limit of [1, 10_000]) assert.equal((await cache.list({ limit })).keys.length, 1)
  for (const limit of [0, -1, 10_001, 1.5, NaN, Infinity, '5', null, true, {}]) {
    await rejects(cache.list({ limit }), 'INVALID_OPTION', 'limit')
  }
  await rejects(cache.list({ limit: 10_001 }), 'INVALID_OPTION', '10001', /10,?000/)
})

test('a cursor that is none is refused', async t => {
  const cache = open(t)
  await cache.putMany([
    ['a', 1],
    ['b', 1]
  ])
  for (const cursor of [5, null, {}, '', 'garbage', '\uD800', '😀', 'x'.repeat(10_000), '====', '../../etc']) {
    await rejects(cache.list({ cursor }), 'INVALID_OPTION', 'cursor')
  }
})

test('other bad options are refused', async t => {
  const cache = open(t)
  for (const prefix of [5, null, {}, true]) await rejects(cache.list({ prefix }), 'INVALID_OPTION', 'prefix')
  await rejects(cache.list({ tier: 'disk' }), 'INVALID_OPTION', 'tier')
  await rejects(cache.list({ reverse: true }), 'INVALID_OPTION', 'reverse')
  for (const options of [5, 'user:', null]) await rejects(cache.list(options), 'INVALID_OPTION')
})

test('listing counts as no read and starts nothing', async t => {
  const cache = open(t)
  let calls = 0
  cache.define('*', () => (calls += 1))
  await cache.put('stale', 1, STALE)
  await cache.list()
  await cache.flush()
  assert.equal(calls, 0)
  const { hits, misses, stale } = cache.stats()
  assert.deepEqual({ hits, misses, stale }, { hits: 0, misses: 0, stale: 0 })
})

test(
  'of a million keys a page is what lies there, at the start, in the middle and at the end',
  async t => {
    const cache = open(t, { memory: '1gb' })
    const name = i => `key:${String(i).padStart(7, '0')}`
    for (let from = 0; from < 1_000_000; from += 20_000) {
      await cache.putMany(Array.from({ length: 20_000 }, (_, i) => [name(from + i), 1]))
    }
    assert.equal(cache.stats().entries, 1_000_000)
    const names = async options => (await cache.list(options)).keys.map(key => key.name)
    assert.deepEqual(await names({ limit: 3 }), [name(0), name(1), name(2)])
    assert.deepEqual(await names({ limit: 2, prefix: 'key:05' }), [name(500_000), name(500_001)])
    assert.deepEqual(
      await names({ prefix: 'key:099999' }),
      Array.from({ length: 10 }, (_, i) => name(999_990 + i))
    )
    assert.deepEqual(await names({ prefix: 'key:1' }), [])
    let cursor
    for (let page = 0; page < 300; page++) {
      const { keys, ...next } = await cache.list({ limit: 10, prefix: 'key:0123', cursor })
      assert.deepEqual(
        keys.map(key => key.name),
        Array.from({ length: 10 }, (_, i) => name(123_000 + page * 10 + i)).slice(0, keys.length)
      )
      if (next.complete) break
      cursor = next.cursor
    }
    const everything = await all(cache, { limit: 10_000 })
    assert.equal(everything.length, 1_000_000)
    assert.ok(everything.every((key, i) => key === name(i)))
  },
  { timeout: 120_000 }
)
