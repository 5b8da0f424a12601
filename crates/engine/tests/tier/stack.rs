//! Tiers behind an engine: what is found there, what is not stored, what is owed.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kvcache_engine::engine::{Begin, Begun, Config, Engine, Event, Inbox, Invalidation, ThreadId, Value};
use kvcache_engine::entry::{Ages, Freshness, Kind};
use kvcache_engine::invalidation::links::{self, Role, push};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::load::breaker::{OriginId, Outcome};
use kvcache_engine::load::queue::Limits;
use kvcache_engine::scheduler::Scheduled;
use kvcache_engine::tier::chaos::{Chaos, Ills};
use kvcache_engine::tier::conformance::{get, puts, record};
use kvcache_engine::tier::disk::DiskTier;
use kvcache_engine::tier::memory::MemoryTier;
use kvcache_engine::tier::{Answer, Fact, Found, Key, Layer, Page, Put, Runtime, SharedLog, Tier, TierError, Tiers};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::disk::Dir;

const LONG: Duration = Duration::from_secs(30);

struct Post(Mutex<Sender<Event>>);

impl Inbox for Post {
    fn post(&self, event: Event) {
        let _ = self.0.lock().send(event);
    }
}

pub struct World {
    scheduled: Scheduled,
    pub tiers: Arc<Tiers>,
    thread: ThreadId,
    events: Receiver<Event>,
}

impl World {
    pub fn new(tiers: Vec<Arc<dyn Tier>>) -> Self {
        let scheduled = Scheduled::open(Config {
            memory: 1 << 20,
            queue: Limits { concurrency: 1, max_queued: 10, retries: 0 },
            backoff: 1,
            cooldown: 1,
            breaker: None,
            compression: None,
        });
        let (sender, events) = channel();
        let thread = scheduled.engine().attach(Arc::new(Post(Mutex::new(sender))));
        let timeout = Duration::from_secs(5);
        let layers = tiers.into_iter().map(|tier| Layer { tier, timeout }).collect();
        let tiers = Tiers::open(scheduled.engine(), Runtime::shared().unwrap(), layers);
        Self { scheduled, tiers, thread, events }
    }

    pub fn engine(&self) -> &Engine {
        self.scheduled.engine()
    }

