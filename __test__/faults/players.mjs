// @ts-check
// Starts processes under test (player.mjs), tells them what to do, and judges by their histories.

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { check, parse } from './check.mjs'

const PLAYER = fileURLToPath(new URL('player.mjs', import.meta.url))

export const sleep = (/** @type {number} */ ms) => new Promise(resolve => setTimeout(resolve, ms))

/**
 * What is allowed for. On a machine that does other things at the same time processes may not run for seconds; the bounded form asks for
 * nothing that rests on that.
 */
export const allowed = {
  /** Nanoseconds after which another process must have heard of a change over Redis, where nothing is wrong. */
  redisLag: 1_000_000_000n,
  /** Milliseconds after which the log must have been caught up with. */
  caughtUp: 5000,
  /** Milliseconds for which processes rest once all is mended, at most. */
  rest: 5000
}

/** How long a process may take to do what it is told. */
const PATIENCE = 120_000

/** @typedef {import('./player.mjs').Part} Part */

/** One process. */
class Player {
  /**
   * @param {Part} part
   * @param {string} name
   * @param {{ command?: string[], env?: Record<string, string> }} how command: what starts node, such as ip netns exec
   */
  constructor(part, name, { command = [], env = {} }) {
    this.part = part
    this.name = name
    const [program = '', ...args] = [...command, process.execPath, PLAYER]
    const { NODE_TEST_CONTEXT: _, ...inherited } = process.env
    this.child = spawn(program, args, {
      env: { ...inherited, ...env, KVCACHE_PLAYER: JSON.stringify(part) },
      stdio: ['ignore', 'inherit', 'pipe', 'ipc']
    })
    this.err = ''
    this.child.stderr?.on('data', data => (this.err += data))
    /** @type {Map<number, { resolve: (answer: any) => void, reject: (error: Error) => void }>} */
    this.waiting = new Map()
    this.last = 0
    /** Whether its end was meant. */
    this.over = false
    /** @type {Error | undefined} */
    this.failure = undefined
    this.ready = this.#answer(0)
    this.child.on('message', (/** @type {any} */ word) => {
      if (word.failed !== undefined) this.#fail(new Error(`${name}: ${word.failed}`))
      const id = word.ready ? 0 : word.id
      this.waiting.get(id)?.resolve(word.answer)
      this.waiting.delete(id)
    })
    /** @type {Promise<void>} */
    this.exited = new Promise(resolve => {
      this.child.on('close', (code, signal) => {
        if (!this.over || (signal === null && code !== 0)) {
          this.#fail(new Error(`${name} ended by itself: ${code ?? signal}\n${this.err}`))
        }
        for (const { reject } of this.waiting.values()) reject(this.failure ?? new Error(`${name} was killed`))
        this.waiting.clear()
        resolve()
      })
    })
  }

  /** @param {Error} error */
  #fail(error) {
    this.failure ??= error
    for (const { reject } of this.waiting.values()) reject(this.failure)
    this.waiting.clear()
  }

  /** @param {number} id */
  #answer(id) {
    const answer = new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      const late = setTimeout(() => reject(new Error(`${this.name} is stuck\n${this.err}`)), PATIENCE)
      late.unref()
    })
    // Who does not look at it finds the failure later.
    answer.catch(() => {})
    return answer
  }

  /**
   * @param {string} does
   * @param {object} [more]
   * @returns {Promise<any>}
   */
  async tell(does, more = {}) {
    if (this.failure !== undefined) throw this.failure
    const id = ++this.last
    const answer = this.#answer(id)
    this.child.send({ id, does, ...more }, () => {})
    return answer
  }

  async kill() {
    this.over = true
    this.child.kill('SIGKILL')
    await this.exited
  }

  /** Ends it in order; it must end by itself. */
  async quit() {
    this.over = true
    const answer = await this.tell('quit')
    const late = setTimeout(() => {
      this.failure ??= new Error(`${this.name} does not end`)
      this.child.kill('SIGKILL')
    }, PATIENCE)
    await this.exited
    clearTimeout(late)
    if (this.failure !== undefined) throw this.failure
    return answer
  }
}

