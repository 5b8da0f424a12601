//! I5: a fetcher that never settles ends in a time-out, told once to the thread whose fetcher it is, and its key is free.

use kvcache_engine::clock::FOREVER;
use kvcache_engine::engine::{BatchEnd, Begin, Config, Event, Refresh, Stored};

use super::harness::*;

#[test]
fn a_load_times_out_at_its_hard_timeout_and_not_before() {
    let w = World::new(config());
    let token = w.lead_within("k", 100);
    assert_eq!(w.alarm(), 100);
    w.pass(99);
    assert!(w.events().is_empty());
    assert_eq!(w.alarm(), 100);
    w.pass(1);
    assert_eq!(w.events(), [Event::TimedOut(token)]);
    w.fail(token);
    w.pass(1_000);
    assert!(w.events().is_empty());
    w.assert_at_rest(&[token]);
}

#[test]
fn a_load_without_a_hard_timeout_never_times_out() {
    let w = World::new(config());
    let token = w.lead_within("k", FOREVER);
    assert_eq!(w.alarm(), FOREVER);
    w.pass(1_000_000_000);
    assert!(w.events().is_empty());
    assert_eq!(join(w.begin("k")), token);
    w.settle(token, "v", FRESH);
}

#[test]
fn the_key_is_free_once_a_load_has_timed_out() {
    let w = World::new(config());
    let slow = w.lead_within("k", 100);
    w.pass(100);
    // Before its thread has said a word.
    let token = w.lead("k");
    assert_ne!(token, slow);
    assert_eq!(join(w.begin("k")), token);
    assert_eq!(w.stored(token, "new", FRESH), Stored::Yes);
    assert_eq!(w.fail(slow).stored, Stored::No);
    assert_eq!(w.value("k").as_deref(), Some("new"));
    w.assert_at_rest(&[slow, token]);
}

#[test]
fn what_a_timed_out_load_brings_after_all_is_not_stored() {
    let w = World::new(config());
    let slow = w.lead_within("k", 100);
    w.pass(100);
    assert_eq!(w.stored(slow, "late", FRESH), Stored::No);
    assert!(w.engine.peek(b"k").is_none());
    w.assert_at_rest(&[slow]);
}

#[test]
fn the_time_out_is_told_to_the_thread_whose_fetcher_it_is() {
    let w = World::new(config());
    let (thread, inbox) = w.attach();
    let theirs = lead(w.begin_as("theirs", &Begin { thread, hard_timeout: 10, ..w.how() }));
    let ours = w.lead_within("ours", 10);
    w.pass(10);
    assert_eq!(inbox.take(), [Event::TimedOut(theirs)]);
    assert_eq!(w.events(), [Event::TimedOut(ours)]);
}

#[test]
fn time_outs_come_in_their_order_and_each_once() {
    let w = World::new(config());
    let tokens: Vec<_> = [50, 10, 30].iter().map(|timeout| w.lead_within(&timeout.to_string(), *timeout)).collect();
    w.pass(1_000);
    let expected = [tokens[1], tokens[2], tokens[0]].map(Event::TimedOut);
    assert_eq!(w.events(), expected);
    w.tick();
    assert!(w.events().is_empty());
}

#[test]
fn a_load_that_was_cut_still_times_out() {
    let w = World::new(config());
    let token = w.lead_within("k", 100);
    w.put("k", "put", FRESH);
    w.pass(100);
    assert_eq!(w.events(), [Event::TimedOut(token)]);
    w.fail(token);
    assert_eq!(w.value("k").as_deref(), Some("put"));
    w.assert_at_rest(&[token]);
}

#[test]
fn a_load_that_ended_in_time_is_not_told_of_its_deadline() {
    let w = World::new(config());
    let settled = w.lead_within("a", 100);
    let failed = w.lead_within("b", 100);
    w.settle(settled, "v", FRESH);
    w.fail(failed);
    w.pass(100);
    assert!(w.events().is_empty());
    assert_eq!(w.alarm(), FOREVER);
}

