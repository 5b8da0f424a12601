// @ts-check
// Folders for what tests leave on disk.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** @type {string | undefined} */
let root
let last = 0

/** An empty folder, removed with all that is in it when this process ends: whatever a test opens in it is closed by then. */
export function folder() {
  if (root === undefined) {
    const made = mkdtempSync(join(tmpdir(), 'kvcache-test-'))
    process.on('exit', () => rmSync(made, { recursive: true, force: true, maxRetries: 5 }))
    root = made
  }
  return mkdtempSync(join(root, `${++last}-`))
}
