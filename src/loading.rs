//! Calls around a load: begin, what came of it, and the background refreshes.

use kvcache_engine::engine::{BatchEnd, Begin, Begun, Found, Landed, Loaded, Refresh, Settled, Stored};
use kvcache_engine::entry::{Freshness, Kind};
use kvcache_engine::error::Limit;
use kvcache_engine::load::breaker::{OriginId, Outcome};
use kvcache_engine::load::waits;
use napi::bindgen_prelude::ToNapiValue;
use napi::{Env, Result, sys};
use napi_derive::napi;

use crate::header::{self, Status};
use crate::raw::{Raw, append_bytes, append_text, bytes, undefined, with_key};
use crate::reading::{give, look};
use crate::registry::Opened;
use crate::thread::{Header, Local, with_cache, with_local};
use crate::writing::{read_data, read_links, value_in};

/// Flag: load even where a value is fresh.
const FORCE: u32 = 1;
/// Flag: ask the breaker, and answer to it.
const PERMIT: u32 = 2;
/// Flag: the caller waited before, since what the header says.
const RESUME: u32 = 4;
/// Flag: look the key up first, as `lookup` does, and begin only where nothing is found.
const LOOK: u32 = 8;
/// Flag, with the one before: as that of `lookup`.
const NEAR: u32 = 16;

/// Begins a load, or with [`LOOK`] finds what is there, with the route, origin, hardTimeout and parent of the header. Status `Fresh` or `Stale` with a value that
/// is there by now, `Lead`, `Join`, `Refused` or `Recursion`.
#[napi(catch_unwind)]
pub fn begin(env: Env, cache: u32, key: Raw, flags: u32) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return undefined(env) };
        let header = &local.header;
        let begin = Begin {
            thread: opened.thread,
            parent: header.get(header::IN_PARENT) as u64,
            origin: OriginId::from_number(header.get(header::IN_ORIGIN) as u32),
            route: header.get(header::IN_ROUTE) as u16,
            hard_timeout: header.millis(header::IN_HARD_TIMEOUT),
            force: flags & FORCE != 0,
            permit: flags & PERMIT != 0,
            since: if flags & RESUME != 0 { header.get(header::SINCE) as u64 } else { 0 },
        };
        let engine = opened.engine();
        let begun = with_key(env, key, |key| {
            if flags & LOOK != 0 {
                let (found, probe) = look(engine, key, flags & NEAR != 0, None);
                if let Some(found) = found {
                    return Err((found, probe));
                }
                // What is loaded now is worth a copy when it is asked for next.
                probe.map(|probe| opened.asked_again(probe.hash));
            }
            // Read first: what is invalidated from here on comes after.
            header.set(header::SEQ, engine.current() as f64);
            Ok(engine.begin(key, &begin))
        });
        let begun = match begun {
            None => {
                header.status(Status::InvalidKey);
                return undefined(env);
            }
            Some(Err((found, probe))) => return give(local, env, cache, found, probe, false, true),
            Some(Ok(begun)) => begun,
        };
        match begun {
            Begun::Hit(found) => {
                // It came between the look and the begin: no stamps were read for a copy of it.
                return give(local, env, cache, found, None, true, true);
            }
            Begun::Lead { token, stale, invalidated } => {
                header.status(Status::Lead);
                header.set(header::INVALIDATED, f64::from(u8::from(invalidated)));
                header.set(header::TOKEN, token as f64);
                header.set(header::HAS_COPY, f64::from(u8::from(stale.is_some())));
            }
            Begun::Join(token) => {
                header.status(Status::Join);
                header.set(header::TOKEN, token as f64);
                let since = if begin.since == 0 { opened.engine().clock().now_nanos() } else { begin.since };
                header.set(header::SINCE, since.max(1) as f64);
            }
            Begun::Refused { next_attempt } => {
                header.status(Status::Refused);
                header.set(header::NEXT_ATTEMPT, opened.engine().unix_of(next_attempt) as f64);
            }
            Begun::Recursion => header.status(Status::Recursion),
        }
        undefined(env)
    })
}

fn report(header: &Header, opened: &Opened, settled: Settled) {
    match settled.stored {
        Stored::Yes => header.status(Status::Done),
        Stored::No => header.status(Status::Unstored),
        Stored::Gone => header.status(Status::Gone),
        Stored::Awaited => header.status(Status::Awaited),
        Stored::TooLarge { bytes } => header.too_large(bytes, Limit::Budget(opened.engine().budget())),
    }
    header.set(header::CUT, settled.cut as f64);
    header.set(
        header::BATCH_END,
        match settled.batch {
            BatchEnd::None => 0.0,
            BatchEnd::Finished => 1.0,
            BatchEnd::Retry => 2.0,
        },
    );
}

fn settle_with(local: &Local, cache: u32, token: f64, loaded: &Loaded<'_>) {
    if let Some(opened) = local.cache(cache) {
        report(&local.header, opened, opened.engine().settle(token as u64, loaded));
    }
}

