//! An engine and its [reference](super::reference) side by side: one operation after another is done to both, and all that
//! can be seen of them is compared after each.
//!
//! Beside the reference stands an oracle that knows nothing of how the engine works: each value is known by the load or put
//! it came from, and must never be served once its key was written after that had begun; and no fetcher may be started for a
//! key while another runs that was neither outdated nor given up.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use kvcache_engine::clock::{Clock, FOREVER, FakeClock, Millis};
use kvcache_engine::codec::compress::Algorithm;
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::{
    self, Alarm, Begin, Compression, Engine, Event, Found, Inbox, Landed, Loaded, Refresh, ThreadId, Value,
};
use kvcache_engine::entry::{Ages, Entry, Freshness, Kind};
use kvcache_engine::load::breaker::{BreakerConfig, OriginId, Outcome};
use kvcache_engine::load::queue::Limits;
use kvcache_engine::memory::EvictReason;

use super::reference::{Asked, BatchId, Begun, Brought, FlightId, Item, Key, Posted, Reference, Stored, Token};

/// Where decisions come from: random numbers, or the bytes of a fuzzer.
pub trait Choices {
    /// A number below `n`, which is at least 1.
    fn below(&mut self, n: usize) -> usize;

    /// One of them.
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }
}

/// Longest pause between two rounds of reclaiming, and what the engine's timer wheel may be late by.
const RECLAIM_SLACK: Millis = 50;

/// The figures are compared after so many operations: to read the latencies costs more than all else.
const FIGURES_EVERY: u32 = 6;

const THREADS: usize = 3;
const ORIGINS: usize = 2;

