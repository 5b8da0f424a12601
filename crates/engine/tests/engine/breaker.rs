//! The circuit breaker between loads and their origin: who is refused, who is the trial, and that no trial is lost.

use kvcache_engine::clock::FOREVER;
use kvcache_engine::engine::{Begin, Config, Event, Refresh};
use kvcache_engine::load::breaker::{OriginId, Outcome, State};

use super::harness::*;

impl World {
    /// Has the breaker open, by failures of loads.
    fn open_circuit(&self, failures: u32) {
        for n in 0..failures {
            let token = self.lead(&format!("failing {n}"));
            self.fail(token);
        }
        assert_eq!(self.state(), State::Open);
        self.events();
    }

    fn state(&self) -> State {
        self.engine.breaker("origin").state
    }

    fn changes(&self) -> Vec<State> {
        let changes = self.events().into_iter().filter_map(|event| match event {
            Event::Breaker { origin, state } => {
                assert_eq!(&*origin, "origin");
                Some(state)
            }
            _ => None,
        });
        changes.collect()
    }
}

#[test]
fn failures_in_a_row_open_it_and_loads_are_refused_until_its_time_is_over() {
    let w = World::new(with_breaker(3, 1_000));
    w.clock.advance_millis(50);
    w.open_circuit(3);
    assert_eq!(refused(w.begin("k")), 1_050);
    assert_eq!(w.engine.breaker("origin").next_attempt, Some(1_050));
    w.pass(999);
    assert_eq!(refused(w.begin("k")), 1_050);
    w.pass(1);
    let trial = w.lead("k");
    assert_eq!(w.changes(), [State::HalfOpen]);
    // While the trial runs, no other.
    refused(w.begin("another"));
    w.settle(trial, "v", FRESH);
    assert_eq!(w.changes(), [State::Closed]);
    let token = w.lead("another");
    w.abort(token);
    w.assert_at_rest(&[trial, token]);
}

#[test]
fn a_trial_that_fails_opens_it_again_for_the_whole_time() {
    let w = World::new(with_breaker(1, 1_000));
    w.open_circuit(1);
    w.pass(1_000);
    let trial = w.lead("k");
    w.pass(500);
    w.fail(trial);
    assert_eq!(w.changes(), [State::HalfOpen, State::Open]);
    assert_eq!(refused(w.begin("k")), 2_500);
}

#[test]
fn a_trial_that_is_aborted_is_given_back() {
    let w = World::new(with_breaker(1, 1_000));
    w.open_circuit(1);
    w.pass(1_000);
    for n in 0..3 {
        let trial = w.lead(&n.to_string());
        assert_eq!(w.state(), State::HalfOpen);
        w.abort(trial);
    }
    w.settle(w.lead("k"), "v", FRESH);
    assert_eq!(w.state(), State::Closed);
}

#[test]
fn a_trial_whose_key_is_written_or_times_out_still_counts() {
    for how in ["written", "timed out", "timed out and taken over"] {
        let w = World::new(with_breaker(1, 1_000));
        w.open_circuit(1);
        w.pass(1_000);
        let trial = w.lead_within("k", 100);
        if how == "written" {
            w.put("k", "put", FRESH);
        } else {
            w.pass(100);
        }
        if how == "timed out and taken over" {
            refused(w.begin("k"));
        }
        w.engine.validate();
        w.fail(trial);
        assert_eq!(w.state(), State::Open, "{how}");
        w.assert_at_rest(&[trial]);
    }
}

#[test]
fn an_error_that_does_not_count_is_a_proof_of_life() {
    let w = World::new(with_breaker(2, 1_000));
    for _ in 0..5 {
        w.fail(w.lead("a"));
        w.engine.fail(w.lead("b"), Outcome::Success, true);
    }
    assert_eq!((w.state(), w.engine.breaker("origin").failures), (State::Closed, 0));
    assert_eq!(w.engine.stats().totals.errors, 10);
}

#[test]
fn who_is_refused_leaves_nothing_behind_and_disturbs_nobody() {
    let w = World::new(with_breaker(1, 1_000));
    w.put("k", "old", STALE);
    let batch = w.refresh(&["k"]).unwrap();
    w.open_circuit(1);
    // It would have taken over the refresh, which stays where it is.
    refused(w.force("k"));
    assert_eq!(w.running(), 1);
    w.engine.validate();
    let before = w.engine.open_flights();
    refused(w.begin("nothing there"));
    assert_eq!(w.engine.open_flights(), before);
    // The refresh is refused when it is to start: it is dropped, and its key does not rest.
    assert!(w.start(batch).is_empty());
    assert_eq!(w.events(), [Event::Dropped(batch)]);
    w.assert_at_rest(&[]);
    w.pass(1_000);
    assert!(w.get("k").unwrap().refresh_due);
}

