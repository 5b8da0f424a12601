// Guards values: what each serializer keeps, strings and bytes as they are, the limit of 25 MiB, and I7: nobody
// shares a mutable value with the cache or with another caller.

import v8 from 'node:v8'
import { runInNewContext } from 'node:vm'
import { assert, isError, KvCache, open, reasonOf, rejects, STALE, test, throws } from './helpers/kv.mjs'

const LIMIT = 25 * 1024 * 1024

/** Puts a value and returns what each way of reading makes of it, the first caller of a load first. */
async function readings(cache, value) {
  await cache.delete('k')
  const loaded = await cache.get('k', () => value)
  const got = await cache.get('k')
  await cache.delete('k')
  await cache.put('k', value)
  const put = await cache.get('k')
  const many = (await cache.getMany(['k'])).get('k')
  return [loaded, got, put, many, cache.peek('k'), (await cache.getWithMetadata('k')).value]
}

test('JSON gives back what JSON makes of a value, to the first caller and to all others', async t => {
  const cache = open(t)
  const date = new Date(1e12)
  class Point {
    constructor() {
      this.x = 1
      this.hidden = () => {}
    }
  }
  const values = [
    [null, null],
    [true, true],
    [false, false],
    [0, 0],
    [1.5, 1.5],
    [1e308, 1e308],
    [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER],
    [5e-324, 5e-324],
    [-0, 0],
    [NaN, null],
    [Infinity, null],
    [[], []],
    [{}, {}],
    [
      { a: undefined, b: NaN, c: -0, d: date },
      { b: null, c: 0, d: date.toJSON() }
    ],
    [
      [undefined, () => {}, Symbol('s')],
      [null, null, null]
    ],
    [date, date.toJSON()],
    [new Point(), { x: 1 }],
    [new Map([[1, 2]]), {}],
    [new Set([1]), {}],
    [/x/, {}],
    [{ toJSON: () => 'replaced' }, 'replaced'],
    [Object('boxed'), 'boxed'],
    [Object(5), 5],
    [
      { '': 1, 0: 2, constructor: 3 },
      { '': 1, 0: 2, constructor: 3 }
    ],
    [{ text: 'lone \uD800 and \u2028 and \0' }, { text: 'lone \uD800 and \u2028 and \0' }],
    [[[[[[]]]]], [[[[[]]]]]],
    [new Proxy({ a: 1 }, {}), { a: 1 }]
  ]
  for (const [given, expected] of values) {
    for (const got of await readings(cache, given)) assert.deepStrictEqual(got, expected)
  }
})

test('a key named __proto__ stays a property of the value', async t => {
  const cache = open(t)
  const value = JSON.parse('{"__proto__": {"polluted": true}, "a": 1}')
  for (const got of await readings(cache, value)) {
    assert.deepEqual(Object.keys(got), ['__proto__', 'a'])
    assert.equal(Object.getPrototypeOf(got), Object.prototype)
  }
  assert.equal({}.polluted, undefined)
})

test('strings come back as they were, under every serializer', async t => {
  const custom = {
    name: 'never used',
    serialize() {
      throw new Error('used')
    },
    deserialize() {
      throw new Error('used')
    }
  }
  const strings = [
    '', ' ', 'ascii', 'ÿ latin', 'ünïcödé', '中文', '😀', '\0', 'a\0b', '\uFEFFwith a byte order mark', '\uFFFD',
    '\u2028', '"quoted" \\', '\uD800', '\uDC00', 'a\uD800b', '\uDC00\uD800', '😀\uD83D', '\uFFFE\uFFFF', 'null',
    '{"json":true}', '123', 'x'.repeat(100_000), 'é'.repeat(100_000), '😀'.repeat(50_000),
    `${'x'.repeat(99_999)}\uD800`
  ]
  for (const serializer of ['json', 'v8', custom]) {
    const cache = open(t, { serializer })
    for (const string of strings) {
      for (const got of await readings(cache, string))
        assert.ok(got === string, `${serializer} ${JSON.stringify(string.slice(0, 20))}`)
    }
  }
})

test('strings however they are made inside the engine are the same string', async t => {
  const cache = open(t)
  const cons = ['a'.repeat(50), 'b'.repeat(50)].reduce((a, b) => a + b)
  const sliced = `${'x'.repeat(100)}😀`.slice(10, 90)
  const twoByte = Buffer.from('plain', 'utf16le').toString('utf16le')
  for (const string of [cons, sliced, twoByte]) {
    for (const got of await readings(cache, string)) assert.equal(got, string)
  }
})

