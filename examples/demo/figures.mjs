// @ts-check
/**
 * From what the processes noted to the figures that the table and the report show. Pure functions.
 *
 * Percentiles come from HDR histograms of microseconds with three significant digits; those of a single point in a
 * plot, where samples are few, are exact (nearest rank). Latencies are of pages only: an error is quick and worth
 * nothing, and would flatter whoever fails most.
 */
import hdr from 'hdr-histogram-js'
import { phaseAt } from './config.mjs'
import { ERROR, SOURCES } from './sources.mjs'

/** @typedef {import('hdr-histogram-js').Histogram} Histogram */
/** Milliseconds. @typedef {{ count: number, p50: number, p99: number, p999: number, max: number }} Percentiles */

/** An hour, in microseconds: more than any latency here. */
const HIGHEST_US = 3_600_000_000

/** @returns {Histogram} of microseconds */
export function newHistogram() {
  return hdr.build({ lowestDiscernibleValue: 1, highestTrackableValue: HIGHEST_US, numberOfSignificantValueDigits: 3 })
}

/**
 * @param {Histogram} histogram
 * @param {number} ms
 */
export function recordMs(histogram, ms) {
  histogram.recordValue(Math.max(1, Math.round(ms * 1000)))
}

/**
 * @param {Histogram} histogram
 * @returns {Percentiles} zeros when nothing was recorded
 */
export function percentiles(histogram) {
  const at = (/** @type {number} */ percentile) => histogram.getValueAtPercentile(percentile) / 1000
  const count = histogram.totalCount
  if (count === 0) return { count: 0, p50: 0, p99: 0, p999: 0, max: 0 }
  return { count, p50: at(50), p99: at(99), p999: at(99.9), max: histogram.maxValue / 1000 }
}

/**
 * What one replay left behind.
 * @typedef {object} Run
 * @property {boolean} useCache
 * @property {import('./replay.mjs').Samples} samples
 * @property {import('./service.mjs').ServiceRecord} record
 * @property {import('./config.mjs').Phase[]} phases as they really were
 * @property {{ killedBy: string | null, restarted: boolean }} originLife
 */

/** @typedef {ReturnType<typeof runFigures>} RunFigures */

/**
 * @param {Run} run
 * @param {import('./config.mjs').DemoConfig} config
 */
export function runFigures(run, config) {
  const { samples, record } = run
  const requests = samples.statuses.length
  const statuses = tally(Array.from(samples.statuses))
  const pages = statuses.get(200) ?? 0
  const originRequests = record.outcomes.length
  return {
    useCache: run.useCache,
    requests,
    pages,
    errors: requests - pages,
    statuses: Object.fromEntries([...statuses].sort(([a], [b]) => a - b)),
    latency: latencyOf(samples, n => samples.sources[n] !== ERROR),
    sources: sourceFigures(run),
    /** How long after they were due requests were sent. */
    late: percentilesOf(samples.lateMs),
    origin: {
      requests: originRequests,
      outcomes: Object.fromEntries(tally(record.outcomes)),
      /** Share of the requests that did not reach the origin. */
      reduction: 1 - originRequests / requests
    },
    phases: phaseFigures(run),
    cache: record.cache,
    gauges: record.gauges,
    series: series(run, config)
  }
}

/** @param {Run} run */
function sourceFigures({ samples, record }) {
  return SOURCES.map((name, code) => ({
    name,
    latency: latencyOf(samples, n => samples.sources[n] === code),
    handling: record.handling[name]
  })).filter(({ latency }) => latency.count > 0)
}

/** @param {Run} run */
function phaseFigures({ samples, record, phases }) {
  return phases.map((phase, index) => {
    const within = (/** @type {number} */ ms) => phaseAt(phases, ms) === index
    let requests = 0
    for (const due of samples.dueMs) if (within(due)) requests += 1
    const latency = latencyOf(samples, n => samples.sources[n] !== ERROR && within(samples.dueMs[n]))
    let toOrigin = 0
    for (const at of record.requestedAt) if (within(at - samples.startedAt)) toOrigin += 1
    const ms = phase.endMs - phase.startMs
    return { ...phase, requests, pages: latency.count, latency, originPerSecond: ms > 0 ? (toOrigin * 1000) / ms : 0 }
  })
}

