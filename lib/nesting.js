// @ts-check
/**
 * Which load a piece of code runs for: so that a fetcher that asks for another key is known to wait for it, and one that
 * would wait for itself can be refused.
 *
 * It is kept in an AsyncLocalStorage of our own. Before Node 24 one that is in use slows down every promise of the
 * process, so there it is switched off again when no fetcher has run for a while.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import { native } from './native.js'

/** Whether AsyncLocalStorage is kept by hooks on every promise, as before Node 24. */
const COSTLY = Number(process.versions.node.split('.')[0]) < 24
/** How long no fetcher must have run before the hooks go, in milliseconds. */
const IDLE = 50

/** @type {readonly number[]} */
const NONE = Object.freeze([])

/** @type {AsyncLocalStorage<Nest>} */
const storage = new AsyncLocalStorage()
let running = 0
let armed = false

/**
 * What code knows of the load it runs for: small, for sockets and timers made by a fetcher keep it as long as they live.
 */
export class Nest {
  /**
   * @param {readonly number[]} tokens of the flights that end when the fetcher does
   */
  constructor(tokens) {
    this.tokens = tokens
    this.linked = tokens.length < 2
    this.ended = false
  }

  /**
   * Runs a fetcher within this nest.
   * @template {any[]} A
   * @template R
   * @param {(...args: A) => R} fetcher
   * @param {A} args
   * @returns {R}
   */
  run(fetcher, ...args) {
    running++
    return storage.run(this, fetcher, ...args)
  }

  /** The fetcher has ended, or is no longer waited for. */
  end() {
    if (this.ended) return
    this.ended = true
    this.tokens = NONE
    if (--running === 0 && COSTLY) sleep()
  }
}

/**
 * The flight whose fetcher the calling code belongs to; 0 for none.
 * @returns {number}
 */
export function parent() {
  if (running === 0) return 0
  const nest = storage.getStore()
  if (nest === undefined || nest.ended) return 0
  if (!nest.linked) {
    // One fetcher loads several keys: whoever waits for one of them waits for the first, which speaks for all.
    nest.linked = true
    native.link([...nest.tokens])
  }
  return nest.tokens[0] ?? 0
}

function sleep() {
  if (armed) return
  armed = true
  setTimeout(() => {
    armed = false
    if (running === 0) storage.disable()
    else sleep()
  }, IDLE).unref()
}
