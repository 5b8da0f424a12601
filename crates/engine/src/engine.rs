//! The cache as a whole: holds the memory tier, the flights, the queue, the breakers and the figures together.
//!
//! The engine decides; fetchers run on the side of its callers. A caller looks a key up, begins a flight where it must
//! load, and reports what came of it. What the engine has to say on its own account (start this refresh, this load timed
//! out) goes to the [`Inbox`] of the thread that it concerns.
//!
//! Locks are taken in this order and never the other way round: a key's lock ([`FlightTable::lock`]), then one of: a
//! flight's state, the queue, a breaker, the cool-downs, the timers, a shard of the memory tier. Inboxes only
//! queue what they are told.

use std::sync::Arc;

use crate::clock::{Clock, FOREVER, Millis};
use crate::codec::compress::Algorithm;
use crate::codec::workshop::{Inflated, Job, Tools, Workshop};
use crate::entry::{Ages, Entry, EntrySpec, Freshness, Kind, MAX_VALUE_BYTES};
use crate::error::{Error, Limit};
use crate::invalidation::log::Log;
use crate::key;
use crate::load::breaker::{self, BreakerConfig, Breakers, OriginId, Outcome, Permit};
use crate::load::flights::{Flight, FlightTable, KeyLock, Phase, Plan, Token};
use crate::load::queue::{BatchId, Limits, Notice, Progress, RefreshQueue};
use crate::load::retry::{self, Cooldowns};
use crate::load::timers::{Timer, Timers};
use crate::load::waits;
use crate::memory::{self, EvictListener, EvictReason, MemoryTier};
use crate::stats::counters::{Counters, Event as Counted, RouteEvent, Totals};
use crate::stats::latency::{Latencies, LatencyTotals, Op};
use crate::stats::prometheus;
use crate::sync::{AtomicBool, AtomicI64, AtomicU64, Mutex, Ordering, RwLock};

#[cfg(any(test, feature = "validate"))]
mod validate;

/// A thread that uses the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId(u32);

/// Where a thread receives what the engine tells it. Evictions come while a key's lock is held, so an inbox only queues: it
/// must not call the engine back.
pub trait Inbox: Send + Sync {
    /// Takes one event. Order is kept.
    fn post(&self, event: Event);
}

/// Who has threads for the engine: asked to call [`Engine::tick`] no later than a moment, and [`Engine::work`] soon.
pub trait Alarm: Send + Sync {
    /// Work waits that no JavaScript thread is to do.
    fn work_waits(&self);

    /// Sets the alarm to `at`, unless it is set to an earlier moment.
    fn no_later_than(&self, at: Millis);
}

/// What the engine says on its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A batch of refreshes has a slot: call [`Engine::start`].
    Start(BatchId),
    /// A batch will never start: forget its fetcher.
    Dropped(BatchId),
    /// A flight's hard timeout has passed: fire its signal and call [`Engine::fail`].
    TimedOut(Token),
    /// The queue has become idle while someone waited for it.
    Idle,
    /// A value that was to be decompressed is ready: call [`Engine::take_inflated`].
    Inflated(u64),
    /// An entry was evicted. Only while asked for.
    Evicted { key: Arc<str>, bytes: u64, reason: EvictReason },
    /// A breaker has changed.
    Breaker { origin: Arc<str>, state: breaker::State },
}

/// How a cache is set up.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Bytes of the memory tier.
    pub memory: u64,
    /// Bounds of the refresh queue.
    pub queue: Limits,
    /// First wait before a retry, doubled with each.
    pub backoff: Millis,
    /// First rest of a key whose refresh failed.
    pub cooldown: Millis,
    /// None for no breaker.
    pub breaker: Option<BreakerConfig>,
    /// None to keep every value plain.
    pub compression: Option<Compression>,
}

/// Which values are compressed, and how.
#[derive(Debug, Clone, Copy)]
pub struct Compression {
    pub algorithm: Algorithm,
    /// One that [`Algorithm::check_level`] gave.
    pub level: i32,
    /// Values of more bytes than this.
    pub threshold: usize,
}

