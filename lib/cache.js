// @ts-check
/**
 * The face: what users hold. Each method checks what it was given and hands over; `index.d.ts` documents them.
 */
import { closed, invalidKey, invalidOption, whyInvalidKey } from './errors.js'
import { Core, DEFAULT_ORIGIN } from './core.js'
import { decodeCursor, encodeCursor } from './cursor.js'
import { kept } from './flight.js'
import { parseSoft, parseTargets } from './invalidation.js'
import { KvNamespace } from './kv/namespace.js'
import { getMany } from './many.js'
import { H, Status, checkMail, header, native, nearMemory } from './native.js'
import { cacheOptions, closeOptions, layer, listOptions, resolve } from './options.js'
import { VersionedContent } from './versioned.js'

/** @typedef {import('./behind.js').Behind} Behind */

/** How long close() waits when it is not told, in milliseconds. */
const CLOSE_TIMEOUT = 5000

/**
 * Reports an error as an 'error' event of a cache.
 * @type {(cache: unknown, error: unknown) => void}
 */
export let reportTo

export class KvCache {
  #core
  /** @type {Promise<void> | undefined} */
  #closing

  /**
   * @param {object} [options]
   */
  constructor(options) {
    this.#core = new Core(cacheOptions(options))
  }

  // --- Reading ---------------------------------------------------------------------------------------------------------

  /**
   * @param {string} key
   * @param {any} [fetcher]
   * @param {any} [options]
   */
  get(key, fetcher, options) {
    return this.#core.get(key, fetcher, options, false)
  }

  /**
   * @param {string} key
   * @param {any} [fetcher]
   * @param {any} [options]
   */
  getWithMetadata(key, fetcher, options) {
    return this.#core.get(key, fetcher, options, true)
  }

