// @ts-check
/**
 * Tiers as users name them: checked descriptions, of which the addon makes the tiers of each cache that is opened with them.
 *
 * Promises: what cannot be right is refused with ERR_KVCACHE_INVALID_OPTION before anything is opened or called; no credential is ever in a
 * message, and none can be read from the object.
 */
import { createHash } from 'node:crypto'
import { resolve } from 'node:path'
import { invalidOption, show, unknownOption } from './errors.js'
import { parseSize, parseTimeout } from './options.js'

/** How long one call of a tier may take, unless told otherwise, in milliseconds. */
const TIMEOUT = 1000

/**
 * A tier as the addon takes it.
 * @typedef {{ kind: string, timeout: number, [option: string]: any }} Spec
 */

/** @type {(tier: unknown) => Spec | undefined} */
let specOf

class Tier {
  #spec

  /**
   * @param {Spec} spec
   */
  constructor(spec) {
    /** Its name in errors, events, stats() and metrics(). */
    this.name = spec.kind
    this.#spec = Object.freeze(spec)
    Object.freeze(this)
  }

  static {
    specOf = tier => (typeof tier === 'object' && tier !== null && #spec in tier ? tier.#spec : undefined)
  }
}

const ALLOWED_TIERS = 'an array of tiers, the nearest first, each of another kind: disk(), redis(), cloudflareKV()'

/**
 * The option `tiers`.
 * @param {unknown} value
 * @returns {readonly Spec[]}
 */
export function parseTiers(value) {
  if (value === undefined) return Object.freeze([])
  if (!Array.isArray(value)) throw invalidOption('tiers', value, ALLOWED_TIERS)
  const kinds = new Set()
  const specs = Array.from(value, tier => {
    const spec = specOf(tier)
    if (spec === undefined) throw invalidOption('tiers', value, `${ALLOWED_TIERS}; one is ${show(tier)}`)
    if (kinds.has(spec.kind)) throw unknownOption('tiers', 'the cache', `has '${spec.kind}' twice; allowed: ${ALLOWED_TIERS}`)
    kinds.add(spec.kind)
    return spec
  })
  return Object.freeze(specs)
}

/**
 * Tiers as text, for comparing those of one name: tells nothing secret.
 * @param {readonly Spec[]} specs
 * @returns {string}
 */
export function tiersText(specs) {
  if (specs.length === 0) return 'none'
  return specs.map(spec => {
    const sum = createHash('sha256').update(JSON.stringify(Object.entries(spec).sort())).digest('hex').slice(0, 12)
    return `${spec.kind}#${sum}`
  }).join(', ')
}

/**
 * @param {unknown} options
 * @param {string} label
 * @param {string[]} names
 * @returns {Record<string, unknown>}
 */
function named(options, label, names) {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw invalidOption(`options of ${label}`, Array.isArray(options) ? options : typeof options, 'an object')
  }
  const given = /** @type {Record<string, unknown>} */ (options)
  for (const name of Object.keys(given)) {
    if (given[name] !== undefined && !names.includes(name)) {
      throw unknownOption(name, label, `is not known; allowed: ${names.join(', ')}`)
    }
  }
  return given
}

/**
 * @param {unknown} value
 * @returns {number} milliseconds
 */
function parseTierTimeout(value) {
  return value === undefined ? TIMEOUT : parseTimeout('timeout', value, true)
}

// --- Workers KV ------------------------------------------------------------------------------------------------------

const ID = /^[A-Za-z0-9_-]{1,128}$/
const TOKEN = /^[\x21-\x7e]{1,1024}$/

/**
 * @param {string} name
 * @param {unknown} value
 * @returns {string}
 */
