//! Calls for versioned content. A name is what its keys begin with: `content:42`.

use kvcache_engine::engine::Shown;
use kvcache_engine::entry::Kind;
use napi::{Env, Result};
use napi_derive::napi;

use crate::header::{self, Status};
use crate::raw::{Raw, undefined, with_key};
use crate::reading::give;
use crate::thread::{Header, Local, with_local};
use crate::writing::{read_data, read_links, value_in};

fn shown(header: &Header, shown: Shown) {
    header.set(header::TOKEN, shown.version as f64);
    header.set(header::UPDATED_AT, shown.updated_at as f64);
}

/// Publishes a value, with the ages of the header, and keeps as many versions as the header says. Status `Done`, with its number
/// and its date; `None` if the number that the header gives it is taken.
#[napi(catch_unwind)]
pub fn publish(env: Env, cache: u32, name: Raw, kind: u8, data: Raw, metadata: Raw, links: Raw) -> Result<()> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(kind) = Kind::from_u8(kind).filter(|kind| read_data(local, env, *kind, data, metadata)) else {
            return local.header.status(Status::InvalidData);
        };
        if read_links(local, env, links).is_none() {
            return;
        }
        let Some(opened) = local.cache(cache) else { return };
        let value = value_in(local, kind);
        let keep = local.header.get(header::IN_KEEP) as usize;
        let number = local.header.get(header::IN_NUMBER) as u64;
        let engine = opened.engine();
        let published = with_key(env, name, |name| match number {
            0 => engine.publish(name, &value, keep).map(Some),
            number => engine.publish_as(name, &value, keep, number),
        });
        match published {
            None => local.header.status(Status::InvalidKey),
            Some(Err(error)) => local.header.refused(&error),
            Some(Ok(None)) => local.header.status(Status::None),
            Some(Ok(Some(published))) => {
                local.header.status(Status::Done);
                shown(&local.header, published);
            }
        }
    })
}

/// What a name shows, pointer and content of one moment: status, value and the rest as from `lookup`, with number and date.
#[napi(catch_unwind)]
pub fn published(env: Env, cache: u32, name: Raw) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return undefined(env) };
        match with_key(env, name, |name| opened.engine().published(name)) {
            None => local.header.status(Status::InvalidKey),
            Some(None) => local.header.status(Status::None),
            Some(Some((pointer, content))) => {
                shown(&local.header, pointer);
                return give(local, env, cache, content, None, false, true);
            }
        }
        undefined(env)
    })
}

/// Shows another version. Status `Done`, or `None` if it is not there.
#[napi(catch_unwind)]
pub fn roll_back(env: Env, cache: u32, name: Raw, version: f64) -> Result<()> {
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return };
        match with_key(env.raw(), name, |name| opened.engine().roll_back(name, version as u64)) {
            None => local.header.status(Status::InvalidKey),
            Some(Err(error)) => local.header.refused(&error),
            Some(Ok(done)) => local.header.status(if done { Status::Done } else { Status::None }),
        }
    })
}

/// The versions that are there, in ascending order.
#[napi(catch_unwind)]
pub fn versions(env: Env, cache: u32, name: Raw) -> Result<Vec<f64>> {
    with_local(cache, |local: &mut Local| {
        let Some(opened) = local.cache(cache) else { return Vec::new() };
        let Some(versions) = with_key(env.raw(), name, |name| opened.engine().versions(name)) else {
            local.header.status(Status::InvalidKey);
            return Vec::new();
        };
        local.header.status(Status::Done);
        versions.into_iter().map(|version| version as f64).collect()
    })
}

/// When the value of a key was stored, in milliseconds since the UNIX epoch, in the header. Status `Done`, or `None`.
#[napi(catch_unwind)]
pub fn stored_at(env: Env, cache: u32, key: Raw) -> Result<()> {
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return };
        match with_key(env.raw(), key, |key| opened.engine().stored_at(key)) {
            None => local.header.status(Status::InvalidKey),
            Some(None) => local.header.status(Status::None),
            Some(Some(at)) => {
                local.header.status(Status::Done);
                local.header.set(header::UPDATED_AT, at as f64);
            }
        }
    })
}
