// @ts-check
// Guards that a call which waits comes to its end although nobody holds the cache any more, but for the promise of that
// call: its cache is not collected meanwhile.

import { assert, test } from './helpers/kv.mjs'
import { run } from './helpers/child.mjs'

const STORE = `await cache.put('k', 'é and more '.repeat(500_000)); await cache.flush()`

/**
 * What a function does with a cache that goes out of scope, and what is then printed.
 * @type {Record<string, [string, string]>}
 */
const calls = {
  'a get of a value that a worker decompresses': [
    `${STORE}; return (await cache.get('k')).length`, '5500000'
  ],
  'a get through the Workers KV interface': [
    `${STORE}; return (await cache.asKVNamespace().get('k')).length`, '5500000'
  ],
  'a flush': [`${STORE}; return 'flushed'`, 'flushed'],
  'a get whose fetcher never settles': [`return cache.get('k', () => new Promise(() => {}))`, 'ERR_KVCACHE_TIMEOUT'],
  'a close': [
    `cache.get('k', () => new Promise(() => {})).catch(() => {}); return cache.close({ timeout: 200 })`, 'undefined'
  ]
}

for (const [name, [body, expected]] of Object.entries(calls)) {
  test(`${name} keeps its cache until it ends`, async () => {
    const { out } = await run(
      `async function go() {
        const cache = new KvCache({ near: false, hardTimeout: 300 })
        ${body}
      }
      let over = false
      go().then(value => console.log(String(value)), error => console.log(error.code)).then(() => (over = true))
      while (!over) {
        gc()
        await sleep(1)
      }`,
      { flags: ['--expose-gc'] }
    )
    assert.equal(out, expected)
  })
}