  /**
   * @param {string[]} keys
   * @param {any} [fetcher]
   * @param {any} [options]
   */
  async getMany(keys, fetcher, options) {
    return getMany(this.#open(), keys, fetcher, options)
  }

  /**
   * @param {string} key
   */
  peek(key) {
    return this.#core.peek(key)
  }

  /**
   * @param {string} key
   */
  async has(key) {
    const core = this.#open()
    return core.has(key) || (core.behind !== undefined && (await core.behind.find(key, false)) !== undefined)
  }

  /**
   * @param {any} [options]
   */
  async list(options) {
    const core = this.#open()
    const { prefix, limit, cursor, tier } = listOptions(options, core.behind?.names ?? [])
    if (tier !== undefined) return listTier(/** @type {Behind} */ (core.behind), tier, prefix, limit, cursor)
    const after = cursor === undefined ? undefined : decodeCursor(cursor)
    const page = native.list(core.number, prefix, after, limit)
    if (page === null) throw closed()
    const keys = keysOf(page)
    const last = keys.at(-1)
    return page.complete || last === undefined
      ? { keys, complete: true }
      : { keys, complete: false, cursor: encodeCursor(last.name) }
  }

  // --- Writing ---------------------------------------------------------------------------------------------------------

  /**
   * @param {string} key
   * @param {unknown} value
   * @param {any} [options]
   */
  async put(key, value, options) {
    const core = this.#open()
    core.write(core.prepare(key, value, options), native.put)
    await core.behind?.arrived(false)
  }

  /**
   * @param {Iterable<[string, unknown, any?]>} entries
   * @param {any} [options]
   */
  async putMany(entries, options) {
    const core = this.#open()
    if (typeof entries?.[Symbol.iterator] !== 'function' || typeof entries === 'string') {
      throw invalidOption('entries', entries, 'an iterable of [key, value, options?]')
    }
    // First everything that runs user code, then everything that can be refused, then the writes.
    const prepared = []
    for (const one of entries) {
      if (!Array.isArray(one)) throw invalidOption('entries', one, 'an iterable of [key, value, options?]')
      const next = core.prepare(one[0], one[1], options, one[2])
      // A serializer may use one buffer for all.
      prepared.push({ ...next, data: kept(next) })
    }
    try {
      for (const one of prepared) core.write(one, native.stage)
      native.commitStaged(core.number)
    } finally {
      native.dropStaged(core.number)
    }
    checkMail()
    await core.behind?.arrived(false)
  }

  /**
   * @param {string | string[]} key
   */
  async delete(key) {
    const core = this.#open()
    const keys = Array.isArray(key) ? Array.from(key) : [key]
    // All are looked at before any is removed.
    for (const one of keys) core.has(one)
    let removed = false
    for (const one of keys) {
      removed = native.remove(core.number, one) || removed
      if (header[H.STATUS] !== Status.Done) throw core.refusal(one)
    }
    checkMail()
    await core.behind?.arrived(true)
    return removed
  }

  // --- Invalidating ----------------------------------------------------------------------------------------------------

  /**
   * @param {unknown} target
   * @param {any} [options]
   */
  async invalidate(target, options) {
    const core = this.#open()
    const soft = parseSoft(options)
    for (const { kind, text, label } of parseTargets(target)) {
      native.invalidate(core.number, kind, text, label, soft)
      if (header[H.STATUS] !== Status.Done) throw core.refusal(text)
    }
    checkMail()
    await core.behind?.arrived(true)
  }

  /**
   * @param {string} parent
   * @param {string} child
   */
  addDependency(parent, child) {
    const core = this.#open()
    checkKey(parent)
    checkKey(child)
    native.addDependency(core.number, parent, child)
  }

  /**
   * @param {string} parent
   * @param {string} [child]
   */
  removeDependency(parent, child) {
    const core = this.#open()
    checkKey(parent)
    if (child !== undefined) checkKey(child)
    native.removeDependency(core.number, parent, child)
  }

  /**
   * @param {string} name
   */
  versioned(name) {
    return new VersionedContent(this.#open(), name)
  }

  // --- Events from outside ------------------------------------------------------------------------------------------------

  /**
   * @param {string} type
   * @param {(event: any) => any} targets
   */
  onEvent(type, targets) {
    this.#open().rules.add(type, targets)
  }

  /**
   * @param {any} event
   */
  async dispatch(event) {
    const core = this.#open()
    const targets = await core.rules.targets(event, resolve(core.layer).hardTimeout)
    await this.invalidate(targets)
    return targets
  }

  // --- Routes ------------------------------------------------------------------------------------------------------------

  /**
   * @param {string} pattern
   * @param {any} fetcher
   * @param {any} [options]
   */
  define(pattern, fetcher, options) {
    const core = this.#open()
    const route = core.routes.add(pattern, fetcher, layer(options, 'define'))
    route.number = native.route(core.number, route.pattern)
  }

  /**
   * @param {(...args: any[]) => Promise<any>} fn
   * @param {any} options
   */
  wrap(fn, options) {
    if (typeof fn !== 'function') throw invalidOption('fn', fn, 'a function')
    const { key } = layer(options, 'wrap')
    if (key === undefined) throw invalidOption('key', undefined, 'a function that makes a key of the arguments')
    const { key: _, ...rest } = options
    const core = this.#core
    /**
     * @this {unknown}
     * @param {...any} args
     */
    return function (...args) {
      let name
      try {
        name = key(...args)
      } catch (error) {
        return Promise.reject(error)
      }
      return core.get(name, () => fn.apply(this, args), rest, false)
    }
  }

  // --- Workers KV ---------------------------------------------------------------------------------------------------------

  asKVNamespace() {
    return new KvNamespace(this.#core, key => this.delete(key))
  }

  // --- Figures and events --------------------------------------------------------------------------------------------------

  stats() {
    const core = this.#core
    core.near?.report()
    const stats = core.last === undefined ? native.stats(core.number) : core.last.stats
    return { ...stats, nearMemory, tiers: core.last === undefined ? (core.behind?.stats() ?? {}) : core.last.tiers }
  }

  metrics() {
    const core = this.#core
    core.near?.report()
    return core.last === undefined ? (native.metrics(core.number) ?? '') : core.last.metrics
  }

  /**
   * @param {string} [origin]
   */
  breaker(origin = DEFAULT_ORIGIN) {
    if (typeof origin !== 'string') throw invalidOption('origin', origin, 'a string')
    const state = native.breaker(this.#open().number, origin)
    if (state === null) throw closed()
    return state
  }

  /**
   * @param {string} event
   * @param {(detail: any) => void} listener
   */
  on(event, listener) {
    this.#core.events.on(event, listener)
    return this
  }

  /**
   * @param {string} event
   * @param {(detail: any) => void} listener
   */
  off(event, listener) {
    this.#core.events.off(event, listener)
    return this
  }

  // --- Ends ------------------------------------------------------------------------------------------------------------------

  /**
   * @param {any} [options]
   */
  async flush(options) {
    const core = this.#open()
    const limit = closeOptions(options, 'flush()') ?? Infinity
    const began = performance.now()
    await core.flush(limit, 'flush()')
    await core.behind?.flush(Math.max(1, limit - (performance.now() - began)), false)
  }

  /**
   * @param {any} [options]
   * @returns {Promise<void>}
   */
  close(options) {
    if (this.#closing === undefined) {
      try {
        const limit = closeOptions(options, 'close()') ?? CLOSE_TIMEOUT
        this.#closing = this.#core.close(limit)
      } catch (error) {
        return Promise.reject(error)
      }
    }
    return this.#closing
  }

  [Symbol.asyncDispose]() {
    return this.close()
  }

  #open() {
    const core = this.#core
    if (core.closed) throw closed()
    return core
  }

  static {
    reportTo = (cache, error) => {
      if (typeof cache === 'object' && cache !== null && #core in cache) cache.#core.report(error)
    }
  }
}

/**
 * @param {Behind} behind
 * @param {string} tier
 * @param {string} prefix
 * @param {number} limit
 * @param {string | undefined} cursor
 */
async function listTier(behind, tier, prefix, limit, cursor) {
  const page = await behind.list(tier, { prefix, limit, cursor: cursor === undefined ? undefined : decodeCursor(cursor) })
  const keys = keysOf(page)
  return page.cursor === undefined ? { keys, complete: true } : { keys, complete: false, cursor: encodeCursor(page.cursor) }
}

/**
 * @param {{ names: string[], expirations: number[], metadata: string[] }} page
 */
function keysOf({ names, expirations, metadata }) {
  return names.map((name, i) => {
    /** @type {{ name: string, expiration?: number, metadata?: unknown }} */
    const key = { name }
    if (expirations[i] !== 0) key.expiration = expirations[i]
    if (metadata[i] !== '') key.metadata = JSON.parse(metadata[i])
    return key
  })
}

/**
 * @param {unknown} key
 */
function checkKey(key) {
  const why = whyInvalidKey(key)
  if (why !== undefined) throw invalidKey(key, why)
}
