// Guards: a key made of parts says which parts it was made of, and no part reaches beyond its place in a key or a pattern.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { key } from '../lib/key.js'
import { parsePattern } from '../lib/pattern.js'

/** Parts as an attacker writes them: mostly of the characters that mean something. */
const hostile = fc.array(fc.constantFrom(':', '*', '\\', '%', '3A', '2a', '5C', '25', 'a', 'é', '😀', ' ', '\0'), {
  minLength: 1,
  maxLength: 8
}).map(parts => parts.join(''))
const part = fc.oneof(hostile, fc.string({ minLength: 1, unit: 'grapheme' }))

describe('key', () => {
  for (const [made, expected] of [
    [key`user:${'ada'}:profile`, 'user:ada:profile'],
    [key`user:${12345}:profile`, 'user:12345:profile'],
    [key`user:${-1.5}:x`, 'user:-1.5:x'],
    [key`user:${-0}:x`, 'user:0:x'],
    [key`user:${10n ** 30n}:x`, `user:1${'0'.repeat(30)}:x`],
    [key`user:${'a:b'}:*`, 'user:a%3Ab:*'],
    [key`user:${'*'}:*`, 'user:%2A:*'],
    [key`user:${'\\'}:x`, 'user:%5C:x'],
    [key`user:${'%3A'}:x`, 'user:%253A:x'],
    [key`${'é 😀/?'}:x`, 'é 😀/?:x'],
    [key`${'a'}:${'b'}*${'c'}`, 'a:b*c'],
    [key`site:config`, 'site:config'],
    [key`a\\*:${'b'}`, 'a\\*:b']
  ]) {
    it(`gives ${expected}`, () => assert.equal(made, expected))
  }

  for (const [what, make, needle] of [
    ['an empty part', () => key`user:${''}:*`, /part 1 .* is empty/],
    ['a lone surrogate', () => key`a:${'x\ud800'}`, /lone surrogate/],
    ['NaN', () => key`a:${NaN}`, /NaN/],
    ['Infinity', () => key`a:${Infinity}`, /Infinity/],
    ['a number that is written with an exponent', () => key`a:${1e21}`, /decimal/],
    ['a tiny number', () => key`a:${1e-7}`, /decimal/],
    ['undefined', () => key`a:${'b'}:${undefined}`, /part 2 .* of type undefined/],
    ['null', () => key`a:${null}`, /of type null/],
    ['an object', () => key`a:${{ toString: () => 'b' }}`, /of type object/],
    ['a boolean', () => key`a:${true}`, /of type boolean/],
    ['a symbol', () => key`a:${Symbol('s')}`, /of type symbol/],
    ['parts side by side', () => key`a:${'b'}${'c'}`, /part 2 .* no ':' between/],
    ['parts that only letters divide', () => key`a:${'b'}-x-${'c'}`, /part 2/],
    ['an escape that is none', () => key`a:\u{zz}${'b'}`, /escape/]
  ]) {
    it(`refuses ${what}`, () => {
      assert.throws(make, error => error.code === 'ERR_KVCACHE_INVALID_KEY' && needle.test(error.message))
    })
  }

  it('names the part that was refused', () => {
    assert.throws(() => key`a:${''}`, { part: '' })
  })

  it('leaves nothing in a part that means something in a pattern', () => {
    fc.assert(fc.property(part, id => {
      const made = key`user:${id}:profile`
      assert.equal(made.split(':').length, 3)
      assert.equal(parsePattern(made).literal, made, 'as a pattern it is the key itself')
    }))
  })

  it('never widens a pattern: it matches keys of its own id and of no other', () => {
    fc.assert(fc.property(part, part, part, (id, other, rest) => {
      const pattern = parsePattern(key`user:${id}:*`)
      assert.ok(pattern.matches(key`user:${id}:${rest}`))
      assert.equal(pattern.matches(key`user:${other}:${rest}`), id === other)
      assert.equal(parsePattern(key`user:*:${id}`).matches(key`user:${other}:${rest}`), id === rest)
    }))
  })

  it('as a prefix covers its own id and no other', () => {
    fc.assert(fc.property(part, part, (id, other) => {
      assert.equal(key`user:${other}:x`.startsWith(key`user:${id}:`), id === other)
    }))
  })

  it('never gives one key for two lists of parts', () => {
    const lists = fc.tuple(part, part, part)
    fc.assert(fc.property(lists, lists, (a, b) => {
      const same = a.every((one, i) => one === b[i])
      assert.equal(key`${a[0]}:${a[1]}*x${a[2]}` === key`${b[0]}:${b[1]}*x${b[2]}`, same)
    }))
    fc.assert(fc.property(part, part, part, (a, b, c) => {
      assert.equal(key`${a + c}:${b}` === key`${a}:${c + b}`, false, 'what moves over a border changes the key')
    }))
  })

  it('is undone by decoding its parts', () => {
    fc.assert(fc.property(part, part, (a, b) => {
      const decode = text => text.replace(/%(3A|2A|5C|25)/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)))
      assert.deepEqual(key`k:${a}:${b}`.split(':').slice(1).map(decode), [a, b])
    }))
  })
})
