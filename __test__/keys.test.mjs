// Guards keys: any non-empty string of at most 512 bytes of UTF-8 without lone surrogates, and each a key of its
// own.

import { assert, isError, open, reasonOf, test } from './helpers/kv.mjs'

const GOOD = [
  '__proto__', 'constructor', 'prototype', 'toString', 'valueOf', 'hasOwnProperty', 'then', 'length', '0', '-0', '-1',
  '00', '1e3', '4294967295', ' ', '  ', '\0', 'a', 'a\0', 'a\0b', '\0\0', '\n', '\r\n', '\t', '*', '**', '\\', '\\*',
  ':', '::', ':a', 'a:', '%', '%3A', '/', '..', '"', "'", 'null', 'undefined', 'NaN', 'true', 'default', 'é',
  'e\u0301', 'ÿ', '\x80', '\x7f', '\uFEFF', '\uFEFFa', '\uFFFD', '\uFFFF', '\u2028', '中文', '😀', '👨‍👩‍👧', '\u{10FFFF}',
  'x'.repeat(512), 'é'.repeat(256), '中'.repeat(170), '😀'.repeat(128), 'İ', 'ı', 'ß', 'SS', 'ss', 'A', 'Ａ'
]

const BAD = [
  ['', /empty|at least/], ['x'.repeat(513), /512/], ['é'.repeat(257), /512/], ['中'.repeat(171), /512/],
  ['😀'.repeat(129), /512/], ['x'.repeat(100_000), /512/], ['\uD800', /surrogate/], ['\uDC00', /surrogate/],
  ['a\uD800b', /surrogate/], ['\uDC00\uD800', /surrogate/], ['😀\uD83D', /surrogate/],
  [`${'x'.repeat(511)}\uD800`, /surrogate|512/], [undefined, /string/], [null, /string/], [5, /string/],
  [NaN, /string/], [true, /string/], [1n, /string/], [Symbol('s'), /string/], [{}, /string/], [['a'], /string/],
  [Object('boxed'), /string/], [() => 'k', /string/], [Buffer.from('k'), /string/],
  [{ toString: () => 'k' }, /string/]
]

test('every good key is a key of its own, for every method', async t => {
  const cache = open(t)
  for (const [i, key] of GOOD.entries()) await cache.put(key, i)
  assert.equal(cache.stats().entries, GOOD.length)
  const many = await cache.getMany(GOOD)
  assert.deepEqual([...many.keys()], GOOD)
  const listed = (await cache.list()).keys.map(({ name }) => name)
  assert.deepEqual(new Set(listed), new Set(GOOD))
  for (const [i, key] of GOOD.entries()) {
    assert.equal(await cache.get(key), i, JSON.stringify(key))
    assert.equal(cache.peek(key), i)
    assert.equal(many.get(key), i)
    assert.equal(await cache.has(key), true)
    assert.equal(await cache.delete(key), true)
    assert.equal(await cache.has(key), false)
    const seen = []
    assert.equal(await cache.get(key, (given, context) => seen.push(given, context.key)), 2)
    assert.deepEqual(seen, [key, key])
  }
})

test('good keys go through putMany, getMany with a fetcher, define() and wrap()', async t => {
  const cache = open(t)
  const found = await cache.getMany(GOOD, async missing => {
    assert.deepEqual(missing, GOOD)
    return new Map(missing.map(key => [key, key]))
  })
  assert.deepEqual(
    [...found],
    GOOD.map(key => [key, key])
  )
  await cache.delete(GOOD)
  await cache.putMany(GOOD.map(key => [key, key]))
  assert.equal(cache.stats().entries, GOOD.length)
  const defined = open(t)
  defined.define('*', key => key)
  for (const key of GOOD) assert.equal(await defined.get(key), key)
  const wrapped = open(t)
  const echo = wrapped.wrap(async key => key, { key: key => key })
  for (const key of GOOD) assert.equal(await echo(key), key)
})

test('a key is what it spells, however the string was made', async t => {
  const cache = open(t)
  await cache.put('abcdefghijklmnopqrstuvwxyz', 1)
  const twoByte = 'abcdefghijklmnopqrstuvwxyz😀'.slice(0, 26)
  const cons = ['abcdefghijklm', 'nopqrstuvwxyz'].reduce((a, b) => a + b)
  const built = String.fromCharCode(...Array.from({ length: 26 }, (_, i) => 97 + i))
  const decoded = Buffer.from('abcdefghijklmnopqrstuvwxyz', 'utf16le').toString('utf16le')
  for (const key of [twoByte, cons, built, decoded]) assert.equal(await cache.get(key), 1)
  await cache.put('ÿé', 2)
  assert.equal(await cache.get('ÿé😀'.slice(0, 2)), 2)
  assert.equal(await cache.get(Buffer.from('ÿé').toString()), 2)
})

test('every bad key is refused by every method, with the limit it breaks', async t => {
  const cache = open(t)
  const fetcher = () => 1
  const methods = {
    get: key => cache.get(key),
    'get with a fetcher': key => cache.get(key, fetcher),
    getWithMetadata: key => cache.getWithMetadata(key, fetcher),
    has: key => cache.has(key),
    put: key => cache.put(key, 1),
    putMany: key =>
      cache.putMany([
        ['good', 1],
        [key, 1]
      ]),
    getMany: key => cache.getMany(['good', key], fetcher),
    'delete of several': key => cache.delete(['good', key]),
    wrap: key => cache.wrap(async () => 1, { key: () => key })()
  }
  for (const [key, limit] of BAD) {
    for (const [name, method] of Object.entries(methods)) {
      const error = await reasonOf(method(key))
      isError(error, 'INVALID_KEY', limit)
      assert.ok(error.message.length < 400, `${name}: a message of ${error.message.length} characters`)
    }
    if (!Array.isArray(key)) isError(await reasonOf(cache.delete(key)), 'INVALID_KEY', limit)
    assert.throws(
      () => cache.peek(key),
      error => isError(error, 'INVALID_KEY', limit)
    )
  }
  assert.equal(cache.stats().entries, 0)
})

test('the message shows the key shortened to 64 characters', async t => {
  const cache = open(t)
  const { message } = await reasonOf(cache.get(`start:${'x'.repeat(600)}:end`))
  assert.ok(message.includes(`start:${'x'.repeat(50)}`), message)
  assert.ok(!message.includes('x'.repeat(65)), message)
  assert.ok(!message.includes(':end'), message)
  assert.match(message, /512/)
})

test('a long key is shortened in other errors too', async t => {
  const cache = open(t)
  const key = 'k'.repeat(512)
  for (const promise of [
    cache.put(key, undefined),
    cache.put(key, 1n),
    cache.get(key, () => new Promise(() => {}), { hardTimeout: 5 })
  ]) {
    const { message } = await reasonOf(promise)
    assert.ok(message.includes('k'.repeat(50)), message)
    assert.ok(!message.includes('k'.repeat(65)), message)
  }
})

test('a message with a lone surrogate or control characters in the key is still text', async t => {
  const cache = open(t)
  const { message } = await reasonOf(cache.get(`a\n\0${'\uD800'.repeat(3)}`))
  assert.equal(typeof message, 'string')
  assert.ok(message.length > 10)
})