/// A value to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pub kind: Kind,
    pub bytes: &'a [u8],
    /// JSON text, or empty.
    pub metadata: &'a [u8],
    pub ages: Ages,
    /// See [`crate::entry::Header::route`].
    pub route: u16,
}

/// An entry that was found, and where it stands.
#[derive(Debug, Clone)]
pub struct Found {
    pub entry: Entry,
    pub freshness: Freshness,
    /// Milliseconds since it was stored.
    pub age: Millis,
    /// It is stale, and nobody refreshes it yet.
    pub refresh_due: bool,
}

impl Found {
    /// Whether a get serves it at once.
    pub fn is_servable(&self) -> bool {
        matches!(self.freshness, Freshness::Fresh | Freshness::Stale)
    }
}

/// How a load is to begin.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    pub thread: ThreadId,
    /// The flight whose fetcher asks; 0 for none.
    pub parent: Token,
    pub origin: OriginId,
    pub route: u16,
    pub hard_timeout: Millis,
    /// Load even where a value is fresh.
    pub force: bool,
    /// Ask the breaker, and answer to it. False for all but the first key of a batch.
    pub permit: bool,
}

/// What a caller that wants a load is to do.
#[derive(Debug, Clone)]
pub enum Begun {
    /// Nothing: the value is there by now.
    Hit(Found),
    /// Run the fetcher and report by this token. `stale` is the copy in hand.
    Lead { token: Token, stale: Option<Found> },
    /// Wait for the flight of this token.
    Join(Token),
    /// The circuit is open until then, on the engine's clock.
    Refused { next_attempt: Millis },
    /// The caller's own load would wait for itself.
    Recursion,
}

/// How a refresh is to be queued.
#[derive(Debug, Clone, Copy)]
pub struct Refresh {
    pub thread: ThreadId,
    pub origin: OriginId,
    pub route: u16,
    pub hard_timeout: Millis,
}

/// One key of a batch that has started.
#[derive(Debug, Clone)]
pub struct Started {
    pub token: Token,
    pub key: Arc<[u8]>,
    pub stale: Option<Found>,
}

/// What a fetcher brought.
#[derive(Debug, Clone, Copy)]
pub enum Loaded<'a> {
    /// A value to be stored.
    Value(Value<'a>),
    /// The copy in hand is still good: its age starts again. Without metadata of its own it keeps the copy's.
    NotModified { ages: Ages, metadata: Option<&'a [u8]> },
    /// Nothing to be stored.
    Unstored,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub stored: Stored,
    pub batch: BatchEnd,
}

impl Loaded<'_> {
    /// Bytes of a value that comes plain.
    fn len(&self) -> usize {
        match self {
            Self::Value(value) => value.bytes.len(),
            Self::NotModified { .. } | Self::Unstored => 0,
        }
    }
}

impl Settled {
    const GONE: Self = Self { stored: Stored::Gone, batch: BatchEnd::None };
}

/// Whether what a load brought was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Yes,
    /// Nothing was to be stored, or the key was written while the load ran.
    No,
    /// It weighs so much, more than the whole memory tier.
    TooLarge {
        bytes: u64,
    },
    /// The flight had ended before, by its hard timeout or otherwise.
    Gone,
}

/// Where a batch stands after one of its keys has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchEnd {
    /// Not a refresh, or others of its batch still run.
    None,
    /// The batch is over: forget its fetcher.
    Finished,
    /// It will be started again.
    Retry,
}

/// The engine of one cache.
pub struct Engine {
    config: Config,
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    log: Log,
    memory: MemoryTier,
    flights: FlightTable,
    queue: Mutex<RefreshQueue>,
    cooldowns: Mutex<Cooldowns>,
    breakers: Breakers,
    timers: Mutex<Timers>,
    reclaim_at: AtomicU64,
    routes: RwLock<Vec<String>>,
    figures: Arc<Figures>,
    flush_wanted: AtomicBool,
    unix_offset: AtomicI64,
    workshop: Workshop,
}

