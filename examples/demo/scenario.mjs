// @ts-check
/**
 * One replay: an origin, a service in front of it and a client, each a process; and what happens to the origin while
 * the client sends its requests. Both replays, with the cache and without, are this with one switch changed.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { phaseAt } from './config.mjs'
import { count, percent } from './format.mjs'
import { Child } from './processes.mjs'
import { SOURCES } from './sources.mjs'

/**
 * @param {object} options
 * @param {boolean} options.useCache
 * @param {import('./config.mjs').DemoConfig} options.config
 * @param {import('./progress.mjs').Progress} options.progress
 * @returns {Promise<import('./figures.mjs').Run>}
 */
export async function replayTrace({ useCache, config, progress }) {
  // Whatever ends this replay early also ends the schedule of the origin.
  const abandoned = new AbortController()
  /** @type {(error: Error) => void} */
  let fail = () => {}
  /** Rejects when a process ends that should not. @type {Promise<never>} */
  const failure = new Promise((_, reject) => {
    fail = error => {
      abandoned.abort()
      reject(error)
    }
  })
  failure.catch(() => {})
  /** @template T @param {Promise<T>} work @returns {Promise<T>} */
  const orFail = work => Promise.race([work, failure])

  const revisionsFrom = Date.now()
  const startOrigin = () =>
    new Child('origin', './origin.mjs', { origin: config.origin, startedAt: revisionsFrom }, { onFailure: fail })
  let origin = startOrigin()
  // The process that takes its place when it has died. It listens only then, but is started now: how long Node takes to
  // start is not the point here, and on a busy machine it may be longer than the origin is meant to be away.
  const successor = startOrigin()
  await orFail(Promise.all([origin.ready, successor.ready]))
  let port = /** @type {number} */ (await orFail(origin.ask('listen', 0)))

  let originRequests = 0
  let breaker = ''
  const service = new Child(
    'service',
    './service.mjs',
    { useCache, originPort: port, config },
    {
      onFailure: fail,
      onTold: (_, value) => {
        originRequests = value.originRequests
        breaker = value.breaker ?? ''
      }
    }
  )
  const { port: servicePort } = await orFail(service.ready)

  let startedAt = 0
  const phases = config.phases.map(phase => ({ ...phase }))
  const client = new Child(
    'replay',
    './replay.mjs',
    { port: servicePort, useCache, config },
    {
      onFailure: fail,
      onTold: (_, { answered, counts }) => {
        if (startedAt === 0) return
        const phase = phases[phaseAt(phases, Date.now() - startedAt)].label
        progress.update({ answered, phase, detail: describe(counts, originRequests, breaker) })
      }
    }
  )
  await orFail(client.ready)

  await orFail(client.ask('warmUp'))
  await orFail(service.ask('begin'))
  startedAt = await orFail(client.ask('start'))
  const finished = client.ask('finish')
  const originLife = { killedBy: /** @type {string | null} */ (null), restarted: false }

  /** Notes when a phase really began. @param {number} n */
  const begun = n => {
    if (n === 0) return
    const now = Date.now() - startedAt
    phases[n - 1].endMs = phases[n].startMs = now
    phases[n].endMs = Math.max(phases[n].endMs, now)
  }

  /** Changes the origin at the start of each phase. */
  async function leadOriginThroughPhases() {
    for (const [n, phase] of phases.entries()) {
      await sleep(startedAt + config.phases[n].startMs - Date.now(), undefined, { signal: abandoned.signal })
      if (phase.name === 'down') {
        originLife.killedBy = await origin.kill()
        origin = successor
      } else if (originLife.killedBy !== null && !originLife.restarted) {
        const newPort = await origin.ask('listen', port)
        if (newPort !== port) await service.ask('origin', newPort)
        port = newPort
        originLife.restarted = true
      } else {
        await origin.ask('mode', phase.name)
      }
      begun(n)
    }
  }

  const [samples] = await orFail(
    Promise.all([/** @type {Promise<import('./replay.mjs').Samples>} */ (finished), leadOriginThroughPhases()])
  )
  progress.stop({
    answered: config.traffic.requests,
    phase: 'done',
    detail: describe(tally(samples.sources), originRequests, '')
  })
  const record = await orFail(/** @type {Promise<import('./service.mjs').ServiceRecord>} */ (service.ask('finish')))
  // The service has closed its cache: nothing may keep its process alive.
  await Promise.all([client.leave(), service.leave(), origin.kill()])
  return { useCache, samples, record, phases, originLife }
}

/** @param {Uint8Array} sources */
function tally(sources) {
  const counts = SOURCES.map(() => 0)
  for (const code of sources) counts[code] += 1
  return counts
}

/**
 * The state of things in a few words.
 * @param {number[]} counts answers by source
 * @param {number} originRequests
 * @param {string} breaker
 */
function describe(counts, originRequests, breaker) {
  const total = counts.reduce((sum, count) => sum + count, 0)
  const shares = SOURCES.flatMap((name, code) => {
    const label = { ERROR: 'no page', BYPASS: 'page' }[/** @type {string} */ (name)] ?? name.toLowerCase()
    return counts[code] === 0 ? [] : [`${label} ${percent(counts[code] / total)}`]
  })
  const circuit = breaker === 'open' || breaker === 'half-open' ? [`breaker ${breaker}`] : []
  return [...circuit, `origin ${count(originRequests)}`, ...shares].join(', ')
}
