/**
 * kvcache: stale-while-revalidate caching for Node.js back ends over a native engine.
 *
 * Units, everywhere: an age given as a number is seconds (as in HTTP), a timeout given as a number is milliseconds (as
 * in Node.js), a size given as a number is bytes. A string carries its unit. An option that is `undefined` counts as
 * not given; a name that is not an option is refused with `ERR_KVCACHE_INVALID_OPTION`.
 *
 * What is thrown: every method that gives a promise reports errors by rejecting it, never by throwing. The constructor,
 * `peek`, `define`, `wrap`, `stats`, `metrics`, `breaker`, `on` and `off` throw. See {@link KvCacheErrorCode}.
 *
 * @module
 */

/// <reference lib="esnext.disposable" />

// --- Units -----------------------------------------------------------------------------------------------------------

/**
 * An age. A number is seconds: 0 or more, fractions allowed, `Infinity` allowed. A string is a decimal number and a
 * unit without a space between: `'250ms'`, `'30s'`, `'1.5h'`, `'7d'` (units `ms`, `s`, `m`, `h`, `d`).
 */
export type Age = number | string

/**
 * A timeout. A number is milliseconds: more than 0, `Infinity` for never. A string is a decimal number and a unit, as
 * in {@link Age}: `'250ms'`, `'30s'`.
 */
export type Timeout = number | string

/**
 * A size. A number is whole bytes: 1 or more. A string is a decimal number and a unit, in powers of 1024: `'512b'`,
 * `'64kb'`, `'256mb'`, `'2gb'`.
 */
export type ByteSize = number | string

/** What JSON can carry. */
export type Json = null | boolean | number | string | Json[] | { [key: string]: Json }

// --- Options ---------------------------------------------------------------------------------------------------------

/**
 * A serializer of your own. Strings, `Uint8Array`, `Buffer` and `ArrayBuffer` never come to it: they are stored as they
 * are. What it throws reaches the caller as `cause` of `ERR_KVCACHE_SERIALIZE`.
 */
export interface Serializer {
  /** Named in error messages. 1 to 256 characters. */
  name: string
  /**
   * Bytes of a value; they are copied before anything else runs. Anything but a `Uint8Array` is
   * `ERR_KVCACHE_SERIALIZE`.
   */
  serialize(value: unknown): Uint8Array
  /**
   * The value of such bytes, which are a private copy. A value that cannot be deep-frozen (it holds a Map, a Date,
   * bytes, an instance of a class) is made anew for every get.
   */
  deserialize(bytes: Uint8Array): unknown
}

/**
 * The near cache: decoded values in front of the engine, one for each thread. A value comes in with the second get of it in
 * that thread as a rule, with a later one where more others than `max`, or some thousand, come between the two. It displaces one that
 * was not used for a while.
 */
export interface NearOptions {
  /** Values it holds at most. A whole number of at least 1. Default 10,000. */
  max?: number | undefined
  /**
   * Bytes of the values it holds at most, measured as serialized (V8 takes two to five times that for the objects). A
   * value of more than a sixteenth of it stays out. Default '64mb'.
   */
  maxBytes?: ByteSize | undefined
  /**
   * What callers get.
   * - `'frozen'` (default): one deep-frozen copy for all callers of a thread: changing it throws a `TypeError` in strict
   *   mode. What cannot be frozen (Map, Set, Date, bytes, instances of classes) is made anew for each get.
   * - `'shared'`: one value for all callers of a thread, not frozen: who changes it changes what others get, until it is
   *   next decoded. At your risk.
   * - `'copy'`: a value of its own for each get, yours to change. It costs a decoding each time.
   */
  values?: 'frozen' | 'shared' | 'copy' | undefined
}

/** Background refresh: a queue in the engine, in which a key is queued or running at most once. */
export interface RefreshOptions {
  /** Refreshes running at once. A whole number of at least 1. Default 10. */
  concurrency?: number | undefined
  /**
   * Keys waiting for their turn. When that many wait, the newest refresh is dropped and counted in
   * {@link Stats.refreshesDropped}; the next stale get tries again. A whole number of at least 1. Default 10,000.
   */
  maxQueued?: number | undefined
  /**
   * Further attempts after one that failed, before the refresh counts as failed. A whole number, at least 0. Default 0.
   */
  retries?: number | undefined
  /**
   * Longest pause before the first retry; doubled for each further one, at most 30 s. The actual pause is random
   * between 0 and that (full jitter). Milliseconds or a string with a unit, finite. Default 100.
   */
  backoff?: Timeout | undefined
  /**
   * Rest of a key after a failed refresh, in which stale gets of it queue nothing; doubled for each failure in a row,
   * at most 30 s. Loads that a caller waits for are not held up. Milliseconds or a string with a unit, finite. Default
   * 1000.
   */
  cooldown?: Timeout | undefined
}

/** Circuit breakers: one for each origin, see {@link GetOptions.origin}. */
export interface BreakerOptions {
  /** Consecutive failures that open the circuit. A whole number of at least 1. Default 5. */
  threshold?: number | undefined
  /**
   * How long an open circuit refuses loads, until one trial load is let through. Milliseconds or a string with a unit,
   * finite. Default 30,000.
   */
  timeout?: Timeout | undefined
  /**
   * Whether this error counts as a failure of the origin. An error that does not (a "not found", say) proves that the
   * origin lives, and resets the count as a success does. Default: every error counts.
   */
  failure?(error: unknown): boolean
}

/**
 * Options of an entry. They belong to it from the moment it is stored: options of a get apply to what that get loads,
 * never to what is already there.
 *
 * An entry passes through three tiers of age:
 * - **fresh**, below `maxAge`: answered at once;
 * - **stale**, from `maxAge` to below `staleAge`: answered at once, while one background refresh runs;
 * - **expired**, from `staleAge` on: loaded while the caller waits. Below `staleIfError` the old value still stands in
 *   when that load fails.
 */
export interface EntryOptions {
  /** Age up to which a value is fresh. Default 300 s. */
  maxAge?: Age | undefined
  /**
   * Age up to which a stale value is served at once while one background refresh runs. Default: the larger of 3600 s
   * and `maxAge`. Below a `maxAge` given in the same place it is refused; below one from another place it is raised to
   * it.
   */
  staleAge?: Age | undefined
  /**
   * Age up to which an old value is served when the fetcher fails, takes longer than a timeout, or its circuit is open.
   * Default: `staleAge`.
   */
  staleIfError?: Age | undefined
  /**
   * Share of `maxAge`, 0 to 1, by which it is randomly shortened, so that keys written together do not end together:
   * with 0.2 an entry is fresh for 80 to 100 % of `maxAge`. `staleAge` stays as it is. Default 0.
   */
  jitter?: number | undefined
  /**
   * Anything JSON can carry, kept with the value; see {@link KvCache.getWithMetadata}. At most 1024 bytes as JSON text.
   */
  metadata?: Json | undefined
  /**
   * Names by which {@link KvCache.invalidate} finds the value. At most 64, each a string of 1 to 256 bytes of UTF-8. Tags of
   * different places do not add up: the last word counts. Default: none.
   */
  tags?: readonly string[] | undefined
  /**
   * Keys that this value was made from, at most 64. When one of them is invalidated, deleted or put, or a load stores other
   * bytes for it than were there, this value is invalidated too, and so on with what depends on it; softly where the
   * invalidation was. They need not be cached. It goes with the value: one stored later depends on what is given with it.
   * Default: none.
   */
  dependsOn?: readonly string[] | undefined
}

