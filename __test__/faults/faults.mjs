// @ts-check
// The faults, each in rounds of a game between processes: something breaks while they play, is mended, and all must agree.
//
// Each gives what it has seen, or a reason why it could not be had on this machine.

import { execFile, execFileSync, spawnSync } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Game, allowed, sleep } from './players.mjs'
import { Redis, cluster, freePort, healthy } from './redis.mjs'

const exec = promisify(execFile)

/**
 * @typedef {object} Extent
 * @property {number} rounds
 * @property {number} until `performance.now()` after which no round begins
 * @property {number} seed
 *
 * @typedef {{ rounds: number, wrong: string[], counts: Record<string, number> }} Seen
 * @typedef {object} Fault
 * @property {string} name
 * @property {string} title
 * @property {{ short: number, long: number }} rounds
 * @property {() => string | undefined} [lacks] why it cannot be had here
 * @property {(extent: Extent) => Promise<Seen>} run
 */

const isRoot = process.getuid?.() === 0
const has = (/** @type {string} */ program) => !spawnSync(program, ['--version']).error
const needsRedis = () => (has('redis-server') && has('redis-cli') ? undefined : 'redis-server is not installed')

/**
 * Plays rounds, compares after each, and judges at the end.
 * @param {Game} game
 * @param {Extent} extent
 * @param {(round: number) => Promise<void>} round with all playing
 * @param {Parameters<Game['startAll']>[0]} [how]
 * @returns {Promise<Seen>}
 */
async function play(game, { rounds, until }, round, how) {
  let done = 0
  try {
    await game.startAll(how)
    while (done < rounds && (done === 0 || performance.now() < until)) {
      await game.all('go', { pace: 4 })
      await round(done)
      await game.all('pause')
      await game.compare()
      done++
    }
    return { rounds: done, ...(await game.end()) }
  } finally {
    await game.clear()
  }
}

/**
 * Kills the process in each place in turn, in the midst of what it does, and starts another there.
 * @param {Game} game
 * @param {number} times
 */
async function killing(game, times) {
  for (let n = 0; n < times; n++) {
    await sleep(20 + Math.random() * 150)
    const place = n % game.count
    await game.players[place]?.kill()
    const player = await game.start(place)
    await player.tell('go', { pace: 4 })
  }
}

/** @param {Extent} extent */
async function killWriters({ rounds, until, seed }) {
  const game = new Game({ tiers: {} }, { seed })
  // What is slow is not what this is about.
  game.part.tiers = { disk: { path: join(game.dir, 'store'), maxSize: '64mb', timeout: '20s' } }
  // Ten kills, then all compare.
  const seen = await play(game, { rounds: Math.ceil(rounds / 10), until, seed }, () => killing(game, Math.min(10, rounds)))
  return { ...seen, rounds: game.started - game.count }
}

/**
 * One Redis, and a fault of it.
 * @param {Extent} extent
 * @param {{ durable?: boolean, forgets?: boolean, disk?: boolean }} options
 * @param {(redis: Redis) => Promise<void>} fault
 */
async function withRedis(extent, { durable, forgets, disk }, fault) {
  const redis = new Redis(await freePort(), { durable })
  try {
    await redis.start()
    const game = new Game({ tiers: { redis: { url: redis.url } } }, { seed: extent.seed })
    return await play(game, extent, async () => {
      await sleep(700)
      await game.during(() => fault(redis), { forgets, deaf: true })
    }, place => (disk ? { tiers: { disk: { path: join(game.dir, `store.${place}`) }, redis: { url: redis.url } } } : {}))
  } finally {
    redis.signal('SIGCONT')
    await redis.clear()
  }
}

/** @param {Extent} extent */
const pauseRedis = extent => withRedis(extent, { durable: false }, async redis => {
  redis.signal('SIGSTOP')
  // At times shorter than anything notices, at times longer than everything waits.
  await sleep([300, 2500, 4500][Math.floor(Math.random() * 3)] ?? 0)
  redis.signal('SIGCONT')
})

/** @param {boolean} keeps @param {boolean} [disk] */
const restartRedis = (keeps, disk = false) => (/** @type {Extent} */ extent) => withRedis(extent, { durable: keeps, forgets: !keeps, disk }, async redis => {
  await redis.kill()
  await sleep(Math.random() < 0.5 ? 100 : 1500)
  await redis.start()
})

// --- A partition -------------------------------------------------------------------------------------------------------

/** Network namespaces: one of the Redis, one of the process that is cut off, one of the others. */
class Nets {
  constructor() {
    const id = `kvf${process.pid % 100_000}`
    this.redis = `${id}r`
    this.cut = `${id}c`
    this.others = `${id}o`
    this.second = process.pid % 250
  }

  /** @param {string} space @param {...string} words */
  ip(space, ...words) {
    return exec('ip', ['-n', space, ...words])
  }

