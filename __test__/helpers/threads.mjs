// @ts-check
// Worker threads that do what a test tells them, one piece of code after another, and are ended with it.

import { Worker } from 'node:worker_threads'

const INDEX = new URL('../../index.js', import.meta.url).href
const ASYNC = new URL('./async.mjs', import.meta.url).href

const SOURCE = `
const { parentPort, threadId } = require('node:worker_threads')
const ready = Promise.all([import(${JSON.stringify(INDEX)}), import(${JSON.stringify(ASYNC)})])
const scope = { threadId, state: {} }
parentPort.on('message', async ({ id, code, arg }) => {
  const [{ KvCache, KvCacheError }, helpers] = await ready
  Object.assign(scope, helpers, { KvCache, KvCacheError })
  try {
    const result = await (0, eval)('(' + code + ')')(scope, arg)
    parentPort.postMessage({ id, result })
  } catch (error) {
    const { name, message, code, stack } = error ?? {}
    parentPort.postMessage({ id, error: { name, message, code, stack, own: error instanceof KvCacheError } })
  }
})
`

/** What went wrong in a worker. */
export class ThreadError extends Error {
  /**
   * @param {{ name: string, message: string, code: string, stack: string, own: boolean }} error
   */
  constructor({ name, message, code, stack, own }) {
    super(message)
    this.name = name
    this.code = code
    this.there = stack
    this.own = own
  }
}

/**
 * A worker thread.
 * @param {import('node:test').TestContext} t it is ended with this test
 */
export function thread(t) {
  const worker = new Worker(SOURCE, { eval: true })
  /** @type {Map<number, { resolve(value: any): void, reject(error: unknown): void }>} */
  const calls = new Map()
  let last = 0
  worker.on('message', ({ id, result, error }) => {
    const call = calls.get(id)
    calls.delete(id)
    if (error === undefined) call?.resolve(result)
    else call?.reject(new ThreadError(error))
  })
  const over = (/** @type {unknown} */ error) => {
    for (const call of calls.values()) call.reject(error)
    calls.clear()
  }
  worker.on('error', over)
  /** @type {Promise<number>} */
  const ended = new Promise(resolve => worker.on('exit', code => {
    over(new Error(`the worker ended with ${code}`))
    resolve(code)
  }))
  t.after(() => worker.terminate())
  return {
    worker,
    ended,
    /**
     * Runs a function there, which sees nothing of what is around it here. `scope` has KvCache, KvCacheError, threadId, the helpers
     * of async.mjs, and `state`, an object to keep things in.
     * @param {(scope: any, arg: any) => any} code
     * @param {unknown} [arg]
     * @returns {Promise<any>}
     */
    run(code, arg) {
      const id = ++last
      const promise = new Promise((resolve, reject) => calls.set(id, { resolve, reject }))
      worker.postMessage({ id, code: code.toString(), arg })
      return promise
    },
    /** Ends it at once, whatever it does. */
    end: () => worker.terminate()
  }
}

let names = 0

/** A name that no other test has. */
export function freshName() {
  return `test ${process.pid} ${++names}`
}
