// @ts-check
/**
 * Versioned content: every publication is an entry of its own that never changes, and a pointer says which is shown.
 *
 * Promises: a reader gets a whole publication with its own number and date, the one shown when it asked or a later one;
 * a number is given once, by a log that processes share where a tier has one. The engine gives numbers and moves the pointer (`crates/engine/src/engine/publishing.rs`); here
 * values are encoded first, so that a serializer that throws has changed nothing, and read through the near cache.
 */
import { closed, invalidKey, invalidOption, noVersion, whyInvalidKey } from './errors.js'
import { encodePart } from './key.js'
import { H, Status, checkMail, header, native } from './native.js'
import { parseVersion, publishOptions, versionOption } from './options.js'
import { encode } from './values.js'

/** @typedef {import('./core.js').Core} Core */

/** Bytes that the longest number adds to a key, with ':v' before it. */
const LONGEST_END = ':v9007199254740991'

export class VersionedContent {
  #core
  #name

  /**
   * @param {Core} core
   * @param {unknown} name
   */
  constructor(core, name) {
    // With a star or a backslash in it, a key could not be named in an invalidation without being escaped.
    if (typeof name !== 'string' || name === '' || !name.isWellFormed() || /[*\\]/.test(name)) {
      throw invalidOption('name', name, "a non-empty string without '*', '\\' and lone surrogates")
    }
    this.#core = core
    this.#name = name
  }

  /**
   * @param {string} id
   * @param {unknown} value
   * @param {any} [options]
   */
  async publish(id, value, options) {
    const { core, key } = this.#open(id)
    const { ages, metadata, ties, keep } = publishOptions(options)
    const { kind, data } = encode(value, core.serializer, key)
    let number = 0
    do {
      // Again where the log has lost its numbers, and gave one that is taken.
      if (core.behind !== undefined) number = await numberOf(core, core.behind, key)
      header[H.IN_MAX_AGE] = ages.maxAge
      header[H.IN_STALE_AGE] = ages.staleAge
      header[H.IN_STALE_IF_ERROR] = ages.staleIfError
      header[H.IN_ROUTE] = 0
      header[H.IN_KEEP] = keep
      header[H.IN_NUMBER] = number
      native.publish(core.number, key, kind, data, metadata, ties)
    } while (header[H.STATUS] === Status.None)
    if (header[H.STATUS] !== Status.Done) throw core.refusal(key)
    const published = { version: header[H.TOKEN], updatedAt: header[H.UPDATED_AT] }
    checkMail()
    if (core.behind !== undefined) {
      await core.behind.arrived(true)
      if (number > 0) await showLast(core, core.behind, key, number)
    }
    return published
  }

  /**
   * @param {string} id
   * @param {any} [options]
   */
  async get(id, options) {
    const { core, key } = this.#open(id)
    const wanted = versionOption(options)
    if (wanted !== undefined) return version(core, `${key}:v${wanted}`, wanted)
    const pointer = await core.read(`${key}:meta`)
    if (!isPointer(pointer)) return undefined
    const value = await core.read(`${key}:v${pointer.version}`)
    if (value !== undefined) return { value, version: pointer.version, updatedAt: pointer.updatedAt }
    return shown(core, key)
  }

  /**
   * @param {string} id
   */
  async versions(id) {
    const { core, key } = this.#open(id)
    return versions(core, key)
  }

  /**
   * @param {string} id
   * @param {number} version
   */
  async rollback(id, version) {
    const { core, key } = this.#open(id)
    const wanted = parseVersion(version)
    if (core.behind !== undefined) {
      await core.read(`${key}:v${wanted}`)
      await core.read(`${key}:meta`)
    }
    native.rollBack(core.number, key, wanted)
    if (header[H.STATUS] === Status.None) throw noVersion(key, version, versions(core, key))
    if (header[H.STATUS] !== Status.Done) throw core.refusal(key)
    checkMail()
    await core.behind?.arrived(true)
  }

  /**
   * @param {unknown} id
   */
  #open(id) {
    const core = this.#core
    if (core.closed) throw closed()
    const key = `${this.#name}:${encodePart(id, 'id')}`
    if (whyInvalidKey(key + LONGEST_END) !== undefined) throw invalidKey(key + LONGEST_END)
    return { core, key }
  }
}

/**
 * The number that a publication is to have, which no other process is given; 0 where this process gives the numbers.
 * @param {Core} core
 * @param {import('./behind.js').Behind} behind
 * @param {string} key
 */
async function numberOf(core, behind, key) {
  // What is shown, and the highest number, may be known to a tier only.
  await core.read(`${key}:meta`)
  return behind.nextVersion(key)
}

/**
 * Sees to it that of several publications at once, in as many processes, the last number is shown at the end: whoever finds
 * his own shown, with a later one there, has moved the pointer after that one's owner did, and moves it on.
 * @param {Core} core
 * @param {import('./behind.js').Behind} behind
 * @param {string} key
 * @param {number} own
 * @returns {Promise<void>}
 */
async function showLast(core, behind, key, own) {
  const last = await behind.lastVersion(key)
  for (let later = last; last > own && later >= own; later--) {
    const pointer = await core.read(`${key}:meta`)
    // Where it is not there, nobody's is shown.
    if (isPointer(pointer) && pointer.version !== own) return
    // One that is not there yet will be shown by its owner.
    if (await core.read(`${key}:v${later}`) === undefined) continue
    native.rollBack(core.number, key, later)
    if (header[H.STATUS] === Status.None) continue
    if (header[H.STATUS] !== Status.Done) throw core.refusal(key)
    checkMail()
    await behind.arrived(true)
    // A still later one may have been shown meanwhile.
    return later > own ? showLast(core, behind, key, later) : undefined
  }
}

/**
 * @param {any} value
 * @returns {value is { version: number, updatedAt: number }}
 */
function isPointer(value) {
  return Number.isSafeInteger(value?.version) && value.version > 0 && typeof value.updatedAt === 'number'
}

/**
 * What is shown, asked of the engine in one call: the pointer has moved on since it was read, or its content is gone.
 * @param {Core} core
 * @param {string} key
 */
async function shown(core, key) {
  if (core.closed) throw closed()
  const data = native.published(core.number, key)
  const status = header[H.STATUS]
  if (status < Status.None) throw core.refusal(key)
  if (status === Status.None) return undefined
  const version = header[H.TOKEN]
  const updatedAt = header[H.UPDATED_AT]
  const value = await core.found(key, data, false)
  return { value, version, updatedAt }
}

/**
 * One publication, whatever the pointer shows.
 * @param {Core} core
 * @param {string} key
 * @param {number} version
 */
async function version(core, key, version) {
  native.storedAt(core.number, key)
  if (header[H.STATUS] === Status.None && core.behind !== undefined) {
    await core.behind.find(key, false)
    native.storedAt(core.number, key)
  }
  if (header[H.STATUS] === Status.None) return undefined
  if (header[H.STATUS] !== Status.Done) throw core.refusal(key)
  const updatedAt = header[H.UPDATED_AT]
  const value = await core.read(key)
  return value === undefined ? undefined : { value, version, updatedAt }
}

/**
 * @param {Core} core
 * @param {string} key
 * @returns {number[]}
 */
function versions(core, key) {
  const versions = native.versions(core.number, key)
  if (header[H.STATUS] !== Status.Done) throw core.refusal(key)
  return versions
}
