// @ts-check
// Whether what threads saw of one key can be told as one story: a checker of linearizability for a register.
//
// Each operation took effect at one moment between its begin and its end; the order of the moments must explain every value
// that was read (M. Herlihy and J. Wing, "Linearizability", TOPLAS 1990). All orders are followed at once, an operation
// being placed no sooner than some operation's end needs it (G. Lowe, "Testing for linearizability", 2017): what is kept
// is a set of states, each a value and which of the operations under way have had their effect. With few operations
// under way at a time that set stays small, however long the history.

/**
 * @typedef {object} Operation
 * @property {'read' | 'write'} kind a delete writes undefined
 * @property {unknown} value that was read or written; compared by identity
 * @property {number} begin place in the one order of all begins and ends
 * @property {number} end
 * @property {string} [by] who did it, for the message
 */

/**
 * The first operation that nothing explains, with what was under way then; undefined when all is well.
 * @param {Operation[]} history of one key
 * @param {unknown} [initial] the value before
 * @returns {{ operation: Operation, around: Operation[] } | undefined}
 */
export function unexplained(history, initial) {
  const events = history.flatMap(operation => [
    { at: operation.begin, operation, ends: false },
    { at: operation.end, operation, ends: true }
  ])
  events.sort((a, b) => a.at - b.at)
  /** @type {Set<Operation>} */
  const open = new Set()
  /** @type {State[]} */
  let states = [{ value: initial, done: new Set() }]
  for (const { operation, ends } of events) {
    if (!ends) {
      open.add(operation)
      continue
    }
    states = distinct(states.flatMap(state => withEffect(state, operation, open)))
    if (states.length === 0) return { operation, around: [...open] }
    open.delete(operation)
  }
  return undefined
}

/** @typedef {{ value: unknown, done: Set<Operation> }} State */

/**
 * The states that can follow in which an operation has had its effect, and may be forgotten.
 * @param {State} from
 * @param {Operation} operation
 * @param {Set<Operation>} open
 * @returns {State[]}
 */
function withEffect(from, operation, open) {
  /** @type {State[]} */
  const found = []
  let reached = [from]
  while (reached.length > 0) {
    /** @type {State[]} */
    const next = []
    for (const state of reached) {
      if (state.done.has(operation)) {
        const done = new Set(state.done)
        done.delete(operation)
        found.push({ value: state.value, done })
        continue
      }
      for (const one of open) {
        if (state.done.has(one) || (one.kind === 'read' && one.value !== state.value)) continue
        next.push({ value: one.kind === 'read' ? state.value : one.value, done: new Set(state.done).add(one) })
      }
    }
    reached = distinct(next)
  }
  return distinct(found)
}

/** @type {WeakMap<Operation, number>} */
const numbers = new WeakMap()
let last = 0

/**
 * @param {Operation} operation
 */
function numberOf(operation) {
  let number = numbers.get(operation)
  if (number === undefined) numbers.set(operation, (number = ++last))
  return number
}

/**
 * @param {State[]} states
 */
function distinct(states) {
  if (states.length < 2) return states
  /** @type {Map<unknown, Map<string, State>>} */
  const known = new Map()
  for (const state of states) {
    let same = known.get(state.value)
    if (same === undefined) known.set(state.value, (same = new Map()))
    same.set([...state.done].map(numberOf).sort((a, b) => a - b).join(), state)
  }
  return [...known.values()].flatMap(same => [...same.values()])
}

/**
 * The first read that gives what was outdated before it began, or what was not written by its end: the check of a regular
 * register (L. Lamport, "On Interprocess Communication", 1986). Unlike {@link unexplained} it lets two readers differ in whether
 * they see a write that has not ended yet.
 * @param {Operation[]} history of one key
 * @param {unknown} [initial] the value before
 * @returns {{ operation: Operation, around: Operation[] } | undefined}
 */
export function outdated(history, initial) {
  const writes = history.filter(({ kind }) => kind === 'write').sort((a, b) => a.end - b.end)
  /** @type {Map<unknown, Operation[]>} */
  const byValue = new Map([[initial, [{ kind: 'write', value: initial, begin: -Infinity, end: -Infinity }]]])
  for (const write of writes) {
    const same = byValue.get(write.value)
    if (same === undefined) byValue.set(write.value, [write])
    else same.push(write)
  }
  const reads = history.filter(({ kind }) => kind === 'read').sort((a, b) => a.begin - b.begin)
  let ended = 0
  // The latest begin among the writes that ended before the read began: what ended before that is outdated.
  let latest = -Infinity
  for (const read of reads) {
    for (; ended < writes.length && writes[ended].end < read.begin; ended++) latest = Math.max(latest, writes[ended].begin)
    const explained = byValue.get(read.value)?.some(({ begin, end }) => begin < read.end && end >= latest)
    if (!explained) return { operation: read, around: history.filter(one => one.begin <= read.end && one.end >= read.begin) }
  }
  return undefined
}
