// @ts-check
/**
 * A token bucket: so many requests per second on average, and a burst on top after a quiet spell.
 */
export class TokenBucket {
  #perMs
  #burst
  #tokens
  #at

  /** @param {{ perSecond: number, burst: number }} limit */
  constructor({ perSecond, burst }) {
    this.#perMs = perSecond / 1000
    this.#burst = burst
    this.#tokens = burst
    this.#at = 0
  }

  /**
   * Takes one token if there is one.
   * @param {number} now milliseconds, of a clock that only goes forward
   */
  take(now) {
    this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perMs)
    this.#at = now
    if (this.#tokens < 1) return false
    this.#tokens -= 1
    return true
  }
}
