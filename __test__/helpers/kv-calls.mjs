// @ts-check
// Every call of the Workers KV interface: each method with each kind of argument, good and bad, at each limit. By
// topic; each topic begins with an empty namespace.
//
// Left out is what the runtime is plainly wrong about; the cache's own suite tests what we do there.

/** @typedef {import('./kv-program.mjs').Step} Step */

/** @type {(method: string, ...args: any[]) => Step} */
const call = (method, ...args) => ({ method, args })
const get = (/** @type {any[]} */ ...args) => call('get', ...args)
const getWithMetadata = (/** @type {any[]} */ ...args) => call('getWithMetadata', ...args)
const put = (/** @type {any[]} */ ...args) => call('put', ...args)
const remove = (/** @type {any[]} */ ...args) => call('delete', ...args)
const list = (/** @type {any[]} */ ...args) => call('list', ...args)

const nothing = { $: 'undefined' }
const symbol = { $: 'symbol' }
const fn = { $: 'function' }
const throwing = { $: 'throws' }
const cycle = { $: 'cycle' }
const noPrototype = { $: 'without prototype' }
const number = (/** @type {string} */ text) => ({ $: 'number', text })
const bigint = (/** @type {string} */ text) => ({ $: 'bigint', text })
const repeat = (/** @type {string} */ text, /** @type {number} */ times) => ({ $: 'repeat', text, times })
const bytes = (/** @type {string} */ hex, as = 'Uint8Array') => ({ $: 'bytes', hex, as })
const stream = (/** @type {any[]} */ ...chunks) => ({ $: 'stream', chunks })
const fromNow = (/** @type {number} */ seconds) => ({ $: 'seconds from now', seconds })
const stringObject = (/** @type {string} */ text) => ({ $: 'string object', text })

const LONGEST = 512
const LARGEST = 26_214_400
/** Not a string, but the name of a key all the same. */
const ODD_KEYS = [null, nothing, 5, 1.5, true, bigint('5'), {}, ['a'], stringObject('a'),
  { $: 'with toString', text: 'a' }]
/** What stops the conversion of any argument. */
const HOSTILE = [symbol, throwing, noPrototype]
const BAD_KEYS = ['', '.', '..', repeat('x', LONGEST + 1), repeat('é', 257), '\ud800', 'a\udfffb',
  repeat('\ud800', 200)]
const GOOD_KEYS = [
  '...', './a', 'a/../b', 'a:b', ' ', '\0', '\n', '%2e', '%', 'é', '😀', '\uffff', '\ufffd', '\ufeff', 'constructor',
  '__proto__', 'toString', '0', '-1', repeat('x', LONGEST), repeat('é', 256)
]
/** What stands for no whole number, or for one out of range. */
const ODD_NUMBERS = [
  0, -1, -0.5, 0.5, 1, 29, 29.9, 30, 59, 59.9, 60, 60.9, 1000, 1001, '60', '1e2', ' 70 ', 'junk', '', null, nothing,
  true,
  false, {}, [], [70], fn, number('NaN'), number('Infinity'), number('-Infinity'), number('-0'), 2_147_483_647,
  2_147_483_647.5, 2_147_483_648, -2_147_483_648, -2_147_483_648.5, -2_147_483_649, 1e12, 1_900_000_000_000,
  bigint('60'),
  { $: 'date', ms: 90_000 }, ...HOSTILE
]
const TYPES = [
  'text', 'json', 'arrayBuffer', 'stream', 'Text', 'JSON', 'zz', '', null, nothing, 5, true, bigint('1'), fn, [], {},
  symbol, stringObject('json'), { type: 'json' }, { type: 'stream' }, { type: 'zz' }, { type: '' }, { type: null },
  { type: nothing }, { type: ['json'] }, { type: stringObject('json') }, { type: symbol }, { type: throwing },
  { $: 'getter throws', name: 'type' }, { $: 'getter throws', name: 'cacheTtl' }
]

/**
 * @returns {Record<string, Step[]>}
 */
