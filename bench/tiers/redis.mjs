// @ts-check
/** Reads that miss memory, from one Redis: kvcache beside bentocache and ioredis. */
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisDriver } from 'bentocache/drivers/redis'
import { Redis } from 'ioredis'
import { KvCache, redis } from '../../index.js'
import { keyOf, medium } from '../cases.mjs'
import { DAY, count, print, race, startRedis } from './common.mjs'

const FLIGHTS = 64
const never = () => { throw new Error('a fetcher was called: the value is in Redis') }

/**
 * @param {{ port: number, url: string, size: number }} options
 * @returns {import('./common.mjs').Prepared}
 */
export function prepare({ port, url, size }) {
  const keys = Array.from({ length: size }, (_, n) => keyOf('user', n))
  const ids = new Map(keys.map((key, n) => [key, n]))
  /** @type {Redis | undefined} */
  let connection
  const pipelined = () => (connection ??= new Redis(port, { enableAutoPipelining: true }))
  /** @param {() => any} connect @returns {import('./common.mjs').Peer['open']} */
  const bento = connect => async () => {
    const given = connect()
    const store = bentostore()
      .useL1Layer(memoryDriver({ maxItems: size }))
      .useL2Layer(redisDriver({ connection: given, prefix: 'bento' }))
    const cache = new BentoCache({ default: 'store', stores: { store } })
    await cache.get({ key: 'nothing' })
    return {
      get: key => cache.getOrSet({ key, ttl: '1d', factory: never }),
      close: () => (given instanceof Redis ? undefined : cache.disconnectAll())
    }
  }
  return {
    keys,
    isRight: (value, key) => value?.id === ids.get(key),
    peers: [
      {
        name: 'kvcache',
        async open() {
          const cache = new KvCache({ maxAge: DAY, tiers: [redis({ url })] })
          await cache.get('nothing')
          return { get: key => cache.get(key, never), close: () => cache.close() }
        }
      },
      { name: 'bentocache', open: bento(() => ({ host: '127.0.0.1', port })) },
      { name: 'bentocache, with enableAutoPipelining', open: bento(pipelined) },
      {
        name: 'ioredis GET, enableAutoPipelining',
        isRight: value => value.length > 900,
        open: async () => ({ get: key => pipelined().get(`plain:${key}`) })
      },
      {
        name: 'the same, and JSON.parse',
        open: async () => ({ get: async key => JSON.parse(/** @type {string} */ (await pipelined().get(`plain:${key}`))) })
      }
    ]
  }
}

/** @param {{ rounds: number, quick: boolean }} how */
export async function redisReads({ rounds, quick }) {
  const { port, url, stop } = await startRedis()
  const options = { port, url, size: quick ? 3_000 : 10_000 }
  const { keys, peers } = prepare(options)

  // What is read.
  const cache = new KvCache({ maxAge: DAY, tiers: [redis({ url })] })
  await cache.putMany(keys.map((key, n) => [key, medium(n)]))
  await cache.close()
  const plain = new Redis(port)
  const store = bentostore().useL2Layer(redisDriver({ connection: plain, prefix: 'bento' }))
  const bento = new BentoCache({ default: 'store', stores: { store } })
  for (const [n, key] of keys.entries()) {
    await bento.set({ key, value: medium(n), ttl: '1d' })
    await plain.set(`plain:${key}`, JSON.stringify(medium(n)))
  }
  plain.disconnect()

  const rows = await race('./redis.mjs', options, peers.map(({ name }) => name), { rounds, flights: FLIGHTS })
  print(`Redis: reads that miss memory, ${count(keys.length)} objects of 1 KB, ${FLIGHTS} in flight`, rows)
  await stop()
}
