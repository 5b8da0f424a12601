// @ts-check
/**
 * Values: between what users hold and what the engine stores.
 *
 * Promises: strings and bytes are stored as they are under any serializer; everything else goes through it. What
 * decode() gives shares no memory with what was encoded, nor with what any other decode() gave (I7). freeze() tells
 * whether a decoded value can no longer be changed by anyone, so that it may be given to more than one caller.
 */
import { DefaultDeserializer, DefaultSerializer } from 'node:v8'
import { types } from 'node:util'
import { invalidValue, serializeFailed, valueTooLarge } from './errors.js'
import { NOT_PLAIN, plainCopy } from './json.js'

/** How stored bytes are to be read back. The numbers are part of the stored form: the engine's `Kind`. */
export const Kind = Object.freeze({
  Json: 0,
  Text: 1,
  Utf16: 2,
  Bytes: 3,
  Buffer: 4,
  ArrayBuffer: 5,
  V8: 6,
  Custom: 7
})

/** Largest value, in bytes as stored: 25 MiB. */
export const MAX_VALUE_BYTES = 25 * 1024 * 1024

/** @typedef {import('./options.js').Serializer} Serializer */
/** @typedef {{ kind: number, data: string | Uint8Array }} Encoded a string for Json and Text, else bytes */

// --- Encoding --------------------------------------------------------------------------------------------------------

/**
 * What to store for a value. The bytes may be the user's own: they are to be copied before anything else runs.
 * Throws ERR_KVCACHE_INVALID_VALUE (undefined, functions, symbols; under 'json' views other than Uint8Array; detached
 * bytes), ERR_KVCACHE_SERIALIZE (the serializer throws or gives no bytes), ERR_KVCACHE_VALUE_TOO_LARGE.
 * @param {unknown} value
 * @param {Serializer} serializer
 * @param {string} key for messages
 * @returns {Encoded}
 */
export function encode(value, serializer, key) {
  switch (typeof value) {
    case 'string':
      if (value.isWellFormed()) return text(Kind.Text, value, key)
      return bytes(Kind.Utf16, Buffer.from(value, 'utf16le'), key)
    case 'undefined':
      throw invalidValue(key, 'is undefined, which is not stored; null is')
    case 'function':
    case 'symbol':
      throw invalidValue(key, `is a ${typeof value}, which cannot be stored`)
    case 'object':
      if (value !== null && isBinary(value)) return encodeBinary(value, serializer, key)
  }
  switch (serializer.kind) {
    case 'json':
      return encodeJson(value, key)
    case 'v8':
      return encodeV8(value, key)
    default:
      return encodeCustom(value, serializer, key)
  }
}

/**
 * Whether it is an ArrayBuffer, a SharedArrayBuffer or a view of one, asked of its internal slots, which no user code
 * can fake or intercept.
 * @param {object} value
 * @returns {value is ArrayBufferLike | ArrayBufferView}
 */
function isBinary(value) {
  return ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value)
}

/**
 * @param {ArrayBufferLike | ArrayBufferView} value
 * @param {Serializer} serializer
 * @param {string} key
 * @returns {Encoded}
 */
function encodeBinary(value, serializer, key) {
  if (types.isUint8Array(value)) {
    return bytes(Buffer.isBuffer(value) ? Kind.Buffer : Kind.Bytes, attached(unshared(value), key), key)
  }
  if (types.isArrayBuffer(value)) return bytes(Kind.ArrayBuffer, attached(value, key), key)
  switch (serializer.kind) {
    case 'json': {
      const name = Object.prototype.toString.call(value).slice(8, -1)
      const instead = "Uint8Array, ArrayBuffer or the serializer 'v8'"
      throw invalidValue(key, `is of type ${name}, which JSON cannot carry; use ${instead}`)
    }
    case 'v8':
      return encodeV8(value, key)
    default:
      return encodeCustom(value, serializer, key)
  }
}

/**
 * @param {unknown} value
 * @param {string} key
 * @returns {Encoded}
 */
