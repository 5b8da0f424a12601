// Guards I1 and I2: what was put or deleted while a load ran is not undone by it. The load answers its own callers
// and is not stored; gets begun after a put see what was put; gets begun after a delete start a load of their own.

import { assert, EXPIRED, open, STALE, test } from './helpers/kv.mjs'
import { controlled, counted, settle, until } from './helpers/async.mjs'

/**
 * The ways in which a load of 'k' can be running. Each starts it, and tells how to settle it with a value and what
 * its own callers then get.
 */
const LOADS = {
  'a miss': async cache => {
    const fetcher = controlled()
    const get = cache.get('k', fetcher)
    const call = await fetcher.call(0)
    return { answer: get, bring: value => call.resolve(value) }
  },
  'a load of an expired value': async cache => {
    await cache.put('k', 'before', EXPIRED)
    const fetcher = controlled()
    const get = cache.get('k', fetcher)
    const call = await fetcher.call(0)
    return { answer: get, bring: value => call.resolve(value) }
  },
  'a forced load': async cache => {
    await cache.put('k', 'before')
    const fetcher = controlled()
    const get = cache.get('k', fetcher, { forceFresh: true })
    const call = await fetcher.call(0)
    return { answer: get, bring: value => call.resolve(value) }
  },
  'a background refresh': async cache => {
    await cache.put('k', 'before', STALE)
    const fetcher = controlled()
    assert.equal(await cache.get('k', fetcher), 'before')
    const call = await fetcher.call(0)
    return { bring: value => call.resolve(value) }
  },
  'a define()': async cache => {
    const fetcher = controlled()
    cache.define('k', fetcher)
    const get = cache.get('k')
    const call = await fetcher.call(0)
    return { answer: get, bring: value => call.resolve(value), defined: fetcher }
  },
  'a getMany()': async cache => {
    const fetcher = controlled()
    const many = cache.getMany(['other', 'k'], fetcher)
    const call = await fetcher.call(0)
    return {
      answer: many.then(found => found.get('k')),
      bring: value =>
        call.resolve(
          new Map([
            ['other', 1],
            ['k', value]
          ])
        )
    }
  },
  'a batch refresh of getMany()': async cache => {
    await cache.put('k', 'before', STALE)
    await cache.put('other', 'before', STALE)
    const fetcher = controlled()
    assert.equal((await cache.getMany(['other', 'k'], fetcher)).get('k'), 'before')
    const call = await fetcher.call(0)
    return { bring: value => call.resolve({ k: value, other: 2 }) }
  }
}

const PUTS = {
  'put()': cache => cache.put('k', 'put'),
  'putMany()': cache =>
    cache.putMany([
      ['x', 1],
      ['k', 'put'],
      ['y', 1]
    ]),
  'delete() and put()': async cache => {
    await cache.delete('k')
    await cache.put('k', 'put')
  }
}

const DELETES = {
  'delete(key)': cache => cache.delete('k'),
  'delete(keys)': cache => cache.delete(['x', 'k', 'y']),
  'put() and delete()': async cache => {
    await cache.put('k', 'put')
    await cache.delete('k')
  }
}

