// @ts-check
/**
 * The report: one HTML file with the tables, the plots and all they need, that asks nothing of the network.
 *
 * The page is put together here; report/report.css dresses it and report/plots.js, which runs in the browser, draws.
 * uPlot is inlined from node_modules with its licence.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { PROMISE_MS, TRACE_PAGES, TRACE_REQUESTS } from './config.mjs'
import { count, mebibytes, ms, percent } from './format.mjs'
import { comparison, PHASE_HEAD, phaseRows, promise, SOURCE_HEAD, sourceRows } from './table.mjs'

/**
 * @typedef {object} Result
 * @property {import('./config.mjs').DemoConfig} config
 * @property {Date} startedAt
 * @property {string} machine
 * @property {import('./figures.mjs').RunFigures} withCache
 * @property {import('./figures.mjs').RunFigures} without
 */

const read = (/** @type {string} */ path) => readFileSync(new URL(path, import.meta.url), 'utf8')

/** uPlot as it is published: script, style and licence. */
function uplot() {
  const dist = dirname(createRequire(import.meta.url).resolve('uplot'))
  const file = (/** @type {string} */ path) => readFileSync(join(dist, path), 'utf8')
  return { script: file('uPlot.iife.min.js'), style: file('uPlot.min.css'), licence: file('../LICENSE').trim() }
}

/** @param {string} text */
function escape(text) {
  return text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}

/** JSON that no parser of HTML can take for the end of its script element. @param {unknown} value */
function scriptJson(value) {
  return JSON.stringify(value).replaceAll('<', '\\u003c')
}

/**
 * @param {string} caption
 * @param {string[]} head
 * @param {string[][]} rows
 * @param {number} [textColumns] columns of words, from the left
 */
function table(caption, head, rows, textColumns = 1) {
  const kind = (/** @type {number} */ n) => (n < textColumns ? ' class="text"' : '')
  const cells = (/** @type {string[]} */ row) =>
    row.map((cell, n) => (n === 0 ? `<th scope="row">${escape(cell)}</th>` : `<td${kind(n)}>${escape(cell)}</td>`)).join('')
  return `<div class="scroll"><table${head.length <= 3 ? ' class="narrow"' : ''}>
<caption>${escape(caption)}</caption>
<thead><tr>${head.map((title, n) => `<th scope="col"${kind(n)}>${escape(title)}</th>`).join('')}</tr></thead>
<tbody>
${rows.map(row => `<tr>${cells(row)}</tr>`).join('\n')}
</tbody></table></div>`
}

/**
 * @param {string} label
 * @param {string} value
 * @param {string} note
 */
function tile(label, value, note) {
  return `<div class="tile"><dt>${escape(label)}</dt><dd>${escape(value)}</dd><dd class="note">${escape(note)}</dd></div>`
}

/**
 * @param {string} id of the plot
 * @param {string} title
 * @param {string} text what there is to see
 */
function figure(id, title, text) {
  return `<figure><figcaption><h3>${escape(title)}</h3><p>${escape(text)}</p></figcaption><div class="plot" id="${id}"></div></figure>`
}

/** @param {Result} result */
function tiles({ withCache, without }) {
  const [hit, stale] = promise(withCache)
  const verdict = (/** @type {typeof hit} */ { kept, inService }) =>
    `${kept ? 'under' : 'not under'} the promised ${PROMISE_MS} ms; ${ms(inService)} inside the service`
  const share = (/** @type {import('./figures.mjs').RunFigures} */ { pages, requests }) => percent(pages / requests)
  return `<dl class="tiles">
${tile('Hit p99', ms(hit.p99), verdict(hit))}
${tile('Stale p99', ms(stale.p99), verdict(stale))}
${tile('Pages answered', share(withCache), `${share(without)} without the cache`)}
${tile('Origin load saved', percent(withCache.origin.reduction), `${count(withCache.origin.requests)} requests instead of ${count(without.origin.requests)}`)}
</dl>`
}

