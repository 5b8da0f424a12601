// Guards invalidate(), tags and dependencies: what each target covers and does not, that nothing of before is served by any
// door, what loads are told, what is told and counted, and what is refused.

import { assert, EXPIRED, isError, open, rejects, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, settle, until } from './helpers/async.mjs'
import { freshName, thread } from './helpers/threads.mjs'

const KEYS = ['user', 'user:1', 'user:1:profile', 'user:12:profile', 'user:*', 'item:1', 'a\\b', 'ünï:😀']

/** @param {any} cache */
async function left(cache) {
  const { keys } = await cache.list()
  return keys.map((/** @type {{ name: string }} */ { name }) => name).sort()
}

for (const [target, covered] of [
  ['user:1', ['user:1']],
  [{ key: 'user:*' }, ['user:*']],
  ['user:\\*', ['user:*']],
  ['a\\\\b', ['a\\b']],
  ['user:*', ['user:1', 'user:1:profile', 'user:12:profile', 'user:*']],
  ['user:1*', ['user:1', 'user:1:profile', 'user:12:profile']],
  ['user:*:profile', ['user:1:profile', 'user:12:profile']],
  ['*:1*', ['user:1', 'user:1:profile', 'user:12:profile', 'item:1']],
  ['ü*:😀', ['ünï:😀']],
  [{ prefix: 'user:1' }, ['user:1', 'user:1:profile', 'user:12:profile']],
  [{ prefix: 'user:*' }, ['user:*']],
  [{ prefix: '' }, KEYS],
  [{ pattern: '*' }, KEYS],
  [{ all: true }, KEYS],
  [{ tag: 'none' }, []],
  [{ tag: 'item:1' }, ['user']],
  [['item:1', { prefix: 'ü' }, 'user'], ['item:1', 'ünï:😀', 'user']],
  [[], []]
]) {
  test(`invalidate(${JSON.stringify(target)}) covers ${JSON.stringify(covered)} and nothing else`, async t => {
    const cache = open(t)
    for (const key of KEYS) await cache.put(key, key, key === 'user' ? { tags: ['item:1'] } : {})
    await cache.invalidate(target)
    assert.deepEqual(await left(cache), KEYS.filter(key => !covered.includes(key)).sort())
    for (const key of KEYS) assert.equal(await cache.get(key), covered.includes(key) ? undefined : key)
  })
}

test('list() by a prefix and invalidation by the same prefix mean the same keys', async t => {
  const cache = open(t)
  for (const prefix of ['user', 'user:', 'user:1', 'ü', 'a\\', 'x']) {
    for (const key of KEYS) await cache.put(key, key)
    const listed = (await cache.list({ prefix })).keys.map(({ name }) => name)
    await cache.invalidate({ prefix })
    assert.deepEqual([...listed, ...await left(cache)].sort(), [...KEYS].sort(), prefix)
    assert.deepEqual((await cache.list({ prefix })).keys, [])
  }
})

for (const target of ['k', { tag: 't' }, 'k*', { all: true }]) {
  const name = JSON.stringify(target)
  test(`what ${name} has cut comes back by no door: get, peek, has, getMany, list, nor in place of a failed load`, async t => {
    const cache = open(t, { breaker: { threshold: 1 } })
    await cache.put('k', 'old', { ...EXPIRED, tags: ['t'] })
    await cache.put('k:fresh', 'old', { tags: ['t'] })
    await cache.invalidate([target, 'k:fresh'])
    const failure = new Error('the origin is down')
    await assert.rejects(cache.get('k', () => Promise.reject(failure), { softTimeout: 1 }), failure)
    await rejects(cache.get('k', counted()), 'CIRCUIT_OPEN')
    await rejects(cache.get('k', controlled(), { softTimeout: 1, hardTimeout: 30, origin: 'slow' }), 'TIMEOUT')
    assert.equal(cache.peek('k:fresh'), undefined)
    assert.equal(await cache.has('k:fresh'), false)
    assert.equal((await cache.getMany(['k:fresh'])).size, 0)
    assert.deepEqual((await cache.list()).keys, [])
  })
}

