// @ts-check
// The fuzz targets of crates/engine/fuzz, and where they can be run.

/** @type {readonly string[]} */
export const TARGETS = ['compress', 'entry', 'envelope', 'key', 'memory', 'operations', 'pattern']

/** Why nothing can be fuzzed on this platform; undefined where it can. */
export const PLATFORM_WHY =
  process.platform === 'linux' || process.platform === 'darwin'
    ? undefined
    : `libFuzzer is at hand on Linux and macOS, not on ${process.platform}`