  async make() {
    for (const space of [this.redis, this.cut, this.others]) await exec('ip', ['netns', 'add', space])
    await this.ip(this.redis, 'link', 'set', 'lo', 'up')
    for (const [third, space] of /** @type {const} */ ([[1, this.cut], [2, this.others]])) {
      const net = `10.${this.second}.${third}`
      await this.ip(space, 'link', 'add', 'a0', 'type', 'veth', 'peer', 'name', `b${third}`, 'netns', this.redis)
      await this.ip(space, 'addr', 'add', `${net}.1/24`, 'dev', 'a0')
      await this.ip(this.redis, 'addr', 'add', `${net}.2/24`, 'dev', `b${third}`)
      await this.ip(space, 'link', 'set', 'a0', 'up')
      await this.ip(space, 'link', 'set', 'lo', 'up')
      await this.ip(this.redis, 'link', 'set', `b${third}`, 'up')
    }
  }

  /** @param {'cut' | 'others'} who */
  url(who) {
    return `10.${this.second}.${who === 'cut' ? 1 : 2}.2`
  }

  async clear() {
    for (const space of [this.cut, this.others, this.redis]) await exec('ip', ['netns', 'del', space]).catch(() => {})
  }
}

/** @param {Extent} extent */
async function partition(extent) {
  const nets = new Nets()
  const inside = (/** @type {string} */ space) => ['ip', 'netns', 'exec', space]
  /** @type {Redis | undefined} */
  let redis
  try {
    await nets.make()
    redis = new Redis(6379, { command: inside(nets.redis) })
    await redis.start()
    const game = new Game({ tiers: {} }, { seed: extent.seed, lag: allowed.redisLag })
    const server = redis
    return await play(game, extent, async () => {
      await sleep(500)
      await game.during(async () => {
        /** @type {Set<string>} */
        const cut = new Set()
        const end = performance.now() + (Math.random() < 0.5 ? 1500 : 5000)
        // The log's connection, and each that is made in its place. All others go on.
        while (performance.now() < end) {
          const clients = await server.cli('client', 'list')
          for (const [, port = ''] of clients.matchAll(new RegExp(`addr=10\\.${nets.second}\\.1\\.1:(\\d+) .*cmd=xread`, 'g'))) {
            if (cut.has(port)) continue
            cut.add(port)
            await nets.ip(nets.redis, 'rule', 'add', 'pref', '100', 'ipproto', 'tcp', 'sport', '6379', 'dport', port, 'blackhole')
            await nets.ip(nets.cut, 'rule', 'add', 'pref', '100', 'ipproto', 'tcp', 'dport', '6379', 'sport', port, 'blackhole')
          }
          await sleep(20)
        }
        if (cut.size === 0) throw new Error('no connection of the log was found')
        for (const space of [nets.redis, nets.cut]) {
          for (const _ of cut) await nets.ip(space, 'rule', 'del', 'pref', '100')
        }
      }, { deaf: true })
    }, place => {
      const who = place === 0 ? 'cut' : 'others'
      return { command: inside(nets[who]), tiers: { redis: { url: `redis://${nets.url(who)}:6379` } } }
    })
  } finally {
    await redis?.clear()
    await nets.clear()
  }
}

// --- A cluster ---------------------------------------------------------------------------------------------------------

/** @param {Extent} extent */
async function failover(extent) {
  const nodes = await cluster()
  try {
    const url = nodes.map(node => node.url)
    const game = new Game({ tiers: { redis: { url, cluster: true } } }, { seed: extent.seed })
    return await play(game, extent, async round => {
      await sleep(1000)
      // The log's master at times, another one at others.
      const slot = round % 2 === 0 ? await nodes.find(({ child }) => child?.exitCode === null)?.cli('cluster', 'keyslot', 'kvcache:{log}') : '0'
      const owner = await ownerOf(nodes, Number(slot))
      await game.during(async () => {
        await owner.kill()
        await sleep(4000)
        await owner.start()
        await healthy(nodes)
      }, { forgets: true, deaf: true })
    })
  } finally {
    await Promise.all(nodes.map(node => node.clear()))
  }
}

/**
 * @param {Redis[]} nodes
 * @param {number} slot
 */
async function ownerOf(nodes, slot) {
  for (const node of nodes) {
    const own = (await node.cli('cluster', 'nodes')).split('\n').find(line => line.includes('myself'))
    for (const [, from, to] of (own ?? '').matchAll(/ (\d+)-(\d+)/g)) if (slot >= Number(from) && slot <= Number(to)) return node
  }
  throw new Error(`nobody has slot ${slot}`)
}

// --- Clocks --------------------------------------------------------------------------------------------------------------

const HOUR = 3600

