// @ts-check
// Part `rust`: the engine and the addon as Rust sees them.

import { has, heading, run } from '../exec.mjs'

/** @param {import('./report.mjs').Report} report */
export async function rust(report) {
  // In CI the lock file is to be right as it is; elsewhere cargo may bring it up to date.
  const locked = process.env.CI === 'true' ? ['--locked'] : []
  await component('rustfmt', 'fmt')
  await component('clippy', 'clippy')
  await report.run('cargo fmt', 'cargo', ['fmt', '--all', '--check'])
  const clippy = ['clippy', '--workspace', '--all-targets', ...locked, '--', '-D', 'warnings']
  await report.run('cargo clippy', 'cargo', clippy, { minutes: 30 })
  await report.run('cargo test', 'cargo', ['test', '--workspace', '--no-fail-fast', ...locked], { minutes: 30 })
  // Other builds of the same crate: shuttle's locks stand in the place of the real ones.
  const shuttle = ['test', '-p', 'kvcache-engine', '--features', 'shuttle', '--test', 'shuttle', ...locked]
  await report.run('cargo test of interleavings (shuttle)', 'cargo', shuttle, { minutes: 30 })
  const miri = await run('cargo', ['miri', '--version'], { quiet: true, minutes: 1 })
  if (miri.ok) {
    const unsafely = ['miri', 'test', '-p', 'kvcache-engine', '--lib', ...locked, '--', 'entry::', 'table::']
    await report.run('cargo miri test', 'cargo', unsafely, { env: { MIRIFLAGS: '-Zmiri-disable-isolation' }, minutes: 30 })
  } else {
    heading('cargo miri test')
    console.log('Left out: this Rust toolchain comes without Miri.')
  }
}

/**
 * Adds a component to a toolchain that was installed without it, where rustup can.
 * @param {string} name
 * @param {string} command of cargo
 */
async function component(name, command) {
  const { ok } = await run('cargo', [command, '--version'], { quiet: true })
  if (ok || !(await has('rustup'))) return
  heading(`rustup component add ${name}`)
  await run('rustup', ['component', 'add', name])
}
