//! What invalidation costs a get, and what ties cost in bytes: ratios within one run.
//!
//! ```sh
//! cargo bench -p kvcache-engine --bench invalidation
//! ```
//!
//! *Steady*: gets of keys that were read since the last invalidation. *First*: the first get of each key after one more
//! invalidation, which concerns none of them. Nobody sweeps meanwhile, so all markers stay alive.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::expect_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use kvcache_engine::clock::{FOREVER, Millis, SystemClock};
use kvcache_engine::engine::{Alarm, Config, Engine, Invalidation, Value};
use kvcache_engine::entry::{Ages, Kind};
use kvcache_engine::heap;
use kvcache_engine::invalidation::links::{Role, push};
use kvcache_engine::invalidation::target::Target;
use kvcache_engine::load::queue::Limits;

/// Counts what is allocated.
struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Silent;

impl Alarm for Silent {
    fn work_waits(&self) {}
    fn no_later_than(&self, _: Millis) {}
}

const KEYS: usize = 10_000;
const ROUNDS: usize = 15;

fn engine() -> Engine {
    let config = Config {
        memory: 1 << 30,
        queue: Limits { concurrency: 1, max_queued: 1, retries: 0 },
        backoff: 0,
        cooldown: 0,
        breaker: None,
        compression: None,
    };
    Engine::new(config, Arc::new(SystemClock::default()), Arc::new(Silent))
}

fn put(engine: &Engine, key: &str, value: &[u8], links: &[u8]) {
    let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
    let value = Value { kind: Kind::Bytes, bytes: value, metadata: b"", ages, route: 0, links };
    engine.commit(engine.prepare(key.as_bytes(), &value).unwrap());
}

fn tags(names: &[String]) -> Vec<u8> {
    let mut links = Vec::new();
    names.iter().for_each(|name| push(&mut links, Role::Tag, name.as_bytes()));
    links
}

fn filled() -> (Engine, Vec<String>) {
    let engine = engine();
    let keys: Vec<_> = (0..KEYS).map(|n| format!("user:{n}:profile")).collect();
    for (n, key) in keys.iter().enumerate() {
        put(&engine, key, &[b'v'; 100], &tags(&[format!("team:{}", n % 100)]));
    }
    (engine, keys)
}

fn invalidate(engine: &Engine, target: &Target) {
    engine.invalidate(&Invalidation::new(target, "", false));
}

/// Nanoseconds a get, the least of some rounds; `before` is done before each.
fn nanos(engine: &Engine, keys: &[String], mut before: impl FnMut()) -> f64 {
    let mut least = f64::MAX;
    for _ in 0..ROUNDS {
        before();
        let start = Instant::now();
        for key in keys {
            assert!(engine.lookup(key.as_bytes(), None).is_some());
        }
        least = least.min(start.elapsed().as_nanos() as f64 / keys.len() as f64);
    }
    least
}

fn report(name: &str, markers: impl Fn(&Engine)) {
    let (plain, keys) = filled();
    let (marked, _) = filled();
    markers(&marked);
    let mut figures = [f64::MAX; 4];
    // In turn, so that what disturbs one disturbs the other.
    for _ in 0..5 {
        let last = Target::Tag("nobody's".into());
        let measured = [
            nanos(&plain, &keys, || {}),
            nanos(&marked, &keys, || {}),
            nanos(&plain, &keys, || invalidate(&plain, &last)),
            nanos(&marked, &keys, || invalidate(&marked, &last)),
        ];
        figures.iter_mut().zip(measured).for_each(|(least, now)| *least = least.min(now));
    }
    let [plain, marked, first, first_marked] = figures;
    println!(
        "{name:<44} steady {:5.2} x ({marked:.0} / {plain:.0} ns)   first {:5.2} x ({first_marked:.0} / {first:.0} ns)",
        marked / plain,
        first_marked / plain
    );
}

fn memory() {
    let each = |make: &dyn Fn(&Engine)| {
        let engine = engine();
        let live = || BYTES.load(Ordering::Relaxed) as i64 + heap::live();
        let before = live();
        make(&engine);
        live() - before
    };
    let many = 200_000;
    let entries = |links: &dyn Fn(usize) -> Vec<u8>| {
        each(&|engine| (0..many).for_each(|n| put(engine, &format!("user:{n:06}"), &[b'v'; 100], &links(n)))) as f64
    };
    let plain = entries(&|_| Vec::new());
    let tagged = entries(&|n| tags(&[format!("team:{:04}", n % 1000)]));
    println!("a tag of 9 bytes                             {:5.1} bytes an entry", (tagged - plain) / many as f64);
    let edges = 1_000_000;
    for children in [1, 2, 10, 1000] {
        let bytes = each(&|engine| {
            for n in 0..edges {
                let (parent, child) = (format!("parent:{:07}", n / children), format!("child:{n:07}"));
                engine.add_dependency(parent.as_bytes(), child.as_bytes());
            }
        });
        println!(
            "a million edges, {children:>4} to a parent            {:5.1} bytes an edge",
            bytes as f64 / edges as f64
        );
    }
}

fn main() {
    println!("a get of one of {KEYS} keys with a tag, beside one with nothing invalidated:");
    report("10,000 tags and prefixes alive", |engine| {
        for n in 0..5_000 {
            invalidate(engine, &Target::Tag(format!("other:{n}").into()));
            invalidate(engine, &Target::prefix(format!("other:{n}").as_bytes()));
        }
    });
    report("1,000 patterns 'other:*:n' alive", |engine| {
        (0..1_000).for_each(|n| invalidate(engine, &Target::parse(&format!("other:*:{n}")).unwrap()));
    });
    report("1,000 patterns 'user:*:n*:profile' alive", |engine| {
        (0..1_000).for_each(|n| invalidate(engine, &Target::parse(&format!("user:*x{n}*:profile")).unwrap()));
    });
    report("1,000 patterns '*n*' alive", |engine| {
        (0..1_000).for_each(|n| invalidate(engine, &Target::parse(&format!("*x{n}*")).unwrap()));
    });
    memory();
}
