// @ts-check
/**
 * What JSON.parse(JSON.stringify(value)) would give, made by copying: for values that JSON carries as they are, in a
 * fraction of the time, since strings are taken and not written and read again.
 *
 * Promises: each property is read once, in the order in which JSON.stringify() reads them; JSON.stringify() of the copy gives
 * the text that it would have given of the value. Whatever a copy cannot be sure of (a toJSON(), an instance of a class, a BigInt,
 * deep nesting, a cycle) is left to JSON itself.
 */

/** What {@link plainCopy} answers where JSON is to be asked. */
export const NOT_PLAIN = Symbol('not plain')

/** Nesting that is copied. */
const DEEP = 32

const { getPrototypeOf, keys } = Object
const PLAIN = Object.prototype
const LIST = Array.prototype

/**
 * @param {any} value
 * @param {number} [depth]
 * @returns {any} the copy, or NOT_PLAIN
 */
export function plainCopy(value, depth = 0) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return value
    case 'number':
      // Adding 0 makes 0 of -0, as its text does; what is not finite becomes null.
      return Number.isFinite(value) ? value + 0 : null
    case 'object':
      if (value === null) return null
      if (depth === DEEP || value.toJSON !== undefined) return NOT_PLAIN
      return Array.isArray(value) ? copyList(value, depth + 1) : copyObject(value, depth + 1)
    default:
      return NOT_PLAIN
  }
}

/**
 * @param {any[]} list
 * @param {number} depth
 */
function copyList(list, depth) {
  if (getPrototypeOf(list) !== LIST) return NOT_PLAIN
  const copy = []
  for (let i = 0; i < list.length; i++) {
    const item = plainCopy(list[i], depth)
    if (item === NOT_PLAIN) return NOT_PLAIN
    copy.push(item)
  }
  return copy
}

/**
 * @param {any} object
 * @param {number} depth
 */
function copyObject(object, depth) {
  if (getPrototypeOf(object) !== PLAIN) return NOT_PLAIN
  /** @type {any} */
  const copy = {}
  const names = keys(object)
  for (let i = 0; i < names.length; i++) {
    const name = names[i]
    if (name === '__proto__') return NOT_PLAIN
    const property = object[name]
    if (property === undefined) continue
    const item = plainCopy(property, depth)
    if (item === NOT_PLAIN) return NOT_PLAIN
    copy[name] = item
  }
  return copy
}
