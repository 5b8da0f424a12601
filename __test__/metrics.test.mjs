// Guards metrics(): the Prometheus text format 0.0.4, read by a parser of that format, with figures that are those
// of stats().

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import parse from 'parse-prometheus-text-format'
import { disk } from '../index.js'
import { assert, open, reasonOf, STALE, test } from './helpers/kv.mjs'

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*$/
const LABELS = /\{(?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*",?)*\}/
const NUMBER = /NaN|[+-]?Inf|[+-]?[0-9.]+(?:e[+-]?[0-9]+)?/
const SAMPLE = new RegExp(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(${LABELS.source})? (${NUMBER.source})$`)

/** Parses and returns the families by name, after checking the rules that a lenient parser does not. */
function families(text) {
  assert.ok(text.endsWith('\n'), 'the last line ends with a line feed')
  assert.ok(!text.includes('\r'))
  const typed = new Map()
  const helped = new Set()
  const seen = new Set()
  const closed = new Set()
  let current
  for (const line of text.split('\n').slice(0, -1)) {
    if (line === '') continue
    const meta = /^# (HELP|TYPE) ([^ ]+) (.+)$/.exec(line)
    if (meta) {
      const [, kind, name, rest] = meta
      assert.match(name, NAME)
      assert.ok(!closed.has(name), `${name} is in one group`)
      if (kind === 'HELP') {
        assert.ok(!helped.has(name), `one HELP for ${name}`)
        helped.add(name)
      } else {
        assert.match(rest, /^(counter|gauge|summary|histogram|untyped)$/)
        assert.ok(!typed.has(name), `one TYPE for ${name}`)
        typed.set(name, rest)
      }
      if (current && current !== name) closed.add(current)
      current = name
      continue
    }
    const sample = SAMPLE.exec(line)
    assert.ok(sample, `no sample: ${line}`)
    const [, name, labels = ''] = sample
    const family = typed.has(name) ? name : name.replace(/_(sum|count|bucket)$/, '')
    assert.ok(typed.has(family) && helped.has(family), `${name} has HELP and TYPE before it`)
    assert.equal(family, current, `${name} stands with its family`)
    assert.ok(!seen.has(name + labels), `${name}${labels} is there once`)
    seen.add(name + labels)
    if (typed.get(family) === 'counter') assert.match(name, /_total$/, 'a counter’s name ends in _total')
  }
  const parsed = parse(text)
  assert.equal(parsed.length, typed.size)
  for (const { name, help, type } of parsed) {
    assert.match(name, /^kvcache_/)
    assert.equal(type, typed.get(name).toUpperCase())
    assert.ok(help.length > 5, `${name} has a help text`)
  }
  return new Map(parsed.map(family => [family.name, family]))
}

const value = family => Number(family.metrics[0].value)

test('a cache that has done nothing has metrics that parse', t => {
  const found = families(open(t).metrics())
  for (const name of ['hits_total', 'misses_total', 'stale_total', 'entries', 'memory_bytes', 'memory_budget_bytes']) {
    assert.ok(found.has(`kvcache_${name}`), name)
  }
})

test('the totals are those of stats()', async t => {
  const cache = open(t, { memory: '64kb' })
  await cache.put('stale', 1, STALE)
  for (let i = 0; i < 300; i++) {
    await cache.get(`k${i}`, () => 'x'.repeat(500))
    await cache.get(`k${i}`)
    await cache.get('stale', () => 2, STALE)
    await cache.flush()
  }
  await reasonOf(cache.get('e', () => Promise.reject(new Error('down'))))
  const stats = cache.stats()
  const found = families(cache.metrics())
  const pairs = {
    hits_total: stats.hits,
    misses_total: stats.misses,
    stale_total: stats.stale,
    entries: stats.entries,
    memory_bytes: stats.bytes,
    memory_budget_bytes: 65_536
  }
  for (const [name, expected] of Object.entries(pairs))
    assert.equal(value(found.get(`kvcache_${name}`)), expected, name)
  const everything = [...found.values()].map(({ name, metrics }) => [name, Number(metrics[0]?.value)])
  for (const field of ['backgroundUpdates', 'errors', 'evictions', 'coalesced']) {
    const word = field
      .replace(/[A-Z]/g, letter => `_${letter.toLowerCase()}`)
      .replace('background_updates', 'background')
    assert.ok(
      everything.some(([name, number]) => name.includes(word) || number === stats[field]),
      `${field} is among the metrics`
    )
  }
  assert.ok(stats.evictions > 0 && stats.errors === 1)
})

test('of each tier: what stats() says of it, and nothing where there is none', async t => {
  assert.ok(![...families(open(t).metrics()).keys()].some(name => name.startsWith('kvcache_tier_')))
  const path = mkdtempSync(join(tmpdir(), 'kvcache-metrics-'))
  t.after(() => rmSync(path, { recursive: true, force: true }))
  const tier = disk({ path })
  const before = open(t, { tiers: [tier] })
  await before.put('k', 1)
  await before.close()
  const cache = open(t, { tiers: [tier] })
  assert.equal(await cache.get('k'), 1)
  await cache.delete('k')
  await cache.flush()
  const found = families(cache.metrics())
  const { breaker, ...figures } = cache.stats().tiers.disk
  assert.ok(figures.hits > 0 && figures.writes > 0)
  for (const [name, figure] of Object.entries(figures)) {
    const { metrics } = found.get(`kvcache_tier_${name}${name === 'pending' ? '' : '_total'}`)
    assert.deepEqual(metrics, [{ labels: { tier: 'disk' }, value: String(figure) }], name)
  }
  assert.equal(breaker, 'closed')
  assert.deepEqual(found.get('kvcache_tier_breaker_state').metrics, [
    { labels: { tier: 'disk', state: 'closed' }, value: '1' },
    { labels: { tier: 'disk', state: 'open' }, value: '0' },
    { labels: { tier: 'disk', state: 'half-open' }, value: '0' }
  ])
  await cache.close()
})

test('counters never go down', async t => {
  const cache = open(t)
  const counters = () =>
    [...families(cache.metrics()).values()]
      .filter(({ type }) => type === 'COUNTER')
      .flatMap(({ name, metrics }) => metrics.map(m => [name + JSON.stringify(m.labels ?? {}), Number(m.value)]))
  cache.define('d:*', () => 1)
  let before = new Map(counters())
  for (let i = 0; i < 20; i++) {
    await cache.get(`d:${i % 5}`)
    await cache.delete(`d:${i % 3}`)
    await reasonOf(cache.get(`x${i}`, () => Promise.reject(new Error()), { origin: `o${i}` }))
    const now = new Map(counters())
    for (const [name, number] of before) assert.ok(now.get(name) >= number, name)
    before = now
  }
})

test('latencies are summaries in seconds, with sum and count', async t => {
  const cache = open(t)
  for (let i = 0; i < 10; i++) await cache.get(`k${i}`, () => new Promise(resolve => setTimeout(resolve, 20, i)))
  const text = cache.metrics()
  const family = families(text).get('kvcache_latency_seconds')
  assert.equal(family.type, 'SUMMARY')
  const quantile = (op, q) =>
    Number(new RegExp(`^kvcache_latency_seconds\\{op="${op}",quantile="${q}"\\} (.+)$`, 'm').exec(text)[1])
  for (const op of ['miss', 'fetch']) {
    const p50 = quantile(op, '0.5')
    assert.ok(p50 > 0.018 && p50 < 20, `${op}: ${p50} s`)
    assert.ok(p50 <= quantile(op, '0.99'))
    assert.match(text, new RegExp(`^kvcache_latency_seconds_count\\{op="${op}"\\} 10$`, 'm'))
    const sum = Number(new RegExp(`^kvcache_latency_seconds_sum\\{op="${op}"\\} (.+)$`, 'm').exec(text)[1])
    assert.ok(sum > 0.19 && sum < 200, `${op}: ${sum} s in all`)
  }
})

test('each define() pattern has its own figures', async t => {
  const cache = open(t)
  cache.define('user:*', () => 1)
  cache.define('post:*', () => 1)
  await cache.get('user:1')
  await cache.get('user:1')
  await cache.get('user:2')
  await cache.get('post:1')
  await cache.get('else', () => 1)
  const found = families(cache.metrics())
  const of = (name, pattern) => Number(found.get(name).metrics.find(({ labels }) => labels.pattern === pattern).value)
  assert.equal(of('kvcache_pattern_hits_total', 'user:*'), 1)
  assert.equal(of('kvcache_pattern_misses_total', 'user:*'), 2)
  assert.equal(of('kvcache_pattern_hits_total', 'post:*'), 0)
  assert.equal(of('kvcache_pattern_misses_total', 'post:*'), 1)
  assert.equal(value(found.get('kvcache_misses_total')), 4, 'totals count all')
})

test('hostile patterns and origins come out as the labels they are', async t => {
  const cache = open(t, { breaker: { threshold: 1 } })
  const names = [
    'a "quoted" name*', 'back\\\\slash*', 'line\nfeed*', '{curly="brace"}*', '\\*escaped*', 'ünïcödé 😀*',
    '# TYPE x counter*', '  spaces  *', 'comma,equals=*', '__proto__*', '\t\r\0*', '"', '\\\\'
  ]
  for (const name of names) {
    cache.define(name, () => Promise.reject(new Error('down')))
    await reasonOf(
      cache.get(
        name.replaceAll('\\\\', '\0\0').replaceAll('\\', '').replaceAll('\0\0', '\\').replace(/\*$/, '1') || 'x'
      )
    )
  }
  const text = cache.metrics()
  const found = families(text.replaceAll('\r', ''))
  const patterns = found.get('kvcache_pattern_misses_total').metrics.map(({ labels }) => labels.pattern)
  const origins = new Set(found.get('kvcache_breaker_state').metrics.map(({ labels }) => labels.origin))
  for (const name of names.filter(name => !name.includes('\r'))) {
    assert.ok(patterns.includes(name), `pattern ${JSON.stringify(name)} among ${JSON.stringify(patterns)}`)
    assert.ok(origins.has(name), `origin ${JSON.stringify(name)}`)
  }
})

test('the state of each breaker is one of three, and exactly one is 1', async t => {
  const cache = open(t, { breaker: { threshold: 1, timeout: '1h' } })
  await reasonOf(cache.get('k', () => Promise.reject(new Error('down')), { origin: 'down' }))
  await cache.get('k', () => 1, { origin: 'up' })
  const { metrics } = families(cache.metrics()).get('kvcache_breaker_state')
  const state = origin =>
    metrics
      .filter(({ labels, value: number }) => labels.origin === origin && Number(number) === 1)
      .map(({ labels }) => labels.state)
  assert.deepEqual(state('down'), ['open'])
  assert.deepEqual(state('up'), ['closed'])
  for (const { value: number } of metrics) assert.ok(number === '0' || number === '1')
})
