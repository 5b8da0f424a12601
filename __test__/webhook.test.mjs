// Guards kvcache/webhook against real servers and sockets: only what is signed, recent and whole is dispatched, once, before it
// is answered; everything else ends in an answer with a reason, and no secret gets out.

import { Buffer } from 'node:buffer'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { connect } from 'node:net'
import { inspect } from 'node:util'
import express from 'express'
import fastify from 'fastify'
import { Webhook } from 'standardwebhooks'
import { webhook } from 'kvcache/webhook'
import { assert, open, test, throws } from './helpers/kv.mjs'
import { deferred, isPending, until } from './helpers/async.mjs'

const SECRET = `whsec_${Buffer.alloc(24, 7).toString('base64')}`
const OTHER = `whsec_${Buffer.alloc(24, 8).toString('base64')}`
const now = () => Math.floor(Date.now() / 1000)
let ids = 0

/** A signed message as its sender would send it. */
function message(event, { secret = SECRET, id = `msg_${++ids}`, at = now() } = {}) {
  const body = typeof event === 'string' ? event : JSON.stringify(event)
  const signature = new Webhook(secret).sign(id, new Date(at * 1000), body)
  const headers = {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': `${at}`,
    'webhook-signature': signature
  }
  return { method: 'POST', body, headers }
}

/** A server with the handler on every path. `handle` may put something before it. */
async function serve(t, handler, options = {}) {
  const server = createServer(options, handler)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => {
    server.close()
    server.closeAllConnections()
  })
  return { url: `http://127.0.0.1:${server.address().port}/`, port: server.address().port }
}

async function hook(t, options, cacheOptions) {
  const cache = open(t, cacheOptions)
  const errors = []
  const seen = []
  cache.on('error', error => errors.push(error))
  cache.onEvent('user.updated', event => {
    seen.push(event)
    return [`user:${event.data.id}:*`]
  })
  const handler = webhook(cache, { secret: SECRET, ...options })
  return { cache, errors, seen, handler, ...(await serve(t, handler)) }
}

const EVENT = { type: 'user.updated', timestamp: '2026-01-01T00:00:00Z', data: { id: 1 } }

async function isRefused(response, status, code) {
  assert.equal(response.status, status)
  assert.match(response.headers.get('content-type'), /^application\/json/)
  const reason = await response.json()
  assert.deepEqual(Object.keys(reason), ['code', 'message'])
  assert.equal(reason.code, `ERR_KVCACHE_${code}`)
  assert.ok(reason.message.length > 10)
  return reason
}

test('what a signed message names is invalidated before it is answered', async t => {
  const { cache, url, seen } = await hook(t)
  await cache.put('user:1:profile', 1)
  await cache.put('user:2:profile', 2)
  const response = await fetch(url, message(EVENT))
  assert.equal(response.status, 204)
  assert.equal(cache.peek('user:1:profile'), undefined)
  assert.equal(cache.peek('user:2:profile'), 2)
  assert.deepEqual(seen, [EVENT])
})

test('an event that no rule knows is taken', async t => {
  const { url } = await hook(t)
  assert.equal((await fetch(url, message({ type: 'unknown' }))).status, 204)
})

test('what is not signed, or not by that secret, or was changed, is refused', async t => {
  const { url, seen, errors } = await hook(t)
  const good = message(EVENT)
  const { headers } = good
  const without = name => ({ ...good, headers: Object.fromEntries(Object.entries(headers).filter(([one]) => one !== name)) })
  for (const [what, request] of [
    ['another secret', message(EVENT, { secret: OTHER })],
    ['another body', { ...good, body: good.body.replace('1', '2') }],
    ['another id', { ...good, headers: { ...headers, 'webhook-id': 'msg_x' } }],
    ['another date', { ...good, headers: { ...headers, 'webhook-timestamp': `${now() - 1}` } }],
    ['another version of signature', { ...good, headers: { ...headers, 'webhook-signature': headers['webhook-signature'].replace('v1', 'v2') } }],
    ['a shorter signature', { ...good, headers: { ...headers, 'webhook-signature': headers['webhook-signature'].slice(0, -4) } }],
    ['rubbish', { ...good, headers: { ...headers, 'webhook-signature': ', v1 v1, é' } }],
    ['no signature', without('webhook-signature')],
    ['no id', without('webhook-id')],
    ['a long id', message(EVENT, { id: 'x'.repeat(257) })]
  ]) {
    const reason = await isRefused(await fetch(url, request), 401, 'WEBHOOK_SIGNATURE')
    assert.ok(!reason.message.includes(headers['webhook-signature'].slice(3)), what)
  }
  assert.deepEqual([seen, errors], [[], []])
})

