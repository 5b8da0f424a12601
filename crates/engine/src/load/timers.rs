//! What is due when: a heap of moments, cleared of the dead by rebuilding, so that each costs O(log n) amortised.
//!
//! Nothing is removed when a flight ends, for that would cost every load a search; an entry whose flight has ended is
//! passed over when its moment comes, or thrown out when the dead outnumber the living.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Millis;

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The hard timeout of a flight, by token.
    Deadline(u64),
    /// The next attempt of a batch of refreshes.
    Retry(u64),
}

/// Moments in order.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Millis, Timer)>>,
    rebuilt_at_len: usize,
}

/// Below this many entries a heap is never worth rebuilding.
const REBUILD_FLOOR: usize = 1024;

impl Timers {
    /// Adds a moment. Returns whether it is now the earliest.
    pub fn push(&mut self, at: Millis, timer: Timer) -> bool {
        let earliest = self.next().is_none_or(|next| at < next);
        self.heap.push(Reverse((at, timer)));
        earliest
    }

    /// Whether so many were added since the last rebuild that [`Timers::retain`] is worth its cost.
    pub fn wants_rebuild(&self) -> bool {
        self.heap.len() > REBUILD_FLOOR.max(2 * self.rebuilt_at_len)
    }

    /// Keeps only what is still awaited.
    pub fn retain(&mut self, mut alive: impl FnMut(&Timer) -> bool) {
        self.heap.retain(|Reverse((_, timer))| alive(timer));
        self.rebuilt_at_len = self.heap.len();
    }

    /// Takes one timer that is due at `now`.
    pub fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }

    /// The earliest moment.
    pub fn next(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// How many moments are held, dead ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is due, ever.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_is_due_in_order_and_nothing_early() {
        let mut t = Timers::default();
        assert!(t.push(20, Timer::Deadline(2)));
        assert!(t.push(10, Timer::Deadline(1)));
        assert!(!t.push(30, Timer::Retry(3)));
        assert_eq!(t.pop_due(9), None);
        assert_eq!(t.pop_due(25), Some(Timer::Deadline(1)));
        assert_eq!(t.pop_due(25), Some(Timer::Deadline(2)));
        assert_eq!(t.pop_due(25), None);
        assert_eq!(t.next(), Some(30));
    }

    #[test]
    fn does_not_grow_with_timers_that_nobody_awaits() {
        let mut t = Timers::default();
        for token in 0..100_000 {
            t.push(30_000, Timer::Deadline(token));
            if t.wants_rebuild() {
                t.retain(|timer| *timer == Timer::Deadline(token));
            }
        }
        assert!(t.len() <= REBUILD_FLOOR + 1, "{}", t.len());
    }
}
