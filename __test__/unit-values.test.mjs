// Guards I7: what is stored is what JSON, structured clone or the user's serializer make of a value; what is read back
// shares no memory with anything; and freeze() never calls something immutable that is not.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, it } from 'node:test'
import { inspect, isDeepStrictEqual } from 'node:util'
import { createContext, runInContext } from 'node:vm'
import fc from 'fast-check'
import { MAX_KEY_BYTES, show } from '../lib/errors.js'
import { cacheOptions } from '../lib/options.js'
import { decode, decodeEncoded, encode, freeze, Kind, MAX_VALUE_BYTES } from '../lib/values.js'

const json = cacheOptions().serializer
const v8 = cacheOptions({ serializer: 'v8' }).serializer
const text = cacheOptions({
  serializer: {
    name: 'text',
    serialize: value => Buffer.from(`${typeof value}:${String(value)}`),
    deserialize: bytes => Buffer.from(bytes).toString()
  }
}).serializer
const all = { json, v8, text }

/** What the addon hands over for what it stored: a string, or a Buffer that nobody else has. */
const fromStore = ({ data }) => (typeof data === 'string' ? data : Buffer.from(new Uint8Array(data).buffer))

const roundTrip = (value, serializer) => {
  const encoded = encode(value, serializer, 'k')
  return decode(encoded.kind, fromStore(encoded), serializer, 'k')
}

