// @ts-check
/**
 * The addon as this thread sees it: its functions, the header that numbers travel in, and the mail that engines send.
 *
 * Promises: what a call leaves in the header stays there until the next call, and none of ours runs user code between
 * the two. Events reach the cache they are for some microtasks after the call that caused them, so that a caller has its
 * answer before the refresh it set off begins, and they do so even in a loop that never yields to timers.
 */
import * as binding from '../binding.js'

/** The numbers beside a call; `src/header.rs` has the same list. */
export const header = new Float64Array(55)

export const H = Object.freeze({
  STATUS: 0,
  KIND: 1,
  AGE: 2,
  MAX_AGE: 3,
  TOKEN: 4,
  REFRESH_DUE: 5,
  PENDING: 6,
  NEXT_ATTEMPT: 7,
  HAS_METADATA: 8,
  HAS_COPY: 9,
  BATCH_END: 10,
  BYTES: 11,
  LIMIT: 12,
  LIMIT_IS_BUDGET: 13,
  DEFERRED: 14,
  SINCE: 15,
  IN_MAX_AGE: 16,
  IN_STALE_AGE: 17,
  IN_STALE_IF_ERROR: 18,
  IN_ROUTE: 19,
  IN_ORIGIN: 20,
  IN_HARD_TIMEOUT: 21,
  IN_PARENT: 22,
  IN_VERSION: 23,
  NEAR_UNTIL: 24,
  VERSION: 25,
  SAME: 26,
  EPOCH: 27,
  SLOT: 28,
  STAMP: 29,
  SUM: 30,
  SHARED_LEN: 31,
  SIZE: 32,
  HASH_LOW: 33,
  HASH_HIGH: 34,
  ROUTE: 35,
  SHARED: 36,
  SEQ: 48,
  CUT: 49,
  INVALIDATED: 50,
  HAS_LINKS: 51,
  UPDATED_AT: 52,
  IN_KEEP: 53,
  IN_NUMBER: 54
})

/** What became of a call: header[STATUS]. */
export const Status = Object.freeze({
  Closed: -1,
  InvalidKey: -2,
  TooLarge: -3,
  InvalidData: -4,
  None: 0,
  Fresh: 1,
  Stale: 2,
  OnError: 3,
  Lead: 4,
  Join: 5,
  Refused: 6,
  Recursion: 7,
  Done: 8,
  Unstored: 9,
  Gone: 10,
  Awaited: 11,
  Failed: 12,
  TimedOut: 13,
  NotFound: 14
})

/** Flags of lookup() and peek(). */
export const WANT_METADATA = 1
export const GIVE_UP = 2
export const NEAR = 4
/** Flags of begin(). */
export const FORCE = 1
export const PERMIT = 2
export const RESUME = 4
export const LOOK = 8
export const LOOK_NEAR = 16

/** Where a batch of refreshes stands after one of its keys has ended: header[BATCH_END]. */
export const BatchEnd = Object.freeze({ None: 0, Finished: 1, Retry: 2 })

/**
 * @typedef {object} Event what an engine says on its own account
 * @property {number} cache
 * @property {string} kind 'start' | 'dropped' | 'timeout' | 'landed' | 'abandoned' | 'idle' | 'inflated' | 'evict' |
 *   'invalidate' | 'breaker' | 'sought' | 'delivered' | 'ailing'
 * @property {number} id
 * @property {number[]} [ids]
 * @property {string} [name]
 * @property {string} [detail]
 * @property {string} [key]
 */

/** @typedef {{ name: string | undefined, receive(event: Event): void }} Receiver a cache in this thread */

/**
 * The caches of this thread, weakly: one that nobody holds any more is closed by the registry below.
 * @type {Map<number, WeakRef<Receiver>>}
 */
const caches = new Map()

/**
 * One of those of each name, which stays open until it is closed: who opens a named cache, drops it and opens it again finds
 * what was there.
 * @type {Map<string, Receiver>}
 */
const anchors = new Map()

const forgotten = new FinalizationRegistry((/** @type {number} */ number) => {
  caches.delete(number)
  binding.close(number)
})

const place = binding.init(header, deliver)

/**
 * The clock of the engine as `near.js` reads it, one 32-bit word; null where the runtime lets nobody see memory that is
 * not its own. Never to be handed to users.
 */
export const clockMemory = binding.clockMemory()

/** How this process sees the engine's memory. */
export const nearMemory = /** @type {'shared' | 'external' | 'none'} */ (binding.memorySharing())

/** The addon's functions. */
export const native = binding

/**
 * Opens a cache whose events go to `receiver`, for as long as somebody holds that, or for good if it has a name and is the
 * first of it here.
 * @param {Receiver} receiver
 * @param {object} options as the addon takes them
 */
export function open(receiver, options) {
  const opened = binding.open(place, /** @type {any} */ (options))
  if (!opened.mismatch) {
    caches.set(opened.number, new WeakRef(receiver))
    forgotten.register(receiver, opened.number, receiver)
    if (receiver.name !== undefined && !anchors.has(receiver.name)) anchors.set(receiver.name, receiver)
  }
  // A tier may have something to say of how it was opened.
  checkMail()
  return opened
}

/**
 * @param {Receiver} receiver
 * @param {number} number
 */
export function close(receiver, number) {
  forgotten.unregister(receiver)
  caches.delete(number)
  const { name } = receiver
  if (name !== undefined && anchors.get(name) === receiver) {
    anchors.delete(name)
    for (const other of caches.values()) {
      const next = other.deref()
      if (next?.name === name) {
        anchors.set(name, next)
        break
      }
    }
  }
  binding.close(number)
}

let scheduled = false

/** To be called after each call that may have caused events: sees that they are delivered soon. */
export function checkMail() {
  if (header[H.PENDING] !== 0 && !scheduled) {
    scheduled = true
    // A caller awaiting the promise it was just given goes first, through a few layers of async functions.
    Promise.resolve().then(nothing).then(nothing).then(nothing).then(nothing).then(deliver)
  }
}

function nothing() {}

function deliver() {
  scheduled = false
  for (const event of binding.drain(place)) caches.get(event.cache)?.deref()?.receive(/** @type {Event} */ (event))
}
