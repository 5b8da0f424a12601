// Typings as an ES module sees them: what is right compiles, with the types inferred that a reader expects; what is
// wrong does not. Nothing here runs. Each `@ts-expect-error` is a promise: the compiler fails when the line after it is
// fine.

import { KvCache, KvCacheError, cloudflareKV, disk, redis, key } from 'kvcache'
import type {
  Age,
  BatchFetcher,
  BreakerState,
  Entry,
  EntryOptions,
  Events,
  FetchContext,
  Fetcher,
  GetOptions,
  Json,
  KvCacheErrorCode,
  KvCacheOptions,
  ListResult,
  Published,
  Stats,
  Target,
  VersionedContent
} from 'kvcache'
import { webhook, type WebhookRefusalCode } from 'kvcache/webhook'
import { createServer } from 'node:http'

interface User {
  id: number
  name: string
}
declare function loadUser(id: number, signal?: AbortSignal): Promise<User>

type Same<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false
/** Compiles only when the value has exactly the type T. */
declare function exactly<T>(): <V>(value: V, same: Same<V, T>) => void

// --- Construction and options ----------------------------------------------------------------------------------------

const cache = new KvCache()
new KvCache({})
new KvCache({ memory: '64mb', maxAge: 60, staleAge: '1h', staleIfError: Infinity, jitter: 0.1 })
new KvCache({ serializer: 'v8', softTimeout: '100ms', hardTimeout: Infinity, breaker: false })
new KvCache({ refresh: { concurrency: 4, maxQueued: 100, retries: 2, backoff: '50ms', cooldown: 500 } })
new KvCache({ breaker: { threshold: 3, timeout: '10s', failure: error => (error as Error).name !== 'NotFound' } })
new KvCache({
  serializer: {
    name: 'upper',
    serialize: value => new TextEncoder().encode(String(value)),
    deserialize: bytes => new TextDecoder().decode(bytes)
  }
})
new KvCache({ compression: { algorithm: 'zstd', level: 3, threshold: '4kb' } })
new KvCache({ compression: false })
// What may be missing may also be undefined, under exactOptionalPropertyTypes too.
new KvCache({ memory: undefined, maxAge: undefined, refresh: undefined, breaker: undefined })

// @ts-expect-error no such option
new KvCache({ ttl: 60 })
// @ts-expect-error not a size
new KvCache({ memory: true })
// @ts-expect-error not a serializer
new KvCache({ serializer: 'msgpack' })
// @ts-expect-error a serializer needs a name
new KvCache({ serializer: { serialize: () => new Uint8Array(), deserialize: () => 1 } })
// @ts-expect-error a serializer gives bytes
new KvCache({ serializer: { name: 'text', serialize: () => 'text', deserialize: () => 1 } })
// @ts-expect-error false or options
new KvCache({ breaker: true })
// @ts-expect-error no such algorithm
new KvCache({ compression: { algorithm: 'brotli' } })
// @ts-expect-error false or options
new KvCache({ compression: true })
// @ts-expect-error metadata belongs to an entry
new KvCache({ metadata: 1 })
// @ts-expect-error a signal belongs to a call
new KvCache({ signal: AbortSignal.timeout(1) })
new KvCache({ tiers: [] })
new KvCache({
  tiers: [
    disk({ path: '/var/cache/app', maxSize: '2gb' }),
    redis({ url: ['redis://a:1', 'redis://b:2'], cluster: true, prefix: 'app:', lock: true, timeout: '200ms' }),
    cloudflareKV({ accountId: 'a', namespaceId: 'n', apiToken: 't' })
  ]
})
// @ts-expect-error an array
new KvCache({ tiers: disk({ path: 'x' }) })
// @ts-expect-error a path is needed
disk({})
// @ts-expect-error a URL is needed
redis({ prefix: 'x' })
// @ts-expect-error a token is needed
cloudflareKV({ accountId: 'a', namespaceId: 'n' })
const tierName: string = disk({ path: 'x' }).name
new KvCache({ name: 'users', memory: '64mb' })
new KvCache({ name: undefined })
// @ts-expect-error a name is text
new KvCache({ name: 5 })
new KvCache({ near: false })
new KvCache({ near: { max: 100, maxBytes: '1mb', values: 'copy' } })
// @ts-expect-error one of three words
new KvCache({ near: { values: 'mutable' } })

const age: Age = '5m'
const entryOptions: EntryOptions = { maxAge: age, metadata: { etag: 'x', list: [1, null, true] } }
const getOptions: GetOptions = { ...entryOptions, signal: new AbortController().signal, forceFresh: true, origin: 'db' }
const cacheOptions: KvCacheOptions = { maxAge: 1 }
new KvCache(cacheOptions)
// @ts-expect-error functions are no JSON
const badMetadata: Json = { f: () => 1 }
void badMetadata

