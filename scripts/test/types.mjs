// @ts-check
// Part `types`: the typings as users of each kind of module see them, and the JavaScript of the project against its
// own.

import { readdirSync } from 'node:fs'
import { ROOT } from '../exec.mjs'
import { bin } from './bin.mjs'

const FOLDER = '__test__/types'

/** @param {import('./report.mjs').Report} report */
export async function types(report) {
  const tsc = bin('typescript', 'tsc')
  for (const file of readdirSync(`${ROOT}/${FOLDER}`).sort()) {
    const kind = /^tsconfig\.(?!base)(.+)\.json$/.exec(file)?.[1]
    if (kind === undefined) continue
    await report.run(`typings: ${kind}`, process.execPath, [tsc, '-p', `${FOLDER}/${file}`])
  }
  await report.run('typings: our own code', process.execPath, [tsc, '-p', 'tsconfig.json'])
}