/** Options of loading: how old values may get, and how long a fetcher may take. */
export interface LoadOptions extends Omit<EntryOptions, 'metadata' | 'tags' | 'dependsOn'> {
  /**
   * Counted from the get, for each caller by itself: after it a slow fetcher is left running, and the caller gets the
   * value in hand if that is within `staleIfError`. Without such a value it waits on. Milliseconds or a string with a
   * unit. Default: none.
   */
  softTimeout?: Timeout | undefined
  /**
   * Counted from the start of the load, background loads included: after it the fetcher's `signal` fires, the load
   * fails with `ERR_KVCACHE_TIMEOUT` and the key can be loaded again. Milliseconds or a string with a unit; `Infinity`:
   * never. Default 30,000.
   */
  hardTimeout?: Timeout | undefined
}

/** Options of the whole cache. The ages and timeouts here are the defaults for everything it loads and stores. */
export interface KvCacheOptions extends LoadOptions {
  /**
   * Name of the cache within the process, a string of 1 to 256 characters. Every KvCache opened under one name, in whichever
   * worker thread, is one cache: one memory budget, one load of a key at a time, one refresh queue, one set of circuits and
   * figures. Without a name a cache is private to the object. Default none.
   *
   * `memory`, `tiers`, `serializer`, `compression`, `refresh`, `breaker.threshold` and `breaker.timeout` are those of who opened it
   * first. Who opens it again may leave them out; what is given must be the same, else `ERR_KVCACHE_CONFIG_MISMATCH` is thrown.
   * A serializer of your own must be given by all. Ages, timeouts, `near`, `breaker.failure`, define()s, fetchers and listeners
   * belong to the object they were given to.
   *
   * The cache lives until the last one who has it open closes it, or its thread ends. Processes, those of
   * `cluster` and `child_process.fork()` too, have caches of their own.
   */
  name?: string | undefined
  /**
   * Budget of the memory tier in bytes: keys, values and bookkeeping together. Never exceeded: what is least worth
   * keeping is evicted first. At least 1024. Default `'256mb'`.
   */
  memory?: ByteSize | undefined
  /**
   * Front of decoded values for each thread, or `false` for none: a hit there costs what a look-up in a `Map` does. Default
   * `{ max: 10_000, maxBytes: '64mb', values: 'frozen' }`. With `false`, each get decodes a value of its own, yours to
   * change. There is none either where the runtime shares no memory with native code, see {@link Stats.nearMemory}.
   */
  near?: false | NearOptions | undefined
  /**
   * How values that are not strings or bytes are stored. Default `'json'`.
   * - `'json'`: what `JSON.stringify` and `JSON.parse` do (a Date becomes a string, NaN becomes null).
   * - `'v8'`: structured clone; keeps Date, Map, Set, BigInt, RegExp, typed arrays, cycles.
   * - your own: see {@link Serializer}.
   */
  serializer?: 'json' | 'v8' | Serializer | undefined
  /**
   * Compression of stored values, or `false` for none. Default `{ threshold: 1024, algorithm: 'gzip' }`. It never runs
   * on the event loop: a value is stored plain, and compressed by a thread of the engine soon after.
   */
  compression?: false | CompressionOptions | undefined
  /** Background refresh. Default `{ concurrency: 10, maxQueued: 10_000, retries: 0, backoff: 100, cooldown: 1000 }`. */
  refresh?: RefreshOptions | undefined
  /** Circuit breaker for each origin, or `false` for none. Default `{ threshold: 5, timeout: 30_000 }`. */
  breaker?: false | BreakerOptions | undefined
  /**
   * Tiers behind memory, the nearest first, each of another kind: {@link disk}, {@link redis}, {@link cloudflareKV}. Default none.
   *
   * A key that memory does not hold is looked for in their order before a fetcher is called, and what is found goes to the
   * nearer ones and to memory, with the ages that it has. What is loaded or put goes to all of them, in the background; `put` waits
   * for the disk tier, which other processes read at once. `delete`, `invalidate` and `publish` wait for all. A tier that
   * fails is a miss: counted, told as an 'error' event, and left alone for 1 s, doubled up to 30 s.
   */
  tiers?: Tier[] | undefined
}

/** How stored values are compressed. A value that would not become smaller by at least a tenth is kept plain. */
export interface CompressionOptions {
  /** Values of more bytes than this are compressed. Default 1024; 0 for all. */
  threshold?: ByteSize | undefined
  /**
   * Default `'gzip'` (RFC 1952), which everything reads. `'zstd'` (RFC 8878) is smaller in less time, `'lz4'` the
   * fastest and the least small. Large values are decompressed by a thread of the engine while the get waits: above 32
   * KiB for gzip, 64 KiB for zstd, 128 KiB for lz4, measured before compression. `peek()`, being synchronous, never
   * defers.
   */
  algorithm?: 'gzip' | 'zstd' | 'lz4' | undefined
  /** gzip 1 to 9, default 2; zstd 1 to 19, default 1; lz4 has none. */
  level?: number | undefined
}

/** Options of {@link KvCache.define}: for every key its pattern matches. */
export interface DefineOptions extends EntryOptions, LoadOptions {
  /** Name of the circuit breaker that its fetcher counts under. 1 to 256 characters. Default: the pattern. */
  origin?: string | undefined
}

/** Options of one get. They take precedence over those of a matching define(), and those over the cache's. */
export interface GetOptions extends EntryOptions, LoadOptions {
  /**
   * Ends this caller's wait: its promise is rejected with `signal.reason`. The load goes on while anyone else waits for
   * it; when nobody does, the fetcher's own signal fires. A signal that has fired before: rejected at once, nothing
   * starts.
   */
  signal?: AbortSignal | undefined
  /**
   * Skips what is cached: loads now, or joins the load of this key already running, and stores. When that fails,
   * `staleIfError` applies as ever. Default false.
   */
  forceFresh?: boolean | undefined
  /**
   * Name of the circuit breaker this fetcher counts under. 1 to 256 characters. Default: the pattern of the define()
   * the fetcher came from, else `'default'`.
   */
  origin?: string | undefined
}

/** Options of {@link KvCache.wrap}. */
export interface WrapOptions<A extends unknown[]> extends GetOptions {
  /** The cache key of a call, made of its arguments. */
  key(...args: A): string
}

// --- Fetchers --------------------------------------------------------------------------------------------------------

/** What a fetcher is told about the load it runs for, and can say about the value it gives. */
export interface FetchContext<T = unknown> {
  /** The key to load. */
  readonly key: string
  /** Fires when nobody waits for this load any more, at its `hardTimeout`, and when the cache is closed. */
  readonly signal: AbortSignal
  /**
   * Why it runs: `'miss'`, nothing is in hand; `'stale'`, a background refresh; `'expired'`, what is in hand is past
   * `staleAge`; `'invalidated'`, what was cached was invalidated (then there is a copy in hand only if softly; long ago, or
   * after many others, it may be told as a miss); `'forced'`, a get with `forceFresh`.
   */
  readonly reason: 'miss' | 'stale' | 'expired' | 'invalidated' | 'forced'
  /**
   * The copy in hand, when there is one: its value, its age in seconds, its metadata. There is none after a hard
   * invalidation.
   */
  readonly stale?: { readonly value: T; readonly age: number; readonly metadata: Json | undefined }
  /**
   * Changes this entry's options from what was fetched. May be called more than once; the last word on each option
   * counts. A tag or dependency set here that was invalidated while the load ran counts as invalidated: the value is not
   * stored, those who began to wait before get it, those who came later load again. Throws `ERR_KVCACHE_INVALID_OPTION`.
   * @example
   * const price = await cache.get('price:42', async (key, context) => {
   *   const response = await fetch(`https://shop.example/${key}`, { signal: context.signal })
   *   context.set({ maxAge: Number(response.headers.get('x-good-for')) })
   *   return response.json()
   * })
   */
  set(options: EntryOptions): void
  /**
   * Return this when the origin says that the copy in hand is still good (HTTP 304): its age starts again, and callers
   * get its value. Throws `ERR_KVCACHE_INVALID_VALUE` when there is no copy in hand ({@link stale} is undefined).
   */
  notModified(): never
  /** Give the value to the callers without storing it. What is stored already stays as it is. */
  noStore(): void
}

