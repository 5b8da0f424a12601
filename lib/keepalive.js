// @ts-check
/**
 * Keeps the process alive while someone waits for us, and only then: a fetcher may hold nothing that does. And what is waited
 * for: a cache that its user holds no more, but for the promise of a call, would be collected and its promise never settle.
 */

/** Longest delay of a timer, in milliseconds. */
export const LONGEST_TIMER = 2 ** 31 - 1

/** What is waited for. @type {Set<object>} */
const held = new Set()
/** @type {NodeJS.Timeout | undefined} */
let timer

/**
 * Someone waits.
 * @param {object} what what ends the wait; one for each wait
 */
export function hold(what) {
  held.add(what)
  if (held.size > 1) return
  timer ??= setInterval(() => {}, LONGEST_TIMER)
  timer.ref()
}

/**
 * Someone waits no more.
 * @param {object} what
 */
export function release(what) {
  if (held.delete(what) && held.size === 0) timer?.unref()
}
