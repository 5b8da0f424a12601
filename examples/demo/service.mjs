// @ts-check
/**
 * The service's process: product-service.mjs with its cache, and a record of what went on inside for the report.
 */
import { once } from 'node:events'
import { answerRunner, configuration, listenOptions, tell } from './child.mjs'
import { percentiles, newHistogram, recordMs } from './figures.mjs'
import { OriginClient } from './origin-client.mjs'
import { countsAsFailure, createProductService } from './product-service.mjs'

/** How often the cache's gauges are read, and the runner is told how things are. */
const SAMPLE_MS = 250
/** How long the refreshes still queued at the end may take. */
const FLUSH_MS = 15_000

/** @type {{ useCache: boolean, originPort: number, config: import('./config.mjs').DemoConfig }} */
const { useCache, originPort, config } = configuration()

/**
 * What the report is made from. Times are milliseconds since the UNIX epoch.
 * @typedef {object} ServiceRecord
 * @property {Float64Array} requestedAt requests to the origin
 * @property {import('./origin-client.mjs').Outcome[]} outcomes how each of them ended
 * @property {Record<string, import('./figures.mjs').Percentiles>} handling from the parsed request to the written
 *   answer, by source
 * @property {{ at: number, state: 'closed' | 'open' | 'half-open' }[]} breaker its changes
 * @property {{ at: number, queued: number, running: number, entries: number, bytes: number }[]} gauges
 * @property {CacheCounts | undefined} cache undefined without one
 */

/**
 * What the cache counted from the begin to the end of the replay.
 * @typedef {object} CacheCounts
 * @property {number} hits
 * @property {number} stale
 * @property {number} misses
 * @property {number} coalesced
 * @property {number} backgroundUpdates
 * @property {number} errors
 * @property {{ budget: number, expired: number }} evicted by reason
 * @property {import('../../index.js').Stats} end stats() at the end, warm-up included
 * @property {string[]} reported 'error' events
 */

/** Counters of stats() that are shown. */
const COUNTERS = /** @type {const} */ (['hits', 'stale', 'misses', 'coalesced', 'backgroundUpdates', 'errors'])

class Recorder {
  /** @type {number[]} */
  requestedAt = []
  /** @type {import('./origin-client.mjs').Outcome[]} */
  outcomes = []
  /** @type {Map<string, import('hdr-histogram-js').Histogram>} */
  handling = new Map()
  /** @type {ServiceRecord['breaker']} */
  breaker = []
  /** @type {ServiceRecord['gauges']} */
  gauges = []
  evicted = { budget: 0, expired: 0 }
  /** @type {string[]} */
  reported = []

  /** @param {import('../../index.js').Stats | undefined} before */
  constructor(before) {
    this.before = before
  }

  /**
   * @param {import('./sources.mjs').Source} source
   * @param {number} startedAt
   */
  answered(source, startedAt) {
    let histogram = this.handling.get(source)
    if (!histogram) this.handling.set(source, (histogram = newHistogram()))
    recordMs(histogram, performance.now() - startedAt)
  }

  /**
   * @param {import('../../index.js').Stats | undefined} end
   * @returns {ServiceRecord}
   */
  record(end) {
    const { before, evicted, reported } = this
    return {
      requestedAt: Float64Array.from(this.requestedAt),
      outcomes: this.outcomes,
      handling: Object.fromEntries([...this.handling].map(([source, histogram]) => [source, percentiles(histogram)])),
      breaker: this.breaker,
      gauges: this.gauges,
      cache: end && before && { ...counted(before, end), evicted, end, reported }
    }
  }
}

/**
 * @param {import('../../index.js').Stats} before
 * @param {import('../../index.js').Stats} end
 * @returns {Record<typeof COUNTERS[number], number>}
 */
function counted(before, end) {
  return /** @type {any} */ (Object.fromEntries(COUNTERS.map(name => [name, end[name] - before[name]])))
}

// The addon is loaded only where it is used: without the cache the service is what it would be had nobody installed it.
const cache = useCache
  ? new (await import('kvcache')).KvCache({
      ...config.cache,
      breaker: { ...config.cache.breaker, failure: countsAsFailure }
    })
  : undefined
let recorder = new Recorder(cache?.stats())
cache?.on('breaker', ({ state }) => recorder.breaker.push({ at: Date.now(), state }))
cache?.on('evict', ({ reason }) => {
  recorder.evicted[reason] += 1
})
cache?.on('error', error => recorder.reported.push(String(error)))

const origin = new OriginClient(originPort, (startedAt, outcome) => {
  recorder.requestedAt.push(startedAt)
  recorder.outcomes.push(outcome)
})
const server = createProductService({
  origin,
  cache,
  originTimeoutMs: config.service.originTimeoutMs,
  onAnswer: (source, startedAt) => recorder.answered(source, startedAt)
})

const sampling = setInterval(() => {
  if (cache) {
    const { queued, running, entries, bytes } = cache.stats()
    recorder.gauges.push({ at: Date.now(), queued, running, entries, bytes })
  }
  tell('progress', { originRequests: recorder.requestedAt.length, breaker: cache?.breaker().state })
}, SAMPLE_MS)

answerRunner({
  /** @param {number} port */
  origin: port => origin.movedTo(port),

  /** The warm-up is over: what it left in the cache goes, and the record starts anew. */
  begin: async () => {
    if (cache) {
      await cache.flush({ timeout: FLUSH_MS })
      const { keys } = await cache.list({ limit: 10_000 })
      await cache.delete(keys.map(({ name }) => name))
    }
    recorder = new Recorder(cache?.stats())
  },

  /** @returns {Promise<ServiceRecord>} of the replay; the service is closed after it */
  finish: async () => {
    clearInterval(sampling)
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
    await cache?.flush({ timeout: FLUSH_MS })
    const end = cache?.stats()
    await cache?.close()
    origin.close()
    return recorder.record(end)
  }
})

server.listen({ port: 0, ...listenOptions }, () => {
  tell('ready', { port: /** @type {import('node:net').AddressInfo} */ (server.address()).port })
})
