// The Workers KV interface for those whose globals are Cloudflare's typings, as a Worker's project has them.

import { KvCache } from 'kvcache'

const namespace: KVNamespace = new KvCache().asKVNamespace()
interface Env {
  KV: KVNamespace
}
declare const handler: ExportedHandler<Env>
export const env: Env = { KV: new KvCache().asKVNamespace() }
void [namespace, handler]

export async function body(): Promise<Response> {
  return new Response(await new KvCache().asKVNamespace().get('k', 'stream'))
}
