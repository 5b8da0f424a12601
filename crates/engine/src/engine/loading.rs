//! Loads: who runs the fetcher, who waits for it, and what its end means.

use std::sync::Arc;

use super::invalidating::Tied;
use super::{BatchEnd, Begin, Begun, Engine, Found, Landed, Loaded, Settled, Stored, Value, build};
use crate::clock::{FOREVER, Millis};
use crate::entry::{Ages, Entry, Freshness};
use crate::invalidation::facts::Verdict;
use crate::invalidation::target::Target;
use crate::load::breaker::{self, Outcome, Permit};
use crate::load::flights::{Flight, KeyLock, Phase, Plan, Token};
use crate::load::queue::{Notice, Progress};
use crate::load::retry;
use crate::load::timers::Timer;
use crate::load::waits;
use crate::memory::hash_key;
use crate::stats::counters::{Event as Counted, RouteEvent};
use crate::stats::latency::Op;

/// Ages of what is not kept.
const AT_ONCE: Ages = Ages { max_age: 0, stale_age: 0, stale_if_error: 0 };

/// What is made of what a flight brought.
enum Made {
    /// An entry to be stored.
    Entry(Entry),
    /// One for those who wait.
    Passing(Entry),
    Nothing,
}

impl Made {
    fn landed(&self, cut: u64) -> Landed {
        match self {
            Self::Entry(entry) => Landed::Value(entry.clone(), true, cut),
            Self::Passing(entry) => Landed::Value(entry.clone(), false, cut),
            Self::Nothing => Landed::Nothing(cut),
        }
    }
}

impl Engine {
    /// Decides what a caller that wants a key loaded is to do.
    pub fn begin(&self, key: &[u8], begin: &Begin) -> Begun {
        if let Some(behind) = self.behind() {
            // Nobody is to join what another process has cut.
            behind.catch_up();
        }
        let began = self.clock.now_nanos();
        let now = began / 1_000_000;
        let mut notices = Vec::new();
        let mut changed = None;
        let mut begun = {
            let mut lock = self.flights.lock(key);
            self.begin_locked(key, begin, began, &mut lock, &mut notices, &mut changed)
        };
        self.tell(notices);
        self.tell_breaker(begin.origin, changed);
        if let Begun::Lead { token, .. } = &begun {
            self.figures.counters.route(RouteEvent::Load, begin.route);
            self.arm_deadline(*token, now, begin.hard_timeout);
        }
        match &mut begun {
            Begun::Hit(found) if begin.since != 0 => {
                self.figures.latencies.record(Op::Miss, began.saturating_sub(begin.since));
                self.judge_refresh(found, now);
            }
            Begun::Hit(found) => self.count_hit(found, began),
            _ if begin.since != 0 => {}
            Begun::Recursion => {}
            Begun::Lead { .. } | Begun::Refused { .. } => {
                self.figures.counters.route(RouteEvent::Miss, begin.route);
            }
            Begun::Join(_) => {
                self.figures.counters.route(RouteEvent::Miss, begin.route);
                self.figures.counters.count(Counted::Coalesced);
            }
        }
        begun
    }

    pub(super) fn begin_locked(
        &self,
        key: &[u8],
        begin: &Begin,
        began: u64,
        lock: &mut KeyLock<'_>,
        notices: &mut Vec<Notice>,
        changed: &mut Option<breaker::State>,
    ) -> Begun {
        let now = began / 1_000_000;
        let since = if begin.since == 0 { began } else { begin.since };
        if let Some(flight) = lock.attached() {
            let mut state = flight.state.lock();
            // Not one that was begun before what it will bring was invalidated.
            if state.phase == Phase::Running && !self.is_cut(key, &state) {
                if begin.parent != 0 && !waits::wait(begin.parent, flight.token) {
                    return Begun::Recursion;
                }
                state.join(flight, begin.thread, since);
                return Begun::Join(flight.token);
            }
        }
        // Read before the copy in hand is judged: what is invalidated from here on cuts both the load and that copy.
        let positions = self.positions();
        let seq = self.facts.current();
        let held = self.memory.peek(key);
        let stale = held.clone().and_then(|entry| self.judge(entry, now));
        if !begin.force
            && let Some(found) = &stale
            && found.is_servable()
        {
            return Begun::Hit(found.clone());
        }
        let mut permit = None;
        if begin.permit {
            let (answer, change) = self.breakers.try_acquire(begin.origin, now);
            *changed = change;
            match answer {
                Permit::Granted { trial } => permit = Some(trial),
                Permit::Refused { next_attempt } => return Begun::Refused { next_attempt },
            }
        }
        // A refresh that only waits is taken over: the caller will not wait for the queue. Nor for one that timed out.
        self.cut(lock, notices);
        let plan = Plan {
            thread: begin.thread,
            origin: begin.origin,
            route: begin.route,
            hard_timeout: begin.hard_timeout,
            batch: None,
        };
        let flight = Flight::new(key, plan, Phase::Running, seq, began);
        if begin.parent != 0 {
            waits::wait(begin.parent, flight.token);
        }
        {
            let mut state = flight.state.lock();
            state.join(&flight, begin.thread, since);
            state.permit = permit;
            state.positions = positions;
            state.stale = stale.as_ref().map(|found| found.entry.clone());
        }
        let invalidated = self.was_invalidated(key, stale.as_ref(), held.as_ref(), lock, now);
        lock.attach(&flight);
        Begun::Lead { token: flight.token, stale, invalidated }
    }

