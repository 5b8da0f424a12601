// @ts-check
/**
 * Options: what users write, checked and turned into plain numbers.
 *
 * Promises: every wrong name or value is refused with ERR_KVCACHE_INVALID_OPTION, naming the option, what was given
 * and what is allowed; `undefined` counts as not given. What comes out has one hidden class, milliseconds and bytes
 * only, and shares nothing that the user can change later.
 *
 * A layer is one place where options are given: the constructor, a define(), a call, context.set(). {@link resolve}
 * merges them, later over earlier, and puts the defaults below all.
 */
import { invalidOption, unknownOption } from './errors.js'
import { encodeTies, parseParents, parseTags } from './invalidation.js'
import { parseTiers, tiersText } from './tiers.js'

/** Most bytes of an entry's metadata, as JSON text in UTF-8. */
export const MAX_METADATA_BYTES = 1024
/** Longest name of an origin, and of a serializer, in UTF-16 units. */
const MAX_NAME = 256
/** Least memory budget, in bytes. */
const MIN_MEMORY = 1024

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR

/** Defaults, in milliseconds. */
const MAX_AGE = 300 * SECOND
const STALE_AGE = HOUR
const HARD_TIMEOUT = 30 * SECOND

// --- Scalars ---------------------------------------------------------------------------------------------------------

const UNIT = "or a string with a unit: '250ms' '30s' '5m' '1h' '7d'"
const ALLOWED_AGE = `a number of seconds of at least 0, Infinity, ${UNIT}`
const ALLOWED_TIMEOUT = `a number of milliseconds above 0, Infinity, ${UNIT}`
const ALLOWED_FINITE_TIMEOUT = `a finite number of milliseconds above 0, ${UNIT}`
const ALLOWED_SIZE = "a whole number of bytes of at least 1, or a string with a unit: '512b' '64kb' '256mb' '2gb'"

const DURATION = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/
const SIZE = /^(\d+(?:\.\d+)?)(b|kb|mb|gb)$/

/** @type {Record<string, number>} */
const MILLISECONDS = { ms: 1, s: SECOND, m: MINUTE, h: HOUR, d: DAY }
/** @type {Record<string, number>} */
const BYTES = { b: 1, kb: 1024, mb: 1024 ** 2, gb: 1024 ** 3 }

/**
 * Milliseconds of a string with a unit; NaN when it is none.
 * @param {string} text
 * @returns {number}
 */
function duration(text) {
  const found = DURATION.exec(text)
  return found === null ? NaN : Number(found[1]) * MILLISECONDS[found[2]]
}

/**
 * Whole milliseconds. What is beyond 285,000 years, where doubles stop telling milliseconds apart, is for ever.
 * @param {number} ms
 * @returns {number}
 */
function whole(ms) {
  // Adding 0 makes 0 of -0.
  return ms > Number.MAX_SAFE_INTEGER ? Infinity : Math.round(ms) + 0
}

/**
 * An age: seconds as a number, Infinity, or a string with a unit.
 * @param {string} name of the option
 * @param {unknown} value
 * @returns {number} whole milliseconds of at least 0, or Infinity
 */
export function parseAge(name, value) {
  const ms = typeof value === 'number' ? value * SECOND : typeof value === 'string' ? duration(value) : NaN
  if (ms >= 0) return whole(ms)
  throw invalidOption(name, value, ALLOWED_AGE)
}

/**
 * A timeout: milliseconds as a number, or a string with a unit. Infinity is never. A fraction of a millisecond is one.
 * setTimeout() cannot wait longer than 2^31 - 1 ms; that is for who sets the timer to mind.
 * @param {string} name of the option
 * @param {unknown} value
 * @param {boolean} [finite] whether Infinity is refused
 * @returns {number} whole milliseconds of at least 1, or Infinity
 */
export function parseTimeout(name, value, finite = false) {
  const ms = typeof value === 'number' ? value : typeof value === 'string' ? duration(value) : NaN
  if (ms > 0 && !(finite && whole(ms) === Infinity)) return Math.max(1, whole(ms))
  throw invalidOption(name, value, finite ? ALLOWED_FINITE_TIMEOUT : ALLOWED_TIMEOUT)
}

