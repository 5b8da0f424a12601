//! Event counters: exact totals, a nanosecond or so each, no lock.
//!
//! Each event is counted once, in the calling thread's stripe: what happens to a key, under the route it belongs to
//! ([`RouteEvent`]); all else cache-wide ([`Event`]). Totals are sums made when asked for. They are exact for all that
//! happened before the question; events of that very moment may be in or out, each by itself.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stripe::Striped;
use crate::invalidation::target::TargetKind;

/// An event that belongs to a key, counted under the `define()` pattern of that key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum RouteEvent {
    /// A fresh answer.
    Hit,
    /// A stale answer: a hit as well.
    Stale,
    /// A get that had to wait for a load, or found nothing.
    Miss,
    /// A failed attempt to load, foreground or background, or a value that could not be serialized.
    Error,
    /// A background refresh that succeeded.
    BackgroundUpdate,
    /// A fetcher called, in the foreground or in the background, each attempt.
    Load,
}

const ROUTE_EVENTS: usize = RouteEvent::Load as usize + 1;

/// An event of the cache as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Event {
    /// A hit answered by a thread's own front, without the engine; it is counted as [`RouteEvent::Hit`] or
    /// [`RouteEvent::Stale`] too.
    NearHit,
    /// An entry dropped to make room.
    EvictedForBudget,
    /// An entry dropped because it could no longer be served.
    EvictedExpired,
    /// An invalidation applied, by the kind of its target.
    InvalidatedKey,
    InvalidatedPrefix,
    InvalidatedPattern,
    InvalidatedTag,
    InvalidatedAll,
    /// An entry that an invalidation has cut was taken out, or made stale.
    Swept,
    /// A miss that joined a load already running; it is counted as [`RouteEvent::Miss`] too.
    Coalesced,
    /// A background refresh dropped because the queue was full.
    RefreshDropped,
    /// A listener that threw. An error in [`Totals::errors`] too, not to be counted apart.
    ListenerError,
}

const EVENTS: usize = Event::ListenerError as usize + 1;

impl Event {
    /// An invalidation of such a target.
    pub fn invalidation(kind: TargetKind) -> Self {
        match kind {
            TargetKind::Key => Self::InvalidatedKey,
            TargetKind::Prefix => Self::InvalidatedPrefix,
            TargetKind::Pattern => Self::InvalidatedPattern,
            TargetKind::Tag => Self::InvalidatedTag,
            TargetKind::All => Self::InvalidatedAll,
        }
    }
}

/// Sums for one route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteTotals {
    /// Answers from what was cached, fresh or stale.
    pub hits: u64,
    /// Those of the hits that were stale.
    pub stale: u64,
    /// See [`RouteEvent::Miss`].
    pub misses: u64,
    /// See [`RouteEvent::Error`].
    pub errors: u64,
    /// See [`RouteEvent::BackgroundUpdate`].
    pub background_updates: u64,
    /// See [`RouteEvent::Load`].
    pub loads: u64,
}

/// Sums for the whole cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers from what was cached, fresh or stale, near hits included.
    pub hits: u64,
    /// Those of the hits that the near caches answered.
    pub near_hits: u64,
    /// See [`RouteEvent::Miss`].
    pub misses: u64,
    /// Those of the hits that were stale.
    pub stale: u64,
    /// See [`RouteEvent::BackgroundUpdate`].
    pub background_updates: u64,
    /// Failed attempts to load, values that could not be serialized, listeners that threw.
    pub errors: u64,
    /// See [`Event::EvictedForBudget`].
    pub evicted_for_budget: u64,
    /// See [`Event::EvictedExpired`].
    pub evicted_expired: u64,
    /// Invalidations applied, in the order of [`TargetKind::ALL`].
    pub invalidated: [u64; 5],
    /// See [`Event::Swept`].
    pub swept: u64,
    /// See [`Event::Coalesced`].
    pub coalesced: u64,
    /// See [`Event::RefreshDropped`].
    pub refreshes_dropped: u64,
    /// See [`Event::ListenerError`].
    pub listener_errors: u64,
    /// See [`RouteEvent::Load`].
    pub loads: u64,
}

impl Totals {
    /// Entries dropped for whatever reason.
    pub fn evictions(&self) -> u64 {
        self.evicted_for_budget + self.evicted_expired
    }

    /// Invalidations applied, of whatever kind.
    pub fn invalidations(&self) -> u64 {
        self.invalidated.iter().sum()
    }

