// @ts-check
/**
 * The caches under comparison, each used the way its own documentation shows, with the same ages and room for the same
 * number of values. What they do for a caller differs, and the notes say how; a ratio without them is worth little.
 */
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { LRUCache } from 'lru-cache'
import { KvCache } from '../index.js'

/** Age up to which a value is fresh, everywhere: longer than any round. */
const MINUTES = 30

/**
 * @typedef {object} Opened
 * @property {(key: string) => Promise<any>} get a get with the fetcher given to open()
 * @property {() => unknown} close
 */

/**
 * @typedef {object} Peer
 * @property {string} name
 * @property {string} note what a caller gets
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

/** The first is what the others are compared with. @type {Peer[]} */
export const PEERS = [
  {
    name: 'kvcache',
    note: 'a deep-frozen copy decoded for each get; bounded by bytes',
    open(fetcher, { memory }) {
      const cache = new KvCache({ memory, maxAge: `${MINUTES}m` })
      return { get: key => cache.get(key, fetcher), close: () => cache.close() }
    }
  },
  {
    name: 'lru-cache',
    note: "fetch(): the fetcher's own object, shared and mutable; bounded by count",
    open(fetcher, { items }) {
      const cache = new LRUCache({ max: items, ttl: MINUTES * 60_000, fetchMethod: fetcher })
      return { get: key => cache.fetch(key), close: () => cache.clear() }
    }
  },
  {
    name: 'bentocache, serialized',
    note: 'getOrSet(), memory driver as it is by default: a copy decoded for each get, mutable; bounded by count',
    open: bentocache(true)
  },
  {
    name: 'bentocache, unserialized',
    note: "getOrSet(), serialize: false: the fetcher's own object, shared and mutable; bounded by count",
    open: bentocache(false)
  }
]
