// @ts-check
/**
 * Four worker threads over the same 100,000 objects: one kvcache by name, or an lru-cache in each thread. What it costs
 * in memory and fetches, what the threads read in all, what each kind of hit costs, and what `near.max` buys.
 *
 * Usage: node bench/threads.mjs [--objects N] [--threads N] [--seconds N]
 *   --objects  default 100000, of about 2 KB as JSON
 *   --threads  default 4
 *   --seconds  of reading, by Zipf's law (s = 1), default 5
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
import { LRUCache } from 'lru-cache'
import { KvCache } from '../index.js'
import { product, random } from './products.mjs'
import { machine, median } from './report.mjs'

const SCRIPT = fileURLToPath(import.meta.url)
/** Of first gets: keys in a round, and rounds; all of them fit the near cache. */
const FIRST_KEYS = 300
const FIRST_ROUNDS = 30

/**
 * @typedef {object} Work
 * @property {string} peer 'kvcache' or 'lru-cache'
 * @property {number} objects
 * @property {number} threads
 * @property {number} seconds
 * @property {number} nearMax
 */

/**
 * @param {Work} work
 * @param {() => void} fetched
 * @returns {(key: string) => Promise<any>}
 */
function open({ peer, objects, nearMax }, fetched) {
  const fetcher = async (/** @type {string} */ key) => {
    fetched()
    return product(key)
  }
  if (peer === 'kvcache') {
    const cache = new KvCache({ name: 'bench', memory: '1gb', near: { max: nearMax, maxBytes: '1gb' }, maxAge: '1h' })
    return key => cache.get(key, fetcher)
  }
  const cache = new LRUCache({ max: objects, ttl: 3_600_000, fetchMethod: fetcher })
  return key => cache.fetch(key)
}

/** One thread: reads all objects once, and then by Zipf's law. */
async function runWorker() {
  /** @type {Work & { thread: number }} */
  const work = workerData
  const { objects, threads, seconds, thread } = work
  let fetches = 0
  const get = open(work, () => fetches++)
  // Each begins elsewhere.
  for (let n = 0; n < objects; n++) await get(`product:${(n + (thread * objects) / threads) % objects | 0}`)
  parentPort?.postMessage('filled')
  await once(/** @type {import('node:worker_threads').MessagePort} */ (parentPort), 'message')
  const keys = Array.from({ length: 100_000 }, () => `product:${Math.min(objects - 1, Math.floor(objects ** random()) - 1)}`)
  let gets = 0
  const end = performance.now() + seconds * 1000
  while (performance.now() < end) for (let n = 0; n < 1000; n++) await get(keys[gets++ % keys.length])
  parentPort?.postMessage({ gets, fetches })
  // Stays, with its cache, so that its memory is seen.
  await once(/** @type {import('node:worker_threads').MessagePort} */ (parentPort), 'message')
  await get('product:0')
}

/** @param {Work} work */
async function runProcess(work) {
  const workers = Array.from({ length: work.threads }, (_, thread) => new Worker(SCRIPT, { workerData: { ...work, thread } }))
  await Promise.all(workers.map(worker => once(worker, 'message')))
  // A moment for compression to end.
  await new Promise(resolve => setTimeout(resolve, 2000))
  for (const worker of workers) worker.postMessage('go')
  const results = await Promise.all(workers.map(worker => once(worker, 'message')))
  const sum = (/** @type {'gets' | 'fetches'} */ field) => results.reduce((total, [result]) => total + result[field], 0)
  let nearShare = 0
  if (work.peer === 'kvcache') {
    await new Promise(resolve => setTimeout(resolve, 1000))
    const { nearHits, hits } = new KvCache({ name: 'bench' }).stats()
    nearShare = nearHits / hits
  }
  const rss = process.memoryUsage.rss() / 2 ** 20
  process.send?.({ gets: sum('gets') / work.seconds, fetches: sum('fetches'), rss, nearShare })
  process.exit()
}

/**
 * @param {Work} work
 * @returns {Promise<{ gets: number, fetches: number, rss: number, nearShare: number }>}
 */
async function measure(work) {
  const child = fork(SCRIPT, ['--work', JSON.stringify(work)], { execArgv: ['--max-old-space-size=12000'] })
  const [result] = await once(child, 'message')
  return result
}

