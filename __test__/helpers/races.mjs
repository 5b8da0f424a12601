// @ts-check
// Loads of each kind and ways to cut them, for one thread or for several: a `Side` is what one thread does, `remote()` one in
// a worker, and `race()` and `racePublication()` play one pair through and check what everybody gets.

import assert from 'node:assert/strict'
import { KvCache } from '../../index.js'
import { controlled, until } from './async.mjs'

const TIES = Object.freeze({ tags: ['tag'], dependsOn: ['parent', 'page:1'] })
const STALE = Object.freeze({ maxAge: 0, staleAge: 3600 })

/** Where the loads are, and where the publications: of these the content that is shown first, and the pointer. */
export const KEY = 'item:1:x'
export const CONTENT = 'item:1:v1'
export const POINTER = 'item:1:meta'

/**
 * The kinds of loads. `begin` gets a fetcher of its own, and gives what its caller gets; none where he was answered before.
 * @type {Record<string, { ages?: object, begin(cache: any, fetcher: any): Promise<any> | undefined, of?(value: any): any }>}
 */
const LOADS = {
  'a miss': { begin: (cache, fetcher) => cache.get(KEY, fetcher, TIES) },
  'a stale refresh': { ages: STALE, begin: (cache, fetcher) => cache.get(KEY, fetcher, TIES) },
  'a getMany()': {
    begin: (cache, fetcher) => cache.getMany([KEY, 'item:2:x'], fetcher, TIES).then((/** @type {any} */ found) => found.get(KEY)),
    of: value => new Map([['item:2:x', 'other'], [KEY, value]])
  },
  'a define()': {
    begin(cache, fetcher) {
      cache.define('item:*', fetcher, TIES)
      return cache.get(KEY)
    }
  }
}
export const LOAD_NAMES = Object.keys(LOADS)

/** The ways to cut a key, and how what was cached stands to them: gone, replaced, or still served but stale.
 * @type {Record<string, { cut(cache: any, key: string): Promise<unknown>, kind: 'put' | 'hard' | 'soft' }>}
 */
export const CUTS = {
  'a put': { cut: (cache, key) => cache.put(key, 'put'), kind: 'put' },
  'a delete': { cut: (cache, key) => cache.delete(key), kind: 'hard' },
  'its key': { cut: (cache, key) => cache.invalidate({ key }), kind: 'hard' },
  'its key as a string': { cut: (cache, key) => cache.invalidate(key), kind: 'hard' },
  'a prefix': { cut: cache => cache.invalidate({ prefix: 'item:1' }), kind: 'hard' },
  'a pattern': { cut: (cache, key) => cache.invalidate(endingLike(key)), kind: 'hard' },
  'its tag': { cut: cache => cache.invalidate({ tag: 'tag' }), kind: 'hard' },
  'what it depends on, invalidated': { cut: cache => cache.invalidate({ key: 'parent' }), kind: 'hard' },
  'what it depends on, put': { cut: cache => cache.put('parent', 'changed'), kind: 'hard' },
  'what it depends on, published': { cut: cache => cache.versioned('page').publish('1', 'changed'), kind: 'hard' },
  'all': { cut: cache => cache.invalidate({ all: true }), kind: 'hard' },
  'several targets': { cut: cache => cache.invalidate([{ tag: 'none' }, { prefix: 'item:' }]), kind: 'hard' },
  'its key, softly': { cut: (cache, key) => cache.invalidate(key, { soft: true }), kind: 'soft' },
  'a prefix, softly': { cut: cache => cache.invalidate({ prefix: 'item:' }, { soft: true }), kind: 'soft' },
  'a pattern, softly': { cut: (cache, key) => cache.invalidate(endingLike(key), { soft: true }), kind: 'soft' },
  'its tag, softly': { cut: cache => cache.invalidate({ tag: 'tag' }, { soft: true }), kind: 'soft' },
  'what it depends on, softly': { cut: cache => cache.invalidate('parent', { soft: true }), kind: 'soft' },
  'all, softly': { cut: cache => cache.invalidate({ all: true }, { soft: true }), kind: 'soft' }
}
export const CUT_NAMES = Object.keys(CUTS)

/** @param {string} key */
function endingLike(key) {
  return `item:*:${key.slice(key.lastIndexOf(':') + 1)}`
}

/** What one thread does. Its arguments and results can be sent to another thread. */
export class Side {
  /** @type {any} */
  #call
  /** @type {Promise<any> | undefined} */
  #answer
  /** @type {Promise<any> | undefined} */
  #asked
  /** @type {(() => void) | undefined} */
  #whileSerializing

  /** @param {string | undefined} name */
  constructor(name) {
    const serializer = {
      name: 'talking',
      serialize: (/** @type {unknown} */ value) => {
        const now = this.#whileSerializing
        this.#whileSerializing = undefined
        now?.()
        return Buffer.from(JSON.stringify(value))
      },
      deserialize: (/** @type {Uint8Array} */ bytes) => JSON.parse(Buffer.from(bytes).toString())
    }
    this.cache = new KvCache({ ...(name === undefined ? {} : { name }), serializer })
    /** @type {any} */
    this.pages = this.cache.versioned('item')
  }

