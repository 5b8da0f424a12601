//! Churns one engine from several threads, on the machine's clock and with its own threads, and fails if anything grows, hangs
//! or is left behind: resident memory once warm, bytes beyond the budget, flights and queue figures at the end.
//!
//! ```sh
//! cargo run --release -p kvcache-engine --example soak -- --minutes 10
//! ```
//!
//! `--minutes N` (1), `--threads N` (4), `--megabytes N` of the memory tier (64), `--seed N` (1). A line every 10 seconds. Loads
//! settle at once or later, fail, or never report until their hard timeout; keys are read by a power law, put, deleted,
//! forced, refreshed with retries and in batches, compressed by workers, and end by age; breakers open and close. The resident
//! memory is read from `/proc`, where there is one; the first third of the time is for warming up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::{HashMap, VecDeque};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kvcache_engine::codec::compress::Algorithm;
use kvcache_engine::engine::{
    Begin, Begun, Compression, Config, Engine, Event, Inbox, Loaded, Refresh, ThreadId, Value,
};
use kvcache_engine::entry::{Ages, Kind};
use kvcache_engine::load::breaker::{BreakerConfig, OriginId, Outcome};
use kvcache_engine::load::flights::Token;
use kvcache_engine::load::queue::Limits;
use kvcache_engine::scheduler::Scheduled;

const KEYS: u64 = 200_000;
const HARD_TIMEOUT: u64 = 200;
const LARGEST: usize = 20_000;

/// Growth that is no leak: what the allocator keeps for later, as a part of what is resident and in bytes.
const GROWTH: f64 = 0.05;
const GROWTH_BYTES: f64 = 8e6;

struct Options {
    minutes: f64,
    threads: u64,
    megabytes: u64,
    seed: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { minutes: 1.0, threads: 4, megabytes: 64, seed: 1 };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let text = args.next().ok_or(format!("{name}: a number is missing"))?;
        let number: f64 = text.parse().map_err(|_| format!("{name} {text}: not a number"))?;
        match name.as_str() {
            "--minutes" => options.minutes = number,
            "--threads" => options.threads = number as u64,
            "--megabytes" => options.megabytes = number as u64,
            "--seed" => options.seed = number as u64,
            _ => return Err(format!("{name} is not known: --minutes, --threads, --megabytes, --seed")),
        }
    }
    Ok(options)
}

#[derive(Default)]
struct Post(Mutex<VecDeque<Event>>);

impl Inbox for Post {
    fn post(&self, event: Event) {
        self.0.lock().unwrap().push_back(event);
    }
}

impl Post {
    fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// What becomes of a load.
#[derive(Clone, Copy)]
enum Fate {
    Settle(Instant),
    Fail(Instant),
    /// Until it times out.
    Never,
}

/// A thread that uses the cache.
struct User {
    engine: Arc<Engine>,
    origins: [OriginId; 3],
    thread: ThreadId,
    post: Arc<Post>,
    rng: fastrand::Rng,
    loads: HashMap<Token, Fate>,
    bytes: Arc<Vec<u8>>,
}

impl User {
    fn new(engine: &Arc<Engine>, seed: u64, bytes: &Arc<Vec<u8>>) -> Self {
        let post = Arc::new(Post::default());
        Self {
            thread: engine.attach(Arc::<Post>::clone(&post)),
            origins: ["a", "b", "c"].map(|name| engine.origin(name)),
            engine: Arc::clone(engine),
            post,
            rng: fastrand::Rng::with_seed(seed),
            loads: HashMap::new(),
            bytes: Arc::clone(bytes),
        }
    }

    /// Few keys often, many rarely.
    fn key(&mut self) -> String {
        format!("key:{}", (self.rng.f64().powi(4) * KEYS as f64) as u64)
    }

    fn ages(&mut self) -> Ages {
        let max_age = self.rng.u64(1..2_000);
        let stale_age = max_age + self.rng.u64(..5_000);
        Ages { max_age, stale_age, stale_if_error: stale_age + self.rng.u64(..5_000) }
    }

    fn origin(&mut self) -> OriginId {
        self.origins[self.rng.usize(..3)]
    }