    pub(super) fn arm_deadline(&self, token: Token, now: Millis, hard_timeout: Millis) {
        if hard_timeout == FOREVER {
            return;
        }
        let at = now.saturating_add(hard_timeout);
        let earliest = {
            let mut timers = self.timers.lock();
            if timers.wants_rebuild() {
                timers.retain(|timer| match timer {
                    Timer::Deadline(token) => self.flights.is_alive(*token),
                    Timer::Retry(_) => true,
                });
            }
            timers.push(at, Timer::Deadline(token))
        };
        if earliest {
            self.alarm.no_later_than(at);
        }
    }

    /// Reports what the fetcher of a flight brought.
    pub fn settle(&self, token: Token, loaded: &Loaded<'_>) -> Settled {
        let Some(flight) = self.flights.by_token(token) else { return Settled::GONE };
        let ended = self.clock.now_nanos();
        let now = ended / 1_000_000;
        let tied = self.tie(&flight, loaded);
        let (stored, dead_at, cut, watchers) = {
            let mut lock = self.flights.lock(&flight.key);
            let (phase, watchers) = {
                let mut state = flight.state.lock();
                if state.phase == Phase::Queued || self.flights.end(token).is_none() {
                    return Settled::GONE;
                }
                (state.phase, state.take_watchers())
            };
            let is_newest = lock.detach_if(&flight) && phase == Phase::Running;
            let (verdict, cut) = self.judge_load(&flight, loaded, &tied);
            let made =
                if is_newest || !watchers.is_empty() { self.make(&flight, loaded, &tied, now) } else { Made::Nothing };
            if !watchers.is_empty() {
                self.land(token, &watchers, &made.landed(cut));
            }
            let (stored, dead_at) = if is_newest && cut == 0 {
                self.store(&mut lock, &flight, made, &verdict, &tied, now)
            } else {
                (Stored::No, FOREVER)
            };
            (stored, dead_at, cut, watchers)
        };
        self.tell_landed(token, &watchers);
        self.expects_expiry(dead_at);
        if stored == Stored::Yes {
            self.compress_later(&flight.key, loaded.len());
        }
        self.cooldowns.lock().recovered(&flight.key);
        if flight.plan.batch.is_some() {
            self.figures.counters.route(RouteEvent::BackgroundUpdate, flight.plan.route);
        }
        self.ended(&flight, ended, Outcome::Success);
        Settled { stored, batch: self.finish(&flight, None, now), cut }
    }

    /// Judges what a flight brought by what has happened since it began; its key is locked. And which of those who wait for it must load
    /// again: see [`Settled::cut`].
    fn judge_load(&self, flight: &Flight, loaded: &Loaded<'_>, tied: &Tied) -> (Verdict, u64) {
        let (seq, copy) = {
            let state = flight.state.lock();
            (state.seq, state.stale.clone())
        };
        // What is inherited concerns it from now on only: its parents have it, and were judged by it when they were stored.
        let mut verdict = self.facts.judge(&flight.key, &tied.own, seq);
        if let (Loaded::NotModified { .. } | Loaded::PassingCopy { .. }, Some(copy)) = (loaded, copy) {
            // Whatever ties are to come, it is the old value.
            verdict.mark.merge(self.facts.judge(&flight.key, copy.links(), seq).mark);
        }
        // Of all that has cut it the newest alone is known: who joined when anything had happened since it began may have come after
        // something older.
        (verdict, if verdict.mark.hard > 0 { seq + 1 } else { 0 })
    }