    /// hits / (hits + misses); 0 before the first get.
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hits, self.hits + self.misses)
    }

    /// stale / hits; 0 before the first hit.
    pub fn stale_ratio(&self) -> f64 {
        ratio(self.stale, self.hits)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The counters of one cache.
pub struct Counters(Striped<Stripe>);

impl Counters {
    /// All at 0.
    pub fn new() -> Self {
        Self(Striped::new())
    }

    /// Counts one event of a key under its route; route 0 for keys that no pattern matches.
    #[inline]
    pub fn route(&self, event: RouteEvent, route: u16) {
        self.route_n(event, route, 1);
    }

    /// Counts `n` events of keys under their route.
    #[inline]
    pub fn route_n(&self, event: RouteEvent, route: u16, n: u64) {
        self.0.mine().routes.at(route)[event as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Counts one event of the whole cache.
    #[inline]
    pub fn count(&self, event: Event) {
        self.count_n(event, 1);
    }

    /// Counts `n` events of the whole cache.
    #[inline]
    pub fn count_n(&self, event: Event, n: u64) {
        self.0.mine().events[event as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// Sums for the whole cache.
    pub fn totals(&self) -> Totals {
        let of = |event: Event| self.0.iter().map(|s| s.events[event as usize].load(Ordering::Relaxed)).sum::<u64>();
        let mut keys = [0; ROUTE_EVENTS];
        for stripe in self.0.iter() {
            stripe.routes.for_each(|counts| add(&mut keys, counts));
        }
        let keys = RouteTotals::from(keys);
        let listener_errors = of(Event::ListenerError);
        Totals {
            hits: keys.hits,
            near_hits: of(Event::NearHit),
            misses: keys.misses,
            stale: keys.stale,
            background_updates: keys.background_updates,
            errors: keys.errors + listener_errors,
            evicted_for_budget: of(Event::EvictedForBudget),
            evicted_expired: of(Event::EvictedExpired),
            invalidated: TargetKind::ALL.map(|kind| of(Event::invalidation(kind))),
            swept: of(Event::Swept),
            coalesced: of(Event::Coalesced),
            refreshes_dropped: of(Event::RefreshDropped),
            listener_errors,
            loads: keys.loads,
        }
    }

    /// Sums for one route; route 0 has what no pattern matches.
    pub fn route_totals(&self, route: u16) -> RouteTotals {
        let mut sums = [0; ROUTE_EVENTS];
        for stripe in self.0.iter() {
            if let Some(counts) = stripe.routes.get(route) {
                add(&mut sums, counts);
            }
        }
        sums.into()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

impl From<[u64; ROUTE_EVENTS]> for RouteTotals {
    fn from(n: [u64; ROUTE_EVENTS]) -> Self {
        let of = |event: RouteEvent| n[event as usize];
        Self {
            hits: of(RouteEvent::Hit) + of(RouteEvent::Stale),
            stale: of(RouteEvent::Stale),
            misses: of(RouteEvent::Miss),
            errors: of(RouteEvent::Error),
            background_updates: of(RouteEvent::BackgroundUpdate),
            loads: of(RouteEvent::Load),
        }
    }
}

fn add(sums: &mut [u64; ROUTE_EVENTS], counts: &RouteCounts) {
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum += count.load(Ordering::Relaxed);
    }
}

type RouteCounts = [AtomicU64; ROUTE_EVENTS];

#[derive(Default)]
struct Stripe {
    events: [AtomicU64; EVENTS],
    routes: RouteTable,
}

/// Counts by route, made as routes are first seen and never moved: bucket `b` holds `FIRST << b` routes, so that a
/// cache with few routes stays small and a look-up is a shift and two loads.
#[derive(Default)]
struct RouteTable {
    buckets: [OnceLock<Box<[RouteCounts]>>; BUCKETS],
}

/// Routes in the first bucket; a power of two.
const FIRST: usize = 16;

/// Enough for every `u16`: `FIRST * (2^BUCKETS - 1) > 65,535`.
const BUCKETS: usize = 13;

impl RouteTable {
    /// Bucket of a route and its place therein.
    #[inline]
    fn place(route: u16) -> (usize, usize) {
        let n = usize::from(route) + FIRST;
        let bucket = (n.ilog2() - FIRST.ilog2()) as usize;
        (bucket, n - (FIRST << bucket))
    }

    #[inline]
    fn at(&self, route: u16) -> &RouteCounts {
        let (bucket, index) = Self::place(route);
        &self.buckets[bucket].get_or_init(|| (0..FIRST << bucket).map(|_| RouteCounts::default()).collect())[index]
    }

    fn get(&self, route: u16) -> Option<&RouteCounts> {
        let (bucket, index) = Self::place(route);
        self.buckets[bucket].get().map(|counts| &counts[index])
    }

    fn for_each<'a>(&'a self, mut f: impl FnMut(&'a RouteCounts)) {
        self.buckets.iter().filter_map(OnceLock::get).flat_map(|bucket| bucket.iter()).for_each(&mut f);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_stale_answer_is_a_hit_as_well() {
        let counters = Counters::new();
        counters.route_n(RouteEvent::Hit, 0, 6);
        counters.route_n(RouteEvent::Stale, 2, 2);
        counters.route_n(RouteEvent::Miss, 2, 8);
        let totals = counters.totals();
        assert_eq!((totals.hits, totals.stale, totals.misses), (8, 2, 8));
        assert_eq!((totals.hit_ratio(), totals.stale_ratio()), (0.5, 0.25));
    }

    #[test]
    fn ratios_of_nothing_are_0() {
        let totals = Counters::new().totals();
        assert_eq!((totals.hit_ratio(), totals.stale_ratio()), (0.0, 0.0));
    }

    #[test]
    fn routes_are_counted_apart_and_all_of_them_in_the_totals() {
        let counters = Counters::new();
        for (n, route) in [(1, 0), (2, 1), (4, 17), (8, u16::MAX)] {
            counters.route_n(RouteEvent::Load, route, n);
            counters.route_n(RouteEvent::Error, route, n);
            counters.route_n(RouteEvent::BackgroundUpdate, route, n);
            let expected = RouteTotals { loads: n, errors: n, background_updates: n, ..Default::default() };
            assert_eq!(counters.route_totals(route), expected, "route {route}");
        }
        assert_eq!(counters.route_totals(2), RouteTotals::default());
        let totals = counters.totals();
        assert_eq!((totals.loads, totals.errors, totals.background_updates), (15, 15, 15));
    }

    #[test]
    fn every_event_of_the_cache_has_a_total_of_its_own() {
        let counters = Counters::new();
        let events = [
            Event::NearHit,
            Event::EvictedForBudget,
            Event::EvictedExpired,
            Event::Coalesced,
            Event::RefreshDropped,
            Event::ListenerError,
            Event::Swept,
        ];
        let events = events.into_iter().chain(TargetKind::ALL.map(Event::invalidation));
        for (i, event) in events.enumerate() {
            counters.count_n(event, 1 << i);
        }
        let expected = Totals {
            near_hits: 1,
            evicted_for_budget: 2,
            evicted_expired: 4,
            coalesced: 8,
            refreshes_dropped: 16,
            listener_errors: 32,
            // A listener that threw is an error.
            errors: 32,
            swept: 64,
            invalidated: [128, 256, 512, 1024, 2048],
            ..Default::default()
        };
        assert_eq!(counters.totals(), expected);
        assert_eq!((expected.evictions(), expected.invalidations()), (6, 0b1111_1000_0000));
    }

    #[test]
    fn totals_are_exact_whatever_the_threads() {
        const THREADS: u64 = 8;
        const EACH: u64 = 10_000;
        let counters = Counters::new();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let counters = &counters;
                scope.spawn(move || {
                    for i in 0..EACH {
                        counters.route(RouteEvent::Hit, (i % 100) as u16);
                        counters.count(if thread % 2 == 0 { Event::Coalesced } else { Event::NearHit });
                    }
                });
            }
        });
        let totals = counters.totals();
        assert_eq!(totals.hits, THREADS * EACH);
        assert_eq!((totals.coalesced, totals.near_hits), (THREADS / 2 * EACH, THREADS / 2 * EACH));
        assert_eq!(counters.route_totals(99).hits, THREADS * EACH / 100);
    }

    #[test]
    fn every_route_has_a_place_of_its_own() {
        let places: HashSet<_> = (0..=u16::MAX)
            .map(|route| {
                let (bucket, index) = RouteTable::place(route);
                assert!(bucket < BUCKETS && index < FIRST << bucket, "route {route}");
                (bucket, index)
            })
            .collect();
        assert_eq!(places.len(), usize::from(u16::MAX) + 1);
    }

    #[test]
    fn routes_never_counted_take_no_room() {
        let table = RouteTable::default();
        table.at(0);
        assert!(table.get(u16::MAX).is_none());
        assert_eq!(table.buckets.iter().filter(|bucket| bucket.get().is_some()).count(), 1);
    }
}
