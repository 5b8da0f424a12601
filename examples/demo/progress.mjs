// @ts-check
/**
 * How far a replay is: a bar on a terminal, a line now and then elsewhere (a pipe, a CI log).
 */
import cliProgress from 'cli-progress'
import { count } from './format.mjs'

/** Lines of a replay where there is no terminal. */
const LINES = 10

/** @typedef {{ answered: number, phase: string, detail: string }} Step */

export class Progress {
  #bar
  #title
  #total
  #out
  #linesWritten = 0

  /**
   * @param {string} title
   * @param {number} total requests
   * @param {NodeJS.WriteStream} [out]
   */
  constructor(title, total, out = process.stderr) {
    this.#title = title
    this.#total = total
    this.#out = out
    if (out.isTTY && !process.env.CI) {
      const format = `${title} {bar} {percentage} % | {phase} | {detail}`
      this.#bar = new cliProgress.SingleBar(
        { format, barsize: 24, hideCursor: true, linewrap: false, stream: out, gracefulExit: false },
        cliProgress.Presets.shades_classic
      )
      this.#bar.start(total, 0, { phase: 'warming up', detail: '' })
    }
  }

  /** @param {Step} step */
  update({ answered, phase, detail }) {
    if (this.#bar) return void this.#bar.update(answered, { phase, detail })
    if (answered < ((this.#linesWritten + 1) * this.#total) / LINES) return
    this.#linesWritten = Math.floor((answered * LINES) / this.#total)
    this.#out.write(`${this.#title} ${count(answered)} of ${count(this.#total)} requests | ${phase} | ${detail}\n`)
  }

  /** @param {Step} [last] */
  stop(last) {
    if (last) this.update(last)
    this.#bar?.stop()
  }
}
