// @ts-check
/**
 * getMany(): many keys at once, each with a fate of its own.
 *
 * Every key is looked up; stale ones are served and refreshed in one batch; those that someone loads already are joined;
 * the rest goes to the batch fetcher in one call, each under a flight of its own, so that a get() of one of them joins it.
 */
import { types } from 'node:util'
import { closed, invalidKey, invalidOption, invalidValue, whyInvalidKey } from './errors.js'
import { ALIVE, Call, Flight, reasonOf } from './flight.js'
import { FORCE, H, PERMIT, RESUME, Status, checkMail, header } from './native.js'
import { Nest, parent } from './nesting.js'
import { layer, resolve } from './options.js'
import { Resumed } from './remote.js'
import { wait } from './waiting.js'

/** @typedef {import('./core.js').Core} Core */
/** @typedef {import('./core.js').BatchFetcher} BatchFetcher */
/** @typedef {import('./options.js').Layer} Layer */

/**
 * @param {Core} core
 * @param {unknown} keys
 * @param {BatchFetcher | undefined} fetcher
 * @param {any} options
 * @returns {Promise<Map<string, any> & { errors: Map<string, unknown> }>}
 */
export async function getMany(core, keys, fetcher, options) {
  const unique = checkKeys(keys)
  if (fetcher !== undefined && typeof fetcher !== 'function') throw invalidOption('fetcher', fetcher, 'a function')
  const own = layer(options, 'getMany')
  const { signal } = own
  if (signal?.aborted) throw signal.reason
  const gathering = fetcher === undefined
    ? gatherOneByOne(core, unique, options)
    : gatherBatch(core, unique, fetcher, own)
  await Promise.all(gathering.waits)
  // The waits of an aborted call have all ended with the signal's reason.
  if (signal?.aborted && gathering.aborted(signal.reason)) throw signal.reason
  return gathering.inOrder(unique)
}

/**
 * @param {unknown} keys
 * @returns {string[]} each once
 */
function checkKeys(keys) {
  if (!Array.isArray(keys)) throw invalidOption('keys', keys, 'an array of keys')
  // Array.from() turns holes into undefined, which is then refused.
  for (const key of Array.from(keys)) {
    const why = whyInvalidKey(key)
    if (why !== undefined) throw invalidKey(key, why)
  }
  return [...new Set(keys)]
}

/** What has come in so far. */
class Gathering {
  /** @type {Map<string, unknown>} */
  values = new Map()
  /** @type {Map<string, unknown>} */
  errors = new Map()
  /** None of them rejects. @type {Promise<void>[]} */
  waits = []

  /**
   * @param {string} key
   * @param {unknown} value
   */
  add(key, value) {
    if (value !== undefined) this.values.set(key, value)
  }

  /**
   * @param {string} key
   * @param {Promise<unknown>} promise
   */
  await(key, promise) {
    this.waits.push(promise.then(value => this.add(key, value), error => void this.errors.set(key, error)))
  }

  /**
   * Whether a wait ended with that reason.
   * @param {unknown} reason
   */
  aborted(reason) {
    for (const error of this.errors.values()) if (error === reason) return true
    return false
  }

  /**
   * @param {string[]} keys
   */
  inOrder(keys) {
    const result = new Map()
    const errors = new Map()
    for (const key of keys) {
      if (this.values.has(key)) result.set(key, this.values.get(key))
      else if (this.errors.has(key)) errors.set(key, this.errors.get(key))
    }
    return Object.assign(result, { errors })
  }
}

/**
 * Without a batch fetcher each key is a get() of its own, loaded where a define() says how.
 * @param {Core} core
 * @param {string[]} keys
 * @param {any} options
 */
function gatherOneByOne(core, keys, options) {
  const gathering = new Gathering()
  for (const key of keys) gathering.await(key, core.get(key, undefined, options, false))
  return gathering
}

/**
 * @param {Core} core
 * @param {string[]} keys
 * @param {BatchFetcher} fetcher
 * @param {Readonly<Layer>} own
 */