#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Inbox for Recorder {
    fn post(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

struct Ringer(Mutex<Millis>);

impl Ringer {
    fn at(&self) -> Millis {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, at: Millis) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}

impl Alarm for Ringer {
    fn work_waits(&self) {
        // Whoever plays the worker sees for himself.
    }

    fn no_later_than(&self, at: Millis) {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *set = at.min(*set);
    }
}

/// Where a value came from.
#[derive(Debug, Clone, Copy)]
struct Source {
    key: Key,
    /// How often the key had been written when the load began, or with the put.
    writes: u64,
}

/// A fetcher that was started and has not reported.
#[derive(Debug, Clone, Copy)]
struct Fetching {
    key: Key,
    writes: u64,
    given_up: bool,
}

/// How other threads stand to a flight.
#[derive(Debug, Default)]
struct Watched {
    by: Vec<usize>,
    kept: bool,
    abandoned: bool,
}

pub struct World {
    engine: Engine,
    clock: FakeClock,
    inboxes: Vec<(ThreadId, Arc<Recorder>)>,
    origins: Vec<OriginId>,
    alarm: Arc<Ringer>,
    reference: Reference,
    keys: Vec<Vec<u8>>,
    budget: u64,
    /// Every token that was given, those of flights that are over among them.
    tokens: Vec<Token>,
    batches: Vec<BatchId>,
    writes: Vec<u64>,
    sources: HashMap<u64, Source>,
    fetching: HashMap<Token, Fetching>,
    /// Evictions posted by the operation under way.
    evicted: Vec<(Key, EvictReason)>,
    compared: u32,
    tools: RefCell<Tools>,
    /// Values that are to be decompressed, by the number of the work: for which thread, and what it should become.
    inflating: HashMap<u64, (usize, Vec<u8>)>,
    /// The other threads that wait for a flight, those that want it to go on, and whether its own thread has left.
    watched: HashMap<Token, Watched>,
    /// What is to be told to those who waited for flights of other threads.
    landing: Vec<(usize, Token, String)>,
    abandoned: Vec<(usize, Token)>,
    /// What has been done, if that is wanted.
    pub journal: Option<Vec<String>>,
}

impl World {
    /// `journal` tells whether to keep a [journal](World::journal).
    pub fn new(choices: &mut impl Choices, journal: bool) -> Self {
        let budget = choices.pick(&[1 << 20, 1 << 20, 2_000, 5_000]);
        let config = engine::Config {
            memory: budget,
            queue: Limits {
                concurrency: choices.pick(&[1, 2, 3]),
                max_queued: choices.pick(&[0, 1, 2, 4, 100]),
                retries: choices.pick(&[0, 1, 2]),
            },
            backoff: choices.pick(&[0, 10, 100]),
            cooldown: choices.pick(&[0, 50, 1_000]),
            compression: choices.coin().then(|| {
                let algorithm = choices.pick(&Algorithm::ALL);
                Compression { algorithm, level: algorithm.default_level(), threshold: choices.pick(&[0, 200]) }
            }),
            breaker: (choices.below(4) > 0).then(|| BreakerConfig {
                threshold: choices.pick(&[1, 2, 3]),
                timeout: choices.pick(&[50, 500, FOREVER]),
            }),
        };
        let clock = FakeClock::default();
        let alarm = Arc::new(Ringer(Mutex::new(FOREVER)));
        let engine = Engine::new(config, Arc::new(clock.clone()), Arc::<Ringer>::clone(&alarm));
        let attach = |_| {
            let inbox = Arc::new(Recorder::default());
            (engine.attach(Arc::<Recorder>::clone(&inbox)), inbox)
        };
        let inboxes: Vec<_> = (0..THREADS).map(attach).collect();
        let origins = (0..ORIGINS).map(|n| engine.origin(&n.to_string())).collect();
        inboxes.iter().for_each(|(thread, _)| engine.tell_evictions(*thread, true));
        // Keys that are prefixes of one another, and out of order.
        let names = ["b", "a", "ab", "abc", "b:1", "\u{ff}", "k:é", "zz"];
        let keys: Vec<_> = names.iter().take(choices.pick(&[1, 3, 8])).map(|name| name.as_bytes().to_vec()).collect();
        Self {
            journal: journal.then(|| vec![format!("{config:?}, {} keys", keys.len())]),
            reference: Reference::new(config, ORIGINS),
            writes: vec![0; keys.len()],
            engine,
            clock,
            inboxes,
            origins,
            alarm,
            keys,
            budget,
            tokens: Vec::new(),
            batches: Vec::new(),
            sources: HashMap::new(),
            fetching: HashMap::new(),
            evicted: Vec::new(),
            compared: 0,
            tools: RefCell::default(),
            inflating: HashMap::new(),
            watched: HashMap::new(),
            landing: Vec::new(),
            abandoned: Vec::new(),
        }
    }

    /// Does one operation, and compares.
    pub fn step(&mut self, choices: &mut impl Choices) {
        match choices.below(35) {
            0..=1 => self.lookup(choices),
            2..=5 => self.begin(choices),
            6..=8 => self.refresh_stale(choices),
            9..=13 => self.settle(choices),
            14..=16 => self.fail(choices),
            17..=18 => self.put(choices),
            19 => self.delete(choices),
            20..=22 => self.refresh(choices),
            23..=25 => self.start(choices),
            26 => match choices.below(2) {
                0 => self.flush(),
                _ => self.list(choices),
            },
            27 => self.work(),
            28..=30 => self.pass(choices),
            31..=33 => match choices.below(8) {
                0..=1 => self.abandon(choices),
                2..=4 => self.leave(choices),
                5 => self.inflate(choices),
                _ => self.detach(choices),
            },
            _ => match choices.below(8) {
                0 => self.drop_queued(),
                1 => self.clear(),
                2 => self.put_too_large(choices),
                3 => self.tick(),
                5 => self.inflate(choices),
                // Without a tick: what is due is done late.
                4 => self.advance(30),
                _ => self.copy_in_hand(choices),
            },
        }
        self.compare();
    }

    /// Ends all that runs or waits, lets all time pass, and sees that nothing is left.
    pub fn finish(&mut self) {
        for round in 0.. {
            assert!(round < 1_000, "there is no end of it");
            if let Some(batch) = self.reference.starting().first() {
                self.start_batch(*batch);
            } else if let Some(token) = self.fetching.keys().min().copied() {
                self.fail_flight(token, Outcome::Aborted, round % 2 == 0, round);
            } else if self.reference.jobs > 0 {
                self.work();
            } else if self.reference.queued() > 0 {
                self.advance(1_000);
                self.tick();
            } else {
                break;
            }
            self.compare();
        }
        self.compare_figures();
        let stats = self.engine.stats();
        assert_eq!((self.engine.open_flights(), stats.queued, stats.running), (0, 0, 0));
        assert!(self.engine.flush() && self.inflating.is_empty());
        assert!(self.tokens.iter().all(|token| !self.engine.remembers(*token)));
        // Entries that end go without being read: as the alarm rings, and no more often than that.
        for round in 0.. {
            assert!(round < 1_000, "the alarm rings without end");
            let at = self.alarm.at();
            if at == FOREVER {
                break;
            }
            self.advance(at.saturating_sub(self.reference.now));
            self.tick();
            self.compare();
        }
        assert!(
            self.reference.items.values().all(|item| item.dead_at() == FOREVER),
            "what has ended was not reclaimed"
        );
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(journal) = &mut self.journal {
            journal.push(format!("{:>6} {}", self.reference.now, what()));
        }
    }

    // ------------------------------------------------------------ operations

    fn key(&self, choices: &mut impl Choices) -> Key {
        choices.below(self.keys.len())
    }

    fn token(&self, choices: &mut impl Choices) -> Option<Token> {
        // Mostly one that has not ended.
        let mut open: Vec<_> = self.fetching.keys().copied().collect();
        open.sort_unstable();
        let among = if choices.below(8) > 0 && !open.is_empty() { &open } else { &self.tokens };
        (!among.is_empty()).then(|| choices.pick(among))
    }

    fn origin(&self, choices: &mut impl Choices) -> (Option<usize>, OriginId) {
        let n = choices.below(ORIGINS + 1);
        self.origins.get(n).map_or((None, OriginId::NONE), |id| (Some(n), *id))
    }

    fn ages(choices: &mut impl Choices) -> Ages {
        const SOME: [Millis; 6] = [0, 5, 20, 100, 3_000, FOREVER];
        if choices.coin() {
            // Soon stale, and then for long: without these there is little to refresh.
            return Ages { max_age: choices.pick(&[0, 5]), stale_age: FOREVER, stale_if_error: FOREVER };
        }
        Ages { max_age: choices.pick(&SOME), stale_age: choices.pick(&SOME), stale_if_error: choices.pick(&SOME) }
    }

    /// A value never seen before, from a load or put that began when its key had been written so often.
    fn value(&mut self, choices: &mut impl Choices, source: Source) -> Vec<u8> {
        let id = self.sources.len() as u64;
        self.sources.insert(id, source);
        let mut value = id.to_le_bytes().to_vec();
        value.resize(8 + choices.pick(&[0, 10, 300, 900]), b'.');
        value
    }

    fn lookup(&mut self, choices: &mut impl Choices) {
        let key = self.key(choices);
        let give_up = choices.coin();
        self.note(|| format!("lookup {key} give_up {give_up}"));
        let found = self.engine.lookup(&self.keys[key], give_up.then_some(1));
        let expected = self.reference.lookup(key, give_up);
        assert_eq!(found.is_some(), expected.is_some(), "lookup: {found:?}, not {expected:?}");
        if let (Some(found), Some((item, freshness, due))) = (found, expected) {
            self.check_found(key, &found, &item);
            assert_eq!((found.freshness, found.refresh_due), (freshness, due));
        }
    }

    fn begin(&mut self, choices: &mut impl Choices) {
        let key = self.key(choices);
        let (origin, origin_id) = self.origin(choices);
        let thread = choices.below(THREADS);
        let parent = if choices.below(3) == 0 { self.token(choices).unwrap_or(0) } else { 0 };
        let asked = Asked {
            thread,
            parent,
            origin,
            route: choices.below(3) as u16,
            hard_timeout: choices.pick(&[10, 100, 1_000, FOREVER]),
            force: choices.below(3) == 0,
            permit: choices.below(8) > 0,
        };
        self.note(|| format!("begin {key} thread {thread} parent {parent} origin {origin:?} force {}", asked.force));
        let begun = self.engine.begin(
            &self.keys[key],
            &Begin {
                thread: self.inboxes[thread].0,
                parent,
                origin: origin_id,
                route: asked.route,
                hard_timeout: asked.hard_timeout,
                force: asked.force,
                permit: asked.permit,
                since: 0,
            },
        );
        self.note(|| format!("  {begun:?}"));
        match (begun, self.reference.begin(key, &asked)) {
            (engine::Begun::Hit(found), Begun::Hit { item, refresh_due }) => {
                self.check_found(key, &found, &item);
                assert_eq!(found.refresh_due, refresh_due);
            }
            (engine::Begun::Lead { token, stale, .. }, Begun::Lead { flight, copy }) => {
                self.reference.name(flight, token, parent);
                self.check_copy(key, stale, copy);
                self.tokens.push(token);
                self.fetches(key, token);
            }
            (engine::Begun::Join(token), Begun::Join(expected)) => {
                assert_eq!(token, expected);
                if self.leader(token) != Some(thread) {
                    let watched = self.watched.entry(token).or_default();
                    if !watched.by.contains(&thread) {
                        watched.by.push(thread);
                    }
                }
                let joined = self.fetching[&token];
                assert_eq!((joined.key, joined.writes), (key, self.writes[key]), "joined a load that is outdated");
            }
            (engine::Begun::Refused { next_attempt }, Begun::Refused { next_attempt: expected }) => {
                assert_eq!(next_attempt, expected);
            }
            (engine::Begun::Recursion, Begun::Recursion) => {}
            (begun, expected) => panic!("begin: {begun:?}, not {expected:?}"),
        }
    }

    /// A fetcher is started: none may run for that key but outdated ones and those that were given up.
    fn fetches(&mut self, key: Key, token: Token) {
        let writes = self.writes[key];
        for (other, fetching) in &self.fetching {
            let outdated = fetching.key != key || fetching.given_up || fetching.writes < writes;
            assert!(outdated, "{token} is a second load of key {key} beside {other}");
        }
        self.fetching.insert(token, Fetching { key, writes, given_up: false });
    }

    fn settle(&mut self, choices: &mut impl Choices) {
        let Some(token) = self.token(choices) else { return };
        let ages = Self::ages(choices);
        // Of a flight that is over, or waits for its next attempt, nothing is expected but that it is passed over.
        let fetching = self.fetching.get(&token).copied().unwrap_or(Fetching { key: 0, writes: 0, given_up: true });
        let route = choices.below(3) as u16;
        let brought = match choices.below(8) {
            0 => Brought::Unstored,
            1..=2 => Brought::NotModified { ages, metadata: choices.coin().then(|| b"\"new\"".to_vec()) },
            n => {
                let mut value = self.value(choices, Source { key: fetching.key, writes: fetching.writes });
                let fits = n > 3 || self.budget > 100_000;
                if !fits {
                    value.resize(self.budget as usize + 1, b'.');
                }
                Brought::Value { value, metadata: b"{}".to_vec(), ages, route, fits }
            }
        };
        let random = seed(choices.below(1 << 16) as u64);
        self.note(|| format!("settle {token} with {}", name_of(&brought)));
        let loaded = match &brought {
            Brought::Unstored => Loaded::Unstored { links: &[] },
            Brought::NotModified { ages, metadata } => {
                Loaded::NotModified { ages: *ages, metadata: metadata.as_deref(), links: None }
            }
            Brought::Value { value, metadata, ages, route, .. } => Loaded::Value(Value {
                kind: Kind::Bytes,
                bytes: value,
                metadata,
                ages: *ages,
                route: *route,
                links: b"",
            }),
        };
        let copy = self.reference.flight_of(token).and_then(|flight| flight.copy.clone()).map(|copy| copy.value);
        let lands = match &brought {
            Brought::Value { value, .. } => value_text(Some(value)),
            Brought::NotModified { .. } => value_text(copy.as_ref()),
            Brought::Unstored => value_text(None),
        };
        let settled = self.engine.settle(token, &loaded);
        self.note(|| format!("  {settled:?}"));
        // What was evicted to make room went before the new value came.
        self.collect();
        let (stored, end) = self.reference.settle(token, &brought, random);
        assert_eq!((stored_of(settled.stored), settled.batch), (stored, end));
        if stored != Stored::Gone {
            self.fetching.remove(&token);
            self.lands(token, &lands);
        }
    }

    fn fail(&mut self, choices: &mut impl Choices) {
        let Some(token) = self.token(choices) else { return };
        let outcome = choices.pick(&[Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Aborted]);
        let failed = choices.below(4) > 0;
        self.fail_flight(token, outcome, failed, choices.below(1 << 16) as u64);
    }

    fn fail_flight(&mut self, token: Token, outcome: Outcome, failed: bool, chance: u64) {
        let random = seed(chance);
        self.note(|| format!("fail {token} {outcome:?} {failed}"));
        let why = if chance.is_multiple_of(2) { "" } else { "why" };
        let settled = self.engine.fail_with(token, outcome, failed, why.as_bytes());
        self.note(|| format!("  {settled:?}"));
        let (stored, end) = self.reference.fail(token, outcome, failed, random);
        assert_eq!((stored_of(settled.stored), settled.batch), (stored, end));
        if stored != Stored::Gone {
            self.fetching.remove(&token);
            self.lands(token, if why.is_empty() { "again" } else { "failed why" });
        }
    }

    // ------------------------------------------------------------ threads

    /// The thread of a flight that has not ended.
    fn leader(&self, token: Token) -> Option<usize> {
        self.reference.flight_of(token).map(|flight| flight.thread)
    }

    /// A flight has ended: those of other threads who waited for it are told.
    fn lands(&mut self, token: Token, what: &str) {
        let watched = self.watched.remove(&token).unwrap_or_default();
        self.landing.extend(watched.by.into_iter().map(|thread| (thread, token, what.to_owned())));
    }

    /// The last caller in a flight's own thread leaves.
    fn abandon(&mut self, choices: &mut impl Choices) {
        let Some(token) = self.token(choices) else { return };
        let awaited = self.watched.get(&token).is_some_and(|watched| watched.kept || !watched.by.is_empty());
        if !self.fetching.contains_key(&token) || !awaited {
            return self.fail_flight(token, Outcome::Aborted, false, 0);
        }
        self.note(|| format!("abandon {token}"));
        assert_eq!(self.engine.abandon(token).stored, engine::Stored::Awaited);
        self.watched.entry(token).or_default().abandoned = true;
    }

    /// The last caller in another thread leaves.
    fn leave(&mut self, choices: &mut impl Choices) {
        let Some(token) = self.token(choices) else { return };
        let (thread, running) = (choices.below(THREADS), choices.below(4) == 0);
        self.note(|| format!("leave {token} thread {thread} running {running}"));
        self.engine.leave(self.inboxes[thread].0, token, running);
        if self.reference.flight_of(token).is_some() {
            self.watched.entry(token).or_default().kept |= running;
            self.left(thread, token);
        }
    }

    fn left(&mut self, thread: usize, token: Token) {
        let Some(watched) = self.watched.get_mut(&token) else { return };
        let before = watched.by.len();
        watched.by.retain(|watcher| *watcher != thread);
        if watched.by.len() < before && watched.by.is_empty() && watched.abandoned && !watched.kept {
            let leader = self.leader(token);
            self.abandoned.extend(leader.map(|leader| (leader, token)));
        }
    }

    /// A thread ends, and another one takes its place.
    fn detach(&mut self, choices: &mut impl Choices) {
        // Not the first, whose inbox tells of what is posted to all.
        let thread = 1 + choices.below(THREADS - 1);
        self.note(|| format!("thread {thread} ends"));
        self.engine.detach(self.inboxes[thread].0);
        self.collect();
        for token in self.reference.detach(thread) {
            self.fetching.remove(&token);
            self.lands(token, "again");
        }
        for token in self.watched.keys().copied().collect::<Vec<_>>() {
            self.left(thread, token);
        }
        self.landing.retain(|(watcher, _, _)| *watcher != thread);
        let before = self.inflating.len();
        self.inflating.retain(|_, (of, _)| *of != thread);
        self.reference.forget_jobs(before - self.inflating.len());
        let inbox = Arc::new(Recorder::default());
        let id = self.engine.attach(Arc::<Recorder>::clone(&inbox));
        self.engine.tell_evictions(id, true);
        self.inboxes[thread] = (id, inbox);
    }

    fn put(&mut self, choices: &mut impl Choices) {
        let key = self.key(choices);
        self.writes[key] += 1;
        let value = self.value(choices, Source { key, writes: self.writes[key] });
        let item = Item {
            value,
            metadata: choices.pick(&[&b""[..], b"{\"a\":1}"]).to_vec(),
            route: choices.below(3) as u16,
            stored_at: self.reference.now,
            ages: Self::ages(choices),
        };
        self.note(|| format!("put {key} {:?}", item.ages));
        let value = Value {
            kind: Kind::Bytes,
            bytes: &item.value,
            metadata: &item.metadata,
            ages: item.ages,
            route: item.route,
            links: b"",
        };
        match self.engine.prepare(&self.keys[key], &value) {
            Ok(entry) => self.engine.commit(entry),
            Err(error) => panic!("put: {error}"),
        }
        self.collect();
        self.reference.put(key, item);
    }

    fn put_too_large(&mut self, choices: &mut impl Choices) {
        let key = self.key(choices);
        let value = vec![0; self.budget as usize];
        self.note(|| format!("put {key} too large"));
        let ages = Self::ages(choices);
        let value = Value { kind: Kind::Bytes, bytes: &value, metadata: b"", ages, route: 0, links: b"" };
        let refused = self.engine.prepare(&self.keys[key], &value).map(drop).map_err(|error| error.code());
        assert_eq!(refused, Err("ERR_KVCACHE_VALUE_TOO_LARGE"));
    }

    fn delete(&mut self, choices: &mut impl Choices) {
        let key = self.key(choices);
        self.writes[key] += 1;
        self.note(|| format!("delete {key}"));
        assert_eq!(self.engine.delete(&self.keys[key]), self.reference.delete(key));
    }

    fn refresh(&mut self, choices: &mut impl Choices) {
        let keys: Vec<_> = (0..choices.pick(&[1, 1, 2, 5])).map(|_| self.key(choices)).collect();
        self.refresh_keys(choices, &keys);
    }

    fn refresh_keys(&mut self, choices: &mut impl Choices, keys: &[Key]) {
        let (origin, origin_id) = self.origin(choices);
        let thread = choices.below(THREADS);
        let hard_timeout = choices.pick(&[10, 100, FOREVER]);
        let route = choices.below(3) as u16;
        self.note(|| format!("refresh {keys:?} thread {thread} origin {origin:?}"));
        let refresh = Refresh { thread: self.inboxes[thread].0, origin: origin_id, route, hard_timeout };
        let batch = self.engine.refresh(keys.iter().map(|key| &self.keys[*key][..]), &refresh);
        self.note(|| format!("  {batch:?}"));
        let flights = self.reference.refresh(keys, thread, origin, route, hard_timeout);
        assert_eq!(batch.is_some(), !flights.is_empty());
        if let Some(batch) = batch {
            self.reference.line_up(batch, thread, flights);
            assert!(!self.batches.contains(&batch));
            self.batches.push(batch);
        }
    }

    fn start(&mut self, choices: &mut impl Choices) {
        let starting = self.reference.starting();
        let among = if choices.below(8) > 0 && !starting.is_empty() { &starting } else { &self.batches };
        if !among.is_empty() {
            let batch = choices.pick(among);
            self.start_batch(batch);
        }
    }

    fn start_batch(&mut self, batch: BatchId) {
        self.note(|| format!("start {batch}"));
        let started = self.engine.start(batch);
        self.note(|| format!("  {started:?}"));
        let expected = self.reference.start(batch);
        assert_eq!(started.len(), expected.len());
        for (started, (flight, copy)) in started.into_iter().zip(expected) {
            let key = self.reference.flights[flight].key;
            assert_eq!(&started.key[..], &self.keys[key][..]);
            self.check_copy(key, started.stale, copy);
            self.name(flight, started.token);
            self.fetches(key, started.token);
        }
    }

    /// As a get that finds a stale value does, or a few of them: the refreshes are queued, and start as far as they may.
    fn refresh_stale(&mut self, choices: &mut impl Choices) {
        let mut due: Vec<_> = (0..self.keys.len()).filter(|key| self.reference.is_refresh_due(*key)).collect();
        due.truncate(choices.pick(&[1, 1, 2, 8]));
        if !due.is_empty() {
            self.refresh_keys(choices, &due);
        }
        while let Some(batch) = self.reference.starting().first() {
            self.start_batch(*batch);
        }
    }

    /// A queued flight has started: only now its token is known, unless it is a further attempt.
    fn name(&mut self, flight: FlightId, token: Token) {
        match self.reference.flights[flight].token {
            Some(known) => assert_eq!(known, token),
            None => {
                self.reference.name(flight, token, 0);
                self.tokens.push(token);
            }
        }
    }

    fn flush(&mut self) {
        self.note(|| "flush".into());
        assert_eq!(self.engine.flush(), self.reference.flush());
    }

    fn drop_queued(&mut self) {
        self.note(|| "drop_queued".into());
        for thread in 0..THREADS {
            self.engine.drop_queued(self.inboxes[thread].0);
            self.reference.drop_queued(thread);
        }
        // Which batches were given a slot before they, too, were dropped, is the engine's business.
        let dropped: HashSet<_> = self.reference.posted.dropped.iter().copied().collect();
        self.reference.posted.starts.retain(|start| !dropped.contains(start));
        self.collect();
        let starts = self.take_starts();
        assert!(starts.iter().all(|start| dropped.contains(start)));
        self.reference.posted.dropped.sort_unstable();
    }

    fn clear(&mut self) {
        self.note(|| "clear".into());
        self.engine.clear();
        self.reference.clear();
    }

    /// A value is to be decompressed by a worker.
    fn inflate(&mut self, choices: &mut impl Choices) {
        let key = self.key(choices);
        let thread = choices.below(THREADS);
        let Some(found) = self.engine.peek(&self.keys[key]) else { return };
        self.note(|| format!("inflate {key} thread {thread}"));
        let number = self.engine.inflate(self.inboxes[thread].0, found.entry.clone());
        self.reference.jobs += 1;
        let bytes = self.plain(&found.entry);
        assert!(self.inflating.insert(number, (thread, bytes)).is_none());
    }

    /// A worker does one piece of work.
    fn work(&mut self) {
        self.note(|| "work".into());
        assert_eq!(self.engine.has_work(), self.reference.jobs > 0);
        let worked = self.engine.work(&mut self.tools.borrow_mut());
        assert_eq!(worked, self.reference.jobs > 0);
        self.collect();
        if worked {
            self.reference.worked();
        }
    }

    fn copy_in_hand(&mut self, choices: &mut impl Choices) {
        let Some(token) = self.token(choices) else { return };
        let Some(flight) = self.reference.flight_of(token).cloned() else {
            assert!(self.engine.copy_in_hand(token).is_none());
            return;
        };
        let now = self.reference.now;
        let copy = flight.copy.filter(|copy| copy.freshness(now) != Freshness::Dead);
        self.check_copy(flight.key, self.engine.copy_in_hand(token), copy);
    }

    /// The keys in byte order, in pages, under a prefix.
    fn list(&mut self, choices: &mut impl Choices) {
        let prefix = choices.pick(&["", "a", "ab", "b", "b:", "zzz"]).as_bytes();
        let limit = choices.pick(&[1, 2, 100]);
        self.note(|| format!("list {prefix:?} by {limit}"));
        let mut expected: Vec<_> = (0..self.keys.len()).filter(|key| self.keys[*key].starts_with(prefix)).collect();
        expected.retain(|key| {
            let freshness = self.reference.held(*key).map(|(_, freshness)| freshness);
            matches!(freshness, Some(Freshness::Fresh | Freshness::Stale))
        });
        expected.sort_by_key(|key| &self.keys[*key]);
        let mut listed = Vec::new();
        let mut after = None;
        loop {
            let (page, complete) = self.engine.list(prefix, after.as_deref(), limit);
            assert!(page.len() <= limit && (complete || page.len() == limit));
            after = page.last().map(|entry| entry.key().to_vec());
            listed.extend(page);
            if complete {
                break;
            }
        }
        let names: Vec<_> = listed.iter().map(|entry| entry.key()).collect();
        assert_eq!(names, expected.iter().map(|key| &self.keys[*key][..]).collect::<Vec<_>>());
        for (entry, key) in listed.iter().zip(expected) {
            self.check_value(key, entry);
        }
    }

    /// Time passes, and the engine is told.
    fn pass(&mut self, choices: &mut impl Choices) {
        self.advance(choices.pick(&[0, 1, 5, 20, 60, 500, 5_000]));
        self.tick();
    }

    fn advance(&mut self, by: Millis) {
        self.clock.advance_millis(by);
        self.reference.now += by;
        self.note(|| format!("{by} ms later"));
        assert_eq!(self.clock.now_millis(), self.reference.now);
    }

    fn tick(&mut self) {
        self.note(|| "tick".into());
        let next = self.engine.tick();
        // As whoever rings the alarm would: what was asked for meanwhile comes on top.
        self.alarm.set(next);
        self.reference.tick();
        for (_, token) in self.reference.posted.timed_out.clone() {
            if let Some(fetching) = self.fetching.get_mut(&token) {
                fetching.given_up = true;
            }
            let after = self.reference.flight_of(token).map(|flight| flight.hard_timeout);
            if let Some(watched) = self.watched.get_mut(&token) {
                let by = std::mem::take(&mut watched.by);
                self.landing.extend(by.into_iter().map(|thread| (thread, token, format!("timed out {after:?}"))));
            }
        }
    }

    // ------------------------------------------------------------ comparing

    fn check_copy(&self, key: Key, found: Option<Found>, expected: Option<Item>) {
        assert_eq!(found.is_some(), expected.is_some(), "copy: {found:?}, not {expected:?}");
        if let (Some(found), Some(item)) = (found, expected) {
            self.check_item(&found, &item);
            assert_eq!(found.entry.key(), &self.keys[key][..]);
        }
    }

    /// What is served is what it should be, and is not outdated.
    fn check_found(&self, key: Key, found: &Found, expected: &Item) {
        assert_eq!(found.entry.key(), &self.keys[key][..]);
        self.check_item(found, expected);
        self.check_value(key, &found.entry);
    }

    /// The value of an entry, decompressed if it is compressed.
    fn plain(&self, entry: &Entry) -> Vec<u8> {
        let mut bytes = Vec::new();
        let inflated = self.tools.borrow_mut().inflate_into(entry, &mut bytes);
        assert_eq!(inflated, Ok(()));
        assert_eq!(bytes.len(), entry.raw_len());
        bytes
    }

    fn check_item(&self, found: &Found, expected: &Item) {
        let now = self.reference.now;
        let header = found.entry.header();
        assert_eq!(self.plain(&found.entry), expected.value);
        assert_eq!(found.entry.metadata(), expected.metadata);
        assert_eq!((header.route, header.kind, header.stored_at), (expected.route, Kind::Bytes, expected.stored_at));
        assert_eq!((found.freshness, found.age), (expected.freshness(now), now - expected.stored_at));
    }

    /// The oracle: nobody has written the key since the load or put that this came from began.
    fn check_value(&self, key: Key, entry: &Entry) {
        let id = self.plain(entry).first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let source = id.and_then(|id| self.sources.get(&id));
        let writes = self.writes[key];
        assert!(
            source.is_some_and(|source| source.key == key && source.writes == writes),
            "key {key}, written {writes} times, has a value from {source:?}"
        );
    }

    /// Reads the inboxes as far as evictions go, and does those to the reference.
    fn collect(&mut self) {
        let events = self.inboxes[0].1.take();
        for event in &events {
            if let Event::Evicted { key, reason, .. } = event {
                let key = self.keys.iter().position(|known| known == key.as_bytes());
                assert!(key.is_some(), "an unknown key was evicted");
                self.evicted.extend(key.map(|key| (key, *reason)));
            }
        }
        let rest = events.into_iter().filter(|event| !matches!(event, Event::Evicted { .. }));
        self.inboxes[0].1.0.lock().unwrap_or_else(PoisonError::into_inner).extend(rest);
        for (key, reason) in std::mem::take(&mut self.evicted) {
            let item = self.reference.items.remove(&key);
            assert!(item.is_some(), "key {key} was evicted, and was not there");
            match reason {
                EvictReason::Budget => self.reference.figures.evicted_for_budget += 1,
                EvictReason::Expired => {
                    let dead = item.is_some_and(|item| item.dead_at() <= self.reference.now);
                    assert!(dead, "key {key} was reclaimed before its time");
                    self.reference.figures.evicted_expired += 1;
                }
            }
        }
    }

    /// Takes the starts out of the inboxes.
    fn take_starts(&mut self) -> Vec<(usize, BatchId)> {
        let mut starts = Vec::new();
        for (thread, (_, inbox)) in self.inboxes.iter().enumerate() {
            inbox.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|event| match event {
                Event::Start(batch) => {
                    starts.push((thread, *batch));
                    false
                }
                _ => true,
            });
        }
        starts
    }

    fn compare(&mut self) {
        self.collect();
        self.compare_events();
        self.engine.validate();
        self.compare_cached();
        assert_eq!(self.engine.open_flights(), self.reference.open_flights());
        self.compared += 1;
        if self.compared.is_multiple_of(FIGURES_EVERY) {
            self.compare_figures();
        }
        let (alarm, due) = (self.alarm.at(), self.reference.next_due());
        assert!(alarm <= due, "the alarm is set to {alarm}, and something is due at {due}");
        let ends = self.reference.items.values().map(Item::dead_at).min().unwrap_or(FOREVER);
        let latest = ends.max(self.reference.now).saturating_add(RECLAIM_SLACK);
        assert!(alarm <= latest || ends == FOREVER, "the alarm is set to {alarm}, and something ends at {ends}");
    }

    fn compare_events(&mut self) {
        let mut posted = Posted::default();
        let mut landed = Vec::new();
        let mut abandoned = Vec::new();
        for (thread, (id, inbox)) in self.inboxes.iter().enumerate() {
            for event in inbox.take() {
                match event {
                    Event::Start(batch) => posted.starts.push((thread, batch)),
                    Event::Dropped(batch) => posted.dropped.push((thread, batch)),
                    Event::TimedOut(token) => posted.timed_out.push((thread, token)),
                    Event::Idle if thread == 0 => posted.idle += 1,
                    Event::Breaker { origin, state } if thread == 0 => {
                        posted.breakers.push((origin.parse().unwrap_or(usize::MAX), state));
                    }
                    Event::Landed(token) => landed.push((thread, token, self.landed_text(*id, token))),
                    Event::Abandoned(token) => abandoned.push((thread, token)),
                    Event::Inflated(number) => {
                        let inflated = self.engine.take_inflated(number).map(|inflated| inflated.bytes);
                        let (asked, bytes) = self.inflating.remove(&number).unzip();
                        assert_eq!((asked, inflated), (Some(thread), bytes.map(Ok)));
                        assert!(self.engine.take_inflated(number).is_none());
                    }
                    // To all threads alike.
                    Event::Idle | Event::Breaker { .. } | Event::Evicted { .. } | Event::Invalidated { .. } => {}
                    // Nothing is behind memory here.
                    Event::Sought(_) | Event::Delivered { .. } | Event::Ailing(_) => unreachable!(),
                }
            }
        }
        let mut expected = std::mem::take(&mut self.reference.posted);
        for posted in [&mut posted, &mut expected] {
            // In order for each thread, or in no order that matters.
            posted.starts.sort_by_key(|(thread, _)| *thread);
            posted.dropped.sort_unstable();
            posted.timed_out.sort_unstable();
        }
        assert_eq!(posted, expected);
        landed.sort();
        self.landing.sort();
        assert_eq!(landed, std::mem::take(&mut self.landing));
        abandoned.sort_unstable();
        self.abandoned.sort_unstable();
        assert_eq!(abandoned, std::mem::take(&mut self.abandoned));
    }

    /// What has landed for a thread, taken.
    fn landed_text(&self, thread: ThreadId, token: Token) -> String {
        match self.engine.take_landed(thread, token) {
            Some(Landed::Value(entry, true, _)) => value_text(Some(&self.plain(&entry))),
            Some(Landed::Nothing(_)) => value_text(None),
            Some(Landed::Failed(why)) => format!("failed {}", String::from_utf8_lossy(&why)),
            Some(Landed::TimedOut(after)) => format!("timed out {:?}", Some(after)),
            Some(Landed::Again) => "again".into(),
            other => format!("{other:?}"),
        }
    }

    fn compare_cached(&self) {
        for (key, name) in self.keys.iter().enumerate() {
            let (found, expected) = (self.engine.peek(name), self.reference.held(key));
            assert_eq!(found.is_some(), expected.is_some(), "key {key}: {found:?}, not {expected:?}");
            if let (Some(found), Some((item, _))) = (found, expected) {
                self.check_found(key, &found, item);
            }
        }
    }

    fn compare_figures(&self) {
        let stats = self.engine.stats();
        let expected = self.reference.figures;
        let figures = super::reference::Figures {
            hits: stats.totals.hits,
            stale: stats.totals.stale,
            misses: stats.totals.misses,
            coalesced: stats.totals.coalesced,
            loads: stats.totals.loads,
            errors: stats.totals.errors,
            background_updates: stats.totals.background_updates,
            refreshes_dropped: stats.totals.refreshes_dropped,
            evicted_for_budget: stats.totals.evicted_for_budget,
            evicted_expired: stats.totals.evicted_expired,
        };
        assert_eq!(figures, expected);
        assert_eq!((stats.queued, stats.running), (self.reference.queued() as u64, self.reference.running() as u64));
        assert_eq!(stats.entries, self.reference.items.len() as u64);
        let value_bytes: usize = self.reference.items.values().map(|item| item.value.len()).sum();
        assert_eq!(stats.value_bytes, value_bytes as u64);
        assert!(stats.bytes <= self.budget);
        for origin in 0..ORIGINS {
            let snapshot = self.engine.breaker(&origin.to_string());
            assert_eq!((snapshot.state, snapshot.failures, snapshot.next_attempt), self.reference.breaker(origin));
        }
    }
}

/// Seeds the engine's random numbers, and gives the first.
fn seed(chance: u64) -> f64 {
    fastrand::seed(chance);
    fastrand::Rng::with_seed(chance).f64()
}

fn stored_of(stored: engine::Stored) -> Stored {
    match stored {
        engine::Stored::Yes => Stored::Yes,
        engine::Stored::No => Stored::No,
        engine::Stored::TooLarge { .. } => Stored::TooLarge,
        engine::Stored::Gone => Stored::Gone,
        engine::Stored::Awaited => panic!("nobody asked whether others wait"),
    }
}

fn value_text(value: Option<&Vec<u8>>) -> String {
    value.map_or_else(|| "nothing".into(), |value| format!("{} bytes, {:?}", value.len(), value.first_chunk::<8>()))
}

fn name_of(brought: &Brought) -> String {
    match brought {
        Brought::Value { value, ages, fits, .. } => format!("{} bytes, {ages:?}, fits {fits}", value.len()),
        Brought::NotModified { ages, .. } => format!("nothing new, {ages:?}"),
        Brought::Unstored => "nothing to store".into(),
    }
}
