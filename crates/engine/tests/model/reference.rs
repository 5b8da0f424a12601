//! What the engine should do, in plain logic: maps, lists and no concurrency. Slow, and meant to be read.
//!
//! Each operation says what the engine must answer and post; the figures and what is cached can be asked for at any time.
//! Nothing here is shared with the engine but its public types.

use std::collections::{HashMap, HashSet, VecDeque};

use kvcache_engine::clock::{FOREVER, Millis};
use kvcache_engine::engine::{BatchEnd, Config};
use kvcache_engine::entry::{Ages, Freshness};
use kvcache_engine::load::breaker::{BreakerConfig, Outcome, State};

/// Longest rest and longest wait between two attempts.
const LONGEST_WAIT: Millis = 30_000;

pub type Key = usize;
pub type Token = u64;
pub type BatchId = u64;
pub type Thread = usize;
pub type Origin = usize;
/// Names a flight in here, from when it is queued.
pub type FlightId = usize;

/// What is cached for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub value: Vec<u8>,
    pub metadata: Vec<u8>,
    pub route: u16,
    pub stored_at: Millis,
    pub ages: Ages,
}

impl Item {
    pub fn freshness(&self, now: Millis) -> Freshness {
        let before = |age: Millis| self.stored_at.checked_add(age).is_none_or(|end| now < end);
        if before(self.ages.max_age) {
            Freshness::Fresh
        } else if before(self.ages.stale_age) {
            Freshness::Stale
        } else if before(self.ages.stale_if_error) {
            Freshness::OnError
        } else {
            Freshness::Dead
        }
    }

    pub fn dead_at(&self) -> Millis {
        let longest = self.ages.max_age.max(self.ages.stale_age).max(self.ages.stale_if_error);
        self.stored_at.saturating_add(longest)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Queued,
    Running,
    /// Its key was written, or another load took its place, while it ran.
    Cut,
    /// Its hard timeout has been told.
    Expired,
}

#[derive(Debug, Clone)]
pub struct Flight {
    pub key: Key,
    pub token: Option<Token>,
    pub phase: Phase,
    pub over: bool,
    pub batch: Option<BatchId>,
    pub thread: Thread,
    pub origin: Option<Origin>,
    pub route: u16,
    pub hard_timeout: Millis,
    pub deadline: Millis,
    pub copy: Option<Item>,
    /// Whether it answers to its breaker, and as the trial.
    pub permit: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchState {
    Waiting,
    Starting,
    Running { outstanding: usize },
    Resting { until: Millis },
}

#[derive(Debug, Clone)]
pub struct Batch {
    pub thread: Thread,
    pub state: BatchState,
    pub attempt: u32,
    /// To be started; while it runs, failed so far.
    pub flights: Vec<FlightId>,
}

#[derive(Debug, Clone, Copy)]
struct Breaker {
    state: State,
    failures: u32,
    until: Millis,
    trial: bool,
}

/// What the engine is to post, in no order but that of its kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Posted {
    pub starts: Vec<(Thread, BatchId)>,
    pub dropped: Vec<(Thread, BatchId)>,
    pub timed_out: Vec<(Thread, Token)>,
    pub breakers: Vec<(Origin, State)>,
    pub idle: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub hits: u64,
    pub stale: u64,
    pub misses: u64,
    pub coalesced: u64,
    pub loads: u64,
    pub errors: u64,
    pub background_updates: u64,
    pub refreshes_dropped: u64,
    pub evicted_for_budget: u64,
    pub evicted_expired: u64,
}

/// What a caller that wants a load is told.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    Hit {
        item: Item,
        refresh_due: bool,
    },
    /// A flight of this number, whose token the engine chooses.
    Lead {
        flight: FlightId,
        copy: Option<Item>,
    },
    Join(Token),
    Refused {
        next_attempt: Millis,
    },
    Recursion,
}

#[derive(Debug, Clone)]
pub enum Brought {
    Value { value: Vec<u8>, metadata: Vec<u8>, ages: Ages, route: u16, fits: bool },
    NotModified { ages: Ages, metadata: Option<Vec<u8>> },
    Unstored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Yes,
    No,
    TooLarge,
    Gone,
}

pub struct Asked {
    pub thread: Thread,
    pub parent: Token,
    pub origin: Option<Origin>,
    pub route: u16,
    pub hard_timeout: Millis,
    pub force: bool,
    pub permit: bool,
}