function gatherBatch(core, keys, fetcher, own) {
  const gathering = new Gathering()
  const stale = []
  const missing = []
  for (const key of keys) {
    if (own.forceFresh) {
      missing.push(key)
      continue
    }
    const near = core.near?.take(key)
    if (near !== undefined) {
      gathering.add(key, near)
      continue
    }
    const data = core.lookup(key, 0)
    const status = header[H.STATUS]
    if (status !== Status.Fresh && status !== Status.Stale) {
      if (status !== Status.None) throw core.refusal(key)
      missing.push(key)
      continue
    }
    if (status === Status.Stale && header[H.REFRESH_DUE] !== 0) stale.push(key)
    take(gathering, key, () => core.answer(key, data, false))
  }
  const layers = core.layers(undefined, own)
  const origin = core.originNumber(own.origin ?? 'default')
  if (missing.length > 0) loadMissing(core, gathering, missing, fetcher, own, layers, origin)
  if (stale.length > 0) core.refreshes.enqueue(stale, undefined, fetcher, layers, undefined, origin)
  checkMail()
  return gathering
}

/** Keys that begin anew since the thread that loaded them ended: those of one moment are loaded by one call again. */
class Again {
  /** @type {Map<string, Resumed> | undefined} */
  #resumed

  /**
   * @param {(gathering: Gathering, resumed: Map<string, Resumed>) => void} load
   */
  constructor(load) {
    this.load = load
    /** @type {Promise<Gathering>} */
    this.gathered = Promise.resolve(new Gathering())
  }

  /**
   * @param {Core} core
   * @param {string} key
   * @param {Resumed} resumed
   * @returns {Promise<unknown>}
   */
  ask = async (core, key, resumed) => {
    resumed.check(key)
    if (this.#resumed === undefined) {
      const keys = new Map()
      this.#resumed = keys
      this.gathered = Promise.resolve().then(() => {
        this.#resumed = undefined
        if (core.closed) throw closed()
        const gathering = new Gathering()
        this.load(gathering, keys)
        return Promise.all(gathering.waits).then(() => gathering)
      })
    }
    this.#resumed.set(key, resumed)
    const { values, errors } = await this.gathered
    if (errors.has(key)) throw errors.get(key)
    return values.get(key)
  }
}

/**
 * Takes the value that the call just made has found.
 * @param {Gathering} gathering
 * @param {string} key
 * @param {() => any} read
 */
function take(gathering, key, read) {
  const deferred = header[H.DEFERRED] !== 0
  try {
    const value = read()
    if (deferred) gathering.await(key, value)
    else gathering.add(key, value)
  } catch (error) {
    gathering.errors.set(key, error)
  }
}

/**
 * @param {Core} core
 * @param {Gathering} gathering
 * @param {string[]} missing
 * @param {BatchFetcher} fetcher
 * @param {Readonly<Layer>} own
 * @param {readonly Layer[]} layers
 * @param {number} origin
 * @param {Map<string, Resumed>} [resumed] those that begin anew
 */
