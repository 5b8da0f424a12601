//! What it costs to be counted: counters and latency histograms, from one thread and from two, striped and not.
//!
//! `cargo bench -p kvcache-engine --bench stats`. The baselines are what the striping has to beat: one shared atomic, and
//! one shared histogram behind one lock.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use hdrhistogram::Histogram;
use kvcache_engine::stats::{Counters, Event, Latencies, Op, RouteEvent};
use parking_lot::Mutex;

fn main() {
    divan::main();
}

/// Events a sample: enough to drown the timer.
const N: u64 = 10_000;

#[divan::bench(threads = [1, 2])]
fn counter_striped(bencher: Bencher<'_, '_>) {
    let counters = Counters::new();
    bencher.counter(ItemsCount::new(N)).bench(|| (0..N).for_each(|_| counters.count(black_box(Event::Coalesced))));
}

#[divan::bench(threads = [1, 2])]
fn counter_route(bencher: Bencher<'_, '_>) {
    let counters = Counters::new();
    bencher
        .counter(ItemsCount::new(N))
        .bench(|| (0..N).for_each(|_| counters.route(black_box(RouteEvent::Hit), black_box(3))));
}

#[divan::bench(threads = [1, 2])]
fn counter_baseline_one_atomic(bencher: Bencher<'_, '_>) {
    let counter = AtomicU64::new(0);
    bencher.counter(ItemsCount::new(N)).bench(|| {
        (0..N).for_each(|_| {
            black_box(&counter).fetch_add(1, Ordering::Relaxed);
        });
    });
}

/// Durations spread as hits are: hundreds of nanoseconds, with a tail.
fn nanos(i: u64) -> u64 {
    200 + (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) + if i.is_multiple_of(128) { 20_000 } else { 0 }
}

#[divan::bench(threads = [1, 2])]
fn latency_striped(bencher: Bencher<'_, '_>) {
    let latencies = Latencies::new();
    bencher
        .counter(ItemsCount::new(N))
        .bench(|| (0..N).for_each(|i| latencies.record(black_box(Op::Hit), black_box(nanos(i)))));
}

#[divan::bench(threads = [1, 2])]
fn latency_baseline_one_lock(bencher: Bencher<'_, '_>) {
    let histogram = Mutex::new(Histogram::<u64>::new(2).unwrap());
    bencher.counter(ItemsCount::new(N)).bench(|| {
        (0..N).for_each(|i| {
            let _ = histogram.lock().record(black_box(nanos(i)));
        });
    });
}

#[divan::bench]
fn latency_snapshot(bencher: Bencher<'_, '_>) {
    let latencies = Latencies::new();
    (0..1_000_000).for_each(|i| latencies.record(Op::Hit, nanos(i)));
    bencher.bench(|| latencies.snapshot());
}
