//! Tests of the tier as a whole: against a naive model, from many threads, and over long churn.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, Weak};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::entry::{Ages, EntrySpec, Kind};

/// An entry whose value is `len` bytes and that can be served until `dead_at`.
fn entry(key: &str, len: usize, dead_at: Millis) -> Entry {
    entry_of(key, &vec![b'v'; len], dead_at)
}

fn entry_of(key: &str, value: &[u8], dead_at: Millis) -> Entry {
    let ages = Ages { max_age: dead_at, stale_age: dead_at, stale_if_error: 0 };
    let key = key.as_bytes();
    Entry::new(
        &EntrySpec { key, metadata: b"", links: b"", value, kind: Kind::Text, ages, seq: 0, route: 0, version: 0 },
        0,
    )
}

fn tier(budget: u64, weight: Weight, shards: usize) -> MemoryTier {
    MemoryTier::new(Config { budget, weight, shards: Some(shards) }, None)
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(Entry::key_str).collect()
}

/// Keeps what it is told.
#[derive(Default)]
struct Told(Mutex<Vec<(Entry, EvictReason)>>);

impl EvictListener for Told {
    fn evicted(&self, entry: &Entry, reason: EvictReason) {
        self.0.lock().unwrap().push((entry.clone(), reason));
    }
}

#[derive(Debug, Clone)]
enum Act {
    Insert { key: u8, len: usize, life: Option<u64> },
    InsertAgain { key: u8 },
    Get(u8),
    Remove(u8),
    RemoveIf(u8, bool),
    Touch(u8),
    Advance(u64),
    Reclaim(usize),
    List { prefix: usize, after: Option<u8>, limit: usize },
    Clear,
}

fn act() -> impl Strategy<Value = Act> {
    let len = prop_oneof![8 => 0..200_usize, 1 => 500..3_000_usize];
    let life = prop_oneof![1 => Just(None), 2 => (0..400_u64).prop_map(Some)];
    prop_oneof![
        12 => (any::<u8>(), len, life).prop_map(|(key, len, life)| Act::Insert { key, len, life }),
        1 => any::<u8>().prop_map(|key| Act::InsertAgain { key }),
        6 => any::<u8>().prop_map(Act::Get),
        2 => any::<u8>().prop_map(Act::Remove),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(key, yes)| Act::RemoveIf(key, yes)),
        1 => any::<u8>().prop_map(Act::Touch),
        2 => (0..100_u64).prop_map(Act::Advance),
        2 => (0..6_usize).prop_map(Act::Reclaim),
        2 => (0..4_usize, any::<Option<u8>>(), 0..20_usize)
            .prop_map(|(prefix, after, limit)| Act::List { prefix, after, limit }),
        1 => (0..40_u8).prop_map(|n| if n == 0 { Act::Clear } else { Act::Reclaim(1) }),
    ]
}

/// Keys of a few groups, so that prefixes mean something.
fn name(key: u8) -> String {
    format!("{}:{key:03}", ["a", "ab", "b", "b:é"][key as usize % 4])
}

/// The tier beside a map. What the tier lets go, it tells; so the map always knows exactly what must be there.
struct Model {
    tier: MemoryTier,
    told: Arc<Told>,
    held: BTreeMap<String, Entry>,
    now: Millis,
    evictions: u64,
}

impl Model {
    fn new(budget: u64, weight: Weight, shards: usize) -> Self {
        let told = Arc::new(Told::default());
        let listener = Arc::clone(&told) as Arc<dyn EvictListener>;
        let tier = MemoryTier::new(Config { budget, weight, shards: Some(shards) }, Some(listener));
        Self { tier, told, held: BTreeMap::new(), now: 0, evictions: 0 }
    }

    fn insert(&mut self, entry: Entry) {
        let (key, weight) = (entry.key_str().to_owned(), self.tier.weigh(&entry));
        let fits = weight <= self.tier.budget();
        assert_eq!(self.tier.insert(entry.clone()), fits);
        self.hear(Some(&key));
        if fits {
            self.held.insert(key, entry);
        }
    }

