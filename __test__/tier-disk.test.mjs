// Guards processes that share a path: what one has written, the others see at their next look, whoever is killed at whatever moment.

import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync, chmodSync } from 'node:fs'
import { join } from 'node:path'
import { disk } from '../index.js'
import { assert, KvCache, openTiered as open, test, throws } from './helpers/kv.mjs'
import { folder } from './helpers/folder.mjs'
import { childProcess } from './helpers/threads.mjs'
import { until } from './helpers/async.mjs'

/** How often what one process does is looked at by another. */
const ROUNDS = 160

/** @param {any} scope @param {string} path */
const start = ({ state, KvCache, disk }, path) => {
  state.cache = new KvCache({ tiers: [disk({ path, timeout: '20s' })] })
}

/**
 * Processes with a cache each on one path.
 * @param {import('node:test').TestContext} t
 * @param {number} count
 */
async function processes(t, count) {
  const path = join(folder(), 'store')
  const all = Array.from({ length: count }, () => childProcess(t))
  await Promise.all(all.map(one => one.run(start, path)))
  return { path, all }
}

/** Reads it so often that it is answered by the copy near the thread. @param {any} scope @param {string} key */
const hits = async ({ state }, key) => {
  let value
  for (let i = 0; i < 100; i++) value = await state.cache.get(key)
  return value
}

test('after a put, a delete or an invalidation in one process the next get in another never gives what was before', async t => {
  const { all: [writer, reader] } = await processes(t, 2)
  for (let i = 0; i < ROUNDS; i++) {
    await writer.run(({ state }, i) => state.cache.put('k', i, { tags: ['t'], dependsOn: ['p'] }), i)
    assert.equal(await reader.run(hits, 'k'), i)
    await writer.run(({ state }, i) => [
      () => state.cache.delete('k'), () => state.cache.invalidate('k'), () => state.cache.invalidate({ tag: 't' }),
      () => state.cache.invalidate('k*'), () => state.cache.invalidate('*k*'), () => state.cache.put('p', i),
      () => state.cache.put('k', 'other'), () => state.cache.invalidate({ all: true })
    ][i % 8](), i)
    assert.equal(await reader.run(({ state }) => state.cache.get('k')), i % 8 === 6 ? 'other' : undefined)
  }
})

test('a reader in a tight loop never sees a counter go back, nor miss what was acknowledged', async t => {
  const { path, all: [writer, reader, other] } = await processes(t, 3)
  // Each number is acknowledged to a file that both map; what a get gives is at least what was acknowledged before it began.
  const acknowledged = join(path, '..', 'acknowledged')
  writeFileSync(acknowledged, '0')
  const read = (/** @type {any} */ { state }, /** @type {string} */ file) => {
    const { readFileSync } = process.getBuiltinModule('node:fs')
    state.stop = false
    state.reading = (async () => {
      let last = 0
      for (let n = 0; !state.stop; n++) {
        const least = Number(readFileSync(file, 'utf8') || 0)
        for (let i = 0; i < 50; i++) {
          const value = await state.cache.get('counter') ?? 0
          if (value < least || value < last) throw new Error(`${value} after ${Math.max(least, last)}`)
          last = value
        }
        if (n % 20 === 0) await new Promise(resolve => setImmediate(resolve))
      }
      return last
    })()
    state.reading.catch(() => {})
  }
  await Promise.all([reader, other].map(one => one.run(read, acknowledged)))
  await writer.run(async ({ state }, file) => {
    const { renameSync, writeFileSync } = process.getBuiltinModule('node:fs')
    for (let i = 1; i <= 200; i++) {
      await state.cache.put('counter', i)
      writeFileSync(`${file}.new`, String(i))
      renameSync(`${file}.new`, file)
    }
  }, acknowledged)
  const stop = (/** @type {any} */ { state }) => {
    state.stop = true
    return state.reading.then((/** @type {number} */ last) => state.cache.get('counter').then((/** @type {number} */ now) => [last, now]))
  }
  for (const one of [reader, other]) assert.equal((await one.run(stop))[1], 200)
})

test('a writer is killed again and again, and those who are left go on', async t => {
  const { path, all: [survivor] } = await processes(t, 1)
  for (let round = 0; round < 4; round++) {
    const writer = childProcess(t)
    await writer.run(start, path)
    await writer.run(async ({ state }, round) => {
      await state.cache.put('acknowledged', round)
      state.busy = (async () => {
        for (let i = 0; ; i++) {
          state.cache.put(`k${i % 100}`, 'x'.repeat(i % 3000))
          if (i % 7 === 0) await state.cache.invalidate(`k${i % 10}*`)
        }
      })()
    }, round)
    await until(() => survivor.run(({ state }) => state.cache.getMany(['k1', 'k2', 'k33', 'k44', 'k55']).then(
      (/** @type {Map<string, string>} */ found) => found.size > 0)), 'the writer is at work')
    await writer.end()
    assert.equal(await survivor.run(({ state }) => state.cache.get('acknowledged')), round)
    assert.equal(await survivor.run(({ state }, round) => state.cache.put('own', round).then(() => state.cache.get('own')), round), round)
  }
  const fresh = open(t, { tiers: [disk({ path })] })
  assert.equal(await fresh.get('acknowledged'), 3)
  assert.equal(await fresh.get('own'), 3)
})

