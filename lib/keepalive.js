// @ts-check
/**
 * Keeps the process alive while someone waits for us, and only then: a fetcher may hold nothing that does. And what is waited
 * for: a cache that its user holds no more, but for the promise of a call, would be collected and its promise never settle.
 */

/** Longest delay of a timer, in milliseconds. */
export const LONGEST_TIMER = 2 ** 31 - 1

/** Places that are kept whatever happens. */
const KEPT = 1024

/** @typedef {any} Held an object or function; `heldAt` is its place among what is held, undefined outside */

/** What is waited for, from 0 to `waits`. No Set, for the reason in `table.js`. @type {(Held | undefined)[]} */
let held = []
let waits = 0
/** @type {NodeJS.Timeout | undefined} */
let timer

/**
 * Someone waits.
 * @param {Held} what what ends the wait; one for each wait
 */
export function hold(what) {
  if (what.heldAt !== undefined) return
  what.heldAt = waits
  held[waits++] = what
  if (waits > 1) return
  timer ??= setInterval(() => {}, LONGEST_TIMER)
  timer.ref()
}

/**
 * Someone waits no more.
 * @param {Held} what
 */
export function release(what) {
  const place = what.heldAt
  if (place === undefined) return
  what.heldAt = undefined
  const last = /** @type {Held} */ (held[--waits])
  held[waits] = undefined
  if (last !== what) {
    held[place] = last
    last.heldAt = place
  }
  if (waits > 0) return
  if (held.length > KEPT) held = []
  timer?.unref()
}
