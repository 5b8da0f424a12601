// Guards versioned content: who reads gets the old whole or the new whole; numbers are given once; what fails changes nothing.

import { Worker } from 'node:worker_threads'
import { assert, open, rejects, test, throws } from './helpers/kv.mjs'

const content = (t, options) => {
  const cache = open(t, options)
  return { cache, content: cache.versioned('content') }
}

test('what is published is read with its number and its date', async t => {
  const { cache, content: pages } = content(t)
  const before = Date.now()
  assert.equal(await pages.get('42'), undefined)
  const first = await pages.publish('42', { title: 'one' })
  const second = await pages.publish('42', { title: 'two' })
  assert.equal(first.version, 1)
  assert.equal(second.version, 2)
  assert.ok(first.updatedAt >= before - 10 && second.updatedAt <= Date.now() + 10)
  assert.deepEqual(await pages.get('42'), { value: { title: 'two' }, ...second })
  assert.deepEqual(await pages.get('42', { version: 1 }), { value: { title: 'one' }, ...first })
  assert.equal(await pages.get('42', { version: 3 }), undefined)
  assert.deepEqual(await pages.versions('42'), [1, 2])
  assert.deepEqual(await cache.get('content:42:v1'), { title: 'one' })
  assert.deepEqual(await cache.get('content:42:meta'), second)
})

test('content and pointer are not loaded by a define() that matches them', async t => {
  const { cache, content: pages } = content(t)
  cache.define('content:*', () => assert.fail('nothing is to be loaded'))
  assert.equal(await pages.get('42'), undefined)
  await pages.publish('42', 'one')
  assert.equal((await pages.get('42'))?.value, 'one')
  assert.equal(await pages.get('42', { version: 9 }), undefined)
})

for (const near of [undefined, false, { values: 'copy' }, { values: 'shared' }]) {
  test(`no read is older than a publication that has resolved, near: ${JSON.stringify(near)}`, async t => {
    const { content: pages } = content(t, near === undefined ? {} : { near })
    for (let n = 1; n <= 50; n++) {
      await pages.publish('42', { n }, { keep: 1 })
      for (let i = 0; i < 3; i++) assert.deepEqual((await pages.get('42'))?.value, { n })
      assert.deepEqual(await pages.versions('42'), [n])
    }
  })
}

test('a publication between reading pointer and content is not seen as missing', async t => {
  const { content: pages } = content(t)
  await pages.publish('42', 'old', { keep: 1 })
  for (let n = 0; n < 50; n++) {
    const reading = pages.get('42')
    await Promise.resolve()
    pages.publish('42', `new ${n}`, { keep: 1 })
    const got = await reading
    assert.ok(got !== undefined, 'something is shown at any time')
    assert.equal(got.version - 1, got.value === 'old' ? 0 : Number(got.value.slice(4)) + 1)
  }
})

test('many publish at once, and each gets a number of its own', async t => {
  const { content: pages } = content(t)
  const all = await Promise.all(Array.from({ length: 100 }, (_, n) => pages.publish('42', n, { keep: 100 })))
  assert.deepEqual(all.map(one => one.version), Array.from({ length: 100 }, (_, n) => n + 1))
  assert.deepEqual(await Promise.all(all.map(async ({ version }) => (await pages.get('42', { version }))?.value)),
    Array.from({ length: 100 }, (_, n) => n))
})

test('threads that publish under one name never share a number, and readers see each whole', async t => {
  const name = `versioned ${process.pid} ${Math.random()}`
  const cache = open(t, { name })
  const pages = cache.versioned('content')
  await pages.publish('42', { by: 'main', n: 0 }, { keep: 1 })
  const worker = `
    const { parentPort, workerData } = require('node:worker_threads')
    import(workerData.url).then(async ({ KvCache }) => {
      const cache = new KvCache({ name: workerData.name })
      const pages = cache.versioned('content')
      const mine = []
      for (let n = 0; n < 200; n++) {
        const { version } = await pages.publish('42', { by: workerData.id, n, again: n }, { keep: 1 })
        mine.push(version)
        const got = await pages.get('42')
        if (got === undefined || got.version < version) throw new Error('read ' + got?.version + ' after ' + version)
        if (got.value.n !== got.value.again && got.value.by !== 'main') throw new Error('torn')
      }
      await cache.close()
      parentPort.postMessage(mine)
    })`
  const url = new URL('../index.js', import.meta.url).href
  const workers = [1, 2, 3].map(id => new Worker(worker, { eval: true, workerData: { name, url, id } }))
  const numbers = workers.map(worker => new Promise((resolve, reject) => {
    worker.once('message', resolve).once('error', reject)
  }))
  let over = false
  const all = Promise.all(numbers).finally(() => { over = true })
  let last = 0
  while (!over) {
    const got = await pages.get('42')
    assert.ok(got !== undefined && got.version >= last)
    last = got.version
    await new Promise(resolve => setImmediate(resolve))
  }
  const given = (await all).flat()
  assert.equal(new Set(given).size, 600)
  assert.equal((await pages.get('42'))?.version, 601)
  await Promise.all(workers.map(worker => worker.terminate()))
}, { timeout: 60_000 })

