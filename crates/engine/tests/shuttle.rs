//! Threads on one engine, under schedules that [shuttle](https://docs.rs/shuttle) chooses: wherever a thread takes a lock or
//! touches an atomic, another may go on instead. Guards I1, I2 and I3 where threads meet, that nothing waits for ever, that
//! nothing is lost or told twice, and that the books are right once all is over.
//!
//! ```sh
//! cargo test -p kvcache-engine --features shuttle --test shuttle
//! KVCACHE_SHUTTLE_RUNS=20000 cargo test -p kvcache-engine --features shuttle --test shuttle --release
//! ```
//!
//! Each test makes 200 runs, half of them under a scheduler that lets one thread run far ahead (PCT: S. Burckhardt et al., "A
//! Randomized Scheduler with Probabilistic Guarantees of Finding Bugs", ASPLOS 2010). Schedules differ from one time to
//! the next; `SHUTTLE_RANDOM_SEED` sets them. A failure prints its schedule.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use kvcache_engine::clock::{FOREVER, FakeClock, Millis};
use kvcache_engine::codec::compress::Algorithm;
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::{
    Alarm, Begin, Begun, Compression, Config, Engine, Event, Inbox, Invalidation, Landed, Loaded, Refresh, Stored,
    ThreadId, Value,
};
use kvcache_engine::entry::{Ages, Entry, EntrySpec, Kind};
use kvcache_engine::invalidation::links::{Role, push};
use kvcache_engine::invalidation::stamps::{Shared, Slot, Stamps};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::load::breaker::{BreakerConfig, OriginId, Outcome, State};
use kvcache_engine::load::queue::Limits;
use kvcache_engine::memory::{self, MemoryTier, Weight};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;

fn runs() -> usize {
    std::env::var("KVCACHE_SHUTTLE_RUNS").map_or(200, |runs| runs.parse().expect("KVCACHE_SHUTTLE_RUNS is a number"))
}

fn check(body: impl Fn() + Send + Sync + 'static) {
    check_often(1, body);
}

/// As [`check`], with so many times the runs: for what is short and rarely goes wrong.
fn check_often(times: usize, body: impl Fn() + Send + Sync + 'static) {
    let body = Arc::new(body);
    let mut config = shuttle::Config::new();
    // Compressors need more than shuttle gives.
    config.stack_size = 1 << 20;
    let half = (times * runs()).div_ceil(2);
    let once = Arc::clone(&body);
    shuttle::Runner::new(RandomScheduler::new(half), config.clone()).run(move || once());
    shuttle::Runner::new(PctScheduler::new(3, half), config).run(move || body());
}

#[derive(Default)]
struct Recorder(Mutex<Vec<Event>>);