#[test]
fn what_is_there_is_served_while_it_is_open_and_no_refresh_queued() {
    let w = World::new(with_breaker(1, 1_000));
    w.put("k", "old", STALE);
    w.open_circuit(1);
    assert_eq!(text(&hit(w.begin("k"))), "old");
    assert_eq!(w.refresh(&["k"]), None);
    w.pass(1_000);
    let batch = w.refresh(&["k"]).unwrap();
    let trial = w.start_one(batch);
    assert_eq!(w.changes(), [State::HalfOpen]);
    w.settle(trial, "new", FRESH);
    assert_eq!(w.changes(), [State::Closed]);
}

#[test]
fn joining_a_load_needs_no_permit() {
    let w = World::new(with_breaker(1, FOREVER));
    let token = w.lead("k");
    w.open_circuit(1);
    assert_eq!(join(w.begin("k")), token);
    w.settle(token, "v", FRESH);
}

#[test]
fn a_batch_counts_once_by_its_first_key() {
    let w = World::new(with_breaker(2, 1_000));
    ["a", "b", "c"].iter().for_each(|key| w.put(key, "old", STALE));
    let batch = w.refresh(&["a", "b", "c"]).unwrap();
    let tokens: Vec<_> = w.start(batch).iter().map(|flight| flight.token).collect();
    tokens.iter().for_each(|token| _ = w.fail(*token));
    assert_eq!((w.state(), w.engine.breaker("origin").failures), (State::Closed, 1));
}

#[test]
fn the_permit_passes_to_the_first_key_that_is_left_of_a_batch() {
    let w = World::new(with_breaker(1, 1_000));
    ["a", "b"].iter().for_each(|key| w.put(key, "old", STALE));
    w.open_circuit(1);
    w.pass(1_000);
    let batch = w.refresh(&["a", "b"]).unwrap();
    w.delete("a");
    let trial = w.start_one(batch);
    assert_eq!(w.state(), State::HalfOpen);
    w.engine.validate();
    w.fail(trial);
    assert_eq!(w.state(), State::Open);
}

#[test]
fn further_keys_of_a_foreground_batch_ask_for_no_permit() {
    let w = World::new(with_breaker(1, 1_000));
    w.open_circuit(1);
    w.pass(1_000);
    let first = w.lead("a");
    let second = lead(w.begin_as("b", &Begin { permit: false, ..w.how() }));
    w.fail(second);
    assert_eq!(w.state(), State::HalfOpen);
    w.settle(first, "v", FRESH);
    assert_eq!(w.state(), State::Closed);
    w.assert_at_rest(&[first, second]);
}

#[test]
fn each_attempt_of_a_refresh_asks_anew() {
    let w = World::new(Config { breaker: with_breaker(1, 10_000).breaker, ..with_retries(2) });
    let (batch, token) = w.refreshing("k");
    w.fail(token);
    assert_eq!(w.state(), State::Open);
    w.events();
    w.pass(200);
    assert_eq!(w.events(), [Event::Start(batch)]);
    assert!(w.start(batch).is_empty());
    assert_eq!(w.events(), [Event::Dropped(batch)]);
    w.assert_at_rest(&[token]);
}

#[test]
fn origins_do_not_answer_for_one_another() {
    let w = World::new(with_breaker(1, 1_000));
    w.open_circuit(1);
    let other = Begin { origin: w.engine.origin("another"), ..w.how() };
    w.abort(lead(w.begin_as("k", &other)));
    let unguarded = Begin { origin: OriginId::NONE, ..w.how() };
    w.fail(lead(w.begin_as("k", &unguarded)));
    w.abort(lead(w.begin_as("k", &unguarded)));
    w.put("k", "old", STALE);
    assert_eq!(w.refresh(&["k"]), None);
    assert!(w.refresh_as(&["k"], &Refresh { origin: other.origin, ..w.plan() }).is_some());
}

#[test]
fn without_a_breaker_nobody_is_ever_refused() {
    let w = World::new(config());
    for _ in 0..100 {
        w.fail(w.lead("k"));
    }
    assert_eq!(w.state(), State::Closed);
    assert!(w.events().is_empty());
}

#[test]
fn every_thread_is_told_of_a_change() {
    let w = World::new(with_breaker(1, 1_000));
    let (_, inbox) = w.attach();
    w.fail(w.lead("k"));
    let told = [Event::Breaker { origin: "origin".into(), state: State::Open }];
    assert_eq!((w.events(), inbox.take()), (told.to_vec(), told.to_vec()));
}