/** How it was done, with every figure that matters. @param {Result} result */
function method({ config, machine, startedAt, withCache, without }) {
  const { traffic, origin, cache, service } = config
  const { calm, slow } = origin.modes
  const latency = (/** @type {typeof calm} */ { latencyMs }) => `median ${latencyMs.median} ms, p99 ${latencyMs.p99} ms`
  const items = [
    `Real: the order of ${count(traffic.requests)} requests (of ${count(TRACE_REQUESTS)} in the trace, over ${count(TRACE_PAGES)} product pages); ` +
      'HTTP over loopback between three processes, client, service and origin; the death of the origin, by SIGKILL.',
    `Simulated: when requests arrive (a Poisson process of ${count(traffic.rate)} a second, the trace has no times), what a page holds, ` +
      'and the origin, whose delays are drawn from lognormal distributions with a fixed seed.',
    `Origin, well: ${latency(calm)}, ${percent(calm.failures)} answered 503. Slow: ${latency(slow)}, ${percent(slow.failures)} answered 503. ` +
      `Rate limit: ${count(origin.rateLimit.perSecond)} a second with a burst of ${count(origin.rateLimit.burst)}, above it 429.`,
    `Cache: fresh for ${cache.maxAge} s (less up to ${percent(cache.jitter)} of jitter), served stale up to ${cache.staleAge} s, ` +
      `in place of an error up to ${cache.staleIfError} s: scaled to the length of the run. Memory ${cache.memory}. ` +
      `Soft timeout ${cache.softTimeout} ms, hard timeout ${cache.hardTimeout} ms. Breaker: opens after ${cache.breaker.threshold} failures, ` +
      `tries again after ${cache.breaker.timeout} ms. Background refresh: ${cache.refresh.concurrency} at a time.`,
    `Without the cache the service asks the origin each time and waits up to ${service.originTimeoutMs} ms.`,
    'Latency counts from the moment a request was due until the last byte of its page, so waiting in line shows. ' +
      `Requests went out ${ms(withCache.late.p50)} (p50) and ${ms(withCache.late.p99)} (p99) after they were due with the cache, ` +
      `${ms(without.late.p50)} and ${ms(without.late.p99)} without: the client's timer has a grain of 1 ms. ` +
      'Only pages count; quick errors would flatter whoever fails most. Percentiles: HDR histograms, three digits.',
    `Measured on ${machine}, ${startedAt.toISOString().slice(0, 16).replace('T', ' ')} UTC.`
  ]
  return `<ul>\n${items.map(item => `<li>${escape(item)}</li>`).join('\n')}\n</ul>`
}

/** What the cache itself counted. @param {Result} result */
function cacheRows({ withCache, config }) {
  const { cache, gauges } = withCache
  if (!cache) return []
  const fullest = Math.max(0, ...gauges.map(({ bytes }) => bytes))
  const { latency } = cache.end
  const us = (/** @type {number} */ value) => (value < 1000 ? `${value.toFixed(value < 10 ? 1 : 0)} µs` : ms(value / 1000))
  return [
    ['hits; stale ones among them', `${count(cache.hits)}; ${count(cache.stale)}`],
    ['misses; joined to a load already running', `${count(cache.misses)}; ${count(cache.coalesced)}`],
    ['background refreshes that succeeded', count(cache.backgroundUpdates)],
    ['failed loads and refreshes', count(cache.errors)],
    ['pages held at the end', count(cache.end.entries)],
    ['evicted for room; expired', `${count(cache.evicted.budget)}; ${count(cache.evicted.expired)}`],
    ['memory, at most', `${mebibytes(fullest)} of ${config.cache.memory}`],
    ['look-up inside the engine, fresh: p50; p99', `${us(latency.hit.p50)}; ${us(latency.hit.p99)}`],
    ['look-up inside the engine, stale: p50; p99', `${us(latency.stale.p50)}; ${us(latency.stale.p99)}`],
    ['fetch from the origin: p50; p99', `${us(latency.fetch.p50)}; ${us(latency.fetch.p99)}`]
  ]
}

