// @ts-check
// Calls of a Workers KV namespace as plain data, what runs them, and what became of them as plain data again.
//
// The same file runs in Node.js on `cache.asKVNamespace()` and inside workerd on a real binding, so that the two are
// compared by what their callers can see: values with their types, Maps with their order, errors with their class.
//
// A call is { method, args }. What JSON has no text for is written { $: kind, … }: see `argument`.

/** @typedef {{ method: string, args: any[] }} Step */
/** @typedef {{ value: any } | { error: { class: string, name: string, message: string } }} Result */

/**
 * Runs calls one after the other.
 * @param {any} namespace
 * @param {Step[]} steps
 * @returns {Promise<Result[]>}
 */
export async function runAll(namespace, steps) {
  const results = []
  for (const step of steps) results.push(await run(namespace, step))
  return results
}

/**
 * @param {any} namespace
 * @param {Step} step
 * @returns {Promise<Result>}
 */
export async function run(namespace, { method, args }) {
  try {
    const promise = namespace[method](...args.map(argument))
    if (!(promise instanceof Promise)) return { value: { $: 'no promise' } }
    return { value: await shown(await promise) }
  } catch (error) {
    return { error: errorShown(error) }
  }
}

/** @param {unknown} error */
function errorShown(error) {
  if (!(error instanceof Error)) return { class: typeof error, name: '', message: String(error) }
  return { class: error.constructor.name, name: error.name, message: error.message }
}

// --- Arguments -------------------------------------------------------------------------------------------------------

/**
 * The value that plain data stands for.
 * @param {any} data
 * @returns {any}
 */
export function argument(data) {
  if (Array.isArray(data)) return data.map(argument)
  if (typeof data !== 'object' || data === null) return data
  if (data.$ === undefined) {
    return Object.fromEntries(Object.entries(data).map(([key, value]) => [key, argument(value)]))
  }
  switch (data.$) {
    case 'undefined':
      return undefined
    case 'number':
      return Number(data.text)
    case 'bigint':
      return BigInt(data.text)
    case 'symbol':
      return Symbol('a symbol')
    case 'function':
      return () => 'a function'
    case 'date':
      return new Date(data.ms)
    case 'map':
      return new Map()
    case 'set':
      return new Set(data.of)
    case 'string object':
      return new String(data.text)
    case 'with toString':
      return { toString: () => data.text }
    case 'without prototype':
      return Object.create(null)
    case 'throws':
      return { toString() { throw new RangeError('thrown by the caller') } }
    case 'cycle': {
      /** @type {any} */
      const cycle = {}
      cycle.self = cycle
      return cycle
    }
    case 'getter throws':
      return { get [data.name]() { throw new RangeError('thrown by the caller') } }
    case 'repeat':
      return data.text.repeat(data.times)
    case 'seconds from now':
      return Math.floor(Date.now() / 1000) + data.seconds
    case 'bytes':
      return bytesOf(data)
    case 'stream':
      return streamOf(data)
    default:
      throw new Error(`no argument of kind ${data.$}`)
  }
}

/** @param {{ as?: string, hex?: string, times?: number, offset?: number }} data */
function bytesOf({ as = 'Uint8Array', hex = '', times = 1, offset = 0 }) {
  const one = fromHex(hex)
  const buffer = new ArrayBuffer(offset + one.length * times)
  const all = new Uint8Array(buffer, offset)
  if (one.length === 1) all.fill(one[0] ?? 0)
  else for (let i = 0; i < times; i++) all.set(one, i * one.length)
  if (as === 'ArrayBuffer') return buffer
  const View = /** @type {any} */ (globalThis)[as]
  return offset === 0 ? new View(buffer) : new View(buffer, offset)
}

/** @param {{ chunks: any[], type?: 'bytes', fails?: boolean, used?: boolean, locked?: boolean }} data */
function streamOf({ chunks, type, fails, used, locked }) {
  const left = chunks.map(argument)
  /** @type {any} */
  const source = {
    type,
    /** @param {any} controller */
    pull(controller) {
      if (left.length > 0) return controller.enqueue(left.shift())
      if (fails) return controller.error(new RangeError('the stream broke'))
      controller.close()
      controller.byobRequest?.respond(0)
    }
  }
  const stream = new ReadableStream(source)
  if (locked) stream.getReader()
  if (used) stream.cancel()
  return stream
}

/** @param {string} hex */
export function fromHex(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], pair => parseInt(pair, 16))
}

// --- Results ---------------------------------------------------------------------------------------------------------

/** Bytes and characters that a result repeats; of more, the beginning, the length and a hash are compared. */
const SHOWN = 4096

/**
 * A result as plain data.
 * @param {any} value
 * @returns {Promise<any>}
 */
export async function shown(value) {
  if (value === undefined) return { $: 'undefined' }
  if (typeof value === 'number' && !(Number.isFinite(value) && !Object.is(value, -0))) {
    return { $: 'number', text: Object.is(value, -0) ? '-0' : String(value) }
  }
  if (typeof value === 'string') return stringShown(value)
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof ArrayBuffer) return { $: 'bytes', as: 'ArrayBuffer', ...digest(new Uint8Array(value)) }
  if (value instanceof ReadableStream) return { $: 'stream', ...digest(await drained(value)) }
  if (value instanceof Map) {
    const entries = []
    for (const [key, one] of value) entries.push([stringShown(key), await shown(one)])
    return { $: 'map', entries }
  }
  if (Array.isArray(value)) return Promise.all(value.map(shown))
  // Pairs, not an object: the order of properties is part of what is compared, and a name may be '__proto__'.
  const pairs = []
  for (const name of Object.keys(value)) pairs.push([stringShown(name), await shown(value[name])])
  return { $: Object.getPrototypeOf(value) === Object.prototype ? 'object' : 'other object', pairs }
}

/** @param {string} text */
function stringShown(text) {
  if (!text.isWellFormed()) return { $: 'utf16', units: Array.from(text, (_, i) => text.charCodeAt(i)).slice(0, SHOWN) }
  if (text.length <= SHOWN) return text
  return { $: 'string', units: text.length, ...digest(new TextEncoder().encode(text)) }
}

/** Bytes that a hash is made of, spread over all there are. */
const HASHED = 100_000

/** @param {Uint8Array} bytes */
function digest(bytes) {
  let hash = 0x811c9dc5
  const step = Math.max(1, Math.floor(bytes.length / HASHED))
  // FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/
  for (let i = 0; i < bytes.length; i += step) hash = Math.imul(hash ^ (bytes[i] ?? 0), 0x01000193) >>> 0
  const hex = Array.from(bytes.subarray(0, 64), byte => byte.toString(16).padStart(2, '0')).join('')
  return { length: bytes.length, hex, hash }
}

/** @param {ReadableStream} stream */
async function drained(stream) {
  const parts = []
  const reader = stream.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    if (!(value instanceof Uint8Array)) throw new Error(`a chunk is ${typeof value}`)
    parts.push(value)
  }
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
