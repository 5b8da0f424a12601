// @ts-check
/**
 * One caller waits for a flight: until it ends, its signal fires, or its softTimeout passes and an old value stands in.
 */
import { offAbort, onAbort } from './aborts.js'
import { entryOf, standIn } from './flight.js'
import { LONGEST_TIMER } from './keepalive.js'

/** @typedef {import('./core.js').Core} Core */
/** @typedef {import('./flight.js').Flight} Flight */
/** @typedef {import('./flight.js').Outcome} Outcome */
/** @typedef {import('./remote.js').RemoteFlight} RemoteFlight */

/**
 * Waits for a flight as one caller.
 * @param {Core} core
 * @param {Flight | RemoteFlight} flight
 * @param {AbortSignal | undefined} signal
 * @param {number} softTimeout milliseconds, may be infinite
 * @param {boolean} whole
 * @param {number} joined the log's number when the caller came
 * @param {() => Promise<any>} anew loads anew, should what it waited for turn out to have been invalidated before it came, or to be found
 *   nowhere by a flight without a fetcher
 * @param {() => Promise<any>} [again] begins anew, should a flight of another thread come to no end
 * @returns {Promise<any>}
 */
export function wait(core, flight, signal, softTimeout, whole, joined, anew, again) {
  flight.join()
  const answer = (/** @type {Outcome} */ outcome) => {
    if (outcome.anew || wasCut(flight, joined)) return anew()
    return outcome.again ? (again ?? anew)() : read(outcome, whole)
  }
  if (signal === undefined && softTimeout === Infinity) {
    return flight.outcome.then(answer)
  }
  return new Promise((resolve, reject) => {
    let waiting = true
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    const stop = () => {
      waiting = false
      clearTimeout(timer)
      if (signal !== undefined) offAbort(signal, abort)
    }
    const abort = () => {
      stop()
      flight.leave(signal?.reason)
      reject(signal?.reason)
    }
    flight.outcome.then(outcome => {
      if (!waiting) return
      stop()
      try {
        resolve(answer(outcome))
      } catch (error) {
        reject(error)
      }
    })
    if (signal !== undefined) onAbort(signal, abort)
    if (softTimeout !== Infinity) {
      timer = setTimeout(() => {
        const old = standIn(core, flight.key)
        if (old === undefined) return
        stop()
        flight.leaveRunning()
        resolve(whole ? entryOf(old) : old.take())
      }, Math.min(softTimeout, LONGEST_TIMER))
    }
  })
}

/**
 * Whether a flight that has ended turned out to have been invalidated before a caller came.
 * @param {Flight | RemoteFlight} flight
 * @param {number} joined the log's number when the caller came
 */
export function wasCut(flight, joined) {
  return flight.cut !== 0 && joined >= flight.cut
}

/**
 * What a caller is given for an outcome.
 * @param {Outcome} outcome
 * @param {boolean} whole
 */
export function read({ answer, error }, whole) {
  if (answer === undefined) throw error
  return whole ? entryOf(answer) : answer.take()
}
