// @ts-check
/**
 * The shop's products, made up from their id alone, so that the origin needs no data base and whoever receives a page
 * can tell whether it is the right one.
 */
import { hash32, lognormal, uniform } from './random.mjs'

const WORDS = (
  'cotton linen oak walnut steel copper glass wool leather canvas enamel ceramic slate cork bamboo brass velvet ' +
  'denim jacket lamp chair kettle shelf mirror rug scarf basket bowl drawer cushion bottle bench hook tray vase ' +
  'blanket stool plain ribbed woven brushed folded narrow wide tall small light heavy matt ' +
  'polished round square soft sturdy'
).split(' ')

/** Size of a page's text, characters. */
const TEXT_LENGTH = { median: 1200, p99: 6000 }

/**
 * @param {number} id
 * @param {number} revision counts the changes of this product; price and stock follow from it
 */
export function product(id, revision) {
  const random = uniform(hash32(id))
  const words = (/** @type {number} */ count) =>
    Array.from({ length: count }, () => WORDS[Math.floor(random() * WORDS.length)]).join(' ')
  const length = lognormal(random, TEXT_LENGTH)()
  const name = words(3)
  const description = words(Math.ceil(length / 7))
  const changing = uniform(hash32(id) ^ revision)
  return {
    // First, so that the text of every page begins with its id.
    id,
    revision,
    name,
    description,
    price: { currency: 'EUR', cents: 500 + Math.floor(changing() * 20_000) },
    stock: Math.floor(changing() * 50),
    images: Array.from({ length: 4 }, (_, n) => `/images/${id}/${n}.avif`)
  }
}

/**
 * How often a product has changed after so many milliseconds.
 * @param {number} id
 * @param {number} elapsedMs
 * @param {{ shortest: number, longest: number }} revisionMs how long a revision lasts, by product
 */
export function revisionAt(id, elapsedMs, { shortest, longest }) {
  const share = hash32(id ^ 0x5bd1e995) / 2 ** 32
  const period = shortest + share * (longest - shortest)
  const offset = (hash32(id ^ 0x27d4eb2f) / 2 ** 32) * period
  return Math.floor((elapsedMs + offset) / period)
}
