// @ts-check
// Time and promises under the test's control, so that no test depends on how fast the machine is.

import assert from 'node:assert/strict'

/**
 * A promise with its ends outside.
 * @template T
 */
export function deferred() {
  /** @type {(value: T | PromiseLike<T>) => void} */
  let resolve = () => {}
  /** @type {(reason?: unknown) => void} */
  let reject = () => {}
  /** @type {Promise<T>} */
  const promise = new Promise((yes, no) => {
    resolve = yes
    reject = no
  })
  return { promise, resolve, reject }
}

/** @param {number} ms */
export function sleep(ms) {
  return new Promise(resolve => setTimeout(resolve, ms))
}

/** Lets everything that is ready run: microtasks, immediates, wake-ups from native threads. */
export async function settle() {
  for (let i = 0; i < 5; i++) await new Promise(resolve => setImmediate(resolve))
  await sleep(5)
  for (let i = 0; i < 5; i++) await new Promise(resolve => setImmediate(resolve))
}

/**
 * Waits until a condition holds, and says what was waited for when it never does.
 * @param {() => unknown} condition
 * @param {string} [what]
 * @param {number} [timeout] milliseconds
 */
export async function until(condition, what = String(condition), timeout = 15_000) {
  const end = performance.now() + timeout
  for (;;) {
    const value = await condition()
    if (value) return value
    if (performance.now() > end) assert.fail(`waited ${timeout} ms in vain until ${what}`)
    await sleep(2)
  }
}

/**
 * Whether a promise is still pending after everything that is ready has run.
 * @param {Promise<unknown>} promise
 */
export async function isPending(promise) {
  let pending = true
  const done = () => {
    pending = false
  }
  promise.then(done, done)
  await settle()
  return pending
}

/**
 * A fetcher whose calls are kept and settle only when the test says so: `calls[n].resolve(value)`,
 * `calls[n].reject(error)`. `await fetcher.call(n)` waits until it has been called that often.
 */
export function controlled() {
  /** @typedef {{ key: any, context: any, settled: boolean } & ReturnType<typeof deferred<any>>} Call */
  /** @type {Call[]} */
  const calls = []
  /** @param {any} key @param {any} context */
  const fetcher = (key, context) => {
    const call = { key, context, settled: false, ...deferred() }
    const settled = () => {
      call.settled = true
    }
    call.promise.then(settled, settled)
    calls.push(call)
    return call.promise
  }
  fetcher.calls = calls
  fetcher.running = () => calls.filter(call => !call.settled).length
  /** @param {number} n */
  fetcher.call = async n => {
    await until(() => calls.length > n, `the fetcher is called ${n + 1} times`)
    return calls[n]
  }
  return fetcher
}

/**
 * A fetcher that answers at once with what `answer` makes of the number of the call, and counts its calls.
 * @param {(n: number, key: any, context: any) => any} [answer]
 */
export function counted(answer = n => n) {
  /** @param {any} key @param {any} context */
  const fetcher = async (key, context) => {
    fetcher.count += 1
    fetcher.keys.push(key)
    return answer(fetcher.count, key, context)
  }
  fetcher.count = 0
  /** @type {any[]} */
  fetcher.keys = []
  return fetcher
}
