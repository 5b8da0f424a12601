// @ts-check
/**
 * Webhooks: a request handler that takes Standard Webhooks (https://www.standardwebhooks.com, specification 1.0) and
 * dispatches each as an event.
 *
 * Promises: nothing is parsed or dispatched before its signature has been checked over the very bytes that came; what it
 * invalidates is invalidated before it is answered with 204; an event is handled once for each webhook-id, and again if that
 * failed; every request ends, in an answer or with its connection, however slow or broken it is; no secret is in any answer or
 * error. What keeps an event from being handled is an 'error' event of the cache.
 */
import { timingSafeEqual } from 'node:crypto'
import { Webhook } from 'standardwebhooks'
import { reportTo } from './cache.js'
import { KvCacheError, invalidOption, isOwn } from './errors.js'
import { LONGEST_TIMER } from './keepalive.js'
import { webhookOptions } from './options.js'

/** @typedef {import('node:http').IncomingMessage & { body?: unknown, rawBody?: unknown }} Request */
/** @typedef {import('node:http').ServerResponse} Response */

/** Most ids remembered at a time. */
const MOST_IDS = 10_000
/** Longest id, in characters. */
const LONGEST_ID = 256

/** A request that is answered with something else than 204. */
class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} code
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message)
    this.status = status
    this.code = code
  }
}

/** The connection is gone: there is nobody to answer. */
class Gone extends Error {}

/**
 * @param {string} code without what all have in common
 */
const named = code => `ERR_KVCACHE_WEBHOOK_${code}`

/**
 * @param {any} cache
 * @param {any} options
 * @returns {(request: Request, response: Response) => Promise<void>}
 */
export function webhook(cache, options) {
  if (typeof cache?.dispatch !== 'function') throw invalidOption('cache', cache, 'a KvCache')
  const { secrets, tolerance, maxBody, timeout } = webhookOptions(options)
  const signers = secrets.map(signer)
  const handled = new Handled()

  /**
   * @param {Request} request
   */
  async function handle(request) {
    checkForm(request, maxBody)
    const { id, timestamp, signatures } = signedBy(request.headers, tolerance)
    const body = await bodyOf(request, maxBody, timeout)
    const text = body.toString('utf8')
    if (!signers.some(signer => isSigned(signer.sign(id, new Date(timestamp * 1000), text), signatures))) {
      throw new Refusal(401, named('SIGNATURE'), 'no signature of webhook-signature is right')
    }
    const event = parse(text)
    // From then on its timestamp is too old.
    await handled.once(id, (timestamp + tolerance) * 1000, () => cache.dispatch(event))
  }

  return async (request, response) => {
    try {
      await handle(request)
      answer(request, response, 204, undefined)
    } catch (error) {
      if (error instanceof Gone) return
      if (error instanceof Refusal) {
        const { status, code, message } = error
        answer(request, response, status, { code, message })
        if (status === 500) reportTo(cache, new KvCacheError(code, message))
        return
      }
      const code = isOwn(error) ? error.code : named('FAILED')
      answer(request, response, 500, { code, message: 'the event could not be handled; send it again' })
      reportTo(cache, error)
    }
  }
}

/**
 * @param {string} secret
 * @returns {Webhook}
 */
function signer(secret) {
  try {
    return new Webhook(secret)
  } catch {
    // Neither the value nor what the library says of it: both tell of the secret.
    const message = "option 'secret' of webhook() is not a secret; allowed: 'whsec_' and base64, or an array of such strings"
    throw new KvCacheError('ERR_KVCACHE_INVALID_OPTION', message, { option: 'secret' })
  }
}

// --- What a request must be ------------------------------------------------------------------------------------------

/**
 * @param {Request} request
 * @param {number} maxBody
 */
function checkForm({ method, headers }, maxBody) {
  if (method !== 'POST') throw new Refusal(405, named('METHOD'), 'only POST is taken here')
  const type = headers['content-type'] ?? ''
  if (!/^application\/([\w.-]+\+)?json *(;|$)/i.test(type)) {
    throw new Refusal(415, named('CONTENT_TYPE'), 'the content-type must be application/json')
  }
  const encoding = headers['content-encoding']
  if (encoding !== undefined && encoding.toLowerCase() !== 'identity') {
    throw new Refusal(415, named('CONTENT_TYPE'), 'the body must come without a content-encoding')
  }
  if (Number(headers['content-length']) > maxBody) throw tooLarge(maxBody)
}

/**
 * @param {number} maxBody
 */
function tooLarge(maxBody) {
  return new Refusal(413, named('TOO_LARGE'), `the body has more than ${maxBody} bytes`)
}

/**
 * What a message says of itself; as yet only its date has been checked.
 * @param {import('node:http').IncomingHttpHeaders} headers
 * @param {number} tolerance seconds
 */
function signedBy(headers, tolerance) {
  const id = headers['webhook-id']
  const sent = headers['webhook-timestamp']
  const signature = headers['webhook-signature']
  if (typeof id !== 'string' || id === '' || id.length > LONGEST_ID) {
    throw new Refusal(401, named('SIGNATURE'), `the header webhook-id must have 1 to ${LONGEST_ID} characters`)
  }
  if (typeof signature !== 'string' || signature === '') {
    throw new Refusal(401, named('SIGNATURE'), 'the header webhook-signature is missing')
  }
  if (typeof sent !== 'string' || !/^\d{1,12}$/.test(sent)) {
    throw new Refusal(401, named('TIMESTAMP'), 'the header webhook-timestamp must be in seconds since the UNIX epoch')
  }
  const timestamp = Number(sent)
  const ahead = timestamp - Date.now() / 1000
  if (Math.abs(ahead) > tolerance) {
    const which = ahead < 0 ? 'past' : 'future'
    throw new Refusal(401, named('TIMESTAMP'), `webhook-timestamp is over ${tolerance} s in the ${which}`)
  }
  return { id, timestamp, signatures: signature.split(' ') }
}

