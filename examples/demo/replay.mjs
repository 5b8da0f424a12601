// @ts-check
/**
 * The replay: sends the trace's requests to the service, on time whatever the answers do (an open loop), and notes
 * when each was answered, with what, and whether it was the right answer.
 *
 * Latency counts from the moment a request was due, not from the moment it was sent: where the service or this process
 * falls behind, that shows instead of being hidden (coordinated omission). Requests are due as a Poisson process; the
 * timer has a grain of one millisecond, which is part of every latency reported here.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'undici'
import { answerRunner, configuration, MAX_CONNECTIONS, tell } from './child.mjs'
import { exponential, uniform } from './random.mjs'
import { ERROR, SOURCES } from './sources.mjs'
import { readTrace } from './trace.mjs'

/** @type {{ port: number, useCache: boolean, config: import('./config.mjs').DemoConfig }} */
const { port, useCache, config } = configuration()

/**
 * One element a request, in the order of the trace.
 * @typedef {object} Samples
 * @property {number} startedAt milliseconds since the UNIX epoch of the start
 * @property {Float64Array} dueMs from the start
 * @property {Float32Array} lateMs how long after that it was sent
 * @property {Float32Array} latencyMs from due to the last byte of the answer
 * @property {Uint16Array} statuses 0: no answer
 * @property {Uint8Array} sources where the page came from, or that there was none: codes of sources.mjs
 * @property {string[]} wrong answers that were not what they had to be, the first few
 * @property {number} wrongCount
 */

/** How many wrong answers are described. */
const WRONG_KEPT = 5
/** How often the runner is told how far the replay is. */
const PROGRESS_MS = 250
/** How long before the first request is due: the origin's token bucket fills again after the warm-up. */
const LEAD_MS = 300

const { requests, rate, seed, clientTimeoutMs } = config.traffic
const pages = readTrace(requests)
const pool = new Pool(`http://127.0.0.1:${port}`, {
  connections: MAX_CONNECTIONS,
  headersTimeout: clientTimeoutMs,
  bodyTimeout: clientTimeoutMs
})

const dueMs = new Float64Array(requests)
const lateMs = new Float32Array(requests)
const latencyMs = new Float32Array(requests)
const statuses = new Uint16Array(requests)
const sources = new Uint8Array(requests)
/** @type {string[]} */
const wrong = []
let wrongCount = 0
let sent = 0
let answered = 0
/** Answers so far by code of source. */
const counts = SOURCES.map(() => 0)

const gap = exponential(uniform(seed), 1000 / rate)
for (let n = 0, due = 0; n < requests; n++) dueMs[n] = due += gap()

let startNow = 0
/** @type {(samples: Samples) => void} */
let finished = () => {}

function sendWhatIsDue() {
  const elapsed = performance.now() - startNow
  while (sent < requests && dueMs[sent] <= elapsed) send(sent++)
  if (sent < requests) setTimeout(sendWhatIsDue, dueMs[sent] - (performance.now() - startNow))
}

/** @param {number} page */
async function get(page) {
  const { statusCode, headers, body } = await pool.request({ method: 'GET', path: `/products/${page}` })
  return { statusCode, headers, text: await body.text() }
}

/** @param {number} n */
async function send(n) {
  lateMs[n] = performance.now() - startNow - dueMs[n]
  try {
    const { statusCode, headers, text } = await get(pages[n])
    const source = statusCode === 200 ? SOURCES.indexOf(/** @type {any} */ (headers['x-cache'])) : ERROR
    settle(n, statusCode, Math.max(source, ERROR), fault(pages[n], statusCode, headers, text))
  } catch (error) {
    settle(n, 0, ERROR, `no answer: ${/** @type {Error} */ (error).message}`)
  }
}

/**
 * @param {number} n
 * @param {number} status
 * @param {number} source
 * @param {string | undefined} faultFound
 */
function settle(n, status, source, faultFound) {
  latencyMs[n] = performance.now() - startNow - dueMs[n]
  statuses[n] = status
  sources[n] = source
  counts[source] += 1
  if (faultFound !== undefined && wrongCount++ < WRONG_KEPT)
    wrong.push(`request ${n}, product ${pages[n]}: ${faultFound}`)
  if (++answered < requests) return
  clearInterval(reporting)
  pool.destroy().catch(() => {})
  const startedAt = performance.timeOrigin + startNow
  finished({ startedAt, dueMs, lateMs, latencyMs, statuses, sources, wrong, wrongCount })
}

/**
 * What is wrong with an answer, if anything: another product's page, or an age that its X-Cache does not allow.
 * @param {number} page
 * @param {number} status
 * @param {Record<string, string | string[] | undefined>} headers
 * @param {string} body
 */
function fault(page, status, headers, body) {
  const xCache = headers['x-cache']
  if (status !== 200) return [502, 503, 504].includes(status) ? undefined : `status ${status}`
  if (!body.startsWith(`{"id":${page},`)) return 'the page of another product'
  if (!useCache) return xCache === 'BYPASS' ? undefined : `X-Cache: ${xCache} without a cache`
  if (!/^kvcache; (hit|fwd=)/.test(String(headers['cache-status']))) return `Cache-Status: ${headers['cache-status']}`
  if (!/^\d+$/.test(String(headers.age))) return `Age: ${headers.age}`
  const age = Number(headers.age)
  const { maxAge, staleAge, staleIfError } = config.cache
  const limit = { HIT: maxAge, STALE: staleAge, MISS: 0, 'STALE-IF-ERROR': staleIfError }[String(xCache)]
  if (limit === undefined) return `X-Cache: ${xCache}`
  return age <= limit ? undefined : `X-Cache: ${xCache} with Age: ${age}, which must be at most ${limit}`
}

const reporting = setInterval(() => {
  tell('progress', { sent, answered, counts })
}, PROGRESS_MS)

answerRunner({
  /** Resolves when the warm-up's requests have been answered, however they were. */
  warmUp: async () => {
    const { seconds, firstPage, pages, newPages } = config.warmUp
    const random = uniform(seed)
    const begin = performance.now()
    /** @type {Promise<unknown>[]} */
    const answers = []
    for (let elapsed = 0; elapsed < seconds; elapsed = (performance.now() - begin) / 1000) {
      // Growing evenly to the full rate, so many have been sent by now.
      const target = (rate * elapsed ** 2) / (2 * seconds)
      while (answers.length < target) {
        const n = answers.length
        const page = firstPage + (random() < newPages ? pages + n : Math.floor(random() * pages))
        answers.push(get(page).catch(() => {}))
      }
      await sleep(1)
    }
    await Promise.all(answers)
  },

  /** Resolves when the schedule has begun, with the moment, milliseconds since the UNIX epoch. */
  start: () => {
    startNow = performance.now() + LEAD_MS
    setTimeout(sendWhatIsDue, LEAD_MS)
    return performance.timeOrigin + startNow
  },

  /** Asked right after start. @returns {Promise<Samples>} when every request has been answered, or given up */
  finish: () =>
    new Promise(resolve => {
      finished = resolve
    })
})

tell('ready')
