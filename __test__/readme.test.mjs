// @ts-check
// The examples of the README and the guides do what they say: each block of JavaScript runs as a program of its own and prints
// what its comments `// prints …` announce, in that order, and nothing else.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const ROOT = new URL('../', import.meta.url)
// Inside the package, so that 'kvcache' is the package itself; a folder for each process, since several may test at once.
const FOLDER = new URL(`target/readme-${process.pid}/`, ROOT)

/** Documents with examples, and the fewest that each has. */
const DOCUMENTS = { 'README.md': 12, 'docs/events.md': 4, 'docs/invalidation.md': 1, 'docs/workers-kv.md': 1 }

/** @param {string} file */
function blocksOf(file) {
  const text = readFileSync(new URL(file, ROOT), 'utf8')
  return [...text.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code = ''], i) => {
    const heading = text.slice(0, text.indexOf(code)).match(/^##? .*$/gm)?.at(-1)?.replace(/^#+ /, '')
    return { code, name: `${i + 1}, ${heading}` }
  })
}

for (const [document, fewest] of Object.entries(DOCUMENTS)) {
  const blocks = blocksOf(document)
  describe(`the examples of ${document}`, () => {
    before(() => mkdirSync(FOLDER, { recursive: true }))
    after(() => rmSync(FOLDER, { recursive: true, force: true }))

    test('are found', () => assert.ok(blocks.length >= fewest, `${blocks.length} blocks`))

    for (const { code, name } of blocks) {
      test(`example ${name}, prints what it says`, async () => {
        const file = new URL(`${name.split(',')[0]}.mjs`, FOLDER)
        writeFileSync(file, code)
        const expected = [...code.matchAll(/\/\/ prints (.*)$/gm)].map(([, line]) => line)
        assert.notEqual(expected.length, 0, 'an example announces what it prints')
        const options = { timeout: 30_000, env: { ...process.env, NO_COLOR: '1' } }
        const { stdout, stderr } = await promisify(execFile)(process.execPath, [fileURLToPath(file)], options)
        assert.equal(stderr, '')
        assert.deepEqual(stdout.trimEnd().split('\n'), expected)
      })
    }
  })
}