/** What one hit of each kind costs in one thread: medians, nanoseconds. */
async function costs() {
  const keys = Array.from({ length: 2000 }, (_, n) => `product:${n}`)
  const text = JSON.stringify(product('product:1'))
  /** @type {[string, import('../index.js').KvCacheOptions, any][]} */
  const kinds = [
    ['near hit', {}, undefined],
    ['engine hit, a string: call, look-up, value', { near: false, compression: false }, text],
    ['engine hit, an object: and its decoding', { near: false, compression: false }, undefined],
    ['engine hit, an object compressed by gzip: and its decompression', { near: false }, undefined],
    ['engine hit, an object compressed by lz4', { near: false, compression: { algorithm: 'lz4' } }, undefined]
  ]
  const parse = []
  for (let round = 0; round < 15; round++) {
    const start = performance.now()
    for (let n = 0; n < keys.length; n++) JSON.parse(text)
    parse.push(((performance.now() - start) * 1e6) / keys.length)
  }
  console.log(`${'JSON.parse of such an object'.padEnd(66)} ${median(parse).toFixed(0).padStart(7)} ns`)
  for (const [name, options, value] of kinds) {
    const cache = new KvCache({ ...options, maxAge: '1h' })
    for (const key of keys) await cache.put(key, value ?? product(key))
    await cache.flush()
    const took = []
    for (let round = 0; round < 15; round++) {
      const start = performance.now()
      for (const key of keys) await cache.get(key)
      took.push(((performance.now() - start) * 1e6) / keys.length)
      await new Promise(resolve => setTimeout(resolve, 5))
    }
    await cache.close()
    console.log(`${name.padEnd(66)} ${median(took).toFixed(0).padStart(7)} ns`)
  }
}

/**
 * The first get of each of many keys in a thread other than the one that put them, beside JSON.parse of the same texts in that
 * thread, in turn: medians of the rounds. The values are not compressed, the near cache has room.
 */
async function firstGets() {
  const options = { name: 'first', compression: /** @type {false} */ (false), maxAge: '1h' }
  const cache = new KvCache(options)
  const keys = Array.from({ length: FIRST_ROUNDS * FIRST_KEYS }, (_, n) => `product:${n}`)
  const texts = []
  for (const key of keys) {
    const value = product(key)
    texts.push(JSON.stringify(value))
    await cache.put(key, value)
  }
  const worker = new Worker(SCRIPT, { workerData: { first: options, keys, texts } })
  const [{ get, parse }] = await once(worker, 'message')
  await cache.close()
  const most = 1.3 * parse + 1000
  console.log(`${'first get in another thread, not compressed'.padEnd(66)} ${get.toFixed(0).padStart(7)} ns, ` +
    `JSON.parse ${parse.toFixed(0)} ns there: ${(get / most).toFixed(2)} of 1.3 times that and 1 us`)
}

/** The other thread of {@link firstGets}. */
async function runFirst() {
  const { first, keys, texts } = workerData
  const cache = new KvCache(first)
  /** @type {{ get: number[], parse: number[] }} */
  const took = { get: [], parse: [] }
  for (let round = 0; round < FIRST_ROUNDS; round++) {
    const from = round * FIRST_KEYS
    const begin = performance.now()
    for (let n = from; n < from + FIRST_KEYS; n++) JSON.parse(texts[n])
    const parsed = performance.now()
    for (let n = from; n < from + FIRST_KEYS; n++) await cache.get(keys[n])
    const got = performance.now()
    // What runs before V8 has optimized it is not counted.
    if (round < FIRST_ROUNDS / 2) continue
    took.parse.push(((parsed - begin) * 1e6) / FIRST_KEYS)
    took.get.push(((got - parsed) * 1e6) / FIRST_KEYS)
  }
  parentPort?.postMessage({ get: median(took.get), parse: median(took.parse) })
  await cache.close()
}

async function main() {
  const { values: given } = parseArgs({
    options: {
      objects: { type: 'string', default: '100000' },
      threads: { type: 'string', default: '4' },
      seconds: { type: 'string', default: '5' },
      work: { type: 'string' }
    }
  })
  if (given.work !== undefined) return runProcess(JSON.parse(given.work))
  const [objects, threads, seconds] = [given.objects, given.threads, given.seconds].map(Number)
  const { node, cpu, cores, date, load } = machine()
  console.log(`Node ${node.slice(1)}, ${cores} x ${cpu}, ${date}, load average ${load.toFixed(1)}: ${threads} threads, ` +
    `${objects} objects of ${JSON.stringify(product('product:12345')).length} bytes`)
  await costs()
  await firstGets()
  console.log('\n                             memory, MB   fetches     gets a second   answered near')
  /** @param {string} name @param {Awaited<ReturnType<typeof measure>>} result */
  const print = (name, { rss, fetches, gets, nearShare }) =>
    console.log(`${name.padEnd(28)} ${rss.toFixed(0).padStart(10)} ${String(fetches).padStart(9)} ` +
      `${gets.toFixed(0).padStart(17)} ${`${(100 * nearShare).toFixed(1)} %`.padStart(15)}`)
  const base = { objects, threads, seconds }
  const lru = await measure({ ...base, peer: 'lru-cache', nearMax: 0 })
  print(`lru-cache in each thread`, lru)
  for (const nearMax of [100, 1000, 10_000, 100_000]) {
    const one = await measure({ ...base, peer: 'kvcache', nearMax })
    print(`kvcache, near.max ${nearMax}`, one)
    if (nearMax === 10_000) console.log(`${''.padEnd(28)} ${(one.rss / lru.rss).toFixed(2).padStart(10)} of lru-cache's memory`)
  }
}

await (isMainThread ? main() : workerData.first === undefined ? runWorker() : runFirst())
