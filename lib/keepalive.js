// @ts-check
/**
 * Keeps the process alive while someone waits for us, and only then: a fetcher may hold nothing that does.
 */

/** Longest delay of a timer, in milliseconds. */
export const LONGEST_TIMER = 2 ** 31 - 1

let holders = 0
/** @type {NodeJS.Timeout | undefined} */
let timer

/** Someone waits. */
export function hold() {
  if (holders++ > 0) return
  timer ??= setInterval(() => {}, LONGEST_TIMER)
  timer.ref()
}

/** Someone waits no more. */
export function release() {
  if (--holders === 0) timer?.unref()
}