pub struct Reference {
    config: Config,
    pub now: Millis,
    pub items: HashMap<Key, Item>,
    pub flights: Vec<Flight>,
    attached: HashMap<Key, FlightId>,
    by_token: HashMap<Token, FlightId>,
    pub batches: HashMap<BatchId, Batch>,
    line: VecDeque<BatchId>,
    rests: HashMap<Key, (Millis, u32)>,
    breakers: Vec<Breaker>,
    waits: HashSet<(Token, Token)>,
    flush_wanted: bool,
    /// Values that wait to be compressed, and compressed ones that wait to be decompressed.
    pub jobs: usize,
    pub figures: Figures,
    pub posted: Posted,
}

impl Reference {
    pub fn new(config: Config, origins: usize) -> Self {
        let closed = Breaker { state: State::Closed, failures: 0, until: 0, trial: false };
        Self {
            config,
            now: 0,
            items: HashMap::new(),
            flights: Vec::new(),
            attached: HashMap::new(),
            by_token: HashMap::new(),
            batches: HashMap::new(),
            line: VecDeque::new(),
            rests: HashMap::new(),
            breakers: vec![closed; origins],
            waits: HashSet::new(),
            flush_wanted: false,
            jobs: 0,
            figures: Figures::default(),
            posted: Posted::default(),
        }
    }

    // ------------------------------------------------------------ what can be asked

    pub fn held(&self, key: Key) -> Option<(&Item, Freshness)> {
        let item = self.items.get(&key)?;
        let freshness = item.freshness(self.now);
        (freshness != Freshness::Dead).then_some((item, freshness))
    }

    fn served(&self, key: Key) -> Option<(&Item, Freshness)> {
        self.held(key).filter(|(_, freshness)| matches!(freshness, Freshness::Fresh | Freshness::Stale))
    }

    pub fn flight_of(&self, token: Token) -> Option<&Flight> {
        self.by_token.get(&token).map(|id| &self.flights[*id])
    }

    /// Whether a get of that key would want a refresh.
    pub fn is_refresh_due(&self, key: Key) -> bool {
        let stale = self.held(key).is_some_and(|(_, freshness)| freshness == Freshness::Stale);
        stale && !self.rests(key) && !self.attached.contains_key(&key)
    }

    /// Batches that have a slot and are to be started.
    pub fn starting(&self) -> Vec<BatchId> {
        let starting = self.batches.iter().filter(|(_, batch)| batch.state == BatchState::Starting);
        let mut starting: Vec<_> = starting.map(|(number, _)| *number).collect();
        starting.sort_unstable();
        starting
    }

    pub fn open_flights(&self) -> usize {
        self.flights.iter().filter(|flight| !flight.over).count()
    }

    pub fn queued(&self) -> usize {
        let waits = |batch: &&Batch| matches!(batch.state, BatchState::Waiting | BatchState::Resting { .. });
        self.batches.values().filter(waits).map(|batch| batch.flights.len()).sum()
    }

    pub fn running(&self) -> usize {
        let running = |batch: &Batch| match batch.state {
            BatchState::Starting => batch.flights.len(),
            BatchState::Running { outstanding } => outstanding,
            _ => 0,
        };
        self.batches.values().map(running).sum()
    }

    /// The earliest moment at which the engine has to do something of its own accord, reclaiming left out.
    pub fn next_due(&self) -> Millis {
        let deadlines = self.flights.iter().filter(|f| !f.over && f.phase != Phase::Queued).map(|f| f.deadline);
        let retries = self.batches.values().filter_map(|batch| match batch.state {
            BatchState::Resting { until } => Some(until),
            _ => None,
        });
        deadlines.chain(retries).min().unwrap_or(FOREVER)
    }

    pub fn breaker(&self, origin: Origin) -> (State, u32, Option<Millis>) {
        let breaker = &self.breakers[origin];
        (breaker.state, breaker.failures, (breaker.state == State::Open).then_some(breaker.until))
    }

    fn rests(&self, key: Key) -> bool {
        self.rests.get(&key).is_some_and(|(until, _)| self.now < *until)
    }

    // ------------------------------------------------------------ reading and writing

    pub fn lookup(&mut self, key: Key, give_up: bool) -> Option<(Item, Freshness, bool)> {
        match self.served(key).map(|(item, freshness)| (item.clone(), freshness)) {
            Some((item, freshness)) => {
                let due = self.count_hit(key, freshness);
                Some((item, freshness, due))
            }
            None => {
                self.figures.misses += u64::from(give_up);
                None
            }
        }
    }

