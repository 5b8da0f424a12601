// @ts-check
/** Reads that miss memory, from one Redis: kvcache beside bentocache and ioredis. */
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisDriver } from 'bentocache/drivers/redis'
import { Redis } from 'ioredis'
import { KvCache, redis } from '../../index.js'
import { keyOf, medium } from '../cases.mjs'
import { DAY, print, race, startRedis } from './common.mjs'

const FLIGHTS = 64

/** @param {{ rounds: number, quick: boolean }} how */
export async function redisReads({ rounds, quick }) {
  const server = await startRedis()
  const keys = Array.from({ length: quick ? 3_000 : 10_000 }, (_, n) => keyOf('user', n))
  const ids = new Map(keys.map((key, n) => [key, n]))
  const never = () => { throw new Error('a fetcher was called: the value is in Redis') }
  const plain = new Redis(server.port, { enableAutoPipelining: true })
  const pipelined = new Redis(server.port, { enableAutoPipelining: true })

  /** @param {any} connection @returns {import('./common.mjs').Peer['open']} */
  const bento = connection => async () => {
    const store = bentostore()
      .useL1Layer(memoryDriver({ maxItems: keys.length }))
      .useL2Layer(redisDriver({ connection, prefix: 'bento' }))
    const cache = new BentoCache({ default: 'store', stores: { store } })
    await cache.get({ key: 'nothing' })
    return {
      get: key => cache.getOrSet({ key, ttl: '1d', factory: never }),
      close: () => typeof connection === 'object' && connection instanceof Redis ? undefined : cache.disconnectAll()
    }
  }

  // What is read.
  const filling = new KvCache({ maxAge: DAY, tiers: [redis({ url: server.url })] })
  await filling.putMany(keys.map((key, n) => [key, medium(n)]))
  await filling.flush()
  await filling.close()
  const bentoStore = bentostore().useL2Layer(redisDriver({ connection: plain, prefix: 'bento' }))
  const bentoFilling = new BentoCache({ default: 'store', stores: { store: bentoStore } })
  for (const key of keys) await bentoFilling.set({ key, value: medium(Number(ids.get(key))), ttl: '1d' })
  const multi = plain.pipeline()
  for (const key of keys) multi.set(`plain:${key}`, JSON.stringify(medium(Number(ids.get(key)))))
  await multi.exec()

  const rows = await race([
    {
      name: 'kvcache',
      async open() {
        const cache = new KvCache({ maxAge: DAY, tiers: [redis({ url: server.url })] })
        await cache.get('nothing')
        return { get: key => cache.get(key, never), close: () => cache.close() }
      }
    },
    { name: 'bentocache', open: bento({ host: '127.0.0.1', port: server.port }) },
    { name: 'bentocache, given a connection with enableAutoPipelining', open: bento(pipelined) },
    {
      name: 'ioredis GET, enableAutoPipelining',
      isRight: value => value.length > 900,
      open: async () => ({ get: key => plain.get(`plain:${key}`) })
    },
    {
      name: 'the same, and JSON.parse',
      open: async () => ({ get: async key => JSON.parse(/** @type {string} */ (await plain.get(`plain:${key}`))) })
    }
  ], { keys, rounds, flights: FLIGHTS, isRight: (value, key) => value?.id === ids.get(key) })
  print(`Redis: reads that miss memory, ${keys.length} objects of 1 KB, ${FLIGHTS} in flight`, rows)
  plain.disconnect()
  pipelined.disconnect()
  await server.stop()
}