/**
 * A size: bytes as a number, or a string with a unit, powers of 1024. Always a whole number of bytes.
 * @param {string} name of the option
 * @param {unknown} value
 * @param {number} [least] bytes
 * @returns {number}
 */
export function parseSize(name, value, least = 1) {
  let bytes = NaN
  if (typeof value === 'number') {
    bytes = value
  } else if (typeof value === 'string') {
    const found = SIZE.exec(value)
    if (found !== null) bytes = Number(found[1]) * BYTES[found[2]]
  }
  if (Number.isSafeInteger(bytes) && bytes >= least) return bytes
  throw invalidOption(name, value, least > 1 ? `${ALLOWED_SIZE}; not below ${least} bytes` : ALLOWED_SIZE)
}

/**
 * A whole number within bounds.
 * @param {string} name of the option
 * @param {unknown} value
 * @param {number} least
 * @param {number} most
 * @returns {number}
 */
function parseCount(name, value, least, most) {
  if (Number.isInteger(value) && Number(value) >= least && Number(value) <= most) return Number(value)
  throw invalidOption(name, value, `a whole number from ${least} to ${most}`)
}

/**
 * @param {string} name of the option
 * @param {unknown} value
 * @returns {number} 0 to 1
 */
function parseJitter(name, value) {
  if (typeof value === 'number' && value >= 0 && value <= 1) return value
  throw invalidOption(name, value, 'a number from 0 to 1')
}

/**
 * @param {string} name of the option
 * @param {unknown} value
 * @returns {string}
 */
function parseName(name, value) {
  if (typeof value === 'string' && value !== '' && value.length <= MAX_NAME && value.isWellFormed()) return value
  throw invalidOption(name, value, `a string of 1 to ${MAX_NAME} characters, without lone surrogates`)
}

/**
 * Metadata as JSON text.
 * @param {unknown} value
 * @returns {string}
 */
function parseMetadata(value) {
  let text
  try {
    text = JSON.stringify(value)
  } catch (cause) {
    throw invalidOption('metadata', value, 'what JSON can carry: no cycle, no BigInt', cause)
  }
  if (text === undefined) throw invalidOption('metadata', value, 'what JSON can carry')
  if (text.length * 3 > MAX_METADATA_BYTES) {
    const bytes = Buffer.byteLength(text)
    if (bytes > MAX_METADATA_BYTES) {
      const allowed = `at most ${MAX_METADATA_BYTES} bytes of UTF-8 as JSON text; this has ${bytes}`
      throw invalidOption('metadata', value, allowed)
    }
  }
  return text
}

/**
 * @param {unknown} value
 * @returns {AbortSignal}
 */
function parseSignal(value) {
  // A signal made in another realm (a test runner's, a DOM emulation's) is not an instance of ours.
  const signal = /** @type {any} */ (value)
  if (
    signal instanceof AbortSignal ||
    (typeof signal === 'object' && signal !== null && typeof signal.aborted === 'boolean' &&
      typeof signal.addEventListener === 'function' && typeof signal.removeEventListener === 'function')
  ) return signal
  throw invalidOption('signal', value, 'an AbortSignal')
}

// --- Layers ----------------------------------------------------------------------------------------------------------

/** The options given in one place, parsed; what was not given is undefined. Ages and timeouts in milliseconds. */
export class Layer {
  constructor() {
    /** @type {number | undefined} */
    this.maxAge = undefined
    /** @type {number | undefined} */
    this.staleAge = undefined
    /** @type {number | undefined} */
    this.staleIfError = undefined
    /** @type {number | undefined} */
    this.jitter = undefined
    /** @type {number | undefined} */
    this.softTimeout = undefined
    /** @type {number | undefined} */
    this.hardTimeout = undefined
    /** JSON text. @type {string | undefined} */
    this.metadata = undefined
    /** @type {readonly string[] | undefined} */
    this.tags = undefined
    /** @type {readonly string[] | undefined} */
    this.dependsOn = undefined
    /** @type {AbortSignal | undefined} */
    this.signal = undefined
    /** @type {boolean} */
    this.forceFresh = false
    /** @type {string | undefined} */
    this.origin = undefined
    /** Only wrap() has it. @type {((...args: any[]) => string) | undefined} */
    this.key = undefined
    /** Only publish() has it. @type {number | undefined} */
    this.keep = undefined
  }
}

