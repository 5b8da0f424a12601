// Guards against deadlock: a fetcher that would wait for its own key, in whatever way, is told
// ERR_KVCACHE_RECURSION, and nothing else is taken for that.

import { assert, isError, open, reasonOf, rejects, STALE, test } from './helpers/kv.mjs'
import { counted, deferred, settle, sleep, until } from './helpers/async.mjs'

test('a fetcher that gets its own key is told so, and may go on', async t => {
  const cache = open(t)
  let inner
  const value = await cache.get('a', async () => {
    inner = await reasonOf(cache.get('a', () => 'inner'))
    return 'outer'
  })
  isError(inner, 'RECURSION', 'a')
  assert.equal(value, 'outer')
  assert.equal(await cache.get('a'), 'outer')
})

test('a fetcher that does not heed it fails with it, and the key is free', async t => {
  const cache = open(t)
  const recurse = () => cache.get('a', recurse)
  await rejects(cache.get('a', recurse), 'RECURSION')
  assert.equal(await cache.get('a', () => 'free'), 'free')
})

test('it is found after the fetcher has awaited something', async t => {
  const cache = open(t)
  await rejects(
    cache.get('a', async () => {
      await sleep(5)
      await settle()
      return cache.get('a', () => 'inner')
    }),
    'RECURSION'
  )
})

test('it is found through other keys', async t => {
  const cache = open(t, { breaker: false })
  const get = (key, ...path) => cache.get(key, async () => (path.length ? get(...path) : key))
  await rejects(get('a', 'b', 'a'), 'RECURSION')
  await rejects(get('a', 'b', 'c', 'd', 'e', 'c'), 'RECURSION')
  assert.equal(await get('a', 'b', 'c'), 'c')
})

test('it is found crosswise, between two loads begun apart', async t => {
  const cache = open(t)
  const both = deferred()
  let started = 0
  const load = (own, other) =>
    cache.get(own, async () => {
      if (++started === 2) both.resolve()
      await both.promise
      await settle()
      return cache.get(other, () => 'never: it is loading')
    })
  const outcomes = await Promise.allSettled([load('a', 'b'), load('b', 'a')])
  assert.ok(outcomes.some(({ reason }) => reason?.code === 'ERR_KVCACHE_RECURSION'))
  for (const key of ['a', 'b']) assert.equal(await cache.get(key, () => 'free', { forceFresh: true }), 'free')
})

test('it is found around a ring of loads begun apart', async t => {
  const cache = open(t)
  const ring = 10
  const all = deferred()
  let started = 0
  const outcomes = await Promise.allSettled(
    Array.from({ length: ring }, (_, i) =>
      cache.get(`k${i}`, async () => {
        if (++started === ring) all.resolve()
        await all.promise
        try {
          return await cache.get(`k${(i + 1) % ring}`, () => 'never')
        } catch (error) {
          return error.code
        }
      })
    )
  )
  assert.deepEqual(new Set(outcomes.map(({ value }) => value)), new Set(['ERR_KVCACHE_RECURSION']))
})

test('it is found through getMany()', async t => {
  const cache = open(t)
  let inner
  const many = await cache.getMany(['a', 'b'], async missing => {
    inner = await reasonOf(cache.get('b', () => 'inner'))
    return Object.fromEntries(missing.map(key => [key, 1]))
  })
  isError(inner, 'RECURSION')
  assert.deepEqual(
    [...many],
    [
      ['a', 1],
      ['b', 1]
    ]
  )

  let found
  const value = await cache.get('c', async () => {
    found = await cache.getMany(['c', 'd'], missing => Object.fromEntries(missing.map(key => [key, 2])))
    return 'outer'
  })
  assert.equal(value, 'outer')
  isError(found.errors.get('c'), 'RECURSION')
  assert.equal(found.get('d'), 2, 'the other keys are loaded all the same')
})

test('it is found from one getMany() to another', async t => {
  const cache = open(t)
  let inner
  await cache.getMany(['a', 'b'], async missing => {
    inner = await cache.getMany(['x', 'y'], async keys => {
      const deepest = await cache.getMany(['b'], () => ({ b: 'never' }))
      isError(deepest.errors.get('b'), 'RECURSION')
      return Object.fromEntries(keys.map(key => [key, 1]))
    })
    return Object.fromEntries(missing.map(key => [key, 1]))
  })
  assert.equal(inner.get('x'), 1)
})

test('it is found in a background refresh', async t => {
  const cache = open(t)
  await cache.put('a', 'old', STALE)
  let inner
  assert.equal(
    await cache.get('a', async () => {
      inner = await reasonOf(cache.get('a', () => 'inner', { forceFresh: true }))
      return 'new'
    }),
    'old'
  )
  await cache.flush()
  isError(inner, 'RECURSION')
  assert.equal(await cache.get('a'), 'new')
})

test('it is found through a define() and a wrap()', async t => {
  const cache = open(t)
  cache.define('d:*', key => cache.get(key))
  await rejects(cache.get('d:1'), 'RECURSION')
  const wrapped = cache.wrap(async n => wrapped(n), { key: n => `w:${n}` })
  await rejects(wrapped(1), 'RECURSION')
})

