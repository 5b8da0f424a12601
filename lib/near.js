// @ts-check
/**
 * The near cache: decoded values in front of the engine, one for each thread and cache.
 *
 * A hit here calls no native code, makes no object and asks the system for no time. Whether a copy still stands is read
 * from memory that the engine shares with every thread: the stamps of what covers it, and the time. What was put,
 * deleted or invalidated anywhere in the process changes a stamp before that call is answered, so a copy is never given
 * to a get that began later (`crates/engine/src/invalidation/stamps.rs` has the order of things, and why it is safe).
 *
 * Promises: bounded by count and by bytes; a copy that does not stand is asked for again, and an unchanged value is then
 * confirmed without being decoded anew; hits are reported to the engine in batches, at most half a second late.
 *
 * The reads of a hit are plain ones, not `Atomics.load()`, which V8 calls a function for (a third of a hit's time). A reader
 * that learned of a change, by a message, an atomic or the same thread, reads what was written before it all the same;
 * only where one read must come before another (`standsAnew`) does it take `Atomics`. `coherence.test.mjs` tests that the
 * reads are not moved out of loops.
 *
 * Which value comes in the engine decides: one that was asked for before, not long ago. Which copy goes when room is needed: SIEVE
 * (Zhang et al., NSDI 2024), which a hit costs nothing but a mark.
 */
import { H, clockMemory, header, native } from './native.js'
import { decode, decodeEncoded, share } from './values.js'

/** @typedef {import('./values.js').Serializer} Serializer */
/** @typedef {import('./values.js').Sharing} Sharing */

/** The epoch's place among the stamps. */
const EPOCH = 0
/** Copies that are reported together at most, and for a small near cache at least. */
const MOST_TOGETHER = 8192
const LEAST_TOGETHER = 256
/** Numbers for each of them. */
const NUMBERS = 4
/** How long hits wait to be reported while others come, and when none come, in milliseconds. */
const REPORT_AFTER = 100
const REPORT_LATEST = 500
/** A value of more than this part of all bytes is not kept. */
const MOST_OF_ALL = 16

/**
 * The engine's time, the lower 31 bits of it in milliseconds; while nobody has wanted it for a second it is past every
 * moment, so that the engine is asked.
 */
const clock = clockMemory === null ? Int32Array.of(2 ** 31 - 1) : new Int32Array(clockMemory)

/** The head where no other process writes to a log of ours. */
const UNMOVED = Int32Array.of(0)

/** A value decoded in this thread, and what is needed to see whether it still stands. */
class Copy {
  /**
   * @param {string} key
   */
  constructor(key) {
    // What a hit looks at comes first, so that it lies together.
    /** Answers while the engine's time is below. */
    this.until = header[H.NEAR_UNTIL] | 0
    this.slot = header[H.SLOT] | 0
    this.stamp = header[H.STAMP] | 0
    this.epoch = header[H.EPOCH] | 0
    /** The promise that every caller gets; undefined where each gets a value of its own. @type {Promise<unknown> | undefined} */
    this.promise = undefined
    /** Hits not reported yet. */
    this.hits = 0
    /** @type {unknown} */
    this.value = undefined
    /** It was used since the hand of SIEVE passed. */
    this.visited = false
    this.sum = header[H.SUM] | 0
    this.shared = sharedSlots()
    this.key = key
    this.version = header[H.VERSION]
    this.size = header[H.SIZE] + key.length
    this.hashLow = header[H.HASH_LOW] | 0
    this.hashHigh = header[H.HASH_HIGH] | 0
    /** How its hits are reported: its route doubled, plus 1 where it is stale. */
    this.label = label()
    /** What a value for one caller is made from. */
    this.kind = 0
    /** @type {any} */
    this.data = undefined
    /** Neighbours in the order of coming. @type {Copy | undefined} */
    this.older = undefined
    /** @type {Copy | undefined} */
    this.newer = undefined
  }

  /** The engine has just said that the value is the same; whether its label is too. */
  renew() {
    this.until = header[H.NEAR_UNTIL] | 0
    this.slot = header[H.SLOT] | 0
    this.stamp = header[H.STAMP] | 0
    this.epoch = header[H.EPOCH] | 0
    this.sum = header[H.SUM] | 0
  }
}

/** @returns {number[]} */
function sharedSlots() {
  const slots = []
  const end = H.SHARED + header[H.SHARED_LEN]
  for (let at = H.SHARED; at < end; at++) slots.push(header[at] | 0)
  return slots
}

/**
 * Whether these are the shared slots that the engine has just named: an ancestor may have come or gone.
 * @param {number[]} slots
 */
function hasSharedSlots(slots) {
  if (slots.length !== header[H.SHARED_LEN]) return false
  for (let i = 0; i < slots.length; i++) if (slots[i] !== header[H.SHARED + i]) return false
  return true
}