function encodeJson(value, key) {
  let json
  try {
    json = JSON.stringify(value)
  } catch (cause) {
    throw serializeFailed(key, 'json', 'serialize', cause)
  }
  // A toJSON() may answer with what JSON has no text for.
  if (json === undefined) throw serializeFailed(key, 'json', 'serialize', undefined, 'gave no text')
  return text(Kind.Json, json, key)
}

/**
 * @param {unknown} value
 * @param {string} key
 * @returns {Encoded}
 */
function encodeV8(value, key) {
  let data
  try {
    const writer = new Writer()
    writer.writeHeader()
    writer.writeValue(value)
    data = writer.releaseBuffer()
  } catch (cause) {
    throw serializeFailed(key, 'v8', 'serialize', cause)
  }
  return bytes(Kind.V8, data, key)
}

/**
 * @param {unknown} value
 * @param {Serializer} serializer
 * @param {string} key
 * @returns {Encoded}
 */
function encodeCustom(value, serializer, key) {
  const { name, serialize } = serializer
  let data
  try {
    data = /** @type {(value: unknown) => unknown} */ (serialize)(value)
  } catch (cause) {
    throw serializeFailed(key, name, 'serialize', cause)
  }
  if (!types.isUint8Array(data)) throw serializeFailed(key, name, 'serialize', undefined, 'gave no Uint8Array')
  return bytes(Kind.Custom, unshared(data), key)
}

/**
 * Bytes that other threads can change are copied here, so that they hold still while they are stored.
 * @param {Uint8Array} view
 * @returns {Uint8Array}
 */
function unshared(view) {
  return types.isSharedArrayBuffer(view.buffer) ? new Uint8Array(view) : view
}

/**
 * A view of the bytes; refuses those that were transferred away, which look empty.
 * @param {Uint8Array | ArrayBuffer} value
 * @param {string} key
 * @returns {Uint8Array}
 */
function attached(value, key) {
  if (value.byteLength === 0) {
    try {
      return new Uint8Array(types.isArrayBuffer(value) ? value : value.buffer, 0, 0)
    } catch {
      throw invalidValue(key, 'is detached: its bytes were transferred away')
    }
  }
  return types.isArrayBuffer(value) ? new Uint8Array(value) : value
}

/**
 * @param {number} kind
 * @param {string} data well-formed
 * @param {string} key
 * @returns {Encoded}
 */
function text(kind, data, key) {
  // A code unit is at most three bytes, so the bytes of most values need not be counted.
  if (data.length * 3 > MAX_VALUE_BYTES) {
    const size = Buffer.byteLength(data)
    if (size > MAX_VALUE_BYTES) throw valueTooLarge(key, size, MAX_VALUE_BYTES)
  }
  return { kind, data }
}

/**
 * @param {number} kind
 * @param {Uint8Array} data
 * @param {string} key
 * @returns {Encoded}
 */
function bytes(kind, data, key) {
  if (data.byteLength > MAX_VALUE_BYTES) throw valueTooLarge(key, data.byteLength, MAX_VALUE_BYTES)
  return { kind, data }
}

// --- Decoding --------------------------------------------------------------------------------------------------------

/**
 * The value of what the engine gave back. Takes ownership of `data`: bytes must be private to this call and span their
 * whole ArrayBuffer, and become part of the value. Throws ERR_KVCACHE_SERIALIZE.
 * @param {number} kind
 * @param {string | Buffer} data a string for Json and Text, else bytes
 * @param {Serializer} serializer
 * @param {string} key for messages
 * @returns {unknown}
 */
export function decode(kind, data, serializer, key) {
  switch (kind) {
    case Kind.Json:
      try {
        return JSON.parse(/** @type {string} */ (data))
      } catch (cause) {
        throw serializeFailed(key, 'json', 'deserialize', cause)
      }
    case Kind.Text:
      return data
    case Kind.Utf16:
      return /** @type {Buffer} */ (data).toString('utf16le')
    case Kind.Bytes: {
      const own = /** @type {Buffer} */ (data)
      return new Uint8Array(own.buffer, own.byteOffset, own.byteLength)
    }
    case Kind.Buffer:
      return data
    case Kind.ArrayBuffer: {
      const own = /** @type {Buffer} */ (data)
      return own.byteLength === own.buffer.byteLength ? own.buffer : new Uint8Array(own).buffer
    }
    case Kind.V8:
      try {
        const reader = new Reader(/** @type {Buffer} */ (data))
        reader.readHeader()
        return reader.readValue()
      } catch (cause) {
        throw serializeFailed(key, 'v8', 'deserialize', cause)
      }
    default:
      return decodeCustom(/** @type {Buffer} */ (data), serializer, key)
  }
}

