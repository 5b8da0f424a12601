// @ts-check
/** A process that opens a disk tier which an earlier one has filled: how soon it has its first value. */
import { KvCache, disk } from '../../index.js'
import { median } from '../report.mjs'
import { DAY, count, directory, startProcess } from './common.mjs'

/** @param {{ rounds: number, quick: boolean }} how */
export async function restart({ rounds, quick }) {
  const entries = quick ? 100_000 : 1_000_000
  const { path, remove } = directory()
  const cache = new KvCache({ maxAge: DAY, memory: '64mb', tiers: [disk({ path, maxSize: '4gb' })] })
  const begun = performance.now()
  for (let from = 0; from < entries; from += 10_000) {
    await cache.putMany(Array.from({ length: Math.min(10_000, entries - from) }, (_, n) => [`item:${from + n}`, valueOf(from + n)]))
  }
  await cache.flush()
  await cache.close()
  const filled = (performance.now() - begun) / 1000
  const opens = []
  const gets = []
  const firsts = []
  for (let round = 0; round < Math.max(rounds, 5); round++) {
    const n = Math.floor(Math.random() * entries)
    const reader = startProcess('./reader.mjs', [path, `item:${n}`])
    const { value, opened, got } = await reader.hear()
    if (value?.id !== n) throw new Error(`item:${n} is ${JSON.stringify(value)}`)
    opens.push(opened)
    gets.push(got - opened)
    firsts.push(got)
    await reader.stop()
  }
  console.log(`\nWarm restart: ${count(entries)} entries of 100 bytes on disk (put in ${filled.toFixed(1)} s), ${opens.length} processes`)
  /** @param {string} what @param {number[]} all */
  const show = (what, all) => console.log(`  ${what.padEnd(38)} median ${median(all).toFixed(1)} ms, most ${Math.max(...all).toFixed(1)} ms`)
  show('new KvCache()', opens)
  show('the first get, of a random key', gets)
  show('both, that is, from open to first value', firsts)
  remove()
}

/** An object of 100 bytes as JSON. @param {number} id */
function valueOf(id) {
  return { id, text: ''.padEnd(85 - String(id).length, 'It was a dark and stormy night; the cache was cold. ') }
}
