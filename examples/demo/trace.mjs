// @ts-check
/**
 * The access trace: which product page was asked for, in what order. See trace/README.md for where it comes from.
 */
import { readFileSync } from 'node:fs'
import { gunzipSync } from 'node:zlib'

const TRACE = new URL('./trace/web07.csv.gz', import.meta.url)

/**
 * The first `count` requests of the trace, as product ids.
 * @param {number} count
 * @returns {Uint32Array}
 */
export function readTrace(count) {
  const lines = gunzipSync(readFileSync(TRACE)).toString('latin1').trimEnd().split('\n')
  if (lines.length < count) throw new Error(`The trace holds ${lines.length} requests, ${count} were asked for.`)
  return Uint32Array.from(lines.slice(0, count), Number)
}
