// @ts-check
// Part `fuzz`: each fuzz target of the engine, for a few seconds; `node scripts/fuzz.mjs` runs them for longer.

import { PLATFORM_WHY, TARGETS } from '../fuzz-targets.mjs'

/** Long enough to go through what earlier runs found, and some ten thousand inputs more. */
const SECONDS = 5

/** @param {import('./report.mjs').Report} report */
export async function fuzz(report) {
  if (PLATFORM_WHY !== undefined) return report.notRun('fuzz', PLATFORM_WHY)
  const args = ['scripts/fuzz.mjs', '--seconds', String(SECONDS)]
  await report.run(`fuzz: ${TARGETS.length} targets, ${SECONDS} s each`, process.execPath, args, { minutes: 30 })
}
