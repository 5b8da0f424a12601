// @ts-check
// `npm test`: sets the machine up, then runs everything that must hold before a change goes in. All parts run, whatever
// fails; the exit code tells whether anything did.
//
// Usage: npm test -- [options]
//   --only PART     one part: rust, fuzz, node, faults, types, lint or pack; may be repeated
//   --node VERSION  the node:test suites on this Node.js only: 'current', or what npm knows it by (22, 20.19.0); may be
//                   repeated
//   --no-build      take the addon as it is
//   --help          this text
//
// With CI=true in the environment, what cannot be run (a Node.js version that cannot be fetched) counts as failed.

import { readFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { SetupError, setup } from './setup.mjs'
import { Report } from './test/report.mjs'
import { faults } from './test/faults.mjs'
import { fuzz } from './test/fuzz.mjs'
import { lint } from './test/lint.mjs'
import { node } from './test/node.mjs'
import { pack } from './test/pack.mjs'
import { rust } from './test/rust.mjs'
import { types } from './test/types.mjs'

/**
 * The parts, in the order they run.
 * @type {Record<string, (report: Report, versions: string[] | undefined) => Promise<void>>}
 */
const PARTS = { rust, fuzz, node, faults, types, lint, pack }
/** Programs that some test needs, named as Debian names their packages. @type {string[]} */
const NEEDS = ['redis-server', 'openssl']

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    node: { type: 'string', multiple: true },
    build: { type: 'boolean', default: true },
    help: { type: 'boolean' }
  },
  allowNegative: true
})
const only = values.only ?? (values.node ? ['node'] : Object.keys(PARTS))
for (const part of only) {
  if (PARTS[part] === undefined) {
    console.error(`part '${part}' is not known; there are: ${Object.keys(PARTS).join(', ')}`)
    process.exit(2)
  }
}
if (values.help) {
  const text = readFileSync(new URL(import.meta.url), 'utf8')
  console.log(text.split('\n').filter(line => line.startsWith('//')).slice(3, 12).map(line => line.slice(3)).join('\n'))
  process.exit(0)
}

const report = new Report()
try {
  await setup({ needs: NEEDS, build: values.build })
  for (const [name, part] of Object.entries(PARTS)) if (only.includes(name)) await part(report, values.node)
} catch (error) {
  if (!(error instanceof SetupError)) throw error
  report.add('setup', 'failed', 0, error.message)
}
report.print()
process.exitCode = report.failed === 0 ? 0 : 1
