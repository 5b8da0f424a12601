//! I3: one load a key. Who leads, who joins, who takes whose place; and that nothing is left of a flight that has ended.

use kvcache_engine::engine::{BatchEnd, Begin, Begun, Config, Event, Settled, Stored};
use kvcache_engine::entry::Ages;
use kvcache_engine::load::breaker::Outcome;
use kvcache_engine::load::queue::Limits;

use super::harness::*;

#[test]
fn the_first_leads_and_all_others_join() {
    let w = World::new(config());
    let token = w.lead("k");
    for _ in 0..100 {
        assert_eq!(join(w.begin("k")), token);
    }
    assert_eq!(w.stored(token, "v", FRESH), Stored::Yes);
    assert_eq!(text(&hit(w.begin("k"))), "v");
    w.assert_at_rest(&[token]);
}

#[test]
fn each_key_has_a_flight_of_its_own() {
    let w = World::new(config());
    let tokens: Vec<_> = (0..1_000).map(|n| w.lead(&n.to_string())).collect();
    assert_eq!(w.engine.open_flights(), 1_000);
    w.engine.validate();
    for (n, token) in tokens.iter().enumerate() {
        w.settle(*token, &n.to_string(), FRESH);
    }
    assert!((0..1_000).all(|n| w.value(&n.to_string()) == Some(n.to_string())));
    w.assert_at_rest(&tokens);
}

#[test]
fn a_value_that_came_meanwhile_is_taken_instead_of_a_load() {
    let w = World::new(config());
    for ages in [FRESH, STALE] {
        w.put("k", "there by now", ages);
        assert_eq!(text(&hit(w.begin("k"))), "there by now");
    }
    assert_eq!(w.engine.open_flights(), 0);
}

#[test]
fn force_loads_over_a_fresh_value_and_joins_a_load_that_runs() {
    let w = World::new(config());
    w.put("k", "fresh", FRESH);
    let token = lead(w.force("k"));
    assert_eq!(join(w.force("k")), token);
    assert_eq!(w.value("k").as_deref(), Some("fresh"));
    w.settle(token, "newer", FRESH);
    assert_eq!(w.value("k").as_deref(), Some("newer"));
    w.assert_at_rest(&[token]);
}

#[test]
fn force_joins_a_refresh_that_runs() {
    let w = World::new(config());
    let (_, token) = w.refreshing("k");
    assert_eq!(join(w.force("k")), token);
    w.settle(token, "new", FRESH);
    w.assert_at_rest(&[token]);
}

#[test]
fn the_leader_is_given_the_copy_in_hand() {
    let w = World::new(config());
    let Begun::Lead { token, stale: None, .. } = w.begin("none") else { panic!("a copy of nothing") };
    w.abort(token);
    w.put("k", "old", ON_ERROR);
    let Begun::Lead { token, stale: Some(copy), .. } = w.begin("k") else { panic!("no copy") };
    assert_eq!(text(&copy), "old");
    assert!(!copy.is_servable());
    w.abort(token);
    assert!(w.engine.copy_in_hand(token).is_none());
}

#[test]
fn a_key_is_free_again_after_a_failure_and_after_an_abort() {
    let w = World::new(config());
    let failed = w.lead("k");
    assert_eq!(w.fail(failed).stored, Stored::No);
    let aborted = w.lead("k");
    w.abort(aborted);
    let third = w.lead("k");
    w.settle(third, "v", FRESH);
    w.assert_at_rest(&[failed, aborted, third]);
}

#[test]
fn what_is_reported_twice_counts_once() {
    let w = World::new(config());
    let token = w.lead("k");
    w.settle(token, "first", FRESH);
    let before = w.engine.stats().totals;
    let gone = Settled { stored: Stored::Gone, batch: BatchEnd::None, cut: 0 };
    assert_eq!(w.settle(token, "second", FRESH), gone);
    assert_eq!(w.fail(token), gone);
    assert_eq!(w.settle(token + 1_000_000, "of nobody", FRESH), gone);
    assert_eq!(w.engine.stats().totals, before);
    assert_eq!(w.value("k").as_deref(), Some("first"));
}

#[test]
fn a_late_report_of_a_failed_attempt_does_not_touch_the_retry() {
    let w = World::new(with_retries(1));
    let (batch, token) = w.refreshing("k");
    w.fail(token);
    assert_eq!(w.stored(token, "late", FRESH), Stored::Gone);
    assert_eq!(w.fail(token).stored, Stored::Gone);
    assert_eq!(w.queued(), 1);
    w.engine.validate();
    w.pass(100);
    assert_eq!(w.start_one(batch), token);
    w.settle(token, "new", FRESH);
    assert_eq!(w.value("k").as_deref(), Some("new"));
    w.assert_at_rest(&[token]);
}

