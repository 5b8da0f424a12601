// Guards: every error names what it is about, in one short well-formed line, whatever was thrown at it.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { inspect } from 'node:util'
import fc from 'fast-check'
import * as errors from '../lib/errors.js'

const { KvCacheError, shorten, show, whyInvalidKey } = errors

/** Any string of UTF-16 units, lone surrogates included. */
const utf16 = maxLength => fc.array(fc.oneof(fc.nat(0xffff), fc.integer({ min: 0xd7ff, max: 0xe000 }), fc.nat(0x7f)),
  { maxLength, size: 'max' })
  .map(units => String.fromCharCode(...units))

describe('KvCacheError', () => {
  it('is an Error with its own name, an own enumerable code and a stack', () => {
    const error = new KvCacheError('ERR_KVCACHE_X', 'text', { key: 'k' })
    assert.ok(error instanceof Error)
    assert.equal(error.name, 'KvCacheError')
    assert.deepEqual(Object.keys(error).sort(), ['code', 'key'])
    assert.equal(error.message, 'text')
    assert.match(String(error.stack), /unit-errors/)
    assert.match(inspect(error), /ERR_KVCACHE_X/)
  })

  it('has a cause only where one is given, undefined included, and hides it from enumeration', () => {
    assert.equal('cause' in new KvCacheError('C', 'm'), false)
    assert.equal('cause' in new KvCacheError('C', 'm', { key: 'k' }), false)
    const error = new KvCacheError('C', 'm', { cause: undefined })
    assert.ok(Object.hasOwn(error, 'cause'))
    assert.deepEqual(Object.keys(error), ['code'])
  })
})

describe('shorten', () => {
  it('keeps 64 characters and says that it cut', () => {
    assert.equal(shorten('a'.repeat(64)), 'a'.repeat(64))
    assert.equal(shorten('a'.repeat(65)), `${'a'.repeat(64)}…`)
    assert.equal(shorten('😀'.repeat(64)), '😀'.repeat(64))
    assert.equal(shorten('😀'.repeat(65)), `${'😀'.repeat(64)}…`)
    assert.equal(shorten(`a${'😀'.repeat(70)}`), `a${'😀'.repeat(63)}…`)
  })

  it('gives one well-formed line of any string', () => {
    fc.assert(fc.property(utf16(200), text => {
      const short = shorten(text)
      assert.ok(short.isWellFormed())
      assert.doesNotMatch(short, /[\u0000-\u001f]/)
      assert.ok([...short].length <= 64 * 6 + 1)
    }))
    assert.equal(shorten('a\n"b"\ud800'), 'a\\n"b"\\ud800')
  })
})

describe('show', () => {
  const { proxy: revoked, revoke } = Proxy.revocable({}, {})
  revoke()
  const hostile = new Proxy({}, {
    get() { throw new Error('get') },
    getPrototypeOf() { throw new Error('getPrototypeOf') },
    ownKeys() { throw new Error('ownKeys') }
  })
  class Money {}

  for (const [value, text] of [
    [undefined, 'undefined'],
    [null, 'null'],
    [-0, '-0'],
    [NaN, 'NaN'],
    [1e21, '1e+21'],
    [5n, '5n'],
    [10n ** 1000n, 'a large BigInt'],
    ['it', "'it'"],
    ['x'.repeat(1000), `'${'x'.repeat(64)}…'`],
    [Symbol('s'), 'Symbol(s)'],
    [() => 1, 'a function'],
    [[], 'an empty array'],
    [[1, 2], 'an array of 2'],
    [{}, 'an object'],
    [Object.create(null), 'an object'],
    [new Money(), 'an instance of Money'],
    [new Map(), 'an instance of Map'],
    [{ constructor: 1 }, 'an object'],
    [{ toString() { throw new Error('toString') }, [Symbol.toPrimitive]() { throw new Error('p') } }, 'an object'],
    [revoked, 'an object'],
    [hostile, 'an object']
  ]) {
    it(`shows ${text}`, () => assert.equal(show(value), text))
  }

  it('never throws and stays short', () => {
    fc.assert(fc.property(fc.anything({ withBigInt: true, withDate: true, withMap: true, withTypedArray: true }),
      value => {
      assert.ok(show(value).length < 500)
    }))
  })
})

describe('whyInvalidKey', () => {
  for (const key of ['a', '__proto__', 'constructor', '0', '😀', 'é'.repeat(256), 'a'.repeat(512), '\u0000',
    '😀'.repeat(128)]) {
    it(`allows ${shorten(key)}`, () => assert.equal(whyInvalidKey(key), undefined))
  }
  for (const [key, why] of [
    ['', /empty/],
    [5, /number/],
    [null, /null/],
    [{}, /object/],
    ['a'.repeat(513), /has 513 bytes/],
    ['é'.repeat(257), /514 bytes/],
    [`${'😀'.repeat(128)}a`, /513 bytes/],
    ['a\ud800b', /surrogate/],
    ['\udc00', /surrogate/]
  ]) {
    it(`refuses ${show(key)}`, () => assert.match(String(whyInvalidKey(key)), why))
  }

  it('agrees with what UTF-8 says', () => {
    fc.assert(fc.property(utf16(600), key => {
      const valid = key !== '' && key.isWellFormed() && Buffer.byteLength(key) <= 512
      assert.equal(whyInvalidKey(key) === undefined, valid)
    }))
  })
})

