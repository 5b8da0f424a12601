// @ts-check
// What the release workflow does once every target is built. Each step can be repeated; only `publish` leaves the
// machine.
//
// Usage: node scripts/release.mjs STEP
//   check [TAG]    every stated version is that of package.json, and that of the tag, 'v1.2.3'
//   stage FOLDER   FOLDER holds the addons, kvcache.<platform>.node, and binding.js; makes npm/* and this folder what
//                  is to be published
//   publish        publishes npm/*, then this folder, with provenance; leaves out what is already there
//
// The platform packages are optional dependencies of the published package only: package.json of the repository does
// not name them, since they exist only from the moment of a release on, and `npm ci` would ask for them before.

import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT, run } from './exec.mjs'
import { bin } from './test/bin.mjs'

const [step, argument] = process.argv.slice(2)
const main = manifest(ROOT)
const platforms = readdirSync(join(ROOT, 'npm'))
  .map(name => join(ROOT, 'npm', name))
  .filter(folder => existsSync(join(folder, 'package.json')))

switch (step) {
  case 'check':
    check(argument)
    break
  case 'stage':
    await stage(argument)
    break
  case 'publish':
    await publish()
    break
  default:
    fail(`step '${step}' is not known: check, stage or publish`)
}

/** @param {string | undefined} tag */
function check(tag) {
  const { version } = main
  if (tag !== undefined && tag !== `v${version}`) fail(`the tag is ${tag}, package.json says ${version}`)
  for (const folder of platforms) {
    const { name, version: its } = manifest(folder)
    if (its !== version) fail(`${name} has version ${its}, package.json says ${version}`)
  }
  if (platforms.length !== main.napi.targets.length) fail('npm/ does not hold one package for each target')
  const crate = /\[workspace\.package\]\nversion = "([^"]*)"/.exec(text('Cargo.toml'))?.[1]
  if (crate !== version) fail(`Cargo.toml has version ${crate}, package.json says ${version}`)
  if (!text('CHANGELOG.md').includes(`\n## [${version}]`)) fail(`CHANGELOG.md has no section for ${version}`)
  console.log(`${version}: package.json, ${platforms.length} platform packages, crates and changelog agree`)
}

/** @param {string | undefined} folder */
async function stage(folder) {
  if (folder === undefined) fail('stage: which folder holds the addons?')
  const napi = bin('@napi-rs/cli', 'napi')
  await must(process.execPath, [napi, 'artifacts', '--output-dir', folder, '--npm-dir', 'npm'])
  // That leaves copies in this folder too. They would go into the tarball, as `npm pack` on a developer's machine wants
  // it.
  for (const name of readdirSync(ROOT)) if (/^kvcache\..+\.node$/.test(name)) rmSync(join(ROOT, name))
  copyFileSync(join(folder, 'binding.js'), join(ROOT, 'binding.js'))
  for (const target of [...platforms, ROOT]) {
    if (target !== ROOT) copyFileSync(join(ROOT, 'LICENSE'), join(target, 'LICENSE'))
    // A provenance statement is accepted only for a package that names the repository it was built in.
    const { GITHUB_SERVER_URL, GITHUB_REPOSITORY } = process.env
    if (GITHUB_REPOSITORY === undefined) continue
    const repository = { type: 'git', url: `git+${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}.git` }
    writeFileSync(join(target, 'package.json'), `${JSON.stringify({ ...manifest(target), repository }, null, 2)}\n`)
  }
  // Checks that every platform package is whole, and names them as optional dependencies in package.json.
  const options = ['--tag-style', 'npm', '--npm-dir', 'npm', '--skip-optional-publish', '--no-gh-release']
  await must(process.execPath, [napi, 'pre-publish', ...options])
  const named = Object.keys(manifest(ROOT).optionalDependencies ?? {})
  if (named.length !== platforms.length) fail(`package.json names ${named.length} optional dependencies`)
}

async function publish() {
  // A pre-release must not become what `npm install kvcache` gives.
  const tag = main.version.includes('-') ? 'next' : 'latest'
  // The platform packages first: the package that needs them is visible only once they are.
  for (const folder of [...platforms, ROOT]) {
    const { name, version } = manifest(folder)
    // Of a package that is there without that version, npm says nothing and is content.
    const { ok, stdout } = await run('npm', ['view', `${name}@${version}`, 'version'], { quiet: true, minutes: 2 })
    if (ok && stdout.split(/\s/).includes(version)) console.log(`${name}@${version} is already published`)
    else await must('npm', ['publish', '--provenance', '--access', 'public', '--tag', tag], folder)
  }
}

/** @param {string} folder */
function manifest(folder) {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
}

/** @param {string} name */
function text(name) {
  return readFileSync(join(ROOT, name), 'utf8')
}

/**
 * @param {string} command
 * @param {string[]} args
 * @param {string} [cwd]
 */
async function must(command, args, cwd = ROOT) {
  const { ok, why } = await run(command, args, { cwd })
  if (!ok) fail(`${command} ${args.join(' ')}: ${why}`)
}

/**
 * @param {string} why
 * @returns {never}
 */
function fail(why) {
  console.error(why)
  process.exit(1)
}