/** The layer of who gave no options. @type {Readonly<Layer>} */
export const EMPTY = Object.freeze(new Layer())

/** @typedef {'cache' | 'define' | 'get' | 'getMany' | 'publish' | 'put' | 'set' | 'wrap'} Where */

// Groups of options, as bits.
const ENTRY = 1
const META = 2
const LOAD = 4
const ORIGIN = 8
const CALL = 16
const KEY = 32
const KEEP = 64

/**
 * The groups allowed in each place, and how a message calls the place.
 * @type {Record<Where, { groups: number, label: string }>}
 */
const PLACES = {
  cache: { groups: ENTRY | LOAD, label: 'new KvCache()' },
  define: { groups: ENTRY | META | LOAD | ORIGIN, label: 'define()' },
  get: { groups: ENTRY | META | LOAD | ORIGIN | CALL, label: 'get()' },
  getMany: { groups: ENTRY | META | LOAD | ORIGIN | CALL, label: 'getMany()' },
  publish: { groups: ENTRY | META | KEEP, label: 'publish()' },
  put: { groups: ENTRY | META, label: 'put()' },
  set: { groups: ENTRY | META, label: 'context.set()' },
  wrap: { groups: ENTRY | META | LOAD | ORIGIN | CALL | KEY, label: 'wrap()' }
}

/** @type {Record<string, number>} */
const GROUP = Object.assign(Object.create(null), {
  maxAge: ENTRY,
  staleAge: ENTRY,
  staleIfError: ENTRY,
  jitter: ENTRY,
  metadata: META,
  tags: META,
  dependsOn: META,
  softTimeout: LOAD,
  hardTimeout: LOAD,
  origin: ORIGIN,
  signal: CALL,
  forceFresh: CALL,
  key: KEY,
  keep: KEEP
})

/** Options of the whole cache, beside the layer it is. */
const CACHE_OPTIONS = ['name', 'memory', 'near', 'serializer', 'compression', 'refresh', 'breaker', 'tiers']

/**
 * Parses the options given in one place. Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {unknown} options
 * @param {Where} where
 * @returns {Readonly<Layer>}
 */
export function layer(options, where) {
  if (options === undefined) return EMPTY
  const { groups, label } = PLACES[where]
  const given = asOptions(options, label)
  /** @type {Layer | undefined} */
  let out
  for (const name in given) {
    const value = given[name]
    if (value === undefined) continue
    const group = GROUP[name]
    if (group === undefined || (group & groups) === 0) {
      if (isStray(given, name)) continue
      throw unknown(name, where)
    }
    out ??= new Layer()
    read(out, name, value)
  }
  if (out === undefined) return EMPTY
  checkAges(out, given)
  return out
}

/**
 * @param {Layer} out
 * @param {string} name one of those in GROUP
 * @param {unknown} value
 */
function read(out, name, value) {
  switch (name) {
    case 'maxAge':
      out.maxAge = parseAge(name, value)
      break
    case 'staleAge':
      out.staleAge = parseAge(name, value)
      break
    case 'staleIfError':
      out.staleIfError = parseAge(name, value)
      break
    case 'jitter':
      out.jitter = parseJitter(name, value)
      break
    case 'softTimeout':
      out.softTimeout = parseTimeout(name, value)
      break
    case 'hardTimeout':
      out.hardTimeout = parseTimeout(name, value)
      break
    case 'metadata':
      out.metadata = parseMetadata(value)
      break
    case 'tags':
      out.tags = parseTags(value)
      break
    case 'dependsOn':
      out.dependsOn = parseParents(value)
      break
    case 'origin':
      out.origin = parseName(name, value)
      break
    case 'signal':
      out.signal = parseSignal(value)
      break
    case 'forceFresh':
      if (typeof value !== 'boolean') throw invalidOption(name, value, 'true or false')
      out.forceFresh = value
      break
    case 'key':
      if (typeof value !== 'function') throw invalidOption(name, value, 'a function that makes a key of the arguments')
      out.key = /** @type {(...args: any[]) => string} */ (value)
      break
    case 'keep':
      out.keep = parseCount(name, value, 1, MOST)
      break
  }
}

