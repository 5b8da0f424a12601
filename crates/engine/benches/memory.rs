//! What the memory tier costs, beside peers in the same run.
//!
//! `cargo bench -p kvcache-engine --bench memory` prints the ratios that matter first, of medians over slices of a few
//! milliseconds in which the two take turns; then divan's figures of single operations. `-- NAME` runs only what has that in its
//! name: the ratios are called `bookkeeping`, `lookups` and `insertions`. `-- --test` runs divan's part once, without the ratios.
//!
//! A million keys of 25 bytes, values of 100 bytes, looked up in random order. The plain table is a
//! `hashbrown::HashMap<Box<[u8]>, u64>` with the tier's hash function: it finds a number, counts no reference and takes no lock.
//! Entries and the tier's table are allocated as they always are (`kvcache_engine::heap`), all else by the system.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use divan::{Bencher, black_box};
use kvcache_engine::clock::FOREVER;
use kvcache_engine::entry::{Ages, Entry, EntrySpec, Kind};
use kvcache_engine::heap;
use kvcache_engine::memory::{Config, MemoryTier, Weight, hash_key};

const KEYS: usize = 1_000_000;
const KEY_BYTES: usize = 25;
const VALUE_BYTES: usize = 100;
const VALUE: [u8; VALUE_BYTES] = [b'v'; VALUE_BYTES];
/// Entries held where insertions are measured.
const HELD: usize = KEYS / 2;
const ROUNDS: usize = 8;
/// Look-ups that are timed together: about three milliseconds, less than a scheduler's turn.
const SLICE: usize = 20_000;

/// Counts the bytes that are allocated, while it is told to.
struct Counting;

static COUNT: AtomicBool = AtomicBool::new(false);
static LIVE: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(bytes: i64) {
    if COUNT.load(Ordering::Relaxed) {
        LIVE.fetch_add(bytes, Ordering::Relaxed);
    }
}

fn main() {
    let args: Vec<_> = std::env::args().collect();
    if !args.iter().any(|arg| arg == "--test" || arg == "--list") {
        let mut filters = args[1..].iter().filter(|arg| !arg.starts_with('-')).peekable();
        let all = filters.peek().is_none();
        let filters: Vec<_> = filters.collect();
        let parts: [(&str, fn()); 3] = [("bookkeeping", bookkeeping), ("lookups", lookups), ("insertions", insertions)];
        let chosen = |name: &str| all || filters.iter().any(|filter| name.contains(filter.as_str()));
        parts.iter().filter(|(name, _)| chosen(name)).for_each(|(_, part)| part());
        println!();
    }
    divan::main();
}

type Key = [u8; KEY_BYTES];

fn key(n: u64) -> Key {
    format!("user:{n:020}").as_bytes().try_into().unwrap()
}

/// Keys that differ in places, as identifiers do.
fn keys(from: u64, len: usize) -> Vec<Key> {
    (from..from + len as u64).map(|n| key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
}

fn shuffled(keys: &[Key], seed: u64) -> Vec<Key> {
    let mut keys = keys.to_vec();
    fastrand::Rng::with_seed(seed).shuffle(&mut keys);
    keys
}

fn entry(key: &[u8], life: u64) -> Entry {
    let ages = Ages { max_age: life, stale_age: life, stale_if_error: life };
    let value = &VALUE;
    Entry::new(
        &EntrySpec { key, metadata: b"", links: b"", value, kind: Kind::Text, ages, seq: 0, route: 0, version: 0 },
        0,
    )
}

fn tier(entries: usize) -> MemoryTier {
    let tier = MemoryTier::new(Config { budget: u64::MAX, weight: Weight::Bytes, shards: None }, None);
    let weight = tier.weigh(&entry(&key(0), FOREVER));
    MemoryTier::new(Config { budget: weight * entries as u64, weight: Weight::Bytes, shards: None }, None)
}

/// A tier of a million entries that never made room, for the keys.
fn full(keys: &[Key]) -> MemoryTier {
    let tier = tier(KEYS * 2);
    keys.iter().for_each(|key| assert!(tier.insert(entry(key, 3_600_000))));
    tier
}

/// The tier's hash function for peers, so that tables are compared and not hashes.
#[derive(Default)]
struct SameHash(u64);

impl Hasher for SameHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hash_key(bytes);
    }

    fn write_usize(&mut self, _: usize) {}
}

