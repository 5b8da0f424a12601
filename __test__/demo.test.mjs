// Guards the demo: its parts by themselves, and a quick run of the whole with what it prints, writes and leaves behind.
// How fast anything was is for the demo to report, never for a test to judge.

import assert from 'node:assert/strict'
import { execFile, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { bypassHeaders, cacheHeaders, errorHeaders } from '../examples/demo/cache-headers.mjs'
import { demoConfig, phaseAt, TRACE_PAGES, TRACE_REQUESTS } from '../examples/demo/config.mjs'
import { newHistogram, percentiles, recordMs, runFigures } from '../examples/demo/figures.mjs'
import { count, ms, percent } from '../examples/demo/format.mjs'
import { OriginError } from '../examples/demo/origin-client.mjs'
import { product, revisionAt } from '../examples/demo/product.mjs'
import { countsAsFailure } from '../examples/demo/product-service.mjs'
import { exponential, lognormal, uniform } from '../examples/demo/random.mjs'
import { SOURCES } from '../examples/demo/sources.mjs'
import { columns } from '../examples/demo/table.mjs'
import { TokenBucket } from '../examples/demo/token-bucket.mjs'
import { readTrace } from '../examples/demo/trace.mjs'

const DEMO = fileURLToPath(new URL('../examples/demo/', import.meta.url))
const RUN = join(DEMO, 'run.mjs')
/** Longer than any quick run on a busy machine. */
const LIMIT_MS = 180_000

/** The environment without what would make a child believe that it is a test file. */
const env = { ...process.env }
delete env.NODE_TEST_CONTEXT

/** @param {string[]} args */
function demo(args) {
  return new Promise(resolve => {
    execFile(process.execPath, [RUN, ...args], { env, timeout: LIMIT_MS }, (error, out, err) => {
      resolve({ code: error ? error.code : 0, out, err })
    })
  })
}

test('the trace that ships is the whole of web07, with its licence beside it', () => {
  const trace = readTrace(TRACE_REQUESTS)
  assert.equal(trace.length, TRACE_REQUESTS)
  assert.equal(new Set(trace).size, TRACE_PAGES)
  assert.throws(() => readTrace(TRACE_REQUESTS + 1), /The trace holds 76118 requests/)
  const notice = readFileSync(join(DEMO, 'trace/README.md'), 'utf8')
  for (const words of ['headissue GmbH', 'Jens Wilke', 'CC BY 4.0', 'cache2k']) assert.ok(notice.includes(words), words)
})

test('random numbers follow from the seed, and have the distribution they are named for', () => {
  const draw = (seed, n) => Array.from({ length: n }, uniform(seed))
  assert.deepEqual(draw(7, 100), draw(7, 100))
  assert.notDeepEqual(draw(7, 100), draw(8, 100))
  assert.ok(draw(1, 10_000).every(value => value >= 0 && value < 1))

  const sorted = Array.from({ length: 50_000 }, lognormal(uniform(3), { median: 20, p99: 120 })).sort((a, b) => a - b)
  const near = (value, expected) => assert.ok(Math.abs(value / expected - 1) < 0.06, `${value} is not near ${expected}`)
  near(sorted[25_000], 20)
  near(sorted[49_500], 120)
  const gaps = Array.from({ length: 50_000 }, exponential(uniform(4), 2))
  near(gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length, 2)
})

test('a token bucket gives its burst at once and then its rate', () => {
  const bucket = new TokenBucket({ perSecond: 100, burst: 5 })
  const taken = (now, wanted) => Array.from({ length: wanted }, () => bucket.take(now)).filter(Boolean).length
  assert.equal(taken(1000, 10), 5)
  assert.equal(taken(1009, 10), 0)
  assert.equal(taken(1010, 10), 1)
  assert.equal(taken(1040, 10), 3)
  // However long it was idle, no more than the burst.
  assert.equal(taken(60_000, 10), 5)
})

test('a product page follows from its id and revision, and begins with its id', () => {
  assert.deepEqual(product(42, 3), product(42, 3))
  assert.notDeepEqual(product(42, 3).price, product(42, 4).price)
  assert.equal(product(42, 3).description, product(42, 4).description)
  assert.ok(JSON.stringify(product(42, 3)).startsWith('{"id":42,'))
  const times = { shortest: 1000, longest: 9000 }
  const revisions = Array.from({ length: 100 }, (_, n) => revisionAt(42, n * 500, times))
  assert.ok(revisions.at(-1) > revisions[0])
  assert.ok(revisions.every((revision, n) => n === 0 || revision >= revisions[n - 1]))
})

test('phases follow one another from the start of a replay to its end', () => {
  for (const config of [demoConfig(), demoConfig({ quick: true }), demoConfig({ rate: 500 })]) {
    const { phases, traffic } = config
    assert.equal(phases[0].startMs, 0)
    phases.slice(1).forEach((phase, n) => assert.equal(phase.startMs, phases[n].endMs))
    assert.ok(Math.abs(phases.at(-1).endMs - traffic.seconds * 1000) < 1e-6)
    assert.deepEqual(
      phases.map(({ name }) => name),
      ['calm', 'slow', 'calm', 'down', 'calm']
    )
    assert.equal(phaseAt(phases, phases[3].startMs), 3)
    assert.equal(phaseAt(phases, phases[3].startMs - 1), 2)
    assert.equal(phaseAt(phases, 1e9), 4)
  }
})

test('response headers say where an answer came from', () => {
  const none = { reason: undefined, status: undefined }
  const entry = (state, age, maxAge = 2) => ({
    value: 1,
    metadata: undefined,
    state,
    age,
    maxAge,
    tags: [],
    dependsOn: []
  })
  const cases = [
    [entry('fresh', 0.4), none, 'HIT', '0', 'kvcache; hit; ttl=2'],
    [entry('stale', 5.9), none, 'STALE', '5', 'kvcache; hit; ttl=-4'],
    [
      entry('loaded', 0),
      { reason: 'miss', status: 200 },
      'MISS',
      '0',
      'kvcache; fwd=uri-miss; fwd-status=200; stored; ttl=2'
    ],
    [
      entry('loaded', 0),
      { reason: 'expired', status: 304 },
      'MISS',
      '0',
      'kvcache; fwd=stale; fwd-status=304; stored; ttl=2'
    ],
    [entry('loaded', 0), none, 'MISS', '0', 'kvcache; fwd=uri-miss; collapsed; ttl=2'],
    [entry('stale-if-error', 12), none, 'STALE-IF-ERROR', '12', 'kvcache; hit; ttl=-10; detail=stale-if-error'],
    [
      entry('stale-if-error', 12),
      { reason: 'expired', status: 503 },
      'STALE-IF-ERROR',
      '12',
      'kvcache; fwd=stale; fwd-status=503; ttl=-10; detail=stale-if-error'
    ]
  ]
  for (const [value, forwarded, xCache, age, cacheStatus] of cases) {
    assert.deepEqual(cacheHeaders(value, forwarded), { 'x-cache': xCache, age, 'cache-status': cacheStatus })
  }
  assert.equal(bypassHeaders(200)['cache-status'], 'kvcache; fwd=bypass; fwd-status=200')
  assert.equal(
    errorHeaders(none, 'ERR_KVCACHE_CIRCUIT_OPEN')['cache-status'],
    'kvcache; fwd=uri-miss; detail=ERR_KVCACHE_CIRCUIT_OPEN'
  )
})

test('a rate limit and a missing page do not count against the origin, anything else does', () => {
  assert.equal(countsAsFailure(new OriginError('', { status: 429 })), false)
  assert.equal(countsAsFailure(new OriginError('', { status: 404 })), false)
  assert.equal(countsAsFailure(new OriginError('', { status: 503 })), true)
  assert.equal(countsAsFailure(new OriginError('unreachable')), true)
  assert.equal(countsAsFailure(new Error('timeout')), true)
})

test('percentiles are those of the values recorded', () => {
  const histogram = newHistogram()
  for (let n = 1; n <= 1000; n++) recordMs(histogram, n)
  const { count: recorded, p50, p99, p999, max } = percentiles(histogram)
  assert.equal(recorded, 1000)
  for (const [value, expected] of [
    [p50, 500],
    [p99, 990],
    [p999, 999],
    [max, 1000]
  ]) {
    assert.ok(Math.abs(value / expected - 1) < 0.002, `${value} is not ${expected}`)
  }
  assert.deepEqual(percentiles(newHistogram()), { count: 0, p50: 0, p99: 0, p999: 0, max: 0 })
})

test('figures add up: by source, by phase and over time', () => {
  const config = demoConfig({ quick: true })
  const requests = 100
  const durationMs = config.traffic.seconds * 1000
  const run = {
    useCache: true,
    samples: {
      startedAt: 1_000_000,
      dueMs: Float64Array.from({ length: requests }, (_, n) => (n / requests) * durationMs),
      lateMs: new Float32Array(requests).fill(0.5),
      latencyMs: Float32Array.from({ length: requests }, (_, n) => n + 1),
      // One in ten an error, the others HIT.
      statuses: Uint16Array.from({ length: requests }, (_, n) => (n % 10 === 0 ? 503 : 200)),
      sources: Uint8Array.from({ length: requests }, (_, n) => (n % 10 === 0 ? 0 : SOURCES.indexOf('HIT'))),
      wrong: [],
      wrongCount: 0
    },
    record: {
      requestedAt: Float64Array.of(1_000_000, 1_000_100, 1_000_000 + durationMs - 1),
      outcomes: ['page', 'page', 'failed'],
      handling: {},
      breaker: [{ at: 1_002_000, state: 'open' }],
      gauges: [{ at: 999_000, queued: 1, running: 1, entries: 1, bytes: 1 }],
      cache: undefined
    },
    phases: config.phases,
    originLife: { killedBy: 'SIGKILL', restarted: true }
  }
  const figures = runFigures(run, config)
  assert.equal(figures.pages, 90)
  assert.equal(figures.errors, 10)
  assert.deepEqual(figures.statuses, { 200: 90, 503: 10 })
  assert.deepEqual(
    figures.sources.map(({ name, latency }) => [name, latency.count]),
    [
      ['ERROR', 10],
      ['HIT', 90]
    ]
  )
  assert.equal(figures.origin.requests, 3)
  assert.deepEqual(figures.origin.outcomes, { page: 2, failed: 1 })
  assert.equal(
    figures.phases.reduce((sum, phase) => sum + phase.requests, 0),
    requests
  )
  assert.equal(
    figures.phases.reduce((sum, phase) => sum + phase.pages, 0),
    90
  )
  const { time, rateBySource, toOrigin, breaker, gauges } = figures.series
  const perBucket = 1000 / config.bucketMs
  const sum = values => values.reduce((total, value) => total + value, 0) / perBucket
  assert.equal(time.length, durationMs / config.bucketMs)
  assert.equal(Math.round(sum(rateBySource.HIT)), 90)
  assert.equal(Math.round(sum(rateBySource.ERROR)), 10)
  assert.equal(Math.round(sum(toOrigin)), 3)
  assert.deepEqual(breaker, [{ at: 2, state: 'open' }])
  assert.deepEqual(gauges, [])
})

test('figures are written as people read them', () => {
  assert.equal(count(76118), '76,118')
  assert.equal(ms(0.4567), '0.46 ms')
  assert.equal(ms(12.345), '12.3 ms')
  assert.equal(ms(345.6), '346 ms')
  assert.equal(ms(2345), '2.35 s')
  assert.equal(percent(0.5), '50.0 %')
  assert.equal(percent(0.99968), '99.97 %')
  assert.equal(percent(1), '100.0 %')
  assert.deepEqual(
    columns(
      ['', 'b'],
      [
        ['one', '1'],
        ['x', '22']
      ]
    ),
    ['      b', '───  ──', 'one   1', 'x    22']
  )
})

test('an option that cannot be used is refused with exit code 2', async () => {
  for (const args of [['--rate', 'fast'], ['--rate', '1'], ['--slow'], ['somewhere']]) {
    const { code, out, err } = await demo(args)
    assert.equal(code, 2, args.join(' '))
    assert.equal(out, '')
    assert.match(err, /Usage: node examples\/demo\/run\.mjs/)
  }
  const { code, out } = await demo(['--help'])
  assert.equal(code, 0)
  assert.match(out, /--quick/)
})

test('a quick run is sound, prints its table and writes its report', { timeout: LIMIT_MS }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'kvcache-demo-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const files = { report: join(folder, 'report.html'), json: join(folder, 'figures.json') }
  const { code, out, err } = await demo(['--quick', '--report', files.report, '--json', files.json])
  assert.equal(code, 0, `exit code ${code}\n${out}\n${err}`)

  await t.test('the table has every row', () => {
    const rows = [
      'requests',
      'pages',
      'errors',
      'page p50',
      'page p99',
      'page p99.9',
      'requests to the origin',
      'origin load saved'
    ]
    for (const row of rows) assert.match(out, new RegExp(`^${row} .*\\d.* .*\\d`, 'm'))
    for (const source of ['HIT', 'STALE', 'MISS', 'STALE-IF-ERROR', 'ERROR'])
      assert.match(out, new RegExp(`^${source} +\\d`, 'm'))
    for (const phase of ['origin well', 'origin slow', 'well again', 'origin dead', 'origin back']) {
      assert.match(out, new RegExp(`^${phase}, [\\d.]+ s +`, 'm'))
    }
    assert.match(out, /^hit p99 [\d.]+ m?s: .*under the promised 5 ms; inside the service [\d.]+ m?s, .*under 5 ms$/m)
    assert.match(out, /^stale p99 [\d.]+ m?s: .*under the promised 5 ms; inside the service [\d.]+ m?s, .*under 5 ms$/m)
    assert.ok(out.includes(files.report))
  })

  await t.test('progress goes to stderr, a line at a time where there is no terminal', () => {
    assert.match(err, /^without cache .* of 2,500 requests \| (origin|well) \w+ \| /m)
    assert.match(err, /^with kvcache {2}2,500 of 2,500 requests \| done \| /m)
    assert.ok(!err.includes('\u001b'))
  })

  await t.test('the figures agree with one another', () => {
    const { withCache, without, config } = JSON.parse(readFileSync(files.json, 'utf8'))
    for (const figures of [withCache, without]) {
      assert.equal(figures.requests, config.traffic.requests)
      assert.equal(figures.pages + figures.errors, figures.requests)
      assert.equal(
        figures.sources.reduce((sum, { latency }) => sum + latency.count, 0),
        figures.requests
      )
      assert.equal(
        figures.phases.reduce((sum, { requests }) => sum + requests, 0),
        figures.requests
      )
      assert.equal(
        Object.values(figures.origin.outcomes).reduce((sum, n) => sum + n, 0),
        figures.origin.requests
      )
    }
    assert.equal(without.origin.requests, without.requests)
    assert.ok(withCache.origin.requests < withCache.requests)
    assert.equal(withCache.cache.hits + withCache.cache.misses, withCache.requests)
    assert.equal(withCache.cache.end.queued, 0)
    assert.ok(withCache.series.breaker.some(({ state }) => state === 'open'))
    assert.equal(withCache.series.breaker.at(-1).state, 'closed')
  })

  const html = readFileSync(files.report, 'utf8')
  await t.test('the report is one file that asks nothing of the network', () => {
    assert.match(html, /^<!doctype html>/)
    assert.match(html, /<\/html>\n$/)
    assert.doesNotMatch(html, /\ssrc\s*=/i)
    assert.doesNotMatch(html, /@import|url\(\s*['"]?(?!data:)/i)
    assert.deepEqual(
      [...html.matchAll(/<link[^>]*>/g)].map(([link]) => link),
      ['<link rel="icon" href="data:,">']
    )
    assert.doesNotMatch(html, /\bfetch\(|XMLHttpRequest|sendBeacon|import\(/)
    assert.doesNotMatch(html.slice(html.indexOf('<body>'), html.indexOf('<script>')), /undefined|NaN|Infinity/)
  })

  await t.test('the report names the licences of what it carries', () => {
    for (const words of ['The MIT License (MIT)', 'Leon Sorokin', 'headissue GmbH', 'CC BY 4.0'])
      assert.ok(html.includes(words), words)
  })

  await t.test('the report has a place and data for every plot', () => {
    const plots = ['latency', 'latency-by-source', 'answers-with', 'answers-without', 'origin-load', 'breaker', 'queue']
    for (const id of plots) assert.ok(html.includes(`<div class="plot" id="${id}">`), id)
    const data = JSON.parse(/<script type="application\/json" id="data">(.*)<\/script>/.exec(html)[1])
    assert.equal(data.withCache.time.length, data.without.time.length)
    assert.equal(data.withCache.phases.length, 5)
  })

  const browser = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(path =>
    existsSync(path)
  )
  await t.test(
    'a browser draws all seven plots',
    { skip: browser === undefined && 'no Chromium on this machine' },
    () => {
      const dom = execFileSync(
        browser,
        [
          ...['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'],
          ...[
            '--disable-background-networking',
            '--disable-component-update',
            `--user-data-dir=${join(folder, 'profile')}`
          ],
          ...['--virtual-time-budget=3000', '--dump-dom', pathToFileURL(files.report).href]
        ],
        { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'], maxBuffer: 16 << 20, timeout: 60_000 }
      )
      assert.match(dom, /<html[^>]* data-plots="7"/)
      assert.equal(dom.match(/<canvas/g)?.length, 7)
    }
  )
})

test(
  'an interrupt ends the demo and every process it started',
  { skip: process.platform === 'win32' && 'no signals', timeout: LIMIT_MS },
  async t => {
    const folder = mkdtempSync(join(tmpdir(), 'kvcache-demo-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    const report = join(folder, 'report.html')
    const child = spawn(process.execPath, [RUN, '--quick', '--report', report], {
      env,
      stdio: ['ignore', 'ignore', 'pipe']
    })
    let err = ''
    child.stderr.setEncoding('utf8').on('data', text => (err += text))
    const closed = new Promise(resolve => child.on('close', (code, signal) => resolve({ code, signal })))
    while (!err.includes('without cache')) {
      assert.equal(child.exitCode, null, err)
      await sleep(20)
    }
    const started = childrenOf(child.pid)
    assert.ok(started.length >= 3, `only ${started.length} processes were running`)
    child.kill('SIGINT')
    assert.deepEqual(await closed, { code: 130, signal: null })
    assert.match(err, /Interrupted/)
    assert.ok(!existsSync(report))
    for (const pid of started) assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' })
  }
)

/** @param {number} parent */
function childrenOf(parent) {
  const lines = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n')
  return lines
    .map(line => line.trim().split(/\s+/).map(Number))
    .filter(([, ppid]) => ppid === parent)
    .map(([pid]) => pid)
}
