// @ts-check
/** kvcache/webhook: see `webhook.d.ts` for the whole interface. */
export { webhook } from './lib/webhook.js'
