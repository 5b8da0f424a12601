// @ts-check
// Guards the Workers KV interface of a cache by the original: each call is made on `cache.asKVNamespace()` and on a
// real namespace inside workerd, and what callers can see must be the same, from the order of properties to the text of
// errors.
//
// KVCACHE_KV_SEEDS=1000 runs that many random sequences instead of 20.

import { after, before, describe } from 'node:test'
import { KvCache, assert, test } from './helpers/kv.mjs'
import { runAll } from './helpers/kv-program.mjs'
import { everyCall } from './helpers/kv-calls.mjs'
import { randomCalls } from './helpers/kv-random.mjs'
import { startWorkerd } from './helpers/workerd.mjs'

/** @typedef {import('./helpers/kv-program.mjs').Step} Step */
/** @typedef {import('./helpers/kv-program.mjs').Result} Result */

/** Random sequences, by their seeds, and calls of each. A failure names its seed. */
const SEEDS = Array.from({ length: Number(process.env.KVCACHE_KV_SEEDS ?? 20) }, (_, i) => i + 1)
const CALLS = 400

describe('beside a real Workers KV namespace', () => {
  /** @type {Awaited<ReturnType<typeof startWorkerd>>} */
  let workerd

  before(async () => {
    workerd = await startWorkerd()
  })
  after(() => workerd?.stop())

  for (const [name, steps] of Object.entries(everyCall())) {
    // Values of 25 MiB go one at a time, for a Worker has 128 MiB.
    const together = JSON.stringify(steps).includes('"times":26') ? 1 : 1000
    test(name, async () => compare(workerd, steps, together), { timeout: 240_000 })
  }

  for (const seed of SEEDS) {
    test(`${CALLS} random calls of seed ${seed}`, async () => compare(workerd, randomCalls(seed, CALLS), CALLS), {
      timeout: 120_000
    })
  }
})

/**
 * Makes calls on both, each beginning empty, and compares them one by one.
 * @param {Awaited<ReturnType<typeof startWorkerd>>} workerd
 * @param {Step[]} steps
 * @param {number} together calls in one request to workerd
 */
async function compare(workerd, steps, together) {
  const cache = new KvCache({ memory: '256mb' })
  try {
    await workerd.clear()
    const theirs = await workerd.runAll(steps, together)
    const ours = await runAll(cache.asKVNamespace(), steps)
    for (const i of steps.keys()) {
      const history = JSON.stringify(steps.slice(Math.max(0, i - 3), i + 1)).slice(-2000)
      assert.deepEqual(aligned(ours[i], theirs[i]), theirs[i], `call ${i}, the last of ${history}`)
    }
    assert.ok(steps.length > 0)
  } finally {
    await cache.close()
  }
}

/** How far apart the two may compute a moment from now, in seconds: the first has finished before the second begins. */
const APART = 100

/**
 * Ours, with theirs in the place of what two runs cannot have in common: an expiration computed from the time of the
 * call, and the message of a SyntaxError, which is V8's and differs from one version to the next.
 * @param {any} ours
 * @param {any} theirs
 * @returns {any}
 */
function aligned(ours, theirs) {
  if (typeof ours !== 'object' || ours === null || typeof theirs !== 'object' || theirs === null) return ours
  if (Array.isArray(ours)) {
    const [name, value] = ours
    if (name === 'expiration' && Math.abs(value - theirs[1]) < APART) return theirs
    return ours.map((one, i) => aligned(one, theirs[i]))
  }
  if (ours.class === 'SyntaxError' && theirs.class === 'SyntaxError') return { ...ours, message: theirs.message }
  if (typeof ours.message === 'string') {
    const moment = /Invalid expiration of (\d+)/
    const [a, b] = [moment.exec(ours.message)?.[1], moment.exec(theirs.message)?.[1]]
    return a !== undefined && b !== undefined && Math.abs(Number(a) - Number(b)) < APART
      ? { ...ours, message: ours.message.replace(a, b) }
      : ours
  }
  return Object.fromEntries(Object.entries(ours).map(([name, one]) => [name, aligned(one, theirs[name])]))
}