test('a hard invalidation leaves no copy in hand, a soft one does; both are told as the reason', async t => {
  const cache = open(t)
  /** @type {any[]} */
  const told = []
  const fetcher = counted((n, _, context) => {
    told.push([context.reason, context.stale?.value])
    return n
  })
  const load = (options = {}) => cache.get('k', fetcher, { tags: ['t'], ...options })
  await load()
  await cache.invalidate('k')
  await load()
  await cache.invalidate({ tag: 't' })
  await load()
  await cache.delete('k')
  await load()
  await cache.invalidate('k', { soft: true })
  assert.equal(await load(), 4)
  await cache.flush()
  await cache.invalidate({ tag: 't' }, { soft: true })
  assert.equal(await load(), 5)
  await cache.flush()
  assert.deepEqual(told, [
    ['miss', undefined], ['invalidated', undefined], ['invalidated', undefined], ['miss', undefined],
    ['invalidated', 4], ['invalidated', 5]
  ])
})

test('a soft invalidation ends freshness and no other age', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { maxAge: 100, staleAge: 100, metadata: 'm', tags: ['t'] })
  await cache.invalidate({ tag: 't' }, { soft: true })
  const { state, maxAge, metadata, tags } = await cache.getWithMetadata('k')
  assert.deepEqual({ state, maxAge, metadata, tags }, { state: 'stale', maxAge: 0, metadata: 'm', tags: ['t'] })
  const fetcher = counted(() => 'new')
  assert.deepEqual(await Promise.all([1, 2, 3].map(() => cache.get('k', fetcher))), ['old', 'old', 'old'])
  await cache.flush()
  assert.equal(fetcher.count, 1)
  assert.equal(await cache.get('k'), 'new')
})

test('a soft invalidation after a hard one brings nothing back', async t => {
  const cache = open(t)
  await cache.put('k', 'old', { tags: ['t'] })
  await cache.invalidate({ tag: 't' })
  await cache.invalidate({ all: true }, { soft: true })
  assert.equal(await cache.get('k'), undefined)
})

// --- Tags and dependencies -----------------------------------------------------------------------------------------------

test('tags and dependencies come from put, putMany, get, getMany, define, wrap and the fetcher, and the last word counts', async t => {
  const cache = open(t)
  const ties = async key => {
    const { tags, dependsOn } = await cache.getWithMetadata(key)
    return { tags, dependsOn }
  }
  const one = { tags: ['a', 'b', 'a'], dependsOn: ['p'] }
  const expected = { tags: ['a', 'b'], dependsOn: ['p'] }
  await cache.put('put', 1, one)
  await cache.putMany([['many', 1], ['own', 1, { tags: [] }]], one)
  await cache.get('get', () => 1, one)
  await cache.getMany(['batch'], async () => ({ batch: 1 }), one)
  cache.define('defined:*', () => 1, one)
  await cache.get('defined:1')
  await cache.wrap(async () => 1, { ...one, key: () => 'wrapped' })()
  await cache.get('set', (_, context) => {
    context.set({ tags: ['b'] })
    context.set({ tags: ['a', 'b'], dependsOn: ['p'] })
    return 1
  }, { tags: ['x'] })
  for (const key of ['put', 'many', 'get', 'batch', 'defined:1', 'wrapped', 'set']) assert.deepEqual(await ties(key), expected, key)
  assert.deepEqual(await ties('own'), { tags: [], dependsOn: ['p'] })
  const loaded = await cache.getWithMetadata('loaded', () => 1, one)
  assert.deepEqual({ tags: loaded.tags, dependsOn: loaded.dependsOn }, expected)
  await cache.put('parentless', 1, { tags: ['a'] })
  await cache.invalidate({ key: 'p' })
  assert.deepEqual(await left(cache), ['parentless'])
})

