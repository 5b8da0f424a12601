// @ts-check
/**
 * What is measured.
 *
 * Every case checks as it runs that each answer is the right one and how often the fetcher was called, and throws if
 * not: a cache that is fast and wrong has no time to show.
 */
import assert from 'node:assert/strict'
import { allocated, each, watch } from './watch.mjs'

/** @typedef {import('./peers.mjs').Peer} Peer */

/** @typedef {(ops: number) => Promise<import('./watch.mjs').Took>} Prepared runs one round; what an operation took */

/**
 * @typedef {object} Case
 * @property {string} title
 * @property {string} how what one operation is
 * @property {(peer: Peer) => Promise<Prepared>} prepare what is not measured
 * @property {number} ops operations a round
 */

/**
 * A key of 25 bytes, flat in memory (not a rope that the first user would have to join).
 * @param {string} group
 * @param {number} n
 * @returns {string}
 */
export function keyOf(group, n) {
  return Buffer.from(`${group}:${String(n).padStart(24 - group.length, '0')}`).toString('latin1')
}

/** @param {number} id */
const small = id => ({ id, name: 'Ada Lovelace', email: 'ada@example.com', active: true, roles: ['admin', 'author'] })

/** So long that the object is of 990 bytes as JSON, and the string of as many: below what is compressed by default. */
const BODY = 'It was a dark and stormy night; the cache was cold. '.repeat(17)
/**
 * Spelled out and not `{ ...small(id), body }`: the V8 of Node 20 gives each object made that way a hidden class of its own, which costs a fetcher
 * more than some caches take for the rest of a miss.
 * @param {number} id
 */
export const medium = id => ({
  id, name: 'Ada Lovelace', email: 'ada@example.com', active: true, roles: ['admin', 'author'], body: BODY
})
/** @param {number} id */
const plain = id => String(id).padStart(8, '0').padEnd(990, BODY)

/** Room for all values of a hit round, and for a tenth of those of a miss round. */
const ROOM = { items: 20_000, memory: '256mb' }
const SMALL_ROOM = { items: 5_000, memory: '8mb' }

/**
 * One caller who awaits each answer, over 10,000 keys in a random order, all fresh.
 * @param {(id: number) => any} make
 * @param {(value: any) => number} idOf
 * @returns {Case['prepare']}
 */
function hits(make, idOf) {
  return async peer => {
    const keys = Array.from({ length: 10_000 }, (_, n) => keyOf('user', n))
    const ids = new Map(keys.map((key, n) => [key, n]))
    let fetched = 0
    const { get } = peer.open(key => {
      fetched++
      return make(Number(ids.get(key)))
    }, ROOM)
    for (const key of keys) await get(key)
    assert.equal(fetched, keys.length)

    return async ops => {
      const order = Uint16Array.from({ length: ops }, () => Math.random() * keys.length)
      const stop = watch()
      for (let i = 0; i < ops; i++) {
        const id = order[i]
        if (idOf(await get(keys[id])) !== id) throw new Error(`wrong value for ${keys[id]}`)
      }
      const took = each(ops, stop())
      assert.equal(fetched, keys.length, 'a hit called the fetcher')
      for (let n = 0; n < keys.length; n += 97) assert.deepEqual(await get(keys[n]), make(n))
      return took
    }
  }
}

/** Keys of the near cases, and their skew: s of Zipf's law. */
const ZIPF_KEYS = 10_000
const ZIPF_S = 0.99
/** Reads whose allocations are counted together. */
const COUNTED = 200

/**
 * Places of keys drawn by Zipf's law, always the same ones.
 * @param {number} ops
 */
function zipf(ops) {
  const sums = new Float64Array(ZIPF_KEYS)
  for (let n = 0, sum = 0; n < ZIPF_KEYS; n++) sums[n] = sum += 1 / (n + 1) ** ZIPF_S
  let seed = 1
  const draw = () => {
    // Numerical Recipes' linear congruential generator.
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
    const at = (seed / 2 ** 32) * sums[ZIPF_KEYS - 1]
    let [low, high] = [0, ZIPF_KEYS - 1]
    while (low < high) {
      const middle = (low + high) >> 1
      if (sums[middle] < at) low = middle + 1
      else high = middle
    }
    return low
  }
  return Uint16Array.from({ length: ops }, draw)
}

/**
 * One caller who reads by Zipf's law what is all fresh and has been read before.
 * @param {'get' | 'getWithOptions' | 'peek'} how
 * @returns {Case['prepare']}
 */
function nearHits(how) {
  return async peer => {
    const keys = Array.from({ length: ZIPF_KEYS }, (_, n) => keyOf('user', n))
    const ids = new Map(keys.map((key, n) => [key, n]))
    let fetched = 0
    const opened = peer.open(key => {
      fetched++
      return small(Number(ids.get(key)))
    }, ROOM)
    const read = opened[how] ?? opened.get
    for (const key of keys) await opened.get(key)
    for (const key of keys) await opened.get(key)
    let order = new Uint16Array()

    return async ops => {
      if (order.length !== ops) order = zipf(ops)
      // Whoever lets a clock sleep has it awake, and what it keeps of each key at hand.
      for (let round = 0; round < 2; round++) for (const key of keys) await opened.get(key)
      await new Promise(resolve => setTimeout(resolve, 100))
      const stop = watch()
      if (how === 'peek') readAll(read, keys, order)
      else await getAll(read, keys, order)
      const took = each(ops, stop())
      took.bytes = await allocated(COUNTED, run => {
        const few = order.subarray(run * COUNTED, (run + 1) * COUNTED)
        return (how === 'peek' ? readAll : getAll)(read, keys, few)
      })
      assert.equal(fetched, keys.length, 'a hit called the fetcher')
      return took
    }
  }
}

