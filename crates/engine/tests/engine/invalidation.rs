//! What an invalidation does to refreshes that wait, to memory, and to what is kept for its sake.

use std::sync::{Arc, Mutex, OnceLock, Weak};

use kvcache_engine::engine::{Begun, Behind, Engine, Event, Invalidation, Positions, Seek, Stored, Value};
use kvcache_engine::entry::{Entry, Kind};
use kvcache_engine::invalidation::facts::inherit_from;
use kvcache_engine::invalidation::links::{MOST_INHERITED, Role, names, push};
use kvcache_engine::invalidation::target::{Target, TargetKind};
use kvcache_engine::load::flights::Token;
use kvcache_engine::stats::tiers::TierFigures;

use super::harness::*;

fn invalidate(w: &World, target: &str, soft: bool) {
    let parsed = match target.strip_prefix('#') {
        Some(tag) => Target::Tag(tag.into()),
        None => Target::parse(target).unwrap(),
    };
    w.engine.invalidate(&Invalidation::new(&parsed, target, soft));
}

fn put_tied(w: &World, key: &str, ties: &[(Role, &str)]) {
    let mut links = Vec::new();
    ties.iter().for_each(|(role, name)| push(&mut links, *role, name.as_bytes()));
    let value = Value { kind: Kind::Text, bytes: b"v", metadata: b"", ages: FRESH, route: 0, links: &links };
    w.engine.commit(w.engine.prepare(key.as_bytes(), &value).unwrap());
}

/// Time enough for any rest, and all that is to be swept.
fn sweep(w: &World) {
    w.pass(3_600_000);
    w.work();
}

#[test]
fn a_queued_refresh_whose_copy_was_invalidated_is_dropped_when_it_would_start() {
    let w = World::new(config());
    w.put("k", "old", STALE);
    let batch = w.refresh(&["k"]).unwrap();
    assert_eq!(w.events(), [Event::Start(batch)]);
    invalidate(&w, "k*", false);
    assert!(w.start(batch).is_empty());
    w.assert_at_rest(&[]);
}

#[test]
fn a_refresh_of_what_was_invalidated_softly_is_told_why_it_runs() {
    let w = World::new(config());
    w.put("k", "old", FRESH);
    invalidate(&w, "k*", true);
    let found = w.get("k").unwrap();
    assert!(is_stale(&found) && found.outdated && found.refresh_due);
    let batch = w.refresh(&["k"]).unwrap();
    let started = w.start(batch);
    assert!(started[0].invalidated && started[0].stale.is_some());
    assert_eq!(w.stored(started[0].token, "new", FRESH), Stored::Yes);
    assert!(!w.get("k").unwrap().outdated);
}

#[test]
fn what_is_swept_is_told_with_the_number_of_entries() {
    let w = World::new(config());
    w.engine.tell_invalidations(w.thread, true);
    w.pass(1);
    (0..100).for_each(|n| put_tied(&w, &format!("k:{n}"), &[(Role::Tag, if n < 30 { "low" } else { "high" })]));
    invalidate(&w, "#low", false);
    invalidate(&w, "#high", true);
    assert!(w.events().is_empty());
    sweep(&w);
    let told = |text: &str, soft, swept| Event::Invalidated {
        kind: TargetKind::Tag,
        text: text.into(),
        soft,
        swept,
        remote: false,
    };
    assert_eq!(w.events(), [told("#low", false, 30), told("#high", true, 70)]);
    let stats = w.engine.stats();
    assert_eq!((stats.entries, stats.totals.swept, stats.totals.invalidations()), (70, 100, 2));
    assert!(w.get("k:99").unwrap().outdated);
    assert_eq!(w.engine.facts().markers, 0);
}

#[test]
fn markers_stay_for_a_load_that_is_older_and_go_when_it_has_ended() {
    let w = World::new(config());
    let token = w.lead("k");
    invalidate(&w, "#t", false);
    sweep(&w);
    assert_eq!(w.engine.facts().markers, 1);
    let mut links = Vec::new();
    push(&mut links, Role::Tag, b"t");
    let value = Value { links: &links, ..value("v", FRESH) };
    let settled = w.engine.settle(token, &kvcache_engine::engine::Loaded::Value(value));
    assert!(settled.stored == Stored::No && settled.cut > 0);
    sweep(&w);
    assert_eq!(w.engine.facts().markers, 0);
    assert_eq!(w.alarm(), kvcache_engine::clock::FOREVER);
}

