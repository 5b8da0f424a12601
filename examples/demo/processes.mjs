// @ts-check
/**
 * The runner's side of its child processes: start one and wait until it is ready, ask it something, stop it, kill it.
 *
 * Promises: a child that ends when it was not told to fails the run, with the end of what it wrote to stderr; nothing
 * started here is left behind after stopAll().
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** Bytes of a child's stderr kept for the message when it fails. */
const STDERR_KEPT = 4096
/** How long a child may take to end once it has finished. */
const LEAVE_MS = 5000

/** @type {Set<Child>} */
const running = new Set()

export class Child {
  /** @type {Map<number, { resolve: (value: any) => void, reject: (error: Error) => void }>} */
  #asked = new Map()
  #lastId = 0
  #stderr = ''
  #leaving = false
  /** @type {(error: Error) => void} */
  #failReady = () => {}

  /**
   * @param {string} name for messages
   * @param {string} file module next to this one
   * @param {unknown} config
   * @param {{ onTold?: (type: string, value: any) => void, onFailure: (error: Error) => void }} callbacks
   */
  constructor(name, file, config, { onTold, onFailure }) {
    this.name = name
    this.process = fork(fileURLToPath(new URL(file, import.meta.url)), [JSON.stringify(config)], {
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'pipe', 'ipc']
    })
    running.add(this)

    /** What the child said when it was ready. @type {Promise<any>} */
    this.ready = new Promise((resolve, reject) => {
      this.#failReady = reject
      this.process.on('message', (/** @type {any} */ message) => {
        if (message.id !== undefined) this.#settle(message)
        else if (message.type === 'ready') resolve(message.value)
        else onTold?.(message.type, message.value)
      })
    })
    // Whoever awaits ready sees its rejection; a child killed before it was ready concerns nobody.
    this.ready.catch(() => {})

    this.process.stderr?.setEncoding('utf8').on('data', text => {
      this.#stderr = (this.#stderr + text).slice(-STDERR_KEPT)
    })
    // A message that cannot be delivered any more: the exit that caused it is reported below.
    this.process.on('error', () => {})
    this.process.on('close', (code, signal) => {
      running.delete(this)
      const error = new Error(
        `The ${name} process ended (${signal ?? `exit code ${code}`}).\n${this.#stderr}`.trimEnd()
      )
      this.#failReady(error)
      for (const { reject } of this.#asked.values()) reject(error)
      this.#asked.clear()
      if (!this.#leaving) onFailure(error)
    })
  }

  /** @param {{ id: number, value?: unknown, error?: string }} message */
  #settle({ id, value, error }) {
    const waiting = this.#asked.get(id)
    this.#asked.delete(id)
    if (error === undefined) waiting?.resolve(value)
    else waiting?.reject(new Error(`${this.name}: ${error}`))
  }

  /**
   * @param {string} type
   * @param {unknown} [value]
   * @returns {Promise<any>} what the child answered
   */
  ask(type, value) {
    const id = ++this.#lastId
    return new Promise((resolve, reject) => {
      this.#asked.set(id, { resolve, reject })
      this.process.send({ id, type, value })
    })
  }

  /**
   * Lets go of a child that has done its work, and waits until it has ended by itself.
   * @returns {Promise<void>}
   * @throws {Error} if something keeps it alive, or it ends with an error
   */
  async leave() {
    this.#leaving = true
    const closed = once(this.process, 'close', { signal: AbortSignal.timeout(LEAVE_MS) })
    this.process.send({ type: 'leave' })
    const [code, signal] = await closed.catch(() => {
      throw new Error(`The ${this.name} process did not end within ${LEAVE_MS} ms of having finished.`)
    })
    if (code !== 0)
      throw new Error(`The ${this.name} process ended badly (${signal ?? `exit code ${code}`}).\n${this.#stderr}`)
  }

  /**
   * SIGKILL: no clean-up, no goodbye to open connections.
   * @returns {Promise<NodeJS.Signals | null>} the signal that ended it
   */
  async kill() {
    if (this.#ended) return this.process.signalCode
    this.#leaving = true
    const closed = once(this.process, 'close')
    this.process.kill('SIGKILL')
    await closed
    return this.process.signalCode
  }

  get #ended() {
    return this.process.exitCode !== null || this.process.signalCode !== null
  }
}

/** Kills whatever is still running. */
export async function stopAll() {
  await Promise.all([...running].map(child => child.kill()))
}
