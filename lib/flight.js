// @ts-check
/**
 * Flights as this thread runs them: one key being loaded, who waits for it, and what comes of it.
 *
 * The engine decides that a flight begins and what its end means; here the fetcher is called, its value encoded and
 * reported, and the callers answered. Promises: a flight ends exactly once, whatever the fetcher does; its outcome never
 * rejects, so nothing it does becomes an unhandled rejection; no two callers get a value that one of them can change.
 */
import { types } from 'node:util'
import { closed, invalidValue, timeout, valueTooLarge } from './errors.js'
import { describe } from './failures.js'
import { decodeTies } from './invalidation.js'
import { hold, release } from './keepalive.js'
import { BatchEnd, H, Status, WANT_METADATA, checkMail, header, native } from './native.js'
import { Nest } from './nesting.js'
import { agesOf, layer, resolve } from './options.js'
import { Kind, decode, decodeEncoded, encode, encodeAndCopy, share } from './values.js'

/** @typedef {import('./core.js').Core} Core */
/** @typedef {import('./options.js').Layer} Layer */
/** @typedef {import('./options.js').Resolved} Resolved */
/** @typedef {(key: string, context: any) => unknown} Fetcher */

/** @type {readonly string[]} */
const NONE = Object.freeze([])

/** What a fetcher returns to say that the copy in hand is still good. */
const NOT_MODIFIED = Object.freeze({ kvcache: 'not modified' })

/** What the engine is told of a failure. */
const Verdict = Object.freeze({ Alive: 0, Failure: 1, Aborted: 2 })

/**
 * What a get() answers with, apart from the value.
 * @typedef {object} Facts
 * @property {'fresh' | 'stale' | 'loaded' | 'stale-if-error'} state
 * @property {number} age milliseconds
 * @property {number} maxAge milliseconds
 * @property {string} metadata JSON text, or '' for none
 * @property {readonly string[]} tags
 * @property {readonly string[]} dependsOn
 */

/** A value to be handed to one caller or to many. */
export class Answer {
  /**
   * @param {Core} core
   * @param {string} key
   * @param {number} kind
   * @param {string | Uint8Array} data private to the answer
   * @param {Facts} facts
   * @param {unknown} [value] what decoding the data gives, where somebody has it
   */
  constructor(core, key, kind, data, facts, value = decodeEncoded(kind, data, core.serializer, key)) {
    this.core = core
    this.key = key
    this.kind = kind
    this.data = data
    this.facts = facts
    this.value = value
    this.shared = share(this.value, kind, core.sharing)
    this.given = false
  }

  /** The value for one more caller. */
  take() {
    if (this.shared || !this.given) {
      this.given = true
      return this.value
    }
    const value = decodeEncoded(this.kind, this.data, this.core.serializer, this.key)
    share(value, this.kind, this.core.sharing)
    return value
  }
}

/** The answer where the fetcher gave undefined. */
export class Nothing {
  facts = /** @type {Facts} */ ({
    state: 'loaded', age: 0, maxAge: 0, metadata: '', tags: NONE, dependsOn: NONE
  })

  take() {
    return undefined
  }
}

/**
 * What getWithMetadata() gives for an answer.
 * @param {Answer | Nothing} answer
 */
export function entryOf(answer) {
  return entry(answer.take(), answer.facts)
}

/**
 * @param {unknown} value
 * @param {Facts} facts
 */
export function entry(value, { state, age, maxAge, metadata, tags, dependsOn }) {
  return {
    value,
    metadata: metadata === '' ? undefined : JSON.parse(metadata),
    state,
    age: age / 1000,
    maxAge: maxAge / 1000,
    tags: [...tags],
    dependsOn: [...dependsOn]
  }
}

/**
 * A value that may stand in for a failed load: what the cache holds of the key, within its staleIfError.
 * @param {Core} core
 * @param {string} key
 * @returns {Answer | undefined}
 */
