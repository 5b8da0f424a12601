// @ts-check
// An HTTP service of several processes behind one port, with one cache between them: the disk tier. No server beside it.
//
//   node examples/processes/server.mjs
//
// shows what that means with requests of its own, and ends. With PORT in the environment it serves until it is stopped.

import cluster from 'node:cluster'
import { createServer } from 'node:http'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { KvCache, disk } from 'kvcache'

const PROCESSES = Number(process.env.PROCESSES ?? 3)

// --- A process that serves: the part to copy from -----------------------------------------------------------------------

/** What the origin says: slow, and each call of it is told to the first process, which counts them. */
async function loadProduct(/** @type {string} */ key) {
  process.send?.({ loaded: key })
  await sleep(100)
  return { name: `Product ${key.slice('product:'.length)}`, loadedBy: process.pid }
}

function serve() {
  const cache = new KvCache({
    memory: '64mb',
    maxAge: '10m',
    tiers: [disk({ path: /** @type {string} */ (process.env.CACHE_PATH), maxSize: '256mb' })]
  })
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost')
    const key = `product:${pathname.slice('/products/'.length)}`
    response.setHeader('x-process', process.pid)
    // Connections are given out in turn, so that what follows comes to another process.
    response.setHeader('connection', 'close')
    try {
      if (request.method === 'PUT') {
        let name = ''
        for await (const part of request.setEncoding('utf8')) name += part
        // Once this has resolved no process gives what was there before.
        await cache.put(key, { name, loadedBy: process.pid })
        return void response.writeHead(204).end()
      }
      if (request.method === 'DELETE') {
        await cache.invalidate(key)
        return void response.writeHead(204).end()
      }
      const { name } = await cache.get(key, loadProduct)
      response.end(name)
    } catch (error) {
      console.error(error)
      response.writeHead(500).end('The product cannot be shown now.')
    }
  })
  server.listen(Number(process.env.PORT ?? 0), '127.0.0.1')
  process.once('message', async () => {
    server.close()
    server.closeAllConnections()
    await cache.close()
    process.disconnect?.()
  })
}

// --- The first process: starts the others, and asks ---------------------------------------------------------------------

async function start() {
  const path = process.env.CACHE_PATH ?? mkdtempSync(join(tmpdir(), 'kvcache-example-'))
  let loads = 0
  let closing = false
  cluster.on('message', (_worker, message) => void (message.loaded !== undefined && loads++))
  const fork = () => cluster.fork({ CACHE_PATH: path })
  cluster.on('exit', () => void (closing || fork()))
  /** @type {string[]} */
  let addresses = []
  cluster.on('listening', (_worker, { port }) => void addresses.push(`http://127.0.0.1:${port}`))
  const listening = async () => {
    while (addresses.length < PROCESSES) await once(cluster, 'listening')
    return /** @type {string} */ (addresses[0])
  }
  for (let n = 0; n < PROCESSES; n++) fork()
  let url = await listening()
  const close = async () => {
    closing = true
    const workers = Object.values(cluster.workers ?? {})
    await Promise.all(workers.map(async worker => {
      worker?.send('close')
      if (worker) await once(worker, 'exit')
    }))
    if (process.env.CACHE_PATH === undefined) rmSync(path, { recursive: true, force: true })
  }
  console.log(`${url}, ${PROCESSES} processes`)
  if (process.env.PORT !== undefined) {
    process.once('SIGTERM', close)
    process.once('SIGINT', close)
    return
  }

  /** Asks until every process has answered. */
  const fromAll = async () => {
    /** @type {Map<string, string>} */
    const answers = new Map()
    for (let n = 0; n < 200 && answers.size < PROCESSES; n++) {
      const response = await fetch(`${url}/products/7`)
      answers.set(response.headers.get('x-process') ?? '', await response.text())
    }
    return answers
  }
  const show = (/** @type {string} */ what, /** @type {Map<string, string>} */ answers) => {
    const names = [...new Set(answers.values())].join(' and ')
    console.log(`${what}: ${answers.size} processes answer '${names}', the origin was asked ${loads} time${loads === 1 ? '' : 's'}`)
  }

  await fetch(`${url}/products/7`).then(response => response.text())
  show('loaded by one', await fromAll())
  await fetch(`${url}/products/7`, { method: 'PUT', body: 'New name' })
  show('put by one', await fromAll())
  await fetch(`${url}/products/7`, { method: 'DELETE' })
  await fetch(`${url}/products/7`).then(response => response.text())
  show('invalidated by one, loaded by one', await fromAll())
  // None of them is missed, nor all of them: what was answered is on disk.
  addresses = []
  for (const worker of Object.values(cluster.workers ?? {})) worker?.process.kill('SIGKILL')
  url = await listening()
  show('all killed and started again', await fromAll())
  await close()
}

if (cluster.isPrimary) await start()
else serve()