/**
 * staleAge below the maxAge given with it is a mistake; across layers it is raised (see {@link resolve}).
 * @param {Layer} out
 * @param {Record<string, unknown>} given
 */
function checkAges(out, given) {
  if (out.maxAge !== undefined && out.staleAge !== undefined && out.staleAge < out.maxAge) {
    throw invalidOption('staleAge', given.staleAge, `at least the maxAge given with it (${out.maxAge / SECOND} s)`)
  }
}

/**
 * @param {unknown} options
 * @param {string} label
 * @returns {Record<string, unknown>}
 */
function asOptions(options, label) {
  if (typeof options === 'object' && options !== null && !Array.isArray(options)) {
    return /** @type {Record<string, unknown>} */ (options)
  }
  throw invalidOption(`options of ${label}`, options, 'an object')
}

/**
 * Whether an unknown name is not the user's: something that another library left on Object.prototype.
 * @param {object} given
 * @param {string} name
 * @returns {boolean}
 */
function isStray(given, name) {
  return !Object.hasOwn(given, name)
}

/**
 * @param {string} name
 * @param {Where} where
 * @returns {import('./errors.js').KvCacheError}
 */
function unknown(name, where) {
  const { groups, label } = PLACES[where]
  const names = Object.keys(GROUP).filter(one => (GROUP[one] & groups) !== 0)
  if (where === 'cache') names.unshift(...CACHE_OPTIONS)
  const belongs = name in GROUP || CACHE_OPTIONS.includes(name) ? 'does not belong there' : 'is not known'
  return unknownOption(name, label, `${belongs}; allowed: ${names.join(', ')}`)
}

// --- What applies to one load or write -------------------------------------------------------------------------------

/**
 * @typedef {object} Resolved options that apply to one load or write, in milliseconds
 * @property {number} maxAge before jitter
 * @property {number} staleAge
 * @property {number} staleIfError
 * @property {number} jitter 0 to 1
 * @property {number} softTimeout Infinity for none
 * @property {number} hardTimeout Infinity for none
 * @property {string} metadata JSON text, or '' for none
 * @property {readonly string[] | undefined} tags
 * @property {readonly string[] | undefined} dependsOn
 * @property {string} ties both as the addon takes them
 */

/**
 * Merges layers, later over earlier, over the defaults: maxAge 300 s; staleAge the larger of 3600 s and maxAge, and
 * never below maxAge; staleIfError as staleAge; jitter 0; no softTimeout; hardTimeout 30 s; no metadata, no tags,
 * no dependencies.
 * @param {...Readonly<Layer>} layers
 * @returns {Resolved}
 */
export function resolve(...layers) {
  let maxAge, staleAge, staleIfError, jitter, softTimeout, hardTimeout, metadata, tags, dependsOn
  for (let i = 0; i < layers.length; i++) {
    const one = layers[i]
    if (one === EMPTY) continue
    if (one.maxAge !== undefined) maxAge = one.maxAge
    if (one.staleAge !== undefined) staleAge = one.staleAge
    if (one.staleIfError !== undefined) staleIfError = one.staleIfError
    if (one.jitter !== undefined) jitter = one.jitter
    if (one.softTimeout !== undefined) softTimeout = one.softTimeout
    if (one.hardTimeout !== undefined) hardTimeout = one.hardTimeout
    if (one.metadata !== undefined) metadata = one.metadata
    if (one.tags !== undefined) tags = one.tags
    if (one.dependsOn !== undefined) dependsOn = one.dependsOn
  }
  maxAge ??= MAX_AGE
  staleAge = Math.max(staleAge ?? STALE_AGE, maxAge)
  return {
    maxAge,
    staleAge,
    staleIfError: staleIfError ?? staleAge,
    jitter: jitter ?? 0,
    softTimeout: softTimeout ?? Infinity,
    hardTimeout: hardTimeout ?? HARD_TIMEOUT,
    metadata: metadata ?? '',
    tags,
    dependsOn,
    ties: encodeTies(tags, dependsOn)
  }
}

