// Guards that what was removed or invalidated does not come back from a tier, by whichever way and after a restart, and that what a load
// brings too late is kept nowhere.

import { disk, redis } from '../index.js'
import { assert, KvCache, openTiered as open, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, until } from './helpers/async.mjs'
import { folder } from './helpers/folder.mjs'
import { startRedis } from './helpers/redis.mjs'

/** @typedef {import('../index.js').Tier} Tier */

const never = () => assert.fail('a fetcher is called')

/**
 * What opens one cache after another on the same tiers, each closed before the next is opened.
 * @param {import('node:test').TestContext} t
 * @param {() => Tier[]} [tiers]
 */
function restarting(t, tiers) {
  const path = folder()
  /** @type {KvCache | undefined} */
  let cache
  t.after(() => cache?.close().catch(() => {}))
  return async () => {
    await cache?.close()
    cache = new KvCache({ tiers: tiers?.() ?? [disk({ path, timeout: '20s' })] })
    return cache
  }
}

/** What is there before each: `a:1` and `a:2` are covered, `b` is not. @type {Record<string, (cache: KvCache) => Promise<unknown>>} */
const WAYS = {
  'delete of one key': async cache => {
    await cache.delete('a:1')
    await cache.delete('a:2')
  },
  'delete of many keys': cache => cache.delete(['a:1', 'a:2']),
  'invalidation of keys': cache => cache.invalidate(['a:1', 'a:2']),
  'invalidation by prefix': cache => cache.invalidate('a:*'),
  'invalidation by pattern': cache => cache.invalidate('a*:*'),
  'invalidation by tag': cache => cache.invalidate({ tag: 't' })
}

/** By what they depend on. @type {typeof WAYS} */
const BY_PARENT = {
  'invalidation of a parent': cache => cache.invalidate('parent'),
  'delete of a parent': cache => cache.delete('parent'),
  'put of a parent': cache => cache.put('parent', 2).then(() => cache.flush())
}

/** @param {KvCache} cache */
async function fill(cache) {
  await cache.putMany([['parent', 1], ['other parent', 1]])
  await cache.put('a:1', 'old', { tags: ['t'], dependsOn: ['parent'] })
  await cache.get('a:2', () => 'old', { tags: ['t'], dependsOn: ['parent'] })
  await cache.put('b', 'kept', { tags: ['other'], dependsOn: ['other parent'] })
}

/**
 * @param {string} title
 * @param {(t: import('node:test').TestContext) => Promise<(() => Promise<KvCache>) | undefined>} setting
 */
function holdsFor(title, setting) {
  for (const [way, invalidate] of Object.entries(WAYS)) {
    test(`${title}: ${way} holds at once, after a restart, and for what memory never held`, async t => {
      const restart = await setting(t)
      if (restart === undefined) return
      let cache = await restart()
      await fill(cache)
      await invalidate(cache)
      assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b'])], [['b', 'kept']])
      cache = await restart()
      assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b'])], [['b', 'kept']])
      await fill(cache)
      // Met cold: nothing of it is in memory.
      cache = await restart()
      await invalidate(cache)
      assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b'])], [['b', 'kept']])
      const fetcher = counted(() => 'new')
      assert.deepEqual([await cache.get('a:1', fetcher), await cache.get('a:2', fetcher)], ['new', 'new'])
      cache = await restart()
      assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b'])], [['a:1', 'new'], ['a:2', 'new'], ['b', 'kept']])
    })
  }
  for (const [way, invalidate] of Object.entries(BY_PARENT)) {
    test(`${title}: ${way} holds for children in memory, after a restart, and for those met cold`, async t => {
      const restart = await setting(t)
      if (restart === undefined) return
      const before = await restart()
      await fill(before)
      await invalidate(before)
      assert.deepEqual([...await before.getMany(['a:1', 'a:2', 'b'])], [['b', 'kept']])
      let cache = await restart()
      if (title === 'disk') assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b'])], [['b', 'kept']])
      await fill(cache)
      // Met cold: nothing of it is in memory.
      cache = await restart()
      await invalidate(cache)
      assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b'])], [['b', 'kept']])
      const fetcher = counted(() => 'new')
      const load = () => cache.get('a:1', fetcher, { dependsOn: ['parent'] })
      assert.deepEqual([await load(), await load(), fetcher.count], ['new', 'new', 1])
      cache = await restart()
      if (title === 'disk') assert.notEqual(await cache.get('a:2'), 'old')
    })
  }
}

holdsFor('disk', async t => restarting(t))
holdsFor('Redis', async t => {
  const server = await startRedis(t)
  return server && restarting(t, () => [redis({ url: server.url, timeout: '20s' })])
})