export function standIn(core, key) {
  const data = native.standIn(core.number, key, WANT_METADATA)
  if (header[H.STATUS] <= Status.None) return undefined
  const kind = header[H.KIND]
  const age = header[H.AGE]
  const maxAge = header[H.MAX_AGE]
  const ties = foundTies(core)
  const metadata = header[H.HAS_METADATA] === 0 ? '' : native.takeMetadata(core.number)
  try {
    return new Answer(core, key, kind, data, { state: 'stale-if-error', age, maxAge, metadata, ...ties })
  } catch (error) {
    core.report(error)
    return undefined
  }
}

const NO_TIES = Object.freeze({ tags: NONE, dependsOn: NONE })

/**
 * The tags and parents of the value that the call just made has found; to be asked before its metadata.
 * @param {Core} core
 */
export function foundTies(core) {
  return header[H.HAS_LINKS] === 0 ? NO_TIES : decodeTies(native.takeLinks(core.number))
}

/** One key being loaded. */
export class Flight {
  /**
   * @param {Core} core
   * @param {string} key
   * @param {number} token
   * @param {object} plan
   * @param {readonly Layer[]} plan.layers the options it is loaded under, later over earlier
   * @param {Resolved} [plan.resolved] the same, merged, where that is known
   * @param {number} plan.route
   * @param {'miss' | 'stale' | 'expired' | 'invalidated' | 'forced'} plan.reason
   * @param {boolean} plan.hasCopy
   * @param {Call} plan.call the run of the fetcher that it is part of
   */
  constructor(core, key, token, { layers, resolved, route, reason, hasCopy, call }) {
    this.core = core
    this.key = key
    this.token = token
    this.layers = layers
    this.resolved = resolved
    this.route = route
    this.reason = reason
    this.hasCopy = hasCopy
    this.call = call
    /** Only the listeners of refreshes are told how long it took. */
    this.began = call.background ? performance.now() : 0
    this.callers = 0
    /** A caller went with a stale value and left it running. */
    this.leftRunning = false
    /** Why the last caller here left, while other threads wait. @type {unknown} */
    this.leftFor = undefined
    this.done = false
    /** Who came at this number of the log or later must load again, as its end has shown; 0 for nobody. */
    this.cut = 0
    this.unstored = false
    /** Whose copy in hand is to outlive the flight. @type {FetchContext | undefined} */
    this.context = undefined
    /** @type {Layer[] | undefined} */
    this.set = undefined
    /** While tiers are asked: to be told whether the fetcher is wanted. @type {((wanted: boolean) => void) | undefined} */
    this.seeking = undefined
    /** A stale value was found in a tier. @type {(() => void) | undefined} */
    this.onStale = undefined
    /** How it has ended. @type {Outcome | undefined} */
    this.ending = undefined
    /** Made when somebody has to wait. @type {Promise<Outcome> | undefined} */
    this.awaited = undefined
    /** @type {((outcome: Outcome) => void) | undefined} */
    this.resolve = undefined
    /** The table's. @type {Flight | undefined} */
    this.next = undefined
    /** The one before it in its call. @type {Flight | undefined} */
    this.before = undefined
    /** @type {number | undefined} */
    this.heldAt = undefined
    core.flights.add(this)
    call.add(this)
  }

  /** Its end, to wait for. @returns {Promise<Outcome>} */
  get outcome() {
    if (this.awaited === undefined) {
      this.awaited = this.ending === undefined
        ? new Promise(resolve => {
          this.resolve = resolve
        })
        : Promise.resolve(this.ending)
    }
    return this.awaited
  }

  /** One more caller waits. */
  join() {
    this.callers++
    hold(this)
  }

  /**
   * A caller waits no more. When nobody is left in any thread, and nobody wished it to go on, the load is given up.
   * @param {unknown} reason for the fetcher's signal
   */
  leave(reason) {
    if (this.done) return
    if (--this.callers > 0) return
    release(this)
    this.leftFor = reason
    this.abandoned()
  }