/// Reports a value, with the ages and the route of the header, to be stored or not.
fn settle_value(
    (env, cache, token, kind): (Env, u32, f64, u8),
    (data, metadata, links): (Raw, Raw, Raw),
    stored: bool,
) -> Result<()> {
    with_local(cache, |local| match Kind::from_u8(kind) {
        Some(kind)
            if read_data(local, env.raw(), kind, data, metadata) && read_links(local, env.raw(), links).is_some() =>
        {
            let value = value_in(local, kind);
            settle_with(local, cache, token, &if stored { Loaded::Value(value) } else { Loaded::Passing(value) });
        }
        _ => local.header.status(Status::InvalidData),
    })
}

/// Reports that the copy in hand is still good, to be stored with the ages of the header or not.
fn settle_copy((env, cache, token): (Env, u32, f64), (metadata, links): (Raw, Raw), stored: bool) -> Result<()> {
    with_local(cache, |local| {
        local.scratch_metadata.clear();
        if !append_text(env.raw(), metadata, &mut local.scratch_metadata) {
            local.header.status(Status::InvalidData);
            return;
        }
        let Some(given) = read_links(local, env.raw(), links) else { return };
        let metadata = (!local.scratch_metadata.is_empty()).then_some(&local.scratch_metadata[..]);
        let links = given.then_some(&local.scratch_links[..]);
        let loaded = if stored {
            Loaded::NotModified { ages: local.header.ages(), metadata, links }
        } else {
            Loaded::PassingCopy { metadata, links }
        };
        settle_with(local, cache, token, &loaded);
    })
}

/// Reports the value that a flight brought, with the ages and the route of the header. Status `Done`, `Unstored`, `Gone` or
/// `TooLarge`.
#[napi(catch_unwind)]
pub fn settle(env: Env, cache: u32, token: f64, kind: u8, data: Raw, metadata: Raw, links: Raw) -> Result<()> {
    settle_value((env, cache, token, kind), (data, metadata, links), true)
}

/// Reports that the copy in hand is still good; its metadata stays where `metadata` is '', its tags and parents where `links` is.
#[napi(catch_unwind)]
pub fn settle_unmodified(env: Env, cache: u32, token: f64, metadata: Raw, links: Raw) -> Result<()> {
    settle_copy((env, cache, token), (metadata, links), true)
}

/// Reports that a flight ended well and brought nothing to be stored. Status as of `settle`.
#[napi(catch_unwind)]
pub fn settle_unstored(env: Env, cache: u32, token: f64, links: Raw) -> Result<()> {
    with_local(cache, |local| match read_links(local, env.raw(), links) {
        Some(_) => settle_with(local, cache, token, &Loaded::Unstored { links: &local.scratch_links }),
        None => local.header.status(Status::InvalidData),
    })
}

/// As `settle`, of a value for those who wait, which is not to be stored.
#[napi(catch_unwind)]
pub fn settle_passing(env: Env, cache: u32, token: f64, kind: u8, data: Raw, metadata: Raw, links: Raw) -> Result<()> {
    settle_value((env, cache, token, kind), (data, metadata, links), false)
}

/// As `settleUnmodified`, of what is not to be stored.
#[napi(catch_unwind)]
pub fn settle_passing_copy(env: Env, cache: u32, token: f64, metadata: Raw, links: Raw) -> Result<()> {
    settle_copy((env, cache, token), (metadata, links), false)
}

/// Reports that a flight has no fetcher, and that nothing was found for it. Status as of `fail`.
#[napi(catch_unwind)]
pub fn give_up(cache: u32, token: f64) -> Result<()> {
    with_cache(cache, |opened, header| report(header, opened, opened.engine().give_up(token as u64)))?;
    Ok(())
}

/// Reports that a flight failed: `outcome` is 0 for a proof of life, 1 for a failure, 2 for an abort; `why` describes the error
/// to other threads, which begin anew without it. Status `Unstored` or `Gone`.
#[napi(catch_unwind)]
pub fn fail(env: Env, cache: u32, token: f64, outcome: u8, why: Raw) -> Result<()> {
    let env = env.raw();
    with_local(cache, |local| {
        local.scratch.clear();
        append_bytes(env, why, &mut local.scratch);
        let Some(opened) = local.cache(cache) else { return };
        let (outcome, failed) = match outcome {
            0 => (Outcome::Success, true),
            1 => (Outcome::Failure, true),
            _ => (Outcome::Aborted, false),
        };
        report(&local.header, opened, opened.engine().fail_with(token as u64, outcome, failed, &local.scratch));
    })
}

/// Reports that nobody in this thread waits for a flight any more. Status `Unstored` or `Gone` when it has ended, `Awaited`
/// when it goes on.
#[napi(catch_unwind)]
pub fn abandon(cache: u32, token: f64) -> Result<()> {
    with_cache(cache, |opened, header| report(header, opened, opened.engine().abandon(token as u64)))?;
    Ok(())
}