/**
 * @param {Buffer} data
 * @param {Serializer} serializer
 * @param {string} key
 * @returns {unknown}
 */
function decodeCustom(data, { name, deserialize }, key) {
  if (deserialize === undefined) throw serializeFailed(key, name, 'deserialize', undefined, 'is not who wrote it')
  try {
    return deserialize(data)
  } catch (cause) {
    throw serializeFailed(key, name, 'deserialize', cause)
  }
}

/**
 * As encode(), with the value that decoding what is stored gives: copied where that is sure to be the same, decoded where
 * not.
 * @param {unknown} value
 * @param {Serializer} serializer
 * @param {string} key for messages
 * @returns {{ encoded: Encoded, copy: unknown }}
 */
export function encodeAndCopy(value, serializer, key) {
  if (serializer.kind === 'json' && typeof value === 'object' && value !== null && !isBinary(value)) {
    const copy = copyOf(value)
    // The text is made of the copy, so that accessors run once and both are the same.
    if (copy !== NOT_PLAIN) return { encoded: encodeJson(copy, key), copy }
  }
  const encoded = encode(value, serializer, key)
  return { encoded, copy: decodeEncoded(encoded.kind, encoded.data, serializer, key) }
}

/** @param {object} value */
function copyOf(value) {
  try {
    return plainCopy(value)
  } catch {
    // An accessor or a trap of a proxy threw: JSON meets it too, and says so.
    return NOT_PLAIN
  }
}

/**
 * The value of what encode() has just given, whose bytes may be the user's own and are left alone. May be called any
 * number of times for one encoding, as long as nothing ran in between that could change those bytes.
 * @param {number} kind
 * @param {string | Uint8Array} data
 * @param {Serializer} serializer
 * @param {string} key for messages
 * @returns {unknown}
 */
export function decodeEncoded(kind, data, serializer, key) {
  return decode(kind, typeof data === 'string' ? data : privateCopy(data), serializer, key)
}

/**
 * A copy that spans its whole ArrayBuffer, never a part of Node's pool.
 * @param {Uint8Array} data
 * @returns {Buffer}
 */
function privateCopy(data) {
  return Buffer.from(new Uint8Array(data).buffer)
}

// --- Structured clone ------------------------------------------------------------------------------------------------
// Node's own v8.serialize() writes views as "host objects" and reads them back as views of one common buffer, or of its
// pool. Here each view gets a buffer of its own, so that a caller who transfers or overwrites one touches nothing else.

/** Writes a value in V8's format. Views are written by Node's DefaultSerializer. */
class Writer extends DefaultSerializer {}

/** Reads it back. */
class Reader extends DefaultDeserializer {
  /** Called by V8 for each view. */
  _readHostObject() {
    // @ts-expect-error It is how DefaultDeserializer does its work, though its typings do not say so.
    const view = super._readHostObject()
    return Buffer.isBuffer(view) ? privateCopy(view) : view.slice === undefined ? copyDataView(view) : view.slice()
  }
}

/**
 * @param {DataView} view
 * @returns {DataView}
 */
function copyDataView(view) {
  return new DataView(new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice().buffer)
}

// --- Freezing --------------------------------------------------------------------------------------------------------

/**
 * Who may be given one and the same decoded value: 'frozen', anybody, after it was frozen, where that makes it immutable;
 * 'shared', anybody, as it is; 'copy', nobody, but for primitive values.
 * @typedef {'frozen' | 'shared' | 'copy'} Sharing
 */

/**
 * Makes a decoded value ready to be given away: whether to more than one caller.
 * @param {unknown} value
 * @param {number} kind what it was decoded from
 * @param {Sharing} sharing
 * @returns {boolean}
 */
