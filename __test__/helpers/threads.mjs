// @ts-check
// Worker threads, and processes, that do what a test tells them, one piece of code after another, and are ended with it.

import { spawn } from 'node:child_process'
import { Worker } from 'node:worker_threads'

const INDEX = new URL('../../index.js', import.meta.url).href
const ASYNC = new URL('./async.mjs', import.meta.url).href

const SOURCE = `
const { parentPort, threadId } = require('node:worker_threads')
const [receive, send] = parentPort === null
  ? [process, message => process.send(message)]
  : [parentPort, message => parentPort.postMessage(message)]
const ready = Promise.all([import(${JSON.stringify(INDEX)}), import(${JSON.stringify(ASYNC)})])
const scope = { threadId, state: {} }
receive.on('message', async ({ id, code, arg }) => {
  const [kvcache, helpers] = await ready
  Object.assign(scope, helpers, kvcache)
  try {
    const result = await (0, eval)('(' + code + ')')(scope, arg)
    send({ id, result })
  } catch (error) {
    const { name, message, code, stack } = error ?? {}
    send({ id, error: { name, message, code, stack, own: error instanceof kvcache.KvCacheError } })
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
 * The calls that run elsewhere.
 * @param {(message: any) => void} post
 */
function calls(post) {
  /** @type {Map<number, { resolve(value: any): void, reject(error: unknown): void }>} */
  const open = new Map()
  let last = 0
  return {
    /** @param {any} message */
    answered({ id, result, error }) {
      const call = open.get(id)
      open.delete(id)
      if (error === undefined) call?.resolve(result)
      else call?.reject(new ThreadError(error))
    },
    /** @param {unknown} error */
    over(error) {
      for (const call of open.values()) call.reject(error)
      open.clear()
    },
    /**
     * @param {(scope: any, arg: any) => any} code
     * @param {unknown} arg
     * @returns {Promise<any>}
     */
    run(code, arg) {
      const id = ++last
      const promise = new Promise((resolve, reject) => open.set(id, { resolve, reject }))
      post({ id, code: code.toString(), arg })
      return promise
    }
  }
}

/**
 * A worker thread.
 * @param {import('node:test').TestContext} t it is ended with this test
 */
export function thread(t) {
  const worker = new Worker(SOURCE, { eval: true })
  const { answered, over, run } = calls(message => worker.postMessage(message))
  worker.on('message', answered)
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
     * Runs a function there, which sees nothing of what is around it here. `scope` has what the package exports, threadId, the helpers
     * of async.mjs, and `state`, an object to keep things in.
     * @param {(scope: any, arg: any) => any} code
     * @param {unknown} [arg]
     * @returns {Promise<any>}
     */
    run: (code, arg) => run(code, arg),
    /** Ends it at once, whatever it does. */
    end: () => worker.terminate()
  }
}

/**
 * A process, to be used as a {@link thread}. An unhandled rejection ends it, and fails what runs there.
 * @param {import('node:test').TestContext} t it is killed with this test
 */
export function childProcess(t) {
  // It must not believe that it is a test file of the runner above it.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const child = spawn(process.execPath, ['-e', SOURCE], {
    env, serialization: 'advanced', stdio: ['ignore', 'inherit', 'pipe', 'ipc']
  })
  let errors = ''
  child.stderr?.on('data', data => (errors += data))
  const { answered, over, run } = calls(message => void child.send(message, error => error && over(error)))
  child.on('message', answered)
  /** @type {Promise<number | string | null>} */
  const ended = new Promise(resolve => child.on('close', (code, signal) => {
    over(new Error(`the process ended with ${signal ?? code}: ${errors}`))
    resolve(signal ?? code)
  }))
  const end = async () => {
    child.kill('SIGKILL')
    await ended
  }
  t.after(end)
  return {
    child,
    ended,
    /**
     * @param {(scope: any, arg: any) => any} code
     * @param {unknown} [arg]
     * @returns {Promise<any>}
     */
    run: (code, arg) => run(code, arg),
    /** As kill -9. */
    end
  }
}

let names = 0

/** A name that no other test has. */
export function freshName() {
  return `test ${process.pid} ${++names}`
}