    fn count_hit(&mut self, key: Key, freshness: Freshness) -> bool {
        self.figures.hits += 1;
        self.figures.stale += u64::from(freshness == Freshness::Stale);
        self.is_refresh_due(key)
    }

    pub fn put(&mut self, key: Key, item: Item) {
        self.cut(key);
        self.compress_later(item.value.len());
        self.items.insert(key, item);
        self.rests.remove(&key);
        self.tell_idle();
    }

    pub fn delete(&mut self, key: Key) -> bool {
        let was_served = self.served(key).is_some();
        self.cut(key);
        self.items.remove(&key);
        self.rests.remove(&key);
        self.tell_idle();
        was_served
    }

    pub fn clear(&mut self) {
        self.items.clear();
        self.rests.clear();
    }

    /// The load of a key, if there is one, is outdated: a queued one goes, a running one goes on for its callers alone.
    fn cut(&mut self, key: Key) {
        let Some(id) = self.attached.remove(&key) else { return };
        let was_queued = self.flights[id].phase == Phase::Queued;
        self.flights[id].phase = Phase::Cut;
        if !was_queued {
            return;
        }
        self.end(id);
        let Some(number) = self.flights[id].batch else { return };
        let Some(batch) = self.batches.get_mut(&number) else { return };
        batch.flights.retain(|other| *other != id);
        if batch.flights.is_empty() && !matches!(batch.state, BatchState::Running { .. }) {
            self.drop_batch(number);
        }
    }

    fn end(&mut self, id: FlightId) {
        self.flights[id].over = true;
        if let Some(token) = self.flights[id].token {
            self.by_token.remove(&token);
        }
    }

    // ------------------------------------------------------------ loading

    pub fn begin(&mut self, key: Key, asked: &Asked) -> Begun {
        if let Some(id) = self.attached.get(&key).copied()
            && self.flights[id].phase == Phase::Running
            && let Some(token) = self.flights[id].token
        {
            if asked.parent != 0 && !self.wait(asked.parent, token) {
                return Begun::Recursion;
            }
            self.figures.misses += 1;
            self.figures.coalesced += 1;
            return Begun::Join(token);
        }
        if !asked.force
            && let Some((item, freshness)) = self.served(key)
        {
            let item = item.clone();
            return Begun::Hit { item, refresh_due: self.count_hit(key, freshness) };
        }
        self.figures.misses += 1;
        let mut permit = None;
        if asked.permit {
            match self.acquire(asked.origin) {
                Ok(trial) => permit = Some(trial),
                Err(next_attempt) => return Begun::Refused { next_attempt },
            }
        }
        self.cut(key);
        self.tell_idle();
        self.figures.loads += 1;
        let copy = self.held(key).map(|(item, _)| item.clone());
        let flight = self.flights.len();
        self.flights.push(Flight {
            key,
            token: None,
            phase: Phase::Running,
            over: false,
            batch: None,
            thread: asked.thread,
            origin: asked.origin,
            route: asked.route,
            hard_timeout: asked.hard_timeout,
            deadline: self.now.saturating_add(asked.hard_timeout),
            copy: copy.clone(),
            permit,
        });
        self.attached.insert(key, flight);
        Begun::Lead { flight, copy }
    }

    /// The engine has given a flight its token.
    pub fn name(&mut self, flight: FlightId, token: Token, parent: Token) {
        self.flights[flight].token = Some(token);
        self.by_token.insert(token, flight);
        if parent != 0 {
            self.waits.insert((parent, token));
        }
    }

    fn wait(&mut self, waiter: Token, awaited: Token) -> bool {
        let mut open = vec![awaited];
        let mut seen = HashSet::new();
        while let Some(token) = open.pop() {
            if token == waiter {
                return false;
            }
            if seen.insert(token) {
                open.extend(self.waits.iter().filter(|(from, _)| *from == token).map(|(_, to)| *to));
            }
        }
        self.waits.insert((waiter, awaited));
        true
    }

    /// `random` decides on the wait before the next attempt, if others of its batch failed.
    pub fn settle(&mut self, token: Token, brought: &Brought, random: f64) -> (Stored, BatchEnd) {
        let Some(id) = self.by_token.get(&token).copied().filter(|id| self.flights[*id].phase != Phase::Queued) else {
            return (Stored::Gone, BatchEnd::None);
        };
        let key = self.flights[id].key;
        self.end(id);
        let mut stored = Stored::No;
        if self.attached.get(&key) == Some(&id) {
            self.attached.remove(&key);
            if self.flights[id].phase == Phase::Running {
                stored = self.store(id, brought);
            }
        }
        if let (Stored::Yes, Brought::Value { value, .. }) = (stored, brought) {
            self.compress_later(value.len());
        }
        self.rests.remove(&key);
        self.figures.background_updates += u64::from(self.flights[id].batch.is_some());
        self.ended(id, token, Outcome::Success);
        let end = self.finish(id, false, random);
        (stored, end)
    }

