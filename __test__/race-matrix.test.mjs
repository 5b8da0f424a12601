// Guards I1 and I2 in every combination: a load of each kind, and a publication, cut in each way, before it begins, while it
// is under way, and after it has ended. Whoever asks after the cut gets nothing from before it; the load answers those who
// waited.

import { test } from './helpers/kv.mjs'
import { CONTENT, CUT_NAMES, LOAD_NAMES, POINTER, Side, WHEN, race, racePublication } from './helpers/races.mjs'

/**
 * All in this thread.
 * @param {import('node:test').TestContext} t
 */
function alone(t) {
  const side = new Side(undefined)
  t.after(() => side.close())
  return { loader: side, cutter: side, readers: [side] }
}

for (const load of LOAD_NAMES) {
  for (const cut of CUT_NAMES) {
    for (const when of WHEN) test(`${load}, cut by ${cut} ${when}`, t => race(load, cut, when, alone(t)))
  }
}

for (const cut of CUT_NAMES) {
  for (const when of ['before', 'meanwhile', 'after']) {
    for (const [what, key] of [['content', CONTENT], ['pointer', POINTER]]) {
      test(`a publication, its ${what} cut by ${cut} ${when}`, t => racePublication(cut, key, when, alone(t)))
    }
  }
}
