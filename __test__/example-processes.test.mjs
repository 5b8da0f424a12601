// Guards examples/processes and examples/regions: each runs by one command, ends by itself, and shows what its README says.

import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { assert, test } from './helpers/kv.mjs'

/**
 * Runs an example to its end; the lines it said.
 * @param {import('node:test').TestContext} t
 * @param {string} path
 */
async function run(t, path) {
  const { NODE_TEST_CONTEXT: _, PORT: __, REDIS_URL: ___, CACHE_PATH: ____, ...env } = process.env
  const child = spawn(process.execPath, [fileURLToPath(new URL(`../examples/${path}`, import.meta.url))], { env })
  t.after(() => child.kill('SIGKILL'))
  let out = ''
  let err = ''
  child.stdout.on('data', data => (out += data))
  child.stderr.on('data', data => (err += data))
  assert.deepEqual(await once(child, 'close'), [0, null], err)
  assert.equal(err, '')
  return out.trim().split('\n')
}

test('processes behind one port load once, see what one of them writes, and start with what was there', async t => {
  const [head, ...lines] = await run(t, 'processes/server.mjs')
  assert.match(head, /^http:\/\/127\.0\.0\.1:\d+, 3 processes$/)
  assert.deepEqual(lines, [
    "loaded by one: 3 processes answer 'Product 7', the origin was asked 1 time",
    "put by one: 3 processes answer 'New name', the origin was asked 1 time",
    "invalidated by one, loaded by one: 3 processes answer 'Product 7', the origin was asked 2 times",
    "all killed and started again: 3 processes answer 'Product 7', the origin was asked 2 times"
  ])
})

test('regions over one Redis load once, and see what one of them writes and invalidates', async t => {
  if (spawnSync('redis-server', ['--version']).error !== undefined) {
    const why = 'redis-server is not installed: sudo apt-get install redis-server'
    if (process.env.CI) assert.fail(why)
    return t.skip(why)
  }
  assert.deepEqual(await run(t, 'regions/regions.mjs'), [
    '3 regions, 6 processes',
    "asked for by all at once: 6 processes have 'price:1 of the origin', the origin was asked 1 time",
    "put in one region: 6 processes have 'price:1 put in fra', the origin was asked 1 time",
    "invalidated by tag in another: 6 processes have 'price:1 of the origin', the origin was asked 2 times"
  ])
})
