//! Background refreshes: queued, started, waited for.

use std::sync::Arc;

use super::{Engine, Refresh, Started, ThreadId};
use crate::entry::Freshness;
use crate::load::breaker::{Outcome, Permit};
use crate::load::flights::{Flight, Phase, Plan};
use crate::load::queue::BatchId;
use crate::stats::counters::{Event as Counted, RouteEvent};
use crate::sync::Ordering;

impl Engine {
    /// Queues one refresh of the stale ones among `keys`, as one batch. None if no key is in need of it: queued or
    /// running already, resting, fresh by now, its circuit open, or the queue full.
    pub fn refresh<'k>(&self, keys: impl IntoIterator<Item = &'k [u8]>, refresh: &Refresh) -> Option<BatchId> {
        let began = self.clock.now_nanos();
        let now = began / 1_000_000;
        if self.breakers.would_refuse(refresh.origin, now).is_some() {
            return None;
        }
        let batch = self.queue.lock().open(refresh.thread);
        let plan = Plan {
            thread: refresh.thread,
            origin: refresh.origin,
            route: refresh.route,
            hard_timeout: refresh.hard_timeout,
            batch: Some(batch),
        };
        for key in keys {
            let mut lock = self.flights.lock(key);
            if lock.attached().is_some()
                || self.cooldowns.lock().resting(key, now)
                || self.peek_at(key, now).is_none_or(|found| found.freshness == Freshness::Fresh)
            {
                continue;
            }
            let mut queue = self.queue.lock();
            if !queue.has_room() {
                drop(queue);
                self.figures.counters.count(Counted::RefreshDropped);
                continue;
            }
            let flight = Flight::new(key, plan, Phase::Queued, 0, 0);
            queue.add(batch, &flight);
            lock.attach(&flight);
        }
        let mut notices = Vec::new();
        let sealed = {
            let mut queue = self.queue.lock();
            let sealed = queue.seal(batch);
            queue.pump(&mut notices);
            sealed
        };
        self.tell(notices);
        sealed.then_some(batch)
    }

    /// Starts a batch that was given a slot: what its fetcher is to load. Empty if nothing is left of it, or its circuit
    /// is open by now.
    pub fn start(&self, batch: BatchId) -> Vec<Started> {
        let began = self.clock.now_nanos();
        let now = began / 1_000_000;
        let Some(flights) = self.queue.lock().take(batch) else { return Vec::new() };
        let Some(plan) = flights.first().map(|flight| flight.plan) else { return Vec::new() };
        let (permit, changed) = self.breakers.try_acquire(plan.origin, now);
        self.tell_breaker(plan.origin, changed);
        let mut notices = Vec::new();
        let Permit::Granted { trial } = permit else {
            self.queue.lock().drop_batch(batch, &mut notices);
            for flight in flights {
                self.release(&flight);
            }
            self.tell(notices);
            return Vec::new();
        };
        let mut permit = Some(trial);
        let mut started = Vec::with_capacity(flights.len());
        let mut gone = Vec::new();
        for flight in flights {
            let mut lock = self.flights.lock(&flight.key);
            if lock.attached().is_none_or(|f| f.token != flight.token) {
                gone.push(Arc::clone(&flight));
                continue;
            }
            let held = self.memory.peek(&flight.key);
            let stale = held.clone().and_then(|entry| self.judge(entry, now));
            let invalidated = self.was_invalidated(&flight.key, stale.as_ref(), held.as_ref(), &mut lock, now);
            if invalidated && stale.is_none() {
                // What it was to refresh is gone, and nobody waits for it.
                lock.detach_if(&flight);
                self.flights.end(flight.token);
                gone.push(Arc::clone(&flight));
                continue;
            }
            let mut state = flight.state.lock();
            state.phase = Phase::Running;
            state.positions = self.positions();
            state.seq = self.facts.current();
            state.outdated = false;
            state.started = began;
            state.deadline = now.saturating_add(plan.hard_timeout);
            state.permit = permit.take();
            state.stale = stale.as_ref().map(|found| found.entry.clone());
            started.push(Started { token: flight.token, key: Arc::clone(&flight.key), stale, invalidated });
        }
        for flight in &started {
            self.figures.counters.route(RouteEvent::Load, plan.route);
            self.arm_deadline(flight.token, now, plan.hard_timeout);
        }
        if let Some(trial) = permit {
            let changed = self.breakers.record(plan.origin, now, trial, Outcome::Aborted);
            self.tell_breaker(plan.origin, changed);
        }
        for flight in gone {
            self.finish(&flight, None, now);
        }
        started
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.lock().is_idle() && self.workshop.is_idle()
    }

    /// Whether no refresh waits or runs, and no value waits to be compressed. If not, [`Event::Idle`] follows once that is
    /// so.
    pub fn flush(&self) -> bool {
        if self.is_idle() {
            return true;
        }
        self.flush_wanted.store(true, Ordering::SeqCst);
        // It may have become idle before that was seen. Others may wait for the same moment: it is told to all.
        self.tell(Vec::new());
        false
    }

    /// Drops every refresh of a thread that does not run yet.
    pub fn drop_queued(&self, thread: ThreadId) {
        let mut notices = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut queue = self.queue.lock();
            for id in queue.ids() {
                if queue.is_waiting(id) && queue.thread(id) == Some(thread) {
                    dropped.extend(queue.drop_batch(id, &mut notices));
                }
            }
        }
        for flight in dropped {
            self.release(&flight);
        }
        self.tell(notices);
    }
}
