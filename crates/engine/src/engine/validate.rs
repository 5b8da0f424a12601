//! Checks of everything against everything, for tests that search for faults.

use std::collections::{HashMap, HashSet};

use super::Engine;
use crate::invalidation::facts::Sizes;
use crate::load::breaker::{OriginId, State};
use crate::load::flights::{Phase, Token};
use crate::load::waits;

impl Engine {
    /// Checks every invariant of every structure, and of each with the others. Nobody else may be using the engine.
    pub fn validate(&self) {
        self.memory.validate();
        self.facts.validate();
        let flights = self.flights.all();
        let attached: HashMap<_, _> = self.flights.all_attached().into_iter().map(|f| (f.token, f)).collect();
        let queue = self.queue.lock();
        let mut outstanding = queue.validate();
        let mut trials = HashMap::<OriginId, usize>::new();
        let mut alive = HashSet::<Token>::new();
        for flight in &flights {
            assert!(alive.insert(flight.token));
            let state = flight.state.lock();
            let batch = flight.plan.batch;
            let is_attached = attached.contains_key(&flight.token);
            match state.phase {
                // It waits in its batch for a slot, for its next attempt, or for the others of its batch to end.
                Phase::Queued => {
                    assert!(is_attached && batch.is_some_and(|id| queue.holds(id, flight.token)));
                    assert!(state.permit.is_none() && state.waiting.is_empty());
                }
                Phase::Running | Phase::Expired => assert!(is_attached, "{flight:?}"),
                Phase::Cut => assert!(!is_attached, "{flight:?}"),
            }
            if state.phase != Phase::Queued
                && let Some(batch) = batch
            {
                let left = outstanding.get_mut(&batch).map(|left| std::mem::replace(left, left.saturating_sub(1)));
                assert!(left.is_some_and(|left| left > 0), "{flight:?} runs, and its batch does not know");
            }
            if state.permit == Some(true) {
                *trials.entry(flight.plan.origin).or_default() += 1;
            }
        }
        assert!(outstanding.values().all(|left| *left == 0), "a batch waits for flights that have ended");
        assert!(attached.keys().all(|token| alive.contains(token)), "a flight that has ended is attached");
        for (name, snapshot) in self.breakers.snapshots() {
            let origin = self.breakers.origin(&name);
            let running = trials.remove(&origin).unwrap_or(0);
            assert!(running <= 1, "{running} trials of {name}");
            let expected = snapshot.state == State::HalfOpen && self.breakers.would_refuse(origin, 0).is_some();
            assert_eq!(running == 1, expected, "whether the trial of {name} runs");
        }
        assert!(trials.is_empty());
        let attached: HashSet<_> = self.figures.inboxes.read().iter().map(|(thread, _)| *thread).collect();
        for flight in &flights {
            let state = flight.state.lock();
            assert!(attached.contains(&flight.plan.thread), "{flight:?} is of a thread that has ended");
            assert!(state.watchers.iter().all(|thread| attached.contains(thread) && *thread != flight.plan.thread));
            assert!(state.watchers.is_empty() || matches!(state.phase, Phase::Running | Phase::Cut));
        }
        assert!(self.landed.lock().keys().all(|(_, thread)| attached.contains(thread)));
    }

    /// Bytes in use, of the [budget](Engine::budget).
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Markers, parents and edges there are.
    pub fn facts(&self) -> Sizes {
        self.facts.sizes()
    }

    /// Flights that have not ended.
    pub fn open_flights(&self) -> usize {
        self.flights.len()
    }

    /// Whether a load that has ended left something behind.
    pub fn remembers(&self, token: Token) -> bool {
        self.flights.is_alive(token) || waits::knows(token)
    }
}