/**
 * The ages of an entry about to be stored: maxAge shortened at random by up to its jitter, the others as they are.
 * @param {Resolved} resolved
 * @param {() => number} [random] from 0 to below 1
 * @returns {{ maxAge: number, staleAge: number, staleIfError: number }} whole milliseconds, or Infinity
 */
export function agesOf(resolved, random = Math.random) {
  const { maxAge, staleAge, staleIfError, jitter } = resolved
  const shortened = jitter === 0 || maxAge === Infinity ? maxAge : Math.round(maxAge * (1 - jitter * random()))
  return { maxAge: shortened, staleAge, staleIfError }
}

const KEPT = 2

/**
 * What applies to a publication. Content ends when it is told to, since nothing refreshes it: without maxAge never, with one
 * at its end, unless a staleAge says until when it may be served beyond.
 * @param {unknown} options
 */
export function publishOptions(options) {
  const own = layer(options, 'publish')
  const maxAge = own.maxAge ?? own.staleAge ?? Infinity
  const staleAge = own.staleAge ?? maxAge
  const resolved = resolve(own, Object.assign(new Layer(), { maxAge, staleAge }))
  return { ages: agesOf(resolved), metadata: resolved.metadata, ties: resolved.ties, keep: own.keep ?? KEPT }
}

/**
 * Parses the options of a versioned get(). Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {unknown} options
 * @returns {number | undefined}
 */
export function versionOption(options) {
  const { version } = named(options, 'get()', ['version'])
  return version === undefined ? undefined : parseVersion(version)
}

/**
 * @param {unknown} value
 * @returns {number}
 */
export function parseVersion(value) {
  return parseCount('version', value, 1, Number.MAX_SAFE_INTEGER)
}

// --- The constructor -------------------------------------------------------------------------------------------------

/**
 * @typedef {object} Serializer
 * @property {string} name
 * @property {'json' | 'v8' | 'custom'} kind
 * @property {(value: unknown) => unknown} [serialize] of a custom one
 * @property {(bytes: Uint8Array) => unknown} [deserialize] of a custom one
 */

/**
 * @typedef {object} Compression
 * @property {'gzip' | 'zstd' | 'lz4'} algorithm
 * @property {number} level 0 for the algorithm's own default
 * @property {number} threshold bytes
 */

/**
 * @typedef {object} NearOptions
 * @property {number} max copies
 * @property {number} maxBytes
 * @property {import('./values.js').Sharing} values
 */

/**
 * @typedef {object} Refresh
 * @property {number} concurrency
 * @property {number} maxQueued
 * @property {number} retries
 * @property {number} backoff milliseconds
 * @property {number} cooldown milliseconds
 */

/**
 * @typedef {object} Breaker
 * @property {number} threshold
 * @property {number} timeout milliseconds
 * @property {(error: unknown) => unknown} failure
 */

/**
 * @typedef {object} Setting what all who open a named cache must agree on
 * @property {string} option
 * @property {string} value as messages show it
 * @property {boolean} given false for a default
 */

/**
 * @typedef {object} CacheOptions
 * @property {string | undefined} name
 * @property {Setting[]} settings of a named cache
 * @property {number} memory bytes
 * @property {Readonly<NearOptions> | null} near null for none
 * @property {Readonly<Serializer>} serializer
 * @property {Readonly<Compression> | null} compression null for none
 * @property {Readonly<Refresh>} refresh
 * @property {Readonly<Breaker> | null} breaker null for none
 * @property {readonly import('./tiers.js').Spec[]} tiers the nearest first
 * @property {Readonly<Layer>} load
 */

