// @ts-check
/**
 * How soon another process sees an invalidation, and that it serves nothing older after it was answered.
 *
 * One process (peer.mjs) invalidates; this one reads. Both look at the same monotonic clock.
 */
import { KvCache, disk, redis } from '../../index.js'
import { median } from '../report.mjs'
import { DAY, count, directory, now, percentile, sleep, startProcess, startRedis } from './common.mjs'

/** @param {number} ns */
const us = ns => `${count(Math.round(ns / 1000))} µs`

/** Lets time pass on this thread. */
const pause = new Int32Array(new SharedArrayBuffer(4))

/**
 * So many invalidations of one key, one after the other.
 * @param {KvCache} cache
 * @param {ReturnType<typeof startProcess>} writer
 * @param {{ times: number, perSecond: number, spin: boolean }} how `spin`: the key is read without a pause
 */
async function delays(cache, writer, { times, perSecond, spin }) {
  const key = 'seen'
  const others = Array.from({ length: 10_000 }, (_, n) => `other:${n}`)
  for (const other of others) await cache.get(other, () => ({ other }))
  const called = []
  const resolved = []
  for (let n = 1; n <= times; n++) {
    writer.say({ put: key, value: n })
    await writer.hear()
    const until = performance.now() + 5_000
    // Read twice, so that this thread has a copy of its own.
    for (let seen = 0; seen < 2;) {
      if ((await cache.get(key)) === n) seen++
      else if (performance.now() > until) throw new Error('a put is not seen')
      else await sleep(0)
    }
    writer.say({ invalidate: key })
    const start = performance.now()
    let read = 0
    let last = now()
    // What counts is when the read began: what it does then, having missed, is not the delay.
    let seen = now()
    while ((await cache.get(key)) === n) {
      if (performance.now() - start > 5_000) throw new Error('an invalidation is not seen')
      if (spin) {
        // One turn of the loop in a thousand, for the message of the other process.
        if (++read % 1000 === 0) await new Promise(resolve => setImmediate(resolve))
        seen = now()
        continue
      }
      Atomics.wait(pause, 0, 0, 0.05)
      for (let due = (now() - last) * perSecond / 1e9; due >= 1; due--) {
        last += 1e9 / perSecond
        await cache.get(others[read++ % others.length])
      }
      await new Promise(resolve => setImmediate(resolve))
      seen = now()
    }
    const { before, after } = await writer.hear()
    called.push(seen - before)
    resolved.push(Math.max(0, seen - after))
    await sleep(1)
  }
  called.sort((a, b) => a - b)
  resolved.sort((a, b) => a - b)
  return { called, resolved }
}

/**
 * @param {string} title
 * @param {{ called: number[], resolved: number[] }} figures
 */
function show(title, { called, resolved }) {
  for (const [from, all] of /** @type {[string, number[]][]} */ ([['its call', called], ['its answer', resolved]])) {
    console.log(`  ${title.padEnd(34)} from ${from.padEnd(12)} median ${us(median(all)).padStart(9)}   ` +
      `p99 ${us(percentile(all, 0.99)).padStart(9)}   most ${us(all[all.length - 1]).padStart(9)}   of ${count(all.length)}`)
  }
}

/** @param {{ quick: boolean }} how */
export async function redisSeen({ quick }) {
  const server = await startRedis()
  const writer = startProcess('./writer.mjs', ['redis', server.url])
  const cache = new KvCache({ maxAge: DAY, tiers: [redis({ url: server.url })] })
  await writer.hear()
  console.log('\nRedis: an invalidation by another process is seen after')
  const times = quick ? 200 : 1_000
  show('idle', await delays(cache, writer, { times, perSecond: 0, spin: false }))
  show('with 10,000 gets a second', await delays(cache, writer, { times, perSecond: 10_000, spin: false }))
  await cache.close()
  await writer.stop()
  await server.stop()
}

/** @param {{ quick: boolean }} how */
export async function diskSeen({ quick }) {
  const { path, remove } = directory()
  const writer = startProcess('./writer.mjs', ['disk', path])
  await writer.hear()
  const cache = new KvCache({ maxAge: DAY, tiers: [disk({ path })] })
  console.log('\nDisk: an invalidation by another process is seen after')
  show('reading without a pause', await delays(cache, writer, { times: quick ? 200 : 1_000, perSecond: 0, spin: true }))
  await stale(cache, writer, quick ? 1_000_000 : 10_000_000)
  await cache.close()
  await writer.stop()
  remove()
}

/**
 * The other process puts and invalidates without an end; of each value the last read that gave it must have begun before the
 * invalidation that followed was answered.
 * @param {KvCache} cache
 * @param {ReturnType<typeof startProcess>} writer
 * @param {number} reads
 */
async function stale(cache, writer, reads) {
  const KEYS = 16
  const keys = Array.from({ length: KEYS }, (_, n) => `stale:${n}`)
  /** When the last read began that gave the value. @type {number[]} */
  const last = []
  writer.say({ storm: keys })
  let given = 0
  for (let n = 0; n < reads; n++) {
    const began = now()
    const value = await cache.get(keys[(n >> 8) % KEYS])
    if (typeof value === 'number') {
      given++
      last[value] = began
    }
    if (n % 10_000 === 0) await new Promise(resolve => setImmediate(resolve))
  }
  writer.say({ rest: true })
  /** When the invalidation of each value was answered. @type {{ gone: number[] }} */
  const { gone } = await writer.hear()
  let wrong = 0
  let values = 0
  last.forEach((began, value) => {
    values++
    if (began > (gone[value] ?? Infinity)) wrong++
  })
  console.log(`  ${count(reads)} reads, ${count(given)} of them hits of ${count(values)} values, while the other process made ` +
    `${count(gone.length)} values and invalidated each: ${wrong} values read after the answer`)
  if (wrong > 0) process.exitCode = 1
}