  /** Nobody waits any more, as far as is known here. */
  abandoned() {
    if (this.done || this.callers > 0 || this.call.background || this.leftRunning) return
    let awaited = false
    this.#report(() => {
      native.abandon(this.core.number, this.token)
      awaited = header[H.STATUS] === Status.Awaited
    })
    if (awaited) return
    const reason = this.leftFor
    this.#end({ error: reason })
    this.call.left(reason)
  }

  /** A caller went with a stale value; the load goes on for those who come later. */
  leaveRunning() {
    this.leftRunning = true
    this.leave(undefined)
  }

  /**
   * The fetcher gave a value.
   * @param {unknown} value
   */
  settle(value) {
    if (this.done) return
    /** @type {Answer | Nothing} */
    let answer
    try {
      answer = value === NOT_MODIFIED ? this.#unmodified() : this.#modified(value)
    } catch (error) {
      // The origin is alive; it is the value that cannot be kept.
      this.fail(error, Verdict.Alive)
      return
    }
    // A serializer may do anything, close the cache too.
    if (this.done) return
    this.#end({ answer })
    this.core.refreshes.ended(this, undefined)
  }

  /**
   * @param {unknown} value
   * @returns {Answer | Nothing}
   */
  #modified(value) {
    const { core, key, token } = this
    if (value === undefined) {
      const { ties } = this.#resolved()
      this.#report(() => native.settleUnstored(core.number, token, ties || undefined))
      return new Nothing()
    }
    // A refresh that nobody waits for needs no copy, but for seeing that a serializer of the user's can read what it wrote.
    const wanted = this.callers > 0 || core.serializer.kind === 'custom'
    const { encoded, copy } = wanted
      ? encodeAndCopy(value, core.serializer, key)
      : { encoded: encode(value, core.serializer, key), copy: undefined }
    const resolved = this.#resolved()
    const ages = agesOf(resolved)
    const unstored = this.unstored
    const { metadata, ties, tags = NONE, dependsOn = NONE } = resolved
    const data = this.callers > 1 ? kept(encoded) : encoded.data
    const maxAge = unstored ? 0 : ages.maxAge
    const facts = /** @type {Facts} */ ({ state: 'loaded', age: 0, maxAge, metadata, tags, dependsOn })
    const answer = wanted ? new Answer(core, key, encoded.kind, data, facts, copy) : new Nothing()
    this.#reports()
    if (unstored && this.#isWatched()) {
      this.#inputs(ages)
      native.settlePassing(core.number, token, encoded.kind, encoded.data, metadata || undefined, ties || undefined)
    } else if (unstored) {
      native.settleUnstored(core.number, token, ties || undefined)
    } else {
      this.#inputs(ages)
      native.settle(core.number, token, encoded.kind, encoded.data, metadata || undefined, ties || undefined)
      this.#reportTooLarge()
    }
    this.#reported()
    return answer
  }

  /**
   * @returns {Answer}
   */
  #unmodified() {
    const { core, key, token } = this
    const data = native.copyInHand(core.number, token)
    if (header[H.STATUS] <= Status.None) {
      throw invalidValue(key, 'was called not modified, but the copy in hand has ended its life meanwhile')
    }
    const kind = header[H.KIND]
    const before = foundTies(core)
    const had = header[H.HAS_METADATA] === 0 ? '' : native.takeMetadata(core.number)
    const resolved = this.#resolved()
    const ages = agesOf(resolved)
    const { metadata: given, ties } = resolved
    const { tags, dependsOn } = ties === '' ? before : { tags: resolved.tags ?? NONE, dependsOn: resolved.dependsOn ?? NONE }
    const facts = /** @type {Facts} */ ({
      state: 'loaded',
      age: 0,
      maxAge: this.unstored ? 0 : ages.maxAge,
      metadata: given === '' ? had : given,
      tags,
      dependsOn
    })
    const answer = new Answer(core, key, kind, data, facts)
    this.#report(() => {
      if (this.unstored) {
        native.settlePassingCopy(core.number, token, given, ties)
      } else {
        this.#inputs(ages)
        native.settleUnmodified(core.number, token, given, ties)
        this.#reportTooLarge()
      }
    })
    return answer
  }

  /** Whether other threads wait for what it brings. */
  #isWatched() {
    return this.core.name !== undefined && native.isWatched(this.core.number, this.token)
  }

  #resolved() {
    if (this.set !== undefined) return resolve(...this.layers, ...this.set)
    return this.resolved ?? resolve(...this.layers)
  }

  /**
   * @param {{ maxAge: number, staleAge: number, staleIfError: number }} ages
   */
  #inputs(ages) {
    header[H.IN_MAX_AGE] = ages.maxAge
    header[H.IN_STALE_AGE] = ages.staleAge
    header[H.IN_STALE_IF_ERROR] = ages.staleIfError
    header[H.IN_ROUTE] = this.route
  }

  #reportTooLarge() {
    if (header[H.STATUS] !== Status.TooLarge) return
    const error = valueTooLarge(this.key, header[H.BYTES], header[H.LIMIT], 'the memory budget')
    queueMicrotask(() => this.core.report(error))
  }

  /**
   * The load failed.
   * @param {unknown} error
   * @param {number} [verdict] what it says about the origin; asked of the breaker's failure() when not given
   */
  fail(error, verdict = this.call.verdict(error)) {
    if (this.done) return
    const why = this.#isWatched() ? describe(error) : undefined
    // What describes the error may run code of the user's.
    if (this.done) return
    this.#report(() => native.fail(this.core.number, this.token, verdict, why))
    const answer = this.callers > 0 ? standIn(this.core, this.key) : undefined
    this.#end(answer === undefined ? { error } : { answer })
    this.core.refreshes.ended(this, { error })
  }

  /** The tiers have been asked: the flight ends by what was found there, or goes on with its fetcher. */
  sought() {
    const { core, key, token } = this
    const data = native.takeSought(core.number, token)
    const status = header[H.STATUS]
    if (status !== Status.Fresh && status !== Status.Stale) {
      const { seeking } = this
      this.seeking = undefined
      if (header[H.HAS_COPY] !== 0 && status === Status.None) {
        this.hasCopy = true
        if (this.reason === 'miss') this.reason = 'expired'
      }
      seeking?.(true)
      return
    }
    const kind = header[H.KIND]
    const deferred = header[H.DEFERRED]
    const due = header[H.REFRESH_DUE] !== 0
    this.call.batchEnd = header[H.BATCH_END]
    const state = status === Status.Fresh ? 'fresh' : 'stale'
    const age = header[H.AGE]
    const maxAge = header[H.MAX_AGE]
    const ties = foundTies(core)
    const metadata = header[H.HAS_METADATA] === 0 ? '' : native.takeMetadata(core.number)
    const facts = /** @type {Facts} */ ({ state, age, maxAge, metadata, ...ties })
    const end = (/** @type {Outcome} */ outcome) => {
      if (this.done) return
      this.#end(outcome)
      core.refreshes.ended(this, undefined)
      if (due) this.onStale?.()
    }
    const answer = (/** @type {any} */ data) => end({ answer: new Answer(core, key, kind, data, facts) })
    if (deferred !== 0) return void core.inflated(deferred, key).then(answer).catch(error => end({ error }))
    try {
      answer(data)
    } catch (error) {
      end({ error })
    }
  }

  /** Nothing was found, and there is no fetcher: whoever waits and has one begins anew. */
  giveUp() {
    if (this.done) return
    this.#report(() => native.giveUp(this.core.number, this.token))
    this.#end({ anew: true })
  }

  /** The engine says that the hard timeout has passed. */
  timeOut() {
    if (this.done) return
    const error = timeout(this.key, this.call.hardTimeout, 'the fetcher')
    this.call.abort(error)
    this.fail(error)
  }

  /** The cache is closed. */
  close() {
    if (this.done) return
    const error = closed()
    this.#report(() => native.fail(this.core.number, this.token, Verdict.Aborted, undefined))
    this.#end({ error })
    this.call.abort(error)
  }

  /**
   * Tells the engine of the end, and remembers what that means for a batch of refreshes.
   * @param {() => void} tell
   */
  #report(tell) {
    this.#reports()
    tell()
    this.#reported()
  }

  #reports() {
    this.context?.keepCopy()
    header[H.BATCH_END] = BatchEnd.None
    header[H.CUT] = 0
  }

  #reported() {
    this.call.batchEnd = header[H.BATCH_END]
    this.cut = header[H.CUT]
    checkMail()
  }

  /**
   * @param {Outcome} outcome
   */
  #end(outcome) {
    this.done = true
    this.core.flights.delete(this)
    const { seeking } = this
    this.seeking = undefined
    seeking?.(false)
    release(this)
    this.ending = outcome
    this.resolve?.(outcome)
    this.call.ended()
  }
}

