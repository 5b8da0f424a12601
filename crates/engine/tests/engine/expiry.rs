//! I4 over time: entries that can no longer be served go without being read, when the alarm that the engine asked for rings;
//! and what does not end is never looked at.

use kvcache_engine::clock::{Clock, FOREVER, Millis};
use kvcache_engine::engine::{Config, Event, Stored};
use kvcache_engine::entry::Ages;
use kvcache_engine::memory::EvictReason;

use super::harness::*;

fn until(end: Millis) -> Ages {
    Ages { max_age: 0, stale_age: end / 2, stale_if_error: end }
}

/// Lets time pass as the alarm asks for, until it asks for nothing more. How often it rang.
fn ring_on(w: &World) -> usize {
    for rang in 0..10_000 {
        let at = w.alarm();
        if at == FOREVER {
            return rang;
        }
        w.pass(at.saturating_sub(w.clock.now_millis()));
    }
    panic!("the alarm rings without end");
}

#[test]
fn dead_entries_go_unread() {
    let w = World::new(config());
    for n in 0..1_000 {
        w.put(&n.to_string(), "v", until(1_000 + n % 100));
    }
    w.put("stays", "v", FRESH);
    assert!(w.alarm() <= 1_000 + 50, "{}", w.alarm());
    w.pass(999);
    assert_eq!(w.engine.stats().entries, 1_001);
    ring_on(&w);
    let stats = w.engine.stats();
    assert_eq!((stats.entries, stats.totals.evicted_expired, stats.totals.evicted_for_budget), (1, 1_000, 0));
    assert!(w.clock.now_millis() <= 1_099 + 2 * 50, "{}", w.clock.now_millis());
    assert_eq!(w.value("stays").as_deref(), Some("v"));
    w.engine.validate();
}

#[test]
fn what_a_load_brought_goes_as_well() {
    let w = World::new(config());
    let token = w.lead("k");
    assert_eq!(w.stored(token, "v", until(500)), Stored::Yes);
    ring_on(&w);
    assert_eq!(w.engine.stats().entries, 0);
}

#[test]
fn a_cache_in_which_nothing_ends_is_never_woken() {
    let w = World::new(config());
    w.put("k", "v", FRESH);
    w.settle(w.lead("l"), "v", STALE);
    assert_eq!(w.alarm(), FOREVER);
    assert_eq!(w.engine.tick(), FOREVER);
}

#[test]
fn an_entry_that_was_renewed_lives_on() {
    let w = World::new(config());
    w.put("k", "v", until(100));
    w.pass(90);
    w.put("k", "v", until(100));
    w.pass(90);
    assert_eq!(w.engine.stats().entries, 1);
    assert!(w.engine.peek(b"k").is_some());
    ring_on(&w);
    assert_eq!(w.engine.stats().entries, 0);
}

#[test]
fn an_entry_that_ends_before_all_others_brings_the_alarm_forward() {
    let w = World::new(config());
    w.put("late", "v", until(1_000_000));
    w.put("soon", "v", until(1_000));
    assert!(w.alarm() <= 1_050, "{}", w.alarm());
    w.pass(1_050);
    assert_eq!(w.engine.stats().entries, 1);
}

#[test]
fn many_that_end_together_go_a_part_at_a_time() {
    let w = World::new(Config { memory: 16 << 20, ..config() });
    for n in 0..20_000 {
        w.put(&n.to_string(), "v", until(100));
    }
    w.pass(150);
    let left = w.engine.stats().entries;
    assert!(left > 20_000 - 5_000, "{left} left after one tick");
    let rang = ring_on(&w);
    assert_eq!(w.engine.stats().entries, 0);
    // With pauses, but short ones while there is more to do.
    assert!(w.clock.now_millis() <= 150 + 150, "{rang} parts in {} ms", w.clock.now_millis());
}

#[test]
fn the_listener_is_told_which_ones_went_and_why_while_asked_for() {
    let w = World::new(Config { memory: 4_096, ..config() });
    w.put("untold", "v", until(10));
    w.pass(100);
    w.engine.tell_evictions(w.thread, true);
    let (other, inbox) = w.attach();
    w.engine.tell_evictions(other, true);
    let (_, deaf) = w.attach();
    w.put("brief", "v", until(10));
    w.pass(100);
    let told = w.events();
    assert_eq!(told, inbox.take());
    w.engine.detach(other);
    let [Event::Evicted { key, bytes, reason }] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&**key, *reason), ("brief", EvictReason::Expired));
    assert!(*bytes >= 6);
    for n in 0..10 {
        w.put(&n.to_string(), &"v".repeat(1_000), FRESH);
    }
    let told = w.events();
    let budget = |event: &Event| matches!(event, Event::Evicted { reason: EvictReason::Budget, bytes: 1_000.., .. });
    assert!(!told.is_empty() && told.iter().all(budget), "{told:?}");
    assert_eq!(told.len() as u64, w.engine.stats().totals.evicted_for_budget);
    w.engine.tell_evictions(w.thread, false);
    w.put("more", &"v".repeat(1_000), FRESH);
    assert!(w.events().is_empty());
    // What a user takes out is no eviction.
    w.engine.tell_evictions(w.thread, true);
    w.delete("more");
    w.engine.clear();
    assert!(w.events().is_empty());
    assert!(inbox.take().is_empty() && deaf.take().is_empty());
}

#[test]
fn the_budget_is_never_exceeded() {
    let w = World::new(Config { memory: 100_000, ..config() });
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..5_000 {
        let key = rng.u32(..500).to_string();
        let bytes = "v".repeat(rng.usize(..3_000));
        if rng.bool() {
            w.put(&key, &bytes, until(rng.u64(1..1_000)));
        } else {
            let token = lead(w.force(&key));
            w.settle(token, &bytes, FRESH);
        }
        assert!(w.engine.stats().bytes <= 100_000);
        w.pass(1);
    }
    w.engine.validate();
    w.engine.clear();
    let stats = w.engine.stats();
    assert_eq!((stats.bytes, stats.entries, stats.value_bytes), (0, 0, 0));
}

#[test]
fn lists_what_a_get_would_serve_in_byte_order_page_by_page() {
    let w = World::new(config());
    for n in 0..300 {
        w.put(&format!("user:{n}"), "v", if n % 3 == 0 { FRESH } else { STALE });
        w.put(&format!("dead:{n}"), "v", until(10));
        w.put(&format!("user:{n}:error"), "v", ON_ERROR);
    }
    w.clock.advance_millis(1_000);
    let mut expected: Vec<_> = (0..300).map(|n| format!("user:{n}")).collect();
    expected.sort();
    let mut listed = Vec::new();
    loop {
        let after = listed.last().map(|key: &String| key.as_bytes());
        let (page, complete) = w.engine.list(b"", after, 7);
        listed.extend(page.iter().map(|entry| entry.key_str().to_owned()));
        if complete {
            break;
        }
        assert_eq!(page.len(), 7);
    }
    assert_eq!(listed, expected);
    let (page, complete) = w.engine.list(b"user:29", None, 100);
    assert_eq!((page.len(), complete), (11, true));
    assert_eq!(w.engine.list(b"nobody", None, 10).0.len(), 0);
}
