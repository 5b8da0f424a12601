// @ts-check
// The cache of the service: one name, one set of options, in one place for all threads.

import { KvCache } from 'kvcache'

/** @returns a door to the one cache of the process */
export function openCache() {
  return new KvCache({
    name: 'products',
    memory: '128mb',
    maxAge: '30s',
    staleAge: '10m',
    hardTimeout: '5s'
  })
}
