// @ts-check
// Other versions of Node.js, by way of the npm package `node`, which npx fetches once and keeps in npm's cache.

import { run } from '../exec.mjs'

/**
 * @param {string} version 'current', or what npm knows it by: '22', '20.19.0'
 * @returns {Promise<string | undefined>} path of its executable; undefined when it cannot be had
 */
export async function nodeOf(version) {
  const present = process.versions.node
  if (version === 'current' || present === version || present.startsWith(`${version}.`)) return process.execPath
  const print = 'node -p process.execPath'
  const { ok, stdout } = await run('npx', ['--yes', '--package', `node@${version}`, '--call', print], {
    quiet: true,
    minutes: 5
  })
  const path = stdout.trim().split(/\r?\n/).at(-1)
  if (!ok || path === undefined) return undefined
  // It may be there and not run: a binary for glibc on a system with musl.
  const check = await run(path, ['--version'], { quiet: true, minutes: 1 })
  return check.ok && check.stdout.startsWith('v') ? path : undefined
}