function label() {
  return header[H.ROUTE] * 2 + (header[H.STATUS] === 2 ? 1 : 0)
}

/**
 * Whether nothing that covers a copy has changed since it was made.
 * @param {Int32Array} words
 * @param {Copy} copy
 */
function stands(words, copy) {
  return words[copy.slot] === copy.stamp && (words[EPOCH] === copy.epoch || standsAnew(words, copy))
}

/**
 * Something shared has changed: was it something of this copy's?
 * @param {Int32Array} words
 * @param {Copy} copy
 */
function standsAnew(words, copy) {
  const epoch = Atomics.load(words, EPOCH)
  const { shared } = copy
  let sum = 0
  for (let i = 0; i < shared.length; i++) sum = (sum + Atomics.load(words, shared[i])) | 0
  if (sum !== copy.sum) return false
  copy.epoch = epoch
  return true
}

export class Near {
  /** By key. @type {Map<string, Copy>} */
  #copies = new Map()
  #bytes = 0
  /** @type {Copy | undefined} */
  #oldest
  /** @type {Copy | undefined} */
  #newest
  /** Where SIEVE looks next. @type {Copy | undefined} */
  #hand
  /** Those with hits to be reported. @type {Copy[]} */
  #noted = []
  #report = new Int32Array(LEAST_TOGETHER * NUMBERS)
  /** The key that did not hit last, and its copy, which does not stand: for the look-up that follows. */
  #missedKey = ''
  /** @type {Copy | undefined} */
  #missed
  /** When they are to be, on the engine's clock. */
  #reportAt = 0
  /** @type {NodeJS.Timeout | undefined} */
  #timer

  /**
   * @param {number} number the cache's
   * @param {Int32Array} words its stamps
   * @param {Int32Array} head of the log that other processes write to
   * @param {object} options
   * @param {number} options.max copies
   * @param {number} options.maxBytes
   * @param {Sharing} options.values
   * @param {Serializer} serializer
   */
  constructor(number, words, head, { max, maxBytes, values }, serializer) {
    this.number = number
    this.words = words
    this.head = head
    /** The head as the engine was last asked: what others wrote up to there shows in the stamps. */
    this.seen = head[0]
    this.max = max
    this.maxBytes = maxBytes
    this.mostOfOne = maxBytes / MOST_OF_ALL
    this.values = values
    this.together = Math.min(MOST_TOGETHER, Math.max(LEAST_TOGETHER, max >> 1))
    this.serializer = serializer
  }

  /**
   * The near cache of a cache; undefined where there is to be none, or no memory can be shared with the engine.
   * @param {number} number
   * @param {{ max: number, maxBytes: number, values: Sharing } | null} options
   * @param {Serializer} serializer
   */
  static open(number, options, serializer) {
    if (options === null || clockMemory === null) return undefined
    const words = native.stampMemory(number, options.max)
    if (words === null) return undefined
    const head = native.headMemory(number)
    return new Near(number, new Int32Array(words), head === null ? UNMOVED : new Int32Array(head), options, serializer)
  }

  /**
   * The promise of a value that can be given at once, counted as a hit.
   * @param {string} key
   * @returns {Promise<any> | undefined}
   */
  get(key) {
    const copy = this.#hit(key)
    if (copy === undefined) return undefined
    return copy.promise === undefined ? Promise.resolve(this.#ownValue(copy)) : copy.promise
  }

  /**
   * The value itself, if it can be given at once, counted as a hit.
   * @param {string} key
   * @returns {unknown}
   */
  take(key) {
    const copy = this.#hit(key)
    if (copy === undefined) return undefined
    return copy.promise === undefined ? this.#ownValue(copy) : copy.value
  }

  /**
   * A copy that stands, with one more hit.
   * @param {string} key
   * @returns {Copy | undefined}
   */
  #hit(key) {
    const copy = this.#copies.get(key)
    if (copy === undefined) return this.#miss(key, copy)
    const now = clock[0]
    if (now >= copy.until || this.head[0] !== this.seen || !stands(this.words, copy)) return this.#miss(key, copy)
    if (copy.hits++ === 0) this.#note(copy)
    if (now >= this.#reportAt) this.report()
    return copy
  }

  /**
   * @param {string} key
   * @param {Copy | undefined} copy
   */
  #miss(key, copy) {
    this.#missedKey = key
    this.#missed = copy
    return undefined
  }

  /**
   * The value itself, if it can be given at once; counts nothing.
   * @param {string} key
   * @returns {unknown}
   */
  peek(key) {
    const copy = this.#copies.get(key)
    if (copy === undefined || clock[0] >= copy.until || this.head[0] !== this.seen || !stands(this.words, copy)) {
      return undefined
    }
    return copy.promise === undefined ? this.#ownValue(copy) : copy.value
  }

