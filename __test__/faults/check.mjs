// @ts-check
// What histories of processes must be: nothing that was acknowledged is lost, nothing that was invalidated is served.
//
// Changes of one key are made by one process, one after the other, so they are numbered. A read that began after change n was
// acknowledged must not give anything before n, whoever reads; in the process that made it that holds from its rejection on, too. It must
// not give nothing where the last acknowledged change was a put that nothing has followed, unless misses are allowed then. Over
// Redis the others hear of a change a moment after it was acknowledged, and while they cannot hear of it, not at all: a lag is
// allowed for, and the time until the log must have been caught up with. What a process did itself it must always know.

/**
 * @typedef {object} Change
 * @property {number} n
 * @property {string} kind
 * @property {string} by
 * @property {bigint} begin
 * @property {bigint} [told] when everybody must know
 * @property {bigint} [local] when its own process must know
 */

/** @typedef {{ k: number, n: number | undefined, loaded: boolean, begin: bigint, end: bigint, by: string, how: string }} Read */

/**
 * When a read may find nothing; `forgets`: and whether what was written before its end may be gone for good; `deaf`: until when a
 * process may not have heard of what others did.
 * @typedef {{ from: bigint, to: bigint, forgets?: boolean, deaf?: bigint }} Window
 */

/**
 * @param {{ by: string, text: string }[]} files histories of processes
 */
export function parse(files) {
  /** @type {Map<number, Change[]>} */
  const changes = new Map()
  /** @type {Read[]} */
  const reads = []
  for (const { by, text } of files) {
    /** @type {Map<string, Change>} */
    const open = new Map()
    /** @type {Change[]} */
    const queued = []
    const lines = text.split('\n')
    // After kill -9 the last line may be half there.
    lines.pop()
    for (const line of lines) {
      const [what, k = '', n = '', a = '', b = '', how = ''] = line.split(' ')
      if (what === 'C') {
        const change = { n: Number(n), kind: a, by, begin: BigInt(b) }
        const key = Number(k)
        open.set(`${k} ${n}`, change)
        const known = changes.get(key)
        if (known === undefined) changes.set(key, [change])
        else known.push(change)
      } else if (what === 'A' || what === 'R') {
        const change = /** @type {Change} */ (open.get(`${k} ${n}`))
        open.delete(`${k} ${n}`)
        change.local = BigInt(a)
        if (what === 'A') change.told = change.local
        else queued.push(change)
      } else if (what === 'F') {
        for (const change of queued.splice(0)) change.told = BigInt(k)
      } else if (what === 'r') {
        const value = n === '-' ? undefined : Math.abs(Number(n))
        reads.push({ k: Number(k), n: value, loaded: n.startsWith('-') && n !== '-', begin: BigInt(a), end: BigInt(b), by, how })
      }
    }
  }
  for (const list of changes.values()) list.sort((x, y) => x.n - y.n)
  return { changes, reads }
}

/**
 * @param {ReturnType<typeof parse>} history
 * @param {{ windows?: Window[], lossy?: boolean, lag?: bigint }} [allowed] lossy: misses are always allowed; lag: nanoseconds until
 *   the others have heard of a change
 */
export function check({ changes, reads }, { windows = [], lossy = false, lag = 0n } = {}) {
  /** @type {string[]} */
  const wrong = []
  const counts = { changes: 0, acknowledged: 0, rejected: 0, reads: reads.length, found: 0, loaded: 0 }
  for (const list of changes.values()) {
    counts.changes += list.length
    for (const { told, local } of list) {
      if (told !== undefined) counts.acknowledged++
      if (local !== undefined && told !== local) counts.rejected++
    }
  }
  const forgotten = windows.filter(({ forgets }) => forgets)
  for (const read of reads) {
    if (read.n !== undefined) counts.found++
    if (read.loaded) counts.loaded++
    const list = changes.get(read.k) ?? []
    const least = lastKnown(list, read, lag, windows)
    if (read.n !== undefined) {
      if (read.n < (least?.n ?? 0)) wrong.push(`outdated: ${story(read, least)}`)
      const known = list.find(({ n }) => n === read.n)
      if (read.n > 0 && (known === undefined || known.begin > read.end)) wrong.push(`never written: ${story(read, known)}`)
      continue
    }
    if (lossy || read.how !== 'get' || least === undefined || least.kind !== 'put' || least.told === undefined) continue
    if (least.told > read.begin) continue
    const following = list.find(({ n }) => n > /** @type {Change} */ (least).n)
    if (following !== undefined && following.begin <= read.end) continue
    if (windows.some(({ from, to }) => read.begin <= to && read.end >= from)) continue
    if (forgotten.some(({ to }) => least.begin <= to && read.end > to)) continue
    wrong.push(`lost: ${story(read, least)}`)
  }
  return { wrong, counts }
}

/**
 * The last change of which the reader must know.
 * @param {Change[]} list in order
 * @param {Read} read
 * @param {bigint} lag
 * @param {Window[]} windows
 */
function lastKnown(list, read, lag, windows) {
  // Who was deaf knows what was told before that.
  const deaf = windows.find(({ from, deaf = 0n }) => read.begin >= from && read.begin <= deaf)
  const latest = (deaf === undefined ? read.begin : deaf.from) - lag
  // Changes begin in order; none that began after the read can be known to it.
  let low = 0
  let high = list.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (/** @type {Change} */ (list[middle]).begin < read.begin) low = middle + 1
    else high = middle
  }
  for (let i = low - 1; i >= 0; i--) {
    const change = /** @type {Change} */ (list[i])
    const known = change.by === read.by ? change.local : change.told
    if (known !== undefined && known < (change.by === read.by ? read.begin : latest)) return change
  }
  return undefined
}

/**
 * @param {Read} read
 * @param {Change | undefined} change
 */
function story({ k, n, begin, end, by, how, loaded }, change) {
  const ms = (/** @type {bigint | undefined} */ t) => (t === undefined ? 'never' : `${Number(t / 1000n) / 1000}`)
  const known = change && `${change.kind} of ${change.n} by ${change.by}, begun ${ms(change.begin)}, told ${ms(change.told)}`
  return `${how} of key ${k} by ${by} gave ${n}${loaded ? ' (loaded)' : ''} from ${ms(begin)} to ${ms(end)} ms; ${known}`
}
