// @ts-check
/**
 * Whether a run was sound: that every request was answered, that no answer was wrong, that everything the demo is
 * meant to show did happen, and that the cache's own figures agree with what the client saw. How fast it was is not
 * a matter of soundness; the table says that.
 */
import { count } from './format.mjs'

/** Bytes of a size such as '32mb'. @param {string} size */
function bytesOf(size) {
  return Number.parseFloat(size) * 2 ** 20
}

/**
 * @param {{ run: import('./figures.mjs').Run, figures: import('./figures.mjs').RunFigures }} withCache
 * @param {{ run: import('./figures.mjs').Run, figures: import('./figures.mjs').RunFigures }} without
 * @param {import('./config.mjs').DemoConfig} config
 * @returns {string[]} what failed, in words; none when the run was sound
 */
export function unsound(withCache, without, config) {
  /** @type {string[]} */
  const failures = []
  const expect = (/** @type {boolean} */ holds, /** @type {string} */ otherwise) => {
    if (!holds) failures.push(otherwise)
  }

  for (const [name, { run, figures }] of /** @type {const} */ ([
    ['with the cache', withCache],
    ['without', without]
  ])) {
    const { samples, originLife } = run
    expect(
      samples.wrongCount === 0,
      `${name}: ${count(samples.wrongCount)} answers were wrong:\n  ${samples.wrong.join('\n  ')}`
    )
    expect(figures.pages > 0, `${name}: no page was answered at all.`)
    expect(
      originLife.killedBy === 'SIGKILL',
      `${name}: the origin was to be killed, but ended by ${originLife.killedBy}.`
    )
    expect(originLife.restarted, `${name}: the origin was not started again.`)
    const back = figures.phases[figures.phases.length - 1]
    expect(back.pages > 0 && back.originPerSecond > 0, `${name}: nothing was fetched from the origin after its return.`)
  }

  const { run, figures } = withCache
  const counts = Object.fromEntries(figures.sources.map(({ name, latency }) => [name, latency.count]))
  for (const name of ['HIT', 'STALE', 'MISS', 'STALE-IF-ERROR']) {
    expect((counts[name] ?? 0) > 0, `No request was answered ${name}.`)
  }
  const states = run.record.breaker.map(({ state }) => state)
  expect(states.includes('open'), 'The breaker did not open while the origin was dead.')
  expect(states.includes('half-open'), 'The breaker tried no half-open request.')
  expect(states.at(-1) === 'closed', `At the end the breaker was ${states.at(-1) ?? 'never used'}, not closed.`)
  const { cache } = figures
  if (!cache) failures.push('The cache gave no figures.')
  else {
    const served = (counts.HIT ?? 0) + (counts.STALE ?? 0)
    expect(cache.reported.length === 0, `The cache reported errors: ${cache.reported.slice(0, 3).join('; ')}`)
    expect(cache.hits === served, `The cache counted ${count(cache.hits)} hits, the client ${count(served)}.`)
    expect(
      cache.stale === (counts.STALE ?? 0),
      `The cache counted ${count(cache.stale)} stale hits, the client ${count(counts.STALE ?? 0)}.`
    )
    expect(
      cache.hits + cache.misses === figures.requests,
      `The cache counted ${count(cache.hits + cache.misses)} gets, the client sent ${count(figures.requests)}.`
    )
    expect(
      cache.end.queued === 0 && cache.end.running === 0,
      `${cache.end.queued} refreshes were queued and ${cache.end.running} running after flush().`
    )
  }
  const budget = bytesOf(config.cache.memory)
  const fullest = Math.max(0, ...run.record.gauges.map(({ bytes }) => bytes))
  expect(fullest <= budget, `The memory tier held ${count(fullest)} bytes, its budget is ${count(budget)}.`)
  expect(
    figures.origin.requests < without.figures.origin.requests,
    `The origin got ${count(figures.origin.requests)} requests with the cache, ` +
      `${count(without.figures.origin.requests)} without.`
  )
  return failures
}
