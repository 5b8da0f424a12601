// @ts-check
// Guards what the Workers KV interface adds to the original's contract: how it and the cache's own methods see each
// other's values, when entries end, what it does where the runtime is wrong, and what the cache has errors for and KV
// has not.

import { KvCacheError, STALE, assert, open, reasonOf, rejects, test } from './helpers/kv.mjs'
import { controlled } from './helpers/async.mjs'
import { run } from './helpers/child.mjs'

/** @param {ArrayBuffer | Uint8Array} bytes */
const hex = bytes => Buffer.from(/** @type {any} */ (bytes)).toString('hex')

/** @param {any} stream */
async function textOf(stream) {
  return new Response(stream).text()
}

// --- What one side puts and the other reads --------------------------------------------------------------------------

test('text put through KV is a string to the cache, bytes and streams are a Uint8Array', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  await kv.put('text', '{"a":1}')
  assert.equal(await cache.get('text'), '{"a":1}')
  await kv.put('odd', 'a\ud800')
  assert.equal(await cache.get('odd'), 'a\ud800')
  const array = new Uint8Array([1, 2])
  for (const bytes of [array, array.buffer, Buffer.from(array), new Response(array).body]) {
    await kv.put('bytes', /** @type {any} */ (bytes))
    const value = await cache.get('bytes')
    assert.equal(Object.prototype.toString.call(value), '[object Uint8Array]')
    assert.equal(Buffer.isBuffer(value), false)
    assert.deepEqual(value, new Uint8Array([1, 2]))
  }
})

test('what the cache stored as JSON is its text to KV, and the value by type json', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  const value = { name: 'Ada', tags: ['a', '😀'], none: null }
  await cache.put('k', value, { metadata: { m: [1] } })
  assert.equal(await kv.get('k'), JSON.stringify(value))
  assert.deepEqual(await kv.get('k', 'json'), value)
  const bytes = /** @type {ArrayBuffer} */ (await kv.get('k', 'arrayBuffer'))
  assert.equal(Buffer.from(bytes).toString(), JSON.stringify(value))
  assert.equal(await textOf(await kv.get('k', 'stream')), JSON.stringify(value))
  assert.deepEqual(await kv.getWithMetadata('k', 'json'), { value, metadata: { m: [1] }, cacheStatus: null })
  assert.deepEqual(await kv.get(['k'], 'json'), new Map([['k', value]]))
  await cache.put('n', 5)
  assert.equal(await kv.get('n'), '5')
  await cache.put('null', null)
  assert.deepEqual([await kv.get('null'), await kv.get('null', 'json')], ['null', null])
})

test('strings and bytes that the cache stored are text and bytes to KV', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  await cache.put('s', 'é')
  assert.equal(await kv.get('s'), 'é')
  assert.equal(hex(/** @type {ArrayBuffer} */ (await kv.get('s', 'arrayBuffer'))), 'c3a9')
  for (const bytes of [new Uint8Array([0xc3, 0xa9]), Buffer.from([0xc3, 0xa9]), new Uint8Array([0xc3, 0xa9]).buffer]) {
    await cache.put('b', bytes)
    assert.equal(await kv.get('b'), 'é')
    assert.equal(hex(/** @type {ArrayBuffer} */ (await kv.get('b', 'arrayBuffer'))), 'c3a9')
  }
  await cache.put('odd', '\ud800')
  assert.equal(await kv.get('odd'), '\ufffd\ufffd\ufffd')
  assert.equal(hex(/** @type {ArrayBuffer} */ (await kv.get('odd', 'arrayBuffer'))), 'eda080')
})

test("what another serializer wrote is that serializer's bytes to KV", async t => {
  const own = open(t, {
    serializer: {
      name: 'upper',
      serialize: value => Buffer.from(String(value).toUpperCase()),
      deserialize: bytes => `read ${Buffer.from(bytes)}`
    }
  })
  await own.put('k', 5n)
  assert.equal(await own.asKVNamespace().get('k'), '5')
  const v8 = open(t, { serializer: 'v8' })
  await v8.put('k', new Map([['a', 1]]))
  const bytes = /** @type {ArrayBuffer} */ (await v8.asKVNamespace().get('k', 'arrayBuffer'))
  const { deserialize } = await import('node:v8')
  assert.deepEqual(deserialize(Buffer.from(bytes)), new Map([['a', 1]]))
  assert.ok((await reasonOf(v8.asKVNamespace().get('k', 'json'))) instanceof SyntaxError)
})

