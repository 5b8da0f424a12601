// @ts-check
/**
 * The errors of kvcache: one class, a stable `code` on each, and a factory for every kind.
 *
 * Promises: a message names what it is about (the key, shortened to 64 characters; the option; the event) and what
 * would have been allowed. Rendering a value for a message never throws, never takes long, and never puts more than a
 * line of it into the message. A fetcher's own error is never wrapped by these.
 */

/** Most characters (code points) of a key, or of a string given as an option, that a message repeats. */
const SHOWN_CHARS = 64

/** Longest key, in bytes of UTF-8. */
export const MAX_KEY_BYTES = 512

/**
 * Whether a value is one of our errors, asked so that no trap of a proxy runs.
 * @type {(value: unknown) => value is KvCacheError}
 */
export let isOwn

/**
 * What every error of the cache is. `code` tells the kind; further fields depend on it and stand in the factory's doc.
 */
export class KvCacheError extends Error {
  #brand = true

  /**
   * @param {string} code one of ERR_KVCACHE_*
   * @param {string} message
   * @param {{ cause?: unknown, [field: string]: unknown }} [fields] further own properties; `cause` as in Error
   */
  constructor(code, message, fields) {
    super(message)
    /** @type {string} */
    this.code = code
    if (fields !== undefined) {
      const { cause, ...rest } = fields
      // Not enumerable, as the language defines it for a cause given to Error itself.
      if ('cause' in fields) {
        Object.defineProperty(this, 'cause', { value: cause, writable: true, configurable: true, enumerable: false })
      }
      Object.assign(this, rest)
    }
  }

  static {
    isOwn = value => typeof value === 'object' && value !== null && #brand in value
  }
}
Object.defineProperty(KvCacheError.prototype, 'name', { value: 'KvCacheError', writable: true, configurable: true })

/**
 * Text as messages show it: its first 64 code points, an ellipsis where something was cut, control characters and lone
 * surrogates escaped, so that a message stays one well-formed line.
 * @param {string} text
 * @returns {string}
 */
export function shorten(text) {
  let cut = text
  if (text.length > SHOWN_CHARS) {
    let end = 0
    for (let n = 0; n < SHOWN_CHARS && end < text.length; n++) {
      end += /** @type {number} */ (text.codePointAt(end)) > 0xffff ? 2 : 1
    }
    cut = text.slice(0, end)
  }
  const escaped = JSON.stringify(cut).slice(1, -1).replaceAll('\\"', '"')
  return cut.length < text.length ? `${escaped}…` : escaped
}

/**
 * A short, safe rendering of any value.
 * @param {unknown} value
 * @returns {string}
 */
export function show(value) {
  try {
    switch (typeof value) {
      case 'string':
        return `'${shorten(value)}'`
      case 'number':
        return Object.is(value, -0) ? '-0' : String(value)
      case 'bigint':
        // A huge one is not worth writing out: decimal conversion takes more than linear time.
        return value > -(2n ** 64n) && value < 2n ** 64n ? `${value}n` : 'a large BigInt'
      case 'symbol':
        return `Symbol(${shorten(value.description ?? '')})`
      case 'function':
        return 'a function'
      case 'object':
        return value === null ? 'null' : showObject(value)
      default:
        return String(value)
    }
  } catch {
    // A revoked proxy, or a trap or accessor that throws.
    return 'an object'
  }
}

/**
 * @param {object} value
 * @returns {string}
 */
function showObject(value) {
  if (Array.isArray(value)) return value.length === 0 ? 'an empty array' : `an array of ${value.length}`
  const name = Object.getPrototypeOf(value)?.constructor?.name
  if (typeof name !== 'string' || name === '' || name === 'Object') return 'an object'
  return `an instance of ${shorten(name)}`
}

/**
 * A key as messages show it, with the word before it.
 * @param {unknown} key
 * @returns {string}
 */
function keyText(key) {
  return typeof key === 'string' ? `key '${shorten(key)}'` : `key ${show(key)}`
}