test('bytes come back as they were given: Uint8Array, Buffer, ArrayBuffer', async t => {
  const bytes = [0, 1, 127, 128, 255, 254, 0]
  const pool = new Uint8Array([9, 9, ...bytes, 9, 9])
  for (const serializer of ['json', 'v8', { name: 'c', serialize: () => new Uint8Array(), deserialize: () => 0 }]) {
    const cache = open(t, { serializer })
    for (const given of [Uint8Array.from(bytes), pool.subarray(2, 9), new Uint8Array()]) {
      for (const got of await readings(cache, given)) {
        assert.equal(Object.getPrototypeOf(got), Uint8Array.prototype)
        assert.deepEqual([...got], [...given])
      }
    }
    for (const given of [
      Buffer.from(bytes),
      Buffer.from(pool.buffer, 2, 7),
      Buffer.alloc(0),
      Buffer.alloc(100_000, 7)
    ]) {
      for (const got of await readings(cache, given)) {
        assert.ok(Buffer.isBuffer(got))
        assert.ok(got.equals(given))
      }
    }
    for (const given of [Uint8Array.from(bytes).buffer, new ArrayBuffer(0), new ArrayBuffer(1000)]) {
      for (const got of await readings(cache, given)) {
        assert.ok(got instanceof ArrayBuffer)
        assert.deepEqual(Buffer.from(got), Buffer.from(given))
      }
    }
  }
})

test('bytes of another realm are bytes', async t => {
  const cache = open(t)
  for (const got of await readings(cache, runInNewContext('new Uint8Array([1, 2])'))) assert.deepEqual([...got], [1, 2])
  for (const got of await readings(cache, runInNewContext('new Uint8Array([1, 2]).buffer'))) {
    assert.deepEqual([...new Uint8Array(got)], [1, 2])
  }
})

test('bytes are private copies, on the way in and on the way out', async t => {
  const cache = open(t)
  const kinds = {
    Uint8Array: n => new Uint8Array(4).fill(n),
    Buffer: n => Buffer.alloc(4, n),
    ArrayBuffer: n => new Uint8Array(4).fill(n).buffer
  }
  const view = bytes => (bytes instanceof ArrayBuffer ? new Uint8Array(bytes) : bytes)
  for (const [kind, make] of Object.entries(kinds)) {
    const given = make(1)
    const first = await cache.get(kind, () => given)
    view(given).fill(9)
    view(first).fill(8)
    const second = await cache.get(kind)
    assert.deepEqual([...view(second)], [1, 1, 1, 1], kind)
    view(second).fill(7)
    view(cache.peek(kind)).fill(6)
    view((await cache.getMany([kind])).get(kind)).fill(5)
    assert.deepEqual([...view(await cache.get(kind))], [1, 1, 1, 1], kind)
    const put = make(2)
    const writing = cache.put(kind, put)
    view(put).fill(9)
    await writing
    assert.deepEqual([...view(await cache.get(kind))], [2, 2, 2, 2], kind)
  }
  const whole = await cache.get('Uint8Array')
  assert.equal(whole.byteOffset, 0)
  assert.equal(whole.buffer.byteLength, whole.length, 'a Uint8Array shows no memory beyond its own')
})

test('those who wait for one load of bytes each have a copy of their own', async t => {
  const cache = open(t)
  const gets = [1, 2, 3].map(() => cache.get('k', async () => new Uint8Array([1, 2, 3])))
  const [a, b, c] = await Promise.all(gets)
  a.fill(0)
  assert.deepEqual([...b], [1, 2, 3])
  assert.deepEqual([...c], [1, 2, 3])
})

test('other views are refused under JSON, which would make objects of them', async t => {
  const cache = open(t)
  for (const view of [
    new Float64Array(2),
    new Uint16Array(2),
    new Int8Array(2),
    new Uint8ClampedArray(2),
    new DataView(new ArrayBuffer(2)),
    new BigInt64Array(1)
  ]) {
    await rejects(cache.put('k', view), 'INVALID_VALUE', 'v8')
    await rejects(
      cache.get('k', () => view),
      'INVALID_VALUE',
      'v8'
    )
  }
})

