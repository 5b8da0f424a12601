// @ts-check
/**
 * Arguments of the Workers KV interface, as Cloudflare's runtime takes them: by the conversions of Web IDL
 * (https://webidl.spec.whatwg.org/#js-type-mapping), which turn anything into text or a whole number instead of
 * refusing it, and by the limits of the service.
 *
 * Promises: an option is read once, in the runtime's order; what the user's own code throws meanwhile comes out as it
 * is.
 */
import { MAX_KEY_BYTES } from '../errors.js'
import { refused, wrongArgument } from './errors.js'

/** @typedef {import('./errors.js').Call} Call */

/** Least time, in seconds, that a value read may be kept by KV's own caches. */
const LEAST_CACHE_TTL = 30
/** Least life of an entry, in seconds. */
const LEAST_TTL = 60
/** Most bytes of metadata, as JSON text in UTF-8. */
const MOST_METADATA = 1024
/** Most keys of one list(). */
const MOST_LISTED = 1000
/** Most keys of one bulk read. */
const MOST_BULK = 100

// --- Conversions -----------------------------------------------------------------------------------------------------

/**
 * @param {unknown} value
 * @returns {string}
 */
function text(value) {
  // Unlike String(), a template refuses a symbol, as the runtime does.
  return `${value}`
}

/**
 * A whole number of 32 bits. What is no finite number counts as 0.
 * @param {unknown} value
 * @returns {number}
 */
function integer(value) {
  // Unlike Number(), the operator refuses a BigInt, as the runtime does.
  const number = +/** @type {any} */ (value)
  if (!Number.isFinite(number)) return 0
  if (number < -2147483648 || number > 2147483647) {
    throw new TypeError('Value out of range. Must be between -2147483648 and 2147483647 (inclusive).')
  }
  return Math.trunc(number)
}

/**
 * @template T
 * @param {unknown} value
 * @param {(value: unknown) => T} convert
 * @returns {T | undefined}
 */
function optional(value, convert) {
  return value === undefined ? undefined : convert(value)
}

/**
 * An object of options: nothing given is an empty one.
 * @param {unknown} value
 * @param {() => TypeError} refusal
 * @returns {Record<string, unknown>}
 */
function dictionary(value, refusal) {
  if (value === undefined || value === null) return {}
  if (!isObject(value)) throw refusal()
  return /** @type {Record<string, unknown>} */ (value)
}

/**
 * @param {unknown} value
 * @returns {value is object}
 */
function isObject(value) {
  return (typeof value === 'object' && value !== null) || typeof value === 'function'
}

// --- Arguments of each method ----------------------------------------------------------------------------------------

/**
 * Of get() and getWithMetadata(): one key or many, and how to read.
 * @param {'get' | 'getWithMetadata'} method
 * @param {unknown[]} args
 * @returns {{ key: string | string[], type: string | undefined, cacheTtl: number | undefined }}
 */
export function getArguments(method, args) {
  if (args.length < 1) throw wrongArgument(method, 1, method === 'get' ? 'string or Array' : 'Array or string')
  const [first, second] = args
  const key = Array.isArray(first) ? Array.from(first, text) : text(first)
  if (second !== undefined && second !== null && !isObject(second)) {
    return { key, type: text(second), cacheTtl: undefined }
  }
  const options = /** @type {Record<string, unknown>} */ (second ?? {})
  const type = optional(options.type, text)
  return { key, type, cacheTtl: optional(options.cacheTtl, integer) }
}

/**
 * @param {unknown[]} args
 * @returns {{ key: string, value: string | object, options: PutOptions }}
 */
export function putArguments(args) {
  if (args.length < 1) throw wrongArgument('put', 1, 'string')
  const key = text(args[0])
  if (args.length < 2) throw wrongArgument('put', 2, 'string or JsObject')
  const value = isObject(args[1]) ? args[1] : text(args[1])
  const given = dictionary(args[2], () => wrongArgument('put', 3, 'PutOptions'))
  const expiration = optional(given.expiration, integer)
  const expirationTtl = optional(given.expirationTtl, integer)
  return { key, value, options: { expiration, expirationTtl, metadata: given.metadata } }
}

/**
 * @typedef {object} PutOptions
 * @property {number | undefined} expiration
 * @property {number | undefined} expirationTtl
 * @property {unknown} metadata
 */

/**
 * @param {unknown[]} args
 * @returns {string}
 */
export function deleteArguments(args) {
  if (args.length < 1) throw wrongArgument('delete', 1, 'string')
  return text(args[0])
}

/**
 * @param {unknown[]} args
 * @returns {{ prefix: string, limit: number, after: string | undefined }}
 */
export function listArguments(args) {
  const given = dictionary(args[0], () => wrongArgument('list', 1, 'ListOptions'))
  const limit = optional(given.limit, integer) ?? 0
  const prefix = given.prefix === undefined || given.prefix === null ? '' : text(given.prefix)
  const cursor = given.cursor === undefined || given.cursor === null ? '' : text(given.cursor)
  if (limit > MOST_LISTED) {
    const why = `Invalid key_count_limit of ${limit}. Please specify an integer less than ${MOST_LISTED}.`
    throw refused('GET', 400, why)
  }
  checkLength('GET', prefix)
  return { prefix, limit: limit > 0 ? limit : MOST_LISTED, after: decodeCursor(cursor) }
}

