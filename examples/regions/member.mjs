// @ts-check
// A process of a region: **the part to copy from**.

import { setTimeout as sleep } from 'node:timers/promises'
import { KvCache, redis } from 'kvcache'

const cache = new KvCache({
  memory: '64mb',
  maxAge: '10m',
  // One process loads a key, the others wait for what it has loaded.
  tiers: [redis({ url: /** @type {string} */ (process.env.REDIS_URL), prefix: 'shop:', lock: true })]
})
// Redis that is slow or gone is told here; what memory and the origin can serve is served meanwhile.
cache.on('error', error => console.error(`${process.env.REGION}: ${error.message}`))

/** What the origin says: slow, and far away. */
async function loadPrice(/** @type {string} */ key, /** @type {import('kvcache').FetchContext} */ context) {
  process.send?.({ loaded: key })
  context.set({ tags: ['prices'] })
  await sleep(100)
  return `${key} of the origin`
}

/** @type {Record<string, (...args: any[]) => Promise<unknown>>} */
const DOES = {
  get: key => cache.get(key, loadPrice),
  put: (key, value) => cache.put(key, value, { tags: ['prices'] }),
  invalidate: tag => cache.invalidate({ tag })
}

process.on('message', async (/** @type {{ id: number, does: string, args: unknown[] }} */ { id, does, args }) => {
  if (does === 'close') {
    await cache.close()
    process.disconnect?.()
    return
  }
  process.send?.({ id, answer: await DOES[does]?.(...args) })
})