/// What is counted and who is told: shared with the listener of the memory tier.
struct Figures {
    counters: Counters,
    latencies: Latencies,
    inboxes: RwLock<Vec<(ThreadId, Arc<dyn Inbox>)>>,
    tell_evictions: AtomicBool,
}

/// Entries reclaimed in one go, and the least time between two goes.
const RECLAIM_AT_ONCE: usize = 4096;
const RECLAIM_EVERY: Millis = 50;

/// Milliseconds by which the difference of the two clocks may seem to change without one of them having been stepped.
const SAME_CLOCK: u64 = 5;

impl Engine {
    /// A cache with nothing in it.
    pub fn new(config: Config, clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>) -> Self {
        let figures = Arc::new(Figures {
            counters: Counters::new(),
            latencies: Latencies::new(),
            inboxes: RwLock::default(),
            tell_evictions: AtomicBool::new(false),
        });
        let memory = MemoryTier::new(
            memory::Config { budget: config.memory, weight: memory::Weight::Bytes, shards: None },
            Some(Arc::clone(&figures) as Arc<dyn EvictListener>),
        );
        Self {
            log: Log::default(),
            memory,
            flights: FlightTable::default(),
            queue: Mutex::new(RefreshQueue::new(config.queue)),
            cooldowns: Mutex::new(Cooldowns::new(config.cooldown)),
            breakers: Breakers::new(config.breaker),
            timers: Mutex::default(),
            reclaim_at: AtomicU64::new(FOREVER),
            routes: RwLock::default(),
            figures,
            flush_wanted: AtomicBool::new(false),
            unix_offset: AtomicI64::new(0),
            workshop: Workshop::default(),
            config,
            clock,
            alarm,
        }
    }

    /// Lets a thread take part: events that concern it go to `inbox`.
    pub fn attach(&self, inbox: Arc<dyn Inbox>) -> ThreadId {
        let mut inboxes = self.figures.inboxes.write();
        let thread = ThreadId(inboxes.last().map_or(1, |(last, _)| last.0 + 1));
        inboxes.push((thread, inbox));
        thread
    }

    /// The engine's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// A moment of the engine's clock as milliseconds since the UNIX epoch. The same moment is always given the same date,
    /// unless the system's clock was stepped in between.
    pub fn unix_of(&self, at: Millis) -> u64 {
        let offset = self.clock.unix_millis() as i64 - self.clock.now_millis() as i64;
        // The two clocks are read one after the other, and in whole milliseconds: small differences are no step.
        let known = self.unix_offset.load(Ordering::Relaxed);
        let offset = if known.abs_diff(offset) <= SAME_CLOCK {
            known
        } else {
            self.unix_offset.store(offset, Ordering::Relaxed);
            offset
        };
        at.saturating_add_signed(offset)
    }

    /// Bytes that the memory tier may use.
    pub fn budget(&self) -> u64 {
        self.memory.budget()
    }

    /// The number of an origin's breaker.
    pub fn origin(&self, name: &str) -> OriginId {
        self.breakers.origin(name)
    }

    /// Names the route `number` (1 and up) for the metrics.
    pub fn name_route(&self, number: u16, pattern: &str) {
        let mut routes = self.routes.write();
        let index = usize::from(number);
        if routes.len() <= index {
            routes.resize(index + 1, String::new());
        }
        routes[index] = pattern.to_owned();
    }

    // ---------------------------------------------------------------- reading

    /// Looks a key up for a get: a fresh or stale value counts as a hit and as a use. Where there is none, `give_up` tells
    /// that nothing will be loaded, and a miss is counted under `route`.
    pub fn lookup(&self, key: &[u8], give_up: Option<u16>) -> Option<Found> {
        let began = self.clock.now_nanos();
        let found = self.memory.get(key).and_then(|entry| self.judge(entry, began / 1_000_000));
        match found {
            Some(mut found) if found.is_servable() => {
                self.count_hit(&mut found, began);
                Some(found)
            }
            _ => {
                if let Some(route) = give_up {
                    self.figures.counters.route(RouteEvent::Miss, route);
                }
                None
            }
        }
    }

