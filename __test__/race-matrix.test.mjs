// Guards I1 and I2 in every combination: a load of each kind, cut in each way, before it begins, while its fetcher runs, and
// after it has ended. Whoever asks after the cut gets nothing from before it; the load answers those who waited.

import { assert, open, STALE, test } from './helpers/kv.mjs'
import { controlled, until } from './helpers/async.mjs'

const KEY = 'item:1:x'
const TIES = Object.freeze({ tags: ['tag'], dependsOn: ['parent'] })

/** The kinds of loads. Each begins one, and tells how to end it and what its own callers get. */
const LOADS = {
  'a miss': async cache => {
    const fetcher = controlled()
    const answer = cache.get(KEY, fetcher, TIES)
    return { answer, call: await fetcher.call(0), of: value => value }
  },
  'a stale refresh': async cache => {
    await cache.put(KEY, 'old', { ...STALE, ...TIES })
    const fetcher = controlled()
    assert.equal(await cache.get(KEY, fetcher, TIES), 'old')
    return { stale: true, call: await fetcher.call(0), of: value => value }
  },
  'a getMany()': async cache => {
    const fetcher = controlled()
    const many = cache.getMany(['item:2:x', KEY], fetcher, TIES)
    return {
      answer: many.then(found => found.get(KEY)),
      call: await fetcher.call(0),
      of: value => new Map([['item:2:x', 'other'], [KEY, value]])
    }
  },
  'a define()': async cache => {
    const fetcher = controlled()
    cache.define('item:*', fetcher, TIES)
    return { answer: cache.get(KEY), call: await fetcher.call(0), of: value => value }
  }
}

/** The ways to cut, and how what was cached stands to them: gone, replaced, or still served but stale. */
const CUTS = {
  'a put': { cut: cache => cache.put(KEY, 'put'), kind: 'put' },
  'a delete': { cut: cache => cache.delete(KEY), kind: 'hard' },
  'its key': { cut: cache => cache.invalidate({ key: KEY }), kind: 'hard' },
  'its key as a string': { cut: cache => cache.invalidate(KEY), kind: 'hard' },
  'a prefix': { cut: cache => cache.invalidate({ prefix: 'item:1' }), kind: 'hard' },
  'a pattern': { cut: cache => cache.invalidate('item:*:x'), kind: 'hard' },
  'its tag': { cut: cache => cache.invalidate({ tag: 'tag' }), kind: 'hard' },
  'what it depends on, invalidated': { cut: cache => cache.invalidate({ key: 'parent' }), kind: 'hard' },
  'what it depends on, put': { cut: cache => cache.put('parent', 'changed'), kind: 'hard' },
  'all': { cut: cache => cache.invalidate({ all: true }), kind: 'hard' },
  'several targets': { cut: cache => cache.invalidate([{ tag: 'none' }, { prefix: 'item:' }]), kind: 'hard' },
  'its key, softly': { cut: cache => cache.invalidate(KEY, { soft: true }), kind: 'soft' },
  'a prefix, softly': { cut: cache => cache.invalidate({ prefix: 'item:' }, { soft: true }), kind: 'soft' },
  'a pattern, softly': { cut: cache => cache.invalidate('*:x', { soft: true }), kind: 'soft' },
  'its tag, softly': { cut: cache => cache.invalidate({ tag: 'tag' }, { soft: true }), kind: 'soft' },
  'what it depends on, softly': { cut: cache => cache.invalidate('parent', { soft: true }), kind: 'soft' },
  'all, softly': { cut: cache => cache.invalidate({ all: true }, { soft: true }), kind: 'soft' }
}

/**
 * A get() that would load 'new', and whether it did.
 * @param {any} cache
 */
async function getLater(cache) {
  let loads = 0
  const value = await cache.get(KEY, () => {
    loads++
    return 'new'
  }, TIES)
  return { value, loads }
}

/**
 * What a get() begun after the cut of a cached value gives, and what is cached in the end.
 * @param {any} cache
 * @param {string} kind
 * @param {string} cached
 */
async function checkCached(cache, kind, cached) {
  const { value, loads } = await getLater(cache)
  if (kind === 'put') assert.deepEqual({ value, loads }, { value: 'put', loads: 0 })
  if (kind === 'hard') assert.deepEqual({ value, loads }, { value: 'new', loads: 1 })
  if (kind === 'soft') {
    assert.equal(value, cached, 'the old value is served at once')
    await cache.flush()
  }
  assert.equal(await cache.get(KEY), kind === 'put' ? 'put' : 'new')
}

for (const [loadName, begin] of Object.entries(LOADS)) {
  for (const [cutName, { cut, kind }] of Object.entries(CUTS)) {
    test(`${loadName}, after ${cutName} was cut`, async t => {
      const cache = open(t)
      await cache.put('parent', 'unchanged')
      await cache.put(KEY, 'old', TIES)
      assert.equal(await cache.get(KEY), 'old')
      await cut(cache)
      if (kind === 'hard') assert.equal(await cache.get(KEY), undefined)
      if (loadName === 'a getMany()' && kind === 'hard') {
        const found = await cache.getMany([KEY], async keys => Object.fromEntries(keys.map(key => [key, 'new'])), TIES)
        assert.equal(found.get(KEY), 'new')
      }
      if (loadName === 'a define()' && kind === 'hard') {
        cache.define('item:*', () => 'new', TIES)
        assert.equal(await cache.get(KEY), 'new')
      }
      if (kind === 'hard' && loadName !== 'a miss' && loadName !== 'a stale refresh') return
      await checkCached(cache, kind, 'old')
    })

    test(`${loadName}, cut by ${cutName} while the fetcher runs`, async t => {
      const cache = open(t)
      await cache.put('parent', 'unchanged')
      const { answer, call, of, stale } = await begin(cache)
      await cut(cache)
      let later
      if (kind === 'soft') {
        // It is joined, or what is there goes on being served.
        later = cache.get(KEY, () => assert.fail('there is one load already'), TIES)
      } else {
        assert.deepEqual(await getLater(cache), kind === 'put' ? { value: 'put', loads: 0 } : { value: 'new', loads: 1 })
      }
      call.resolve(of('loaded'))
      if (answer !== undefined) assert.equal(await answer, 'loaded', 'those who waited before get what was loaded')
      if (kind === 'soft') assert.equal(await later, stale ? 'old' : 'loaded')
      await cache.flush()
      if (kind !== 'soft') {
        assert.equal(await cache.get(KEY), kind === 'put' ? 'put' : 'new', 'what the outdated load brought is not stored')
        return
      }
      await until(async () => cache.peek(KEY) === 'loaded', 'it is stored')
      const { value, state } = await cache.getWithMetadata(KEY, () => 'new', TIES)
      assert.deepEqual({ value, state }, { value: 'loaded', state: 'stale' }, 'it is stored as stale')
    })

    test(`${loadName}, cut by ${cutName} when it has ended`, async t => {
      const cache = open(t)
      await cache.put('parent', 'unchanged')
      const { answer, call, of } = await begin(cache)
      call.resolve(of('loaded'))
      await answer
      await until(async () => cache.peek(KEY) === 'loaded', 'it is stored')
      assert.equal(await cache.get(KEY), 'loaded')
      await cut(cache)
      if (kind === 'hard') assert.equal(cache.peek(KEY), undefined)
      await checkCached(cache, kind, 'loaded')
    })
  }
}