    /// The entry that is made of what a flight brought.
    fn make(&self, flight: &Flight, loaded: &Loaded<'_>, tied: &Tied, now: Millis) -> Made {
        let (seq, copy) = {
            let mut state = flight.state.lock();
            (state.seq, state.stale.take())
        };
        let version = self.next_version();
        let again = |copy: &Entry, ages, metadata: Option<&[u8]>| {
            let value = Value {
                kind: copy.header().kind,
                bytes: copy.value(),
                metadata: metadata.unwrap_or(copy.metadata()),
                ages,
                route: flight.plan.route,
                links: &[],
            };
            build(&flight.key, &value, &tied.links, seq, now, version).in_the_form_of(copy)
        };
        match (loaded, copy) {
            (Loaded::Value(value), _) => Made::Entry(build(&flight.key, value, &tied.links, seq, now, version)),
            (Loaded::NotModified { ages, metadata, .. }, Some(copy)) => Made::Entry(again(&copy, *ages, *metadata)),
            (Loaded::Passing(value), _) => Made::Passing(build(&flight.key, value, &tied.links, seq, now, version)),
            (Loaded::PassingCopy { metadata, .. }, Some(copy)) => Made::Passing(again(&copy, AT_ONCE, *metadata)),
            _ => Made::Nothing,
        }
    }

    /// Stores what an attached flight brought, and nothing has cut, under the key's lock.
    fn store(
        &self,
        lock: &mut KeyLock<'_>,
        flight: &Flight,
        made: Made,
        verdict: &Verdict,
        tied: &Tied,
        now: Millis,
    ) -> (Stored, Millis) {
        let Made::Entry(entry) = made else { return (Stored::No, FOREVER) };
        let outdated = flight.state.lock().outdated || verdict.mark.soft > 0;
        let entry = if outdated { entry.outdated() } else { entry };
        entry.lift(verdict.as_of);
        let dead_at = entry.dead_at();
        let bytes = self.memory.weigh(&entry);
        let before = self.memory.peek(&flight.key);
        let mark = before.as_ref().map(|before| self.facts.judge_entry(before)).unwrap_or_default();
        if self.memory.insert(entry.clone()) {
            let held = before.filter(|before| mark.hard == 0 && before.dead_at() > now);
            let other = held.is_some_and(|before| !tied.is_same(&before, &entry));
            if let Some(behind) = self.behind() {
                let positions = std::mem::take(&mut flight.state.lock().positions);
                behind.stored(&entry, Some(&positions));
                if other && self.facts.is_parent(hash_key(&flight.key)) {
                    // Elsewhere what depends on it is to go, too.
                    behind.invalidated(&Target::Key((&*flight.key).into()), false, entry.seq());
                }
            }
            self.key_stored(lock, &entry, mark, other);
            (Stored::Yes, dead_at)
        } else {
            if let Some(behind) = self.behind() {
                // Tiers may have more room.
                behind.stored(&entry, Some(&flight.state.lock().positions.clone()));
            }
            // What was there is older than what could not be stored: it must not be served as if nothing had come.
            if self.memory.remove(&flight.key).is_some() {
                self.key_gone(lock, &flight.key, None);
            }
            (Stored::TooLarge { bytes }, FOREVER)
        }
    }

    /// Reports that a flight brought nothing. `outcome` says how that counts for its breaker: a failure, a proof of life,
    /// or nothing; `failed`, whether it is an error to be counted, and for a refresh to be tried again. An abort is not.
    pub fn fail(&self, token: Token, outcome: Outcome, failed: bool) -> Settled {
        self.fail_as(token, outcome, failed, Landed::Again, false)
    }

    /// As [`Engine::fail`], with a description of the error for other threads. Without one they begin anew.
    pub fn fail_with(&self, token: Token, outcome: Outcome, failed: bool, why: &[u8]) -> Settled {
        let landed = if why.is_empty() { Landed::Again } else { Landed::Failed(why.into()) };
        self.fail_as(token, outcome, failed, landed, false)
    }

    /// Reports that what a flight was to look for behind memory is not there, and that it has no fetcher: whoever waits for it and has
    /// one begins anew.
    pub fn give_up(&self, token: Token) -> Settled {
        self.fail_as(token, Outcome::Aborted, false, Landed::NotFound, false)
    }

