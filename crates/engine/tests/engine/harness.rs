//! An engine with a clock held in the hand, and what it says written down.

use std::sync::{Arc, Mutex};

use kvcache_engine::clock::{FOREVER, FakeClock, Millis};
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::{
    Alarm, Begin, Begun, Config, Engine, Event, Found, Inbox, Loaded, Refresh, Settled, Started, Stored, ThreadId,
    Value,
};
use kvcache_engine::entry::{Ages, Freshness, Kind};
use kvcache_engine::error::Error;
use kvcache_engine::load::breaker::{BreakerConfig, OriginId, Outcome};
use kvcache_engine::load::flights::Token;
use kvcache_engine::load::queue::{BatchId, Limits};

/// Fresh for ever.
pub const FRESH: Ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
/// Stale at once, and for ever.
pub const STALE: Ages = Ages { max_age: 0, stale_age: FOREVER, stale_if_error: FOREVER };
/// Of use only when a load fails.
pub const ON_ERROR: Ages = Ages { max_age: 0, stale_age: 0, stale_if_error: FOREVER };

#[derive(Default)]
pub struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Inbox for Recorder {
    fn post(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// The earliest moment that was asked for, and whether work was announced.
pub struct Ringer(Mutex<(Millis, bool)>);

impl Alarm for Ringer {
    fn work_waits(&self) {
        self.0.lock().unwrap().1 = true;
    }

    fn no_later_than(&self, at: Millis) {
        let mut set = self.0.lock().unwrap();
        set.0 = at.min(set.0);
    }
}

/// An engine as one thread uses it.
pub struct World {
    pub engine: Arc<Engine>,
    pub clock: FakeClock,
    pub thread: ThreadId,
    pub inbox: Arc<Recorder>,
    alarm: Arc<Ringer>,
    pub origin: OriginId,
}

pub fn config() -> Config {
    Config {
        memory: 1 << 20,
        queue: Limits { concurrency: 2, max_queued: 10, retries: 0 },
        backoff: 100,
        cooldown: 1_000,
        breaker: None,
        compression: None,
    }
}

pub fn with_breaker(threshold: u32, timeout: Millis) -> Config {
    Config { breaker: Some(BreakerConfig { threshold, timeout }), ..config() }
}

pub fn with_retries(retries: u32) -> Config {
    Config { queue: Limits { retries, ..config().queue }, ..config() }
}

pub fn with_queue(concurrency: usize, max_queued: usize) -> Config {
    Config { queue: Limits { concurrency, max_queued, retries: 0 }, ..config() }
}

pub fn value(bytes: &str, ages: Ages) -> Value<'_> {
    Value { kind: Kind::Text, bytes: bytes.as_bytes(), metadata: b"", ages, route: 0, links: b"" }
}

impl World {
    pub fn new(config: Config) -> Self {
        let clock = FakeClock::default();
        let alarm = Arc::new(Ringer(Mutex::new((FOREVER, false))));
        let engine = Arc::new(Engine::new(config, Arc::new(clock.clone()), Arc::<Ringer>::clone(&alarm)));
        let inbox = Arc::new(Recorder::default());
        let thread = engine.attach(Arc::<Recorder>::clone(&inbox));
        let origin = engine.origin("origin");
        Self { engine, clock, thread, inbox, alarm, origin }
    }

    /// Another thread of the same cache.
    pub fn attach(&self) -> (ThreadId, Arc<Recorder>) {
        let inbox = Arc::new(Recorder::default());
        (self.engine.attach(Arc::<Recorder>::clone(&inbox)), inbox)
    }

    // ------------------------------------------------------------ reading and writing

    pub fn get(&self, key: &str) -> Option<Found> {
        self.engine.lookup(key.as_bytes(), None)
    }

    /// The value that a get without a fetcher gives.
    pub fn value(&self, key: &str) -> Option<String> {
        self.get(key).map(|found| text(&found))
    }

    pub fn try_put(&self, key: &str, bytes: &str, ages: Ages) -> Result<(), Error> {
        self.engine.prepare(key.as_bytes(), &value(bytes, ages)).map(|entry| self.engine.commit(entry))
    }

    pub fn put(&self, key: &str, bytes: &str, ages: Ages) {
        self.try_put(key, bytes, ages).unwrap();
    }

    pub fn delete(&self, key: &str) -> bool {
        self.engine.delete(key.as_bytes())
    }

    // ------------------------------------------------------------ loading

    pub fn how(&self) -> Begin {
        Begin {
            thread: self.thread,
            parent: 0,
            origin: self.origin,
            route: 0,
            hard_timeout: FOREVER,
            force: false,
            permit: true,
            since: 0,
        }
    }

    pub fn begin(&self, key: &str) -> Begun {
        self.engine.begin(key.as_bytes(), &self.how())
    }

    pub fn begin_as(&self, key: &str, how: &Begin) -> Begun {
        self.engine.begin(key.as_bytes(), how)
    }

    pub fn force(&self, key: &str) -> Begun {
        self.begin_as(key, &Begin { force: true, ..self.how() })
    }

    /// Begins a load for another load's fetcher.
    pub fn begin_for(&self, parent: Token, key: &str) -> Begun {
        self.begin_as(key, &Begin { parent, ..self.how() })
    }

    /// Begins a load that must lead, of a key with nothing to serve.
    pub fn lead(&self, key: &str) -> Token {
        lead(self.begin(key))
    }

    pub fn lead_within(&self, key: &str, hard_timeout: Millis) -> Token {
        lead(self.begin_as(key, &Begin { hard_timeout, ..self.how() }))
    }

    pub fn settle(&self, token: Token, bytes: &str, ages: Ages) -> Settled {
        self.engine.settle(token, &Loaded::Value(value(bytes, ages)))
    }

    pub fn stored(&self, token: Token, bytes: &str, ages: Ages) -> Stored {
        self.settle(token, bytes, ages).stored
    }

    pub fn not_modified(&self, token: Token, ages: Ages) -> Stored {
        self.engine.settle(token, &Loaded::NotModified { ages, metadata: None, links: None }).stored
    }

    pub fn fail(&self, token: Token) -> Settled {
        self.engine.fail(token, Outcome::Failure, true)
    }

    pub fn abort(&self, token: Token) -> Settled {
        self.engine.fail(token, Outcome::Aborted, false)
    }

    // ------------------------------------------------------------ refreshing

    pub fn plan(&self) -> Refresh {
        Refresh { thread: self.thread, origin: self.origin, route: 0, hard_timeout: FOREVER }
    }

    pub fn refresh(&self, keys: &[&str]) -> Option<BatchId> {
        self.refresh_as(keys, &self.plan())
    }

    pub fn refresh_as(&self, keys: &[&str], plan: &Refresh) -> Option<BatchId> {
        self.engine.refresh(keys.iter().map(|key| key.as_bytes()), plan)
    }

    pub fn start(&self, batch: BatchId) -> Vec<Started> {
        self.engine.start(batch)
    }

    /// Starts a batch of one key.
    pub fn start_one(&self, batch: BatchId) -> Token {
        let started = self.start(batch);
        assert_eq!(started.len(), 1, "{started:?}");
        started[0].token
    }

    /// Puts a stale value and has a refresh of it running.
    pub fn refreshing(&self, key: &str) -> (BatchId, Token) {
        self.put(key, "old", STALE);
        let batch = self.refresh(&[key]).unwrap();
        (batch, self.start_one(batch))
    }

    pub fn queued(&self) -> u64 {
        self.engine.stats().queued
    }

    pub fn running(&self) -> u64 {
        self.engine.stats().running
    }

    // ------------------------------------------------------------ time and events

    /// Time passes, and the engine is told.
    pub fn pass(&self, by: Millis) {
        self.clock.advance_millis(by);
        self.tick();
    }

    pub fn tick(&self) {
        let next = self.engine.tick();
        self.alarm.0.lock().unwrap().0 = next;
    }

    /// When the engine wants to be told the time next.
    pub fn alarm(&self) -> Millis {
        self.alarm.0.lock().unwrap().0
    }

    /// Whether work was announced since this was asked last.
    pub fn work_announced(&self) -> bool {
        std::mem::take(&mut self.alarm.0.lock().unwrap().1)
    }

    /// Does all work that waits; how much it was.
    pub fn work(&self) -> usize {
        let mut tools = Tools::default();
        std::iter::repeat_with(|| self.engine.work(&mut tools)).take_while(|worked| *worked).count()
    }

    pub fn events(&self) -> Vec<Event> {
        self.inbox.take()
    }

    /// Nothing runs, nothing waits, nothing was forgotten, and everything is as it should be.
    pub fn assert_at_rest(&self, tokens: &[Token]) {
        let stats = self.engine.stats();
        assert_eq!((stats.queued, stats.running, self.engine.open_flights()), (0, 0, 0));
        assert!(tokens.iter().all(|token| !self.engine.remembers(*token)));
        self.engine.validate();
    }
}

pub fn lead(begun: Begun) -> Token {
    match begun {
        Begun::Lead { token, .. } => token,
        other => panic!("expected to lead: {other:?}"),
    }
}

pub fn join(begun: Begun) -> Token {
    match begun {
        Begun::Join(token) => token,
        other => panic!("expected to join: {other:?}"),
    }
}

pub fn hit(begun: Begun) -> Found {
    match begun {
        Begun::Hit(found) => found,
        other => panic!("expected a hit: {other:?}"),
    }
}

/// When the next attempt may be made.
pub fn refused(begun: Begun) -> Millis {
    match begun {
        Begun::Refused { next_attempt } => next_attempt,
        other => panic!("expected to be refused: {other:?}"),
    }
}

pub fn text(found: &Found) -> String {
    let mut bytes = Vec::new();
    Tools::default().inflate_into(&found.entry, &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

pub fn is_stale(found: &Found) -> bool {
    found.freshness == Freshness::Stale
}