/**
 * Loads the value of a key. What it returns is stored and given to every caller as a copy; `undefined` is given to the
 * callers and not stored, `null` is stored. Its errors reach the callers as they are, the same object.
 *
 * It runs in the async context (AsyncLocalStorage) of the get that caused it, background refreshes included. It must
 * not wait for its own key, directly or through other keys: that is `ERR_KVCACHE_RECURSION`.
 */
export type Fetcher<T> = (key: string, context: FetchContext<T>) => T | Promise<T>

/**
 * Loads many keys at once: those missing of a {@link KvCache.getMany}. A key that the result does not hold has no
 * value; a value that is an Error is that key's failure.
 */
export type BatchFetcher<T> = (
  missing: string[],
  context: { readonly signal: AbortSignal }
) => Promise<ReadonlyMap<string, T | Error> | Readonly<Record<string, T | Error>>>

// --- Invalidating ----------------------------------------------------------------------------------------------------

/**
 * What to invalidate. A string is a key, or a pattern where it holds a `*` that is not escaped: `'user:12345:*'`,
 * `'user:*:profile'`. A star stands for any run of characters, none and `:` included; the pattern covers the whole key; `\\*` is a
 * star, `\\\\` a backslash, and nothing else is special. `{ key }` and `{ prefix }` take text as it is.
 */
export type Target =
  | string
  | { key: string }
  | { prefix: string }
  | { pattern: string }
  | { tag: string }
  | { all: true }

/** Options of {@link KvCache.invalidate}. */
export interface InvalidateOptions {
  /**
   * Ends freshness only: readers get the old value at once while one refresh runs; age limits stay as they are; what a load
   * already running brings is stored as stale. Default false.
   */
  soft?: boolean | undefined
}

// --- Results ---------------------------------------------------------------------------------------------------------

/** A value and what the cache knows of it. */
export interface Entry<T> {
  value: T
  /** As given with {@link EntryOptions.metadata}; undefined when none was. */
  metadata: Json | undefined
  /**
   * Where the value came from: `'fresh'` or `'stale'` out of the cache, `'loaded'` when this call waited for the
   * fetcher, `'stale-if-error'` when an old value stood in for a load that failed, timed out or was refused by its
   * circuit.
   */
  state: 'fresh' | 'stale' | 'loaded' | 'stale-if-error'
  /** Seconds since it was fetched or found unmodified; 0 when loaded. */
  age: number
  /** Seconds for which it is fresh, jitter applied; 0 when it was not stored, or its freshness was ended by an invalidation. */
  maxAge: number
  /** As given with {@link EntryOptions.tags}, each once. */
  tags: string[]
  /** As given with {@link EntryOptions.dependsOn}, each once. */
  dependsOn: string[]
}

/** Options of {@link KvCache.list}. */
export interface ListOptions {
  /** Which tier is listed: `'memory'`, or the name of one behind it. Default `'memory'`. What was invalidated by tag, prefix or pattern may be listed by a tier until it is cleared away. */
  tier?: 'memory' | 'disk' | 'redis' | 'cloudflareKV' | undefined
  /** Only keys that begin with this. Default: all. */
  prefix?: string | undefined
  /** Most keys in one answer, 1 to 10,000. Default 1000. */
  limit?: number | undefined
  /** Where to go on: {@link ListResult.cursor} of the answer before. */
  cursor?: string | undefined
}

/** One answer of {@link KvCache.list}. */
export interface ListResult {
  /**
   * Keys in the byte order of their UTF-8. `expiration`: when the key stops being served (its `staleAge`), in seconds
   * since the UNIX epoch; absent when never.
   */
  keys: { name: string; expiration?: number; metadata?: Json }[]
  /** Whether these were the last. */
  complete: boolean
  /** Where the next answer begins; absent when complete. Opaque. */
  cursor?: string
}

/** Percentiles of the durations recorded since the cache was opened, in microseconds. */
export interface Latency {
  count: number
  p50: number
  p99: number
  p999: number
  max: number
}

/** Figures since the cache was opened. See also {@link KvCache.metrics}. */
export interface Stats {
  /** Gets answered from the cache, fresh or stale. */
  hits: number
  /** Those of the hits that the near caches answered. A thread reports its own at most half a second late. */
  nearHits: number
  /**
   * How this process reads the memory that tells a thread what other threads have changed: as a `SharedArrayBuffer`
   * ('shared': Node.js 22.23, 24.16, 26.1 and newer), as an external `ArrayBuffer` ('external'), or not at all ('none', as in
   * Electron).
   */
  nearMemory: 'shared' | 'external' | 'none'
  /** Gets that waited for a load, or found nothing. */
  misses: number
  /** Hits that were answered with a stale value. */
  stale: number
  /** Background refreshes that succeeded. */
  backgroundUpdates: number
  /** Background refreshes dropped because {@link RefreshOptions.maxQueued} keys were waiting. */
  refreshesDropped: number
  /**
   * Attempts to load that failed, in the foreground or background; values that could not be stored; listeners that
   * failed.
   */
  errors: number
  /** Entries removed to keep the budget. */
  evictions: number
  /** Invalidations: targets given to {@link KvCache.invalidate}. */
  invalidations: number
  /** Entries that invalidations have removed, or made stale, so far: those of a key at once, others soon, in the background. */
  swept: number
  /** Misses that joined a load already running. */
  coalesced: number
  /** hits / (hits + misses); 0 before the first. */
  hitRatio: number
  /** stale / hits; 0 before the first. */
  staleRatio: number
  /** Entries in memory. */
  entries: number
  /** Bytes accounted for in memory: keys, values and bookkeeping. Never above the budget. */
  bytes: number
  /** Bytes that the values in memory have before compression. */
  bytesBeforeCompression: number
  /** Background refreshes waiting for their turn. */
  queued: number
  /** Background refreshes running. */
  running: number
  /**
   * `hit` and `stale`: time inside the engine for a look-up so answered; near hits are not timed, since asking for the
   * time would cost more than they do. `miss`: from the get to its answer. `fetch`:
   * time of the fetcher. Microseconds.
   */
  latency: Record<'hit' | 'stale' | 'miss' | 'fetch', Latency>
  /** Of each tier behind memory, by its name. */
  tiers: Record<
    string,
    {
      /** Keys looked up. */
      reads: number
      /** Keys found. */
      hits: number
      /** Records it has taken, keys deleted and invalidations written down. */
      writes: number
      /** Keys and calls that failed; calls that are not made while it rests are none. */
      errors: number
      /** Writes, deletes and invalidations that it does not have yet. */
      pending: number
      /** `'closed'`: it is called. `'open'`: it rests after a failure. `'half-open'`: the next call decides. */
      breaker: 'closed' | 'open' | 'half-open'
    }
  >
}

/** State of a circuit breaker. */
export interface BreakerState {
  /** `'closed'`: loads go through. `'open'`: they are refused. `'half-open'`: the one trial load is running. */
  state: 'closed' | 'open' | 'half-open'
  /** Consecutive failures. */
  failures: number
  /** While open: when the next trial may go, in milliseconds since the UNIX epoch, as Date.now(). */
  nextAttempt?: number
}

