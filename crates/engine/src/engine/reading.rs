//! Looking up: what a key holds and whether it may be served.

use super::{Engine, Found, near};
use crate::clock::Millis;
use crate::entry::{Entry, Freshness};
use crate::stats::counters::RouteEvent;
use crate::stats::latency::Op;

impl Engine {
    /// Looks a key up for a get: a fresh or stale value counts as a hit and as a use. Where there is none, `give_up` tells
    /// that nothing will be loaded, and a miss is counted under `route`.
    pub fn lookup(&self, key: &[u8], give_up: Option<u16>) -> Option<Found> {
        if let Some(behind) = self.behind() {
            behind.catch_up();
        }
        let began = self.clock.now_nanos();
        let found = self.memory.get(key).and_then(|entry| self.judge(entry, began / 1_000_000));
        match found {
            Some(mut found) if found.is_servable() => {
                self.count_hit(&mut found, began);
                Some(found)
            }
            _ => {
                let found = self.seek_now(key, began / 1_000_000);
                if give_up.is_some() || found.is_some() {
                    self.figures.counters.route(RouteEvent::Miss, give_up.unwrap_or(0));
                }
                found.map(|mut found| {
                    self.judge_refresh(&mut found, began / 1_000_000);
                    found
                })
            }
        }
    }

    /// The entry of a key, if it may be served at least when a load fails. Counts nothing.
    pub fn peek(&self, key: &[u8]) -> Option<Found> {
        if let Some(behind) = self.behind() {
            behind.catch_up();
        }
        self.peek_at(key, self.clock.now_millis())
    }

    /// The entry of a key, if it may stand in for a load that failed: one within its staleIfError. Counts nothing.
    pub fn stand_in(&self, key: &[u8]) -> Option<Found> {
        let now = self.clock.now_millis();
        self.peek_at(key, now).filter(|found| now < found.entry.header().error_until)
    }

    pub(super) fn peek_at(&self, key: &[u8], now: Millis) -> Option<Found> {
        self.memory.peek(key).and_then(|entry| self.judge(entry, now))
    }

    pub(super) fn judge(&self, entry: Entry, now: Millis) -> Option<Found> {
        let freshness = entry.freshness(now);
        if freshness == Freshness::Dead {
            return None;
        }
        let mark = self.facts.judge_entry(&entry);
        if mark.hard > 0 {
            return None;
        }
        let outdated = mark.soft > 0 || entry.is_outdated();
        let freshness = if outdated && freshness == Freshness::Fresh { Freshness::Stale } else { freshness };
        Some(Found { age: entry.age(now), entry, freshness, refresh_due: false, outdated, near_until: 0 })
    }

    pub(super) fn count_hit(&self, found: &mut Found, began: u64) {
        self.judge_refresh(found, began / 1_000_000);
        let stale = found.freshness == Freshness::Stale;
        let (event, op) = if stale { (RouteEvent::Stale, Op::Stale) } else { (RouteEvent::Hit, Op::Hit) };
        self.figures.counters.route(event, found.entry.header().route);
        self.figures.latencies.record(op, self.clock.now_nanos().saturating_sub(began));
    }

    /// Sees whether a value that was found wants a refresh, and how long a copy of it may answer.
    pub(super) fn judge_refresh(&self, found: &mut Found, now: Millis) {
        if found.freshness == Freshness::Stale {
            let rests_until = self.cooldowns.lock().rests_until(found.entry.key(), now);
            found.refresh_due = rests_until.is_none() && !self.flights.contains(found.entry.key());
            found.near_until = near::stale_until(found, rests_until, now);
        } else {
            found.near_until = near::fresh_until(found);
        }
    }

    /// Up to `limit` entries that get would serve, in byte order of their keys, whose keys begin with `prefix` and come
    /// after `after`; and whether that was all.
    pub fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> (Vec<Entry>, bool) {
        let now = self.clock.now_millis();
        self.memory
            .list(prefix, after, limit, |entry| self.judge(entry.clone(), now).is_some_and(|found| found.is_servable()))
    }
}