  /**
   * @param {Copy} copy
   * @returns {unknown}
   */
  #ownValue(copy) {
    return decodeEncoded(copy.kind, copy.data, this.serializer, copy.key)
  }

  /**
   * Lets the next look-up of the key know which value this thread has a copy of.
   * @param {string} key
   */
  ask(key) {
    this.seen = this.head[0]
    const copy = key === this.#missedKey ? this.#missed : this.#copies.get(key)
    header[H.IN_VERSION] = copy === undefined ? 0 : copy.version
  }

  /**
   * The look-up just made has found the value that this thread has a copy of: gives it, and lets it answer on.
   * @param {string} key
   * @returns {unknown}
   */
  confirmed(key) {
    const copy = /** @type {Copy} */ (this.#copies.get(key))
    copy.renew()
    copy.visited = true
    const now = label()
    if (copy.label !== now) {
      const shared = sharedSlots()
      // Its hits so far were of the other label.
      if (copy.hits > 0) this.report()
      copy.label = now
      copy.shared = shared
    } else if (!hasSharedSlots(copy.shared)) {
      copy.shared = sharedSlots()
    }
    return copy.promise === undefined ? this.#ownValue(copy) : copy.value
  }

  /**
   * What is to be known of the value that the look-up just made has found, for {@link keep}; undefined if it is not to be
   * kept.
   * @param {string} key
   * @returns {Copy | undefined}
   */
  begin(key) {
    return header[H.NEAR_UNTIL] === 0 || header[H.SIZE] + key.length > this.mostOfOne ? undefined : new Copy(key)
  }

  /**
   * Decodes a value found, and keeps a copy of it.
   * @param {Copy | undefined} copy
   * @param {number} kind
   * @param {any} data
   * @param {string} key
   * @returns {unknown}
   */
  keep(copy, kind, data, key) {
    if (copy === undefined) {
      const value = decode(kind, data, this.serializer, key)
      share(value, kind, this.values)
      return value
    }
    const value = decodeEncoded(kind, data, this.serializer, key)
    copy.value = value
    if (share(value, kind, this.values)) {
      copy.promise = Promise.resolve(value)
    } else {
      copy.value = undefined
      copy.kind = kind
      copy.data = data
    }
    this.#insert(copy)
    return value
  }

  /**
   * @param {Copy} copy
   */
  #insert(copy) {
    this.#miss('', undefined)
    const old = this.#copies.get(copy.key)
    if (old !== undefined) this.#remove(old)
    while (this.#copies.size >= this.max || this.#bytes + copy.size > this.maxBytes) this.#evict()
    this.#copies.set(copy.key, copy)
    this.#bytes += copy.size
    copy.older = this.#newest
    if (this.#newest !== undefined) this.#newest.newer = copy
    this.#newest = copy
    this.#oldest ??= copy
  }

  #evict() {
    let copy = /** @type {Copy} */ (this.#hand ?? this.#oldest)
    while (copy.visited) {
      copy.visited = false
      copy = /** @type {Copy} */ (copy.newer ?? this.#oldest)
    }
    this.#hand = copy
    this.#remove(copy)
  }

  /**
   * @param {Copy} copy
   */
  #remove(copy) {
    this.#copies.delete(copy.key)
    this.#bytes -= copy.size
    const { older, newer } = copy
    if (older === undefined) this.#oldest = newer
    else older.newer = newer
    if (newer === undefined) this.#newest = older
    else newer.older = older
    if (this.#hand === copy) this.#hand = newer
    copy.older = undefined
    copy.newer = undefined
  }

  /**
   * A copy has its first hit since the last report.
   * @param {Copy} copy
   */
  #note(copy) {
    copy.visited = true
    if (this.#noted.push(copy) >= this.together) this.report()
    if (this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined
        this.report()
      }, REPORT_LATEST)
      this.#timer.unref()
    }
  }

  /** Tells the engine of the hits that it does not know yet. */
  report() {
    const noted = this.#noted
    const len = noted.length
    if (len === 0) return
    if (len * NUMBERS > this.#report.length) this.#report = new Int32Array(this.together * NUMBERS)
    const report = this.#report
    for (let i = 0, at = 0; i < len; i++, at += NUMBERS) {
      const copy = noted[i]
      report[at] = copy.hashLow
      report[at + 1] = copy.hashHigh
      report[at + 2] = copy.hits
      report[at + 3] = copy.label
      copy.hits = 0
    }
    noted.length = 0
    native.reportNear(this.number, report, len)
    this.#reportAt = (clock[0] + REPORT_AFTER) | 0
  }

  /** Reports what is left, and forgets everything. */
  close() {
    this.report()
    clearTimeout(this.#timer)
    this.#copies.clear()
    this.#oldest = this.#newest = this.#hand = undefined
    this.#bytes = 0
  }
}
