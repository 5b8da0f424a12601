// @ts-check
/**
 * Cursors of list(): where a page ended, as text that users hand back and do not read.
 */
import { invalidOption, whyInvalidKey } from './errors.js'

/** Told apart from cursors of later versions. */
const VERSION = '1.'

/**
 * @param {string} key the last one of the page
 * @returns {string}
 */
export function encodeCursor(key) {
  return VERSION + Buffer.from(key).toString('base64url')
}

/**
 * The key after which the next page begins. Throws ERR_KVCACHE_INVALID_OPTION.
 * @param {string} cursor
 * @returns {string}
 */
export function decodeCursor(cursor) {
  if (cursor.startsWith(VERSION)) {
    const key = Buffer.from(cursor.slice(VERSION.length), 'base64url').toString()
    if (whyInvalidKey(key) === undefined && encodeCursor(key) === cursor) return key
  }
  throw invalidOption('cursor', cursor, 'a cursor that list() gave')
}