/** Events and their details; see {@link KvCache.on}. */
export interface Events {
  /** An entry was removed: to keep the budget, or because nothing can serve it any more. `bytes`: what that freed. */
  evict: { key: string; bytes: number; reason: 'budget' | 'expired' }
  /**
   * A target was invalidated, and what it covered was cleared away: `swept` entries of this process that nothing had replaced
   * before. `target` is as it was given. Comes at once for a key; for all else when the sweep that follows is over. `from` is
   * `'remote'` where another process did it; of single keys that others write or invalidate nothing is told.
   */
  invalidate: { target: Target; soft: boolean; swept: number; from: 'local' | 'remote' }
  /**
   * A background refresh ended, after `ms` milliseconds: with success, or with `error` once its retries were used up.
   */
  refresh: { key: string; ms: number; error?: Error }
  /** A circuit breaker changed its state. */
  breaker: { origin: string; state: 'closed' | 'open' | 'half-open' }
  /**
   * Something failed that no caller was told of: a loaded value too large for the whole memory budget
   * (`ERR_KVCACHE_VALUE_TOO_LARGE`), a background value that cannot be serialized (`ERR_KVCACHE_SERIALIZE`), a listener
   * that threw (`ERR_KVCACHE_LISTENER`). Nothing is thrown when nobody listens.
   */
  error: Error & { code: string; key?: string }
}

// --- Errors ----------------------------------------------------------------------------------------------------------

/**
 * Code of a {@link KvCacheError}.
 * - `ERR_KVCACHE_INVALID_KEY`: a key is no string, empty, over 512 bytes of UTF-8, or holds a lone surrogate. Has
 *   `key`. Of the template tag: a part of a key is not what it may be. Has `part`.
 * - `ERR_KVCACHE_INVALID_OPTION`: an option or argument is unknown or out of its range. Has `option`.
 * - `ERR_KVCACHE_INVALID_VALUE`: a value cannot be stored (undefined, a function, a symbol; under `'json'` a view other
 *   than Uint8Array), or `notModified()` without a copy in hand. Has `key`.
 * - `ERR_KVCACHE_VALUE_TOO_LARGE`: over 25 MiB as stored, or over the whole memory budget. Has `key`, `bytes`, `limit`.
 * - `ERR_KVCACHE_SERIALIZE`: the serializer threw or gave no bytes. Has `key`, `serializer` and, when thrown, `cause`.
 * - `ERR_KVCACHE_TIMEOUT`: a fetcher took longer than `hardTimeout`, or flush() than its timeout. Has `timeout`
 *   (milliseconds) and, for a fetcher, `key`.
 * - `ERR_KVCACHE_CIRCUIT_OPEN`: the origin's circuit refused the load. Has `key`, `origin`, `nextAttempt`.
 * - `ERR_KVCACHE_RECURSION`: a fetcher would wait for its own load. Has `key`.
 * - `ERR_KVCACHE_CLOSED`: the cache is closed.
 * - `ERR_KVCACHE_CONFIG_MISMATCH`: a named cache is open with another value of an option. Has `option` and `cache`, its name.
 * - `ERR_KVCACHE_THREAD_ENDED`: three threads that were loading the key for this caller ended, or closed the cache, one after
 *   the other; it is not tried for ever, since a fetcher that ends its thread would end them all. Has `key`.
 * - `ERR_KVCACHE_NO_VERSION`: the version to roll back to is not kept. Has `key` and `version`.
 * - `ERR_KVCACHE_EVENT`: a rule of onEvent() threw, took too long, or gave what are no targets; nothing was invalidated. Has
 *   `event` and `cause`.
 * - `ERR_KVCACHE_TIER`: a tier could not be opened, or has not got what was written, deleted or invalidated: it is applied in this
 *   process, and queued for the tier. In an 'error' event: a tier failed, and was taken for a miss. Has `tier`, its name, and `key`
 *   where it is about one. Never holds a credential.
 * - `ERR_KVCACHE_LISTENER`: a listener threw; only ever in an 'error' event. Has `event` and `cause`.
 */
export type KvCacheErrorCode =
  | 'ERR_KVCACHE_INVALID_KEY'
  | 'ERR_KVCACHE_INVALID_OPTION'
  | 'ERR_KVCACHE_INVALID_VALUE'
  | 'ERR_KVCACHE_VALUE_TOO_LARGE'
  | 'ERR_KVCACHE_SERIALIZE'
  | 'ERR_KVCACHE_TIMEOUT'
  | 'ERR_KVCACHE_CIRCUIT_OPEN'
  | 'ERR_KVCACHE_RECURSION'
  | 'ERR_KVCACHE_CLOSED'
  | 'ERR_KVCACHE_CONFIG_MISMATCH'
  | 'ERR_KVCACHE_THREAD_ENDED'
  | 'ERR_KVCACHE_NO_VERSION'
  | 'ERR_KVCACHE_EVENT'
  | 'ERR_KVCACHE_TIER'
  | 'ERR_KVCACHE_LISTENER'

/**
 * What the cache itself throws and rejects with. A fetcher's own error is never wrapped: it reaches the callers as it
 * is.
 * @example
 * try {
 *   await cache.get('user:1', fetchUser)
 * } catch (error) {
 *   if (error instanceof KvCacheError && error.code === 'ERR_KVCACHE_CIRCUIT_OPEN') {
 *     response.setHeader('Retry-After', Math.ceil((error.nextAttempt! - Date.now()) / 1000))
 *   }
 * }
 */
export class KvCacheError extends Error {
  private constructor()
  /** Stable, for programs. The message is for people and may change. */
  readonly code: KvCacheErrorCode
  /** What was thrown by a serializer, a listener or a rule. */
  readonly cause?: unknown
  /** The key it is about, as given, whole (the message shows 64 characters of it). */
  readonly key?: string
  /** The part of a key that was refused by the template tag {@link key}. */
  readonly part?: unknown
  /** The option it is about, dotted where nested: `'refresh.concurrency'`. */
  readonly option?: string
  /** Name of the cache whose options disagree. */
  readonly cache?: string
  /** Name of the circuit breaker that refused. */
  readonly origin?: string
  /** When its next trial may go, in milliseconds since the UNIX epoch, as Date.now(). */
  readonly nextAttempt?: number
  /** The timeout that ran out, in milliseconds. */
  readonly timeout?: number
  /** Size of the value as it would be stored. */
  readonly bytes?: number
  /** Largest size allowed, in bytes. */
  readonly limit?: number
  /** Name of the serializer. */
  readonly serializer?: string
  /** The event whose listener threw, or the type of the event whose rule failed. */
  readonly event?: keyof Events | (string & {})
  /** The version that is not kept. */
  readonly version?: number
}

// --- Workers KV ------------------------------------------------------------------------------------------------------

/**
 * A ReadableStream of bytes, also to be read into a buffer of the reader's (`{ mode: 'byob' }`). Where the typings of
 * the DOM, of Node.js and of Workers differ it says `any`, so that it is a ReadableStream to each of them.
 */
export interface KVStream extends ReadableStream<Uint8Array> {
  getReader(): {
    readonly closed: Promise<undefined>
    read(): Promise<{ done: false; value: Uint8Array } | { done: true; value: undefined }>
    cancel(reason?: any): Promise<void>
    releaseLock(): void
  }
  getReader(options: { mode: 'byob' }): any
  pipeThrough(transform: any, options?: any): any
  pipeTo(destination: any, options?: any): Promise<void>
  tee(): [any, any]
}

/** What {@link KVNamespace.put} takes as a stream: a ReadableStream, by whichever typings, whose chunks are bytes. */
export interface KVReadable {
  readonly locked: boolean
  getReader(): { read(): Promise<{ done: boolean; value?: any }>; cancel(reason?: any): Promise<void> }
}

