// @ts-check
/** kvcache: see `index.d.ts` for the whole interface. */
export { KvCache } from './lib/cache.js'
export { KvCacheError } from './lib/errors.js'
export { key } from './lib/key.js'
export { cloudflareKV, disk, redis } from './lib/tiers.js'
