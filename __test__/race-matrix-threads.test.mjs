// Guards I1 and I2 across threads: the matrix of race-matrix.test.mjs where one thread loads or publishes and another one
// cuts, each of them the main one once. Both ask, with copies near them.

import { after, describe } from 'node:test'
import { test } from './helpers/kv.mjs'
import { CONTENT, CUT_NAMES, LOAD_NAMES, POINTER, Side, WHEN, race, racePublication, remote } from './helpers/races.mjs'
import { freshName, thread } from './helpers/threads.mjs'

/** One worker for all. @type {ReturnType<typeof thread>} */
let worker

/**
 * One side here and one there.
 * @param {import('node:test').TestContext} t
 * @param {boolean} loadsHere
 */
async function two(t, loadsHere) {
  const name = freshName()
  const here = new Side(name)
  const there = await remote(worker, name)
  t.after(() => Promise.all([here.close(), there.close()]))
  return loadsHere
    ? { loader: here, cutter: there, readers: [there, here] }
    : { loader: there, cutter: here, readers: [here, there] }
}

describe('across threads', () => {
  worker = thread(/** @type {any} */ ({ after }))
  for (const loadsHere of [true, false]) {
    const where = loadsHere ? 'there' : 'here'
    for (const load of LOAD_NAMES) {
      for (const cut of CUT_NAMES) {
        for (const when of WHEN) {
          test(`${load}, cut ${where} by ${cut} ${when}`, async t => race(load, cut, when, await two(t, loadsHere)))
        }
      }
    }
    for (const cut of CUT_NAMES) {
      for (const when of ['before', 'meanwhile', 'after']) {
        for (const [what, key] of [['content', CONTENT], ['pointer', POINTER]]) {
          test(`a publication, its ${what} cut ${where} by ${cut} ${when}`, async t => {
            await racePublication(cut, key, when, await two(t, loadsHere))
          })
        }
      }
    }
  }
})
