// @ts-check
/** Objects for benches: products as an API answers them, about 2 KB as JSON, the same in every run. */

let seed = 1

/** The next number of a linear congruential generator, 0 to below 1. */
export function random() {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0
  return seed / 2 ** 32
}

const WORDS = ('light strong cotton water resistant pocket zip lining recycled fabric seam collar hood sleeve trail city ' +
  'winter summer classic slim regular wide adjustable removable machine wash warm soft durable breathable quick dry').split(' ')
const SIZES = 'XS S M L XL XXL 3XL 4XL'.split(' ')

/** @param {number} words */
const prose = words => Array.from({ length: words }, () => WORDS[(random() * WORDS.length) | 0]).join(' ')
const price = () => Math.round(random() * 20_000) / 100

/**
 * @param {string} key
 */
export function product(key) {
  return {
    id: key,
    title: prose(6),
    price: price(),
    description: prose(180),
    tags: Array.from({ length: 6 }, () => prose(1)),
    variants: SIZES.map((size, n) => ({ sku: `${key}-${n}`, size, stock: (random() * 100) | 0, price: price() }))
  }
}
