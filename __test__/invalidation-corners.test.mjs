// Guards invalidation where it is easily got wrong: an origin that fails right after it, odd targets, circles that load.

import { assert, open, reasonOf, test } from './helpers/kv.mjs'

const TIES = { tags: ['t'], dependsOn: ['p'] }
const AGES = {
  'fresh': { maxAge: 100 },
  'stale': { maxAge: 0, staleAge: 100, staleIfError: 1000 },
  'there for errors only': { maxAge: 0, staleAge: 0, staleIfError: 1000 }
}
const TARGETS = ['k', { prefix: 'k' }, '*k', { tag: 't' }, { key: 'p' }, { all: true }]
const down = async () => { throw new Error('down') }
const names = async (cache, options) => (await cache.list(options)).keys.map(key => key.name)

for (const [state, ages] of Object.entries(AGES)) {
  for (const target of TARGETS) {
    test(`staleIfError does not bring back what was ${state} and cut by ${JSON.stringify(target)}`, async t => {
      const cache = open(t, { breaker: false })
      await cache.put('k', 'old', { ...ages, ...TIES })
      await cache.invalidate(target)
      assert.equal((await reasonOf(cache.get('k', down))).message, 'down')
      const endless = cache.get('k', () => new Promise(() => {}), { softTimeout: 2, hardTimeout: 10 })
      assert.equal((await reasonOf(endless)).code, 'ERR_KVCACHE_TIMEOUT')
      const many = await cache.getMany(['k'], down)
      assert.deepEqual([many.size, many.errors.get('k')?.message], [0, 'down'])
      // Softly, afterwards, is no way back.
      await cache.invalidate(target, { soft: true })
      assert.equal((await reasonOf(cache.get('k', down))).message, 'down')
    })

    test(`nor what was ${state} and cut by ${JSON.stringify(target)} while the failing fetcher ran`, async t => {
      const cache = open(t, { breaker: false })
      await cache.put('k', 'old', { ...ages, ...TIES })
      let fail = () => {}
      const fetcher = () => new Promise((_, reject) => { fail = () => reject(new Error('first')) })
      const waiting = cache.get('k', fetcher, { ...TIES, forceFresh: true })
      await cache.invalidate(target)
      fail()
      assert.equal((await reasonOf(waiting)).message, 'first')
      assert.equal((await reasonOf(cache.get('k', down))).message, 'down')
    })
  }
}

test('stars and backslashes are taken as they are where they are escaped, or in { key } and { prefix }', async t => {
  const cache = open(t)
  const keys = ['a*b', 'a*bc', 'a*\\1', 'axb', 'axbc', 'a']
  for (const [target, gone] of [
    ['a\\*b', ['a*b']], ['a\\**', ['a*b', 'a*bc', 'a*\\1']], [{ key: 'a*b' }, ['a*b']], [{ prefix: 'a*\\' }, ['a*\\1']],
    ['a*\\\\1', ['a*\\1']], [{ pattern: 'a' }, ['a']], ['**', keys], ['*', keys], [{ prefix: '' }, keys], [[], []]
  ]) {
    for (const key of keys) await cache.put(key, 1)
    await cache.invalidate(target)
    assert.deepEqual(await names(cache), keys.filter(key => !gone.includes(key)).toSorted(), JSON.stringify(target))
  }
})

test('an invalidation by prefix covers what list() lists by it', async t => {
  const cache = open(t)
  const keys = ['user:4', 'user:42', 'user:42:cart', 'user:5', 'usér:4', 'user', 'us\u{1f600}']
  for (const prefix of ['user:4', 'user:', 'us', 'usé', 'us\u{1f600}', 'x', '']) {
    for (const key of keys) await cache.put(key, 1)
    const [all, listed] = [await names(cache), await names(cache, { prefix })]
    await cache.invalidate({ prefix })
    assert.deepEqual(await names(cache), all.filter(key => !listed.includes(key)), prefix)
  }
})

test('what depends on itself, or in a circle, is loaded, stored and cut', async t => {
  const cache = open(t)
  await cache.put('self', 1, { dependsOn: ['self'] })
  assert.equal(await cache.get('self'), 1)
  await cache.get('self', () => 2, { forceFresh: true, dependsOn: ['self'] })
  assert.equal(await cache.get('self'), 2)
  await cache.invalidate('self')
  assert.equal(await cache.get('self'), undefined)
  for (const [key, parent] of [['a', 'b'], ['b', 'c'], ['c', 'a']]) await cache.get(key, () => key, { dependsOn: [parent] })
  assert.deepEqual(await names(cache), ['a', 'b', 'c'])
  await cache.invalidate({ key: 'b' })
  assert.deepEqual(await names(cache), [])
})

test('what nobody has stored can be depended on, and a long way up', async t => {
  const cache = open(t)
  await cache.put('k', 1, { dependsOn: ['never'] })
  await cache.invalidate({ key: 'never' })
  assert.equal(await cache.get('k'), undefined)
  for (let n = 0; n < 1000; n++) cache.addDependency(`n${n}`, `n${n + 1}`)
  await cache.put('n1000', 1)
  assert.equal(await cache.get('n1000'), 1)
  await cache.invalidate('n0')
  assert.equal(await cache.get('n1000'), undefined)
})

test('a soft invalidation leaves the ages alone: what was for errors only is not served', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { ...AGES['there for errors only'] })
  await cache.invalidate({ prefix: 'k' }, { soft: true })
  assert.equal(await cache.get('k', () => 'new'), 'new')
})

test('a late tag that was cut softly makes the value stale at once', async t => {
  const cache = open(t)
  let done = () => {}
  const waiting = cache.get('k', (_, context) => new Promise(resolve => {
    done = () => {
      context.set({ tags: ['late'] })
      resolve('v')
    }
  }))
  await cache.invalidate({ tag: 'late' }, { soft: true })
  done()
  assert.equal(await waiting, 'v')
  assert.equal((await cache.getWithMetadata('k'))?.state, 'stale')
})
