// Guards compression: large values take less room and come back the same, whatever the algorithm; nobody waits for it;
// what does not pay stays plain; nothing newer is overwritten by the compressed form of what was there before.

import { assert, KvCache, open, rejects, STALE, test, throws } from './helpers/kv.mjs'
import { settle, until } from './helpers/async.mjs'

const ALGORITHMS = ['gzip', 'zstd', 'lz4']
const items = n => Array.from({ length: n }, (_, i) => ({ id: i, name: `item ${i}`, text: 'ärger '.repeat(3), price: i * 1.5 }))
/** From some hundred bytes to some megabytes: below and above what is decompressed at once. */
const SIZES = [20, 200, 2000, 20_000]
const noise = n => Uint8Array.from({ length: n }, () => Math.random() * 256)

for (const algorithm of ALGORITHMS) {
  test(`${algorithm}: values of every size and kind come back as they went in, and take less room`, async t => {
    const cache = open(t, { compression: { algorithm } })
    for (const n of SIZES) {
      const value = items(n)
      const text = JSON.stringify(value)
      const bytes = new TextEncoder().encode(text)
      await cache.putMany([[`json${n}`, value], [`text${n}`, text], [`bytes${n}`, bytes], [`buffer${n}`, Buffer.from(bytes)]])
      const before = cache.stats().bytesBeforeCompression
      await cache.flush()
      const packed = cache.stats()
      assert.equal(packed.bytesBeforeCompression, before)
      assert.ok(packed.bytes < before, `${before} bytes became ${packed.bytes}`)
      for (const round of [1, 2]) {
        assert.deepEqual(await cache.get(`json${n}`), value, `${n}, ${round}`)
        assert.equal(await cache.get(`text${n}`), text)
        assert.deepEqual(await cache.get(`bytes${n}`), bytes)
        const buffer = await cache.get(`buffer${n}`)
        assert.ok(Buffer.isBuffer(buffer) && buffer.equals(bytes))
      }
      assert.deepEqual(cache.peek(`json${n}`), value)
      const many = await cache.getMany([`json${n}`, `text${n}`, 'none'])
      assert.deepEqual([...many], [[`json${n}`, value], [`text${n}`, text]])
      await cache.delete([`json${n}`, `text${n}`, `bytes${n}`, `buffer${n}`])
    }
  })
}

test('a value is there at once, plain, and the same before and after it was compressed', async t => {
  const cache = open(t)
  const value = items(5000)
  await cache.put('k', value)
  assert.deepEqual(await cache.get('k'), value)
  await cache.flush()
  assert.deepEqual(await cache.get('k'), value)
  assert.ok(cache.stats().bytes < cache.stats().bytesBeforeCompression / 2)
})

test('what a load stores is compressed too, with its ages and metadata kept', async t => {
  const cache = open(t)
  const value = items(2000)
  await cache.get('k', () => value, { maxAge: 77, metadata: { etag: 'x' } })
  await cache.flush()
  assert.ok(cache.stats().bytes < cache.stats().bytesBeforeCompression / 2)
  const entry = await cache.getWithMetadata('k')
  assert.deepEqual([entry.value, entry.maxAge, entry.metadata, entry.state], [value, 77, { etag: 'x' }, 'fresh'])
  assert.ok(entry.age < 30)
})

test('a copy in hand, a stand-in and what was not modified are decompressed like any value', async t => {
  const cache = open(t, { breaker: false })
  const value = items(2000)
  await cache.put('k', value, { ...STALE, metadata: 'm' })
  await cache.flush()
  let copy
  await cache.get('k', (_, context) => {
    copy = context.stale
    return context.notModified()
  }, { maxAge: 60 })
  await until(() => copy !== undefined)
  await cache.flush()
  assert.deepEqual([copy.value, copy.metadata], [value, 'm'])
  const entry = await cache.getWithMetadata('k')
  assert.deepEqual([entry.value, entry.state, entry.metadata], [value, 'fresh', 'm'])
  assert.ok(cache.stats().bytes < cache.stats().bytesBeforeCompression / 2, 'it stays compressed')
  const stood = await cache.getWithMetadata('k', () => Promise.reject(new Error('down')), { forceFresh: true })
  assert.deepEqual([stood.value, stood.state], [value, 'stale-if-error'])
})