describe('encode', () => {
  it('has the numbers and limits of the engine', () => {
    const source = name => readFileSync(new URL(`../crates/engine/src/${name}.rs`, import.meta.url), 'utf8')
    const [, kinds] = /pub enum Kind \{([^}]*)\}/.exec(source('entry')) ?? assert.fail('entry.rs has no Kind')
    const numbers = [...kinds.matchAll(/^ *(\w+) = (\d+),$/gm)].map(([, name, number]) => [name, Number(number)])
    assert.equal(numbers.length, 8)
    assert.deepEqual({ ...Kind }, Object.fromEntries(numbers))
    assert.match(source('entry'), /MAX_VALUE_BYTES: usize = 25 \* 1024 \* 1024;/)
    assert.equal(MAX_VALUE_BYTES, 25 * 1024 * 1024)
    assert.match(source('key'), new RegExp(`MAX_KEY_BYTES: usize = ${MAX_KEY_BYTES};`))
  })

  for (const [name, serializer] of Object.entries(all)) {
    it(`stores strings and bytes as they are under ${name}`, () => {
      assert.deepEqual(encode('é', serializer, 'k'), { kind: Kind.Text, data: 'é' })
      assert.deepEqual(encode('', serializer, 'k'), { kind: Kind.Text, data: '' })
      const lone = encode('a\ud800', serializer, 'k')
      assert.equal(lone.kind, Kind.Utf16)
      assert.deepEqual([...lone.data], [0x61, 0, 0x00, 0xd8])
      const bytes = new Uint8Array([1, 2])
      assert.deepEqual(encode(bytes, serializer, 'k'), { kind: Kind.Bytes, data: bytes })
      const buffer = Buffer.from([1, 2])
      assert.deepEqual(encode(buffer, serializer, 'k'), { kind: Kind.Buffer, data: buffer })
      assert.deepEqual(encode(bytes.buffer, serializer, 'k'), { kind: Kind.ArrayBuffer, data: bytes })
    })

    for (const value of [undefined, () => 1, class {}, Symbol('s')]) {
      it(`refuses ${show(value)} under ${name}`, () => {
        assert.throws(() => encode(value, serializer, 'user:1'),
          { code: 'ERR_KVCACHE_INVALID_VALUE', key: 'user:1', message: /'user:1'/ })
      })
    }

    it(`refuses more than 25 MiB under ${name}, by the bytes stored`, () => {
      const most = MAX_VALUE_BYTES
      const tooLarge = bytes => ({ code: 'ERR_KVCACHE_VALUE_TOO_LARGE', key: 'k', bytes, limit: most })
      assert.equal(encode(Buffer.alloc(most), serializer, 'k').data.length, most)
      assert.throws(() => encode(Buffer.alloc(most + 1), serializer, 'k'), tooLarge(most + 1))
      assert.throws(() => encode(new ArrayBuffer(most + 1), serializer, 'k'), tooLarge(most + 1))
      assert.equal(encode('a'.repeat(most), serializer, 'k').data.length, most)
      assert.throws(() => encode('a'.repeat(most + 1), serializer, 'k'), tooLarge(most + 1))
      assert.throws(() => encode('€'.repeat(most / 3 + 1), serializer, 'k'), { code: 'ERR_KVCACHE_VALUE_TOO_LARGE' })
      assert.throws(() => encode('\ud800'.repeat(most / 2 + 1), serializer, 'k'), tooLarge(most + 2))
    })
  }

  for (const [value, text] of [
    [null, 'null'], [NaN, 'null'], [-0, '0'], [true, 'true'], [1.5, '1.5'], [[], '[]'],
    [{ a: undefined, b: [undefined] }, '{"b":[null]}'],
    [new Date(0), '"1970-01-01T00:00:00.000Z"'], [new Map([[1, 2]]), '{}'], [Object('boxed'), '"boxed"'],
    [['\ud800'], '["\\ud800"]'],
    [JSON.parse('{"__proto__":1,"constructor":2}'), '{"__proto__":1,"constructor":2}'], [Object.create(null), '{}'],
    [{ toJSON: () => 7 }, '7']
  ]) {
    it(`makes of ${show(value)} under json ${text}`, () => {
      assert.deepEqual(encode(value, json, 'k'), { kind: Kind.Json, data: text })
    })
  }

  it('refuses under json the views that JSON would make nonsense of, naming the way out', () => {
    for (const value of [new Float64Array(2), new Uint16Array(1), new Uint8ClampedArray(1),
      new DataView(new ArrayBuffer(1)),
      new SharedArrayBuffer(2)]) {
      assert.throws(() => encode(value, json, 'k'), { code: 'ERR_KVCACHE_INVALID_VALUE', message: /'v8'/ })
    }
  })

  it('reports what a serializer throws, with the cause', () => {
    const cycle = {}
    cycle.self = cycle
    const thrown = new Error('mine')
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    const fail = () => { throw thrown }
    const failing = cacheOptions({ serializer: { name: 'bad', serialize: fail, deserialize: fail } }).serializer
    for (const [value, serializer] of [
      [cycle, json], [5n, json], [{ toJSON() { throw thrown } }, json], [proxy, json], [{ f() {} }, v8],
      [Promise.resolve(), v8],
      [new SharedArrayBuffer(1), v8], [new Proxy({}, {}), v8], [{}, failing], [5n, failing]
    ]) {
      assert.throws(() => encode(value, serializer, 'user:1'), error => {
        assert.equal(error.code, 'ERR_KVCACHE_SERIALIZE')
        assert.ok(error.cause instanceof Error)
        assert.match(error.message, new RegExp(`'${serializer.name}' could not serialize the value of key 'user:1'`))
        return true
      })
    }
    assert.throws(() => encode({}, failing, 'k'), { cause: thrown })
    assert.throws(() => decode(Kind.Custom, Buffer.alloc(1), failing, 'k'),
      { code: 'ERR_KVCACHE_SERIALIZE', cause: thrown })
  })

  it('reports a serializer that gives no bytes', () => {
    for (const data of [undefined, null, 'text', 5, [1], new ArrayBuffer(1), new Uint16Array(1),
      Promise.resolve(new Uint8Array(1))]) {
      const { serializer } = cacheOptions({ serializer: { name: 'odd', serialize: () => data, deserialize() {} } })
      assert.throws(() => encode(1, serializer, 'k'), { code: 'ERR_KVCACHE_SERIALIZE', message: /gave no Uint8Array/ })
    }
    assert.throws(() => encode({ toJSON() {} }, json, 'k'), { code: 'ERR_KVCACHE_SERIALIZE', message: /gave no text/ })
  })

  it('refuses bytes that were transferred away, and takes empty ones', () => {
    const detached = new Uint8Array(8)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    for (const value of [detached, detached.buffer]) {
      assert.throws(() => encode(value, json, 'k'), { code: 'ERR_KVCACHE_INVALID_VALUE', message: /detached/ })
    }
    for (const value of [new Uint8Array(0), new ArrayBuffer(0), Buffer.alloc(0)]) {
      assert.equal(encode(value, json, 'k').data.length, 0)
    }
  })

  it('copies shared memory, which other threads could change meanwhile', () => {
    const shared = new Uint8Array(new SharedArrayBuffer(4)).fill(7)
    const { kind, data } = encode(shared, json, 'k')
    assert.equal(kind, Kind.Bytes)
    shared.fill(8)
    assert.deepEqual([...data], [7, 7, 7, 7])
  })

  it('knows bytes of another realm', () => {
    const context = createContext()
    assert.equal(encode(runInContext('new Uint8Array(3)', context), json, 'k').kind, Kind.Bytes)
    assert.equal(encode(runInContext('new ArrayBuffer(3)', context), json, 'k').kind, Kind.ArrayBuffer)
  })
})