    /// The entry of a key, if it may be served at least when a load fails. Counts nothing.
    pub fn peek(&self, key: &[u8]) -> Option<Found> {
        self.peek_at(key, self.clock.now_millis())
    }

    /// The entry of a key, if it may stand in for a load that failed: one within its staleIfError. Counts nothing.
    pub fn stand_in(&self, key: &[u8]) -> Option<Found> {
        let now = self.clock.now_millis();
        self.peek_at(key, now).filter(|found| now < found.entry.header().error_until)
    }

    fn peek_at(&self, key: &[u8], now: Millis) -> Option<Found> {
        self.memory.peek(key).and_then(|entry| self.judge(entry, now))
    }

    fn judge(&self, entry: Entry, now: Millis) -> Option<Found> {
        let freshness = entry.freshness(now);
        if freshness == Freshness::Dead {
            return None;
        }
        Some(Found { age: entry.age(now), entry, freshness, refresh_due: false })
    }

    fn count_hit(&self, found: &mut Found, began: u64) {
        let stale = found.freshness == Freshness::Stale;
        if stale {
            found.refresh_due = !self.cooldowns.lock().resting(found.entry.key(), began / 1_000_000)
                && !self.flights.contains(found.entry.key());
        }
        let (event, op) = if stale { (RouteEvent::Stale, Op::Stale) } else { (RouteEvent::Hit, Op::Hit) };
        self.figures.counters.route(event, found.entry.header().route);
        self.figures.latencies.record(op, self.clock.now_nanos().saturating_sub(began));
    }

    /// Up to `limit` entries that get would serve, in byte order of their keys, whose keys begin with `prefix` and come
    /// after `after`; and whether that was all.
    pub fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> (Vec<Entry>, bool) {
        let now = self.clock.now_millis();
        self.memory
            .list(prefix, after, limit, |entry| matches!(entry.freshness(now), Freshness::Fresh | Freshness::Stale))
    }

    // ---------------------------------------------------------------- writing

    /// Builds an entry to be [committed](Engine::commit), or says why it cannot be: all that can be wrong with a put is found
    /// here, before anything is changed.
    pub fn prepare(&self, key: &[u8], value: &Value<'_>) -> Result<Entry, Error> {
        key::check(key)?;
        check_size(key, value.bytes.len())?;
        let entry = build(key, value, 0, 0);
        let weight = self.memory.weigh(&entry);
        if weight > self.memory.budget() {
            return Err(Error::ValueTooLarge {
                key: key::shorten(entry.key_str()),
                bytes: weight,
                limit: Limit::Budget(self.memory.budget()),
            });
        }
        Ok(entry)
    }

    /// Stores a prepared entry, its ages counted from now. It wins over every load of the key that has begun.
    pub fn commit(&self, mut entry: Entry) {
        let key: Arc<[u8]> = entry.key().into();
        let len = entry.value().len();
        let mut notices = Vec::new();
        let dead_at;
        {
            let mut lock = self.flights.lock(&key);
            // The number is taken under the lock, so that numbers and puts of one key are in the same order.
            entry.stamp(self.log.advance(), self.clock.now_millis());
            dead_at = entry.dead_at();
            self.cut(&mut lock, &mut notices);
            self.memory.insert(entry);
        }
        self.cooldowns.lock().recovered(&key);
        self.expects_expiry(dead_at);
        self.compress_later(&key, len);
        self.tell(notices);
    }

    /// Removes a key, and outdates every load of it that has begun. Whether get would have served it.
    pub fn delete(&self, key: &[u8]) -> bool {
        let now = self.clock.now_millis();
        let mut notices = Vec::new();
        let removed = {
            let mut lock = self.flights.lock(key);
            self.log.advance();
            self.cut(&mut lock, &mut notices);
            self.memory.remove(key)
        };
        self.cooldowns.lock().recovered(key);
        self.tell(notices);
        removed.is_some_and(|entry| matches!(entry.freshness(now), Freshness::Fresh | Freshness::Stale))
    }

