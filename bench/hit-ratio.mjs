// @ts-check
/**
 * Whether near hits keep entries warm in the engine: the hit ratio of a trace replayed through get(), with a near cache
 * and without, in caches of the same memory. The engine hears of near hits in batches, so its eviction policy sees
 * them late.
 *
 * Usage: node bench/hit-ratio.mjs [--trace FILE.csv.gz] [--capacity 1,5,10,20] [--near 10] [--limit N]
 *   --trace     one request a line, `key` or `key,size`; default: the trace of the demo
 *   --capacity  percent of the trace's keys that fit into memory
 *   --near      size of the near cache, percent of the entries that fit into memory
 *   --limit     requests at most
 */
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'
import { parseArgs } from 'node:util'
import { KvCache } from '../index.js'
import { machine } from './report.mjs'

const { values: given } = parseArgs({
  options: {
    trace: { type: 'string', default: new URL('../examples/demo/trace/web07.csv.gz', import.meta.url).pathname },
    capacity: { type: 'string', default: '1,5,10,20' },
    near: { type: 'string', default: '10' },
    limit: { type: 'string', default: 'Infinity' }
  }
})

/** What an entry weighs beside key and value, in bytes; only the number that fits depends on it. */
const BESIDE = 148
const VALUE = 'v'.repeat(100)

const text = gunzipSync(readFileSync(given.trace)).toString('latin1')
const trace = text.split('\n').filter(Boolean).slice(0, Number(given.limit)).map(line => `key:${line.split(',', 1)[0]}`)
const unique = new Set(trace).size
const keyBytes = trace.reduce((sum, key) => sum + key.length, 0) / trace.length

/**
 * @param {number} entries that fit
 * @param {false | { max: number }} near
 */
async function replay(entries, near) {
  const memory = Math.max(1024, Math.round(entries * (BESIDE + VALUE.length + keyBytes)))
  const cache = new KvCache({ memory, near, compression: false, maxAge: Infinity })
  const fetcher = () => VALUE
  for (const key of trace) await cache.get(key, fetcher)
  const { hitRatio, nearHits, hits } = cache.stats()
  await cache.close()
  return { ratio: 100 * hitRatio, near: (100 * nearHits) / hits }
}

const { node, cpu, date } = machine()
console.log(`Node ${node.slice(1)}, ${cpu}, ${date}: ${trace.length} requests of ${unique} keys, ${given.trace.split('/').at(-1)}`)
console.log('capacity %   engine alone %   with near cache %   difference   hits answered near %')
for (const percent of given.capacity.split(',').map(Number)) {
  const entries = (unique * percent) / 100
  const alone = await replay(entries, false)
  const both = await replay(entries, { max: Math.max(1, Math.round((entries * Number(given.near)) / 100)) })
  const cells = [alone.ratio, both.ratio, both.ratio - alone.ratio, both.near].map(cell => cell.toFixed(2))
  console.log(`${String(percent).padEnd(12)} ${cells[0].padEnd(16)} ${cells[1].padEnd(19)} ${cells[2].padEnd(12)} ${cells[3]}`)
}
