// @ts-check
// A real Workers KV namespace: the binding of workerd, Cloudflare's runtime, which miniflare starts on this machine.

import { readFileSync } from 'node:fs'
import { Miniflare } from 'miniflare'

/** @typedef {import('./kv-program.mjs').Step} Step */
/** @typedef {import('./kv-program.mjs').Result} Result */

const PROGRAM = readFileSync(new URL('./kv-program.mjs', import.meta.url), 'utf8')

/** How long one request may take, in milliseconds. */
const LONGEST = 60_000

/** Runs the steps of a request on the binding, or empties it. */
const WORKER = `
import { runAll } from './kv-program.mjs'

export default {
  async fetch(request, env) {
    if (request.method === 'POST') return Response.json(await runAll(env.KV, await request.json()))
    for (;;) {
      const { keys, list_complete } = await env.KV.list()
      for (const { name } of keys) await env.KV.delete(name)
      if (list_complete) return new Response()
    }
  }
}
`

/**
 * Starts workerd with an empty namespace, which lives in its memory.
 */
export async function startWorkerd() {
  const worker = new Miniflare({
    modules: [
      { type: 'ESModule', path: 'worker.mjs', contents: WORKER },
      { type: 'ESModule', path: 'kv-program.mjs', contents: PROGRAM }
    ],
    compatibilityDate: '2026-01-01',
    kvNamespaces: ['KV']
  })
  await worker.ready
  return {
    /**
     * Runs calls one after the other inside workerd, so many with each request. What does not answer is an error.
     * @param {Step[]} steps
     * @param {number} [together]
     * @returns {Promise<Result[]>}
     */
    async runAll(steps, together = 1000) {
      /** @type {Result[]} */
      const results = []
      for (let i = 0; i < steps.length; i += together) {
        const response = await worker.dispatchFetch('http://worker/', {
          method: 'POST',
          body: JSON.stringify(steps.slice(i, i + together)),
          signal: AbortSignal.timeout(LONGEST)
        })
        results.push(.../** @type {Result[]} */ (await response.json()))
      }
      return results
    },
    /** Removes every key. */
    async clear() {
      const response = await worker.dispatchFetch('http://worker/', { method: 'DELETE' })
      if (!response.ok) throw new Error(`workerd could not be emptied: ${response.status} ${await response.text()}`)
    },
    stop: () => worker.dispose()
  }
}