    fn store(&mut self, id: FlightId, brought: &Brought) -> Stored {
        let flight = &self.flights[id];
        let key = flight.key;
        let item = match (brought, &flight.copy) {
            (Brought::Unstored, _) | (Brought::NotModified { .. }, None) => return Stored::No,
            (Brought::Value { fits: false, .. }, _) => {
                self.items.remove(&key);
                return Stored::TooLarge;
            }
            (Brought::Value { value, metadata, ages, route, .. }, _) => Item {
                value: value.clone(),
                metadata: metadata.clone(),
                route: *route,
                stored_at: self.now,
                ages: *ages,
            },
            (Brought::NotModified { ages, metadata }, Some(copy)) => Item {
                value: copy.value.clone(),
                metadata: metadata.clone().unwrap_or(copy.metadata.clone()),
                route: flight.route,
                stored_at: self.now,
                ages: *ages,
            },
        };
        self.items.insert(key, item);
        Stored::Yes
    }

    /// `random` decides on the wait before the next attempt.
    pub fn fail(&mut self, token: Token, outcome: Outcome, failed: bool, random: f64) -> (Stored, BatchEnd) {
        let Some(id) = self.by_token.get(&token).copied().filter(|id| self.flights[*id].phase != Phase::Queued) else {
            return (Stored::Gone, BatchEnd::None);
        };
        let flight = &self.flights[id];
        let was_cut = flight.phase == Phase::Cut;
        let retries_left = flight.batch.is_some_and(|b| self.batches[&b].attempt < self.config.queue.retries);
        if failed && retries_left && !was_cut {
            self.flights[id].phase = Phase::Queued;
        } else {
            let key = flight.key;
            if self.attached.get(&key) == Some(&id) {
                self.attached.remove(&key);
            }
            self.end(id);
        }
        self.figures.errors += u64::from(failed);
        self.ended(id, token, outcome);
        let end = self.finish(id, failed && !was_cut, random);
        (Stored::No, end)
    }

    fn ended(&mut self, id: FlightId, token: Token, outcome: Outcome) {
        self.waits.retain(|(waiter, awaited)| *waiter != token && *awaited != token);
        if let Some(trial) = self.flights[id].permit.take() {
            self.record(self.flights[id].origin, trial, outcome);
        }
    }

    fn finish(&mut self, id: FlightId, failed: bool, random: f64) -> BatchEnd {
        let Some(number) = self.flights[id].batch else { return BatchEnd::None };
        let Some(batch) = self.batches.get_mut(&number) else { return BatchEnd::None };
        let BatchState::Running { outstanding } = &mut batch.state else { return BatchEnd::None };
        *outstanding -= 1;
        if failed {
            batch.flights.push(id);
        }
        if *outstanding > 0 {
            return BatchEnd::None;
        }
        let end = if !batch.flights.is_empty() && batch.attempt < self.config.queue.retries {
            batch.attempt += 1;
            let longest = doubled(self.config.backoff, batch.attempt - 1);
            batch.state = BatchState::Resting { until: self.now + (longest as f64 * random) as Millis };
            BatchEnd::Retry
        } else {
            for failed in std::mem::take(&mut batch.flights) {
                let key = self.flights[failed].key;
                let failures = self.rests.get(&key).filter(|(until, _)| until + LONGEST_WAIT > self.now);
                let failures = failures.map_or(0, |(_, failures)| *failures);
                self.rests.insert(key, (self.now + doubled(self.config.cooldown, failures), failures + 1));
            }
            self.batches.remove(&number);
            BatchEnd::Finished
        };
        self.pump();
        self.tell_idle();
        end
    }

    // ------------------------------------------------------------ the queue

