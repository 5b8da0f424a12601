// Guards: options become milliseconds and bytes exactly as documented, and every mistake is refused by name.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { show } from '../lib/errors.js'
import {
  agesOf, cacheOptions, closeOptions, EMPTY, layer, listOptions, MAX_METADATA_BYTES, parseAge, parseSize, parseTimeout,
  resolve
} from '../lib/options.js'

const refused = { code: 'ERR_KVCACHE_INVALID_OPTION' }
const HOUR = 3_600_000

/** A value of every type that is never an age, timeout or size. */
const NEVER = [null, true, {}, [], [5], () => 5, Symbol('s'), 5n, NaN, '', ' ', '5', '5 s', ' 5s', '5s ', '5S',
  '5sec', 's', '-5s', '+5s',
  '.5s', '5.s', '1e3s', '0x5s', '5w', '5y', '1h30m', 'Infinity', '5s\n', '٥s', new Date(), new Number(5)]

describe('parseAge', () => {
  for (const [value, ms] of [
    [0, 0], [-0, 0], [1, 1000], [0.25, 250], [0.0004, 0], [0.0006, 1], [300, 300_000], [Infinity, Infinity],
      [1e300, Infinity],
    ['0s', 0], ['250ms', 250], ['30s', 30_000], ['5m', 300_000], ['1h', HOUR], ['7d', 168 * HOUR], ['1.5h', 1.5 * HOUR],
    ['0.5ms', 1], ['007s', 7000], [`${'9'.repeat(400)}d`, Infinity]
  ]) {
    it(`reads ${show(value)} as ${ms} ms`, () => assert.equal(parseAge('maxAge', value), ms))
  }
  for (const value of [...NEVER, -1, -Infinity, -0.001]) {
    it(`refuses ${show(value)}`, () => assert.throws(() => parseAge('maxAge', value), { ...refused, option: 'maxAge' }))
  }
  it('says what is allowed', () => {
    const message = /option 'maxAge' is '5 s'; allowed: .*seconds.*'250ms' '30s' '5m' '1h' '7d'/
    assert.throws(() => parseAge('maxAge', '5 s'), { message })
  })
  it('gives whole milliseconds that number and string agree on', () => {
    fc.assert(fc.property(fc.integer({ min: 0, max: 1e9 }), n => {
      assert.equal(parseAge('a', n), parseAge('a', `${n}s`))
      assert.equal(parseAge('a', n / 1000), n)
    }))
  })
})

describe('parseTimeout', () => {
  for (const [value, ms] of [
    [1, 1], [0.2, 1], [1.4, 1], [30_000, 30_000], [Infinity, Infinity], [2 ** 31, 2 ** 31], ['250ms', 250],
      ['0.1ms', 1], ['2s', 2000]
  ]) {
    it(`reads ${show(value)} as ${ms} ms`, () => assert.equal(parseTimeout('hardTimeout', value), ms))
  }
  for (const value of [...NEVER, 0, -0, -1, '0ms', '0s', -Infinity]) {
    it(`refuses ${show(value)}`, () => {
      assert.throws(() => parseTimeout('hardTimeout', value), { ...refused, option: 'hardTimeout' })
    })
  }
  it('refuses Infinity where it would mean never', () => {
    assert.throws(() => parseTimeout('refresh.backoff', Infinity, true), /a finite number/)
    assert.throws(() => parseTimeout('refresh.backoff', 1e300, true), /a finite number/)
  })
})

describe('parseSize', () => {
  for (const [value, bytes] of [
    [1, 1], [1024, 1024], ['1b', 1], ['512b', 512], ['64kb', 65_536], ['256mb', 268_435_456], ['2gb', 2_147_483_648],
    ['1.5kb', 1536], ['0.5gb', 536_870_912]
  ]) {
    it(`reads ${show(value)} as ${bytes} bytes`, () => assert.equal(parseSize('memory', value), bytes))
  }
  for (const value of [...NEVER, 0, -1, 1.5, Infinity, 2 ** 53, '0b', '0kb', '1.5b', '0.0001kb', '1KB', '1k', '1kib',
    '9007199254740992b']) {
    it(`refuses ${show(value)}`, () => assert.throws(() => parseSize('memory', value),
      { ...refused, option: 'memory' }))
  }
  it('holds to a least size and names it', () => {
    assert.equal(parseSize('memory', 1024, 1024), 1024)
    assert.throws(() => parseSize('memory', '1023b', 1024), /not below 1024 bytes/)
  })
})

