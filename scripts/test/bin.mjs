// @ts-check
// The command of an installed npm package, as a file that Node.js runs: no npx, no shell, the same on every system.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../exec.mjs'

/**
 * @param {string} name of the package
 * @param {string} [command] where it has several
 * @returns {string} path of the script
 */
export function bin(name, command = name) {
  const folder = join(ROOT, 'node_modules', name)
  const found = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).bin
  return join(folder, typeof found === 'string' ? found : found[command])
}
