// Guards I1, I2 and I3 at once, in random order: gets, forced gets, aborts, puts and deletes of a few keys while fetchers settle when
// chance says so, compared step by step with a naive model of what each caller must see.

import { assert, open, test } from './helpers/kv.mjs'

const KEYS = ['a', 'b', 'c']

/** A small generator of repeatable chance (mulberry32). */
function chance(seed) {
  return n => {
    seed = (seed + 0x6d2b79f5) | 0
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % n
  }
}

/** Lets everything that is ready run. */
async function turn() {
  await new Promise(resolve => setImmediate(resolve))
  await new Promise(resolve => setImmediate(resolve))
}

class Run {
  constructor(cache, random) {
    this.cache = cache
    this.random = random
    this.next = 0
    this.log = []
    /** What a get would find, by key. */
    this.stored = new Map()
    /** The load that a get would join, by key. */
    this.current = new Map()
    /** All loads whose fetcher has not settled. */
    this.open = []
    /** Callers not yet answered. */
    this.waiting = new Set()
  }

  /** The fetcher of all gets: called when, and only when, the model has begun a load. */
  fetcher = key => {
    const load = this.current.get(key)
    assert.ok(load !== undefined && load.called === 0, `a fetcher of ${key} is called that nobody needs`)
    load.called += 1
    return new Promise((resolve, reject) => Object.assign(load, { resolve, reject }))
  }

  get(key, forceFresh) {
    const controller = new AbortController()
    const caller = { key, controller, outcome: undefined }
    if (!forceFresh && this.stored.has(key)) {
      caller.expected = { value: this.stored.get(key) }
    } else {
      let load = this.current.get(key)
      if (load === undefined) {
        load = { key, called: 0, callers: new Set() }
        this.current.set(key, load)
        this.open.push(load)
      }
      load.callers.add(caller)
      caller.load = load
    }
    this.waiting.add(caller)
    this.cache.get(key, this.fetcher, { forceFresh, signal: controller.signal }).then(
      value => (caller.outcome = { value }),
      error => (caller.outcome = { error })
    )
  }

  settle(good) {
    const load = this.open.splice(this.random(this.open.length), 1)[0]
    const value = this.next++
    const error = new Error(`failure ${value}`)
    const current = this.current.get(load.key) === load
    if (current) this.current.delete(load.key)
    if (good && current) this.stored.set(load.key, value)
    // A load that failed is stood in for by what the cache holds by then.
    const standIn = !good && this.stored.has(load.key) ? { value: this.stored.get(load.key) } : undefined
    for (const caller of load.callers) caller.expected = good ? { value } : (standIn ?? { error })
    if (good) load.resolve(value)
    else load.reject(error)
  }

  abort() {
    const callers = [...this.waiting].filter(({ load, expected }) => load !== undefined && expected === undefined)
    if (callers.length === 0) return
    const caller = callers[this.random(callers.length)]
    const { load } = caller
    caller.expected = { error: caller }
    load.callers.delete(caller)
    if (load.callers.size === 0 && this.current.get(load.key) === load) this.current.delete(load.key)
    caller.controller.abort(caller)
  }

  write(key, puts) {
    this.current.delete(key)
    if (puts) {
      const value = this.next++
      this.stored.set(key, value)
      return this.cache.put(key, value)
    }
    this.stored.delete(key)
    return this.cache.delete(key)
  }

  async step() {
    const key = KEYS[this.random(KEYS.length)]
    const dice = this.random(20)
    this.log.push(`${dice} ${key}`)
    if (dice < 7) this.get(key, false)
    else if (dice < 9) this.get(key, true)
    else if (dice < 13) this.open.length > 0 && this.settle(true)
    else if (dice < 15) this.open.length > 0 && this.settle(false)
    else if (dice < 17) this.abort()
    else if (dice < 18) await this.write(key, true)
    else await this.write(key, false)
  }

  /** Compares what is to be seen with what the model says. */
  check() {
    const trace = this.log.join(', ')
    for (const load of this.open) assert.equal(load.called, 1, `the fetcher of ${load.key} is called once: ${trace}`)
    for (const caller of this.waiting) {
      if (caller.expected === undefined) {
        assert.equal(caller.outcome, undefined, `a get of ${caller.key} was answered too early: ${trace}`)
        continue
      }
      assert.ok(caller.outcome, `a get of ${caller.key} was not answered: ${trace}`)
      const { value, error } = caller.expected
      assert.equal(caller.outcome.value, value, `a get of ${caller.key}: ${trace}`)
      if (error !== undefined)
        assert.equal(caller.outcome.error?.message ?? caller.outcome.error, error.message ?? error, trace)
      this.waiting.delete(caller)
    }
    for (const key of KEYS)
      assert.equal(this.cache.peek(key), this.stored.get(key), `${key} holds something else: ${trace}`)
  }
}

test('random interleavings of loads and writes are seen as the model says, checked after each step', async t => {
  for (let seed = 1; seed <= 60; seed++) {
    const cache = open(t, { breaker: false })
    const run = new Run(cache, chance(seed))
    for (let i = 0; i < 60; i++) {
      await run.step()
      await turn()
      run.check()
    }
    while (run.open.length > 0) run.settle(true)
    await turn()
    run.check()
    assert.equal(run.waiting.size, 0)
    await cache.close()
  }
})

test('and so are several steps taken in one tick', async t => {
  for (let seed = 1001; seed <= 1060; seed++) {
    const cache = open(t, { breaker: false })
    const random = chance(seed)
    const run = new Run(cache, random)
    for (let i = 0; i < 40; i++) {
      // Fetchers that were just asked for have been called, or cannot be settled: so a tick is gets and writes.
      for (let n = random(5); n >= 0; n--) {
        const key = KEYS[random(KEYS.length)]
        const dice = random(10)
        run.log.push(`tick ${dice} ${key}`)
        if (dice < 6) run.get(key, dice === 5)
        else if (dice < 8) run.write(key, true)
        else run.write(key, false)
      }
      await turn()
      run.check()
      for (let n = random(3); n > 0 && run.open.length > 0; n--) run.settle(random(4) > 0)
      await turn()
      run.check()
    }
    while (run.open.length > 0) run.settle(true)
    await turn()
    run.check()
    assert.equal(run.waiting.size, 0)
    await cache.close()
  }
})
