//! What a thread needs to answer gets from copies of its own, its near cache, and what it reports of that.
//!
//! How such a copy is checked stands in [`crate::invalidation::stamps`].

use std::cell::Cell;
use std::sync::Arc;

use super::{Engine, Found};
use crate::clock::Millis;
use crate::codec::workshop::Job;
use crate::entry::Entry;
use crate::invalidation::stamps::{ANY, EVERY, MOST_SHARED, Shared, Slot, Stamps};
use crate::memory::hash_key;
use crate::stats::counters::{Event as Counted, RouteEvent};
use crate::sync::Ordering;

/// A copy is not used in the last milliseconds of its freshness, since the time that its thread reads may be late by some:
/// the engine is asked, which has the exact time.
const MARGIN: Millis = 30;

/// How long a stale copy answers before the engine is asked again, in milliseconds.
const STALE_FOR: Millis = 1000;

/// Keys of a report that are looked up by the thread that brings it.
const TOUCHED_AT_ONCE: usize = 64;

/// Marks of a [`Doorkeeper`] that stand together, bits of each, and fewest and most such groups.
const TOGETHER: usize = 8;
const MARK_BITS: u32 = u128::BITS / TOGETHER as u32;
const LEAST_GROUPS: usize = 128;
const MOST_GROUPS: usize = 1 << 20;

/// Who was asked for not long ago, of the keys that a thread's near cache did not answer: what is asked for again is worth a copy.
///
/// Most keys of a long tail are read once in a while. A copy of each would cost its making and push out a better one, and grow old
/// enough on the way to be what V8's garbage collector has most work with. The idea is the doorkeeper of TinyLFU (Einziger et al.,
/// ACM ToS 2017). That is a Bloom filter emptied now and then; here a key's mark, 16 bits of its hash, stands with seven others in the
/// group that other bits name, and a new one displaces the oldest: there are as many marks as there may be copies, up to twice.
#[derive(Debug)]
pub struct Doorkeeper {
    groups: Box<[Cell<u128>]>,
    displaced: Cell<u32>,
}

impl Doorkeeper {
    /// For a near cache of so many copies: 2 to 4 bytes for each.
    pub fn new(copies: usize) -> Self {
        let groups = copies.div_ceil(TOGETHER).clamp(LEAST_GROUPS, MOST_GROUPS).next_power_of_two();
        Self { groups: vec![Cell::new(0); groups].into_boxed_slice(), displaced: Cell::new(0) }
    }

    /// Whether the key of that hash was asked for before; from now on it was.
    pub fn knows(&self, hash: u64) -> bool {
        let mark = (hash >> (u64::BITS - MARK_BITS)).max(1) as u128;
        let group = &self.groups[hash as usize & (self.groups.len() - 1)];
        let marks = group.get();
        if (0..TOGETHER as u32).any(|n| marks >> (n * MARK_BITS) & ((1 << MARK_BITS) - 1) == mark) {
            return true;
        }
        if marks.leading_zeros() < MARK_BITS {
            // Keys read in turn, more of them than there is room for in a group, would displace one another for ever: so one in four
            // does not.
            self.displaced.set(self.displaced.get().wrapping_add(1));
            if self.displaced.get().is_multiple_of(4) {
                return false;
            }
        }
        group.set(marks << MARK_BITS | mark);
        false
    }
}

/// What is read of the stamps before a key is looked up.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    pub hash: u64,
    pub slot: Slot,
    pub stamp: u32,
    pub epoch: u32,
}

/// Gets that a near cache has answered, of one key.
#[derive(Debug, Clone, Copy)]
pub struct NearUses {
    /// [`hash_key`] of the key.
    pub hash: u64,
    pub hits: u32,
    /// Whether what they were given was stale.
    pub stale: bool,
    /// See [`crate::entry::Header::route`].
    pub route: u16,
}

/// Until when a copy of a fresh value answers.
pub(super) fn fresh_until(found: &Found) -> Millis {
    shorten(found.entry.header().fresh_until)
}

