//! Where that lies which a look-up reads: the table's buckets, and entries that are not large.
//!
//! A look-up waits for little else than the cache lines of a bucket and an entry, and for their places in the page tables. mimalloc
//! (D. Leijen, B. Zorn, L. de Moura, "Mimalloc: Free List Sharding in Action", APLAS 2019) keeps blocks of one size side by
//! side, with nothing between them, so that both are fewer than among the blocks of all sizes of a general heap: compared with
//! that of a plain table a look-up takes a third less time (`cargo bench -p kvcache-engine --bench memory -- lookups`;
//! figures in docs/benchmarks.md). It rounds sizes up, by a quarter at most; of small blocks that is what a general heap puts in
//! front of each, of larger ones more, so these are not for it.
//!
//! Where memory is checked, by Miri or by the sanitizers of fuzz targets, the allocator that does it has all.

use std::alloc::{GlobalAlloc, Layout};
#[cfg(feature = "validate")]
use std::sync::atomic::{AtomicI64, Ordering};

#[cfg(not(any(miri, fuzzing)))]
use mimalloc::MiMalloc as Dense;
#[cfg(any(miri, fuzzing))]
use std::alloc::System as Dense;

#[cfg(feature = "validate")]
static LIVE: AtomicI64 = AtomicI64::new(0);

/// Memory of that layout; null if there is none.
///
/// # Safety
/// As [`std::alloc::alloc`].
#[inline]
pub(crate) unsafe fn alloc(layout: Layout) -> *mut u8 {
    #[cfg(feature = "validate")]
    LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { Dense.alloc(layout) }
}

/// Gives back what [`alloc`] gave for the same layout.
///
/// # Safety
/// As [`std::alloc::dealloc`].
#[inline]
pub(crate) unsafe fn dealloc(memory: *mut u8, layout: Layout) {
    #[cfg(feature = "validate")]
    LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
    // SAFETY: the caller's promise.
    unsafe { Dense.dealloc(memory, layout) }
}

/// Bytes that were allocated here and not given back, as they were asked for.
#[cfg(feature = "validate")]
pub fn live() -> i64 {
    LIVE.load(Ordering::Relaxed)
}
