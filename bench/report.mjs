// @ts-check
/** How the figures of a bench are shown: on the terminal, and as Markdown for docs/benchmarks.md. */
import { cpus, loadavg, totalmem } from 'node:os'

/**
 * @typedef {object} CaseResult
 * @property {string} name
 * @property {string} title
 * @property {string} how what one operation is
 * @property {Row[]} rows the first is the base of the ratios
 */

/**
 * @typedef {object} Row
 * @property {string} peer
 * @property {{ wall: number, cpu: number }} ratio
 * @property {{ wall: number, cpu: number }} median nanoseconds
 * @property {number[]} wall nanoseconds by round
 * @property {number[]} cpu nanoseconds by round
 * @property {number | undefined} bytes of V8's heap, median, where they were counted
 */

/** @typedef {ReturnType<typeof machine> & { command: string, rounds: number, cases: CaseResult[] }} Results */

/**
 * The middle of the figures; of an even number of them, the mean of the two in the middle.
 * @param {number[]} figures
 * @returns {number}
 */
export function median(figures) {
  const sorted = figures.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** What the figures were measured on. */
export function machine() {
  const [first] = cpus()
  return {
    date: new Date().toISOString().slice(0, 10),
    node: process.version,
    v8: process.versions.v8,
    platform: `${process.platform} ${process.arch}`,
    cpu: first?.model.trim() || 'unknown CPU',
    cores: cpus().length,
    memoryGB: Math.round(totalmem() / 1024 ** 3),
    /** What else the machine does, before the bench adds to it. */
    load: loadavg()[0]
  }
}

/** @param {Results} results */
const where = ({ node, platform, cpu, cores, memoryGB, load, date, rounds }) =>
  `Node ${node.slice(1)}, ${platform}, ${cores} x ${cpu}, ${memoryGB} GB, ${date}; ${rounds} rounds; ` +
  `load average before: ${load.toFixed(1)}`

/**
 * The rows of a table; the first is the base of the ratios.
 * @param {[peer: string, took: import('./watch.mjs').Took[]][]} measured
 * @returns {Row[]}
 */
export function rowsOf(measured) {
  const rows = measured.map(([peer, took]) => {
    const wall = took.map(one => one.wall)
    const cpu = took.map(one => one.cpu)
    const bytes = took.map(one => one.bytes ?? NaN).filter(one => !Number.isNaN(one))
    const counted = bytes.length === 0 ? undefined : median(bytes)
    return { peer, wall, cpu, bytes: counted, median: { wall: median(wall), cpu: median(cpu) } }
  })
  const base = rows[0].median
  return rows.map(row => ({ ...row, ratio: { wall: row.median.wall / base.wall, cpu: row.median.cpu / base.cpu } }))
}

/** @param {number} ns */
const whole = ns => Math.round(ns).toLocaleString('en-US')
/** @param {number} ratio */
const times = ratio => ratio.toFixed(Math.abs(ratio) < 10 ? 2 : 1)

const HEADINGS = ['ratio', 'by CPU', 'ns', 'CPU ns', 'heap bytes', 'fastest – slowest round, ns']

/**
 * @param {Row} row
 * @returns {string[]}
 */
function cells({ ratio, median, wall, bytes }) {
  const span = `${whole(Math.min(...wall))} – ${whole(Math.max(...wall))}`
  const heap = bytes === undefined ? '' : whole(bytes)
  return [times(ratio.wall), times(ratio.cpu), whole(median.wall), whole(median.cpu), heap, span]
}

/**
 * @param {Results} results
 * @param {readonly { name: string, note: string }[]} peers
 * @returns {string}
 */
export function terminal(results, peers) {
  const lines = [results.command, where(results), '']
  for (const { title, how, rows } of results.cases) {
    const table = [['', ...HEADINGS], ...rows.map(row => [row.peer, ...cells(row)])]
    const widths = table[0].map((_, column) => Math.max(...table.map(line => line[column].length)))
    lines.push(title, `  ${how}`)
    for (const [first, ...rest] of table) {
      lines.push(`  ${first.padEnd(widths[0])}${rest.map((cell, n) => `   ${cell.padStart(widths[n + 1])}`).join('')}`)
    }
    lines.push('')
  }
  lines.push(...peers.map(({ name, note }) => `${name}: ${note}`))
  return lines.join('\n')
}

/**
 * @param {Results} results
 * @param {readonly { name: string, note: string }[]} peers
 * @returns {string}
 */
export function markdown(results, peers) {
  const lines = [`\`${results.command}\``, '', `${where(results)}.`, '']
  for (const { title, how, rows } of results.cases) {
    lines.push(`**${title}**: ${how}.`, '')
    lines.push(`| | ${HEADINGS.join(' | ')} |`, `|---|${'---:|'.repeat(HEADINGS.length)}`)
    for (const row of rows) lines.push(`| ${row.peer} | ${cells(row).join(' | ')} |`)
    lines.push('')
  }
  lines.push('What a caller gets:', '', ...peers.map(({ name, note }) => `- ${name}: ${note}.`), '')
  return lines.join('\n')
}