for (const [load, start] of Object.entries(LOADS)) {
  for (const [write, apply] of Object.entries(PUTS)) {
    test(`${write} during ${load} wins`, async t => {
      const cache = open(t)
      const { answer, bring } = await start(cache)
      await apply(cache)
      assert.equal(cache.peek('k'), 'put')
      const unused = counted(() => 'unused')
      assert.equal(await cache.get('k', unused), 'put', 'a get begun after it sees it')
      assert.equal((await cache.getMany(['k'], unused)).get('k'), 'put')
      bring('loaded')
      if (answer) assert.equal(await answer, 'loaded', 'the load answers its own callers')
      await cache.flush()
      await settle()
      assert.equal(await cache.get('k'), 'put', 'and does not undo it')
      assert.equal(unused.count, 0)
    })
  }

  for (const [write, apply] of Object.entries(DELETES)) {
    test(`${write} during ${load}: the load is not stored, and a get begun after starts a new one`, async t => {
      const cache = open(t)
      const { answer, bring, defined } = await start(cache)
      await apply(cache)
      assert.equal(cache.peek('k'), undefined)
      assert.equal(await cache.has('k'), false)
      const fetcher = defined ?? controlled()
      const before = fetcher.calls.length
      const after = cache.get('k', fetcher)
      const call = await fetcher.call(before)
      assert.equal(call.context.reason, 'miss')
      assert.equal(call.context.stale, undefined)
      bring('loaded')
      if (answer) assert.equal(await answer, 'loaded', 'the load answers its own callers')
      await settle()
      assert.equal(cache.peek('k'), undefined, 'and nobody else')
      call.resolve('new')
      assert.equal(await after, 'new')
      assert.equal(await cache.get('k'), 'new')
      await cache.flush()
    })

    test(`${write} during ${load}: coming in after the new load it does not overwrite it either`, async t => {
      const cache = open(t)
      const { answer, bring, defined } = await start(cache)
      await apply(cache)
      const fetcher = defined ?? controlled()
      const before = fetcher.calls.length
      const after = cache.get('k', fetcher)
      ;(await fetcher.call(before)).resolve('new')
      assert.equal(await after, 'new')
      bring('loaded')
      if (answer) assert.equal(await answer, 'loaded')
      await cache.flush()
      await settle()
      assert.equal(await cache.get('k'), 'new')
    })

    test(`${write} during ${load}: with nobody asking again the key stays empty`, async t => {
      const cache = open(t)
      const { answer, bring } = await start(cache)
      await apply(cache)
      bring('loaded')
      if (answer) assert.equal(await answer, 'loaded')
      await cache.flush()
      await settle()
      assert.equal(cache.peek('k'), undefined)
      assert.equal(await cache.has('k'), false)
      assert.ok(!(await cache.list()).keys.some(({ name }) => name === 'k'))
    })
  }
}

test('a load begun after a put or delete is stored', async t => {
  const cache = open(t)
  await cache.put('a', 'put', EXPIRED)
  assert.equal(
    await cache.get(
      'a',
      counted(() => 'loaded')
    ),
    'loaded'
  )
  assert.equal(await cache.get('a'), 'loaded')
  await cache.delete('a')
  assert.equal(
    await cache.get(
      'a',
      counted(() => 'again')
    ),
    'again'
  )
  assert.equal(await cache.get('a'), 'again')
  await cache.delete('never there')
  assert.equal(
    await cache.get(
      'never there',
      counted(() => 'loaded')
    ),
    'loaded'
  )
  assert.equal(await cache.get('never there'), 'loaded')
})

test('a write after a load has been stored replaces it', async t => {
  const cache = open(t)
  await cache.get('k', () => 'loaded')
  await cache.put('k', 'put')
  assert.equal(await cache.get('k'), 'put')
  assert.equal(await cache.delete('k'), true)
  assert.equal(await cache.get('k'), undefined)
})

test('writes to other keys, tens of thousands of them, do not keep a load from being stored', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const get = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await cache.putMany(Array.from({ length: 20_000 }, (_, i) => [`other${i}`, i]))
  await cache.delete(Array.from({ length: 20_000 }, (_, i) => `other${i}`))
  await cache.put('kk', 1)
  await cache.delete('K')
  call.resolve('loaded')
  assert.equal(await get, 'loaded')
  assert.equal(cache.peek('k'), 'loaded')
})

test('a delete during one of many loads cuts that one alone', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const gets = Array.from({ length: 100 }, (_, i) => cache.get(`k${i}`, fetcher))
  await fetcher.call(99)
  await cache.delete('k42')
  for (const call of fetcher.calls) call.resolve(call.key)
  assert.deepEqual(
    await Promise.all(gets),
    Array.from({ length: 100 }, (_, i) => `k${i}`)
  )
  assert.equal(cache.peek('k42'), undefined)
  assert.equal(cache.stats().entries, 99)
})

test('a delete during a getMany() cuts that key alone', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const many = cache.getMany(['a', 'b', 'c'], fetcher)
  const call = await fetcher.call(0)
  await cache.delete('b')
  call.resolve({ a: 1, b: 2, c: 3 })
  assert.deepEqual(
    [...(await many)],
    [
      ['a', 1],
      ['b', 2],
      ['c', 3]
    ]
  )
  assert.deepEqual([cache.peek('a'), cache.peek('b'), cache.peek('c')], [1, undefined, 3])
})