/**
 * @param {string} expected
 * @param {readonly string[]} given
 * @returns {boolean}
 */
function isSigned(expected, given) {
  const right = Buffer.from(expected)
  return given.some(one => {
    const bytes = Buffer.from(one)
    return bytes.length === right.length && timingSafeEqual(bytes, right)
  })
}

/**
 * @param {string} text
 * @returns {{ type: string }}
 */
function parse(text) {
  let event
  try {
    event = JSON.parse(text)
  } catch {
    throw new Refusal(400, named('BODY'), 'the body is not JSON')
  }
  if (typeof event !== 'object' || event === null || typeof event.type !== 'string' || event.type === '') {
    throw new Refusal(400, named('BODY'), 'the body must be an object whose type is a non-empty string')
  }
  return event
}

// --- Bodies ----------------------------------------------------------------------------------------------------------

/**
 * The bytes of the body: read from the request, or as somebody before has read them (express.raw(), express.text(), rawBody).
 * @param {Request} request
 * @param {number} maxBody
 * @param {number} timeout milliseconds
 * @returns {Promise<Buffer>}
 */
async function bodyOf(request, maxBody, timeout) {
  const read = [request.rawBody, request.body].find(body => typeof body === 'string' || body instanceof Uint8Array)
  if (read !== undefined) {
    const body = typeof read === 'string' ? Buffer.from(read) : Buffer.from(/** @type {Uint8Array} */ (read))
    if (body.length > maxBody) throw tooLarge(maxBody)
    return body
  }
  if (request.readableDidRead || request.readableEnded) {
    const how = 'give the handler the request unread, or its bytes as request.body'
    throw new Refusal(500, named('PARSED'), `the body was read before its signature could be checked: ${how}`)
  }
  return readBody(request, maxBody, timeout)
}

/**
 * @param {Request} request
 * @param {number} maxBody
 * @param {number} timeout milliseconds, may be infinite
 * @returns {Promise<Buffer>}
 */
function readBody(request, maxBody, timeout) {
  return new Promise((resolve, reject) => {
    /** @type {Buffer[]} */
    const chunks = []
    let bytes = 0
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    /** @param {Error | undefined} error */
    const end = error => {
      clearTimeout(timer)
      request.off('data', take).off('end', end).off('close', lost).pause()
      if (error === undefined) resolve(Buffer.concat(chunks, bytes))
      else reject(error)
    }
    /** @param {Buffer} chunk */
    const take = chunk => {
      bytes += chunk.length
      if (bytes > maxBody) end(tooLarge(maxBody))
      else chunks.push(chunk)
    }
    const lost = () => end(new Gone())
    // Stays: an error that comes later, of a connection that is being closed, must find somebody too.
    request.on('error', lost)
    request.on('data', take).on('end', end).on('close', lost)
    if (timeout !== Infinity) {
      timer = setTimeout(() => {
        end(new Refusal(408, named('TIMEOUT'), `the body took longer than ${timeout} ms`))
      }, Math.min(timeout, LONGEST_TIMER))
    }
    if (request.destroyed) lost()
  })
}

// --- Once for each id ------------------------------------------------------------------------------------------------

/** What has been handled, and is being. Only ids whose signature was right come here, so that nobody else can fill it. */
class Handled {
  /**
   * Until when ids are remembered, in milliseconds since the UNIX epoch, or the end of their handling, in the order of coming.
   * @type {Map<string, number | Promise<unknown>>}
   */
  #ids = new Map()

  /**
   * Handles what came under an id, unless that has been done; joins whoever is at it.
   * @param {string} id
   * @param {number} until
   * @param {() => Promise<unknown>} handle
   * @returns {Promise<void>}
   */
  async once(id, until, handle) {
    const known = this.#ids.get(id)
    if (typeof known === 'number' && known > Date.now()) return
    if (known instanceof Promise) return void await known
    const handling = handle()
    this.#ids.delete(id)
    this.#makeRoom()
    this.#ids.set(id, handling)
    try {
      await handling
    } catch (error) {
      if (this.#ids.get(id) === handling) this.#ids.delete(id)
      throw error
    }
    if (this.#ids.get(id) === handling) this.#ids.set(id, until)
  }

  /** Forgets the oldest ids: those whose time is over, and one more where there is no room. */
  #makeRoom() {
    const now = Date.now()
    for (const [id, until] of this.#ids) {
      const over = typeof until === 'number' && until <= now
      if (!over && this.#ids.size < MOST_IDS) break
      this.#ids.delete(id)
    }
  }
}

// --- Answers ---------------------------------------------------------------------------------------------------------

/**
 * @param {Request} request
 * @param {Response} response
 * @param {number} status
 * @param {{ code: string, message: string } | undefined} reason
 */
function answer(request, response, status, reason) {
  if (response.headersSent || response.writableEnded || response.destroyed) return
  response.statusCode = status
  if (status === 405) response.setHeader('Allow', 'POST')
  // What is left of the body is not waited for.
  if (!request.complete && request.httpVersionMajor < 2) response.setHeader('Connection', 'close')
  if (reason === undefined) {
    response.end()
    return
  }
  const body = JSON.stringify(reason)
  response.setHeader('Content-Type', 'application/json').setHeader('Content-Length', Buffer.byteLength(body))
  response.end(body)
}
