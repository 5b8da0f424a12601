// @ts-check
/**
 * Flights of other threads, as those wait for them who asked for the same key here.
 *
 * The fetcher runs in another thread, or for another KvCache of the same name in this one; the engine tells when it has
 * ended and keeps what became of it until it is taken. Promises: a flight waited for ends for every caller here, by what it
 * brought, its failure, its time-out, or by the word that it came to no end and they are to begin anew; values are decoded
 * here; what nobody waits for any more holds nothing.
 */
import { closed, threadEnded, timeout } from './errors.js'
import { restore } from './failures.js'
import { Answer, Nothing, foundTies, standIn } from './flight.js'
import { hold, release } from './keepalive.js'
import { H, Status, checkMail, header, native } from './native.js'

/** @typedef {import('./core.js').Core} Core */
/** @typedef {import('./flight.js').Outcome} Outcome */

/** One key being loaded by another thread. */
export class RemoteFlight {
  /**
   * @param {Core} core
   * @param {string} key
   * @param {number} token
   */
  constructor(core, key, token) {
    this.core = core
    this.key = key
    this.token = token
    this.callers = 0
    /** A caller went with a stale value and left it running. */
    this.leftRunning = false
    this.done = false
    /** Who came at this number of the log or later must load again, as its end has shown; 0 for nobody. */
    this.cut = 0
    /** @type {(outcome: Outcome) => void} */
    this.resolve = () => {}
    /** @type {Promise<Outcome>} */
    this.outcome = new Promise(resolve => (this.resolve = resolve))
    /** The table's. @type {RemoteFlight | undefined} */
    this.next = undefined
    /** @type {number | undefined} */
    this.heldAt = undefined
    core.remotes.add(this)
  }

  /** One more caller waits. */
  join() {
    if (this.callers++ > 0) return
    hold(this)
  }

  /** A caller waits no more. */
  leave() {
    if (this.done || --this.callers > 0) return
    native.leave(this.core.number, this.token, this.leftRunning)
    this.#over()
    checkMail()
  }

  /** A caller went with a stale value; the load goes on for those who come later. */
  leaveRunning() {
    this.leftRunning = true
    this.leave()
  }

  /** The engine says that it has ended. */
  land() {
    const { core, key, token } = this
    const data = native.takeLanded(core.number, token)
    switch (header[H.STATUS]) {
      case Status.Fresh: {
        const kind = header[H.KIND]
        const deferred = header[H.DEFERRED]
        const maxAge = header[H.MAX_AGE]
        this.cut = header[H.CUT]
        const ties = foundTies(core)
        const metadata = header[H.HAS_METADATA] === 0 ? '' : native.takeMetadata(core.number)
        const facts = /** @type {import('./flight.js').Facts} */ ({ state: 'loaded', age: 0, maxAge, metadata, ...ties })
        const answer = (/** @type {any} */ data) => this.#end({ answer: new Answer(core, key, kind, data, facts) })
        const failed = (/** @type {unknown} */ error) => this.#end({ error })
        if (deferred !== 0) return void core.inflated(deferred, key).then(answer).catch(failed)
        try {
          answer(data)
        } catch (error) {
          failed(error)
        }
        return
      }
      case Status.Unstored:
        this.cut = header[H.CUT]
        return this.#end({ answer: new Nothing() })
      case Status.Failed:
        return this.#fail(restore(data))
      case Status.TimedOut:
        return this.#fail(timeout(key, header[H.AGE], 'the fetcher'))
      case Status.Gone:
        return this.#end({ again: true })
      case Status.NotFound:
        return this.#end({ anew: true })
    }
  }

  /** The cache is closed. */
  close() {
    if (this.done) return
    native.leave(this.core.number, this.token, this.leftRunning)
    this.#end({ error: closed() })
  }

  /**
   * @param {unknown} error
   */
  #fail(error) {
    const answer = standIn(this.core, this.key)
    this.#end(answer === undefined ? { error } : { answer })
  }

  /**
   * @param {Outcome} outcome
   */
  #end(outcome) {
    if (this.done) return
    this.#over()
    this.resolve(outcome)
  }

  #over() {
    this.done = true
    this.core.remotes.delete(this)
    release(this)
  }
}

/** How often a load is begun anew for those whose leader ended. A fetcher that ends its thread must not end them all. */
const MOST_ENDED = 3

/** What is known of a caller that begins anew. */
export class Resumed {
  /**
   * @param {number} since when it came, as the engine told
   */
  constructor(since) {
    this.since = since
    this.began = performance.now()
    this.ended = 1
  }

  /** Should it have to begin anew once more. */
  again() {
    const next = new Resumed(this.since)
    next.began = this.began
    next.ended = this.ended + 1
    return next
  }

  /**
   * Refuses to go on for ever.
   * @param {string} key
   */
  check(key) {
    if (this.ended >= MOST_ENDED) throw threadEnded(key, this.ended)
  }

  /**
   * What is left of a softTimeout.
   * @param {number} softTimeout milliseconds
   */
  left(softTimeout) {
    return softTimeout === Infinity ? Infinity : Math.max(1, softTimeout - (performance.now() - this.began))
  }
}
