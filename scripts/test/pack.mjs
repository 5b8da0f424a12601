// @ts-check
// Part `pack`: the tarball that npm would publish, with this machine's addon in it, is well made and works where it is
// installed: in an empty folder, by import and by require, without a word on stderr.

import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { run } from '../exec.mjs'
import { bin } from './bin.mjs'
import { nodeOf } from './node-versions.mjs'

/** The oldest Node.js of each line that has require() of ES modules, from where on we promise to work. */
const OLDEST = ['20.19.0', '22.12.0']

/** @param {import('./report.mjs').Report} report */
export async function pack(report) {
  const folder = await mkdtemp(join(tmpdir(), 'kvcache-pack-'))
  try {
    let tarball = ''
    const packed = await report.step('npm pack', async () => {
      const { ok, why } = await run('npm', ['pack', '--pack-destination', folder])
      if (!ok) return why
      tarball = join(folder, (await readdir(folder)).find(name => name.endsWith('.tgz')) ?? '')
    })
    if (!packed) return
    await report.run('publint', process.execPath, [bin('publint'), 'run', tarball, '--strict'])
    await report.run('attw', process.execPath, [bin('@arethetypeswrong/cli', 'attw'), tarball])
    const app = join(folder, 'app')
    const installed = await report.step('install the tarball in an empty folder', () => install(app, tarball))
    if (!installed) return
    await report.run('typings of the installed package', process.execPath, [bin('typescript', 'tsc'), '-p', app])
    for (const version of ['current', ...OLDEST]) {
      const title = `use the installed package on Node.js ${version === 'current' ? process.versions.node : version}`
      const program = await nodeOf(version)
      if (program === undefined) report.notRun(title, `npx could not fetch node@${version}`)
      else await report.step(title, () => use(app, program))
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Files of an application, each of which must run in silence. @type {Record<string, string>} */
const PROGRAMS = {
  'import.mjs': `
    import assert from 'node:assert/strict'
    import { KvCache, KvCacheError } from 'kvcache'
    const cache = new KvCache({ memory: '1mb' })
    assert.deepEqual(await cache.get('a', async () => ({ b: [1] })), { b: [1] })
    assert.equal(await cache.get('a', () => assert.fail('it is cached')).then(v => v.b[0]), 1)
    await assert.rejects(cache.get(''), KvCacheError)
    await assert.rejects(cache.get(''), { code: 'ERR_KVCACHE_INVALID_KEY' })
    await cache.close()`,
  'require.cjs': `
    const assert = require('node:assert/strict')
    const { KvCache } = require('kvcache')
    const cache = new KvCache({ serializer: 'v8' })
    cache.get('a', () => new Date(5)).then(async date => {
      assert.equal(date.getTime(), 5)
      await cache.close()
    })`,
  'one-class.cjs': `
    const assert = require('node:assert/strict')
    const required = require('kvcache')
    import('kvcache').then(imported => {
      assert.equal(required.KvCache, imported.KvCache)
      assert.equal(required.KvCacheError, imported.KvCacheError)
      assert.equal(required.key, imported.key)
      assert.deepEqual(Object.keys(required).sort(), ['KvCache', 'KvCacheError', 'cloudflareKV', 'disk', 'key', 'redis'])
    })`,
  'webhook.cjs': `
    const assert = require('node:assert/strict')
    const { KvCache } = require('kvcache')
    const { webhook } = require('kvcache/webhook')
    const secret = 'whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3'
    assert.equal(typeof webhook(new KvCache(), { secret }), 'function')
    import('kvcache/webhook').then(imported => assert.equal(imported.webhook, webhook))`
}

/** The same program as an ES module and as a CommonJS module. */
const TYPED = ['typed.mts', 'typed.cts']
const TYPED_TEXT = `import { KvCache } from 'kvcache'
export const one: Promise<number> = new KvCache().get('a', () => 1)
`

/**
 * @param {string} app
 * @param {string} tarball
 */
async function install(app, tarball) {
  await mkdir(app)
  await writeFile(join(app, 'package.json'), '{ "name": "app", "private": true }\n')
  const args = ['install', '--no-audit', '--no-fund', tarball]
  const { ok, why, stdout } = await run('npm', args, { cwd: app, quiet: true })
  process.stdout.write(stdout)
  if (!ok) return why
  if (!existsSync(join(app, 'node_modules', 'kvcache', 'index.js'))) return 'npm installed no kvcache'
  for (const [name, text] of Object.entries(PROGRAMS)) await writeFile(join(app, name), text)
  for (const name of TYPED) await writeFile(join(app, name), TYPED_TEXT)
  // AbortSignal comes from the DOM's typings, so that not even those of Node.js are needed.
  const lib = ['es2022', 'dom']
  const compilerOptions = { strict: true, noEmit: true, module: 'nodenext', target: 'es2022', lib, types: [] }
  await writeFile(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: TYPED }))
}

/**
 * @param {string} app
 * @param {string} program a Node.js
 */
async function use(app, program) {
  for (const name of Object.keys(PROGRAMS)) {
    const { ok, why, stdout } = await run(program, [name], { cwd: app, quiet: true, minutes: 1 })
    if (!ok || stdout !== '') {
      console.error(stdout)
      return `${name}: ${why || 'it is not silent'}`
    }
    console.log(`${name}: fine`)
  }
}