/** How {@link KVNamespace.get} gives a value. */
export interface KVGetOptions<Type extends string | undefined = undefined> {
  /**
   * `'text'` (default): a string; bytes that are no UTF-8 become U+FFFD. `'json'`: what JSON.parse() makes of that
   * string, a new value each time. `'arrayBuffer'`: the bytes. `'stream'`: a ReadableStream of them.
   */
  type: Type
  /** Seconds, at least 30. Checked, and otherwise without effect: nothing stands between this cache and its reader. */
  cacheTtl?: number
}

/** Options of {@link KVNamespace.put}. */
export interface KVPutOptions {
  /** When the entry ends, in seconds since the UNIX epoch: at least 60 s from now, below 2^31. Default: never. */
  expiration?: number
  /** Seconds until the entry ends: at least 60, below 2^31. Takes precedence over `expiration`. */
  expirationTtl?: number
  /** Anything JSON can carry, at most 1024 bytes as JSON text. A put without it drops what was there. */
  metadata?: any
}

/** Options of {@link KVNamespace.list}. */
export interface KVListOptions {
  /** Only keys that begin with this. Default: all. */
  prefix?: string | null
  /** Most keys in one answer, up to 1000. Default 1000; so is what is not above 0. */
  limit?: number
  /** Where to go on: `cursor` of the answer before. */
  cursor?: string | null
}

/** A key as {@link KVNamespace.list} gives it. */
export interface KVKey<Metadata, Key extends string = string> {
  name: Key
  /** When it ends, in seconds since the UNIX epoch; absent when never. */
  expiration?: number
  /** Absent when there is none. */
  metadata?: Metadata
}

/** One answer of {@link KVNamespace.list}: keys in the byte order of their UTF-8. `cacheStatus` is always null. */
export type KVListResult<Metadata, Key extends string = string> =
  | { list_complete: false; keys: KVKey<Metadata, Key>[]; cursor: string; cacheStatus: string | null }
  | { list_complete: true; keys: KVKey<Metadata, Key>[]; cacheStatus: string | null }

/** A value with its metadata; each null where there is none. `cacheStatus` is always null, and absent of many keys. */
export interface KVValueWithMetadata<Value, Metadata> {
  value: Value | null
  metadata: Metadata | null
  cacheStatus: string | null
}

/**
 * A cache with the interface of a Workers KV namespace; see {@link KvCache.asKVNamespace}. It can be given to what
 * expects the `KVNamespace` of `@cloudflare/workers-types`.
 *
 * Keys: 1 to 512 bytes of UTF-8, but not `'.'` and `'..'`. Values: up to 25 MiB. What is refused is a rejection with
 * the class and the message that Cloudflare's runtime has for it: `TypeError`, `SyntaxError` for JSON that is none, or
 * an `Error` such as `KV PUT failed: 400 Invalid expiration_ttl of 59. Expiration TTL must be at least 60.` For what KV
 * has no error, it is the cache's own: `ERR_KVCACHE_CLOSED`, and `ERR_KVCACHE_VALUE_TOO_LARGE` for what exceeds the
 * budget.
 */
export interface KVNamespace<Key extends string = string> {
  /**
   * The value of a key, null when there is none. Of an array of up to 100 keys: a Map in their order, duplicates
   * merged, null for those without a value; `'text'` and `'json'` only, 25 MiB of text in all.
   * @example
   * const config = await kv.get('config', 'json')
   * const pages = await kv.get(['page:1', 'page:2'])
   */
  get(key: Key, options?: Partial<KVGetOptions<undefined>>): Promise<string | null>
  get(key: Key, type: 'text'): Promise<string | null>
  get<Value = unknown>(key: Key, type: 'json'): Promise<Value | null>
  get(key: Key, type: 'arrayBuffer'): Promise<ArrayBuffer | null>
  get(key: Key, type: 'stream'): Promise<KVStream | null>
  get(key: Key, options?: KVGetOptions<'text'>): Promise<string | null>
  get<Value = unknown>(key: Key, options?: KVGetOptions<'json'>): Promise<Value | null>
  get(key: Key, options?: KVGetOptions<'arrayBuffer'>): Promise<ArrayBuffer | null>
  get(key: Key, options?: KVGetOptions<'stream'>): Promise<KVStream | null>
  get(keys: Key[], type: 'text'): Promise<Map<string, string | null>>
  get<Value = unknown>(keys: Key[], type: 'json'): Promise<Map<string, Value | null>>
  get(keys: Key[], options?: Partial<KVGetOptions<undefined>>): Promise<Map<string, string | null>>
  get(keys: Key[], options?: KVGetOptions<'text'>): Promise<Map<string, string | null>>
  get<Value = unknown>(keys: Key[], options?: KVGetOptions<'json'>): Promise<Map<string, Value | null>>

  /** As {@link get}, with the metadata. Of many keys: null for those without a value. */
  getWithMetadata<Metadata = unknown>(
    key: Key,
    options?: Partial<KVGetOptions<undefined>>
  ): Promise<KVValueWithMetadata<string, Metadata>>
  getWithMetadata<Metadata = unknown>(key: Key, type: 'text'): Promise<KVValueWithMetadata<string, Metadata>>
  getWithMetadata<Value = unknown, Metadata = unknown>(
    key: Key,
    type: 'json'
  ): Promise<KVValueWithMetadata<Value, Metadata>>
  getWithMetadata<Metadata = unknown>(
    key: Key,
    type: 'arrayBuffer'
  ): Promise<KVValueWithMetadata<ArrayBuffer, Metadata>>
  getWithMetadata<Metadata = unknown>(
    key: Key,
    type: 'stream'
  ): Promise<KVValueWithMetadata<KVStream, Metadata>>
  getWithMetadata<Metadata = unknown>(
    key: Key,
    options: KVGetOptions<'text'>
  ): Promise<KVValueWithMetadata<string, Metadata>>
  getWithMetadata<Value = unknown, Metadata = unknown>(
    key: Key,
    options: KVGetOptions<'json'>
  ): Promise<KVValueWithMetadata<Value, Metadata>>
  getWithMetadata<Metadata = unknown>(
    key: Key,
    options: KVGetOptions<'arrayBuffer'>
  ): Promise<KVValueWithMetadata<ArrayBuffer, Metadata>>
  getWithMetadata<Metadata = unknown>(
    key: Key,
    options: KVGetOptions<'stream'>
  ): Promise<KVValueWithMetadata<KVStream, Metadata>>
  getWithMetadata<Metadata = unknown>(
    keys: Key[],
    type: 'text'
  ): Promise<Map<string, KVValueWithMetadata<string, Metadata>>>
  getWithMetadata<Value = unknown, Metadata = unknown>(
    keys: Key[],
    type: 'json'
  ): Promise<Map<string, KVValueWithMetadata<Value, Metadata>>>
  getWithMetadata<Metadata = unknown>(
    keys: Key[],
    options?: Partial<KVGetOptions<undefined>>
  ): Promise<Map<string, KVValueWithMetadata<string, Metadata>>>
  getWithMetadata<Metadata = unknown>(
    keys: Key[],
    options?: KVGetOptions<'text'>
  ): Promise<Map<string, KVValueWithMetadata<string, Metadata>>>
  getWithMetadata<Value = unknown, Metadata = unknown>(
    keys: Key[],
    options?: KVGetOptions<'json'>
  ): Promise<Map<string, KVValueWithMetadata<Value, Metadata>>>

