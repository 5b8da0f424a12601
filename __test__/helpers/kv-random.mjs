// @ts-check
// Random sequences of calls of the Workers KV interface, the same for a seed each time: few keys, so that puts, deletes
// and reads meet, and now and then something odd.
//
// Left out is what the runtime is plainly wrong about: of a bulk read, keys that are whole numbers, '__proto__' or no
// Unicode, and values that are empty,
// JSON's null, or begin with a byte order mark.

/** @typedef {import('./kv-program.mjs').Step} Step */

const KEYS = ['a', 'ab', 'ab:1', 'ab:2', 'a\0', 'b', 'B', 'é', '😀', '\uffff', '\u{10ffff}', 'c'.repeat(512),
  'constructor', '~', ' ']
const ODD_KEYS = ['', '.', '..', 'd'.repeat(513), '\ud800']
const PREFIXES = ['', 'a', 'ab', 'ab:', 'b', 'é', '\u{10ffff}', 'zz']
const TEXTS = ['v', 'text', 'é😀', '\ud800 alone', '{"a":1}', '[1,2]', '"s"', '5', 'true', '{bad', 'long '.repeat(1000)]

/**
 * Whole numbers below n, by xorshift (Marsaglia, Xorshift RNGs, 2003).
 * @param {number} seed
 */
function numbers(seed) {
  let state = Math.imul(seed, 0x9e3779b1) >>> 0 || 1
  return (/** @type {number} */ n) => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % n
  }
}

/**
 * @param {number} seed
 * @param {number} length
 * @returns {Step[]}
 */
export function randomCalls(seed, length) {
  const below = numbers(seed)
  /** @type {<T>(choices: readonly T[]) => T} */
  const one = choices => choices[below(choices.length)]
  const rarely = () => below(20) === 0
  const key = () => (rarely() ? one(ODD_KEYS) : one(KEYS))
  const bulkKey = () => (below(100) === 0 ? one(['', '..', 'd'.repeat(513)]) : one(KEYS))
  const chunk = () => ({ $: 'bytes', hex: hex(1 + below(5)), as: one(['Uint8Array', 'ArrayBuffer', 'DataView']) })
  const hex = (/** @type {number} */ bytes) =>
    Array.from({ length: bytes }, () => below(256).toString(16).padStart(2, '0')).join('')
  const value = () => {
    switch (below(8)) {
      case 0:
        return chunk()
      case 1:
        return { $: 'bytes', hex: hex(1 + below(40)), times: 1 + below(100) }
      case 2:
        return { $: 'stream', chunks: Array.from({ length: 1 + below(4) }, chunk) }
      case 3:
        return one([5, true, { $: 'undefined' }, {}, ['x'], { $: 'symbol' }])
      default:
        return one(TEXTS)
    }
  }
  const metadata = () => one([null, 5, 'm', '', { a: [1, { b: '😀' }] }, [], 'x'.repeat(1022), 'x'.repeat(1023),
    { $: 'undefined' }])
  const putOptions = () => {
    /** @type {Record<string, any>} */
    const options = {}
    if (below(3) === 0) options.metadata = metadata()
    if (below(4) === 0) options.expirationTtl = one([60, 61, 3600, 59, 0, '100', null])
    if (below(4) === 0) options.expiration = one([2_000_000_000,
      { $: 'seconds from now', seconds: one([30, 200, 5000]) }, 1000, 1e12])
    return below(6) === 0 ? { $: 'undefined' } : options
  }
  const type = () => (rarely() ? one(['zz', '', 5, null]) : one(['text', 'json', 'arrayBuffer', 'stream',
    { $: 'undefined' }]))
  const readOptions = () => (below(3) === 0 ? { type: type(),
    cacheTtl: one([30, 60, 29, { $: 'undefined' }]) } : type())
  const bulkOptions = () => one([{ $: 'undefined' }, 'text', 'text', 'json', { type: 'text' },
    { type: 'json', cacheTtl: 60 }, 'stream'])
  /** @type {(() => Step)[]} */
  const steps = [
    () => ({ method: 'put', args: [key(), value(), putOptions()] }),
    () => ({ method: 'put', args: [one(KEYS), one(TEXTS)] }),
    () => ({ method: 'put', args: [one(KEYS), one(TEXTS), putOptions()] }),
    () => ({ method: 'get', args: [key(), readOptions()] }),
    () => ({ method: 'get', args: [one(KEYS)] }),
    () => ({ method: 'getWithMetadata', args: [key(), readOptions()] }),
    () => ({ method: one(['get', 'getWithMetadata']), args: [Array.from({ length: below(6) }, bulkKey),
      bulkOptions()] }),
    () => ({ method: 'delete', args: [key()] }),
    () => ({
      method: 'list',
      args: [{ prefix: one(PREFIXES), limit: one([1, 2, 3, 5, 100, 0]),
        cursor: rarely() ? 'junk' : cursorAfter(one(KEYS)) }]
    }),
    () => ({ method: 'list', args: [{ prefix: one(PREFIXES), limit: 1 + below(6) }] })
  ]
  return Array.from({ length }, () => one(steps)())
}

/** @param {string} key */
function cursorAfter(key) {
  return Buffer.from(key).toString('base64')
}
