// @ts-check
/**
 * `node bench/races.mjs`: what a cache serves when something is written or invalidated while a fetcher runs, kvcache beside its peers.
 *
 * A load begins; its fetcher has read 'old' from the source, which then becomes 'new'; the key is cut. Somebody asks at once,
 * somebody asks when the load has ended. Both must get 'new' (of a put: what was put). Printed as the table of
 * docs/invalidation.md: for each peer, load and cut what the two were given.
 *
 * Usage: node bench/races.mjs
 */
import { readFileSync } from 'node:fs'
import { cachified } from '@epic-web/cachified'
import { createCache as createDedupe } from 'async-cache-dedupe'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { createCache } from 'cache-manager'
import { Cacheable } from 'cacheable'
import { LRUCache } from 'lru-cache'
import { KvCache } from '../index.js'
import { machine } from './report.mjs'

const KEY = 'item:1:x'
const TAG = 'tag'
const HOUR = 3_600_000

/** @typedef {() => Promise<string>} Fetch */
/**
 * @typedef {object} Opened
 * @property {(fetch: Fetch) => Promise<any>} get of KEY, with TAG where there are tags
 * @property {Record<string, () => unknown>} cuts those that the peer has
 * @property {() => unknown} [close]
 */

/**
 * Each as its documentation shows. `stale` opens one that answers with what it has and loads in the background.
 * @type {Record<string, (stale: boolean) => Opened>}
 */
const PEERS = {
  kvcache(stale) {
    const cache = new KvCache({ maxAge: stale ? 0 : 3600, staleAge: 3600 })
    return {
      get: fetch => cache.get(KEY, fetch, { tags: [TAG] }),
      cuts: {
        put: () => cache.put(KEY, 'put', { maxAge: 3600 }),
        delete: () => cache.delete(KEY),
        tag: () => cache.invalidate({ tag: TAG }),
        pattern: () => cache.invalidate('item:*:x'),
        all: () => cache.invalidate({ all: true })
      },
      close: () => cache.close()
    }
  },
  bentocache(stale) {
    const cache = new BentoCache({ default: 'memory', stores: { memory: bentostore().useL1Layer(memoryDriver({})) } })
    const ages = stale ? { ttl: 1, grace: HOUR, timeout: 0 } : { ttl: HOUR }
    return {
      get: fetch => cache.getOrSet({ key: KEY, ...ages, tags: [TAG], factory: fetch }),
      cuts: {
        put: () => cache.set({ key: KEY, value: 'put', ttl: HOUR }),
        delete: () => cache.delete({ key: KEY }),
        tag: () => cache.deleteByTag({ tags: [TAG] }),
        all: () => cache.clear()
      },
      close: () => cache.disconnectAll()
    }
  },
  'lru-cache'(stale) {
    /** @type {LRUCache<string, string, Fetch>} */
    const cache = new LRUCache({
      max: 100, ttl: stale ? 1 : HOUR, allowStale: stale, fetchMethod: (_key, _stale, { context }) => context()
    })
    return {
      get: fetch => cache.fetch(KEY, { context: fetch }),
      cuts: {
        put: () => cache.set(KEY, 'put', { ttl: HOUR }),
        delete: () => cache.delete(KEY),
        all: () => cache.clear()
      }
    }
  },
  cacheable() {

    const cache = new Cacheable({ ttl: HOUR })
    return {
      // It takes no tags.
      get: fetch => cache.getOrSet(KEY, fetch, { ttl: HOUR }),
      cuts: {
        put: () => cache.set(KEY, 'put'),
        delete: () => cache.delete(KEY),
        all: () => cache.clear()
      }
    }
  },
  'cache-manager'(stale) {
    const cache = createCache({ ttl: HOUR, ...(stale ? { refreshThreshold: 2 * HOUR } : {}) })
    return {
      get: fetch => cache.wrap(KEY, fetch),
      cuts: {
        put: () => cache.set(KEY, 'put'),
        delete: () => cache.del(KEY),
        all: () => cache.clear()
      },
      close: () => cache.disconnect()
    }
  },
  cachified(stale) {
    const cache = /** @type {any} */ (new LRUCache({ max: 100 }))
    const ages = stale ? { ttl: 1, swr: HOUR } : { ttl: HOUR }
    return {
      get: fetch => cachified({ key: KEY, cache, ...ages, getFreshValue: fetch }),
      cuts: {
        put: () => cache.set(KEY, { value: 'put', metadata: { createdTime: Date.now(), ttl: HOUR } }),
        delete: () => cache.delete(KEY),
        all: () => cache.clear()
      }
    }
  },
  'async-cache-dedupe'(stale) {
    /** @type {Fetch} */
    let next = async () => ''
    const cache = createDedupe({ ...(stale ? { ttl: 1, stale: 3600 } : { ttl: 3600 }), storage: { type: 'memory' } })
    const load = async () => next()
    const { load: get } = /** @type {any} */ (cache.define('load', { references: () => [TAG] }, load))
    return {
      get(fetch) {
        next = fetch
        return get.call(cache, KEY)
      },
      cuts: {
        delete: () => cache.clear('load', KEY),
        tag: () => cache.invalidateAll(TAG),
        pattern: () => cache.invalidateAll('t*'),
        all: () => cache.clear()
      }
    }
  }
}

