// @ts-check
/**
 * One cache in one thread: reads and loads of single keys, and what they share with the others.
 *
 * It stands between the face (`cache.js`), which users hold, and the engine. Promises: whatever is wrong with a call is
 * a rejection, found before anything is begun; what the engine says reaches the flight or the listener it is for.
 */
import {
  circuitOpen, closed, configMismatch, invalidKey, invalidOption, isOwn, listener as listenerFailed, recursion,
  serializeFailed, tierFailed, timeout, unknownOption, valueTooLarge
} from './errors.js'
import { Behind } from './behind.js'
import { Emitter } from './events.js'
import { Call, Flight, entry, entryOf, foundTies, reasonOf, run, standIn } from './flight.js'
import { LONGEST_TIMER, hold, release } from './keepalive.js'
import * as mail from './native.js'
import { FORCE, GIVE_UP, H, LOOK, LOOK_NEAR, NEAR, PERMIT, RESUME, Status, WANT_METADATA, checkMail, header, native } from './native.js'
import { Near } from './near.js'
import { parent } from './nesting.js'
import { EMPTY, agesOf, knownSerializer, layer, resolve } from './options.js'
import { Refreshes } from './refreshes.js'
import { RemoteFlight, Resumed } from './remote.js'
import { Routes } from './routes.js'
import { Rules } from './rules.js'
import { Table } from './table.js'
import { decode, encode, share } from './values.js'
import { read, wait, wasCut } from './waiting.js'

/** @typedef {import('./options.js').Layer} Layer */
/** @typedef {import('./options.js').CacheOptions} CacheOptions */
/** @typedef {import('./flight.js').Outcome} Outcome */
/** @typedef {NonNullable<ReturnType<Routes['match']>>} Route */
/** @typedef {(key: string, context: any) => unknown} Fetcher */
/** @typedef {(missing: string[], context: { signal: AbortSignal }) => unknown} BatchFetcher */

/** Name of the breaker of fetchers that have none of their own. */
export const DEFAULT_ORIGIN = 'default'

/** What tiers have at least to land what is pending when a cache is closed, in milliseconds. */
const LAST_CALL = 100

/** What a fetcher did wrong towards the cache says nothing about its origin. */
const OWN_FAULTS = new Set([
  'ERR_KVCACHE_INVALID_KEY',
  'ERR_KVCACHE_INVALID_OPTION',
  'ERR_KVCACHE_INVALID_VALUE',
  'ERR_KVCACHE_RECURSION'
])

/**
 * How a get() is to be loaded.
 * @typedef {object} Plan
 * @property {Route | undefined} source the define() that the fetcher is of
 * @property {Readonly<Layer>} own
 * @property {any} options
 * @property {boolean} whole whether the answer is an entry
 * @property {boolean} force
 * @property {Resumed | undefined} resumed
 * @property {Route | undefined} route
 * @property {readonly Layer[]} layers
 * @property {import('./options.js').Resolved} resolved
 */

