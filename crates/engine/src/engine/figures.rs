//! Figures, and who is told what.

use std::sync::Arc;

use super::{Behind, Engine, Event, Figures, ThreadId};
use crate::entry::Entry;
use crate::load::breaker::{self, OriginId};
use crate::load::queue::Notice;
use crate::memory::{EvictListener, EvictReason};
use crate::stats::counters::{Event as Counted, RouteEvent, Totals};
use crate::stats::latency::LatencyTotals;
use crate::stats::prometheus;
use crate::sync::Ordering;

impl Engine {
    pub(super) fn tell(&self, notices: Vec<Notice>) {
        for notice in notices {
            match notice {
                Notice::Start(thread, batch) => self.figures.post(thread, Event::Start(batch)),
                Notice::Dropped(thread, batch) => self.figures.post(thread, Event::Dropped(batch)),
            };
        }
        if self.flush_wanted.load(Ordering::SeqCst) && self.is_idle() && self.flush_wanted.swap(false, Ordering::SeqCst)
        {
            self.figures.post_all(&Event::Idle);
        }
    }

    pub(super) fn tell_breaker(&self, origin: OriginId, changed: Option<breaker::State>) {
        if let Some(state) = changed
            && let Some(origin) = self.breakers.name(origin)
        {
            self.figures.post_all(&Event::Breaker { origin, state });
        }
    }

    /// Whether evictions are to be told to a thread.
    pub fn tell_evictions(&self, thread: ThreadId, wanted: bool) {
        let mut listening = self.figures.evictions_to.write();
        listening.retain(|id| *id != thread);
        if wanted {
            listening.push(thread);
        }
        self.figures.tell_evictions.store(!listening.is_empty(), Ordering::SeqCst);
    }

    /// Whether a thread is to be told of invalidations once they were swept up after.
    pub fn tell_invalidations(&self, thread: ThreadId, wanted: bool) {
        let mut listening = self.figures.invalidations_to.write();
        listening.retain(|id| *id != thread);
        if wanted {
            listening.push(thread);
        }
    }

    /// Whether a thread wants to be told of invalidations.
    pub(super) fn tells_invalidations(&self) -> bool {
        !self.figures.invalidations_to.read().is_empty()
    }

    pub(super) fn tell_invalidated(&self, event: &Event) {
        for thread in self.figures.invalidations_to.read().clone() {
            self.figures.post(thread, event.clone());
        }
    }

    /// Counts a failure that no flight reports: a value that could not be encoded for a put.
    pub fn count_error(&self, route: u16) {
        self.figures.counters.route(RouteEvent::Error, route);
    }

    /// Counts a listener that threw.
    pub fn count_listener_error(&self) {
        self.figures.counters.count(Counted::ListenerError);
    }

    /// Where the breaker of an origin stands.
    pub fn breaker(&self, origin: &str) -> breaker::Snapshot {
        self.breakers.snapshot(origin)
    }

    /// All figures of this moment.
    pub fn stats(&self) -> Stats {
        let (queued, running) = {
            let queue = self.queue.lock();
            (queue.queued(), queue.running())
        };
        Stats {
            totals: self.figures.counters.totals(),
            entries: self.memory.len() as u64,
            bytes: self.memory.bytes(),
            value_bytes: self.memory.value_bytes(),
            queued: queued as u64,
            running: running as u64,
            latency: self.figures.latencies.snapshot(),
        }
    }

    /// All figures as Prometheus text.
    pub fn metrics(&self) -> String {
        self.metrics_of(None)
    }

    /// As [`Engine::metrics`], each figure with the name of the cache as a label.
    pub fn metrics_of(&self, cache: Option<&str>) -> String {
        let stats = self.stats();
        let routes = self.routes.read();
        let routes = routes.all().map(|(number, pattern)| prometheus::Route {
            pattern: pattern.to_owned(),
            totals: self.figures.counters.route_totals(number),
        });
        let breakers = self.breakers.snapshots().into_iter().map(|(origin, snapshot)| prometheus::Breaker {
            origin: origin.to_string(),
            state: snapshot.state,
            failures: snapshot.failures,
        });
        let tiers = self.behind().map(Behind::figures).unwrap_or_default().into_iter();
        let tiers = tiers.map(|(name, figures)| prometheus::Tier { name: name.to_string(), figures });
        prometheus::render(&prometheus::Snapshot {
            cache: cache.map(str::to_owned),
            totals: stats.totals,
            entries: stats.entries,
            memory_bytes: stats.bytes,
            memory_budget_bytes: self.memory.budget(),
            value_bytes: stats.value_bytes,
            queued: stats.queued,
            running: stats.running,
            latency: stats.latency,
            routes: routes.collect(),
            breakers: breakers.collect(),
            tiers: tiers.collect(),
        })
    }

    /// Drops every entry, for a cache that closes.
    pub fn clear(&self) {
        self.memory.clear();
        self.cooldowns.lock().clear();
    }
}

/// All figures of one moment.
#[derive(Debug, Clone, Copy)]
pub struct Stats {
    pub totals: Totals,
    pub entries: u64,
    pub bytes: u64,
    pub value_bytes: u64,
    pub queued: u64,
    pub running: u64,
    pub latency: LatencyTotals,
}

impl Figures {
    /// Tells a thread. False if it has detached.
    pub(super) fn post(&self, thread: ThreadId, event: Event) -> bool {
        let inbox = self.inboxes.read().iter().find(|(id, _)| *id == thread).map(|(_, inbox)| Arc::clone(inbox));
        inbox.map(|inbox| inbox.post(event)).is_some()
    }

    pub(super) fn post_all(&self, event: &Event) {
        let inboxes = self.inboxes.read().clone();
        for (_, inbox) in inboxes {
            inbox.post(event.clone());
        }
    }
}

impl EvictListener for Figures {
    fn evicted(&self, entry: &Entry, reason: EvictReason) {
        self.counters.count(match reason {
            EvictReason::Budget => Counted::EvictedForBudget,
            EvictReason::Expired => Counted::EvictedExpired,
        });
        if self.tell_evictions.load(Ordering::Relaxed) {
            let event = Event::Evicted { key: entry.key_str().into(), bytes: entry.allocated() as u64, reason };
            for thread in self.evictions_to.read().clone() {
                self.post(thread, event.clone());
            }
        }
    }
}