  /**
   * Stores a value: text as its UTF-8, bytes as they are, a stream once it has been read to its end. It replaces value,
   * expiration and metadata, and wins over loads of the key that run. A number, boolean, null or undefined is stored as
   * text.
   * @example
   * await kv.put('session:1', JSON.stringify(session), { expirationTtl: 3600, metadata: { user: 7 } })
   */
  put(key: Key, value: string | ArrayBuffer | ArrayBufferView | KVReadable, options?: KVPutOptions): Promise<void>

  /** A page of keys. A page may have fewer keys than `limit`, or none, before the last: see `list_complete`. */
  list<Metadata = unknown>(options?: KVListOptions): Promise<KVListResult<Metadata, Key>>

  /** Removes a key. One that is not there is no error. */
  delete(key: Key): Promise<void>
}

// --- The cache -------------------------------------------------------------------------------------------------------

/**
 * A cache. Values come out as copies: plain objects and arrays deep-frozen, so that callers may share one; everything
 * else (Map, Set, Date, bytes, instances of classes) made anew for each get; see {@link NearOptions.values} for others. What a fetcher returned or put() was given
 * is never frozen and never kept.
 *
 * Keys are strings of 1 to 512 bytes of UTF-8, without lone surrogates. Values have at most 25 MiB as stored.
 *
 * An idle cache does not keep the process alive, nor do its background refreshes; a get that waits does.
 * @example
 * const cache = new KvCache({ memory: '64mb', maxAge: '1m', staleAge: '1h' })
 * const user = await cache.get('user:1', async () => {
 *   const response = await fetch('https://api.example/users/1')
 *   return response.json()
 * })
 */
export class KvCache {
  /**
   * Opens a cache: a private one, or that of {@link KvCacheOptions.name}. Throws `ERR_KVCACHE_INVALID_OPTION`,
   * `ERR_KVCACHE_CONFIG_MISMATCH`.
   */
  constructor(options?: KvCacheOptions)

  /**
   * The value of a key, without a fetcher of this call's own: a matching define() loads it where needed. Without one,
   * the value if it is fresh or stale, else undefined.
   *
   * Rejects with `ERR_KVCACHE_INVALID_KEY`, `ERR_KVCACHE_CLOSED`, and, where a define() loads, as the other form does.
   */
  get<T = unknown>(key: string, fetcher?: undefined, options?: GetOptions): Promise<T | undefined>
  /**
   * The value of a key. Fresh: at once. Stale: at once, and one background refresh is queued. Else the fetcher runs
   * while the caller waits; callers of one key at one time share one load.
   *
   * Annotate the context to use {@link FetchContext.stale} typed: `(key, context: FetchContext<User>) => …`, or give
   * the type: `get<User>(…)`.
   *
   * Callers in all threads that have the cache open share it: one of them runs its fetcher, under its own options, the others get
   * the value, decoded for themselves. Should the one's thread end before it has the value, another one runs its own.
   *
   * Rejects with the fetcher's own error, `signal.reason`, or `ERR_KVCACHE_INVALID_KEY`, `_INVALID_OPTION`,
   * `_INVALID_VALUE`, `_VALUE_TOO_LARGE`, `_SERIALIZE`, `_TIMEOUT`, `_CIRCUIT_OPEN`, `_RECURSION`, `_THREAD_ENDED`, `_CLOSED`.
   * The fetcher's error is the same object for callers in its own thread. Elsewhere it is an Error of the same name, message,
   * `code`, fields, `cause` and stack, as far as structured clone carries them, whose stack ends with the thread that failed.
   * @example
   * const page = await cache.get('page:home', fetchPage, { maxAge: '30s', staleAge: '10m', hardTimeout: 2000 })
   */
  get<T, S = T>(
    key: string,
    fetcher: (key: string, context: FetchContext<S>) => T | Promise<T>,
    options?: GetOptions
  ): Promise<T>

  /** As {@link get}, with what the cache knows of the value; undefined where get() gives undefined. */
  getWithMetadata<T = unknown>(
    key: string,
    fetcher?: undefined,
    options?: GetOptions
  ): Promise<Entry<T> | undefined>
  /**
   * As {@link get}, with what the cache knows of the value: for X-Cache, Age and Cache-Status headers.
   * @example
   * const { value, state, age } = await cache.getWithMetadata('page:home', fetchPage)
   * response.setHeader('X-Cache', state).setHeader('Age', Math.floor(age)).end(value)
   */
  getWithMetadata<T, S = T>(
    key: string,
    fetcher: (key: string, context: FetchContext<S>) => T | Promise<T>,
    options?: GetOptions
  ): Promise<Entry<T>>

  /**
   * The values of many keys, in the order given, duplicates merged; keys without a value are absent. Stale ones are
   * served and refreshed together in one background call. Keys already loading are joined. The fetcher gets the missing
   * keys once. A key that fails does not fail the others: see `errors` of the result. When the whole fetcher fails, its
   * error is that of every missing key.
   *
   * Without a fetcher, keys that match a define() are loaded by it.
   *
   * Rejects, before anything starts, with `ERR_KVCACHE_INVALID_KEY`, `_INVALID_OPTION`, `_CLOSED`; and with
   * `signal.reason`.
   * @example
   * const users = await cache.getMany(['user:1', 'user:2'], async missing => {
   *   const rows = await db.usersById(missing.map(key => key.slice(5)))
   *   return new Map(rows.map(row => [`user:${row.id}`, row]))
   * })
   * for (const [key, error] of users.errors) console.warn(key, error)
   */
  getMany<T = unknown>(
    keys: readonly string[],
    fetcher?: BatchFetcher<T> | undefined,
    options?: GetOptions
  ): Promise<Map<string, T> & { errors: Map<string, Error> }>

  /**
   * Synchronous: the value if memory holds it fresh or stale, else undefined. Starts nothing. Throws
   * `ERR_KVCACHE_INVALID_KEY`, `ERR_KVCACHE_SERIALIZE`, `ERR_KVCACHE_CLOSED`.
   */
  peek<T = unknown>(key: string): T | undefined

  /**
   * Whether get() without any fetcher would give a value. Rejects with `ERR_KVCACHE_INVALID_KEY`, `ERR_KVCACHE_CLOSED`.
   */
  has(key: string): Promise<boolean>

  /**
   * Stores a value. It wins over loads and refreshes of the key already running: they answer their own callers and are
   * not stored. Ages not given come from a matching define(), then from the cache.
   *
   * Rejects with `ERR_KVCACHE_INVALID_KEY`, `_INVALID_OPTION`, `_INVALID_VALUE` (undefined, a function, a symbol),
   * `_VALUE_TOO_LARGE`, `_SERIALIZE`, `_CLOSED`; what was stored before then stays.
   */
  put(key: string, value: unknown, options?: EntryOptions): Promise<void>

  /**
   * Stores many values. The options of an entry take precedence over those of the call. Rejects as {@link put} does,
   * before anything is stored.
   * @example
   * await cache.putMany([['a', 1], ['b', 2, { maxAge: '1d' }]], { maxAge: '1h' })
   */
  putMany(
    entries: Iterable<readonly [key: string, value: unknown, options?: EntryOptions]>,
    options?: EntryOptions
  ): Promise<void>

  /**
   * Removes one key or many; whether any of them had a value. Once it resolves, no get begun later gives what was there
   * before: loads already running answer their own callers and are not stored. Rejects with `ERR_KVCACHE_INVALID_KEY`,
   * `ERR_KVCACHE_CLOSED`.
   */
  delete(key: string | readonly string[]): Promise<boolean>

