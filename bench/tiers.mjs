// @ts-check
/**
 * `npm run bench -- tiers`: reads that memory misses and tiers answer, beside those of other products, and how soon one process
 * sees what another has invalidated.
 *
 * Usage: npm run bench -- tiers [--only redis,disk,redis-seen,…] [--rounds N] [--quick]
 *   --only    parts, default all: redis (reads, beside bentocache and ioredis), disk (reads, beside lmdb and bentocache's
 *             files), redis-seen and disk-seen (an invalidation, in another process), restart (with a million entries on disk),
 *             workers-kv (1,000 cold keys, beside Cloudflare's SDK)
 *   --rounds  measured rounds, default 9; 6 more warm up
 *   --quick   3 rounds, with fewer keys and entries
 *
 * Rounds are interleaved, in an order that turns by one from round to round; each begins with nothing in memory, and each peer
 * has a process of its own, which rests while the others run. A ratio is a peer's median divided by kvcache's: above 1, kvcache is
 * faster. redis-server is started by the bench itself.
 */
import { parseArgs } from 'node:util'
import { machine } from './report.mjs'

const { values: given } = parseArgs({
  options: { only: { type: 'string', default: '' }, rounds: { type: 'string' }, quick: { type: 'boolean', default: false } }
})

/** @type {Record<string, (how: { rounds: number, quick: boolean }) => Promise<unknown>>} */
const PARTS = {
  redis: async how => (await import('./tiers/redis.mjs')).redisReads(how),
  disk: async how => (await import('./tiers/disk.mjs')).diskReads(how),
  'redis-seen': async how => (await import('./tiers/seen.mjs')).redisSeen(how),
  'disk-seen': async how => (await import('./tiers/seen.mjs')).diskSeen(how),
  restart: async how => (await import('./tiers/restart.mjs')).restart(how),
  'workers-kv': async how => (await import('./tiers/workers-kv.mjs')).workersKV(how)
}

const rounds = Number(given.rounds ?? (given.quick ? 3 : 9))
if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds ${given.rounds}: expected a whole number from 1`)
const names = given.only === '' ? Object.keys(PARTS) : given.only.split(',')
for (const name of names) {
  if (!Object.hasOwn(PARTS, name)) throw new Error(`--only ${name}: expected some of ${Object.keys(PARTS).join(', ')}`)
}

const { node, platform, cores, cpu, memoryGB, date, load } = machine()
console.log(`Node ${node.slice(1)}, ${platform}, ${cores} x ${cpu}, ${memoryGB} GB, ${date}; ${rounds} rounds; ` +
  `load average before: ${load.toFixed(1)}`)
// What a cache waits for of its own accord holds no process open.
const alive = setInterval(() => {}, 1000)
for (const name of names) await PARTS[name]({ rounds, quick: given.quick })
clearInterval(alive)