function parseId(name, value) {
  if (typeof value === 'string' && ID.test(value)) return value
  throw invalidOption(name, value, "a string of 1 to 128 letters, digits, '-' and '_', as in Cloudflare's dashboard")
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function parseToken(value) {
  if (typeof value === 'string' && TOKEN.test(value)) return value
  // What was given may be a token all the same, but for a line feed at its end: it is not shown.
  const what = typeof value === 'string' ? 'a string that cannot be one' : show(value)
  throw unknownOption('apiToken', 'cloudflareKV()', `is ${what}; allowed: a string of visible ASCII characters, at most 1024`)
}

/**
 * @param {unknown} value
 * @returns {string | undefined}
 */
function parseBaseUrl(value) {
  if (value === undefined) return undefined
  const allowed = 'an https URL without credentials, query and fragment; plain http to this machine only (127.0.0.0/8, [::1], localhost)'
  let url
  try {
    url = new URL(/** @type {string} */ (value))
  } catch {
    throw unknownOption('baseUrl', 'cloudflareKV()', `is no URL; allowed: ${allowed}`)
  }
  const loopback = /^(localhost|127(\.\d+){3}|\[::1\])$/.test(url.hostname)
  const plain = url.username === '' && url.password === '' && url.search === '' && url.hash === ''
  if (plain && (url.protocol === 'https:' || (url.protocol === 'http:' && loopback))) return url.href
  throw unknownOption('baseUrl', 'cloudflareKV()', `is ${plain ? show(url.href) : 'a URL with more than a host and a path'}; allowed: ${allowed}`)
}

/**
 * @param {unknown} options
 */
export function cloudflareKV(options) {
  const label = 'cloudflareKV()'
  const { accountId, namespaceId, apiToken, baseUrl, timeout } =
    named(options, label, ['accountId', 'namespaceId', 'apiToken', 'baseUrl', 'timeout'])
  return new Tier({
    kind: 'cloudflareKV',
    timeout: parseTierTimeout(timeout),
    accountId: parseId('accountId', accountId),
    namespaceId: parseId('namespaceId', namespaceId),
    apiToken: parseToken(apiToken),
    baseUrl: parseBaseUrl(baseUrl)
  })
}

// --- Disk ------------------------------------------------------------------------------------------------------------

/** Bytes that a store takes unless told otherwise, and the least it can be told to. */
const MAX_SIZE = 1024 ** 3
const LEAST_SIZE = 1024 ** 2

/**
 * @param {unknown} options
 */
export function disk(options) {
  const { path, maxSize, timeout } = named(options, 'disk()', ['path', 'maxSize', 'timeout'])
  if (typeof path !== 'string' || path === '' || path.includes('\0') || !path.isWellFormed()) {
    throw invalidOption('path', path, 'the path of a directory, which is made if it is not there')
  }
  return new Tier({
    kind: 'disk',
    timeout: parseTierTimeout(timeout),
    path: resolve(path),
    maxSize: maxSize === undefined ? MAX_SIZE : parseSize('maxSize', maxSize, LEAST_SIZE)
  })
}

// --- Redis -----------------------------------------------------------------------------------------------------------

const PREFIX = 'kvcache:'
const MOST_PREFIX = 128
const MOST_URLS = 64
const ALLOWED_URL = "'redis://host:port', 'rediss://…' for TLS, 'unix:///path', with 'user:password@' and '/database' where needed, or an array of these"

/**
 * @param {unknown} value
 * @returns {string[]}
 */
function parseUrls(value) {
  const urls = Array.isArray(value) ? Array.from(value) : [value]
  if (urls.length === 0 || urls.length > MOST_URLS) throw invalidOption('url', value, `${ALLOWED_URL}; 1 to ${MOST_URLS}`)
  for (const url of urls) {
    // What was given may hold a password: it is not shown.
    if (typeof url !== 'string') throw invalidOption('url', url, ALLOWED_URL)
    if (!/^(rediss?:\/\/[^/]|(redis\+)?unix:\/\/)/.test(url) || !URL.canParse(url)) {
      throw unknownOption('url', 'redis()', `is a string that is no URL of Redis; allowed: ${ALLOWED_URL}`)
    }
  }
  return urls
}

/**
 * @param {string} name
 * @param {unknown} value
 * @returns {boolean}
 */
function parseFlag(name, value) {
  if (value === undefined) return false
  if (typeof value === 'boolean') return value
  throw invalidOption(name, value, 'true or false')
}

/**
 * @param {unknown} value
 * @returns {string | undefined}
 */
function parseSentinel(value) {
  if (value === undefined) return undefined
  const { name } = named(value, 'sentinel', ['name'])
  if (typeof name === 'string' && name !== '') return name
  throw invalidOption('sentinel.name', name, 'the name of the master that the sentinels watch')
}

/**
 * @param {unknown} value
 * @returns {string | undefined}
 */
function parseTls(value) {
  if (value === undefined) return undefined
  const { ca } = named(value, 'tls', ['ca'])
  if (ca === undefined || (typeof ca === 'string' && ca !== '')) return ca
  throw invalidOption('tls.ca', ca, 'certificates as PEM, or the path of a file that holds them')
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function parsePrefix(value) {
  if (value === undefined) return PREFIX
  if (typeof value === 'string' && value !== '' && value.isWellFormed() && Buffer.byteLength(value) <= MOST_PREFIX &&
    !/[{}]/.test(value)) return value
  throw invalidOption('prefix', value, `a string of 1 to ${MOST_PREFIX} bytes of UTF-8 without '{' and '}'`)
}

/**
 * @param {unknown} options
 */
export function redis(options) {
  const { url, cluster, sentinel, tls, prefix, lock, timeout } =
    named(options, 'redis()', ['url', 'cluster', 'sentinel', 'tls', 'prefix', 'lock', 'timeout'])
  const spec = {
    kind: 'redis',
    timeout: parseTierTimeout(timeout),
    urls: parseUrls(url),
    cluster: parseFlag('cluster', cluster),
    sentinel: parseSentinel(sentinel),
    ca: parseTls(tls),
    prefix: parsePrefix(prefix),
    lock: parseFlag('lock', lock)
  }
  if (spec.cluster && spec.sentinel !== undefined) {
    throw unknownOption('sentinel', 'redis()', 'and cluster exclude each other; allowed: one of them')
  }
  return new Tier(spec)
}
