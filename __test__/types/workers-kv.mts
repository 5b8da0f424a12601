// The Workers KV interface for those who import Cloudflare's typings: a namespace of ours goes wherever theirs is
// expected, under every name of a key and with what its methods give.

import type { KVNamespace as TheirNamespace } from '@cloudflare/workers-types'
import { KvCache } from 'kvcache'
import type { KVKey, KVListResult, KVNamespace, KVPutOptions, KVStream, KVValueWithMetadata } from 'kvcache'

const kv = new KvCache().asKVNamespace()
const theirs: TheirNamespace = kv
const ours: KVNamespace = kv
declare function worker(env: { KV: TheirNamespace }): void
worker({ KV: kv })
worker({ KV: ours })
void theirs

// What a method gives, exactly.
type Same<A, B> = (<X>() => X extends A ? 1 : 2) extends <X>() => X extends B ? 1 : 2 ? true : false
declare function exactly<T>(): <V>(value: V, same: Same<V, T>) => void

async function reads() {
  exactly<string | null>()(await kv.get('k'), true)
  exactly<string | null>()(await kv.get('k', 'text'), true)
  exactly<unknown>()(await kv.get('k', 'json'), true)
  exactly<{ a: number } | null>()(await kv.get<{ a: number }>('k', 'json'), true)
  exactly<ArrayBuffer | null>()(await kv.get('k', { type: 'arrayBuffer', cacheTtl: 60 }), true)
  exactly<KVStream | null>()(await kv.get('k', 'stream'), true)
  exactly<Map<string, string | null>>()(await kv.get(['a', 'b']), true)
  exactly<Map<string, number | null>>()(await kv.get<number>(['a', 'b'], 'json'), true)
  exactly<KVValueWithMetadata<string, { m: 1 }>>()(await kv.getWithMetadata<{ m: 1 }>('k'), true)
  exactly<Map<string, KVValueWithMetadata<string, unknown>>>()(await kv.getWithMetadata(['k']), true)
}
void reads

async function pages() {
  let cursor: string | undefined
  for (;;) {
    const page: KVListResult<{ m: 1 }> = await kv.list<{ m: 1 }>({ prefix: 'a:', cursor: cursor ?? null })
    const keys: KVKey<{ m: 1 }>[] = page.keys
    for (const { name, expiration, metadata } of keys) void [name.length, expiration?.toFixed(), metadata?.m]
    if (page.list_complete) break
    cursor = page.cursor
  }
}
void pages

const options: KVPutOptions = { expirationTtl: 60, metadata: { any: ['thing'] } }
void kv.put('k', 'text', options)
void kv.put('k', new Uint8Array(2))
void kv.put('k', new ArrayBuffer(2), { expiration: 2_000_000_000 })
void kv.put('k', new ReadableStream())
void kv.delete('k')

// @ts-expect-error objects are for the caller to turn into text
void kv.put('k', { a: 1 })
// @ts-expect-error no such type
void kv.get('k', 'blob')
// @ts-expect-error bytes are not read in bulk
void kv.get(['k'], 'arrayBuffer')
// @ts-expect-error no such option
void kv.put('k', 'v', { ttl: 60 })

// A stream is a ReadableStream to Node.js as well.
export async function body(): Promise<ReadableStream<Uint8Array> | null> {
  return kv.get('k', 'stream')
}