const MOST = 2 ** 31 - 1
/** Most copies near: what a Map can hold, and some room. */
const MOST_NEAR = 2 ** 24 - 2 ** 20
const MEMORY = 256 * 1024 ** 2

/**
 * Parses what the constructor was given. Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {unknown} [options]
 * @returns {Readonly<CacheOptions>}
 */
export function cacheOptions(options) {
  const given = options === undefined ? {} : asOptions(options, PLACES.cache.label)
  const { name, memory, near, serializer, compression, refresh, breaker, tiers } = given
  /** @type {Record<string, unknown>} */
  const rest = {}
  for (const name in given) if (!CACHE_OPTIONS.includes(name) && !isStrayUnknown(given, name)) rest[name] = given[name]
  const parsed = {
    name: name === undefined ? undefined : parseName('name', name),
    memory: memory === undefined ? MEMORY : parseSize('memory', memory, MIN_MEMORY),
    near: near === false ? null : Object.freeze(parseNear(near)),
    serializer: Object.freeze(parseSerializer(serializer)),
    compression: compression === false ? null : Object.freeze(parseCompression(compression)),
    refresh: Object.freeze(parseRefresh(refresh)),
    breaker: breaker === false ? null : Object.freeze(parseBreaker(breaker)),
    tiers: parseTiers(tiers),
    load: layer(rest, 'cache')
  }
  return Object.freeze({ ...parsed, settings: name === undefined ? [] : settings(parsed, given) })
}

/** Options of the engine, which all who open a named cache share. */
const SHARED = {
  compression: ['algorithm', 'level', 'threshold'],
  refresh: ['concurrency', 'maxQueued', 'retries', 'backoff', 'cooldown'],
  breaker: ['threshold', 'timeout']
}

/** Units of the options that have one. @type {Record<string, string>} */
const UNITS = { memory: 'bytes', threshold: 'bytes', backoff: 'ms', cooldown: 'ms', timeout: 'ms' }

/**
 * The settings of a named cache, as text: what was given is compared with what it is open with.
 * @param {Record<string, any>} parsed
 * @param {Record<string, any>} given
 * @returns {Setting[]}
 */
function settings(parsed, given) {
  const { serializer } = parsed
  const memory = { option: 'memory', value: `${parsed.memory} bytes`, given: given.memory !== undefined }
  const tiers = { option: 'tiers', value: tiersText(parsed.tiers), given: given.tiers !== undefined }
  const all = [memory, tiers, { option: 'serializer', value: serializerText(serializer), given: given.serializer !== undefined }]
  for (const [option, names] of Object.entries(SHARED)) {
    const own = given[option]
    all.push({ option, value: parsed[option] === null ? 'false' : 'an object', given: own !== undefined })
    if (parsed[option] === null) continue
    for (const name of names) {
      const unit = option === 'breaker' && name === 'threshold' ? undefined : UNITS[name]
      const value = String(parsed[option][name])
      all.push({
        option: `${option}.${name}`,
        value: unit === undefined ? value : `${value} ${unit}`,
        given: own?.[name] !== undefined
      })
    }
  }
  return all
}

/**
 * @param {Serializer} serializer
 * @returns {string}
 */
function serializerText({ name, kind }) {
  return kind === 'custom' ? `one of its own, '${name}'` : `'${name}'`
}

/**
 * The serializer of who opened a named cache without giving one: that which it is open with, if it is built in.
 * @param {string} text as in its settings
 * @returns {Serializer | undefined}
 */
export function knownSerializer(text) {
  return BUILT_IN.find(serializer => serializerText(serializer) === text)
}

/** @type {Serializer[]} */
const BUILT_IN = [{ name: 'json', kind: 'json' }, { name: 'v8', kind: 'v8' }]

/**
 * @param {object} given
 * @param {string} name
 * @returns {boolean}
 */
function isStrayUnknown(given, name) {
  return GROUP[name] === undefined && isStray(given, name)
}

/**
 * @param {unknown} value
 * @returns {Serializer}
 */