    /// Takes from the map what the tier told of. `replaced` may have been evicted to make room for its own successor.
    fn hear(&mut self, replaced: Option<&str>) {
        for (entry, reason) in self.told.0.lock().unwrap().drain(..) {
            let was = self.held.remove(entry.key_str());
            let known = was.is_some_and(|was| was.value() == entry.value() && was.header() == entry.header());
            assert!(known || replaced == Some(entry.key_str()), "{entry:?} was not held");
            match reason {
                EvictReason::Budget => self.evictions += 1,
                EvictReason::Expired => assert!(entry.dead_at() <= self.now),
            }
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Insert { key, len, life } => {
                let dead_at = life.map_or(FOREVER, |life| self.now + life);
                self.insert(entry(&name(key), len, dead_at));
            }
            Act::InsertAgain { key } => {
                if let Some(entry) = self.tier.peek(name(key).as_bytes()) {
                    self.insert(entry);
                }
            }
            Act::Get(key) => {
                let expected = self.held.get(&name(key)).map(|e| (e.header(), e.value().len()));
                let found = self.tier.get(name(key).as_bytes());
                assert_eq!(found.map(|e| (e.header(), e.value().len())), expected);
            }
            Act::Remove(key) => {
                let expected = self.held.remove(&name(key));
                let removed = self.tier.remove(name(key).as_bytes());
                assert_eq!(removed.map(|e| e.header()), expected.map(|e| e.header()));
            }
            Act::RemoveIf(key, yes) => {
                let held = self.held.contains_key(&name(key));
                let mut asked = false;
                let removed = self.tier.remove_if(name(key).as_bytes(), |e| {
                    asked = e.key_str() == name(key);
                    yes
                });
                assert_eq!((asked, removed.is_some()), (held, held && yes));
                if yes {
                    self.held.remove(&name(key));
                }
            }
            Act::Touch(key) => self.tier.touch(&[hash_key(name(key).as_bytes()), 1]),
            Act::Advance(by) => self.now += by,
            Act::Reclaim(max) => self.reclaim(max),
            Act::List { prefix, after, limit } => {
                let prefix = ["", "a", "b:", "x"][prefix];
                let after = after.map(name);
                let keep = |e: &Entry| !e.value().len().is_multiple_of(3);
                let (page, complete) =
                    self.tier.list(prefix.as_bytes(), after.as_deref().map(str::as_bytes), limit, keep);
                let fits = |key: &str| key.starts_with(prefix) && after.as_deref().is_none_or(|after| key > after);
                let all = self.held.iter().filter(|(key, entry)| fits(key) && keep(entry)).map(|(key, _)| key.as_str());
                let all: Vec<_> = all.collect();
                assert_eq!(keys(&page), all[..limit.min(all.len())]);
                assert_eq!(complete, all.len() <= limit);
            }
            Act::Clear => {
                self.tier.clear();
                self.held.clear();
            }
        }
    }

    fn reclaim(&mut self, max: usize) {
        let dead = self.held.values().filter(|e| e.dead_at() <= self.now).count();
        let reclaimed = self.tier.reclaim(self.now, max);
        assert!(reclaimed <= max.min(dead));
        // Short of the maximum, there is nothing left; or it says that there is.
        let due = self.tier.next_expiry().is_some_and(|next| next <= self.now);
        assert!(reclaimed == max.min(dead) || due);
        self.hear(None);
    }

