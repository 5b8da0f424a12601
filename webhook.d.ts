/**
 * kvcache/webhook: a request handler that turns Standard Webhooks into events of a cache, and so into invalidations.
 *
 * @module
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Age, ByteSize, KvCache, Timeout } from './index.js'

/** Options of {@link webhook}. An unknown one, or a value out of range, throws `ERR_KVCACHE_INVALID_OPTION`. */
export interface WebhookOptions {
  /**
   * The secret that the sender signs with: `'whsec_'` and base64, or the base64 alone. Several while one takes another's place:
   * a message signed by any of them is taken. Never shown in an error or an answer.
   */
  secret: string | readonly string[]
  /**
   * How far `webhook-timestamp` may be from the clock of this machine, before or after, and how long an id is
   * remembered. Default `'5m'`; from 1 s to 1 d.
   */
  tolerance?: Age | undefined
  /** Largest body taken. Default `'64kb'`. */
  maxBody?: ByteSize | undefined
  /** Longest time for a body to arrive. Default 10,000 ms; `Infinity` for no limit but the server's own. */
  timeout?: Timeout | undefined
}

/**
 * The request as the handler needs it: Node's own, alone or with its body read by others as bytes or text.
 */
export type WebhookRequest = IncomingMessage & { body?: unknown; rawBody?: unknown }

/**
 * Why a request was not taken: `code` in its JSON answer, `{ code, message }`.
 *
 * - `ERR_KVCACHE_WEBHOOK_METHOD` (405): not a POST.
 * - `ERR_KVCACHE_WEBHOOK_CONTENT_TYPE` (415): not JSON, or with a content-encoding.
 * - `ERR_KVCACHE_WEBHOOK_TOO_LARGE` (413): more than `maxBody`.
 * - `ERR_KVCACHE_WEBHOOK_TIMEOUT` (408): the body took longer than `timeout`.
 * - `ERR_KVCACHE_WEBHOOK_SIGNATURE` (401): `webhook-id` or `webhook-signature` is missing, or no signature is right.
 * - `ERR_KVCACHE_WEBHOOK_TIMESTAMP` (401): `webhook-timestamp` is missing, unreadable, or further off than `tolerance`.
 * - `ERR_KVCACHE_WEBHOOK_BODY` (400): signed, but not JSON, or not an object with a `type`.
 * - `ERR_KVCACHE_WEBHOOK_PARSED` (500): something before the handler read the body and kept no bytes of it: see {@link webhook}.
 * - `ERR_KVCACHE_WEBHOOK_FAILED`, or a code of {@link KvCacheErrorCode} such as `ERR_KVCACHE_EVENT` (500): the event could not
 *   be dispatched. The sender is to send it again.
 */
export type WebhookRefusalCode =
  | 'ERR_KVCACHE_WEBHOOK_METHOD'
  | 'ERR_KVCACHE_WEBHOOK_CONTENT_TYPE'
  | 'ERR_KVCACHE_WEBHOOK_TOO_LARGE'
  | 'ERR_KVCACHE_WEBHOOK_TIMEOUT'
  | 'ERR_KVCACHE_WEBHOOK_SIGNATURE'
  | 'ERR_KVCACHE_WEBHOOK_TIMESTAMP'
  | 'ERR_KVCACHE_WEBHOOK_BODY'
  | 'ERR_KVCACHE_WEBHOOK_PARSED'
  | 'ERR_KVCACHE_WEBHOOK_FAILED'

/**
 * A handler for Node's `http` (and so for Express, and by way of the raw request for Fastify) that takes
 * [Standard Webhooks](https://www.standardwebhooks.com): it checks signature, date and size, then
 * {@link KvCache.dispatch | dispatches} the body, a JSON object with a `type`, as an event.
 *
 * It answers 204 when all that the event invalidates is invalidated, and when no rule knows its type. An id that has been
 * handled is answered 204 and not handled again; one that is being handled waits for that. Otherwise the answer is a 4xx,
 * or, where the event could not be handled, a 500 after which the id is taken again; both with `{ code, message }` as JSON, see
 * {@link WebhookRefusalCode}. What ends in a 500 is an 'error' event of the cache too.
 *
 * Ids are remembered by each handler for itself, the latest 10,000: invalidating twice does no harm.
 *
 * The signature covers the bytes of the body, so nothing before the handler may parse them. In Express mount it before
 * `express.json()`, or behind `express.raw({ type: 'application/json' })`. In Fastify leave the body unread, and hand over
 * the raw request and response; `docs/events.md` shows how.
 *
 * The promise is fulfilled when the request has been dealt with, and never rejected.
 * @example
 * cache.onEvent('user.updated', ({ data }) => [key`user:${data.id}:*`, { tag: 'users' }])
 * createServer(webhook(cache, { secret: process.env.WEBHOOK_SECRET })).listen(8080)
 */
export function webhook(
  cache: KvCache,
  options: WebhookOptions
): (request: WebhookRequest, response: ServerResponse) => Promise<void>
