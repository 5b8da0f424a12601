// Guards the end of the process: an idle cache lets it exit, a get() that waits does not, a background refresh does
// not hold it, and no way of ending crashes it.

import { setTimeout as wait } from 'node:timers/promises'
import { suite } from 'node:test'
import { assert, test } from './helpers/kv.mjs'
import { run, start } from './helpers/child.mjs'

// Nothing of the child's own keeps it alive: its timers are unref'd. A script that ends while it awaits has exit
// code 13.
const UNREF = `
const later = (ms, value) => new Promise(resolve => setTimeout(resolve, ms, value).unref())
const failLater = ms => new Promise((_, reject) => setTimeout(reject, ms, new Error('down')).unref())
const down = () => { throw new Error('down') }
const never = () => new Promise(() => {})
const stale = { maxAge: 0, staleAge: 3600 }
const expired = { maxAge: 0, staleAge: 0, staleIfError: 3600 }
`

/** Declares tests that run a few at a time: their processes mostly wait. */
function sideBySide(name, cases, declare) {
  suite(name, { concurrency: 4 }, () => cases.forEach(declare))
}

const idle = {
  'that was only made': 'new KvCache()',
  'that was used': `
    const cache = new KvCache()
    await cache.put('k', 1)
    await cache.get('k')`,
  'with entries that end in an hour': `
    const cache = new KvCache()
    await cache.put('k', 1, { maxAge: 3000 })
    await cache.getMany(['k', 'l'], async () => ({ l: 1 }))`,
  'whose timeouts of loads long done are still to come': `
    const cache = new KvCache({ hardTimeout: '1h', softTimeout: '1h' })
    await cache.get('k', () => later(5, 'value'))`,
  'whose breaker is open': `
    const cache = new KvCache({ breaker: { threshold: 1, timeout: '1h' } })
    await cache.get('k', down).catch(() => {})`,
  'whose keys rest after a failed refresh': `
    const cache = new KvCache({ refresh: { cooldown: '1h' } })
    await cache.put('k', 'old', stale)
    await cache.get('k', down)
    await cache.flush()`,
  'with listeners': `
    const cache = new KvCache()
    for (const event of ['evict', 'refresh', 'breaker', 'error']) cache.on(event, () => {})
    await cache.put('k', 1)`,
  'that was closed': `
    const cache = new KvCache()
    await cache.put('k', 1)
    await cache.close()`,
  'with a softTimeout long ago answered': `
    const cache = new KvCache()
    await cache.put('k', 'old', expired)
    await cache.get('k', never, { softTimeout: 10 })`
}

sideBySide('a process with an idle cache', Object.entries(idle), ([what, script]) => {
  test(`a process with an idle cache ${what} exits by itself`, async () => {
    const { out } = await run(`${UNREF}${script}\nconsole.log('done')`)
    assert.equal(out, 'done')
  })
})

// Each is what the script prints once it is answered.
const waiting = {
  'a get that waits for a fetcher': [
    `
    console.log(await cache.get('k', () => later(400, 'value')))`,
    'value'
  ],
  'a get that joined a load': [
    `
    cache.get('k', () => later(400, 'value'))
    console.log(await cache.get('k', never))`,
    'value'
  ],
  'a getMany': [
    `
    const found = await cache.getMany(['a', 'b'], () => later(400, { a: 1, b: 2 }))
    console.log(found.size)`,
    '2'
  ],
  'a get of a defined key': [
    `
    cache.define('*', () => later(400, 'value'))
    console.log(await cache.get('k'))`,
    'value'
  ],
  'a get whose fetcher fails': [
    `
    await cache.get('k', () => failLater(400)).catch(error => console.log(error.message))`,
    'down'
  ],
  'a get that will be timed out': [
    `
    await cache.get('k', never, { hardTimeout: 400 }).catch(error => console.log(error.code))`,
    'ERR_KVCACHE_TIMEOUT'
  ],
  'a get that will be answered by its softTimeout': [
    `
    await cache.put('k', 'old', expired)
    console.log(await cache.get('k', never, { softTimeout: 400 }))`,
    'old'
  ],
  'a flush': [
    `
    await cache.put('k', 'old', stale)
    await cache.get('k', () => later(400, 'new'))
    await cache.flush()
    console.log(cache.peek('k'))`,
    'new'
  ],
  'a flush that will be timed out': [
    `
    await cache.put('k', 'old', stale)
    await cache.get('k', never)
    await cache.flush({ timeout: 400 }).catch(error => console.log(error.code))`,
    'ERR_KVCACHE_TIMEOUT'
  ],
  'a close': [
    `
    const get = cache.get('k', never).catch(error => console.log(error.code))
    await cache.close({ timeout: 400 })
    await get`,
    'ERR_KVCACHE_CLOSED'
  ],
  'a get that joined a refresh': [
    `
    const running = deferred()
    await cache.put('k', 'old', stale)
    await cache.get('k', () => {
      running.resolve()
      return later(400, 'new')
    })
    const held = setTimeout(() => {}, 20_000)
    await running.promise
    clearTimeout(held)
    console.log(await cache.get('k', never, { forceFresh: true }))`,
    'new'
  ]
}

