//! The tier that is a Workers KV namespace, over Cloudflare's REST API
//! (<https://developers.cloudflare.com/api/resources/kv/>).
//!
//! - [`client`] speaks HTTP: one connection or a few, TLS verified, the token told to nobody.
//! - [`limits`] keeps the number of calls below what Cloudflare allows.
//! - [`batch`] joins the reads of one moment; [`writes`] keeps the writes that have not landed, and what was written lately.
//! - [`wire`] is how a record lies in KV, so that a Worker can read it.
//!
//! Consistency: KV shows a write elsewhere after up to 60 s, and may do so here. So reads are compared with what this process wrote
//! in the last minutes: a pending write is answered from memory, and an older value than the last one written, or anything
//! from before a delete, is none. That KV has nothing is not remembered: the next look-up asks again.

mod batch;
mod client;
mod limits;
mod wire;
mod writes;

pub use self::batch::CloudflareTier;
pub use self::client::Settings;