describe('decode', () => {
  it('gives strings back unit by unit', () => {
    const units = fc.array(fc.oneof(fc.nat(0xffff), fc.integer({ min: 0xd800, max: 0xdfff })), { maxLength: 50 })
    fc.assert(fc.property(units, codes => {
      const value = String.fromCharCode(...codes)
      for (const serializer of Object.values(all)) assert.equal(roundTrip(value, serializer), value)
    }))
  })

  it('gives back what JSON gives back', () => {
    fc.assert(fc.property(fc.jsonValue({ maxDepth: 5 }), value => {
      assert.deepEqual(roundTrip(value, json), typeof value === 'string' ? value : JSON.parse(JSON.stringify(value)))
    }))
  })

  it('gives back what structured clone carries', () => {
    const values = fc.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withTypedArray: true,
      withSparseArray: true })
    // Node's own comparison takes no invalid date for another, before Node 24.
    const comparable = value => value !== undefined && !inspect(value, { depth: Infinity }).includes('Invalid Date')
    fc.assert(fc.property(values.filter(comparable), value => {
      let cloned
      try {
        cloned = structuredClone(value)
      } catch {
        return
      }
      assert.ok(isDeepStrictEqual(roundTrip(value, v8), cloned))
    }), { numRuns: 500 })
  })

  it('keeps cycles, shared parts, errors and every kind of view under v8', () => {
    const shared = { n: 1n }
    const kinds = [Int8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array,
      Float64Array, BigInt64Array, BigUint64Array]
    const views = kinds.map(View => View.from([1, 2, 3].map(typeof new View(1)[0] === 'bigint' ? BigInt : Number)))
    const value = { a: shared, b: shared, views, buffer: Buffer.from('hi'),
      dataView: new DataView(new ArrayBuffer(5), 1, 3), error: new RangeError('r') }
    value.self = value
    const back = roundTrip(value, v8)
    assert.equal(back.self, back)
    assert.equal(back.a, back.b)
    assert.deepEqual(back.views, views)
    assert.ok(Buffer.isBuffer(back.buffer))
    assert.equal(back.buffer.toString(), 'hi')
    assert.equal(back.dataView.byteLength, 3)
    assert.ok(back.error instanceof RangeError)
  })

  it('gives each view a buffer of its own, the whole of it', () => {
    const value = [Buffer.from('one'), new Uint8Array([1, 2]), new Float64Array([1]), new DataView(new ArrayBuffer(2))]
    for (const back of [roundTrip(value, v8), ...value.map(one => [roundTrip(one, v8)])]) {
      const buffers = new Set(back.map(view => view.buffer))
      assert.equal(buffers.size, back.length)
      for (const view of back) assert.equal(view.buffer.byteLength, view.byteLength)
    }
  })

  it('gives bytes back as what they were', () => {
    for (const serializer of Object.values(all)) {
      const bytes = roundTrip(new Uint8Array([1, 2]), serializer)
      assert.equal(Object.getPrototypeOf(bytes), Uint8Array.prototype)
      assert.deepEqual([...bytes], [1, 2])
      const buffer = roundTrip(Buffer.from([3]), serializer)
      assert.ok(Buffer.isBuffer(buffer))
      const arrayBuffer = roundTrip(new Uint8Array([4, 5]).buffer, serializer)
      assert.ok(arrayBuffer instanceof ArrayBuffer)
      assert.deepEqual([...new Uint8Array(arrayBuffer)], [4, 5])
    }
  })

  it('gives only the part of a larger ArrayBuffer that is the value', () => {
    const large = Buffer.from(new Uint8Array([1, 2, 3, 4]).buffer, 1, 2)
    assert.deepEqual([...new Uint8Array(/** @type {any} */ (decode(Kind.ArrayBuffer, large, json, 'k')))], [2, 3])
    assert.deepEqual([.../** @type {any} */ (decode(Kind.Bytes, large, json, 'k'))], [2, 3])
  })

  it('reports bytes that cannot be read', () => {
    const broken = { code: 'ERR_KVCACHE_SERIALIZE', key: 'k' }
    assert.throws(() => decode(Kind.Json, '{"a"', json, 'k'), { ...broken, message: /could not deserialize/ })
    assert.throws(() => decode(Kind.V8, Buffer.from([0xff, 0x0f, 0x7f]), v8, 'k'), broken)
    assert.throws(() => decode(Kind.V8, Buffer.alloc(0), v8, 'k'), broken)
    assert.throws(() => decode(Kind.Custom, Buffer.from('x'), json, 'k'), { ...broken, message: /is not who wrote it/ })
  })
})