test('a stale value of its own key is answered to a fetcher like to anybody', async t => {
  const cache = open(t)
  await cache.put('a', 'old', STALE)
  let inner
  assert.equal(
    await cache.get('a', async () => {
      inner = await cache.get('a', () => 'inner')
      return 'new'
    }),
    'old'
  )
  await cache.flush()
  assert.equal(inner, 'old')
  assert.equal(await cache.get('a'), 'new')
})

test('a fetcher that puts or deletes its own key does not hang', async t => {
  const cache = open(t)
  assert.equal(
    await cache.get('a', async () => {
      await cache.put('a', 'put')
      return cache.get('a')
    }),
    'put'
  )
  assert.equal(
    await cache.get('b', async () => {
      await cache.delete('b')
      return 'loaded'
    }),
    'loaded'
  )
})

test('a get of its own key without a fetcher does not hang either', async t => {
  const cache = open(t)
  const value = await cache.get('a', async () => {
    const inner = await cache.get('a').catch(error => error.code)
    return inner === undefined || inner === 'ERR_KVCACHE_RECURSION' ? 'fine' : inner
  })
  assert.equal(value, 'fine')
})

test('long chains and diamonds are no recursion', async t => {
  const cache = open(t)
  const chain = i => cache.get(`chain${i}`, async () => (i === 0 ? 0 : 1 + (await chain(i - 1))))
  assert.equal(await chain(200), 200)
  const leaf = counted(() => sleep(5).then(() => 1))
  const side = key => cache.get(key, async () => (await cache.get('leaf', leaf)) + 1)
  const top = await cache.get('top', async () => {
    const [left, right] = await Promise.all([side('left'), side('right')])
    return left + right
  })
  assert.equal(top, 4)
  assert.equal(leaf.count, 1)
})

test('two loads that wait for the same third are no recursion', async t => {
  const cache = open(t)
  const third = deferred()
  const get = key => cache.get(key, () => cache.get('third', () => third.promise))
  const gets = [get('a'), get('b'), cache.get('third', () => 'never')]
  await settle()
  third.resolve('value')
  assert.deepEqual(await Promise.all(gets), ['value', 'value', 'value'])
})

test('work that outlives the fetcher it began in is not taken for it', async t => {
  const cache = open(t)
  const go = deferred()
  let later
  await cache.get('a', () => {
    later = go.promise.then(() => cache.get('a', () => sleep(5).then(() => 'second load')))
    return 'first load'
  })
  await cache.delete('a')
  go.resolve()
  assert.equal(await later, 'second load')
})

test('nor when a later load of that key, begun by others, is running', async t => {
  const cache = open(t)
  const go = deferred()
  const slow = deferred()
  let later
  await cache.get('a', () => {
    later = go.promise.then(() => cache.get('a', () => 'unused'))
    return 'first load'
  })
  await cache.delete('a')
  const others = cache.get('a', () => slow.promise)
  await settle()
  go.resolve()
  await settle()
  slow.resolve('second load')
  assert.equal(await others, 'second load')
  assert.equal(await later, 'second load')
})

test('a server that was started inside a fetcher serves that key ever after', async t => {
  const cache = open(t)
  const ticks = []
  let timer
  await cache.get(
    'config',
    () => {
      timer = setInterval(
        () => ticks.push(cache.get('config', () => sleep(1).then(() => 'reloaded'), { maxAge: 0, staleAge: 0 })),
        2
      )
      return 'loaded'
    },
    { maxAge: 0, staleAge: 0 }
  )
  await until(() => ticks.length >= 10)
  clearInterval(timer)
  for (const value of await Promise.all(ticks)) assert.match(value, /loaded/)
})

test('caches are apart: the same key of another cache is another key', async t => {
  const one = open(t)
  const two = open(t)
  assert.equal(await one.get('k', () => two.get('k', () => 'from two')), 'from two')
})

test('a ring through two caches does not hang for ever', async t => {
  const one = open(t, { hardTimeout: 500 })
  const two = open(t, { hardTimeout: 500 })
  const outcome = await one.get('k', () => two.get('k', () => one.get('k', () => 'never'))).catch(error => error.code)
  assert.match(outcome, /^ERR_KVCACHE_(RECURSION|TIMEOUT)$/)
})

test('a get of another key in a refresh, with only one place in the queue, is no deadlock', async t => {
  const cache = open(t, { refresh: { concurrency: 1 } })
  await cache.put('a', 'old', STALE)
  await cache.put('b', 'old', STALE)
  assert.equal(
    await cache.get('a', async () => {
      const b = await cache.get('b', () => 'new b')
      const c = await cache.get('c', () => 'new c')
      const forced = await cache.get('b', () => 'forced b', { forceFresh: true })
      return [b, c, forced].join()
    }),
    'old'
  )
  await cache.flush()
  assert.equal(await cache.get('a'), 'old,new c,forced b')
})