type Same = BuildHasherDefault<SameHash>;

/// The median.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Nanoseconds a piece that `work` takes for `pieces`.
fn time(pieces: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64 / pieces as f64
}

fn bookkeeping() {
    let bytes = |entries: usize| {
        let tier = tier(KEYS);
        LIVE.store(0, Ordering::Relaxed);
        let before = heap::live();
        COUNT.store(true, Ordering::Relaxed);
        for n in 0..entries as u64 {
            tier.insert(entry(&key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 3_600_000 + n));
        }
        COUNT.store(false, Ordering::Relaxed);
        let held = tier.len();
        let live = LIVE.load(Ordering::Relaxed) + heap::live() - before;
        live as f64 / held as f64 - (KEY_BYTES + VALUE_BYTES) as f64
    };
    println!("bookkeeping, bytes an entry beyond key and value, by allocator count");
    println!("  a million entries, no ghosts yet      {:6.1}", bytes(KEYS));
    println!("  a million entries, ghosts complete    {:6.1}", bytes(KEYS * 4));
}

fn lookups() {
    let keys = keys(0, KEYS);
    let orders = [shuffled(&keys, 1), shuffled(&keys, 2)];
    let tier = full(&keys);
    println!("get, a million keys in random order, ratios of medians");
    {
        let plain: hashbrown::HashMap<Box<[u8]>, u64, Same> =
            keys.iter().zip(0..).map(|(k, n)| (k[..].into(), n)).collect();
        let [tier, plain] =
            side_by_side(&orders[0], |key| drop(black_box(tier.get(key))), |key| _ = black_box(plain.get(key)));
        println!("  tier / plain hashbrown look-up        {:6.2}   ({tier:.0} / {plain:.0} ns)", tier / plain);
    }
    {
        let values: hashbrown::HashMap<Box<[u8]>, Box<[u8]>, Same> =
            keys.iter().map(|k| (k[..].into(), VALUE[..].into())).collect();
        let [tier, values] =
            side_by_side(&orders[0], |key| drop(black_box(tier.get(key))), |key| _ = black_box(values.get(key)));
        println!("  tier / the same, with the values      {:6.2}   ({tier:.0} / {values:.0} ns)", tier / values);
    }
    two_threads(&tier, &orders);
    {
        let entries: hashbrown::HashMap<Box<[u8]>, Entry, Same> =
            keys.iter().map(|k| (k[..].into(), entry(k, FOREVER))).collect();
        let [tier, entries] = side_by_side(
            &orders[0],
            |key| drop(black_box(tier.get(key))),
            |key| drop(black_box(entries.get(key).cloned())),
        );
        println!("  tier / hashbrown look-up and clone    {:6.2}   ({tier:.0} / {entries:.0} ns)", tier / entries);
    }
    {
        let quick: quick_cache::sync::Cache<Box<[u8]>, Arc<[u8]>> = quick_cache::sync::Cache::new(KEYS * 2);
        keys.iter().for_each(|key| quick.insert(key[..].into(), VALUE[..].into()));
        let [tier, quick] =
            side_by_side(&orders[0], |key| drop(black_box(tier.get(key))), |key| drop(black_box(quick.get(key))));
        println!("  tier / quick_cache                    {:6.2}   ({tier:.0} / {quick:.0} ns)", tier / quick);
    }
    {
        let moka: moka::sync::Cache<Box<[u8]>, Arc<[u8]>> = moka::sync::Cache::new(KEYS as u64 * 2);
        keys.iter().for_each(|key| moka.insert(key[..].into(), VALUE[..].into()));
        moka.run_pending_tasks();
        let [tier, moka] =
            side_by_side(&orders[0], |key| drop(black_box(tier.get(key))), |key| drop(black_box(moka.get(key))));
        println!("  tier / moka                           {:6.2}   ({tier:.0} / {moka:.0} ns)", tier / moka);
    }
}