#[test]
fn too_many_markers_are_not_kept_for_a_load_that_goes_on_and_on() {
    let w = World::new(config());
    let token = w.lead("k");
    (0..=100_000).for_each(|n| invalidate(&w, &format!("#{n}"), false));
    sweep(&w);
    assert_eq!(w.engine.facts().markers, 0);
    // What it brings may be tied to any of them.
    assert_eq!(w.stored(token, "v", FRESH), Stored::No);
    assert!(matches!(w.begin("k"), Begun::Lead { .. }));
}

#[test]
fn parents_that_no_entry_names_any_more_are_forgotten() {
    let w = World::new(config());
    (0..50).for_each(|n| put_tied(&w, "child", &[(Role::Parent, &format!("parent:{n}"))]));
    assert_eq!(w.engine.facts().parents, 50);
    for _ in 0..3 {
        invalidate(&w, "#nobody", false);
        sweep(&w);
    }
    assert_eq!(w.engine.facts().parents, 1);
    w.put("parent:49", "changed", FRESH);
    assert!(w.get("child").is_none());
}

#[test]
fn what_a_changed_parent_has_cut_is_swept_too() {
    let w = World::new(config());
    (0..10).for_each(|n| put_tied(&w, &format!("child:{n}"), &[(Role::Parent, "parent")]));
    w.put("parent", "v", FRESH);
    assert_eq!(w.engine.stats().entries, 11);
    sweep(&w);
    assert_eq!(w.engine.stats().entries, 1);
}

#[test]
fn a_child_whose_parent_was_evicted_falls_with_the_parents_tag() {
    let w = World::new(config());
    put_tied(&w, "child", &[(Role::Parent, "parent")]);
    let token = w.lead("parent");
    let mut links = Vec::new();
    push(&mut links, Role::Tag, b"t");
    let value = Value { links: &links, ..value("v", ON_ERROR) };
    w.engine.settle(token, &kvcache_engine::engine::Loaded::Value(value));
    // As an eviction would, without the engine being told.
    w.engine.clear();
    put_tied(&w, "child", &[(Role::Parent, "parent")]);
    invalidate(&w, "#t", false);
    assert!(w.get("child").is_none());
}

#[test]
fn what_a_reader_holds_while_it_is_swept_and_its_marker_dropped_counts_as_cut() {
    let w = World::new(config());
    put_tied(&w, "k", &[(Role::Tag, "t")]);
    put_tied(&w, "other", &[(Role::Tag, "u")]);
    let (held, other) = (w.get("k").unwrap().entry, w.get("other").unwrap().entry);
    invalidate(&w, "#t", false);
    sweep(&w);
    assert_eq!(w.engine.facts().markers, 0);
    assert!(!w.engine.is_valid(&held), "found before the sweep, judged after it");
    assert!(w.engine.is_valid(&other), "what outlived the sweep is as good as before");
}

/// Stands behind memory, has nothing, and writes down what it is told of invalidations.
#[derive(Default)]
struct Listener {
    engine: OnceLock<Weak<Engine>>,
    told: Mutex<Vec<(&'static str, u64)>>,
}

impl Behind for Listener {
    fn positions(&self) -> Positions {
        Positions::new()
    }

    fn catch_up(&self) {}

    fn seek(&self, _: Vec<Seek>) {}

    fn seek_now(&self, _: &Engine, _: &[u8]) -> Option<Entry> {
        None
    }

    fn stored(&self, _: &Entry, _: Option<&Positions>) {}

    fn gone(&self, _: &[u8], number: u64) {
        self.told.lock().unwrap().push(("gone", number));
    }

    fn invalidating(&self, _: &Target) {
        // The newest number there is.
        let current = self.engine.get().unwrap().upgrade().unwrap().current();
        self.told.lock().unwrap().push(("invalidating", current));
    }

    fn invalidated(&self, _: &Target, _: bool, number: u64) {
        self.told.lock().unwrap().push(("invalidated", number));
    }

    fn ended(&self, _: Token) {}