    /// Some bytes that can be compressed, or not.
    fn range(&mut self) -> (usize, usize) {
        let len = (self.rng.f64().powi(3) * LARGEST as f64) as usize;
        let start = self.rng.usize(..self.bytes.len() - len);
        (start, start + len)
    }

    fn act(&mut self) {
        let key = self.key();
        match self.rng.u32(..1_000) {
            0..=29 => {
                let (from, to) = self.range();
                let ages = self.ages();
                let bytes = Arc::clone(&self.bytes);
                let value =
                    Value { kind: Kind::Bytes, bytes: &bytes[from..to], metadata: b"{}", ages, route: 1, links: b"" };
                self.engine.commit(self.engine.prepare(key.as_bytes(), &value).unwrap());
            }
            30..=44 => _ = self.engine.delete(key.as_bytes()),
            45..=54 => self.begin(&key, true),
            55..=59 => {
                let keys: Vec<_> = (0..20).map(|_| self.key()).collect();
                self.refresh(&keys);
            }
            60 => _ = self.engine.list(key.as_bytes(), None, 100),
            61 => _ = self.engine.metrics(),
            _ => match self.engine.lookup(key.as_bytes(), None) {
                None => self.begin(&key, false),
                Some(found) if found.refresh_due => self.refresh(&[key]),
                Some(_) => {}
            },
        }
        assert!(self.engine.bytes() <= self.engine.budget());
    }

    fn begin(&mut self, key: &str, force: bool) {
        let parent = if self.rng.u32(..10) == 0 { self.loads.keys().next().copied().unwrap_or(0) } else { 0 };
        let begin = Begin {
            thread: self.thread,
            parent,
            origin: self.origin(),
            route: 1,
            hard_timeout: HARD_TIMEOUT,
            force,
            permit: true,
            since: 0,
        };
        if let Begun::Lead { token, .. } = self.engine.begin(key.as_bytes(), &begin) {
            self.load(token);
        }
    }

    fn refresh(&mut self, keys: &[String]) {
        let refresh = Refresh { thread: self.thread, origin: self.origin(), route: 2, hard_timeout: HARD_TIMEOUT };
        self.engine.refresh(keys.iter().map(|key| key.as_bytes()), &refresh);
    }

    fn load(&mut self, token: Token) {
        let after = |ms| Instant::now() + Duration::from_millis(ms);
        let fate = match self.rng.u32(..100) {
            0..=79 => return self.settle(token),
            80..=93 => Fate::Settle(after(self.rng.u64(..50))),
            94..=98 => Fate::Fail(after(self.rng.u64(..50))),
            _ => Fate::Never,
        };
        self.loads.insert(token, fate);
    }

    fn settle(&mut self, token: Token) {
        let (from, to) = self.range();
        let ages = self.ages();
        let bytes = Arc::clone(&self.bytes);
        let loaded = match self.rng.u32(..20) {
            0 => Loaded::Unstored { links: &[] },
            1..=2 => Loaded::NotModified { ages, metadata: None, links: None },
            _ => Loaded::Value(Value {
                kind: Kind::Bytes,
                bytes: &bytes[from..to],
                metadata: b"",
                ages,
                route: 1,
                links: b"",
            }),
        };
        self.engine.settle(token, &loaded);
    }

