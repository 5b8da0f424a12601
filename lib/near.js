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
/** Places at first. */
const LEAST_PLACES = 64

/**
 * What a hit looks at, eight words a place, so that it lies together: half a line of the processor's cache, where the object would
 * take two or three.
 */
const WORDS_LOG2 = 3
/** Answers while the engine's time is below. */
const UNTIL = 0
/** Its stamp, and the place of that. */
const SLOT = 1
const STAMP = 2
/** The epoch at which what it shares with others was last seen unchanged. */
const SEEN = 3
/** Hits not reported yet. */
const HITS = 4
/** How its hits are reported: its route doubled, plus 1 where it is stale; and beside it {@link VISITED}. */
const LABEL = 5
const HASH_LOW = 6
const HASH_HIGH = 7
/** It was used since the hand of SIEVE passed. */
const VISITED = 1 << 30

/**
 * The engine's time, the lower 31 bits of it in milliseconds; while nobody has wanted it for a second it is past every
 * moment, so that the engine is asked.
 */
const clock = clockMemory === null ? Int32Array.of(2 ** 31 - 1) : new Int32Array(clockMemory)

/** The head where no other process writes to a log of ours. */
const UNMOVED = Int32Array.of(0)

/** What is known of a value decoded in this thread beside what a hit looks at. */
class Copy {
  /**
   * @param {string} key
   */
  constructor(key) {
    this.key = key
    this.version = header[H.VERSION]
    this.size = header[H.SIZE] + key.length
    this.sum = header[H.SUM] | 0
    this.shared = sharedSlots()
    /** Its words, until it has a place. */
    this.until = header[H.NEAR_UNTIL] | 0
    this.slot = header[H.SLOT] | 0
    this.stamp = header[H.STAMP] | 0
    this.epoch = header[H.EPOCH] | 0
    this.label = label()
    this.hashLow = header[H.HASH_LOW] | 0
    this.hashHigh = header[H.HASH_HIGH] | 0
    /** What a value for one caller is made from. */
    this.kind = 0
    /** @type {any} */
    this.data = undefined
    this.place = 0
    /** Neighbours in the order of coming. @type {Copy | undefined} */
    this.older = undefined
    /** @type {Copy | undefined} */
    this.newer = undefined
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

export class Near {
  /** The place of each key. @type {Map<string, number>} */
  #places = new Map()
  #rows = new Int32Array(LEAST_PLACES << WORDS_LOG2)
  /** By place. The promise is what every caller gets; undefined where each gets a value of its own. @type {(Promise<unknown> | undefined)[]} */
  #promises = []
  /** By place. @type {unknown[]} */
  #values = []
  /** By place. @type {(Copy | undefined)[]} */
  #copies = []
  /** Places that are free. @type {number[]} */
  #free = []
  #bytes = 0
  /** @type {Copy | undefined} */
  #oldest
  /** @type {Copy | undefined} */
  #newest
  /** Where SIEVE looks next. @type {Copy | undefined} */
  #hand
  /** Places with hits to be reported, or that had some. @type {number[]} */
  #noted = []
  #report = new Int32Array(LEAST_TOGETHER * NUMBERS)
  /** Hits of what has gone, at the beginning of the report. */
  #left = 0
  /** The key that did not hit last, and the place of its copy, which does not stand: for the look-up that follows. */
  #missedKey = ''
  /** @type {number | undefined} */
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
    const place = this.#hit(key)
    if (place === undefined) return undefined
    const promise = this.#promises[place]
    return promise === undefined ? Promise.resolve(this.#ownValue(place)) : promise
  }

  /**
   * The value itself, if it can be given at once, counted as a hit.
   * @param {string} key
   * @returns {unknown}
   */
  take(key) {
    const place = this.#hit(key)
    return place === undefined ? undefined : this.#valueAt(place)
  }

  /**
   * The place of a copy that stands, with one more hit.
   * @param {string} key
   * @returns {number | undefined}
   */
  #hit(key) {
    const place = this.#places.get(key)
    if (place === undefined) return this.#miss(key, place)
    const now = clock[0]
    if (!this.#stands(place, now)) return this.#miss(key, place)
    const hits = (place << WORDS_LOG2) + HITS
    if (this.#rows[hits]++ === 0) this.#note(place)
    if (now >= this.#reportAt) this.report()
    return place
  }

  /**
   * @param {string} key
   * @param {number | undefined} place
   */
  #miss(key, place) {
    this.#missedKey = key
    this.#missed = place
    return undefined
  }

  /**
   * Whether a copy may still be given: its time has not come, and nothing that covers it has changed since it was made.
   * @param {number} place
   * @param {number} now
   */
  #stands(place, now) {
    const rows = this.#rows
    const { words } = this
    const row = place << WORDS_LOG2
    return now < rows[row + UNTIL] && this.head[0] === this.seen && words[rows[row + SLOT]] === rows[row + STAMP] &&
      (words[EPOCH] === rows[row + SEEN] || this.#standsAnew(place))
  }

  /**
   * Something shared has changed: was it something of this copy's?
   * @param {number} place
   */
  #standsAnew(place) {
    const { words } = this
    const epoch = Atomics.load(words, EPOCH)
    const { shared, sum } = this.#copyAt(place)
    let now = 0
    for (let i = 0; i < shared.length; i++) now = (now + Atomics.load(words, shared[i])) | 0
    if (now !== sum) return false
    this.#rows[(place << WORDS_LOG2) + SEEN] = epoch
    return true
  }

  /**
   * The value itself, if it can be given at once; counts nothing.
   * @param {string} key
   * @returns {unknown}
   */
  peek(key) {
    const place = this.#places.get(key)
    return place === undefined || !this.#stands(place, clock[0]) ? undefined : this.#valueAt(place)
  }

  /**
   * @param {number} place that is in use
   * @returns {Copy}
   */
  #copyAt(place) {
    return /** @type {Copy} */ (this.#copies[place])
  }

  /**
   * @param {number} place
   * @returns {unknown}
   */
  #valueAt(place) {
    return this.#promises[place] === undefined ? this.#ownValue(place) : this.#values[place]
  }

  /**
   * @param {number} place
   * @returns {unknown}
   */
  #ownValue(place) {
    const { kind, data, key } = this.#copyAt(place)
    return decodeEncoded(kind, data, this.serializer, key)
  }