describe('layer', () => {
  const entry = ['maxAge', 'staleAge', 'staleIfError', 'jitter']
  const load = ['softTimeout', 'hardTimeout']
  const call = ['signal', 'forceFresh']
  const good = {
    maxAge: 1, staleAge: 2, staleIfError: 3, jitter: 0.5, metadata: { a: 1 }, softTimeout: 4, hardTimeout: 5,
    origin: 'db', signal: new AbortController().signal, forceFresh: true, key: () => 'k', keep: 3
  }
  const allowed = {
    cache: [...entry, ...load],
    define: [...entry, ...load, 'metadata', 'origin'],
    get: [...entry, ...load, 'metadata', 'origin', ...call],
    getMany: [...entry, ...load, 'metadata', 'origin', ...call],
    publish: [...entry, 'metadata', 'keep'],
    put: [...entry, 'metadata'],
    set: [...entry, 'metadata'],
    wrap: [...entry, ...load, 'metadata', 'origin', ...call, 'key']
  }
  for (const [where, names] of Object.entries(allowed)) {
    it(`takes in ${where} exactly ${names.join(', ')}`, () => {
      for (const [name, value] of Object.entries(good)) {
        if (names.includes(name)) assert.notEqual(layer({ [name]: value }, where)[name], undefined)
        else assert.throws(() => layer({ [name]: value }, where),
          { ...refused, option: name, message: /does not belong there/ })
      }
    })
  }

  it('gives milliseconds, and JSON text for metadata', () => {
    const { signal, keep, ...wrap } = good
    assert.equal(layer({ keep }, 'publish').keep, 3)
    assert.deepEqual({ ...layer({ signal, ...wrap }, 'wrap') }, {
      keep: undefined,
      maxAge: 1000, staleAge: 2000, staleIfError: 3000, jitter: 0.5, metadata: '{"a":1}', softTimeout: 4,
        hardTimeout: 5,
      tags: undefined, dependsOn: undefined, origin: 'db', signal, forceFresh: true, key: good.key
    })
  })

  it('is the one empty layer where nothing is given', () => {
    for (const where of Object.keys(allowed)) {
      assert.equal(layer(undefined, where), EMPTY)
      assert.equal(layer({}, where), EMPTY)
      assert.equal(layer({ maxAge: undefined, nonsense: undefined }, where), EMPTY)
    }
    assert.ok(Object.isFrozen(EMPTY))
  })

  for (const options of [null, 5, 'x', [], () => {}, true]) {
    it(`refuses ${show(options)} for options`, () => {
      assert.throws(() => layer(options, 'get'), { ...refused, option: 'options of get()' })
    })
  }

  it('refuses unknown names and says which there are', () => {
    for (const name of ['maxage', 'ttl', '', '0', 'toString', '__proto__x', 'memory']) {
      assert.throws(() => layer({ [name]: 1 }, 'get'), { ...refused, option: name })
    }
    const message = /'ttl' of put\(\) is not known; allowed: maxAge, staleAge, staleIfError, jitter, metadata, tags, dependsOn$/
    assert.throws(() => layer({ ttl: 1 }, 'put'), { message })
    assert.throws(() => layer(JSON.parse('{"__proto__":1}'), 'get'), { ...refused, option: '__proto__' })
  })

  it('reads tags and dependencies, each once, and shares no array with the user', () => {
    const given = ['a', 'ü', 'a']
    const { tags, dependsOn } = layer({ tags: given, dependsOn: given }, 'put')
    assert.deepEqual([tags, dependsOn], [['a', 'ü'], ['a', 'ü']])
    given.push('later')
    assert.deepEqual(tags, ['a', 'ü'])
    assert.deepEqual(layer({ tags: [] }, 'set').tags, [])
  })

  it('refuses tags that are none, too long or too many, and dependencies that are no keys', () => {
    const many = Array.from({ length: 65 }, (_, n) => `${n}`)
    assert.equal(layer({ tags: [...many.slice(1), '1'] }, 'get').tags?.length, 64)
    for (const tags of ['a', 5, null, {}, [''], [5], [null], ['\ud800'], ['x'.repeat(257)], ['ü'.repeat(129)], many]) {
      assert.throws(() => layer({ tags }, 'get'), { ...refused, option: 'tags', message: /1 to 256 bytes|at most 64/ })
    }
    for (const dependsOn of ['a', 5, null, {}, [''], [5], ['\ud800'], ['x'.repeat(513)], many]) {
      assert.throws(() => layer({ dependsOn }, 'get'), { ...refused, option: 'dependsOn', message: /at most 64 keys/ })
    }
  })

  it('takes what is inherited, and overlooks what others left on Object.prototype', () => {
    assert.equal(layer(Object.create({ maxAge: 1 }), 'get').maxAge, 1000)
    assert.equal(layer(Object.assign(Object.create(null), { maxAge: 1 }), 'get').maxAge, 1000)
    Object.defineProperty(Object.prototype, 'polluted', { value: 1, enumerable: true, configurable: true })
    try {
      assert.equal(layer({ maxAge: 1 }, 'get').maxAge, 1000)
      assert.equal(cacheOptions({ maxAge: 1, refresh: { retries: 1 } }).refresh.retries, 1)
    } finally {
      delete Object.prototype.polluted
    }
  })

  it('keeps nothing that the user can change later', () => {
    const metadata = { a: [1] }
    const options = { metadata, maxAge: 1 }
    const parsed = layer(options, 'get')
    metadata.a.push(2)
    options.maxAge = 9
    assert.deepEqual([parsed.metadata, parsed.maxAge], ['{"a":[1]}', 1000])
  })

  it('refuses a staleAge below the maxAge given with it', () => {
    assert.throws(() => layer({ maxAge: 10, staleAge: '9s' }, 'get'), { ...refused, option: 'staleAge' })
    assert.throws(() => layer({ staleAge: 10, maxAge: Infinity }, 'put'), refused)
    assert.equal(layer({ maxAge: 10, staleAge: 10 }, 'get').staleAge, 10_000)
    assert.equal(layer({ maxAge: 10, staleIfError: 0 }, 'get').staleIfError, 0)
  })

  it('takes a jitter from 0 to 1', () => {
    for (const jitter of [0, 0.3, 1]) assert.equal(layer({ jitter }, 'get').jitter, jitter)
    for (const jitter of [-0.1, 1.1, NaN, '0.5', null, Infinity]) assert.throws(() => layer({ jitter }, 'get'), refused)
  })

  describe('metadata', () => {
    for (const [metadata, text] of [
      [null, 'null'], [0, '0'], ['', '""'], [false, 'false'], [[1, { a: null }], '[1,{"a":null}]'],
      [{ a: undefined, f() {}, n: NaN, d: new Date(0) }, '{"n":null,"d":"1970-01-01T00:00:00.000Z"}'],
      ['x'.repeat(MAX_METADATA_BYTES - 2), `"${'x'.repeat(MAX_METADATA_BYTES - 2)}"`]
    ]) {
      it(`takes ${show(metadata)} as JSON does`, () => assert.equal(layer({ metadata }, 'put').metadata, text))
    }
    const cycle = {}
    cycle.self = cycle
    for (const metadata of [cycle, 5n, { a: 5n }, () => 1, Symbol('s'), { toJSON() { throw new Error('x') } },
      { toJSON() {} }]) {
      it(`refuses ${show(metadata)}`, () => {
        assert.throws(() => layer({ metadata }, 'put'), { ...refused, option: 'metadata', message: /JSON/ })
      })
    }
    it('counts bytes of UTF-8 and names the figure', () => {
      assert.equal(layer({ metadata: 'é'.repeat(511) }, 'put').metadata?.length, 513)
      assert.throws(() => layer({ metadata: 'é'.repeat(512) }, 'put'), /at most 1024 bytes.*this has 1026/)
    })
  })

  describe('signal', () => {
    it('takes an AbortSignal, and one of another realm', () => {
      const signal = AbortSignal.abort()
      assert.equal(layer({ signal }, 'get').signal, signal)
      const foreign = { aborted: false, addEventListener() {}, removeEventListener() {} }
      assert.equal(layer({ signal: foreign }, 'get').signal, foreign)
    })
    for (const signal of [null, {}, 5, 'abort', new AbortController(), { aborted: true }, new EventTarget()]) {
      it(`refuses ${show(signal)}`, () => assert.throws(() => layer({ signal }, 'get'),
        { ...refused, option: 'signal' }))
    }
  })

  it('takes only booleans for forceFresh, names for origin, functions for key', () => {
    assert.equal(layer({ forceFresh: false }, 'get').forceFresh, false)
    for (const forceFresh of [1, 0, 'true', null]) assert.throws(() => layer({ forceFresh }, 'get'), refused)
    assert.equal(layer({ origin: 'x'.repeat(256) }, 'get').origin?.length, 256)
    for (const origin of ['', 'x'.repeat(257), 5, null, '\ud800']) assert.throws(() => layer({ origin }, 'get'),
      refused)
    for (const key of ['k', null]) assert.throws(() => layer({ key }, 'wrap'), { ...refused, option: 'key' })
  })

  it('never fails with anything but its own error', () => {
    const name = fc.constantFrom(...Object.keys(good), 'tags', 'other')
    const values = fc.anything({ withBigInt: true, withDate: true, withNullPrototype: true })
    fc.assert(fc.property(fc.dictionary(name, values), fc.constantFrom(...Object.keys(allowed)), (options, where) => {
      try {
        layer(options, where)
      } catch (error) {
        assert.equal(error.code, 'ERR_KVCACHE_INVALID_OPTION')
      }
    }), { numRuns: 1000 })
  })
})

