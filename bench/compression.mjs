// @ts-check
/**
 * `node bench/compression.mjs`: what compression costs the thread that JavaScript runs on.
 *
 * 1. Event-loop delay while JSON values of 100 KB are written, 100 a second, with each algorithm and without: p50 and p99
 *    of a histogram sampled each millisecond. Rounds are interleaved; medians of the rounds are printed.
 * 2. A warm hit of the engine by size and algorithm: `await cache.get(key)` of a string, so that decoding it is no part of
 *    the time. Values above an algorithm's limit are decompressed by a thread of the engine (marked *).
 *
 * Usage: node bench/compression.mjs [--rounds N] [--seconds S] [--json FILE]
 */
import { writeFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { KvCache } from 'kvcache'
import { machine } from './report.mjs'

const { values: given } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    seconds: { type: 'string', default: '3' },
    json: { type: 'string' }
  }
})
const rounds = Number(given.rounds)
const seconds = Number(given.seconds)

/** @type {Record<string, false | { algorithm: 'gzip' | 'zstd' | 'lz4' }>} */
const SETTINGS = {
  none: false,
  gzip: { algorithm: 'gzip' },
  zstd: { algorithm: 'zstd' },
  lz4: { algorithm: 'lz4' }
}
const NAMES = Object.keys(SETTINGS)
const SIZES = [1, 4, 16, 32, 64, 100, 1000]
/** Above these many KiB a worker decompresses, as `Algorithm::inline_limit` says. @type {Record<string, number>} */
const INLINE = { none: Infinity, gzip: 32, zstd: 64, lz4: 128 }

/** Records as an API answers them, from a fixed seed, of about so many bytes as JSON. */
function records(/** @type {number} */ bytes) {
  let seed = 42
  const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) / 2 ** 32
  const words = ['steel', 'wooden', 'compact', 'light', 'chair', 'table', 'lamp', 'shelf', 'black', 'green', 'oak', 'set']
  const word = () => words[Math.floor(random() * words.length)]
  const list = []
  for (let size = 2; size < bytes;) {
    const record = {
      id: Math.floor(random() * 1e9),
      name: `${word()} ${word()} ${word()}`,
      price: Math.round(random() * 1e5) / 100,
      stock: Math.floor(random() * 500),
      tags: [word(), word()],
      description: Array.from({ length: 12 }, word).join(' ')
    }
    list.push(record)
    size += JSON.stringify(record).length + 1
  }
  return list
}

const median = (/** @type {number[]} */ list) => list.sort((a, b) => a - b)[list.length >> 1]

/** @type {any} */
const results = { command: `node bench/compression.mjs --rounds ${rounds} --seconds ${seconds}`, ...machine() }

// --- Event-loop delay --------------------------------------------------------------------------------------------------

async function delay(/** @type {string} */ name) {
  const cache = new KvCache({ memory: '64mb', compression: SETTINGS[name] })
  const value = records(100_000)
  const histogram = monitorEventLoopDelay({ resolution: 1 })
  const end = performance.now() + seconds * 1000
  histogram.enable()
  for (let i = 0; performance.now() < end; i++) {
    await cache.put(`key:${i % 1000}`, value)
    await sleep(10)
  }
  histogram.disable()
  await cache.flush()
  const { bytes, bytesBeforeCompression } = cache.stats()
  await cache.close()
  return { p50: histogram.percentile(50) / 1e6, p99: histogram.percentile(99) / 1e6, left: bytes / bytesBeforeCompression }
}

/** @type {Record<string, { p50: number, p99: number, left: number }[]>} */
const delays = Object.fromEntries(NAMES.map(name => [name, []]))
await delay('gzip')
for (let round = 0; round < rounds; round++) {
  for (let i = 0; i < NAMES.length; i++) {
    const name = NAMES[(i + round) % NAMES.length]
    delays[name].push(await delay(name))
  }
}
console.log(`${results.command}\n${results.node} on ${results.cores} x ${results.cpu}, ${results.platform}, load ${results.load.toFixed(1)}, ${results.date}\n`)
console.log('Event-loop delay while 100 KB JSON values are written, 100 a second (ms, medians of rounds)')
const base = median(delays.none.map(({ p99 }) => p99))
results.delays = {}
for (const name of NAMES) {
  const p50 = median(delays[name].map(one => one.p50))
  const p99 = median(delays[name].map(one => one.p99))
  const left = median(delays[name].map(one => one.left))
  results.delays[name] = { p50, p99, ratio: p99 / base, left }
  console.log(`${name.padEnd(6)} p99 ${(p99 / base).toFixed(2)}x  p50 ${p50.toFixed(2)}  p99 ${p99.toFixed(2)}  ` +
    `bytes left ${(left * 100).toFixed(0)} %`)
}

// --- Warm hits -----------------------------------------------------------------------------------------------------------

const caches = Object.fromEntries(NAMES.map(name => {
  return [name, new KvCache({ memory: '64mb', near: false, compression: SETTINGS[name] })]
}))
results.hits = {}
console.log('\nA warm hit of the engine, microseconds (medians of rounds; * decompressed by a thread of the engine)')
console.log(['KB', ...NAMES].map(text => text.padStart(9)).join(''))
for (const size of SIZES) {
  const text = JSON.stringify(records(size * 1000))
  const times = /** @type {Record<string, number[]>} */ (Object.fromEntries(NAMES.map(name => [name, []])))
  for (const name of NAMES) {
    await caches[name].put('k', text)
    await caches[name].flush()
  }
  const n = Math.max(20, Math.floor(3000 / size))
  for (let round = 0; round < rounds * 3; round++) {
    for (const name of NAMES) {
      const cache = caches[name]
      const start = process.hrtime.bigint()
      for (let i = 0; i < n; i++) if (/** @type {string} */ (await cache.get('k')).length !== text.length) throw new Error('another value')
      times[name].push(Number(process.hrtime.bigint() - start) / 1000 / n)
    }
  }
  results.hits[size] = Object.fromEntries(NAMES.map(name => [name, median(times[name])]))
  const cells = NAMES.map(name => {
    const mark = text.length > INLINE[name] * 1024 ? '*' : ' '
    return `${results.hits[size][name].toFixed(1)}${mark}`.padStart(9)
  })
  console.log(String(size).padStart(9) + cells.join(''))
}
for (const cache of Object.values(caches)) await cache.close()
if (given.json !== undefined) writeFileSync(given.json, JSON.stringify(results, null, 2))
