//! Compression by workers: values are served plain until it is done, and never come back from before a write.

use kvcache_engine::codec::compress::Algorithm;
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::{Compression, Config, Event, Stored, Value};
use kvcache_engine::entry::{Ages, Kind};

use super::harness::*;

const LONG: usize = 5_000;

fn with_compression(algorithm: Algorithm) -> Config {
    let compression = Compression { algorithm, level: algorithm.default_level(), threshold: 1_024 };
    Config { compression: Some(compression), ..config() }
}

fn long(text: &str) -> String {
    text.repeat(LONG / text.len())
}

#[test]
fn a_large_value_is_stored_at_once_and_compressed_later() {
    for algorithm in Algorithm::ALL {
        let w = World::new(with_compression(algorithm));
        w.put("k", &long("value "), FRESH);
        assert!(w.work_announced());
        let before = w.engine.stats();
        assert_eq!((w.get("k").unwrap().entry.codec(), w.value("k")), (None, Some(long("value "))));
        assert_eq!(w.work(), 1);
        let found = w.get("k").unwrap();
        assert_eq!((found.entry.codec(), text(&found)), (Some(algorithm), long("value ")));
        let after = w.engine.stats();
        assert!(after.bytes < before.bytes, "{} of {}", after.bytes, before.bytes);
        // The figure before compression stays.
        assert_eq!((after.value_bytes, after.entries), (before.value_bytes, 1));
        w.engine.validate();
    }
}

#[test]
fn what_a_load_brought_is_compressed_as_well() {
    let w = World::new(with_compression(Algorithm::Zstd));
    let token = w.lead("k");
    assert_eq!(w.stored(token, &long("loaded "), FRESH), Stored::Yes);
    assert_eq!(w.work(), 1);
    let found = w.get("k").unwrap();
    assert_eq!((found.entry.codec(), text(&found)), (Some(Algorithm::Zstd), long("loaded ")));
}

#[test]
fn small_values_and_those_that_do_not_shrink_stay_plain() {
    let w = World::new(with_compression(Algorithm::Zstd));
    w.put("small", &"v".repeat(1_024), FRESH);
    assert!(!w.work_announced());
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<_> = std::iter::repeat_with(|| rng.u8(..)).take(LONG).collect();
    let value = Value { kind: Kind::Bytes, bytes: &noise, metadata: b"", ages: FRESH, route: 0, links: b"" };
    w.engine.commit(w.engine.prepare(b"noise", &value).unwrap());
    w.work();
    for key in ["small", "noise"] {
        assert_eq!(w.get(key).unwrap().entry.codec(), None, "{key}");
    }
}

#[test]
fn without_the_option_nothing_is_compressed() {
    let w = World::new(config());
    w.put("k", &long("v"), FRESH);
    assert!(!w.work_announced());
    assert_eq!(w.work(), 0);
}

#[test]
fn compression_does_not_bring_back_what_was_deleted_or_replaced() {
    let w = World::new(with_compression(Algorithm::Lz4));
    w.put("deleted", &long("v"), FRESH);
    w.put("replaced", &long("old"), FRESH);
    w.delete("deleted");
    w.put("replaced", "new", FRESH);
    assert_eq!(w.work(), 2);
    assert!(w.engine.peek(b"deleted").is_none());
    assert_eq!(w.value("replaced").as_deref(), Some("new"));
}

#[test]
fn the_ages_of_a_value_do_not_start_again_when_it_is_compressed() {
    let w = World::new(with_compression(Algorithm::Lz4));
    let token = w.lead("k");
    w.settle(token, &long("v"), Ages { max_age: 100, stale_age: 200, stale_if_error: 300 });
    w.pass(90);
    w.work();
    let found = w.get("k").unwrap();
    assert_eq!((found.age, found.entry.codec().is_some()), (90, true));
    w.pass(10);
    assert!(is_stale(&w.get("k").unwrap()));
    w.pass(1_000);
    assert_eq!(w.engine.stats().entries, 0);
}

#[test]
fn not_modified_keeps_the_compressed_form() {
    let w = World::new(with_compression(Algorithm::Gzip));
    w.put("k", &long("v"), ON_ERROR);
    w.work();
    let token = w.lead("k");
    assert_eq!(w.not_modified(token, FRESH), Stored::Yes);
    let found = w.get("k").unwrap();
    assert_eq!((found.entry.codec(), text(&found)), (Some(Algorithm::Gzip), long("v")));
    assert_eq!(w.work(), 0);
}

#[test]
fn flush_waits_for_what_is_to_be_compressed() {
    let w = World::new(with_compression(Algorithm::Lz4));
    w.put("a", &long("v"), FRESH);
    w.put("b", &long("v"), FRESH);
    assert!(!w.engine.flush());
    let mut tools = Tools::default();
    assert!(w.engine.work(&mut tools));
    assert!(w.events().is_empty());
    assert!(w.engine.work(&mut tools));
    assert_eq!(w.events(), [Event::Idle]);
    assert!(w.engine.flush() && !w.engine.has_work());
}

#[test]
fn a_worker_decompresses_for_a_thread_ahead_of_all_that_is_to_be_compressed() {
    let w = World::new(with_compression(Algorithm::Gzip));
    w.put("k", &long("v"), FRESH);
    w.work();
    w.put("another", &long("w"), FRESH);
    let (thread, inbox) = w.attach();
    let number = w.engine.inflate(thread, w.get("k").unwrap().entry);
    assert!(w.engine.work(&mut Tools::default()));
    assert_eq!((inbox.take(), w.events()), (vec![Event::Inflated(number)], vec![]));
    let inflated = w.engine.take_inflated(number).unwrap();
    assert_eq!(inflated.bytes.unwrap(), long("v").into_bytes());
    assert!(w.engine.take_inflated(number).is_none());
    // It is answered even where the entry has gone meanwhile.
    w.delete("k");
    assert_eq!(w.work(), 1);
}