function loadMissing(core, gathering, missing, fetcher, own, layers, origin, resumed) {
  const { softTimeout, hardTimeout, ties } = resolve(...layers)
  const nestedIn = parent()
  const force = (own.forceFresh ? FORCE : 0) | (resumed === undefined ? 0 : RESUME)
  /** @type {Again | undefined} */
  let again
  const call = new Call(core, { background: false, hardTimeout })
  for (const key of missing) {
    const routed = core.routed(key, layers)
    // One call of the fetcher is one call of its origin: only its first key asks the breaker, and answers to it.
    const flags = call.size === 0 ? force | PERMIT : force
    const before = resumed?.get(key)
    if (before !== undefined) header[H.SINCE] = before.since
    const data = core.begin(key, { route: routed.route, origin, hardTimeout, parent: nestedIn, flags })
    const token = header[H.TOKEN]
    const joined = header[H.SEQ]
    const anew = () => loadAnew(core, key, fetcher, own)
    switch (header[H.STATUS]) {
      case Status.Lead: {
        const hasCopy = header[H.HAS_COPY] !== 0
        const reason = reasonOf(own.forceFresh, hasCopy)
        core.declare(token, ties)
        const flight = new Flight(core, key, token, { ...routed, reason, hasCopy, call })
        gathering.await(key, wait(core, flight, own.signal, softTimeout, false, joined, anew))
        break
      }
      case Status.Join: {
        const flight = core.flights.get(token)
        if (flight !== undefined) {
          gathering.await(key, wait(core, flight, own.signal, softTimeout, false, joined, anew))
          break
        }
        const next = before?.again() ?? new Resumed(header[H.SINCE])
        again ??= new Again((gathering, resumed) => {
          loadMissing(core, gathering, [...resumed.keys()], fetcher, own, layers, origin, resumed)
        })
        const { ask } = again
        const remote = core.remote(key, token)
        const onceMore = () => ask(core, key, next)
        gathering.await(key, wait(core, remote, own.signal, softTimeout, false, joined, anew, onceMore))
        break
      }
      case Status.Fresh:
      case Status.Stale:
        take(gathering, key, () => core.found(key, data, false))
        break
      case Status.Refused: {
        const refusal = core.refusal(key, own.origin)
        const otherwise = async () => core.refused(key, false, refusal)
        const { behind } = core
        gathering.await(key, behind === undefined || own.forceFresh ? otherwise() : behind.find(key, false, otherwise))
        break
      }
      default:
        gathering.errors.set(key, core.refusal(key))
    }
  }
  if (call.size === 0) return
  const { behind } = core
  if (behind === undefined || own.forceFresh) loadBatch(call, fetcher, call.flights)
  else {
    behind.seek([...call.flights], {
      load: missing => loadBatch(call, fetcher, missing),
      refresh: keys => core.refreshes.enqueue(keys, undefined, fetcher, layers, undefined, origin)
    })
  }
}

/**
 * Loads one key of a call once more: what it had joined turned out to have been invalidated before.
 * @param {Core} core
 * @param {string} key
 * @param {BatchFetcher} fetcher
 * @param {Readonly<Layer>} own
 * @returns {Promise<unknown>}
 */
async function loadAnew(core, key, fetcher, own) {
  const gathering = gatherBatch(core, [key], fetcher, own)
  await Promise.all(gathering.waits)
  if (gathering.errors.has(key)) throw gathering.errors.get(key)
  return gathering.values.get(key)
}

/**
 * Runs a batch fetcher for the flights of a call, and gives each its part of what comes.
 * @param {Call} call
 * @param {BatchFetcher} fetcher
 * @param {Flight[]} wanted those of them that are to be loaded
 */
export function loadBatch(call, fetcher, wanted) {
  const flights = [...wanted]
  const context = {
    get signal() {
      return call.signal
    }
  }
  call.run(
    new Nest(flights.map(flight => flight.token)),
    () => fetcher(flights.map(flight => flight.key), context),
    { settle: result => distribute(flights, result), fail: error => failAll(call, flights, error) }
  )
}

/**
 * @param {Flight[]} flights
 * @param {any} result
 */
function distribute(flights, result) {
  // Of whatever realm.
  const isMap = types.isMap(result)
  if (!isMap && (typeof result !== 'object' || result === null)) {
    for (const flight of flights) {
      flight.fail(invalidValue(flight.key, 'did not come: the fetcher of getMany() must give a Map or an object'), ALIVE)
    }
    return
  }
  for (const flight of flights) {
    try {
      const value = isMap ? result.get(flight.key) : Object.hasOwn(result, flight.key) ? result[flight.key] : undefined
      if (types.isNativeError(value) || value instanceof Error) flight.fail(value, ALIVE)
      else flight.settle(value)
    } catch (error) {
      // An accessor of the result threw.
      flight.fail(error, ALIVE)
    }
  }
}

/**
 * @param {Call} call
 * @param {Flight[]} flights
 * @param {unknown} error
 */
function failAll(call, flights, error) {
  const verdict = call.verdict(error)
  for (const flight of flights) flight.fail(error, verdict)
}