    fn check(&self) {
        self.tier.validate();
        assert_eq!(self.tier.len(), self.held.len());
        assert_eq!(self.tier.is_empty(), self.held.is_empty());
        assert_eq!(self.tier.bytes(), self.held.values().map(|e| self.tier.weigh(e)).sum::<u64>());
        assert_eq!(self.tier.value_bytes(), self.held.values().map(|e| e.value().len() as u64).sum::<u64>());
        assert_eq!(self.tier.evictions(), self.evictions);
        let first = self.held.values().map(Entry::dead_at).min().filter(|at| *at != FOREVER);
        match (self.tier.next_expiry(), first) {
            (Some(next), Some(first)) => assert!(next <= first.max(self.now)),
            (next, first) => assert_eq!(next, first),
        }
        let (all, complete) = self.tier.list(b"", None, usize::MAX, |_| true);
        assert!(complete);
        assert_eq!(keys(&all), self.held.keys().map(String::as_str).collect::<Vec<_>>());
        for (key, entry) in &self.held {
            assert_eq!(self.tier.peek(key.as_bytes()).unwrap().header(), entry.header());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn agrees_with_a_map_that_hears_of_evictions(
        acts in prop::collection::vec(act(), 1..150),
        (budget, weight) in prop_oneof![
            (300..6_000_u64).prop_map(|budget| (budget, Weight::Bytes)),
            (1..40_u64).prop_map(|budget| (budget, Weight::Unit)),
            (1..4_000_u64).prop_map(|budget| (budget, Weight::Value)),
        ],
        shards in prop::sample::select(vec![1, 2, 8]),
    ) {
        let mut model = Model::new(budget, weight, shards);
        for act in acts {
            model.act(act);
            model.check();
        }
    }
}

#[test]
fn refuses_only_what_weighs_more_than_the_whole_budget() {
    for shards in [1, 2, 8, 64] {
        let tier = tier(100_000, Weight::Value, shards);
        for n in 0..1_000 {
            assert!(tier.insert(entry(&format!("small {n}"), 100, FOREVER)));
        }
        assert!(!tier.insert(entry("small 999", 100_001, FOREVER)));
        assert_eq!(tier.peek(b"small 999").unwrap().value().len(), 100);
        assert!(tier.insert(entry("half", 50_000, FOREVER)));
        assert!(tier.len() > 400, "{} of 500 small ones are left", tier.len());
        // A replacement that fits only after its own predecessor has gone.
        assert!(tier.insert(entry("half", 99_000, FOREVER)));
        assert!(tier.insert(entry("whole", 100_000, FOREVER)));
        assert_eq!((tier.len(), tier.bytes(), tier.value_bytes()), (1, 100_000, 100_000));
        for n in 0..2_000 {
            assert!(tier.insert(entry(&format!("after {n}"), 100, FOREVER)));
        }
        assert!(tier.bytes() > 99_000, "the shards lie idle: {}", tier.bytes());
        tier.validate();
    }
}

#[test]
fn a_giant_takes_from_all_shards_alike() {
    let tier = tier(80_000, Weight::Value, 8);
    for n in 0..800 {
        tier.insert(entry(&format!("{n}"), 100, FOREVER));
    }
    assert!(tier.insert(entry("giant", 40_000, FOREVER)));
    let weights: Vec<_> = tier.shards.iter().map(Shard::ordinary_weight).collect();
    let (least, most) = (weights.iter().min().unwrap(), weights.iter().max().unwrap());
    assert!(*least > 2_000 && *most < 8_000, "{weights:?}");
}

#[test]
fn shards_keep_to_their_shares_over_time() {
    let tier = tier(64_000, Weight::Value, 4);
    for n in 0..100_000_u64 {
        let len = 1 + (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as usize;
        tier.insert(entry(&format!("{n}"), len, FOREVER));
    }
    for shard in &tier.shards {
        assert!(shard.weight().abs_diff(16_000) < 1_600, "{}", shard.weight());
    }
    tier.validate();
}

#[test]
fn an_entry_held_already_is_stored_as_a_copy() {
    let (one, other) = (tier(10_000, Weight::Bytes, 1), tier(10_000, Weight::Bytes, 1));
    let e = entry("k", 10, FOREVER);
    assert!(one.insert(e.clone()) && other.insert(e.clone()) && one.insert(e.clone()));
    one.validate();
    other.validate();
    let removed = one.remove(b"k").unwrap();
    assert!(other.peek(b"k").unwrap().value().as_ptr() != removed.value().as_ptr());
    // Out again, it can go in again as it is.
    let pointer = removed.value().as_ptr();
    assert!(one.insert(removed));
    assert_eq!(one.peek(b"k").unwrap().value().as_ptr(), pointer);
    one.clear();
    assert!(one.insert(other.remove(b"k").unwrap()));
    one.validate();
}

#[test]
fn a_use_keeps_an_entry_and_a_peek_does_not() {
    for touch in [false, true] {
        let tier = tier(1_000, Weight::Unit, 1);
        for n in 0..1_000 {
            tier.insert(entry(&format!("{n}"), 1, FOREVER));
        }
        for n in 0..100 {
            let key = format!("{n}");
            if touch {
                tier.touch(&[hash_key(key.as_bytes())]);
            } else {
                tier.get(key.as_bytes());
            }
            tier.peek(format!("{}", n + 100).as_bytes());
        }
        for n in 1_000..1_900 {
            tier.insert(entry(&format!("{n}"), 1, FOREVER));
        }
        let left =
            |range: std::ops::Range<u32>| range.filter(|n| tier.peek(format!("{n}").as_bytes()).is_some()).count();
        assert_eq!((left(0..100), left(100..200)), (100, 0));
    }
}

#[test]
fn small_budgets_are_not_divided() {
    let shards = |budget, weight| MemoryTier::new(Config { budget, weight, shards: None }, None).shards.len();
    assert_eq!(shards(1_024, Weight::Bytes), 1);
    assert_eq!(shards(500, Weight::Unit), 1);
    assert_eq!(shards(LEAST_SHARE_BYTES * 2 - 1, Weight::Bytes), 1);
    assert!(shards(1 << 40, Weight::Bytes).is_power_of_two());
}

#[test]
fn reclaims_in_portions_and_without_being_read() {
    let tier = tier(1 << 20, Weight::Bytes, 4);
    for n in 0..1_000 {
        tier.insert(entry(&format!("{n}"), 10, 1_000 + n % 10));
        tier.insert(entry(&format!("endless {n}"), 10, FOREVER));
    }
    assert_eq!(tier.reclaim(999, usize::MAX), 0);
    let mut portions = 0;
    while tier.next_expiry().is_some_and(|next| next <= 1_004) {
        assert!(tier.reclaim(1_004, 7) <= 7);
        portions += 1;
    }
    assert!(portions >= 500 / 7);
    assert_eq!(tier.len(), 1_500);
    assert_eq!(tier.reclaim(u64::MAX, usize::MAX), 500);
    assert_eq!((tier.len(), tier.next_expiry(), tier.evictions()), (1_000, None, 0));
    tier.validate();
}

#[test]
fn listeners_may_call_the_tier() {
    struct Curious(Mutex<Weak<MemoryTier>>, AtomicUsize);
    impl EvictListener for Curious {
        fn evicted(&self, entry: &Entry, _: EvictReason) {
            let tier = self.0.lock().unwrap().upgrade().unwrap();
            // Each of these takes the lock under which the entry was evicted.
            assert!(tier.peek(entry.key()).is_none() && tier.remove(entry.key()).is_none());
            tier.list(b"", None, 1, |_| true);
            tier.reclaim(0, 1);
            if self.1.fetch_add(1, Ordering::Relaxed) < 3 {
                assert!(tier.insert(entry.clone()));
            }
        }
    }
    let curious = Arc::new(Curious(Mutex::default(), AtomicUsize::new(0)));
    let listener = Arc::clone(&curious) as Arc<dyn EvictListener>;
    let config = Config { budget: 10, weight: Weight::Unit, shards: Some(1) };
    let tier = Arc::new(MemoryTier::new(config, Some(listener)));
    *curious.0.lock().unwrap() = Arc::downgrade(&tier);
    for n in 0..100 {
        tier.insert(entry(&format!("{n}"), 1, 5));
    }
    tier.reclaim(5, usize::MAX);
    assert!(curious.1.load(Ordering::Relaxed) >= 100);
    tier.validate();
}

/// Calls `check` again and again while `work` runs in `threads` threads.
fn while_working(threads: u64, work: impl Fn(u64) + Sync, check: impl Fn() + Sync) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                check();
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn({
                    let work = &work;
                    move || work(n)
                })
            })
            .collect();
        let failed = workers.into_iter().filter_map(|worker| worker.join().err()).next();
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap();
        if let Some(failed) = failed {
            std::panic::resume_unwind(failed);
        }
    });
}

