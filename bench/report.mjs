// @ts-check
/** How the figures of a bench are shown: on the terminal, and as Markdown for docs/benchmarks.md. */
import { cpus, totalmem } from 'node:os'

/**
 * @typedef {object} CaseResult
 * @property {string} name
 * @property {string} title
 * @property {string} how what one operation is
 * @property {{ peer: string, ratio: number, ns: number[] }[]} rows the first is the base of the ratios; ns by round
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
    memoryGB: Math.round(totalmem() / 1024 ** 3)
  }
}

/** @param {Results} results */
const where = ({ node, platform, cpu, cores, memoryGB, date, rounds }) =>
  `Node ${node.slice(1)}, ${platform}, ${cores} x ${cpu}, ${memoryGB} GB, ${date}; rounds: ${rounds}`

/** @param {number} ns */
const whole = ns => Math.round(ns).toLocaleString('en-US')
/** @param {number} ratio */
const times = ratio => ratio.toFixed(ratio < 10 ? 2 : 1)
/** @param {number[]} ns */
const span = ns => `${whole(Math.min(...ns))} – ${whole(Math.max(...ns))}`

/**
 * @param {Results} results
 * @param {readonly { name: string, note: string }[]} peers
 * @returns {string}
 */
export function terminal(results, peers) {
  const lines = [results.command, where(results), '']
  for (const { title, how, rows } of results.cases) {
    lines.push(title, `  ${how}`)
    const width = Math.max(...rows.map(row => row.peer.length))
    lines.push(`  ${''.padEnd(width)}     ratio   ns, median   fastest – slowest round`)
    for (const { peer, ratio, ns } of rows) {
      lines.push(`  ${peer.padEnd(width)}  ${times(ratio).padStart(8)} ${whole(median(ns)).padStart(12)}   ${span(ns)}`)
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
    lines.push('| | ratio | ns, median | fastest – slowest round |', '|---|---:|---:|---:|')
    for (const { peer, ratio, ns } of rows) {
      lines.push(`| ${peer} | ${times(ratio)} | ${whole(median(ns))} | ${span(ns)} |`)
    }
    lines.push('')
  }
  lines.push('What a caller gets:', '', ...peers.map(({ name, note }) => `- ${name}: ${note}.`), '')
  return lines.join('\n')
}