    /// Outdates the load of a locked key, if there is one.
    fn cut(&self, lock: &mut KeyLock<'_>, notices: &mut Vec<Notice>) {
        let Some(flight) = lock.detach() else { return };
        let queued = {
            let mut state = flight.state.lock();
            let queued = state.phase == Phase::Queued;
            state.phase = Phase::Cut;
            queued
        };
        if queued {
            self.withdraw(&flight, notices);
        }
    }

    /// Ends a queued flight that was detached.
    fn withdraw(&self, flight: &Flight, notices: &mut Vec<Notice>) {
        self.flights.end(flight.token);
        if let Some(batch) = flight.plan.batch {
            self.queue.lock().withdraw(batch, flight.token, notices);
        }
    }

    // ---------------------------------------------------------------- loading

    /// Decides what a caller that wants a key loaded is to do.
    pub fn begin(&self, key: &[u8], begin: &Begin) -> Begun {
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
        match &mut begun {
            Begun::Hit(found) => self.count_hit(found, began),
            Begun::Recursion => {}
            Begun::Lead { token, .. } => {
                self.figures.counters.route(RouteEvent::Miss, begin.route);
                self.figures.counters.route(RouteEvent::Load, begin.route);
                self.arm_deadline(*token, now, begin.hard_timeout);
            }
            Begun::Join(_) => {
                self.figures.counters.route(RouteEvent::Miss, begin.route);
                self.figures.counters.count(Counted::Coalesced);
            }
            Begun::Refused { .. } => self.figures.counters.route(RouteEvent::Miss, begin.route),
        }
        begun
    }