/** @param {number} ms */
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

/**
 * What the two got who asked after the cut; undefined where the peer cannot do it.
 * @param {Opened} peer
 * @param {string} cut
 * @param {boolean} stale
 */
async function race(peer, cut, stale) {
  if (peer.cuts[cut] === undefined) return undefined
  let calls = 0
  if (stale) {
    await peer.get(async () => 'old')
    // Past the shortest age that all have: of async-cache-dedupe, whole seconds.
    await sleep(1100)
  }
  /** @type {(value: string) => void} */
  let resolve = () => {}
  const fetcher = () => {
    calls++
    return /** @type {Promise<string>} */ (new Promise(done => { resolve = done }))
  }
  // lru-cache rejects those who waited.
  const first = peer.get(fetcher).catch(() => {})
  await sleep(20)
  if (calls === 0) return 'no refresh'
  await peer.cuts[cut]()
  // Of what was joined the answer comes with the load.
  const asked = peer.get(async () => 'new')
  await sleep(20)
  resolve('old')
  await first
  const during = await asked
  await sleep(20)
  const later = await peer.get(async () => 'new')
  return during === later ? `${later}` : `${during}, then ${later}`
}

const CUTS = ['put', 'delete', 'tag', 'pattern', 'all']
const alive = setInterval(() => {}, 1000)
for (const [title, stale] of /** @type {[string, boolean][]} */ ([['a miss', false], ['a refresh of a stale value', true]])) {
  console.log(`\n| cut during ${title} | ${CUTS.join(' | ')} |\n|---|${CUTS.map(() => '---|').join('')}`)
  for (const [name, open] of Object.entries(PEERS)) {
    // It serves nothing stale.
    if (stale && name === 'cacheable') continue
    const cells = await Promise.all(CUTS.map(async cut => {
      const peer = open(stale)
      const got = await race(peer, cut, stale)
      await peer.close?.()
      if (got === undefined) return '–'
      const right = got === (cut === 'put' ? 'put' : 'new')
      return right ? got : `**${got}**`
    }))
    console.log(`| ${name} | ${cells.join(' | ')} |`)
  }
}
clearInterval(alive)

const { node, platform, date } = machine()
const packages = ['bentocache', 'lru-cache', 'cacheable', 'cache-manager', '@epic-web/cachified', 'async-cache-dedupe']
const versions = packages.map(name => {
  const file = new URL(`../node_modules/${name}/package.json`, import.meta.url)
  return `${name} ${JSON.parse(readFileSync(file, 'utf8')).version}`
})
console.log(`\n\`node bench/races.mjs\`, ${date}, Node ${node.slice(1)}, ${platform}: ${versions.join(', ')}.`)
