// @ts-check
/**
 * Says in response headers where an answer came from:
 *   X-Cache       HIT, STALE, MISS, STALE-IF-ERROR, or BYPASS where there is no cache;
 *   Age           whole seconds since the origin confirmed the content (RFC 9111, section 5.1);
 *   Cache-Status  the same for machines (RFC 9211): hit, or why the request went forward and what came of it, and the
 *                 time to live.
 */

/** Our name in Cache-Status. */
const CACHE_NAME = 'kvcache'

/** X-Cache by the state of an entry. */
export const X_CACHE = /** @type {const} */ ({
  fresh: 'HIT',
  stale: 'STALE',
  loaded: 'MISS',
  'stale-if-error': 'STALE-IF-ERROR'
})

/**
 * What this request's own call to the origin was, if it made one. A request that joined another's load made none.
 * @typedef {object} Forwarded
 * @property {string | undefined} reason of the load: 'miss', 'expired' ...
 * @property {number | undefined} status what the origin answered
 */

/**
 * @param {import('../../index.js').Entry<unknown>} entry
 * @param {Forwarded} forwarded
 * @returns {Record<string, string>}
 */
export function cacheHeaders({ state, age, maxAge }, forwarded) {
  return {
    'x-cache': X_CACHE[state],
    age: String(Math.floor(age)),
    'cache-status': [CACHE_NAME, ...statusParameters(state, Math.round(maxAge - age), forwarded)].join('; ')
  }
}

/**
 * @param {import('../../index.js').Entry<unknown>['state']} state
 * @param {number} ttl seconds of freshness left; negative when stale
 * @param {Forwarded} forwarded
 */
function statusParameters(state, ttl, { reason, status }) {
  switch (state) {
    case 'fresh':
    case 'stale':
      return ['hit', `ttl=${ttl}`]
    case 'loaded':
      if (reason === undefined) return ['fwd=uri-miss', 'collapsed', `ttl=${ttl}`]
      return [forward(reason), ...statusOf(status), 'stored', `ttl=${ttl}`]
    case 'stale-if-error':
      // Without a call of our own (the circuit was open, or another's load failed) the cache alone answered.
      if (reason === undefined) return ['hit', `ttl=${ttl}`, 'detail=stale-if-error']
      return [forward(reason), ...statusOf(status), `ttl=${ttl}`, 'detail=stale-if-error']
  }
}

/** @param {string} reason */
function forward(reason) {
  return reason === 'miss' ? 'fwd=uri-miss' : 'fwd=stale'
}

/** @param {number | undefined} status */
function statusOf(status) {
  return status === undefined ? [] : [`fwd-status=${status}`]
}

/**
 * Of an answer that no cache was asked for.
 * @param {number | undefined} status of the origin
 * @returns {Record<string, string>}
 */
export function bypassHeaders(status) {
  return { 'x-cache': 'BYPASS', 'cache-status': [CACHE_NAME, 'fwd=bypass', ...statusOf(status)].join('; ') }
}

/**
 * Of an error answer: the cache had nothing to stand in.
 * @param {Forwarded} forwarded
 * @param {string | undefined} code of the error, where it is the cache's own
 * @returns {Record<string, string>}
 */
export function errorHeaders({ reason, status }, code) {
  const went = reason === undefined ? 'fwd=uri-miss' : forward(reason)
  const detail = code?.startsWith('ERR_KVCACHE_') ? [`detail=${code}`] : []
  return { 'x-cache': 'MISS', 'cache-status': [CACHE_NAME, went, ...statusOf(status), ...detail].join('; ') }
}