test('after a rollback readers get the older version, and the next number is larger than any before', async t => {
  const { content: pages } = content(t)
  for (const value of ['one', 'two', 'three']) await pages.publish('42', value, { keep: 3 })
  assert.equal(await pages.rollback('42', 1), undefined)
  const shown = await pages.get('42')
  assert.deepEqual([shown?.value, shown?.version], ['one', 1])
  assert.equal((await pages.publish('42', 'four')).version, 4)
  assert.deepEqual(await pages.versions('42'), [1, 4], 'what was shown is kept, what was taken back is not')
  await rejects(pages.rollback('42', 3), 'NO_VERSION', 'version 3', 'content:42', '1, 4')
  await rejects(pages.rollback('none', 1), 'NO_VERSION', 'none is kept')
  assert.equal((await pages.get('42'))?.value, 'four', 'a rollback that is refused changes nothing')
})

test('a serializer that throws changes nothing', async t => {
  let fails = false
  const serializer = {
    name: 'moody',
    serialize: value => {
      if (fails) throw new Error('not today')
      return Buffer.from(JSON.stringify(value))
    },
    deserialize: bytes => JSON.parse(Buffer.from(bytes).toString())
  }
  const { content: pages } = content(t, { serializer })
  await pages.publish('42', { n: 1 })
  fails = true
  await rejects(pages.publish('42', { n: 2 }), 'SERIALIZE', 'not today')
  fails = false
  await rejects(pages.publish('42', undefined), 'INVALID_VALUE')
  await rejects(pages.publish('42', 'x'.repeat(26 * 1024 * 1024)), 'VALUE_TOO_LARGE')
  assert.deepEqual(await pages.versions('42'), [1])
  assert.deepEqual((await pages.get('42'))?.value, { n: 1 })
  assert.equal((await pages.publish('42', { n: 3 })).version, 2)
})

test('content never ends, unless it is told when', async t => {
  const { cache, content: pages } = content(t, { maxAge: 0.001, staleAge: 0.001 })
  await pages.publish('ever', 1)
  assert.equal((await cache.getWithMetadata('content:ever:v1'))?.maxAge, Infinity)
  await pages.publish('brief', 1, { maxAge: '20ms' })
  await pages.publish('longer', 1, { maxAge: 0, staleAge: 60 })
  await new Promise(resolve => setTimeout(resolve, 60))
  assert.equal(await pages.get('brief'), undefined, 'there is nothing that would refresh it')
  assert.equal(await cache.get('content:brief:meta'), undefined)
  assert.equal((await pages.get('ever'))?.value, 1)
  assert.equal((await pages.get('longer'))?.value, 1)
})

test('content that was evicted takes its pointer with it, and is never half there', async t => {
  const { cache, content: pages } = content(t, { memory: '256kb', compression: false, near: false })
  const size = 4000
  for (let n = 0; n < 200; n++) await pages.publish(`${n}`, `${n} `.padEnd(size, 'x'), { keep: 1 })
  let there = 0
  for (let n = 0; n < 200; n++) {
    const got = await pages.get(`${n}`)
    if (got === undefined) {
      assert.equal(cache.peek(`content:${n}:meta`), undefined, 'a pointer to nothing')
    } else {
      there++
      assert.equal(got.value, `${n} `.padEnd(size, 'x'))
    }
  }
  assert.ok(there > 0 && there < 200, `${there} left`)
})