    fn begin_locked(
        &self,
        key: &[u8],
        begin: &Begin,
        began: u64,
        lock: &mut KeyLock<'_>,
        notices: &mut Vec<Notice>,
        changed: &mut Option<breaker::State>,
    ) -> Begun {
        let now = began / 1_000_000;
        if let Some(flight) = lock.attached() {
            let mut state = flight.state.lock();
            if state.phase == Phase::Running {
                if begin.parent != 0 && !waits::wait(begin.parent, flight.token) {
                    return Begun::Recursion;
                }
                state.waiting.push(began);
                return Begun::Join(flight.token);
            }
        }
        if !begin.force
            && let Some(found) = self.peek_at(key, now)
            && found.is_servable()
        {
            return Begun::Hit(found);
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
        let flight = Flight::new(key, plan, Phase::Running, self.log.current(), began);
        if begin.parent != 0 {
            waits::wait(begin.parent, flight.token);
        }
        let stale = self.peek_at(key, now);
        {
            let mut state = flight.state.lock();
            state.waiting.push(began);
            state.permit = permit;
            state.stale = stale.as_ref().map(|found| found.entry.clone());
        }
        lock.attach(&flight);
        Begun::Lead { token: flight.token, stale }
    }

    fn arm_deadline(&self, token: Token, now: Millis, hard_timeout: Millis) {
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
        let (stored, dead_at) = {
            let mut lock = self.flights.lock(&flight.key);
            let phase = flight.state.lock().phase;
            if phase == Phase::Queued || self.flights.end(token).is_none() {
                return Settled::GONE;
            }
            if lock.detach_if(&flight) && phase == Phase::Running {
                self.store(&flight, loaded, now)
            } else {
                (Stored::No, FOREVER)
            }
        };
        self.expects_expiry(dead_at);
        if stored == Stored::Yes {
            self.compress_later(&flight.key, loaded.len());
        }
        self.cooldowns.lock().recovered(&flight.key);
        if flight.plan.batch.is_some() {
            self.figures.counters.route(RouteEvent::BackgroundUpdate, flight.plan.route);
        }
        self.ended(&flight, ended, Outcome::Success);
        Settled { stored, batch: self.finish(&flight, None, now) }
    }

    /// Stores what an attached flight brought, under the key's lock.
    fn store(&self, flight: &Flight, loaded: &Loaded<'_>, now: Millis) -> (Stored, Millis) {
        let (seq, stale) = {
            let mut state = flight.state.lock();
            (state.seq, state.stale.take())
        };
        let entry = match loaded {
            Loaded::Unstored => return (Stored::No, FOREVER),
            Loaded::Value(value) => build(&flight.key, value, seq, now),
            Loaded::NotModified { ages, metadata } => {
                let Some(copy) = stale else { return (Stored::No, FOREVER) };
                let value = Value {
                    kind: copy.header().kind,
                    bytes: copy.value(),
                    metadata: metadata.unwrap_or(copy.metadata()),
                    ages: *ages,
                    route: flight.plan.route,
                };
                build(&flight.key, &value, seq, now).in_the_form_of(&copy)
            }
        };
        let dead_at = entry.dead_at();
        let bytes = self.memory.weigh(&entry);
        if self.memory.insert(entry) {
            (Stored::Yes, dead_at)
        } else {
            // What was there is older than what could not be stored: it must not be served as if nothing had come.
            self.memory.remove(&flight.key);
            (Stored::TooLarge { bytes }, FOREVER)
        }
    }

    /// Reports that a flight brought nothing. `outcome` says how that counts for its breaker: a failure, a proof of life,
    /// or nothing; `failed`, whether it is an error to be counted, and for a refresh to be tried again. An abort is not.
    pub fn fail(&self, token: Token, outcome: Outcome, failed: bool) -> Settled {
        let Some(flight) = self.flights.by_token(token) else { return Settled::GONE };
        let ended = self.clock.now_nanos();
        let now = ended / 1_000_000;
        let was_cut;
        {
            let mut lock = self.flights.lock(&flight.key);
            let mut state = flight.state.lock();
            if !self.flights.is_alive(token) || state.phase == Phase::Queued {
                return Settled::GONE;
            }
            // One that was cut while it ran has nothing to retry, and no reason to rest.
            was_cut = state.phase == Phase::Cut;
            let attached = lock.attached().is_some_and(|f| f.token == token);
            let retry = failed && flight.plan.batch.is_some_and(|batch| self.queue.lock().will_retry(batch));
            if attached && retry {
                state.phase = Phase::Queued;
            } else {
                lock.detach_if(&flight);
                self.flights.end(token);
            }
        }
        if failed {
            self.figures.counters.route(RouteEvent::Error, flight.plan.route);
        }
        self.ended(&flight, ended, outcome);
        let again = (failed && !was_cut).then(|| Arc::clone(&flight));
        Settled { stored: Stored::No, batch: self.finish(&flight, again, now) }
    }

    /// What every end of a flight has in common: the breaker, the figures, those who waited.
    fn ended(&self, flight: &Flight, ended: u64, outcome: Outcome) {
        waits::ended(flight.token);
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
            for came in waiting {
                self.figures.latencies.record(Op::Miss, ended.saturating_sub(came));
            }
        }
    }

