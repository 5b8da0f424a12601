// Typings as CommonJS sees them. Nothing here runs.

import kvcache = require('kvcache')
import { KvCache } from 'kvcache'
import type { Fetcher, KvCacheOptions } from 'kvcache'
import hooks = require('kvcache/webhook')
import type * as esm from 'kvcache' with { 'resolution-mode': 'import' }

const options: kvcache.KvCacheOptions = { memory: '1mb' }
const cache: KvCache = new kvcache.KvCache(options)
const fetcher: Fetcher<number> = async (key, context) => context.stale?.value ?? key.length
const value: Promise<number> = cache.get('a', fetcher)
const error: Error = null as never as kvcache.KvCacheError
// @ts-expect-error a key is a string
void cache.get(1)
// @ts-expect-error there is no default export
kvcache.default

// A cache opened by a CommonJS module can be handed to an ES module, and the other way round.
const toEsm: esm.KvCache = cache
const fromEsm: KvCache = null as never as esm.KvCache
const optionsFromEsm: KvCacheOptions = {} as esm.KvCacheOptions

const handler = hooks.webhook(cache, { secret: 'whsec_' })

export = { value, error, toEsm, fromEsm, optionsFromEsm, handler }