// --- Cursors ---------------------------------------------------------------------------------------------------------

/**
 * Where a page ended.
 * @param {string} key the last one of the page
 * @returns {string}
 */
export function encodeCursor(key) {
  return Buffer.from(key).toString('base64')
}

/**
 * The key after which the next page begins. What is no cursor of ours is read as far as it goes, as KV does.
 * @param {string} cursor
 * @returns {string | undefined}
 */
function decodeCursor(cursor) {
  const key = Buffer.from(cursor, 'base64').toString()
  return key === '' ? undefined : key
}

// --- Limits ----------------------------------------------------------------------------------------------------------

/**
 * What the runtime refuses of a single key by itself.
 * @param {Call} call
 * @param {string} key
 */
export function checkKey(call, key) {
  if (key === '') throw new TypeError('Key name cannot be empty.')
  if (isReserved(key)) throw new TypeError(`"${key}" is not allowed as a key name.`)
  checkLength(call, key)
}

/**
 * What the service refuses, in a key that the runtime has let through.
 * @param {Call} call
 * @param {string} key
 */
export function checkUnicode(call, key) {
  if (!key.isWellFormed()) throw refused(call, 400, 'Could not URL-decode key name')
}

/**
 * What the service refuses of a key among many.
 * @param {string} key
 */
export function checkBulkKey(key) {
  if (key === '') throw refused('GET_BULK', 400, 'Key names must not be empty')
  if (isReserved(key)) throw refused('GET_BULK', 400, `Illegal key name "${key}". Please use a different name.`)
  checkLength('GET_BULK', key)
  checkUnicode('GET_BULK', key)
}

/**
 * @param {string[]} keys
 * @param {string | undefined} type
 */
export function checkBulk(keys, type) {
  if (type !== undefined && type !== '' && type !== 'text' && type !== 'json') {
    throw refused('GET_BULK', 400, `"${type}" is not a valid type. Use "json" or "text"`)
  }
  if (keys.length > MOST_BULK) throw refused('GET_BULK', 400, `You can request a maximum of ${MOST_BULK} keys`)
  if (keys.length === 0) throw refused('GET_BULK', 400, 'You must request a minimum of 1 key')
}

/**
 * A key of the cache that KV cannot have: in a URL it would mean another path.
 * @param {string} key
 * @returns {boolean}
 */
export function isReserved(key) {
  return key === '.' || key === '..'
}

/**
 * @param {Call} call
 * @param {string} key
 */
function checkLength(call, key) {
  const bytes = Buffer.byteLength(key)
  if (bytes > MAX_KEY_BYTES) {
    throw refused(call, 414, `UTF-8 encoded length of ${bytes} exceeds key length limit of ${MAX_KEY_BYTES}.`)
  }
}

/**
 * @param {'GET' | 'GET_BULK'} call
 * @param {number | undefined} ttl seconds
 */
export function checkCacheTtl(call, ttl) {
  if (ttl !== undefined && ttl < LEAST_CACHE_TTL) {
    throw refused(call, 400, `Invalid cache_ttl of ${ttl}. Cache TTL must be at least ${LEAST_CACHE_TTL}.`)
  }
}

/**
 * When an entry is to end.
 * @param {PutOptions} options
 * @returns {number} seconds since the UNIX epoch, Infinity for never
 */
export function expirationOf({ expiration, expirationTtl: ttl }) {
  const now = Math.floor(Date.now() / 1000)
  if (ttl !== undefined) {
    if (ttl <= 0) throw refused('PUT', 400, `Invalid expiration_ttl of ${ttl}. Please specify integer greater than 0.`)
    if (ttl < LEAST_TTL) {
      throw refused('PUT', 400, `Invalid expiration_ttl of ${ttl}. Expiration TTL must be at least ${LEAST_TTL}.`)
    }
    return now + ttl
  }
  if (expiration === undefined) return Infinity
  if (expiration <= now) {
    const wanted = 'Please specify integer greater than the current number of seconds since the UNIX epoch.'
    throw refused('PUT', 400, `Invalid expiration of ${expiration}. ${wanted}`)
  }
  if (expiration < now + LEAST_TTL) {
    const wanted = `Expiration times must be at least ${LEAST_TTL} seconds in the future.`
    throw refused('PUT', 400, `Invalid expiration of ${expiration}. ${wanted}`)
  }
  return expiration
}

/**
 * Metadata as JSON text, '' for none.
 * @param {unknown} metadata
 * @returns {string | undefined} undefined where JSON has no text for it
 */
export function metadataText(metadata) {
  return metadata === undefined || metadata === null ? '' : JSON.stringify(metadata)
}

/**
 * @param {string | undefined} json as {@link metadataText} gave it
 * @returns {string}
 */
export function checkMetadata(json) {
  if (json === undefined) throw refused('PUT', 400, 'Metadata must be something that JSON can carry.')
  const bytes = Buffer.byteLength(json)
  if (bytes > MOST_METADATA) {
    throw refused('PUT', 413, `Metadata length of ${bytes} exceeds limit of ${MOST_METADATA}.`)
  }
  return json
}
