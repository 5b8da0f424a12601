//! What is counted: every get once, as a hit or a miss; queue figures that go back to nothing; the text of the metrics.

use kvcache_engine::clock::FakeClock;
use kvcache_engine::engine::{Begin, Begun, Config, Event, Refresh, Value};
use kvcache_engine::entry::{Ages, Kind};
use kvcache_engine::load::breaker::Outcome;
use kvcache_engine::load::queue::Limits;

use super::harness::*;

/// A get with a fetcher, up to where it would wait; true if it was answered.
fn get(w: &World, key: &str) -> Option<Begun> {
    match w.get(key) {
        Some(found) => {
            if found.refresh_due {
                w.refresh(&[key]);
            }
            None
        }
        None => Some(w.begin(key)),
    }
}

#[test]
fn every_get_is_a_hit_or_a_miss_and_never_both() {
    let w = World::new(Config { breaker: with_breaker(3, 50).breaker, ..with_retries(1) });
    let mut rng = fastrand::Rng::with_seed(3);
    let mut gets = 0;
    let mut open = Vec::new();
    for _ in 0..5_000 {
        let key = rng.u32(..20).to_string();
        match rng.u32(..10) {
            0..=5 => {
                gets += 1;
                if let Some(Begun::Lead { token, .. }) = get(&w, &key) {
                    open.push(token);
                }
            }
            6..=7 if !open.is_empty() => {
                let token = open.swap_remove(rng.usize(..open.len()));
                if rng.bool() {
                    w.settle(token, "v", STALE)
                } else {
                    w.fail(token)
                };
            }
            8 => _ = w.delete(&key),
            _ => w.pass(10),
        }
        for event in w.events() {
            if let Event::Start(batch) = event {
                open.extend(w.start(batch).iter().map(|flight| flight.token));
            }
        }
    }
    let totals = w.engine.stats().totals;
    assert_eq!(totals.hits + totals.misses, gets);
    assert!(totals.stale <= totals.hits && totals.coalesced <= totals.misses);
    let latency = w.engine.stats().latency;
    assert_eq!((latency.hit.count + latency.stale.count, latency.stale.count), (totals.hits, totals.stale));
    assert!(totals.hits > 0 && totals.coalesced > 0 && totals.background_updates > 0 && totals.errors > 0);
}

#[test]
fn a_get_that_will_not_load_is_a_miss_where_nothing_is_there() {
    let w = World::new(config());
    assert!(w.engine.lookup(b"k", Some(0)).is_none());
    assert!(w.engine.lookup(b"k", None).is_none());
    assert_eq!(w.engine.stats().totals.misses, 1);
    assert!(w.engine.peek(b"k").is_none() && w.engine.stand_in(b"k").is_none());
    let totals = w.engine.stats().totals;
    assert_eq!((totals.misses, totals.hits), (1, 0));
}

#[test]
fn each_kind_of_load_is_counted_as_what_it_is() {
    let w = World::new(with_retries(1));
    let token = w.lead("k");
    join(w.begin("k"));
    w.settle(token, "v", STALE);
    let batch = w.refresh(&["k"]).unwrap();
    let token = w.start_one(batch);
    w.fail(token);
    w.pass(100);
    w.start_one(batch);
    w.settle(token, "v", FRESH);
    w.engine.fail(lead(w.force("k")), Outcome::Aborted, false);
    w.engine.count_error(0);
    let totals = w.engine.stats().totals;
    assert_eq!((totals.misses, totals.coalesced, totals.hits), (3, 1, 0));
    assert_eq!((totals.loads, totals.background_updates, totals.errors), (4, 1, 2));
}

#[test]
fn a_refused_get_is_a_miss_and_a_recursive_one_is_nothing() {
    let w = World::new(with_breaker(1, 1_000));
    let token = w.lead("k");
    w.begin_for(token, "k");
    w.fail(token);
    refused(w.begin("k"));
    let totals = w.engine.stats().totals;
    assert_eq!((totals.misses, totals.loads, totals.coalesced), (2, 1, 0));
}

