// Guards: target patterns match what the contract says and nothing else, in time that no pattern can blow up.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { parsePattern } from '../lib/pattern.js'

const refused = { code: 'ERR_KVCACHE_INVALID_OPTION' }

/** The obvious matcher: by dynamic programming over the characters of pattern and key. */
function reference(tokens, key) {
  const chars = [...key]
  let row = Array.from({ length: chars.length + 1 }, (_, i) => i === 0)
  for (const token of tokens) {
    const next = new Array(chars.length + 1).fill(false)
    for (let i = 0; i <= chars.length; i++) {
      next[i] = token === null ? row[i] || (i > 0 && next[i - 1]) : i > 0 && row[i - 1] && chars[i - 1] === token
    }
    row = next
  }
  return row[chars.length]
}

/** Text of a pattern whose tokens are characters, or null for a star. */
const write = tokens => tokens.map(t => (t === null ? '*' : t === '*' || t === '\\' ? `\\${t}` : t)).join('')

describe('parsePattern', () => {
  for (const [source, literal] of [
    ['user:1', 'user:1'],
    ['a\\*b', 'a*b'],
    ['a\\\\b', 'a\\b'],
    ['\\\\\\*', '\\*'],
    ['[a-z]?.(x)', '[a-z]?.(x)'],
    ['😀', '😀']
  ]) {
    it(`reads ${source} as the key ${literal}`, () => {
      const pattern = parsePattern(source)
      assert.equal(pattern.literal, literal)
      assert.equal(pattern.literalLength, literal.length)
      assert.ok(pattern.matches(literal))
      assert.ok(!pattern.matches(`${literal}x`))
    })
  }

  for (const [source, parts] of [
    ['*', ['', '']],
    ['**', ['', '']],
    ['a*', ['a', '']],
    ['*a', ['', 'a']],
    ['a**b***c', ['a', 'b', 'c']],
    ['a\\**', ['a*', '']],
    ['*\\**', ['', '*', '']]
  ]) {
    it(`splits ${source} at its stars`, () => {
      const pattern = parsePattern(source)
      assert.equal(pattern.literal, null)
      assert.deepEqual(pattern.parts, parts)
      assert.equal(pattern.literalLength, parts.join('').length)
    })
  }

  for (const source of ['', '\\', 'a\\', 'a\\b', '\\:*', 'a*\\', '\ud800*', 'a\udc00', 'x'.repeat(513),
    `${'é'.repeat(257)}*`, 5, null, undefined, {}]) {
    it(`refuses ${JSON.stringify(source)?.slice(0, 40)}`, () => {
      assert.throws(() => parsePattern(source), refused)
      assert.throws(() => parsePattern(source, 'target'), { ...refused, option: 'target' })
    })
  }

  it('allows as much literal text as a key can have', () => {
    assert.ok(parsePattern(`${'é'.repeat(256)}*`).matches('é'.repeat(256)))
    assert.ok(parsePattern('\\*'.repeat(512)).matches('*'.repeat(512)))
  })
})

describe('matches', () => {
  for (const [source, yes, no] of [
    ['*', ['', 'a', 'a:b'], []],
    ['user:12345:*', ['user:12345:', 'user:12345:a', 'user:12345:a:b'], ['user:1234:a', 'xuser:12345:a']],
    ['user:*:profile', ['user:1:profile', 'user:1:2:profile', 'user::profile'], ['user:profile', 'user:1:profiles']],
    ['*ab', ['ab', 'aab', 'abab'], ['aba', 'b']],
    ['a*a', ['aa', 'aba'], ['a', 'ab']],
    ['a*b*c', ['abc', 'axbxc', 'abcbc'], ['ac', 'acb', 'abcx']],
    ['*aa*aa*', ['aaaa', 'xaaxaax'], ['aaa', 'xaax']],
    ['ab*bc', ['abbc', 'abxbc'], ['abc']],
    ['.*', ['.', '.x'], ['x']],
    ['\\**', ['*', '*a'], ['a']]
  ]) {
    it(`of ${source}`, () => {
      const pattern = parsePattern(source)
      for (const key of yes) assert.ok(pattern.matches(key), `should match ${key}`)
      for (const key of no) assert.ok(!pattern.matches(key), `should not match ${key}`)
    })
  }

  it('agrees with the obvious matcher on small alphabets', () => {
    const char = fc.constantFrom('a', 'b', ':', '*', '\\', '😀')
    const tokens = fc.array(fc.oneof(char, fc.constant(null)), { minLength: 1, maxLength: 8 })
    const key = fc.array(char, { maxLength: 12 }).map(chars => chars.join(''))
    fc.assert(fc.property(tokens, key, (t, k) => {
      assert.equal(parsePattern(write(t)).matches(k), reference(t, k))
    }), { numRuns: 5000 })
  })

  it('matches every key made from it', () => {
    const piece = fc.string({ unit: 'grapheme', maxLength: 6 })
    const made = fc.array(fc.tuple(piece, piece), { minLength: 1, maxLength: 6 })
    fc.assert(fc.property(made, piece, (pairs, end) => {
      const tokens = [...pairs.flatMap(([literal]) => [...literal, null]), ...end]
      const key = pairs.map(([literal, run]) => literal + run).join('') + end
      assert.ok(parsePattern(write(tokens)).matches(key))
    }))
  })

  it('does bounded work on patterns that make backtracking matchers explode', () => {
    // Each literal part is searched for once: counted by the calls, not by a clock.
    const pattern = parsePattern('*a'.repeat(60) + '*b')
    let searches = 0
    const key = Object.assign(Object('a'.repeat(512)), {
      indexOf(part, from) {
        searches++
        return String.prototype.indexOf.call(this, part, from)
      }
    })
    assert.equal(pattern.matches(key), false)
    assert.equal(pattern.matches(`${'a'.repeat(511)}b`), true)
    const almost = parsePattern('*a'.repeat(60) + '*c*')
    assert.equal(almost.matches(key), false)
    assert.ok(searches <= 61, `${searches} searches`)
  })
})
