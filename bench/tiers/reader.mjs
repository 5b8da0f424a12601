// @ts-check
/** A process that opens a store and reads one key of it: `reader.mjs PATH KEY`. */
import { KvCache, disk } from '../../index.js'
import { say } from './common.mjs'

const [path, key] = process.argv.slice(2)
const start = performance.now()
const cache = new KvCache({ tiers: [disk({ path, maxSize: '4gb' })] })
const opened = performance.now() - start
const value = await cache.get(key)
const got = performance.now() - start
say({ value, opened, got })
process.on('disconnect', () => void cache.close().then(() => process.exit()))
