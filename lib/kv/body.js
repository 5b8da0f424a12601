// @ts-check
/**
 * Values of the Workers KV interface: between what its users give and get, and what the engine stores.
 *
 * To KV every value is bytes, and text is its UTF-8. What is put as text is stored as text and what is put as bytes as
 * bytes, so that the cache's own get() gives a string for the one and a Uint8Array for the other; whatever else the
 * cache stores has a form in bytes too, which {@link bytesOf} gives.
 */
import { types } from 'node:util'
import { Kind, MAX_VALUE_BYTES } from '../values.js'
import { refused, unknownType, wrongValue } from './errors.js'

/**
 * A value as it is stored, with its bytes counted as KV counts them.
 * @typedef {{ kind: number, data: string | Uint8Array, length: number }} Body
 */

/**
 * What the engine gave: private bytes that span their buffer.
 * @typedef {{ kind: number, data: string | Buffer }} Stored
 */

// --- In --------------------------------------------------------------------------------------------------------------

/**
 * What to store for a value. Its bytes may be the user's own: they are to be copied before anything else runs.
 * @param {string | object} value
 * @returns {Body | Promise<Body>} a promise for a stream
 */
export function bodyOf(value) {
  if (typeof value === 'string') return textBody(value)
  if (ArrayBuffer.isView(value)) {
    return bytesBody(whole(new Uint8Array(value.buffer, value.byteOffset, value.byteLength)))
  }
  if (types.isAnyArrayBuffer(value)) return bytesBody(whole(new Uint8Array(value)))
  if (value instanceof ReadableStream) return streamBody(value)
  // The runtime has tried to make text of it by now: what that throws comes first.
  void `${value}`
  throw wrongValue()
}

/**
 * @param {string} text
 * @returns {Body}
 */
function textBody(text) {
  if (text.isWellFormed()) return { kind: Kind.Text, data: text, length: Buffer.byteLength(text) }
  return { kind: Kind.Utf16, data: Buffer.from(text, 'utf16le'), length: generalizedUtf8(text).byteLength }
}

/**
 * @param {Uint8Array} data
 * @returns {Body}
 */
function bytesBody(data) {
  return { kind: Kind.Bytes, data, length: data.byteLength }
}

/**
 * Bytes that other threads can change are copied, so that they hold still while they are stored.
 * @param {Uint8Array} view
 * @returns {Uint8Array}
 */
function whole(view) {
  return types.isSharedArrayBuffer(view.buffer) ? new Uint8Array(view) : view
}

/**
 * Reads a stream to its end, or as far as a value may go; what is beyond is never held.
 * @param {ReadableStream} stream
 * @returns {Promise<Body>}
 */
async function streamBody(stream) {
  if (stream.locked) throw new TypeError('The ReadableStream has been locked to a reader.')
  const reader = stream.getReader()
  const chunks = []
  let length = 0
  while (length <= MAX_VALUE_BYTES) {
    const { done, value } = await reader.read()
    if (done) break
    const chunk = chunkOf(value)
    if (chunk === undefined) {
      const error = new TypeError('This ReadableStream did not return bytes.')
      abandon(reader, error)
      throw error
    }
    length += chunk.byteLength
    chunks.push(chunk)
  }
  if (length <= MAX_VALUE_BYTES) return bytesBody(Buffer.concat(chunks))
  abandon(reader, tooLong(length))
  return { kind: Kind.Bytes, data: new Uint8Array(), length }
}

/**
 * @param {unknown} value
 * @returns {Uint8Array | undefined}
 */
function chunkOf(value) {
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
  return types.isAnyArrayBuffer(value) ? new Uint8Array(value) : undefined
}

/**
 * Tells a stream that nobody will read on. Whether it takes that well is its own affair.
 * @param {ReadableStreamDefaultReader} reader
 * @param {Error} why
 */
function abandon(reader, why) {
  reader.cancel(why).catch(() => {})
}

/**
 * Refuses a value over the limit.
 * @param {Body} body
 */
export function checkBody({ length }) {
  if (length > MAX_VALUE_BYTES) throw tooLong(length)
}

/** @param {number} length */
function tooLong(length) {
  return refused('PUT', 413, `Value length of ${length} exceeds limit of ${MAX_VALUE_BYTES}.`)
}

// --- Out -------------------------------------------------------------------------------------------------------------

/**
 * A stored value as a reader wants it. Throws TypeError for a type that is none, SyntaxError for JSON that is none.
 * @param {Stored} stored
 * @param {string} type
 * @returns {unknown}
 */
export function valueAs(stored, type) {
  switch (type) {
    case 'text':
      return textOf(stored)
    case 'json':
      return JSON.parse(textOf(stored))
    case 'arrayBuffer':
      return bufferOf(bytesOf(stored))
    case 'stream':
      return streamOf(bytesOf(stored))
    default:
      throw unknownType()
  }
}

/**
 * The value as text: bytes that are no UTF-8 become U+FFFD, a byte order mark stays.
 * @param {Stored} stored
 * @returns {string}
 */
export function textOf({ kind, data }) {
  if (typeof data === 'string') return data
  return (kind === Kind.Utf16 ? generalizedUtf8(data.toString('utf16le')) : data).toString('utf8')
}

/**
 * The value as bytes of its own.
 * @param {Stored} stored
 * @returns {Uint8Array}
 */
function bytesOf({ kind, data }) {
  if (typeof data === 'string') return new TextEncoder().encode(data)
  return kind === Kind.Utf16 ? generalizedUtf8(data.toString('utf16le')) : data
}

/**
 * @param {Uint8Array} bytes
 * @returns {ArrayBuffer}
 */
function bufferOf({ buffer, byteOffset, byteLength }) {
  const whole = /** @type {ArrayBuffer} */ (buffer)
  return byteLength === whole.byteLength ? whole : whole.slice(byteOffset, byteOffset + byteLength)
}

/**
 * A stream of bytes, as those of Workers are, so that it can also be read into a buffer of the reader's.
 * @param {Uint8Array} bytes
 * @returns {ReadableStream<Uint8Array>}
 */
function streamOf(bytes) {
  return new ReadableStream({
    type: 'bytes',
    start(controller) {
      if (bytes.byteLength > 0) controller.enqueue(new Uint8Array(bufferOf(bytes)))
      controller.close()
    }
  })
}

/**
 * UTF-8 in which a lone surrogate has three bytes as any other unit of its size: the form in which KV stores text that
 * UTF-8 proper cannot carry (WTF-8: https://simonsapin.github.io/wtf-8/). Read as UTF-8 each of these bytes is U+FFFD.
 * @param {string} text
 * @returns {Buffer}
 */
function generalizedUtf8(text) {
  // Split by a group, the lone surrogates stand at the odd places.
  const parts = text.split(/(\p{Surrogate})/u).map((part, i) => {
    const unit = part.charCodeAt(0)
    return i % 2 === 0 ? Buffer.from(part) : Buffer.of(0xe0 | unit >> 12, 0x80 | unit >> 6 & 0x3f, 0x80 | unit & 0x3f)
  })
  return Buffer.concat(parts)
}
