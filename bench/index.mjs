// @ts-check
/**
 * `npm run bench`: the benches by name, one after the other.
 *
 * Usage: npm run bench -- [NAME...] [options of the bench]
 *   peers         hits, near hits, misses and stampedes beside other caches (when no name is given)
 *   memory        what half a million objects cost a process, beside lru-cache: memory, garbage collection, event loop
 *   threads       four worker threads over one cache, beside a cache in each
 *   hit-ratio     the hit ratio of a trace with a near cache and without
 *   compression   event-loop delay while large values are written
 *   invalidation  invalidating up to a million entries at once, and what it does to readers
 *   tiers         reads from Redis, a disk and Workers KV beside other products, and invalidations seen by another process
 *   all           all of them
 *
 * Options are handed on; each bench's file says which it has.
 */
import { readFileSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** @type {Record<string, string>} */
const BENCHES = {
  peers: 'run.mjs',
  memory: 'memory.mjs',
  threads: 'threads.mjs',
  'hit-ratio': 'hit-ratio.mjs',
  compression: 'compression.mjs',
  invalidation: 'invalidation.mjs',
  tiers: 'tiers.mjs'
}

const args = process.argv.slice(2)
if (args.includes('--help')) {
  const text = readFileSync(new URL(import.meta.url), 'utf8')
  console.log(text.slice(text.indexOf('Usage'), text.indexOf('\n */')).replaceAll('\n * ', '\n').replaceAll('\n *', '\n'))
  process.exit(0)
}
const given = args.findIndex(arg => arg.startsWith('-'))
const names = args.slice(0, given === -1 ? args.length : given)
const options = given === -1 ? [] : args.slice(given)
const chosen = names.length === 0 ? ['peers'] : names.includes('all') ? Object.keys(BENCHES) : names
for (const name of chosen) {
  if (!Object.hasOwn(BENCHES, name)) {
    console.error(`bench '${name}' is not known; there are: ${Object.keys(BENCHES).join(', ')}, all`)
    process.exit(2)
  }
}
for (const name of chosen) {
  if (chosen.length > 1) console.log(`\n== ${name} ==\n`)
  const script = fileURLToPath(new URL(BENCHES[name], import.meta.url))
  const { status } = spawnSync(process.execPath, ['--expose-gc', script, ...options], { stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
