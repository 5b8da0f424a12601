// @ts-check
// `npm run test:faults`: processes share one cache while something breaks, again and again, and a checker goes through what each of
// them wrote and read. What must hold, whatever breaks: nothing acknowledged is lost, nothing invalidated is served, nothing
// is stuck, no process ends by itself.
//
// Usage: npm run test:faults -- [options]
//   --ci            a few rounds of the faults in which nothing rests on how fast a machine is, about a minute
//   --only NAME     one fault; may be repeated
//   --rounds N      rounds of each; otherwise each has its own number
//   --seconds N     no round of a fault begins later than this after its first
//   --seed N        of what the processes do; the times are never the same
//   --help          this text
//
// What cannot be had on a machine is left out, with the reason.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { FAULTS } from './faults.mjs'
import { allowed } from './players.mjs'

const { values } = parseArgs({
  options: {
    ci: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    seed: { type: 'string' },
    help: { type: 'boolean' }
  }
})
if (values.help) {
  const text = readFileSync(new URL(import.meta.url), 'utf8')
  console.log(text.split('\n').slice(1).filter(line => line.startsWith('//')).map(line => line.slice(3)).join('\n'))
  process.exit(0)
}
const known = FAULTS.map(({ name }) => name)
for (const name of values.only ?? []) {
  if (known.includes(name)) continue
  console.error(`fault '${name}' is not known; there are: ${known.join(', ')}`)
  process.exit(2)
}

if (values.ci) Object.assign(allowed, { redisLag: 10_000_000_000n, caughtUp: 15_000, rest: 1000 })
const seed = Number(values.seed ?? 1 + (Date.now() % 1_000_000))
console.log(`seed ${seed}`)
/** @type {Record<string, string>[]} */
const table = []
let failed = 0
for (const { name, title, rounds, lacks, run } of FAULTS) {
  if (values.only !== undefined && !values.only.includes(name)) continue
  const asked = Number(values.rounds ?? (values.ci && values.only === undefined ? rounds.short : rounds.long))
  const why = asked === 0 ? 'in the long form only' : lacks?.()
  if (why !== undefined) {
    console.log(`${name}: NOT RUN: ${why}`)
    table.push({ fault: name, result: `not run: ${why}` })
    continue
  }
  const began = performance.now()
  const seconds = Number(values.seconds ?? (values.ci ? 12 : Infinity))
  /** @type {Record<string, string>} */
  const row = { fault: name }
  try {
    const seen = await run({ rounds: asked, until: began + seconds * 1000, seed })
    Object.assign(row, { rounds: String(seen.rounds) }, seen.counts)
    row.result = seen.wrong.length === 0 ? 'held' : `${seen.wrong.length} WRONG`
    for (const line of seen.wrong.slice(0, 10)) console.log(`  ${line}`)
    if (seen.wrong.length > 0) failed++
  } catch (error) {
    failed++
    console.log(error)
    row.result = 'FAILED'
  }
  row.seconds = ((performance.now() - began) / 1000).toFixed(1)
  console.log(`${name} (${title}): ${Object.entries(row).slice(1).map(([what, value]) => `${what} ${value}`).join(', ')}`)
  table.push(row)
}
console.table(table)
process.exitCode = failed === 0 ? 0 : 1