    /// Tells a flight's batch, if it has one, that it has ended.
    fn finish(&self, flight: &Arc<Flight>, failed: Option<Arc<Flight>>, now: Millis) -> BatchEnd {
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
    fn release(&self, flight: &Flight) {
        if self.flights.end(flight.token).is_some() {
            self.flights.lock(&flight.key).detach_if(flight);
        }
    }

    /// The copy in hand of a flight that has not ended.
    pub fn copy_in_hand(&self, token: Token) -> Option<Found> {
        let flight = self.flights.by_token(token)?;
        let entry = flight.state.lock().stale.clone()?;
        self.judge(entry, self.clock.now_millis())
    }

    // ---------------------------------------------------------------- background refreshes

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
            let lock = self.flights.lock(&flight.key);
            if lock.attached().is_none_or(|f| f.token != flight.token) {
                gone.push(Arc::clone(&flight));
                continue;
            }
            let stale = self.peek_at(&flight.key, now);
            let mut state = flight.state.lock();
            state.phase = Phase::Running;
            state.seq = self.log.current();
            state.started = began;
            state.deadline = now.saturating_add(plan.hard_timeout);
            state.permit = permit.take();
            state.stale = stale.as_ref().map(|found| found.entry.clone());
            started.push(Started { token: flight.token, key: Arc::clone(&flight.key), stale });
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

    fn is_idle(&self) -> bool {
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

    /// Drops every refresh that does not run yet.
    pub fn drop_queued(&self) {
        let mut notices = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut queue = self.queue.lock();
            for id in queue.ids() {
                if queue.is_waiting(id) {
                    dropped.extend(queue.drop_batch(id, &mut notices));
                }
            }
        }
        for flight in dropped {
            self.release(&flight);
        }
        self.tell(notices);
    }

    // ---------------------------------------------------------------- work off the JavaScript threads

    /// Has a stored value compressed, if it is one to be, by a worker: until then it is served plain.
    fn compress_later(&self, key: &Arc<[u8]>, len: usize) {
        if self.config.compression.is_some_and(|c| len > c.threshold)
            && self.workshop.submit(Job::Compress(Arc::clone(key)))
        {
            self.alarm.work_waits();
        }
    }

    /// Has a compressed value decompressed by a worker: [`Event::Inflated`] with this number tells the thread when it is done.
    pub fn inflate(&self, thread: ThreadId, entry: Entry) -> u64 {
        let number = self.workshop.submit_inflation(thread, entry);
        self.alarm.work_waits();
        number
    }

    /// What was decompressed under that number, once.
    pub fn take_inflated(&self, number: u64) -> Option<Inflated> {
        self.workshop.take_inflated(number)
    }

    /// Whether [`Engine::work`] has something to do.
    pub fn has_work(&self) -> bool {
        self.workshop.has_work()
    }

    /// Does one piece of work. False if there is none. Called by worker threads, each with a compressor of its own.
    pub fn work(&self, tools: &mut Tools) -> bool {
        let Some(job) = self.workshop.next() else { return false };
        match job {
            Job::Compress(key) => self.compress(&key, tools),
            Job::Inflate { thread, number, entry } => {
                self.workshop.inflated(number, tools.inflate(entry));
                self.figures.post(thread, Event::Inflated(number));
            }
        }
        self.workshop.done();
        self.tell(Vec::new());
        true
    }

    fn compress(&self, key: &[u8], tools: &mut Tools) {
        let Some(compression) = self.config.compression else { return };
        let Some(entry) = self.memory.peek(key) else { return };
        if entry.codec().is_some() || entry.value().len() <= compression.threshold {
            return;
        }
        if let Some(compressed) = tools.compress(&entry, &compression) {
            // Under the key's lock, as all that changes what is stored: nothing newer is overwritten.
            let _lock = self.flights.lock(key);
            if self.memory.peek(key).is_some_and(|now| now.is(&entry)) {
                // The plain one may be evicted between the two; then the compressed one ends by itself.
                let dead_at = compressed.dead_at();
                self.memory.insert(compressed);
                self.expects_expiry(dead_at);
            }
        }
    }

    // ---------------------------------------------------------------- time

    /// Does what is due. Returns when it wants to be called again.
    pub fn tick(&self) -> Millis {
        let now = self.clock.now_millis();
        let mut notices = Vec::new();
        loop {
            let due = self.timers.lock().pop_due(now);
            match due {
                None => break,
                Some(Timer::Deadline(token)) => self.time_out(token, now),
                Some(Timer::Retry(batch)) => self.queue.lock().retry_due(batch, &mut notices),
            }
        }
        self.tell(notices);
        self.reclaim(now);
        let next = self.timers.lock().next().unwrap_or(FOREVER);
        next.min(self.reclaim_at.load(Ordering::SeqCst))
    }

    fn time_out(&self, token: Token, now: Millis) {
        let Some(flight) = self.flights.by_token(token) else { return };
        {
            let _lock = self.flights.lock(&flight.key);
            let mut state = flight.state.lock();
            // A refresh that is tried again has a new deadline from its next start; this one may be of an attempt before.
            if state.phase == Phase::Queued || state.deadline > now {
                return;
            }
            state.deadline = FOREVER;
            if state.phase == Phase::Running {
                state.phase = Phase::Expired;
            }
        }
        self.figures.post(flight.plan.thread, Event::TimedOut(token));
    }

    fn reclaim(&self, now: Millis) {
        if now < self.reclaim_at.load(Ordering::SeqCst) {
            return;
        }
        self.reclaim_at.store(FOREVER, Ordering::SeqCst);
        self.memory.reclaim(now, RECLAIM_AT_ONCE);
        if let Some(next) = self.memory.next_expiry() {
            // Not the number reclaimed tells whether there is more to do: see there.
            let pause = if next <= now { 1 } else { RECLAIM_EVERY };
            self.reclaim_at.fetch_min(next.max(now + pause), Ordering::SeqCst);
        }
    }

    /// An entry was stored that ends at `dead_at`.
    fn expects_expiry(&self, dead_at: Millis) {
        if dead_at < self.reclaim_at.load(Ordering::SeqCst) {
            let at = dead_at.max(self.clock.now_millis() + RECLAIM_EVERY);
            if self.reclaim_at.fetch_min(at, Ordering::SeqCst) > at {
                self.alarm.no_later_than(at);
            }
        }
    }

    // ---------------------------------------------------------------- telling

    fn tell(&self, notices: Vec<Notice>) {
        for notice in notices {
            match notice {
                Notice::Start(thread, batch) => self.figures.post(thread, Event::Start(batch)),
                Notice::Dropped(thread, batch) => self.figures.post(thread, Event::Dropped(batch)),
            }
        }
        if self.flush_wanted.load(Ordering::SeqCst) && self.is_idle() && self.flush_wanted.swap(false, Ordering::SeqCst)
        {
            self.figures.post_all(&Event::Idle);
        }
    }

    fn tell_breaker(&self, origin: OriginId, changed: Option<breaker::State>) {
        if let Some(state) = changed
            && let Some(origin) = self.breakers.name(origin)
        {
            self.figures.post_all(&Event::Breaker { origin, state });
        }
    }

    /// Whether evictions are to be told.
    pub fn tell_evictions(&self, wanted: bool) {
        self.figures.tell_evictions.store(wanted, Ordering::SeqCst);
    }

    // ---------------------------------------------------------------- figures

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
        let stats = self.stats();
        let routes = self.routes.read();
        let routes = routes.iter().enumerate().skip(1).map(|(number, pattern)| prometheus::Route {
            pattern: pattern.clone(),
            totals: self.figures.counters.route_totals(number as u16),
        });
        let breakers = self.breakers.snapshots().into_iter().map(|(origin, snapshot)| prometheus::Breaker {
            origin: origin.to_string(),
            state: snapshot.state,
            failures: snapshot.failures,
        });
        prometheus::render(&prometheus::Snapshot {
            cache: None,
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
    fn post(&self, thread: ThreadId, event: Event) {
        let inbox = self.inboxes.read().iter().find(|(id, _)| *id == thread).map(|(_, inbox)| Arc::clone(inbox));
        if let Some(inbox) = inbox {
            inbox.post(event);
        }
    }

    fn post_all(&self, event: &Event) {
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
            self.post_all(&Event::Evicted { key: entry.key_str().into(), bytes: entry.allocated() as u64, reason });
        }
    }
}

fn check_size(key: &[u8], bytes: usize) -> Result<(), Error> {
    if bytes > MAX_VALUE_BYTES {
        return Err(Error::ValueTooLarge {
            key: key::shorten(&String::from_utf8_lossy(key)),
            bytes: bytes as u64,
            limit: Limit::Value,
        });
    }
    Ok(())
}

fn build(key: &[u8], value: &Value<'_>, seq: u64, now: Millis) -> Entry {
    let spec = EntrySpec {
        key,
        metadata: value.metadata,
        links: &[],
        value: value.bytes,
        kind: value.kind,
        ages: value.ages,
        seq,
        route: value.route,
    };
    Entry::new(&spec, now)
}
