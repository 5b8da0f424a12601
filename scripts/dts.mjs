// @ts-check
// Writes index.d.cts and webhook.d.cts, the typings that `require()` of the package resolves to, from the hand-written
// index.d.ts and webhook.d.ts. TypeScript takes the module kind of a declaration file from its extension, so a CommonJS entry
// needs a file of its own; making it from the one source keeps the two from drifting apart. Run by the build and before
// packing; never edited, never committed.

import { readFileSync, writeFileSync } from 'node:fs'

const root = new URL('../', import.meta.url)

for (const name of ['index', 'webhook']) {
  const note = `// Made from ${name}.d.ts by scripts/dts.mjs. Do not edit.\n`
  const text = readFileSync(new URL(`${name}.d.ts`, root), 'utf8').replaceAll("'./index.js'", "'./index.cjs'")
  writeFileSync(new URL(`${name}.d.cts`, root), note + text)
}
