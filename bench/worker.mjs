// @ts-check
/**
 * The process of one peer: runs the cases that run.mjs asks for, one at a time. Each peer has a process of its own, so
 * that V8 optimizes the loops for it alone and nothing that one cache does to its process (hooks, timers, garbage) is
 * felt by another.
 *
 * Started with the peer's index; answers each message { name, ops, rounds } with { answer } or { error }.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { CASES } from './cases.mjs'
import { OVERHEAD, overhead } from './overhead.mjs'
import { PEERS } from './peers.mjs'

const peer = PEERS[Number(process.argv[2])]

/** @type {Record<string, import('./cases.mjs').Prepared>} */
const prepared = {}
/** When the process last did anything but wait. */
let last = performance.now()

/**
 * @param {string} name
 * @param {number} ops
 * @param {number} rounds
 */
async function run(name, ops, rounds) {
  if (name === OVERHEAD) return overhead(rounds, ops)
  prepared[name] ??= await CASES[name].prepare(peer)
  // What a cache leaves running after a load has ended by then: the cases say what they measure, and nothing else.
  await sleep(Math.max(0, 1500 - (performance.now() - last)))
  globalThis.gc?.()
  const took = await prepared[name](ops)
  last = performance.now()
  return took
}

process.on('message', async (/** @type {{ name: string, ops: number, rounds: number }} */ { name, ops, rounds }) => {
  try {
    process.send?.({ answer: await run(name, ops, rounds) })
  } catch (error) {
    process.send?.({ error: `${peer.name}, ${name}: ${error instanceof Error ? error.stack : error}` })
  }
})
// Whoever asked is gone.
process.on('disconnect', () => process.exit())
