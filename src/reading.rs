//! Calls that read.

use kvcache_engine::clock::FOREVER;
use kvcache_engine::codec::workshop::Inflated;
use kvcache_engine::engine::{Engine, Found, Probe};
use kvcache_engine::invalidation::links::{self, Role};
use napi::{Env, Result, sys};
use napi_derive::napi;

use crate::header::{self, Status};
use crate::near;
use crate::raw::{Raw, text, undefined, value_of, with_key};
use crate::thread::{Local, with_local};

/// Flag: keep the metadata for `takeMetadata()`.
const WANT_METADATA: u32 = 1;
/// Flag: nothing will be loaded if nothing is found; counts a miss under the route in the upper half.
const GIVE_UP: u32 = 2;
/// Flag: say how a copy of the value can be kept near if it is worth one, and leave the value out if it is that of the copy there
/// is.
const NEAR: u32 = 4;

/// Looks a key up for a get. Status `Fresh` or `Stale` with the value, or `None`. A large compressed value is decompressed by
/// a worker: its number is in the header instead.
#[napi(catch_unwind)]
pub fn lookup(env: Env, cache: u32, key: Raw, flags: u32) -> Result<Raw> {
    let give_up = (flags & GIVE_UP != 0).then_some((flags >> 16) as u16);
    let near = flags & NEAR != 0;
    find(&env, cache, Some(key), flags, true, |engine, key| look(engine, key, near, give_up))
}

/// As `lookup`, without being counted, and the value is always here: status `Fresh`, `Stale` or `OnError`, or `None`.
#[napi(catch_unwind)]
pub fn peek(env: Env, cache: u32, key: Raw, flags: u32) -> Result<Raw> {
    find(&env, cache, Some(key), flags, false, |engine, key| (engine.peek(key), None))
}

/// Whether there is something to peek at: the status that `peek` would give, without the value.
#[napi(catch_unwind)]
pub fn has(env: Env, cache: u32, key: Raw) -> Result<()> {
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return };
        match with_key(env.raw(), key, |key| opened.engine().peek(key)) {
            None => local.header.status(Status::InvalidKey),
            Some(None) => local.header.status(Status::None),
            Some(Some(found)) => local.header.found(&found),
        }
    })
}

/// The value of a key that may stand in for a load that failed, uncounted: status and value as from `peek`.
#[napi(catch_unwind)]
pub fn stand_in(env: Env, cache: u32, key: Raw, flags: u32) -> Result<Raw> {
    find(&env, cache, Some(key), flags, false, |engine, key| (engine.stand_in(key), None))
}

/// The value of the copy in hand of a flight that has not ended: status and value as from `peek`, metadata kept.
#[napi(catch_unwind)]
pub fn copy_in_hand(env: Env, cache: u32, token: f64) -> Result<Raw> {
    find(&env, cache, None, WANT_METADATA, false, |engine, _| (engine.copy_in_hand(token as u64), None))
}

/// Looks a key up for a get, and reads first what a copy near the caller is checked by, if one is to be kept.
pub fn look(engine: &Engine, key: &[u8], near: bool, give_up: Option<u16>) -> (Option<Found>, Option<Probe>) {
    // The stamps are read first: see the engine's module of that name.
    let probe = near.then(|| engine.probe(key));
    (engine.lookup(key, give_up), probe)
}

fn find(
    env: &Env,
    cache: u32,
    key: Option<Raw>,
    flags: u32,
    may_defer: bool,
    look: impl FnOnce(&Engine, &[u8]) -> (Option<Found>, Option<Probe>),
) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return undefined(env) };
        let found = match key {
            Some(key) => with_key(env, key, |key| look(opened.engine(), key)),
            None => Some(look(opened.engine(), &[])),
        };
        let Some((found, probe)) = found else {
            local.header.status(Status::InvalidKey);
            return undefined(env);
        };
        let Some(found) = found else {
            local.header.status(Status::None);
            return undefined(env);
        };
        give(local, env, cache, found, probe, flags & WANT_METADATA != 0, may_defer)
    })
}

