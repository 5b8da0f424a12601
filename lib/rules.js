// @ts-check
/**
 * Rules: what an event of some type invalidates.
 *
 * Promises: all rules of an event are asked, and all that they name is checked, before anything is invalidated; a rule that
 * throws, takes too long or names what is no target fails the whole event, by an error that says of which type it was.
 */
import { eventFailed, invalidOption, timeout } from './errors.js'
import { parseTargets } from './invalidation.js'
import { LONGEST_TIMER } from './keepalive.js'

/** @typedef {(event: any) => unknown} Rule */

export class Rules {
  /** By type, in the order of being added. @type {Map<string, Rule[]>} */
  #rules = new Map()

  /**
   * @param {unknown} type
   * @param {unknown} rule
   */
  add(type, rule) {
    if (typeof type !== 'string' || type === '') throw invalidOption('type', type, 'a non-empty string')
    if (typeof rule !== 'function') throw invalidOption('targets', rule, 'a function from an event to an array of targets')
    const rules = this.#rules.get(type)
    if (rules === undefined) this.#rules.set(type, [/** @type {Rule} */ (rule)])
    else rules.push(/** @type {Rule} */ (rule))
  }

  /**
   * What an event touches, each target once, in the order of the rules.
   * @param {any} event
   * @param {number} limit milliseconds for the rules, may be infinite
   * @returns {Promise<any[]>}
   */
  async targets(event, limit) {
    const type = typeOf(event)
    const rules = this.#rules.get(type)
    if (rules === undefined) return []
    // A rule added from now on is for later events.
    const asked = rules.map(async rule => rule(event))
    let named
    try {
      named = await within(limit, Promise.all(asked), type)
      return distinct(named)
    } catch (cause) {
      throw eventFailed(type, cause)
    }
  }
}

/**
 * @param {any} event
 * @returns {string}
 */
function typeOf(event) {
  const type = typeof event === 'object' && event !== null ? event.type : undefined
  if (typeof type === 'string' && type !== '') return type
  throw invalidOption('event', event, 'an object whose type is a non-empty string')
}

/**
 * @param {unknown[]} named what each rule gave
 * @returns {any[]}
 */
function distinct(named) {
  const targets = new Map()
  for (const list of named) {
    if (!Array.isArray(list)) throw invalidOption('targets', list, 'an array of targets, or a promise of one')
    const parsed = parseTargets(list)
    parsed.forEach(({ kind, text }, i) => {
      const name = `${kind} ${text}`
      if (!targets.has(name)) targets.set(name, list[i])
    })
  }
  return [...targets.values()]
}

/**
 * @template T
 * @param {number} limit
 * @param {Promise<T>} promise
 * @param {string} type
 * @returns {Promise<T>}
 */
async function within(limit, promise, type) {
  if (limit === Infinity) return promise
  /** @type {NodeJS.Timeout | undefined} */
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(timeout(undefined, limit, `a rule of the event '${type}'`)), Math.min(limit, LONGEST_TIMER))
  })
  try {
    return await Promise.race([promise, /** @type {Promise<never>} */ (late)])
  } finally {
    clearTimeout(timer)
  }
}
