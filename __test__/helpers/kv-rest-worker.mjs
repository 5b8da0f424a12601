// A Worker that speaks the REST API of Workers KV over its own binding. It runs inside workerd, and counts what it is asked.
//
// Control: PUT /control { fail: [{ status, retryAfter?, path? }], delay, after } decides what happens to the next calls;
// GET /control gives the calls that were made, and how often a key was written twice within a second.

const TOKEN = 'test-token'
const BASE = '/client/v4/accounts/acc/storage/kv/namespaces/ns/'

/** @type {{ fail: { status: number, retryAfter?: string, path?: string, after?: boolean }[], delay: number }} */
let control = { fail: [], delay: 0 }
/** @type {string[]} */
let calls = []
/** @type {Map<string, number>} */
const written = new Map()
let tooOften = 0

/** @param {unknown} result @param {object} [more] */
const ok = (result, more) => Response.json({ success: true, errors: [], messages: [], result, ...more })

/** @param {number} status @param {number} code @param {string} message @param {Record<string, string>} [headers] */
const fail = (status, code, message, headers) =>
  Response.json({ success: false, errors: [{ code, message }], messages: [], result: null }, { status, headers })

/** @param {string} key */
function noteWrite(key) {
  const now = Date.now()
  // A clock that is read on both sides of a network: some slack.
  if (now - (written.get(key) ?? 0) < 900) tooOften++
  written.set(key, now)
}

/** @param {Request} request @param {any} KV */
async function answer(request, KV) {
  const url = new URL(request.url)
  const path = url.pathname.slice(BASE.length)
  const [kind, name] = path.split('/').map(decodeURIComponent)
  const method = request.method
  if (method === 'GET' && kind === 'values') {
    const { value, metadata } = await KV.getWithMetadata(name, 'arrayBuffer')
    void metadata
    return value === null ? fail(404, 10009, "get: 'key not found'") : new Response(value)
  }
  if (method === 'GET' && kind === 'metadata') {
    const { value, metadata } = await KV.getWithMetadata(name, 'arrayBuffer')
    return value === null ? fail(404, 10009, "get: 'key not found'") : ok(metadata)
  }
  if (method === 'PUT' && kind === 'values') {
    const options = { expirationTtl: Number(url.searchParams.get('expiration_ttl')) || undefined }
    noteWrite(name)
    if (request.headers.get('content-type')?.startsWith('multipart/')) {
      const form = await request.formData()
      const metadata = form.get('metadata')
      const value = form.get('value')
      const bytes = typeof value === 'string' ? value : await /** @type {any} */ (value).arrayBuffer()
      const parsed = metadata ? JSON.parse(typeof metadata === 'string' ? metadata : await metadata.text()) : undefined
      await KV.put(name, bytes, { ...options, metadata: parsed })
    } else await KV.put(name, await request.arrayBuffer(), options)
    return ok(null)
  }
  if (method === 'DELETE' && kind === 'values') {
    noteWrite(name)
    await KV.delete(name)
    return ok(null)
  }
  if (method === 'GET' && path === 'keys') {
    const limit = Number(url.searchParams.get('limit') ?? 1000)
    if (limit < 10 || limit > 1000) return fail(400, 10029, 'limit must be from 10 to 1000')
    const prefix = url.searchParams.get('prefix') ?? undefined
    const page = await KV.list({ prefix, limit, cursor: url.searchParams.get('cursor') || undefined })
    return ok(page.keys, { result_info: { count: page.keys.length, cursor: page.cursor ?? '' } })
  }
  if (method === 'PUT' && path === 'bulk') {
    const items = await request.json()
    if (items.length > 10_000) return fail(400, 10029, 'too many keys')
    for (const { key, value, base64, expiration_ttl: expirationTtl, metadata } of items) {
      noteWrite(key)
      await KV.put(key, base64 ? Uint8Array.from(atob(value), c => c.charCodeAt(0)) : value, { expirationTtl, metadata })
    }
    return ok({ successful_key_count: items.length, unsuccessful_keys: [] })
  }
  if (method === 'POST' && path === 'bulk/delete') {
    const keys = await request.json()
    if (keys.length > 10_000) return fail(400, 10029, 'too many keys')
    for (const key of keys) {
      noteWrite(key)
      await KV.delete(key)
    }
    return ok({ successful_key_count: keys.length, unsuccessful_keys: [] })
  }
  if (method === 'POST' && path === 'bulk/get') {
    const { keys, type = 'text', withMetadata = false } = await request.json()
    if (keys.length > 100) return fail(400, 10029, 'too many keys')
    const found = []
    // One by one: the binding's bulk read loses some keys, and metadata of empty values.
    for (const key of keys) {
      const { value, metadata } = await KV.getWithMetadata(key, type)
      found.push([key, value === null ? null : withMetadata ? { value, metadata } : value])
    }
    return ok({ values: Object.fromEntries(found) })
  }
  return fail(404, 7000, 'No route for that URI')
}

export default {
  /** @param {Request} request @param {any} env */
  async fetch(request, env) {
    const { pathname } = new URL(request.url)
    if (pathname === '/control') {
      if (request.method === 'GET') return Response.json({ calls, tooOften })
      control = { fail: [], delay: 0, ...await request.json() }
      calls = []
      tooOften = 0
      return new Response()
    }
    if (pathname === '/as-a-worker') {
      const key = new URL(request.url).searchParams.get('key')
      const { readKvcache } = await import('./kv-reader.mjs')
      return Response.json({ value: await readKvcache(env.KV, key) })
    }
    calls.push(`${request.method} ${pathname.slice(BASE.length)}`)
    if (control.delay > 0) await new Promise(resolve => setTimeout(resolve, control.delay))
    if (request.headers.get('authorization') !== `Bearer ${TOKEN}`) return fail(403, 10000, 'Authentication error')
    if (!pathname.startsWith(BASE)) return fail(404, 10013, 'namespace not found')
    const next = control.fail[0]
    if (next !== undefined && (next.path === undefined || pathname.slice(BASE.length).startsWith(next.path))) {
      control.fail.shift()
      if (next.after) await answer(request, env.KV)
      return fail(next.status, 10000 + next.status, 'failing', next.retryAfter ? { 'retry-after': next.retryAfter } : {})
    }
    return answer(request, env.KV)
  }
}