function parseSerializer(value) {
  if (value === undefined || value === 'json') return { name: 'json', kind: 'json' }
  if (value === 'v8') return { name: 'v8', kind: 'v8' }
  const given = /** @type {any} */ (value)
  if (typeof given === 'object' && given !== null) {
    const { name, serialize, deserialize } = given
    if (typeof serialize === 'function' && typeof deserialize === 'function') {
      return {
        name: parseName('serializer.name', name),
        kind: 'custom',
        serialize: one => serialize.call(given, one),
        deserialize: bytes => deserialize.call(given, bytes)
      }
    }
  }
  throw invalidOption('serializer', value, "'json', 'v8', or { name, serialize(value), deserialize(bytes) }")
}

/** Highest level of each algorithm; lz4 has none. @type {Record<string, number>} */
const LEVELS = { gzip: 9, zstd: 19, lz4: 0 }

/**
 * @param {unknown} value
 * @returns {NearOptions}
 */
function parseNear(value) {
  const given = value === undefined ? {} : inner('near', value, ['max', 'maxBytes', 'values'])
  const { max = 10_000, maxBytes = 64 * 1024 ** 2, values = 'frozen' } = given
  if (values !== 'frozen' && values !== 'shared' && values !== 'copy') {
    throw invalidOption('near.values', values, "'frozen', 'shared', 'copy'")
  }
  return { max: parseCount('near.max', max, 1, MOST_NEAR), maxBytes: parseSize('near.maxBytes', maxBytes), values }
}

/**
 * @param {unknown} value
 * @returns {Compression}
 */
function parseCompression(value) {
  const given = value === undefined ? {} : inner('compression', value, ['threshold', 'algorithm', 'level'])
  const { threshold = 1024, algorithm = 'gzip', level } = given
  if (typeof algorithm !== 'string' || !Object.hasOwn(LEVELS, algorithm)) {
    throw invalidOption('compression.algorithm', algorithm, "'gzip', 'zstd', 'lz4'")
  }
  const highest = LEVELS[algorithm]
  if (level !== undefined && highest === 0) {
    throw invalidOption('compression.level', level, `nothing: ${algorithm} has no levels`)
  }
  return {
    algorithm: /** @type {Compression['algorithm']} */ (algorithm),
    level: level === undefined ? 0 : parseCount('compression.level', level, 1, highest),
    threshold: threshold === 0 ? 0 : parseSize('compression.threshold', threshold)
  }
}

/**
 * @param {unknown} value
 * @returns {Refresh}
 */
function parseRefresh(value) {
  const names = ['concurrency', 'maxQueued', 'retries', 'backoff', 'cooldown']
  const given = value === undefined ? {} : inner('refresh', value, names)
  const { concurrency = 10, maxQueued = 10_000, retries = 0, backoff = 100, cooldown = 1000 } = given
  return {
    concurrency: parseCount('refresh.concurrency', concurrency, 1, MOST),
    maxQueued: parseCount('refresh.maxQueued', maxQueued, 1, MOST),
    retries: parseCount('refresh.retries', retries, 0, MOST),
    backoff: parseTimeout('refresh.backoff', backoff, true),
    cooldown: parseTimeout('refresh.cooldown', cooldown, true)
  }
}

/**
 * @param {unknown} value
 * @returns {Breaker}
 */
function parseBreaker(value) {
  const given = value === undefined ? {} : inner('breaker', value, ['threshold', 'timeout', 'failure'])
  const { threshold = 5, timeout = 30_000, failure = everyError } = given
  if (typeof failure !== 'function') throw invalidOption('breaker.failure', failure, 'a function of an error')
  return {
    threshold: parseCount('breaker.threshold', threshold, 1, MOST),
    timeout: parseTimeout('breaker.timeout', timeout, true),
    failure: failure === everyError ? everyError : error => failure.call(value, error)
  }
}

function everyError() {
  return true
}

/**
 * @param {string} option
 * @param {unknown} value
 * @param {string[]} names
 * @returns {Record<string, any>}
 */