#[test]
fn a_foreground_load_takes_over_a_refresh_that_waits() {
    // What waits, how: for a slot, given one and not started, resting before a retry, or failed beside one that runs.
    for how in ["waiting", "starting", "resting", "failed"] {
        let w = World::new(Config { queue: Limits { concurrency: 1, max_queued: 10, retries: 1 }, ..config() });
        w.put("k", "old", STALE);
        w.put("other", "old", STALE);
        let mut others = Vec::new();
        let batch = match how {
            "waiting" => {
                others.push(w.start_one(w.refresh(&["other"]).unwrap()));
                w.refresh(&["k"]).unwrap()
            }
            "starting" => w.refresh(&["k"]).unwrap(),
            "resting" => {
                let batch = w.refresh(&["k"]).unwrap();
                w.fail(w.start_one(batch));
                batch
            }
            _ => {
                let batch = w.refresh(&["k", "other"]).unwrap();
                let started = w.start(batch);
                w.fail(started[0].token);
                others.push(started[1].token);
                batch
            }
        };
        w.events();
        let token = lead(w.force("k"));
        w.engine.validate();
        assert_eq!(w.events().contains(&Event::Dropped(batch)), how != "failed", "{how}");
        assert_eq!(join(w.force("k")), token, "{how}");
        assert_eq!(w.refresh(&["k"]), None, "{how}: a load of it runs");
        assert_eq!(w.stored(token, "new", FRESH), Stored::Yes, "{how}");
        others.iter().for_each(|other| assert_eq!(w.stored(*other, "new", FRESH), Stored::Yes, "{how}"));
        w.pass(60_000);
        assert_eq!(w.value("k").as_deref(), Some("new"), "{how}");
        w.assert_at_rest(&[token]);
    }
}

#[test]
fn a_get_of_a_stale_value_leaves_a_queued_refresh_where_it_is() {
    let w = World::new(config());
    w.put("k", "old", STALE);
    let batch = w.refresh(&["k"]).unwrap();
    assert_eq!(text(&hit(w.begin("k"))), "old");
    let token = w.start_one(batch);
    w.settle(token, "new", FRESH);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_batch_of_which_one_key_was_taken_over_loads_the_others() {
    let w = World::new(config());
    ["a", "b", "c"].iter().for_each(|key| w.put(key, "old", STALE));
    let batch = w.refresh(&["a", "b", "c"]).unwrap();
    let taken = lead(w.force("b"));
    let started = w.start(batch);
    let keys: Vec<_> = started.iter().map(|flight| &flight.key[..]).collect();
    assert_eq!(keys, [b"a", b"c"]);
    started.iter().for_each(|flight| assert_eq!(w.stored(flight.token, "new", FRESH), Stored::Yes));
    w.settle(taken, "new", FRESH);
    w.assert_at_rest(&[taken]);
}

#[test]
fn the_value_of_an_expired_key_is_not_joined_but_loaded() {
    let w = World::new(config());
    w.put("k", "v", Ages { max_age: 10, stale_age: 20, stale_if_error: 20 });
    w.clock.advance_millis(20);
    assert!(w.get("k").is_none());
    let token = w.lead("k");
    w.settle(token, "new", FRESH);
    w.assert_at_rest(&[token]);
}

#[test]
fn tokens_are_never_given_twice_nor_by_two_engines() {
    let (a, b) = (World::new(config()), World::new(config()));
    let mut tokens: Vec<_> = (0..100).flat_map(|n| [a.lead(&n.to_string()), b.lead(&n.to_string())]).collect();
    tokens.extend((0..100).map(|_| {
        let token = a.lead("again");
        a.abort(token);
        token
    }));
    let count = tokens.len();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), count);
}

#[test]
fn nothing_is_kept_of_a_hundred_thousand_loads() {
    let w = World::new(config());
    for n in 0..100_000u32 {
        let key = (n % 100).to_string();
        let how = Begin { hard_timeout: 30_000, force: true, ..w.how() };
        let token = lead(w.begin_as(&key, &how));
        match n % 4 {
            0 => _ = w.settle(token, "v", STALE),
            1 => _ = w.fail(token),
            2 => {
                w.delete(&key);
                w.settle(token, "v", FRESH);
            }
            _ => _ = w.engine.fail(token, Outcome::Aborted, false),
        }
    }
    w.assert_at_rest(&[]);
    // Nor of their deadlines: the alarm rings once more at the most, and for none of them.
    w.pass(60_000);
    assert!(w.events().is_empty());
}