describe('the factories', () => {
  const long = 'k'.repeat(100)
  const cause = new TypeError('broken\nsecond line')

  it('refuse an option by name, value and what is allowed', () => {
    const error = errors.invalidOption('refresh.retries', -1, 'a whole number from 0')
    assert.equal(error.code, 'ERR_KVCACHE_INVALID_OPTION')
    assert.equal(error.option, 'refresh.retries')
    assert.equal(error.message, "option 'refresh.retries' is -1; allowed: a whole number from 0")
    assert.equal(errors.invalidOption('a', 1, 'b', cause).cause, cause)
    assert.equal(errors.unknownOption('tag', 'get()', 'is not known').message, "option 'tag' of get() is not known")
  })

  it('refuse a key, finding out why', () => {
    const error = errors.invalidKey('é'.repeat(300))
    assert.equal(error.code, 'ERR_KVCACHE_INVALID_KEY')
    assert.match(error.message, /^key 'é{64}…' has 600 bytes of UTF-8; allowed: a string of 1 to 512 bytes of UTF-8$/)
    assert.match(errors.invalidKey(7).message, /^key 7 is of type number/)
    assert.match(errors.invalidKey('x', 'is odd').message, /^key 'x' is odd/)
  })

  it('name key, limit and cause', () => {
    const all = {
      INVALID_VALUE: errors.invalidValue(long, 'is undefined'),
      VALUE_TOO_LARGE: errors.valueTooLarge(long, 30_000_000, 26_214_400),
      TIMEOUT: errors.timeout(long, 250, 'the fetcher'),
      CIRCUIT_OPEN: errors.circuitOpen(long, 'user:*', 1_700_000_000_000),
      SERIALIZE: errors.serializeFailed(long, 'msgpack', 'serialize', cause),
      RECURSION: errors.recursion(long)
    }
    for (const [code, error] of Object.entries(all)) {
      assert.equal(error.code, `ERR_KVCACHE_${code}`)
      assert.equal(error.key, long)
      assert.ok(error.message.includes(`'${'k'.repeat(64)}…'`), error.message)
      assert.ok(!error.message.includes('k'.repeat(65)))
    }
    assert.match(all.VALUE_TOO_LARGE.message, /30000000 bytes.*the largest value is 26214400 bytes/)
    assert.match(all.TIMEOUT.message, /^the fetcher of key .* 250 ms$/)
    assert.match(all.CIRCUIT_OPEN.message, /'user:\*' is open, next attempt 2023-11-14T22:13:20.000Z$/)
    assert.deepEqual([all.CIRCUIT_OPEN.origin, all.CIRCUIT_OPEN.nextAttempt], ['user:*', 1_700_000_000_000])
    assert.match(all.SERIALIZE.message, /'msgpack' could not serialize .*: it threw TypeError: broken$/)
    assert.equal(all.SERIALIZE.cause, cause)
  })

  it('say the limit meant, where it is another one', () => {
    assert.match(errors.valueTooLarge('k', 9, 8, 'the memory budget').message, /the memory budget is 8 bytes/)
  })

  it('do without a key where there is none', () => {
    const error = errors.timeout(undefined, 5, 'flush()')
    assert.equal(error.message, 'flush() took longer than 5 ms')
    assert.equal('key' in error, false)
    assert.equal(error.timeout, 5)
    assert.equal(errors.closed().code, 'ERR_KVCACHE_CLOSED')
  })

  it('survive causes of any kind', () => {
    const hostile = new Error('x')
    Object.defineProperty(hostile, 'message', { get() { throw new Error('no') } })
    for (const thrown of [undefined, null, 'text', 5n, Symbol('s'), hostile, {},
      new Proxy({}, { getPrototypeOf() { throw 1 } })]) {
      const error = errors.listener('refresh', thrown)
      assert.equal(error.code, 'ERR_KVCACHE_LISTENER')
      assert.equal(error.cause, thrown)
      assert.ok(Object.hasOwn(error, 'cause'))
      assert.equal(error.event, 'refresh')
    }
  })

  it('tell a serializer that gave nothing from one that threw', () => {
    const error = errors.serializeFailed('k', 'json', 'serialize', undefined, 'gave no text')
    assert.match(error.message, /it gave no text$/)
    assert.equal('cause' in error, false)
    assert.match(errors.serializeFailed('k', 'x', 'deserialize', undefined).message, /it threw undefined$/)
  })

  it('show the way a recursion took, three keys at most', () => {
    assert.match(errors.recursion('a', 'b').message, /'a'.*through 'b'$/)
    assert.match(errors.recursion('a', 'b', 'c', 'd', 'e').message, /through 'b', 'c', 'd' and 1 more$/)
  })

  it('show a moment that no date can hold', () => {
    assert.match(errors.circuitOpen('k', 'o', Infinity).message, /next attempt Infinity$/)
  })
})
