// @ts-check
/**
 * Every figure the demo is made of, in one place: the traffic, the origin, what happens to it and when, and how the
 * cache is set up. All other modules read their share of this object; nothing here does any work.
 *
 * Units: names ending in Ms are milliseconds, ages are seconds (as in the cache's own options), rates are per second.
 */

/** Requests in the trace, all of which a full run replays. */
export const TRACE_REQUESTS = 76_118
/** Different product pages in the trace. */
export const TRACE_PAGES = 20_484
/** The promise of the article that the cache's patterns come from: content delivered in less than this. */
export const PROMISE_MS = 5

/** Requests per second of a run unless told otherwise: the whole trace in 45 s. */
export const DEFAULT_RATE = TRACE_REQUESTS / 45
/** A `--quick` run: each of its two replays, and a rate that a machine busy with other tests can bear. */
export const QUICK_SECONDS = 5
export const QUICK_RATE = 500

/**
 * What the origin goes through, as shares of a replay.
 * @type {ReadonlyArray<{ name: Phase['name'], label: string, share: number }>}
 */
const PHASES = [
  { name: 'calm', label: 'origin well', share: 0.25 },
  { name: 'slow', label: 'origin slow', share: 0.2 },
  { name: 'calm', label: 'well again', share: 0.15 },
  { name: 'down', label: 'origin dead', share: 0.15 },
  { name: 'calm', label: 'origin back', share: 0.25 }
]

/**
 * @typedef {object} Phase
 * @property {'calm' | 'slow' | 'down'} name
 * @property {string} label
 * @property {number} startMs from the start of the replay
 * @property {number} endMs
 */

/**
 * @typedef {object} OriginMode
 * @property {{ median: number, p99: number }} latencyMs lognormal
 * @property {number} failures share of requests answered 503
 */

/** @typedef {ReturnType<typeof demoConfig>} DemoConfig */

/**
 * @param {{ quick?: boolean, rate?: number }} [options] rate: requests per second, default the whole trace in 45 s,
 *   and QUICK_RATE when quick
 */
export function demoConfig({ quick = false, rate = quick ? QUICK_RATE : DEFAULT_RATE } = {}) {
  const requests = quick ? Math.min(TRACE_REQUESTS, Math.floor(rate * QUICK_SECONDS)) : TRACE_REQUESTS
  const seconds = requests / rate
  const durationMs = seconds * 1000

  /** @type {Phase[]} */
  const phases = []
  let startMs = 0
  for (const { name, label, share } of PHASES) {
    phases.push({ name, label, startMs, endMs: startMs + share * durationMs })
    startMs += share * durationMs
  }

  return {
    quick,
    traffic: { requests, rate, seconds, seed: 7, clientTimeoutMs: 30_000 },
    // Before the clock starts: traffic that grows from nothing to the full rate, over pages that the trace does not
    // have. Without it the first seconds would measure the compilation of JavaScript and the opening of connections.
    warmUp: { seconds: quick ? 1.5 : 3, firstPage: 1_000_000, pages: 500, newPages: 0.3 },
    phases,
    /** Width of a point in the plots. */
    bucketMs: seconds >= 20 ? 500 : 250,
    origin: {
      seed: 20_07,
      modes: {
        calm: /** @type {OriginMode} */ ({ latencyMs: { median: 20, p99: 120 }, failures: 0.005 }),
        slow: /** @type {OriginMode} */ ({ latencyMs: { median: 160, p99: 960 }, failures: 0.05 })
      },
      // Three quarters of the traffic: enough behind a cache, not enough without one.
      rateLimit: { perSecond: Math.round(rate * 0.75), burst: Math.round(rate * 0.1875) },
      // How long a product page stays as it is, by product: between these two.
      revisionMs: { shortest: durationMs / 8, longest: durationMs * 1.5 }
    },
    service: {
      // How long the service waits for the origin, with the cache (hardTimeout) and without it.
      originTimeoutMs: 1500
    },
    // Ages are scaled to the length of the replay. At 45 s: fresh for 4.5 s, served stale up to 11.25 s, kept for
    // errors 45 s.
    cache: {
      memory: '12mb',
      maxAge: round(seconds / 10),
      staleAge: round(seconds / 4),
      staleIfError: round(seconds),
      jitter: 0.1,
      softTimeout: 150,
      hardTimeout: 1500,
      refresh: { concurrency: 16, maxQueued: 2000, cooldown: Math.ceil(durationMs / 80) },
      breaker: { threshold: 5, timeout: Math.ceil(durationMs / 40) }
    }
  }
}

/** Whole milliseconds. @param {number} seconds */
function round(seconds) {
  return Math.round(seconds * 1000) / 1000
}

/**
 * Which phase a moment of the replay belongs to (its index).
 * @param {readonly Phase[]} phases
 * @param {number} ms from the start of the replay
 */
export function phaseAt(phases, ms) {
  const found = phases.findIndex(phase => ms < phase.endMs)
  return found === -1 ? phases.length - 1 : found
}
