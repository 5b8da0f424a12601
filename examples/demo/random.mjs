// @ts-check
/**
 * Seeded randomness, so that two runs of the demo draw the same numbers.
 *
 * Promises: the same seed gives the same sequence on every machine and Node version. Not for secrets.
 */

/**
 * A source of numbers in [0, 1): 32-bit state stepped by a Weyl sequence and mixed (the mulberry32 construction).
 * @param {number} seed any integer
 * @returns {() => number}
 */
export function uniform(seed) {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296
  }
}

/**
 * One draw of a standard normal distribution (Box and Muller, 1958).
 * @param {() => number} random
 */
export function normal(random) {
  // 1 - u lies in (0, 1], so the logarithm is finite.
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random())
}

/** The standard normal quantile of 0.99: ln(p99 / median) of a lognormal is this many sigmas. */
const Z99 = 2.3263478740408408

/**
 * Draws from the lognormal distribution that has this median and this 99th percentile.
 * @param {() => number} random
 * @param {{ median: number, p99: number }} shape
 * @returns {() => number}
 */
export function lognormal(random, { median, p99 }) {
  const sigma = Math.log(p99 / median) / Z99
  return () => median * Math.exp(sigma * normal(random))
}

/**
 * Gaps of a Poisson process: exponential, with the given mean.
 * @param {() => number} random
 * @param {number} mean
 * @returns {() => number}
 */
export function exponential(random, mean) {
  return () => -mean * Math.log(1 - random())
}

/**
 * A well mixed 32-bit hash of an integer: what a product looks like follows from its id alone.
 * @param {number} id
 */
export function hash32(id) {
  let mixed = (id + 0x9e3779b9) >>> 0
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b)
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35)
  return (mixed ^ (mixed >>> 16)) >>> 0
}