export class Core {
  /**
   * @param {CacheOptions} options
   */
  constructor(options) {
    const { name, settings, memory, near, serializer, compression, refresh, breaker, tiers, load } = options
    /** What other threads open the same cache by; undefined for a cache of its own. */
    this.name = name
    this.serializer = serializer
    /** Who may be given one and the same decoded value. @type {import('./values.js').Sharing} */
    this.sharing = near === null ? 'copy' : near.values
    this.layer = load
    /** What applies to a get without options of its own or a define(). */
    this.plainLayers = Object.freeze([load, EMPTY])
    this.plain = resolve(load, EMPTY)
    /** @type {Plan} */
    this.plainPlan = {
      source: undefined, own: EMPTY, options: undefined, whole: false, force: false, resumed: undefined, route: undefined,
      layers: this.plainLayers, resolved: this.plain
    }
    this.failure = breaker === null ? undefined : breaker.failure
    this.routes = new Routes()
    this.rules = new Rules()
    /** The flights of this thread. @type {Table<Flight>} */
    this.flights = new Table()
    /** The flights of other threads that are waited for here. @type {Table<RemoteFlight>} */
    this.remotes = new Table()
    /** The background refreshes of this thread. */
    this.refreshes = new Refreshes(this)
    /** The numbers of the origins used so far. @type {Map<string, number>} */
    this.origins = new Map()
    /** Those who wait for the queue to become idle. @type {Set<() => void>} */
    this.flushers = new Set()
    /** Those who wait for a worker to decompress a value, by its number. @type {Map<number, (data: any) => void>} */
    this.inflating = new Map()
    this.closed = false
    /** What stats() and metrics() say once the engine is gone. @type {{ stats: any, metrics: string, tiers: any } | undefined} */
    this.last = undefined
    const opened = mail.open(this, {
      name,
      settings,
      memory,
      ...refresh,
      algorithm: compression === null ? '' : compression.algorithm,
      level: compression === null ? 0 : compression.level,
      threshold: compression === null ? 0 : compression.threshold,
      breakerThreshold: breaker === null ? 0 : breaker.threshold,
      breakerTimeout: breaker === null ? 0 : breaker.timeout,
      tiers
    })
    if (opened.trouble) {
      const { tier, message, refused } = opened.trouble
      throw refused ? unknownOption('tiers', 'the cache', `cannot be: ${tier}: ${message}`) : tierFailed(tier, message)
    }
    if (opened.mismatch) {
      const { option, given, open } = opened.mismatch
      throw configMismatch(/** @type {string} */ (name), option, given, open)
    }
    this.number = opened.number
    if (settings.some(({ option, given }) => option === 'serializer' && !given)) {
      const open = /** @type {string} */ (opened.serializer)
      const known = knownSerializer(open)
      if (known === undefined) {
        mail.close(this, this.number)
        throw configMismatch(/** @type {string} */ (name), 'serializer', 'not given', open)
      }
      this.serializer = known
    }
    /** The tiers; undefined where there are none. @type {Behind | undefined} */
    this.behind = undefined
    const names = native.tierStats(this.number).map(tier => tier.name)
    if (names.length > 0) this.behind = new Behind(this, names)
    /** Gone when the cache is closed. */
    this.near = Near.open(this.number, near, this.serializer)
    this.events = new Emitter({
      onFailure: () => void native.countListenerError(this.number),
      onListening: (event, listening) => {
        if (event === 'evict') native.tellEvictions(this.number, listening)
        if (event === 'invalidate') native.tellInvalidations(this.number, listening)
      }
    })
  }

  // --- Reading ---------------------------------------------------------------------------------------------------------

