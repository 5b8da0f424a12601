// @ts-check
// Makes a fresh clone ready: npm packages, the addon, programs from the system's package manager. Does only what is
// missing or out of date, so that running it again costs a moment.
//
// As a script: `node scripts/setup.mjs`, before the demo and the bench, with a release build for certain.
// As a module: {@link setup}.

import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ROOT, has, heading, run } from './exec.mjs'

/** What went wrong, for people. */
class SetupError extends Error {}

/**
 * @param {object} [options]
 * @param {string[]} [options.needs] programs to have, named as Debian names their packages
 * @param {boolean} [options.release] a debug build will not do
 * @param {boolean} [options.build] false leaves the addon alone
 */
export async function setup({ needs = [], release = false, build = true } = {}) {
  checkNode()
  await packages()
  if (build) await addon(release)
  if (newer('index.d.ts', 'index.d.cts') || newer('webhook.d.ts', 'webhook.d.cts')) await import('./dts.mjs')
  for (const program of needs) await provide(program)
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number)
  if (major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19)) return
  throw new SetupError(`Node.js ${process.versions.node} is too old: 20.19, 22.12 or newer is needed`)
}

// --- npm packages ----------------------------------------------------------------------------------------------------

async function packages() {
  const why = stale()
  if (why === undefined) return
  heading(`npm ci (${why})`)
  const { ok } = await run('npm', ['ci'])
  if (!ok) throw new SetupError('npm ci failed')
}

/** @typedef {{ version?: string, optional?: boolean, devOptional?: boolean, peer?: boolean }} Locked */

/**
 * Why node_modules is not what the lock file says; undefined when it is. npm leaves a lock of what it has installed.
 * @returns {string | undefined}
 */
function stale() {
  const installed = packagesOf('node_modules/.package-lock.json')
  if (installed === undefined) return 'nothing is installed'
  for (const [path, { version, ...kind }] of Object.entries(packagesOf('package-lock.json') ?? {})) {
    if (path === '') continue
    // What is optional is for other platforms, or could not be had.
    const optional = kind.optional || kind.devOptional || kind.peer
    const there = installed[path]
    if (there === undefined ? !optional : there.version !== version) return `${path} has changed`
  }
  return undefined
}

/**
 * @param {string} file
 * @returns {Record<string, Locked> | undefined}
 */
function packagesOf(file) {
  try {
    return JSON.parse(readFileSync(join(ROOT, file), 'utf8')).packages
  } catch {
    return undefined
  }
}

// --- The addon -------------------------------------------------------------------------------------------------------

/** What the addon is made from. */
const SOURCES = ['Cargo.toml', 'Cargo.lock', 'build.rs', '.cargo', 'src', 'crates', 'package.json']
/** What making it leaves, beside the addon itself. */
const PRODUCTS = ['binding.js', 'binding.d.ts']

/** @param {boolean} release */
async function addon(release) {
  const why = outdated(release)
  if (why === undefined) return
  heading(`npm run build (${why})`)
  if (!(await has('cargo'))) {
    throw new SetupError('the addon is built from Rust, and cargo is not there: install Rust 1.88 or newer (rustup.rs)')
  }
  // Rust links by the C compiler, and some crates are C inside.
  if (process.platform === 'linux') await provide('cc', 'build-essential')
  const { ok } = await run('npm', ['run', 'build'], { minutes: 40 })
  if (!ok) throw new SetupError('npm run build failed')
}

/**
 * Why the addon must be built; undefined when it need not.
 * @param {boolean} release
 * @returns {string | undefined}
 */
function outdated(release) {
  const addons = readdirSync(ROOT).filter(name => /^kvcache\..+\.node$/.test(name))
  if (addons.length === 0) return 'there is no addon'
  for (const name of PRODUCTS) if (!existsSync(join(ROOT, name))) return `there is no ${name}`
  const built = Math.max(...addons.map(name => statSync(join(ROOT, name)).mtimeMs))
  const newest = SOURCES.map(path => newestIn(join(ROOT, path))).reduce((a, b) => (a.time >= b.time ? a : b))
  if (newest.time > built) return `${newest.path.slice(ROOT.length)} is newer than the addon`
  if (release && profileOf(built) !== 'release') return 'the addon is no release build'
  return undefined
}

/**
 * @param {string} source
 * @param {string} product which need not be there
 */
function newer(source, product) {
  const made = statSync(join(ROOT, product), { throwIfNoEntry: false })
  return made === undefined || statSync(join(ROOT, source)).mtimeMs > made.mtimeMs
}

/**
 * @param {string} path a file or folder, which need not be there
 * @returns {{ time: number, path: string }}
 */
function newestIn(path) {
  let newest = { time: 0, path }
  const stats = statSync(path, { throwIfNoEntry: false })
  if (stats === undefined) return newest
  if (!stats.isDirectory()) return { time: stats.mtimeMs, path }
  for (const name of readdirSync(path)) {
    const inner = newestIn(join(path, name))
    if (inner.time > newest.time) newest = inner
  }
  return newest
}

/**
 * The profile that the last build noted (see built.mjs), unless something else has made the addon since.
 * @param {number} built when the addon was made, in ms since the epoch
 */
function profileOf(built) {
  const note = join(ROOT, 'target', 'addon-profile')
  const stats = statSync(note, { throwIfNoEntry: false })
  return stats === undefined || stats.mtimeMs < built ? 'unknown' : readFileSync(note, 'utf8').trim()
}

// --- Programs --------------------------------------------------------------------------------------------------------

/**
 * Installs a program where that is allowed.
 * @param {string} program
 * @param {string} [name] of the Debian package it is in
 */
async function provide(program, name = program) {
  if (await has(program)) return
  const sudo = process.getuid?.() === 0 ? [] : ['sudo', '-n']
  const may = (await has('apt-get')) && (sudo.length === 0 || (await run('sudo', ['-n', 'true'], { quiet: true })).ok)
  if (!may) throw new SetupError(`${program} is needed, and may not be installed from here: sudo apt-get install ${name}, or what your system has for that`)
  heading(`apt-get install ${name}`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  /** @param {...string} args */
  const apt = (...args) => {
    const [command = 'apt-get', ...rest] = [...sudo, 'apt-get', '-y', ...args]
    return run(command, rest, { env, minutes: 10 })
  }
  // The lists may be old or missing; an update that fails in part may still be enough.
  await apt('update')
  const { ok } = await apt('install', '--no-install-recommends', name)
  if (!ok || !(await has(program))) throw new SetupError(`apt-get could not install ${name}`)
}

// --- As a script -----------------------------------------------------------------------------------------------------

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    await setup({ release: true })
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(`\n${error.message}`)
    process.exit(1)
  }
}

export { SetupError }
