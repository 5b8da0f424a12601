// @ts-check
// Scripts in a process of their own: for what only a whole process shows (exit, crashes, unhandled rejections,
// memory).

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const ROOT = new URL('../../', import.meta.url)
const INDEX = JSON.stringify(new URL('index.js', ROOT).href)
const ASYNC = JSON.stringify(new URL('async.mjs', import.meta.url).href)
const IMPORTS = `import { KvCache, KvCacheError } from ${INDEX}
import { controlled, counted, deferred, settle, sleep, until } from ${ASYNC}
`

/**
 * Starts a script (an ES module, with KvCache, KvCacheError and the helpers of async.mjs at hand).
 * @param {string} source
 * @param {{ flags?: string[], bare?: boolean, env?: Record<string, string> }} [options] bare: nothing is imported for the
 *   script, and it is CommonJS; env: more of the environment
 */
export function start(source, { flags = [], bare = false, env: more = {} } = {}) {
  // A child must not believe that it is a test file of the runner above it.
  const { NODE_TEST_CONTEXT: _, ...inherited } = process.env
  const env = { ...inherited, ...more }
  const mode = bare ? [] : ['--input-type=module']
  const child = spawn(process.execPath, [...flags, ...mode, '-e', bare ? source : IMPORTS + source], {
    cwd: fileURLToPath(ROOT),
    env,
    stdio: ['ignore', 'pipe', 'pipe']
  })
  const state = { out: '', err: '', exited: false }
  child.stdout.on('data', data => (state.out += data))
  child.stderr.on('data', data => (state.err += data))
  /** @type {Promise<{ code: number | null, signal: string | null, out: string, err: string }>} */
  const done = new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      state.exited = true
      resolve({ code, signal, out: state.out.trim(), err: state.err })
    })
  })
  return { child, state, done }
}

/**
 * Runs a script to its own end; fails when it does not end by itself, or not with exit code 0.
 * @param {string} source
 * @param {{ flags?: string[], bare?: boolean, env?: Record<string, string>, timeout?: number, code?: number }} [options]
 */
export async function run(source, { timeout = 25_000, code = 0, ...options } = {}) {
  const { child, state, done } = start(source, options)
  let late = false
  const timer = setTimeout(() => {
    late = true
    child.kill('SIGKILL')
  }, timeout)
  const result = await done
  clearTimeout(timer)
  if (late) assert.fail(`the process did not end by itself within ${timeout} ms; out: ${state.out} err: ${state.err}`)
  assert.equal(result.signal, null, `the process died of ${result.signal}; out: ${result.out} err: ${result.err}`)
  assert.equal(result.code, code, `exit code ${result.code}; out: ${result.out} err: ${result.err}`)
  return result
}