    pub(super) fn fail_as(
        &self,
        token: Token,
        outcome: Outcome,
        failed: bool,
        landed: Landed,
        unless_watched: bool,
    ) -> Settled {
        let Some(flight) = self.flights.by_token(token) else { return Settled::GONE };
        let ended = self.clock.now_nanos();
        let now = ended / 1_000_000;
        let was_cut;
        let overtaken;
        let watchers;
        {
            let mut lock = self.flights.lock(&flight.key);
            let mut state = flight.state.lock();
            if !self.flights.is_alive(token) || state.phase == Phase::Queued {
                return Settled::GONE;
            }
            if unless_watched && (state.kept || !state.watchers.is_empty()) {
                state.abandoned = true;
                return Settled { stored: Stored::Awaited, batch: BatchEnd::None, cut: 0 };
            }
            watchers = state.take_watchers();
            self.land(token, &watchers, &landed);
            // One that was cut while it ran has nothing to retry, and no reason to rest.
            was_cut = state.phase == Phase::Cut;
            overtaken = was_cut || state.overtaken;
            let attached = lock.attached().is_some_and(|f| f.token == token);
            let retry = failed && flight.plan.batch.is_some_and(|batch| self.queue.lock().will_retry(batch));
            if attached && retry {
                state.phase = Phase::Queued;
            } else {
                lock.detach_if(&flight);
                self.flights.end(token);
                // Copies near the callers answer while a refresh is under way: it is not any more.
                self.stamps.key_changed(hash_key(&flight.key));
            }
        }
        self.tell_landed(token, &watchers);
        if failed {
            self.figures.counters.route(RouteEvent::Error, flight.plan.route);
        }
        self.ended(&flight, ended, outcome);
        let again = (failed && !was_cut).then(|| Arc::clone(&flight));
        let cut = if overtaken && !failed { self.facts.current() } else { 0 };
        Settled { stored: Stored::No, batch: self.finish(&flight, again, now), cut }
    }

    /// What every end of a flight has in common: the breaker, the figures, those who waited.
    pub(super) fn ended(&self, flight: &Flight, ended: u64, outcome: Outcome) {
        waits::ended(flight.token);
        if let Some(behind) = self.behind() {
            behind.ended(flight.token);
        }
        let (permit, started, waiting) = {
            let mut state = flight.state.lock();
            (state.permit.take(), state.started, std::mem::take(&mut state.waiting))
        };
        if let Some(trial) = permit {
            let changed = self.breakers.record(flight.plan.origin, ended / 1_000_000, trial, outcome);
            self.tell_breaker(flight.plan.origin, changed);
        }
        if outcome != Outcome::Aborted {
            self.figures.latencies.record(Op::Fetch, ended.saturating_sub(started));
            for (_, came) in waiting {
                self.figures.latencies.record(Op::Miss, ended.saturating_sub(came));
            }
        }
    }

    /// Tells a flight's batch, if it has one, that it has ended.
    pub(super) fn finish(&self, flight: &Arc<Flight>, failed: Option<Arc<Flight>>, now: Millis) -> BatchEnd {
        let Some(batch) = flight.plan.batch else { return BatchEnd::None };
        let mut notices = Vec::new();
        let progress = self.queue.lock().finish(batch, failed, &mut notices);
        let end = match progress {
            Progress::Running => BatchEnd::None,
            Progress::Finished(failed) => {
                for flight in failed {
                    self.cooldowns.lock().failed(&flight.key, now);
                    self.release(&flight);
                }
                BatchEnd::Finished
            }
            Progress::Retry(attempt) => {
                let at = now.saturating_add(retry::backoff(self.config.backoff, attempt, fastrand::f64()));
                self.timers.lock().push(at, Timer::Retry(batch));
                self.alarm.no_later_than(at);
                BatchEnd::Retry
            }
        };
        self.tell(notices);
        end
    }

    /// Ends a flight that was kept for a retry which will not come.
    pub(super) fn release(&self, flight: &Flight) {
        if self.flights.end(flight.token).is_some() {
            self.flights.lock(&flight.key).detach_if(flight);
            self.stamps.key_changed(hash_key(&flight.key));
        }
    }

    /// The copy in hand of a flight that has not ended.
    pub fn copy_in_hand(&self, token: Token) -> Option<Found> {
        let flight = self.flights.by_token(token)?;
        let entry = flight.state.lock().stale.clone()?;
        let now = self.clock.now_millis();
        // It was in hand before whatever was invalidated since.
        let freshness = entry.freshness(now);
        let found = Found {
            age: entry.age(now),
            outdated: entry.is_outdated(),
            entry,
            freshness,
            refresh_due: false,
            near_until: 0,
        };
        (freshness != Freshness::Dead).then_some(found)
    }
}
