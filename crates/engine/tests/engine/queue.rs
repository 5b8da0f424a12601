//! The refresh queue: bounded in concurrency and in length, each key in it at most once, in the order of arrival; and flush.

use kvcache_engine::engine::{BatchEnd, Config, Event, Refresh};
use kvcache_engine::entry::Ages;
use kvcache_engine::load::queue::Limits;

use super::harness::*;

fn stale(w: &World, keys: &[&str]) {
    keys.iter().for_each(|key| w.put(key, "old", STALE));
}

#[test]
fn a_stale_get_is_answered_and_one_refresh_queued() {
    let w = World::new(config());
    stale(&w, &["k"]);
    let found = w.get("k").unwrap();
    assert!(is_stale(&found) && found.refresh_due);
    let batch = w.refresh(&["k"]).unwrap();
    assert_eq!(w.events(), [Event::Start(batch)]);
    for state in ["starting", "running"] {
        assert!(!w.get("k").unwrap().refresh_due, "{state}");
        assert_eq!(w.refresh(&["k"]), None, "{state}");
        if state == "starting" {
            w.start(batch);
        }
    }
}

#[test]
fn nothing_is_refreshed_that_is_not_in_need_of_it() {
    let w = World::new(config());
    w.put("fresh", "v", FRESH);
    w.put("dead", "v", Ages { max_age: 0, stale_age: 0, stale_if_error: 0 });
    assert_eq!(w.refresh(&["fresh", "dead", "unknown"]), None);
    let token = w.lead("loading");
    assert_eq!(w.refresh(&["loading"]), None);
    assert_eq!(w.refresh(&[]), None);
    w.abort(token);
    w.assert_at_rest(&[token]);
    assert!(w.engine.flush());
}

#[test]
fn a_key_given_twice_is_refreshed_once() {
    let w = World::new(config());
    stale(&w, &["a", "b"]);
    let batch = w.refresh(&["a", "b", "a", "b", "a"]).unwrap();
    assert_eq!(w.start(batch).len(), 2);
}

#[test]
fn no_more_batches_run_than_may_and_they_start_in_order() {
    let w = World::new(with_queue(2, 100));
    let keys = ["a", "b", "c", "d", "e"];
    stale(&w, &keys);
    let batches: Vec<_> = keys.iter().map(|key| w.refresh(&[key]).unwrap()).collect();
    assert_eq!(w.events(), [Event::Start(batches[0]), Event::Start(batches[1])]);
    assert_eq!((w.queued(), w.running()), (3, 2));
    assert!(w.start(batches[2]).is_empty(), "it has no slot yet");
    let mut running = vec![w.start_one(batches[1]), w.start_one(batches[0])];
    for next in &batches[2..] {
        w.settle(running.remove(0), "new", FRESH);
        assert_eq!(w.events(), [Event::Start(*next)]);
        running.push(w.start_one(*next));
        assert_eq!(w.running(), 2);
    }
    running.iter().for_each(|token| _ = w.settle(*token, "new", FRESH));
    w.assert_at_rest(&[]);
}

#[test]
fn a_batch_is_started_once() {
    let w = World::new(config());
    stale(&w, &["k"]);
    let batch = w.refresh(&["k"]).unwrap();
    let token = w.start_one(batch);
    assert!(w.start(batch).is_empty());
    assert!(w.start(batch + 1).is_empty());
    w.settle(token, "new", FRESH);
    w.assert_at_rest(&[token]);
}

#[test]
fn of_a_full_queue_the_newest_is_dropped_and_counted() {
    let w = World::new(with_queue(1, 2));
    let keys = ["a", "b", "c", "d", "e"];
    stale(&w, &keys);
    let batches: Vec<_> = keys.iter().filter_map(|key| w.refresh(&[key])).collect();
    // One runs, two wait.
    assert_eq!(batches.len(), 3);
    assert_eq!((w.queued(), w.running(), w.engine.stats().totals.refreshes_dropped), (2, 1, 2));
    // A dropped key is due again, and comes in when there is room.
    assert!(w.get("d").unwrap().refresh_due);
    w.settle(w.start_one(batches[0]), "new", FRESH);
    assert!(w.refresh(&["d"]).is_some());
    assert_eq!(w.engine.stats().totals.refreshes_dropped, 2);
}

