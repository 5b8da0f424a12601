// Guards: a key finds its define(): the exact key, then the most literal pattern, then the latest.
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import fc from 'fast-check'
import { EMPTY, layer } from '../lib/options.js'
import { parsePattern } from '../lib/pattern.js'
import { MAX_ROUTES, Routes } from '../lib/routes.js'

const fetcher = () => 1
const refused = { code: 'ERR_KVCACHE_INVALID_OPTION' }

/** Routes of these patterns, in this order. */
function routesOf(...patterns) {
  const routes = new Routes()
  for (const pattern of patterns) routes.add(pattern, fetcher, EMPTY)
  return routes
}

describe('Routes', () => {
  it('gives each pattern an id from 1, its options and its own name as origin', () => {
    const routes = new Routes()
    const options = layer({ maxAge: 5 }, 'define')
    const a = routes.add('user:*', fetcher, options)
    const b = routes.add('post:1', fetcher, EMPTY)
    assert.deepEqual([a.id, b.id], [1, 2])
    assert.deepEqual([a.pattern, a.fetcher, a.layer, a.origin], ['user:*', fetcher, options, 'user:*'])
    assert.equal(routes.byId[2], b)
    assert.equal(routes.size, 2)
  })

  it('takes the origin that the options name', () => {
    assert.equal(new Routes().add('a*', fetcher, layer({ origin: 'db' }, 'define')).origin, 'db')
  })

  it('finds nothing where nothing fits', () => {
    assert.equal(new Routes().match('a'), undefined)
    assert.equal(routesOf('user:*', 'a', '*x').match('b'), undefined)
  })

  for (const [patterns, key, winner] of [
    [['*', 'user:*', 'user:1'], 'user:1', 'user:1'],
    [['user:1', 'user:*:*', 'user:1*'], 'user:1', 'user:1'],
    [['*', 'user:*', 'user:*:profile'], 'user:7:profile', 'user:*:profile'],
    [['*', 'user:*', 'user:*:profile'], 'user:7:posts', 'user:*'],
    [['*:profile', 'user:*'], 'user:7:profile', '*:profile'],
    [['a*', '*a'], 'aa', '*a'],
    [['*a', 'a*'], 'aa', 'a*'],
    [['a:*', '*:a'], 'a:a', '*:a'],
    [['*:a', 'a:*'], 'a:a', 'a:*'],
    [['a\\*', 'a*'], 'a*', 'a\\*'],
    [['__proto__:*', 'constructor'], '__proto__:x', '__proto__:*'],
    [['__proto__:*', 'constructor'], 'constructor', 'constructor']
  ]) {
    it(`of ${patterns.join(' ')} chooses ${winner} for ${key}`, () => {
      assert.equal(routesOf(...patterns).match(key)?.pattern, winner)
    })
  }

  it('replaces a pattern defined again, keeping its id and making it the latest', () => {
    const routes = routesOf('a*', '*a', 'x')
    const other = () => 2
    const again = routes.add('a*', other, EMPTY)
    assert.equal(again.id, 1)
    assert.equal(routes.size, 3)
    assert.equal(routes.match('aa'), again)
    assert.equal(routes.byId[1], again)
    const exact = routes.add('x', other, EMPTY)
    assert.equal(exact.id, 3)
    assert.equal(routes.match('x')?.fetcher, other)
    assert.equal(routes.byId.length, 4)
  })

  it('leaves everything as it was when it refuses', () => {
    const routes = routesOf('a*')
    assert.throws(() => routes.add('a\\', fetcher, EMPTY), { ...refused, option: 'pattern' })
    assert.throws(() => routes.add('', fetcher, EMPTY), refused)
    assert.throws(() => routes.add('a*', 'no function', EMPTY), { ...refused, option: 'fetcher' })
    assert.equal(routes.size, 1)
    assert.equal(routes.match('ab')?.fetcher, fetcher)
  })

  it('refuses more patterns than 16 bits can number, but still replaces', () => {
    const routes = new Routes()
    for (let i = 0; i < MAX_ROUTES; i++) routes.add(`k${i}`, fetcher, EMPTY)
    assert.equal(routes.match('k65534')?.id, 65_535)
    assert.throws(() => routes.add('one:more', fetcher, EMPTY), /65535/)
    assert.equal(routes.add('k0', fetcher, EMPTY).id, 1)
  })

  it('agrees with trying every pattern in order of preference', () => {
    const char = fc.constantFrom('a', 'b', ':', '*', '\\*')
    const source = fc.array(char, { minLength: 1, maxLength: 6 }).map(chars => chars.join(''))
    const key = fc.array(fc.constantFrom('a', 'b', ':', '*'), { minLength: 1,
      maxLength: 8 }).map(chars => chars.join(''))
    fc.assert(fc.property(fc.array(source, { maxLength: 20 }), fc.array(key, { maxLength: 20 }), (sources, keys) => {
      const routes = routesOf(...sources)
      const latest = [...new Set(sources.toReversed())].map(one => parsePattern(one))
      for (const one of keys) {
        const fitting = latest.filter(pattern => pattern.matches(one))
        const best = fitting.find(pattern => pattern.literal !== null) ??
          fitting.toSorted((a, b) => b.literalLength - a.literalLength)[0]
        assert.equal(routes.match(one)?.pattern, best?.source)
      }
    }), { numRuns: 500 })
  })
})