describe('resolve', () => {
  const of = (...options) => resolve(...options.map(one => layer(one, 'get')))

  it('has the documented defaults', () => {
    assert.deepEqual(resolve(), {
      maxAge: 300_000, staleAge: HOUR, staleIfError: HOUR, jitter: 0, softTimeout: Infinity, hardTimeout: 30_000,
        metadata: '', tags: undefined, dependsOn: undefined, ties: ''
    })
    assert.deepEqual(resolve(EMPTY, EMPTY), resolve())
  })

  it('lets a later layer win, option by option', () => {
    const merged = of({ maxAge: 1, jitter: 0.1, softTimeout: 5 }, { maxAge: 2, metadata: 1 }, {},
      { hardTimeout: 9, metadata: null })
    assert.deepEqual(merged, {
      maxAge: 2000, staleAge: HOUR, staleIfError: HOUR, jitter: 0.1, softTimeout: 5, hardTimeout: 9, metadata: 'null',
      tags: undefined, dependsOn: undefined, ties: ''
    })
  })

  it('lets tags and dependencies take the place of those given before, and none of none', () => {
    const merged = of({ tags: ['a', 'b'], dependsOn: ['k'] }, { tags: ['ü'] })
    assert.deepEqual([merged.tags, merged.dependsOn, merged.ties], [['ü'], ['k'], 't2:ük1:k'])
    assert.equal(of({ tags: ['a'] }, { tags: [] }).ties, '-')
  })

  for (const [layers, ages] of [
    [[{ maxAge: 0 }], [0, HOUR, HOUR]],
    [[{ maxAge: '2h' }], [2 * HOUR, 2 * HOUR, 2 * HOUR]],
    [[{ maxAge: Infinity }], [Infinity, Infinity, Infinity]],
    [[{ maxAge: 1, staleAge: 1 }], [1000, 1000, 1000]],
    [[{ maxAge: 1, staleAge: 2, staleIfError: 0 }], [1000, 2000, 0]],
    [[{ staleIfError: '7d' }], [300_000, HOUR, 168 * HOUR]],
    [[{ staleAge: 60 }], [300_000, 300_000, 300_000]],
    [[{ maxAge: 1, staleAge: 2 }, { maxAge: 10 }], [10_000, 10_000, 10_000]],
    [[{ maxAge: 10 }, { staleAge: 2 }], [10_000, 10_000, 10_000]],
    [[{ maxAge: 10 }, { staleAge: 2 }, { maxAge: 1 }], [1000, 2000, 2000]]
  ]) {
    it(`makes of ${JSON.stringify(layers)} the ages ${ages.map(ms => ms / 1000)} s`, () => {
      const { maxAge, staleAge, staleIfError } = of(...layers)
      assert.deepEqual([maxAge, staleAge, staleIfError], ages)
    })
  }

  it('always ends with maxAge <= staleAge', () => {
    const age = fc.option(fc.oneof(fc.nat(10_000), fc.constant(Infinity)), { nil: undefined })
    const options = fc.record({ maxAge: age, staleAge: age, staleIfError: age })
      .filter(({ maxAge, staleAge }) => maxAge === undefined || staleAge === undefined || maxAge <= staleAge)
    fc.assert(fc.property(fc.array(options, { maxLength: 4 }), layers => {
      const { maxAge, staleAge, staleIfError } = of(...layers)
      assert.ok(maxAge <= staleAge)
      const last = layers.findLast(one => one.staleIfError !== undefined)
      assert.equal(staleIfError, last === undefined ? staleAge : last.staleIfError * 1000)
    }))
  })
})

