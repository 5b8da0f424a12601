// @ts-check
/**
 * What the report says in words, with the figures of the run.
 */
import { PROMISE_MS, TRACE_PAGES, TRACE_REQUESTS } from '../config.mjs'
import { count, mebibytes, ms, percent } from '../format.mjs'
import { promise } from '../table.mjs'

/** @typedef {import('../report.mjs').Result} Result */

/**
 * @param {Result} result
 * @returns {string}
 */
export function summary({ withCache, config }) {
  return (
    `${count(withCache.requests)} requests of a real web shop, replayed over loopback at ` +
    `${count(config.traffic.rate)} a second through a Node HTTP service: once with kvcache between it and its ` +
    'origin, once without. ' +
    'Meanwhile the origin slowed down, died, and came back.'
  )
}

/**
 * The four figures to remember.
 * @param {Result} result
 * @returns {[label: string, value: string, note: string][]}
 */
export function highlights({ withCache, without }) {
  const [hit, stale] = promise(withCache)
  const share = (/** @type {typeof withCache} */ { pages, requests }) => percent(pages / requests)
  const [load, loadWithout] = [withCache, without].map(({ origin }) => count(origin.requests))
  return [
    ['Hit p99', ms(hit.p99), `${hit.verdict}; ${hit.inService}`],
    ['Stale p99', ms(stale.p99), `${stale.verdict}; ${stale.inService}`],
    ['Pages answered', share(withCache), `${share(without)} without the cache`],
    ['Origin load saved', percent(withCache.origin.reduction), `${load} requests instead of ${loadWithout}`]
  ]
}

/**
 * How it was done, with every figure that matters.
 * @param {Result} result
 * @returns {string[]}
 */
export function method({ config, machine, startedAt, withCache, without }) {
  const { traffic, origin, cache, service } = config
  const behaviour = (/** @type {import('../config.mjs').OriginMode} */ { latencyMs, failures }) =>
    `median ${latencyMs.median} ms, p99 ${latencyMs.p99} ms, ${percent(failures)} answered 503`
  const late = (/** @type {typeof withCache} */ figures) =>
    `${ms(figures.late.p50)} (p50) and ${ms(figures.late.p99)} (p99)`
  return [
    `Real: the order of ${count(traffic.requests)} requests (of ${count(TRACE_REQUESTS)} in the trace, over ` +
      `${count(TRACE_PAGES)} product pages); HTTP over loopback between three processes, client, service and origin; ` +
      'the death of the origin, by SIGKILL.',
    `Simulated: when requests arrive (a Poisson process of ${count(traffic.rate)} a second, the trace has no times), ` +
      'what a page holds, and the origin, whose delays are drawn from lognormal distributions with a fixed seed.',
    `Origin, well: ${behaviour(origin.modes.calm)}. Slow: ${behaviour(origin.modes.slow)}. Rate limit: ` +
      `${count(origin.rateLimit.perSecond)} a second with a burst of ${count(origin.rateLimit.burst)}, above it 429.`,
    `Cache: fresh for ${cache.maxAge} s (less up to ${percent(cache.jitter)} of jitter), served stale up to ` +
      `${cache.staleAge} s, in place of an error up to ${cache.staleIfError} s: scaled to the length of the run. ` +
      `Memory ${cache.memory}. Soft timeout ${cache.softTimeout} ms, hard timeout ${cache.hardTimeout} ms. ` +
      `Breaker: opens after ${cache.breaker.threshold} failures, tries again after ${cache.breaker.timeout} ms. ` +
      `Background refresh: ${cache.refresh.concurrency} at a time.`,
    `Without the cache the service asks the origin each time and waits up to ${service.originTimeoutMs} ms.`,
    'Latency counts from the moment a request was due until the last byte of its page, so waiting in line shows. ' +
      `Requests went out ${late(withCache)} after they were due with the cache, ${late(without)} without: the ` +
      'client’s timer has a grain of 1 ms. Only pages count; quick errors would flatter whoever fails most. ' +
      'Percentiles: HDR histograms, three digits.',
    `Measured on ${machine}, ${startedAt.toISOString().slice(0, 16).replace('T', ' ')} UTC.`
  ]
}

/**
 * What the cache itself counted.
 * @param {Result} result
 * @returns {string[][]} label, figure
 */
export function cacheRows({ withCache, config }) {
  const { cache, gauges } = withCache
  if (!cache) return []
  const fullest = Math.max(0, ...gauges.map(({ bytes }) => bytes))
  const us = (/** @type {number} */ value) =>
    value < 1000 ? `${value.toFixed(value < 10 ? 1 : 0)} µs` : ms(value / 1000)
  const { hit, stale, fetch } = cache.end.latency
  const both = (/** @type {typeof hit} */ { p50, p99 }) => `${us(p50)}; ${us(p99)}`
  return [
    ['hits; stale ones among them', `${count(cache.hits)}; ${count(cache.stale)}`],
    ['misses; joined to a load already running', `${count(cache.misses)}; ${count(cache.coalesced)}`],
    ['background refreshes that succeeded', count(cache.backgroundUpdates)],
    ['failed loads and refreshes', count(cache.errors)],
    ['pages held at the end', count(cache.end.entries)],
    ['evicted for room; expired', `${count(cache.evicted.budget)}; ${count(cache.evicted.expired)}`],
    ['memory, at most', `${mebibytes(fullest)} of ${config.cache.memory}`],
    ['values held at the end, before compression', mebibytes(cache.end.bytesBeforeCompression)],
    ['look-up inside the engine, fresh: p50; p99', both(hit)],
    ['look-up inside the engine, stale: p50; p99', both(stale)],
    ['fetch from the origin: p50; p99', both(fetch)]
  ]
}

/**
 * The plots: where they are drawn, their titles, what there is to see.
 * @type {[id: string, title: string, text: string][]}
 */
export const PLOTS = [
  ['latency', 'What a client waits for a page', 'p50 and p99, logarithmic. Gaps: no page was answered at all.'],
  [
    'latency-by-source',
    'With kvcache: p99 by where the page came from',
    `Logarithmic. Dashed: the ${PROMISE_MS} ms promised for cached answers.`
  ],
  ['answers-with', 'With kvcache: answered from where', 'Answers a second, stacked.'],
  ['answers-without', 'Without: answered from where', 'Answers a second, stacked, on the same scale.'],
  [
    'origin-load',
    'Origin load',
    'Requests a second that the service sent to the origin, answered or not. Dashed: the origin’s rate limit.'
  ],
  [
    'breaker',
    'Circuit breaker',
    'Its state with kvcache. While it is open the origin is left alone but for one trial at a time.'
  ],
  ['queue', 'Background refresh', 'Pages queued for a refresh, and refreshes running.']
]
