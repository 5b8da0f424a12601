// @ts-check
/**
 * What stands behind memory, as a cache in this thread deals with it: keys are sought there before a fetcher is run, and who
 * deletes or invalidates waits until the tiers have it.
 *
 * Promises: a flight that looks behind memory ends by what is found there or goes on with its fetcher, in the async context of the get
 * that caused it; a tier that fails is a miss; a receipt is always answered, and keeps the process alive until it is.
 */
import { closed, tierFailed } from './errors.js'
import { Call, Flight } from './flight.js'
import { hold, release } from './keepalive.js'
import { H, Status, checkMail, header, native } from './native.js'
import { parent } from './nesting.js'
import { EMPTY, resolve } from './options.js'
import { wait } from './waiting.js'

/** @typedef {import('./core.js').Core} Core */

/** Keys that are sought together at most: those who wait for these have theirs while the next are gathered. */
const TOGETHER = 32

/** How often a key is looked for that is changed again and again meanwhile. */
const MOST_TIMES = 8

/** Tiers that other processes write to and tell us of. */
const SHARED = new Set(['disk', 'redis'])

export class Behind {
  /** Who waits for a receipt. @type {Map<number, (trouble: { tier: string, message: string } | undefined) => void>} */
  #waiting = new Map()
  /** Flights whose keys are about to be sought, and how. */
  #gathered = { tokens: /** @type {number[]} */ ([]), freshOnly: false, loads: false }

  /**
   * @param {Core} core
   * @param {string[]} names of the tiers, the nearest first
   */
  constructor(core, names) {
    this.core = core
    this.names = names
    /** Whether a refresh may find that another process has made it. */
    this.isShared = this.names.some(name => SHARED.has(name))
  }

  // --- Looking -----------------------------------------------------------------------------------------------------------

  /**
   * Looks for the keys of flights that have just begun. What is called afterwards runs in the async context of this call.
   * @param {Flight[]} flights
   * @param {object} plan
   * @param {(missing: Flight[]) => void} plan.load gets those that must be loaded
   * @param {(keys: string[]) => void} [plan.refresh] gets the keys that were found stale and want a refresh, together
   * @param {boolean} [plan.freshOnly] an old value is in memory
   * @param {boolean} [plan.loads] whether it calls a fetcher
   */
  seek(flights, { load, refresh, freshOnly = false, loads = true }) {
    /** @type {Flight[]} */
    const missing = []
    /** @type {string[]} */
    const stale = []
    let open = flights.length
    const known = later(() => {
      if (refresh !== undefined && stale.length > 0 && !this.core.closed) refresh(stale)
      // What was given up while others were looked for needs no fetcher.
      const left = missing.filter(flight => !flight.done)
      if (left.length > 0) load(left)
    })
    for (const flight of flights) {
      if (refresh !== undefined) flight.onStale = () => void stale.push(flight.key)
      flight.seeking = isWanted => {
        if (isWanted) missing.push(flight)
        if (--open === 0) known()
      }
      this.#gather(flight, freshOnly, loads)
    }
  }

  /**
   * The same for one flight; without arrays, for the reason in `Call`.
   * @param {Flight} flight
   * @param {object} plan
   * @param {(flight: Flight) => void} plan.load
   * @param {() => void} [plan.refresh]
   * @param {boolean} [plan.loads] whether it calls a fetcher
   */
  seekOne(flight, { load, refresh, loads = true }) {
    let isWanted = false
    const known = later(() => {
      if (!isWanted) {
        if (!this.core.closed) refresh?.()
      } else if (!flight.done) {
        load(flight)
      }
    })
    // A fresh value leaves nothing to do.
    flight.onStale = known
    flight.seeking = wanted => {
      isWanted = wanted
      if (wanted) known()
    }
    this.#gather(flight, false, loads)
  }

  /**
   * Has a key sought when this tick of the event loop ends, in one call with those that others want of it.
   * @param {Flight} flight
   * @param {boolean} freshOnly
   * @param {boolean} loads
   */
  #gather({ token }, freshOnly, loads) {
    const gathered = this.#gathered
    if (gathered.freshOnly !== freshOnly || gathered.loads !== loads) this.#send()
    gathered.freshOnly = freshOnly
    gathered.loads = loads
    if (gathered.tokens.length === 0) process.nextTick(() => this.#send())
    gathered.tokens.push(token)
    if (gathered.tokens.length >= TOGETHER) this.#send()
  }

