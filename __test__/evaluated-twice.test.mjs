// Guards the package being there more than once in one thread: test runners evaluate modules anew for each file, two
// versions of a dependency bring their own copy, while the addon is loaded once. Neither may touch the other's caches.

import { cpSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { assert, KvCache, open, STALE, test } from './helpers/kv.mjs'
import { until } from './helpers/async.mjs'

const ROOT = fileURLToPath(new URL('..', import.meta.url))

/** Another copy of the JavaScript over the same addon. */
async function copy(t) {
  const folder = mkdtempSync(join(ROOT, 'node_modules', '.copy-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  for (const name of ['index.js', 'binding.js', 'lib', 'package.json']) {
    cpSync(join(ROOT, name), join(folder, name), { recursive: true })
  }
  for (const name of readdirSync(ROOT).filter(name => name.endsWith('.node'))) {
    symlinkSync(join(ROOT, name), join(folder, name))
  }
  return (await import(pathToFileURL(join(folder, 'index.js')).href)).KvCache
}

test('caches of two copies of the package in one thread do not see each other', async t => {
  const first = open(t)
  await first.put('k', 'first')
  const Copy = await copy(t)
  assert.notEqual(Copy, KvCache)
  const second = new Copy()
  t.after(() => second.close())
  assert.equal(await first.get('k'), 'first')
  assert.equal(await second.get('k'), undefined)
  await second.put('k', 'second')
  assert.deepEqual([await first.get('k'), await second.get('k')], ['first', 'second'])
  await first.put('stale', 'old', STALE)
  await second.put('stale', 'old', STALE)
  await first.get('stale', () => 'new in first')
  await second.get('stale', () => 'new in second')
  await until(() => first.peek('stale') !== 'old' && second.peek('stale') !== 'old')
  assert.deepEqual([first.peek('stale'), second.peek('stale')], ['new in first', 'new in second'])
  await second.close()
  assert.equal(await first.get('k'), 'first')
  await assert.rejects(first.get('t', () => new Promise(() => {}), { hardTimeout: 20 }), { code: 'ERR_KVCACHE_TIMEOUT' })
})