#[test]
fn the_bound_counts_keys_not_batches() {
    let w = World::new(with_queue(1, 3));
    stale(&w, &["running", "a", "b", "c", "d", "e"]);
    let first = w.refresh(&["running"]).unwrap();
    let second = w.refresh(&["a", "b", "c", "d", "e"]).unwrap();
    assert_eq!((w.queued(), w.engine.stats().totals.refreshes_dropped), (3, 2));
    w.settle(w.start_one(first), "new", FRESH);
    let keys: Vec<_> = w.start(second).iter().map(|flight| flight.key.to_vec()).collect();
    assert_eq!(keys, [b"a", b"b", b"c"]);
    // Keys that run do not count against it.
    assert_eq!((w.queued(), w.running()), (0, 3));
    assert!(w.refresh(&["d", "e"]).is_some());
}

#[test]
fn with_no_room_to_wait_a_refresh_still_runs_in_a_free_slot() {
    let w = World::new(with_queue(1, 0));
    stale(&w, &["a", "b"]);
    let batch = w.refresh(&["a"]).unwrap();
    assert_eq!(w.refresh(&["b"]), None);
    w.settle(w.start_one(batch), "new", FRESH);
    assert!(w.refresh(&["b"]).is_some());
}

#[test]
fn a_batch_with_nothing_left_is_dropped_and_the_next_has_its_slot() {
    let w = World::new(with_queue(1, 10));
    stale(&w, &["a", "b", "c"]);
    let (first, second) = (w.refresh(&["a", "b"]).unwrap(), w.refresh(&["c"]).unwrap());
    w.events();
    w.delete("a");
    assert!(w.events().is_empty());
    w.delete("b");
    assert_eq!(w.events(), [Event::Dropped(first), Event::Start(second)]);
    assert!(w.start(first).is_empty());
    w.settle(w.start_one(second), "new", FRESH);
    w.assert_at_rest(&[]);
}

#[test]
fn a_key_that_has_gone_from_memory_is_loaded_all_the_same() {
    let w = World::new(config());
    w.put("k", "old", Ages { max_age: 0, stale_age: 10, stale_if_error: 10 });
    let batch = w.refresh(&["k"]).unwrap();
    w.pass(100);
    let started = w.start(batch);
    assert!(started[0].stale.is_none());
    w.settle(started[0].token, "new", FRESH);
    assert_eq!(w.value("k").as_deref(), Some("new"));
}

#[test]
fn what_withdraws_while_all_slots_are_taken_does_not_pile_up() {
    let w = World::new(with_queue(1, 10));
    let (_, running) = w.refreshing("slow");
    for _ in 0..10_000 {
        w.put("k", "old", STALE);
        w.refresh(&["k"]).unwrap();
    }
    // The line is checked in there.
    w.engine.validate();
    assert_eq!(w.queued(), 1);
    w.delete("k");
    w.settle(running, "new", FRESH);
    w.assert_at_rest(&[running]);
}

#[test]
fn refreshes_are_told_to_the_thread_that_queued_them() {
    let w = World::new(with_queue(1, 10));
    let (thread, inbox) = w.attach();
    stale(&w, &["a", "b"]);
    let ours = w.refresh(&["a"]).unwrap();
    let theirs = w.refresh_as(&["b"], &Refresh { thread, ..w.plan() }).unwrap();
    assert_eq!((w.events(), inbox.take()), (vec![Event::Start(ours)], vec![]));
    w.settle(w.start_one(ours), "new", FRESH);
    assert_eq!((w.events(), inbox.take()), (vec![], vec![Event::Start(theirs)]));
    w.delete("b");
    assert_eq!((w.events(), inbox.take()), (vec![], vec![Event::Dropped(theirs)]));
}

#[test]
fn flush_is_answered_at_once_when_nothing_runs() {
    let w = World::new(config());
    assert!(w.engine.flush());
    // A load in the foreground is nothing to wait for.
    let token = w.lead("k");
    assert!(w.engine.flush());
    w.settle(token, "v", FRESH);
    assert!(w.events().is_empty());
}

