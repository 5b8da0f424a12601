// @ts-check
/**
 * What the demo's three kinds of process (origin, service, replay) have in common: they are configured by one JSON
 * argument, answer the runner's requests over the IPC channel, and never outlive it.
 */

/**
 * How the demo's servers listen. The backlog is longer than any client's pool of connections: a connection that finds
 * it full is tried again by the kernel after 1, 3, 7 seconds, which would say nothing about a cache or an origin.
 */
export const listenOptions = { host: '127.0.0.1', backlog: 4096 }

/** Connections that a client of the demo opens at most; requests beyond wait in line, and their latency counts. */
export const MAX_CONNECTIONS = 1024

/**
 * The configuration that the runner gave this process.
 * @returns {any}
 */
export function configuration() {
  return JSON.parse(process.argv[2] ?? 'null')
}

/**
 * Tells the runner something it did not ask for.
 * @param {string} type
 * @param {unknown} [value]
 */
export function tell(type, value) {
  process.send?.({ type, value })
}

/**
 * Answers the runner's requests and ties this process to it.
 * @param {Record<string, (value: any) => unknown>} handlers by name; what one returns, or resolves with, is the answer
 */
export function answerRunner(handlers) {
  // A terminal sends Ctrl-C to every process of the group; the runner alone decides what happens then.
  process.on('SIGINT', () => {})
  // However the runner ends, and kill -9 is one way, the channel closes and so does this process.
  const runnerIsGone = () => process.exit(0)
  process.on('disconnect', runnerIsGone)
  process.on('message', async (/** @type {{ id: number, type: string, value: unknown }} */ { id, type, value }) => {
    if (type === 'leave') {
      // From here on nothing but this process's own work keeps it alive: it has to end by itself.
      process.off('disconnect', runnerIsGone)
      process.disconnect?.()
      return
    }
    try {
      process.send?.({ id, value: await handlers[type](value) })
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? error.stack : String(error) })
    }
  })
}