/**
 * How a flight has ended. `again`: it was another thread's and came to no end, so that whoever still wants the key begins once more;
 * `anew`: it had no fetcher and found nothing, so that whoever has one begins anew.
 * @typedef {{ answer?: Answer | Nothing, error?: unknown, again?: boolean, anew?: boolean }} Outcome
 */

/**
 * Data that stays as it is whatever the fetcher does with its own bytes.
 * @param {import('./values.js').Encoded} encoded
 * @returns {string | Uint8Array}
 */
export function kept({ kind, data }) {
  return typeof data === 'string' || kind === Kind.V8 ? data : Buffer.from(data)
}

/** One run of a fetcher, for one key or for many. */
export class Call {
  /**
   * @param {Core} core
   * @param {object} plan
   * @param {boolean} plan.background
   * @param {number} plan.hardTimeout milliseconds
   */
  constructor(core, { background, hardTimeout }) {
    this.core = core
    this.background = background
    this.hardTimeout = hardTimeout
    /** Its flights are a chain, the last first. An array of each call would be one that V8, before long, begins in the old generation; there
     * it keeps the flight and its value alive until all garbage is collected. @type {Flight | undefined} */
    this.last = undefined
    this.size = 0
    /** @type {number} */
    this.batchEnd = BatchEnd.None
    /** The batch of refreshes that it runs; 0 for none. */
    this.batch = 0
    /** Refreshes of the batch that failed so far. @type {{ flight: Flight, error: unknown }[] | undefined} */
    this.failures = undefined
    /** @type {Nest | undefined} */
    this.nest = undefined
    this.open = 0
    /** @type {AbortController | undefined} */
    this.controller = undefined
    /** @type {{ reason: unknown } | undefined} */
    this.aborted = undefined
  }

