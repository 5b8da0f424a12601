// @ts-check
// Last step of `npm run build` and `npm run build:debug`: notes which profile the addon was built with, so that the
// bench and the demo never measure a debug build (see setup.mjs), and brings the typings for CommonJS up to date.
//
// Usage: node scripts/built.mjs release|debug

import { mkdirSync, writeFileSync } from 'node:fs'

const profile = process.argv[2]
if (profile !== 'release' && profile !== 'debug') throw new Error(`profile '${profile}': expected release or debug`)

const target = new URL('../target/', import.meta.url)
mkdirSync(target, { recursive: true })
writeFileSync(new URL('addon-profile', target), profile + '\n')

await import('./dts.mjs')