#[test]
fn figures_of_the_queue_go_back_to_nothing() {
    let w = World::new(Config { queue: Limits { concurrency: 2, max_queued: 5, retries: 1 }, ..config() });
    let keys: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    keys.iter().for_each(|key| w.put(key, "old", STALE));
    let batches: Vec<_> = keys.iter().filter_map(|key| w.refresh(&[key])).collect();
    assert_eq!((w.queued(), w.running()), (5, 2));
    assert_eq!(w.engine.stats().totals.refreshes_dropped, 3);
    w.fail(w.start_one(batches[0]));
    assert_eq!((w.queued(), w.running()), (5, 2));
    w.delete(&keys[6]);
    assert_eq!((w.queued(), w.running()), (4, 2));
    w.settle(w.start_one(batches[1]), "new", FRESH);
    w.engine.drop_queued(w.thread);
    assert_eq!((w.queued(), w.running()), (0, 0));
    w.assert_at_rest(&[]);
}

#[test]
fn what_takes_how_long_is_measured_on_the_engines_clock() {
    let w = World::new(config());
    let token = w.lead("k");
    w.clock.advance_millis(30);
    join(w.begin("k"));
    w.clock.advance_millis(70);
    w.settle(token, "v", FRESH);
    let latency = w.engine.stats().latency;
    assert_eq!((latency.fetch.count, latency.miss.count), (1, 2));
    let near = |micros: f64, expected: f64| (micros - expected).abs() <= expected / 50.0;
    assert!(near(latency.fetch.max, 100_000.0), "{:?}", latency.fetch);
    assert!(near(latency.miss.max, 100_000.0) && near(latency.miss.p50, 70_000.0), "{:?}", latency.miss);
    // Nobody waited for the end of what was given up.
    w.abort(lead(w.force("k")));
    assert_eq!(w.engine.stats().latency.fetch.count, 1);
}

#[test]
fn routes_have_figures_of_their_own_in_the_metrics() {
    let w = World::new(with_breaker(5, 1_000));
    assert_eq!(["item:*", "user:*"].map(|pattern| w.engine.route(pattern)), [1, 2]);
    let value = Value { kind: Kind::Text, bytes: b"v", metadata: b"", ages: STALE, route: 2, links: b"" };
    w.engine.commit(w.engine.prepare(b"user:1", &value).unwrap());
    w.get("user:1");
    let how = Begin { route: 2, ..w.how() };
    w.fail(lead(w.begin_as("user:2", &how)));
    let batch = w.refresh_as(&["user:1"], &Refresh { route: 2, ..w.plan() }).unwrap();
    w.settle(w.start_one(batch), "new", FRESH);
    let metrics = w.engine.metrics();
    for line in [
        "kvcache_pattern_hits_total{pattern=\"user:*\"} 1",
        "kvcache_pattern_misses_total{pattern=\"user:*\"} 1",
        "kvcache_hits_total 1",
        "kvcache_entries 1",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn one_moment_has_one_date() {
    let w = World::new(config());
    let at = w.engine.unix_of(5_000);
    assert_eq!(at, FakeClock::UNIX_START_MILLIS + 5_000);
    w.clock.advance_millis(123);
    assert_eq!(w.engine.unix_of(5_000), at);
}

#[test]
fn what_may_stand_in_is_within_its_stale_if_error() {
    let w = World::new(config());
    w.put("k", "v", Ages { max_age: 100, stale_age: 200, stale_if_error: 50 });
    assert!(w.engine.stand_in(b"k").is_some());
    w.clock.advance_millis(50);
    assert!(w.engine.stand_in(b"k").is_none() && w.engine.peek(b"k").is_some());
    w.put("k", "v", ON_ERROR);
    assert!(w.engine.stand_in(b"k").is_some() && w.get("k").is_none());
}
