//! The circuit breaker: after so many failures in a row an origin is left alone for a while, then tried with one call.
//!
//! The pattern is Michael Nygard's (*Release It!*, 2nd ed., Pragmatic Bookshelf 2018, "Circuit Breaker"); its three states
//! are drawn by Martin Fowler at <https://martinfowler.com/bliki/CircuitBreaker.html>.
//!
//! | state | a call | a failure | a success |
//! |---|---|---|---|
//! | closed | granted | counted; the `threshold`-th in a row opens the breaker for `timeout` | the count is 0 again |
//! | open | refused until `timeout` is over, then granted as the one trial (half-open) | ignored | ignored |
//! | half-open | refused while the trial runs | of the trial: open for `timeout` again | of the trial: closed, the count is 0 |
//!
//! Promises:
//! - At most one trial runs at a time, and only its result moves a half-open breaker. What calls begun before the breaker
//!   opened bring home later is ignored while it is open or half-open: they say nothing about the origin of now.
//! - An aborted call counts as nothing. An aborted trial is given back: the next call is the trial, at once.
//! - Every granted call is recorded exactly once, also when its thread died or it was given up (as
//!   [`Outcome::Aborted`] or [`Outcome::Failure`]): a trial that is never recorded keeps its breaker half-open for good.
//!
//! [`Breaker`] is the machine: no clock, no lock, no origin. [`Breakers`] holds one for each origin.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::clock::Millis;

/// The origin that loads count under when nothing names another.
pub const DEFAULT_ORIGIN: &str = "default";

/// Most origins that get a breaker of their own; see [`Breakers::origin`].
pub const MAX_ORIGINS: usize = 4096;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Failures in a row that open it, at least 1 (0 is read as 1). Default 5.
    pub threshold: u32,
    /// Milliseconds from opening to the trial call; [`FOREVER`](crate::clock::FOREVER) for none. Default 30,000.
    pub timeout: Millis,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { threshold: 5, timeout: 30_000 }
    }
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls go through; failures in a row are counted.
    Closed,
    /// Calls are refused.
    Open,
    /// One trial call decides between closed and open; all others are refused.
    HalfOpen,
}

impl State {
    /// Every state, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name that users see: `closed`, `open` or `half-open`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to a call that wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may begin, and must be recorded with the same `trial` when it ends.
    Granted {
        /// Whether this call is the one whose result decides.
        trial: bool,
    },
    /// It may not.
    Refused {
        /// The earliest moment, on the clock that gave `now`, at which a call may be granted: the end of the open time, or,
        /// while a trial runs, `now` itself, since the trial may end at any moment.
        next_attempt: Millis,
    },
}

/// How a granted call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The origin answered, be it with an error that does not count as a failure.
    Success,
    /// The origin failed, or took longer than it may.
    Failure,
    /// Nobody waited for the end: this says nothing about the origin.
    Aborted,
}

/// What a breaker looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it stands. An open breaker whose time is over stays open until the next call becomes its trial.
    pub state: State,
    /// Failures in a row, those that opened it and failed trials included.
    pub failures: u32,
    /// When the next call may be tried, on the clock that gave `now`, while the breaker is open; never before `now`.
    /// `None` while it is closed, or half-open: then the trial is under way, or anyone's to take.
    pub next_attempt: Option<Millis>,
}

impl Snapshot {
    /// A breaker that nothing has happened to.
    pub const IDLE: Self = Self { state: State::Closed, failures: 0, next_attempt: None };
}

/// The phases of the machine: [`State`] with what each has to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open { until: Millis },
    HalfOpen { trial_running: bool },
}

/// The state machine of one origin. `now` comes from the caller and should not go back; if it does, an open time only
/// lasts longer.
#[derive(Debug, Clone)]
pub struct Breaker {
    config: BreakerConfig,
    phase: Phase,
    failures: u32,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig) -> Self {
        Self { config, phase: Phase::Closed, failures: 0 }
    }

    /// Asks to begin a call; also gives the state that the breaker changed to by that, if it did.
    #[must_use = "a granted call must be recorded when it ends"]
    pub fn try_acquire(&mut self, now: Millis) -> (Permit, Option<State>) {
        match self.phase {
            Phase::Closed => (Permit::Granted { trial: false }, None),
            Phase::Open { until } if now < until => (Permit::Refused { next_attempt: until }, None),
            Phase::Open { .. } => {
                self.phase = Phase::HalfOpen { trial_running: true };
                (Permit::Granted { trial: true }, Some(State::HalfOpen))
            }
            Phase::HalfOpen { trial_running: true } => (Permit::Refused { next_attempt: now }, None),
            Phase::HalfOpen { trial_running: false } => {
                self.phase = Phase::HalfOpen { trial_running: true };
                (Permit::Granted { trial: true }, None)
            }
        }
    }

    /// Records how a granted call ended; gives the state that the breaker changed to by that, if it did.
    pub fn record(&mut self, now: Millis, trial: bool, outcome: Outcome) -> Option<State> {
        match (self.phase, trial) {
            (Phase::Closed, false) => match outcome {
                Outcome::Success => {
                    self.failures = 0;
                    None
                }
                Outcome::Failure => {
                    self.failures = self.failures.saturating_add(1);
                    if self.failures >= self.config.threshold { self.open(now) } else { None }
                }
                Outcome::Aborted => None,
            },
            (Phase::HalfOpen { trial_running: true }, true) => match outcome {
                Outcome::Success => {
                    self.failures = 0;
                    self.phase = Phase::Closed;
                    Some(State::Closed)
                }
                Outcome::Failure => {
                    self.failures = self.failures.saturating_add(1);
                    self.open(now)
                }
                Outcome::Aborted => {
                    self.phase = Phase::HalfOpen { trial_running: false };
                    None
                }
            },
            // Late: the call began before the breaker opened, or its trial was recorded already.
            _ => None,
        }
    }

    /// Whether a call would be refused now, and then what [`Permit::Refused`] would say. Changes nothing.
    pub fn would_refuse(&self, now: Millis) -> Option<Millis> {
        match self.phase {
            Phase::Open { until } if now < until => Some(until),
            Phase::HalfOpen { trial_running: true } => Some(now),
            _ => None,
        }
    }

    /// What the breaker looks like at `now`. Changes nothing.
    pub fn snapshot(&self, now: Millis) -> Snapshot {
        let (state, next_attempt) = match self.phase {
            Phase::Closed => (State::Closed, None),
            Phase::Open { until } => (State::Open, Some(until.max(now))),
            Phase::HalfOpen { .. } => (State::HalfOpen, None),
        };
        Snapshot { state, failures: self.failures, next_attempt }
    }

    fn open(&mut self, now: Millis) -> Option<State> {
        self.phase = Phase::Open { until: now.saturating_add(self.config.timeout) };
        Some(State::Open)
    }
}