/// Nanoseconds a key of two works, taking turns every few milliseconds, so that whatever else the machine does
/// disturbs both alike; medians.
fn side_by_side(keys: &[Key], one: impl Fn(&[u8]), other: impl Fn(&[u8])) -> [f64; 2] {
    let mut took = [const { Vec::new() }; 2];
    for round in 0..ROUNDS {
        for slice in keys.chunks(SLICE) {
            let one = time(slice.len(), || slice.iter().for_each(|key| one(black_box(key))));
            let other = time(slice.len(), || slice.iter().for_each(|key| other(black_box(key))));
            // The first round warms up.
            if round > 0 {
                took[0].push(one);
                took[1].push(other);
            }
        }
    }
    took.map(median)
}

fn two_threads(tier: &MemoryTier, orders: &[Vec<Key>; 2]) {
    let pass = |order: &[Key]| {
        let slice = |slice: &[Key]| time(slice.len(), || slice.iter().for_each(|key| drop(black_box(tier.get(key)))));
        order.chunks(SLICE).map(slice).collect::<Vec<_>>()
    };
    let (mut alone, mut together) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.extend(pass(&orders[0]));
        let ready = Barrier::new(2);
        thread::scope(|scope| {
            let threads = orders.each_ref().map(|order| {
                scope.spawn(|| {
                    ready.wait();
                    pass(order)
                })
            });
            threads.into_iter().for_each(|thread| together.extend(thread.join().unwrap()));
        });
    }
    let (alone, together) = (median(alone), median(together));
    println!(
        "  two threads / one, throughput         {:6.2}   ({together:.0} ns a get in each)",
        2.0 * alone / together
    );
}

/// Insertions into full caches of half a million entries, each of a new key: room has to be made each time.
fn insertions() {
    let budget = HELD as u64 * (KEY_BYTES + VALUE_BYTES) as u64;
    let tier = tier(HELD);
    let quick: quick_cache::sync::Cache<Box<[u8]>, Arc<[u8]>, Bytes> =
        quick_cache::sync::Cache::with_weighter(HELD, budget, Bytes);
    #[allow(clippy::borrowed_box)] // moka says what its weigher is given
    let weigh = |key: &Box<[u8]>, value: &Arc<[u8]>| (key.len() + value.len()) as u32;
    let moka: moka::sync::Cache<Box<[u8]>, Arc<[u8]>> =
        moka::sync::Cache::builder().max_capacity(budget).weigher(weigh).build();
    let mut took = [const { Vec::new() }; 3];
    for round in 0..ROUNDS {
        let keys = shuffled(&keys((round * HELD) as u64, HELD), 3);
        for slice in keys.chunks(SLICE / 10) {
            let times = [
                time(slice.len(), || slice.iter().for_each(|key| assert!(tier.insert(entry(key, 3_600_000))))),
                time(slice.len(), || slice.iter().for_each(|key| quick.insert(key[..].into(), VALUE[..].into()))),
                time(slice.len(), || slice.iter().for_each(|key| moka.insert(key[..].into(), VALUE[..].into()))),
            ];
            // The first two rounds fill the caches.
            if round >= 2 {
                took.iter_mut().zip(times).for_each(|(took, time)| took.push(time));
            }
        }
    }
    let [tier, quick, moka] = took.map(median);
    println!("insert with eviction, half a million entries held, value allocated each time, ratios of medians");
    println!("  tier / the faster of both peers       {:6.2}", tier / quick.min(moka));
    println!("  tier / quick_cache                    {:6.2}   ({tier:.0} / {quick:.0} ns)", tier / quick);
    println!("  tier / moka                           {:6.2}   ({tier:.0} / {moka:.0} ns)", tier / moka);
}

#[derive(Clone)]
struct Bytes;