describe('decodeEncoded', () => {
  it('leaves the bytes of the user alone, every time', () => {
    const pooled = Buffer.from('pooled')
    for (const value of [new Uint8Array([1, 2, 3]), pooled, new Uint8Array([4]).buffer]) {
      const { kind, data } = encode(value, json, 'k')
      const [one, two] = [decodeEncoded(kind, data, json, 'k'), decodeEncoded(kind, data, json, 'k')]
      assert.deepEqual(one, value)
      assert.equal(Object.getPrototypeOf(one), Object.getPrototypeOf(value))
      new Uint8Array(one.buffer ?? one).fill(99)
      assert.notDeepEqual(one, value)
      assert.deepEqual(two, value)
    }
    assert.equal(pooled.toString(), 'pooled')
  })

  it('never hands out what a custom serializer keeps', () => {
    const kept = new Uint8Array([1, 2, 3])
    const keeping = { name: 'same', serialize: () => kept, deserialize: bytes => bytes }
    const { serializer } = cacheOptions({ serializer: keeping })
    const { kind, data } = encode({}, serializer, 'k')
    decodeEncoded(kind, data, serializer, 'k').fill(0)
    assert.deepEqual([...kept], [1, 2, 3])
  })

  it('gives each call its own structured clone', () => {
    const { kind, data } = encode({ bytes: new Uint8Array([1]), map: new Map([[1, {}]]) }, v8, 'k')
    const [one, two] = [decodeEncoded(kind, data, v8, 'k'), decodeEncoded(kind, data, v8, 'k')]
    one.bytes[0] = 9
    one.map.get(1).x = 1
    assert.deepEqual(two, { bytes: new Uint8Array([1]), map: new Map([[1, {}]]) })
  })
})

