// @ts-check
/**
 * The origin: an HTTP server, in a process of its own, that renders product pages slowly, refuses more than its rate
 * limit, and sometimes fails.
 *
 * GET /products/:id answers, after a delay drawn from a lognormal distribution,
 *   200 with the page as JSON and an ETag, or 304 when If-None-Match names the page as it still is;
 *   503 for a share of requests drawn at random;
 *   429 with Retry-After, at once, when the token bucket is empty.
 *
 * The runner switches it between the modes of the configuration ('calm', 'slow'), kills it and starts it again.
 */
import { once } from 'node:events'
import http from 'node:http'
import { answerRunner, configuration, listenOptions, tell } from './child.mjs'
import { product, revisionAt } from './product.mjs'
import { lognormal, uniform } from './random.mjs'
import { TokenBucket } from './token-bucket.mjs'

/** @type {{ origin: import('./config.mjs').DemoConfig['origin'], startedAt: number }} */
const { origin, startedAt } = configuration()

const random = uniform(origin.seed)
const bucket = new TokenBucket(origin.rateLimit)
/** @param {import('./config.mjs').OriginMode} mode */
const behaviour = mode => ({ latency: lognormal(random, mode.latencyMs), failures: mode.failures })
const modes = { calm: behaviour(origin.modes.calm), slow: behaviour(origin.modes.slow) }
let mode = modes.calm

const server = http.createServer((request, response) => {
  const id = Number(/^\/products\/(\d{1,9})$/.exec(request.url ?? '')?.[1] ?? NaN)
  if (request.method !== 'GET' || Number.isNaN(id)) return end(response, 404)
  if (!bucket.take(performance.now())) {
    response.setHeader('retry-after', '1')
    return end(response, 429)
  }
  // Both drawn whatever the outcome: the sequence does not depend on what happens to a request.
  const delay = mode.latency()
  const fails = random() < mode.failures
  setTimeout(() => {
    if (fails) return end(response, 503)
    const revision = revisionAt(id, Date.now() - startedAt, origin.revisionMs)
    const etag = `"${id}-${revision}"`
    response.setHeader('etag', etag)
    if (request.headers['if-none-match'] === etag) return end(response, 304)
    response.setHeader('content-type', 'application/json')
    end(response, 200, JSON.stringify(product(id, revision)))
  }, delay)
})
// Longer than any run: a connection closed for idleness just as it is used again would look like a failure.
server.keepAliveTimeout = 300_000

/**
 * @param {http.ServerResponse} response
 * @param {number} status
 * @param {string} [body]
 */
function end(response, status, body = '') {
  response.statusCode = status
  if (status !== 304) response.setHeader('content-length', Buffer.byteLength(body))
  response.end(body)
}

/**
 * @param {number} port 0: any
 * @returns {Promise<number>} the port
 */
async function listen(port) {
  try {
    server.listen({ port, ...listenOptions })
    await once(server, 'listening')
  } catch (error) {
    // The port of the origin that died may have been taken meanwhile; any other is as good.
    if (/** @type {NodeJS.ErrnoException} */ (error).code === 'EADDRINUSE' && port !== 0) return listen(0)
    throw error
  }
  return /** @type {import('node:net').AddressInfo} */ (server.address()).port
}

answerRunner({
  listen,
  /** @param {'calm' | 'slow'} name */
  mode: name => {
    mode = modes[name]
  }
})

tell('ready')