  /**
   * One more flight is part of it.
   * @param {Flight} flight
   */
  add(flight) {
    flight.before = this.last
    this.last = flight
    this.size++
  }

  /** Its flights, in the order they came. */
  get flights() {
    /** @type {Flight[]} */
    const flights = []
    for (let flight = this.last; flight !== undefined; flight = flight.before) flights.push(flight)
    return flights.reverse()
  }

  /** How many of its flights have not ended. */
  #left() {
    let left = 0
    for (let flight = this.last; flight !== undefined; flight = flight.before) if (!flight.done) left++
    return left
  }

  /** The fetcher's signal, made when it is first asked for. */
  get signal() {
    if (this.controller === undefined) {
      this.controller = new AbortController()
      if (this.aborted !== undefined) this.controller.abort(this.aborted.reason)
    }
    return this.controller.signal
  }

  /**
   * Fires the signal.
   * @param {unknown} reason
   */
  abort(reason) {
    if (this.aborted !== undefined) return
    this.aborted = { reason }
    this.controller?.abort(reason)
  }

  /**
   * Runs the fetcher and hands over what it gives or throws: at once, if it gives no promise.
   * @param {Nest} nest
   * @param {() => unknown} fetcher
   * @param {{ settle(value: unknown): void, fail(error: unknown): void }} to
   */
  run(nest, fetcher, to) {
    this.nest = nest
    // Some may have ended by what a tier had.
    this.open = this.size === 1 ? 1 : this.#left()
    try {
      const result = nest.run(fetcher)
      const promise = types.isPromise(result) ? result : isThenable(result) ? new Promise(resolve => resolve(result)) : undefined
      if (promise === undefined) to.settle(result)
      else Promise.prototype.then.call(promise, value => to.settle(value), error => to.fail(error))
    } catch (error) {
      to.fail(error)
    }
  }

  /** One of its flights has ended. */
  ended() {
    if (--this.open <= 0) this.nest?.end()
  }

  /**
   * One of its flights was given up; when all have ended, the fetcher works for nobody.
   * @param {unknown} reason
   */
  left(reason) {
    if (this.#left() === 0) this.abort(reason)
  }

  /**
   * Whether an error counts against the origin.
   * @param {unknown} error
   * @returns {number}
   */
  verdict(error) {
    return this.core.counts(error) ? Verdict.Failure : Verdict.Alive
  }
}