  /**
   * Lets the next look-up of the key know which value this thread has a copy of.
   * @param {string} key
   */
  ask(key) {
    this.seen = this.head[0]
    const place = key === this.#missedKey ? this.#missed : this.#places.get(key)
    header[H.IN_VERSION] = place === undefined ? 0 : this.#copyAt(place).version
  }

  /**
   * The look-up just made has found the value that this thread has a copy of: gives it, and lets it answer on.
   * @param {string} key
   * @returns {unknown}
   */
  confirmed(key) {
    const place = /** @type {number} */ (this.#places.get(key))
    const copy = this.#copyAt(place)
    const rows = this.#rows
    const row = place << WORDS_LOG2
    const now = label()
    const isSame = (rows[row + LABEL] & ~VISITED) === now
    const shared = isSame && hasSharedSlots(copy.shared) ? copy.shared : sharedSlots()
    copy.sum = header[H.SUM] | 0
    copy.shared = shared
    rows[row + UNTIL] = header[H.NEAR_UNTIL]
    rows[row + SLOT] = header[H.SLOT]
    rows[row + STAMP] = header[H.STAMP]
    rows[row + SEEN] = header[H.EPOCH]
    // Its hits so far were of the other label.
    if (!isSame && rows[row + HITS] > 0) this.report()
    rows[row + LABEL] = now | VISITED
    return this.#valueAt(place)
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
    if (share(value, kind, this.values)) {
      this.#insert(copy, value, Promise.resolve(value))
    } else {
      copy.kind = kind
      copy.data = data
      this.#insert(copy, undefined, undefined)
    }
    return value
  }

  /**
   * @param {Copy} copy
   * @param {unknown} value
   * @param {Promise<unknown> | undefined} promise
   */
  #insert(copy, value, promise) {
    this.#miss('', undefined)
    const old = this.#places.get(copy.key)
    if (old !== undefined) this.#remove(this.#copyAt(old))
    while (this.#places.size >= this.max || this.#bytes + copy.size > this.maxBytes) this.#evict()
    const place = this.#free.pop() ?? this.#copies.length
    copy.place = place
    this.#copies[place] = copy
    this.#values[place] = value
    this.#promises[place] = promise
    this.#fill(copy)
    this.#places.set(copy.key, place)
    this.#bytes += copy.size
    copy.older = this.#newest
    if (this.#newest !== undefined) this.#newest.newer = copy
    this.#newest = copy
    this.#oldest ??= copy
  }

  /**
   * Writes the words of a copy to its place.
   * @param {Copy} copy
   */
  #fill({ place, until, slot, stamp, epoch, label, hashLow, hashHigh }) {
    const row = place << WORDS_LOG2
    if (row >= this.#rows.length) {
      const longer = new Int32Array(this.#rows.length * 2)
      longer.set(this.#rows)
      this.#rows = longer
    }
    const rows = this.#rows
    rows[row + UNTIL] = until
    rows[row + SLOT] = slot
    rows[row + STAMP] = stamp
    rows[row + SEEN] = epoch
    rows[row + HITS] = 0
    rows[row + LABEL] = label
    rows[row + HASH_LOW] = hashLow
    rows[row + HASH_HIGH] = hashHigh
  }

  #evict() {
    const rows = this.#rows
    let copy = /** @type {Copy} */ (this.#hand ?? this.#oldest)
    for (;;) {
      const at = (copy.place << WORDS_LOG2) + LABEL
      if ((rows[at] & VISITED) === 0) break
      rows[at] &= ~VISITED
      copy = /** @type {Copy} */ (copy.newer ?? this.#oldest)
    }
    this.#hand = copy
    this.#remove(copy)
  }

  /**
   * @param {Copy} copy
   */
  #remove(copy) {
    const { older, newer, place } = copy
    this.#leave(place)
    this.#places.delete(copy.key)
    this.#free.push(place)
    this.#copies[place] = this.#values[place] = this.#promises[place] = undefined
    this.#bytes -= copy.size
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
   * @param {number} place
   */
  #note(place) {
    this.#rows[(place << WORDS_LOG2) + LABEL] |= VISITED
    if (this.#noted.push(place) >= this.together) this.report()
    if (this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined
        this.report()
      }, REPORT_LATEST)
      this.#timer.unref()
    }
  }

  /**
   * Takes the hits of a place over into the report, before it is another copy's.
   * @param {number} place
   */
  #leave(place) {
    const rows = this.#rows
    const row = place << WORDS_LOG2
    const hits = rows[row + HITS]
    if (hits === 0) return
    if (this.#left === this.together) this.#send()
    const at = this.#left++ * NUMBERS
    if (at === this.#report.length) {
      const longer = new Int32Array(this.together * NUMBERS)
      longer.set(this.#report)
      this.#report = longer
    }
    const report = this.#report
    report[at] = rows[row + HASH_LOW]
    report[at + 1] = rows[row + HASH_HIGH]
    report[at + 2] = hits
    report[at + 3] = rows[row + LABEL] & ~VISITED
    rows[row + HITS] = 0
  }

  #send() {
    if (this.#left > 0) native.reportNear(this.number, this.#report, this.#left)
    this.#left = 0
  }

  /** Tells the engine of the hits that it does not know yet. */
  report() {
    const noted = this.#noted
    // A place may be there twice, for two copies: the first time takes all.
    for (let i = 0; i < noted.length; i++) this.#leave(noted[i])
    noted.length = 0
    this.#send()
    this.#reportAt = (clock[0] + REPORT_AFTER) | 0
  }

  /** Reports what is left, and forgets everything. */
  close() {
    this.report()
    clearTimeout(this.#timer)
    this.#miss('', undefined)
    this.#places.clear()
    this.#copies = []
    this.#values = []
    this.#promises = []
    this.#free = []
    this.#rows = new Int32Array(LEAST_PLACES << WORDS_LOG2)
    this.#oldest = this.#newest = this.#hand = undefined
    this.#bytes = 0
  }
}
