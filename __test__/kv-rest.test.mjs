// @ts-check
// The stand-in for Cloudflare's REST API that the Workers KV tier is tested against is honest: Cloudflare's own SDK works with it.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import Cloudflare from 'cloudflare'
import { startRest } from './helpers/kv-rest.mjs'

/** @type {Awaited<ReturnType<typeof startRest>>} */
let rest
/** @type {any} */
let values
/** @type {any} */
let namespaces
const ours = { account_id: 'acc', namespace_id: 'ns' }

before(async () => {
  rest = await startRest()
  const sdk = new Cloudflare({ apiToken: rest.apiToken, baseURL: rest.baseUrl, maxRetries: 0 })
  namespaces = sdk.kv.namespaces
  values = namespaces.values
})
after(() => rest?.stop())

test('the SDK writes, reads and deletes single values', async () => {
  await values.update('a/b?é', { ...ours, value: 'hello', metadata: JSON.stringify({ n: 1 }) })
  const response = await values.get('a/b?é', ours)
  assert.equal(await response.text(), 'hello')
  assert.deepEqual(await namespaces.metadata.get('a/b?é', ours), { n: 1 })
  await values.delete('a/b?é', ours)
  await assert.rejects(values.get('a/b?é', ours), (/** @type {any} */ error) =>
    error.status === 404 && error.errors[0].code === 10009)
})

test('the SDK writes, reads, lists and deletes in bulk', async () => {
  const body = [
    { key: 'bulk:1', value: 'one', metadata: { n: 1 } },
    { key: 'bulk:2', value: Buffer.from([0xff, 0]).toString('base64'), base64: true }
  ]
  const written = await namespaces.bulkUpdate('ns', { account_id: 'acc', body })
  assert.equal(written.successful_key_count, 2)
  const read = await namespaces.bulkGet('ns', { account_id: 'acc', keys: ['bulk:1', 'nothing'], withMetadata: true })
  assert.deepEqual(read.values, { 'bulk:1': { value: 'one', metadata: { n: 1 } }, nothing: null })
  const bytes = await (await values.get('bulk:2', ours)).arrayBuffer()
  assert.deepEqual(new Uint8Array(bytes), Uint8Array.of(0xff, 0))
  const names = []
  for await (const { name } of namespaces.keys.list('ns', { account_id: 'acc', prefix: 'bulk:', limit: 10 })) names.push(name)
  assert.deepEqual(names, ['bulk:1', 'bulk:2'])
  const deleted = await namespaces.bulkDelete('ns', { account_id: 'acc', body: ['bulk:1', 'bulk:2'] })
  assert.equal(deleted.successful_key_count, 2)
})

test('it refuses a wrong token, and answers as it is told', async () => {
  const stranger = new Cloudflare({ apiToken: 'wrong', baseURL: rest.baseUrl, maxRetries: 0 })
  await assert.rejects(
    async () => { await stranger.kv.namespaces.values.get('a', ours) },
    (/** @type {any} */ error) => error.status === 403 && error.errors[0].code === 10000
  )
  await rest.control({ fail: [{ status: 429, retryAfter: '7' }] })
  await assert.rejects(values.get('a', ours), (/** @type {any} */ error) =>
    error.status === 429 && error.headers.get('retry-after') === '7')
  assert.deepEqual((await rest.seen()).calls, ['GET values/a'])
})
