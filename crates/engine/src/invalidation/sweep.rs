//! The sweep: a walk over all entries, in the background, that takes out those that have been cut.
//!
//! It follows an invalidation and is not waited for: what was cut is not served from the moment that the fact is written
//! down. What it is for: memory is given back; entries that outlived are lifted over all facts, after which the markers are
//! of no use to anyone and are dropped, so that nothing grows for ever; parents that no entry names are forgotten.
//!
//! # Why markers may be dropped
//! A sweep of number *n* begins after fact *n* is written down. It first takes and releases the lock of every key, so whoever
//! stores from then on has seen fact *n* and stores under its number. Then it meets every entry that is older, and takes it
//! out, puts a stale one in its place, or lifts it. What remains is loads that began before: as long as one runs, its
//! markers stay. If there are too many, they go, and such a load counts as cut.
//!
//! The sweep is paced: between two slices, of a fraction of a millisecond each, it pauses seven times as long as the slice took, so
//! that an event loop that shares the processor has its turn; and after a sweep it rests a second. So it takes an eighth of a
//! processor at most, however often things are invalidated.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::target::TargetKind;
use crate::clock::{FOREVER, Millis};
use crate::memory::Walk;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// Least pause between two sweeps, in milliseconds.
const REST: Millis = 1_000;
/// How long what changed parents have cut may stay in memory before a sweep is made for its sake, in milliseconds.
const LATER: Millis = 30_000;
/// Longest pause between two looks at markers that are kept for the sake of loads.
const LONGEST_REST: Millis = 60_000;
/// A slice that took so long is followed by a pause of so many times as long.
pub const PAUSE_FACTOR: u64 = 7;
/// More markers are not kept for the sake of loads that began before them.
pub const MOST_MARKERS: usize = 100_000;
/// Parents that are too few to look for those that can go.
const PARENT_FLOOR: usize = 1_024;

/// An invalidation whose entries are still to be swept, and that somebody wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub number: u64,
    pub kind: TargetKind,
    /// The target as the user wrote it.
    pub text: Arc<str>,
    pub soft: bool,
    /// Another process has invalidated it.
    pub remote: bool,
}

/// What is known of sweeps.
#[derive(Debug)]
pub struct Sweeper {
    state: Mutex<State>,
    /// When something is to be done next; [`FOREVER`] for never.
    due: AtomicU64,
    /// Parents at the end of the last sweep.
    parents: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    wanted: bool,
    /// A sweep is wanted no sooner than then, for the sake of what changed parents have cut.
    wanted_at: Option<Millis>,
    rests_until: Millis,
    now: Now,
    told: Vec<Told>,
    /// Nothing in memory is older than this fact.
    clean: u64,
    /// Markers are kept for the sake of loads: how long until that is looked at again.
    kept: Option<Millis>,
}

#[derive(Debug, Default)]
enum Now {
    #[default]
    Resting,
    /// Between two slices, until then.
    Paused(Pass, Millis),
    /// A thread is at it.
    Busy,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// A sweep is to begin.
    Begin,
    /// A sweep is to go on.
    Slice(Pass),
    /// Loads for whose sake markers up to this fact were kept may have ended.
    Drop(u64),
}

/// A sweep under way.
#[derive(Debug)]
pub struct Pass {
    pub number: u32,
    /// The newest fact when it began.
    pub until: u64,
    pub walk: Walk,
    /// Entries swept, by the fact that cut them.
    pub swept: BTreeMap<u64, u64>,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self { state: Mutex::default(), due: AtomicU64::new(FOREVER), parents: AtomicUsize::new(0) }
    }
}

impl Sweeper {
    /// Something was invalidated; `told` if somebody wants to hear what became of it. When the sweep is due.
    pub fn want(&self, told: Option<Told>) -> Millis {
        let mut state = self.state.lock();
        state.told.extend(told);
        state.wanted = true;
        self.publish(&state)
    }

    /// A parent has changed, which no marker tells. When a sweep is due, if that is news.
    pub fn want_later(&self, now: Millis) -> Millis {
        let mut state = self.state.lock();
        if state.wanted_at.is_some() {
            return FOREVER;
        }
        state.wanted_at = Some(now.saturating_add(LATER));
        self.publish(&state)
    }

    /// Whether there have come to be so many parents that a sweep is to look for those that can go.
    pub fn are_many(&self, parents: usize) -> bool {
        let known = self.parents.load(Ordering::Relaxed);
        let many = parents > PARENT_FLOOR && parents > known.saturating_mul(2);
        if many {
            self.parents.store(parents, Ordering::Relaxed);
        }
        many
    }

    fn publish(&self, state: &State) -> Millis {
        let due = match state.now {
            Now::Busy => FOREVER,
            Now::Paused(_, until) => until,
            Now::Resting if state.wanted || state.kept.is_some() => state.rests_until,
            Now::Resting => state.wanted_at.map_or(FOREVER, |at| at.max(state.rests_until)),
        };
        self.due.store(due, Ordering::SeqCst);
        due
    }

    /// When something is to be done next, if no thread is at it.
    pub fn due(&self) -> Millis {
        self.due.load(Ordering::SeqCst)
    }

    /// What is to be done at `now`, by the thread that asks and none beside it.
    pub fn take(&self, now: Millis) -> Option<Step> {
        if self.due() > now {
            return None;
        }
        let mut state = self.state.lock();
        let step = match std::mem::replace(&mut state.now, Now::Busy) {
            Now::Busy => return None,
            Now::Paused(pass, until) if until <= now => Step::Slice(pass),
            paused @ Now::Paused(..) => {
                state.now = paused;
                return None;
            }
            Now::Resting
                if state.rests_until <= now && (state.wanted || state.wanted_at.is_some_and(|at| at <= now)) =>
            {
                (state.wanted, state.wanted_at) = (false, None);
                Step::Begin
            }
            Now::Resting if state.rests_until <= now && state.kept.is_some() => Step::Drop(state.clean),
            Now::Resting => {
                state.now = Now::Resting;
                return None;
            }
        };
        self.publish(&state);
        Some(step)
    }

    /// There is more to sweep, from that moment on.
    pub fn pause(&self, pass: Pass, until: Millis) -> Millis {
        let mut state = self.state.lock();
        state.now = Now::Paused(pass, until);
        self.publish(&state)
    }

    /// The sweep has met all entries. `kept` tells whether markers had to stay. What is to be told, with how many entries each
    /// has swept; and when something is due next.
    pub fn finish(&self, pass: &Pass, now: Millis, parents: usize, kept: bool) -> (Vec<(Told, u64)>, Millis) {
        self.parents.store(parents, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.clean = pass.until;
        let (over, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.told).into_iter().partition(|told| told.number <= pass.until);
        state.told = left;
        state.kept = kept.then_some(REST);
        state.now = Now::Resting;
        state.rests_until = now.saturating_add(REST);
        let swept = |told: &Told| pass.swept.get(&told.number).copied().unwrap_or(0);
        let over = over.into_iter().map(|told| {
            let swept = swept(&told);
            (told, swept)
        });
        (over.collect(), self.publish(&state))
    }

    /// Markers were dropped as far as could be; `kept` tells whether some had to stay. When something is due next.
    pub fn dropped(&self, now: Millis, kept: bool) -> Millis {
        let mut state = self.state.lock();
        state.now = Now::Resting;
        state.kept = kept.then(|| state.kept.map_or(REST, |pause| (pause * 2).min(LONGEST_REST)));
        state.rests_until = now.saturating_add(state.kept.unwrap_or(0));
        self.publish(&state)
    }
}
