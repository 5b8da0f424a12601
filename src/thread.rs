//! What the addon keeps for each JavaScript thread: the shared header, the mailbox, the open caches, scratch memory.
//!
//! A thread may evaluate the JavaScript of the package more than once (test runners give each file its own modules, two
//! versions of a dependency bring their own copy) while the addon is loaded once. Each evaluation has a place of its own
//! here, and the number of a cache says in its upper bits whose it is.

use std::cell::RefCell;
use std::ptr;
use std::sync::Arc;

use kvcache_engine::clock::{FOREVER, Millis};
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::Found;
use kvcache_engine::entry::{Ages, Entry, Freshness};
use kvcache_engine::error::{Error as EngineError, Limit};
use napi::{Env, Error, Result, sys};
use napi_derive::napi;

use crate::header::{self, Status};
use crate::mailbox::{Bell, Mailbox};
use crate::raw::Raw;
use crate::registry::Opened;

thread_local! {
    static LOCALS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// The bits of a cache's number that count the caches of one place.
const CACHE_BITS: u32 = 20;
const CACHES: usize = 1 << CACHE_BITS;
const PLACES: usize = 1 << (u32::BITS - CACHE_BITS);

/// The place of one evaluation of the package in one thread.
pub struct Local {
    /// Its number, in the upper bits.
    place: u32,
    pub header: Header,
    pub mailbox: Arc<Mailbox>,
    caches: Vec<Option<Opened>>,
    /// Data on its way into the engine. Kept between calls, up to a size.
    pub scratch: Vec<u8>,
    /// Metadata on its way into the engine.
    pub scratch_metadata: Vec<u8>,
    /// Tags and parents on their way into the engine, encoded.
    pub scratch_links: Vec<u8>,
    /// For values that are decompressed here.
    pub tools: Tools,
    /// Whose metadata `takeMetadata()` gives.
    pub found: Option<Entry>,
    /// Entries prepared for a putMany.
    pub staged: Vec<Entry>,
}

/// The array shared with JavaScript.
pub struct Header(*mut f64);

/// Scratch memory kept between calls, bytes.
const SCRATCH_KEPT: usize = 1024 * 1024;

impl Header {
    pub fn set(&self, index: usize, value: f64) {
        debug_assert!(index < header::LENGTH);
        // SAFETY: `init` checked that the array has LENGTH numbers; JavaScript keeps it for the life of the thread, and
        // only this thread touches it.
        unsafe { self.0.add(index).write(value) };
    }

    pub fn get(&self, index: usize) -> f64 {
        debug_assert!(index < header::LENGTH);
        // SAFETY: as in `set`.
        unsafe { self.0.add(index).read() }
    }

    pub fn status(&self, status: Status) {
        self.set(header::STATUS, f64::from(status as i8));
    }

    /// A number of milliseconds that JavaScript left, `Infinity` being for ever.
    pub fn millis(&self, index: usize) -> Millis {
        // The cast saturates, and takes what is no number as 0.
        let value = self.get(index);
        if value == f64::INFINITY { FOREVER } else { value as Millis }
    }

    pub fn ages(&self) -> Ages {
        Ages {
            max_age: self.millis(header::IN_MAX_AGE),
            stale_age: self.millis(header::IN_STALE_AGE),
            stale_if_error: self.millis(header::IN_STALE_IF_ERROR),
        }
    }

    /// Describes a found value, its status included.
    pub fn found(&self, found: &Found) {
        let h = found.entry.header();
        self.set(header::DEFERRED, 0.0);
        self.status(match found.freshness {
            Freshness::Fresh => Status::Fresh,
            Freshness::Stale => Status::Stale,
            Freshness::OnError => Status::OnError,
            Freshness::Dead => Status::None,
        });
        self.set(header::KIND, f64::from(h.kind as u8));
        self.set(header::AGE, found.age as f64);
        let endless = h.fresh_until == FOREVER;
        let max_age = if endless { f64::INFINITY } else { h.fresh_until.saturating_sub(h.stored_at) as f64 };
        // An invalidation has ended its freshness whatever its age.
        self.set(header::MAX_AGE, if found.outdated { 0.0 } else { max_age });
        self.set(header::HAS_LINKS, f64::from(u8::from(!found.entry.links().is_empty())));
        self.set(header::REFRESH_DUE, f64::from(u8::from(found.refresh_due)));
        self.set(header::HAS_METADATA, f64::from(u8::from(!found.entry.metadata().is_empty())));
    }

    /// Describes an engine's refusal.
    pub fn refused(&self, error: &EngineError) {
        match error {
            EngineError::ValueTooLarge { bytes, limit, .. } => self.too_large(*bytes, *limit),
            EngineError::Closed => self.status(Status::Closed),
            EngineError::InvalidLinks => self.status(Status::InvalidData),
            _ => self.status(Status::InvalidKey),
        }
    }

    /// Describes a value that is too large.
    pub fn too_large(&self, bytes: u64, limit: Limit) {
        self.status(Status::TooLarge);
        self.set(header::BYTES, bytes as f64);
        self.set(header::LIMIT, limit.bytes() as f64);
        self.set(header::LIMIT_IS_BUDGET, f64::from(u8::from(matches!(limit, Limit::Budget(_)))));
    }
}

impl Local {
    /// The engine of a cache; with none, the status says so.
    pub fn cache(&self, cache: u32) -> Option<&Opened> {
        let opened = self.caches.get(index(cache)).and_then(Option::as_ref);
        if opened.is_none() {
            self.header.status(Status::Closed);
        }
        opened
    }

    /// The number for one more cache. None was used before, until a million have been: then those of closed ones are.
    pub fn next_number(&self) -> Result<u32> {
        let index = if self.caches.len() < CACHES {
            self.caches.len()
        } else {
            self.caches
                .iter()
                .position(Option::is_none)
                .ok_or_else(|| Error::from_reason("kvcache: over a million caches are open"))?
        };
        Ok(self.place | index as u32)
    }

    /// Keeps an opened cache under its number.
    pub fn opened(&mut self, cache: u32, opened: Opened) {
        let index = index(cache);
        if self.caches.len() <= index {
            self.caches.resize_with(index + 1, || None);
        }
        self.caches[index] = Some(opened);
    }

    /// Gives up a cache.
    pub fn closed(&mut self, cache: u32) -> Option<Opened> {
        self.caches.get_mut(index(cache)).and_then(Option::take)
    }
}

fn index(cache: u32) -> usize {
    cache as usize % CACHES
}

/// Runs `body` with the place that a cache's number, or its own, names, and tells JavaScript afterwards whether events wait.
pub fn with_local<R>(number: u32, body: impl FnOnce(&mut Local) -> R) -> Result<R> {
    LOCALS.with(|cell| {
        let mut locals = cell.borrow_mut();
        let local = locals
            .get_mut((number >> CACHE_BITS) as usize)
            .ok_or_else(|| Error::from_reason("kvcache: init() was not called in this thread"))?;
        let serving = local.mailbox.serve();
        let result = body(local);
        drop(serving);
        if local.scratch.capacity() > SCRATCH_KEPT {
            local.scratch = Vec::new();
        }
        local.header.set(header::PENDING, f64::from(u8::from(local.mailbox.pending())));
        Ok(result)
    })
}

/// As [`with_local`], for one cache. `None` where it is closed.
pub fn with_cache<R>(cache: u32, body: impl FnOnce(&Opened, &Header) -> R) -> Result<Option<R>> {
    with_local(cache, |local| local.cache(cache).map(|opened| body(opened, &local.header)))
}

/// Prepares a place for the package as it is evaluated in this thread: `header` is a `Float64Array` of [`header::LENGTH`] numbers that
/// JavaScript keeps for good, `bell` is called when events wait that no call of this thread has caused. Its number.
#[napi(catch_unwind)]
pub fn init(env: Env, header: Raw, bell: Bell) -> Result<u32> {
    let mut kind = 0;
    let mut length = 0;
    let mut data = ptr::null_mut();
    // SAFETY: the out parameters outlive the call; those that are null are not asked for.
    let status = unsafe {
        sys::napi_get_typedarray_info(
            env.raw(),
            header.0,
            &mut kind,
            &mut length,
            &mut data,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    if status != sys::Status::napi_ok || kind != sys::TypedarrayType::float64_array || length < header::LENGTH {
        return Err(Error::from_reason("kvcache: init() takes a Float64Array of 55 numbers"));
    }
    let place = LOCALS.with(|cell| {
        let mut locals = cell.borrow_mut();
        if locals.len() >= PLACES {
            return Err(Error::from_reason("kvcache: this thread has evaluated the package over four thousand times"));
        }
        let place = (locals.len() as u32) << CACHE_BITS;
        locals.push(Local {
            place,
            header: Header(data.cast()),
            mailbox: Arc::new(Mailbox::new(bell)),
            caches: Vec::new(),
            scratch: Vec::new(),
            scratch_metadata: Vec::new(),
            scratch_links: Vec::new(),
            tools: Tools::default(),
            found: None,
            staged: Vec::new(),
        });
        Ok(place)
    })?;
    napi::bindgen_prelude::retain_current_module_for_unload_safety();
    // The thread of a worker ends with its environment: its caches are closed then, not when the thread's memory goes.
    env.add_env_cleanup_hook((), |()| {
        let locals = LOCALS.with(|cell| std::mem::take(&mut *cell.borrow_mut()));
        drop(locals);
    })?;
    Ok(place)
}
