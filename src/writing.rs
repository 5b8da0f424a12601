//! Calls that write.

use kvcache_engine::engine::Value;
use kvcache_engine::entry::{Entry, Kind};
use kvcache_engine::invalidation::links;
use napi::{Env, Result, sys};
use napi_derive::napi;

use crate::header::{self, Status};
use crate::raw::{Raw, append_data, append_text_if_any, with_key};
use crate::thread::{Local, with_local};

/// Reads data and metadata into the scratch memory, the metadata being '' or `undefined` for none. False: one of them cannot be read.
pub fn read_data(local: &mut Local, env: sys::napi_env, kind: Kind, data: Raw, metadata: Raw) -> bool {
    local.scratch.clear();
    local.scratch_metadata.clear();
    append_data(env, kind, data, &mut local.scratch) && append_text_if_any(env, metadata, &mut local.scratch_metadata)
}

/// Reads the tags and parents that the user gave into the scratch memory: text as [`links::read`] takes it, '' or `undefined`
/// where none were given, '-' where none are to be. None: they cannot be read; else whether some were given.
pub fn read_links(local: &mut Local, env: sys::napi_env, text: Raw) -> Option<bool> {
    let mut bytes = std::mem::take(&mut local.scratch_links);
    bytes.clear();
    let read = append_text_if_any(env, text, &mut bytes);
    let given = !bytes.is_empty();
    let mut encoded = Vec::new();
    let known = read && (bytes == b"-" || links::read(&bytes, &mut encoded).is_ok());
    local.scratch_links = encoded;
    if !known {
        local.header.status(Status::InvalidData);
    }
    known.then_some(given)
}

/// What was read, as the engine takes it, with the ages and the route of the header.
pub fn value_in(local: &Local, kind: Kind) -> Value<'_> {
    Value {
        kind,
        bytes: &local.scratch,
        metadata: &local.scratch_metadata,
        ages: local.header.ages(),
        route: local.header.get(header::IN_ROUTE) as u16,
        links: &local.scratch_links,
    }
}

fn prepare(
    local: &mut Local,
    env: sys::napi_env,
    cache: u32,
    key: Raw,
    kind: u8,
    (data, metadata, links): (Raw, Raw, Raw),
) -> Option<Entry> {
    let Some(kind) = Kind::from_u8(kind) else {
        local.header.status(Status::InvalidData);
        return None;
    };
    if !read_data(local, env, kind, data, metadata) {
        local.header.status(Status::InvalidData);
        return None;
    }
    read_links(local, env, links)?;
    let opened = local.cache(cache)?;
    let value = value_in(local, kind);
    match with_key(env, key, |key| opened.engine().prepare(key, &value)) {
        None => local.header.status(Status::InvalidKey),
        Some(Err(error)) => local.header.refused(&error),
        Some(Ok(entry)) => {
            local.header.status(Status::Done);
            return Some(entry);
        }
    }
    None
}

/// Stores a value, with the ages and the route of the header.
#[napi(catch_unwind)]
pub fn put(env: Env, cache: u32, key: Raw, kind: u8, data: Raw, metadata: Raw, links: Raw) -> Result<()> {
    with_local(cache, |local| {
        if let Some(entry) = prepare(local, env.raw(), cache, key, kind, (data, metadata, links))
            && let Some(opened) = local.cache(cache)
        {
            opened.engine().commit(entry);
        }
    })
}

/// Prepares an entry as `put` would store it, for `commitStaged`.
#[napi(catch_unwind)]
pub fn stage(env: Env, cache: u32, key: Raw, kind: u8, data: Raw, metadata: Raw, links: Raw) -> Result<()> {
    with_local(cache, |local| {
        if let Some(entry) = prepare(local, env.raw(), cache, key, kind, (data, metadata, links)) {
            local.staged.push(entry);
        }
    })
}

/// Stores what was staged, in that order.
#[napi(catch_unwind)]
pub fn commit_staged(cache: u32) -> Result<()> {
    with_local(cache, |local| {
        let staged = std::mem::take(&mut local.staged);
        if let Some(opened) = local.cache(cache) {
            for entry in staged {
                opened.engine().commit(entry);
            }
            local.header.status(Status::Done);
        }
    })
}

/// Forgets what was staged.
#[napi(catch_unwind)]
pub fn drop_staged(cache: u32) -> Result<()> {
    with_local(cache, |local| local.staged = Vec::new())
}

/// Removes a key. Whether it would have been served.
#[napi(catch_unwind)]
pub fn remove(env: Env, cache: u32, key: Raw) -> Result<bool> {
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return false };
        match with_key(env.raw(), key, |key| opened.engine().delete(key)) {
            Some(removed) => {
                local.header.status(Status::Done);
                removed
            }
            None => {
                local.header.status(Status::InvalidKey);
                false
            }
        }
    })
}