    /// The flights of the batch to be, if any key is in need of a refresh. The engine chooses the batch's number.
    pub fn refresh(
        &mut self,
        keys: &[Key],
        thread: Thread,
        origin: Option<Origin>,
        route: u16,
        timeout: Millis,
    ) -> Vec<FlightId> {
        let mut batch = Vec::new();
        if self.would_refuse(origin) {
            return batch;
        }
        let max = self.config.queue.max_queued;
        for key in keys {
            let old = self.held(*key).is_some_and(|(_, freshness)| freshness != Freshness::Fresh);
            if self.attached.contains_key(key) || self.rests(*key) || !old {
                continue;
            }
            let runs_at_once = self.line.is_empty() && self.slots_taken() < self.config.queue.concurrency;
            if self.queued() + batch.len() >= max && !runs_at_once {
                self.figures.refreshes_dropped += 1;
                continue;
            }
            let flight = self.flights.len();
            self.flights.push(Flight {
                key: *key,
                token: None,
                phase: Phase::Queued,
                over: false,
                batch: None,
                thread,
                origin,
                route,
                hard_timeout: timeout,
                deadline: FOREVER,
                copy: None,
                permit: None,
            });
            self.attached.insert(*key, flight);
            batch.push(flight);
        }
        batch
    }

    /// The engine has given a new batch its number.
    pub fn line_up(&mut self, number: BatchId, thread: Thread, flights: Vec<FlightId>) {
        for flight in &flights {
            self.flights[*flight].batch = Some(number);
        }
        self.batches.insert(number, Batch { thread, state: BatchState::Waiting, attempt: 0, flights });
        self.line.push_back(number);
        self.pump();
    }

    fn slots_taken(&self) -> usize {
        let taken = |batch: &&Batch| matches!(batch.state, BatchState::Starting | BatchState::Running { .. });
        self.batches.values().filter(taken).count()
    }

    fn pump(&mut self) {
        while self.slots_taken() < self.config.queue.concurrency
            && let Some(number) = self.line.pop_front()
        {
            if let Some(batch) = self.batches.get_mut(&number) {
                batch.state = BatchState::Starting;
                self.posted.starts.push((batch.thread, number));
            }
        }
    }

    fn drop_batch(&mut self, number: BatchId) {
        if let Some(batch) = self.batches.remove(&number) {
            self.line.retain(|other| *other != number);
            self.posted.dropped.push((batch.thread, number));
            for id in batch.flights {
                self.release(id);
            }
            self.pump();
        }
    }

    fn release(&mut self, id: FlightId) {
        if !self.flights[id].over {
            let key = self.flights[id].key;
            if self.attached.get(&key) == Some(&id) {
                self.attached.remove(&key);
            }
            self.end(id);
        }
    }

    /// What the batch is to load, with the copy of each.
    pub fn start(&mut self, number: BatchId) -> Vec<(FlightId, Option<Item>)> {
        let Some(batch) = self.batches.get_mut(&number) else { return Vec::new() };
        if batch.state != BatchState::Starting {
            return Vec::new();
        }
        let flights = std::mem::take(&mut batch.flights);
        batch.state = BatchState::Running { outstanding: flights.len() };
        let origin = flights.first().and_then(|id| self.flights[*id].origin);
        let Ok(trial) = self.acquire(origin) else {
            if let Some(batch) = self.batches.get_mut(&number) {
                batch.flights = flights;
            }
            self.drop_batch(number);
            self.tell_idle();
            return Vec::new();
        };
        let mut permit = Some(trial);
        let mut started = Vec::new();
        for id in flights {
            let key = self.flights[id].key;
            let copy = self.held(key).map(|(item, _)| item.clone());
            let flight = &mut self.flights[id];
            flight.phase = Phase::Running;
            flight.deadline = self.now.saturating_add(flight.hard_timeout);
            flight.copy = copy.clone();
            flight.permit = permit.take();
            self.figures.loads += 1;
            started.push((id, copy));
        }
        started
    }

    fn compress_later(&mut self, len: usize) {
        self.jobs += usize::from(self.config.compression.is_some_and(|compression| len > compression.threshold));
    }

    /// A worker has done a piece of work.
    pub fn worked(&mut self) {
        self.jobs -= 1;
        self.tell_idle();
    }

    fn is_idle(&self) -> bool {
        self.batches.is_empty() && self.jobs == 0
    }

    pub fn flush(&mut self) -> bool {
        let idle = self.is_idle();
        self.flush_wanted |= !idle;
        idle
    }

    fn tell_idle(&mut self) {
        if self.flush_wanted && self.is_idle() {
            self.flush_wanted = false;
            self.posted.idle += 1;
        }
    }

    pub fn drop_queued(&mut self, thread: Thread) {
        while let Some(number) = self.batches.iter().find_map(|(number, batch)| {
            let waits = !matches!(batch.state, BatchState::Running { .. });
            (waits && batch.thread == thread).then_some(*number)
        }) {
            self.drop_batch(number);
        }
        self.tell_idle();
    }

