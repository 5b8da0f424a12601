// @ts-check
/**
 * Two clocks: the wall's, and the CPU time that the whole process spent, garbage collector and engine threads included.
 * On a machine that does nothing else they agree but for what runs beside the main thread. On one that does, the wall's
 * time holds the waiting for a CPU too, and the CPU's is the one to compare.
 */
import { median } from './report.mjs'

/** Runs in which allocations are counted. */
const RUNS = 9

/** @typedef {{ wall: number, cpu: number, bytes?: number }} Took nanoseconds, and bytes of V8's heap where they were counted */

/** Starts both clocks; the function it gives stops them, with the nanoseconds since then. */
export function watch() {
  const before = process.cpuUsage()
  const start = process.hrtime.bigint()
  /** @returns {Took} */
  return () => {
    const wall = Number(process.hrtime.bigint() - start)
    const { user, system } = process.cpuUsage(before)
    return { wall, cpu: (user + system) * 1000 }
  }
}

/**
 * What each of so many operations took.
 * @param {number} ops
 * @param {...Took} took
 * @returns {Took}
 */
export function each(ops, ...took) {
  const sum = { wall: 0, cpu: 0 }
  for (const { wall, cpu } of took) {
    sum.wall += wall / ops
    sum.cpu += cpu / ops
  }
  return sum
}

/**
 * Bytes of V8's heap that an operation takes, awaits of the loop included: the growth of the heap while nothing is collected, the
 * median of some runs. The young generation may be as small as a megabyte after a collection, so a run must take less.
 * @param {number} ops a run
 * @param {(run: number) => unknown} run
 */
export async function allocated(ops, run) {
  const took = []
  for (let n = 0; n < RUNS; n++) {
    globalThis.gc?.()
    const before = process.memoryUsage().heapUsed
    await run(n)
    took.push((process.memoryUsage().heapUsed - before) / ops)
  }
  return median(took)
}
