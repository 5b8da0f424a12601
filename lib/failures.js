// @ts-check
/**
 * Errors on their way to another thread, where the object itself cannot go.
 *
 * Promises: what arrives has the name, message, code, cause and own fields of what was thrown, as far as structured clone can
 * carry them, and a stack whose last line says in which thread it was thrown; an error of ours arrives as one of ours, a
 * built-in one as an instance of its class. Describing an error never throws and is bounded in depth and size: what cannot
 * be carried is left out.
 */
import { isMainThread, threadId } from 'node:worker_threads'
import { deserialize, serialize } from 'node:v8'
import { types } from 'node:util'
import { KvCacheError, isOwn, show } from './errors.js'

/** How far causes, and the errors of an AggregateError, are followed. */
const DEEPEST = 8
/** Most errors of one AggregateError. */
const MOST_ERRORS = 32
/** Most own fields of one error, and most bytes that one of them may take. */
const MOST_FIELDS = 32
const MOST_BYTES = 16 * 1024
/** Longest message and stack, in UTF-16 units. */
const LONGEST = 16 * 1024

/** Fields that are carried by themselves, or not at all. */
const APART = new Set(['name', 'message', 'stack', 'cause', 'errors'])

/** The classes that arrive as themselves. @type {Record<string, any>} */
const BUILT_IN = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError }

/**
 * @typedef {object} Described an error as plain data
 * @property {'error' | 'own' | 'dom'} kind
 * @property {string} name
 * @property {string} message
 * @property {string | undefined} stack
 * @property {Record<string, unknown>} fields
 * @property {Part} [cause]
 * @property {Part[]} [errors]
 */

/** @typedef {{ error: Described } | { value: unknown }} Part */

/**
 * What another thread can make the error of again.
 * @param {unknown} thrown
 * @returns {Uint8Array}
 */
export function describe(thrown) {
  const where = isMainThread ? 'the main thread' : `worker thread ${threadId}`
  try {
    return serialize({ where, ...part(thrown, 0) })
  } catch {
    return serialize({ where, value: show(thrown) })
  }
}

/**
 * @param {Uint8Array} described
 * @returns {unknown} the error, or what was thrown in its place
 */
export function restore(described) {
  const { where, ...part } = deserialize(described)
  return made(part, `\n    in ${where}`)
}

// --- There ------------------------------------------------------------------------------------------------------------

/**
 * @param {unknown} thrown
 * @param {number} depth
 * @returns {Part}
 */
function part(thrown, depth) {
  if (isError(thrown)) return { error: error(/** @type {any} */ (thrown), depth) }
  return { value: clonable(thrown) ? thrown : show(thrown) }
}

/**
 * @param {unknown} value
 * @returns {boolean}
 */
function isError(value) {
  try {
    return types.isNativeError(value) || value instanceof Error
  } catch {
    return false
  }
}

/**
 * @param {any} thrown
 * @param {number} depth
 * @returns {Described}
 */
function error(thrown, depth) {
  /** @type {Described} */
  const described = {
    kind: isOwn(thrown) ? 'own' : isDomException(thrown) ? 'dom' : 'error',
    name: text(thrown, 'name') ?? 'Error',
    message: text(thrown, 'message') ?? '',
    stack: text(thrown, 'stack'),
    fields: fields(thrown)
  }
  if (depth < DEEPEST) {
    const cause = read(thrown, 'cause')
    if (cause !== undefined) described.cause = part(cause, depth + 1)
    const errors = read(thrown, 'errors')
    if (Array.isArray(errors)) described.errors = errors.slice(0, MOST_ERRORS).map(one => part(one, depth + 1))
  }
  return described
}

/**
 * @param {any} thrown
 * @returns {boolean}
 */
function isDomException(thrown) {
  return typeof DOMException === 'function' && thrown instanceof DOMException
}

/**
 * @param {any} thrown
 * @returns {Record<string, unknown>}
 */
function fields(thrown) {
  /** @type {Record<string, unknown>} */
  const fields = {}
  let left = MOST_FIELDS
  try {
    for (const name of Object.keys(thrown)) {
      if (APART.has(name)) continue
      if (left-- === 0) break
      const value = read(thrown, name)
      if (value !== undefined && clonable(value)) Object.defineProperty(fields, name, property(value))
    }
    // Libraries give their codes by accessors of a class, too.
    const code = read(thrown, 'code')
    if (!('code' in fields) && (typeof code === 'string' || typeof code === 'number')) fields.code = code
  } catch {
    // A proxy whose traps throw.
  }
  return fields
}

/**
 * @param {any} thrown
 * @param {string} name
 * @returns {string | undefined}
 */
function text(thrown, name) {
  const value = read(thrown, name)
  return typeof value === 'string' ? value.slice(0, LONGEST) : undefined
}

/**
 * @param {any} thrown
 * @param {string} name
 * @returns {unknown}
 */
function read(thrown, name) {
  try {
    return thrown[name]
  } catch {
    return undefined
  }
}

/**
 * Whether structured clone carries it, and within bounds.
 * @param {unknown} value
 * @returns {boolean}
 */
function clonable(value) {
  if (typeof value === 'function' || typeof value === 'symbol') return false
  try {
    return serialize(value).length <= MOST_BYTES
  } catch {
    return false
  }
}

/**
 * @param {unknown} value
 */
function property(value) {
  return { value, writable: true, enumerable: true, configurable: true }
}

// --- Here -------------------------------------------------------------------------------------------------------------

/**
 * @param {any} part
 * @param {string} where
 * @returns {unknown}
 */
function made(part, where) {
  return 'error' in part ? madeError(part.error, where) : part.value
}

/**
 * @param {Described} described
 * @param {string} where
 * @returns {Error}
 */
function madeError({ kind, name, message, stack, fields, cause, errors }, where) {
  /** @type {any} */
  let error
  if (kind === 'own') error = new KvCacheError(String(fields.code), message)
  else if (kind === 'dom') error = new DOMException(message, name)
  else if (errors !== undefined && name === 'AggregateError') error = new AggregateError([], message)
  else error = new (Object.hasOwn(BUILT_IN, name) ? BUILT_IN[name] : Error)(message)
  if (error.name !== name) hide(error, 'name', name)
  for (const field of Object.keys(fields)) {
    if (kind !== 'dom' || !(field in error)) Object.defineProperty(error, field, property(fields[field]))
  }
  if (cause !== undefined) hide(error, 'cause', made(cause, where))
  if (errors !== undefined) hide(error, 'errors', errors.map(one => made(one, where)))
  hide(error, 'stack', `${stack ?? `${name}: ${message}`}${where}`)
  return error
}

/**
 * Defines a property that is not enumerable, as the language does for these.
 * @param {object} error
 * @param {string} name
 * @param {unknown} value
 */
function hide(error, name, value) {
  Object.defineProperty(error, name, { value, writable: true, enumerable: false, configurable: true })
}