test('a value found not modified keeps its tags and dependencies, unless it is given others', async t => {
  const cache = open(t)
  await cache.put('k', 'v', { ...EXPIRED, tags: ['a'], dependsOn: ['p'] })
  const { tags, dependsOn } = await cache.getWithMetadata('k', (_, context) => context.notModified(), EXPIRED)
  assert.deepEqual([tags, dependsOn], [['a'], ['p']])
  await cache.get('k', (_, context) => {
    context.set({ tags: [], maxAge: 10 })
    return context.notModified()
  })
  assert.deepEqual((await cache.getWithMetadata('k')).tags, [])
})

test('a value loses its tags and dependencies with the next one', async t => {
  const cache = open(t)
  await cache.put('k', 1, { tags: ['t'], dependsOn: ['p'] })
  await cache.put('k', 2)
  await cache.invalidate([{ tag: 't' }, 'p'])
  assert.equal(await cache.get('k'), 2)
})

test('those who waited for a load since before its late tag was cut get its value; those who came later load again', async t => {
  const cache = open(t)
  for (const late of [{ tags: ['late'] }, { dependsOn: ['parent'] }]) {
    const fetcher = controlled()
    const before = cache.get('k', fetcher)
    const call = await fetcher.call(0)
    await cache.invalidate([{ tag: 'late' }, 'parent'])
    const after = cache.get('k', fetcher)
    const many = cache.getMany(['k'], async () => assert.fail('get() loads it'))
    await settle()
    assert.equal(fetcher.calls.length, 1, 'nobody knows of the tag yet')
    call.context.set(late)
    call.resolve('first')
    assert.equal(await before, 'first');
    (await fetcher.call(1)).resolve('second')
    assert.deepEqual([await after, (await many).get('k')], ['second', 'second'])
    assert.equal(await cache.get('k'), 'second')
    await cache.delete('k')
  }
})

test('a put of a parent, a load of other bytes and a delete invalidate its children; a load of the same bytes does not', async t => {
  const cache = open(t)
  const child = async () => {
    await cache.put('child', 'c', { dependsOn: ['parent'] })
    await cache.put('grandchild', 'g', { dependsOn: ['child'] })
  }
  const there = async () => [await cache.has('child'), await cache.has('grandchild')]
  await child()
  await cache.get('parent', () => ({ n: 1 }))
  assert.deepEqual(await there(), [true, true], 'a first load is no change')
  await cache.get('parent', () => ({ n: 1 }), { forceFresh: true })
  assert.deepEqual(await there(), [true, true], 'the same bytes are no change')
  await cache.get('parent', () => ({ n: 2 }), { forceFresh: true })
  assert.deepEqual(await there(), [false, false])
  await child()
  await cache.put('parent', { n: 2 })
  assert.deepEqual(await there(), [false, false])
  await child()
  await cache.delete('parent')
  assert.deepEqual(await there(), [false, false])
})

test('a compressed parent that is loaded with the same bytes is no change either', async t => {
  const cache = open(t)
  const value = n => ({ text: 'text '.repeat(2000) + n })
  await cache.put('parent', value(1))
  await cache.flush()
  await cache.put('child', 'c', { dependsOn: ['parent'] })
  await cache.get('parent', () => value(1), { forceFresh: true })
  assert.equal(await cache.get('child'), 'c')
  await cache.flush()
  await cache.get('parent', () => value(2), { forceFresh: true })
  assert.equal(await cache.get('child'), undefined)
})

test('what a parent is tagged with reaches its children, also those that were there first', async t => {
  const cache = open(t)
  await cache.put('first', 1, { dependsOn: ['parent'] })
  await cache.get('parent', () => 'p', { tags: ['t'] })
  await cache.put('second', 2, { dependsOn: ['parent'] })
  await cache.put('third', 3, { dependsOn: ['second'] })
  await cache.put('other', 4)
  await cache.invalidate({ tag: 't' })
  assert.deepEqual(await left(cache), ['other'])
})

test('a child that loads its own parent is stored', async t => {
  const cache = open(t)
  const load = counted(async n => `${await cache.get('parent', () => 'p')} ${n}`)
  assert.equal(await cache.get('child', load, { dependsOn: ['parent'] }), 'p 1')
  assert.equal(await cache.get('child', load, { dependsOn: ['parent'] }), 'p 1')
})

