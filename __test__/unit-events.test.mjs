// Guards: no listener can break the cache, and what listeners are called, how often and in which order.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Emitter, EVENTS } from '../lib/events.js'

const tick = () => new Promise(resolve => setImmediate(resolve))

describe('Emitter', () => {
  it('calls the listeners of an event in the order they were added, with the detail', () => {
    const emitter = new Emitter()
    const calls = []
    emitter.on('evict', detail => calls.push([1, detail]))
    emitter.on('evict', detail => calls.push([2, detail]))
    emitter.on('refresh', () => calls.push('wrong event'))
    emitter.emit('evict', 'x')
    assert.deepEqual(calls, [[1, 'x'], [2, 'x']])
  })

  it('knows whether anyone listens', () => {
    const emitter = new Emitter()
    const one = () => {}
    for (const event of EVENTS) {
      assert.equal(emitter.has(event), false)
      emitter.on(event, one)
      assert.equal(emitter.has(event), true)
      emitter.off(event, one)
      assert.equal(emitter.has(event), false)
    }
  })

  it('tells when an event gets its first listener and loses its last', () => {
    const told = []
    const emitter = new Emitter({ onListening: (event, listening) => told.push([event, listening]) })
    const [a, b] = [() => {}, () => {}]
    emitter.on('evict', a)
    emitter.on('evict', a)
    emitter.on('evict', b)
    emitter.off('evict', a)
    emitter.off('evict', a)
    emitter.off('evict', b)
    emitter.on('evict', b)
    assert.deepEqual(told, [['evict', true], ['evict', false], ['evict', true]])
  })

  it('refuses unknown events and listeners that are no functions', () => {
    const emitter = new Emitter()
    const refused = { code: 'ERR_KVCACHE_INVALID_OPTION' }
    for (const event of ['nope', '', 'Invalidate', '__proto__', 'constructor', Symbol('s'), undefined, null]) {
      assert.throws(() => emitter.on(event, () => {}), { ...refused, option: 'event' })
      assert.throws(() => emitter.off(event, () => {}), { ...refused, option: 'event' })
    }
    for (const fn of [undefined, null, 'f', {}]) {
      assert.throws(() => emitter.on('error', fn), { ...refused, option: 'listener' })
      assert.throws(() => emitter.off('error', fn), { ...refused, option: 'listener' })
    }
    assert.throws(() => emitter.on('nope', () => {}), /'evict', 'invalidate', 'refresh', 'breaker', 'error'/)
  })

  it('calls a listener added twice once, and forgets it with one off()', () => {
    const emitter = new Emitter()
    let calls = 0
    const count = () => calls++
    emitter.on('evict', count)
    emitter.on('evict', count)
    emitter.emit('evict', 0)
    assert.equal(calls, 1)
    emitter.off('evict', count)
    emitter.off('evict', count)
    emitter.emit('evict', 0)
    assert.equal(calls, 1)
  })

  it('does not call a listener removed during the event, nor yet one added during it', () => {
    const emitter = new Emitter()
    const calls = []
    const last = () => calls.push('last')
    const late = () => calls.push('late')
    emitter.on('evict', () => {
      calls.push('first')
      emitter.off('evict', last)
      emitter.on('evict', late)
    })
    emitter.on('evict', last)
    emitter.emit('evict', 0)
    assert.deepEqual(calls, ['first'])
    emitter.emit('evict', 0)
    assert.deepEqual(calls, ['first', 'first', 'late'])
  })

  it('lets a listener remove itself', () => {
    const emitter = new Emitter()
    let calls = 0
    const once = () => {
      calls++
      emitter.off('evict', once)
    }
    emitter.on('evict', once)
    emitter.emit('evict', 0)
    emitter.emit('evict', 0)
    assert.equal(calls, 1)
  })

  it("reports what a listener throws to 'error', and goes on with the others", () => {
    const failures = []
    const emitter = new Emitter({ onFailure: cause => failures.push(cause) })
    const errors = []
    const thrown = new Error('mine')
    let reached = false
    emitter.on('refresh', () => { throw thrown })
    emitter.on('refresh', () => { reached = true })
    emitter.on('error', error => errors.push(error))
    emitter.emit('refresh', 0)
    assert.ok(reached)
    assert.equal(errors.length, 1)
    assert.equal(errors[0].code, 'ERR_KVCACHE_LISTENER')
    assert.equal(errors[0].cause, thrown)
    assert.equal(errors[0].event, 'refresh')
    assert.deepEqual(failures, [thrown])
  })

  it("swallows and counts what fails among the 'error' listeners", () => {
    const failures = []
    const emitter = new Emitter({ onFailure: cause => failures.push(cause) })
    let reached = 0
    emitter.on('error', () => { throw 'first' })
    emitter.on('error', () => reached++)
    emitter.emit('error', new Error('x'))
    assert.deepEqual(failures, ['first'])
    emitter.on('breaker', () => { throw undefined })
    emitter.emit('breaker', 0)
    assert.deepEqual(failures, ['first', undefined, 'first'])
    assert.equal(reached, 2)
  })

  it('counts a failure that nobody listens for', () => {
    const failures = []
    const emitter = new Emitter({ onFailure: cause => failures.push(cause) })
    emitter.on('evict', () => { throw 1 })
    emitter.emit('evict', 0)
    assert.deepEqual(failures, [1])
  })

  it('leaves no unhandled rejection of an async listener', async () => {
    const unhandled = []
    const note = reason => unhandled.push(reason)
    process.on('unhandledRejection', note)
    try {
      const failures = []
      const emitter = new Emitter({ onFailure: cause => failures.push(cause) })
      const errors = []
      const thenable = { then(_, reject) { reject('thenable') } }
      emitter.on('refresh', async () => { throw 'async' })
      emitter.on('evict', () => thenable)
      emitter.on('breaker', () => ({ get then() { throw 'getter' } }))
      emitter.on('error', async error => {
        errors.push(error.cause)
        throw 'in error'
      })
      emitter.emit('refresh', 0)
      await tick()
      emitter.emit('evict', 0)
      await tick()
      emitter.emit('breaker', 0)
      await tick()
      assert.deepEqual(errors, ['async', 'thenable', 'getter'])
      assert.deepEqual(failures, ['async', 'in error', 'thenable', 'in error', 'getter', 'in error'])
      assert.deepEqual(unhandled, [])
    } finally {
      process.off('unhandledRejection', note)
    }
  })

  it('works without hooks', () => {
    const emitter = new Emitter()
    emitter.on('evict', () => { throw 1 })
    assert.doesNotThrow(() => emitter.emit('evict', 0))
  })
})