/// Whether other threads wait for a flight of this one.
#[napi(catch_unwind)]
pub fn is_watched(cache: u32, token: f64) -> Result<bool> {
    Ok(with_cache(cache, |opened, _| opened.engine().is_watched(token as u64))?.unwrap_or(false))
}

/// Nobody in this thread waits any more for a flight of another one; `running`: it is to go on nevertheless.
#[napi(catch_unwind)]
pub fn leave(cache: u32, token: f64, running: bool) -> Result<()> {
    with_cache(cache, |opened, _| opened.engine().leave(opened.thread, token as u64, running))?;
    Ok(())
}

/// What became of a flight of another thread. Status `Fresh` with the value; `Unstored` where there is none; `Failed` with what
/// describes the error; `TimedOut`; `Gone` where the load is to be begun anew, `NotFound` where it was none; `None` if it is not known.
#[napi(catch_unwind)]
pub fn take_landed(env: Env, cache: u32, token: f64) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return undefined(env) };
        let landed = opened.engine().take_landed(opened.thread, token as u64);
        let header = &local.header;
        match landed {
            Some(Landed::Value(entry, stored, cut)) => {
                header.set(header::CUT, cut as f64);
                let found = Found {
                    entry,
                    freshness: Freshness::Fresh,
                    age: 0,
                    refresh_due: false,
                    near_until: 0,
                    outdated: false,
                };
                let value = give(local, env, cache, found, None, true, true);
                if !stored {
                    local.header.set(header::MAX_AGE, 0.0);
                }
                return value;
            }
            Some(Landed::Failed(why)) => {
                header.status(Status::Failed);
                return bytes(env, &why);
            }
            Some(Landed::TimedOut(after)) => {
                header.status(Status::TimedOut);
                header.set(header::AGE, after as f64);
            }
            Some(Landed::Nothing(cut)) => {
                header.set(header::CUT, cut as f64);
                header.status(Status::Unstored);
            }
            Some(Landed::Again) => header.status(Status::Gone),
            Some(Landed::NotFound) => header.status(Status::NotFound),
            None => header.status(Status::None),
        }
        undefined(env)
    })
}

/// The flights of `tokens` end together: whoever waits for one of them waits for the first.
#[napi(catch_unwind)]
pub fn link(tokens: Vec<f64>) -> Result<()> {
    if let [first, rest @ ..] = &tokens[..] {
        for token in rest {
            waits::wait(*token as u64, *first as u64);
        }
    }
    Ok(())
}

/// Queues a refresh of stale keys as one batch, with the route, origin and hardTimeout of the header. Its number; 0 if there
/// is nothing to refresh.
#[napi(catch_unwind)]
pub fn refresh(cache: u32, keys: Vec<String>) -> Result<f64> {
    let batch = with_cache(cache, |opened, header| {
        header.status(Status::Done);
        let refresh = Refresh {
            thread: opened.thread,
            origin: OriginId::from_number(header.get(header::IN_ORIGIN) as u32),
            route: header.get(header::IN_ROUTE) as u16,
            hard_timeout: header.millis(header::IN_HARD_TIMEOUT),
        };
        opened.engine().refresh(keys.iter().map(String::as_bytes), &refresh).unwrap_or(0)
    })?;
    Ok(batch.unwrap_or(0) as f64)
}

/// One key of a batch that has started.
pub struct StartedKey {
    key: String,
    token: f64,
    has_copy: bool,
    invalidated: bool,
}

impl ToNapiValue for StartedKey {
    unsafe fn to_napi_value(env: sys::napi_env, started: Self) -> Result<sys::napi_value> {
        // SAFETY: `env` is that of this call, as the caller promises.
        unsafe { ToNapiValue::to_napi_value(env, (started.key, started.token, started.has_copy, started.invalidated)) }
    }
}

/// Starts a batch: `[key, token, hasCopy, invalidated]` for each of its keys, none if nothing is left of it.
#[napi(catch_unwind, ts_return_type = "[string, number, boolean, boolean][]")]
pub fn start(cache: u32, batch: f64) -> Result<Vec<StartedKey>> {
    let started = with_cache(cache, |opened, header| {
        header.status(Status::Done);
        let started = opened.engine().start(batch as u64);
        started
            .into_iter()
            .map(|one| StartedKey {
                key: String::from_utf8_lossy(&one.key).into_owned(),
                token: one.token as f64,
                has_copy: one.stale.is_some(),
                invalidated: one.invalidated,
            })
            .collect()
    })?;
    Ok(started.unwrap_or_default())
}

/// Whether no refresh waits or runs; if not, an `Idle` event follows.
#[napi(catch_unwind)]
pub fn flush(cache: u32) -> Result<bool> {
    Ok(with_cache(cache, |opened, _| opened.engine().flush())?.unwrap_or(true))
}

/// Drops every refresh of this thread that does not run yet.
#[napi(catch_unwind)]
pub fn drop_queued(cache: u32) -> Result<()> {
    with_cache(cache, |opened, _| opened.engine().drop_queued(opened.thread))?;
    Ok(())
}