describe('agesOf', () => {
  const resolved = resolve(layer({ maxAge: 100, jitter: 0.2 }, 'get'))

  it('shortens maxAge by up to its jitter and leaves the others', () => {
    assert.deepEqual(agesOf(resolved, () => 0), { maxAge: 100_000, staleAge: HOUR, staleIfError: HOUR })
    assert.deepEqual(agesOf(resolved, () => 0.5), { maxAge: 90_000, staleAge: HOUR, staleIfError: HOUR })
    assert.equal(agesOf(resolved, () => 0.9999999999).maxAge, 80_000)
  })

  it('draws nothing without jitter, and never shortens what does not end', () => {
    const never = () => assert.fail('drew a random number')
    assert.equal(agesOf(resolve(), never).maxAge, 300_000)
    assert.equal(agesOf(resolve(layer({ maxAge: Infinity, jitter: 1 }, 'get'))).maxAge, Infinity)
  })

  it('stays a whole number within its bounds', () => {
    fc.assert(fc.property(fc.nat(1e9), fc.double({ min: 0, max: 1, noNaN: true }), (maxAge, jitter) => {
      const whole = resolve(layer({ maxAge: maxAge / 1000, jitter }, 'get'))
      const ages = agesOf(whole)
      assert.ok(Number.isInteger(ages.maxAge))
      assert.ok(ages.maxAge <= whole.maxAge && ages.maxAge >= Math.floor(whole.maxAge * (1 - jitter)))
    }))
  })
})