  /**
   * Keys that would be served, fresh or stale, in byte order. Keys stored or deleted between two answers may or may not
   * show. Rejects with `ERR_KVCACHE_INVALID_OPTION`, `ERR_KVCACHE_CLOSED`.
   * @example
   * for (let cursor; ; ) {
   *   const page = await cache.list({ prefix: 'user:', cursor })
   *   for (const { name } of page.keys) console.log(name)
   *   if (page.complete) break
   *   cursor = page.cursor
   * }
   */
  list(options?: ListOptions): Promise<ListResult>

  /**
   * Invalidates everything that a target covers, however many keys that are, at the same cost. From the moment this resolves no
   * get() in this process returns what was there before, not even in place of a failed load; a load already running answers
   * those who wait for it, and is not stored; a get() begun later loads anew. What was covered is cleared out of memory
   * afterwards, in the background.
   *
   * Of several targets all are looked at before any is invalidated.
   * @throws ERR_KVCACHE_INVALID_OPTION, ERR_KVCACHE_INVALID_KEY, ERR_KVCACHE_CLOSED
   * @example
   * await cache.invalidate('user:42')
   * await cache.invalidate('user:42:*')
   * await cache.invalidate([{ tag: 'prices' }, { prefix: 'cart:' }])
   * await cache.invalidate({ tag: 'news' }, { soft: true })
   */
  invalidate(target: Target | readonly Target[], options?: InvalidateOptions): Promise<void>

  /**
   * From now on the value of `child` is invalidated whenever that of `parent` is, or changes, as by
   * {@link EntryOptions.dependsOn}; but it stays until it is removed, whatever is stored, and whether the keys are cached or
   * not. Cycles are allowed. Takes about 60 bytes.
   * @throws ERR_KVCACHE_INVALID_KEY, ERR_KVCACHE_CLOSED
   */
  addDependency(parent: string, child: string): void

  /**
   * Takes back what {@link addDependency} did: for one child, or for all children of `parent`. What was invalidated by it stays so.
   * One that is not there is no error. Without `child` it looks at every dependency there is: some milliseconds for a million.
   * @throws ERR_KVCACHE_INVALID_KEY, ERR_KVCACHE_CLOSED
   */
  removeDependency(parent: string, child?: string): void

  /**
   * Versioned content under a name, for values that are published: each publication is kept under a key of its own, and readers
   * get the old whole or the new whole. See {@link VersionedContent}. `name`: not empty, without `*` and `\\`; what is refused
   * throws `ERR_KVCACHE_INVALID_OPTION`.
   * @example
   * const pages = cache.versioned('page')
   * const { version } = await pages.publish('home', html)
   * const page = await pages.get('home') // { value: html, version, updatedAt }
   */
  versioned(name: string): VersionedContent

  /**
   * Adds a rule: what an event of this type touches. All rules of a type are asked, in no order to rely on; they belong to this
   * KvCache and so to its thread, what they invalidate is invalidated in all. Throws `ERR_KVCACHE_INVALID_OPTION` and
   * `ERR_KVCACHE_CLOSED`.
   * @example
   * cache.onEvent('user.updated', event => [key`user:${event.id}:*`, { tag: 'leaderboard' }])
   */
  onEvent<E extends { type: string }>(
    type: E['type'],
    targets: (event: E) => readonly Target[] | Promise<readonly Target[]>
  ): void

  /**
   * Invalidates what the rules for `event.type` name, each target once, and resolves with the targets; with none where no
   * rule knows the type. First all rules are asked and all that they name is checked; if one throws, takes longer than the
   * cache's `hardTimeout` (30 s unless set) or names what is no target, nothing is invalidated and the promise is rejected with
   * `ERR_KVCACHE_EVENT`. Otherwise it rejects as {@link invalidate}, and with `ERR_KVCACHE_INVALID_OPTION` for what is no
   * event.
   */
  dispatch(event: { type: string; [field: string]: unknown }): Promise<Target[]>

  /**
   * Routes keys that match a pattern to a fetcher and options, so that get(key) alone loads. In a pattern `*` stands
   * for any run of characters, `:` included; `\*` is a star, `\\` a backslash.
   *
   * A fetcher given to the call wins; then a pattern without a star; then the one with the longest literal text; then
   * the latest. Options merge: the cache's, the define's, the call's, context.set()'s. Defining a pattern again
   * replaces it. At most 65,535 patterns. Throws `ERR_KVCACHE_INVALID_OPTION`, `ERR_KVCACHE_CLOSED`.
   * @example
   * cache.define('user:*', key => db.user(key.slice(5)), { maxAge: '1m' })
   * const user = await cache.get('user:1')
   */
  define<T, S = T>(
    pattern: string,
    fetcher: (key: string, context: FetchContext<S>) => T | Promise<T>,
    options?: DefineOptions
  ): void

  /**
   * A function of the same arguments whose results are cached under `options.key(...args)`. The function is called with
   * the arguments of the call that caused the load. Throws `ERR_KVCACHE_INVALID_OPTION`; the function it gives rejects
   * as {@link get} does.
   * @example
   * const user = cache.wrap(id => db.user(id), { key: id => `user:${id}`, maxAge: '1m' })
   * await user(1)
   */
  wrap<A extends unknown[], T>(fn: (...args: A) => Promise<T>, options: WrapOptions<A>): (...args: A) => Promise<T>

  /**
   * This cache with the interface of a Workers KV namespace: its limits, results and error messages. For code written
   * for Workers, and for tests of it. What is put through it is read by get(), and the other way round: text as a
   * string, bytes as a Uint8Array. An entry put through it is fresh until it expires, and never stale. It loads
   * nothing: without an entry its get() gives null, also where a define() matches.
   * @example
   * const env = { KV: cache.asKVNamespace() }
   * await worker.fetch(request, env)
   */
  asKVNamespace(): KVNamespace

  /** Figures since the cache was opened; of a closed cache, the last. */
  stats(): Stats

  /** The figures in Prometheus text format 0.0.4: totals, and for each pattern of a define(). */
  metrics(): string

  /**
   * State of the circuit breaker of an origin. Default: `'default'`, of fetchers given to the call without an origin.
   * One that has not been used yet is closed.
   */
  breaker(origin?: string): BreakerState

  /**
   * Adds a listener. The same function added twice is called once. A listener that throws, or whose promise is
   * rejected, is reported as an 'error' event and does not disturb the cache. Throws `ERR_KVCACHE_INVALID_OPTION` for
   * an unknown event.
   */
  on<K extends keyof Events>(event: K, listener: (detail: Events[K]) => void): this
  /** Removes a listener; one that is not there is no error. */
  off<K extends keyof Events>(event: K, listener: (detail: Events[K]) => void): this

  /**
   * Resolves when no background refresh is queued, running or waiting for a retry, and no value waits to be compressed.
   * Keeps the process alive meanwhile. `timeout`: default none; after it `ERR_KVCACHE_TIMEOUT`. Rejects with
   * `ERR_KVCACHE_CLOSED` too.
   */
  flush(options?: { timeout?: Timeout | undefined }): Promise<void>

  /**
   * Closes the cache: calls made from now on are refused with `ERR_KVCACHE_CLOSED`, loads and refreshes get up to
   * `timeout` (default 5000 ms) to end, then what remains is aborted (its callers get `ERR_KVCACHE_CLOSED`) and the
   * memory is freed. Closing again gives the same promise. Of a named cache, only what belongs to this object ends: its loads
   * go on with callers elsewhere, who run fetchers of their own, and the memory stays while others have it open.
   */
  close(options?: { timeout?: Timeout | undefined }): Promise<void>

  /**
   * As {@link close}: `await using cache = new KvCache()`.
   */
  [Symbol.asyncDispose](): Promise<void>
}

// --- Versioned content -----------------------------------------------------------------------------------------------