test('dependencies may form circles and diamonds', async t => {
  const cache = open(t)
  for (const [key, dependsOn] of [['a', ['b', 'c']], ['b', ['d']], ['c', ['d']], ['d', ['a']]]) await cache.put(key, key, { dependsOn })
  // Each put has invalidated what depends on it, the last one all others.
  assert.deepEqual(await left(cache), ['d'])
  cache.addDependency('x', 'y')
  cache.addDependency('y', 'x')
  cache.addDependency('x', 'x')
  await cache.put('x', 1)
  assert.equal(await cache.get('x'), 1)
  await cache.put('y', 1)
  assert.deepEqual([await cache.get('x'), await cache.get('y')], [undefined, 1])
  await cache.invalidate('x')
  assert.equal(await cache.get('y'), undefined)
})

test('addDependency() stays until it is removed, whatever is stored, and whether the keys are cached or not', async t => {
  const cache = open(t)
  cache.addDependency('parent', 'child')
  cache.addDependency('parent', 'other')
  cache.addDependency('child', 'grandchild')
  for (let round = 0; round < 2; round++) {
    for (const key of ['child', 'other', 'grandchild']) await cache.put(key, round)
    // A put of a parent is a change; they were put in the order of their dependencies.
    await cache.invalidate({ prefix: 'par' })
    assert.deepEqual(await left(cache), [])
  }
  cache.removeDependency('parent', 'child')
  cache.removeDependency('parent', 'nothing')
  for (const key of ['child', 'other', 'grandchild']) await cache.put(key, 2)
  await cache.invalidate('parent')
  assert.deepEqual(await left(cache), ['child', 'grandchild'])
  cache.removeDependency('child')
  await cache.invalidate('child')
  assert.deepEqual(await left(cache), ['grandchild'])
})

test('what a dependency has invalidated stays so when it is removed', async t => {
  const cache = open(t)
  cache.addDependency('parent', 'child')
  await cache.put('child', 'old', STALE)
  await cache.invalidate('parent')
  cache.removeDependency('parent')
  assert.equal(await cache.get('child'), undefined)
})

test('a soft invalidation follows dependencies softly', async t => {
  const cache = open(t)
  await cache.put('child', 'c', { dependsOn: ['parent'] })
  await cache.put('grandchild', 'g', { dependsOn: ['child'] })
  await cache.invalidate('parent', { soft: true })
  for (const key of ['child', 'grandchild']) assert.equal((await cache.getWithMetadata(key)).state, 'stale')
})

test('copies near the caller fall with tags, patterns, dependencies and edges alike', async t => {
  const cache = open(t)
  const fill = async () => {
    await cache.put('item:1:x', { n: 1 }, { tags: ['t'], dependsOn: ['parent'] })
    await cache.put('grandchild', { n: 2 }, { dependsOn: ['item:1:x'] })
    for (let i = 0; i < 3; i++) await Promise.all([cache.get('item:1:x'), cache.get('grandchild')])
  }
  for (const cut of [
    () => cache.invalidate({ tag: 't' }), () => cache.invalidate('item:*:x'), () => cache.invalidate({ prefix: 'ite' }),
    () => cache.invalidate({ all: true }), () => cache.invalidate({ key: 'parent' }), () => cache.put('parent', 1),
    () => cache.invalidate({ prefix: 'paren' }), () => cache.delete('item:1:x')
  ]) {
    await fill()
    await cut()
    assert.deepEqual([await cache.get('item:1:x'), await cache.get('grandchild')], [undefined, undefined], String(cut))
  }
  await fill()
  cache.addDependency('late', 'item:1:x')
  await Promise.all([cache.get('item:1:x'), cache.get('grandchild')])
  await cache.invalidate('late')
  assert.deepEqual([await cache.get('item:1:x'), await cache.get('grandchild')], [undefined, undefined])
})

