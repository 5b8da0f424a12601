//! Memory of the engine that JavaScript reads without a call: the clock's word and the stamps of a cache.
//!
//! A view is a `SharedArrayBuffer` where the runtime can make one over memory that is not its own
//! (`node_api_create_external_sharedarraybuffer`), else an external `ArrayBuffer`, else there is none (Electron, whose V8
//! keeps all memory in a cage). Which of them it is shows when the first is made, and holds for the process.
//!
//! Promises: the memory lives until the last view's finalizer has run, which may be long after its cache was closed, and in
//! another thread. Views are for the package's own JavaScript: who holds one can write to it.

use std::any::Any;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use kvcache_engine::clock::CLOCK_WORD;
use kvcache_engine::engine::Doorkeeper;
use napi::{Env, Result, sys};
use napi_derive::napi;

use crate::raw::{Raw, null};
use crate::thread::with_cache;

/// The variable of the environment that forces one way, for tests: 'shared', 'external' or 'none'.
const FORCED: &str = "KVCACHE_SHARED_MEMORY";

/// How memory is shown to JavaScript.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Shared,
    External,
    None,
}

static SHARING: OnceLock<Sharing> = OnceLock::new();

/// What is told when nobody in JavaScript has the memory any more: in any thread, with no environment.
type FinalizeShared = unsafe extern "C" fn(data: *mut c_void, hint: *mut c_void);
type CreateShared = unsafe extern "C" fn(
    env: sys::napi_env,
    data: *mut c_void,
    length: usize,
    finalize: Option<FinalizeShared>,
    hint: *mut c_void,
    result: *mut sys::napi_value,
) -> sys::napi_status;

/// Memory to be shown, and what keeps it alive.
struct Memory {
    data: *mut c_void,
    bytes: usize,
    /// None for what lives as long as the process.
    keeper: Option<Keeper>,
}

/// What keeps memory alive.
type Keeper = Box<dyn Any + Send + Sync>;

/// The clock's word, 4 bytes: null, or a buffer with one `i32` that the engine keeps writing.
#[napi(catch_unwind, ts_return_type = "SharedArrayBuffer | ArrayBuffer | null")]
pub fn clock_memory(env: Env) -> Result<Raw> {
    let env = env.raw();
    let memory = || Memory { data: CLOCK_WORD.as_ptr().cast(), bytes: size_of_val(&CLOCK_WORD), keeper: None };
    Ok(show(env, memory))
}

/// The stamps of a cache, 32-bit words: null, or a buffer. For a near cache of at most so many copies.
#[napi(catch_unwind, ts_return_type = "SharedArrayBuffer | ArrayBuffer | null")]
pub fn stamp_memory(env: Env, cache: u32, copies: u32) -> Result<Raw> {
    let env = env.raw();
    let stamps = with_cache(cache, |opened, _| {
        opened.doorkeeper.get_or_init(|| Doorkeeper::new(copies as usize));
        Arc::clone(opened.engine().stamps())
    })?;
    let Some(stamps) = stamps else { return Ok(null(env)) };
    Ok(show(env, move || {
        let words = stamps.words();
        let data = words.as_ptr().cast_mut().cast();
        Memory { data, bytes: size_of_val(words), keeper: Some(Box::new(Arc::clone(&stamps))) }
    }))
}

/// The head of the log that other processes write to, one 32-bit word that changes with each fact of it: null, or a buffer, where
/// a tier has one in shared memory.
#[napi(catch_unwind, ts_return_type = "SharedArrayBuffer | ArrayBuffer | null")]
pub fn head_memory(env: Env, cache: u32) -> Result<Raw> {
    let env = env.raw();
    let head = with_cache(cache, |opened, _| opened.tiers().and_then(|tiers| tiers.head()))?.flatten();
    let Some(head) = head else { return Ok(null(env)) };
    Ok(show(env, move || {
        let word: &AtomicU32 = (*head).as_ref();
        let data = word.as_ptr().cast();
        Memory { data, bytes: size_of_val(word), keeper: Some(Box::new(Arc::clone(&head))) }
    }))
}

