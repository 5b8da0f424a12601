// @ts-check
// The README's examples do what they say: each block of JavaScript runs as a program of its own and prints what its comments
// `// prints …` announce, in that order, and nothing else.

import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const ROOT = new URL('../', import.meta.url)
// Inside the package, so that 'kvcache' is the package itself; a folder for each process, since several may test at once.
const FOLDER = new URL(`target/readme-${process.pid}/`, ROOT)

const readme = readFileSync(new URL('README.md', ROOT), 'utf8')
const blocks = [...readme.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code = ''], i) => {
  const heading = readme.slice(0, readme.indexOf(code)).match(/^## .*$/gm)?.at(-1)?.slice(3)
  return { code, name: `${i + 1}, ${heading}` }
})

describe('the examples of the README', () => {
  before(() => mkdirSync(FOLDER, { recursive: true }))
  after(() => rmSync(FOLDER, { recursive: true, force: true }))

  test('are found', () => assert.ok(blocks.length >= 9, `${blocks.length} blocks`))

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