test('one right signature among several, and any of several secrets, is enough', async t => {
  const { url, seen } = await hook(t, { secret: [OTHER, SECRET] })
  for (const secret of [SECRET, OTHER]) assert.equal((await fetch(url, message(EVENT, { secret }))).status, 204)
  const rotating = message(EVENT)
  rotating.headers['webhook-signature'] = `v1a,xyz v1,${'A'.repeat(44)} ${rotating.headers['webhook-signature']}`
  assert.equal((await fetch(url, rotating)).status, 204)
  assert.equal(seen.length, 3)
})

test('the date may be off by the tolerance and no more', async t => {
  const { url, seen } = await hook(t)
  for (const at of [now() - 290, now() + 290]) assert.equal((await fetch(url, message(EVENT, { at }))).status, 204)
  for (const at of [now() - 310, now() + 310]) {
    await isRefused(await fetch(url, message(EVENT, { at })), 401, 'WEBHOOK_TIMESTAMP')
  }
  for (const written of ['', 'x', '-1', '1e9', '0x10', `${now()}.5`, `${now()}000`, ' ']) {
    const request = message(EVENT)
    request.headers['webhook-timestamp'] = written
    await isRefused(await fetch(url, request), 401, 'WEBHOOK_TIMESTAMP')
  }
  assert.equal(seen.length, 2)

  const wide = await hook(t, { tolerance: '1h' })
  assert.equal((await fetch(wide.url, message(EVENT, { at: now() - 3500 }))).status, 204)
  const narrow = await hook(t, { tolerance: 10 })
  await isRefused(await fetch(narrow.url, message(EVENT, { at: now() - 20 })), 401, 'WEBHOOK_TIMESTAMP')
})

test('only POST of JSON is taken', async t => {
  const { url } = await hook(t)
  for (const method of ['GET', 'PUT', 'DELETE']) {
    const response = await fetch(url, { method })
    assert.equal(response.headers.get('allow'), 'POST')
    await isRefused(response, 405, 'WEBHOOK_METHOD')
  }
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'application/jsonp', '']) {
    const request = message(EVENT)
    request.headers['content-type'] = type
    await isRefused(await fetch(url, request), 415, 'WEBHOOK_CONTENT_TYPE')
  }
  const zipped = message(EVENT)
  zipped.headers['content-encoding'] = 'gzip'
  await isRefused(await fetch(url, zipped), 415, 'WEBHOOK_CONTENT_TYPE')
  for (const type of ['application/json; charset=utf-8', 'Application/JSON', 'application/cloudevents+json']) {
    const request = message(EVENT)
    request.headers['content-type'] = type
    assert.equal((await fetch(url, request)).status, 204, type)
  }
})

test('what is signed but no event is refused, and may be sent again', async t => {
  const { url } = await hook(t)
  for (const body of ['', '{', 'null', '[]', '"user.updated"', '{}', '{"type":""}', '{"type":7}', '\ufeff{"type":"user.updated"}']) {
    const request = message(body)
    for (let i = 0; i < 2; i++) await isRefused(await fetch(url, request), 400, 'WEBHOOK_BODY')
  }
})

test('a body over maxBody is refused: by its length, by what comes of it, and in one piece', async t => {
  const { url, port } = await hook(t, { maxBody: 200 })
  assert.equal((await fetch(url, message(EVENT))).status, 204)
  const long = { type: 'user.updated', data: { id: 'x'.repeat(300) } }
  await isRefused(await fetch(url, message(long)), 413, 'WEBHOOK_TOO_LARGE')

  const { headers } = message(long)
  const head = `POST / HTTP/1.1\r\nHost: x\r\n${Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join('')}`
  const announced = await raw(port, `${head}Content-Length: 1000000000\r\n\r\n{`)
  assert.match(announced, /^HTTP\/1.1 413 /)
  assert.match(announced, /connection: close/i)
  const chunk = 'x'.repeat(150)
  const chunked = await raw(port, `${head}Transfer-Encoding: chunked\r\n\r\n96\r\n${chunk}\r\n96\r\n${chunk}\r\n`)
  assert.match(chunked, /^HTTP\/1.1 413 /)
})

