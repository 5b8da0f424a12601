// @ts-check
// The main thread of the service: accepts requests, has threads answer them in turn, replaces those that end.
// See README.md beside it.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { openCache } from './cache.mjs'

/** @typedef {import('./worker.mjs').Request} Request */
/** @typedef {import('./worker.mjs').Answer} Answer */

const THREADS = Number(process.env.THREADS ?? Math.max(2, Math.min(4, availableParallelism())))
const PORT = Number(process.env.PORT ?? 8080)

/** One thread, and who waits for its answers. */
class Thread {
  constructor() {
    this.worker = new Worker(new URL('./worker.mjs', import.meta.url))
    /** @type {Map<number, (answer: Omit<Answer, 'id'>) => void>} */
    this.waiting = new Map()
    this.worker.on('message', (/** @type {Answer} */ answer) => {
      this.waiting.get(answer.id)?.(answer)
      this.waiting.delete(answer.id)
    })
    this.worker.on('error', error => console.error(`thread ${this.worker.threadId}:`, error))
    this.worker.on('exit', () => {
      // Its own requests are lost with it. What others waited for in the cache is loaded by one of them.
      for (const answer of this.waiting.values()) answer({ status: 500, headers: {}, body: 'The thread has ended.\n' })
      if (!closing) threads[threads.indexOf(this)] = new Thread()
    })
  }

  /**
   * @param {Omit<Request, 'id'>} request
   * @returns {Promise<Omit<Answer, 'id'>>}
   */
  ask(request) {
    const id = ++lastId
    return new Promise(resolve => {
      this.waiting.set(id, resolve)
      this.worker.postMessage({ ...request, id })
    })
  }
}

let lastId = 0
let next = 0
let closing = false
// The main thread holds the cache open while threads come and go, and has its figures.
const cache = openCache()
const threads = Array.from({ length: THREADS }, () => new Thread())

const server = createServer(async (request, response) => {
  const [, route, product = ''] = new URL(request.url ?? '/', 'http://localhost').pathname.split('/')
  if (route === 'stats') return void response.end(`${JSON.stringify(cache.stats(), undefined, 2)}\n`)
  if (route === 'metrics') return void response.end(cache.metrics())
  if ((route !== 'products' && route !== 'crash') || product === '') return void response.writeHead(404).end()
  let body = ''
  for await (const chunk of request.setEncoding('utf8')) body += chunk
  const method = route === 'crash' ? 'CRASH' : request.method ?? 'GET'
  const thread = /** @type {Thread} */ (threads[next++ % threads.length])
  const answer = await thread.ask({ method, product, body })
  response.writeHead(answer.status, answer.headers).end(answer.body)
})

async function close() {
  closing = true
  server.close()
  server.closeAllConnections()
  await Promise.all(threads.map(({ worker }) => worker.terminate()))
  await cache.close()
}

server.listen(PORT, '127.0.0.1')
await once(server, 'listening')
const address = /** @type {import('node:net').AddressInfo} */ (server.address())
console.log(`http://127.0.0.1:${address.port}, ${THREADS} threads`)
process.once('SIGTERM', close)
process.once('SIGINT', close)
