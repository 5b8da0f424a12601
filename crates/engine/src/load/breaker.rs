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

use crate::clock::Millis;
use crate::sync::{Mutex, RwLock};

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
    /// When the next call may be tried, on the clock that gave `now`, while the breaker is open: past where nobody has
    /// called since. `None` while it is closed, or half-open: then the trial is under way, or anyone's to take.
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

    /// What the breaker looks like. Changes nothing.
    pub fn snapshot(&self) -> Snapshot {
        let (state, next_attempt) = match self.phase {
            Phase::Closed => (State::Closed, None),
            Phase::Open { until } => (State::Open, Some(until)),
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
    pub fn snapshot(&self, name: &str) -> Snapshot {
        let id = self.origins.read().ids.get(name).copied();
        match id.and_then(|id| self.slot(id)) {
            Some(slot) => slot.breaker.lock().snapshot(),
            None => Snapshot::IDLE,
        }
    }

    /// Every origin used so far, in the order of first use.
    pub fn snapshots(&self) -> Vec<(Arc<str>, Snapshot)> {
        let slots = self.origins.read().slots.clone();
        slots.iter().map(|slot| (Arc::clone(&slot.name), slot.breaker.lock().snapshot())).collect()
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clock::FOREVER;

    const CONFIG: BreakerConfig = BreakerConfig { threshold: 3, timeout: 1_000 };

    /// A breaker opened at `now` by failures alone.
    fn opened(now: Millis) -> Breaker {
        let mut breaker = Breaker::new(CONFIG);
        for _ in 0..CONFIG.threshold {
            breaker.record(now, false, Outcome::Failure);
        }
        assert_eq!(breaker.snapshot().state, State::Open);
        breaker
    }

    /// A breaker whose trial was granted at `now`.
    fn half_open(now: Millis) -> Breaker {
        let mut breaker = opened(now - CONFIG.timeout);
        assert_eq!(breaker.try_acquire(now), (Permit::Granted { trial: true }, Some(State::HalfOpen)));
        breaker
    }

    #[test]
    fn opens_at_the_threshold_and_not_before() {
        let mut breaker = Breaker::new(CONFIG);
        assert_eq!(breaker.record(10, false, Outcome::Failure), None);
        assert_eq!(breaker.record(20, false, Outcome::Failure), None);
        assert_eq!(breaker.try_acquire(25), (Permit::Granted { trial: false }, None));
        assert_eq!(breaker.record(30, false, Outcome::Failure), Some(State::Open));
        assert_eq!(breaker.snapshot(), Snapshot { state: State::Open, failures: 3, next_attempt: Some(1_030) });
    }

    #[test]
    fn a_success_starts_the_count_anew_and_an_abort_does_not() {
        let mut breaker = Breaker::new(CONFIG);
        breaker.record(0, false, Outcome::Failure);
        breaker.record(0, false, Outcome::Failure);
        breaker.record(0, false, Outcome::Success);
        assert_eq!(breaker.snapshot(), Snapshot::IDLE);
        breaker.record(0, false, Outcome::Failure);
        breaker.record(0, false, Outcome::Failure);
        breaker.record(0, false, Outcome::Aborted);
        assert_eq!(breaker.record(0, false, Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn refuses_until_the_very_millisecond_of_the_next_attempt() {
        let mut breaker = opened(0);
        assert_eq!(breaker.try_acquire(999), (Permit::Refused { next_attempt: 1_000 }, None));
        assert_eq!(breaker.would_refuse(999), Some(1_000));
        assert_eq!(breaker.would_refuse(1_000), None);
        assert_eq!(breaker.try_acquire(1_000), (Permit::Granted { trial: true }, Some(State::HalfOpen)));
    }

    #[test]
    fn refuses_all_others_while_the_trial_runs() {
        let mut breaker = half_open(5_000);
        assert_eq!(breaker.try_acquire(5_000), (Permit::Refused { next_attempt: 5_000 }, None));
        assert_eq!(breaker.try_acquire(9_000_000), (Permit::Refused { next_attempt: 9_000_000 }, None));
        assert_eq!(breaker.would_refuse(5_001), Some(5_001));
        assert_eq!(breaker.snapshot().next_attempt, None);
    }

    #[test]
    fn a_trial_that_succeeds_closes() {
        let mut breaker = half_open(5_000);
        assert_eq!(breaker.record(5_100, true, Outcome::Success), Some(State::Closed));
        assert_eq!(breaker.snapshot(), Snapshot::IDLE);
        assert_eq!(breaker.try_acquire(5_100), (Permit::Granted { trial: false }, None));
    }

    #[test]
    fn a_trial_that_fails_opens_for_the_whole_time_again() {
        let mut breaker = half_open(5_000);
        assert_eq!(breaker.record(5_400, true, Outcome::Failure), Some(State::Open));
        let snapshot = breaker.snapshot();
        assert_eq!(snapshot, Snapshot { state: State::Open, failures: 4, next_attempt: Some(6_400) });
    }

    #[test]
    fn an_aborted_trial_is_given_to_the_next_caller_at_once() {
        let mut breaker = half_open(5_000);
        assert_eq!(breaker.record(5_010, true, Outcome::Aborted), None);
        assert_eq!(breaker.would_refuse(5_010), None);
        assert_eq!(breaker.snapshot().state, State::HalfOpen);
        assert_eq!(breaker.try_acquire(5_010), (Permit::Granted { trial: true }, None));
        assert_eq!(breaker.try_acquire(5_010), (Permit::Refused { next_attempt: 5_010 }, None));
        assert_eq!(breaker.record(5_020, true, Outcome::Success), Some(State::Closed));
    }

    #[test]
    fn late_results_disturb_neither_an_open_nor_a_half_open_breaker() {
        for outcome in [Outcome::Success, Outcome::Failure, Outcome::Aborted] {
            let mut open = opened(0);
            let before = open.snapshot();
            assert_eq!(open.record(500, false, outcome), None, "{outcome:?}");
            assert_eq!(open.snapshot(), before, "{outcome:?}");

            let mut trying = half_open(5_000);
            assert_eq!(trying.record(5_001, false, outcome), None, "{outcome:?}");
            assert_eq!(trying.would_refuse(5_001), Some(5_001), "{outcome:?}");
            assert_eq!(trying.record(5_002, true, Outcome::Success), Some(State::Closed), "{outcome:?}");
        }
    }

    #[test]
    fn a_trial_recorded_twice_counts_once() {
        let mut breaker = half_open(5_000);
        breaker.record(5_000, true, Outcome::Failure);
        let before = breaker.snapshot();
        assert_eq!(breaker.record(5_001, true, Outcome::Success), None);
        assert_eq!(breaker.snapshot(), before);
    }

    #[test]
    fn an_endless_timeout_never_tries_again() {
        let mut breaker = Breaker::new(BreakerConfig { threshold: 1, timeout: FOREVER });
        assert_eq!(breaker.record(77, false, Outcome::Failure), Some(State::Open));
        assert_eq!(breaker.try_acquire(FOREVER - 1), (Permit::Refused { next_attempt: FOREVER }, None));
    }

    #[test]
    fn a_threshold_of_0_is_read_as_1() {
        let mut breaker = Breaker::new(BreakerConfig { threshold: 0, timeout: 1 });
        assert_eq!(breaker.try_acquire(0).0, Permit::Granted { trial: false });
        assert_eq!(breaker.record(0, false, Outcome::Success), None);
        assert_eq!(breaker.record(0, false, Outcome::Failure), Some(State::Open));
    }

    #[test]
    fn each_origin_has_a_breaker_of_its_own() {
        let breakers = Breakers::new(Some(CONFIG));
        let (a, b) = (breakers.origin("a"), breakers.origin("b"));
        assert_ne!(a, b);
        assert_eq!(breakers.origin("a"), a);
        assert_eq!(breakers.name(b).as_deref(), Some("b"));
        for _ in 0..3 {
            breakers.record(a, 0, false, Outcome::Failure);
        }
        assert_eq!(breakers.would_refuse(a, 1), Some(1_000));
        assert_eq!(breakers.would_refuse(b, 1), None);
        assert_eq!(breakers.snapshot("a").state, State::Open);
        let names: Vec<_> = breakers.snapshots().into_iter().map(|(name, s)| (name.to_string(), s.state)).collect();
        assert_eq!(names, [("a".to_owned(), State::Open), ("b".to_owned(), State::Closed)]);
    }

    #[test]
    fn asking_after_an_unknown_origin_creates_nothing() {
        let breakers = Breakers::new(Some(CONFIG));
        assert_eq!(breakers.snapshot("never used"), Snapshot::IDLE);
        assert_eq!(breakers.snapshots(), []);
    }

    #[test]
    fn without_a_config_every_call_is_granted() {
        let breakers = Breakers::new(None);
        let id = breakers.origin("a");
        assert_eq!(id, OriginId::NONE);
        for _ in 0..100 {
            assert_eq!(breakers.record(id, 0, false, Outcome::Failure), None);
        }
        assert_eq!(breakers.try_acquire(id, 0), (Permit::Granted { trial: false }, None));
        assert_eq!((breakers.would_refuse(id, 0), breakers.name(id)), (None, None));
        assert_eq!((breakers.snapshot("a"), breakers.snapshots()), (Snapshot::IDLE, vec![]));
    }

    #[test]
    fn names_beyond_the_limit_run_without_a_breaker_and_take_no_memory() {
        let breakers = Breakers::new(Some(CONFIG));
        for n in 0..MAX_ORIGINS {
            assert_ne!(breakers.origin(&n.to_string()), OriginId::NONE);
        }
        assert_eq!(breakers.origin("one more"), OriginId::NONE);
        assert_ne!(breakers.origin("0"), OriginId::NONE);
        assert_eq!(breakers.snapshots().len(), MAX_ORIGINS);
    }

    #[test]
    fn of_many_threads_one_gets_the_trial() {
        let breakers = Breakers::new(Some(CONFIG));
        let id = breakers.origin("a");
        for _ in 0..CONFIG.threshold {
            breakers.record(id, 0, false, Outcome::Failure);
        }
        let trials = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let granted = |_: &u32| breakers.try_acquire(id, 2_000).0 == Permit::Granted { trial: true };
                        (0..100).filter(granted).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
        });
        assert_eq!(trials, 1);
    }

    /// What a user of a breaker does: time passes, calls begin, calls begun earlier end in any order.
    #[derive(Debug, Clone)]
    enum Step {
        Advance(Millis),
        Begin,
        End(prop::sample::Index, Outcome),
    }

    fn step() -> impl Strategy<Value = Step> {
        let outcome = prop_oneof![
            3 => Just(Outcome::Failure),
            2 => Just(Outcome::Success),
            1 => Just(Outcome::Aborted),
        ];
        prop_oneof![
            2 => (0..40u64).prop_map(Step::Advance),
            4 => Just(Step::Begin),
            4 => (any::<prop::sample::Index>(), outcome).prop_map(|(which, outcome)| Step::End(which, outcome)),
        ]
    }

    /// The rules told over again, from the history of what happened and with no state of its own: replays every event
    /// since the last change, so it is slow, and shares no code with the machine.
    struct Model {
        config: BreakerConfig,
        /// Results of ordinary calls since the breaker last closed.
        since_closed: Vec<Outcome>,
        /// When the last ordinary or trial failure opened it; `None` while closed.
        opened: Option<Millis>,
        /// Trials begun since it last opened, each with its result once it has one.
        trials: Vec<Option<Outcome>>,
    }

    impl Model {
        fn state(&self) -> State {
            match (self.opened, self.trials.is_empty()) {
                (None, _) => State::Closed,
                (Some(_), true) => State::Open,
                (Some(_), false) => State::HalfOpen,
            }
        }

        fn begin(&mut self, now: Millis) -> Permit {
            let Some(opened) = self.opened else { return Permit::Granted { trial: false } };
            if now - opened < self.config.timeout {
                return Permit::Refused { next_attempt: opened + self.config.timeout };
            }
            if self.trials.iter().any(Option::is_none) {
                return Permit::Refused { next_attempt: now };
            }
            self.trials.push(None);
            Permit::Granted { trial: true }
        }

        fn end(&mut self, now: Millis, trial: bool, outcome: Outcome) {
            if trial {
                *self.trials.last_mut().unwrap() = Some(outcome);
                match outcome {
                    Outcome::Aborted => return,
                    Outcome::Failure => self.opened = Some(now),
                    Outcome::Success => (self.opened, self.since_closed) = (None, vec![]),
                }
                self.trials.clear();
            } else if self.opened.is_none() {
                self.since_closed.push(outcome);
                let counted = self.since_closed.iter().rev().filter(|o| **o != Outcome::Aborted);
                let in_a_row = counted.take_while(|o| **o == Outcome::Failure).count();
                if in_a_row == self.config.threshold as usize {
                    self.opened = Some(now);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn does_what_the_rules_say(
            threshold in 1..5u32,
            timeout in 1..100u64,
            steps in prop::collection::vec(step(), 1..400),
        ) {
            let config = BreakerConfig { threshold, timeout };
            let mut breaker = Breaker::new(config);
            let mut model = Model { config, since_closed: vec![], opened: None, trials: vec![] };
            let mut now = 0;
            let mut running: Vec<bool> = vec![];
            for step in steps {
                let before = breaker.snapshot().state;
                let changed = match step {
                    Step::Advance(by) => {
                        now += by;
                        None
                    }
                    Step::Begin => {
                        let foretold = breaker.would_refuse(now);
                        let (permit, changed) = breaker.try_acquire(now);
                        prop_assert_eq!(permit, model.begin(now));
                        match permit {
                            Permit::Granted { trial } => {
                                prop_assert_eq!(foretold, None);
                                running.push(trial);
                            }
                            Permit::Refused { next_attempt } => {
                                prop_assert_eq!(foretold, Some(next_attempt));
                                prop_assert!(next_attempt >= now);
                                prop_assert_ne!(before, State::Closed);
                            }
                        }
                        changed
                    }
                    Step::End(_, _) if running.is_empty() => None,
                    Step::End(which, outcome) => {
                        let trial = running.swap_remove(which.index(running.len()));
                        let changed = breaker.record(now, trial, outcome);
                        model.end(now, trial, outcome);
                        changed
                    }
                };
                let after = breaker.snapshot();
                prop_assert_eq!(after.state, model.state());
                prop_assert_eq!(changed, (after.state != before).then_some(after.state));
                prop_assert!(running.iter().filter(|trial| **trial).count() <= 1);
                match after.state {
                    State::Closed => prop_assert!(after.failures < threshold),
                    _ => prop_assert!(after.failures >= threshold),
                }
            }
        }
    }
}
