// @ts-check
/**
 * The background refreshes of one cache in one thread: the engine's queue says when one has its turn, and here its fetcher is run.
 *
 * Promises: a refresh runs in the async context of the get that caused it; its listeners are told once, when it will not be
 * tried again; nothing it does becomes an unhandled rejection.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { asError } from './errors.js'
import { Call, Flight, run } from './flight.js'
import { loadBatch } from './many.js'
import { BatchEnd, checkMail, native } from './native.js'
import { resolve } from './options.js'

/** @typedef {import('./core.js').BatchFetcher} BatchFetcher */
/** @typedef {import('./core.js').Core} Core */
/** @typedef {import('./core.js').Fetcher} Fetcher */
/** @typedef {import('./core.js').Route} Route */
/** @typedef {import('./options.js').Layer} Layer */

/**
 * What is to be run when a queued refresh gets its turn.
 * @typedef {object} Refresh
 * @property {Fetcher | undefined} one
 * @property {BatchFetcher | undefined} many
 * @property {readonly Layer[]} layers
 * @property {number} hardTimeout
 * @property {string} ties
 * @property {number} route
 * @property {{ flight: Flight, error: unknown }[]} failures of the attempt before
 * @property {<R>(run: () => R) => R} inContext runs in the async context of the get that asked for it
 */

export class Refreshes {
  /** Those that wait or run, by batch. @type {Map<number, Refresh>} */
  #batches = new Map()
  /** Those who wait for all to be over. @type {Set<() => void>} */
  #waiting = new Set()

  /**
   * @param {Core} core
   */
  constructor(core) {
    this.core = core
  }

  /**
   * Queues a refresh of stale keys as one batch.
   * @param {string[]} keys
   * @param {Fetcher | undefined} one
   * @param {BatchFetcher | undefined} many
   * @param {readonly Layer[]} layers
   * @param {Route | undefined} route
   * @param {number} origin
   */
  enqueue(keys, one, many, layers, route, origin) {
    const { hardTimeout, ties } = resolve(...layers)
    this.core.inputs(route, origin, hardTimeout)
    const batch = native.refresh(this.core.number, keys)
    if (batch === 0) return
    const inContext = /** @type {any} */ (AsyncLocalStorage.snapshot())
    this.#batches.set(batch, {
      one, many, layers, hardTimeout, ties, route: route?.number ?? 0, failures: [], inContext
    })
    checkMail()
  }

  /**
   * A batch has its turn.
   * @param {number} batch
   */
  start(batch) {
    const refresh = this.#batches.get(batch)
    const started = native.start(this.core.number, batch)
    if (refresh === undefined || started.length === 0) {
      this.over(batch)
      // A retry that its circuit refuses will not come: what failed has failed for good.
      for (const { flight, error } of refresh?.failures ?? []) this.#tellRefresh(flight, { error })
      checkMail()
      return
    }
    const { one, many, layers, hardTimeout, ties, route, inContext } = refresh
    const call = new Call(this.core, { background: true, hardTimeout })
    call.batch = batch
    for (const [key, token, hasCopy, invalidated] of started) {
      // A batch may hold keys of several define() patterns; a single refresh has its own.
      const own = many === undefined ? { layers, route } : this.core.routed(key, layers)
      new Flight(this.core, key, token, { ...own, reason: invalidated ? 'invalidated' : 'stale', hasCopy, call })
      this.core.declare(token, ties)
    }
    const load = (/** @type {Flight[]} */ flights) => inContext(() => {
      if (one !== undefined) run(flights[0], one)
      else loadBatch(call, /** @type {BatchFetcher} */ (many), flights)
    })
    const { behind } = this.core
    // Another process may have made it.
    if (behind?.isShared) behind.seek([...call.flights], { load, freshOnly: true })
    else load(call.flights)
    checkMail()
  }

  /**
   * A flight has ended; if it was a refresh, its listeners are told once it will not be tried again.
   * @param {Flight} flight
   * @param {{ error: unknown } | undefined} failure undefined when it went well
   */
  ended(flight, failure) {
    const { call } = flight
    if (!call.background) return
    const over = call.batchEnd === BatchEnd.Finished
    if (over) this.over(call.batch)
    if (failure === undefined) this.#tellRefresh(flight, undefined)
    else (call.failures ??= []).push({ flight, error: failure.error })
    const refresh = this.#batches.get(call.batch)
    if (refresh !== undefined) refresh.failures = call.failures ?? []
    if (over) for (const { flight, error } of call.failures ?? []) this.#tellRefresh(flight, { error })
  }

  /**
   * A batch is over.
   * @param {number} batch
   */
  over(batch) {
    this.#batches.delete(batch)
    if (this.#batches.size === 0) for (const closer of this.#waiting) closer()
  }

  /**
   * @param {Flight} flight
   * @param {{ error: unknown } | undefined} failure
   */
  #tellRefresh(flight, failure) {
    if (!this.core.events.has('refresh')) return
    const ms = performance.now() - flight.began
    const { key } = flight
    this.core.events.emit('refresh', failure === undefined ? { key, ms } : { key, ms, error: asError(failure.error) })
  }

  /**
   * Resolves when none waits or runs.
   * @returns {Promise<void>}
   */
  allOver() {
    if (this.#batches.size === 0) return Promise.resolve()
    return new Promise(resolve => void this.#waiting.add(resolve))
  }
}
