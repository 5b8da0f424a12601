// @ts-check
/**
 * What users name when they invalidate, and the ties they give their values: checked, and turned into what the addon takes.
 *
 * Promises: a target that is none is refused with ERR_KVCACHE_INVALID_OPTION, or ERR_KVCACHE_INVALID_KEY where a key is due,
 * which says what is allowed; nothing is invalidated before all targets of a call have been looked at.
 */
import { invalidKey, invalidOption, show, unknownOption, whyInvalidKey } from './errors.js'
import { parsePattern } from './pattern.js'

/** Most tags of a value, and most keys that it depends on. */
export const MOST_TIES = 64
/** Longest tag, in bytes of UTF-8. */
export const MAX_TAG_BYTES = 256

const ALLOWED =
  "a key or a pattern as a string, { key }, { prefix }, { pattern }, { tag }, { all: true }, or an array of these"
const ALLOWED_TAG = `a string of 1 to ${MAX_TAG_BYTES} bytes of UTF-8, without lone surrogates`

/** What the addon calls the kinds of targets. */
const Kind = Object.freeze({ Key: 0, Prefix: 1, Pattern: 2, Tag: 3, All: 4 })

/**
 * A target as the addon takes it.
 * @typedef {object} Parsed
 * @property {number} kind
 * @property {string} text
 * @property {string} label the target as the user wrote it, as JSON: events give it back
 */

/**
 * @param {unknown} target one target, or an array of them
 * @returns {Parsed[]}
 */
export function parseTargets(target) {
  // Array.from() turns holes into undefined, which is then refused.
  return Array.isArray(target) ? Array.from(target, parseTarget) : [parseTarget(target)]
}

/**
 * @param {unknown} target
 * @returns {Parsed}
 */
function parseTarget(target) {
  if (typeof target === 'string') return parsed(Kind.Pattern, parsePattern(target, 'target').source, target)
  if (typeof target !== 'object' || target === null || Array.isArray(target)) throw invalidOption('target', target, ALLOWED)
  const given = /** @type {Record<string, unknown>} */ (target)
  const names = Object.keys(given).filter(name => given[name] !== undefined)
  if (names.length !== 1) {
    const which = names.length === 0 ? 'names nothing' : `names more than one thing (${names.join(', ')})`
    throw unknownOption('target', 'invalidate()', `${which}; allowed: ${ALLOWED}`)
  }
  const name = names[0]
  const value = given[name]
  switch (name) {
    case 'key': {
      const why = whyInvalidKey(value)
      if (why !== undefined) throw invalidKey(value, why)
      return parsed(Kind.Key, value, { key: value })
    }
    case 'prefix':
      if (typeof value !== 'string' || !value.isWellFormed()) {
        throw invalidOption('target.prefix', value, "a string without lone surrogates; '' for every key")
      }
      return parsed(Kind.Prefix, value, { prefix: value })
    case 'pattern':
      return parsed(Kind.Pattern, parsePattern(value, 'target.pattern').source, { pattern: value })
    case 'tag':
      return parsed(Kind.Tag, parseTag('target.tag', value), { tag: value })
    case 'all':
      if (value !== true) throw invalidOption('target.all', value, 'true')
      return parsed(Kind.All, '', { all: true })
    default:
      throw unknownOption(`target.${name}`, 'invalidate()', `is not known; allowed: ${ALLOWED}`)
  }
}

/**
 * @param {number} kind
 * @param {unknown} text
 * @param {unknown} label
 * @returns {Parsed}
 */
function parsed(kind, text, label) {
  return { kind, text: /** @type {string} */ (text), label: JSON.stringify(label) }
}

/**
 * Parses the options of invalidate(). Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {unknown} options
 * @returns {boolean} whether it is soft
 */
export function parseSoft(options) {
  if (options === undefined) return false
  if (typeof options !== 'object' || options === null) throw invalidOption('options of invalidate()', options, 'an object')
  const given = /** @type {Record<string, unknown>} */ (options)
  for (const name of Object.keys(given)) {
    if (name !== 'soft' && given[name] !== undefined) {
      throw unknownOption(name, 'invalidate()', 'is not known; allowed: soft')
    }
  }
  const { soft = false } = given
  if (typeof soft !== 'boolean') throw invalidOption('soft', soft, 'true or false')
  return soft
}

/**
 * @param {string} name of the option
 * @param {unknown} value
 * @returns {string}
 */
function parseTag(name, value) {
  if (typeof value === 'string' && value !== '' && value.isWellFormed() &&
    (value.length * 3 <= MAX_TAG_BYTES || Buffer.byteLength(value) <= MAX_TAG_BYTES)) return value
  throw invalidOption(name, value, ALLOWED_TAG)
}

/**
 * The option `tags`.
 * @param {unknown} value
 * @returns {readonly string[]} each once
 */
export function parseTags(value) {
  return parseList('tags', value, one => parseTag('tags', one), `an array of at most ${MOST_TIES} tags, each ${ALLOWED_TAG}`)
}

/**
 * The option `dependsOn`.
 * @param {unknown} value
 * @returns {readonly string[]} each once
 */
export function parseParents(value) {
  const allowed = `an array of at most ${MOST_TIES} keys`
  return parseList('dependsOn', value, one => {
    const why = whyInvalidKey(one)
    if (why !== undefined) throw invalidOption('dependsOn', one, `${allowed}; ${show(one)} ${why}`)
    return /** @type {string} */ (one)
  }, allowed)
}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {(one: unknown) => string} parse
 * @param {string} allowed
 */
function parseList(name, value, parse, allowed) {
  if (!Array.isArray(value)) throw invalidOption(name, value, allowed)
  const list = [...new Set(Array.from(value, parse))]
  if (list.length > MOST_TIES) throw invalidOption(name, value, allowed)
  return Object.freeze(list)
}

/**
 * Tags and parents as the addon takes them: '' where neither was given, '-' where there are to be none.
 * @param {readonly string[] | undefined} tags
 * @param {readonly string[] | undefined} dependsOn
 * @returns {string}
 */
export function encodeTies(tags, dependsOn) {
  if (tags === undefined && dependsOn === undefined) return ''
  let text = ''
  if (tags !== undefined) for (const tag of tags) text += `t${Buffer.byteLength(tag)}:${tag}`
  if (dependsOn !== undefined) for (const key of dependsOn) text += `k${Buffer.byteLength(key)}:${key}`
  return text === '' ? '-' : text
}

/**
 * What the addon gives back of them.
 * @param {string[]} links each with a letter before it
 * @returns {{ tags: string[], dependsOn: string[] }}
 */
export function decodeTies(links) {
  /** @type {string[]} */
  const tags = []
  /** @type {string[]} */
  const dependsOn = []
  for (const link of links) (link[0] === 't' ? tags : dependsOn).push(link.slice(1))
  return { tags, dependsOn }
}
