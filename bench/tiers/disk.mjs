// @ts-check
/** Reads that miss memory, from a disk: kvcache beside npm lmdb and bentocache's file driver. */
import { join } from 'node:path'
import { BentoCache, bentostore } from 'bentocache'
import { fileDriver } from 'bentocache/drivers/file'
import { memoryDriver } from 'bentocache/drivers/memory'
import { open as openLmdb } from 'lmdb'
import { KvCache, disk } from '../../index.js'
import { keyOf, medium } from '../cases.mjs'
import { DAY, count, directory, print, race } from './common.mjs'

const never = () => { throw new Error('a fetcher was called: the value is on the disk') }

/** @param {string} path */
const placesOf = path => ({ ours: join(path, 'kvcache'), files: join(path, 'bento'), lmdb: join(path, 'lmdb') })

/**
 * @param {{ path: string, size: number }} options
 * @returns {import('./common.mjs').Prepared}
 */
export function prepare({ path, size }) {
  const { ours, files, lmdb } = placesOf(path)
  const keys = Array.from({ length: size }, (_, n) => keyOf('user', n))
  const ids = new Map(keys.map((key, n) => [key, n]))
  return {
    keys,
    isRight: (value, key) => value?.id === ids.get(key),
    peers: [
      {
        name: 'kvcache',
        async open() {
          const cache = new KvCache({ maxAge: DAY, tiers: [disk({ path: ours })] })
          await cache.get('nothing')
          return { get: key => cache.get(key, never), close: () => cache.close() }
        }
      },
      {
        name: 'lmdb get, encoding: json',
        async open() {
          const store = openLmdb({ path: lmdb, encoding: 'json', readOnly: true })
          return { get: key => store.get(key), close: () => store.close() }
        }
      },
      {
        name: 'bentocache, file driver',
        share: 10,
        async open() {
          const store = bentostore()
            .useL1Layer(memoryDriver({ maxItems: size }))
            .useL2Layer(fileDriver({ directory: files, pruneInterval: false }))
          const cache = new BentoCache({ default: 'store', stores: { store } })
          return { get: key => cache.getOrSet({ key, ttl: '1d', factory: never }), close: () => cache.disconnectAll() }
        }
      }
    ]
  }
}

/** @param {{ rounds: number, quick: boolean }} how */
export async function diskReads({ rounds, quick }) {
  const { path, remove } = directory()
  const options = { path, size: quick ? 3_000 : 10_000 }
  const { keys, peers } = prepare(options)
  const places = placesOf(path)

  // What is read.
  const cache = new KvCache({ maxAge: DAY, tiers: [disk({ path: places.ours })] })
  await cache.putMany(keys.map((key, n) => [key, medium(n)]))
  await cache.close()
  const lmdb = openLmdb({ path: places.lmdb, encoding: 'json' })
  await Promise.all(keys.map((key, n) => lmdb.put(key, medium(n))))
  await lmdb.close()
  const store = bentostore().useL2Layer(fileDriver({ directory: places.files, pruneInterval: false }))
  const bento = new BentoCache({ default: 'store', stores: { store } })
  for (const [n, key] of keys.entries()) await bento.set({ key, value: medium(n), ttl: '1d' })
  await bento.disconnectAll()

  for (const flights of [1, 64]) {
    const rows = await race('./disk.mjs', options, peers.map(({ name }) => name), { rounds, flights })
    print(`Disk: reads that miss memory, ${count(keys.length)} objects of 1 KB, ${flights} in flight`, rows)
  }
  remove()
}
