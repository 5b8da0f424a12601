// @ts-check
/**
 * Waiting for abort signals: one listener a signal, however many wait for it, as a request's signal is given to all that
 * the request asks for, and Node warns of more than ten.
 */

/** @type {WeakMap<AbortSignal, Set<() => void>>} */
const waiting = new WeakMap()

/**
 * Has `aborted` called when the signal fires.
 * @param {AbortSignal} signal one that has not fired
 * @param {() => void} aborted must not throw
 */
export function onAbort(signal, aborted) {
  let all = waiting.get(signal)
  if (all === undefined) {
    all = new Set()
    waiting.set(signal, all)
  }
  if (all.size === 0) signal.addEventListener('abort', fire, { once: true })
  all.add(aborted)
}

/**
 * Takes it back.
 * @param {AbortSignal} signal
 * @param {() => void} aborted
 */
export function offAbort(signal, aborted) {
  const all = waiting.get(signal)
  if (all === undefined || !all.delete(aborted)) return
  if (all.size === 0) signal.removeEventListener('abort', fire)
}

/**
 * @this {AbortSignal}
 */
function fire() {
  const all = waiting.get(this)
  if (all === undefined) return
  waiting.delete(this)
  for (const aborted of all) aborted()
}
