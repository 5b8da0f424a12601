// @ts-check
// A process under test: changes the keys that are its own, reads all of them, and writes down what it did and saw.
//
// The history is a file of lines. What begins and ends a change is in the file before the process goes on, so that it is there after
// kill -9; reads are written when they have ended. Times are of the monotonic clock, which all processes of a machine share.
//
//   C key n kind t     a change begins: the origin has value n of the key, and the cache is being told by that kind of call
//   A key n t          it was acknowledged
//   R key n t          it was rejected with ERR_KVCACHE_TIER: it holds in this process, and is queued
//   F t                flush() has resolved: what had been queued has arrived
//   r key n|- b e      a read from b to e gave value n, or nothing; the number is negated if a fetcher has brought it

import { readSync, openSync, writeSync } from 'node:fs'
import { hrtime } from 'node:process'
import { KvCache, disk, redis } from '../../index.js'

/**
 * @typedef {object} Part
 * @property {string} file of the history
 * @property {string} origin file of what is true: a number for each key
 * @property {number} keys how many
 * @property {number[]} own those that this process changes
 * @property {number} seed
 * @property {{ disk?: Parameters<typeof disk>[0], redis?: Parameters<typeof redis>[0] }} tiers
 * @property {string} [memory] how much of it, default 64 MB
 * @property {number} [large] one in so many values is large
 * @property {number} [bytes] of a large one
 * @property {boolean} [lossy] what fails may be given up: a full disk
 */

/** @type {Part} */
const part = JSON.parse(/** @type {string} */ (process.env.KVCACHE_PLAYER))
const out = openSync(part.file, 'a')
const origin = openSync(part.origin, 'r+')
const { tiers } = part
const cache = new KvCache({
  memory: part.memory ?? '64mb',
  maxAge: Infinity,
  tiers: [...(tiers.disk ? [disk(tiers.disk)] : []), ...(tiers.redis ? [redis(tiers.redis)] : [])]
})
const failures = { errors: 0, rejected: 0 }
cache.on('error', () => void failures.errors++)

const now = () => hrtime.bigint()
let random = part.seed
/** @param {number} n */
const next = n => (random = (random * 48_271) % 2_147_483_647) % n
const turn = () => new Promise(resolve => setImmediate(resolve))

/** @param {string} line */
const note = line => void writeSync(out, `${line}\n`)
/** @type {string[]} */
let reads = []
function flushReads() {
  if (reads.length > 0) writeSync(out, `${reads.join('\n')}\n`)
  reads = []
}

const cell = Buffer.alloc(4)
/** @param {number} k */
function truth(k) {
  readSync(origin, cell, 0, 4, k * 4)
  return cell.readUInt32LE()
}

/**
 * The value of a key as the origin has it.
 * @param {number} n
 */
const made = n => ({ n, pad: 'x'.repeat(next(part.large ?? 40) === 0 ? (part.bytes ?? 300_000) : next(4) === 0 ? 2000 : 10) })

// What is under way, so that what never ends is found.
/** @type {Map<number, { what: string, since: number }>} */
const underWay = new Map()
let lastCall = 0
/**
 * @template T
 * @param {string} what
 * @param {Promise<T>} promise
 */
async function watched(what, promise) {
  const call = ++lastCall
  underWay.set(call, { what, since: performance.now() })
  try {
    return await promise
  } finally {
    underWay.delete(call)
  }
}
const STUCK = 60_000
setInterval(() => {
  for (const { what, since } of underWay.values()) if (performance.now() - since > STUCK) die(`${what} has been under way for a minute`)
}, 1000).unref()

/** @param {string} why */
function die(why) {
  process.send?.({ failed: why })
  process.exitCode = 3
  setTimeout(() => process.exit(3), 100)
}

const KINDS = ['put', 'put', 'put', 'delete', 'tag', 'prefix', 'key', 'parent']

/** One change of one of our keys. */
async function change() {
  const k = /** @type {number} */ (part.own[next(part.own.length)])
  const n = truth(k) + 1
  const kind = /** @type {string} */ (KINDS[next(KINDS.length)])
  note(`C ${k} ${n} ${kind} ${now()}`)
  cell.writeUInt32LE(n)
  writeSync(origin, cell, 0, 4, k * 4)
  try {
    await watched(kind, tell(k, n, kind))
    note(`A ${k} ${n} ${now()}`)
  } catch (error) {
    if (/** @type {any} */ (error).code !== 'ERR_KVCACHE_TIER') throw error
    failures.rejected++
    note(`R ${k} ${n} ${now()}`)
  }
}

/** What all that is made of a key is tied to. @param {number} k */
const tied = k => ({ tags: [`t${k}`], dependsOn: [`parent:${k}`] })

