// What a Worker needs to read what the cache has stored in Workers KV. These lines stand in docs/tiers.md.

/**
 * The value of a key, compressed or not; null if there is none.
 * @param {any} KV the binding
 * @param {string} key
 */
export async function readKvcache(KV, key) {
  const { value, metadata } = await KV.getWithMetadata(key, 'stream')
  if (value === null) return null
  const encoding = metadata?.kvcache?.encoding
  const plain = encoding === 'gzip' ? value.pipeThrough(new DecompressionStream('gzip')) : value
  return new Response(plain).json()
}
