// @ts-check
/**
 * Where a page came from, as X-Cache says it, or that there was none. The replay notes an index into this list.
 */

/** @typedef {typeof SOURCES[number]} Source */

export const SOURCES = /** @type {const} */ (['ERROR', 'HIT', 'STALE', 'MISS', 'STALE-IF-ERROR', 'BYPASS'])

/** No page: an error answer, or none. */
export const ERROR = 0

/**
 * What each means to someone who waits for a page.
 * @type {Readonly<Record<Source, string>>}
 */
export const MEANING = {
  HIT: 'fresh from the cache',
  STALE: 'stale at once, refreshed in the background',
  MISS: 'waited for the origin',
  'STALE-IF-ERROR': 'old page, as the origin failed or was slow',
  BYPASS: 'straight from the origin',
  ERROR: 'no page (502, 503, 504)'
}