test('values that are read are the reader’s own: KV’s JSON is not frozen, bytes are not shared', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  await cache.put('k', { a: [1] })
  const one = /** @type {any} */ (await kv.get('k', 'json'))
  one.a.push(2)
  assert.deepEqual(await kv.get('k', 'json'), { a: [1] })
  assert.deepEqual(await cache.get('k'), { a: [1] })
  const given = new Uint8Array([1, 2, 3])
  await kv.put('b', given)
  given.fill(9)
  const read = new Uint8Array(/** @type {ArrayBuffer} */ (await kv.get('b', 'arrayBuffer')))
  assert.deepEqual(read, new Uint8Array([1, 2, 3]))
  read.fill(8)
  assert.deepEqual(await cache.get('b'), new Uint8Array([1, 2, 3]))
})

test('large values go through compression and come back whole', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  const text = 'é and more '.repeat(50_000)
  await kv.put('k', text, { metadata: 1 })
  await cache.flush()
  assert.ok(cache.stats().bytes < text.length / 2)
  assert.equal(await kv.get('k'), text)
  assert.deepEqual(await kv.getWithMetadata('k'), { value: text, metadata: 1, cacheStatus: null })
  assert.deepEqual(await kv.getWithMetadata(['k']), new Map([['k', { value: text, metadata: 1 }]]))
  assert.equal(await textOf(await kv.get('k', 'stream')), text)
  assert.equal(await cache.get('k'), text)
})

test('a stream can be read into buffers of the reader', async t => {
  const kv = open(t).asKVNamespace()
  await kv.put('k', 'abcdefgh')
  const stream = await kv.get('k', 'stream')
  assert.ok(stream instanceof ReadableStream)
  const reader = stream.getReader({ mode: 'byob' })
  const seen = []
  for (;;) {
    const { done, value } = await reader.read(new Uint8Array(3))
    if (done) break
    seen.push(Buffer.from(value).toString())
  }
  assert.deepEqual(seen, ['abc', 'def', 'gh'])
})

// --- Ages ------------------------------------------------------------------------------------------------------------

test('an entry is fresh until it expires, and for ever without an expiration, whatever the cache’s ages', async t => {
  const cache = open(t, { maxAge: '1ms', staleAge: '2ms', jitter: 1 })
  const kv = cache.asKVNamespace()
  await kv.put('ends', 'v', { expirationTtl: 60 })
  await kv.put('stays', 'v')
  await new Promise(resolve => setTimeout(resolve, 20))
  const ends = /** @type {any} */ (await cache.getWithMetadata('ends'))
  assert.equal(ends.state, 'fresh')
  assert.ok(ends.maxAge > 58 && ends.maxAge <= 60, `maxAge ${ends.maxAge}`)
  const stays = /** @type {any} */ (await cache.getWithMetadata('stays'))
  assert.deepEqual([stays.state, stays.maxAge], ['fresh', Infinity])
  const page = await kv.list({ prefix: 's' })
  assert.deepEqual(page, { keys: [{ name: 'stays' }], list_complete: true, cacheStatus: null })
})

test('list() tells an expiration exactly as it was put', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  const now = Math.floor(Date.now() / 1000)
  const moments = Array.from({ length: 200 }, (_, i) => now + 62 + i * i * 1000)
  for (const [i, expiration] of moments.entries()) await kv.put(`k${String(i).padStart(3, '0')}`, 'v', { expiration })
  const { keys } = await kv.list()
  assert.deepEqual(keys.map(key => key.expiration), moments)
  assert.deepEqual((await cache.list()).keys.map(key => key.expiration), moments)
})

test('stale values of the cache are read, and neither reading nor missing loads anything', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  let loads = 0
  cache.define('k*', () => ++loads)
  await cache.put('k', 'old', STALE)
  assert.equal(await kv.get('k'), 'old')
  assert.equal(await kv.get('k2'), null)
  assert.deepEqual(await kv.get(['k', 'k2']), new Map([['k', 'old'], ['k2', null]]))
  await cache.flush()
  assert.equal(loads, 0)
})

