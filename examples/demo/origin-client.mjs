// @ts-check
/**
 * The service's way to the origin: one HTTP request per call over kept-alive connections, failures as OriginError.
 *
 * No retries and no caching here: every call is one request that the origin sees.
 */
import { Pool } from 'undici'
import { MAX_CONNECTIONS } from './child.mjs'

/**
 * How one request to the origin ended.
 * @typedef {'page' | 'not modified' | 'rate limited' | 'failed' | 'unreachable' | 'given up'} Outcome
 */

/** The origin did not give a page. */
export class OriginError extends Error {
  /**
   * @param {string} message
   * @param {{ status?: number, retryAfter?: string, givenUp?: boolean, cause?: unknown }} [details]
   *   status: what the origin answered, absent when it answered nothing; givenUp: we did not wait any longer
   */
  constructor(message, { status, retryAfter, givenUp = false, cause } = {}) {
    super(message, { cause })
    this.name = 'OriginError'
    this.status = status
    this.retryAfter = retryAfter
    this.givenUp = givenUp
  }
}

/**
 * @typedef {object} OriginAnswer
 * @property {200 | 304} status
 * @property {string | undefined} etag
 * @property {import('../../index.js').Json} product undefined with 304
 */

export class OriginClient {
  /** @type {Pool} */
  #pool

  /**
   * @param {number} port on loopback
   * @param {(startedAt: number, outcome: Outcome) => void} [onRequest] called when a request has ended; startedAt is
   *   milliseconds since the UNIX epoch
   */
  constructor(port, onRequest = () => {}) {
    this.#pool = poolTo(port)
    this.onRequest = onRequest
  }

  /** A restarted origin may listen elsewhere. @param {number} port */
  movedTo(port) {
    this.close()
    this.#pool = poolTo(port)
  }

  /**
   * @param {string} id
   * @param {object} [options]
   * @param {string} [options.etag] of the copy in hand; with it, 304 may come back
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<OriginAnswer>}
   * @throws {OriginError}
   */
  async product(id, { etag, signal } = {}) {
    const startedAt = Date.now()
    let status
    let headers
    let product
    try {
      const answer = await this.#pool.request({
        method: 'GET',
        path: `/products/${id}`,
        headers: etag === undefined ? {} : { 'if-none-match': etag },
        signal
      })
      ;({ statusCode: status, headers } = answer)
      // Read to its end in any case: only then is the connection free for the next request.
      const text = await answer.body.text()
      product = status === 200 ? JSON.parse(text) : null
    } catch (cause) {
      const givenUp = signal?.aborted === true
      this.onRequest(startedAt, givenUp ? 'given up' : 'unreachable')
      throw new OriginError(givenUp ? 'The origin took too long' : 'The origin is unreachable', { givenUp, cause })
    }
    this.onRequest(startedAt, outcomeOf(status))
    if (status === 200 || status === 304) return { status, etag: single(headers.etag), product }
    throw new OriginError(`The origin answered ${status}`, { status, retryAfter: single(headers['retry-after']) })
  }

  /** Ends what is under way with an error. */
  close() {
    this.#pool.destroy().catch(() => {})
  }
}

/** @param {number} port */
function poolTo(port) {
  return new Pool(`http://127.0.0.1:${port}`, { connections: MAX_CONNECTIONS })
}

/** A header that comes once. @param {string | string[] | undefined} value */
function single(value) {
  return Array.isArray(value) ? value[0] : value
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
