// @ts-check
// A thread of the service: gets requests from the main thread as messages, answers from the cache that all threads share.

import { setTimeout as sleep } from 'node:timers/promises'
import { parentPort, threadId } from 'node:worker_threads'
import { KvCacheError } from 'kvcache'
import { openCache } from './cache.mjs'

/** @typedef {{ id: number, method: string, product: string, body: string }} Request */
/** @typedef {{ id: number, status: number, headers: Record<string, string>, body: string }} Answer */

const port = /** @type {import('node:worker_threads').MessagePort} */ (parentPort)
const cache = openCache()

/**
 * What the origin says: slow, and asked once for all threads.
 * @param {string} key
 * @param {{ signal: AbortSignal }} context
 */
async function loadProduct(key, { signal }) {
  await sleep(200, undefined, { signal })
  return { name: `Product ${key.slice('product:'.length)}`, loadedBy: threadId }
}

/**
 * @param {Request} request
 * @returns {Promise<Omit<Answer, 'id'>>}
 */
async function answer({ method, product, body }) {
  const key = `product:${product}`
  if (method === 'PUT') {
    await cache.put(key, { name: body, loadedBy: threadId })
    return { status: 204, headers: {}, body: '' }
  }
  if (method === 'CRASH') {
    // What no service is spared: the thread ends in the middle of a load.
    cache.get(key, () => sleep(300).then(() => process.exit(1))).catch(() => {})
    return { status: 202, headers: {}, body: '' }
  }
  try {
    const { value, state, age } = await cache.getWithMetadata(key, loadProduct)
    const headers = {
      'x-cache': state === 'loaded' ? 'miss' : state,
      'x-loaded-by': String(value.loadedBy),
      age: String(Math.floor(age))
    }
    return { status: 200, headers, body: `<h1>${escape(value.name)}</h1>\n` }
  } catch (error) {
    const gone = error instanceof KvCacheError && error.code === 'ERR_KVCACHE_CIRCUIT_OPEN'
    return { status: gone ? 503 : 502, headers: {}, body: 'The product cannot be shown now.\n' }
  }
}

/** @param {string} text */
function escape(text) {
  return text.replace(/[&<>"]/g, character => `&#${character.charCodeAt(0)};`)
}

port.on('message', async (/** @type {Request} */ request) => {
  const { status, headers, body } = await answer(request)
  port.postMessage({ id: request.id, status, headers: { ...headers, 'x-thread': String(threadId) }, body })
})
