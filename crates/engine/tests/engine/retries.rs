//! What follows a failed refresh: attempts with backoff and full jitter, then a rest that doubles while the key keeps failing.

use kvcache_engine::clock::{Clock, Millis};
use kvcache_engine::engine::{BatchEnd, Begin, Config, Event};
use kvcache_engine::load::breaker::Outcome;
use kvcache_engine::load::queue::Limits;

use super::harness::*;

/// How long the first retry of a failed refresh waits, with the random number that a seed gives.
fn first_wait(seed: u64, backoff: Millis) -> Millis {
    let w = World::new(Config { backoff, ..with_retries(1) });
    let (_, token) = w.refreshing("k");
    fastrand::seed(seed);
    assert_eq!(w.fail(token).batch, BatchEnd::Retry);
    w.alarm()
}

#[test]
fn waits_are_spread_over_all_from_nothing_to_the_doubled_base() {
    let waits: Vec<_> = (0..200).map(|seed| first_wait(seed, 1_000)).collect();
    assert!(waits.iter().all(|wait| *wait < 1_000), "{waits:?}");
    for tenth in 0..10 {
        let range = tenth * 100..(tenth + 1) * 100;
        assert!(waits.iter().any(|wait| range.contains(wait)), "none of {range:?} in {waits:?}");
    }
}

#[test]
fn each_attempt_may_wait_twice_as_long_up_to_thirty_seconds() {
    let w = World::new(Config { backoff: 4_000, ..with_retries(6) });
    let (batch, token) = w.refreshing("k");
    let mut longest = Vec::new();
    for attempt in 0..6 {
        let bound = [4_000, 8_000, 16_000, 30_000, 30_000, 30_000][attempt];
        let now = Clock::now_millis(&w.clock);
        // Of many random numbers that could have come, the greatest that does.
        let seed = (0..1_000).max_by(|a, b| random(*a).total_cmp(&random(*b))).unwrap();
        fastrand::seed(seed);
        assert_eq!(w.fail(token).batch, BatchEnd::Retry);
        let wait = w.alarm() - now;
        assert!(wait < bound && wait > bound * 9 / 10, "attempt {attempt}: {wait} of {bound}");
        longest.push(wait);
        assert_eq!((w.queued(), w.running()), (1, 0));
        w.events();
        w.pass(wait - 1);
        assert!(w.events().is_empty());
        w.pass(1);
        assert_eq!(w.events(), [Event::Start(batch)]);
        assert_eq!(w.start_one(batch), token);
    }
    assert_eq!(w.fail(token).batch, BatchEnd::Finished);
    w.assert_at_rest(&[token]);
    assert_eq!(w.engine.stats().totals.errors, 7);
}

fn random(seed: u64) -> f64 {
    fastrand::Rng::with_seed(seed).f64()
}

#[test]
fn only_what_failed_is_tried_again() {
    let w = World::new(with_retries(1));
    ["a", "b", "c", "d"].iter().for_each(|key| w.put(key, "old", STALE));
    let batch = w.refresh(&["a", "b", "c", "d"]).unwrap();
    let tokens: Vec<_> = w.start(batch).iter().map(|flight| flight.token).collect();
    assert_eq!(w.settle(tokens[0], "new", FRESH).batch, BatchEnd::None);
    assert_eq!(w.fail(tokens[1]).batch, BatchEnd::None);
    assert_eq!(w.abort(tokens[2]).batch, BatchEnd::None);
    assert_eq!(w.fail(tokens[3]).batch, BatchEnd::Retry);
    assert_eq!((w.queued(), w.running()), (2, 0));
    w.pass(100);
    let again: Vec<_> = w.start(batch).iter().map(|flight| flight.token).collect();
    assert_eq!(again, [tokens[1], tokens[3]]);
    w.settle(again[0], "new", FRESH);
    assert_eq!(w.fail(again[1]).batch, BatchEnd::Finished);
    // c was given up, d failed for good: only d rests.
    assert!(w.get("c").unwrap().refresh_due && !w.get("d").unwrap().refresh_due);
    w.assert_at_rest(&tokens);
}

