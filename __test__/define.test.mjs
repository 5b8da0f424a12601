// Guards define(), which routes keys to fetchers so that get(key) alone loads, and wrap(), which caches a
// function's results.

import { assert, open, reasonOf, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { controlled, counted, settle } from './helpers/async.mjs'

const says = name => () => name

test('get(key) alone loads what a define() routes, once for all who ask', async t => {
  const cache = open(t)
  const fetcher = controlled()
  assert.equal(cache.define('user:*', fetcher), undefined)
  const gets = [cache.get('user:1'), cache.getWithMetadata('user:1'), cache.get('user:1')]
  const call = await fetcher.call(0)
  assert.equal(call.key, 'user:1')
  assert.equal(call.context.reason, 'miss')
  call.resolve({ id: 1 })
  const [first, entry, third] = await Promise.all(gets)
  assert.deepEqual([first, entry.value, third], [{ id: 1 }, { id: 1 }, { id: 1 }])
  assert.equal(entry.state, 'loaded')
  assert.equal(fetcher.calls.length, 1)
  assert.equal(await cache.get('other:1'), undefined)
})

test('a stale value that a define() routes is refreshed by it', async t => {
  const cache = open(t)
  const fetcher = counted(says('new'))
  cache.define('user:*', fetcher)
  await cache.put('user:1', 'old', STALE)
  assert.equal(await cache.get('user:1'), 'old')
  await cache.flush()
  assert.equal(fetcher.count, 1)
  assert.equal(await cache.get('user:1'), 'new')
})

test('an explicit fetcher wins over a define()', async t => {
  const cache = open(t)
  cache.define('user:*', says('defined'))
  assert.equal(await cache.get('user:1', says('explicit')), 'explicit')
  assert.equal(await cache.get('user:2'), 'defined')
})

test('then the exact key wins, then the longest literal part, then the latest', async t => {
  const cache = open(t)
  cache.define('user:1', says('exact'))
  cache.define('*', says('all'))
  cache.define('user:*', says('user'))
  cache.define('user:*:profile', says('profile'))
  cache.define('user:42:*', says('forty-two'))
  cache.define('*:posts', says('posts'))
  assert.equal(await cache.get('user:1'), 'exact')
  assert.equal(await cache.get('thing'), 'all')
  assert.equal(await cache.get('user:2'), 'user')
  assert.equal(await cache.get('user:2:profile'), 'profile')
  assert.equal(await cache.get('user:42:profile'), 'profile', '13 literal characters against 8')
  assert.equal(await cache.get('user:42:else'), 'forty-two')
  assert.equal(await cache.get('user:7:posts'), 'posts', '6 literal characters against 5')
  cache.define('user:*', says('later'))
  assert.equal(await cache.get('user:3'), 'later')
  cache.define('us*er:', says('same length'))
  cache.define('user:*', says('latest of all'))
  assert.equal(await cache.get('user:x:user:'), 'latest of all')
})

test('the order of definition matters only between equals', async t => {
  const cache = open(t)
  cache.define('a:b:*', says('longer'))
  cache.define('a:*', says('shorter'))
  cache.define('a:b:c', says('exact'))
  cache.define('a:b:c*', says('longest pattern'))
  assert.equal(await cache.get('a:b:d'), 'longer')
  assert.equal(await cache.get('a:b:c'), 'exact')
})

test('a star is any run of characters, none and colons included, and the pattern is anchored at both ends', async t => {
  const cache = open(t)
  cache.define('user:*:profile', says('hit'))
  for (const key of [
    'user:1:profile',
    'user::profile',
    'user:1:2:3:profile',
    'user:*:profile',
    'user:\n:profile',
    'user:😀:profile'
  ]) {
    assert.equal(await cache.get(key), 'hit', JSON.stringify(key))
  }
  for (const key of [
    'user:profile',
    'xuser:1:profile',
    'user:1:profile2',
    'User:1:profile',
    'user:1:profile\n',
    '\nuser:1:profile'
  ]) {
    assert.equal(await cache.get(key), undefined, JSON.stringify(key))
  }
})

test('several stars, and stars at the ends, match as they should', async t => {
  const cache = open(t)
  cache.define('*a*b*', says('hit'))
  for (const key of ['ab', 'xaxbx', 'aab', 'abab', 'ba:ab']) assert.equal(await cache.get(key), 'hit', key)
  for (const key of ['ba', 'a', 'b', 'xyz']) assert.equal(await cache.get(key), undefined, key)
  cache.define('x**y', says('two'))
  assert.equal(await cache.get('xy'), 'two')
  assert.equal(await cache.get('x**y'), 'two')
  const other = open(t)
  other.define('ab*ba', says('overlap'))
  assert.equal(await other.get('aba'), undefined, 'the two ends may not share a character')
  assert.equal(await other.get('abba'), 'overlap')
})

test('nothing but the star and the backslash is special', async t => {
  const cache = open(t)
  const literal = ['a.c', 'a+c', '(a)', '[a]', '^a', 'a$', 'a?c', 'a|c', '{a}', '/a/', 'a-c', '.']
  for (const pattern of literal) cache.define(`${pattern}:*`, says(pattern))
  for (const pattern of literal) assert.equal(await cache.get(`${pattern}:1`), pattern)
  assert.equal(await cache.get('abc:1'), undefined)
  assert.equal(await cache.get('aac:1'), undefined)
  cache.define('\\*star', says('a star'))
  assert.equal(await cache.get('*star'), 'a star')
  assert.equal(await cache.get('xstar'), undefined)
  cache.define('\\\\:*', says('a backslash'))
  assert.equal(await cache.get('\\:1'), 'a backslash')
  cache.define('ü😀*', says('beyond ASCII'))
  assert.equal(await cache.get('ü😀é'), 'beyond ASCII')
})

test('a pattern made to take for ever does not', async t => {
  const cache = open(t)
  cache.define(`${'*a'.repeat(60)}*b`, says('never'))
  assert.equal(await cache.get('a'.repeat(500)), undefined)
  assert.equal(await cache.get(`${'a'.repeat(400)}b`), 'never')
})

test('options merge: cache, define, call, context.set', async t => {
  const cache = open(t, { maxAge: 10 })
  cache.define(
    'd:*',
    (key, context) => {
      if (key.endsWith('set')) context.set({ maxAge: 40 })
      return key
    },
    { maxAge: 20, metadata: 'from define' }
  )
  const maxAge = async (...args) => (await cache.getWithMetadata(...args)).maxAge
  assert.equal(await maxAge('plain', says(1)), 10)
  assert.equal(await maxAge('d:1'), 20)
  assert.equal(await maxAge('d:2', says(1)), 20, 'an explicit fetcher changes the fetcher, not the layers')
  assert.equal(await maxAge('d:3', says(1), { maxAge: 30 }), 30)
  assert.equal(await maxAge('d:set'), 40)
  assert.equal((await cache.getWithMetadata('d:1')).metadata, 'from define')
  await cache.put('d:put', 1)
  assert.equal(await maxAge('d:put'), 20)
  await cache.put('d:put2', 1, { maxAge: 30 })
  assert.equal(await maxAge('d:put2'), 30)
  await cache.putMany([['d:many', 1]])
  assert.equal(await maxAge('d:many'), 20)
})

test('has() and peek() load nothing, whatever is defined', async t => {
  const cache = open(t)
  const fetcher = counted()
  cache.define('*', fetcher)
  assert.equal(await cache.has('k'), false)
  assert.equal(cache.peek('k'), undefined)
  await settle()
  assert.equal(fetcher.count, 0)
})

test('getMany() without a fetcher loads what a define() routes', async t => {
  const cache = open(t)
  const fetcher = counted((_, key) => key.toUpperCase())
  cache.define('d:*', fetcher)
  await cache.put('here', 1)
  const found = await cache.getMany(['d:a', 'here', 'gone', 'd:b'])
  assert.deepEqual(
    [...found],
    [
      ['d:a', 'D:A'],
      ['here', 1],
      ['d:b', 'D:B']
    ]
  )
  assert.equal(found.errors.size, 0)
})

test('a define() that fails rejects with its own error', async t => {
  const cache = open(t)
  const error = new Error('no such user')
  cache.define('user:*', () => {
    throw error
  })
  assert.equal(await reasonOf(cache.get('user:1')), error)
})

test('define() refuses what is no pattern, fetcher or option, synchronously', async t => {
  const cache = open(t)
  for (const pattern of ['', undefined, null, 5, {}, [], '\uD800*']) {
    throws(() => cache.define(pattern, says(1)), 'INVALID_OPTION', 'pattern')
  }
  for (const fetcher of [undefined, null, 5, 'x', {}])
    throws(() => cache.define('a:*', fetcher), 'INVALID_OPTION', 'fetcher')
  throws(() => cache.define('a:*', says(1), { maxAge: -1 }), 'INVALID_OPTION', 'maxAge')
  throws(() => cache.define('a:*', says(1), { colour: 'red' }), 'INVALID_OPTION', 'colour')
  assert.equal(await cache.get('a:1'), undefined)
})

test('a define() of another cache is not seen', async t => {
  const one = open(t)
  const two = open(t)
  one.define('*', says('one'))
  assert.equal(await two.get('k'), undefined)
})

test('thousands of definitions are told apart', async t => {
  const cache = open(t)
  for (let i = 0; i < 2000; i++) cache.define(`p${i}:*`, says(i))
  for (const i of [0, 1, 10, 100, 999, 1999]) assert.equal(await cache.get(`p${i}:x`), i)
})

test('wrap() caches a function’s results under key(...args)', async t => {
  const cache = open(t)
  const calls = []
  const load = cache.wrap(
    async (id, lang) => {
      calls.push([id, lang])
      return { id, lang }
    },
    { key: (id, lang) => `user:${id}:${lang}`, maxAge: 50 }
  )
  assert.deepEqual(await load(1, 'en'), { id: 1, lang: 'en' })
  assert.deepEqual(await load(1, 'en'), { id: 1, lang: 'en' })
  assert.deepEqual(await load(1, 'de'), { id: 1, lang: 'de' })
  assert.deepEqual(calls, [
    [1, 'en'],
    [1, 'de']
  ])
  const entry = await cache.getWithMetadata('user:1:en')
  assert.deepEqual(entry.value, { id: 1, lang: 'en' })
  assert.equal(entry.maxAge, 50)
})

test('a wrapped function runs once for all who call it at the same time', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const load = cache.wrap(fetcher, { key: id => `k:${id}` })
  const calls = Array.from({ length: 100 }, () => load(7))
  ;(await fetcher.call(0)).resolve('seven')
  assert.deepEqual(new Set(await Promise.all(calls)), new Set(['seven']))
  assert.equal(fetcher.calls.length, 1)
})

