// @ts-check
// Redis servers for the faults: one, or the six nodes of a cluster.

import { execFile, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { sleep } from './players.mjs'

const exec = promisify(execFile)

/** A port that nobody listens on, and whose cluster bus (10,000 above) is free, too. */
export async function freePort() {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    if ((await isFree(port)) && (await isFree(port + 10_000))) return port
  }
}

/** @param {number} port */
function isFree(port) {
  return new Promise(resolve => {
    const server = createServer()
    server.on('error', () => resolve(false))
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)))
  })
}

export class Redis {
  /**
   * @param {number} port
   * @param {{ durable?: boolean, cluster?: boolean, command?: string[], host?: string }} [options] durable: what was answered
   *   is there after kill -9; command: what starts it
   */
  constructor(port, { durable = false, cluster = false, command = [], host = '127.0.0.1' } = {}) {
    this.port = port
    this.host = host
    this.command = command
    this.dir = mkdtempSync(join(tmpdir(), 'kvcache-redis-'))
    this.url = `redis://${host}:${port}`
    this.options = ['--port', String(port), '--save', '', '--dir', this.dir, '--bind', command.length > 0 ? '0.0.0.0' : host]
    this.options.push('--protected-mode', 'no', '--appendonly', durable ? 'yes' : 'no', '--appendfsync', 'always')
    if (cluster) this.options.push('--cluster-enabled', 'yes', '--cluster-node-timeout', '1500', '--cluster-config-file', 'nodes.conf')
  }

  async start() {
    const [program = '', ...args] = [...this.command, 'redis-server', ...this.options]
    const child = spawn(program, args, { stdio: 'ignore' })
    this.child = child
    this.ended = new Promise(resolve => child.on('close', resolve))
    for (let n = 0; n < 200; n++) {
      if ((await this.cli('ping').catch(() => '')) === 'PONG') return this
      await sleep(50)
    }
    throw new Error(`redis-server on port ${this.port} does not answer`)
  }

  /** @param {...string} words */
  async cli(...words) {
    const [program = '', ...args] = [...this.command, 'redis-cli', '-h', this.command.length > 0 ? '127.0.0.1' : this.host, '-p', String(this.port), ...words]
    const { stdout } = await exec(program, args, { timeout: 20_000 })
    return stdout.trim()
  }

  /** @param {NodeJS.Signals} signal */
  signal(signal) {
    this.child?.kill(signal)
  }

  async kill() {
    this.child?.kill('SIGKILL')
    await this.ended
  }

  async clear() {
    if (this.child !== undefined) await this.kill()
    rmSync(this.dir, { recursive: true, force: true })
  }
}

/** Three masters with a replica each. */
export async function cluster() {
  /** @type {Redis[]} */
  const nodes = []
  try {
    for (let n = 0; n < 6; n++) nodes.push(await new Redis(await freePort(), { cluster: true }).start())
    const addresses = nodes.map(({ port }) => `127.0.0.1:${port}`)
    await exec('redis-cli', ['--cluster', 'create', ...addresses, '--cluster-replicas', '1', '--cluster-yes'], { timeout: 60_000 })
    await healthy(nodes)
  } catch (error) {
    await Promise.all(nodes.map(node => node.clear()))
    throw error
  }
  return nodes
}

/**
 * Waits until all nodes say that the cluster is well, with a replica for each master.
 * @param {Redis[]} nodes
 */
export async function healthy(nodes) {
  for (let n = 0; n < 600; n++) {
    const states = await Promise.all(nodes.map(async node => {
      const state = await node.cli('cluster', 'info').catch(() => '')
      const info = await node.cli('info', 'replication').catch(() => '')
      const linked = /role:master/.test(info) ? /connected_slaves:[1-9]/.test(info) : /master_link_status:up/.test(info)
      return /cluster_state:ok/.test(state) && linked
    }))
    if (states.every(Boolean)) return
    await sleep(100)
  }
  throw new Error('the cluster does not become well')
}