    /// A thread ends: the tokens of its flights that ended with it, in the order they began.
    pub fn detach(&mut self, thread: Thread) -> Vec<Token> {
        self.drop_queued(thread);
        for batch in self.batches.values_mut().filter(|batch| batch.thread == thread) {
            batch.attempt = self.config.queue.retries;
        }
        let open: Vec<_> = (0..self.flights.len())
            .filter(|id| !self.flights[*id].over && self.flights[*id].thread == thread)
            .collect();
        let mut tokens: Vec<_> = open.iter().filter_map(|id| self.flights[*id].token).collect();
        tokens.sort_unstable();
        tokens.retain(|token| self.fail(*token, Outcome::Aborted, false, 0.0).0 != Stored::Gone);
        open.into_iter().for_each(|id| self.release(id));
        self.tell_idle();
        // It hears nothing any more.
        self.posted.starts.retain(|(to, _)| *to != thread);
        self.posted.dropped.retain(|(to, _)| *to != thread);
        tokens
    }

    /// Work for a thread that ended is not done.
    pub fn forget_jobs(&mut self, jobs: usize) {
        self.jobs -= jobs;
        self.tell_idle();
    }

    // ------------------------------------------------------------ time

    pub fn tick(&mut self) {
        let now = self.now;
        for flight in self.flights.iter_mut().filter(|f| !f.over && f.phase != Phase::Queued && f.deadline <= now) {
            flight.deadline = FOREVER;
            if flight.phase == Phase::Running {
                flight.phase = Phase::Expired;
            }
            self.posted.timed_out.extend(flight.token.map(|token| (flight.thread, token)));
        }
        let mut due: Vec<_> = self
            .batches
            .iter()
            .filter_map(|(number, batch)| match batch.state {
                BatchState::Resting { until } if until <= now => Some((until, *number)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        for (_, number) in due {
            if let Some(batch) = self.batches.get_mut(&number) {
                batch.state = BatchState::Waiting;
                self.line.push_back(number);
                self.pump();
            }
        }
        self.tell_idle();
    }

    // ------------------------------------------------------------ breakers

    fn breaker_config(&self) -> Option<BreakerConfig> {
        self.config.breaker
    }

    fn would_refuse(&self, origin: Option<Origin>) -> bool {
        let (Some(origin), Some(_)) = (origin, self.breaker_config()) else { return false };
        let breaker = &self.breakers[origin];
        match breaker.state {
            State::Closed => false,
            State::Open => self.now < breaker.until,
            State::HalfOpen => breaker.trial,
        }
    }

    /// Whether the call is the trial, or when the next may be tried.
    fn acquire(&mut self, origin: Option<Origin>) -> Result<bool, Millis> {
        let (Some(index), Some(_)) = (origin, self.breaker_config()) else { return Ok(false) };
        if self.would_refuse(origin) {
            let breaker = &self.breakers[index];
            return Err(if breaker.state == State::Open { breaker.until } else { self.now });
        }
        if self.breakers[index].state == State::Closed {
            return Ok(false);
        }
        self.breakers[index].trial = true;
        self.change(index, State::HalfOpen);
        Ok(true)
    }

    fn record(&mut self, origin: Option<Origin>, trial: bool, outcome: Outcome) {
        let (Some(index), Some(config)) = (origin, self.breaker_config()) else { return };
        let breaker = &mut self.breakers[index];
        // What was begun under another state than today's says nothing.
        if trial != (breaker.state == State::HalfOpen) || breaker.state == State::Open {
            return;
        }
        breaker.trial = false;
        match outcome {
            Outcome::Aborted => {}
            Outcome::Success => {
                breaker.failures = 0;
                self.change(index, State::Closed);
            }
            Outcome::Failure => {
                breaker.failures += 1;
                if trial || breaker.failures >= config.threshold {
                    breaker.until = self.now.saturating_add(config.timeout);
                    self.change(index, State::Open);
                }
            }
        }
    }

    fn change(&mut self, origin: Origin, state: State) {
        if self.breakers[origin].state != state {
            self.breakers[origin].state = state;
            self.posted.breakers.push((origin, state));
        }
    }
}

fn doubled(base: Millis, times: u32) -> Millis {
    (0..times).fold(base, |wait, _| wait.saturating_mul(2).min(LONGEST_WAIT.max(base)))
}
