// @ts-check
/**
 * What the demo's three kinds of process (origin, service, replay) have in common: they are configured by one JSON
 * argument, answer the runner's requests over the IPC channel, and never outlive it.
 */

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
  process.on('disconnect', () => process.exit(0))
  process.on('message', async (/** @type {{ id: number, type: string, value: unknown }} */ { id, type, value }) => {
    try {
      process.send?.({ id, value: await handlers[type]?.(value) })
    } catch (error) {
      process.send?.({ id, error: error instanceof Error ? error.stack : String(error) })
    }
  })
}
