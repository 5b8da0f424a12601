// Guards the tier cloudflareKV, against Workers KV's REST API over a real namespace inside workerd: what a Worker sees, what outlives a
// restart, how often KV is called, and that nobody is shown the token.

import { cloudflareKV } from '../index.js'
import { after, before, beforeEach } from 'node:test'
import { assert, KvCache, openTiered as open, rejects, test } from './helpers/kv.mjs'
import { counted, until } from './helpers/async.mjs'
import { startRest } from './helpers/kv-rest.mjs'

const never = () => assert.fail('a fetcher is called')

/** @type {Awaited<ReturnType<typeof startRest>>} */
let rest
before(async () => {
  rest = await startRest()
})
after(() => rest?.stop())
beforeEach(() => rest.control({}))

/** @param {object} [options] */
function tier(options) {
  const { accountId, namespaceId, apiToken, baseUrl } = rest
  return cloudflareKV({ accountId, namespaceId, apiToken, baseUrl, ...options })
}

/** @param {string} key */
async function asWorker(key) {
  const response = await fetch(`${rest.origin}/as-a-worker?key=${encodeURIComponent(key)}`)
  return (await response.json()).value
}

test('a Worker reads what was put, and so does the next process', async t => {
  const cache = new KvCache({ tiers: [tier()] })
  const large = { items: Array.from({ length: 1000 }, (_, i) => ({ id: i, name: `item ${i}` })) }
  await cache.put('small', { a: 1 }, { metadata: { by: 'us' } })
  await cache.put('large', large)
  await cache.get('loaded', () => ['by', 'a', 'fetcher'])
  await cache.flush()
  assert.deepEqual(await asWorker('small'), { a: 1 })
  assert.deepEqual(await asWorker('large'), large)
  assert.deepEqual(await asWorker('loaded'), ['by', 'a', 'fetcher'])
  await cache.close()
  const next = open(t, { tiers: [tier()] })
  const { value, metadata } = await next.getWithMetadata('small', never)
  assert.deepEqual({ value, metadata }, { value: { a: 1 }, metadata: { by: 'us' } })
  assert.deepEqual(await next.get('large', never), large)
  await next.delete('small')
  assert.equal(await asWorker('small'), null)
})

test('what was invalidated by tag, prefix, pattern or as a whole does not come back in the next process', async () => {
  for (const target of [{ tag: 'mark' }, 'mark:*', '*ark:*', { all: true }]) {
    const cache = new KvCache({ tiers: [tier()] })
    await cache.put('mark:1', 1, { tags: ['mark'] })
    await cache.flush()
    await cache.invalidate(target)
    await cache.put('unmarked', 2)
    await cache.close()
    const next = new KvCache({ tiers: [tier()] })
    assert.equal(await next.get('mark:1'), undefined, JSON.stringify(target))
    assert.equal(await next.get('unmarked'), 2)
    await next.close()
  }
})

test('1,000 keys that are read and written together cost few calls', async t => {
  const keys = Array.from({ length: 1000 }, (_, i) => `many:${i}`)
  const cache = new KvCache({ tiers: [tier()], compression: false })
  await cache.putMany(keys.map((key, i) => [key, i]))
  await cache.flush()
  const writes = (await rest.seen()).calls.filter(call => call === 'PUT bulk')
  assert.ok(writes.length <= 3, `${writes.length} calls wrote`)
  await cache.close()
  const next = open(t, { tiers: [tier({ timeout: '20s' })] })
  await next.get('another')
  await rest.control({})
  const found = await next.getMany(keys)
  assert.equal(found.size, 1000)
  const { calls, tooOften } = await rest.seen()
  assert.ok(calls.length <= 20, `${calls.length} calls read: ${[...new Set(calls)]}`)
  assert.equal(tooOften, 0)
})

test('a value with too much metadata is refused with the figure, in an error event, and served from memory', async t => {
  const cache = open(t, { tiers: [tier()] })
  /** @type {any[]} */
  const errors = []
  cache.on('error', error => void errors.push(error))
  await cache.put('fat', 1, { metadata: 'm'.repeat(1000), tags: Array.from({ length: 20 }, (_, i) => `tag number ${i}`) })
  await cache.flush().catch(() => {})
  await until(() => errors.length > 0, 'it is told')
  assert.equal(errors[0].code, 'ERR_KVCACHE_TIER')
  assert.equal(errors[0].tier, 'cloudflareKV')
  assert.match(errors[0].message, /1,?024/)
  assert.match(errors[0].message, /1,?[1-9]\d\d/)
  assert.equal(await cache.get('fat'), 1)
  assert.equal(await asWorker('fat'), null)
})

