// @ts-check
/** One peer of a part, which reads when it is told: `peer.mjs PART NUMBER OPTIONS`. */
import { watch } from '../watch.mjs'
import { hearing, readAll, say, shuffled } from './common.mjs'

const [part, number, options] = process.argv.slice(2)
const hear = hearing()
const { prepare } = await import(part)
/** @type {import('./common.mjs').Prepared} */
const { peers, keys, isRight } = prepare(JSON.parse(options))
const peer = peers[Number(number)]
process.on('disconnect', () => process.exit())
for (;;) {
  const { flights } = await hear()
  const { get, close } = await peer.open()
  const order = shuffled(keys).slice(0, Math.ceil(keys.length / (peer.share ?? 1)))
  const stop = watch()
  await readAll(order, flights, get, peer.isRight ?? isRight)
  const { wall, cpu } = stop()
  await close?.()
  say({ wall: wall / order.length, cpu: cpu / order.length })
}
