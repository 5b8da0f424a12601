// @ts-check
/**
 * The caches under comparison, each used the way its own documentation shows, with the same ages and room for the same
 * number of values. What they do for a caller differs, and the notes say how; a ratio without them is worth little.
 */
import { cachified } from '@epic-web/cachified'
import { createCache as createDedupe } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { createCache } from 'cache-manager'
import { CacheableMemory } from 'cacheable'
import { LRUCache } from 'lru-cache'
import { KvCache } from '../index.js'

/** Age up to which a value is fresh, everywhere: longer than any round. */
const MINUTES = 30

/**
 * @typedef {object} Opened
 * @property {(key: string) => Promise<any>} get a get with the fetcher given to open()
 * @property {(key: string) => Promise<any>} [getWithOptions] the same, with a literal of options in each call
 * @property {(key: string) => any} [peek] the value, synchronously
 * @property {() => unknown} close
 */

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {string} note what a caller gets
 * @property {(name: string) => boolean} [has] whether it takes part in a case; in all where not given
 * @property {(fetcher: (key: string) => any, room: { items: number, memory: string }) => Opened} open
 */

/**
 * @param {boolean} serialize
 * @returns {Peer['open']}
 */
function bentocache(serialize) {
  return (fetcher, { items }) => {
    const layer = memoryDriver({ maxItems: items, serialize })
    const cache = new BentoCache({ default: 'memory', stores: { memory: bentostore().useL1Layer(layer) } })
    return {
      get: key => cache.getOrSet({ key, ttl: `${MINUTES}m`, factory: () => fetcher(key) }),
      close: () => cache.disconnectAll()
    }
  }
}

/**
 * @param {(key: string) => any} fetcher
 * @param {import('../index.js').KvCacheOptions} options
 * @returns {Opened}
 */
function kvcache(fetcher, options) {
  const cache = new KvCache({ ...options, maxAge: `${MINUTES}m` })
  return {
    get: key => cache.get(key, fetcher),
    getWithOptions: key => cache.get(key, fetcher, { maxAge: MINUTES * 60, staleAge: 3600 }),
    peek: key => cache.peek(key),
    close: () => cache.close()
  }
}

/** @param {string} name of a case */
function isHit(name) {
  return name === 'near' || name === 'hit-1k'
}

/** @param {string} name of a case */
function isAsync(name) {
  return name !== 'peek' && name !== 'near-options'
}

/** The first is what the others are compared with. @type {Peer[]} */
export const PEERS = [
  {
    name: 'kvcache',
    note: 'a deep-frozen copy for all callers of a thread, from the near cache; bounded by bytes',
    open: (fetcher, { memory }) => kvcache(fetcher, { memory })
  },
  {
    name: 'kvcache, near: false',
    note: 'a copy decoded for each get from the engine, mutable; bounded by bytes',
    has: name => !name.startsWith('near') && name !== 'peek',
    open: (fetcher, { memory }) => kvcache(fetcher, { memory, near: false })
  },
  {
    name: 'Map',
    note: 'the values themselves in a Map, read by await map.get(key): no cache, the floor under all of them',
    has: name => name.startsWith('near') || name === 'peek',
    open(fetcher) {
      const map = new Map()
      const get = (/** @type {string} */ key) => {
        const value = map.get(key)
        if (value !== undefined) return value
        map.set(key, fetcher(key))
        return map.get(key)
      }
      return { get, peek: key => map.get(key), close() {} }
    }
  },
  {
    name: 'lru-cache',
    note: "fetch(): the fetcher's own object, shared and mutable; bounded by count",
    open(fetcher, { items }) {
      const cache = new LRUCache({ max: items, ttl: MINUTES * 60_000, fetchMethod: fetcher })
      return { get: key => cache.fetch(key), peek: key => cache.get(key), close: () => cache.clear() }
    }
  },
  {
    name: 'bentocache, serialized',
    has: isAsync,
    note: 'getOrSet(), memory driver as it is by default: a copy decoded for each get, mutable; bounded by count',
    open: bentocache(true)
  },
  {
    name: 'bentocache, unserialized',
    has: isAsync,
    note: "getOrSet(), serialize: false: the fetcher's own object, shared and mutable; bounded by count",
    open: bentocache(false)
  },
  {
    name: 'cacheable',
    note: 'CacheableMemory with useClone: false and get() before set(), for its wrap() has no single flight: the object itself',
    has: isHit,
    open(fetcher, { items }) {
      const cache = new CacheableMemory({ lruSize: items, ttl: `${MINUTES}m`, useClone: false })
      return {
        async get(key) {
          const found = cache.get(key)
          if (found !== undefined) return found
          const value = await fetcher(key)
          cache.set(key, value)
          return value
        },
        close: () => cache.clear()
      }
    }
  },
  {
    name: 'cache-manager',
    note: 'wrap() over its default store, a Map of serialized values: a copy decoded for each get; unbounded',
    has: isHit,
    open(fetcher) {
      const cache = createCache({ ttl: MINUTES * 60_000 })
      return { get: key => cache.wrap(key, () => fetcher(key)), close: () => cache.disconnect() }
    }
  },
  {
    name: 'async-cache-dedupe',
    note: "a defined function over its memory storage: the fetcher's own object; bounded by count",
    has: isHit,
    open(fetcher, { items }) {
      const cache = createDedupe({ ttl: MINUTES * 60, storage: { type: 'memory', options: { size: items } } })
      const { load } = /** @type {any} */ (cache.define('load', async (/** @type {string} */ key) => fetcher(key)))
      return { get: key => load.call(cache, key), close() {} }
    }
  },
  {
    name: 'cachified',
    note: "cachified() over an lru-cache: the fetcher's own object; bounded by count",
    has: isHit,
    open(fetcher, { items }) {
      const cache = /** @type {any} */ (new LRUCache({ max: items }))
      return {
        get: key => cachified({ key, cache, ttl: MINUTES * 60_000, getFreshValue: () => fetcher(key) }),
        close: () => cache.clear()
      }
    }
  }
]
