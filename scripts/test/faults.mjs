// @ts-check
// Part `faults`: processes that share a cache while something breaks; `npm run test:faults` does it for longer, and more of it.

/** @param {import('./report.mjs').Report} report */
export async function faults(report) {
  await report.run('faults, in the bounded form', process.execPath, ['__test__/faults/main.mjs', '--ci'], { minutes: 15 })
}
