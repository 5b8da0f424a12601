// @ts-check
// Run by `npm version` between setting the new version in package.json and committing it: carries that version to
// everything else that states one (the crates, the platform packages, the changelog) and adds those files to the
// commit.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, run } from './exec.mjs'
import { bin } from './test/bin.mjs'

const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8'))

edit('Cargo.toml', text => text.replace(/(\[workspace\.package\]\nversion = )"[^"]*"/, `$1"${version}"`))
edit('CHANGELOG.md', text => {
  const heading = `## [${version}] - `
  const dated = heading + new Date().toISOString().slice(0, 10)
  // The section of a first release is there, without its day.
  if (text.includes(`${heading}unreleased\n`)) return text.replace(`${heading}unreleased`, dated)
  return text.replace('## [Unreleased]\n', `## [Unreleased]\n\n${dated}\n`)
})
await must('cargo', ['update', '--workspace', '--offline'])
await must(process.execPath, [bin('@napi-rs/cli', 'napi'), 'version'])
await must('git', ['add', 'Cargo.toml', 'Cargo.lock', 'CHANGELOG.md', 'npm'])

/**
 * @param {string} name
 * @param {(text: string) => string} change
 */
function edit(name, change) {
  const before = readFileSync(join(ROOT, name), 'utf8')
  const after = change(before)
  if (!after.includes(version)) throw new Error(`${name} holds nothing to set to ${version}`)
  writeFileSync(join(ROOT, name), after)
}

/**
 * @param {string} command
 * @param {string[]} args
 */
async function must(command, args) {
  const { ok, why } = await run(command, args)
  if (!ok) throw new Error(`${command} ${args.join(' ')}: ${why}`)
}