/** What the browser draws from. @param {Result} result */
function plotData({ config, withCache, without }) {
  const phases = (/** @type {import('./figures.mjs').RunFigures} */ figures) =>
    figures.phases.map(({ name, label, startMs, endMs }) => ({ name, label, start: startMs / 1000, end: endMs / 1000 }))
  return {
    seconds: config.traffic.seconds,
    bucketMs: config.bucketMs,
    promiseMs: PROMISE_MS,
    rateLimit: config.origin.rateLimit.perSecond,
    withCache: { ...withCache.series, phases: phases(withCache) },
    without: { ...without.series, phases: phases(without) }
  }
}

/**
 * @param {Result} result
 * @returns {string} the whole page
 */
export function reportHtml(result) {
  const { withCache, without, config } = result
  const library = uplot()
  const bucket = `${config.bucketMs} ms`
  const title = 'kvcache in front of a failing origin'
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escape(title)}</title>
<style>
${library.style}
${read('./report/report.css')}
</style>
</head>
<body>
<main>
<header>
<h1>${escape(title)}</h1>
<p>${escape(
    `${count(withCache.requests)} requests of a real web shop, replayed over loopback at ${count(config.traffic.rate)} a second through a Node HTTP service: ` +
      'once with kvcache between it and its origin, once without. Meanwhile the origin slowed down, died, and came back.'
  )}</p>
</header>
${tiles(result)}
<section>
<h2>The result</h2>
${table('With the cache beside without it', ['', 'with kvcache', 'without'], comparison(withCache, without))}
${table('With kvcache, by where the answer came from', SOURCE_HEAD, sourceRows(withCache), 2)}
${table('What the origin went through', PHASE_HEAD, phaseRows(withCache, without))}
</section>
<section>
<h2>Over time</h2>
<p>The shaded stretches are what the origin went through. One point is ${bucket}; point at a plot to read its values.</p>
<noscript><p>The plots need JavaScript; the tables above have the figures.</p></noscript>
${figure('latency', 'What a client waits for a page', 'p50 and p99, logarithmic. Gaps: no page was answered at all.')}
${figure('latency-by-source', 'With kvcache: p99 by where the page came from', `Logarithmic. Dashed: the ${PROMISE_MS} ms promised for cached answers.`)}
${figure('answers-with', 'With kvcache: answered from where', 'Answers a second, stacked.')}
${figure('answers-without', 'Without: answered from where', 'Answers a second, stacked, on the same scale.')}
${figure('origin-load', 'Origin load', 'Requests a second that the service sent to the origin, answered or not. Dashed: the origin’s rate limit.')}
${figure('breaker', 'Circuit breaker', 'Its state with kvcache. While it is open the origin is left alone but for one trial at a time.')}
${figure('queue', 'Background refresh', 'Pages queued for a refresh, and refreshes running.')}
</section>
<section>
<h2>What the cache counted</h2>
${table('From stats() at the end of the run', ['', 'with kvcache'], cacheRows(result))}
</section>
<section>
<h2>How this was measured</h2>
${method(result)}
</section>
<footer>
<p>Access trace: Web07 of the <a href="https://github.com/cache2k/cache2k-benchmark">cache2k benchmarks</a>, headissue GmbH, Jens Wilke,
<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>, re-coded.</p>
<details><summary>Plots: uPlot, MIT licence</summary><pre>${escape(library.licence)}</pre></details>
</footer>
</main>
<script>
/*
${library.licence.replaceAll('*/', '* /')}
*/
${library.script}
</script>
<script type="application/json" id="data">${scriptJson(plotData(result))}</script>
<script>
${read('./report/plots.js')}
</script>
</body>
</html>
`
}