    pub fn lead(&self, key: &str) -> u64 {
        let begin = Begin {
            thread: self.thread,
            parent: 0,
            origin: OriginId::NONE,
            route: 0,
            hard_timeout: 60_000,
            force: false,
            permit: false,
            since: 0,
        };
        match self.engine().begin(key.as_bytes(), &begin) {
            Begun::Lead { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for an event, of which there may be others before.
    pub fn wait_for(&self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.events.recv_timeout(LONG).unwrap();
            if wanted(&event) {
                return event;
            }
        }
    }

    pub fn seek(&self, token: u64) {
        self.engine().seek(&[token], false, true);
    }

    pub fn sought(&self, token: u64) -> Option<String> {
        self.wait_for(|event| *event == Event::Sought(token));
        let (found, _) = self.engine().take_sought(token)?;
        Some(String::from_utf8(found.entry.value().to_vec()).unwrap())
    }

    pub fn put(&self, key: &str, value: &str, links: &[u8]) {
        let ages = Ages { max_age: 60_000, stale_age: 60_000, stale_if_error: 60_000 };
        let value = Value { kind: Kind::Text, bytes: value.as_bytes(), metadata: b"", ages, route: 0, links };
        self.engine().commit(self.engine().prepare(key.as_bytes(), &value).unwrap());
    }

    /// What a get without a fetcher gives.
    pub fn find(&self, key: &str) -> Option<String> {
        let token = self.lead(key);
        self.seek(token);
        let found = self.sought(token);
        if found.is_none() {
            self.engine().fail(token, Outcome::Aborted, false);
        }
        found
    }

    /// Has everything land, and closes the tiers.
    pub fn close(&self) {
        let receipt = self.tiers.flush(self.thread, LONG, true);
        let delivered = self.wait_for(|event| matches!(event, Event::Delivered { receipt: of, .. } if *of == receipt));
        assert!(matches!(delivered, Event::Delivered { trouble: None, .. }), "{delivered:?}");
    }

    /// What became of all that was handed over: the tier that is not well.
    pub fn arrived(&self) -> Option<String> {
        let receipt = self.tiers.receipt(self.thread, true);
        if receipt == 0 {
            return None;
        }
        let delivered = self.wait_for(|event| matches!(event, Event::Delivered { receipt: of, .. } if *of == receipt));
        match delivered {
            Event::Delivered { trouble, .. } => trouble.map(|trouble| trouble.tier.to_string()),
            _ => None,
        }
    }

    pub fn invalidate(&self, text: &str) {
        self.engine().invalidate(&Invalidation::new(&Target::parse(text).unwrap(), text, false));
    }
}

type Meanwhile = Box<dyn Fn(&[Key]) + Send + Sync>;

/// A tier that lets reads go one by one, and may be one that lasts.
struct Gate {
    tier: Arc<dyn Tier>,
    reads: Arc<Semaphore>,
    name: &'static str,
    lasts: bool,
    /// What happens once these have been read, before who asked knows.
    meanwhile: OnceLock<Meanwhile>,
}

impl Gate {
    fn open(tier: Arc<dyn Tier>, name: &'static str, lasts: bool) -> Arc<Self> {
        let reads = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Arc::new(Self { tier, reads, name, lasts, meanwhile: OnceLock::new() })
    }
}

impl Tier for Gate {
    fn name(&self) -> &str {
        self.name
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        Box::pin(async move {
            let found = self.tier.get_many(keys.clone()).await;
            self.reads.acquire().await.unwrap().forget();
            if let Some(meanwhile) = self.meanwhile.get() {
                meanwhile(&keys);
            }
            found
        })
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        self.tier.put_many(puts)
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        self.tier.delete_many(keys)
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        self.tier.list(prefix, limit, cursor)
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        self.tier.write_marker(fact)
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        self.tier.read_markers(since)
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        self.tier.flush()
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn log(&self) -> Option<&dyn SharedLog> {
        self.tier.log()
    }

    fn is_awaited(&self) -> bool {
        self.lasts
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn what_a_tier_has_ends_the_flight_and_keeps_its_ages() {
    let tier = Arc::new(MemoryTier::default());
    let at = record("k", "v", 1).stored_at;
    let old = kvcache_engine::tier::Record { fresh_until: at - 1, stale_until: at + 60_000, ..record("k", "v", 1) };
    run(tier.put_many(puts(vec![old])));
    let w = World::new(vec![tier]);
    let token = w.lead("k");
    w.seek(token);
    assert_eq!(w.sought(token).as_deref(), Some("v"));
    assert!(!w.engine().is_open(token));
    assert_eq!(w.engine().peek(b"k").unwrap().freshness, Freshness::Stale);
    let token = w.lead("other");
    w.seek(token);
    assert_eq!(w.sought(token), None);
    assert!(w.engine().is_open(token), "its fetcher is to run");
}

#[test]
fn what_is_cut_while_a_tier_is_asked_is_neither_given_nor_stored() {
    for target in ["k", "k*", "*"] {
        let tier = Arc::new(MemoryTier::default());
        run(tier.put_many(puts(vec![record("k", "old", 1)])));
        let reads = Arc::new(Semaphore::new(0));
        let gate = Gate { tier, reads: Arc::clone(&reads), name: "gate", lasts: false, meanwhile: OnceLock::new() };
        let w = World::new(vec![Arc::new(gate)]);
        let token = w.lead("k");
        w.seek(token);
        // The tier has answered, and its answer is on the way.
        std::thread::sleep(Duration::from_millis(50));
        w.invalidate(target);
        reads.add_permits(1);
        assert_eq!(w.sought(token), None, "{target}");
        assert!(w.engine().peek(b"k").is_none());
    }
}

#[test]
fn a_tier_that_is_away_is_told_later_and_the_caller_at_once() {
    let tier = Arc::new(MemoryTier::default());
    let chaos = Arc::new(Chaos::new(Arc::clone(&tier) as Arc<dyn Tier>, Ills::default(), 1));
    let w = World::new(vec![Arc::clone(&chaos) as Arc<dyn Tier>]);
    w.put("a:1", "v", b"");
    assert_eq!(w.arrived(), None);
    chaos.set(Ills { refused: 1.0, ..Ills::default() });
    w.invalidate("a:*");
    assert_eq!(w.arrived().as_deref(), Some("memory"));
    let token = w.lead("a:1");
    w.seek(token);
    assert_eq!(w.sought(token), None, "a failing tier is a miss");
    chaos.set(Ills::default());
    let start = std::time::Instant::now();
    while run(tier.read_markers(0)).unwrap().is_empty() {
        assert!(start.elapsed() < LONG);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_tier_is_owed_outlives_the_process_in_one_that_lasts() {
    let (near, far) = (Arc::new(MemoryTier::default()), Arc::new(MemoryTier::default()));
    run(far.put_many(puts(vec![record("gone", "old", 1), record("put", "old", 1), record("stays", "v", 1)])));
    {
        let away = Ills { refused: 1.0, ..Ills::default() };
        let chaos = Arc::new(Chaos::new(Arc::clone(&far) as Arc<dyn Tier>, away, 1));
        let tiers: Vec<Arc<dyn Tier>> =
            vec![Gate::open(Arc::clone(&near) as _, "near", true), Gate::open(chaos, "far", false)];
        let w = World::new(tiers);
        w.engine().delete(b"gone");
        w.put("put", "new", b"");
        w.invalidate("x:*");
        assert_eq!(w.arrived().as_deref(), Some("far"));
    }
    let tiers: Vec<Arc<dyn Tier>> =
        vec![Gate::open(Arc::clone(&near) as _, "near", true), Gate::open(Arc::clone(&far) as _, "far", false)];
    let w = World::new(tiers);
    let start = std::time::Instant::now();
    let notes = || run(near.list(b"__kvcache__:owed:".to_vec(), 10, None)).unwrap().keys.len();
    while notes() > 0 || run(far.read_markers(0)).unwrap().is_empty() {
        assert!(start.elapsed() < LONG, "{} notes", notes());
        std::thread::sleep(Duration::from_millis(20));
    }
    for (key, there) in [("gone", false), ("put", false), ("stays", true)] {
        assert_eq!(run(get(&*far, key)).unwrap().is_some(), there, "{key}");
    }
    drop(w);
}

#[test]
fn what_was_asked_of_a_parent_goes_with_its_child_though_the_parent_is_heard_of_meanwhile() {
    let (dir, other) = (Dir::new(), Dir::new());
    let disk = |dir: &Dir| Arc::new(DiskTier::open(&dir.settings(), Runtime::shared().unwrap().handle()).unwrap());
    let link = |names: &[(Role, &str)]| {
        let mut links = Vec::new();
        names.iter().for_each(|(role, name)| push(&mut links, *role, name.as_bytes()));
        links
    };
    let near = disk(&dir);
    let writer = World::new(vec![Arc::clone(&near) as Arc<dyn Tier>]);
    writer.put("a", "1", b"");
    writer.put("b", "1", &link(&[(Role::Parent, "a"), (Role::Tag, "of b")]));
    writer.close();

    let near = disk(&dir);
    let far = Gate::open(disk(&other), "far", false);
    let w = World::new(vec![Arc::clone(&near) as Arc<dyn Tier>, Arc::clone(&far) as Arc<dyn Tier>]);
    let engine = Arc::downgrade(w.scheduled.engine());
    // One parent is found in the first tier. While the second is asked for the other, the first is heard of.
    let heard = move |keys: &[Key]| {
        if let Some(engine) = engine.upgrade()
            && keys.iter().any(|key| **key == *b"nowhere")
        {
            engine.apply(&Target::Key(b"b".as_slice().into()), "b", false);
        }
    };
    assert!(far.meanwhile.set(Box::new(heard)).is_ok());
    w.put("c", "1", &link(&[(Role::Parent, "b"), (Role::Parent, "nowhere")]));
    assert_eq!(w.arrived(), None);
    let record = run(get(&*near, "c")).unwrap().unwrap();
    let names: Vec<_> = links::names(&record.links).collect();
    for name in [(Role::InheritedParent, &b"a"[..]), (Role::InheritedTag, b"of b")] {
        assert!(names.contains(&name), "{names:?}");
    }
    w.close();
}
