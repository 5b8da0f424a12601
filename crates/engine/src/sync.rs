//! The locks and atomics of the memory tier, in one place, so that a checker of interleavings can be put in their stead:
//! it needs a [`Mutex`] whose `lock()` gives a guard, the atomics, and [`pause`]. Nothing in `memory/` takes these from
//! elsewhere, except where a value is only ever set once under a lock.

pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// What to do at the `round`-th failed attempt to take a lock that is held for some ten nanoseconds: first wait, then let
/// others run, for the holder may have lost its processor.
#[cold]
pub(crate) fn pause(round: u32) {
    if round < 64 {
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}