/**
 * Everything over time, a point a bucket.
 * @param {Run} run
 * @param {import('./config.mjs').DemoConfig} config
 */
function series({ samples, record }, { bucketMs, traffic }) {
  const buckets = Math.ceil((traffic.seconds * 1000) / bucketMs)
  const bucketOf = (/** @type {number} */ ms) => Math.floor(ms / bucketMs)
  const perSecond = 1000 / bucketMs

  /** Latencies of pages by bucket and source. @type {number[][][]} */
  const latencies = Array.from({ length: buckets }, () => SOURCES.map(() => []))
  for (let n = 0; n < samples.dueMs.length; n++) {
    // The last few requests of a Poisson schedule may be due after the nominal end.
    latencies[Math.min(bucketOf(samples.dueMs[n]), buckets - 1)][samples.sources[n]].push(samples.latencyMs[n])
  }
  const toOrigin = new Array(buckets).fill(0)
  for (const at of record.requestedAt) {
    const bucket = bucketOf(at - samples.startedAt)
    if (bucket >= 0 && bucket < buckets) toOrigin[bucket] += perSecond
  }

  const pages = latencies.map(bySource => sorted(bySource.filter((_, code) => code !== ERROR).flat()))
  return {
    /** Seconds, the middle of each bucket. */
    time: Array.from({ length: buckets }, (_, n) => ((n + 0.5) * bucketMs) / 1000),
    p50: pages.map(values => nearestRank(values, 0.5)),
    p99: pages.map(values => nearestRank(values, 0.99)),
    /** By source: p99, null where there was no answer of that kind. */
    p99BySource: Object.fromEntries(
      SOURCES.map((name, code) => [name, latencies.map(bySource => nearestRank(sorted(bySource[code]), 0.99))])
    ),
    /** By source: answers a second. */
    rateBySource: Object.fromEntries(
      SOURCES.map((name, code) => [name, latencies.map(bySource => bySource[code].length * perSecond)])
    ),
    toOrigin,
    /** Changes of the breaker: seconds, state. */
    breaker: record.breaker.map(({ at, state }) => ({ at: (at - samples.startedAt) / 1000, state })),
    /** Gauges of the cache: seconds. */
    gauges: record.gauges
      .map(({ at, ...gauge }) => ({ at: (at - samples.startedAt) / 1000, ...gauge }))
      .filter(({ at }) => at >= 0 && at <= traffic.seconds)
  }
}

/**
 * @param {import('./replay.mjs').Samples} samples
 * @param {(n: number) => boolean} counts
 */
function latencyOf(samples, counts) {
  const histogram = newHistogram()
  for (let n = 0; n < samples.latencyMs.length; n++) if (counts(n)) recordMs(histogram, samples.latencyMs[n])
  return percentiles(histogram)
}

/** @param {Iterable<number>} values milliseconds */
function percentilesOf(values) {
  const histogram = newHistogram()
  for (const value of values) recordMs(histogram, value)
  return percentiles(histogram)
}

/**
 * @template T
 * @param {T[]} values
 * @returns {Map<T, number>}
 */
function tally(values) {
  /** @type {Map<T, number>} */
  const counts = new Map()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return counts
}

/** @param {number[]} values */
function sorted(values) {
  return values.sort((a, b) => a - b)
}

/**
 * The smallest value that at least this share of the values does not exceed.
 * @param {number[]} ascending
 * @param {number} share
 */
function nearestRank(ascending, share) {
  return ascending.length === 0 ? null : ascending[Math.ceil(share * ascending.length) - 1]
}
