// @ts-check
// What every suite needs: the package itself, a test that cannot hang, caches that are closed, errors told apart by
// code.

import assert from 'node:assert/strict'
import { test as nodeTest } from 'node:test'
import { KvCache, KvCacheError } from '../../index.js'

export { KvCache, KvCacheError, assert }

/** Ages of a value that is stale at once and stays so: every get() is answered with it and wants a refresh. */
export const STALE = Object.freeze({ maxAge: 0, staleAge: 3600 })

/** Ages of a value that is past staleAge at once, and there only for when a load fails. */
export const EXPIRED = Object.freeze({ maxAge: 0, staleAge: 0, staleIfError: 3600 })

/**
 * A node:test that fails instead of waiting for ever.
 * @param {string} name
 * @param {(t: import('node:test').TestContext) => void | Promise<void>} run
 * @param {{ timeout?: number }} [options]
 */
export function test(name, run, { timeout = 30_000 } = {}) {
  nodeTest(name, { timeout }, run)
}

/**
 * A cache that is closed when the test ends.
 * @param {import('node:test').TestContext} t
 * @param {ConstructorParameters<typeof KvCache>[0]} [options]
 */
export function open(t, options) {
  const cache = new KvCache(options)
  t.after(() => cache.close({ timeout: 20 }))
  return cache
}

/**
 * As {@link open}, for a cache with tiers: what is pending may land, and a tier may be away.
 * @param {import('node:test').TestContext} t
 * @param {ConstructorParameters<typeof KvCache>[0]} options
 */
export function openTiered(t, options) {
  const cache = new KvCache(options)
  t.after(() => cache.close().catch(() => {}))
  return cache
}

/**
 * Checks that an error is the cache's own, with that code, and that its message names what the reader needs.
 * @param {unknown} error
 * @param {string} code with or without the ERR_KVCACHE_ in front
 * @param {(string | RegExp)[]} needles
 */
export function isError(error, code, ...needles) {
  assert.ok(error instanceof KvCacheError, `not a KvCacheError: ${describe(error)}`)
  assert.ok(error instanceof Error)
  assert.equal(error.code, code.startsWith('ERR_') ? code : `ERR_KVCACHE_${code}`, error.message)
  for (const needle of needles) {
    const found = typeof needle === 'string' ? error.message.includes(needle) : needle.test(error.message)
    assert.ok(found, `the message does not name ${needle}: ${error.message}`)
  }
  return true
}

/**
 * @param {Promise<unknown>} promise
 * @param {string} code
 * @param {(string | RegExp)[]} needles
 */
export async function rejects(promise, code, ...needles) {
  assert.ok(promise instanceof Promise, 'a promise is expected, not a synchronous throw or value')
  return isError(await reasonOf(promise), code, ...needles)
}

/**
 * @param {() => unknown} run
 * @param {string} code
 * @param {(string | RegExp)[]} needles
 */
export function throws(run, code, ...needles) {
  let thrown
  try {
    run()
  } catch (error) {
    thrown = { error }
  }
  assert.ok(thrown, 'nothing was thrown')
  return isError(thrown.error, code, ...needles)
}

/**
 * The reason a promise is rejected with, whatever it is; fails when it is fulfilled.
 * @param {Promise<unknown>} promise
 */
export async function reasonOf(promise) {
  /** @type {{ value?: unknown, reason?: unknown, failed: boolean }} */
  const outcome = await promise.then(
    value => ({ value, failed: false }),
    reason => ({ reason, failed: true })
  )
  if (!outcome.failed) assert.fail(`fulfilled with ${describe(outcome.value)} where a rejection is expected`)
  return outcome.reason
}

/** @param {unknown} value */
function describe(value) {
  try {
    return String(value)
  } catch {
    return typeof value
  }
}