/// Until when a copy of a stale value answers: while its refresh is under way or rests.
pub(super) fn stale_until(found: &Found, rests_until: Option<Millis>, now: Millis) -> Millis {
    if found.refresh_due {
        return 0;
    }
    let until = rests_until.unwrap_or(Millis::MAX).min(now.saturating_add(STALE_FOR));
    until.min(shorten(found.entry.header().stale_until))
}

fn shorten(until: Millis) -> Millis {
    if until == Millis::MAX { until } else { until.saturating_sub(MARGIN) }
}

impl Engine {
    /// The stamps of this cache.
    pub fn stamps(&self) -> &Arc<Stamps> {
        &self.stamps
    }

    /// A number for one more entry. None of the last four thousand million has it.
    pub(super) fn next_version(&self) -> u32 {
        self.versions.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Reads the stamps for a copy of what a key holds; to be called before the key is looked up.
    pub fn probe(&self, key: &[u8]) -> Probe {
        let hash = hash_key(key);
        let slot = self.stamps.slot(hash);
        let epoch = self.stamps.epoch();
        Probe { hash, slot, stamp: self.stamps.stamp(slot), epoch }
    }

    /// The shared slots that cover an entry just found, and their sum. None if something shared has changed since the probe:
    /// then no copy is to be made.
    pub fn cover(&self, entry: &Entry, probe: &Probe) -> Option<(Shared, u32)> {
        let mut shared = Shared::new();
        self.facts.cover(entry.key(), entry.links(), &self.stamps, &mut shared);
        if shared.len() > MOST_SHARED {
            shared = Shared::from_slice(&[ANY]);
        }
        let sum = self.stamps.sum(&shared);
        (self.stamps.epoch() == probe.epoch).then_some((shared, sum))
    }

    /// Counts gets that near caches have answered, and lets the eviction policy know: at once if they are of a few keys, soon
    /// if they are of many, for looking these up takes time.
    pub fn near_used(&self, uses: impl Iterator<Item = NearUses>) {
        let mut hashes = Vec::with_capacity(uses.size_hint().0);
        let mut hits = 0;
        // Most are of one route and state.
        let mut of = (0, false, 0);
        for one in uses {
            hashes.push(one.hash);
            hits += u64::from(one.hits);
            if (of.0, of.1) != (one.route, one.stale) {
                self.count_near(of);
                of = (one.route, one.stale, 0);
            }
            of.2 += u64::from(one.hits);
        }
        self.count_near(of);
        self.figures.counters.count_n(Counted::NearHit, hits);
        if hashes.len() <= TOUCHED_AT_ONCE {
            self.memory.touch(&hashes);
        } else if self.workshop.submit(Job::Touch(hashes)) {
            self.alarm.work_waits();
        }
    }

    fn count_near(&self, (route, stale, hits): (u16, bool, u64)) {
        if hits > 0 {
            let event = if stale { RouteEvent::Stale } else { RouteEvent::Hit };
            self.figures.counters.route_n(event, route, hits);
        }
    }

    /// No copy stands any more that a near cache has of anything.
    pub(crate) fn outdate_copies(&self) {
        self.stamps.shared_changed(&[EVERY]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(from: u32, to: u32) -> impl Iterator<Item = u64> {
        (from..to).map(|n| hash_key(&n.to_le_bytes()))
    }

    #[test]
    fn knows_keys_read_in_turn_if_there_may_be_a_copy_of_each() {
        let door = Doorkeeper::new(10_000);
        let mut waiting: Vec<_> = hashes(0, 10_000).collect();
        waiting.retain(|hash| !door.knows(*hash));
        assert!(waiting.len() > 9_900, "{}", waiting.len());
        for most in [3_000, 1_000, 500, 250, 125] {
            waiting.retain(|hash| !door.knows(*hash));
            assert!(waiting.len() < most, "{} wait", waiting.len());
        }
    }

    #[test]
    fn forgets_keys_after_many_others() {
        let door = Doorkeeper::new(1);
        let known = |from, to| hashes(from, to).filter(|hash| door.knows(*hash)).count();
        assert_eq!(known(0, 200), 0);
        assert_eq!(known(0, 200), 200);
        assert!(known(1_000, 20_000) < 19_000 / 500);
        assert!(known(0, 200) < 5);
    }
}