/** That one key of a batch failed says that its origin is alive. */
export const ALIVE = Verdict.Alive

/**
 * @param {any} value
 * @returns {boolean}
 */
function isThenable(value) {
  return ((typeof value === 'object' && value !== null) || typeof value === 'function') &&
    typeof value.then === 'function'
}

/** What a fetcher is given beside the key. Its functions may be taken out of it. */
export class FetchContext {
  #flight
  /** @type {{ value: unknown, age: number, metadata: unknown } | undefined} */
  #stale
  /** The same, not decoded yet. @type {{ kind: number, data: any, age: number, metadata: string } | undefined} */
  #copy
  /** @type {((options: unknown) => void) | undefined} */
  #set
  /** @type {(() => any) | undefined} */
  #notModified
  /** @type {(() => void) | undefined} */
  #noStore

  /**
   * @param {Flight} flight
   */
  constructor(flight) {
    this.#flight = flight
  }

  get key() {
    return this.#flight.key
  }

  get signal() {
    return this.#flight.call.signal
  }

  get reason() {
    return this.#flight.reason
  }

  get stale() {
    this.keepCopy()
    if (this.#stale === undefined && this.#copy !== undefined) {
      const { kind, data, age, metadata } = this.#copy
      this.#copy = undefined
      const { core, key } = this.#flight
      const value = decode(kind, data, core.serializer, key)
      share(value, kind, core.sharing)
      this.#stale = { value, age: age / 1000, metadata: metadata === '' ? undefined : JSON.parse(metadata) }
    }
    return this.#stale
  }

  /** Takes the copy in hand from the engine, which forgets it when the flight ends. */
  keepCopy() {
    const flight = this.#flight
    if (!flight.hasCopy || flight.done || this.#stale !== undefined || this.#copy !== undefined) return
    const data = native.copyInHand(flight.core.number, flight.token)
    if (header[H.STATUS] <= Status.None) return
    const kind = header[H.KIND]
    const age = header[H.AGE]
    const metadata = header[H.HAS_METADATA] === 0 ? '' : native.takeMetadata(flight.core.number)
    this.#copy = { kind, data, age, metadata }
  }

  get set() {
    const flight = this.#flight
    return (this.#set ??= options => void (flight.set ??= []).push(layer(options, 'set')))
  }

  get notModified() {
    const flight = this.#flight
    return (this.#notModified ??= () => {
      if (flight.hasCopy) return NOT_MODIFIED
      throw invalidValue(flight.key, 'is not in hand, so notModified() cannot be said of it')
    })
  }

  get noStore() {
    const flight = this.#flight
    return (this.#noStore ??= () => {
      flight.unstored = true
    })
  }
}

/**
 * Runs a fetcher for one flight.
 * @param {Flight} flight
 * @param {Fetcher} fetcher
 */
export function run(flight, fetcher) {
  const { call } = flight
  const context = new FetchContext(flight)
  // Who asks for the context may look at the copy in hand when all is over.
  if (flight.hasCopy && fetcher.length > 1) flight.context = context
  call.run(new Nest([flight.token]), () => fetcher(flight.key, context), flight)
}

/**
 * Why a foreground load runs, as the begin just made says.
 * @param {boolean} force
 * @param {boolean} hasCopy
 */
export function reasonOf(force, hasCopy) {
  if (force) return 'forced'
  if (header[H.INVALIDATED] !== 0) return 'invalidated'
  return hasCopy ? 'expired' : 'miss'
}