// --- What is told ----------------------------------------------------------------------------------------------------------

test("'invalidate' tells each target as it was given, and how many entries it has swept", async t => {
  const cache = open(t)
  /** @type {any[]} */
  const events = []
  cache.on('invalidate', event => events.push(event))
  for (let i = 0; i < 500; i++) await cache.put(`k:${i}`, i, { tags: [i < 300 ? 'low' : 'high'] })
  await cache.put('single', 1)
  await cache.invalidate({ key: 'single' })
  await settle()
  assert.deepEqual(events, [{ target: { key: 'single' }, soft: false, swept: 1, from: 'local' }])
  await cache.invalidate([{ tag: 'low' }, 'k:*'], { soft: false })
  await until(() => events.length === 3, 'they are told')
  assert.deepEqual(events.slice(1).map(event => event.target), [{ tag: 'low' }, 'k:*'])
  // One that both cover is counted once.
  assert.equal(events[1].swept + events[2].swept, 500)
  const { invalidations, swept, entries } = cache.stats()
  assert.deepEqual({ invalidations, swept, entries }, { invalidations: 3, swept: 501, entries: 0 })
  assert.match(cache.metrics(), /kvcache_invalidations_total\{target="tag"\} 1\n/)
  assert.match(cache.metrics(), /kvcache_swept_entries_total 501\n/)
})

test('what was invalidated is cleared out of memory without being read', async t => {
  const cache = open(t)
  for (let i = 0; i < 3000; i++) await cache.put(`k:${i}`, 'value', { tags: ['t'] })
  await cache.put('stays', 1)
  await cache.invalidate({ tag: 't' })
  await until(() => cache.stats().entries === 1, 'they are swept')
  assert.equal(cache.stats().swept, 3000)
  assert.equal(await cache.get('stays'), 1)
})

test('an invalidation with nobody listening and nothing cached is as good as any', async t => {
  const cache = open(t)
  await cache.invalidate(['k', 'k*', { tag: 't' }, { all: true }])
  assert.equal(cache.stats().invalidations, 4)
  await cache.put('k', 1, { tags: ['t'] })
  assert.equal(await cache.get('k'), 1)
})

// --- What is refused -----------------------------------------------------------------------------------------------------------

test('what is no target is refused before anything is invalidated, and says what is allowed', async t => {
  const cache = open(t)
  await cache.put('k', 1)
  for (const [target, ...needles] of [
    [undefined, '{ tag }'], [null, '{ tag }'], [5, '{ tag }'], ['', 'target'], ['a\\b', 'backslash'], ['\ud800', 'target'],
    ['x'.repeat(513), '512'], [{}, 'names nothing'], [{ tag: 'a', key: 'b' }, 'tag, key'], [{ tags: ['a'] }, 'target.tags'],
    [{ all: false }, 'true'], [{ tag: '' }, '256'], [{ tag: 'x'.repeat(257) }, '256'], [{ prefix: 5 }, 'prefix'],
    [{ pattern: '' }, 'pattern'], [['k'], '{ tag }']
  ]) {
    await rejects(cache.invalidate(['k', target]), 'INVALID_OPTION', ...needles)
  }
  await rejects(cache.invalidate(['k', { key: '' }]), 'INVALID_KEY', 'empty')
  for (const [options, needle] of [[{ hard: true }, 'soft'], [{ soft: 1 }, 'true or false'], [5, 'object'], [null, 'object']]) {
    await rejects(cache.invalidate('k', options), 'INVALID_OPTION', needle)
  }
  assert.equal(await cache.get('k'), 1)
  assert.equal(cache.stats().invalidations, 0)
})

test('dependencies of what is no key are refused', async t => {
  const cache = open(t)
  for (const bad of ['', 5, null, '\ud800', 'x'.repeat(513)]) {
    assert.throws(() => cache.addDependency(bad, 'k'), error => isError(error, 'INVALID_KEY'))
    assert.throws(() => cache.addDependency('k', bad), error => isError(error, 'INVALID_KEY'))
    assert.throws(() => cache.removeDependency(bad), error => isError(error, 'INVALID_KEY'))
    assert.throws(() => cache.removeDependency('k', bad), error => isError(error, 'INVALID_KEY'))
  }
  await cache.close()
  assert.throws(() => cache.addDependency('a', 'b'), error => isError(error, 'CLOSED'))
  await rejects(cache.invalidate('k'), 'CLOSED')
})