  /** @param {string} load the kind of load that it is there for */
  async putOld(load) {
    await this.cache.put('parent', 'unchanged')
    await this.cache.put(KEY, 'old', { ...LOADS[load].ages, ...TIES })
  }

  /** Reads what is cached, so that it is near. */
  async look() {
    for (let n = 0; n < 3; n++) await this.cache.get(KEY)
    return this.cache.get(KEY)
  }

  /** @param {string} load */
  async begin(load) {
    const fetcher = controlled()
    const answer = LOADS[load].begin(this.cache, fetcher)
    this.#call = await fetcher.call(0)
    if (load === 'a stale refresh') assert.equal(await answer, 'old')
    else this.#answer = answer
  }

  /** @param {string} load */
  resolve(load) {
    this.#call.resolve((LOADS[load].of ?? (value => value))('loaded'))
  }

  /** What the caller gets who waited for the load. */
  answer() {
    return this.#answer
  }

  /** @param {string} cut @param {string} key */
  async cut(cut, key) {
    await CUTS[cut].cut(this.cache, key)
  }

  /**
   * A load of that kind from beginning to end that would bring 'new', and whether it did.
   * @param {string} load
   */
  async load(load) {
    let loads = 0
    const value = await LOADS[load].begin(this.cache, async (/** @type {string | string[]} */ asked) => {
      if (asked === KEY || asked.includes(KEY)) loads++
      return (LOADS[load].of ?? (value => value))('new')
    })
    return { value, loads }
  }

  /** The same by a get(). */
  get() {
    return this.load('a miss')
  }

  /** Asks while a load runs. */
  ask() {
    this.#asked = this.get()
  }

  /** What it was given then. */
  asked() {
    return this.#asked
  }

  /** @returns {any} */
  peek() {
    return this.cache.peek(KEY)
  }

  /** What is cached, and its state, without a load. */
  async state() {
    const { value, state } = (await this.cache.getWithMetadata(KEY)) ?? {}
    return { value, state }
  }

  flush() {
    return this.cache.flush()
  }

  /**
   * Publishes content, and while it is being serialized has another side cut something, or cuts itself.
   * @param {string} value
   * @param {{ cut?: string, key?: string, flag?: Int32Array }} [meanwhile]
   */
  async publish(value, { cut, key, flag } = {}) {
    if (flag !== undefined) {
      await null
      this.#whileSerializing = () => {
        tell(flag, 1)
        awaitState(flag, 2)
      }
    } else if (cut !== undefined) {
      this.#whileSerializing = () => void CUTS[cut].cut(this.cache, key ?? CONTENT)
    }
    // A string would be stored as it is.
    const { version } = await this.pages.publish('1', { text: value }, TIES)
    assert.equal(this.#whileSerializing, undefined, 'it was serialized')
    return version
  }

  /**
   * Cuts something once another side has begun to serialize.
   * @param {string} cut @param {string} key @param {Int32Array} flag
   */
  async cutMeanwhile(cut, key, flag) {
    // The other side is told first, and then waited for.
    await null
    awaitState(flag, 1)
    await CUTS[cut].cut(this.cache, key)
    tell(flag, 2)
  }

  /** What is shown: value and version. */
  async shown() {
    const { value, version } = (await this.pages.get('1')) ?? {}
    return { value: value?.text ?? value, version }
  }

  close() {
    return this.cache.close({ timeout: 20 })
  }
}

/** @param {Int32Array} flag @param {number} state */
function tell(flag, state) {
  Atomics.store(flag, 0, state)
  Atomics.notify(flag, 0)
}

/** @param {Int32Array} flag @param {number} state */
function awaitState(flag, state) {
  while (Atomics.load(flag, 0) < state) Atomics.wait(flag, 0, state - 1, 1000)
}

/**
 * A side in a worker.
 * @param {ReturnType<typeof import('./threads.mjs').thread>} worker
 * @param {string} name of the cache
 * @returns {Promise<Side>}
 */
export async function remote(worker, name) {
  const open = async (/** @type {any} */ { state }, /** @type {any} */ { url, name }) => {
    const { Side } = await import(url)
    state.side = new Side(name)
  }
  await worker.run(open, { url: import.meta.url, name })
  const call = async (/** @type {any} */ { state }, /** @type {any} */ [method, args]) => state.side[method](...args)
  const methods = Object.getOwnPropertyNames(Side.prototype).filter(name => name !== 'constructor')
  return /** @type {any} */ (Object.fromEntries(
    methods.map(method => [method, (/** @type {any[]} */ ...args) => worker.run(call, [method, args])])
  ))
}

/** When a load is cut. */
export const WHEN = Object.freeze(['before it begins', 'while the fetcher runs', 'when it has ended'])

