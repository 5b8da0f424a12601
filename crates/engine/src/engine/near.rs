//! What a thread needs to answer gets from copies of its own, its near cache, and what it reports of that.
//!
//! How such a copy is checked stands in [`crate::invalidation::stamps`].

use super::{Engine, Found};
use crate::clock::Millis;
use crate::entry::Entry;
use crate::invalidation::stamps::{ANY, MOST_SHARED, Shared, Slot, Stamps};
use crate::memory::hash_key;
use crate::stats::counters::{Event as Counted, RouteEvent};
use crate::sync::Ordering;

/// A copy is not used in the last milliseconds of its freshness, since the time that its thread reads may be late by some:
/// the engine is asked, which has the exact time.
const MARGIN: Millis = 30;

/// How long a stale copy answers before the engine is asked again, in milliseconds.
const STALE_FOR: Millis = 1000;

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
    pub fn stamps(&self) -> &Stamps {
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
        self.stamps.cover_prefixes(entry.key(), &mut shared);
        if shared.len() > MOST_SHARED {
            shared = Shared::from_slice(&[ANY]);
        }
        let sum = self.stamps.sum(&shared);
        (self.stamps.epoch() == probe.epoch).then_some((shared, sum))
    }

    /// Counts gets that near caches have answered, and lets the eviction policy know.
    pub fn near_used(&self, uses: &NearUses) {
        self.memory.touch(&[uses.hash]);
        let event = if uses.stale { RouteEvent::Stale } else { RouteEvent::Hit };
        self.figures.counters.route_n(event, uses.route, u64::from(uses.hits));
        self.figures.counters.count_n(Counted::NearHit, u64::from(uses.hits));
    }
}