// --- get -------------------------------------------------------------------------------------------------------------

exactly<Promise<unknown>>()(cache.get('a'), true)
exactly<Promise<User | undefined>>()(cache.get<User>('a'), true)
exactly<Promise<User | undefined>>()(cache.get<User>('a', undefined, { signal: AbortSignal.timeout(1) }), true)
exactly<Promise<User>>()(cache.get('a', () => loadUser(1)), true)
exactly<Promise<number>>()(cache.get('a', () => 5), true)
exactly<Promise<null>>()(cache.get('a', () => null), true)
exactly<Promise<string>>()(cache.get('a', async key => key.toUpperCase(), { maxAge: '1m' }), true)
// A named context does not get in the way of inference.
exactly<Promise<User>>()(
  cache.get('a', (key, context) => loadUser(key.length, context.signal)),
  true
)
// Neither does answering that nothing changed.
exactly<Promise<User>>()(
  cache.get('a', async (key, context) => (context.reason === 'stale' ? context.notModified() : loadUser(key.length))),
  true
)
// The copy in hand is unknown until someone says what it is: by the type argument, or by the context's annotation.
void cache.get('a', async (_key, context) => {
  exactly<unknown>()(context.stale?.value, true)
  return loadUser(1)
})
exactly<Promise<User>>()(
  cache.get<User>('a', async (_key, context) => {
    exactly<User | undefined>()(context.stale?.value, true)
    exactly<number | undefined>()(context.stale?.age, true)
    return context.stale?.value ?? loadUser(1)
  }),
  true
)
exactly<Promise<User>>()(
  cache.get('a', async (_key, context: FetchContext<User>) => context.stale?.value ?? loadUser(1)),
  true
)
const userFetcher: Fetcher<User> = async (key, context) => {
  exactly<string>()(key, true)
  exactly<AbortSignal>()(context.signal, true)
  exactly<'miss' | 'stale' | 'expired' | 'invalidated' | 'forced'>()(context.reason, true)
  context.set({ maxAge: 5, metadata: { etag: '"1"' } })
  context.noStore()
  if (context.stale) return context.stale.value
  return context.notModified()
}
exactly<Promise<User>>()(cache.get('a', userFetcher, getOptions), true)

// @ts-expect-error a key is a string
void cache.get(1)
// @ts-expect-error a fetcher is a function
void cache.get('a', loadUser(1))
// @ts-expect-error no such option
void cache.get('a', () => 1, { ttl: 1 })
// @ts-expect-error an age is a number or a string
void cache.get('a', () => 1, { maxAge: new Date() })
// @ts-expect-error the memory budget is the cache's
void cache.get('a', () => 1, { memory: '1mb' })
// @ts-expect-error tags are an array
void cache.get('a', () => 1, { tags: 'x' })
void cache.get('a', () => 1, { tags: ['x'] as const, dependsOn: ['b'] })
// @ts-expect-error the fetcher gives something else
void cache.get<User>('a', () => 'text')
// @ts-expect-error a promise is not its value
const notAwaited: User = cache.get('a', () => loadUser(1))
void notAwaited
void cache.get('a', (_key, context) => {
  // @ts-expect-error the context is read-only
  context.reason = 'miss'
  // @ts-expect-error options of the call are not the entry's
  context.set({ signal: context.signal })
  return 1
})

// --- getWithMetadata, getMany ----------------------------------------------------------------------------------------

exactly<Promise<Entry<unknown> | undefined>>()(cache.getWithMetadata('a'), true)
exactly<Promise<Entry<User>>>()(cache.getWithMetadata('a', userFetcher), true)
exactly<Promise<Entry<User>>>()(cache.getWithMetadata('a', (_key, { signal }) => loadUser(1, signal)), true)
const entry = await cache.getWithMetadata('a', userFetcher)
exactly<User>()(entry.value, true)
exactly<'fresh' | 'stale' | 'loaded' | 'stale-if-error'>()(entry.state, true)
exactly<Json | undefined>()(entry.metadata, true)
exactly<number>()(entry.age, true)
// @ts-expect-error it may be absent without a fetcher
;(await cache.getWithMetadata('a')).value