/** @param {'disk' | 'redis' | 'both'} which */
const clockSteps = which => async (/** @type {Extent} */ extent) => {
  const dir = mkdtempSync(join(tmpdir(), 'kvcache-clock-'))
  const redis = which === 'disk' ? undefined : new Redis(await freePort())
  try {
    const shim = join(dir, 'clock.so')
    execFileSync('cc', ['-shared', '-fPIC', '-O1', '-o', shim, fileURLToPath(new URL('clock.c', import.meta.url))])
    const file = join(dir, 'offset')
    writeFileSync(file, Buffer.alloc(8))
    const clock = openSync(file, 'r+')
    const set = (/** @type {number} */ seconds) => {
      const bytes = Buffer.alloc(8)
      bytes.writeBigInt64LE(BigInt(seconds))
      writeSync(clock, bytes, 0, 8, 0)
    }
    await redis?.start()
    const game = new Game({ tiers: {} }, { seed: extent.seed, lag: redis ? allowed.redisLag : 0n })
    game.part.tiers = {
      ...(which === 'redis' ? {} : { disk: { path: join(game.dir, 'store'), maxSize: '64mb' } }),
      ...(redis ? { redis: { url: redis.url } } : {})
    }
    try {
      return await play(game, extent, async round => {
        await sleep(300)
        const before = await game.players[0]?.tell('clock')
        const to = [HOUR, 0, -HOUR, 0][round % 4] ?? 0
        set(to)
        const after = await game.players[0]?.tell('clock')
        const others = await game.players[1]?.tell('clock')
        if (Math.abs(after - others - to * 1000) > 60_000) throw new Error(`the clock has not stepped: ${before}, ${after}, ${others}`)
        await sleep(700)
      }, place => (place === 0 ? { env: { LD_PRELOAD: shim, KVCACHE_CLOCK: file } } : {}))
    } finally {
      closeSync(clock)
    }
  } finally {
    await redis?.clear()
    rmSync(dir, { recursive: true, force: true })
  }
}

// --- A full disk ---------------------------------------------------------------------------------------------------------

/** @param {Extent} extent */
async function diskFull(extent) {
  const dir = mkdtempSync(join(tmpdir(), 'kvcache-full-'))
  await exec('mount', ['-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', dir])
  try {
    const path = join(dir, 'store')
    const ballast = join(dir, 'ballast')
    mkdirSync(path)
    const game = new Game({ tiers: { disk: { path, maxSize: '64mb' } }, large: 2, bytes: 100_000 }, { seed: extent.seed, lossy: true, keys: 90 })
    return await play(game, extent, async () => {
      await sleep(300)
      await game.during(async () => {
        // Whatever is left.
        const file = openSync(ballast, 'w')
        try {
          for (;;) writeSync(file, Buffer.alloc(64 << 10))
        } catch (error) {
          if (/** @type {any} */ (error).code !== 'ENOSPC') throw error
        } finally {
          closeSync(file)
        }
        await sleep(1500)
        rmSync(ballast)
        await sleep(300)
      })
    })
  } finally {
    if (existsSync(dir)) await exec('umount', ['-l', dir])
    rmSync(dir, { recursive: true, force: true })
  }
}

const needsClock = () => (has('cc') ? undefined : 'no C compiler for the clock that steps')
const needsNets = () => needsRedis() ?? (process.platform === 'linux' && isRoot && !spawnSync('ip', ['netns']).error ? undefined : 'network namespaces need root and ip')
const needsMount = () => (process.platform === 'linux' && isRoot ? undefined : 'a tmpfs of its own needs root')

/** @type {Fault[]} */
export const FAULTS = [
  { name: 'kill', title: 'kill -9 of processes that share a disk path', rounds: { short: 20, long: 200 }, run: killWriters },
  { name: 'pause', title: 'SIGSTOP of Redis, then SIGCONT', rounds: { short: 0, long: 20 }, lacks: needsRedis, run: pauseRedis },
  { name: 'restart', title: 'Redis killed and restarted with its data', rounds: { short: 1, long: 20 }, lacks: needsRedis, run: restartRedis(true) },
  { name: 'amnesia', title: 'Redis killed and restarted without its data', rounds: { short: 0, long: 20 }, lacks: needsRedis, run: restartRedis(false) },
  {
    name: 'amnesia-disk', title: 'the same behind a disk tier of each process', rounds: { short: 1, long: 20 }, lacks: needsRedis,
    run: restartRedis(false, true)
  },
  { name: 'partition', title: 'a partition that cuts only the log of one process', rounds: { short: 0, long: 20 }, lacks: needsNets, run: partition },
  { name: 'failover', title: 'a master of a cluster killed', rounds: { short: 0, long: 10 }, lacks: needsRedis, run: failover },
  { name: 'clock-disk', title: 'clock steps of an hour, disk', rounds: { short: 4, long: 40 }, lacks: needsClock, run: clockSteps('disk') },
  { name: 'clock-redis', title: 'clock steps of an hour, Redis', rounds: { short: 0, long: 40 }, lacks: () => needsRedis() ?? needsClock(), run: clockSteps('redis') },
  { name: 'clock-both', title: 'clock steps of an hour, disk and Redis', rounds: { short: 4, long: 40 }, lacks: () => needsRedis() ?? needsClock(), run: clockSteps('both') },
  { name: 'full', title: 'a full disk', rounds: { short: 1, long: 20 }, lacks: needsMount, run: diskFull }
]
