// @ts-check
// Workers KV's REST API over a real namespace inside workerd, on this machine. `node kv-rest.mjs` prints its address and serves
// until its input ends.

import { readFileSync } from 'node:fs'
import { pathToFileURL } from 'node:url'
import { Miniflare } from 'miniflare'

/** @param {string} name */
const module = name =>
  ({ type: /** @type {const} */ ('ESModule'), path: name, contents: readFileSync(new URL(name, import.meta.url), 'utf8') })

/** Starts it with an empty namespace. */
export async function startRest() {
  const worker = new Miniflare({
    modules: [module('kv-rest-worker.mjs'), module('kv-reader.mjs')],
    compatibilityDate: '2026-01-01',
    kvNamespaces: ['KV'],
    host: '127.0.0.1',
    port: 0
  })
  const url = await worker.ready
  return {
    origin: url.origin,
    baseUrl: `${url.origin}/client/v4`,
    accountId: 'acc',
    namespaceId: 'ns',
    apiToken: 'test-token',
    /** What happens to the next calls; forgets those made. @param {object} control */
    async control(control) {
      await fetch(`${url.origin}/control`, { method: 'PUT', body: JSON.stringify(control) })
    },
    /** @returns {Promise<{ calls: string[], tooOften: number }>} */
    async seen() {
      return /** @type {any} */ (await (await fetch(`${url.origin}/control`)).json())
    },
    stop: () => worker.dispose()
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const rest = await startRest()
  process.stdout.write(`${rest.origin}\n`)
  process.stdin.resume()
  process.stdin.on('end', () => rest.stop().then(() => process.exit()))
}
