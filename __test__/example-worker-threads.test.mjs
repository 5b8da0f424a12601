// Guards examples/worker-threads: several threads answer HTTP from one cache, and what its README promises is so.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { assert, test } from './helpers/kv.mjs'
import { until } from './helpers/async.mjs'

const SERVER = fileURLToPath(new URL('../examples/worker-threads/server.mjs', import.meta.url))

/** Starts the service; its address. */
async function start(t) {
  const { NODE_TEST_CONTEXT: _, ...inherited } = process.env
  const child = spawn(process.execPath, [SERVER], { env: { ...inherited, PORT: '0', THREADS: '3' } })
  t.after(() => child.kill('SIGKILL'))
  let out = ''
  let err = ''
  child.stdout.on('data', data => (out += data))
  child.stderr.on('data', data => (err += data))
  const url = await until(() => /^(http:\S+), 3 threads/.exec(out)?.[1], `the service listens: ${err}`)
  const get = async path => {
    const response = await fetch(url + path)
    const { headers } = response
    return { status: response.status, body: await response.text(), cache: headers.get('x-cache'), thread: headers.get('x-thread') }
  }
  return { child, url, get, err: () => err }
}

test('a page is loaded once for all threads, and what one of them puts all of them show', async t => {
  const { child, url, get, err } = await start(t)
  const all = await Promise.all(Array.from({ length: 9 }, () => get('/products/7')))
  assert.deepEqual([...new Set(all.map(({ body }) => body))], ['<h1>Product 7</h1>\n'])
  assert.equal(new Set(all.map(({ thread }) => thread)).size, 3)
  const { misses, coalesced, entries } = JSON.parse((await get('/stats')).body)
  assert.equal(misses - coalesced, 1)
  assert.equal(entries, 1)
  assert.ok((await Promise.all([1, 2, 3].map(() => get('/products/7')))).every(({ cache }) => cache === 'fresh'))
  const put = await fetch(`${url}/products/7`, { method: 'PUT', body: '<New> & "name"' })
  assert.equal(put.status, 204)
  for (let i = 0; i < 6; i++) assert.equal((await get('/products/7')).body, '<h1>&#60;New&#62; &#38; &#34;name&#34;</h1>\n')
  assert.match((await get('/metrics')).body, /^kvcache_entries\{cache="products"\} 1$/m)
  assert.equal((await get('/nothing')).status, 404)
  child.kill('SIGTERM')
  assert.deepEqual(await once(child, 'exit'), [0, null], err())
})

test('a thread that ends while it loads is replaced, and who waited is answered by another one', async t => {
  const { url, get } = await start(t)
  const crashed = await fetch(`${url}/crash/8`, { method: 'POST' })
  assert.equal(crashed.status, 202)
  const [one, two] = await Promise.all([get('/products/8'), get('/products/8')])
  assert.deepEqual([one.body, two.body], ['<h1>Product 8</h1>\n', '<h1>Product 8</h1>\n'])
  assert.ok(![one.thread, two.thread].includes(crashed.headers.get('x-thread')))
  // The new thread answers from the same cache.
  const threads = new Set()
  await until(async () => threads.add((await get('/products/8')).thread).size >= 3)
  assert.ok(!threads.has(crashed.headers.get('x-thread')))
})