test('a wrapped function is given its caller’s arguments and nothing more, in a refresh too', async t => {
  const cache = open(t)
  const seen = []
  const load = cache.wrap(
    async (...args) => {
      seen.push(args)
      return args.length
    },
    { key: (...args) => `k:${args.join()}`, ...STALE }
  )
  await load(1, 2)
  assert.equal(await load(1, 2), 2)
  await cache.flush()
  assert.deepEqual(seen, [
    [1, 2],
    [1, 2]
  ])
})

test('a wrapped function’s own error reaches its caller, and the next call tries again', async t => {
  const cache = open(t)
  const error = new Error('not found')
  let fail = true
  const load = cache.wrap(
    async () => {
      if (fail) throw error
      return 'found'
    },
    { key: () => 'k' }
  )
  assert.equal(await reasonOf(load()), error)
  fail = false
  assert.equal(await load(), 'found')
})

test('a wrapped function rejects where its key cannot be made', async t => {
  const cache = open(t)
  const error = new Error('no id')
  const throwing = cache.wrap(async () => 1, {
    key() {
      throw error
    }
  })
  assert.equal(await reasonOf(throwing()), error)
  await rejects(cache.wrap(async () => 1, { key: () => '' })(), 'INVALID_KEY')
  await rejects(cache.wrap(async () => 1, { key: () => 5 })(), 'INVALID_KEY')
})

test('wrap() refuses what is no function, key or option, synchronously', async t => {
  const cache = open(t)
  throws(() => cache.wrap(5, { key: () => 'k' }), 'INVALID_OPTION')
  throws(() => cache.wrap(async () => 1), 'INVALID_OPTION', 'key')
  throws(() => cache.wrap(async () => 1, {}), 'INVALID_OPTION', 'key')
  throws(() => cache.wrap(async () => 1, { key: 'k' }), 'INVALID_OPTION', 'key')
  throws(() => cache.wrap(async () => 1, { key: () => 'k', maxAge: 'soon' }), 'INVALID_OPTION', 'maxAge', 'soon')
})