    fn figures(&self) -> Vec<(Arc<str>, TierFigures)> {
        Vec::new()
    }
}

#[test]
fn tiers_know_what_is_about_to_be_invalidated_before_it_has_a_number() {
    let w = World::new(config());
    let listener = Arc::new(Listener::default());
    listener.engine.set(Arc::downgrade(&w.engine)).unwrap();
    w.engine.set_behind(Arc::clone(&listener) as Arc<dyn Behind>);
    for soft in [false, true] {
        for target in ["#t", "a*", "a*b", "*"] {
            invalidate(&w, target, soft);
            let told = std::mem::take(&mut *listener.told.lock().unwrap());
            let number = w.engine.current();
            assert_eq!(told, [("invalidating", number - 1), ("invalidated", number)], "{target}");
        }
    }
    // A key's lock does the same for it.
    let before = w.engine.current();
    invalidate(&w, "k", true);
    invalidate(&w, "k", false);
    let told = std::mem::take(&mut *listener.told.lock().unwrap());
    assert!(matches!(told[..], [("invalidated", soft), ("gone", hard)] if before < soft && soft < hard), "{told:?}");
}

#[test]
fn what_is_learnt_of_a_parent_counts_for_children_that_are_here_until_the_parent_changes() {
    for change in ["a", "#of a", "b"] {
        let w = World::new(config());
        put_tied(&w, "c", &[(Role::Parent, "b"), (Role::Tag, "own")]);
        let entry = w.get("c").unwrap().entry;
        let b = || Arc::<[u8]>::from(&b"b"[..]);
        assert_eq!(w.engine.unknown_parents(&entry), [b()]);
        let mut links = Vec::new();
        [(Role::Parent, "a"), (Role::Tag, "of a")]
            .iter()
            .for_each(|(role, name)| push(&mut links, *role, name.as_bytes()));
        w.engine.learn_parent(b"b", &links, entry.seq(), w.engine.current());
        assert!(w.engine.unknown_parents(&entry).is_empty());
        let all: Vec<_> = names(&w.engine.all_links(&entry))
            .map(|(role, name)| (role, String::from_utf8_lossy(name).into_owned()))
            .collect();
        for name in
            [(Role::Parent, "b"), (Role::Tag, "own"), (Role::InheritedParent, "a"), (Role::InheritedTag, "of a")]
        {
            assert!(all.contains(&(name.0, name.1.to_owned())), "{all:?}");
        }
        invalidate(&w, change, false);
        assert!(w.get("c").is_none(), "{change}");
        put_tied(&w, "c", &[(Role::Parent, "b")]);
        let entry = w.get("c").unwrap().entry;
        assert_eq!(w.engine.unknown_parents(&entry), [b()], "{change}");
        // One that is here needs no learning.
        put_tied(&w, "b", &[(Role::Tag, "t")]);
        put_tied(&w, "c", &[(Role::Parent, "b")]);
        assert!(w.engine.unknown_parents(&w.get("c").unwrap().entry).is_empty());
    }
}

#[test]
fn a_parent_that_changed_before_it_was_learnt_of_cuts_its_grandchildren() {
    let w = World::new(config());
    put_tied(&w, "c", &[(Role::Parent, "b")]);
    let entry = w.get("c").unwrap().entry;
    let seq = entry.seq();
    // Nothing here knows yet that this concerns it, and it is lifted over it.
    invalidate(&w, "a", false);
    invalidate(&w, "#else", false);
    assert!(w.get("c").is_some() && entry.seq() > seq);
    let mut links = Vec::new();
    push(&mut links, Role::Parent, b"a");
    w.engine.learn_parent(b"b", &links, seq, w.engine.current());
    assert!(w.get("c").is_none());
}

#[test]
fn what_had_cut_children_by_what_was_known_of_a_parent_still_does_when_something_else_is_learnt() {
    let w = World::new(config());
    put_tied(&w, "a", &[]);
    put_tied(&w, "b", &[(Role::Parent, "a")]);
    put_tied(&w, "c", &[(Role::Parent, "b")]);
    let entry = w.get("c").unwrap().entry;
    w.put("a", "new", FRESH);
    assert_eq!(w.engine.unknown_parents(&entry), [Arc::<[u8]>::from(&b"b"[..])]);
    w.engine.learn_parent(b"b", &[], w.engine.current(), w.engine.current());
    assert!(w.get("c").is_none());
}

#[test]
fn what_is_inherited_is_named_once_and_not_beyond_the_limit() {
    let link = |links: &mut Vec<u8>, role, name: &str| push(links, role, name.as_bytes());
    let mut links = Vec::new();
    link(&mut links, Role::Parent, "b");
    link(&mut links, Role::InheritedTag, "known");
    let mut of_b = Vec::new();
    for (role, name) in [(Role::Tag, "known"), (Role::Parent, "a"), (Role::InheritedParent, "a"), (Role::Parent, "c")] {
        link(&mut of_b, role, name);
    }
    inherit_from(b"c", &mut links, &of_b);
    let own: &[(Role, &[u8])] = &[(Role::Parent, b"b"), (Role::InheritedTag, b"known"), (Role::InheritedParent, b"a")];
    assert_eq!(names(&links).collect::<Vec<_>>(), own, "nobody is an ancestor of its own");
    let mut many = Vec::new();
    (0..MOST_INHERITED).for_each(|n| link(&mut many, Role::Tag, &n.to_string()));
    for _ in 0..2 {
        inherit_from(b"c", &mut links, &many);
        assert_eq!(names(&links).count(), 1 + MOST_INHERITED);
    }
}
