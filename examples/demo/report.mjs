// @ts-check
/**
 * The report: one HTML file with the tables, the plots and all they need, that asks nothing of the network.
 *
 * The page is put together here, from the pieces in report/: html.mjs builds, texts.mjs tells, report.css dresses, and
 * plots.js, which runs in the browser, draws. uPlot is inlined from node_modules with its licence.
 */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { PROMISE_MS } from './config.mjs'
import { escape, figure, list, scriptJson, table, tile } from './report/html.mjs'
import { cacheRows, highlights, method, PLOTS, summary } from './report/texts.mjs'
import { comparison, PHASE_HEAD, phaseRows, SOURCE_HEAD, sourceRows } from './table.mjs'

/**
 * @typedef {object} Result
 * @property {import('./config.mjs').DemoConfig} config
 * @property {Date} startedAt
 * @property {string} machine
 * @property {import('./figures.mjs').RunFigures} withCache
 * @property {import('./figures.mjs').RunFigures} without
 */

const TITLE = 'kvcache in front of a failing origin'

const read = (/** @type {string} */ path) => readFileSync(new URL(path, import.meta.url), 'utf8')

/** uPlot as it is published: script, style and licence. */
function uplot() {
  const dist = dirname(createRequire(import.meta.url).resolve('uplot'))
  const file = (/** @type {string} */ path) => readFileSync(join(dist, path), 'utf8')
  return { script: file('uPlot.iife.min.js'), style: file('uPlot.min.css'), licence: file('../LICENSE').trim() }
}

/**
 * What the browser draws from.
 * @param {Result} result
 */
function plotData({ config, withCache, without }) {
  const phases = (/** @type {typeof withCache} */ figures) =>
    figures.phases.map(({ name, label, startMs, endMs }) => ({ name, label, start: startMs / 1000, end: endMs / 1000 }))
  return {
    seconds: config.traffic.seconds,
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
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escape(TITLE)}</title>
<style>
${library.style}
${read('./report/report.css')}
</style>
</head>
<body>
<main>
<header>
<h1>${escape(TITLE)}</h1>
<p>${escape(summary(result))}</p>
</header>
<dl class="tiles">
${highlights(result)
  .map(([label, value, note]) => tile(label, value, note))
  .join('\n')}
</dl>
<section>
<h2>The result</h2>
${table('With the cache beside without it', ['', 'with kvcache', 'without'], comparison(withCache, without))}
${table('With kvcache, by where the answer came from', SOURCE_HEAD, sourceRows(withCache), 2)}
${table('What the origin went through', PHASE_HEAD, phaseRows(withCache, without))}
</section>
<section>
<h2>Over time</h2>
<p>The shaded stretches are what the origin went through. One point is ${config.bucketMs} ms; point at a plot to read
its values.</p>
<noscript><p>The plots need JavaScript; the tables above have the figures.</p></noscript>
${PLOTS.map(([id, title, text]) => figure(id, title, text)).join('\n')}
</section>
<section>
<h2>What the cache counted</h2>
${table('From stats() at the end of the run', ['', 'with kvcache'], cacheRows(result))}
</section>
<section>
<h2>How this was measured</h2>
${list(method(result))}
</section>
<footer>
<p>Access trace: Web07 of the <a href="https://github.com/cache2k/cache2k-benchmark">cache2k benchmarks</a>,
headissue GmbH, Jens Wilke, <a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>, re-coded.</p>
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