#[test]
fn idle_is_told_once_to_every_thread_when_all_is_done() {
    let w = World::new(with_retries(1));
    let (_, inbox) = w.attach();
    stale(&w, &["a", "b"]);
    let batches = ["a", "b"].map(|key| w.refresh(&[key]).unwrap());
    let [a, b] = batches.map(|batch| w.start_one(batch));
    assert!(!w.engine.flush() && !w.engine.flush());
    w.events();
    w.settle(a, "new", FRESH);
    w.fail(b);
    assert!(w.events().is_empty(), "b waits for a retry");
    w.pass(100);
    w.events();
    w.settle(w.start_one(batches[1]), "new", FRESH);
    assert_eq!((w.events(), inbox.take()), (vec![Event::Idle], vec![Event::Idle]));
    // Nobody waits any more.
    let (_, token) = w.refreshing("c");
    w.events();
    w.settle(token, "new", FRESH);
    assert!(w.events().is_empty());
}

#[test]
fn idle_is_told_however_the_last_refresh_goes() {
    type End = (&'static str, fn(&World));
    let ends: [End; 4] = [
        ("put", |w| w.put("k", "v", FRESH)),
        ("deleted", |w| _ = w.delete("k")),
        ("taken over", |w| _ = w.force("k")),
        ("dropped", |w| w.engine.drop_queued(w.thread)),
    ];
    for (name, end) in ends {
        let w = World::new(config());
        stale(&w, &["k"]);
        let batch = w.refresh(&["k"]).unwrap();
        assert!(!w.engine.flush());
        w.events();
        end(&w);
        assert_eq!(w.events(), [Event::Dropped(batch), Event::Idle], "{name}");
    }
}

#[test]
fn what_does_not_run_yet_can_be_dropped() {
    let w = World::new(Config { queue: Limits { concurrency: 3, max_queued: 10, retries: 1 }, ..config() });
    let (_, running) = w.refreshing("running");
    let (resting, failed) = w.refreshing("resting");
    w.fail(failed);
    stale(&w, &["a", "b", "c"]);
    let mut waiting: Vec<_> = ["a", "b", "c"].iter().map(|key| w.refresh(&[key]).unwrap()).collect();
    waiting.push(resting);
    w.events();
    w.engine.drop_queued(w.thread);
    assert_eq!((w.queued(), w.running()), (0, 1));
    let mut dropped: Vec<_> = w
        .events()
        .iter()
        .filter_map(|event| match event {
            Event::Dropped(batch) => Some(*batch),
            _ => None,
        })
        .collect();
    dropped.sort_unstable();
    waiting.sort_unstable();
    assert_eq!(dropped, waiting);
    // Whatever was told of their start meanwhile, none of them starts; and their keys are free.
    assert!(waiting.iter().all(|batch| w.start(*batch).is_empty()));
    assert!(w.get("a").unwrap().refresh_due && w.get("resting").unwrap().refresh_due);
    assert_eq!(w.settle(running, "new", FRESH).batch, BatchEnd::Finished);
    w.pass(1_000);
    w.assert_at_rest(&[running, failed]);
}

#[test]
fn each_key_of_a_batch_is_reported_by_itself() {
    let w = World::new(config());
    stale(&w, &["a", "b", "c"]);
    let batch = w.refresh(&["a", "b", "c"]).unwrap();
    let tokens: Vec<_> = w.start(batch).iter().map(|flight| flight.token).collect();
    w.delete("b");
    assert_eq!(w.settle(tokens[0], "new", FRESH).batch, BatchEnd::None);
    assert_eq!(w.settle(tokens[1], "new", FRESH).batch, BatchEnd::None);
    assert_eq!(w.running(), 1);
    assert_eq!(w.fail(tokens[2]).batch, BatchEnd::Finished);
    assert_eq!((w.value("a").as_deref(), w.value("b"), w.value("c").as_deref()), (Some("new"), None, Some("old")));
    w.assert_at_rest(&tokens);
}
