// @ts-check
// Part `node`: every node:test suite on the built addon, on the present Node.js and on one of each supported line.

import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../exec.mjs'
import { nodeOf } from './node-versions.mjs'

/** Lines of Node.js that must pass. */
const LINES = ['20', '22', '24', '26']
/**
 * Suites that replay traffic at a rate of their own: they run by themselves, after the others, and on the present Node.js
 * only, for beside others they would measure those.
 */
const ALONE = ['__test__/demo.test.mjs']
/** Where suites are. */
const FOLDERS = ['__test__', 'bench', 'examples']

/**
 * @param {import('./report.mjs').Report} report
 * @param {string[]} [versions] only these
 */
export async function node(report, versions) {
  const suites = FOLDERS.flatMap(suitesIn)
  const together = suites.filter(name => !ALONE.includes(name))
  for (const version of versions ?? ['current', ...LINES.filter(line => !isPresent(line))]) {
    const present = version === 'current' || isPresent(version)
    const title = `node:test on Node.js ${present ? process.versions.node : version}`
    const program = await nodeOf(version)
    if (program === undefined) {
      report.notRun(title, `npx could not fetch node@${version}`)
      continue
    }
    // No test may take longer than the limit, nor may a suite: what hangs is a failure, not a longer wait.
    const options = ['--test', '--test-reporter=spec', `--test-timeout=${5 * 60_000}`]
    await report.run(title, program, [...options, ...together], { minutes: 20 })
    if (!present) continue
    for (const name of suites.filter(name => ALONE.includes(name))) {
      await report.run(`node:test of ${name}, alone`, program, [...options, name], { minutes: 10 })
    }
  }
}

/** @param {string} version */
function isPresent(version) {
  return process.versions.node === version || process.versions.node.startsWith(`${version}.`)
}

/**
 * @param {string} folder
 * @returns {string[]} paths from the project's folder, sorted
 */
function suitesIn(folder) {
  const found = readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
  return found.filter(name => name.endsWith('.test.mjs')).map(name => `${folder}/${name}`).sort()
}
