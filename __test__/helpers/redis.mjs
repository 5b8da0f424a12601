// @ts-check
// Real Redis servers on this machine, each with a port and a folder of its own, that tests stop, kill, pause and start again.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { until } from './async.mjs'
import { folder } from './folder.mjs'
import { deadPort } from './silent.mjs'

const COMMAND = 'sudo apt-get install redis-server'

/**
 * One command, and what the server says to it, as it comes.
 * @param {number} port
 * @param {...string} words
 * @returns {Promise<string | undefined>} undefined: it does not answer
 */
function command(port, ...words) {
  return new Promise(resolve => {
    const socket = connect(port, '127.0.0.1')
    let said = ''
    socket.setTimeout(2000, () => socket.destroy())
    socket.on('connect', () => socket.write(`*${words.length}\r\n${words.map(word => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join('')}`))
    socket.on('data', data => {
      said += data
      socket.end()
    })
    socket.on('error', () => {})
    socket.on('close', () => resolve(said === '' ? undefined : said))
  })
}

/**
 * Starts a server, which is ended with the test. Where no redis-server is installed the test is skipped, with CI set it fails.
 * @param {import('node:test').TestContext} t
 * @param {{ durable?: boolean }} [options] durable: every write is on disk before it is answered
 */
export async function startRedis(t, { durable = false } = {}) {
  if (spawnSync('redis-server', ['--version']).error !== undefined) {
    const why = `redis-server is not installed: ${COMMAND}`
    if (process.env.CI) assert.fail(why)
    t.skip(why)
    return undefined
  }
  const dir = folder()
  const port = await deadPort()
  /** @type {import('node:child_process').ChildProcess | undefined} */
  let server
  const redis = {
    port,
    url: `redis://127.0.0.1:${port}`,
    /** Starts it (again), with what it has on disk. */
    async start() {
      const options = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', dir, '--save', '', '--daemonize', 'no']
      const aof = durable ? ['--appendonly', 'yes', '--appendfsync', 'always'] : ['--appendonly', 'no']
      server = spawn('redis-server', [...options, ...aof], { stdio: 'ignore' })
      await until(async () => (await command(port, 'PING'))?.startsWith('+PONG'), 'Redis answers')
    },
    /** As kill -9. */
    async kill() {
      const killed = server
      server = undefined
      if (killed === undefined || killed.exitCode !== null || killed.signalCode !== null) return
      const ended = once(killed, 'exit')
      killed.kill('SIGKILL')
      await ended
    },
    /** It keeps its connections and answers nothing. */
    pause: () => void server?.kill('SIGSTOP'),
    resume: () => void server?.kill('SIGCONT'),
    /** @param {...string} words */
    command: (...words) => command(port, ...words)
  }
  t.after(() => redis.kill())
  await redis.start()
  return redis
}