#[test]
fn a_refresh_times_out_from_its_start_not_from_when_it_was_queued() {
    let w = World::new(with_queue(1, 10));
    let plan = Refresh { hard_timeout: 100, ..w.plan() };
    ["a", "b"].iter().for_each(|key| w.put(key, "old", STALE));
    let (first, second) = (w.refresh_as(&["a"], &plan).unwrap(), w.refresh_as(&["b"], &plan).unwrap());
    let a = w.start_one(first);
    w.pass(90);
    w.settle(a, "new", FRESH);
    w.pass(90);
    let b = w.start_one(second);
    w.events();
    w.pass(99);
    assert!(w.events().is_empty());
    w.pass(1);
    assert_eq!(w.events(), [Event::TimedOut(b)]);
    // The slot is taken until the failure is reported.
    assert_eq!((w.running(), w.fail(b).batch, w.running()), (1, BatchEnd::Finished, 0));
    assert_eq!(w.value("b").as_deref(), Some("old"));
    w.assert_at_rest(&[a, b]);
}

#[test]
fn each_attempt_of_a_refresh_has_a_deadline_of_its_own() {
    let w = World::new(Config { backoff: 0, ..with_retries(1) });
    w.put("k", "old", STALE);
    let batch = w.refresh_as(&["k"], &Refresh { hard_timeout: 100, ..w.plan() }).unwrap();
    let token = w.start_one(batch);
    w.pass(60);
    w.fail(token);
    w.pass(0);
    assert_eq!(w.start_one(batch), token);
    w.events();
    // The deadline of the first attempt passes.
    w.pass(60);
    assert!(w.events().is_empty());
    w.pass(40);
    assert_eq!(w.events(), [Event::TimedOut(token)]);
    w.fail(token);
    w.assert_at_rest(&[token]);
}

#[test]
fn two_deadlines_of_one_flight_that_pass_together_are_one_time_out() {
    let w = World::new(Config { backoff: 0, ..with_retries(1) });
    w.put("k", "old", STALE);
    let batch = w.refresh_as(&["k"], &Refresh { hard_timeout: 100, ..w.plan() }).unwrap();
    let token = w.start_one(batch);
    w.fail(token);
    w.pass(0);
    w.start_one(batch);
    w.events();
    w.pass(1_000);
    assert_eq!(w.events(), [Event::TimedOut(token)]);
    w.fail(token);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_refresh_that_timed_out_is_tried_again() {
    let w = World::new(with_retries(1));
    w.put("k", "old", STALE);
    let batch = w.refresh_as(&["k"], &Refresh { hard_timeout: 100, ..w.plan() }).unwrap();
    let token = w.start_one(batch);
    w.pass(100);
    assert_eq!(w.fail(token).batch, BatchEnd::Retry);
    w.pass(100);
    assert_eq!(w.start_one(batch), token);
    assert_eq!(w.stored(token, "new", FRESH), Stored::Yes);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_refresh_that_timed_out_and_lost_its_key_to_a_load_is_not_tried_again() {
    let w = World::new(with_retries(1));
    w.put("k", "old", STALE);
    let batch = w.refresh_as(&["k"], &Refresh { hard_timeout: 100, ..w.plan() }).unwrap();
    let slow = w.start_one(batch);
    w.pass(100);
    let token = lead(w.force("k"));
    assert_eq!(w.fail(slow).batch, BatchEnd::Finished);
    assert_eq!(w.stored(token, "new", FRESH), Stored::Yes);
    w.assert_at_rest(&[slow, token]);
}

#[test]
fn a_hundred_thousand_deadlines_of_ended_loads_do_not_pile_up() {
    let w = World::new(config());
    for _ in 0..100_000 {
        let token = w.lead_within("k", 30_000);
        w.abort(token);
    }
    let token = w.lead_within("k", 30_000);
    w.pass(30_000);
    assert_eq!(w.events(), [Event::TimedOut(token)]);
    w.fail(token);
    w.assert_at_rest(&[token]);
}
