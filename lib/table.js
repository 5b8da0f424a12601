// @ts-check
/**
 * Things by their number, for those that come and go all the time.
 *
 * A Map is no place for them: V8 gives a Map a new table after some additions, whatever was deleted meanwhile, and leaves what
 * stood there in the old one. An old one that the garbage collector has moved to the old generation keeps alive what it names
 * until that is collected as a whole, and makes each scavenge copy it: loads that ended long ago, with all that they loaded.
 *
 * Promises: what was deleted is referred to from nowhere here; add, get and delete take constant time on average.
 */

/** Fewest chains. */
const LEAST = 16

/** @typedef {{ readonly token: number, next: any }} Linked `next` is the table's, and undefined outside of it */

/**
 * @template {Linked} T
 */
export class Table {
  /** Chains of those whose numbers have the same lower bits. @type {(T | undefined)[]} */
  #chains = new Array(LEAST).fill(undefined)
  #size = 0

  /**
   * @param {number} token
   * @returns {T | undefined}
   */
  get(token) {
    let one = this.#chains[token & (this.#chains.length - 1)]
    while (one !== undefined && one.token !== token) one = one.next
    return one
  }

  /**
   * @param {T} one found by its number from now on, until it goes, should another have the same
   */
  add(one) {
    if (this.#size++ === this.#chains.length * 2) this.#widen()
    this.#link(one)
  }

  /**
   * Whether it was here.
   * @param {T} one
   */
  delete(one) {
    const place = one.token & (this.#chains.length - 1)
    let at = this.#chains[place]
    if (at === one) {
      this.#chains[place] = one.next
    } else {
      while (at !== undefined && at.next !== one) at = at.next
      if (at === undefined) return false
      at.next = one.next
    }
    one.next = undefined
    this.#size--
    return true
  }

  /** All of them, as they are now. */
  values() {
    /** @type {T[]} */
    const all = []
    for (let one of this.#chains) for (; one !== undefined; one = one.next) all.push(one)
    return all
  }

  /** @param {T} one */
  #link(one) {
    const place = one.token & (this.#chains.length - 1)
    one.next = this.#chains[place]
    this.#chains[place] = one
  }

  #widen() {
    const all = this.values()
    this.#chains = new Array(this.#chains.length * 4).fill(undefined)
    for (const one of all) this.#link(one)
  }
}