describe('cacheOptions', () => {
  it('has the documented defaults', () => {
    const options = cacheOptions()
    assert.equal(options.memory, 256 * 1024 ** 2)
    assert.deepEqual(options.serializer, { name: 'json', kind: 'json' })
    assert.deepEqual(options.refresh, { concurrency: 10, maxQueued: 10_000, retries: 0, backoff: 100, cooldown: 1000 })
    assert.deepEqual([options.breaker?.threshold, options.breaker?.timeout], [5, 30_000])
    assert.equal(options.breaker?.failure(new Error('any')), true)
    assert.equal(options.load, EMPTY)
    assert.deepEqual(cacheOptions({ memory: undefined, breaker: undefined }).memory, options.memory)
    for (const part of [options, options.refresh, options.serializer, options.breaker]) assert.ok(Object.isFrozen(part))
  })

  it('takes the options of loads beside its own', () => {
    const options = cacheOptions({ memory: '1mb', maxAge: 5, hardTimeout: '1s', breaker: false })
    assert.deepEqual([options.memory, options.load.maxAge, options.load.hardTimeout], [1024 ** 2, 5000, 1000])
    assert.equal(options.breaker, null)
  })

  for (const options of [null, 5, 'x', [], () => {}]) {
    it(`refuses ${show(options)} for options`, () => assert.throws(() => cacheOptions(options), refused))
  }

  it('refuses what belongs elsewhere or nowhere', () => {
    assert.throws(() => cacheOptions({ metadata: 1 }), { ...refused,
      message: /does not belong there; allowed: name, memory, near, serializer/ })
    for (const name of ['origin', 'signal', 'forceFresh', 'key', 'tags', 'dependsOn', 'ttl', '__proto__x']) {
      assert.throws(() => cacheOptions({ [name]: 1 }), { ...refused, option: name })
    }
    assert.throws(() => cacheOptions({ maxAge: 5, staleAge: 1 }), { ...refused, option: 'staleAge' })
  })

  for (const [option, value, name = option] of [
    ['memory', 1023], ['memory', '0mb'], ['memory', Infinity], ['memory', null],
    ['refresh', null], ['refresh', 5], ['refresh', false], ['refresh', []],
    ['refresh', { concurrency: 0 }, 'refresh.concurrency'], ['refresh', { concurrency: 1.5 }, 'refresh.concurrency'],
    ['refresh', { concurrency: '5' }, 'refresh.concurrency'], ['refresh', { maxQueued: 0 }, 'refresh.maxQueued'],
    ['refresh', { maxQueued: Infinity }, 'refresh.maxQueued'], ['refresh', { retries: -1 }, 'refresh.retries'],
    ['refresh', { backoff: 0 }, 'refresh.backoff'], ['refresh', { backoff: Infinity }, 'refresh.backoff'],
    ['refresh', { cooldown: '1' }, 'refresh.cooldown'], ['refresh', { delay: 1 }, 'refresh.delay'],
    ['breaker', true], ['breaker', null], ['breaker', 5], ['breaker', { threshold: 0 }, 'breaker.threshold'],
    ['breaker', { timeout: 0 }, 'breaker.timeout'], ['breaker', { timeout: Infinity }, 'breaker.timeout'],
    ['breaker', { failure: true }, 'breaker.failure'], ['breaker', { treshold: 5 }, 'breaker.treshold'],
    ['serializer', 'yaml'], ['serializer', null], ['serializer', {}], ['serializer', JSON],
    ['serializer', { serialize() {}, deserialize() {} }, 'serializer.name'],
    ['serializer', { name: '', serialize() {}, deserialize() {} }, 'serializer.name'],
    ['serializer', { name: 'x', serialize() {} }]
  ]) {
    it(`refuses ${option}: ${typeof value === 'object' ? JSON.stringify(value) : show(value)}`, () => {
      assert.throws(() => cacheOptions({ [option]: value }), { ...refused, option: name })
    })
  }

  it('takes every part of refresh and breaker', () => {
    const refresh = { concurrency: 1, maxQueued: 2, retries: 3, backoff: '4ms', cooldown: '5s' }
    assert.deepEqual(cacheOptions({ refresh }).refresh, { concurrency: 1, maxQueued: 2, retries: 3, backoff: 4,
      cooldown: 5000 })
    const breaker = { threshold: 1, timeout: '1m', failure(error) { return this === breaker && error === 7 } }
    const parsed = cacheOptions({ breaker }).breaker
    assert.deepEqual([parsed?.threshold, parsed?.timeout, parsed?.failure(7), parsed?.failure(8)],
      [1, 60_000, true, false])
  })

  it('calls a custom serializer as a method of the object it came in', () => {
    class Hex {
      name = 'hex'
      encoding = 'hex'
      serialize(value) { return Buffer.from(String(value), this.encoding) }
      deserialize(bytes) { return Buffer.from(bytes).toString(this.encoding) }
    }
    const { serializer } = cacheOptions({ serializer: new Hex() })
    assert.deepEqual([serializer.name, serializer.kind], ['hex', 'custom'])
    assert.equal(serializer.deserialize?.(/** @type {any} */ (serializer.serialize?.('c0ffee'))), 'c0ffee')
  })
})