/// The small number of an origin within its [`Breakers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OriginId(u32);

impl OriginId {
    /// No breaker: every call is granted and nothing is recorded.
    pub const NONE: Self = Self(u32::MAX);

    /// The number itself, to be handed out and taken back by [`OriginId::from_number`].
    pub fn number(self) -> u32 {
        self.0
    }

    /// The origin of that number; one that was never given out behaves as [`OriginId::NONE`].
    pub fn from_number(number: u32) -> Self {
        Self(number)
    }
}

/// The breakers of one cache, by origin; shared by its threads.
///
/// When two threads cause two changes of one breaker at the same time, each learns of its own; which of them tells its
/// listeners first is up to them.
pub struct Breakers {
    config: Option<BreakerConfig>,
    origins: RwLock<Origins>,
}

#[derive(Default)]
struct Origins {
    ids: HashMap<Arc<str>, OriginId>,
    slots: Vec<Arc<Slot>>,
}

struct Slot {
    name: Arc<str>,
    breaker: Mutex<Breaker>,
}

impl Breakers {
    /// No breaker at all with `None`: every call is granted, and every snapshot is [`Snapshot::IDLE`].
    pub fn new(config: Option<BreakerConfig>) -> Self {
        Self { config, origins: RwLock::default() }
    }

    /// The number of an origin, given at its first use and kept for the life of the cache.
    ///
    /// Names come from users, and each takes memory and a few lines of metrics, so only the first [`MAX_ORIGINS`] names
    /// get a breaker. Later ones get [`OriginId::NONE`] and run unprotected: better than to share a breaker, where the
    /// failures of one origin would cut off another.
    pub fn origin(&self, name: &str) -> OriginId {
        let Some(config) = self.config else { return OriginId::NONE };
        if let Some(&id) = self.origins.read().ids.get(name) {
            return id;
        }
        let mut origins = self.origins.write();
        if let Some(&id) = origins.ids.get(name) {
            return id;
        }
        if origins.slots.len() >= MAX_ORIGINS {
            return OriginId::NONE;
        }
        let id = OriginId(origins.slots.len() as u32);
        let name: Arc<str> = name.into();
        origins.ids.insert(Arc::clone(&name), id);
        origins.slots.push(Arc::new(Slot { name, breaker: Mutex::new(Breaker::new(config)) }));
        id
    }

    /// The name behind a number; `None` for [`OriginId::NONE`].
    pub fn name(&self, origin: OriginId) -> Option<Arc<str>> {
        self.slot(origin).map(|slot| Arc::clone(&slot.name))
    }

    /// [`Breaker::try_acquire`] of that origin.
    #[must_use = "a granted call must be recorded when it ends"]
    pub fn try_acquire(&self, origin: OriginId, now: Millis) -> (Permit, Option<State>) {
        match self.slot(origin) {
            Some(slot) => slot.breaker.lock().try_acquire(now),
            None => (Permit::Granted { trial: false }, None),
        }
    }

    /// [`Breaker::record`] of that origin.
    pub fn record(&self, origin: OriginId, now: Millis, trial: bool, outcome: Outcome) -> Option<State> {
        self.slot(origin)?.breaker.lock().record(now, trial, outcome)
    }

    /// [`Breaker::would_refuse`] of that origin.
    pub fn would_refuse(&self, origin: OriginId, now: Millis) -> Option<Millis> {
        self.slot(origin)?.breaker.lock().would_refuse(now)
    }

    /// [`Breaker::snapshot`] by name. A name that was never used looks idle, and stays unknown.
    pub fn snapshot(&self, name: &str, now: Millis) -> Snapshot {
        let id = self.origins.read().ids.get(name).copied();
        match id.and_then(|id| self.slot(id)) {
            Some(slot) => slot.breaker.lock().snapshot(now),
            None => Snapshot::IDLE,
        }
    }

    /// Every origin used so far, in the order of first use.
    pub fn snapshots(&self, now: Millis) -> Vec<(Arc<str>, Snapshot)> {
        let slots = self.origins.read().slots.clone();
        slots.iter().map(|slot| (Arc::clone(&slot.name), slot.breaker.lock().snapshot(now))).collect()
    }

    /// The slot, out of the table's lock so that no two locks are ever held at once.
    fn slot(&self, origin: OriginId) -> Option<Arc<Slot>> {
        if origin == OriginId::NONE {
            return None;
        }
        self.origins.read().slots.get(origin.0 as usize).cloned()
    }
}

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breakers")
            .field("config", &self.config)
            .field("origins", &self.origins.read().slots.len())
            .finish()
    }
}