export function share(value, kind, sharing) {
  switch (sharing) {
    case 'frozen':
      return freeze(value, kind)
    case 'shared':
      return true
    case 'copy':
      return !isObject(value)
  }
}

/** Nesting that recursion takes before a list takes over. */
const DEEP = 64

/**
 * Freezes a decoded value in place, however deep. Cycles and shared parts are fine.
 *
 * True: nobody can change it any more. False: something in it cannot be made immutable (Map, Set, Date, RegExp, bytes,
 * Error, instances of classes, functions, accessors), so it must not be given to two callers; parts may be frozen.
 * @param {unknown} value
 * @param {number} [kind] what it was decoded from; without it nothing is taken for granted
 * @returns {boolean}
 */
export function freeze(value, kind = Kind.Custom) {
  if (!isObject(value)) return true
  if (kind === Kind.Json) {
    freezeTree(value, 0)
    return true
  }
  return freezeGraph(value, kind !== Kind.V8)
}

/**
 * @param {unknown} value
 * @returns {value is object}
 */
function isObject(value) {
  return (typeof value === 'object' && value !== null) || typeof value === 'function'
}

/**
 * What JSON.parse() gives: a tree of plain objects and arrays without accessors.
 * @param {any} node
 * @param {number} depth
 */
function freezeTree(node, depth) {
  if (depth === DEEP) {
    freezeGraph(node, false)
    return
  }
  if (Array.isArray(node)) {
    for (let i = 0; i < node.length; i++) {
      const child = node[i]
      if (typeof child === 'object' && child !== null) freezeTree(child, depth + 1)
    }
  } else {
    for (const name in node) {
      const child = node[name]
      // What is inherited is not the value's: another library may have left something on Object.prototype.
      if (typeof child === 'object' && child !== null && Object.hasOwn(node, name)) freezeTree(child, depth + 1)
    }
  }
  Object.freeze(node)
}

/**
 * Any graph, without recursion. A node found frozen may still hold what is not, so it is walked too, but only once: it
 * is then remembered. Nodes frozen here and met again are walked a second time at most.
 * @param {object} root
 * @param {boolean} strict whether accessors, symbols, hidden properties and proxies are to be expected
 * @returns {boolean}
 */
function freezeGraph(root, strict) {
  /** @type {Set<object> | undefined} */
  let walked
  const open = [root]
  for (let node = open.pop(); node !== undefined; node = open.pop()) {
    if (!isPlain(node, strict)) return false
    if (Object.isFrozen(node)) {
      walked ??= new Set()
      if (walked.has(node)) continue
      walked.add(node)
    } else {
      Object.freeze(node)
    }
    const children = strict ? ownValues(node) : Object.values(node)
    if (children === undefined) return false
    for (const child of children) if (isObject(child)) open.push(child)
  }
  return true
}

/**
 * Whether it is an object or array without hidden state.
 * @param {object} node
 * @param {boolean} strict
 * @returns {boolean}
 */
function isPlain(node, strict) {
  if (typeof node === 'function' || (strict && types.isProxy(node))) return false
  const prototype = Object.getPrototypeOf(node)
  if (Array.isArray(node)) return prototype === Array.prototype
  return (prototype === Object.prototype || prototype === null) && !(strict && hasHiddenState(node))
}

/**
 * Whether it is something else whose prototype was taken away or replaced.
 * @param {object} node
 * @returns {boolean}
 */
function hasHiddenState(node) {
  return ArrayBuffer.isView(node) || types.isAnyArrayBuffer(node) || types.isMap(node) || types.isSet(node) ||
    types.isDate(node) || types.isRegExp(node) || types.isExternal(node) || types.isModuleNamespaceObject(node)
}

/**
 * The values of all own properties; undefined when one is an accessor.
 * @param {object} node
 * @returns {unknown[] | undefined}
 */
function ownValues(node) {
  const values = []
  for (const name of Reflect.ownKeys(node)) {
    const property = /** @type {PropertyDescriptor} */ (Object.getOwnPropertyDescriptor(node, name))
    if (!('value' in property)) return undefined
    values.push(property.value)
  }
  return values
}