/**
 * @param {Side[]} readers
 * @param {'put' | 'hard' | 'soft'} kind of the cut
 * @param {string} cached what a soft one leaves
 * @param {(side: Side) => Promise<{ value: any, loads: number }>} ask
 */
async function checkCached(readers, kind, cached, ask = side => side.get()) {
  const [first, ...others] = readers
  const got = await ask(first)
  if (kind === 'put') assert.deepEqual(got, { value: 'put', loads: 0 })
  if (kind === 'hard') assert.deepEqual(got, { value: 'new', loads: 1 })
  if (kind === 'soft') {
    assert.equal(got.value, cached, 'the old value is served at once')
    await first.flush()
  }
  for (const side of [first, ...others]) {
    assert.deepEqual(await side.get(), { value: kind === 'put' ? 'put' : 'new', loads: 0 })
  }
}

/**
 * Has one side load and another cut, and checks what all get.
 * @param {string} load
 * @param {string} cut
 * @param {string} when
 * @param {{ loader: Side, cutter: Side, readers: Side[] }} sides
 */
export async function race(load, cut, when, { loader, cutter, readers }) {
  const { kind } = CUTS[cut]
  if (when === 'before it begins') {
    await loader.putOld(load)
    for (const side of readers) assert.equal(await side.look(), 'old')
    await cutter.cut(cut, KEY)
    if (kind === 'hard') for (const side of readers) assert.equal(await side.peek(), undefined)
    await checkCached([loader, ...readers], kind, 'old', side => side.load(load))
    return
  }
  const refreshes = load === 'a stale refresh'
  await loader.putOld(load)
  if (!refreshes) await loader.cut('a delete', KEY)
  else for (const side of readers) assert.equal(await side.look(), 'old')
  await loader.begin(load)
  if (when === 'when it has ended') {
    await loader.resolve(load)
    await loader.answer()
    for (const side of readers) {
      await until(async () => await side.peek() === 'loaded', 'it is stored')
      assert.equal(await side.look(), 'loaded')
    }
    await cutter.cut(cut, KEY)
    if (kind === 'hard') for (const side of readers) assert.equal(await side.peek(), undefined)
    await checkCached(readers, kind, 'loaded')
    return
  }
  await cutter.cut(cut, KEY)
  // A soft one is joined, or what is there goes on being served.
  if (kind === 'soft') for (const side of readers) await side.ask()
  else await checkCached(readers, kind, 'old')
  await loader.resolve(load)
  if (!refreshes) assert.equal(await loader.answer(), 'loaded', 'those who waited before get what was loaded')
  if (kind === 'soft') {
    for (const side of readers) assert.deepEqual(await side.asked(), { value: refreshes ? 'old' : 'loaded', loads: 0 })
  }
  await loader.flush()
  for (const side of readers) {
    if (kind !== 'soft') {
      const cached = { value: kind === 'put' ? 'put' : 'new', loads: 0 }
      assert.deepEqual(await side.get(), cached, 'what the outdated load brought is not stored')
    } else {
      await until(async () => await side.peek() === 'loaded', 'it is stored')
      assert.deepEqual(await side.state(), { value: 'loaded', state: 'stale' }, 'it is stored as stale')
    }
  }
}

/**
 * Has one side publish and another cut, and checks what all are shown.
 * @param {string} cut
 * @param {string} key which of the two is cut by its name: CONTENT or POINTER
 * @param {string} when 'before', 'meanwhile' or 'after'
 * @param {{ loader: Side, cutter: Side, readers: Side[] }} sides
 */
export async function racePublication(cut, key, when, { loader, cutter, readers }) {
  const { kind } = CUTS[cut]
  const shown = async (/** @type {object} */ expected, /** @type {string} */ why) => {
    for (const side of readers) assert.deepEqual(await side.shown(), expected, why)
  }
  const nothing = { value: undefined, version: undefined }
  assert.equal(await loader.publish('old'), 1)
  for (let n = 0; n < 3; n++) await shown({ value: 'old', version: 1 }, 'it is published')
  if (when !== 'meanwhile') {
    await cutter.cut(cut, key)
    // What is put in the place of the pointer is none.
    if (kind === 'hard' || kind === 'put' && key === POINTER) await shown(nothing, 'it is gone')
    else await shown({ value: kind === 'put' ? 'put' : 'old', version: 1 }, 'it is shown')
  }
  if (when === 'after') return
  if (when === 'before') {
    assert.equal(await loader.publish('new'), 2, 'a number is given once')
  } else if (cutter === loader) {
    assert.equal(await loader.publish('new', { cut, key }), 2)
  } else {
    const flag = new Int32Array(new SharedArrayBuffer(4))
    const [version] = await Promise.all([loader.publish('new', { flag }), cutter.cutMeanwhile(cut, key, flag)])
    assert.equal(version, 2)
  }
  await shown({ value: 'new', version: 2 }, 'a publication wins over what was cut before it')
}
