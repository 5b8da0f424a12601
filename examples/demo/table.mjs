// @ts-check
/**
 * The result on the terminal.
 */
import { PROMISE_MS } from './config.mjs'
import { count, mebibytes, ms, percent } from './format.mjs'
import { MEANING } from './sources.mjs'

/** A client that sends this late, at p99, has too little of the machine: its latencies are not the service's. */
const BEHIND_MS = 10
const BEHIND = 'The client fell behind: this machine was too busy for these figures to say much. A lower --rate helps.'

/**
 * Columns padded to their widest cell: the first to the left, the others to the right.
 * @param {string[]} head
 * @param {string[][]} rows
 * @returns {string[]} lines
 */
export function columns(head, rows) {
  const widths = head.map((title, n) => Math.max(title.length, ...rows.map(row => row[n].length)))
  const line = (/** @type {string[]} */ cells) =>
    cells
      .map((cell, n) => (n === 0 ? cell.padEnd(widths[n]) : cell.padStart(widths[n])))
      .join('  ')
      .trimEnd()
  return [line(head), widths.map(width => '─'.repeat(width)).join('  '), ...rows.map(line)]
}

/**
 * With the cache beside without it, what is measured by row.
 * @param {import('./figures.mjs').RunFigures} withCache
 * @param {import('./figures.mjs').RunFigures} without
 * @returns {string[][]} label, with, without
 */
export function comparison(withCache, without) {
  /** @type {[string, (figures: import('./figures.mjs').RunFigures) => string][]} */
  const rows = [
    ['requests', figures => count(figures.requests)],
    ['pages', figures => `${count(figures.pages)} (${percent(figures.pages / figures.requests)})`],
    ['errors', figures => `${count(figures.errors)} (${percent(figures.errors / figures.requests)})`],
    ['page p50', figures => ms(figures.latency.p50)],
    ['page p99', figures => ms(figures.latency.p99)],
    ['page p99.9', figures => ms(figures.latency.p999)],
    ['requests to the origin', figures => count(figures.origin.requests)],
    ['origin load saved', figures => percent(figures.origin.reduction)]
  ]
  return rows.map(([label, cell]) => [label, cell(withCache), cell(without)])
}

/**
 * Where the answers came from.
 * @param {import('./figures.mjs').RunFigures} figures
 * @returns {string[][]} source, meaning, answers, share, p50, p99, p99.9, p99 inside the service
 */
export function sourceRows({ sources, requests }) {
  const order = ['HIT', 'STALE', 'MISS', 'STALE-IF-ERROR', 'BYPASS', 'ERROR']
  return [...sources]
    .sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name))
    .map(({ name, latency, handling }) => [
      name,
      MEANING[name],
      count(latency.count),
      percent(latency.count / requests),
      ms(latency.p50),
      ms(latency.p99),
      ms(latency.p999),
      handling ? ms(handling.p99) : ''
    ])
}

export const SOURCE_HEAD = ['answered', 'meaning', 'answers', 'share', 'p50', 'p99', 'p99.9', 'in service p99']

/**
 * The phases of the origin, with and without the cache.
 * @param {import('./figures.mjs').RunFigures} withCache
 * @param {import('./figures.mjs').RunFigures} without
 * @returns {string[][]} phase, then pages, p99 and requests to the origin a second, each with and without
 */
export function phaseRows(withCache, without) {
  return withCache.phases.map((phase, n) => {
    const other = without.phases[n]
    const cells = (/** @type {typeof phase} */ { pages, requests, latency, originPerSecond }) => [
      requests === 0 ? 'none' : percent(pages / requests),
      pages === 0 ? 'none' : ms(latency.p99),
      count(originPerSecond)
    ]
    const [pages, p99, load] = cells(phase)
    const [otherPages, otherP99, otherLoad] = cells(other)
    const seconds = (phase.endMs - phase.startMs) / 1000
    return [`${phase.label}, ${seconds.toFixed(1)} s`, pages, otherPages, p99, otherP99, load, otherLoad]
  })
}

export const PHASE_HEAD = ['phase', 'pages with', 'without', 'p99 with', 'without', 'origin req/s with', 'without']

/**
 * Hit and stale p99, at the client and inside the service, each against the promise.
 * @param {import('./figures.mjs').RunFigures} withCache
 * @returns {{ name: 'HIT' | 'STALE', p99: number, verdict: string, inService: string }[]}
 */
export function promise({ sources }) {
  const against = (/** @type {number} */ p99) => (p99 < PROMISE_MS ? 'under' : 'NOT under')
  return /** @type {const} */ (['HIT', 'STALE']).map(name => {
    const source = sources.find(source => source.name === name)
    const p99 = source?.latency.p99 ?? Infinity
    const inService = source?.handling?.p99 ?? Infinity
    return {
      name,
      p99,
      verdict: `${against(p99)} the promised ${PROMISE_MS} ms`,
      inService: `inside the service ${ms(inService)}, ${against(inService)} ${PROMISE_MS} ms`
    }
  })
}

/**
 * @param {import('./figures.mjs').RunFigures} withCache
 * @param {import('./figures.mjs').RunFigures} without
 * @param {import('./config.mjs').DemoConfig} config
 * @returns {string}
 */
export function resultTable(withCache, without, config) {
  const { cache, gauges } = withCache
  const withoutMeaning = (/** @type {string[]} */ row) => row.filter((_, n) => n !== 1)
  const fullest = Math.max(0, ...gauges.map(gauge => gauge.bytes))
  const promised = promise(withCache).map(
    ({ name, p99, verdict, inService }) => `${name.toLowerCase()} p99 ${ms(p99)}: ${verdict}; ${inService}`
  )
  return [
    '',
    ...columns(['', 'with kvcache', 'without'], comparison(withCache, without)),
    '',
    'With kvcache, by where the answer came from:',
    ...columns(withoutMeaning(SOURCE_HEAD), sourceRows(withCache).map(withoutMeaning)),
    '',
    'What the origin went through:',
    ...columns(PHASE_HEAD, phaseRows(withCache, without)),
    '',
    ...promised,
    ...(cache
      ? [
          `the cache: ${count(cache.end.entries)} pages, at most ${mebibytes(fullest)} of ${config.cache.memory}; ` +
            `${count(cache.evicted.budget)} evicted, ${count(cache.coalesced)} gets joined a load, ` +
            `${count(cache.backgroundUpdates)} refreshed in the background`
        ]
      : []),
    'latency counts from when a request was due; ' +
      `it was sent ${ms(withCache.late.p50)} later at p50, ${ms(withCache.late.p99)} at p99`,
    ...(Math.max(withCache.late.p99, without.late.p99) > BEHIND_MS ? [BEHIND] : []),
    ''
  ].join('\n')
}