test('what does not get smaller by a tenth, and what is below the threshold, stays plain', async t => {
  const cache = open(t, { compression: { threshold: '2kb' } })
  await cache.put('noise', noise(100_000))
  await cache.put('small', 'a'.repeat(2048))
  const { bytes } = cache.stats()
  await cache.flush()
  assert.equal(cache.stats().bytes, bytes)
  await cache.put('larger', 'a'.repeat(2049))
  await cache.flush()
  assert.ok(cache.stats().bytes < bytes + 1000)
})

test('compression: false keeps everything plain', async t => {
  const cache = open(t, { compression: false })
  await cache.put('k', 'a'.repeat(1_000_000))
  await cache.flush()
  assert.ok(cache.stats().bytes > 1_000_000)
})

test('a value written while the one before is being compressed is never lost to it', async t => {
  const cache = open(t, { compression: { algorithm: 'gzip', level: 9 } })
  for (let round = 0; round < 50; round++) {
    for (let n = 0; n < 20; n++) {
      await cache.put(`k${n}`, `${round}`.repeat(20_000))
      if (n % 3 === 0) await settle()
      if (n % 4 === 0) await cache.put(`k${n}`, `again ${round}`)
      if (n % 5 === 0) await cache.delete(`k${n}`)
    }
    for (let n = 0; n < 20; n++) {
      const expected = n % 5 === 0 ? undefined : n % 4 === 0 ? `again ${round}` : `${round}`.repeat(20_000)
      assert.equal(await cache.get(`k${n}`), expected)
    }
  }
})

test('a get that waits for a worker is answered by close(), or refused, never left', async t => {
  const cache = open(t)
  await cache.put('k', items(20_000))
  await cache.flush()
  const gets = Array.from({ length: 20 }, () => cache.get('k').then(value => value.length, error => error.code))
  await cache.close()
  for (const got of await Promise.all(gets)) assert.ok(got === 20_000 || got === 'ERR_KVCACHE_CLOSED', String(got))
})

test('thousands of values wait to be compressed, the budget holds all the while', async t => {
  const cache = open(t, { memory: '8mb' })
  for (let i = 0; i < 5000; i++) {
    await cache.put(`k${i}`, items(20 + i % 100))
    if (i % 100 === 0) assert.ok(cache.stats().bytes <= 8 * 2 ** 20)
  }
  await cache.flush()
  const { bytes, entries } = cache.stats()
  assert.ok(bytes <= 8 * 2 ** 20)
  assert.ok(entries > 1000)
})

test('wrong options are refused by name', () => {
  for (const [compression, option, ...says] of [
    [true, 'compression', 'false'],
    [{ algorithm: 'brotli' }, 'compression.algorithm', 'brotli', 'zstd'],
    [{ level: 0 }, 'compression.level', '1 to 9'],
    [{ level: 10 }, 'compression.level', '1 to 9'],
    [{ algorithm: 'zstd', level: 20 }, 'compression.level', '1 to 19'],
    [{ algorithm: 'lz4', level: 1 }, 'compression.level', 'no levels'],
    [{ threshold: -1 }, 'compression.threshold', '-1'],
    [{ threshold: '1k' }, 'compression.threshold', '64kb'],
    [{ treshold: 5 }, 'compression.treshold', 'threshold']
  ]) {
    throws(() => new KvCache({ compression }), 'INVALID_OPTION', option, ...says)
  }
})

test('each algorithm takes its levels', async t => {
  for (const [algorithm, level] of [['gzip', 1], ['gzip', 9], ['zstd', 1], ['zstd', 19]]) {
    const cache = open(t, { compression: { algorithm, level } })
    const value = items(1000)
    await cache.put('k', value)
    await cache.flush()
    assert.deepEqual(await cache.get('k'), value)
  }
  await rejects(open(t).get('k', () => 1, { compression: false }), 'INVALID_OPTION', 'compression')
})
