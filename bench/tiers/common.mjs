// @ts-check
/** What the parts of the bench of tiers share: servers, processes, and many gets in flight. */
import { fork, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { median } from '../report.mjs'

/** Rounds before those that count: until then V8 still compiles. */
const WARM_UP = 6

/** Ages, everywhere: longer than any part. */
export const DAY = 86_400

/** @param {number} ms */
export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
/** @param {number} n */
export const count = n => n.toLocaleString('en-US')

/** A directory of its own, and what removes it. */
export function directory() {
  const path = mkdtempSync(join(tmpdir(), 'kvcache-bench-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** @returns {Promise<number>} */
function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer().once('error', reject).listen(0, '127.0.0.1', () => {
      const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
      server.close(() => resolve(port))
    })
  })
}

/** @param {number} port @returns {Promise<boolean>} */
function answers(port) {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1', () => resolve(true)).once('error', () => resolve(false))
    socket.once('close', () => resolve(false)).unref()
    socket.on('connect', () => socket.destroy())
  })
}

/** Starts a redis-server without persistence. */
export async function startRedis() {
  const port = await freePort()
  const { path, remove } = directory()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', path]
  const server = spawn('redis-server', args, { stdio: 'ignore' })
  /** @type {Error | undefined} */
  let trouble
  server.once('error', error => { trouble = error })
  for (let tries = 0; !(await answers(port)); tries++) {
    if (trouble !== undefined || tries > 100) throw new Error(`redis-server does not start: ${trouble?.message ?? 'no answer'}`)
    await sleep(50)
  }
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    async stop() {
      const gone = new Promise(resolve => server.once('exit', resolve))
      server.kill()
      await gone
      remove()
    }
  }
}

/**
 * Starts a script of this directory as a process of its own, which is spoken to in turn.
 * @param {string} script
 * @param {string[]} args
 */
export function startProcess(script, args) {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), args, { execArgv: ['--expose-gc'] })
  /** @type {any[]} */
  const said = []
  /** @type {(() => void) | undefined} */
  let heard
  let over = false
  child.on('message', message => {
    said.push(message)
    heard?.()
  })
  child.on('exit', () => {
    over = true
    heard?.()
  })
  return {
    /** @param {any} message */
    say: message => void child.send(message),
    /** What it says next. @returns {Promise<any>} */
    async hear() {
      while (said.length === 0) {
        if (over) throw new Error(`${script} has ended early`)
        await new Promise(resolve => { heard = () => resolve(undefined) })
      }
      return said.shift()
    },
    async stop() {
      if (over) return
      const gone = new Promise(resolve => child.once('exit', resolve))
      child.disconnect()
      await gone
    }
  }
}

/** The same for the process itself: what it is told, in turn. @returns {() => Promise<any>} */
export function hearing() {
  /** @type {any[]} */
  const said = []
  /** @type {(() => void) | undefined} */
  let heard
  process.on('message', message => {
    said.push(message)
    heard?.()
  })
  return async () => {
    while (said.length === 0) await new Promise(resolve => { heard = () => resolve(undefined) })
    return said.shift()
  }
}

/** @param {any} message */
export const say = message => void process.send?.(message)

/** Nanoseconds of a clock that all processes of the machine share. */
export const now = () => Number(process.hrtime.bigint())

/**
 * The keys in a random order.
 * @template T
 * @param {readonly T[]} keys
 */
export function shuffled(keys) {
  const all = [...keys]
  for (let n = all.length - 1; n > 0; n--) {
    const other = Math.floor(Math.random() * (n + 1))
    ;[all[n], all[other]] = [all[other], all[n]]
  }
  return all
}

/**
 * Reads each key once, so many at a time, and checks each answer.
 * @param {readonly string[]} keys
 * @param {number} flights
 * @param {(key: string) => any} get
 * @param {(value: any, key: string) => boolean} isRight
 */
export async function readAll(keys, flights, get, isRight) {
  let next = 0
  const reader = async () => {
    while (next < keys.length) {
      const key = keys[next++]
      const value = await get(key)
      if (!isRight(value, key)) throw new Error(`wrong value for ${key}: ${JSON.stringify(value)?.slice(0, 80)}`)
    }
  }
  await Promise.all(Array.from({ length: flights }, reader))
}

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {() => Promise<{ get: (key: string) => any, close?: () => unknown }>} open with nothing in memory
 * @property {(value: any, key: string) => boolean} [isRight]
 * @property {number} [share] reads only one key of so many
 */

/**
 * @typedef {object} Prepared what the function `prepare` of a part gives
 * @property {Peer[]} peers
 * @property {readonly string[]} keys
 * @property {(value: any, key: string) => boolean} isRight
 */

/**
 * Rounds of every peer in turn, each in a process of its own and with nothing in memory; the first only warm up.
 * @param {string} part its module, of this directory
 * @param {object} options for its `prepare`
 * @param {readonly string[]} names of its peers; the first is the base of the ratios
 * @param {{ rounds: number, flights: number }} how
 */
export async function race(part, options, names, { rounds, flights }) {
  /** @type {import('../watch.mjs').Took[][]} */
  const took = names.map(() => [])
  const processes = names.map((_, n) => startProcess('./peer.mjs', [part, String(n), JSON.stringify(options)]))
  for (let round = -WARM_UP; round < rounds; round++) {
    for (let turn = 0; turn < names.length; turn++) {
      const n = (turn + round + WARM_UP) % names.length
      processes[n].say({ flights })
      const one = await processes[n].hear()
      if (round >= 0) took[n].push(one)
    }
  }
  for (const one of processes) await one.stop()
  return names.map((name, n) => ({
    name,
    wall: median(took[n].map(one => one.wall)),
    cpu: median(took[n].map(one => one.cpu)),
    ratios: took[n].map((one, round) => one.wall / took[0][round].wall)
  }))
}

/**
 * @param {string} title
 * @param {Awaited<ReturnType<typeof race>>} rows
 */
export function print(title, rows) {
  console.log(`\n${title}`)
  const width = Math.max(...rows.map(row => row.name.length))
  console.log(`  ${''.padEnd(width)}   ratio   by CPU   µs a read   CPU µs   reads/s   ratio by round`)
  const [base] = rows
  for (const { name, wall, cpu, ratios } of rows) {
    const sorted = ratios.toSorted((a, b) => a - b)
    console.log([
      `  ${name.padEnd(width)}`, (wall / base.wall).toFixed(2).padStart(5), (cpu / base.cpu).toFixed(2).padStart(6),
      (wall / 1000).toFixed(1).padStart(9), (cpu / 1000).toFixed(1).padStart(6),
      count(Math.round(1e9 / wall)).padStart(7), `${sorted[0].toFixed(2)} – ${sorted[sorted.length - 1].toFixed(2)}`
    ].join('   '))
  }
}

/**
 * @param {number[]} sorted
 * @param {number} share
 */
export const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
