// @ts-check
// Servers that cannot be relied upon.

import { once } from 'node:events'
import { createServer } from 'node:net'

/**
 * The port of a server that accepts connections and never says anything. It ends with the test.
 * @param {import('node:test').TestContext} t
 */
export async function silentPort(t) {
  /** @type {Set<import('node:net').Socket>} */
  const sockets = new Set()
  const server = createServer(socket => {
    sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)).resume())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return /** @type {import('node:net').AddressInfo} */ (server.address()).port
}

/**
 * A port of this machine that refuses connections.
 */
export async function deadPort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address())
  server.close()
  await once(server, 'close')
  return port
}
