// Guards what a fetcher is given: key, signal, reason, the copy in hand, set(), notModified(), noStore().

import { assert, EXPIRED, open, reasonOf, rejects, STALE, test } from './helpers/kv.mjs'
import { controlled, settle } from './helpers/async.mjs'

/** Runs a get and returns the context its fetcher saw. */
async function contextOf(cache, key, options) {
  let seen
  await cache.get(
    key,
    (_, context) => {
      seen = context
      return 'new'
    },
    options
  )
  await cache.flush()
  return seen
}

test('the fetcher is given its key, twice, and a signal that has not fired', async t => {
  const cache = open(t)
  const seen = []
  await cache.get('some:key', (...args) => {
    seen.push(args)
    return 1
  })
  const [[key, context]] = seen
  assert.equal(seen[0].length, 2)
  assert.equal(key, 'some:key')
  assert.equal(context.key, 'some:key')
  assert.ok(context.signal instanceof AbortSignal)
  assert.equal(context.signal.aborted, false)
})

test('the reason says why the fetcher is called', async t => {
  const cache = open(t)
  assert.equal((await contextOf(cache, 'miss')).reason, 'miss')
  await cache.put('stale', 'old', STALE)
  assert.equal((await contextOf(cache, 'stale')).reason, 'stale')
  await cache.put('expired', 'old', EXPIRED)
  assert.equal((await contextOf(cache, 'expired')).reason, 'expired')
  await cache.put('forced', 'old')
  assert.equal((await contextOf(cache, 'forced', { forceFresh: true })).reason, 'forced')
  assert.equal((await contextOf(cache, 'forced miss', { forceFresh: true })).reason, 'forced')
  await cache.put('deleted', 'old')
  await cache.delete('deleted')
  assert.equal((await contextOf(cache, 'deleted')).reason, 'miss')
})

test('the copy in hand is given with its age and metadata, and none where there is none', async t => {
  const cache = open(t)
  assert.equal((await contextOf(cache, 'miss')).stale, undefined)
  for (const [key, ages, options] of [
    ['stale', STALE],
    ['expired', EXPIRED],
    ['forced', { maxAge: 60 }, { forceFresh: true }]
  ]) {
    await cache.put(key, { n: 1, list: [1] }, { ...ages, metadata: { etag: 'abc' } })
    const { stale } = await contextOf(cache, key, options)
    assert.deepEqual(stale.value, { n: 1, list: [1] }, key)
    assert.deepEqual(stale.metadata, { etag: 'abc' })
    assert.equal(typeof stale.age, 'number')
    assert.ok(stale.age >= 0 && stale.age < 30, String(stale.age))
    assert.ok(Object.isFrozen(stale.value) && Object.isFrozen(stale.value.list))
  }
  await cache.put('plain', 1, STALE)
  assert.equal((await contextOf(cache, 'plain')).stale.metadata, undefined)
})

test('the age of the copy in hand is in seconds', async t => {
  const cache = open(t)
  await cache.put('k', 1, STALE)
  await new Promise(resolve => setTimeout(resolve, 60))
  const { stale } = await contextOf(cache, 'k')
  assert.ok(stale.age >= 0.058 && stale.age < 30, String(stale.age))
})

test('set() changes this entry’s options from what was fetched', async t => {
  const cache = open(t, { maxAge: 1 })
  const entry = await cache.getWithMetadata(
    'k',
    async (_, context) => {
      await settle()
      context.set({ maxAge: 77, metadata: { etag: 'v1' } })
      return 'value'
    },
    { maxAge: 2, metadata: 'from the call' }
  )
  assert.equal(entry.maxAge, 77)
  assert.deepEqual(entry.metadata, { etag: 'v1' })
  const stored = await cache.getWithMetadata('k')
  assert.equal(stored.maxAge, 77)
  assert.deepEqual(stored.metadata, { etag: 'v1' })
})

test('set() may be called often: each call adds, the last wins', async t => {
  const cache = open(t)
  const entry = await cache.getWithMetadata('k', (_, context) => {
    assert.equal(context.set({ maxAge: 5, metadata: 1 }), undefined)
    context.set({})
    context.set({ maxAge: 9 })
    context.set({ maxAge: undefined })
    return 'value'
  })
  assert.equal(entry.maxAge, 9)
  assert.equal(entry.metadata, 1)
})

