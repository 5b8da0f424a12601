// @ts-check
/**
 * The demo: replays a real access trace through an HTTP service, once with kvcache between it and its slow,
 * rate-limited, failing origin, and once without. Ends with a table and a report in one HTML file.
 *
 * Exit codes: 0 the run was sound, 1 it was not (what failed is printed), 2 an option is wrong, 130 interrupted.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { availableParallelism, cpus } from 'node:os'
import { dirname, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { unsound } from './checks.mjs'
import { DEFAULT_RATE, demoConfig, QUICK_SECONDS } from './config.mjs'
import { runFigures } from './figures.mjs'
import { count } from './format.mjs'
import { stopAll } from './processes.mjs'
import { Progress } from './progress.mjs'
import { reportHtml } from './report.mjs'
import { replayTrace } from './scenario.mjs'
import { resultTable } from './table.mjs'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))

const HELP = `Usage: node examples/demo/run.mjs [options]

  --quick        the first ${QUICK_SECONDS} seconds of traffic only, about 15 s in all
  --rate N       requests a second, default ${DEFAULT_RATE.toFixed(0)} (the whole trace in 45 s, twice)
  --report FILE  where the report goes, default demo-report.html in the project's folder
  --json FILE    the figures as JSON, too
  --help         this text
`

/** An option that cannot be used. */
class UsageError extends Error {}

/** @param {string[]} args */
function options(args) {
  let values
  try {
    ;({ values } = parseArgs({
      args,
      options: {
        quick: { type: 'boolean', default: false },
        rate: { type: 'string' },
        report: { type: 'string', default: resolve(ROOT, 'demo-report.html') },
        json: { type: 'string' },
        help: { type: 'boolean', default: false }
      }
    }))
  } catch (error) {
    throw new UsageError(/** @type {Error} */ (error).message)
  }
  const rate = values.rate === undefined ? undefined : Number(values.rate)
  if (rate !== undefined && !(rate >= 100 && rate <= 20_000)) {
    throw new UsageError(`--rate must be a number of requests a second, 100 to 20000, not ${values.rate}.`)
  }
  return { ...values, rate }
}

/** What the figures were measured on. */
function machine() {
  const model = cpus()[0]?.model.trim() || 'unknown processor'
  return `${availableParallelism()} cores (${model}), ${process.platform} ${process.arch}, Node.js ${process.version}`
}

/**
 * @param {string} file
 * @param {string} text
 */
function write(file, text) {
  mkdirSync(dirname(resolve(file)), { recursive: true })
  writeFileSync(file, text)
}

/** Fails before the first replay, not between the two, where the addon has not been built. */
async function requireCache() {
  try {
    await import('kvcache')
  } catch (error) {
    const { message } = /** @type {Error} */ (error)
    throw new Error(`kvcache cannot be loaded; npm run build makes it.\n${message}`, { cause: error })
  }
}

/** @returns {Promise<number>} exit code */
async function main() {
  const { quick, rate, report, json, help } = options(process.argv.slice(2))
  if (help) {
    process.stdout.write(HELP)
    return 0
  }
  await requireCache()
  const config = demoConfig({ quick, rate })
  const { requests, seconds } = config.traffic
  process.stdout.write(
    `Replaying ${count(requests)} requests of a web shop at ${count(config.traffic.rate)} a second, ` +
      `${seconds.toFixed(0)} s without a cache and ${seconds.toFixed(0)} s with kvcache.\n`
  )

  const startedAt = new Date()
  const replay = async (/** @type {boolean} */ useCache) => {
    const progress = new Progress(useCache ? 'with kvcache ' : 'without cache', requests)
    try {
      const run = await replayTrace({ useCache, config, progress })
      return { run, figures: runFigures(run, config) }
    } finally {
      progress.stop()
    }
  }
  // One after the other, each with the whole machine: side by side they would slow each other down.
  const without = await replay(false)
  const withCache = await replay(true)

  process.stdout.write(resultTable(withCache.figures, without.figures, config))
  const result = { config, startedAt, machine: machine(), withCache: withCache.figures, without: without.figures }
  write(report, reportHtml(result))
  process.stdout.write(`Report: ${resolve(report)}\n`)
  if (json !== undefined) {
    write(json, `${JSON.stringify(result, null, 2)}\n`)
    process.stdout.write(`Figures: ${resolve(json)}\n`)
  }

  const failures = unsound(withCache, without, config)
  for (const failure of failures) process.stderr.write(`Not sound: ${failure}\n`)
  return failures.length === 0 ? 0 : 1
}

for (const [signal, code] of /** @type {const} */ ([
  ['SIGINT', 130],
  ['SIGTERM', 143]
])) {
  process.once(signal, async () => {
    await stopAll()
    // The bar hid the cursor and left its line open.
    if (process.stderr.isTTY) process.stderr.write('\u001b[?25h\n')
    process.stderr.write('Interrupted: nothing was measured to the end, no report written.\n')
    process.exit(code)
  })
}

try {
  process.exitCode = await main()
} catch (error) {
  await stopAll()
  const usage = error instanceof UsageError
  process.stderr.write(
    usage ? `${error.message}\n\n${HELP}` : `The demo failed. ${/** @type {Error} */ (error).message}\n`
  )
  process.exitCode = usage ? 2 : 1
}
