// Guards worker threads: each may have caches of its own, and may be ended at any moment without harm to the
// others.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { assert, open, test } from './helpers/kv.mjs'
import { run } from './helpers/child.mjs'

const INDEX = new URL('../index.js', import.meta.url).href

test('a worker has caches of its own, apart from those of the main thread', async t => {
  const cache = open(t)
  await cache.put('k', 'main')
  const worker = new Worker(
    `
    const { parentPort } = require('node:worker_threads')
    import(${JSON.stringify(INDEX)}).then(async ({ KvCache }) => {
      const cache = new KvCache()
      const before = await cache.get('k')
      const loaded = await cache.get('k', async () => 'worker')
      await cache.put('s', 'old', { maxAge: 0, staleAge: 60 })
      await cache.get('s', async () => 'new')
      await cache.flush()
      parentPort.postMessage([before, loaded, cache.peek('s'), cache.stats().entries])
    })`,
    { eval: true }
  )
  const [[message]] = await Promise.all([once(worker, 'message'), once(worker, 'exit')])
  assert.deepEqual(message, [undefined, 'worker', 'new', 2])
  assert.equal(await cache.get('k'), 'main')
})

test('a worker with an idle cache ends by itself', async () => {
  const worker = new Worker(
    `
    import(${JSON.stringify(INDEX)}).then(({ KvCache }) => new KvCache().put('k', 1))`,
    { eval: true }
  )
  const [code] = await once(worker, 'exit')
  assert.equal(code, 0)
})

test(
  'fifty workers ended in the middle of their work crash nothing, and the main thread’s cache works on',
  async () => {
    const { out } = await run(
      `
    import { Worker } from 'node:worker_threads'
    const source = \`
      const worker = 'node:worker_threads'
      Promise.all([import(worker), import(${JSON.stringify(INDEX)})]).then(([{ parentPort }, { KvCache }]) => {
        const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))
        const cache = new KvCache({ memory: '200kb', refresh: { concurrency: 5, retries: 2, backoff: 1, cooldown: 1 } })
        for (const event of ['evict', 'refresh', 'breaker', 'error']) cache.on(event, () => {})
        let n = 0
        const work = async () => {
          for (;;) {
            const key = 'k' + (n++ % 300)
            const fetcher = async () => {
              if (n % 5 === 0) throw new Error('fifth')
              await sleep(n % 3)
              return 'x'.repeat(n % 3000)
            }
            const ages = { maxAge: 0, staleAge: '10ms', staleIfError: 1 }
            await cache.get(key, fetcher, { ...ages, hardTimeout: 3, origin: 'o' + (n % 5) }).catch(() => {})
            await new Promise(resolve => setImmediate(resolve))
            if (n % 11 === 0) cache.getMany([key, 'm' + n], () => sleep(1).then(() => ({}))).catch(() => {})
            if (n % 13 === 0) new KvCache({ memory: '64kb' }).put('k', 1)
          }
        }
        for (let i = 0; i < 20; i++) work()
        parentPort.postMessage('working')
      })
    \`
    const cache = new KvCache()
    await cache.put('main', 'old', { maxAge: 0, staleAge: 3600 })
    let refreshed = 0
    const end = async i => {
      const worker = new Worker(source, { eval: true })
      // Some are ended before they have begun.
      if (i % 5) await new Promise(resolve => worker.once('message', resolve))
      await sleep(i % 5 ? (i * 7) % 40 : i % 3)
      await worker.terminate()
    }
    for (let i = 0; i < 50; i += 5) {
      await Promise.all([0, 1, 2, 3, 4].map(j => end(i + j)))
      await cache.get('main', () => ++refreshed, { maxAge: 0, staleAge: 3600 })
      await cache.flush()
      if (await cache.get('load' + i, () => sleep(1).then(() => i)) !== i) throw new Error('the main cache is broken')
    }
    console.log(refreshed)`,
      { timeout: 60_000 }
    )
    assert.equal(out, '10')
  },
  { timeout: 70_000 }
)

test('a worker that calls process.exit in a fetcher ends alone', async t => {
  const cache = open(t)
  const worker = new Worker(
    `
    import(${JSON.stringify(INDEX)}).then(({ KvCache }) => new KvCache().get('k', () => process.exit(7)))`,
    { eval: true }
  )
  const [code] = await once(worker, 'exit')
  assert.equal(code, 7)
  assert.equal(await cache.get('k', async () => 'value'), 'value')
})
