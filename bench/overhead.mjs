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
import { keyOf, medium } from './cases.mjs'
import { rowsOf } from './report.mjs'
import { each, watch } from './watch.mjs'
import { Core } from '../lib/core.js'
import { H, Status, header, native } from '../lib/native.js'
import { cacheOptions } from '../lib/options.js'
import { Kind, decode, freeze } from '../lib/values.js'

/** Its name among the cases. */
export const OVERHEAD = 'overhead'

const KEYS = 10_000
const { serializer } = cacheOptions()
const value = medium(1)
const json = JSON.stringify(value)
const keys = Array.from({ length: KEYS }, (_, n) => keyOf('user', n))

/**
 * A cache without its face.
 * @param {string | undefined} text what to fill it with, as JSON
 * @returns {Core}
 */
function filled(text) {
  const core = new Core(cacheOptions({ near: false }))
  if (text === undefined) return core
  header[H.IN_MAX_AGE] = header[H.IN_STALE_AGE] = header[H.IN_STALE_IF_ERROR] = 3_600_000
  header[H.IN_ROUTE] = 0
  for (const key of keys) {
    native.put(core.number, key, Kind.Json, text, '', '')
    assert.equal(header[H.STATUS], Status.Done)
  }
  return core
}

/** No cache has this number: the addon looks at nothing else of such a call. */
const NO_CACHE = 0xf_ffff

/**
 * @param {number} rounds
 * @param {number} ops a round and step
 * @returns {Promise<import('./report.mjs').CaseResult>}
 */
export async function overhead(rounds, ops) {
  const cores = [filled(undefined), filled('1'), filled(json)]
  const [empty, tiny, full] = cores.map(core => core.number)
  const cache = new KvCache({ maxAge: '30m', near: false })
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

  /** What each step took with all before it, by round. @type {import('./watch.mjs').Took[][]} */
  const totals = [...steps, last].map(() => [])
  for (let round = -1; round < rounds; round++) {
    for (const [n, [name, expected, run]] of steps.entries()) {
      seen = 0
      globalThis.gc?.()
      const stop = watch()
      run()
      if (round >= 0) totals[n].push(each(ops, stop()))
      assert.equal(seen, expected, name)
    }
    globalThis.gc?.()
    const stop = watch()
    for (let i = 0; i < ops; i++) if ((await cache.get(keys[order[i]])) === undefined) throw new Error('a hit missed')
    if (round >= 0) totals[steps.length].push(each(ops, stop()))
  }
  assert.deepEqual(await cache.get(keys[0]), value)
  await cache.close()
  for (const core of cores) await core.close(0)

  const names = [...steps.map(([name]) => name), last]
  const added = names.map((_, n) => (n === 0 ? totals[0] : differences(totals[n], totals[n - 1])))
  const rows = rowsOf([
    ['await cache.get(key)', totals[steps.length]],
    ...names.map((name, n) => /** @type {[string, import('./watch.mjs').Took[]]} */ ([name, added[n]]))
  ])
  return {
    name: OVERHEAD,
    title: 'Where the time of a kvcache hit goes, object of 1 KB',
    how: 'what each step adds to those before it; the ratio is its share of the whole get',
    rows
  }
}

/**
 * What one step took more than another. Rounds are paired by rank, so that one that was disturbed is compared with one
 * that was, too.
 * @param {import('./watch.mjs').Took[]} more
 * @param {import('./watch.mjs').Took[]} less
 * @returns {import('./watch.mjs').Took[]}
 */
function differences(more, less) {
  /** @param {import('./watch.mjs').Took[]} took @param {'wall' | 'cpu'} clock */
  const ranked = (took, clock) => took.map(one => one[clock]).sort((a, b) => a - b)
  const [moreWall, lessWall] = [ranked(more, 'wall'), ranked(less, 'wall')]
  const [moreCpu, lessCpu] = [ranked(more, 'cpu'), ranked(less, 'cpu')]
  return more.map((_, n) => ({ wall: moreWall[n] - lessWall[n], cpu: moreCpu[n] - lessCpu[n] }))
}
