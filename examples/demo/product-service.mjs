// @ts-check
/**
 * The HTTP service that fronts the origin: the part of the demo that a team would write.
 *
 * GET /products/:id  the product as JSON, from the cache where there is one. Where nothing can be had:
 *                    502 the origin failed or is unreachable, 503 with Retry-After it is overloaded or its circuit is
 *                    open, 504 it took too long.
 * GET /metrics       the cache's figures in Prometheus text format
 */
import http from 'node:http'
import { bypassHeaders, cacheHeaders, errorHeaders, X_CACHE } from './cache-headers.mjs'
import { OriginError } from './origin-client.mjs'

/** @typedef {import('./cache-headers.mjs').Forwarded} Forwarded */

/**
 * Which failures count against the origin: a page that does not exist, or a request over the rate limit, come from an
 * origin that is well.
 * @param {unknown} error
 */
export function countsAsFailure(error) {
  return !(error instanceof OriginError && (error.status === 404 || error.status === 429))
}

/**
 * @param {object} options
 * @param {import('./origin-client.mjs').OriginClient} options.origin
 * @param {import('../../index.js').KvCache | undefined} options.cache undefined: every request goes to the origin
 * @param {number} options.originTimeoutMs how long to wait for the origin without a cache; with one, it has hardTimeout
 * @param {(source: import('./sources.mjs').Source, startedAt: number) => void} [options.onAnswer] where the page came
 *   from, or ERROR; startedAt as of performance.now()
 * @returns {http.Server}
 */
export function createProductService({ origin, cache, originTimeoutMs, onAnswer = () => {} }) {
  /**
   * The fetcher. It asks conditionally where a copy is in hand, and keeps the ETag beside the value.
   * @param {string} key
   * @param {import('../../index.js').FetchContext<any>} context
   * @param {Forwarded} forwarded filled in
   */
  async function load(key, context, forwarded) {
    forwarded.reason = context.reason
    const etag = /** @type {{ etag?: string } | undefined} */ (context.stale?.metadata)?.etag
    try {
      const answer = await origin.product(key.slice('product:'.length), { etag, signal: context.signal })
      forwarded.status = answer.status
      if (answer.status === 304) return context.notModified()
      context.set({ metadata: answer.etag === undefined ? null : { etag: answer.etag } })
      return answer.product
    } catch (error) {
      if (error instanceof OriginError) forwarded.status = error.status
      throw error
    }
  }

  /**
   * @param {string} id
   * @param {http.ServerResponse} response
   * @returns {Promise<import('./sources.mjs').Source>}
   */
  async function fromCache(id, response) {
    const forwarded = /** @type {Forwarded} */ ({ reason: undefined, status: undefined })
    try {
      const entry = await /** @type {import('../../index.js').KvCache} */ (cache).getWithMetadata(
        `product:${id}`,
        (key, context) => load(key, context, forwarded)
      )
      sendJson(response, 200, entry.value, cacheHeaders(entry, forwarded))
      return X_CACHE[entry.state]
    } catch (error) {
      sendError(response, error, errorHeaders(forwarded, /** @type {any} */ (error)?.code))
      return 'ERROR'
    }
  }

  /**
   * @param {string} id
   * @param {http.ServerResponse} response
   * @returns {Promise<import('./sources.mjs').Source>}
   */
  async function fromOrigin(id, response) {
    const patience = new AbortController()
    const timer = setTimeout(() => patience.abort(), originTimeoutMs)
    try {
      const answer = await origin.product(id, { signal: patience.signal })
      sendJson(response, 200, answer.product, bypassHeaders(answer.status))
      return 'BYPASS'
    } catch (error) {
      sendError(response, error, bypassHeaders(error instanceof OriginError ? error.status : undefined))
      return 'ERROR'
    } finally {
      clearTimeout(timer)
    }
  }

  const server = http.createServer(async (request, response) => {
    const startedAt = performance.now()
    const id = /^\/products\/(\d{1,9})$/.exec(request.url ?? '')?.[1]
    if (request.method !== 'GET') return sendJson(response, 405, { error: 'Only GET' }, { allow: 'GET' })
    if (cache && request.url === '/metrics')
      return send(response, 200, cache.metrics(), { 'content-type': 'text/plain; version=0.0.4' })
    if (id === undefined) return sendJson(response, 404, { error: 'No such page' }, {})
    onAnswer(await (cache ? fromCache(id, response) : fromOrigin(id, response)), startedAt)
  })
  // Longer than the pauses of any client, so that no connection is closed just as it is used again.
  server.keepAliveTimeout = 300_000
  return server
}

/**
 * @param {http.ServerResponse} response
 * @param {unknown} error
 * @param {Record<string, string>} headers
 */
function sendError(response, error, headers) {
  const { status, retryAfter } = explain(error)
  const message = error instanceof Error ? error.message : String(error)
  sendJson(
    response,
    status,
    { error: message },
    retryAfter === undefined ? headers : { ...headers, 'retry-after': retryAfter }
  )
}

/**
 * The status that tells a client what happened between us and the origin.
 * @param {any} error
 * @returns {{ status: number, retryAfter?: string }}
 */
function explain(error) {
  if (error?.code === 'ERR_KVCACHE_CIRCUIT_OPEN') {
    return { status: 503, retryAfter: String(Math.max(1, Math.ceil((error.nextAttempt - Date.now()) / 1000))) }
  }
  if (error?.code === 'ERR_KVCACHE_TIMEOUT' || error?.givenUp) return { status: 504 }
  if (error?.status === 404) return { status: 404 }
  if (error?.status === 429) return { status: 503, retryAfter: error.retryAfter ?? '1' }
  return { status: 502 }
}

/**
 * @param {http.ServerResponse} response
 * @param {number} status
 * @param {unknown} body
 * @param {Record<string, string>} headers
 */
function sendJson(response, status, body, headers) {
  send(response, status, JSON.stringify(body), { 'content-type': 'application/json', ...headers })
}

/**
 * @param {http.ServerResponse} response
 * @param {number} status
 * @param {string} body
 * @param {Record<string, string>} headers
 */
function send(response, status, body, headers) {
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) })
  response.end(body)
}