/** Processes of one cache, and what has become of it. */
export class Game {
  /**
   * @param {Partial<Part> & Pick<Part, 'tiers'>} part
   * @param {{ players?: number, keys?: number, seed: number, lossy?: boolean, lag?: bigint }} options
   */
  constructor(part, { players = 3, keys = 9, seed, lossy = false, lag = part.tiers.redis ? allowed.redisLag : 0n }) {
    this.dir = mkdtempSync(join(tmpdir(), 'kvcache-faults-'))
    this.part = part
    this.count = players
    this.keys = keys
    this.seed = seed
    this.lossy = lossy
    this.lag = lag
    /** @type {import('./check.mjs').Window[]} */
    this.windows = []
    /** @type {Player[]} */
    this.players = []
    this.started = 0
    writeFileSync(join(this.dir, 'origin'), Buffer.alloc(4 * keys))
  }

  /**
   * Starts a process in a place; each place has keys of its own.
   * @param {number} place
   * @param {{ command?: string[], env?: Record<string, string>, tiers?: Part['tiers'] }} [how]
   */
  async start(place, how = {}) {
    const name = `${place}.${++this.started}`
    const own = Array.from({ length: this.keys }, (_, k) => k).filter(k => k % this.count === place)
    const player = new Player({
      memory: place % 2 === 0 ? '64mb' : '1mb', ...this.part, ...(how.tiers ? { tiers: how.tiers } : {}),
      file: join(this.dir, `history.${name}`), origin: join(this.dir, 'origin'), keys: this.keys, own,
      seed: ((this.seed * 7919 + this.started * 104_729) % 2_147_483_646) + 1
    }, name, how)
    this.players[place] = player
    await player.ready
    return player
  }

  /** @param {(place: number) => { command?: string[], env?: Record<string, string>, tiers?: Part['tiers'] }} [how] */
  async startAll(how = () => ({})) {
    await Promise.all(Array.from({ length: this.count }, (_, place) => this.start(place, how(place))))
  }

  /**
   * @param {string} does
   * @param {object} [more]
   */
  all(does, more) {
    return Promise.all(this.players.map(player => player.tell(does, more)))
  }

  /**
   * While something is broken, and until all is in order again, a read may find nothing.
   * @param {() => Promise<void>} action ends when it is mended
   * @param {{ forgets?: boolean, deaf?: boolean }} [how] forgets: what was written before may be gone; deaf: processes do not hear of
   *   each other
   */
  async during(action, { forgets = false, deaf = false } = {}) {
    /** @type {import('./check.mjs').Window} */
    const window = { from: process.hrtime.bigint(), to: process.hrtime.bigint() + 10n ** 15n, forgets }
    this.windows.push(window)
    if (deaf) window.deaf = window.to
    await action()
    const mended = performance.now()
    if (deaf) window.deaf = process.hrtime.bigint() + BigInt(allowed.caughtUp) * 1_000_000n
    await this.all('pause')
    window.to = process.hrtime.bigint()
    if (!deaf) return
    // They go on, and must hear again.
    await sleep(Math.max(0, Math.min(allowed.rest, allowed.caughtUp - (performance.now() - mended))))
    await this.all('go', { pace: 4 })
    await sleep(500)
  }

  /** All must agree on what is there. */
  async compare() {
    await this.all('look')
  }

  /** Ends all, and judges. */
  async end() {
    await Promise.all(this.players.map(player => player.quit()))
    return this.verdict()
  }

  verdict() {
    const names = readdirSync(this.dir).filter(name => name.startsWith('history.'))
    const files = names.map(name => ({ by: name.slice(8), text: readFileSync(join(this.dir, name), 'utf8') }))
    return check(parse(files), { windows: this.windows, lossy: this.lossy, lag: this.lag })
  }

  /** Leaves nothing behind, whatever has happened. */
  async clear() {
    await Promise.all(this.players.map(player => (player.child.exitCode === null && player.child.signalCode === null ? player.kill() : undefined)))
    rmSync(this.dir, { recursive: true, force: true })
  }
}