/**
 * ERR_KVCACHE_INVALID_OPTION, with `option`. Also for arguments that are not keys or values: patterns, event names.
 * @param {string} name of the option, dotted where it is nested: 'refresh.concurrency'
 * @param {unknown} value what was given
 * @param {string} allowed what would have been right
 * @param {unknown} [cause]
 * @returns {KvCacheError}
 */
export function invalidOption(name, value, allowed, cause) {
  const fields = cause === undefined ? { option: name } : { option: name, cause }
  const message = `option '${name}' is ${show(value)}; allowed: ${allowed}`
  return new KvCacheError('ERR_KVCACHE_INVALID_OPTION', message, fields)
}

/**
 * ERR_KVCACHE_INVALID_OPTION for a name that is not one of the options of that place, with `option`.
 * @param {string} name
 * @param {string} where what was called: 'get()'
 * @param {string} why why it is not there, and what is
 * @returns {KvCacheError}
 */
export function unknownOption(name, where, why) {
  const message = `option '${shorten(name)}' of ${where} ${why}`
  return new KvCacheError('ERR_KVCACHE_INVALID_OPTION', message, { option: name })
}

/**
 * Why this cannot be a key; undefined when it can.
 * @param {unknown} key
 * @returns {string | undefined}
 */
export function whyInvalidKey(key) {
  if (typeof key !== 'string') return `is of type ${key === null ? 'null' : typeof key}`
  if (key === '') return 'is empty'
  // A code unit is at most three bytes, so the bytes of most keys need not be counted.
  if (key.length * 3 > MAX_KEY_BYTES) {
    const bytes = Buffer.byteLength(key)
    if (bytes > MAX_KEY_BYTES) return `has ${bytes} bytes of UTF-8`
  }
  if (!key.isWellFormed()) return 'holds a lone surrogate, which UTF-8 cannot carry'
  return undefined
}

/**
 * ERR_KVCACHE_INVALID_KEY, with `key`.
 * @param {unknown} key
 * @param {string} [why] found out when not given
 * @returns {KvCacheError}
 */
export function invalidKey(key, why = whyInvalidKey(key) ?? 'cannot be used') {
  const allowed = `a string of 1 to ${MAX_KEY_BYTES} bytes of UTF-8`
  return new KvCacheError('ERR_KVCACHE_INVALID_KEY', `${keyText(key)} ${why}; allowed: ${allowed}`, { key })
}

/**
 * ERR_KVCACHE_INVALID_KEY for a part that a key is made of, with `part`.
 * @param {string} what which part: 'part 2', 'id'
 * @param {unknown} part
 * @param {string} why
 * @returns {KvCacheError}
 */
export function invalidPart(what, part, why) {
  const allowed = 'a non-empty string without lone surrogates, a number with a plain decimal form, or a BigInt'
  return new KvCacheError('ERR_KVCACHE_INVALID_KEY', `${what} of a key, ${show(part)}, ${why}; allowed: ${allowed}`, { part })
}

/**
 * ERR_KVCACHE_INVALID_VALUE, with `key`.
 * @param {string} key
 * @param {string} why what is wrong with the value, and what is allowed
 * @returns {KvCacheError}
 */
export function invalidValue(key, why) {
  return new KvCacheError('ERR_KVCACHE_INVALID_VALUE', `the value of ${keyText(key)} ${why}`, { key })
}

/**
 * ERR_KVCACHE_VALUE_TOO_LARGE, with `key`, `bytes` and `limit`.
 * @param {string} key
 * @param {number} bytes as it would be stored
 * @param {number} limit in bytes
 * @param {string} [limitName] which limit: 'the largest value', 'the memory budget'
 * @returns {KvCacheError}
 */
export function valueTooLarge(key, bytes, limit, limitName = 'the largest value') {
  const message = `the value of ${keyText(key)} has ${bytes} bytes as stored; ${limitName} is ${limit} bytes`
  return new KvCacheError('ERR_KVCACHE_VALUE_TOO_LARGE', message, { key, bytes, limit })
}

