// @ts-check
// Runs programs for the other scripts: no shell but where Windows needs one, no standard input, and an end to
// everything that hangs.

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** The folder of the project. */
export const ROOT = fileURLToPath(new URL('../', import.meta.url))

const WINDOWS = process.platform === 'win32'
/** Programs that are command files on Windows, which only a shell starts there. */
const COMMAND_FILES = new Set(['npm', 'npx'])

/**
 * How a program ended. `code` is null when it could not be started or was ended from outside; `why` then says so.
 * `stdout` is what it printed on either stream, as far as it was kept: with `quiet` all, with `tail` the end, else nothing.
 * @typedef {{ ok: boolean, code: number | null, why: string, stdout: string }} Outcome
 */

/**
 * Runs a program to its end. Its output goes to ours, unless `quiet` keeps it for the caller.
 * @param {string} command
 * @param {string[]} args
 * @param {object} [options]
 * @param {string} [options.cwd]
 * @param {Record<string, string | undefined>} [options.env] beside ours
 * @param {number} [options.minutes] after which (20 when not given) the program is ended, with everything it started
 * @param {boolean} [options.quiet]
 * @param {number} [options.tail] keep about so many characters of the end of the output for the caller too; the program
 *   then does not see a terminal
 * @returns {Promise<Outcome>}
 */
export function run(command, args, options = {}) {
  const { cwd = ROOT, env, minutes = 20, quiet = false, tail = 0 } = options
  const kept = quiet || tail > 0
  const shell = WINDOWS && COMMAND_FILES.has(command)
  return new Promise(resolve => {
    const child = spawn(command, shell ? args.map(quoted) : args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', kept ? 'pipe' : 'inherit', kept ? 'pipe' : 'inherit'],
      shell,
      // A process group of its own, so that a time-out reaches grandchildren too. Ctrl-C is passed on below.
      detached: !WINDOWS
    })
    let stdout = ''
    let why = ''
    for (const [stream, ours] of /** @type {const} */ ([[child.stdout, process.stdout], [child.stderr, process.stderr]])) {
      // Decoded as a stream: a chunk may end in the middle of a character.
      stream?.setEncoding('utf8').on('data', chunk => {
        if (!quiet) ours.write(chunk)
        stdout += chunk
        if (!quiet && stdout.length > 2 * tail) stdout = stdout.slice(-tail)
      })
    }
    /** @param {NodeJS.Signals} signal */
    const end = signal => {
      try {
        if (WINDOWS || child.pid === undefined) child.kill(signal)
        else process.kill(-child.pid, signal)
      } catch {
        // It has ended meanwhile.
      }
    }
    const limit = setTimeout(() => {
      why = `ended after ${minutes} minutes`
      end('SIGTERM')
      setTimeout(end, 5000, 'SIGKILL').unref()
    }, minutes * 60_000)
    const interrupted = () => {
      end('SIGTERM')
      process.exit(130)
    }
    process.once('SIGINT', interrupted).once('SIGTERM', interrupted)
    /** @param {number | null} code */
    const done = code => {
      clearTimeout(limit)
      process.off('SIGINT', interrupted).off('SIGTERM', interrupted)
      resolve({ ok: code === 0 && why === '', code, why: why || (code === 0 ? '' : `exit code ${code}`), stdout })
    }
    child.once('error', error => {
      why = `cannot start ${command}: ${error.message}`
      done(null)
    })
    child.once('close', (code, signal) => {
      if (signal !== null) why ||= `ended by ${signal}`
      done(code)
    })
  })
}

/** @param {string} text */
function quoted(text) {
  return /[\s"&|<>^]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

/**
 * Whether a program is there.
 * @param {string} command
 */
export async function has(command) {
  const outcome = await run(WINDOWS ? 'where' : 'which', [command], { quiet: true, minutes: 1 })
  return outcome.ok
}

/**
 * A line over what follows, to be found again in a long log.
 * @param {string} title
 */
export function heading(title) {
  console.log(`\n=== ${title} ${'='.repeat(Math.max(4, 100 - title.length))}`)
}
