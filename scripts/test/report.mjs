// @ts-check
// What `npm test` ran and how it went: what the steps that failed said last, a table, and a last line that programs can
// read.

import { heading, run } from '../exec.mjs'

/** @typedef {'passed' | 'failed' | 'not run'} Status */

/** How much of a step's output is kept until it has ended, in characters. */
const KEPT = 200_000
/** How many lines of a failed step are shown once more at the end. */
const SHOWN = 80
/** Lines that tell of what went well, as cargo and node:test print them. */
const WENT_WELL = /^\s*(test .* \.\.\. ok|✔.*|▶.*|ok \d.*|)$/

export class Report {
  /** @type {{ title: string, status: Status, seconds: number, note: string }[]} */
  #steps = []
  /** The ends of what failed steps printed. @type {{ title: string, text: string }[]} */
  #ends = []

  /**
   * Runs a program as one step, under a heading.
   * @param {string} title
   * @param {string} command
   * @param {string[]} args
   * @param {Parameters<typeof run>[2]} [options]
   * @returns {Promise<boolean>} whether it went well
   */
  run(title, command, args, options) {
    return this.step(title, async () => {
      console.log(`$ ${[command.replace(process.execPath, 'node'), ...args].join(' ')}`)
      // A terminal can be scrolled, and shows colours; a log may be cut in its middle.
      const tail = process.stdout.isTTY ? 0 : KEPT
      const { why, stdout } = await run(command, args, { tail, ...options })
      if (why) this.#ends.push({ title, text: stdout })
      return why
    })
  }

  /**
   * Does one step, under a heading. It failed when it gives a reason or throws.
   * @param {string} title
   * @param {() => Promise<string | void>} action
   * @returns {Promise<boolean>} whether it went well
   */
  async step(title, action) {
    heading(title)
    const start = performance.now()
    let why
    try {
      why = await action()
    } catch (error) {
      console.error(error)
      why = error instanceof Error ? error.message : String(error)
    }
    this.add(title, why ? 'failed' : 'passed', (performance.now() - start) / 1000, why ?? '')
    return !why
  }

  /**
   * Notes a step that could not be run, which CI takes for a failure.
   * @param {string} title
   * @param {string} why
   */
  notRun(title, why) {
    heading(title)
    console.log(`NOT RUN: ${why}`)
    this.add(title, process.env.CI === 'true' ? 'failed' : 'not run', 0, `not run: ${why}`)
  }

  /**
   * @param {string} title
   * @param {Status} status
   * @param {number} seconds
   * @param {string} [note]
   */
  add(title, status, seconds, note = '') {
    const [line = ''] = note.split('\n')
    this.#steps.push({ title, status, seconds, note: line })
  }

  get failed() {
    return this.#steps.filter(step => step.status === 'failed').length
  }

  print() {
    for (const { title, text } of this.#ends) {
      const lines = text.split('\n').filter(line => !WENT_WELL.test(line)).slice(-SHOWN)
      if (lines.length === 0) continue
      heading(`failed: ${title}`)
      console.log(lines.join('\n'))
    }
    heading('Summary')
    const width = Math.max(...this.#steps.map(step => step.title.length))
    for (const { title, status, seconds, note } of this.#steps) {
      console.log(`${title.padEnd(width)}  ${status.padEnd(7)}  ${seconds.toFixed(1).padStart(6)} s  ${note}`.trimEnd())
    }
    const passed = this.#steps.filter(step => step.status === 'passed').length
    console.log(`\n${passed} passed, ${this.failed} failed`)
  }
}