test('v8 keeps what structured clone keeps', async t => {
  const cache = open(t, { serializer: 'v8' })
  const cycle = { name: 'cycle' }
  cycle.self = cycle
  const shared = { n: 1 }
  const values = [
    null,
    true,
    0,
    -0,
    NaN,
    -Infinity,
    10n ** 30n,
    new Date(1e12),
    /x+/gi,
    new Map([[{ k: 1 }, new Set([1, 'a'])]]),
    new Set([NaN]),
    new Float64Array([1.5, -0]),
    new BigInt64Array([1n]),
    new Uint16Array([1, 2]),
    new Uint8ClampedArray([1]),
    { a: undefined, b: [undefined] },
    Object.assign(Array(3), { 0: 1, 2: 3 }),
    { left: shared, right: shared },
    { bytes: new Uint8Array([1, 2]), buffer: new Uint8Array([3]).buffer, at: new Date(0) }
  ]
  for (const given of values)
    for (const got of await readings(cache, given)) assert.deepStrictEqual(got, v8.deserialize(v8.serialize(given)))
  for (const got of await readings(cache, cycle)) {
    assert.equal(got.self, got)
    assert.equal(got.name, 'cycle')
  }
  for (const got of await readings(cache, new Error('kept'))) assert.equal(got.message, 'kept')
  await rejects(cache.put('k', { f: () => {} }), 'SERIALIZE', 'k')
  await rejects(cache.put('k', new WeakMap()), 'SERIALIZE')
  await rejects(cache.put('k', Promise.resolve(1)), 'SERIALIZE')
})

test('what cannot be frozen is decoded anew for each caller', async t => {
  const cache = open(t, { serializer: 'v8' })
  await cache.put('k', {
    map: new Map([['a', 1]]),
    set: new Set([1]),
    date: new Date(0),
    bytes: new Uint8Array([1]),
    inner: { list: [1] }
  })
  const change = value => {
    value.map.set('b', 2)
    value.set.add(2)
    value.date.setTime(1)
    value.bytes[0] = 9
    try {
      value.inner.list.push(2)
    } catch {
      // Frozen, where it can be, is as good.
    }
  }
  change(await cache.get('k'))
  change(cache.peek('k'))
  change((await cache.getMany(['k'])).get('k'))
  change((await cache.getWithMetadata('k')).value)
  const value = await cache.get('k')
  assert.deepEqual(value, {
    map: new Map([['a', 1]]),
    set: new Set([1]),
    date: new Date(0),
    bytes: new Uint8Array([1]),
    inner: { list: [1] }
  })
})

test('those who wait for one load of a Map each have their own', async t => {
  const cache = open(t, { serializer: 'v8' })
  const [a, b] = await Promise.all([1, 2].map(() => cache.get('k', async () => new Map([['a', 1]]))))
  a.set('b', 2)
  assert.deepEqual(b, new Map([['a', 1]]))
  assert.deepEqual(await cache.get('k'), new Map([['a', 1]]))
})

test('plain values are frozen to their depths', async t => {
  for (const serializer of ['json', 'v8']) {
    const cache = open(t, { serializer })
    const make = () => ({ a: { b: [{ c: [[]] }] } })
    for (const got of await readings(cache, make())) {
      for (const part of [got, got.a, got.a.b, got.a.b[0], got.a.b[0].c, got.a.b[0].c[0]])
        assert.ok(Object.isFrozen(part), serializer)
      assert.throws(() => {
        got.a.b.push(1)
      }, TypeError)
      assert.throws(() => {
        got.a.x = 1
      }, TypeError)
    }
    assert.deepEqual(await cache.get('k'), make())
  }
})

test('the fetcher’s own object, and what is put, are neither frozen nor kept', async t => {
  const cache = open(t)
  const own = { list: [1], deep: { n: 1 } }
  const loaded = await cache.get('loaded', () => own)
  const writing = cache.put('put', own)
  own.list.push(2)
  own.deep.n = 2
  await writing
  assert.notEqual(loaded, own)
  assert.ok(!Object.isFrozen(own) && !Object.isFrozen(own.deep))
  assert.deepEqual(loaded, { list: [1], deep: { n: 1 } })
  for (const key of ['loaded', 'put']) assert.deepEqual(await cache.get(key), { list: [1], deep: { n: 1 } })
  const entries = [['many', own]]
  const many = cache.putMany(entries)
  own.list.length = 0
  await many
  assert.deepEqual(await cache.get('many'), { list: [1, 2], deep: { n: 2 } })
})