#[test]
fn the_budget_holds_at_every_moment_in_many_threads() {
    for (shards, budget) in [(1, 50_000), (8, 200_000)] {
        let tier = tier(budget, Weight::Bytes, shards);
        let work = |thread: u64| {
            let mut random = fastrand::Rng::with_seed(thread);
            for _ in 0..6_000 {
                let key = format!("k{}", random.u32(0..2_000));
                match random.u32(0..100) {
                    0 => drop(tier.remove(key.as_bytes())),
                    1 => drop(tier.reclaim(random.u64(0..1_000), 10)),
                    2 if random.u32(0..50) == 0 => tier.clear(),
                    3..40 => drop(tier.get(key.as_bytes())),
                    _ => {
                        // Mostly small, some larger than a shard's share, some nearly the whole budget.
                        let len = match random.u32(0..300) {
                            0 => budget as usize * 9 / 10,
                            1..4 => budget as usize / 6,
                            _ => random.usize(0..600),
                        };
                        assert!(tier.insert(entry(&key, len, random.u64(500..2_000))));
                    }
                }
                assert!(tier.bytes() <= budget);
            }
        };
        while_working(4, work, || assert!(tier.bytes() <= budget));
        tier.validate();
        assert!(tier.bytes() > 0);
    }
}

#[test]
fn insertions_that_each_need_nearly_all_do_not_starve_each_other() {
    let tier = tier(100_000, Weight::Value, 4);
    let work = |thread: u64| {
        for n in 0..200 {
            assert!(tier.insert(entry(&format!("{thread} {}", n % 7), 60_000 + n, FOREVER)));
            assert!(tier.insert(entry(&format!("small {thread} {n}"), 300, FOREVER)));
        }
    };
    while_working(4, work, || assert!(tier.bytes() <= 100_000));
    tier.validate();
}