describe('freeze', () => {
  /** Everything that hangs together with a value. */
  function* parts(value, seen = new Set()) {
    if (typeof value !== 'object' || value === null || seen.has(value)) return
    seen.add(value)
    yield value
    for (const name of Reflect.ownKeys(value)) yield* parts(value[name], seen)
  }
  const deep = (depth, wrap) => {
    let value = wrap(1)
    for (let i = 0; i < depth; i++) value = wrap(value)
    return value
  }

  for (const value of [undefined, null, 1, 'text', true, 5n, Symbol('s')]) {
    it(`has nothing to do for ${show(value)}`, () => assert.equal(freeze(value), true))
  }

  it('freezes all of what JSON gives', () => {
    fc.assert(fc.property(fc.json({ maxDepth: 8 }), source => {
      const value = JSON.parse(source)
      const before = JSON.stringify(value)
      assert.equal(freeze(value, Kind.Json), true)
      for (const part of parts(value)) assert.ok(Object.isFrozen(part))
      assert.equal(JSON.stringify(value), before)
    }))
    const odd = JSON.parse('{"__proto__":{"a":[{}]},"constructor":{}}')
    freeze(odd, Kind.Json)
    for (const part of parts(odd)) assert.ok(Object.isFrozen(part))
  })

  it('leaves alone what others left on Object.prototype', () => {
    const stray = {}
    Object.defineProperty(Object.prototype, 'polluted', { value: stray, enumerable: true, configurable: true })
    try {
      for (const kind of [Kind.Json, Kind.V8, Kind.Custom]) assert.equal(freeze({ a: {} }, kind), true)
      assert.equal(Object.isFrozen(stray), false)
    } finally {
      delete Object.prototype.polluted
    }
  })

  for (const [name, kind] of [['json', Kind.Json], ['v8', Kind.V8], ['custom', Kind.Custom]]) {
    it(`takes 100,000 levels under ${name}`, () => {
      for (const wrap of [inner => [inner], inner => ({ inner })]) {
        let value = deep(100_000, wrap)
        assert.equal(freeze(value, kind), true)
        let levels = 0
        while (typeof value === 'object') {
          assert.ok(Object.isFrozen(value))
          value = Array.isArray(value) ? value[0] : value.inner
          levels++
        }
        assert.equal(levels, 100_001)
      }
    })
  }

  it('takes cycles and shared parts', () => {
    for (const kind of [Kind.V8, Kind.Custom]) {
      const shared = { list: [1, { a: 1 }] }
      const value = { shared, again: [shared, shared] }
      value.self = value
      shared.up = value
      assert.equal(freeze(value, kind), true)
      for (const part of parts(value)) assert.ok(Object.isFrozen(part))
    }
  })

  it('walks shared parts a bounded number of times', () => {
    // Doubling at each level: 2^60 paths.
    let value = {}
    for (let i = 0; i < 60; i++) value = { a: value, b: value }
    assert.equal(freeze(value, Kind.V8), true)
    for (const part of parts(value)) assert.ok(Object.isFrozen(part))
  })

  it('takes sparse arrays and arrays with names under v8', () => {
    const value = [1]
    value[4_000_000_000] = {}
    Object.assign(value, { name: {} })
    assert.equal(freeze(value, Kind.V8), true)
    assert.ok(Object.isFrozen(value[4_000_000_000]) && Object.isFrozen(value.name))
  })

  class Money {}
  for (const value of [new Map(), new Set(), new Date(), /r/, new ArrayBuffer(1), new Uint8Array(1),
    new Float64Array(0), Buffer.alloc(1),
    new DataView(new ArrayBuffer(1)), new Error('e'), Object(1), new Money(), new WeakMap(), Promise.resolve()]) {
    it(`says of ${show(value)} that it can still be changed`, () => {
      for (const kind of [Kind.V8, Kind.Custom]) {
        assert.equal(freeze(value, kind), false)
        assert.equal(freeze({ a: [1, { value }] }, kind), false)
        assert.equal(freeze([value, 1], kind), false)
      }
    })
  }

  it('sees through what a custom serializer may give', () => {
    class List extends Array {}
    const bare = prototype => value => Object.setPrototypeOf(value, prototype)
    for (const value of [() => 1, { f() {} }, { get a() { return {} } }, { set a(_) {} }, new Proxy({}, {}),
      [new Proxy([], {})], new List(),
      { [Symbol('hidden')]: new Map() }, Object.defineProperty({}, 'hidden', { value: new Map() }),
      bare(null)(new Map()), bare(Object.prototype)(new Date()), bare(null)(new Uint8Array(1)),
      bare(Object.prototype)(new Set())]) {
      assert.equal(freeze(value), false)
      assert.equal(freeze([value]), false)
    }
  })

  it('goes on into what was frozen but not deeply', () => {
    const value = Object.freeze({ a: Object.freeze([{}]) })
    assert.equal(freeze(value), true)
    assert.ok(Object.isFrozen(value.a[0]))
    assert.equal(freeze(Object.freeze({ map: new Map() })), false)
  })

  it('takes hidden and symbol properties along', () => {
    const symbol = Symbol('s')
    const value = { [symbol]: {} }
    Object.defineProperty(value, 'hidden', { value: { a: {} } })
    assert.equal(freeze(value), true)
    for (const part of parts(value)) assert.ok(Object.isFrozen(part))
  })
})
