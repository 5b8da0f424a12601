// @ts-check
/**
 * `npm run bench`: kvcache beside its peers in one run.
 *
 * Rounds are interleaved: in each round every case runs once with every peer, in an order that turns by one from round
 * to round, so that whatever else the machine does falls on all alike. Garbage is collected before each measurement.
 * The first round only warms up. What is printed is the ratio of the medians, then the medians with the fastest and
 * slowest round beside them.
 *
 * Usage: npm run bench -- [--quick] [--only hit,miss,stampede,overhead] [--rounds N] [--json FILE] [--docs FILE]
 *   --quick   3 rounds with a third of the operations
 *   --only    cases whose name begins with one of these; 'overhead' is the break-down of a kvcache hit
 *   --rounds  measured rounds, default 9
 *   --json    all figures, every round, into a file
 *   --docs    replaces the part of a Markdown file between the marks `<!-- peers -->` and `<!-- /peers -->`
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { CASES } from './cases.mjs'
import { overhead, OVERHEAD } from './overhead.mjs'
import { PEERS } from './peers.mjs'
import { machine, median, markdown, terminal } from './report.mjs'

// Whoever runs this file need not know the flag.
setFlagsFromString('--expose-gc')
globalThis.gc ??= runInNewContext('gc')

const { values: given } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    rounds: { type: 'string' },
    json: { type: 'string' },
    docs: { type: 'string' }
  }
})
const rounds = Number(given.rounds ?? (given.quick ? 3 : 9))
if (!Number.isInteger(rounds) || rounds < 1) throw new Error(`--rounds ${given.rounds}: expected a whole number from 1`)
const only = given.only.split(',').filter(Boolean)
const names = [...Object.keys(CASES), OVERHEAD]
const chosen = names.filter(name => only.length === 0 || only.some(one => name.startsWith(one)))
if (chosen.length === 0) throw new Error(`--only ${given.only}: expected the beginnings of ${names.join(', ')}`)

const command = ['npm run bench', ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' ')
const results = { command, ...machine(), rounds, cases: /** @type {import('./report.mjs').CaseResult[]} */ ([]) }

/** @param {string} text */
const progress = text => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

// Each peer has its own copy of the loops: see cases.mjs.
const loops = await Promise.all(PEERS.map((_, n) => import(`./cases.mjs?peer=${n}`)))

const cases = chosen.filter(name => name !== OVERHEAD)
/** Nanoseconds: case, peer, round. @type {Record<string, number[][]>} */
const ns = Object.fromEntries(cases.map(name => [name, PEERS.map(() => [])]))
for (let round = -1; round < (cases.length === 0 ? -1 : rounds); round++) {
  for (const name of cases) {
    for (let turn = 0; turn < PEERS.length; turn++) {
      const n = (turn + round + 1) % PEERS.length
      progress(`${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`}: ${name}, ${PEERS[n].name}`)
      const ops = given.quick ? Math.ceil(CASES[name].ops / 3) : CASES[name].ops
      const took = await loops[n].CASES[name].run(PEERS[n], ops)
      if (round >= 0) ns[name][n].push(took)
    }
  }
}
for (const name of cases) {
  const { title, how } = CASES[name]
  const base = median(ns[name][0])
  const rows = PEERS.map(({ name: peer }, n) => ({ peer, ratio: median(ns[name][n]) / base, ns: ns[name][n] }))
  results.cases.push({ name, title, how, rows })
}

if (chosen.includes(OVERHEAD)) {
  progress('the break-down of a hit')
  results.cases.push(await overhead(rounds, given.quick ? 20_000 : 60_000))
}
progress('')

console.log(terminal(results, PEERS))
if (given.json !== undefined) writeFileSync(given.json, `${JSON.stringify(results, null, 2)}\n`)
if (given.docs !== undefined) {
  const before = readFileSync(given.docs, 'utf8')
  const marked = /(<!-- peers -->\n)[^]*(<!-- \/peers -->)/
  if (!marked.test(before)) throw new Error(`${given.docs} has no marks <!-- peers --> and <!-- /peers -->`)
  writeFileSync(given.docs, before.replace(marked, (_, open, close) => `${open}${markdown(results, PEERS)}${close}`))
}
