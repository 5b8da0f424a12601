// Guards tiers as a reader and a writer see them: what lies behind memory is found by every way of reading, with the ages that it has, and
// lasts as its tier does.

import { disk, redis, cloudflareKV } from '../index.js'
import { assert, EXPIRED, KvCache, openTiered as open, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { controlled, counted, isPending, until } from './helpers/async.mjs'
import { folder } from './helpers/folder.mjs'
import { startRedis } from './helpers/redis.mjs'
import { silentPort } from './helpers/silent.mjs'
import { freshName, thread } from './helpers/threads.mjs'

const never = () => assert.fail('a fetcher is called')

/**
 * What opens one cache after another on one disk tier, each closed before the next is opened.
 * @param {import('node:test').TestContext} t
 * @param {ConstructorParameters<typeof KvCache>[0]} [options]
 */
function restarting(t, options) {
  const path = folder()
  /** @type {KvCache | undefined} */
  let cache
  t.after(() => cache?.close().catch(() => {}))
  return async () => {
    await cache?.close()
    cache = new KvCache({ ...options, tiers: [disk({ path, timeout: '20s' })] })
    return cache
  }
}

test('every way of reading finds what lies in a tier after a restart, with all that belongs to it', async t => {
  const restart = restarting(t)
  const before = await restart()
  await before.put('p', 'a parent')
  await before.put('text', 'hello', { metadata: { n: 1 }, tags: ['t'], dependsOn: ['p'], maxAge: 60 })
  await before.put('object', { a: [1, null] })
  await before.put('bytes', Uint8Array.of(0, 255))
  await before.put('long', 'x'.repeat(100_000))
  assert.equal(await before.get('loaded', () => 'by a fetcher'), 'by a fetcher')

  let cache = await restart()
  assert.equal(cache.peek('text'), undefined)
  assert.equal(await cache.get('text'), 'hello')
  assert.equal(cache.peek('text'), 'hello')
  assert.deepEqual(await cache.get('object', never), { a: [1, null] })
  assert.deepEqual(await cache.get('bytes'), Uint8Array.of(0, 255))
  assert.equal(await cache.get('long', never), 'x'.repeat(100_000))
  assert.equal(await cache.get('loaded', never), 'by a fetcher')
  assert.equal(await cache.get('nothing'), undefined)

  cache = await restart()
  const { age, ...entry } = await cache.getWithMetadata('text', never)
  assert.deepEqual(entry, { value: 'hello', metadata: { n: 1 }, state: 'fresh', maxAge: 60, tags: ['t'], dependsOn: ['p'] })
  assert.ok(age >= 0 && age < 60)
  assert.equal((await cache.getWithMetadata('long')).value.length, 100_000)
  assert.equal(await cache.getWithMetadata('nothing'), undefined)

  cache = await restart()
  assert.equal(await cache.has('text'), true)
  assert.equal(await cache.has('nothing'), false)

  cache = await restart()
  const found = await cache.getMany(['nothing', 'text', 'long', 'object'])
  assert.deepEqual([...found.keys()], ['text', 'long', 'object'])
  cache = await restart()
  const missing = counted((_, keys) => new Map(keys.map((/** @type {string} */ key) => [key, `${key}!`])))
  const both = await cache.getMany(['new', 'text', 'long'], missing)
  assert.deepEqual(missing.keys, [['new']])
  assert.deepEqual([both.get('new'), both.get('text'), both.get('long').length], ['new!', 'hello', 100_000])

  cache = await restart()
  const kv = cache.asKVNamespace()
  assert.deepEqual(await kv.get(['text', 'nothing']), new Map([['text', 'hello'], ['nothing', null]]))
  assert.deepEqual(await kv.get('object', 'json'), { a: [1, null] })
  assert.deepEqual((await kv.getWithMetadata('text')).metadata, { n: 1 })
  await kv.put('by kv', 'value', { metadata: 7 })
  cache = await restart()
  assert.deepEqual({ ...await cache.asKVNamespace().getWithMetadata('by kv') }, { value: 'value', metadata: 7, cacheStatus: null })
})

test('versioned content goes on after a restart', async t => {
  const restart = restarting(t)
  const before = (await restart()).versioned('page')
  await before.publish('home', 'one', { keep: 3 })
  await before.publish('home', 'two', { keep: 3 })
  let pages = (await restart()).versioned('page')
  const shown = await pages.get('home')
  assert.deepEqual([shown?.value, shown?.version], ['two', 2])
  assert.equal((await pages.get('home', { version: 1 }))?.value, 'one')
  pages = (await restart()).versioned('page')
  assert.equal((await pages.publish('home', 'three', { keep: 3 })).version, 3)
  await pages.rollback('home', 1)
  pages = (await restart()).versioned('page')
  assert.equal((await pages.get('home'))?.value, 'one')
  assert.equal((await pages.publish('home', 'four')).version, 4)
  pages = (await restart()).versioned('page')
  assert.equal((await pages.get('home'))?.value, 'four')
})

test('what is stale in a tier is served at once and refreshed once', async t => {
  const restart = restarting(t)
  await (await restart()).put('k', 'old', STALE)
  const cache = await restart()
  const fetcher = controlled()
  const [first, second] = await Promise.all([cache.getWithMetadata('k', fetcher), cache.get('k', fetcher)])
  assert.deepEqual([first.value, first.state, second], ['old', 'stale', 'old'])
  const call = await fetcher.call(0)
  assert.equal(call.context.reason, 'stale')
  assert.equal(call.context.stale.value, 'old')
  assert.equal(await cache.get('k', fetcher), 'old')
  call.resolve('new')
  await until(async () => await cache.get('k', fetcher) === 'new', 'the refresh has landed')
  assert.equal(fetcher.calls.length, 1)
  assert.equal(await (await restart()).get('k'), 'new')
})

test('many stale ones are refreshed together', async t => {
  const restart = restarting(t)
  await (await restart()).putMany([['a', 'old'], ['b', 'old']], STALE)
  const cache = await restart()
  const fetcher = controlled()
  const found = await cache.getMany(['a', 'b'], fetcher)
  assert.deepEqual([...found], [['a', 'old'], ['b', 'old']])
  const call = await fetcher.call(0)
  assert.deepEqual([...call.key].sort(), ['a', 'b'])
  call.resolve(new Map(call.key.map((/** @type {string} */ key) => [key, 'new'])))
  await cache.flush()
  assert.deepEqual([...await cache.getMany(['a', 'b'])], [['a', 'new'], ['b', 'new']])
  assert.equal(fetcher.calls.length, 1)
})

test('a refresh of what was found in a tier runs in the async context of the get that found it', async t => {
  const { AsyncLocalStorage } = await import('node:async_hooks')
  const restart = restarting(t)
  await (await restart()).putMany([['one', 'old'], ['x'.repeat(100), 'x'.repeat(100_000)], ['many', 'x'.repeat(100_000)]], STALE)
  const cache = await restart()
  const context = new AsyncLocalStorage()
  /** @type {unknown[]} */
  const seen = []
  await context.run('one', () => cache.get('x'.repeat(100), () => {
    seen.push(context.getStore())
    return 'new'
  }))
  await context.run('many', () => cache.getMany(['many'], () => {
    seen.push(context.getStore())
    return new Map([['many', 'new']])
  }))
  await cache.flush()
  assert.deepEqual(seen, ['one', 'many'])
})

test('a copy past staleAge stands in for a load that fails, and is told to the fetcher', async t => {
  const restart = restarting(t)
  await (await restart()).put('k', 'old', EXPIRED)
  let cache = await restart()
  assert.equal(await cache.get('k'), undefined)
  const entry = await cache.getWithMetadata('k', (_, { reason, stale }) => {
    assert.deepEqual([reason, stale?.value], ['expired', 'old'])
    throw new Error('down')
  })
  assert.deepEqual([entry.value, entry.state], ['old', 'stale-if-error'])
  cache = await restart()
  assert.equal(await cache.get('k', (_, { notModified }) => notModified(), { maxAge: 60 }), 'old')
  assert.equal((await cache.getWithMetadata('k')).state, 'fresh')
})

test('an open circuit does not keep back what a tier has', async t => {
  const restart = restarting(t, { breaker: { threshold: 1, timeout: '1h' } })
  const before = await restart()
  await before.put('fresh', 1)
  await before.put('old', 2, EXPIRED)
  const cache = await restart()
  const down = () => Promise.reject(new Error('down'))
  await assert.rejects(cache.get('other', down), { message: 'down' })
  assert.equal(cache.breaker().state, 'open')
  assert.equal(await cache.get('fresh', never), 1)
  assert.equal(await cache.get('old', never), 2)
  await rejects(cache.get('nothing', never), 'CIRCUIT_OPEN')
  const again = await restart()
  await assert.rejects(again.get('other', down), { message: 'down' })
  const many = await again.getMany(['fresh', 'nothing', 'old'], never)
  assert.deepEqual([...many], [['fresh', 1], ['old', 2]])
  assert.equal(/** @type {any} */ (many.errors.get('nothing')).code, 'ERR_KVCACHE_CIRCUIT_OPEN')
})

test('forceFresh asks no tier', async t => {
  const restart = restarting(t)
  await (await restart()).put('k', 'old')
  let cache = await restart()
  assert.equal(await cache.get('k', () => 'new', { forceFresh: true }), 'new')
  const many = await cache.getMany(['k'], () => new Map([['k', 'newer']]), { forceFresh: true })
  assert.equal(many.get('k'), 'newer')
  assert.equal(cache.stats().tiers.disk.reads, 0)
  cache = await restart()
  assert.equal(await cache.get('k'), 'newer')
})

test('what ends is not found any more, in memory or out of it', async t => {
  const restart = restarting(t)
  const before = await restart()
  await before.put('short', 1, { maxAge: '30ms', staleAge: '30ms' })
  await before.put('long', 2)
  const cache = await restart()
  await until(async () => await cache.get('short') === undefined, 'it is gone')
  assert.equal(await (await restart()).get('short'), undefined)
  assert.equal(await (await restart()).get('long'), 2)
})

test('what memory has no room for is found in the tier', async t => {
  const restart = restarting(t, { memory: '64kb', compression: false })
  const cache = await restart()
  const keys = Array.from({ length: 100 }, (_, i) => `k${i}`)
  for (const key of keys) await cache.put(key, key.repeat(1000))
  assert.ok(cache.stats().evictions > 0)
  for (const key of keys) assert.equal(await cache.get(key, never), key.repeat(1000))
})

// --- Figures -------------------------------------------------------------------------------------------------------------

test('stats().tiers and list({ tier }) tell of each tier', async t => {
  const restart = restarting(t)
  const before = await restart()
  await before.putMany([['a:1', 1, { metadata: { n: 1 } }], ['a:2', 2], ['b', 3, { maxAge: 3600, staleAge: 3600, staleIfError: 3600 }]])
  await before.flush()
  assert.equal(before.stats().tiers.disk.pending, 0)
  const cache = await restart()
  assert.deepEqual(cache.stats().tiers.disk, { reads: 0, hits: 0, writes: 0, errors: 0, pending: 0, breaker: 'closed' })
  await cache.get('a:1')
  await cache.get('nothing')
  const { reads, hits } = cache.stats().tiers.disk
  assert.ok(reads >= 2 && hits === 1, `reads ${reads}, hits ${hits}`)
  assert.deepEqual((await cache.list()).keys.map(({ name }) => name), ['a:1'])
  assert.deepEqual((await cache.list({ tier: 'memory' })).keys.map(({ name }) => name), ['a:1'])
  const page = await cache.list({ tier: 'disk', prefix: 'a:' })
  assert.deepEqual(page.keys.map(({ name, metadata }) => [name, metadata]), [['a:1', { n: 1 }], ['a:2', undefined]])
  assert.equal(page.complete, true)
  const names = []
  for (let cursor; ;) {
    const { keys, complete, cursor: next } = await cache.list({ tier: 'disk', limit: 1, cursor })
    names.push(...keys.map(({ name }) => name))
    if (complete) break
    cursor = next
  }
  assert.deepEqual(names, ['a:1', 'a:2', 'b'])
  await rejects(cache.list({ tier: 'redis' }), 'INVALID_OPTION', 'tier', "'memory', 'disk'")
  await cache.close()
  assert.equal(cache.stats().tiers.disk.hits, 1)
  assert.deepEqual(new KvCache().stats().tiers, {})
})

test('flush() has everything landed, and close() as well', async t => {
  const path = folder()
  const cache = open(t, { tiers: [disk({ path, timeout: '20s' })] })
  const beside = open(t, { tiers: [disk({ path, timeout: '20s' })] })
  await Promise.all(Array.from({ length: 500 }, (_, i) => cache.get(`k${i}`, () => i)))
  await cache.flush()
  assert.equal(cache.stats().tiers.disk.pending, 0)
  for (let i = 0; i < 500; i++) assert.equal(await beside.get(`k${i}`, never), i)
  await Promise.all(Array.from({ length: 500 }, (_, i) => cache.get(`l${i}`, () => i)))
  await cache.close()
  for (let i = 0; i < 500; i++) assert.equal(await beside.get(`l${i}`, never), i)
})

test('a farther tier refills the nearer one', async t => {
  const server = await startRedis(t)
  if (server === undefined) return
  const far = redis({ url: server.url })
  const writer = open(t, { tiers: [far] })
  await writer.put('k', { n: 1 }, { metadata: 'm', tags: ['t'] })
  await writer.flush()
  const path = folder()
  const cache = new KvCache({ tiers: [disk({ path, timeout: '20s' }), far] })
  assert.deepEqual(await cache.get('k', never), { n: 1 })
  await cache.close()
  const alone = open(t, { tiers: [disk({ path, timeout: '20s' })] })
  const { value, metadata, tags } = await alone.getWithMetadata('k', never)
  assert.deepEqual({ value, metadata, tags }, { value: { n: 1 }, metadata: 'm', tags: ['t'] })
})

// --- Threads -------------------------------------------------------------------------------------------------------------

test('threads that open one name share its tiers', async t => {
  const path = folder()
  const name = freshName()
  const [one, other] = [thread(t), thread(t)]
  const start = (/** @type {any} */ { state, KvCache, disk }, /** @type {any} */ { name, path }) => {
    state.cache = new KvCache({ name, tiers: [disk({ path, timeout: '20s' })] })
  }
  await one.run(start, { name, path })
  await other.run(start, { name, path })
  await one.run(({ state }) => state.cache.put('k', 1))
  assert.equal(await other.run(({ state }) => state.cache.get('k')), 1)
  await one.run(({ state }) => state.cache.close())
  await other.run(({ state }) => state.cache.put('l', 2))
  assert.equal(await other.run(({ state }) => state.cache.get('k')), 1)
  await other.run(({ state }) => state.cache.close())
  const cache = open(t, { tiers: [disk({ path, timeout: '20s' })] })
  assert.deepEqual([...await cache.getMany(['k', 'l'])], [['k', 1], ['l', 2]])
})

test('one load is begun for threads that look behind memory together', async t => {
  const path = folder()
  const name = freshName()
  const threads = [thread(t), thread(t), thread(t)]
  const loads = await Promise.all(threads.map(one => one.run(async ({ state, KvCache, disk, counted }, { name, path }) => {
    state.cache = new KvCache({ name, tiers: [disk({ path, timeout: '20s' })] })
    const fetcher = counted(() => new Promise(resolve => setTimeout(resolve, 10, 'value')))
    for (let i = 0; i < 20; i++) if (await state.cache.get(`k${i}`, fetcher) !== 'value') throw new Error('another value')
    return fetcher.count
  }, { name, path })))
  assert.equal(loads.reduce((a, b) => a + b), 20)
})

test('tiers of one name must be the same, and the refusal shows no credential', async t => {
  const name = freshName()
  const token = 'very-secret-token'
  const kv = (/** @type {string} */ apiToken) =>
    cloudflareKV({ accountId: 'acc', namespaceId: 'ns', apiToken, baseUrl: 'http://127.0.0.1:9' })
  open(t, { name, tiers: [kv(token)] })
  open(t, { name })
  open(t, { name, tiers: [kv(token)] })
  for (const tiers of [[kv('other-secret')], [], [redis({ url: 'redis://user:other-secret@127.0.0.1:1' }), kv(token)]]) {
    const error = captured(() => new KvCache({ name, tiers }))
    throws(() => { throw error }, 'CONFIG_MISMATCH', 'tiers')
    assert.doesNotMatch(JSON.stringify([error.message, error.stack, { ...error }]), /secret/)
  }
})

// --- Loads ---------------------------------------------------------------------------------------------------------------

test('signals, timeouts and close() hold while a tier is asked', async t => {
  const port = await silentPort(t)
  const kv = cloudflareKV({ accountId: 'acc', namespaceId: 'ns', apiToken: 'token', baseUrl: `http://127.0.0.1:${port}/`, timeout: '1h' })
  const cache = new KvCache({ tiers: [kv] })
  const controller = new AbortController()
  const aborted = cache.get('aborted', never, { signal: controller.signal })
  const alone = cache.get('alone')
  const many = cache.getMany(['m', 'n'], () => assert.fail('the fetcher is called'))
  const timed = cache.get('timed', never, { hardTimeout: 20 })
  assert.ok(await isPending(Promise.race([aborted, alone, many, timed.catch(() => new Promise(() => {}))])))
  controller.abort(new Error('enough'))
  await assert.rejects(aborted, { message: 'enough' })
  await rejects(timed, 'TIMEOUT')
  const joined = cache.get('alone', () => 'loaded').then(() => 'settled', () => 'settled')
  const outcomes = Promise.allSettled([alone, many, joined])
  await cache.close({ timeout: 20 }).catch(() => {})
  const [one, several] = await outcomes
  assert.ok(one.status === 'rejected' ? one.reason.code === 'ERR_KVCACHE_CLOSED' : one.value === undefined)
  if (several.status === 'fulfilled') for (const error of several.value.errors.values()) assert.equal(error.code, 'ERR_KVCACHE_CLOSED')
  else assert.equal(several.reason.code, 'ERR_KVCACHE_CLOSED')
})

test('a softTimeout gives the copy in memory while nothing is found out', async t => {
  const cache = open(t, { tiers: [disk({ path: folder() })] })
  await cache.put('k', 'old', EXPIRED)
  const fetcher = controlled()
  const get = cache.get('k', fetcher, { softTimeout: 5 })
  const call = await fetcher.call(0)
  assert.equal(await get, 'old')
  call.resolve('new')
})

// --- Options -------------------------------------------------------------------------------------------------------------

/**
 * @param {() => unknown} run
 * @returns {any}
 */
function captured(run) {
  try {
    run()
  } catch (error) {
    return error
  }
  assert.fail('nothing was thrown')
}

test('options that cannot be are refused by name, and show nothing secret', () => {
  const kv = { accountId: 'acc', namespaceId: 'ns', apiToken: 'secret-token' }
  /** @type {[() => unknown, string][]} */
  const wrong = [
    [() => new KvCache({ tiers: /** @type {any} */ ('disk') }), 'tiers'],
    [() => new KvCache({ tiers: /** @type {any} */ ([{ name: 'disk' }]) }), 'tiers'],
    [() => new KvCache({ tiers: [disk({ path: '/tmp/a' }), disk({ path: '/tmp/b' })] }), 'tiers'],
    [() => disk(/** @type {any} */ (undefined)), 'disk()'],
    [() => disk(/** @type {any} */ ({})), 'path'],
    [() => disk({ path: '' }), 'path'],
    [() => disk({ path: 'a\0b' }), 'path'],
    [() => disk({ path: '/tmp/a', maxSize: 1 }), 'maxSize'],
    [() => disk({ path: '/tmp/a', maxSize: 'big' }), 'maxSize'],
    [() => disk({ path: '/tmp/a', timeout: 0 }), 'timeout'],
    [() => disk({ path: '/tmp/a', timeout: Infinity }), 'timeout'],
    [() => disk(/** @type {any} */ ({ path: '/tmp/a', size: 1 })), 'size'],
    [() => redis(/** @type {any} */ ({})), 'url'],
    [() => redis({ url: 'http://user:secret@host' }), 'url'],
    [() => redis({ url: [] }), 'url'],
    [() => redis({ url: ['redis://a', 'redis//:secret@host'] }), 'url'],
    [() => redis(/** @type {any} */ ({ url: 'redis://a', cluster: 'yes' })), 'cluster'],
    [() => redis({ url: 'redis://:secret@a', cluster: true, sentinel: { name: 'm' } }), 'sentinel'],
    [() => redis({ url: 'redis://a', sentinel: { name: '' } }), 'sentinel.name'],
    [() => redis({ url: 'redis://a', prefix: '{a}' }), 'prefix'],
    [() => redis({ url: 'redis://a', prefix: '' }), 'prefix'],
    [() => redis(/** @type {any} */ ({ url: 'redis://a', lock: 1 })), 'lock'],
    [() => redis({ url: 'redis://a', tls: { ca: '' } }), 'tls.ca'],
    [() => cloudflareKV(/** @type {any} */ ({ ...kv, accountId: 'a/b' })), 'accountId'],
    [() => cloudflareKV(/** @type {any} */ ({ ...kv, namespaceId: undefined })), 'namespaceId'],
    [() => cloudflareKV({ ...kv, apiToken: 'secret\n' }), 'apiToken'],
    [() => cloudflareKV({ ...kv, apiToken: '' }), 'apiToken'],
    [() => cloudflareKV({ ...kv, baseUrl: 'http://example.com' }), 'baseUrl'],
    [() => cloudflareKV({ ...kv, baseUrl: 'https://user:secret@example.com' }), 'baseUrl'],
    [() => cloudflareKV({ ...kv, baseUrl: 'secret' }), 'baseUrl']
  ]
  for (const [run, option] of wrong) {
    const error = captured(run)
    throws(() => { throw error }, 'INVALID_OPTION', option)
    assert.doesNotMatch(JSON.stringify([error.message, error.stack, { ...error }]).replaceAll(/tiers\.test\.mjs.*/g, ''), /secret/)
  }
})

test('what a tier was given cannot be read from it', () => {
  const tier = cloudflareKV({ accountId: 'acc', namespaceId: 'ns', apiToken: 'secret-token' })
  const text = JSON.stringify(tier) + String(Object.getOwnPropertyNames(tier)) + new URL('a:' + String(tier)).href
  assert.doesNotMatch(text, /secret/)
  assert.equal(tier.name, 'cloudflareKV')
  assert.throws(() => { /** @type {any} */ (tier).name = 'other' }, TypeError)
})