function inner(option, value, names) {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const allowed = option === 'refresh' ? 'an object' : 'false, or an object'
    throw invalidOption(option, value, `${allowed} with any of ${names.join(', ')}`)
  }
  const given = /** @type {Record<string, any>} */ (value)
  for (const name in given) {
    if (given[name] !== undefined && !names.includes(name) && !isStray(given, name)) {
      throw unknownOption(`${option}.${name}`, PLACES.cache.label, `is not known; allowed: ${names.join(', ')}`)
    }
  }
  return given
}

// --- Webhooks --------------------------------------------------------------------------------------------------------

const SECRETS = "a secret, 'whsec_' and base64, or a non-empty array of such strings"

/**
 * Parses the options of webhook(). Throws ERR_KVCACHE_INVALID_OPTION, which never shows a secret.
 * @param {unknown} options
 * @returns {{ secrets: string[], tolerance: number, maxBody: number, timeout: number }} tolerance in seconds, timeout in
 *   milliseconds
 */
export function webhookOptions(options) {
  const names = ['secret', 'tolerance', 'maxBody', 'timeout']
  const { secret, tolerance = 300, maxBody = '64kb', timeout = 10 * SECOND } = named(options ?? {}, 'webhook()', names)
  const secrets = Array.isArray(secret) ? Array.from(secret) : [secret]
  if (secrets.length === 0 || !secrets.every(one => typeof one === 'string' && one !== '')) {
    throw unknownOption('secret', 'webhook()', `is missing or no string; allowed: ${SECRETS}`)
  }
  const seconds = parseAge('tolerance', tolerance) / SECOND
  if (seconds < 1 || seconds > DAY / SECOND) {
    throw invalidOption('tolerance', tolerance, `from 1 s to 1 d: a number of seconds, ${UNIT}`)
  }
  return {
    secrets,
    tolerance: seconds,
    maxBody: parseSize('maxBody', maxBody),
    timeout: parseTimeout('timeout', timeout)
  }
}

// --- Small calls -----------------------------------------------------------------------------------------------------

const LIST_LIMIT = 1000
const MOST_LISTED = 10_000

/**
 * Parses the options of flush() and close(). Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {unknown} options
 * @param {string} label how a message calls the place
 * @returns {number | undefined} the timeout in milliseconds, may be infinite; undefined when not given
 */
export function closeOptions(options, label) {
  const { timeout } = named(options, label, ['timeout'])
  return timeout === undefined ? undefined : parseTimeout('timeout', timeout)
}

/**
 * Parses the options of list(). Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {unknown} options
 * @param {readonly string[]} [tiers] the names of those behind memory
 * @returns {{ prefix: string, limit: number, cursor: string | undefined, tier: string | undefined }}
 */
export function listOptions(options, tiers = []) {
  const { prefix = '', limit = LIST_LIMIT, cursor, tier } = named(options, 'list()', ['prefix', 'limit', 'cursor', 'tier'])
  if (typeof prefix !== 'string' || !prefix.isWellFormed()) {
    throw invalidOption('prefix', prefix, 'a string without lone surrogates')
  }
  if (cursor !== undefined && typeof cursor !== 'string') throw invalidOption('cursor', cursor, 'a cursor that list() gave')
  if (tier !== undefined && tier !== 'memory' && !tiers.includes(/** @type {any} */ (tier))) {
    throw invalidOption('tier', tier, ['memory', ...tiers].map(name => `'${name}'`).join(', '))
  }
  return { prefix, limit: parseCount('limit', limit, 1, MOST_LISTED), cursor, tier: tier === 'memory' ? undefined : tier }
}

/**
 * @param {unknown} options
 * @param {string} label
 * @param {string[]} names those allowed
 * @returns {Record<string, any>}
 */
function named(options, label, names) {
  if (options === undefined) return {}
  const given = asOptions(options, label)
  for (const name in given) {
    if (given[name] === undefined || names.includes(name) || isStray(given, name)) continue
    throw unknownOption(name, label, `is not known; allowed: ${names.join(', ')}`)
  }
  return given
}
