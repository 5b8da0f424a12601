// @ts-check
/**
 * What holding much costs a process: resident memory, garbage collection pauses and event-loop delay, of kvcache and
 * lru-cache with the same objects under the same load, each in a process of its own, one after the other.
 *
 * 500,000 objects of about 2 KB as JSON; then for 30 s gets arrive at a fixed rate, whatever the cache does meanwhile
 * (open loop): four of five read by Zipf's law what is there, one is of a new key and calls the fetcher.
 *
 * Usage: node --expose-gc bench/memory.mjs [--objects N] [--seconds N] [--rate N] [--json FILE]
 *   --objects  default 500000
 *   --seconds  default 30
 *   --rate     gets a second, default 10000
 *
 * The fetcher makes its object of words anew, work that is no cache's and the same for both. The share of time that the main thread was
 * busy is printed: near 1 the machine is saturated, and delays show how long it takes to catch up rather than what
 * interrupted it. Then a lower rate is the one to compare by.
 */
import { fork } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { PerformanceObserver, monitorEventLoopDelay } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { LRUCache } from 'lru-cache'
import { KvCache } from '../index.js'
import { product, random } from './products.mjs'
import { machine } from './report.mjs'

const { values: given } = parseArgs({
  options: {
    objects: { type: 'string', default: '500000' },
    seconds: { type: 'string', default: '30' },
    rate: { type: 'string', default: '10000' },
    json: { type: 'string' },
    peer: { type: 'string' }
  }
})
const objects = Number(given.objects)
const seconds = Number(given.seconds)
const rate = Number(given.rate)

/** @type {Record<string, () => { get(key: string): Promise<any>, ready(): Promise<void>, stats(): any }>} */
const PEERS = {
  kvcache() {
    const cache = new KvCache({ memory: '1gb', maxAge: '1h' })
    const fetcher = async (/** @type {string} */ key) => product(key)
    return { get: key => cache.get(key, fetcher), ready: () => cache.flush(), stats: () => cache.stats() }
  },
  'lru-cache'() {
    const cache = new LRUCache({ max: objects, ttl: 3_600_000, fetchMethod: async (/** @type {string} */ key) => product(key) })
    return { get: key => cache.fetch(key), ready: async () => {}, stats: () => ({ entries: cache.size }) }
  }
}

/** @param {string} name */
async function measure(name) {
  const { get, ready, stats } = PEERS[name]()
  const key = (/** @type {number} */ n) => `product:${n}`
  for (let n = 0; n < objects; n++) {
    await get(key(n))
    if (n % 1000 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  await ready()
  // Zipf's law (s = 1) by inversion of its continuous form.
  const popular = () => Math.min(objects - 1, Math.floor(objects ** random()) - 1)

  let longestPause = 0
  let pauses = 0
  new PerformanceObserver(list => {
    for (const { duration } of list.getEntries()) {
      pauses += duration
      longestPause = Math.max(longestPause, duration)
    }
  }).observe({ entryTypes: ['gc'] })
  const delay = monitorEventLoopDelay({ resolution: 1 })
  delay.enable()
  const start = performance.now()
  const cpu = process.cpuUsage()
  const idle = performance.eventLoopUtilization()
  let sent = 0
  let next = objects
  let peak = 0
  /** @type {Promise<any>[]} */
  let under = []
  for (;;) {
    const elapsed = (performance.now() - start) / 1000
    if (elapsed >= seconds) break
    for (const due = elapsed * rate; sent < due; sent++) {
      under.push(get(sent % 5 === 4 ? key(next++) : key(popular())))
    }
    await Promise.all(under)
    under = []
    if (sent % 64 === 0) peak = Math.max(peak, process.memoryUsage.rss())
    await new Promise(resolve => setTimeout(resolve, 1))
  }
  const { user, system } = process.cpuUsage(cpu)
  const { utilization } = performance.eventLoopUtilization(idle)
  delay.disable()
  await new Promise(resolve => setTimeout(resolve, 100))
  return {
    rss: process.memoryUsage.rss() / 2 ** 20,
    peak: peak / 2 ** 20,
    heap: process.memoryUsage().heapUsed / 2 ** 20,
    longestPause,
    pauses,
    p999: delay.percentile(99.9) / 1e6,
    longestDelay: delay.max / 1e6,
    busy: utilization,
    gets: sent,
    cpu: (user + system) / 1e6,
    stats: stats()
  }
}

if (given.peer !== undefined) {
  process.send?.(await measure(given.peer))
  process.exit()
}

/** @type {Record<string, any>} */
const results = {}
for (const name of Object.keys(PEERS)) {
  const args = ['--peer', name, '--objects', given.objects, '--seconds', given.seconds, '--rate', given.rate]
  const child = fork(fileURLToPath(import.meta.url), args, { execArgv: ['--max-old-space-size=12000'] })
  results[name] = await new Promise((resolve, reject) => {
    child.on('message', resolve)
    child.on('exit', code => reject(new Error(`the process of ${name} ended with ${code}`)))
  })
  child.removeAllListeners('exit')
}
const { node, cpu, cores, date, load } = machine()
console.log(`Node ${node.slice(1)}, ${cores} x ${cpu}, ${date}, load average ${load.toFixed(1)}: ${objects} objects of ` +
  `${JSON.stringify(product('product:123456')).length} bytes, ${seconds} s at ${rate} gets a second, a fifth of them misses`)
const rows = [
  ['resident memory, MB', 'rss'], ['V8 heap, MB', 'heap'], ['longest GC pause, ms', 'longestPause'], ['all GC pauses, ms', 'pauses'],
  ['event-loop delay p99.9, ms', 'p999'], ['longest event-loop delay, ms', 'longestDelay'], ['CPU time, s', 'cpu'],
  ['share of time the main thread was busy', 'busy'], ['gets', 'gets']
]
console.log(`${''.padEnd(38)} kvcache   lru-cache   ratio`)
for (const [title, field] of rows) {
  const [a, b] = [results.kvcache[field], results['lru-cache'][field]]
  const digits = field === 'busy' ? 2 : 1
  console.log(`${title.padEnd(38)} ${a.toFixed(digits).padStart(7)} ${b.toFixed(digits).padStart(11)} ${(a / b).toFixed(2).padStart(7)}`)
}
console.log(`entries: ${results.kvcache.stats.entries} and ${results['lru-cache'].stats.entries}`)
if (given.json !== undefined) writeFileSync(given.json, `${JSON.stringify(results, null, 2)}\n`)