test('all that was there is gone after an invalidation of everything, and what is stored later stays', async t => {
  const restart = restarting(t)
  await fill(await restart())
  let cache = await restart()
  await cache.invalidate({ all: true })
  await cache.put('later', 1)
  assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b', 'later'])], [['later', 1]])
  cache = await restart()
  assert.deepEqual([...await cache.getMany(['a:1', 'a:2', 'b', 'later'])], [['later', 1]])
})

test('what was invalidated softly is stale in its tier, and refreshed once', async t => {
  const restart = restarting(t)
  const targets = ['b', { tag: 't' }]
  for (const target of targets) {
    await fill(await restart())
    let cache = await restart()
    await cache.invalidate(target, { soft: true })
    cache = await restart()
    const key = target === 'b' ? 'b' : 'a:1'
    const fetcher = controlled()
    const { value, state } = await cache.getWithMetadata(key, fetcher)
    assert.deepEqual([value, state], [target === 'b' ? 'kept' : 'old', 'stale'])
    const call = await fetcher.call(0)
    call.resolve('new')
    await cache.flush()
    cache = await restart()
    const again = await cache.getWithMetadata(key, never)
    assert.deepEqual([again.value, again.state], ['new', 'fresh'])
  }
})

test('a child goes with the parent of its parent, which only its tier knows', async t => {
  const restart = restarting(t)
  let cache = await restart()
  await cache.put('a', 1)
  await cache.put('b', 1, { dependsOn: ['a'] })
  await cache.put('c', 1, { dependsOn: ['b'] })
  cache = await restart()
  await cache.put('a', 2)
  assert.deepEqual([...await cache.getMany(['a', 'b', 'c'])], [['a', 2]])
})

test('a grandchild that only memory holds goes when another cache changes the parent of its parent', async t => {
  const path = folder()
  const caches = Array.from({ length: 3 }, () => open(t, { tiers: [disk({ path, timeout: '20s' })] }))
  const [declares, cuts, reads] = caches
  await declares.put('a', 1)
  await declares.put('b', 1, { dependsOn: ['a'] })
  await declares.put('c', 1, { dependsOn: ['b'] })
  // It never sees the key between the two.
  assert.equal(await reads.get('c'), 1)
  await cuts.put('a', 2)
  for (const cache of caches) assert.equal(await cache.get('c'), undefined)
})

/** @type {Record<string, (cache: KvCache) => Promise<unknown>>} */
const ON_A = {
  put: cache => cache.put('a', 2).then(() => cache.flush()),
  delete: cache => cache.delete('a'),
  invalidate: cache => cache.invalidate('a'),
  'invalidate by its tag': cache => cache.invalidate({ tag: 'of a' })
}

for (const kind of ['disk', 'redis', 'disk and redis']) {
  test(`a chain of dependencies whose links were put by several caches falls with its first: ${kind}`, async t => {
    const server = kind === 'disk' ? undefined : await startRedis(t)
    if (kind !== 'disk' && server === undefined) return
    for (const [how, change] of Object.entries(ON_A)) {
      for (const isLoaded of [false, true]) {
        const path = folder()
        const caches = Array.from({ length: 5 }, () => new KvCache({
          tiers: [
            ...(kind === 'redis' ? [] : [disk({ path, timeout: '20s' })]),
            ...(server === undefined ? [] : [redis({ url: server.url, prefix: `${path}:`, timeout: '20s' })])
          ]
        }))
        const [first, second, cuts, reads, late] = caches
        assert.ok(first && second && cuts && reads && late)
        await first.put('told', 0)
        await first.flush()
        await until(async () => await second.get('told') === 0, 'both know the log')
        await first.put('a', 1, { tags: ['of a'] })
        await first.put('b', 1, { dependsOn: ['a'] })
        await first.put('told', 1)
        await first.flush()
        await until(async () => await second.get('told') === 1, 'it has heard of what was put')
        // It has never seen the key that its own depends on.
        if (isLoaded) await second.get('c', () => 1, { dependsOn: ['b'] })
        else await second.put('c', 1, { dependsOn: ['b'] })
        await second.put('d', 1, { dependsOn: ['c'] })
        await second.flush()
        await until(async () => await reads.get('c') === 1 && await reads.get('d') === 1, 'it is read elsewhere')
        await change(cuts)
        for (const cache of caches) {
          for (const key of ['c', 'd']) {
            const message = `${key} is gone: ${how}, loaded ${isLoaded}`
            if (kind === 'disk') assert.equal(await cache.get(key), undefined, message)
            else await until(async () => await cache.get(key) === undefined, message)
          }
        }
        await Promise.all(caches.map(cache => cache.close()))
      }
    }
  }, { timeout: 60_000 })
}