/**
 * ERR_KVCACHE_TIMEOUT, with `timeout` in milliseconds, and `key` where it is about one.
 * @param {string | undefined} key
 * @param {number} ms
 * @param {string} what took too long: 'the fetcher', 'flush()'
 * @returns {KvCacheError}
 */
export function timeout(key, ms, what) {
  const subject = key === undefined ? what : `${what} of ${keyText(key)}`
  const fields = key === undefined ? { timeout: ms } : { key, timeout: ms }
  return new KvCacheError('ERR_KVCACHE_TIMEOUT', `${subject} took longer than ${ms} ms`, fields)
}

/**
 * ERR_KVCACHE_CIRCUIT_OPEN, with `key`, `origin` and `nextAttempt`.
 * @param {string} key
 * @param {string} origin the breaker's name
 * @param {number} nextAttempt when the next trial call may go, in milliseconds since the UNIX epoch
 * @returns {KvCacheError}
 */
export function circuitOpen(key, origin, nextAttempt) {
  const at = Math.abs(nextAttempt) <= 8.64e15 ? new Date(nextAttempt).toISOString() : String(nextAttempt)
  const circuit = `the circuit of origin '${shorten(origin)}' is open`
  const message = `${keyText(key)} was not fetched: ${circuit}, next attempt ${at}`
  return new KvCacheError('ERR_KVCACHE_CIRCUIT_OPEN', message, { key, origin, nextAttempt })
}

/**
 * ERR_KVCACHE_CONFIG_MISMATCH, with `option`, and `cache`, the name.
 * @param {string} name of the cache
 * @param {string} option
 * @param {string} given
 * @param {string} open what it is open with
 * @returns {KvCacheError}
 */
export function configMismatch(name, option, given, open) {
  const message = `option '${option}' is ${given}, but the cache '${shorten(name)}' is open with ${open}; allowed: the same, or nothing`
  return new KvCacheError('ERR_KVCACHE_CONFIG_MISMATCH', message, { option, cache: name })
}

/**
 * ERR_KVCACHE_THREAD_ENDED, with `key`: the threads that loaded it ended one after the other.
 * @param {string} key
 * @param {number} times how many
 * @returns {KvCacheError}
 */
export function threadEnded(key, times) {
  const message = `${keyText(key)} was not loaded: ${times} threads that were loading it ended, or closed the cache, before they had it`
  return new KvCacheError('ERR_KVCACHE_THREAD_ENDED', message, { key })
}

/**
 * ERR_KVCACHE_CLOSED.
 * @returns {KvCacheError}
 */
export function closed() {
  return new KvCacheError('ERR_KVCACHE_CLOSED', 'the cache is closed')
}

/**
 * ERR_KVCACHE_SERIALIZE, with `key`, `serializer` and, where something was thrown, `cause`.
 * @param {string} key
 * @param {string} serializer its name
 * @param {'serialize' | 'deserialize'} direction
 * @param {unknown} cause what was thrown
 * @param {string} [why] what it did instead of throwing: then there is no cause
 * @returns {KvCacheError}
 */
export function serializeFailed(key, serializer, direction, cause, why) {
  const did = why ?? `threw ${causeText(cause)}`
  const who = `the serializer '${shorten(serializer)}'`
  const message = `${who} could not ${direction} the value of ${keyText(key)}: it ${did}`
  const fields = why === undefined ? { key, serializer, cause } : { key, serializer }
  return new KvCacheError('ERR_KVCACHE_SERIALIZE', message, fields)
}

/**
 * ERR_KVCACHE_RECURSION, with `key`: a fetcher would have waited for the load it is itself part of.
 * @param {string} key waited for
 * @param {...string} through the keys between, in the order of waiting
 * @returns {KvCacheError}
 */
