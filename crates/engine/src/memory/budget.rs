//! The budget of the whole tier: one counter, from which room is taken before an entry is published and to which it is given
//! back after it is gone. So the counter never exceeds the budget, and the entries never exceed the counter.

use crate::sync::{AtomicU64, Ordering};

/// Weight in use, and its limit.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Budget {
    used: AtomicU64,
    /// Of that, what is used by giants.
    giants: AtomicU64,
    limit: u64,
}

impl Budget {
    /// Nothing used yet.
    pub fn new(limit: u64) -> Self {
        Self { used: AtomicU64::new(0), giants: AtomicU64::new(0), limit }
    }

    /// Most that may be used.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is used.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }

    /// What is used by giants: entries that are large beside a shard's share.
    pub fn giants(&self) -> u64 {
        self.giants.load(Ordering::Relaxed)
    }

    /// Counts a giant that comes or goes.
    pub fn count_giant(&self, weight: u64, comes: bool) {
        if comes {
            self.giants.fetch_add(weight, Ordering::Relaxed);
        } else {
            self.giants.fetch_sub(weight, Ordering::Relaxed);
        }
    }

    /// Takes room, if there is so much.
    pub fn take(&self, weight: u64) -> bool {
        let taken = |used: u64| used.checked_add(weight).filter(|sum| *sum <= self.limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok()
    }

    /// Gives room back that was taken.
    pub fn give(&self, weight: u64) {
        if weight != 0 {
            self.used.fetch_sub(weight, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_out_no_more_than_there_is() {
        let budget = Budget::new(10);
        assert!(budget.take(7));
        assert!(!budget.take(4));
        assert!(!budget.take(u64::MAX));
        assert!(budget.take(3));
        budget.give(5);
        assert_eq!((budget.used(), budget.limit()), (5, 10));
    }
}