test('reads count as hits and misses, entries under the define() they belong to', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  cache.define('user:*', () => 'loaded')
  await kv.put('user:1', 'v')
  await kv.get('user:1')
  await kv.get(['user:1', 'user:2', 'other'])
  const { hits, misses } = cache.stats()
  assert.deepEqual([hits, misses], [2, 2])
  assert.ok(cache.metrics().includes('kvcache_pattern_hits_total{pattern="user:*"} 2\n'))
  assert.ok(cache.metrics().includes('kvcache_pattern_misses_total{pattern="user:*"} 1\n'))
})

// --- Order -----------------------------------------------------------------------------------------------------------

test('a put wins over a load that runs, a delete too', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  const fetcher = controlled()
  const one = cache.get('k', fetcher)
  await kv.put('k', 'put')
  ;(await fetcher.call(0)).resolve('loaded')
  assert.equal(await one, 'loaded')
  assert.equal(await kv.get('k'), 'put')
  const two = cache.get('d', fetcher)
  await kv.delete('d')
  ;(await fetcher.call(1)).resolve('loaded')
  assert.equal(await two, 'loaded')
  assert.equal(await kv.get('d'), null)
})

test('what the cache keeps near its callers ends with a write through KV', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  await cache.put('k', { n: 1 })
  for (let i = 0; i < 3; i++) assert.deepEqual(await cache.get('k'), { n: 1 })
  await kv.put('k', '2')
  assert.deepEqual([cache.peek('k'), await cache.get('k')], ['2', '2'])
  await cache.get('k')
  await kv.delete('k')
  assert.deepEqual([cache.peek('k'), await cache.get('k'), await cache.has('k')], [undefined, undefined, false])
})

test('calls without an await between them take effect in their order', async t => {
  const kv = open(t).asKVNamespace()
  const calls = [kv.put('k', 'a'), kv.get('k'), kv.put('k', 'b'), kv.get('k'), kv.delete('k'), kv.get('k')]
  assert.deepEqual(await Promise.all(calls), [undefined, 'a', undefined, 'b', undefined, null])
})

test('a stream is stored once it has ended, and nothing of one that breaks', async t => {
  const kv = open(t).asKVNamespace()
  await kv.put('k', 'before')
  /** @type {any} */
  let source
  const put = kv.put('k', new ReadableStream({ start: controller => (source = controller) }))
  source.enqueue(new Uint8Array([65]))
  assert.equal(await kv.get('k'), 'before')
  source.close()
  await put
  assert.equal(await kv.get('k'), 'A')
  const broken = kv.put('k', new ReadableStream({ start: controller => (source = controller) }))
  source.enqueue(new Uint8Array([66]))
  source.error(new Error('the line broke'))
  assert.equal((await reasonOf(broken)).message, 'the line broke')
  assert.equal(await kv.get('k'), 'A')
})

test('a stream that does not end is given up at the limit', async t => {
  const kv = open(t).asKVNamespace()
  let cancelled = false
  const endless = new ReadableStream({
    pull: controller => controller.enqueue(new Uint8Array(1 << 20)),
    cancel: () => {
      cancelled = true
    }
  })
  const error = await reasonOf(kv.put('k', endless))
  assert.equal(error.message, 'KV PUT failed: 413 Value length of 27262976 exceeds limit of 26214400.')
  assert.ok(cancelled)
})

// --- Where the runtime is wrong --------------------------------------------------------------------------------------

test('a bulk read gives what single reads give: keys like 0 and __proto__, empty values, null, signs', async t => {
  const kv = open(t).asKVNamespace()
  const odd = { e: '', mark: '\ufeffa', n: 'null', z: '-0', big: '1e999' }
  const values = { 0: 'zero', 17: '', __proto__x: 'x', ['__proto__']: 'proto', ...odd }
  const keys = Object.keys(values)
  assert.ok(keys.includes('__proto__'))
  for (const [key, value] of Object.entries(values)) await kv.put(key, value)
  const found = await kv.get([...keys, 'absent'])
  assert.deepEqual([...found.keys()], [...keys, 'absent'])
  for (const key of keys) assert.equal(found.get(key), await kv.get(key))
  assert.equal(found.get('absent'), null)
  const whole = await kv.getWithMetadata(keys)
  assert.deepEqual(whole.get('e'), { value: '', metadata: null })
  assert.deepEqual([...whole.keys()], keys)
  const json = await kv.get(['n', 'z', 'big'], 'json')
  assert.deepEqual([...json.values()], [null, -0, Infinity])
  assert.deepEqual((await kv.getWithMetadata(['n'], 'json')).get('n'), { value: null, metadata: null })
})