  #send() {
    const { tokens, freshOnly, loads } = this.#gathered
    if (tokens.length === 0) return
    this.#gathered.tokens = []
    native.seek(this.core.number, tokens, freshOnly, loads)
  }

  /**
   * The value of a key that memory does not hold, or its entry, if a tier has it; loads nothing. A key that was changed meanwhile is
   * looked for again: it may have been put.
   * @param {string} key
   * @param {boolean} whole
   * @param {() => any} [otherwise] what to give where there is none
   * @param {number} [times] how often it is looked for at most
   * @returns {Promise<any>}
   */
  find(key, whole, otherwise = () => undefined, times = MOST_TIMES) {
    const { core } = this
    const { hardTimeout } = core.plain
    const missing = (/** @type {{ cut: number }} */ flight) => async () =>
      flight.cut !== 0 && times > 1 ? this.find(key, whole, otherwise, times - 1) : otherwise()
    const nestedIn = parent()
    const data = core.begin(key, { route: 0, origin: core.originNumber('default'), hardTimeout, parent: nestedIn, flags: 0 })
    const token = header[H.TOKEN]
    const joined = header[H.SEQ]
    switch (header[H.STATUS]) {
      case Status.Lead: {
        const call = new Call(core, { background: false, hardTimeout })
        const layers = core.plainLayers
        const flight = new Flight(core, key, token, {
          layers, resolved: resolve(...layers, EMPTY), route: 0, reason: 'miss', hasCopy: header[H.HAS_COPY] !== 0, call
        })
        const none = missing(flight)
        const answer = wait(core, flight, undefined, Infinity, whole, joined, none, none)
        this.seekOne(flight, { load: () => flight.giveUp(), loads: false })
        checkMail()
        return answer
      }
      case Status.Join: {
        checkMail()
        const flight = core.flights.get(token) ?? core.remote(key, token)
        const none = missing(flight)
        // That load's failure is not this caller's.
        return wait(core, flight, undefined, Infinity, whole, joined, none, none).catch(() => otherwise())
      }
      case Status.Fresh:
      case Status.Stale: {
        const answer = core.found(key, data, whole)
        checkMail()
        return Promise.resolve(answer)
      }
      case Status.Recursion:
        checkMail()
        return Promise.resolve(otherwise())
      default:
        throw core.refusal(key)
    }
  }

  /**
   * What was sought for a flight is known.
   * @param {number} token
   */
  sought(token) {
    const flight = this.core.flights.get(token)
    if (flight === undefined) native.takeSought(this.core.number, token)
    else flight.sought()
  }

  // --- Receipts ------------------------------------------------------------------------------------------------------------

  /**
   * Waits until what was written here has reached the tiers that writers wait for, or `all` of them.
   * @param {boolean} all
   * @returns {Promise<void> | undefined} undefined if it has; rejects with ERR_KVCACHE_TIER
   */
  arrived(all) {
    const receipt = native.receipt(this.core.number, all)
    if (receipt === 0) return undefined
    return this.#delivered(receipt).then(trouble => {
      if (trouble === undefined) return
      throw tierFailed(trouble.tier, `applied here, and queued for it: ${trouble.message}`)
    })
  }

  /**
   * Has everything land in the tiers.
   * @param {number} within milliseconds, may be infinite
   * @param {boolean} close whether they are closed
   * @returns {Promise<void>}
   */
  async flush(within, close) {
    const receipt = native.flushTiers(this.core.number, Math.min(within, Number.MAX_SAFE_INTEGER), close)
    const trouble = receipt === 0 ? undefined : await this.#delivered(receipt)
    if (trouble !== undefined) throw tierFailed(trouble.tier, trouble.message)
  }

  /**
   * A page of a tier's keys.
   * @param {string} tier
   * @param {{ prefix: string, limit: number, cursor: string | undefined }} options
   */
  async list(tier, { prefix, limit, cursor }) {
    const receipt = native.listTier(this.core.number, tier, prefix, limit, cursor)
    await this.#delivered(receipt)
    const page = native.takePage(this.core.number, receipt)
    if (page === null) throw closed()
    if (page.trouble !== undefined) throw tierFailed(tier, page.trouble)
    return page
  }

  /**
   * The next version of a name, which no other process is given, above all that are known here; 0 if no tier gives any.
   * @param {string} name
   */
  nextVersion(name) {
    return this.#version(name, true)
  }

  /**
   * The version of a name that was given last, in whichever process; 0 for none.
   * @param {string} name
   */
  lastVersion(name) {
    return this.#version(name, false)
  }

  /**
   * @param {string} name
   * @param {boolean} next
   * @returns {Promise<number>}
   */
  async #version(name, next) {
    const receipt = native.askVersion(this.core.number, name, next)
    if (receipt === 0) return 0
    await this.#delivered(receipt)
    const given = native.takeVersion(this.core.number, receipt)
    if (given === null) throw closed()
    if (given.tier !== undefined) throw tierFailed(given.tier, given.trouble ?? '')
    return given.version
  }

  /**
   * @param {number} receipt
   * @returns {Promise<{ tier: string, message: string } | undefined>}
   */
  #delivered(receipt) {
    return new Promise((resolve, reject) => {
      /** @param {{ tier: string, message: string } | undefined} trouble */
      const deliver = trouble => {
        release(deliver)
        if (trouble?.message === '') reject(closed())
        else resolve(trouble)
      }
      hold(deliver)
      this.#waiting.set(receipt, deliver)
    })
  }

  /**
   * The engine answers a receipt.
   * @param {number} receipt
   * @param {string | undefined} tier
   * @param {string | undefined} message
   */
  delivered(receipt, tier, message) {
    const deliver = this.#waiting.get(receipt)
    this.#waiting.delete(receipt)
    deliver?.(tier === undefined ? undefined : { tier, message: message ?? '' })
  }

  /** The cache is closed: nothing more is told. */
  close() {
    for (const deliver of this.#waiting.values()) deliver({ tier: '', message: '' })
    this.#waiting.clear()
  }

  /** What each tier has counted, by its name. */
  stats() {
    return Object.fromEntries(native.tierStats(this.core.number).map(({ name, ...stats }) => [name, stats]))
  }
}

/**
 * A function that has another one run soon, in the async context of this moment.
 * @param {() => void} run
 * @returns {() => void}
 */
function later(run) {
  let call = nothing
  /** @type {Promise<void>} */
  const called = new Promise(resolve => { call = resolve })
  // What a promise runs, it runs in the context that it was given in.
  void called.then(run)
  return call
}

function nothing() {}