/**
 * @param {(key: string) => any} read
 * @param {string[]} keys
 * @param {Uint16Array} order
 */
async function getAll(read, keys, order) {
  for (let i = 0; i < order.length; i++) {
    const id = order[i]
    if ((await read(keys[id])).id !== id) throw new Error(`wrong value for ${keys[id]}`)
  }
}

/**
 * @param {(key: string) => any} read
 * @param {string[]} keys
 * @param {Uint16Array} order
 */
function readAll(read, keys, order) {
  for (let i = 0; i < order.length; i++) {
    const id = order[i]
    if (read(keys[id]).id !== id) throw new Error(`wrong value for ${keys[id]}`)
  }
}

/**
 * One caller who awaits each answer, never the same key twice, a fetcher that answers at once. The cache is full for
 * most of the round, so that making room is part of it.
 * @type {Case['prepare']}
 */
async function misses(peer) {
  return async ops => {
    const keys = Array.from({ length: ops }, (_, n) => keyOf('miss', n))
    let fetched = 0
    const { get, close } = peer.open(() => medium(fetched++), SMALL_ROOM)
    const stop = watch()
    for (let i = 0; i < ops; i++) {
      if ((await get(keys[i])).id !== i) throw new Error(`wrong value for ${keys[i]}`)
    }
    const took = each(ops, stop())
    assert.equal(fetched, ops, 'each miss calls the fetcher once')
    assert.deepEqual(await get(keys[ops - 1]), medium(ops - 1))
    assert.equal(fetched, ops, 'the last value is cached')
    await close()
    return took
  }
}

/** Callers of one missing key at a time. */
const CROWD = 10_000

/**
 * 10,000 gets of one missing key before the fetcher answers, which it does as soon as all have asked; until the last of
 * them has its answer. A few keys, one after the other.
 * @type {Case['prepare']}
 */
async function stampede(peer) {
  let fetched = 0
  /** @type {(value: any) => void} */
  let answer = () => {}
  const { get } = peer.open(() => {
    fetched++
    return new Promise(resolve => { answer = resolve })
  }, ROOM)

  return async ops => {
    const crowds = Math.max(1, Math.round(ops / CROWD))
    const took = []
    for (let crowd = 0; crowd < crowds; crowd++) {
      const before = fetched
      const key = keyOf('stampede', before)
      /** @type {Promise<any>[]} */
      const gets = new Array(CROWD)
      globalThis.gc?.()
      const stop = watch()
      for (let i = 0; i < CROWD; i++) gets[i] = get(key)
      // A cache may call its fetcher only after a few turns of the event loop.
      while (fetched === before) await new Promise(resolve => setImmediate(resolve))
      answer(medium(before))
      const values = await Promise.all(gets)
      took.push(stop())

      assert.equal(fetched, before + 1, 'one fetch a key')
      for (const value of values) if (value.id !== before) throw new Error(`wrong value for ${key}`)
    }
    return each(crowds * CROWD, ...took)
  }
}

/** @type {Record<string, Case>} */
export const CASES = {
  near: {
    title: 'Near hit, object of 100 bytes',
    how: `one awaited get of a fresh value read before; 10,000 keys by Zipf's law (s = ${ZIPF_S})`,
    prepare: nearHits('get'),
    ops: 300_000
  },
  'near-options': {
    title: 'Near hit, with a literal of options in each call',
    how: "as before; where get() takes no options, without them",
    prepare: nearHits('getWithOptions'),
    ops: 300_000
  },
  peek: {
    title: 'Near hit by peek()',
    how: 'one synchronous read of a fresh value; keys as before',
    prepare: nearHits('peek'),
    ops: 300_000
  },
  'hit-small': {
    title: 'Hit, object of 100 bytes',
    how: 'one awaited get of a fresh value; 10,000 keys in random order',
    prepare: hits(small, value => value.id),
    ops: 60_000
  },
  'hit-1k': {
    title: 'Hit, object of 1 KB',
    how: 'one awaited get of a fresh value; 10,000 keys in random order',
    prepare: hits(medium, value => value.id),
    ops: 60_000
  },
  'hit-text': {
    title: 'Hit, string of 1 KB',
    how: 'one awaited get of a fresh value; 10,000 keys in random order',
    prepare: hits(plain, value => Number(value.slice(0, 8))),
    ops: 60_000
  },
  miss: {
    title: 'Miss, object of 1 KB',
    how: 'one awaited get of a new key, with a fetcher that answers at once; the cache full, so something is evicted',
    prepare: misses,
    ops: 30_000
  },
  stampede: {
    title: 'Stampede, object of 1 KB',
    how: 'one of 10,000 concurrent gets of one missing key, from the first call to the last answer, one fetch',
    prepare: stampede,
    ops: 3 * CROWD
  }
}