test('while KV answers 429 gets go on, and what was written arrives afterwards', async t => {
  const cache = open(t, { tiers: [tier()] })
  await cache.get('warm')
  await rest.control({ fail: [{ status: 429, retryAfter: '1' }] })
  const fetcher = counted(() => 'loaded')
  assert.equal(await cache.get('busy', fetcher), 'loaded')
  assert.equal(await cache.get('busy 2', fetcher), 'loaded')
  await cache.put('written', { n: 1 })
  await until(async () => await asWorker('written') !== null, 'it has arrived')
  assert.deepEqual(await asWorker('written'), { n: 1 })
})

test('what fails for a while is written in the end, and calls whose answers are lost do no harm', async t => {
  const cache = open(t, { tiers: [tier()] })
  await cache.get('warm')
  await rest.control({ fail: [{ status: 503, path: 'bulk' }, { status: 500, path: 'bulk', after: true }] })
  await cache.put('tried', ['again'])
  await until(async () => await asWorker('tried') !== null, 'it has arrived')
  assert.deepEqual(await asWorker('tried'), ['again'])
})

test('the token is in no error, event or figure', async () => {
  const secret = 'wrong-but-secret-token'
  const cache = new KvCache({ tiers: [tier({ apiToken: secret })] })
  /** @type {any[]} */
  const told = []
  cache.on('error', error => void told.push(error))
  assert.equal(await cache.get('k', () => 1), 1)
  await cache.put('p', 1)
  told.push(await reasonOrNothing(cache.delete('k')), await reasonOrNothing(cache.invalidate({ tag: 't' })))
  told.push(await reasonOrNothing(cache.flush({ timeout: 500 })), await reasonOrNothing(cache.close({ timeout: 500 })))
  assert.ok(told.filter(error => error?.code === 'ERR_KVCACHE_TIER').length > 0)
  const text = told.map(error => `${error?.message} ${error?.stack} ${JSON.stringify({ ...error })}`).join() +
    JSON.stringify(cache.stats()) + cache.metrics()
  assert.doesNotMatch(text, /secret/)
})

/** @param {Promise<unknown>} promise */
function reasonOrNothing(promise) {
  return promise.then(() => undefined, error => error)
}

test('a delete that KV refuses is told to its caller, holds here, and arrives later', async t => {
  const cache = open(t, { tiers: [tier({ timeout: 500 })] })
  await cache.put('gone', ['there'])
  await cache.flush()
  await rest.control({ delay: 3000 })
  await rejects(cache.delete('gone'), 'TIER', 'cloudflareKV')
  assert.equal(await cache.get('gone'), undefined)
  await rest.control({})
  await until(async () => await asWorker('gone') === null, 'it has arrived')
})

test('keys that are for markers are refused as an error of that key alone', async t => {
  const cache = open(t, { tiers: [tier()] })
  /** @type {any[]} */
  const errors = []
  cache.on('error', error => void errors.push(error))
  await cache.put('__kvcache__:mine', 1)
  await until(() => errors.length > 0, 'it is told')
  assert.match(errors[0].message, /__kvcache__/)
  await cache.put('fine', 2)
  await until(async () => await asWorker('fine') === 2, 'others go on')
})

test('a base URL in plain http goes to this machine only', () => {
  const options = { accountId: 'acc', namespaceId: 'ns', apiToken: 'token' }
  for (const baseUrl of ['http://127.0.0.1:8080/client/v4', 'http://localhost', 'http://[::1]:1', 'https://example.com/v4']) {
    assert.equal(cloudflareKV({ ...options, baseUrl }).name, 'cloudflareKV')
  }
  for (const baseUrl of ['http://example.com', 'http://127.0.0.1.example.com', 'http://10.0.0.1', 'ftp://127.0.0.1', 'http://localhost.example.com']) {
    assert.throws(() => cloudflareKV({ ...options, baseUrl }), { code: 'ERR_KVCACHE_INVALID_OPTION', message: /baseUrl/ })
  }
})
