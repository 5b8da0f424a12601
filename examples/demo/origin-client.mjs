// @ts-check
/**
 * The service's way to the origin: one HTTP request per call over kept-alive connections, failures as OriginError.
 *
 * No retries and no caching here: every call is one request that the origin sees.
 */
import http from 'node:http'

/**
 * How one request to the origin ended.
 * @typedef {'page' | 'not modified' | 'rate limited' | 'failed' | 'unreachable' | 'given up'} Outcome
 */

/** The origin did not give a page. */
export class OriginError extends Error {
  /**
   * @param {string} message
   * @param {{ status?: number, retryAfter?: string, cause?: unknown }} [details]
   *   status: what the origin answered; absent when it answered nothing
   */
  constructor(message, { status, retryAfter, cause } = {}) {
    super(message, { cause })
    this.name = 'OriginError'
    this.status = status
    this.retryAfter = retryAfter
  }
}

/**
 * @typedef {object} OriginAnswer
 * @property {200 | 304} status
 * @property {string | undefined} etag
 * @property {import('../../index.js').Json} product undefined with 304
 */

export class OriginClient {
  #agent = new http.Agent({ keepAlive: true, maxFreeSockets: 1024 })

  /**
   * @param {number} port on loopback
   * @param {(startedAt: number, outcome: Outcome) => void} [onRequest] called when a request has ended; startedAt is
   *   milliseconds since the UNIX epoch
   */
  constructor(port, onRequest = () => {}) {
    /** May change: a restarted origin may listen elsewhere. */
    this.port = port
    this.onRequest = onRequest
  }

  /**
   * @param {string} id
   * @param {{ etag?: string, signal?: AbortSignal }} [options] etag: of the copy in hand; with it, 304 may come back
   * @returns {Promise<OriginAnswer>}
   * @throws {OriginError}
   */
  product(id, { etag, signal } = {}) {
    const startedAt = Date.now()
    return new Promise((resolve, reject) => {
      const request = http.get({
        host: '127.0.0.1',
        port: this.port,
        path: `/products/${id}`,
        agent: this.#agent,
        headers: etag === undefined ? {} : { 'if-none-match': etag },
        signal
      })

      const failed = (/** @type {Error} */ cause) => {
        this.onRequest(startedAt, signal?.aborted ? 'given up' : 'unreachable')
        reject(new OriginError(signal?.aborted ? 'The origin took too long' : 'The origin is unreachable', { cause }))
      }
      request.on('error', failed)
      request.on('response', response => {
        const status = /** @type {number} */ (response.statusCode)
        const chunks = /** @type {Buffer[]} */ ([])
        response.on('data', chunk => chunks.push(chunk))
        response.on('error', failed)
        response.on('end', () => {
          this.onRequest(startedAt, outcomeOf(status))
          if (status === 200) {
            resolve({ status, etag: response.headers.etag, product: JSON.parse(Buffer.concat(chunks).toString('utf8')) })
          } else if (status === 304) {
            resolve({ status, etag: response.headers.etag, product: null })
          } else {
            reject(new OriginError(`The origin answered ${status}`, { status, retryAfter: response.headers['retry-after'] }))
          }
        })
      })
    })
  }

  close() {
    this.#agent.destroy()
  }
}

/**
 * @param {number} status
 * @returns {Outcome}
 */
function outcomeOf(status) {
  if (status === 200) return 'page'
  if (status === 304) return 'not modified'
  return status === 429 ? 'rate limited' : 'failed'
}