type Many<T> = Map<string, T> & { errors: Map<string, Error> }
exactly<Promise<Many<unknown>>>()(cache.getMany(['a']), true)
exactly<Promise<Many<User>>>()(cache.getMany<User>(['a']), true)
exactly<Promise<Many<User>>>()(cache.getMany(['a'], async () => new Map<string, User>()), true)
exactly<Promise<Many<{ id: number }>>>()(
  cache.getMany(['a'] as const, async missing => Object.fromEntries(missing.map(key => [key, { id: 1 }]))),
  true
)
// A failure of one key is no value.
exactly<Promise<Many<{ id: number }>>>()(
  cache.getMany(['a'], async missing => new Map(missing.map(key => [key, key === 'a' ? { id: 1 } : new Error('no')]))),
  true
)
const batch: BatchFetcher<User> = async (missing, { signal }) => ({ [missing[0]!]: await loadUser(1, signal) })
const many = await cache.getMany(['a', 'b'], batch, { staleAge: '1d' })
exactly<User | undefined>()(many.get('a'), true)
exactly<Error | undefined>()(many.errors.get('a'), true)
for (const [key, user] of many) {
  exactly<string>()(key, true)
  exactly<User>()(user, true)
}

// @ts-expect-error keys are a list
void cache.getMany('a')
// @ts-expect-error a list says nothing of whose each value is
void cache.getMany(['a'], async () => [1])
// @ts-expect-error its fetcher gets the missing keys, not one
void cache.getMany(['a'], async (missing: string) => ({ [missing]: 1 }))

// --- The rest --------------------------------------------------------------------------------------------------------

exactly<unknown>()(cache.peek('a'), true)
exactly<User | undefined>()(cache.peek<User>('a'), true)
exactly<Promise<boolean>>()(cache.has('a'), true)
exactly<Promise<void>>()(cache.put('a', { any: 'thing' }, { maxAge: '1d', metadata: 1 }), true)
exactly<Promise<void>>()(cache.putMany([['a', 1], ['b', 2, { maxAge: 1 }]], { staleAge: '1d' }), true)
void cache.putMany(new Map([['a', 1]]))
exactly<Promise<boolean>>()(cache.delete('a'), true)
void cache.delete(['a', 'b'])
exactly<Promise<ListResult>>()(cache.list(), true)
const { keys, complete, cursor } = await cache.list({ prefix: 'user:', limit: 10, cursor: undefined })
exactly<boolean>()(complete, true)
void cache.list({ cursor })
for (const { name, expiration } of keys) {
  exactly<string>()(name, true)
  exactly<number | undefined>()(expiration, true)
}

// @ts-expect-error a value is needed
void cache.put('a')
// @ts-expect-error timeouts belong to loads
void cache.put('a', 1, { hardTimeout: 1 })
// @ts-expect-error pairs
void cache.putMany([['a']])
void cache.list({ tier: 'redis' })
// @ts-expect-error no such tier
void cache.list({ tier: 'mongo' })
// @ts-expect-error a target is a string or an object that names one thing
void cache.invalidate(5)

exactly<void>()(cache.define('user:*', userFetcher, { maxAge: '1m', origin: 'db' }), true)
cache.define('user:*', key => loadUser(key.length))
cache.define('user:*', (key, context) => loadUser(key.length, context.signal))
cache.define<User>('user:*', (_key, context) => context.stale?.value ?? loadUser(1))
// @ts-expect-error a pattern is a string
cache.define(/user:.*/, userFetcher)
// @ts-expect-error a define needs its fetcher
cache.define('user:*')
// @ts-expect-error a signal belongs to a call
cache.define('user:*', userFetcher, { signal: AbortSignal.timeout(1) })

const wrapped = cache.wrap(async (id: number, lang: 'en' | 'de') => ({ id, lang }), {
  key: (id, lang) => `page:${id}:${lang}`,
  maxAge: '1m'
})
exactly<(id: number, lang: 'en' | 'de') => Promise<{ id: number; lang: 'en' | 'de' }>>()(wrapped, true)
const user = cache.wrap((id: number) => loadUser(id), { key: id => `user:${id}` })
exactly<Promise<User>>()(user(1), true)
exactly<[id: number]>()(null as never as Parameters<typeof user>, true)
// @ts-expect-error a wrapped function needs its key
cache.wrap(loadUser, { maxAge: 1 })
// @ts-expect-error a key is a string
cache.wrap((id: number) => loadUser(id), { key: id => id })
// @ts-expect-error arguments keep their types
void wrapped('1', 'en')

exactly<Stats>()(cache.stats(), true)
exactly<number>()(cache.stats().latency.hit.p99, true)
exactly<number>()(cache.stats().refreshesDropped, true)
exactly<string>()(cache.metrics(), true)
exactly<BreakerState>()(cache.breaker(), true)
exactly<number | undefined>()(cache.breaker('db').nextAttempt, true)

