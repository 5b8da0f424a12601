// Guards the checker that the coherence suite relies on: it must find what is wrong, and nothing else.

import { describe, it } from 'node:test'
import assert from 'node:assert/strict'
import { outdated, unexplained } from './helpers/linear.mjs'

/** Histories as text: one operation a line, `name kind value` and a bar from its begin to its end. */
function history(text) {
  return text.split('\n').filter(line => line.includes('[')).map(line => {
    const [, by, kind, value] = /^\s*(\S+) (\S+) +(\S+)/.exec(line) ?? []
    return { by, kind, value: value === '-' ? undefined : value, begin: line.indexOf('['), end: line.indexOf(']') }
  })
}

const GOOD = {
  'reads after writes': `
    a write 1 [--]
    b read  1     [--]
    a write 2         [--]
    b read  2             [--]`,
  'a read beside a write may see it or not': `
    a write 1 [--]
    a write 2      [------]
    b read  2       [-]
    c read  2         [-]`,
  'old and new while the write runs, old first': `
    a write 1 [--]
    a write 2      [---------]
    b read  1       [-]
    c read  2           [-]`,
  'a delete makes it missing': `
    a write 1 [--]
    a write -     [--]
    b read  -         [--]`,
  'missing before anything': `
    b read  - [--]
    a write 1     [--]`,
  'two writes at once, in either order': `
    a write 1 [----]
    b write 2 [----]
    c read  1       [-]`,
  'a write that is read before it has ended': `
    a write 1 [----------]
    b read  1    [-]`,
  'a load that a put outdates is as if it came before': `
    a write 1 [-----------]
    b write 2    [--]
    c read  2         [-]`
}

const BAD = {
  'what was there before a write that ended': `
    a write 1 [--]
    a write 2     [--]
    b read  1         [--]`,
  'what was there before a delete that ended': `
    a write 1 [--]
    a write -     [--]
    b read  1         [--]`,
  'new, then old again': `
    a write 1 [--]
    a write 2      [----------]
    b read  2       [-]
    c read  1           [-]`,
  'what nobody wrote': `
    a write 1 [--]
    b read  9     [--]`,
  'what is written only later': `
    b read  1 [--]
    a write 1     [--]`,
  'missing though nobody deleted it': `
    a write 1 [--]
    b read  -     [--]`,
  'a delete undone': `
    a write 1 [--]
    b write -     [--]
    c read  -         [--]
    d read  1             [--]`
}

describe('the checker of histories', () => {
  for (const [name, text] of Object.entries(GOOD)) {
    it(`accepts: ${name}`, () => assert.equal(unexplained(history(text)), undefined))
  }
  for (const [name, text] of Object.entries(GOOD)) {
    it(`of what is outdated accepts: ${name}`, () => assert.equal(outdated(history(text)), undefined))
  }
  for (const [name, text] of Object.entries(BAD)) {
    const found = name === 'new, then old again' ? undefined : 'read'
    it(`of what is outdated ${found === undefined ? 'accepts, while the write runs' : 'finds'}: ${name}`, () =>
      assert.equal(outdated(history(text))?.operation.kind, found))
  }
  for (const [name, text] of Object.entries(BAD)) {
    it(`finds: ${name}`, () => assert.equal(unexplained(history(text))?.operation.kind, 'read'))
  }

  it('takes a long history of many at once in its stride', () => {
    let value
    const long = Array.from({ length: 20_000 }, (_, i) => {
      const kind = i % 3 === 0 ? 'write' : 'read'
      if (kind === 'write') value = i
      return { kind, value, begin: i - 0.5 - (i % 4), end: i + 0.25 }
    })
    assert.equal(unexplained(long), undefined)
    long[15_001].value = 'never'
    assert.equal(unexplained(long)?.operation.value, 'never')
  })
})
