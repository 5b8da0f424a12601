// @ts-check
// Writes index.d.cts, the typings that `require('kvcache')` resolves to, from the hand-written index.d.ts. TypeScript
// takes the module kind of a declaration file from its extension, so a CommonJS entry needs a file of its own; making
// it from the one source keeps the two from drifting apart. Run by the build and before packing; never edited, never
// committed.

import { readFileSync, writeFileSync } from 'node:fs'

const root = new URL('../', import.meta.url)
const note = '// Made from index.d.ts by scripts/dts.mjs. Do not edit.\n'

writeFileSync(new URL('index.d.cts', root), note + readFileSync(new URL('index.d.ts', root), 'utf8'))
