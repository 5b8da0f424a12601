//! I1 and I2: a put or a delete wins over every load of its key that had begun, and nothing brings back what it replaced.

use kvcache_engine::engine::{BatchEnd, Begun, Config, Event, Loaded, Refresh, Settled, Stored, Value};
use kvcache_engine::entry::{Ages, Freshness, Kind, MAX_VALUE_BYTES};
use kvcache_engine::error::{Error, Limit};

use super::harness::*;

/// A load of some kind, begun before the write, as the token of its flight.
type Load = (&'static str, fn(&World) -> u64);

const LOADS: [Load; 4] = [
    ("a miss", |w| w.lead("k")),
    ("a forced load over a fresh value", |w| {
        w.put("k", "old", FRESH);
        lead(w.force("k"))
    }),
    ("a load of an expired value", |w| {
        w.put("k", "old", ON_ERROR);
        w.lead("k")
    }),
    ("a background refresh", |w| w.refreshing("k").1),
];

#[test]
fn a_put_during_a_load_wins_over_what_the_load_brings() {
    for (name, begin) in LOADS {
        let w = World::new(config());
        let token = begin(&w);
        w.put("k", "put", FRESH);
        assert_eq!(w.stored(token, "loaded", FRESH), Stored::No, "{name}");
        assert_eq!(w.value("k").as_deref(), Some("put"), "{name}");
        w.assert_at_rest(&[token]);
    }
}

#[test]
fn a_delete_during_a_load_is_not_undone_by_it() {
    for (name, begin) in LOADS {
        let w = World::new(config());
        let token = begin(&w);
        w.delete("k");
        assert_eq!(w.stored(token, "loaded", FRESH), Stored::No, "{name}");
        assert!(w.engine.peek(b"k").is_none(), "{name}");
        w.assert_at_rest(&[token]);
    }
}

#[test]
fn a_get_begun_after_a_delete_starts_a_load_of_its_own() {
    for (name, begin) in LOADS {
        let w = World::new(config());
        let old = begin(&w);
        w.delete("k");
        let new = w.lead("k");
        assert_ne!(old, new, "{name}");
        // In whatever order they end, the later one's value stays.
        assert_eq!(w.stored(new, "new", FRESH), Stored::Yes, "{name}");
        assert_eq!(w.stored(old, "old", FRESH), Stored::No, "{name}");
        assert_eq!(w.value("k").as_deref(), Some("new"), "{name}");
        w.assert_at_rest(&[old, new]);
    }
}

#[test]
fn a_get_begun_after_a_put_gets_what_was_put_and_loads_nothing() {
    for (name, begin) in LOADS {
        let w = World::new(config());
        let token = begin(&w);
        w.put("k", "put", FRESH);
        assert_eq!(text(&hit(w.begin("k"))), "put", "{name}");
        w.fail(token);
        w.assert_at_rest(&[token]);
    }
}

#[test]
fn the_copy_in_hand_is_not_stored_again_over_a_write() {
    for write in [World::delete_k, World::put_k] {
        let w = World::new(config());
        w.put("k", "old", ON_ERROR);
        let token = w.lead("k");
        write(&w);
        assert_eq!(w.not_modified(token, FRESH), Stored::No);
        assert_ne!(w.value("k").as_deref(), Some("old"));
        w.assert_at_rest(&[token]);
    }
}

impl World {
    fn delete_k(&self) {
        self.delete("k");
    }

    fn put_k(&self) {
        self.put("k", "put", FRESH);
    }
}

#[test]
fn a_write_takes_a_queued_refresh_out_of_the_queue() {
    for write in [World::delete_k, World::put_k] {
        let w = World::new(with_queue(1, 10));
        let (_, running) = w.refreshing("other");
        w.put("k", "old", STALE);
        let batch = w.refresh(&["k"]).unwrap();
        assert_eq!(w.queued(), 1);
        w.events();
        write(&w);
        assert_eq!(w.queued(), 0);
        assert_eq!(w.events(), [Event::Dropped(batch)]);
        w.settle(running, "new", FRESH);
        assert!(w.start(batch).is_empty());
        w.assert_at_rest(&[running]);
    }
}

#[test]
fn a_write_to_another_key_disturbs_nobody() {
    let w = World::new(config());
    let token = w.lead("k");
    w.put("other", "x", FRESH);
    w.delete("another");
    assert_eq!(w.stored(token, "loaded", FRESH), Stored::Yes);
    assert_eq!(w.value("k").as_deref(), Some("loaded"));
}

#[test]
fn a_write_between_a_time_out_and_its_report_is_heeded() {
    for write in [World::delete_k, World::put_k] {
        let w = World::new(with_retries(1));
        w.put("k", "old", STALE);
        let plan = Refresh { hard_timeout: 10, ..w.plan() };
        let batch = w.refresh_as(&["k"], &plan).unwrap();
        let token = w.start_one(batch);
        w.pass(10);
        write(&w);
        // The refresh ran when the key was written: there is nothing to be tried again.
        assert_eq!(w.fail(token), Settled { stored: Stored::No, batch: BatchEnd::Finished, cut: 0 });
        w.assert_at_rest(&[token]);
    }
}

#[test]
fn a_write_makes_a_resting_key_well_again() {
    for write in [World::delete_k, World::put_k] {
        let w = World::new(config());
        let (_, token) = w.refreshing("k");
        w.fail(token);
        assert!(!w.get("k").unwrap().refresh_due);
        write(&w);
        w.put("k", "stale again", STALE);
        assert!(w.get("k").unwrap().refresh_due);
    }
}

#[test]
fn a_load_that_begins_after_a_write_is_stored() {
    let w = World::new(config());
    w.put("k", "put", STALE);
    w.delete("k");
    let token = w.lead("k");
    assert_eq!(w.stored(token, "loaded", FRESH), Stored::Yes);
    assert_eq!(w.value("k").as_deref(), Some("loaded"));
}

#[test]
fn a_value_over_25_mib_is_refused_and_the_old_one_kept() {
    let w = World::new(Config { memory: 64 << 20, ..config() });
    w.put("k", "old", FRESH);
    let limit = MAX_VALUE_BYTES;
    let just = "v".repeat(limit);
    w.put("just", &just, FRESH);
    let error = w.try_put("k", &format!("{just}v"), FRESH).unwrap_err();
    assert_eq!(error, Error::ValueTooLarge { key: "k".into(), bytes: limit as u64 + 1, limit: Limit::Value });
    assert_eq!(w.value("k").as_deref(), Some("old"));
}

#[test]
fn a_put_over_the_whole_budget_is_refused_and_cuts_no_load() {
    let w = World::new(Config { memory: 4_096, ..config() });
    let token = w.lead("k");
    let error = w.try_put("k", &"v".repeat(5_000), FRESH).unwrap_err();
    assert!(matches!(error, Error::ValueTooLarge { limit: Limit::Budget(4_096), .. }), "{error:?}");
    assert_eq!(w.stored(token, "loaded", FRESH), Stored::Yes);
}

#[test]
fn a_load_over_the_whole_budget_is_not_stored_nor_is_what_it_outdates() {
    let w = World::new(Config { memory: 4_096, ..config() });
    let (_, token) = w.refreshing("k");
    let stored = w.stored(token, &"v".repeat(5_000), FRESH);
    assert!(matches!(stored, Stored::TooLarge { bytes } if bytes > 5_000), "{stored:?}");
    assert!(w.engine.peek(b"k").is_none());
    w.assert_at_rest(&[token]);
}

#[test]
fn what_is_put_is_given_back_whole() {
    let w = World::new(config());
    let ages = Ages { max_age: 10, stale_age: 20, stale_if_error: 30 };
    let value = Value { kind: Kind::V8, bytes: &[0, 255, 1], metadata: b"{\"m\":1}", ages, route: 7, links: b"" };
    w.clock.advance_millis(5);
    let entry = w.engine.prepare("clé:☃".as_bytes(), &value).unwrap();
    // The ages count from the put, not from its preparation.
    w.clock.advance_millis(100);
    w.engine.commit(entry);
    let found = w.get("clé:☃").unwrap();
    let header = found.entry.header();
    assert_eq!((found.entry.value(), found.entry.metadata()), (value.bytes, value.metadata));
    assert_eq!((header.kind, header.route, header.stored_at), (Kind::V8, 7, 105));
    let at = |after| {
        w.clock.advance_millis(after);
        w.engine.peek("clé:☃".as_bytes()).map(|found| (found.freshness, found.age))
    };
    assert_eq!(at(9), Some((Freshness::Fresh, 9)));
    assert_eq!(at(1), Some((Freshness::Stale, 10)));
    assert_eq!(at(10), Some((Freshness::OnError, 20)));
    assert_eq!(at(10), None);
}

#[test]
fn a_load_that_says_not_modified_renews_the_copy_in_hand() {
    let w = World::new(config());
    let ages = Ages { max_age: 10, stale_age: 10, stale_if_error: 1_000 };
    let value = Value { kind: Kind::Buffer, bytes: b"bytes", metadata: b"\"etag\"", ages, route: 0, links: b"" };
    w.engine.commit(w.engine.prepare(b"k", &value).unwrap());
    w.clock.advance_millis(500);
    let Begun::Lead { token, stale: Some(copy), .. } = w.begin("k") else { panic!("no copy in hand") };
    assert_eq!((copy.age, copy.freshness), (500, Freshness::OnError));
    assert_eq!(w.engine.copy_in_hand(token).unwrap().entry.value(), b"bytes");
    assert_eq!(w.not_modified(token, ages), Stored::Yes);
    let found = w.get("k").unwrap();
    assert_eq!((found.freshness, found.age), (Freshness::Fresh, 0));
    assert_eq!((found.entry.value(), found.entry.metadata()), (&b"bytes"[..], &b"\"etag\""[..]));
    assert_eq!(found.entry.header().kind, Kind::Buffer);
}

#[test]
fn metadata_given_with_not_modified_takes_the_place_of_the_old() {
    let w = World::new(config());
    w.put("k", "v", ON_ERROR);
    let token = w.lead("k");
    let loaded = Loaded::NotModified { ages: FRESH, metadata: Some(b"\"new\""), links: None };
    assert_eq!(w.engine.settle(token, &loaded).stored, Stored::Yes);
    assert_eq!(w.get("k").unwrap().entry.metadata(), b"\"new\"");
}

#[test]
fn not_modified_without_a_copy_in_hand_stores_nothing() {
    let w = World::new(config());
    let token = w.lead("k");
    assert_eq!(w.not_modified(token, FRESH), Stored::No);
    assert!(w.engine.peek(b"k").is_none());
}

#[test]
fn a_load_may_store_nothing_and_leaves_what_is_there() {
    let w = World::new(config());
    let (_, token) = w.refreshing("k");
    assert_eq!(w.engine.settle(token, &Loaded::Unstored { links: &[] }).stored, Stored::No);
    assert_eq!(w.value("k").as_deref(), Some("old"));
    w.assert_at_rest(&[token]);
}

#[test]
fn delete_tells_whether_a_get_would_have_been_served() {
    let w = World::new(config());
    for (ages, served) in [(FRESH, true), (STALE, true), (ON_ERROR, false)] {
        w.put("k", "v", ages);
        assert_eq!(w.delete("k"), served);
        assert!(!w.delete("k"));
    }
}

#[test]
fn keys_are_checked_before_anything_is_changed() {
    let w = World::new(config());
    for key in ["", &"k".repeat(513)] {
        assert_eq!(w.try_put(key, "v", FRESH).unwrap_err().code(), "ERR_KVCACHE_INVALID_KEY");
    }
    w.put(&"k".repeat(512), "v", FRESH);
    assert_eq!(w.engine.stats().entries, 1);
}