test('the copy in hand that a fetcher is given is frozen too', async t => {
  const cache = open(t)
  await cache.put('k', { list: [1] }, STALE)
  let inHand
  await cache.get('k', (_, context) => {
    inHand = context.stale.value
    return 'new'
  })
  await cache.flush()
  assert.deepEqual(inHand, { list: [1] })
  assert.ok(Object.isFrozen(inHand) && Object.isFrozen(inHand.list))
})

test('a serializer of one’s own gets the value and gives the bytes', async t => {
  const seen = []
  const serializer = {
    name: 'reversed',
    serialize(value) {
      assert.equal(this, serializer)
      seen.push(value)
      return Buffer.from(JSON.stringify(value)).reverse()
    },
    deserialize(bytes) {
      assert.equal(this, serializer)
      assert.ok(bytes instanceof Uint8Array)
      return JSON.parse(Buffer.from(bytes).reverse().toString())
    }
  }
  const cache = open(t, { serializer })
  const value = { a: [1, null] }
  for (const got of await readings(cache, value)) {
    assert.deepEqual(got, value)
    assert.notEqual(got, value)
  }
  assert.deepEqual(seen, [value, value])
  for (const other of [null, 0, true]) for (const got of await readings(cache, other)) assert.equal(got, other)
})

test('a serializer may use one buffer over and over, and deserialize may change its bytes', async t => {
  const scratch = new Uint8Array(8)
  const cache = open(t, {
    serializer: {
      name: 'scratch',
      serialize: ({ n }) => scratch.fill(n),
      deserialize(bytes) {
        const n = bytes[0]
        bytes.fill(0)
        return { n }
      }
    }
  })
  await cache.put('a', { n: 1 })
  await cache.put('b', { n: 2 })
  await cache.putMany([
    ['c', { n: 3 }],
    ['d', { n: 4 }]
  ])
  for (let round = 0; round < 3; round++) {
    const found = await cache.getMany(['a', 'b', 'c', 'd'])
    assert.deepEqual(
      [...found.values()].map(({ n }) => n),
      [1, 2, 3, 4]
    )
  }
})

test('bytes given by a serializer as a part of something larger are that part alone', async t => {
  const cache = open(t, {
    serializer: {
      name: 'part',
      serialize: () => new Uint8Array([9, 1, 2, 9]).subarray(1, 3),
      deserialize: bytes => [...bytes]
    }
  })
  for (const got of await readings(cache, {})) assert.deepEqual([...got], [1, 2])
})

test('a serializer that throws or gives no bytes: ERR_KVCACHE_SERIALIZE with the cause', async t => {
  const own = new Error('cannot')
  const throwing = open(t, {
    serializer: {
      name: 't',
      serialize() {
        throw own
      },
      deserialize: () => 0
    }
  })
  const error = await reasonOf(throwing.put('the:key', {}))
  isError(error, 'SERIALIZE', 'the:key')
  assert.equal(error.cause, own)
  assert.equal((await reasonOf(throwing.get('k', () => ({})))).cause, own)
  for (const answer of [undefined, null, 'text', 5, {}, [1], new Float64Array(1), Promise.resolve(new Uint8Array())]) {
    const cache = open(t, { serializer: { name: 'n', serialize: () => answer, deserialize: () => 0 } })
    await rejects(cache.put('k', {}), 'SERIALIZE', 'k')
    await rejects(
      cache.get('k', () => ({})),
      'SERIALIZE'
    )
    assert.equal(cache.stats().entries, 0)
  }
})

test('a deserialize that throws: ERR_KVCACHE_SERIALIZE with the cause, where the value is read', async t => {
  const own = new Error('cannot')
  let broken = true
  const cache = open(t, {
    serializer: {
      name: 'd',
      serialize: value => Buffer.from(JSON.stringify(value)),
      deserialize(bytes) {
        if (broken) throw own
        return JSON.parse(Buffer.from(bytes))
      }
    }
  })
  await cache.put('k', { n: 1 })
  for (const read of [() => cache.get('k'), () => cache.getWithMetadata('k')]) {
    const error = await reasonOf(read())
    isError(error, 'SERIALIZE', 'k')
    assert.equal(error.cause, own)
  }
  throws(() => cache.peek('k'), 'SERIALIZE', 'k')
  const found = await cache.getMany(['k'])
  isError(found.errors.get('k'), 'SERIALIZE')
  broken = false
  assert.deepEqual(await cache.get('k'), { n: 1 })
})