impl quick_cache::Weighter<Box<[u8]>, Arc<[u8]>> for Bytes {
    fn weight(&self, key: &Box<[u8]>, value: &Arc<[u8]>) -> u64 {
        (key.len() + value.len()) as u64
    }
}

#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn get(bencher: Bencher<'_, '_>, entries: usize) {
    let keys = shuffled(&keys(0, entries), 1);
    let tier = tier(entries * 2);
    keys.iter().for_each(|key| assert!(tier.insert(entry(key, FOREVER))));
    let mut next = keys.iter().cycle();
    bencher.with_inputs(|| next.next().unwrap()).bench_local_values(|key| tier.get(key));
}

#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn miss(bencher: Bencher<'_, '_>, entries: usize) {
    let tier = tier(entries * 2);
    keys(0, entries).iter().for_each(|key| assert!(tier.insert(entry(key, FOREVER))));
    let absent = keys(entries as u64, entries);
    let mut next = absent.iter().cycle();
    bencher.with_inputs(|| next.next().unwrap()).bench_local_values(|key| tier.get(key));
}

#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn insert_with_eviction(bencher: Bencher<'_, '_>, entries: usize) {
    let tier = tier(entries);
    keys(0, entries).iter().for_each(|key| assert!(tier.insert(entry(key, 3_600_000))));
    let mut n = entries as u64;
    let next = || {
        n += 1;
        entry(&key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), 3_600_000)
    };
    bencher.with_inputs(next).bench_local_values(|entry| tier.insert(entry));
}

#[divan::bench]
fn replace(bencher: Bencher<'_, '_>) {
    let keys = shuffled(&keys(0, KEYS), 1);
    let tier = full(&keys);
    let mut next = keys.iter().cycle();
    bencher.with_inputs(|| entry(next.next().unwrap(), 3_600_000)).bench_local_values(|entry| tier.insert(entry));
}

/// A page of a hundred keys from somewhere, of a million.
#[divan::bench]
fn list_a_hundred(bencher: Bencher<'_, '_>) {
    let keys = shuffled(&keys(0, KEYS), 1);
    let tier = full(&keys);
    let mut next = keys.iter().cycle();
    bencher
        .with_inputs(|| next.next().unwrap())
        .bench_local_values(|after| tier.list(b"user:", Some(after), 100, |_| true));
}

/// The same after a tenth of the keys have come anew since the last page, so that leaves are unsorted.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn list_a_hundred_after_churn(bencher: Bencher<'_, '_>) {
    let tier = tier(KEYS);
    keys(0, KEYS).iter().for_each(|key| assert!(tier.insert(entry(key, 3_600_000))));
    let mut n = KEYS as u64;
    let churn = || {
        let new = keys(n, KEYS / 10);
        n += new.len() as u64;
        new.iter().for_each(|key| assert!(tier.insert(entry(key, 3_600_000))));
        new[0]
    };
    bencher.with_inputs(churn).bench_local_values(|after| tier.list(b"user:", Some(&after), 100, |_| true));
}

/// A thousand entries that end, out of a million.
#[divan::bench(sample_count = 20, sample_size = 1)]
fn reclaim_a_thousand(bencher: Bencher<'_, '_>) {
    let tier = tier(KEYS * 2);
    keys(0, KEYS).iter().zip(1..).for_each(|(key, n)| assert!(tier.insert(entry(key, 1_000_000 + n / 1_000))));
    let mut now = 1_000_000;
    let next = || {
        now += 1;
        now
    };
    bencher.with_inputs(next).bench_local_values(|now| tier.reclaim(now, 10_000));
}

#[divan::bench]
fn touch_a_hundred(bencher: Bencher<'_, '_>) {
    let keys = shuffled(&keys(0, KEYS), 1);
    let tier = full(&keys);
    let hashes: Vec<_> = keys.iter().map(|key| hash_key(key)).collect();
    let mut next = hashes.chunks(100).cycle();
    bencher.with_inputs(|| next.next().unwrap()).bench_local_values(|uses| tier.touch(uses));
}
