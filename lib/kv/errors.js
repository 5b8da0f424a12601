// @ts-check
/**
 * The errors of the Workers KV interface: classes and messages are those of Cloudflare's runtime, to the letter,
 * because code written for Workers tells errors apart by them. What KV has no error for keeps the cache's own class and
 * code.
 */

/** @typedef {'GET' | 'GET_BULK' | 'PUT' | 'DELETE'} Call a call as KV's messages name it */

/**
 * What KV's service refuses: an `Error` without a code of its own.
 * @param {Call} call
 * @param {number} status of HTTP
 * @param {string} why
 * @param {unknown} [cause]
 * @returns {Error}
 */
export function refused(call, status, why, cause) {
  return new Error(`KV ${call} failed: ${status} ${why}`, cause === undefined ? undefined : { cause })
}

/**
 * An argument that is missing, or of a type that cannot be converted.
 * @param {string} method
 * @param {number} position from 1
 * @param {string} type that is wanted, as the runtime names it
 * @returns {TypeError}
 */
export function wrongArgument(method, position, type) {
  const call = `Failed to execute '${method}' on 'KvNamespace'`
  return new TypeError(`${call}: parameter ${position} is not of type '${type}'.`)
}

/** @returns {TypeError} */
export function unknownType() {
  const types = '"text", "arrayBuffer", "json", and "stream"'
  return new TypeError(`Unknown response type. Possible types are ${types}.`)
}

/** @returns {TypeError} */
export function wrongValue() {
  const accepted = 'strings, ArrayBuffers, ArrayBufferViews, and ReadableStreams'
  return new TypeError(`KV put() accepts only ${accepted} as values.`)
}