cache
  .on('evict', detail => exactly<{ key: string; bytes: number; reason: 'budget' | 'expired' }>()(detail, true))
  .on('refresh', ({ ms }) => exactly<number>()(ms, true))
  .on('refresh', ({ error }) => exactly<Error | undefined>()(error, true))
  .on('breaker', ({ state }) => exactly<'closed' | 'open' | 'half-open'>()(state, true))
  .on('error', error => exactly<string>()(error.code, true))
const onEvict = (detail: Events['evict']) => void detail.key
cache.on('evict', onEvict).off('evict', onEvict)
// @ts-expect-error no such event
cache.on('hit', () => {})
// @ts-expect-error no such detail
cache.on('evict', ({ value }) => value)
// @ts-expect-error the listener of another event
cache.on('breaker', onEvict)

exactly<Promise<void>>()(cache.flush({ timeout: '1s' }), true)
exactly<Promise<void>>()(cache.close({ timeout: 1000 }), true)
{
  await using scoped = new KvCache()
  void scoped
}

declare const error: unknown
if (error instanceof KvCacheError) {
  exactly<KvCacheErrorCode>()(error.code, true)
  exactly<number | undefined>()(error.nextAttempt, true)
  exactly<string | undefined>()(error.origin, true)
  exactly<string | undefined>()(error.cache, true)
  if (error.code === 'ERR_KVCACHE_CONFIG_MISMATCH' || error.code === 'ERR_KVCACHE_THREAD_ENDED') void error.option
  const plain: Error = error
  void plain
  // @ts-expect-error no such code
  if (error.code === 'ERR_KVCACHE_NOPE') throw error
}

// Invalidating

const targets: Target[] = ['a', 'a:*', { key: 'a' }, { prefix: 'a:' }, { pattern: 'a:*' }, { tag: 't' }, { all: true }]
exactly<Promise<void>>()(cache.invalidate(targets, { soft: true }), true)
void cache.invalidate('a')
exactly<void>()(cache.addDependency('parent', 'child'), true)
cache.removeDependency('parent')
cache.removeDependency('parent', 'child')
cache.on('invalidate', ({ target, soft, swept, from }) => {
  exactly<Target>()(target, true)
  exactly<boolean>()(soft, true)
  exactly<number>()(swept, true)
  exactly<'local' | 'remote'>()(from, true)
})
exactly<number>()(cache.stats().swept, true)
// @ts-expect-error no such target
void cache.invalidate({ tags: ['t'] })
// @ts-expect-error all is true or not there
void cache.invalidate({ all: false })
// @ts-expect-error soft is a boolean
void cache.invalidate('a', { soft: 1 })
// @ts-expect-error a parent and a child
cache.addDependency('parent')
// --- Keys from parts -------------------------------------------------------------------------------------------------

exactly<string>()(key`user:${'a'}:${1}:${2n}`, true)
// @ts-expect-error a missing id is no part
key`user:${undefined}`
// @ts-expect-error nor is an object
key`user:${{ id: 1 }}`

// --- Versioned content -----------------------------------------------------------------------------------------------

const pages: VersionedContent = cache.versioned('page')
exactly<{ version: number; updatedAt: number }>()(await pages.publish('home', '<h1>', { keep: 3, tags: ['news'] }), true)
exactly<Published<string> | undefined>()(await pages.get<string>('home', { version: 1 }), true)
exactly<number[]>()(await pages.versions('home'), true)
exactly<void>()(await pages.rollback('home', 1), true)
// @ts-expect-error what loads cannot be said of what is published
void pages.publish('home', 1, { hardTimeout: 5 })
// @ts-expect-error an id is a string
void pages.get(1)
// @ts-expect-error a name is needed
cache.versioned()

// --- Events from outside -----------------------------------------------------------------------------------------------

interface UserUpdated {
  type: 'user.updated'
  id: number
}
cache.onEvent<UserUpdated>('user.updated', event => [key`user:${event.id}:*`, { tag: 'users' }])
cache.onEvent('anything', async () => [{ all: true }])
exactly<Target[]>()(await cache.dispatch({ type: 'user.updated', id: 1 }), true)
// @ts-expect-error not that type of event
cache.onEvent<UserUpdated>('user.deleted', () => [])
// @ts-expect-error no target
cache.onEvent('e', () => [{ tga: 'x' }])
// @ts-expect-error an event has a type
void cache.dispatch({ id: 1 })

const handle = webhook(cache, { secret: ['a', 'b'], tolerance: '5m', maxBody: '64kb', timeout: 1000 })
createServer(handle)
const refusal: WebhookRefusalCode = 'ERR_KVCACHE_WEBHOOK_METHOD'
void refusal
// @ts-expect-error a secret is needed
webhook(cache, {})