/// How memory is shown to JavaScript in this process: 'shared', 'external' or 'none'. Known once a view was asked for.
#[napi(catch_unwind)]
pub fn memory_sharing() -> &'static str {
    match SHARING.get() {
        Some(Sharing::Shared) => "shared",
        Some(Sharing::External) => "external",
        _ => "none",
    }
}

fn show(env: sys::napi_env, memory: impl Fn() -> Memory) -> Raw {
    let attempt = |sharing| match sharing {
        Sharing::Shared => shared(env, memory()),
        Sharing::External => external(env, memory()),
        Sharing::None => None,
    };
    if let Some(sharing) = SHARING.get() {
        return attempt(*sharing).unwrap_or_else(|| null(env));
    }
    for sharing in allowed() {
        if let Some(view) = attempt(*sharing) {
            // Another thread may have found out before; it was told the same by the same runtime.
            let _ = SHARING.set(*sharing);
            return view;
        }
    }
    let _ = SHARING.set(Sharing::None);
    null(env)
}

/// The ways to be tried, the best first.
fn allowed() -> &'static [Sharing] {
    match std::env::var(FORCED).as_deref() {
        Ok("shared") => &[Sharing::Shared],
        Ok("external") => &[Sharing::External],
        Ok("none") => &[],
        _ => &[Sharing::Shared, Sharing::External],
    }
}

fn shared(env: sys::napi_env, memory: Memory) -> Option<Raw> {
    let create = create_shared()?;
    let mut result = ptr::null_mut();
    let hint = hint(memory.keeper);
    // SAFETY: the function is the runtime's, of the signature that its headers declare. The memory outlives the buffer, as
    // `finish_shared` alone gives up what keeps it, and neither takes an environment nor touches JavaScript. All of
    // its words are atomics here and are read by `Atomics`, or in whole aligned words, there.
    let status = unsafe { create(env, memory.data, memory.bytes, Some(finish_shared), hint, &mut result) };
    made(env, status, hint, result)
}

fn external(env: sys::napi_env, memory: Memory) -> Option<Raw> {
    let mut result = ptr::null_mut();
    let hint = hint(memory.keeper);
    // SAFETY: as in `shared`.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(env, memory.data, memory.bytes, Some(finish_external), hint, &mut result)
    };
    made(env, status, hint, result)
}

/// The buffer if there is one; where it was refused, nothing keeps the memory for it and no exception is left behind.
fn made(env: sys::napi_env, status: sys::napi_status, hint: *mut c_void, result: sys::napi_value) -> Option<Raw> {
    if status == sys::Status::napi_ok {
        return Some(Raw(result));
    }
    let mut exception = ptr::null_mut();
    // SAFETY: the out parameter outlives the call; where nothing was thrown it is set to undefined.
    unsafe { sys::napi_get_and_clear_last_exception(env, &mut exception) };
    give_up(hint);
    None
}

fn hint(keeper: Option<Keeper>) -> *mut c_void {
    keeper.map_or(ptr::null_mut(), |keeper| Box::into_raw(Box::new(keeper)).cast())
}

fn give_up(hint: *mut c_void) {
    if !hint.is_null() {
        // SAFETY: it is what `hint` made of a keeper, and is given up once: by the finalizer, or because there is none.
        drop(unsafe { Box::from_raw(hint.cast::<Keeper>()) });
    }
}

unsafe extern "C" fn finish_shared(_data: *mut c_void, hint: *mut c_void) {
    give_up(hint);
}

unsafe extern "C" fn finish_external(_env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
    give_up(hint);
}

/// The runtime's function, where it has one: it is looked up because older ones have not, and would refuse to load us.
fn create_shared() -> Option<CreateShared> {
    static FOUND: OnceLock<Option<CreateShared>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(unix)]
        let process = libloading::os::unix::Library::this();
        #[cfg(windows)]
        let process = libloading::os::windows::Library::this().ok()?;
        // SAFETY: the name is the runtime's alone, with that signature since it was added (Node 22.23, 24.16, 26.1). What
        // it belongs to is the process itself, which is not unloaded.
        unsafe { process.get::<CreateShared>(b"node_api_create_external_sharedarraybuffer\0") }.ok().map(|found| *found)
    })
}
