// Guards the package as its users load it: by import and by require, under its own name, one and the same.

import { createRequire } from 'node:module'
import * as imported from 'kvcache'
import { assert, test } from './helpers/kv.mjs'
import { run } from './helpers/child.mjs'

const require = createRequire(import.meta.url)

test('import and require give the same classes', () => {
  const required = require('kvcache')
  assert.equal(required.KvCache, imported.KvCache)
  assert.equal(required.KvCacheError, imported.KvCacheError)
  assert.equal(required.key, imported.key)
})

test('it exports what is built, and nothing else', () => {
  const names = Object.keys(imported).filter(name => name !== 'default' && name !== 'module.exports')
  assert.deepEqual(names.sort(), ['KvCache', 'KvCacheError', 'cloudflareKV', 'disk', 'key', 'redis'])
})

test('the public surface is that of the contract', () => {
  const methods = Object.getOwnPropertyNames(imported.KvCache.prototype).filter(name => name !== 'constructor')
  assert.deepEqual(methods.sort(), [
    'addDependency', 'asKVNamespace', 'breaker', 'close', 'define', 'delete', 'dispatch', 'flush', 'get', 'getMany',
    'getWithMetadata', 'has', 'invalidate', 'list', 'metrics', 'off', 'on', 'onEvent', 'peek', 'put',
    'putMany', 'removeDependency', 'stats', 'versioned', 'wrap'
  ])
  assert.equal(typeof imported.KvCache.prototype[Symbol.asyncDispose], 'function')
  assert.deepEqual(Object.keys(new imported.KvCache()), [], 'nothing of the inside is enumerable')
})

test('a CommonJS script works with nothing but require', async () => {
  const { out } = await run(
    `
    const { KvCache, KvCacheError } = require('kvcache')
    const cache = new KvCache()
    cache.get('k', () => 'value').then(value => {
      console.log(value)
      return cache.get('')
    }).catch(error => console.log(error instanceof KvCacheError, error.code))`,
    { bare: true }
  )
  assert.equal(out, 'value\ntrue ERR_KVCACHE_INVALID_KEY')
})

test('loading it prints nothing and warns of nothing', async () => {
  const { out, err } = await run('', {})
  assert.equal(out, '')
  assert.equal(err, '')
})

test('paths beside the exported ones cannot be loaded', () => {
  assert.throws(() => require('kvcache/lib/cache.js'), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' })
  assert.equal(typeof require('kvcache/package.json').version, 'string')
})