#[test]
fn what_is_there_throughout_is_listed_once_while_others_come_and_go() {
    let tier = tier(1 << 30, Weight::Bytes, 4);
    let stays: Vec<_> = (0..2_000).map(|n| format!("p:{:05}", n * 10)).collect();
    stays.iter().for_each(|key| assert!(tier.insert(entry(key, 1, FOREVER))));
    let work = |thread: u64| {
        let mut random = fastrand::Rng::with_seed(thread);
        for _ in 0..8_000 {
            let key = format!("p:{:05}", random.u32(0..20_000));
            if !key.ends_with('0') {
                if thread == 0 {
                    assert!(tier.insert(entry(&key, 1, FOREVER)));
                } else {
                    drop(tier.remove(key.as_bytes()));
                }
            }
        }
    };
    let check = || {
        let (mut found, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let (page, complete) = tier.list(b"p:", after.as_deref(), 100, |_| true);
            found.extend(page.iter().map(|e| e.key_str().to_owned()));
            match page.last() {
                Some(last) if !complete => after = Some(last.key().to_vec()),
                _ => break,
            }
        }
        assert!(found.is_sorted_by(|a, b| a < b));
        found.retain(|key| key.ends_with('0'));
        assert_eq!(found, stays);
        thread::sleep(Duration::from_micros(100));
    };
    while_working(2, work, check);
    check();
    tier.validate();
}

#[test]
fn nothing_grows_by_churn() {
    let tier = tier(2_000, Weight::Unit, 2);
    let mut sizes = Vec::new();
    let mut random = fastrand::Rng::with_seed(1);
    let mut now = 0;
    for round in 0..12 {
        for n in 0..12_000_u64 {
            // New keys all the time, some used, some removed, some replaced, some that end.
            let key = format!("{}:{}", random.u32(0..50), round * 12_000 + n);
            tier.insert(entry(&key, 5, if n % 3 == 0 { FOREVER } else { now + random.u64(1..50_000) }));
            tier.get(format!("{}:{}", random.u32(0..50), round * 12_000 + random.u64(0..=n)).as_bytes());
            if n % 7 == 0 {
                tier.remove(key.as_bytes());
            }
            now += 1;
        }
        tier.reclaim(now, usize::MAX);
        if round % 3 == 0 {
            tier.list(b"", None, usize::MAX, |_| true);
        }
        sizes.push(tier.shards.iter().map(|shard| shard.with(|inner| inner.sizes())).collect::<Vec<_>>());
        tier.validate();
    }
    for (shard, at_end) in sizes.last().unwrap().iter().enumerate() {
        // After the first rounds, everything has its size.
        let at_start = &sizes[2][shard];
        for (what, (start, end)) in ["slots", "leaves", "ghosts"].iter().zip(at_start.iter().zip(at_end)) {
            assert!(*end <= start * 5 / 4, "{what}: {start} grew to {end}");
        }
    }
}
