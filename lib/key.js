// @ts-check
/**
 * The template tag `key`: keys and patterns put together from parts, so that no part can reach beyond its place.
 *
 * Promises: in what a part became there is no ':', no '*' and no '\', so a part can neither end its segment nor widen a
 * pattern; and for one template two different lists of parts never give one key, because two parts always have a ':' or
 * a '*' between them, and '%' is encoded too. The encoding is percent-encoding (RFC 3986, 2.1) of those four characters;
 * all others stay as they are, so that ordinary keys read as they were written.
 */
import { invalidPart } from './errors.js'

/** @type {Record<string, string>} */
const ENCODED = { ':': '%3A', '*': '%2A', '\\': '%5C', '%': '%25' }
const RESERVED = /[:*\\%]/g

/**
 * A part as it stands in a key. Throws ERR_KVCACHE_INVALID_KEY; see {@link text}.
 * @param {unknown} part
 * @param {string} what the message calls it
 * @returns {string}
 */
export function encodePart(part, what) {
  return text(part, what).replace(RESERVED, c => ENCODED[c])
}

/**
 * @param {unknown} part
 * @param {string} what
 * @returns {string}
 */
function text(part, what) {
  switch (typeof part) {
    case 'string':
      if (part === '') throw invalidPart(what, part, 'is empty')
      if (!part.isWellFormed()) throw invalidPart(what, part, 'holds a lone surrogate, which UTF-8 cannot carry')
      return part
    case 'number': {
      const digits = String(part)
      // NaN, Infinity, and what JavaScript writes with an exponent.
      if (!/^-?\d+(\.\d+)?$/.test(digits)) throw invalidPart(what, part, 'has no plain decimal form')
      return digits
    }
    case 'bigint':
      return String(part)
    default:
      throw invalidPart(what, part, `is of type ${part === null ? 'null' : typeof part}`)
  }
}

/**
 * Template tag. Throws ERR_KVCACHE_INVALID_KEY.
 * @param {TemplateStringsArray} strings
 * @param {...unknown} parts
 * @returns {string}
 */
export function key(strings, ...parts) {
  let out = literal(strings, 0)
  for (let i = 0; i < parts.length; i++) {
    const after = literal(strings, i + 1)
    if (i + 1 < parts.length && !/[:*]/.test(after)) {
      throw invalidPart(`part ${i + 2}`, parts[i + 1], "has no ':' between it and the part before, so where one ends is lost")
    }
    out += encodePart(parts[i], `part ${i + 1}`) + after
  }
  return out
}

/**
 * @param {TemplateStringsArray} strings
 * @param {number} i
 * @returns {string}
 */
function literal(strings, i) {
  const one = strings[i]
  if (typeof one === 'string') return one
  // An escape that JavaScript cannot read ('\u{', '\x4') is undefined in a tagged template.
  throw invalidPart('the template', strings.raw?.[i], 'holds an escape that JavaScript cannot read')
}
