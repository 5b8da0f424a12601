// @ts-check
/**
 * Target patterns: '*' stands for any run of characters (none and ':' included), '\*' for a star, '\\' for a backslash;
 * nothing else is special, and a pattern covers the whole key.
 *
 * Promises: no regular expression is built, so no pattern can make matching back-track: the literal parts are looked
 * for once each, from left to right, leftmost first. That is right because a part found earlier never leaves less room
 * for what follows. Patterns and keys hold no lone surrogates, so comparing UTF-16 units is comparing characters.
 */
import { MAX_KEY_BYTES, invalidOption } from './errors.js'

const ALLOWED =
  "a string with '*' for any run of characters, '\\*' for a star and '\\\\' for a backslash; its literal text " +
  `1 to ${MAX_KEY_BYTES} bytes of UTF-8, or at least one '*'`

/** A parsed pattern. Made by {@link parsePattern}; never changes. */
export class Pattern {
  /**
   * @param {string} source
   * @param {readonly string[]} parts the literal text before, between and after the stars; one part without a star
   */
  constructor(source, parts) {
    /** As it was written. */
    this.source = source
    /** The one key it stands for, where it holds no unescaped star; else null. */
    this.literal = parts.length === 1 ? parts[0] : null
    /** The literal text before, between and after the stars; only the first and the last can be empty. */
    this.parts = parts
    /** What every key that matches begins with. */
    this.prefix = parts[0]
    /** UTF-16 units of all literal parts together: how specific it is. */
    this.literalLength = parts.reduce((sum, part) => sum + part.length, 0)
  }

  /**
   * Whether the whole key matches.
   * @param {string} key
   * @returns {boolean}
   */
  matches(key) {
    if (this.literal !== null) return key === this.literal
    if (key.length < this.literalLength || !key.startsWith(this.prefix)) return false
    const { parts } = this
    const last = parts.length - 1
    if (!key.endsWith(parts[last])) return false
    const end = key.length - parts[last].length
    let from = this.prefix.length
    for (let i = 1; i < last; i++) {
      const at = key.indexOf(parts[i], from)
      if (at < 0) return false
      from = at + parts[i].length
      if (from > end) return false
    }
    return true
  }
}

/**
 * Parses a pattern; throws ERR_KVCACHE_INVALID_OPTION for what is none: no string, empty, a backslash before anything
 * but '*' and '\', a lone surrogate, or literal text that is longer than any key.
 * @param {unknown} source
 * @param {string} [name] what the message calls it
 * @returns {Pattern}
 */
export function parsePattern(source, name = 'pattern') {
  if (typeof source !== 'string' || source === '' || !source.isWellFormed()) throw invalidOption(name, source, ALLOWED)
  /** @type {string[]} */
  const parts = []
  let part = ''
  for (let i = 0; i < source.length; i++) {
    const c = source[i]
    if (c === '\\') {
      const next = source[++i]
      if (next !== '*' && next !== '\\') throw invalidOption(name, source, ALLOWED)
      part += next
    } else if (c !== '*') {
      part += c
    } else {
      // A run of stars is one star.
      if (part !== '' || parts.length === 0) parts.push(part)
      part = ''
    }
  }
  parts.push(part)
  const literal = parts.join('')
  if (literal.length * 3 > MAX_KEY_BYTES && Buffer.byteLength(literal) > MAX_KEY_BYTES) {
    throw invalidOption(name, source, ALLOWED)
  }
  return new Pattern(source, parts)
}