test('set() can make a value uncacheable by giving it no age at all', async t => {
  const cache = open(t)
  const get = () =>
    cache.get('k', (_, context) => {
      context.set({ maxAge: 0, staleAge: 0, staleIfError: 0 })
      return 'value'
    })
  assert.equal(await get(), 'value')
  assert.equal(await cache.get('k'), undefined)
})

test('set() works in a background refresh', async t => {
  const cache = open(t)
  await cache.put('k', 'old', STALE)
  await cache.get('k', (_, context) => {
    context.set({ maxAge: 123 })
    return 'new'
  })
  await cache.flush()
  assert.equal((await cache.getWithMetadata('k')).maxAge, 123)
})

test('set() refuses what is no option, by throwing in the fetcher', async t => {
  const cache = open(t, { breaker: false })
  for (const bad of [
    { maxAge: -1 }, { colour: 'red' }, { metadata: 'x'.repeat(2000) }, { tags: 't' }, { dependsOn: [''] },
    { signal: null }, 5, 'x', null
  ]) {
    let thrown
    const get = cache.get('k', (_, context) => {
      try {
        context.set(bad)
      } catch (error) {
        thrown = error
        throw error
      }
    })
    assert.equal(await reasonOf(get), thrown, JSON.stringify(bad))
    assert.equal(thrown?.code, 'ERR_KVCACHE_INVALID_OPTION', JSON.stringify(bad))
  }
})

test('set() after the load is over changes nothing', async t => {
  const cache = open(t)
  let context
  await cache.get(
    'k',
    (_, given) => {
      context = given
      return 1
    },
    { maxAge: 50 }
  )
  try {
    context.set({ maxAge: 1 })
  } catch {
    // Refusing it would be as good.
  }
  await settle()
  assert.equal((await cache.getWithMetadata('k')).maxAge, 50)
})

test('notModified() starts the age of the copy in hand again, and callers get its value', async t => {
  const cache = open(t)
  for (const [key, ages, options] of [
    ['expired', EXPIRED],
    ['forced', { maxAge: 60 }, { forceFresh: true }]
  ]) {
    await cache.put(key, { n: 1 }, { ...ages, metadata: { etag: 'abc' } })
    await new Promise(resolve => setTimeout(resolve, 30))
    const entry = await cache.getWithMetadata(key, (_, context) => context.notModified(), { maxAge: 500, ...options })
    assert.deepEqual(entry.value, { n: 1 })
    assert.equal(entry.state, 'loaded')
    assert.equal(entry.age, 0)
    assert.equal(entry.maxAge, 500)
    assert.deepEqual(entry.metadata, { etag: 'abc' })
    const after = await cache.getWithMetadata(key)
    assert.equal(after.state, 'fresh')
    assert.deepEqual(after.value, { n: 1 })
    assert.deepEqual(after.metadata, { etag: 'abc' })
  }
})

test('notModified() in a background refresh makes the stale value fresh', async t => {
  const cache = open(t)
  await cache.put('k', 'kept', STALE)
  const get = () =>
    cache.get(
      'k',
      async (_, context) => {
        await settle()
        return context.notModified()
      },
      { maxAge: 60 }
    )
  assert.equal(await get(), 'kept')
  await cache.flush()
  const entry = await cache.getWithMetadata('k')
  assert.equal(entry.state, 'fresh')
  assert.equal(entry.value, 'kept')
  assert.equal(cache.stats().backgroundUpdates, 1)
})

test('set() applies to what notModified() keeps', async t => {
  const cache = open(t)
  await cache.put('k', 'kept', { ...EXPIRED, metadata: 1 })
  const entry = await cache.getWithMetadata('k', (_, context) => {
    context.set({ maxAge: 7, metadata: 2 })
    return context.notModified()
  })
  assert.equal(entry.maxAge, 7)
  assert.equal(entry.metadata, 2)
  assert.equal((await cache.getWithMetadata('k')).metadata, 2)
})