test('a bulk read refuses a lone surrogate as a single read does', async t => {
  const kv = open(t).asKVNamespace()
  assert.equal((await reasonOf(kv.get(['\ud800']))).message, 'KV GET_BULK failed: 400 Could not URL-decode key name')
})

test('metadata that JSON has no text for is refused, and shared memory is stored', async t => {
  const kv = open(t).asKVNamespace()
  for (const metadata of [() => {}, Symbol('s')]) {
    const error = await reasonOf(kv.put('k', 'v', { metadata }))
    assert.equal(error.message, 'KV PUT failed: 400 Metadata must be something that JSON can carry.')
  }
  const shared = new SharedArrayBuffer(2)
  new Uint8Array(shared).set([7, 8])
  await kv.put('k', /** @type {any} */ (shared))
  assert.equal(hex(/** @type {ArrayBuffer} */ (await kv.get('k', 'arrayBuffer'))), '0708')
})

test('keys of the cache that KV cannot have do not show', async t => {
  const cache = open(t)
  const kv = cache.asKVNamespace()
  await cache.putMany([['.', 1], ['..', 2], ['...', 3], ['a', 4]])
  assert.deepEqual((await kv.list()).keys.map(key => key.name), ['...', 'a'])
  const page = await kv.list({ limit: 2 })
  assert.deepEqual([page.keys, page.list_complete], [[], false])
  const next = await kv.list({ limit: 2, cursor: /** @type {any} */ (page).cursor })
  assert.deepEqual([next.keys.map(key => key.name), next.list_complete], [['...', 'a'], true])
  assert.ok((await reasonOf(kv.get('.'))) instanceof TypeError)
})

test('pages walk through everything once, in byte order', async t => {
  const kv = open(t).asKVNamespace()
  const names = Array.from({ length: 2500 }, (_, i) => `k:${i * 7919 % 2500}:😀`)
  for (const name of names) await kv.put(name, '')
  for (const limit of [undefined, 1, 7, 1000]) {
    const seen = []
    /** @type {any} */
    let page = await kv.list({ prefix: 'k:', ...(limit === undefined ? {} : { limit }) })
    for (; ; page = await kv.list({ prefix: 'k:', cursor: page.cursor, ...(limit === undefined ? {} : { limit }) })) {
      assert.ok(page.keys.length <= (limit ?? 1000))
      seen.push(...page.keys.map((/** @type {{ name: string }} */ key) => key.name))
      if (page.list_complete) break
    }
    assert.equal('cursor' in page, false)
    assert.deepEqual(seen, names.toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b))))
  }
})

// --- What KV has no errors for ---------------------------------------------------------------------------------------

test('a closed cache and a value over the budget are the cache’s own errors', async t => {
  const cache = open(t, { memory: '64kb', compression: false })
  const kv = cache.asKVNamespace()
  await rejects(kv.put('k', 'x'.repeat(100_000)), 'VALUE_TOO_LARGE', "'k'")
  await cache.close()
  const calls = [kv.get('k'), kv.get(['k']), kv.getWithMetadata('k'), kv.put('k', 'v'), kv.list(), kv.delete('k')]
  for (const call of calls) await rejects(call, 'CLOSED')
})

test('errors of KV are not those of the cache', async t => {
  const kv = open(t).asKVNamespace()
  const calls = [kv.get(''), kv.get('a'.repeat(513)), kv.put('a', /** @type {any} */ ({})), kv.list({ limit: 1001 })]
  for (const error of await Promise.all(calls.map(reasonOf))) assert.equal(error instanceof KvCacheError, false, error)
})

test('namespaces of one cache show the same, those of two caches do not', async t => {
  const cache = open(t)
  const other = open(t)
  await cache.asKVNamespace().put('k', 'v')
  assert.equal(await cache.asKVNamespace().get('k'), 'v')
  assert.equal(await other.asKVNamespace().get('k'), null)
  assert.deepEqual(Object.keys(cache.asKVNamespace()), [])
})

test('a namespace keeps its cache alive', async () => {
  const { out } = await run(
    `const kv = new KvCache().asKVNamespace()
    await kv.put('k', 'v')
    for (let i = 0; i < 5; i++) {
      gc()
      await sleep(1)
    }
    console.log(await kv.get('k'))`,
    { flags: ['--expose-gc'] }
  )
  assert.equal(out, 'v')
})