test('tags, dependencies and metadata are those of the publication', async t => {
  const { cache, content: pages } = content(t)
  await pages.publish('42', 'text', { tags: ['news'], dependsOn: ['author:7'], metadata: { etag: 'x' } })
  const entry = await cache.getWithMetadata('content:42:v1')
  assert.deepEqual([entry?.tags, entry?.dependsOn, entry?.metadata], [['news'], ['author:7'], { etag: 'x' }])
  await cache.put('page', 'made of it', { dependsOn: ['content:42:meta'] })
  await cache.invalidate({ tag: 'news' })
  assert.equal(await pages.get('42'), undefined)
  assert.equal(await cache.get('page'), undefined)
  assert.equal((await pages.publish('42', 'again')).version, 2)
})

for (const parent of ['content:42', 'content:42:meta']) {
  test(`a value that depends on ${parent} goes with a publication and a rollback`, async t => {
    const { cache, content: pages } = content(t)
    await pages.publish('42', 'one')
    const load = async () => (await pages.get('42'))?.value
    assert.equal(await cache.get('page', load, { dependsOn: [parent] }), 'one')
    await pages.publish('42', 'two')
    assert.equal(await cache.get('page', load, { dependsOn: [parent] }), 'two')
    await pages.rollback('42', 1)
    assert.equal(await cache.get('page', load, { dependsOn: [parent] }), 'one')
  })
}

test('ids are parts of keys: what they hold reaches no other content', async t => {
  const { cache, content: pages } = content(t)
  const ids = ['42', '42:v1', '*', 'a*', '\\', '%3A', ':', 'meta', 'é😀', '__proto__', ' ']
  for (const id of ids) await pages.publish(id, id)
  for (const id of ids) assert.deepEqual((await pages.get(id))?.value, id)
  assert.equal(await cache.get('content:42%3Av1:v1'), '42:v1')
  await cache.invalidate('content:42:*')
  assert.equal(await pages.get('42'), undefined)
  assert.equal((await pages.get('42:v1'))?.value, '42:v1')
})

test('names and ids that can be none are refused', async t => {
  const { cache, content: pages } = content(t)
  for (const name of ['', 'a*', 'a\\b', 'x\ud800', undefined, 7]) throws(() => cache.versioned(name), 'INVALID_OPTION', 'name')
  assert.equal((await cache.versioned('site:pages').publish('1', 1)).version, 1)
  assert.equal(await cache.get('site:pages:1:v1'), 1)
  for (const id of ['', 'x\ud800', undefined, null, {}, NaN]) {
    for (const call of [() => pages.get(id), () => pages.publish(id, 1), () => pages.versions(id), () => pages.rollback(id, 1)]) {
      await rejects(call(), 'INVALID_KEY')
    }
  }
  await rejects(pages.publish('x'.repeat(500), 1), 'INVALID_KEY', '512')
})

test('options that are none are refused, and nothing is published', async t => {
  const { content: pages } = content(t)
  for (const [options, needle] of [
    [{ keep: 0 }, 'keep'], [{ keep: 1.5 }, 'keep'], [{ keep: '2' }, 'keep'], [{ ttl: 5 }, 'ttl'],
    [{ maxAge: 10, staleAge: 5 }, 'staleAge'], [{ maxAge: -1 }, 'maxAge'], [7, 'publish']
  ]) await rejects(pages.publish('42', 1, options), 'INVALID_OPTION', needle)
  assert.deepEqual(await pages.versions('42'), [])
  for (const version of [0, -1, 1.5, '1', NaN, null]) {
    await rejects(pages.get('42', { version }), 'INVALID_OPTION', 'version')
    await rejects(pages.rollback('42', version), 'INVALID_OPTION', 'version')
  }
  await rejects(pages.get('42', { versio: 1 }), 'INVALID_OPTION', 'versio')
})

test('of a closed cache everything is refused', async t => {
  const { cache, content: pages } = content(t)
  await pages.publish('42', 1)
  await cache.close()
  for (const call of [pages.get('42'), pages.get('42', { version: 1 }), pages.publish('42', 2), pages.versions('42'), pages.rollback('42', 1)]) {
    await rejects(call, 'CLOSED')
  }
  throws(() => cache.versioned('content'), 'CLOSED')
})
