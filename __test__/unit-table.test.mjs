// Guards the table of flights against a Map with the same content, and that what has left it is referred to no more.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Table } from '../lib/table.js'

/** @typedef {{ token: number, next: any }} One */

/** @param {number} token @returns {One} */
const one = token => ({ token, next: undefined })

test('a table holds what a Map would', () => {
  let seed = 7
  const random = () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0)
  /** @type {Table<One>} */
  const table = new Table()
  /** @type {Map<number, One>} */
  const map = new Map()
  for (let step = 0, token = 2 ** 32 - 500; step < 20_000; step++) {
    // It fills up first, and is emptied at the end.
    if (step < 2000 ? random() % 4 > 0 : random() % 4 > 1) {
      const added = one(token++)
      table.add(added)
      map.set(added.token, added)
    } else if (map.size > 0) {
      const all = [...map.values()]
      const gone = all[random() % all.length]
      assert.equal(table.delete(gone), true)
      assert.equal(gone.next, undefined)
      map.delete(gone.token)
      assert.equal(table.delete(gone), false)
    }
    const asked = token - (random() % 3000)
    assert.equal(table.get(asked), map.get(asked))
    if (step % 500 === 0) {
      assert.deepEqual(table.values().map(({ token }) => token).sort(), [...map.keys()].sort())
    }
  }
})

test('two of one number: the later is found, each goes by itself', () => {
  /** @type {Table<One>} */
  const table = new Table()
  const [first, second] = [one(5), one(5)]
  table.add(first)
  table.add(second)
  assert.equal(table.get(5), second)
  table.delete(first)
  assert.equal(table.get(5), second)
  table.delete(second)
  assert.equal(table.get(5), undefined)
})
