// @ts-check
// Three regions, each of two processes, over one Redis: one cache. Each process has what it uses in its own memory; what one of
// them writes or invalidates is heard by all, wherever they are.
//
//   node examples/regions/regions.mjs
//
// starts a redis-server of its own (or takes the one that REDIS_URL names), shows that, and ends.

import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const REGIONS = ['fra', 'iad', 'syd']
const PROCESSES = 2

/** A redis-server for this example, in memory only. */
async function startRedis() {
  if (process.env.REDIS_URL !== undefined) return { url: process.env.REDIS_URL, end: async () => {} }
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (probe.address())
  await new Promise(resolve => probe.close(resolve))
  const dir = mkdtempSync(join(tmpdir(), 'kvcache-example-'))
  const server = spawn('redis-server', ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--dir', dir], { stdio: 'ignore' })
  const missing = await Promise.race([once(server, 'error').then(() => true), listens(port).then(() => false)])
  if (missing) {
    rmSync(dir, { recursive: true, force: true })
    console.error('redis-server is needed: install it (on Debian, the package redis-server), or give REDIS_URL')
    process.exit(1)
  }
  const end = async () => {
    server.kill()
    await once(server, 'exit')
    rmSync(dir, { recursive: true, force: true })
  }
  return { url: `redis://127.0.0.1:${port}`, end }
}

/** @param {number} port */
async function listens(port) {
  for (;;) {
    const socket = connect(port, '127.0.0.1')
    const open = await Promise.race([once(socket, 'connect').then(() => true), once(socket, 'error').then(() => false)]).catch(() => false)
    socket.destroy()
    if (open) return
    await sleep(20)
  }
}

/** One process of a region: it is asked by messages, as a service would be by HTTP. */
class Member {
  /** @param {string} region @param {string} url */
  constructor(region, url) {
    this.region = region
    this.child = fork(fileURLToPath(new URL('member.mjs', import.meta.url)), { env: { ...process.env, REGION: region, REDIS_URL: url } })
    this.loads = 0
    /** @type {Map<number, (answer: any) => void>} */
    this.waiting = new Map()
    this.child.on('message', (/** @type {{ id?: number, loaded?: string, answer?: unknown }} */ { id, loaded, answer }) => {
      if (loaded !== undefined) this.loads++
      else this.waiting.get(/** @type {number} */ (id))?.(answer)
    })
  }

  /** @param {string} does @param {...unknown} args */
  ask(does, ...args) {
    const id = this.waiting.size
    return new Promise(resolve => {
      this.waiting.set(id, resolve)
      this.child.send({ id, does, args })
    })
  }
}

const { url, end } = await startRedis()
const members = REGIONS.flatMap(region => Array.from({ length: PROCESSES }, () => new Member(region, url)))
const [first, last] = /** @type {[Member, Member]} */ ([members[0], members.at(-1)])
console.log(`${REGIONS.length} regions, ${members.length} processes`)

/** @param {string} key */
const ask = key => Promise.all(members.map(member => member.ask('get', key)))
/** @param {string} what @param {unknown[]} answers */
function show(what, answers) {
  const loads = members.reduce((sum, member) => sum + member.loads, 0)
  console.log(`${what}: ${answers.length} processes have '${[...new Set(answers)].join("' and '")}', the origin was asked ${loads} time${loads === 1 ? '' : 's'}`)
}

/**
 * Asks until all say it. Over Redis that is a matter of milliseconds; within the process that wrote it is at once.
 * @param {string} key
 * @param {unknown} value
 */
async function untilAll(key, value) {
  for (;;) {
    const answers = await ask(key)
    if (answers.every(answer => answer === value)) return answers
    await sleep(5)
  }
}

// All ask at once, and one of them loads: `lock`.
show('asked for by all at once', await ask('price:1'))
await first.ask('put', 'price:1', 'price:1 put in fra')
show('put in one region', await untilAll('price:1', 'price:1 put in fra'))
await last.ask('invalidate', 'prices')
show('invalidated by tag in another', await untilAll('price:1', 'price:1 of the origin'))

for (const { child } of members) {
  const exited = once(child, 'exit')
  child.send({ does: 'close' })
  await exited
}
await end()
