// @ts-check
/**
 * A cache with the interface of a Workers KV namespace (https://developers.cloudflare.com/kv/api/).
 *
 * Promises: the same results, shapes, orders, limits, error classes and messages as the binding of Cloudflare's
 * runtime; where that is plainly at fault, what it means to do. `docs/workers-kv.md` lists the differences, and
 * `__test__/kv-differential.test.mjs` compares the two.
 *
 * It reads and writes what the cache's own get() and put() do, loads nothing, and keeps nothing of its own.
 */
import { closed } from '../errors.js'
import { native } from '../native.js'
import { MAX_VALUE_BYTES } from '../values.js'
import { bodyOf, checkBody, textOf, valueAs } from './body.js'
import {
  checkBulk, checkBulkKey, checkCacheTtl, checkKey, checkMetadata, checkUnicode, deleteArguments, encodeCursor,
  expirationOf, getArguments, isReserved, listArguments, metadataText, putArguments
} from './convert.js'
import { refused } from './errors.js'

/** @typedef {import('../core.js').Core} Core */
/** @typedef {import('./body.js').Stored & { metadata: string }} Found */

export class KvNamespace {
  #core
  #remove

  /**
   * @param {Core} core
   * @param {(key: string) => Promise<boolean>} remove the cache's delete()
   */
  constructor(core, remove) {
    this.#core = core
    this.#remove = remove
  }

  // --- Reading -------------------------------------------------------------------------------------------------------

  /**
   * @param {...unknown} args
   * @returns {Promise<any>}
   */
  async get(...args) {
    const { key, type, cacheTtl } = getArguments('get', args)
    if (typeof key !== 'string') return this.#getMany(key, type, cacheTtl, false)
    const found = await this.#find(key, cacheTtl)
    return found === undefined ? null : valueAs(found, type ?? 'text')
  }

  /**
   * @param {...unknown} args
   * @returns {Promise<any>}
   */
  async getWithMetadata(...args) {
    const { key, type, cacheTtl } = getArguments('getWithMetadata', args)
    if (typeof key !== 'string') return this.#getMany(key, type, cacheTtl, true)
    const found = await this.#find(key, cacheTtl)
    const value = found === undefined ? null : valueAs(found, type ?? 'text')
    return { value, metadata: metadataOf(found), cacheStatus: null }
  }

  /**
   * @param {string[]} keys
   * @param {string | undefined} type
   * @param {number | undefined} cacheTtl
   * @param {boolean} whole whether values come with their metadata
   */
  async #getMany(keys, type, cacheTtl, whole) {
    checkBulk(keys, type)
    const results = new Map()
    let size = 0
    for (const key of keys) {
      checkBulkKey(key)
      checkCacheTtl('GET_BULK', cacheTtl)
      const found = await this.#stored(key)
      if (found === undefined) {
        results.set(key, null)
        continue
      }
      const text = textOf(found)
      size += text.length
      const value = type === 'json' ? bulkJson(text) : text
      results.set(key, whole ? { value, metadata: metadataOf(found) } : value)
    }
    if (size > MAX_VALUE_BYTES) throw refused('GET_BULK', 413, 'Total size of request exceeds the limit of 25MB')
    return results
  }

  /**
   * @param {string} key
   * @param {number | undefined} cacheTtl
   */
  #find(key, cacheTtl) {
    checkKey('GET', key)
    checkUnicode('GET', key)
    checkCacheTtl('GET', cacheTtl)
    return this.#stored(key)
  }

  /**
   * @param {string} key
   * @returns {Found | undefined | Promise<Found>}
   */
  #stored(key) {
    return this.#open().stored(key)
  }

  /**
   * @param {...unknown} args
   */
  async list(...args) {
    const { prefix, limit, after } = listArguments(args)
    // No key holds a lone surrogate.
    if (!prefix.isWellFormed()) return { keys: [], list_complete: true, cacheStatus: null }
    const page = native.list(this.#open().number, prefix, after, limit)
    if (page === null) throw closed()
    const keys = []
    for (const [i, name] of page.names.entries()) {
      if (isReserved(name)) continue
      /** @type {{ name: string, expiration?: number, metadata?: unknown }} */
      const key = { name }
      if (page.expirations[i] !== 0) key.expiration = page.expirations[i]
      if (page.metadata[i] !== '') key.metadata = JSON.parse(page.metadata[i])
      keys.push(key)
    }
    const last = page.names.at(-1)
    return page.complete || last === undefined
      ? { keys, list_complete: true, cacheStatus: null }
      : { keys, list_complete: false, cursor: encodeCursor(last), cacheStatus: null }
  }

  // --- Writing -------------------------------------------------------------------------------------------------------

  /**
   * @param {...unknown} args
   * @returns {Promise<void>}
   */
  async put(...args) {
    const { key, value, options } = putArguments(args)
    checkKey('PUT', key)
    const json = metadataText(options.metadata)
    const given = bodyOf(value)
    // Only a stream is waited for: everything else is stored before put() returns its promise.
    const body = given instanceof Promise ? await given : given
    checkUnicode('PUT', key)
    const expiration = expirationOf(options)
    const metadata = checkMetadata(json)
    checkBody(body)
    const core = this.#open()
    const age = expiration * 1000 - Date.now()
    const ages = { maxAge: age, staleAge: age, staleIfError: age }
    const { route } = core.routed(key, [])
    core.write({ key, kind: body.kind, data: body.data, ages, metadata, ties: '', route }, native.put)
    await core.behind?.arrived(false)
  }

  /**
   * @param {...unknown} args
   * @returns {Promise<void>}
   */
  async delete(...args) {
    const key = deleteArguments(args)
    checkKey('DELETE', key)
    checkUnicode('DELETE', key)
    await this.#remove(key)
  }

  #open() {
    if (this.#core.closed) throw closed()
    return this.#core
  }
}

/**
 * @param {Found | undefined} found
 * @returns {unknown}
 */
function metadataOf(found) {
  return found === undefined || found.metadata === '' ? null : JSON.parse(found.metadata)
}

/**
 * @param {string} text
 * @returns {unknown}
 */
function bulkJson(text) {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw refused('GET_BULK', 400, 'At least one of the requested keys corresponds to a non-json value', cause)
  }
}