test('callers from before and after a delete are each answered by their own load', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const generations = []
  for (let i = 0; i < 5; i++) {
    generations.push([cache.get('k', fetcher), cache.get('k', fetcher)])
    await fetcher.call(i)
    await cache.delete('k')
  }
  // The youngest first, the oldest last.
  for (let i = 4; i >= 0; i--) {
    fetcher.calls[i].resolve(`generation ${i}`)
    assert.deepEqual(await Promise.all(generations[i]), [`generation ${i}`, `generation ${i}`])
  }
  assert.equal(fetcher.calls.length, 5)
  assert.equal(cache.peek('k'), undefined)
})

test('a load cut by a delete that fails is no answer to those who came after', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const before = cache.get('k', fetcher)
  await fetcher.call(0)
  await cache.delete('k')
  const after = cache.get('k', fetcher)
  await fetcher.call(1)
  fetcher.calls[0].reject(new Error('the old one'))
  await assert.rejects(before, /the old one/)
  fetcher.calls[1].resolve('new')
  assert.equal(await after, 'new')
})

test('a load that fails after a delete does not bring back the copy that was in hand', async t => {
  const cache = open(t)
  const fetcher = controlled()
  await cache.put('k', 'old', EXPIRED)
  const get = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await cache.delete('k')
  call.reject(new Error('down'))
  await get.catch(() => {})
  await settle()
  assert.equal(await cache.get('k'), undefined)
  await assert.rejects(
    cache.get('k', () => Promise.reject(new Error('still down'))),
    /still down/
  )
})

test('a refresh that waits for its retry is cut by a put or delete too', async t => {
  const cache = open(t, { refresh: { retries: 3, backoff: 100 } })
  for (const [write, expected] of [
    ['put', 'put'],
    ['delete', undefined]
  ]) {
    const fetcher = controlled()
    await cache.put(write, 'old', STALE)
    assert.equal(await cache.get(write, fetcher), 'old')
    ;(await fetcher.call(0)).reject(new Error('first attempt'))
    await settle()
    await (write === 'put' ? cache.put(write, 'put') : cache.delete(write))
    const stop = setInterval(() => fetcher.calls.at(-1).resolve('retried'), 5)
    await cache.flush()
    clearInterval(stop)
    // A retry begun after the write is a load like any other; one that is not must leave the write alone.
    const value = cache.peek(write)
    if (fetcher.calls.length === 1) assert.equal(value, expected)
    else assert.ok(value === expected || value === 'retried')
  }
})

test('a put that is refused does not cut a load', async t => {
  const cache = open(t)
  const fetcher = controlled()
  const get = cache.get('k', fetcher)
  const call = await fetcher.call(0)
  await assert.rejects(cache.put('k', () => {}))
  await assert.rejects(cache.put('k', 1, { maxAge: -1 }))
  await assert.rejects(
    cache.putMany([
      ['k', 1],
      ['x', undefined]
    ])
  )
  await assert.rejects(cache.delete(['k', '']))
  call.resolve('loaded')
  assert.equal(await get, 'loaded')
  assert.equal(cache.peek('k'), 'loaded')
})

test('once put or delete has resolved, no get begun later answers what was before', async t => {
  const cache = open(t, { breaker: false })
  const slow = counted(async n => {
    await settle()
    return `loaded ${n}`
  })
  let stop = false
  const background = (async () => {
    while (!stop) {
      await cache.get('k', slow, { maxAge: 0, staleAge: 60 })
      await new Promise(resolve => setImmediate(resolve))
    }
  })()
  for (let i = 0; i < 60; i++) {
    await cache.put('k', `put ${i}`)
    const value = await cache.get('k')
    assert.equal(value, `put ${i}`)
    await settle()
    assert.equal(await cache.get('k'), `put ${i}`)
    await cache.delete('k')
    const seen = await cache.get('k')
    assert.notEqual(seen, `put ${i}`)
  }
  stop = true
  await background
  await until(() => cache.stats().running === 0)
})