test('what depends on published content goes when another cache publishes or rolls back', async t => {
  const path = folder()
  const [here, there] = [1, 2].map(() => open(t, { tiers: [disk({ path, timeout: '20s' })] }))
  const pages = here?.versioned('content')
  assert.ok(here && there && pages)
  await pages.publish('42', 'first')
  for (const change of [() => pages.publish('42', 'second'), () => pages.rollback('42', 1)]) {
    for (const parent of ['content:42', 'content:42:meta']) await there.put(`of ${parent}`, 1, { dependsOn: [parent] })
    await change()
    for (const cache of [there, here]) {
      for (const parent of ['content:42', 'content:42:meta']) assert.equal(await cache.get(`of ${parent}`), undefined, parent)
    }
  }
})

test('a value that was there before a put does not come back, though memory lost both', async t => {
  const restart = restarting(t)
  let cache = await restart()
  for (let i = 0; i < 5; i++) {
    await cache.put('k', `old ${i}`)
    await cache.put('k', i)
    cache = await restart()
    assert.equal(await cache.get('k', never), i)
  }
})

// --- Loads under way -------------------------------------------------------------------------------------------------------

/** @type {typeof WAYS} */
const CUTS = { ...WAYS, ...BY_PARENT, 'invalidation of everything': cache => cache.invalidate({ all: true }) }
for (const [way, invalidate] of Object.entries(CUTS)) {
  test(`${way}: a load that runs meanwhile answers its caller and is kept in no tier`, async t => {
    const restart = restarting(t)
    let cache = await restart()
    await cache.put('parent', 1)
    const [fetcher, batch] = [controlled(), controlled()]
    const options = { tags: ['t'], dependsOn: ['parent'] }
    const [one, many] = [cache.get('a:1', fetcher, options), cache.getMany(['a:2'], batch, options)]
    const [first, second] = [await fetcher.call(0), await batch.call(0)]
    await invalidate(cache)
    first.resolve('old')
    second.resolve(new Map([['a:2', 'old']]))
    assert.equal(await one, 'old')
    assert.equal((await many).get('a:2'), 'old')
    assert.deepEqual([...await cache.getMany(['a:1', 'a:2'])], [])
    // Nor does any tier have it.
    cache = await restart()
    assert.deepEqual([...await cache.getMany(['a:1', 'a:2'])], [])
  })
}

test('a refresh of what a tier had, cut while it runs, is kept in no tier', async t => {
  const restart = restarting(t)
  await (await restart()).put('k', 'old', STALE)
  let cache = await restart()
  const fetcher = controlled()
  assert.equal(await cache.get('k', fetcher), 'old')
  const call = await fetcher.call(0)
  await cache.delete('k')
  call.resolve('refreshed')
  await cache.flush()
  assert.equal(await cache.get('k'), undefined)
  cache = await restart()
  assert.equal(await cache.get('k'), undefined)
})

test('what another cache on the same tier invalidates cuts loads here, and copies near a thread', async t => {
  const path = folder()
  const [here, there] = [open(t, { tiers: [disk({ path, timeout: '20s' })] }), open(t, { tiers: [disk({ path })] })]
  const fetcher = controlled()
  const get = here.get('k', fetcher, { tags: ['t'] })
  const call = await fetcher.call(0)
  await there.invalidate({ tag: 't' })
  call.resolve('old')
  assert.equal(await get, 'old')
  assert.equal(await here.get('k'), undefined)
  await here.put('k', 'new', { tags: ['t'] })
  for (let i = 0; i < 10; i++) assert.equal(await here.get('k'), 'new')
  await there.invalidate({ tag: 't' })
  assert.equal(await here.get('k'), undefined)
  await here.put('k', 'newer')
  for (let i = 0; i < 10; i++) assert.equal(await here.get('k'), 'newer')
  await there.put('k', 'newest')
  assert.equal(await here.get('k'), 'newest')
})

test("an 'invalidate' event says that it came from elsewhere", async t => {
  const path = folder()
  const [here, there] = [open(t, { tiers: [disk({ path, timeout: '20s' })] }), open(t, { tiers: [disk({ path })] })]
  /** @type {any[]} */
  const seen = []
  here.on('invalidate', event => void seen.push(event))
  await there.invalidate({ tag: 't' }, { soft: true })
  await here.get('anything')
  await until(() => seen.length > 0, 'it is told')
  const [{ target, soft, from }] = seen
  assert.deepEqual({ target, soft, from }, { target: { tag: 't' }, soft: true, from: 'remote' })
})
