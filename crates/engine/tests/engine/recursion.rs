//! I5: a fetcher that would wait for its own load is told so, however long the way round; one that would not is let through.

use kvcache_engine::engine::{Begin, Begun};

use super::harness::*;

fn recurses(begun: Begun) -> bool {
    matches!(begun, Begun::Recursion)
}

#[test]
fn a_fetcher_that_asks_for_its_own_key_is_told() {
    let w = World::new(config());
    let token = w.lead("k");
    assert!(recurses(w.begin_for(token, "k")));
    w.settle(token, "v", FRESH);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_refresh_that_forces_its_own_key_is_told() {
    let w = World::new(config());
    let (_, token) = w.refreshing("k");
    let forced = Begin { parent: token, force: true, ..w.how() };
    assert!(recurses(w.begin_as("k", &forced)));
    // The stale value is there for it as for everyone.
    assert_eq!(w.value("k").as_deref(), Some("old"));
    w.settle(token, "v", FRESH);
    w.assert_at_rest(&[token]);
}

#[test]
fn a_circle_is_found_however_long() {
    let w = World::new(config());
    let mut chain = vec![w.lead("0")];
    for n in 1..100 {
        chain.push(lead(w.begin_for(chain[n - 1], &n.to_string())));
    }
    for n in 0..100 {
        assert!(recurses(w.begin_for(chain[99], &n.to_string())), "{n}");
    }
    // The other way round there is nothing to be said against it.
    assert_eq!(join(w.begin_for(chain[0], "99")), chain[99]);
    chain.iter().rev().for_each(|token| _ = w.settle(*token, "v", FRESH));
    w.assert_at_rest(&chain);
}

#[test]
fn two_loads_that_ask_for_each_other_do_not_both_wait() {
    let w = World::new(config());
    let (a, b) = (w.lead("a"), w.lead("b"));
    assert_eq!(join(w.begin_for(a, "b")), b);
    assert!(recurses(w.begin_for(b, "a")));
    w.fail(b);
    w.settle(a, "v", FRESH);
    w.assert_at_rest(&[a, b]);
}

#[test]
fn a_circle_through_two_caches_is_found() {
    let (one, two) = (World::new(config()), World::new(config()));
    let outer = one.lead("k");
    let inner = lead(two.begin_for(outer, "k"));
    assert!(recurses(one.begin_for(inner, "k")));
    two.settle(inner, "v", FRESH);
    one.settle(outer, "v", FRESH);
    one.assert_at_rest(&[outer, inner]);
    two.assert_at_rest(&[outer, inner]);
}

#[test]
fn a_diamond_is_no_circle() {
    let w = World::new(config());
    let top = w.lead("top");
    let left = lead(w.begin_for(top, "left"));
    let right = lead(w.begin_for(top, "right"));
    let bottom = lead(w.begin_for(left, "bottom"));
    assert_eq!(join(w.begin_for(right, "bottom")), bottom);
    let all = [bottom, left, right, top];
    all.iter().for_each(|token| _ = w.settle(*token, "v", FRESH));
    w.assert_at_rest(&all);
}

#[test]
fn who_is_told_of_a_circle_waits_for_nothing() {
    let w = World::new(config());
    let (a, b) = (w.lead("a"), w.lead("b"));
    join(w.begin_for(a, "b"));
    assert!(recurses(w.begin_for(b, "a")));
    // b waits for nobody, so c may wait for it, and it for c.
    let c = w.lead("c");
    join(w.begin_for(b, "c"));
    assert!(recurses(w.begin_for(c, "b")));
    [a, b, c].iter().for_each(|token| _ = w.abort(*token));
    w.assert_at_rest(&[a, b, c]);
}

#[test]
fn a_wait_ends_with_the_load_that_was_waited_for() {
    let w = World::new(config());
    let (a, b) = (w.lead("a"), w.lead("b"));
    join(w.begin_for(a, "b"));
    w.fail(b);
    let b = w.lead("b");
    assert_eq!(join(w.begin_for(b, "a")), a);
    w.settle(a, "v", FRESH);
    w.settle(b, "v", FRESH);
    w.assert_at_rest(&[a, b]);
}

#[test]
fn a_load_whose_key_was_written_is_still_part_of_a_circle() {
    let w = World::new(config());
    let a = w.lead("a");
    let b = lead(w.begin_for(a, "b"));
    w.delete("b");
    // The old load of b may ask for b: that is another load now, of which nothing leads back.
    let again = lead(w.begin_for(b, "b"));
    assert!(recurses(w.begin_for(again, "a")));
    [again, b, a].iter().for_each(|token| _ = w.settle(*token, "v", FRESH));
    w.assert_at_rest(&[a, b, again]);
}

#[test]
fn a_value_that_is_there_is_given_whoever_asks() {
    let w = World::new(config());
    w.put("k", "v", FRESH);
    let token = lead(w.force("k"));
    assert_eq!(text(&w.get("k").unwrap()), "v");
    w.abort(token);
    let other = w.lead("other");
    assert_eq!(text(&hit(w.begin_for(other, "k"))), "v");
    w.abort(other);
    w.assert_at_rest(&[token, other]);
}

#[test]
fn loads_of_parents_that_are_long_over_leave_nothing_behind() {
    let w = World::new(config());
    let parent = w.lead("parent");
    w.settle(parent, "v", FRESH);
    // Its fetcher goes on asking after it has answered.
    let child = lead(w.begin_for(parent, "child"));
    w.settle(child, "v", FRESH);
    w.assert_at_rest(&[parent, child]);
}