/** Sends bytes, and gives what comes back until the server closes. */
async function raw(port, text) {
  const socket = connect(port, '127.0.0.1')
  let answer = ''
  socket.setEncoding('utf8').on('data', data => { answer += data }).on('error', () => {})
  socket.write(text)
  await once(socket, 'close')
  return answer
}

test('a body that does not come ends in 408', async t => {
  const { port, errors } = await hook(t, { timeout: 50 })
  const { headers, body } = message(EVENT)
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join('')
  const answer = await raw(port, `POST / HTTP/1.1\r\nHost: x\r\n${head}Content-Length: ${body.length}\r\n\r\n${body.slice(0, -1)}`)
  assert.match(answer, /^HTTP\/1.1 408 /)
  assert.match(answer, /ERR_KVCACHE_WEBHOOK_TIMEOUT/)
  assert.deepEqual(errors, [])
})

test('a sender that goes away in the middle disturbs nothing', async t => {
  const cache = open(t)
  const handler = webhook(cache, { secret: SECRET })
  const dealtWith = []
  const { port, url } = await serve(t, (request, response) => dealtWith.push(handler(request, response)))
  const { headers } = message(EVENT)
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join('')
  const socket = connect(port, '127.0.0.1')
  socket.on('error', () => {})
  socket.write(`POST / HTTP/1.1\r\nHost: x\r\n${head}Content-Length: 1000\r\n\r\n{`)
  await until(() => dealtWith.length === 1, 'the request has come')
  socket.resetAndDestroy()
  assert.equal(await dealtWith[0], undefined, 'it ends, and is not rejected')
  assert.equal((await fetch(url, message({ type: 'x' }))).status, 204)
})

test('an id that was handled is not handled again', async t => {
  const { url, seen } = await hook(t)
  const request = message(EVENT)
  for (let i = 0; i < 3; i++) assert.equal((await fetch(url, request)).status, 204)
  assert.equal(seen.length, 1)
  assert.equal((await fetch(url, message(EVENT, { id: request.headers['webhook-id'], at: now() - 5 }))).status, 204)
  assert.equal(seen.length, 1, 'a later attempt has a date of its own')
})

test('an id that is being handled is joined', async t => {
  const { cache, url } = await hook(t)
  const slow = deferred()
  let asked = 0
  cache.onEvent('slow', () => {
    asked++
    return slow.promise
  })
  const request = message({ type: 'slow' })
  const first = fetch(url, request)
  await until(() => asked === 1, 'the rule is asked')
  const second = fetch(url, request)
  assert.ok(await isPending(second))
  slow.resolve(['a'])
  assert.deepEqual([(await first).status, (await second).status, asked], [204, 204, 1])
})

test('a failing event is a 500 that tells nothing, and is handled when it is sent again', async t => {
  const { cache, url, errors } = await hook(t)
  let fails = true
  cache.onEvent('moody', () => {
    if (fails) throw new Error('the password of the database is hunter2')
    return ['a']
  })
  const request = message({ type: 'moody' })
  const { message: text } = await isRefused(await fetch(url, request), 500, 'EVENT')
  assert.ok(!text.includes('hunter2'))
  assert.equal(errors.length, 1)
  assert.equal(errors[0].code, 'ERR_KVCACHE_EVENT')
  assert.match(errors[0].cause.message, /hunter2/)
  fails = false
  await cache.put('a', 1)
  assert.equal((await fetch(url, request)).status, 204)
  assert.equal(cache.peek('a'), undefined)
})

test('a closed cache is a 500', async t => {
  const { cache, url } = await hook(t)
  await cache.close()
  await isRefused(await fetch(url, message(EVENT)), 500, 'CLOSED')
})