#[test]
fn the_rest_doubles_with_each_failure_up_to_thirty_seconds() {
    let w = World::new(config());
    w.put("k", "old", STALE);
    for rest in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
        let batch = w.refresh(&["k"]).unwrap();
        w.fail(w.start_one(batch));
        assert!(!w.get("k").unwrap().refresh_due);
        assert_eq!(w.refresh(&["k"]), None);
        w.pass(rest - 1);
        assert_eq!(w.refresh(&["k"]), None, "still resting after {} ms", rest - 1);
        w.pass(1);
        assert!(w.get("k").unwrap().refresh_due);
    }
}

#[test]
fn a_refresh_that_succeeds_ends_the_row_of_failures() {
    let w = World::new(config());
    w.put("k", "old", STALE);
    for round in 0..2 {
        let batch = w.refresh(&["k"]).unwrap();
        w.fail(w.start_one(batch));
        w.pass(999);
        assert_eq!(w.refresh(&["k"]), None, "round {round}");
        w.pass(1);
        let batch = w.refresh(&["k"]).unwrap();
        w.settle(w.start_one(batch), "new", STALE);
    }
}

#[test]
fn a_resting_key_may_be_loaded_in_the_foreground_which_ends_its_rest() {
    let w = World::new(config());
    let (_, token) = w.refreshing("k");
    w.fail(token);
    let token = lead(w.force("k"));
    assert!(!w.get("k").unwrap().refresh_due);
    w.settle(token, "new", STALE);
    assert!(w.get("k").unwrap().refresh_due);
}

#[test]
fn a_failure_of_the_foreground_makes_no_key_rest() {
    let w = World::new(config());
    w.put("k", "old", STALE);
    w.fail(lead(w.force("k")));
    assert!(w.get("k").unwrap().refresh_due);
}

#[test]
fn a_refresh_that_was_given_up_is_neither_tried_again_nor_rests() {
    let w = World::new(with_retries(3));
    let (_, token) = w.refreshing("k");
    assert_eq!(w.engine.fail(token, Outcome::Aborted, false).batch, BatchEnd::Finished);
    assert!(w.get("k").unwrap().refresh_due);
    assert_eq!(w.engine.stats().totals.errors, 0);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_retry_gets_the_value_that_is_there_by_then_as_its_copy() {
    let w = World::new(with_retries(1));
    let (batch, token) = w.refreshing("k");
    w.fail(token);
    w.pass(100);
    let started = w.start(batch);
    assert_eq!(text(started[0].stale.as_ref().unwrap()), "old");
    w.settle(started[0].token, "new", FRESH);
}

#[test]
fn callers_who_joined_an_attempt_have_their_answer_when_it_fails() {
    let w = World::new(with_retries(1));
    let (batch, token) = w.refreshing("k");
    w.begin_as("k", &Begin { force: true, ..w.how() });
    w.fail(token);
    // The next caller does not wait for the retry.
    let mine = lead(w.force("k"));
    w.settle(mine, "new", FRESH);
    w.pass(100);
    assert!(w.start(batch).is_empty());
    w.assert_at_rest(&[token, mine]);
}

#[test]
fn a_slot_is_free_while_a_batch_waits_for_its_retry() {
    let w = World::new(Config { queue: Limits { concurrency: 1, max_queued: 10, retries: 1 }, ..config() });
    let (first, token) = w.refreshing("a");
    w.put("b", "old", STALE);
    let second = w.refresh(&["b"]).unwrap();
    w.events();
    w.fail(token);
    assert_eq!(w.events(), [Event::Start(second)]);
    w.pass(100);
    // And then it waits for its turn.
    assert!(w.events().is_empty());
    w.settle(w.start_one(second), "new", FRESH);
    assert_eq!(w.events(), [Event::Start(first)]);
    w.settle(w.start_one(first), "new", FRESH);
    w.assert_at_rest(&[token]);
}
