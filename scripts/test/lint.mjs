// @ts-check
// Part `lint`: eslint over all JavaScript.

import { bin } from './bin.mjs'

/** @param {import('./report.mjs').Report} report */
export async function lint(report) {
  await report.run('eslint', process.execPath, [bin('eslint'), '--max-warnings=0', '.'])
}