test('a deserialize that fails in the one load fails all who wait, and nothing hangs', async t => {
  const cache = open(t, {
    serializer: {
      name: 'd',
      serialize: () => new Uint8Array(1),
      deserialize() {
        throw new Error('cannot')
      }
    }
  })
  const settled = await Promise.allSettled([1, 2, 3].map(() => cache.get('k', async () => ({}))))
  for (const { reason } of settled) isError(reason, 'SERIALIZE')
})

test('instances that a deserialize makes are each caller’s own', async t => {
  class Money {
    constructor(amount) {
      this.amount = amount
    }
  }
  const cache = open(t, {
    serializer: {
      name: 'money',
      serialize: ({ amount }) => Buffer.from(String(amount)),
      deserialize: bytes => new Money(Number(Buffer.from(bytes)))
    }
  })
  await cache.put('k', new Money(5))
  const first = await cache.get('k')
  assert.ok(first instanceof Money)
  try {
    first.amount = 6
  } catch {
    // Frozen is as good as its own.
  }
  assert.equal((await cache.get('k')).amount, 5)
})

test('a serializer that is none is refused', () => {
  const noop = () => {}
  for (const serializer of [
    'yaml', '', 5, null, true, noop, {}, { name: 'x' }, { name: 'x', serialize: noop },
    { serialize: noop, deserialize: noop }, { name: '', serialize: noop, deserialize: noop },
    { name: 'x', serialize: 'f', deserialize: noop }
  ]) {
    throws(() => new KvCache({ serializer }), 'INVALID_OPTION', 'serializer')
  }
})

test('the error for a serializer names those there are', () => {
  throws(() => new KvCache({ serializer: 'yaml' }), 'INVALID_OPTION', 'serializer', 'yaml', 'json', 'v8')
})

test(
  'values of exactly 25 MiB are stored, of a byte more refused',
  async t => {
    const cache = open(t)
    const max = 'x'.repeat(LIMIT)
    await cache.put('string', max)
    assert.ok((await cache.get('string')) === max)
    const bytes = new Uint8Array(LIMIT).fill(7)
    await cache.put('bytes', bytes)
    assert.equal(Buffer.compare(await cache.get('bytes'), bytes), 0)
    // Brackets and quotes are stored too.
    const json = ['x'.repeat(LIMIT - 4)]
    await cache.put('json', json)
    assert.equal((await cache.get('json'))[0].length, LIMIT - 4)
    const twoBytes = 'é'.repeat(LIMIT / 2)
    await cache.put('utf-8', twoBytes)
    assert.ok((await cache.get('utf-8')) === twoBytes)
    await cache.put('k', 'old')
    for (const value of [
      `${max}x`,
      new Uint8Array(LIMIT + 1),
      Buffer.alloc(LIMIT + 1),
      new ArrayBuffer(LIMIT + 1),
      ['x'.repeat(LIMIT - 3)],
      `${twoBytes}x`
    ]) {
      await rejects(cache.put('k', value), 'VALUE_TOO_LARGE', 'k', /25|26,?214,?400/)
      await rejects(
        cache.get('other', () => value),
        'VALUE_TOO_LARGE',
        'other'
      )
    }
    assert.equal(await cache.get('k'), 'old')
    assert.equal(await cache.has('other'), false)
    const found = await cache.getMany(['a', 'b'], async () => ({ a: `${max}x`, b: 1 }))
    isError(found.errors.get('a'), 'VALUE_TOO_LARGE')
    assert.equal(found.get('b'), 1)
  },
  { timeout: 60_000 }
)

test('many different values under one key after another each come back', async t => {
  const cache = open(t)
  const values = [
    null, 'text', Buffer.from('b'), { a: 1 }, new ArrayBuffer(2), '\uD800', 5, new Uint8Array(3), [], true, ''
  ]
  for (let i = 0; i < 200; i++) {
    const value = values[(i * 7) % values.length]
    await cache.put('k', value)
    assert.deepEqual(await cache.get('k'), value)
  }
})
