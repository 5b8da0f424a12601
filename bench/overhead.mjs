// @ts-check
/**
 * Where the time of a kvcache hit goes: each step added to the one before, and what it adds. The steps are the addon's
 * own calls, on an engine filled like the cache of the hit cases (10,000 keys of 25 bytes, an object of 1 KB as JSON).
 *
 * A key cannot be handed over without being looked up, so the first look-up is in an empty cache: it counts as handing
 * the key over, and takes the hash of it along.
 */
import assert from 'node:assert/strict'
import { KvCache } from '../index.js'
import { keyOf } from './cases.mjs'
import { median } from './report.mjs'
import { H, Status, close, header, native, open } from '../lib/native.js'
import { cacheOptions } from '../lib/options.js'
import { Kind, decode, freeze } from '../lib/values.js'

/** Its name among the cases. */
export const OVERHEAD = 'overhead'

const KEYS = 10_000
const { serializer } = cacheOptions()
const value = {
  id: 1,
  name: 'Ada Lovelace',
  email: 'ada@example.com',
  active: true,
  roles: ['admin', 'author'],
  body: 'It was a dark and stormy night; the cache was cold. '.repeat(18)
}
const json = JSON.stringify(value)
const keys = Array.from({ length: KEYS }, (_, n) => keyOf('user', n))

/** Receivers of the engines below: they have no events to receive, but an engine lives only as long as its receiver. */
class Receiver {
  /** @param {unknown} _event */
  receive(_event) {}
}

/**
 * @param {Receiver} receiver
 * @param {string | undefined} text what to fill it with
 * @returns {number}
 */
function engine(receiver, text) {
  const number = open(receiver, {
    memory: 256 * 1024 ** 2,
    concurrency: 1,
    maxQueued: 1,
    retries: 0,
    backoff: 100,
    cooldown: 1000,
    breakerThreshold: 0,
    breakerTimeout: 0
  })
  if (text === undefined) return number
  header[H.IN_MAX_AGE] = header[H.IN_STALE_AGE] = header[H.IN_STALE_IF_ERROR] = 3_600_000
  header[H.IN_ROUTE] = 0
  for (const key of keys) {
    native.put(number, key, Kind.Json, text, '')
    assert.equal(header[H.STATUS], Status.Done)
  }
  return number
}

/** No cache has this number: the addon looks at nothing else of such a call. */
const NO_CACHE = 0xffff_ffff

/**
 * @param {number} rounds
 * @param {number} ops a round and step
 * @returns {Promise<import('./report.mjs').CaseResult>}
 */
export async function overhead(rounds, ops) {
  const receivers = [new Receiver(), new Receiver(), new Receiver()]
  const [empty, tiny, full] = [engine(receivers[0], undefined), engine(receivers[1], '1'), engine(receivers[2], json)]
  const cache = new KvCache({ maxAge: '30m' })
  for (const key of keys) await cache.put(key, value)
  const order = Uint16Array.from({ length: ops }, () => Math.random() * KEYS)
  let seen = 0

  /** Each with all that the one before it does. @type {[name: string, expected: number, run: () => void][]} */
  const steps = [
    ['the loop itself', 0, () => {
      for (let i = 0; i < ops; i++) if (keys[order[i]] === undefined) seen++
    }],
    ['entering and leaving the addon', 0, () => {
      for (let i = 0; i < ops; i++) if (native.lookup(NO_CACHE, keys[order[i]], 0) !== undefined) seen++
    }],
    ['the key: handing over, hashing', 0, () => {
      for (let i = 0; i < ops; i++) if (native.lookup(empty, keys[order[i]], 0) !== undefined) seen++
    }],
    ['the look-up, with a value of one byte', ops, () => {
      for (let i = 0; i < ops; i++) if (native.lookup(tiny, keys[order[i]], 0) !== undefined) seen++
    }],
    ['the value: 1 KB handed back as a string', ops, () => {
      for (let i = 0; i < ops; i++) if (native.lookup(full, keys[order[i]], 0) !== undefined) seen++
    }],
    ['decoding: JSON.parse', ops, () => {
      for (let i = 0; i < ops; i++) {
        const key = keys[order[i]]
        if (decode(Kind.Json, /** @type {any} */ (native.lookup(full, key, 0)), serializer, key) !== undefined) seen++
      }
    }],
    ['freezing', ops, () => {
      for (let i = 0; i < ops; i++) {
        const key = keys[order[i]]
        const decoded = decode(Kind.Json, /** @type {any} */ (native.lookup(full, key, 0)), serializer, key)
        if (freeze(decoded, Kind.Json)) seen++
      }
    }]
  ]
  const last = 'get(): its own work, the promise, the await'

  /** Nanoseconds of each step with all before it, by round. @type {number[][]} */
  const totals = [...steps, last].map(() => [])
  for (let round = -1; round < rounds; round++) {
    for (const [n, [name, expected, run]] of steps.entries()) {
      seen = 0
      globalThis.gc?.()
      const start = process.hrtime.bigint()
      run()
      if (round >= 0) totals[n].push(Number(process.hrtime.bigint() - start) / ops)
      assert.equal(seen, expected, name)
    }
    globalThis.gc?.()
    const start = process.hrtime.bigint()
    for (let i = 0; i < ops; i++) if ((await cache.get(keys[order[i]])) === undefined) throw new Error('a hit missed')
    if (round >= 0) totals[steps.length].push(Number(process.hrtime.bigint() - start) / ops)
  }
  assert.deepEqual(await cache.get(keys[0]), value)
  await cache.close()
  for (const [n, number] of [empty, tiny, full].entries()) close(receivers[n], number)

  const whole = totals[steps.length]
  const rows = [{ peer: 'await cache.get(key)', ratio: 1, ns: whole }]
  for (const [n, name] of [...steps.map(([name]) => name), last].entries()) {
    // Rounds are paired by rank, so that one that was disturbed is compared with one that was.
    const ns = n === 0 ? totals[0] : differences(totals[n], totals[n - 1])
    rows.push({ peer: name, ratio: median(ns) / median(whole), ns })
  }
  return {
    name: OVERHEAD,
    title: 'Where the time of a kvcache hit goes, object of 1 KB',
    how: 'what each step adds to those before it; the ratio is its share of the whole get',
    rows
  }
}

/**
 * @param {number[]} more
 * @param {number[]} less
 * @returns {number[]}
 */
function differences(more, less) {
  const sorted = less.toSorted((a, b) => a - b)
  return more.toSorted((a, b) => a - b).map((ns, rank) => ns - sorted[rank])
}