/**
 * @param {number} k
 * @param {number} n
 * @param {string} kind
 */
async function tell(k, n, kind) {
  switch (kind) {
    case 'put':
      await cache.put(`k:${k}:`, made(n), tied(k))
      // put() waits for the disk only.
      return tiers.redis ? cache.flush() : undefined
    case 'delete':
      return cache.delete(`k:${k}:`)
    case 'tag':
      return cache.invalidate({ tag: `t${k}` })
    case 'parent':
      await cache.put(`parent:${k}`, n)
      return tiers.redis ? cache.flush() : undefined
    case 'prefix':
      return cache.invalidate({ prefix: `k:${k}:` })
    default:
      return cache.invalidate(`k:${k}:`)
  }
}

/**
 * @param {number} k
 * @param {'get' | 'load' | 'many' | 'child'} [how]
 */
async function read(k, how) {
  how ??= /** @type {const} */ (['get', 'get', 'load', 'load', 'many', 'child'])[next(6)]
  const key = `k:${k}:`
  let loaded = 1
  const begin = now()
  /** @type {{ n: number } | undefined} */
  let got
  /** @param {object} options */
  const fetcher = options => async (/** @type {string} */ _, /** @type {any} */ context) => {
    loaded = -1
    // Some say only at the end what they are tied to.
    const isLate = next(3) === 0
    if (!isLate) context.set(options)
    const value = made(truth(k))
    for (let wait = next(4); wait > 0; wait--) await turn()
    if (isLate) context.set(options)
    return value
  }
  const ties = tied(k)
  if (how === 'get') got = await watched('get', cache.get(key))
  else if (how === 'load') got = await watched('get with a fetcher', cache.get(key, fetcher(ties)))
  else if (how === 'child') {
    // Made from the key: what changes the key must cut it.
    got = await watched('get of what depends', cache.get(`made:${k}`, fetcher({ ...ties, dependsOn: [key, `parent:${k}`] })))
  } else {
    const many = await watched('getMany', cache.getMany([key], async () => ({})))
    got = many.get(key)
  }
  reads.push(`r ${k} ${got === undefined ? '-' : got.n * loaded} ${begin} ${now()} ${how}`)
  if (reads.length >= 100) flushReads()
}

let playing = false
/** @type {Promise<unknown> | undefined} */
let played
let pace = 0

/** @param {() => Promise<void>} action */
async function client(action) {
  while (playing) {
    await action()
    await turn()
    if (pace > 0 && next(8) === 0) await new Promise(resolve => setTimeout(resolve, next(pace)))
  }
}

function go() {
  playing = true
  const readers = [1, 2].map(() => client(() => read(next(part.keys))))
  played = Promise.all([client(part.own.length > 0 ? change : turn), ...readers])
  played.catch(error => die(`${error.code ?? ''} ${error.stack}`))
}

/** Everything has ended, and what was queued has arrived. */
async function pause() {
  playing = false
  await played
  flushReads()
  const end = performance.now() + 45_000
  for (;;) {
    try {
      await watched('flush', cache.flush())
      break
    } catch (error) {
      if (performance.now() > end) throw error
      await new Promise(resolve => setTimeout(resolve, 100))
    }
  }
  note(`F ${now()}`)
  // A tier that rests gives nothing: its trial is at most 30 s away.
  const rests = () => Object.values(cache.stats().tiers).some(({ breaker }) => breaker !== 'closed')
  for (let n = 0; n < 400 && rests(); n++) {
    await cache.get(`probe:${process.pid}:${n}`)
    await new Promise(resolve => setTimeout(resolve, 100))
  }
  if (rests()) throw new Error('a tier rests, with nothing wrong any more')
}

/** Each key as this process sees it. */
async function look() {
  for (let k = 0; k < part.keys; k++) await read(k, 'get')
  for (let k = 0; k < part.keys; k++) await read(k, 'load')
  flushReads()
}

/** @type {Record<string, (word: any) => unknown>} */
const DOES = {
  go: word => {
    pace = word.pace ?? 0
    go()
  },
  pause,
  look,
  quit: async () => {
    await watched('close', cache.close())
    flushReads()
    return { stats: failures, skew: Date.now() }
  },
  clock: () => Date.now()
}

process.on('message', async (/** @type {{ id: number, does: string }} */ word) => {
  try {
    const answer = await DOES[word.does]?.(word)
    process.send?.({ id: word.id, answer })
    if (word.does === 'quit') process.disconnect()
  } catch (error) {
    die(`${word.does}: ${/** @type {any} */ (error).code ?? ''} ${/** @type {Error} */ (error).stack}`)
  }
})
process.send?.({ ready: true })