impl Recorder {
    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Inbox for Recorder {
    fn post(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

struct NoAlarm;

impl Alarm for NoAlarm {
    fn work_waits(&self) {}

    fn no_later_than(&self, _at: Millis) {}
}

/// A thread's end of the engine.
#[derive(Clone)]
struct Seat {
    engine: Arc<Engine>,
    clock: FakeClock,
    origin: OriginId,
    thread: ThreadId,
    inbox: Arc<Recorder>,
}

const FRESH: Ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
const STALE: Ages = Ages { max_age: 0, stale_age: FOREVER, stale_if_error: FOREVER };

fn config() -> Config {
    Config {
        memory: 1 << 20,
        queue: Limits { concurrency: 1, max_queued: 1, retries: 1 },
        backoff: 0,
        cooldown: 0,
        breaker: None,
        compression: None,
    }
}

fn seats<const N: usize>(config: Config) -> [Seat; N] {
    let clock = FakeClock::default();
    let engine = Arc::new(Engine::new(config, Arc::new(clock.clone()), Arc::new(NoAlarm)));
    let origin = engine.origin("origin");
    std::array::from_fn(|_| {
        let inbox = Arc::new(Recorder::default());
        let thread = engine.attach(Arc::<Recorder>::clone(&inbox));
        Seat { engine: Arc::clone(&engine), clock: clock.clone(), origin, thread, inbox }
    })
}

fn value(bytes: &[u8], ages: Ages) -> Value<'_> {
    Value { kind: Kind::Bytes, bytes, metadata: b"", ages, route: 0, links: b"" }
}

/// The number in front of a value.
fn number(entry: &Entry) -> u64 {
    let mut bytes = Vec::new();
    Tools::default().inflate_into(entry, &mut bytes).unwrap();
    u64::from_le_bytes(*bytes.first_chunk().unwrap())
}

impl Seat {
    fn begin(&self, key: &[u8], parent: u64, force: bool) -> Begun {
        let begin = Begin {
            thread: self.thread,
            parent,
            origin: self.origin,
            route: 0,
            hard_timeout: 100,
            force,
            permit: true,
            since: 0,
        };
        self.engine.begin(key, &begin)
    }

    fn refresh(&self, keys: &[&[u8]]) {
        let refresh = Refresh { thread: self.thread, origin: self.origin, route: 0, hard_timeout: 100 };
        self.engine.refresh(keys.iter().copied(), &refresh);
    }

    fn put(&self, key: &[u8], bytes: &[u8], ages: Ages) {
        self.engine.commit(self.engine.prepare(key, &value(bytes, ages)).unwrap());
    }

    fn settle(&self, token: u64, bytes: &[u8], ages: Ages) {
        self.engine.settle(token, &Loaded::Value(value(bytes, ages)));
    }

    fn fail(&self, token: u64) {
        self.engine.fail(token, Outcome::Failure, true);
    }
}

/// When all threads are done: what they left is brought to its end, and then nothing may be left.
fn wind_up(seats: &[Seat], mut started: impl FnMut(&Seat, u64, &[u8])) {
    let engine = &seats[0].engine;
    let mut tools = Tools::default();
    for round in 0.. {
        assert!(round < 100, "there is no end of it");
        let mut quiet = !engine.work(&mut tools);
        for seat in seats {
            for event in seat.inbox.take() {
                quiet = false;
                match event {
                    Event::Start(batch) => {
                        engine.start(batch).iter().for_each(|flight| started(seat, flight.token, &flight.key));
                    }
                    Event::TimedOut(token) => seat.fail(token),
                    _ => {}
                }
            }
        }
        if quiet && engine.flush() {
            break;
        }
        seats[0].clock.advance_millis(1);
        engine.tick();
    }
    let stats = engine.stats();
    assert_eq!((stats.queued, stats.running, engine.open_flights()), (0, 0, 0));
    assert!(stats.bytes <= engine.budget());
    engine.validate();
}

fn spawn_all(bodies: Vec<Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = bodies.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What the cached values are made from: a number for each key, which counts up.
#[derive(Default)]
struct Source {
    now: [AtomicU64; 2],
    /// What a get begun now must not fall short of.
    settled: [AtomicU64; 2],
    /// Loads that run, of each key.
    loading: [AtomicUsize; 2],
}

const KEYS: [&[u8]; 2] = [b"a", b"b"];

impl Source {
    fn read(&self, key: usize) -> Vec<u8> {
        let mut bytes = self.now[key].load(Ordering::SeqCst).to_le_bytes().to_vec();
        bytes.resize(300, b'.');
        bytes
    }

    /// A get, whose answer must be at least as new as the last write that had ended when it began.
    fn get(&self, seat: &Seat, key: usize, force: bool, ages: Ages) {
        let least = self.settled[key].load(Ordering::SeqCst);
        let newer = |entry: &Entry| assert!(number(entry) >= least, "{} is older than {least}", number(entry));
        if !force && let Some(found) = seat.engine.lookup(KEYS[key], None) {
            newer(&found.entry);
            if found.refresh_due {
                seat.refresh(&[KEYS[key]]);
            }
            return;
        }
        match seat.begin(KEYS[key], 0, force) {
            Begun::Hit(found) => newer(&found.entry),
            Begun::Lead { token, .. } => {
                let bytes = self.read(key);
                thread::yield_now();
                seat.settle(token, &bytes, ages);
            }
            Begun::Join(_) | Begun::Refused { .. } => {}
            Begun::Recursion => panic!("nobody waits for anybody"),
        }
    }

    fn write(&self, key: usize, apply: impl FnOnce(&[u8])) {
        let written = self.now[key].fetch_add(1, Ordering::SeqCst) + 1;
        apply(&self.read(key));
        self.settled[key].store(written, Ordering::SeqCst);
    }

    /// The starts that wait in the inbox of a seat.
    fn serve(&self, seat: &Seat, ages: Ages) {
        for event in seat.inbox.take() {
            match event {
                Event::Start(batch) => {
                    for flight in seat.engine.start(batch) {
                        let key = usize::from(flight.key[..] == *KEYS[1]);
                        let bytes = self.read(key);
                        thread::yield_now();
                        if thread_rng().gen_range(0..3) == 0 {
                            seat.fail(flight.token);
                        } else {
                            seat.settle(flight.token, &bytes, ages);
                        }
                    }
                }
                Event::TimedOut(token) => seat.fail(token),
                _ => {}
            }
        }
    }
}

/// I1 and I2, whatever happens at the same time: one thread writes, others load, refresh, compress and let time pass.
#[test]
fn nobody_gets_what_was_there_before_a_write_that_ended() {
    check(|| {
        let compression = Some(Compression { algorithm: Algorithm::Lz4, level: 0, threshold: 100 });
        let breaker = Some(BreakerConfig { threshold: 2, timeout: 1 });
        let all: [Seat; 3] = seats(Config { compression, breaker, ..config() });
        let source = Arc::new(Source::default());
        let [writer, reader, other] = all.clone();
        let (for_reader, for_other, for_writer) = (Arc::clone(&source), Arc::clone(&source), Arc::clone(&source));
        spawn_all(vec![
            Box::new(move || {
                for _ in 0..3 {
                    let key = thread_rng().gen_range(0..2);
                    for_writer.write(key, |bytes| {
                        if thread_rng().gen_bool(0.5) {
                            writer.put(KEYS[key], bytes, if thread_rng().gen_bool(0.5) { STALE } else { FRESH });
                        } else {
                            writer.engine.delete(KEYS[key]);
                        }
                    });
                    for_writer.get(&writer, key, false, STALE);
                }
            }),
            Box::new(move || {
                for _ in 0..4 {
                    let key = thread_rng().gen_range(0..2);
                    for_reader.get(&reader, key, thread_rng().gen_bool(0.3), STALE);
                    for_reader.serve(&reader, STALE);
                }
            }),
            Box::new(move || {
                let mut tools = Tools::default();
                for _ in 0..5 {
                    match thread_rng().gen_range(0..5) {
                        0 => for_other.get(&other, thread_rng().gen_range(0..2), false, FRESH),
                        1 => other.refresh(&KEYS),
                        2 => {
                            other.clock.advance_millis(thread_rng().gen_range(0..200));
                            other.engine.tick();
                        }
                        3 => for_other.serve(&other, FRESH),
                        _ => _ = other.engine.work(&mut tools),
                    }
                }
            }),
        ]);
        let at_end = Arc::clone(&source);
        wind_up(&all, move |seat, token, key| {
            seat.settle(token, &at_end.read(usize::from(*key == *KEYS[1])), FRESH);
        });
        (0..2).for_each(|key| source.get(&all[0], key, false, FRESH));
    });
}

/// What a thread's near cache keeps of a value, by the protocol of `invalidation::stamps`.
struct Copied {
    number: u64,
    slot: Slot,
    stamp: u32,
    epoch: u32,
    shared: Shared,
    sum: u32,
}

impl Copied {
    /// Looks a key up, and copies what it holds.
    fn make(engine: &Engine, key: &[u8]) -> Option<(u64, Option<Self>)> {
        let probe = engine.probe(key);
        let found = engine.lookup(key, None)?;
        let number = number(&found.entry);
        let (slot, stamp, epoch) = (probe.slot, probe.stamp, probe.epoch);
        let covered = engine.cover(&found.entry, &probe);
        Some((number, covered.map(|(shared, sum)| Self { number, slot, stamp, epoch, shared, sum })))
    }

    /// Whether it still stands.
    fn stands(&mut self, stamps: &Stamps) -> bool {
        if stamps.stamp(self.slot) != self.stamp {
            return false;
        }
        let epoch = stamps.epoch();
        if epoch != self.epoch && stamps.sum(&self.shared) != self.sum {
            return false;
        }
        self.epoch = epoch;
        true
    }
}

/// The links of a value that has a tag and a parent.
fn tied() -> Vec<u8> {
    let mut links = Vec::new();
    push(&mut links, Role::Tag, b"tag");
    push(&mut links, Role::Parent, b"parent");
    links
}

/// One of the ways to cut a value that is [`tied`], whose key begins with `p:`.
fn cut_somehow(seat: &Seat, key: &[u8]) {
    let target = match thread_rng().gen_range(0..7) {
        0 => Target::Key(key.into()),
        1 => Target::Key(b"parent"[..].into()),
        2 => Target::Tag("tag".into()),
        3 => Target::Prefix(b"p:"[..].into()),
        4 => Target::parse("*a").unwrap(),
        5 => Target::All,
        _ => return seat.put(b"parent", &[0; 8], FRESH),
    };
    seat.engine.invalidate(&Invalidation::new(&target, "target", false));
}

/// I1 for copies that are near: one thread invalidates in every way, others load, copy, and look whether their copies stand.
#[test]
fn no_copy_made_before_an_invalidation_stands_after_it() {
    check_often(5, || {
        let all: [Seat; 3] = seats(config());
        let source = Arc::new(Source::default());
        let key = b"p:a";
        let (links, first) = (tied(), source.read(0));
        let first = Value { links: &links, ..value(&first, FRESH) };
        all[0].engine.commit(all[0].engine.prepare(key, &first).unwrap());
        let readers = all[1..].iter().map(|seat| {
            let (seat, source) = (seat.clone(), Arc::clone(&source));
            Box::new(move || {
                let links = tied();
                let mut copy: Option<Copied> = None;
                for _ in 0..10 {
                    let least = source.settled[0].load(Ordering::SeqCst);
                    if let Some(near) = &mut copy
                        && near.stands(seat.engine.stamps())
                    {
                        assert!(near.number >= least, "a copy of {} stands after {least}", near.number);
                        continue;
                    }
                    if let Some((number, made)) = Copied::make(&seat.engine, key) {
                        assert!(number >= least, "{number} is served after {least}");
                        copy = made;
                    } else if let Begun::Lead { token, .. } = seat.begin(key, 0, false) {
                        let bytes = source.read(0);
                        thread::yield_now();
                        seat.engine.settle(token, &Loaded::Value(Value { links: &links, ..value(&bytes, FRESH) }));
                    }
                }
            }) as Box<dyn FnOnce() + Send>
        });
        let mut bodies: Vec<_> = readers.collect();
        let (writer, written) = (all[0].clone(), Arc::clone(&source));
        bodies.push(Box::new(move || {
            for _ in 0..3 {
                written.write(0, |_| cut_somehow(&writer, key));
                thread::yield_now();
            }
        }));
        spawn_all(bodies);
        wind_up(&all, |seat, token, _| seat.settle(token, &source.read(0), FRESH));
    });
}

/// A sweep takes what was cut, and nothing that was stored since, whenever it comes.
#[test]
fn a_sweep_takes_nothing_that_was_stored_after_the_invalidation() {
    check_often(2, || {
        let all: [Seat; 3] = seats(config());
        let source = Arc::new(Source::default());
        let key = b"p:a";
        let [writer, sweeper, reader] = all.clone();
        let (written, read) = (Arc::clone(&source), Arc::clone(&source));
        spawn_all(vec![
            Box::new(move || {
                let links = tied();
                for _ in 0..3 {
                    written.write(0, |bytes| {
                        cut_somehow(&writer, key);
                        let value = Value { links: &links, ..value(bytes, FRESH) };
                        writer.engine.commit(writer.engine.prepare(key, &value).unwrap());
                    });
                    let found = writer.engine.lookup(key, None).expect("nothing has cut it");
                    assert_eq!(number(&found.entry), written.now[0].load(Ordering::SeqCst));
                }
            }),
            Box::new(move || {
                let mut tools = Tools::default();
                for _ in 0..8 {
                    if !sweeper.engine.work(&mut tools) {
                        sweeper.clock.advance_millis(1000);
                    }
                    thread::yield_now();
                }
            }),
            Box::new(move || {
                for _ in 0..4 {
                    let least = read.settled[0].load(Ordering::SeqCst);
                    if let Some(found) = reader.engine.lookup(key, None) {
                        assert!(number(&found.entry) >= least);
                    }
                }
            }),
        ]);
        wind_up(&all, |seat, token, _| seat.fail(token));
        let found = all[0].engine.lookup(key, None).expect("it was stored last");
        assert_eq!(number(&found.entry), source.now[0].load(Ordering::SeqCst));
    });
}

/// I3: gets, forced ones and refreshes of one key, and never two fetchers.
#[test]
fn one_load_of_a_key_runs_at_a_time() {
    check(|| {
        let all: [Seat; 3] = seats(config());
        let source = Arc::new(Source::default());
        all[0].put(KEYS[0], &source.read(0), STALE);
        let load = |seat: &Seat, source: &Source, token: u64| {
            assert_eq!(source.loading[0].fetch_add(1, Ordering::SeqCst), 0, "a second load runs");
            thread::yield_now();
            source.loading[0].fetch_sub(1, Ordering::SeqCst);
            if thread_rng().gen_bool(0.3) { seat.fail(token) } else { seat.settle(token, &source.read(0), STALE) }
        };
        let bodies = all.iter().map(|seat| {
            let (seat, source) = (seat.clone(), Arc::clone(&source));
            Box::new(move || {
                for _ in 0..3 {
                    if thread_rng().gen_bool(0.5) {
                        seat.refresh(&[KEYS[0]]);
                    } else if let Begun::Lead { token, .. } = seat.begin(KEYS[0], 0, true) {
                        load(&seat, &source, token);
                    }
                    for event in seat.inbox.take() {
                        if let Event::Start(batch) = event {
                            seat.engine.start(batch).iter().for_each(|flight| load(&seat, &source, flight.token));
                        }
                    }
                }
            }) as Box<dyn FnOnce() + Send>
        });
        spawn_all(bodies.collect());
        wind_up(&all, |seat, token, _| seat.settle(token, &source.read(0), FRESH));
    });
}

/// A batch is started while its keys are written, taken over, dropped and timed out.
#[test]
fn a_batch_keeps_its_books_whatever_becomes_of_its_keys() {
    check(|| {
        let queue = Limits { concurrency: 1, max_queued: 4, retries: 1 };
        let breaker = Some(BreakerConfig { threshold: 1, timeout: 0 });
        let all: [Seat; 3] = seats(Config { queue, breaker, ..config() });
        KEYS.iter().for_each(|key| all[0].put(key, &[0; 8], STALE));
        let [owner, disturber, timer] = all.clone();
        spawn_all(vec![
            Box::new(move || {
                owner.refresh(&KEYS);
                for _ in 0..2 {
                    for event in owner.inbox.take() {
                        if let Event::Start(batch) = event {
                            for flight in owner.engine.start(batch) {
                                if thread_rng().gen_bool(0.5) {
                                    owner.fail(flight.token);
                                } else {
                                    owner.settle(flight.token, &[1; 8], STALE);
                                }
                            }
                        }
                    }
                    thread::yield_now();
                }
            }),
            Box::new(move || {
                for _ in 0..2 {
                    let key = KEYS[thread_rng().gen_range(0..2)];
                    match thread_rng().gen_range(0..4) {
                        0 => disturber.put(key, &[2; 8], STALE),
                        1 => _ = disturber.engine.delete(key),
                        2 => disturber.engine.drop_queued(disturber.thread),
                        _ => {
                            if let Begun::Lead { token, .. } = disturber.begin(key, 0, true) {
                                disturber.settle(token, &[3; 8], STALE);
                            }
                        }
                    }
                }
            }),
            Box::new(move || {
                for _ in 0..2 {
                    timer.clock.advance_millis(thread_rng().gen_range(0..150));
                    timer.engine.tick();
                    timer.refresh(&KEYS);
                }
            }),
        ]);
        wind_up(&all, |seat, token, _| seat.fail(token));
    });
}

/// Threads load, wait for one another, leave and end: every wait is answered once, and nothing of who has ended stays.
#[test]
fn whoever_waits_for_another_thread_is_answered_although_threads_end() {
    check(|| {
        let all: [Seat; 3] = seats(Config { breaker: Some(BreakerConfig { threshold: 1, timeout: 0 }), ..config() });
        all[0].put(KEYS[1], &[0; 8], STALE);
        let [stays, ends, leaves] = all.clone();
        let waits = |seat: &Seat, token: u64, patience: u32| {
            for _ in 0..patience {
                if let Some(landed) = seat.engine.take_landed(seat.thread, token) {
                    return Some(landed);
                }
                thread::yield_now();
            }
            None
        };
        spawn_all(vec![
            Box::new(move || {
                for round in 0.. {
                    assert!(round < 4, "it is to begin anew again and again");
                    match stays.begin(KEYS[0], 0, false) {
                        Begun::Lead { token, .. } => stays.settle(token, &[1; 8], FRESH),
                        Begun::Join(token) => match waits(&stays, token, u32::MAX) {
                            Some(Landed::Again) => continue,
                            landed => {
                                assert!(matches!(landed, Some(Landed::Value(..) | Landed::Nothing(_))), "{landed:?}")
                            }
                        },
                        Begun::Hit(_) => {}
                        Begun::Refused { .. } | Begun::Recursion => panic!("there is no reason"),
                    }
                    break;
                }
            }),
            Box::new(move || {
                let begun = ends.begin(KEYS[0], 0, thread_rng().gen_bool(0.5));
                ends.refresh(&[KEYS[1]]);
                if thread_rng().gen_bool(0.3)
                    && let Begun::Lead { token, .. } = begun
                {
                    ends.settle(token, &[2; 8], FRESH);
                }
                thread::yield_now();
                ends.engine.detach(ends.thread);
            }),
            Box::new(move || {
                match leaves.begin(KEYS[0], 0, thread_rng().gen_bool(0.5)) {
                    Begun::Lead { token, .. } => {
                        thread::yield_now();
                        let awaited = leaves.engine.abandon(token).stored == Stored::Awaited;
                        if awaited {
                            leaves.engine.settle(token, &Loaded::Unstored { links: &[] });
                        }
                    }
                    Begun::Join(token) if waits(&leaves, token, 2).is_none() => {
                        leaves.engine.leave(leaves.thread, token, false);
                    }
                    _ => {}
                }
                leaves.engine.delete(KEYS[1]);
            }),
        ]);
        all[0].engine.detach(all[2].thread);
        wind_up(&all[..1], |seat, token, _| seat.settle(token, &[3; 8], FRESH));
    });
}

/// Whoever flushes is told, be it at once or by an event, and whoever else flushes meanwhile.
#[test]
fn everyone_who_flushes_is_told_when_the_queue_is_idle() {
    check_often(20, || {
        let all: [Seat; 3] = seats(config());
        KEYS.iter().for_each(|key| all[0].put(key, &[0; 8], STALE));
        all[0].refresh(&[KEYS[0]]);
        let waiting: Arc<[AtomicUsize; 3]> = Arc::default();
        let bodies = all.iter().enumerate().map(|(n, seat)| {
            let (seat, waiting) = (seat.clone(), Arc::clone(&waiting));
            Box::new(move || {
                if n == 0 {
                    for event in seat.inbox.take() {
                        if let Event::Start(batch) = event {
                            let started = seat.engine.start(batch);
                            started.iter().for_each(|flight| seat.settle(flight.token, &[1; 8], FRESH));
                        } else {
                            seat.inbox.post(event);
                        }
                    }
                }
                if !seat.engine.flush() {
                    waiting[n].store(1, Ordering::SeqCst);
                }
            }) as Box<dyn FnOnce() + Send>
        });
        spawn_all(bodies.collect());
        for (seat, waiting) in all.iter().zip(waiting.iter()) {
            let told = seat.inbox.take().iter().filter(|event| **event == Event::Idle).count();
            assert!(told >= waiting.load(Ordering::SeqCst), "told {told} times");
        }
    });
}

/// Half-open, one call is the trial; it is given back if it comes to nothing, and never lost.
#[test]
fn a_half_open_breaker_lets_one_call_through() {
    check(|| {
        let breaker = Some(BreakerConfig { threshold: 1, timeout: 10 });
        let all: [Seat; 3] = seats(Config { breaker, ..config() });
        let Begun::Lead { token, .. } = all[0].begin(b"c", 0, false) else { panic!("nothing loads it") };
        all[0].fail(token);
        all[0].clock.advance_millis(10);
        let trying = Arc::new(AtomicUsize::new(0));
        let bodies = all.iter().enumerate().map(|(n, seat)| {
            let (seat, trying) = (seat.clone(), Arc::clone(&trying));
            Box::new(move || {
                // Each its own key, so that nobody joins.
                if let Begun::Lead { token, .. } = seat.begin(format!("k{n}").as_bytes(), 0, false) {
                    assert_eq!(trying.fetch_add(1, Ordering::SeqCst), 0, "a second trial runs");
                    thread::yield_now();
                    trying.fetch_sub(1, Ordering::SeqCst);
                    seat.engine.fail(token, Outcome::Aborted, false);
                }
            }) as Box<dyn FnOnce() + Send>
        });
        spawn_all(bodies.collect());
        assert_eq!(all[0].engine.breaker("origin").state, State::HalfOpen);
        let Begun::Lead { token, .. } = all[0].begin(b"d", 0, false) else { panic!("the trial was lost") };
        all[0].settle(token, &[0; 8], FRESH);
        assert_eq!(all[0].engine.breaker("origin").state, State::Closed);
        wind_up(&all, |seat, token, _| seat.fail(token));
    });
}

/// Two loads, each of which asks for the other's key: one of them is told, and neither waits for ever.
#[test]
fn loads_that_would_wait_for_each_other_do_not() {
    check(|| {
        let all: [Seat; 2] = seats(config());
        // For each thread: what it leads, and the flight that it waits for.
        let waits: Arc<Mutex<HashMap<u64, u64>>> = Arc::default();
        let leads: Arc<Mutex<Vec<(Seat, u64)>>> = Arc::default();
        let bodies = all.iter().enumerate().map(|(n, seat)| {
            let (seat, waits, leads) = (seat.clone(), Arc::clone(&waits), Arc::clone(&leads));
            Box::new(move || {
                let Begun::Lead { token: mine, .. } = seat.begin(KEYS[n], 0, false) else { return };
                leads.lock().unwrap().push((seat.clone(), mine));
                match seat.begin(KEYS[1 - n], mine, false) {
                    Begun::Join(token) => _ = waits.lock().unwrap().insert(mine, token),
                    Begun::Lead { token, .. } => leads.lock().unwrap().push((seat.clone(), token)),
                    Begun::Recursion => {}
                    begun => panic!("{begun:?}"),
                }
            }) as Box<dyn FnOnce() + Send>
        });
        spawn_all(bodies.collect());
        let waits = waits.lock().unwrap();
        for (waiter, awaited) in waits.iter() {
            assert_ne!(waits.get(awaited), Some(waiter), "both wait, for each other");
        }
        for (seat, token) in leads.lock().unwrap().drain(..) {
            seat.settle(token, &[0; 8], FRESH);
            assert!(!seat.engine.remembers(token));
        }
        wind_up(&all, |seat, token, _| seat.fail(token));
    });
}

/// The memory tier by itself: readers without the shard's lock, writers, eviction, expiry and listing at once.
#[test]
fn the_memory_tier_holds_its_budget_and_its_entries() {
    check(|| {
        let config = memory::Config { budget: 2_000, weight: Weight::Bytes, shards: Some(2) };
        let tier = Arc::new(MemoryTier::new(config, None));
        let bodies = (0..3).map(|_| {
            let tier = Arc::clone(&tier);
            Box::new(move || {
                for _ in 0..6 {
                    let mut rng = thread_rng();
                    let n = rng.gen_range(0..6u64);
                    let key = n.to_le_bytes();
                    let life = if rng.gen_bool(0.5) { 5 } else { FOREVER };
                    match rng.gen_range(0..6) {
                        0..=1 => {
                            let value = vec![n as u8; rng.gen_range(8..700)];
                            let ages = Ages { max_age: life, stale_age: life, stale_if_error: life };
                            let spec = EntrySpec {
                                key: &key,
                                metadata: b"",
                                links: b"",
                                value: &value,
                                kind: Kind::Bytes,
                                ages,
                                seq: 0,
                                route: 0,
                                version: 0,
                            };
                            assert!(tier.insert(Entry::new(&spec, 0)));
                        }
                        2 => {
                            if let Some(entry) = tier.get(&key) {
                                assert_eq!(entry.key(), key);
                                assert!(entry.value().iter().all(|byte| *byte == n as u8));
                            }
                        }
                        3 => _ = tier.remove(&key),
                        4 => _ = tier.reclaim(10, 100),
                        _ => {
                            let (page, complete) = tier.list(b"", None, 100, |_| true);
                            assert!(complete && page.windows(2).all(|pair| pair[0].key() < pair[1].key()));
                        }
                    }
                    assert!(tier.bytes() <= tier.budget());
                }
            }) as Box<dyn FnOnce() + Send>
        });
        spawn_all(bodies.collect());
        tier.validate();
        tier.clear();
        assert_eq!((tier.bytes(), tier.len()), (0, 0));
    });
}
