// @ts-check
/**
 * Routes: which define() a key belongs to.
 *
 * Promises: a pattern without a star wins for its key; else the largest literal length; else the latest defined. The
 * same pattern text defined again takes the place of the first, keeps its id (entries are counted under it) and counts
 * as the latest. A look-up is one Map access for exact keys and another for patterns that begin with `name:`, then a
 * walk over those only; patterns without such a beginning are walked with a prefix test each.
 */
import { invalidOption } from './errors.js'
import { parsePattern } from './pattern.js'

/** Most routes of one cache: an entry stores its route as 16 bits, 0 for none. */
export const MAX_ROUTES = 65_535

/**
 * @typedef {import('./options.js').Layer} Layer
 * @typedef {import('./pattern.js').Pattern} Pattern
 */

/** One define(). */
class Route {
  /**
   * @param {number} id 1 to 65,535, as stored with each entry
   * @param {Pattern} pattern
   * @param {Function} fetcher
   * @param {Layer} layer
   * @param {number} order rises with each define()
   */
  constructor(id, pattern, fetcher, layer, order) {
    this.id = id
    /** The number that its pattern is counted under, which all who have the cache open share. */
    this.number = id
    /** The pattern as written. */
    this.pattern = pattern.source
    this.matcher = pattern
    this.fetcher = fetcher
    /** Its options, parsed. */
    this.layer = layer
    /** Name of the breaker its fetcher counts under. */
    this.origin = layer.origin ?? pattern.source
    this.order = order
  }
}

/** The routes of one cache. */
export class Routes {
  constructor() {
    /** Every route, at its id; nothing at 0. @type {(Route | undefined)[]} */
    this.byId = [undefined]
    /** @type {Map<string, Route>} */
    this.bySource = new Map()
    /** Patterns without a star, under the key they stand for. @type {Map<string, Route>} */
    this.exact = new Map()
    /** Patterns with a star whose literal beginning holds a ':', under that beginning up to the first ':'; best first.
     * @type {Map<string, Route[]>} */
    this.byHead = new Map()
    /** The other patterns with a star, best first. @type {Route[]} */
    this.rest = []
    this.order = 0
  }

  /** How many there are. */
  get size() {
    return this.bySource.size
  }

  /**
   * Adds a route, or replaces the one of the same pattern text.
   * Throws ERR_KVCACHE_INVALID_OPTION for a wrong pattern, a fetcher that is no function, and the 65,536th pattern.
   * @param {unknown} source
   * @param {unknown} fetcher
   * @param {Layer} layer parsed options
   * @returns {Route}
   */
  add(source, fetcher, layer) {
    const pattern = parsePattern(source)
    if (typeof fetcher !== 'function') throw invalidOption('fetcher', fetcher, 'a function')
    const old = this.bySource.get(pattern.source)
    if (old === undefined && this.size >= MAX_ROUTES) {
      throw invalidOption('pattern', source, `at most ${MAX_ROUTES} patterns in one cache`)
    }
    const route = new Route(old?.id ?? this.byId.length, pattern, fetcher, layer, ++this.order)
    this.byId[route.id] = route
    this.bySource.set(pattern.source, route)
    if (pattern.literal !== null) {
      this.exact.set(pattern.literal, route)
      return route
    }
    const head = headOf(pattern.prefix)
    let list = this.rest
    if (head !== '') {
      list = this.byHead.get(head) ?? []
      this.byHead.set(head, list)
    }
    if (old !== undefined) list.splice(list.indexOf(old), 1)
    list.splice(placeIn(list, route), 0, route)
    return route
  }

  /**
   * The route of a key.
   * @param {string} key
   * @returns {Route | undefined}
   */
  match(key) {
    const { rest } = this
    if (this.exact.size !== 0) {
      const route = this.exact.get(key)
      if (route !== undefined) return route
    }
    let best
    if (this.byHead.size !== 0) {
      const list = this.byHead.get(headOf(key))
      if (list !== undefined) best = firstMatch(list, key, undefined)
    }
    return rest.length === 0 ? best : firstMatch(rest, key, best)
  }
}

/**
 * The text up to and with the first ':'; '' where there is none.
 * @param {string} text
 * @returns {string}
 */
function headOf(text) {
  return text.slice(0, text.indexOf(':') + 1)
}

/**
 * Whether `a` goes before `b`.
 * @param {Route} a
 * @param {Route} b
 * @returns {boolean}
 */
function before(a, b) {
  const by = a.matcher.literalLength - b.matcher.literalLength
  return by !== 0 ? by > 0 : a.order > b.order
}

/**
 * Where a route belongs in a list kept best first.
 * @param {Route[]} list
 * @param {Route} route
 * @returns {number}
 */
function placeIn(list, route) {
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (before(list[middle], route)) low = middle + 1
    else high = middle
  }
  return low
}

/**
 * The first route of a list, best first, that matches, unless `best` goes before it.
 * @param {Route[]} list
 * @param {string} key
 * @param {Route | undefined} best
 * @returns {Route | undefined}
 */
function firstMatch(list, key, best) {
  for (let i = 0; i < list.length; i++) {
    const route = list[i]
    if (best !== undefined && before(best, route)) return best
    if (route.matcher.matches(key)) return route
  }
  return best
}
