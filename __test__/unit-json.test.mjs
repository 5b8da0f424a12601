// Guards the copy that stands for JSON.parse(JSON.stringify(value)): whatever it copies it copies exactly, and what it
// cannot be sure of it leaves to JSON.

import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { KvCache } from '../index.js'
import { NOT_PLAIN, plainCopy } from '../lib/json.js'

/** @param {unknown} value */
const byJson = value => JSON.parse(JSON.stringify(value))

describe('plainCopy', () => {
  it('gives what JSON gives, or leaves it to JSON', () => {
    const anything = fc.anything({
      withBigInt: true, withBoxedValues: true, withDate: true, withMap: true, withNullPrototype: true, withObjectString: true,
      withSet: true, withSparseArray: true, withTypedArray: true, withUnicodeString: true
    })
    let copied = 0
    fc.assert(fc.property(anything, value => {
      if (typeof value !== 'object' || value === null) return
      const copy = plainCopy(value)
      if (copy === NOT_PLAIN) return
      copied++
      assert.equal(JSON.stringify(copy), JSON.stringify(value))
      assert.deepStrictEqual(copy, byJson(value))
    }), { numRuns: 3000 })
    assert.ok(copied > 20, `${copied} were copied`)
  })

  it('copies every JSON value, and shares nothing that can be changed', () => {
    fc.assert(fc.property(fc.jsonValue(), value => {
      const copy = plainCopy(value)
      if (JSON.stringify(value).includes('__proto__')) return
      assert.deepStrictEqual(copy, byJson(value))
      if (typeof value === 'object' && value !== null) assert.notEqual(copy, value)
    }), { numRuns: 1000 })
  })

  for (const [what, value] of /** @type {[string, any][]} */ ([
    ['a toJSON()', { a: { toJSON: () => 1 } }],
    ['an inherited toJSON()', Object.create({ toJSON: () => 1 })],
    ['an instance of a class', new (class A { x = 1 })()],
    ['a subclass of Array', new (class B extends Array {})(3)],
    ['a Date', { at: new Date(0) }],
    ['a BigInt', [1n]],
    ['a function', { f() {} }],
    ['an own __proto__', JSON.parse('{"__proto__": 1}')],
    ['no prototype', Object.assign(Object.create(null), { a: 1 })],
    ['a boxed number', [Object(1)]]
  ])) {
    it(`leaves ${what} to JSON`, () => assert.equal(plainCopy(value), NOT_PLAIN))
  }

  it('leaves deep nesting and cycles to JSON', () => {
    let deep = {}
    for (let i = 0; i < 10_000; i++) deep = { deep }
    assert.equal(plainCopy(deep), NOT_PLAIN)
    const cycle = /** @type {any} */ ({})
    cycle.self = cycle
    assert.equal(plainCopy(cycle), NOT_PLAIN)
  })

  it('takes odd numbers and holes as JSON does', () => {
    // eslint-disable-next-line no-sparse-arrays
    const value = [-0, NaN, Infinity, undefined, , 'x', { a: undefined, b: -0 }]
    if (plainCopy(value) !== NOT_PLAIN) assert.deepStrictEqual(plainCopy(value), byJson(value))
    assert.ok(Object.is(plainCopy([-0])[0], 0))
  })
})

describe('a load', () => {
  it('runs accessors once, and gives the first caller what is stored', async t => {
    const cache = new KvCache()
    t.after(() => cache.close())
    let reads = 0
    const first = await cache.get('k', () => ({ get n() { return ++reads } }))
    assert.deepEqual([first, reads], [{ n: 1 }, 1])
    assert.deepEqual(await cache.get('k'), { n: 1 })
  })

  it('fails with what an accessor throws', async t => {
    const cache = new KvCache()
    t.after(() => cache.close())
    const value = { get n() { throw new RangeError('no') } }
    await assert.rejects(cache.get('k', () => value), error => {
      assert.equal(/** @type {any} */ (error).code, 'ERR_KVCACHE_SERIALIZE')
      assert.ok(/** @type {any} */ (error).cause instanceof RangeError)
      return true
    })
  })
})
