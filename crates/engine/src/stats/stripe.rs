//! Stripes: one copy of a hot structure for each core, so that threads do not write to one another's cache lines.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::available_parallelism;

/// Most copies that are made, whatever the number of cores.
const MAX_STRIPES: usize = 16;

static NEXT_THREAD: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static THREAD: Cell<u32> = const { Cell::new(u32::MAX) };
}

/// A small number of the calling thread: threads get them in turn, so few threads never share a stripe.
#[inline]
fn thread_number() -> u32 {
    let number = THREAD.get();
    if number != u32::MAX {
        return number;
    }
    first_thread_number()
}

#[cold]
fn first_thread_number() -> u32 {
    // Never u32::MAX, which stands for "none yet".
    let number = NEXT_THREAD.fetch_add(1, Ordering::Relaxed) % u32::MAX;
    THREAD.set(number);
    number
}

/// Keeps its content off the cache lines of its neighbours: 128 bytes, since today's prefetchers fetch lines in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// Copies of `T`, one for each core or so (a power of two, at most [`MAX_STRIPES`]).
pub(super) struct Striped<T>(Box<[Padded<T>]>);

impl<T: Default> Striped<T> {
    pub(super) fn new() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self::with_stripes(cores.next_power_of_two().min(MAX_STRIPES))
    }

    /// `stripes` is a power of two.
    pub(super) fn with_stripes(stripes: usize) -> Self {
        debug_assert!(stripes.is_power_of_two());
        Self((0..stripes).map(|_| Padded::default()).collect())
    }
}

impl<T> Striped<T> {
    /// The calling thread's copy, which it may share with a few others.
    #[inline]
    pub(super) fn mine(&self) -> &T {
        &self.0[thread_number() as usize & (self.0.len() - 1)].0
    }

    /// Every copy.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }
}

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_thread_keeps_its_stripe() {
        let striped = Striped::<Mutex<u32>>::with_stripes(4);
        assert!(std::ptr::eq(striped.mine(), striped.mine()));
    }

    #[test]
    fn what_many_threads_leave_is_all_there() {
        let striped = Striped::<Mutex<u32>>::with_stripes(4);
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| *striped.mine().lock().unwrap() += 1);
            }
        });
        assert_eq!(striped.iter().map(|n| *n.lock().unwrap()).sum::<u32>(), 32);
        assert_eq!(striped.iter().count(), 4);
    }

    #[test]
    fn stripes_lie_apart() {
        let striped = Striped::<u64>::with_stripes(2);
        let at: Vec<_> = striped.iter().map(|n| std::ptr::from_ref(n) as usize).collect();
        assert!(at[0].abs_diff(at[1]) >= 128);
    }

    #[test]
    fn there_is_a_power_of_two_of_them_within_the_bound() {
        let stripes = Striped::<u8>::new().iter().count();
        assert!(stripes.is_power_of_two() && stripes <= MAX_STRIPES);
    }
}