// --- Across threads --------------------------------------------------------------------------------------------------------------

test('an invalidation in one thread is seen by the next get in another, near copies and running loads included', async t => {
  const name = freshName()
  const cache = open(t, { name })
  const worker = thread(t)
  await worker.run(({ KvCache, state }, options) => void (state.cache = new KvCache(options)), { name })
  for (const target of [{ tag: 't' }, 'item:*:x', { key: 'parent' }, { all: true }]) {
    await cache.put('item:1:x', { n: 1 }, { tags: ['t'], dependsOn: ['parent'] })
    for (let i = 0; i < 3; i++) await cache.get('item:1:x')
    const fetcher = controlled()
    const running = cache.get('item:2:x', fetcher, { tags: ['t'], dependsOn: ['parent'] })
    const call = await fetcher.call(0)
    await worker.run(({ state }, target) => state.cache.invalidate(target), target)
    assert.equal(await cache.get('item:1:x'), undefined)
    const there = await worker.run(({ state }) => state.cache.get('item:2:x', () => 'new'))
    assert.equal(there, 'new', 'it does not join what was cut')
    call.resolve('outdated')
    assert.equal(await running, 'outdated')
    assert.equal(await cache.get('item:2:x'), 'new')
    await cache.delete(['item:1:x', 'item:2:x'])
  }
})

/** One cache in two threads, and a load under way whose tag, which it has not said yet, has just been invalidated. */
async function lateTag(t) {
  const name = freshName()
  const cache = open(t, { name })
  const worker = thread(t)
  await worker.run(({ KvCache, state }, options) => void (state.cache = new KvCache(options)), { name })
  const fetcher = controlled()
  const before = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await cache.invalidate({ tag: 'late' })
  return { cache, worker, before, call }
}

/** What happens to a running load once somebody has joined it. */
const AFTERWARDS = {
  'nothing more': async () => {},
  'the tag is invalidated once more': cache => cache.invalidate({ tag: 'late' }),
  'the key is put': cache => cache.put('k', 'put')
}

/** What the load that was joined brings at last. */
const BROUGHT = {
  'a value': { give: 'first' },
  'a value that is not stored': { give: 'first', noStore: true },
  'nothing': { give: undefined }
}

for (const [what, afterwards] of Object.entries(AFTERWARDS)) {
  for (const [brings, { give, noStore }] of Object.entries(BROUGHT)) {
    test(`who joined after the tag of a load was invalidated is not given what it brings: ${what}, ${brings}`, async t => {
      const { cache, worker, before, call } = await lateTag(t)
      const here = cache.get('k', () => 'second')
      const many = cache.getMany(['k'], async () => ({ k: 'second' })).then(found => found.get('k'))
      const there = worker.run(({ state }) => state.cache.get('k', () => 'second'))
      await until(() => cache.stats().coalesced === 3, 'they have joined')
      await afterwards(cache)
      call.context.set({ tags: ['late'] })
      if (noStore) call.context.noStore()
      call.resolve(give)
      const expected = what === 'the key is put' ? 'put' : 'second'
      assert.deepEqual([await before, await here, await many, await there], [give, expected, expected, expected])
    })
  }
}

test('those in other threads who joined after the cut of a late tag load again', async t => {
  const { cache, worker, before, call } = await lateTag(t)
  const after = worker.run(({ state }) => state.cache.get('k', () => 'second'))
  await until(() => cache.stats().coalesced === 1, 'it has joined')
  call.context.set({ tags: ['late'] })
  call.resolve('first')
  assert.deepEqual([await before, await after], ['first', 'second'])
  assert.equal(await cache.get('k'), 'second')
})
