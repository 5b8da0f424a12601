//! The locks and atomics of the engine, in one place, so that a checker of interleavings can be put in their stead: with
//! the feature `shuttle`, those of [shuttle](https://docs.rs/shuttle), which tries other orders of the threads' steps in
//! each of many runs (`tests/shuttle.rs`).
//!
//! `engine`, `load`, `memory`, `invalidation` and the workshop take theirs from here. Not so what is only ever set once,
//! what is counted in `stats`, the reference counts of entries, and the threads of the scheduler: no lock among those is
//! held while anything of here is called.

#[cfg(feature = "shuttle")]
mod checked;

#[cfg(feature = "shuttle")]
pub(crate) use self::checked::{
    AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, ConcurrentMap, Mutex, MutexGuard, RwLock,
    pause, per_process,
};
#[cfg(not(feature = "shuttle"))]
pub(crate) use self::plain::{pause, per_process};
#[cfg(not(feature = "shuttle"))]
pub(crate) use dashmap::DashMap as ConcurrentMap;
#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
pub(crate) use std::sync::atomic::Ordering;
#[cfg(not(feature = "shuttle"))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize};

#[cfg(not(feature = "shuttle"))]
mod plain {
    /// What to do at the `round`-th failed attempt to take a lock that is held for some ten nanoseconds: first wait, then
    /// let others run, for the holder may have lost its processor.
    #[cold]
    pub(crate) fn pause(round: u32) {
        if round < 64 {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }

    /// Statics made at their first use.
    macro_rules! per_process {
        ($(static $name:ident: $type:ty = $value:expr;)*) => {
            $(static $name: std::sync::LazyLock<$type> = std::sync::LazyLock::new(|| $value);)*
        };
    }
    pub(crate) use per_process;
}