describe('closeOptions', () => {
  it('takes a timeout, which may be Infinity, or none', () => {
    assert.equal(closeOptions(undefined, 'flush()'), undefined)
    assert.equal(closeOptions({}, 'flush()'), undefined)
    assert.equal(closeOptions({ timeout: undefined, other: undefined }, 'flush()'), undefined)
    assert.equal(closeOptions({ timeout: 5 }, 'flush()'), 5)
    assert.equal(closeOptions({ timeout: '2s' }, 'close()'), 2000)
    assert.equal(closeOptions({ timeout: Infinity }, 'close()'), Infinity)
  })

  it('refuses anything else, naming the place', () => {
    for (const timeout of [0, -1, null, 'soon']) assert.throws(() => closeOptions({ timeout }, 'flush()'), refused)
    for (const options of [null, 5, []]) assert.throws(() => closeOptions(options, 'flush()'), /'options of flush\(\)'/)
    assert.throws(() => closeOptions({ force: true }, 'close()'), { ...refused, message: /'force' of close\(\)/ })
  })
})

describe('listOptions', () => {
  it('has the documented defaults', () => {
    assert.deepEqual(listOptions(undefined), { prefix: '', limit: 1000, cursor: undefined, tier: undefined })
    assert.deepEqual(listOptions({ prefix: 'a', limit: 1, cursor: 'c' }), { prefix: 'a', limit: 1, cursor: 'c', tier: undefined })
    assert.equal(listOptions({ limit: 10_000 }).limit, 10_000)
  })

  it('refuses anything else', () => {
    for (const limit of [0, -1, 1.5, 10_001, Infinity, '5', null]) {
      assert.throws(() => listOptions({ limit }), { ...refused, option: 'limit' })
    }
    for (const prefix of [5, null, '\ud800']) {
      assert.throws(() => listOptions({ prefix }), { ...refused, option: 'prefix' })
    }
    for (const cursor of [5, null, {}]) assert.throws(() => listOptions({ cursor }), { ...refused, option: 'cursor' })
    assert.throws(() => listOptions({ tier: 'disk' }), { ...refused, option: 'tier', message: /allowed: 'memory'$/ })
    assert.throws(() => listOptions({ reverse: true }), { ...refused, option: 'reverse' })
    assert.throws(() => listOptions('prefix'), refused)
  })
})