test('options that are none are refused, and no secret is ever shown', async t => {
  const cache = open(t)
  for (const options of [undefined, {}, { secret: '' }, { secret: [] }, { secret: [SECRET, 7] }, { secret: 7 }]) {
    throws(() => webhook(cache, options), 'INVALID_OPTION', 'secret')
  }
  for (const secret of ['whsec_not*base64*hunter2', ['hunter2 hunter2'], 'whsec_']) {
    try {
      webhook(cache, { secret })
      assert.fail('it was taken')
    } catch (error) {
      assert.equal(error.code, 'ERR_KVCACHE_INVALID_OPTION')
      assert.equal(error.option, 'secret')
      assert.ok(!inspect(error).includes('hunter2'), inspect(error))
    }
  }
  for (const [options, needle] of [
    [{ tolerance: 0 }, 'tolerance'], [{ tolerance: '2d' }, 'tolerance'], [{ tolerance: Infinity }, 'tolerance'],
    [{ maxBody: 0 }, 'maxBody'], [{ timeout: 0 }, 'timeout'], [{ secrets: [SECRET] }, 'secrets']
  ]) throws(() => webhook(cache, { secret: SECRET, ...options }), 'INVALID_OPTION', needle)
  throws(() => webhook(undefined, { secret: SECRET }), 'INVALID_OPTION', 'cache')
  assert.ok(!inspect(webhook(cache, { secret: SECRET }), { showHidden: true, depth: 9 }).includes(SECRET.slice(6)))
})

test('it is one module by import and by require', () => {
  assert.equal(createRequire(import.meta.url)('kvcache/webhook').webhook, webhook)
})

// --- Frameworks --------------------------------------------------------------------------------------------------------

test('in Express, alone and behind express.raw() and express.text()', async t => {
  const { cache, handler, seen } = await hook(t)
  const app = express()
  app.post('/plain', handler)
  app.post('/raw', express.raw({ type: 'application/json' }), handler)
  app.post('/text', express.text({ type: 'application/json' }), handler)
  app.post('/json', express.json(), handler)
  app.post('/kept', express.json({ verify: (request, _, bytes) => { request.rawBody = bytes } }), handler)
  const { url } = await serve(t, app)
  for (const path of ['plain', 'raw', 'text', 'kept']) {
    await cache.put('user:1:profile', path)
    const event = { ...EVENT, data: { id: 1, name: 'é😀' } }
    assert.equal((await fetch(url + path, message(event))).status, 204, path)
    assert.equal(cache.peek('user:1:profile'), undefined, path)
    await isRefused(await fetch(url + path, message(EVENT, { secret: OTHER })), 401, 'WEBHOOK_SIGNATURE')
  }
  assert.equal(seen.length, 4)
  const reason = await isRefused(await fetch(`${url}json`, message(EVENT)), 500, 'WEBHOOK_PARSED')
  assert.match(reason.message, /unread/)
})

test('a body that was read before is held to maxBody too', async t => {
  const { cache } = await hook(t)
  const app = express()
  app.post('/', express.raw({ type: 'application/json' }), webhook(cache, { secret: SECRET, maxBody: 10 }))
  const chunked = message(EVENT)
  chunked.body = new Blob([chunked.body]).stream()
  chunked.duplex = 'half'
  const { url } = await serve(t, app)
  await isRefused(await fetch(url, chunked), 413, 'WEBHOOK_TOO_LARGE')
})

test('in Fastify, with the body left unread', async t => {
  const { cache, handler, seen } = await hook(t)
  const app = fastify()
  t.after(() => app.close())
  app.register(async scope => {
    scope.removeAllContentTypeParsers()
    scope.addContentTypeParser('*', (request, payload, done) => done(null))
    scope.post('/hooks', (request, reply) => {
      reply.hijack()
      return handler(request.raw, reply.raw)
    })
  })
  const url = `${await app.listen({ port: 0, host: '127.0.0.1' })}/hooks`
  await cache.put('user:1:profile', 1)
  assert.equal((await fetch(url, message(EVENT))).status, 204)
  assert.equal(cache.peek('user:1:profile'), undefined)
  await isRefused(await fetch(url, message(EVENT, { secret: OTHER })), 401, 'WEBHOOK_SIGNATURE')
  assert.equal(seen.length, 1)
})

test('a connection is kept for the next message', async t => {
  const { port } = await hook(t)
  const { headers, body } = message(EVENT)
  const head = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`).join('')
  const one = `POST / HTTP/1.1\r\nHost: x\r\n${head}Content-Length: ${body.length}\r\n`
  const answer = await raw(port, `${one}\r\n${body}${one}Connection: close\r\n\r\n${body}`)
  assert.equal(answer.match(/HTTP\/1.1 204 /g)?.length, 2, answer)
})
