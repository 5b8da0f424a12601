// @ts-check
/**
 * The typed emitter behind on() and off().
 *
 * Promises: emit() never throws and never leaves an unhandled rejection. A listener that throws, or whose promise is
 * rejected, is reported to the 'error' listeners as ERR_KVCACHE_LISTENER; what fails among the 'error' listeners goes
 * nowhere. Each such failure is told once to `onFailure`. Listeners run in the order they were added; the same function
 * added twice to one event is one listener, called once (as with EventTarget), and one off() removes it. A listener
 * removed while its event is being emitted is not called any more; one added then is called from the next event on.
 */
import { invalidOption, listener as listenerFailed } from './errors.js'

/** The events there are. */
export const EVENTS = Object.freeze(/** @type {const} */ (['evict', 'invalidate', 'refresh', 'breaker', 'error']))

/** @typedef {(typeof EVENTS)[number]} EventName */
/** @typedef {{ fn: Function, removed: boolean }} Listener */

/**
 * @typedef {object} Hooks neither may throw
 * @property {(cause: unknown) => void} [onFailure] a listener failed, with what it threw
 * @property {(event: EventName, listening: boolean) => void} [onListening] an event got its first listener or lost its
 *   last
 */

/** @type {readonly Listener[]} */
const NONE = Object.freeze([])

/** Listeners of one cache. */
export class Emitter {
  /**
   * @param {Hooks} [hooks]
   */
  constructor(hooks = {}) {
    this.hooks = hooks
    // A list is never changed once it is here, so that emit() can walk it while listeners come and go.
    /** @type {Map<string, readonly Listener[]>} */
    this.lists = new Map(EVENTS.map(event => [event, NONE]))
  }

  /**
   * Adds a listener. Throws ERR_KVCACHE_INVALID_OPTION for an unknown event or a listener that is no function.
   * @param {string} event
   * @param {Function} fn
   */
  on(event, fn) {
    const list = this.#list(event, fn)
    if (list.some(entry => entry.fn === fn)) return
    this.lists.set(event, [...list, { fn, removed: false }])
    if (list.length === 0) this.hooks.onListening?.(/** @type {EventName} */ (event), true)
  }

  /**
   * Removes a listener; one that is not there is no error. Throws as on() does.
   * @param {string} event
   * @param {Function} fn
   */
  off(event, fn) {
    const list = this.#list(event, fn)
    const entry = list.find(one => one.fn === fn)
    if (entry === undefined) return
    entry.removed = true
    const left = list.filter(one => one !== entry)
    this.lists.set(event, left)
    if (left.length === 0) this.hooks.onListening?.(/** @type {EventName} */ (event), false)
  }

  /**
   * Whether anyone listens: what nobody hears need not be made.
   * @param {EventName} event
   * @returns {boolean}
   */
  has(event) {
    return this.#of(event).length !== 0
  }

  /**
   * Calls the listeners of an event with its detail.
   * @param {EventName} event
   * @param {unknown} detail
   */
  emit(event, detail) {
    for (const entry of this.#of(event)) {
      if (entry.removed) continue
      try {
        const result = entry.fn(detail)
        if (isThenable(result)) Promise.resolve(result).then(undefined, cause => this.#failed(event, cause))
      } catch (cause) {
        this.#failed(event, cause)
      }
    }
  }

  /**
   * @param {EventName} event
   * @param {unknown} cause
   */
  #failed(event, cause) {
    this.hooks.onFailure?.(cause)
    if (event !== 'error' && this.has('error')) this.emit('error', listenerFailed(event, cause))
  }

  /**
   * @param {EventName} event
   * @returns {readonly Listener[]}
   */
  #of(event) {
    return this.lists.get(event) ?? NONE
  }

  /**
   * @param {string} event
   * @param {unknown} fn
   * @returns {readonly Listener[]}
   */
  #list(event, fn) {
    const list = this.lists.get(event)
    if (list === undefined) throw invalidOption('event', event, EVENTS.map(name => `'${name}'`).join(', '))
    if (typeof fn !== 'function') throw invalidOption('listener', fn, 'a function')
    return list
  }
}

/**
 * @param {any} value
 * @returns {value is PromiseLike<unknown>}
 */
function isThenable(value) {
  return (typeof value === 'object' || typeof value === 'function') && typeof value?.then === 'function'
}