export function everyCall() {
  return {
    'keys of every kind': [...GOOD_KEYS, ...ODD_KEYS, ...BAD_KEYS, ...HOSTILE].flatMap(key => [
      put(key, 'value'), get(key), getWithMetadata(key), list(), remove(key), get(key), remove(key)
    ]),
    'arguments that are missing or too many': [
      get(), getWithMetadata(), put(), remove(), list(), put('a'), get('a'), put('a', 'v', {}, 5), get('a', 'text', 5),
      remove('a', 'b'), remove(['a']), list({}, 5), list()
    ],
    'values of every kind': [
      'text', '', '\0', 'é😀\uffff\ufeff', '\ud800x', 'x\udfff\ud800', null, nothing, 5, 5.5, number('NaN'),
      number('-0'), true,
      bigint('12'), ...HOSTILE, fn, {}, [], [1], { $: 'date', ms: 0 }, { $: 'map' }, { $: 'set', of: [] },
      stringObject('s'),
      ...['Uint8Array', 'Uint8ClampedArray', 'Int8Array', 'ArrayBuffer', 'Uint16Array', 'Float32Array', 'BigInt64Array',
        'DataView'].flatMap(as => [bytes('', as), bytes('0001feff4142efbb', as)]),
      { $: 'bytes', hex: '0102', as: 'Uint8Array', offset: 3 }, { $: 'bytes', hex: '0102', as: 'DataView', offset: 3 },
      // Bytes that are no UTF-8, and what looks like the beginning of it.
      ...['ff', 'c3', 'c328', 'e282', 'f09f98', 'eda080', 'c080', 'f4908080', 'efbbbf41', '41ff42',
        'e28241'].map(hex => bytes(hex))
    ].flatMap(value => [put('k', value), get('k'), get('k', 'arrayBuffer'), get('k', 'stream'), get('k', 'json')]),
    'streams as values': [
      stream(), stream(bytes('41'), bytes('4243')), stream(bytes(''), bytes('42')), stream(bytes('41', 'ArrayBuffer')),
      stream(bytes('41424344', 'Uint16Array')), stream(bytes('414243', 'DataView')),
      { $: 'stream', type: 'bytes', chunks: [bytes('41'), bytes('4243')] }, { $: 'stream', type: 'bytes', chunks: [] },
      { $: 'stream', chunks: [bytes('41')], used: true }
    ].flatMap(value => [
      put('k', 'before'), put('k', value), get('k'), put('', value), put(repeat('x', LONGEST + 1), value),
      put('k', value, { expirationTtl: 5 }), put('k', value, { metadata: repeat('x', 1023) }), get('k')
    ]),
    // What is stored afterwards is not looked at: workerd may have stored the beginning, or nothing.
    'streams that break': [
      { $: 'stream', chunks: [bytes('41')], locked: true },
      stream('text'), stream(bytes('41'), 5), { $: 'stream', chunks: [bytes('41')], fails: true },
      { $: 'stream', chunks: [], fails: true }
    ].flatMap(value => [put('k', value), put('', value), put('k', value, { expirationTtl: 5 })]),
    'values at the limit of their size': [
      repeat('x', LARGEST), repeat('x', LARGEST + 1), repeat('é', LARGEST / 2 + 1),
      { ...bytes('00'), times: LARGEST + 1 },
      { ...bytes('00', 'ArrayBuffer'), times: LARGEST + 1 }, stream({ ...bytes('00'), times: LARGEST }, bytes('00')),
      stream({ ...bytes('00'), times: LARGEST + 5 }), stream({ ...bytes('00'), times: LARGEST })
    ].map(value => put('k', value)).concat(
      get('k'), get('k', 'stream'), get('k', 'arrayBuffer'),
      put('k', repeat('x', LARGEST + 1), { metadata: repeat('x', 1023) }),
      put('k', repeat('x', LARGEST + 1), { expirationTtl: 5 }),
      put('a', repeat('x', LARGEST - 5)), put('b', 'fives'), put('c', 'more'), get(['a', 'b']), get(['a', 'b', 'c']),
      getWithMetadata(['a', 'b', 'c']), get(['a', 'a'])
    ),
    'types of what is read': [
      put('j', '{"a":[1,2,{"b":null}],"__proto__":1}', { metadata: { m: 1 } }), put('t', 'text'), put('e', ''),
      ...['null', '1', '-0', '1e999', '"\\ud800"', 'undefined', '{bad', '[1,', ' {} ',
        '\ufeff{}'].map((json, i) => put(`${i}k`, json)),
      ...['j', 't', 'e', 'missing', '',
        '\ud800'].flatMap(key => TYPES.flatMap(type => [get(key, type), getWithMetadata(key, type)])),
      ...Array.from({ length: 10 }, (_, i) => [get(`${i}k`, 'json'), getWithMetadata(`${i}k`, 'json')]).flat()
    ],
    'cacheTtl': [
      put('k', 'v'), ...ODD_NUMBERS.flatMap(cacheTtl => ['k', 'missing', '', '\ud800'].flatMap(key => [
        get(key, { cacheTtl }), get(key, { cacheTtl, type: 'zz' }), getWithMetadata(key, { cacheTtl })
      ])), ...ODD_NUMBERS.map(cacheTtl => get(['k'], { cacheTtl }))
    ],
    'expirationTtl and expiration': [
      ...ODD_NUMBERS.flatMap(n => [
        put('k', 'v', { expirationTtl: n }), list(), put('k', 'v', { expiration: n }), list(),
        put('k', 'v', { expirationTtl: n, expiration: 2_000_000_000 }), list(),
        put('k', 'v', { expirationTtl: 100, expiration: n }), list()
      ]),
      ...[-5, 0, 30, 50, 70, 1000, 100_000].flatMap(s => [put('k', 'v', { expiration: fromNow(s) }), list()]),
      ...[2_000_000_000, 2_000_000_000.7, '2000000000'].flatMap(expiration => [put('k', 'v', { expiration }), list()]),
      put('k', 'v'), list()
    ],
    'options of put that are none': [nothing, null, {}, [], fn, 5, 'x', true, symbol, { unknown: 1 },
      ...['expiration', 'expirationTtl', 'metadata'].map(name => ({ $: 'getter throws', name }))
    ].flatMap(options => [put('k', 'v', options), put('', 'v', options), get('k')]),
    'metadata': [
      null, nothing, {}, { a: 1 }, 'x', '', 5, 0, false, [], [1], { $: 'date', ms: 0 }, number('NaN'), { $: 'map' },
      stringObject('q'),
      { a: nothing }, { 2: 1, 1: 2, é: '😀' }, '\ud800', repeat('x', 1022), repeat('x', 1023), repeat('é', 511),
      repeat('é', 512),
      bigint('1'), cycle, throwing
    ].flatMap(metadata => [
      put('k', 'v', { metadata }), getWithMetadata('k'), getWithMetadata(['k']), list(),
      put('k', 'v', { metadata, expirationTtl: 5 }), put('k', {}, { metadata }), put('', 'v', { metadata })
    ]).concat(put('k', 'v'), getWithMetadata('k'), list()),
    'which of several faults is told': [
      put('', throwing), put(throwing, {}), put('', symbol), put('', 'v', 5), put('', throwing, 5),
      put('', 'v', { expiration: 1e12 }),
      put('', 'v', { metadata: cycle }), put(repeat('x', 513), {}, { metadata: cycle }),
      put('k', {}, { metadata: cycle }), put('.', {}),
      put(repeat('x', 513), {}), put('k', {}, { expirationTtl: 5 }), put('\ud800', 'v', { expirationTtl: 5 }),
      put('\ud800', {}),
      put('k', 'v', { expiration: throwing, expirationTtl: symbol }),
      put('k', 'v', { expiration: symbol, expirationTtl: 1e12 }),
      put(repeat('x', 513), 'v', { metadata: repeat('x', 1023) }), get('', 'zz'), get('', { type: symbol }),
      get('', { cacheTtl: 1e12 }),
      get('\ud800', { cacheTtl: 29 }), get('k', { type: 'zz', cacheTtl: 1e12 }),
      list({ limit: symbol, prefix: throwing }),
      list({ prefix: symbol, cursor: throwing }), list({ limit: 1001, prefix: repeat('x', 513) })
    ],
    'many keys at once': [
      put('a', 'va', { metadata: { m: 1 } }), put('j', '{"x":1}'), put('n', '5', { metadata: 'm' }),
      put('bin', bytes('ff41')),
      put('mn', 'v', { metadata: null }), put('o', '{"2":1,"1":2,"__proto__":3}'), put('undefined', 'u'),
      ...['get', 'getWithMetadata'].flatMap(method => [
        ['a', 'missing', 'j'], ['j', 'a', 'j'], ['constructor', 'toString'], [], keys(1), keys(100), keys(101),
        Array(101).fill('a'),
        ['a', ''], ['.'], ['..'], ['a', '.'], ['', '.'], ['.', ''], ['a', repeat('x', 513)], [repeat('x', 513), ''],
        [repeat('x', 512)],
        ['a', nothing, true, 1.5], [{}], [['a']], [symbol], [throwing], [noPrototype], ['mn'], ['bin'], ['o']
      ].map(keys => call(method, keys)).concat(
        TYPES.flatMap(type => [call(method, ['j', 'missing', 'n'], type), call(method, ['j', 'a'], type)]),
        ['o', 'bin', 'mn'].map(key => call(method, [key], 'json')),
        call(method, [], 'zz'), call(method, keys(101), 'zz'), call(method, [''], 'zz'),
        call(method, ['a', ''], 'json'),
        call(method, [], { cacheTtl: 29 }), call(method, [''], { cacheTtl: 29 }),
        call(method, ['a'], { cacheTtl: 29, type: 'zz' }),
        call(method, ['a', repeat('x', 513)], 'json')
      ))
    ],
    'lists': [
      list(), ...['é', 'z', '😀', '\uffff', 'a', 'A', 'ab', 'a\0', '\u{10ffff}', '~', 'aa', '%', ':'].map((key, i) =>
        put(key, 'v', i % 2 === 0 ? { metadata: { key } } : { expiration: 2_000_000_000 + i })),
      ...[nothing, null, {}, [], fn, 5, 'x', true, symbol].map(options => list(options)),
      ...['', 'a', 'aa', 'b', '\0', '😀', null, nothing, 5, '.', '..', repeat('x', 512), repeat('x', 513),
        repeat('é', 257), '\ud800',
        ...HOSTILE].map(prefix => list({ prefix })),
      ...ODD_NUMBERS.map(limit => list({ limit })), ...[1, 2, 3, 12, 13, 14].map(limit => list({ limit })),
      ...['', 'YQ==', 'YQ', 'junk', '!!', '%%', 5, null, nothing, 'a'.repeat(2000), '4oKs', 'AA==',
        ...HOSTILE].flatMap(cursor => [
        list({ cursor }), list({ cursor, limit: 2 }), list({ cursor, prefix: 'a', limit: 1 })
      ]),
      ...['limit', 'prefix', 'cursor'].map(name => list({ $: 'getter throws', name }))
    ]
  }
}

/** @param {number} n */
function keys(n) {
  return Array.from({ length: n }, (_, i) => `k${i}`)
}
