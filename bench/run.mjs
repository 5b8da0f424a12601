// @ts-check
/**
 * `npm run bench`: kvcache beside its peers in one run.
 *
 * Rounds are interleaved: in each round every case runs once with every peer, in an order that turns by one from round
 * to round, so that whatever else the machine does falls on all alike. Each peer runs in a process of its own, which
 * rests while the others run. The first round only warms up. What is printed are the ratios of the medians, by the
 * wall's clock and by CPU time (see watch.mjs), then the medians, and the fastest and slowest round by the wall's clock.
 *
 * Usage: npm run bench -- [--quick] [--only hit,miss,stampede,overhead] [--rounds N] [--json FILE] [--docs FILE]
 *   --quick   3 rounds with a third of the operations
 *   --only    cases whose name begins with one of these; 'overhead' is the break-down of a kvcache hit
 *   --rounds  measured rounds, default 9
 *   --json    all figures, every round, into a file
 *   --docs    replaces the part of a Markdown file between the marks `<!-- peers -->` and `<!-- /peers -->`
 *
 * Beside it, by themselves: bench/invalidation.mjs, what invalidations cost; bench/races.mjs, what is served after one.
 */
import { fork } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { CASES } from './cases.mjs'
import { OVERHEAD } from './overhead.mjs'
import { PEERS } from './peers.mjs'
import { machine, markdown, rowsOf, terminal } from './report.mjs'

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

// Where the figures go has no part in how they come about.
const asked = [given.quick ? '--quick' : '', given.only && `--only ${given.only}`, given.rounds && `--rounds ${rounds}`]
const command = ['npm run bench', ...asked.filter(Boolean)].join(' ').replace('bench --', 'bench -- --')
const results = { command, ...machine(), rounds, cases: /** @type {import('./report.mjs').CaseResult[]} */ ([]) }

/** @param {string} text */
const progress = text => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

const script = fileURLToPath(new URL('./worker.mjs', import.meta.url))
const workers = PEERS.map(({ name }, n) => {
  const worker = fork(script, [String(n)], { execArgv: ['--expose-gc'] })
  worker.on('message', message => answered(/** @type {Message} */ (message)))
  worker.on('exit', (code, signal) => answered({ error: `the process of ${name} ended with ${signal ?? code}` }))
  return worker
})

/** @typedef {{ answer?: any, error?: string }} Message */
/** What is done with the next message. @type {(message: Message) => void} */
let answered = () => {}

/**
 * Has a peer run a case, while the others rest.
 * @param {number} n
 * @param {string} name
 * @param {number} ops
 * @returns {Promise<any>}
 */
async function ask(n, name, ops) {
  workers[n].send({ name, ops, rounds })
  const { answer, error } = await new Promise(resolve => { answered = resolve })
  if (error === undefined) return answer
  for (const worker of workers) worker.kill()
  throw new Error(error)
}

/**
 * @param {number} n of a peer
 * @param {string} name of a case
 */
const takesPart = (n, name) => PEERS[n].has?.(name) ?? true

/**
 * @param {string} peer
 * @param {import('./watch.mjs').Took[]} took
 * @returns {[string, import('./watch.mjs').Took[]]}
 */
const row = (peer, took) => [peer, took]

const cases = chosen.filter(name => name !== OVERHEAD)
/** By case, peer and round. @type {Record<string, import('./watch.mjs').Took[][]>} */
const took = Object.fromEntries(cases.map(name => [name, PEERS.map(() => [])]))
for (let round = -1; round < (cases.length === 0 ? -1 : rounds); round++) {
  for (const name of cases) {
    for (let turn = 0; turn < PEERS.length; turn++) {
      const n = (turn + round + 1) % PEERS.length
      if (!takesPart(n, name)) continue
      progress(`${round < 0 ? 'warm-up' : `round ${round + 1} of ${rounds}`}: ${name}, ${PEERS[n].name}`)
      const ops = given.quick ? Math.ceil(CASES[name].ops / 3) : CASES[name].ops
      const one = await ask(n, name, ops)
      if (round >= 0) took[name][n].push(one)
    }
  }
}
for (const name of cases) {
  const { title, how } = CASES[name]
  const measured = PEERS.flatMap(({ name: peer }, n) => (takesPart(n, name) ? [row(peer, took[name][n])] : []))
  results.cases.push({ name, title, how, rows: rowsOf(measured) })
}

if (chosen.includes(OVERHEAD)) {
  progress('the break-down of a hit')
  results.cases.push(await ask(0, OVERHEAD, given.quick ? 30_000 : 100_000))
}
progress('')
for (const worker of workers) worker.disconnect()

console.log(terminal(results, PEERS))
if (given.json !== undefined) writeFileSync(given.json, `${JSON.stringify(results, null, 2)}\n`)
if (given.docs !== undefined) {
  const before = readFileSync(given.docs, 'utf8')
  const marked = /(<!-- peers -->\n)[^]*(<!-- \/peers -->)/
  if (!marked.test(before)) throw new Error(`${given.docs} has no marks <!-- peers --> and <!-- /peers -->`)
  writeFileSync(given.docs, before.replace(marked, (_, open, close) => `${open}${markdown(results, PEERS)}${close}`))
}
