// @ts-check
// Fuzzes the engine: each target of crates/engine/fuzz for a bounded time, with the address sanitizer.
//
// Usage: node scripts/fuzz.mjs [options] [TARGET...]
//   --seconds N   for each target; 20 when not given
//   --help        this text
//
// Targets: compress, entry, envelope, key, memory, operations, pattern; all of them when none is given.
//
// It needs a C++ compiler, on Linux or macOS, and cargo-fuzz, which it installs under target/tools where it is not there. No
// nightly toolchain: the flags that instrument the code are unlocked on the stable one by RUSTC_BOOTSTRAP=1, for these
// builds alone. The corpus that a run finds stays in crates/engine/fuzz/corpus and is where the next one begins. What crashed a target is kept in
// crates/engine/fuzz/artifacts; cargo-fuzz prints the command that runs it again, which needs RUSTC_BOOTSTRAP=1 too.

import { readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { parseArgs } from 'node:util'
import { ROOT, heading, run } from './exec.mjs'
import { PLATFORM_WHY, TARGETS } from './fuzz-targets.mjs'

const ENGINE = join(ROOT, 'crates/engine')
const TOOLS = join(ROOT, 'target/tools')
// Cargo finds its subcommands where programs are found.
const ENV = { RUSTC_BOOTSTRAP: '1', PATH: `${process.env.PATH}${delimiter}${join(TOOLS, 'bin')}` }

const { values, positionals } = parseArgs({
  options: { seconds: { type: 'string', default: '20' }, help: { type: 'boolean' } },
  allowPositionals: true
})
if (values.help) {
  const text = readFileSync(new URL(import.meta.url), 'utf8')
  console.log(text.split('\n').filter(line => line.startsWith('//')).slice(3).map(line => line.slice(3)).join('\n'))
  process.exit(0)
}
const seconds = Number(values.seconds)
if (!Number.isInteger(seconds) || seconds < 1) refuse(`--seconds ${values.seconds}: expected a whole number, at least 1`)
for (const target of positionals) {
  if (!TARGETS.includes(target)) refuse(`target '${target}' is not known; there are: ${TARGETS.join(', ')}`)
}

/**
 * @param {string} why
 * @returns {never}
 */
function refuse(why) {
  console.error(why)
  process.exit(2)
}

/**
 * A figure of libFuzzer's final statistics.
 * @param {string} output
 * @param {string} name
 */
function figure(output, name) {
  return output.match(new RegExp(`stat::${name}: +(\\d+)`))?.[1] ?? 'an unknown number of'
}

if (PLATFORM_WHY !== undefined) refuse(PLATFORM_WHY)
const version = await run('cargo', ['fuzz', '--version'], { env: ENV, quiet: true, minutes: 1 })
if (!version.ok) {
  heading('cargo install cargo-fuzz')
  const installed = await run('cargo', ['install', 'cargo-fuzz', '--locked', '--root', TOOLS], { minutes: 15 })
  if (!installed.ok) refuse(`cargo-fuzz could not be installed: ${installed.why}`)
}

heading('fuzz: build')
const built = await run('cargo', ['fuzz', 'build'], { cwd: ENGINE, env: ENV, minutes: 30 })
if (!built.ok) refuse(`the targets could not be built: ${built.why}`)

let passed = 0
let failed = 0
for (const target of positionals.length > 0 ? positionals : TARGETS) {
  heading(`fuzz: ${target}, ${seconds} s`)
  // A single input that takes 10 s, or 2 GiB, is a finding as well.
  const limits = ['-timeout=10', '-rss_limit_mb=2048', '-print_final_stats=1', '-print_funcs=0', '-verbosity=0']
  const outcome = await run('cargo', ['fuzz', 'run', target, '--', `-max_total_time=${seconds}`, ...limits], {
    cwd: ENGINE,
    env: ENV,
    minutes: seconds / 60 + 5,
    quiet: true
  })
  if (outcome.ok) {
    passed++
    console.log(`${target}: nothing found in ${figure(outcome.stdout, 'number_of_executed_units')} inputs`)
  } else {
    failed++
    console.log(`${outcome.stdout.slice(-20_000)}\n${target}: failed, ${outcome.why}`)
  }
}
console.log(`\n${passed} passed, ${failed} failed`)
process.exitCode = failed === 0 ? 0 : 1