export function recursion(key, ...through) {
  const shown = through.slice(0, 3).map(k => `'${shorten(k)}'`).join(', ')
  const rest = through.length > 3 ? ` and ${through.length - 3} more` : ''
  const way = through.length === 0 ? '' : `, through ${shown}${rest}`
  const message = `a fetcher waits for ${keyText(key)}, whose own load waits for that fetcher${way}`
  return new KvCacheError('ERR_KVCACHE_RECURSION', message, { key })
}

/**
 * ERR_KVCACHE_NO_VERSION, with `key` and `version`.
 * @param {string} key of the content
 * @param {number} version
 * @param {readonly number[]} there
 * @returns {KvCacheError}
 */
export function noVersion(key, version, there) {
  const kept = there.length === 0 ? 'none is kept' : `kept: ${there.slice(-8).join(', ')}`
  const message = `version ${version} of ${keyText(key)} is not kept (it was removed, has expired or was evicted); ${kept}`
  return new KvCacheError('ERR_KVCACHE_NO_VERSION', message, { key, version })
}

/**
 * ERR_KVCACHE_EVENT, with `event`, the type of what could not be dispatched, and `cause`.
 * @param {string} type
 * @param {unknown} cause what a rule threw, or what is wrong with what it gave
 * @returns {KvCacheError}
 */
export function eventFailed(type, cause) {
  const message = `an event of type '${shorten(type)}' invalidated nothing: a rule failed with ${causeText(cause)}`
  return new KvCacheError('ERR_KVCACHE_EVENT', message, { event: type, cause })
}

/** Longest that a tier may say, in characters: two paths and what is wrong. */
const LONGEST_TROUBLE = 10_000

/**
 * ERR_KVCACHE_TIER, with `tier`, and `key` where it is about one.
 * @param {string} tier its name
 * @param {string} why what is wrong; holds no credential
 * @param {string} [key]
 * @returns {KvCacheError}
 */
export function tierFailed(tier, why, key) {
  const subject = key === undefined ? '' : ` (${keyText(key)})`
  const fields = key === undefined ? { tier } : { tier, key }
  const name = `tier '${shorten(tier)}'`
  // A tier that names itself need not be named twice. What it says is the engine's own, with paths that must stay whole.
  const said = why.startsWith(`${name}: `) || why.startsWith(`${name}, `) ? why.slice(name.length + 2) : why
  return new KvCacheError('ERR_KVCACHE_TIER', `${name}${subject}: ${shortenLine(said, LONGEST_TROUBLE)}`, fields)
}

/**
 * ERR_KVCACHE_LISTENER, with `event` and `cause`: a listener threw, or its promise was rejected.
 * @param {string} event
 * @param {unknown} cause
 * @returns {KvCacheError}
 */
export function listener(event, cause) {
  const message = `a listener of '${event}' threw ${causeText(cause)}`
  return new KvCacheError('ERR_KVCACHE_LISTENER', message, { event, cause })
}

/**
 * What was thrown, for the end of a message.
 * @param {unknown} cause
 * @returns {string}
 */
function causeText(cause) {
  try {
    if (cause instanceof Error && typeof cause.message === 'string') {
      return `${shorten(String(cause.name))}: ${shortenLine(cause.message)}`
    }
  } catch {
    // Its accessors throw: it is shown as any other object.
  }
  return show(cause)
}

/**
 * A message within a message: its first line, at most so many characters.
 * @param {string} text
 * @param {number} [most]
 * @returns {string}
 */
function shortenLine(text, most = 200) {
  const end = text.search(/[\r\n]/)
  const line = end < 0 ? text : text.slice(0, end)
  return (line.length > most ? `${line.slice(0, most)}…` : line).toWellFormed()
}

/**
 * What was thrown as an Error: itself, or one that says what it was.
 * @param {unknown} error
 * @returns {Error}
 */
export function asError(error) {
  let text = 'a value that cannot be shown'
  try {
    if (error instanceof Error) return error
    text = String(error)
  } catch {
    // A proxy whose traps throw, an object without a primitive value.
  }
  return new Error(text, { cause: error })
}
