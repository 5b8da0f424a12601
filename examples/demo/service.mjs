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
 * @property {Record<string, import('./figures.mjs').Percentiles>} handling from the parsed request to the written answer, by source
 * @property {{ at: number, state: 'closed' | 'open' | 'half-open' }[]} breaker its changes
 * @property {{ at: number, queued: number, running: number, entries: number, bytes: number }[]} gauges
 * @property {import('../../index.js').Stats | undefined} stats of the cache, at the end
 * @property {string[]} cacheErrors what the cache reported as 'error' events
 */

/** @type {number[]} */
const requestedAt = []
/** @type {import('./origin-client.mjs').Outcome[]} */
const outcomes = []
/** @type {Map<string, import('hdr-histogram-js').Histogram>} */
const handling = new Map()
/** @type {ServiceRecord['breaker']} */
const breaker = []
/** @type {ServiceRecord['gauges']} */
const gauges = []
/** @type {string[]} */
const cacheErrors = []

const origin = new OriginClient(originPort, (startedAt, outcome) => {
  requestedAt.push(startedAt)
  outcomes.push(outcome)
})

// The addon is loaded only where it is used: without the cache the service is what it would be had nobody installed it.
const cache = useCache
  ? new (await import('kvcache')).KvCache({
      ...config.cache,
      breaker: { ...config.cache.breaker, failure: countsAsFailure }
    })
  : undefined
cache?.on('breaker', ({ state }) => breaker.push({ at: Date.now(), state }))
cache?.on('error', error => cacheErrors.push(String(error)))

const server = createProductService({
  origin,
  cache,
  originTimeoutMs: config.service.originTimeoutMs,
  onAnswer: (source, startedAt) => {
    let histogram = handling.get(source)
    if (!histogram) handling.set(source, (histogram = newHistogram()))
    recordMs(histogram, performance.now() - startedAt)
  }
})

const sampling = setInterval(() => {
  if (cache) {
    const { queued, running, entries, bytes } = cache.stats()
    gauges.push({ at: Date.now(), queued, running, entries, bytes })
  }
  tell('progress', { originRequests: requestedAt.length, breaker: cache?.breaker().state })
}, SAMPLE_MS)

answerRunner({
  /** @param {number} port */
  origin: port => origin.movedTo(port),

  /** @returns {Promise<ServiceRecord>} the record of the run; the service is closed after it */
  finish: async () => {
    clearInterval(sampling)
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
    await cache?.flush({ timeout: FLUSH_MS })
    const stats = cache?.stats()
    await cache?.close()
    origin.close()
    return {
      requestedAt: Float64Array.from(requestedAt),
      outcomes,
      handling: Object.fromEntries([...handling].map(([source, histogram]) => [source, percentiles(histogram)])),
      breaker,
      gauges,
      stats,
      cacheErrors
    }
  }
})

server.listen({ port: 0, ...listenOptions }, () => {
  tell('ready', { port: /** @type {import('node:net').AddressInfo} */ (server.address()).port })
})
