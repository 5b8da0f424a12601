//! The log: two tiers as two processes would have them.

use std::sync::{Arc, Weak};

use kvcache_engine::clock::FOREVER;
use kvcache_engine::invalidation::links::{self, Role};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::tier::conformance::{get, record};
use kvcache_engine::tier::redis::RedisTier;
use kvcache_engine::tier::{Fact, Key, Put, Record, SharedLog, Tier, TierError, Told, Watcher};
use parking_lot::Mutex;

use super::cluster::Stage;
use super::server::{Server, is_there, until};

/// What a watcher was told.
#[derive(Default)]
pub struct Seen {
    told: Mutex<Vec<Told>>,
    missed: Mutex<usize>,
    failed: Mutex<Vec<String>>,
}

impl Watcher for Seen {
    fn told(&self, facts: &[Told]) {
        self.told.lock().extend_from_slice(facts);
    }

    fn missed(&self) {
        *self.missed.lock() += 1;
    }

    fn failed(&self, error: &TierError, _: Option<&Key>) {
        self.failed.lock().push(error.to_string());
    }
}

impl Seen {
    pub fn on(tier: &RedisTier) -> Arc<Self> {
        let seen = Arc::new(Self::default());
        let watcher: Arc<dyn Watcher> = Arc::clone(&seen) as _;
        tier.watch(Arc::downgrade(&watcher) as Weak<dyn Watcher>);
        seen
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().clone()
    }

    pub fn missed(&self) -> usize {
        *self.missed.lock()
    }

    pub fn failed(&self) -> Vec<String> {
        self.failed.lock().clone()
    }
}

/// A tier whose log has been read.
pub async fn synced(server: &Server) -> (RedisTier, Arc<Seen>) {
    let tier = server.tier();
    assert_eq!(get(&tier, "none").await, Ok(None));
    let seen = Seen::on(&tier);
    (tier, seen)
}

pub fn fact(target: Target, soft: bool) -> Fact {
    Fact { target, soft, seq: 0, epoch: 0, at: 5, until: FOREVER }
}

pub fn key(key: &str) -> Key {
    key.as_bytes().into()
}

pub fn tag(tag: &str) -> Target {
    Target::Tag(tag.into())
}

/// What a load brings that begins now.
pub fn loaded(tier: &RedisTier, name: &str, value: &str) -> Record {
    let position = tier.position();
    Record { epoch: position.epoch, ..record(name, value, position.seq) }
}

pub async fn put(tier: &RedisTier, put: Put) {
    assert_eq!(tier.put_many(vec![put]).await, vec![Ok(())]);
}