test('what was acknowledged survives that all processes are killed', async t => {
  const { path, all: [writer] } = await processes(t, 1)
  await writer.run(async ({ state }) => {
    await state.cache.putMany(Array.from({ length: 100 }, (_, i) => [`k${i}`, i, { tags: ['t'] }]))
    await state.cache.put('kept', 1)
    await state.cache.invalidate({ tag: 't' })
  })
  await writer.end()
  const cache = open(t, { tiers: [disk({ path })] })
  assert.equal(await cache.get('kept'), 1)
  assert.equal((await cache.getMany(Array.from({ length: 100 }, (_, i) => `k${i}`))).size, 0)
})

test('processes that publish at once give distinct versions, and show the highest at the end', async t => {
  const { all } = await processes(t, 3)
  const published = await Promise.all(all.map(one => one.run(({ state }) => {
    const page = state.cache.versioned('page')
    return Promise.all(Array.from({ length: 10 }, async (_, i) => {
      const value = `${process.pid} ${i}`
      return { value, ...await page.publish('home', value) }
    }))
  })))
  const ordered = published.flat().sort((a, b) => a.version - b.version)
  assert.equal(new Set(ordered.map(one => one.version)).size, 30, 'each has a number of its own')
  const { value, version } = ordered[29]
  for (const one of all) {
    const shown = await one.run(({ state }) => state.cache.versioned('page').get('home'))
    assert.deepEqual([shown?.version, shown?.value], [version, value])
  }
})

// --- What cannot be ------------------------------------------------------------------------------------------------------

test('a path that holds something else is refused and left as it is', () => {
  const path = folder()
  writeFileSync(join(path, 'letter.txt'), 'dear')
  throws(() => new KvCache({ tiers: [disk({ path, timeout: '20s' })] }), 'INVALID_OPTION', 'disk', path)
  assert.deepEqual(readdirSync(path), ['letter.txt'])
  const file = join(path, 'letter.txt')
  throws(() => new KvCache({ tiers: [disk({ path: file })] }), 'INVALID_OPTION', 'disk', file)
  assert.equal(readFileSync(file, 'utf8'), 'dear')
})

test('a folder that cannot be written is an error of the constructor', t => {
  if (process.getuid?.() === 0) return void t.skip('root may write everywhere')
  const path = join(folder(), 'locked')
  mkdirSync(path, { mode: 0o500 })
  throws(() => new KvCache({ tiers: [disk({ path: join(path, 'store') })] }), 'TIER', 'disk')
  chmodSync(path, 0o700)
})

test('its files are the owner’s alone', async t => {
  const path = join(folder(), 'store')
  const cache = open(t, { tiers: [disk({ path })] })
  await cache.put('k', 'x'.repeat(400_000))
  await cache.flush()
  for (const name of ['', ...readdirSync(path, { recursive: true, encoding: 'utf8' })]) {
    const { mode } = statSync(join(path, name))
    assert.equal(mode & 0o077, 0, `${name}: ${(mode & 0o777).toString(8)}`)
  }
})

test('a damaged store is set aside and told of, and a fresh one is begun', async t => {
  const parent = folder()
  const path = join(parent, 'store')
  const before = new KvCache({ tiers: [disk({ path, timeout: '20s' })] })
  await before.put('k', 1)
  await before.close()
  const data = readdirSync(path).find(name => name.endsWith('.mdb') && !name.includes('lock'))
  assert.ok(data !== undefined, `of ${readdirSync(path)}`)
  writeFileSync(join(path, data), Buffer.alloc(statSync(join(path, data)).size, 0x5a))
  const cache = open(t, { tiers: [disk({ path })] })
  /** @type {any[]} */
  const errors = []
  cache.on('error', error => void errors.push(error))
  await until(() => errors.length > 0, 'it is told')
  const [error] = errors
  assert.equal(error.code, 'ERR_KVCACHE_TIER')
  assert.equal(error.tier, 'disk')
  const aside = readdirSync(parent).find(name => name.startsWith('store.damaged-'))
  assert.ok(aside !== undefined && error.message.includes(join(parent, aside)), error.message)
  assert.equal(await cache.get('k'), undefined)
  await cache.put('k', 2)
  assert.equal(await cache.get('k'), 2)
  assert.ok(existsSync(path))
})