    /// Reports the loads that are at their end, and does what the engine asks for.
    fn serve(&mut self, now: Instant) {
        let due = |fate: &Fate| matches!(fate, Fate::Settle(at) | Fate::Fail(at) if *at <= now);
        let done: Vec<_> =
            self.loads.iter().filter(|(_, fate)| due(fate)).map(|(token, fate)| (*token, *fate)).collect();
        for (token, fate) in done {
            self.loads.remove(&token);
            match fate {
                Fate::Settle(_) => self.settle(token),
                _ => _ = self.engine.fail(token, Outcome::Failure, true),
            }
        }
        for event in self.post.take() {
            match event {
                Event::Start(batch) => {
                    for flight in self.engine.start(batch) {
                        self.load(flight.token);
                    }
                }
                Event::TimedOut(token) if self.loads.remove(&token).is_some() => {
                    self.engine.fail(token, Outcome::Failure, true);
                }
                // What another thread loaded is kept until it is taken.
                Event::Landed(token) => _ = self.engine.take_landed(self.thread, token),
                _ => {}
            }
        }
    }
}

/// Resident memory in bytes, where the system tells.
fn resident() -> Option<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    // Pages are of 4 KiB on what has /proc and is tested on.
    Some(pages * 4096.0)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            println!("{why}");
            return ExitCode::from(2);
        }
    };
    let scheduled = Scheduled::open(Config {
        memory: options.megabytes << 20,
        queue: Limits { concurrency: 10, max_queued: 1_000, retries: 1 },
        backoff: 20,
        cooldown: 100,
        breaker: Some(BreakerConfig { threshold: 5, timeout: 300 }),
        compression: Some(Compression { algorithm: Algorithm::Lz4, level: 0, threshold: 1_024 }),
    });
    let engine = Arc::clone(scheduled.engine());
    let mut rng = fastrand::Rng::with_seed(options.seed);
    // Half of it repeats itself.
    let bytes: Arc<Vec<_>> = Arc::new((0..100_000).map(|n| if n % 64 < 32 { b'.' } else { rng.u8(..) }).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let acts = Arc::new(AtomicU64::new(0));
    let users: Vec<_> = (0..options.threads)
        .map(|n| {
            let mut user = User::new(&engine, options.seed + n, &bytes);
            let (stop, acts) = (Arc::clone(&stop), Arc::clone(&acts));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..100 {
                        user.act();
                    }
                    acts.fetch_add(100, Ordering::Relaxed);
                    user.serve(Instant::now());
                }
                // What runs comes to its end, and what the queue still starts.
                let end = Instant::now() + Duration::from_secs(30);
                while !(user.loads.is_empty() && user.engine.flush()) && Instant::now() < end {
                    thread::sleep(Duration::from_millis(5));
                    user.serve(Instant::now());
                }
                assert!(user.loads.is_empty(), "loads that never ended: {}", user.loads.len());
            })
        })
        .collect();

    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let start = Instant::now();
    let mut warm: Vec<(f64, f64)> = Vec::new();
    let mut said = 0;
    while start.elapsed() < length {
        thread::sleep(Duration::from_millis(500).min(length.saturating_sub(start.elapsed())));
        let elapsed = start.elapsed().as_secs_f64();
        assert!(engine.bytes() <= engine.budget(), "{} bytes are over the budget", engine.bytes());
        let now = resident();
        if elapsed > length.as_secs_f64() / 3.0 {
            warm.extend(now.map(|bytes| (elapsed, bytes)));
        }
        if elapsed as u64 / 10 > said || start.elapsed() >= length {
            said = elapsed as u64 / 10;
            let stats = engine.stats();
            println!(
                "{elapsed:>6.0} s {:>12} acts {:>9} entries {:>7.1} MB of {:.1} resident {:>7.1} MB hits {:>5.1} % queued {:>4} \
                 running {:>3} flights {:>5} dropped {} errors {}",
                acts.load(Ordering::Relaxed),
                stats.entries,
                stats.bytes as f64 / 1e6,
                engine.budget() as f64 / 1e6,
                now.unwrap_or(0.0) / 1e6,
                stats.totals.hit_ratio() * 100.0,
                stats.queued,
                stats.running,
                engine.open_flights(),
                stats.totals.refreshes_dropped,
                stats.totals.errors,
            );
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut sound = users.into_iter().map(thread::JoinHandle::join).filter(Result::is_err).count() == 0;

    let stats = engine.stats();
    let left = (stats.queued, stats.running, engine.open_flights());
    if left != (0, 0, 0) {
        println!("left behind: {} queued, {} running, {} flights", left.0, left.1, left.2);
        sound = false;
    }
    // The first and the second half of the warm time, by their greatest: a leak goes on growing, noise does not.
    let (early, late) = warm.split_at(warm.len() / 2);
    let most = |half: &[(f64, f64)]| half.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);
    let (early, late) = (most(early), most(late));
    println!("resident while warm: at most {:.1} MB, then at most {:.1} MB", early / 1e6, late / 1e6);
    if late > early * (1.0 + GROWTH) + GROWTH_BYTES {
        println!("it grows");
        sound = false;
    }
    drop(scheduled);
    engine.validate();
    println!("{}", if sound { "sound" } else { "not sound" });
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