pub async fn value(tier: &RedisTier, name: &str) -> Option<String> {
    get(tier, name).await.unwrap().map(|record| String::from_utf8_lossy(&record.value).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_is_told_each_fact_once_and_in_order() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let ((a, at_a), (b, at_b)) = (synced(&server).await, synced(&server).await);
    put(&a, Put::write(record("k", "1", 0))).await;
    assert_eq!(at_a.told().len(), 1, "what was written is told before the call has answered");
    assert_eq!(b.delete_many(vec![key("k")]).await, vec![Ok(())]);
    for target in [tag("t"), Target::Prefix(b"p:"[..].into()), Target::parse(r"a*\*b").unwrap(), Target::All] {
        assert_eq!(a.write_marker(fact(target.clone(), true)).await, Ok(()));
        assert_eq!(b.write_marker(fact(target, false)).await, Ok(()));
    }
    until("both are told", async || at_a.told().len() == 10 && at_b.told().len() == 10).await;
    until("both stand there", async || a.position() == b.position()).await;
    put(&a, Put::load(loaded(&a, "k", "2"))).await;
    let (told, by_b) = (at_a.told(), at_b.told());
    let same = told.iter().zip(&by_b).all(|(a, b)| a.fact == b.fact && a.own != b.own);
    assert!(same, "the same, and each is somebody's own: {told:?} {by_b:?}");
    assert!(told.iter().step_by(2).all(|told| told.own), "own ones are known as such");
    let numbers: Vec<_> = told.iter().map(|told| told.fact.seq).collect();
    assert_eq!(numbers, (numbers[0]..numbers[0] + 10).collect::<Vec<_>>(), "in the order of their numbers");
    let whole = |at: usize, target: Target, soft| {
        let told = &told[at].fact;
        *told == Fact { seq: told.seq, epoch: told.epoch, at: told.at, ..fact(target, soft) }
    };
    assert!(whole(0, Target::Key(b"k"[..].into()), false) && whole(1, Target::Key(b"k"[..].into()), false));
    assert!(whole(2, tag("t"), true) && whole(3, tag("t"), false) && whole(7, Target::parse(r"a*\*b").unwrap(), false));
    assert_eq!((a.position(), b.position()), (b.position(), a.position()));
    assert_eq!((a.position().seq, a.position().epoch), (numbers[9], told[0].fact.epoch));
    assert_eq!((at_a.missed(), at_b.missed()), (0, 0));
    let found = get(&b, "k").await.unwrap().unwrap();
    assert_eq!((found.seq, found.epoch), (numbers[9], told[0].fact.epoch), "a load has the number it began at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_gives_way_to_what_was_written_since_it_began() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    super::cluster::on_one_and_on_six(&server, gives_way).await;
}

async fn gives_way(stage: Stage<'_>) {
    let (a, b) = ((stage.tier)(), (stage.tier)());
    assert_eq!((get(&a, "w").await, get(&b, "w").await), (Ok(None), Ok(None)));
    // By a write, here and elsewhere.
    let (here, there) = (loaded(&a, "w", "old"), loaded(&b, "w", "old"));
    put(&a, Put::write(record("w", "new", 0))).await;
    put(&a, Put::load(here)).await;
    put(&b, Put::load(there)).await;
    assert_eq!(value(&b, "w").await.as_deref(), Some("new"));
    // One that began afterwards does not.
    put(&a, Put::load(loaded(&a, "w", "newer"))).await;
    assert_eq!(value(&a, "w").await.as_deref(), Some("newer"));
    // By a delete.
    let there = loaded(&b, "w", "old");
    assert_eq!(a.delete_many(vec![key("w")]).await, vec![Ok(())]);
    put(&b, Put::load(there)).await;
    assert_eq!((value(&a, "w").await, value(&b, "w").await), (None, None));
    put(&a, Put::load(loaded(&a, "w", "again"))).await;
    assert_eq!(value(&a, "w").await.as_deref(), Some("again"));
    // By a marker over its key, its tags or its parents.
    let mut names = Vec::new();
    links::push(&mut names, Role::Tag, b"t");
    links::push(&mut names, Role::Parent, b"parent");
    let targets = [tag("t"), Target::Prefix(b"x:"[..].into()), Target::Key(b"parent"[..].into()), Target::All];
    for (n, target) in targets.into_iter().enumerate() {
        let name = format!("x:{n}");
        let load = Record { links: names.clone().into(), ..loaded(&a, &name, "old") };
        assert_eq!(a.write_marker(fact(target.clone(), false)).await, Ok(()));
        put(&a, Put::load(load)).await;
        assert_eq!(value(&a, &name).await, None, "{target:?}");
        let load = Record { links: names.clone().into(), ..loaded(&a, &name, "new") };
        put(&a, Put::load(load)).await;
        assert_eq!(value(&a, &name).await.as_deref(), Some("new"), "{target:?}");
    }
    // Of another log it is nothing.
    let other = Record { epoch: 5, ..loaded(&a, "other", "x") };
    put(&a, Put::load(other)).await;
    assert_eq!(value(&a, "other").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_distinct_whoever_asks() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let tiers = [Arc::new(server.tier()), Arc::new(server.tier())];
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..100 {
        let tier = Arc::clone(&tiers[n % 2]);
        asked.spawn(async move { tier.next_version(key("content"), 0).await.unwrap() });
    }
    let mut versions = asked.join_all().await;
    versions.sort_unstable();
    assert_eq!(versions, (1..=100).collect::<Vec<_>>());
    assert_eq!(tiers[0].next_version(key("content"), 1000).await, Ok(1001), "and above what was asked for");
    assert_eq!(tiers[1].next_version(key("content"), 7).await, Ok(1002));
    assert_eq!(tiers[1].next_version(key("other"), 0).await, Ok(1));
    assert_eq!(tiers[0].last_version(key("content")).await, Ok(1002));
    assert_eq!(tiers[0].last_version(key("nothing")).await, Ok(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_later_reads_the_markers() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let (a, _) = synced(&server).await;
    let kept = Fact { at: unix_now(), ..fact(tag("t"), false) };
    let over = Fact { until: kept.at - 1, ..kept.clone() };
    assert_eq!(a.write_marker(Fact { target: tag("over"), ..over }).await, Ok(()));
    assert_eq!(a.write_marker(kept.clone()).await, Ok(()));
    assert_eq!(a.write_marker(Fact { at: kept.at - 5, ..kept.clone() }).await, Ok(()));
    let position = a.position();
    let (b, at_b) = synced(&server).await;
    let read = b.read_markers(0).await.unwrap();
    assert_eq!(read, vec![Fact { seq: position.seq, epoch: position.epoch, ..kept }], "the newest number and moment");
    assert!(at_b.told().is_empty() && at_b.missed() == 0, "and is told what comes afterwards");
    assert!(
        matches!(server.ask(&["HLEN", "kvcache:{log}"]), ::redis::Value::Int(3)),
        "those that are over are dropped"
    );
}

fn unix_now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_keys_at_once_are_few_calls() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let (a, _) = synced(&server).await;
    let a = Arc::new(a);
    put(&a, Put::write(record("k7", "v", 0))).await;
    let before = server.calls("mget");
    let mut reads = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let a = Arc::clone(&a);
        reads.spawn(async move { get(&*a, &format!("k{n}")).await.unwrap().is_some() });
    }
    assert_eq!(reads.join_all().await.into_iter().filter(|found| *found).count(), 1);
    let calls = server.calls("mget") - before;
    assert!(calls < 250, "1,000 reads at once are {calls} calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mark_of_a_writer_that_died_holds_for_a_while_only() {
    if !is_there() {
        return;
    }
    let server = Server::ready(&[]);
    let (a, _) = synced(&server).await;
    let mark = |until: u64| {
        let epoch = a.position().epoch;
        let stamp =
            [&b"KVR\x01"[..], &1u32.to_le_bytes(), &until.to_le_bytes(), &[0; 8], &epoch.to_le_bytes()].concat();
        let mut conn = ::redis::Client::open(server.url()).unwrap().get_connection().unwrap();
        ::redis::cmd("SET").arg("kvcache:v:k").arg(stamp).exec(&mut conn).unwrap();
    };
    mark(unix_now() + 60_000);
    assert_eq!(value(&a, "k").await, None);
    put(&a, Put::load(loaded(&a, "k", "1"))).await;
    assert_eq!(value(&a, "k").await, None, "while a write is under way no load is stored");
    mark(unix_now() - 1000);
    // What began while it was thought to be under way is left out still.
    assert_eq!(a.write_marker(fact(tag("t"), false)).await, Ok(()));
    assert_eq!(value(&a, "k").await, None);
    put(&a, Put::load(loaded(&a, "k", "2"))).await;
    assert_eq!(value(&a, "k").await.as_deref(), Some("2"));
}