test('notModified() without a copy in hand is refused', async t => {
  const cache = open(t)
  await rejects(
    cache.get('k', (_, context) => context.notModified()),
    'INVALID_VALUE',
    'notModified'
  )
  assert.equal(await cache.get('k', () => 1), 1)
})

test('notModified() that is called but not returned is nothing', async t => {
  const cache = open(t)
  await cache.put('k', 'old', EXPIRED)
  const get = cache.get('k', (_, context) => {
    context.notModified()
    return 'new'
  })
  assert.equal(await get, 'new')
  assert.equal(await cache.get('k'), 'new')
})

test('notModified() keeps bytes, strings and null as they are', async t => {
  const cache = open(t)
  for (const value of ['text', null, 0, '', new Uint8Array([1, 2, 3]), { deep: [1] }]) {
    await cache.put('k', value, EXPIRED)
    const get = () => cache.get('k', (_, context) => context.notModified())
    assert.deepEqual(await get(), value)
    assert.deepEqual(await get(), value)
  }
})

test('a copy put while notModified() was on its way wins', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const get = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await cache.put('k', 'put')
  call.resolve(call.context.notModified())
  assert.equal(await get, 'old')
  assert.equal(await cache.get('k'), 'put')
})

test('a copy deleted while notModified() was on its way stays deleted', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const get = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await cache.delete('k')
  call.resolve(call.context.notModified())
  assert.equal(await get, 'old')
  assert.equal(await cache.get('k'), undefined)
})

test('noStore() gives the value to all who wait, and stores nothing', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = [cache.getWithMetadata('k', fetcher), cache.getWithMetadata('k', fetcher)]
  const call = await fetcher.call(0)
  assert.equal(call.context.noStore(), undefined)
  const own = { n: 1 }
  call.resolve(own)
  for (const entry of await Promise.all(gets)) {
    assert.deepEqual(entry.value, { n: 1 })
    assert.equal(entry.state, 'loaded')
    assert.equal(entry.maxAge, 0)
    assert.notEqual(entry.value, own)
  }
  assert.equal(await cache.get('k'), undefined)
  assert.equal(cache.peek('k'), undefined)
  assert.equal(cache.stats().entries, 0)
})

test('what noStore() gives is what a stored value would look like', async t => {
  const cache = open(t)
  const value = { at: new Date(0), none: undefined, nan: NaN }
  const unstored = await cache.get('a', (_, context) => {
    context.noStore()
    return value
  })
  const stored = await cache.get('b', () => value)
  assert.deepEqual(unstored, stored)
  assert.ok(Object.isFrozen(unstored))
  assert.ok(!Object.isFrozen(value))
})

test('a refresh that calls noStore() does not put the new value into the cache', async t => {
  const cache = open(t)
  await cache.put('k', 'old', STALE)
  await cache.get('k', (_, context) => {
    context.noStore()
    return 'new'
  })
  await cache.flush()
  assert.notEqual(await cache.get('k'), 'new')
})

test('a fetcher may return undefined: it goes to the callers and is not stored', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = [cache.get('k', fetcher), cache.get('k', fetcher)]
  ;(await fetcher.call(0)).resolve(undefined)
  assert.deepEqual(await Promise.all(gets), [undefined, undefined])
  assert.equal(await cache.has('k'), false)
  const entry = await cache.getWithMetadata('k', () => undefined)
  assert.equal(entry.value, undefined)
  assert.equal(entry.state, 'loaded')
  assert.equal(entry.maxAge, 0)
  assert.equal(cache.stats().entries, 0)
  assert.equal(cache.stats().errors, 0)
})

test('each load has a context of its own', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const a = cache.getWithMetadata('a', fetcher)
  const b = cache.getWithMetadata('b', fetcher)
  await fetcher.call(1)
  const [first, second] = fetcher.calls
  assert.notEqual(first.context, second.context)
  assert.notEqual(first.context.signal, second.context.signal)
  first.context.set({ maxAge: 11 })
  second.context.set({ maxAge: 22 })
  first.context.noStore()
  first.resolve(1)
  second.resolve(2)
  assert.equal((await a).value, 1)
  assert.equal((await b).maxAge, 22)
  assert.equal(await cache.has('a'), false)
  assert.equal(await cache.has('b'), true)
})