/// Describes what was found in the header, and how a copy can be kept where `probe` is there; gives the value, unless it is that
/// of the copy there is.
pub fn give(
    local: &mut Local,
    env: sys::napi_env,
    cache: u32,
    found: Found,
    probe: Option<Probe>,
    want_metadata: bool,
    may_defer: bool,
) -> Raw {
    // No copy is to be kept by the stamps of an earlier call.
    local.header.set(header::SAME, 0.0);
    local.header.set(header::NEAR_UNTIL, 0.0);
    if let Some(probe) = probe
        && let Some(opened) = local.cache(cache)
        && (local.header.get(header::IN_VERSION) != 0.0 || opened.asked_again(probe.hash))
    {
        near::describe(&local.header, opened.engine(), &found, &probe);
        if local.header.get(header::SAME) != 0.0 {
            local.header.found(&found);
            if want_metadata {
                local.found = Some(found.entry);
            }
            return undefined(env);
        }
    }
    hand_over(local, env, cache, found, want_metadata, may_defer)
}

/// Describes what was found in the header, and gives its value: at once, or by a worker where that may be and pays.
fn hand_over(
    local: &mut Local,
    env: sys::napi_env,
    cache: u32,
    found: Found,
    want_metadata: bool,
    may_defer: bool,
) -> Raw {
    local.header.found(&found);
    let entry = found.entry;
    let value = match entry.codec() {
        None => value_of(env, &entry.header(), entry.value()),
        Some(algorithm) if may_defer && entry.raw_len() > algorithm.inline_limit() => {
            if let Some(opened) = local.cache(cache) {
                let number = opened.engine().inflate(opened.thread, entry.clone());
                local.header.set(header::DEFERRED, number as f64);
            }
            undefined(env)
        }
        Some(_) => match local.tools.inflate_into(&entry, &mut local.scratch) {
            Ok(()) => value_of(env, &entry.header(), &local.scratch),
            Err(_) => {
                local.header.status(Status::InvalidData);
                undefined(env)
            }
        },
    };
    if want_metadata {
        local.found = Some(entry);
    }
    value
}

/// The value that a worker has decompressed under that number, once. Status `Done`, or `InvalidData`.
#[napi(catch_unwind)]
pub fn take_inflated(env: Env, cache: u32, number: f64) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return undefined(env) };
        match opened.engine().take_inflated(number as u64) {
            Some(Inflated { entry, bytes: Ok(bytes) }) => {
                local.header.status(Status::Done);
                value_of(env, &entry.header(), &bytes)
            }
            _ => {
                local.header.status(Status::InvalidData);
                undefined(env)
            }
        }
    })
}

/// The metadata, as JSON text, of the value that was found last with that wish.
#[napi(catch_unwind)]
pub fn take_metadata(env: Env, cache: u32) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local: &mut Local| match local.found.take() {
        Some(entry) if !entry.metadata().is_empty() => text(env, entry.metadata()),
        _ => undefined(env),
    })
}

/// The tags and parents that the user gave the value found last with the wish for metadata: each with a `t` or a `k` before
/// it. To be called before `takeMetadata`.
#[napi(catch_unwind)]
pub fn take_links(cache: u32) -> Result<Vec<String>> {
    with_local(cache, |local: &mut Local| {
        let links = local.found.as_ref().map_or(&[][..], |entry| entry.links());
        let own = links::names(links).filter(|(role, _)| role.is_own());
        own.map(|(role, name)| {
            format!("{}{}", if role == Role::Tag { 't' } else { 'k' }, String::from_utf8_lossy(name))
        })
        .collect()
    })
}

/// A page of keys.
#[napi(object)]
pub struct Page {
    pub names: Vec<String>,
    /// Seconds since the UNIX epoch; 0 for never.
    pub expirations: Vec<f64>,
    /// JSON text; '' for none.
    pub metadata: Vec<String>,
    pub complete: bool,
}

/// Up to `limit` keys that begin with `prefix` and come after `after`, in byte order.
#[napi(catch_unwind)]
pub fn list(cache: u32, prefix: String, after: Option<String>, limit: u32) -> Result<Option<Page>> {
    with_local(cache, |local| {
        let engine = local.cache(cache)?.engine();
        let (entries, complete) = engine.list(prefix.as_bytes(), after.as_ref().map(String::as_bytes), limit as usize);
        // To the nearest second: an end that was given as a whole second of the wall clock comes back as that second, though
        // the clocks are read in whole milliseconds.
        let expiration = |until| if until == FOREVER { 0.0 } else { ((engine.unix_of(until) + 500) / 1000) as f64 };
        Some(Page {
            names: entries.iter().map(|entry| entry.key_str().to_owned()).collect(),
            expirations: entries.iter().map(|entry| expiration(entry.header().stale_until)).collect(),
            metadata: entries.iter().map(|entry| String::from_utf8_lossy(entry.metadata()).into_owned()).collect(),
            complete,
        })
    })
}
