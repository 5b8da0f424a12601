//! The disk tier: reads on the calling thread and by a thread, and what a transaction costs, alone and shared.
//! `cargo bench -p kvcache-engine --bench disk`; the store lies in `$KVCACHE_BENCH_DIR`, else in the system's directory for
//! temporary files.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use kvcache_engine::clock::FOREVER;
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::tier::conformance::{puts, record};
use kvcache_engine::tier::disk::{DiskTier, MAX_SIZE, Settings};
use kvcache_engine::tier::{Fact, Key, SharedLog, Tier};
use tokio::runtime::{Builder, Runtime};

/// Records in the store.
const RECORDS: u64 = 100_000;

struct Bench {
    tier: DiskTier,
    runtime: Runtime,
    path: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.tier.close());
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn key(n: u64) -> String {
    format!("user:{:06}:profile", n % RECORDS)
}

fn store(records: u64, len: usize) -> Bench {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let dir = std::env::var_os("KVCACHE_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = dir.join(format!("kvcache-bench-{}-{n}", std::process::id()));
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let settings = Settings { path: path.clone(), max_size: MAX_SIZE, timeout: Duration::from_secs(10) };
    let tier = DiskTier::open(&settings, runtime.handle()).unwrap();
    let value = "x".repeat(len);
    for from in (0..records).step_by(2000) {
        let batch = (from..from + 2000).map(|n| record(&key(n), &value, 0)).collect();
        assert!(runtime.block_on(tier.put_many(puts(batch))).iter().all(Result::is_ok));
    }
    Bench { tier, runtime, path }
}

/// A record, on the calling thread.
#[divan::bench(args = [100, 1000, 10_000], sample_size = 500)]
fn get_now(bencher: Bencher<'_, '_>, len: usize) {
    let bench = store(if len > 1000 { 20_000 } else { RECORDS }, len);
    let mut n = 0;
    bencher.bench_local(|| {
        n += 7919;
        bench.tier.get_now(key(n % 20_000).as_bytes())
    });
}

/// A key that is not there, on the calling thread.
#[divan::bench(sample_size = 500)]
fn get_now_missing(bencher: Bencher<'_, '_>) {
    let bench = store(RECORDS, 100);
    bencher.bench_local(|| bench.tier.get_now(b"user:0:nothing"));
}

/// A record by a thread and back, one after the other.
#[divan::bench(sample_size = 20)]
fn get_many_one(bencher: Bencher<'_, '_>) {
    let bench = store(RECORDS, 1000);
    let mut n = 0;
    bencher.bench_local(|| {
        n += 7919;
        bench.runtime.block_on(bench.tier.get_many(vec![Key::from(key(n).as_bytes())]))
    });
}

/// Puts that wait together, each of one record.
#[divan::bench(args = [1, 64, 1024])]
fn put(bencher: Bencher<'_, '_>, together: u64) {
    let bench = store(RECORDS, 1000);
    let value = "y".repeat(1000);
    let mut n = 0;
    bencher.counter(ItemsCount::new(together)).bench_local(|| {
        n += together;
        let one = |n: u64| bench.tier.put_many(puts(vec![record(&key(n * 7919), &value, 0)]));
        bench.runtime.block_on(async {
            let mut waiting: Vec<_> = (n..n + together).map(one).collect();
            std::future::poll_fn(|cx| {
                waiting.retain_mut(|put| put.as_mut().poll(cx).is_pending());
                if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            })
            .await;
        });
    });
}

/// A marker, until it is answered: by then all other processes can see it.
#[divan::bench]
fn marker(bencher: Bencher<'_, '_>) {
    let bench = store(0, 0);
    let fact = Fact { target: Target::Tag("t".into()), soft: false, seq: 0, epoch: 0, at: 1, until: FOREVER };
    bencher.bench_local(|| bench.runtime.block_on(bench.tier.write_marker(fact.clone())));
}

/// Whether others have written.
#[divan::bench]
fn is_behind(bencher: Bencher<'_, '_>) {
    let bench = store(0, 0);
    bencher.bench_local(|| bench.tier.is_behind());
}

/// Opening a store of so many records, and one read.
#[divan::bench(sample_count = 20)]
fn open_and_get(bencher: Bencher<'_, '_>) {
    let bench = store(RECORDS, 1000);
    bench.runtime.block_on(bench.tier.close()).unwrap();
    let settings = Settings { path: bench.path.clone(), max_size: MAX_SIZE, timeout: Duration::from_secs(10) };
    bencher.bench_local(|| {
        let tier = DiskTier::open(&settings, bench.runtime.handle()).unwrap();
        let found = tier.get_now(key(1).as_bytes());
        bench.runtime.block_on(tier.close()).unwrap();
        found
    });
}

fn main() {
    divan::main();
}
