// @ts-check
/** Reads that miss memory, from a disk: kvcache beside npm lmdb and bentocache's file driver. */
import { join } from 'node:path'
import { BentoCache, bentostore } from 'bentocache'
import { fileDriver } from 'bentocache/drivers/file'
import { memoryDriver } from 'bentocache/drivers/memory'
import { open as openLmdb } from 'lmdb'
import { KvCache, disk } from '../../index.js'
import { keyOf, medium } from '../cases.mjs'
import { DAY, directory, print, race } from './common.mjs'

/** @param {{ rounds: number, quick: boolean }} how */
export async function diskReads({ rounds, quick }) {
  const { path, remove } = directory()
  const keys = Array.from({ length: quick ? 3_000 : 10_000 }, (_, n) => keyOf('user', n))
  const ids = new Map(keys.map((key, n) => [key, n]))
  const never = () => { throw new Error('a fetcher was called: the value is on the disk') }
  const ours = join(path, 'kvcache')
  const files = join(path, 'bento')
  const lmdb = openLmdb({ path: join(path, 'lmdb'), encoding: 'json' })

  const filling = new KvCache({ maxAge: DAY, tiers: [disk({ path: ours })] })
  await filling.putMany(keys.map((key, n) => [key, medium(n)]))
  await filling.flush()
  await filling.close()
  await Promise.all(keys.map((key, n) => lmdb.put(key, medium(n))))
  const store = bentostore().useL2Layer(fileDriver({ directory: files, pruneInterval: false }))
  const bentoFilling = new BentoCache({ default: 'store', stores: { store } })
  for (const [n, key] of keys.entries()) await bentoFilling.set({ key, value: medium(n), ttl: '1d' })
  await bentoFilling.disconnectAll()

  const how = { keys, rounds, isRight: (/** @type {any} */ value, /** @type {string} */ key) => value?.id === ids.get(key) }
  /** @type {import('./common.mjs').Peer[]} */
  const peers = [
    {
      name: 'kvcache',
      async open() {
        const cache = new KvCache({ maxAge: DAY, tiers: [disk({ path: ours })] })
        await cache.get('nothing')
        return { get: key => cache.get(key, never), close: () => cache.close() }
      }
    },
    { name: 'lmdb get, encoding: json', open: async () => ({ get: key => lmdb.get(key) }) },
    {
      name: 'bentocache, file driver',
      share: 10,
      async open() {
        const store = bentostore()
          .useL1Layer(memoryDriver({ maxItems: keys.length }))
          .useL2Layer(fileDriver({ directory: files, pruneInterval: false }))
        const cache = new BentoCache({ default: 'store', stores: { store } })
        return { get: key => cache.getOrSet({ key, ttl: '1d', factory: never }), close: () => cache.disconnectAll() }
      }
    }
  ]
  for (const flights of [1, 64]) {
    print(`Disk: reads that miss memory, ${keys.length} objects of 1 KB, ${flights} in flight`, await race(peers, { ...how, flights }))
  }
  await lmdb.close()
  remove()
}