  /**
   * get() and getWithMetadata().
   * @param {string} key
   * @param {Fetcher | undefined} fetcher
   * @param {any} options
   * @param {boolean} whole whether the answer is an entry
   * @returns {Promise<any>}
   */
  get(key, fetcher, options, whole) {
    try {
      const { near } = this
      if (near !== undefined && !whole && options?.signal === undefined && !options?.forceFresh &&
        (fetcher === undefined || typeof fetcher === 'function')) {
        const promise = near.get(key)
        if (promise !== undefined) return promise
      }
      return this.#get(key, fetcher, options, whole)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /**
   * A get() that the near cache does not answer.
   * @param {string} key
   * @param {Fetcher | undefined} fetcher
   * @param {any} options
   * @param {boolean} whole
   * @returns {Promise<any>}
   */
  #get(key, fetcher, options, whole) {
    if (this.closed) throw closed()
    const signal = options?.signal
    if (signal !== undefined && signal?.aborted === true) return Promise.reject(signal.reason)
    /** @type {Route | undefined} */
    let route
    if (fetcher === undefined) {
      route = this.#routeOf(key)
      if (route === undefined) return this.#lookupOrFind(key, whole)
      fetcher = /** @type {Fetcher} */ (route.fetcher)
    } else if (typeof fetcher !== 'function') {
      throw invalidOption('fetcher', fetcher, 'a function')
    }
    if (options?.forceFresh) return this.load(key, fetcher, route, options, whole, true)
    // Most gets have no options and no define(): then one call looks the key up and begins the load.
    const together = options === undefined && !whole && this.routes.size === 0
    const data = together ? this.#lookOrBegin(key) : this.lookup(key, whole ? WANT_METADATA : 0)
    const status = header[H.STATUS]
    if (status === Status.Fresh) {
      checkMail()
      return Promise.resolve(this.answer(key, data, whole))
    }
    if (status === Status.Stale) {
      const due = header[H.REFRESH_DUE] !== 0
      const answer = this.answer(key, data, whole)
      if (due) this.refresh(key, fetcher, route, options)
      checkMail()
      return Promise.resolve(answer)
    }
    if (together) {
      if (status < Status.None) throw this.refusal(key)
      return this.#begun(data, key, fetcher, this.plainPlan)
    }
    if (status !== Status.None) throw this.refusal(key)
    return this.load(key, fetcher, route, options, whole, false)
  }

  /**
   * Looks a key up, and begins its load where nothing is there: for a get without options, in a cache without define()s.
   * @param {string} key
   * @returns {any}
   */
  #lookOrBegin(key) {
    this.inputs(undefined, this.originNumber(DEFAULT_ORIGIN), this.plain.hardTimeout)
    header[H.IN_PARENT] = parent()
    if (this.near === undefined) return native.begin(this.number, key, PERMIT | LOOK)
    this.near.ask(key)
    return native.begin(this.number, key, PERMIT | LOOK | LOOK_NEAR)
  }

