//! Promise: a load that one thread runs is answered to all who wait in others; a thread may end at any moment, and takes
//! nothing with it that others need.

use kvcache_engine::engine::{Begin, Begun, Config, Event, Landed, Loaded, Refresh, Stored, ThreadId};
use kvcache_engine::load::breaker::{Outcome, State};

use crate::harness::{FRESH, ON_ERROR, STALE, World, config, join, lead, refused, value, with_breaker, with_queue};

fn by(w: &World, thread: ThreadId) -> Begin {
    Begin { thread, ..w.how() }
}

/// What landed, in short.
fn landed(w: &World, thread: ThreadId, token: u64) -> String {
    match w.engine.take_landed(thread, token) {
        Some(Landed::Value(entry, stored, _)) => {
            format!("{} {stored}", String::from_utf8_lossy(entry.value()))
        }
        Some(Landed::Failed(why)) => format!("failed {}", String::from_utf8_lossy(&why)),
        other => format!("{other:?}"),
    }
}

#[test]
fn who_watches_a_flight_is_told_once_and_takes_its_value_once() {
    let w = World::new(config());
    let (other, inbox) = w.attach();
    let token = w.lead("k");
    assert_eq!(join(w.begin_as("k", &by(&w, other))), token);
    assert_eq!(join(w.begin_as("k", &by(&w, other))), token);
    assert!(w.engine.is_watched(token));
    assert!(w.engine.take_landed(other, token).is_none());
    assert_eq!(w.stored(token, "v", FRESH), Stored::Yes);
    assert_eq!(inbox.take(), [Event::Landed(token)]);
    assert!(w.events().is_empty());
    assert_eq!(landed(&w, other, token), "v true");
    assert_eq!(landed(&w, other, token), "None");
    assert_eq!(w.engine.stats().latency.miss.count, 3);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_value_that_is_not_stored_reaches_those_who_watch() {
    for (loaded, expected) in [
        (Loaded::Passing(value("v", FRESH)), "v false"),
        (Loaded::PassingCopy { metadata: None, links: None }, "old false"),
        (Loaded::NotModified { ages: FRESH, metadata: None, links: None }, "old true"),
        (Loaded::Unstored { links: &[] }, "Some(Nothing(0))"),
    ] {
        let w = World::new(config());
        let (other, _) = w.attach();
        w.put("k", "old", ON_ERROR);
        let token = w.lead("k");
        join(w.begin_as("k", &by(&w, other)));
        w.engine.settle(token, &loaded);
        assert_eq!(landed(&w, other, token), expected);
        assert_eq!(w.value("k").is_some(), expected == "old true");
    }
}

#[test]
fn a_load_that_a_write_has_cut_answers_those_who_watched_and_is_not_stored() {
    let w = World::new(config());
    let (other, _) = w.attach();
    let token = w.lead("k");
    join(w.begin_as("k", &by(&w, other)));
    w.put("k", "put", FRESH);
    assert_eq!(w.stored(token, "loaded", FRESH), Stored::No);
    assert_eq!(landed(&w, other, token), "loaded true");
    assert_eq!(w.value("k").unwrap(), "put");
    w.assert_at_rest(&[token]);
}

#[test]
fn a_value_too_large_to_be_stored_reaches_those_who_watch() {
    let w = World::new(Config { memory: 1_024, ..config() });
    let (other, _) = w.attach();
    let token = w.lead("k");
    join(w.begin_as("k", &by(&w, other)));
    let large = "v".repeat(2_000);
    assert!(matches!(w.stored(token, &large, FRESH), Stored::TooLarge { .. }));
    assert_eq!(landed(&w, other, token), format!("{large} true"));
}

#[test]
fn a_failure_reaches_those_who_watch_as_it_was_described_and_without_that_they_begin_anew() {
    let w = World::new(config());
    let (other, inbox) = w.attach();
    for (why, expected) in [(&b"why"[..], "failed why"), (b"", "Some(Again)")] {
        let token = w.lead("k");
        join(w.begin_as("k", &by(&w, other)));
        w.engine.fail_with(token, Outcome::Failure, true, why);
        assert_eq!(inbox.take(), [Event::Landed(token)]);
        assert_eq!(landed(&w, other, token), expected);
        w.assert_at_rest(&[token]);
    }
}

#[test]
fn a_time_out_is_told_to_those_who_watch_before_the_thread_that_loads_has_reported() {
    let w = World::new(config());
    let (other, inbox) = w.attach();
    let token = w.lead_within("k", 10);
    join(w.begin_as("k", &by(&w, other)));
    w.pass(10);
    assert_eq!(inbox.take(), [Event::Landed(token)]);
    assert_eq!(landed(&w, other, token), "Some(TimedOut(10))");
    assert_eq!(w.events(), [Event::TimedOut(token)]);
    let second = lead(w.begin_as("k", &by(&w, other)));
    assert_eq!(w.fail(token).stored, Stored::No);
    assert!(inbox.take().is_empty());
    w.abort(second);
    w.assert_at_rest(&[token, second]);
}

#[test]
fn who_leaves_is_told_nothing_and_leaves_nothing() {
    let w = World::new(config());
    let (other, inbox) = w.attach();
    let token = w.lead("k");
    join(w.begin_as("k", &by(&w, other)));
    w.engine.leave(other, token, false);
    assert!(!w.engine.is_watched(token));
    w.settle(token, "v", FRESH);
    assert!(inbox.take().is_empty());
    assert_eq!(landed(&w, other, token), "None");
    // One that leaves after it was told, and before it has taken.
    let token = lead(w.force("k"));
    join(w.begin_as("k", &by(&w, other)));
    w.settle(token, "v", FRESH);
    w.engine.leave(other, token, false);
    assert_eq!(landed(&w, other, token), "None");
    w.assert_at_rest(&[token]);
}

#[test]
fn a_flight_is_given_up_when_the_last_of_all_threads_has_left() {
    let w = World::new(config());
    let (one, other) = (w.attach().0, w.attach().0);
    let token = w.lead("k");
    join(w.begin_as("k", &by(&w, one)));
    join(w.begin_as("k", &by(&w, other)));
    assert_eq!(w.engine.abandon(token).stored, Stored::Awaited);
    w.engine.leave(one, token, false);
    assert!(w.events().is_empty());
    w.engine.leave(other, token, false);
    assert_eq!(w.events(), [Event::Abandoned(token)]);
    // One more has come before that was heard.
    join(w.begin_as("k", &by(&w, one)));
    assert_eq!(w.engine.abandon(token).stored, Stored::Awaited);
    w.engine.leave(one, token, false);
    assert_eq!(w.events(), [Event::Abandoned(token)]);
    assert_eq!(w.engine.abandon(token).stored, Stored::No);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_flight_that_someone_wants_to_go_on_goes_on() {
    let w = World::new(config());
    let (other, _) = w.attach();
    let token = w.lead("k");
    join(w.begin_as("k", &by(&w, other)));
    w.engine.leave(other, token, true);
    assert_eq!(w.engine.abandon(token).stored, Stored::Awaited);
    assert_eq!(w.stored(token, "v", FRESH), Stored::Yes);
}

#[test]
fn nobody_is_told_of_flights_in_its_own_thread() {
    let w = World::new(config());
    let token = w.lead("k");
    join(w.begin("k"));
    assert!(!w.engine.is_watched(token));
    assert_eq!(w.engine.abandon(token).stored, Stored::No);
    assert!(w.events().is_empty());
}

#[test]
fn the_flights_of_a_thread_that_ends_begin_anew_with_who_watched_in_their_order() {
    let w = World::new(config());
    let (ends, _) = w.attach();
    let tokens: Vec<_> = ["b", "a", "c"].iter().map(|key| lead(w.begin_as(key, &by(&w, ends)))).collect();
    for key in ["a", "b", "c"] {
        join(w.begin(key));
    }
    w.engine.detach(ends);
    assert_eq!(w.events(), tokens.iter().map(|token| Event::Landed(*token)).collect::<Vec<_>>());
    assert_eq!(landed(&w, w.thread, tokens[0]), "Some(Again)");
    let Begun::Lead { token, .. } = w.begin_as("b", &Begin { since: 1, ..w.how() }) else { panic!("it is not free") };
    w.abort(token);
    w.assert_at_rest(&tokens);
}

#[test]
fn who_begins_anew_is_counted_once_and_its_wait_from_its_start() {
    let w = World::new(config());
    let (ends, _) = w.attach();
    lead(w.begin_as("k", &by(&w, ends)));
    let since = w.engine.clock().now_nanos() + 1;
    join(w.begin("k"));
    w.pass(50);
    w.engine.detach(ends);
    let token = lead(w.begin_as("k", &Begin { since, ..w.how() }));
    w.pass(50);
    w.settle(token, "v", FRESH);
    let stats = w.engine.stats();
    assert_eq!((stats.totals.misses, stats.totals.coalesced, stats.totals.hits), (2, 1, 0));
    assert_eq!(stats.latency.miss.count, 1);
    assert!(stats.latency.miss.max > 99_000.0, "{:?}", stats.latency.miss);
    // One that finds a value by then was a miss all the same.
    assert!(matches!(w.begin_as("k", &Begin { since, ..w.how() }), Begun::Hit(_)));
    let stats = w.engine.stats();
    assert_eq!((stats.totals.misses, stats.totals.hits, stats.latency.miss.count), (2, 0, 2));
}

#[test]
fn a_thread_that_ends_leaves_the_flights_it_watched_to_the_others() {
    let w = World::new(config());
    let (ends, inbox) = w.attach();
    let token = w.lead("k");
    join(w.begin_as("k", &by(&w, ends)));
    assert_eq!(w.engine.abandon(token).stored, Stored::Awaited);
    w.engine.detach(ends);
    assert_eq!(w.events(), [Event::Abandoned(token)]);
    w.settle(token, "v", FRESH);
    assert!(inbox.take().is_empty());
    // Nor does it leave behind what it was told of.
    let (ends, inbox) = w.attach();
    let second = w.lead("l");
    join(w.begin_as("l", &by(&w, ends)));
    w.settle(second, "v", FRESH);
    assert_eq!(inbox.take(), [Event::Landed(second)]);
    w.engine.detach(ends);
    assert!(w.engine.take_landed(ends, second).is_none());
    w.assert_at_rest(&[token, second]);
}

#[test]
fn the_trial_of_a_thread_that_ends_is_free_again() {
    let w = World::new(with_breaker(1, 100));
    let (ends, _) = w.attach();
    let token = w.lead("k");
    w.fail(token);
    w.pass(100);
    lead(w.begin_as("k", &by(&w, ends)));
    assert_eq!(w.engine.breaker("origin").state, State::HalfOpen);
    refused(w.begin("other"));
    w.engine.detach(ends);
    let token = w.lead("other");
    w.settle(token, "v", FRESH);
    assert_eq!(w.engine.breaker("origin").state, State::Closed);
    w.assert_at_rest(&[token]);
}

#[test]
fn refreshes_of_a_thread_that_ends_free_their_slots_and_keys_wherever_they_stand() {
    let w = World::new(with_queue(2, 10));
    let (ends, _) = w.attach();
    let keys = ["running", "starting", "waiting", "mine"];
    keys.iter().for_each(|key| w.put(key, "old", STALE));
    let theirs = Refresh { thread: ends, ..w.plan() };
    let running = w.refresh_as(&["running"], &theirs).unwrap();
    let token = w.start_one(running);
    w.refresh_as(&["starting"], &theirs).unwrap();
    w.refresh_as(&["waiting"], &theirs).unwrap();
    let mine = w.refresh(&["mine"]).unwrap();
    assert_eq!((w.running(), w.queued()), (2, 2));
    w.engine.detach(ends);
    assert_eq!(w.events(), [Event::Start(mine)]);
    assert_eq!((w.running(), w.queued()), (1, 0));
    for key in &keys[..3] {
        assert!(w.get(key).unwrap().refresh_due, "{key}");
    }
    let other = w.start_one(mine);
    w.settle(other, "new", FRESH);
    w.assert_at_rest(&[token, other]);
}

#[test]
fn a_refresh_that_failed_is_not_tried_again_once_its_thread_has_ended() {
    let retrying = Config { queue: kvcache_engine::load::queue::Limits { retries: 3, ..config().queue }, ..config() };
    for when in ["resting", "one of two has failed"] {
        let w = World::new(retrying);
        let (ends, _) = w.attach();
        w.put("a", "old", STALE);
        w.put("b", "old", STALE);
        let keys = if when == "resting" { &["a"][..] } else { &["a", "b"] };
        let batch = w.refresh_as(keys, &Refresh { thread: ends, ..w.plan() }).unwrap();
        let started = w.start(batch);
        w.fail(started[0].token);
        w.engine.detach(ends);
        w.pass(10_000);
        w.assert_at_rest(&started.iter().map(|one| one.token).collect::<Vec<_>>());
        assert!(w.events().is_empty());
    }
}

#[test]
fn what_is_decompressed_for_a_thread_that_ends_is_forgotten() {
    let w = World::new(config());
    let (ends, inbox) = w.attach();
    w.put("k", "v", FRESH);
    let entry = w.get("k").unwrap().entry;
    let done = w.engine.inflate(ends, entry.clone());
    w.work();
    let waits = w.engine.inflate(ends, entry);
    w.engine.detach(ends);
    assert_eq!(w.work(), 0);
    assert!(w.engine.take_inflated(done).is_none() && w.engine.take_inflated(waits).is_none());
    assert_eq!(inbox.take(), [Event::Inflated(done)]);
    assert!(w.engine.flush());
}

#[test]
fn a_thread_never_has_the_number_of_one_that_ended() {
    let w = World::new(config());
    let (one, _) = w.attach();
    w.engine.detach(one);
    let (two, _) = w.attach();
    assert_ne!(one, two);
}

#[test]
fn a_pattern_has_one_number_whoever_asks() {
    let w = World::new(config());
    assert_eq!(["a:*", "b:*", "a:*"].map(|pattern| w.engine.route(pattern)), [1, 2, 1]);
    for n in 3..=u16::MAX {
        assert_eq!(w.engine.route(&n.to_string()), n);
    }
    assert_eq!((w.engine.route("one more"), w.engine.route("b:*")), (0, 2));
}