sideBySide('a process in which someone waits', Object.entries(waiting), ([what, [script, expected]]) => {
  test(`a process with ${what} does not exit before it is answered`, async () => {
    const { out } = await run(`${UNREF}const cache = new KvCache()\n${script}`)
    assert.equal(out, expected)
  })
})

test('a get that waits for ever holds the process for ever', async () => {
  const { child, state, done } = start(`${UNREF}
    new KvCache().get('k', never, { hardTimeout: Infinity })
    console.log('waiting')`)
  while (!state.out && !state.exited) await wait(20)
  await wait(1000)
  assert.equal(state.exited, false, `exited: ${state.out} ${state.err}`)
  child.kill('SIGKILL')
  const { signal } = await done
  assert.equal(signal, 'SIGKILL')
})

const released = {
  'a refresh that runs': `
    await cache.put('k', 'old', stale)
    await cache.get('k', never, { hardTimeout: Infinity })`,
  'refreshes that are queued': `
    for (let i = 0; i < 50; i++) {
      await cache.put('k' + i, 'old', stale)
      await cache.get('k' + i, never)
    }`,
  'a refresh that waits for its retry': `
    const failed = deferred()
    await cache.put('k', 'old', stale)
    await cache.get('k', () => {
      failed.resolve()
      down()
    })
    const held = setTimeout(() => {}, 20_000)
    await failed.promise
    clearTimeout(held)`,
  'a batch refresh': `
    await cache.put('k', 'old', stale)
    await cache.getMany(['k'], never)`,
  'a load whose only caller has aborted': `
    const controller = new AbortController()
    setTimeout(() => controller.abort(), 20)
    await cache.get('k', never, { signal: controller.signal }).catch(() => {})`,
  'a load left running by a softTimeout': `
    await cache.put('k', 'old', expired)
    await cache.get('k', never, { softTimeout: 20, hardTimeout: Infinity })`,
  'a flush that was given up': `
    await cache.put('k', 'old', stale)
    await cache.get('k', never)
    await cache.flush({ timeout: 20 }).catch(() => {})`
}

sideBySide('a process for which nobody waits', Object.entries(released), ([what, script]) => {
  test(`${what} does not hold the process`, async () => {
    const { out } = await run(`${UNREF}
      const cache = new KvCache({ refresh: { retries: 5, backoff: '1h' } })
      ${script}
      console.log('done')`)
    assert.equal(out, 'done')
  })
})

test('refreshes still run as long as something else keeps the process alive', async () => {
  const { out } = await run(`
    const cache = new KvCache()
    await cache.put('k', 'old', { maxAge: 0, staleAge: 60 })
    await cache.get('k', () => sleep(50).then(() => 'new'))
    await until(() => cache.peek('k') === 'new')
    console.log('new')`)
  assert.equal(out, 'new')
})

const BUSY = `
  const cache = new KvCache({ memory: '1mb', refresh: { concurrency: 50, retries: 3, backoff: 1 } })
  cache.on('evict', () => {})
  cache.on('refresh', () => {})
  let n = 0
  const work = async () => {
    for (;;) {
      const key = 'k' + (n++ % 500)
      const fetcher = async () => {
        if (n % 7 === 0) throw new Error('seventh')
        await sleep(n % 3)
        return 'x'.repeat(n % 5000)
      }
      const ages = { maxAge: 0, staleAge: '20ms', staleIfError: 1 }
      await cache.get(key, fetcher, { ...ages, hardTimeout: 2, origin: 'o' + (n % 10) }).catch(() => {})
      await new Promise(resolve => setImmediate(resolve))
    }
  }
  for (let i = 0; i < 50; i++) work()
`

test('process.exit() in the middle of loads and refreshes crashes nothing', async () => {
  const delays = [0, 1, 5, 30, 60, 120]
  await Promise.all(
    delays.map(ms =>
      run(`${BUSY}
    setTimeout(() => process.exit(0), ${ms})`)
    )
  )
  await run(`${BUSY}
    cache.get('exit', () => process.exit(0))`)
})

test('an uncaught exception in the middle of loads and refreshes ends the process as usual', async () => {
  const { err } = await run(
    `${BUSY}
    setTimeout(() => { throw new Error('the uncaught one') }, 40)`,
    { code: 1 }
  )
  assert.match(err, /the uncaught one/)
})

test('process.exit() right after the addon was loaded, or in an exit handler, crashes nothing', async () => {
  await run('process.exit(0)')
  await run(`
    const cache = new KvCache()
    await cache.put('k', 1)
    process.on('exit', () => {
      if (cache.peek('k') !== 1) process.exitCode = 3
      cache.get('k')
      cache.stats()
      cache.close()
    })
    process.exit(0)`)
})

test('a cache is used in beforeExit without the process going round for ever', async () => {
  const { out } = await run(`
    const cache = new KvCache()
    let rounds = 0
    process.on('beforeExit', () => {
      rounds += 1
      if (rounds === 1) cache.get('k', async () => 'value').then(console.log)
    })
    process.on('exit', () => console.log(rounds < 5 ? 'few' : rounds))`)
  assert.equal(out, 'value\nfew')
})