  /**
   * A get() that will load nothing.
   * @param {string} key
   * @param {boolean} whole
   */
  #lookupOnly(key, whole) {
    const data = this.lookup(key, whole ? GIVE_UP | WANT_METADATA : GIVE_UP)
    const status = header[H.STATUS]
    checkMail()
    if (status > Status.None) return this.answer(key, data, whole)
    if (status === Status.None) return undefined
    throw this.refusal(key)
  }

  /**
   * The value of a key if it is there; loads nothing, whatever define() says.
   * @param {string} key
   * @returns {Promise<any>}
   */
  read(key) {
    const promise = this.near?.get(key)
    if (promise !== undefined) return promise
    if (this.closed) throw closed()
    return this.#lookupOrFind(key, false)
  }

  /**
   * @param {string} key
   * @param {boolean} whole
   * @returns {Promise<any>}
   */
  #lookupOrFind(key, whole) {
    const found = this.#lookupOnly(key, whole)
    return found === undefined && this.behind !== undefined ? this.behind.find(key, whole) : Promise.resolve(found)
  }

  /**
   * Looks a key up in the engine; {@link answer} then gives what was found.
   * @param {string} key
   * @param {number} flags
   * @returns {any}
   */
  lookup(key, flags) {
    if (this.near === undefined) return native.lookup(this.number, key, flags)
    this.near.ask(key)
    return native.lookup(this.number, key, flags | NEAR)
  }

  /**
   * What the look-up just made has found, as {@link found} gives it, kept near.
   * @param {string} key
   * @param {any} data
   * @param {boolean} whole
   * @returns {any}
   */
  answer(key, data, whole) {
    const { near } = this
    if (near === undefined) return this.found(key, data, whole)
    if (!whole) return this.#keptNear(near, key, data)
    const deferred = header[H.DEFERRED] !== 0
    const facts = this.#facts()
    const value = this.#keptNear(near, key, data)
    return deferred ? value.then((/** @type {unknown} */ value) => entry(value, facts)) : entry(value, facts)
  }

  /**
   * @param {Near} near
   * @param {string} key
   * @param {any} data
   * @returns {any}
   */
  #keptNear(near, key, data) {
    if (header[H.SAME] !== 0) return near.confirmed(key)
    const kind = header[H.KIND]
    const deferred = header[H.DEFERRED]
    const copy = near.begin(key)
    return deferred === 0
      ? near.keep(copy, kind, data, key)
      : this.inflated(deferred, key).then(data => near.keep(copy, kind, data, key))
  }

  /**
   * What the call just made has found beside the value. Takes the metadata by a call of its own, which leaves what the header
   * says of copies as it is.
   * @returns {import('./flight.js').Facts}
   */
  #facts() {
    const state = header[H.STATUS] === Status.Fresh ? 'fresh' : 'stale'
    const age = header[H.AGE]
    const maxAge = header[H.MAX_AGE]
    const ties = foundTies(this)
    const metadata = header[H.HAS_METADATA] === 0 ? '' : native.takeMetadata(this.number)
    return /** @type {import('./flight.js').Facts} */ ({ state, age, maxAge, metadata, ...ties })
  }

  /**
   * The value, or the entry, that the call just made has found; a promise of it where a worker decompresses it.
   * @param {string} key
   * @param {any} data
   * @param {boolean} whole
   * @returns {any}
   */
  found(key, data, whole) {
    const kind = header[H.KIND]
    const deferred = header[H.DEFERRED]
    if (!whole) {
      return deferred === 0
        ? this.#decoded(kind, data, key)
        : this.inflated(deferred, key).then(data => this.#decoded(kind, data, key))
    }
    const facts = this.#facts()
    return deferred === 0
      ? entry(this.#decoded(kind, data, key), facts)
      : this.inflated(deferred, key).then(data => entry(this.#decoded(kind, data, key), facts))
  }

  /**
   * @param {number} kind
   * @param {any} data
   * @param {string} key
   */
  #decoded(kind, data, key) {
    const value = decode(kind, data, this.serializer, key)
    share(value, kind, this.sharing)
    return value
  }

  /**
   * What a worker decompresses under that number.
   * @param {number} number
   * @param {string} key
   * @returns {Promise<any>}
   */
  inflated(number, key) {
    return new Promise((resolve, reject) => {
      /** @param {any} data */
      const deliver = data => {
        release(deliver)
        if (data !== undefined) resolve(data)
        else reject(this.closed ? closed() : serializeFailed(key, 'compression', 'deserialize', undefined, 'is corrupt'))
      }
      hold(deliver)
      this.inflating.set(number, deliver)
    })
  }

  /**
   * What is stored under a key, fresh or stale, for those who decode it themselves: a string for text, private bytes for
   * all else, and the metadata as JSON text. Loads nothing. A promise where a worker decompresses it.
   * @param {string} key
   * @param {boolean} [look] in memory only
   * @returns {any}
   */
  stored(key, look = false) {
    const route = this.#routeOf(key)?.id ?? 0
    const data = native.lookup(this.number, key, GIVE_UP | WANT_METADATA | route << 16)
    const status = header[H.STATUS]
    const kind = header[H.KIND]
    const deferred = header[H.DEFERRED]
    const metadata = status > Status.None && header[H.HAS_METADATA] !== 0 ? native.takeMetadata(this.number) : ''
    checkMail()
    if (status === Status.None) {
      return look || this.behind === undefined ? undefined : this.behind.find(key, false).then(() => this.stored(key, true))
    }
    if (status < Status.None) throw this.refusal(key)
    if (deferred === 0) return { kind, data, metadata }
    return this.inflated(deferred, key).then(data => ({ kind, data, metadata }))
  }

  /**
   * @param {string} key
   * @returns {unknown}
   */
  peek(key) {
    const near = this.near?.peek(key)
    if (near !== undefined) return near
    if (this.closed) throw closed()
    const data = native.peek(this.number, key, 0)
    const status = header[H.STATUS]
    if (status < Status.None) throw this.refusal(key)
    const value = status === Status.Fresh || status === Status.Stale ? this.found(key, data, false) : undefined
    checkMail()
    return value
  }

  /**
   * @param {string} key
   * @returns {boolean}
   */
  has(key) {
    native.has(this.number, key)
    const status = header[H.STATUS]
    if (status < Status.None) throw this.refusal(key)
    checkMail()
    return status === Status.Fresh || status === Status.Stale
  }

  /** Resolves when nobody waits for a worker any more. */
  async #allInflated() {
    while (this.inflating.size > 0) await new Promise(resolve => setImmediate(resolve))
  }

  // --- Loading ---------------------------------------------------------------------------------------------------------

  /**
   * Loads a key and waits, or waits for whoever loads it already.
   * @param {string} key
   * @param {Fetcher} fetcher
   * @param {Route | undefined} source the define() that the fetcher is of
   * @param {any} options
   * @param {boolean} whole
   * @param {boolean} force
   * @param {Resumed} [resumed] when it begins anew
   * @returns {Promise<any>}
   */
  load(key, fetcher, source, options, whole, force, resumed) {
    const own = layer(options, 'get')
    const route = source ?? this.#routeOf(key)
    const isPlain = route === undefined && own === EMPTY
    const layers = isPlain ? this.plainLayers : this.layers(route, own)
    const resolved = isPlain ? this.plain : resolve(...layers)
    this.inputs(route, this.#origin(own, source), resolved.hardTimeout)
    header[H.IN_PARENT] = parent()
    if (resumed !== undefined) header[H.SINCE] = resumed.since
    const flags = (force ? FORCE | PERMIT : PERMIT) | (resumed === undefined ? 0 : RESUME)
    const data = native.begin(this.number, key, flags)
    return this.#begun(data, key, fetcher, { source, own, options, whole, force, resumed, route, layers, resolved })
  }

  /**
   * Does what the begin just made says.
   * @param {any} data
   * @param {string} key
   * @param {Fetcher} fetcher
   * @param {Plan} plan
   * @returns {Promise<any>}
   */
  #begun(data, key, fetcher, plan) {
    const { source, own, options, whole, force, resumed, route, layers, resolved } = plan
    const status = header[H.STATUS]
    const token = header[H.TOKEN]
    const softTimeout = resumed === undefined ? resolved.softTimeout : resumed.left(resolved.softTimeout)
    const joined = header[H.SEQ]
    const anew = () => this.load(key, fetcher, source, options, whole, force)
    switch (status) {
      case Status.Lead: {
        const hasCopy = header[H.HAS_COPY] !== 0
        const reason = reasonOf(force, hasCopy)
        this.declare(token, resolved.ties)
        const call = new Call(this, { background: false, hardTimeout: resolved.hardTimeout })
        const flight = new Flight(this, key, token, {
          layers, resolved, route: route?.number ?? 0, reason, hasCopy, call
        })
        const isAsked = this.behind !== undefined && !force
        if (!isAsked && own.signal === undefined && softTimeout === Infinity) return this.#lead(flight, fetcher, whole, joined, anew)
        const answer = wait(this, flight, own.signal, softTimeout, whole, joined, anew)
        if (isAsked) {
          /** @type {Behind} */ (this.behind).seekOne(flight, {
            load: () => run(flight, fetcher),
            refresh: () => this.refresh(key, fetcher, source, options)
          })
        } else {
          run(flight, fetcher)
        }
        checkMail()
        return answer
      }
      case Status.Join: {
        const since = header[H.SINCE]
        checkMail()
        const flight = this.flights.get(token)
        if (flight !== undefined) return wait(this, flight, own.signal, softTimeout, whole, joined, anew)
        const next = resumed?.again() ?? new Resumed(since)
        const again = () => {
          if (this.closed) throw closed()
          next.check(key)
          return this.load(key, fetcher, source, options, whole, force, next)
        }
        return wait(this, this.remote(key, token), own.signal, softTimeout, whole, joined, anew, again)
      }
      case Status.Fresh:
      case Status.Stale: {
        const due = header[H.REFRESH_DUE] !== 0
        const answer = this.found(key, data, whole)
        if (due) this.refresh(key, fetcher, source, options)
        checkMail()
        return Promise.resolve(answer)
      }
      default: {
        const refusal = this.refusal(key, own.origin ?? source?.origin ?? DEFAULT_ORIGIN)
        checkMail()
        if (status === Status.Refused && this.behind !== undefined && !force) {
          return this.behind.find(key, whole, () => this.refused(key, whole, refusal))
        }
        const answer = status === Status.Refused ? standIn(this, key) : undefined
        if (answer === undefined) return Promise.reject(refusal)
        return Promise.resolve(whole ? entryOf(answer) : answer.take())
      }
    }
  }

  /**
   * Runs the fetcher of a flight for a caller who waits to its end. One that gives no promise has ended by then, and nobody has
   * to wait.
   * @param {Flight} flight
   * @param {Fetcher} fetcher
   * @param {boolean} whole
   * @param {number} joined
   * @param {() => Promise<any>} anew
   * @returns {Promise<any>}
   */
  #lead(flight, fetcher, whole, joined, anew) {
    flight.callers++
    run(flight, fetcher)
    checkMail()
    const { ending } = flight
    if (ending === undefined) {
      flight.callers--
      return wait(this, flight, undefined, Infinity, whole, joined, anew)
    }
    return wasCut(flight, joined) ? anew() : Promise.resolve(read(ending, whole))
  }

  /**
   * What a get gives whose circuit is open, and for which no tier has a value.
   * @param {string} key
   * @param {boolean} whole
   * @param {Error} refusal
   */
  refused(key, whole, refusal) {
    const answer = standIn(this, key)
    if (answer === undefined) throw refusal
    return whole ? entryOf(answer) : answer.take()
  }

  /**
   * The flight of another thread, as those here wait for it.
   * @param {string} key
   * @param {number} token
   */
  remote(key, token) {
    return this.remotes.get(token) ?? new RemoteFlight(this, key, token)
  }

  // --- Background refreshes ---------------------------------------------------------------------------------------------

  /**
   * Queues a refresh of a stale key.
   * @param {string} key
   * @param {Fetcher} fetcher
   * @param {Route | undefined} source
   * @param {any} options
   */
  refresh(key, fetcher, source, options) {
    const own = layer(options, 'get')
    const route = source ?? this.#routeOf(key)
    const layers = this.layers(route, own)
    this.refreshes.enqueue([key], fetcher, undefined, layers, route, this.#origin(own, source))
  }

  /**
   * Whether an error counts against its origin.
   * @param {unknown} error
   * @returns {boolean}
   */
  counts(error) {
    if (isOwn(error) && OWN_FAULTS.has(error.code)) return false
    if (this.failure === undefined) return true
    try {
      return Boolean(this.failure(error))
    } catch (cause) {
      // A filter that fails cannot vouch for the origin.
      this.report(listenerFailed('breaker.failure', cause))
      return true
    }
  }

  // --- What calls have in common ----------------------------------------------------------------------------------------

  /**
   * The define() of a key, if there is one.
   * @param {unknown} key
   * @returns {Route | undefined}
   */
  #routeOf(key) {
    return this.routes.size === 0 || typeof key !== 'string' ? undefined : this.routes.match(key)
  }

  /**
   * The options that apply under a define(), later over earlier.
   * @param {Route | undefined} route
   * @param {Readonly<Layer>} own
   * @returns {readonly Layer[]}
   */
  layers(route, own) {
    return route === undefined ? [this.layer, own] : [this.layer, route.layer, own]
  }

  /**
   * As `layers`, for a key of a batch, whose own options are the last of the layers given.
   * @param {string} key
   * @param {readonly Layer[]} layers
   */
  routed(key, layers) {
    const route = this.#routeOf(key)
    return { layers: this.layers(route, layers[layers.length - 1] ?? EMPTY), route: route?.number ?? 0 }
  }

  /**
   * Lets the engine know what a load will be tied to at least, so that nobody joins it once that was invalidated.
   * @param {number} token
   * @param {string} ties
   */
  declare(token, ties) {
    if (ties.length > 1) native.declare(this.number, token, ties)
  }

  /**
   * The number of the breaker that a fetcher counts under.
   * @param {Readonly<Layer>} own
   * @param {Route | undefined} source
   * @returns {number}
   */
  #origin(own, source) {
    return this.originNumber(own.origin ?? source?.origin ?? DEFAULT_ORIGIN)
  }

  /**
   * @param {string} name
   * @returns {number}
   */
  originNumber(name) {
    let number = this.origins.get(name)
    if (number === undefined) {
      number = native.origin(this.number, name)
      this.origins.set(name, number)
    }
    return number
  }

  /**
   * @param {Route | undefined} route
   * @param {number} origin
   * @param {number} hardTimeout
   */
  inputs(route, origin, hardTimeout) {
    header[H.IN_ROUTE] = route === undefined ? 0 : route.number
    header[H.IN_ORIGIN] = origin
    header[H.IN_HARD_TIMEOUT] = hardTimeout
  }

  /**
   * Begins one key of a batch.
   * @param {string} key
   * @param {object} plan
   * @param {number} plan.route
   * @param {number} plan.origin
   * @param {number} plan.hardTimeout
   * @param {number} plan.parent
   * @param {number} plan.flags
   * @returns {any} the value found, if the status says so
   */
  begin(key, { route, origin, hardTimeout, parent, flags }) {
    header[H.IN_ROUTE] = route
    header[H.IN_ORIGIN] = origin
    header[H.IN_HARD_TIMEOUT] = hardTimeout
    header[H.IN_PARENT] = parent
    return native.begin(this.number, key, flags)
  }

  /**
   * The error for a status that is none of a call's good ones.
   * @param {unknown} key
   * @param {string} [origin]
   * @returns {Error}
   */
  refusal(key, origin = DEFAULT_ORIGIN) {
    const name = /** @type {string} */ (key)
    switch (header[H.STATUS]) {
      case Status.InvalidKey:
        return invalidKey(key)
      case Status.TooLarge: {
        const limit = header[H.LIMIT_IS_BUDGET] === 0 ? 'the largest value' : 'the memory budget'
        return valueTooLarge(name, header[H.BYTES], header[H.LIMIT], limit)
      }
      case Status.Refused:
        return circuitOpen(name, origin, header[H.NEXT_ATTEMPT])
      case Status.Recursion:
        return recursion(name)
      case Status.Closed:
        return closed()
      default:
        throw new Error(`kvcache: unexpected status ${header[H.STATUS]}`)
    }
  }

  // --- Writing -----------------------------------------------------------------------------------------------------------

  /**
   * Encodes what is to be put: everything that runs user code. The bytes may still be the user's own.
   * @param {unknown} key
   * @param {unknown} value
   * @param {...unknown} options from the farthest to the nearest
   */
  prepare(key, value, ...options) {
    if (typeof key !== 'string') throw invalidKey(key)
    const route = this.#routeOf(key)
    const own = options.map(one => layer(one, 'put'))
    const resolved = route === undefined ? resolve(this.layer, ...own) : resolve(this.layer, route.layer, ...own)
    const encoded = encode(value, this.serializer, key)
    const { metadata, ties } = resolved
    return { key, ...encoded, ages: agesOf(resolved), metadata, ties, route: route?.number ?? 0 }
  }

  /**
   * Stores a prepared value, or stages it.
   * @param {ReturnType<Core['prepare']>} prepared
   * @param {typeof native.put} write
   */
  write({ key, kind, data, ages, metadata, ties, route }, write) {
    header[H.IN_MAX_AGE] = ages.maxAge
    header[H.IN_STALE_AGE] = ages.staleAge
    header[H.IN_STALE_IF_ERROR] = ages.staleIfError
    header[H.IN_ROUTE] = route
    write(this.number, key, kind, data, metadata, ties)
    if (header[H.STATUS] !== Status.Done) throw this.refusal(key)
    checkMail()
  }

  // --- Events --------------------------------------------------------------------------------------------------------------

  /**
   * What the engine says.
   * @param {mail.Event} event
   */
  receive({ kind, id, ids, name, detail, key }) {
    switch (kind) {
      case 'start':
        return this.refreshes.start(id)
      case 'dropped':
        return this.refreshes.over(id)
      case 'timeout':
        return this.flights.get(id)?.timeOut()
      case 'landed': {
        const remote = this.remotes.get(id)
        return remote === undefined ? native.leave(this.number, id, false) : remote.land()
      }
      case 'abandoned':
        return this.flights.get(id)?.abandoned()
      case 'idle':
        for (const flushed of [...this.flushers]) flushed()
        return
      case 'inflated': {
        const deliver = this.inflating.get(id)
        this.inflating.delete(id)
        return deliver?.(native.takeInflated(this.number, id))
      }
      case 'evict':
        return this.events.emit('evict', { key: name, bytes: id, reason: detail })
      case 'invalidate': {
        const target = JSON.parse(/** @type {string} */ (name))
        const [how, remote] = /** @type {string} */ (detail).split(' ')
        const from = remote === undefined ? 'local' : 'remote'
        return this.events.emit('invalidate', { target, soft: how === 'soft', swept: id, from })
      }
      case 'sought':
        for (const token of ids ?? []) this.behind?.sought(token)
        return
      case 'delivered':
        return this.behind?.delivered(id, name, detail)
      case 'ailing':
        return this.report(tierFailed(/** @type {string} */ (name), /** @type {string} */ (detail), key))
      case 'breaker':
        return this.events.emit('breaker', { origin: name, state: detail })
    }
  }

  /**
   * Reports an error that no caller waits for.
   * @param {unknown} error
   */
  report(error) {
    if (!this.closed) native.countError(this.number, 0)
    this.events.emit('error', error)
  }

  // --- Ends ----------------------------------------------------------------------------------------------------------------

  /**
   * Waits until no refresh is queued or running.
   * @param {number} limit milliseconds, may be infinite
   * @param {string} what for the message
   * @returns {Promise<void>}
   */
  flush(limit, what) {
    if (native.flush(this.number)) return Promise.resolve()
    return new Promise((resolve, reject) => {
      /** @type {NodeJS.Timeout | undefined} */
      let timer
      const done = () => {
        clearTimeout(timer)
        this.flushers.delete(done)
        release(done)
        resolve()
      }
      hold(done)
      if (limit !== Infinity) {
        timer = setTimeout(() => {
          this.flushers.delete(done)
          release(done)
          reject(timeout(undefined, limit, what))
        }, Math.min(limit, LONGEST_TIMER))
      }
      this.flushers.add(done)
    })
  }

  /**
   * @param {number} limit milliseconds, may be infinite
   * @returns {Promise<void>}
   */
  async close(limit) {
    this.closed = true
    const began = performance.now()
    this.near?.close()
    this.near = undefined
    hold(this)
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    const late = new Promise(resolve => {
      if (limit !== Infinity) timer = setTimeout(resolve, Math.min(limit, LONGEST_TIMER))
    })
    const flights = [...this.flights.values(), ...this.remotes.values()].map(flight => flight.outcome)
    const answered = Promise.all([...flights, this.name === undefined ? this.flush(Infinity, 'close()') : this.refreshes.allOver()])
    await Promise.race([late, answered.then(() => this.#allInflated())])
    clearTimeout(timer)
    native.dropQueued(this.number)
    for (const flight of [...this.flights.values(), ...this.remotes.values()]) flight.close()
    /** @type {unknown} */
    let trouble
    if (this.behind !== undefined) {
      const left = Math.max(limit - (performance.now() - began), LAST_CALL)
      // A named cache may be open elsewhere; the last to go closes its tiers.
      trouble = await this.behind.flush(left, this.name === undefined).then(() => undefined, error => error)
    }
    this.last = {
      stats: native.stats(this.number), metrics: native.metrics(this.number) ?? '', tiers: this.behind?.stats() ?? {}
    }
    mail.close(this, this.number)
    this.behind?.close()
    for (const deliver of this.inflating.values()) deliver(undefined)
    this.inflating.clear()
    for (const flushed of [...this.flushers]) flushed()
    release(this)
    if (trouble !== undefined) throw trouble
  }
}