/** Options of {@link VersionedContent.publish}; those of an entry, tags and dependencies included, and: */
export interface PublishOptions extends EntryOptions {
  /**
   * Versions left when this one is out: itself, the one shown until then, and those of the highest numbers. Default 2; 1 and up.
   * With 1 there is nothing to roll back to.
   */
  keep?: number | undefined
}

/** A publication. */
export interface Published<T> {
  value: T
  version: number
  /** When it was shown, by publish() or rollback(); of a get() by version, when it was published. As Date.now(). */
  updatedAt: number
}

/**
 * Content that is published, read and rolled back. Of the name `page` and the id `home` the versions lie under
 * `page:home:v1`, `page:home:v2` and so on, and the pointer `page:home:meta` holds `{ version, updatedAt }` of the one shown;
 * its metadata is `{ highest }`, the highest number given. An id is encoded as a part of {@link key}: a non-empty string.
 *
 * - Content is stored before the pointer shows it. A get that begins after a publish has resolved gives that publication or a
 *   later one, in every thread.
 * - Numbers begin at 1 and are given once, to whichever thread publishes, also after a rollback and when pointer or content were
 *   removed. (The cache remembers this of some sixty thousand names; of one beyond, all traces of which are gone, numbers go
 *   on above all that were forgotten.)
 * - Without `maxAge` content does not expire, whatever the cache's own `maxAge`, and a define() is not asked. With one it is
 *   gone at its end, or at `staleAge` if that is given: nothing would refresh it.
 * - It is an entry like any other: it counts in the memory budget and may be evicted, and then `get` gives undefined and
 *   the pointer goes too. In figures a get counts as two, of pointer and content.
 * - What is made of it depends on its pointer: `dependsOn: ['page:home:meta']` goes with every publish and rollback, and with
 *   the tags and dependencies of the content shown. `'page:home'` goes with publish and rollback alone.
 *
 * Everything rejects with `ERR_KVCACHE_INVALID_KEY` for ids, `ERR_KVCACHE_INVALID_OPTION` and `ERR_KVCACHE_CLOSED`.
 */
export interface VersionedContent {
  /**
   * Stores a value as the next version, shows it, and removes versions beyond `keep`. Rejects as {@link KvCache.put}, and
   * then nothing has changed.
   */
  publish<T>(id: string, value: T, options?: PublishOptions): Promise<{ version: number; updatedAt: number }>
  /** What is shown, or the version asked for; undefined where it is not there. Rejects with `ERR_KVCACHE_SERIALIZE` too. */
  get<T = unknown>(id: string, options?: { version?: number | undefined }): Promise<Published<T> | undefined>
  /** The versions that are there, in ascending order. */
  versions(id: string): Promise<number[]>
  /**
   * Shows another version again. The next publish still gets a new, larger number. Rejects with `ERR_KVCACHE_NO_VERSION` where it is not there.
   */
  rollback(id: string, version: number): Promise<void>
}

// --- Tiers -----------------------------------------------------------------------------------------------------------

/** A tier, for the option {@link KvCacheOptions.tiers}: a description, from which each cache makes its own. */
export interface Tier {
  /** `'disk'`, `'redis'` or `'cloudflareKV'`: in errors, events, stats() and metrics(). */
  readonly name: string
}

export interface DiskOptions {
  /** A directory on a disk of this machine, which is made if it is not there (mode 0700). One that holds something else is refused. */
  path: string
  /** Bytes that it takes at most, at least `'1mb'`. Default `'1gb'`. What is used least is dropped before it is full. */
  maxSize?: ByteSize | undefined
  /** Longest that one call may take, milliseconds or with a unit, finite. Default 1000. */
  timeout?: Timeout | undefined
}

/**
 * An embedded store on this host (LMDB): survives restarts and killed processes, and is shared by every process that opens the
 * path. They are coherent without a server: once a put, a delete or an invalidation has resolved in one, the next get in any
 * other does not give what was before. flush() makes what was written survive a power cut.
 *
 * Throws `ERR_KVCACHE_INVALID_OPTION`; the constructor of the cache throws that too where the path holds something else, and
 * `ERR_KVCACHE_TIER` where it cannot be used. A damaged store is set aside, told as an 'error' event, and begun anew.
 */
export function disk(options: DiskOptions): Tier

export interface RedisOptions {
  /**
   * `'redis://host:6379'`, with TLS `'rediss://…'`, with `user:password@` and `/database` where needed, or `'unix:///path'`. Several for a
   * cluster or for sentinels.
   */
  url: string | string[]
  /** The URLs are nodes of a Redis Cluster. Default false. */
  cluster?: boolean | undefined
  /** The URLs are sentinels, which watch a master of that name. */
  sentinel?: { name: string } | undefined
  /** Certificates to trust in the place of the system's and Mozilla's: PEM, or the path of a file. With `rediss://` only. */
  tls?: { ca?: string | undefined } | undefined
  /** What all keys in Redis begin with, 1 to 128 bytes without braces. Caches of one prefix are one cache. Default `'kvcache:'`. */
  prefix?: string | undefined
  /**
   * One process at a time loads a key, the others wait for its value. For the origin's sake only: nothing else rests on it, and
   * when its holder dies another takes over. Default false.
   */
  lock?: boolean | undefined
  /** Longest that one call may take, milliseconds or with a unit, finite. Default 1000. */
  timeout?: Timeout | undefined
}

/**
 * Redis (7.0 or later) or Valkey, and the log of invalidations that keeps every process coherent which shares it: one that was away
 * catches up, and one that has missed some of it drops what it held.
 *
 * Throws `ERR_KVCACHE_INVALID_OPTION`. Redis need not be there when the cache is opened.
 */
export function redis(options: RedisOptions): Tier

export interface CloudflareKVOptions {
  accountId: string
  namespaceId: string
  /** A token with the right to edit Workers KV. In no error, event, figure or log. */
  apiToken: string
  /** Where the API is, https; plain http to this machine only. Default Cloudflare's own. */
  baseUrl?: string | undefined
  /** Longest that one read may take, milliseconds or with a unit, finite. Default 1000. */
  timeout?: Timeout | undefined
}

/**
 * A Workers KV namespace over Cloudflare's REST API, for what Workers at the edge read as well: reads of one moment are one call,
 * writes are made behind, and Cloudflare's limits are kept. KV is eventually consistent: what others write is seen here after up to
 * 60 s. Throws `ERR_KVCACHE_INVALID_OPTION`.
 */
export function cloudflareKV(options: CloudflareKVOptions): Tier

// --- Keys from parts -------------------------------------------------------------------------------------------------

/**
 * Template tag for keys, and for patterns, that are made of parts: ids from a request, names from a database. In each part
 * `:` `*` `\` and `%` are percent-encoded (RFC 3986), all other characters stay; so no part can end its segment or widen a
 * pattern, and two different lists of parts never give one key. A number is its decimal text: 1 and `'1'` are one part.
 *
 * The template itself is yours and is left as it is: a `*` in it is a star. `` key`user:${id}*` `` is every key that *begins*
 * so, other ids included; for what belongs to one id write `` key`user:${id}:*` ``.
 *
 * Throws `ERR_KVCACHE_INVALID_KEY`, naming the part: it is empty (a missing id must not become a key), holds a lone
 * surrogate, is a number without a plain decimal form (NaN, Infinity, 1e21), is of another type, or has neither `:` nor `*`
 * between it and the part before. The length of the key is for who takes it to check.
 * @example
 * await cache.get(key`user:${id}:profile`, loadProfile)
 * await cache.list({ prefix: key`user:${id}:` })
 */
export function key(strings: TemplateStringsArray, ...parts: (string | number | bigint)[]): string
