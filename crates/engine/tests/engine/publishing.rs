//! Versioned content: who follows the pointer finds the old whole or the new whole; numbers are given once and only grow.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use kvcache_engine::codec::compress::Algorithm;
use kvcache_engine::codec::workshop::Tools;
use kvcache_engine::engine::{Compression, Config, Invalidation, Loaded, Shown, Value};
use kvcache_engine::entry::{Ages, MAX_VALUE_BYTES};
use kvcache_engine::error::Error;
use kvcache_engine::invalidation::links;
use kvcache_engine::invalidation::target::Target;

use super::harness::*;

const NAME: &[u8] = b"content:42";

impl World {
    fn publish_keeping(&self, bytes: &str, keep: usize) -> u64 {
        self.engine.publish(NAME, &value(bytes, FRESH), keep).unwrap().version
    }

    fn publish(&self, bytes: &str) -> u64 {
        self.publish_keeping(bytes, 2)
    }

    fn roll_back(&self, version: u64) -> bool {
        self.engine.roll_back(NAME, version).unwrap()
    }

    fn shown(&self) -> Option<(u64, String)> {
        self.engine.published(NAME).map(|(shown, found)| (shown.version, text(&found)))
    }

    fn versions(&self) -> Vec<u64> {
        self.engine.versions(NAME)
    }
}

fn shows(version: u64, bytes: &str) -> Option<(u64, String)> {
    Some((version, bytes.to_owned()))
}

#[test]
fn publications_lie_under_keys_of_their_own_and_the_pointer_shows_the_newest() {
    let w = World::new(config());
    assert_eq!(w.shown(), None);
    assert!(w.versions().is_empty());
    assert_eq!((w.publish("one"), w.publish("two")), (1, 2));
    assert_eq!(w.shown(), shows(2, "two"));
    assert_eq!(w.value("content:42:v1").as_deref(), Some("one"));
    assert_eq!(w.value("content:42:v2").as_deref(), Some("two"));
    let Shown { version, updated_at } = w.engine.published(NAME).unwrap().0;
    assert_eq!(w.value("content:42:meta"), Some(format!(r#"{{"version":{version},"updatedAt":{updated_at}}}"#)));
    assert_eq!(w.engine.stored_at(b"content:42:v2"), Some(updated_at));
    assert_eq!(w.engine.stored_at(b"content:42:v9"), None);
}

#[test]
fn numbers_given_by_a_log_are_kept_whatever_came_before_them() {
    let w = World::new(config());
    let publish = |number: u64, keep: usize| {
        let published = w.engine.publish_as(NAME, &value(&number.to_string(), FRESH), keep, number).unwrap();
        published.map(|shown| shown.version)
    };
    assert_eq!(w.engine.highest_version(NAME), 0);
    assert_eq!((publish(3, 9), publish(7, 9)), (Some(3), Some(7)));
    // Given before 7, published after it.
    assert_eq!((publish(5, 9), publish(5, 9)), (Some(5), None));
    assert_eq!((w.shown(), w.versions()), (shows(7, "7"), vec![3, 5, 7]));
    assert_eq!(w.engine.highest_version(NAME), 7);
    // Nor does it undo a rollback.
    assert!(w.roll_back(3));
    assert_eq!((publish(6, 2), w.shown(), w.versions()), (Some(6), shows(3, "3"), vec![3, 7]));
    assert_eq!((publish(8, 2), w.shown(), w.versions()), (Some(8), shows(8, "8"), vec![3, 8]));
    assert_eq!((publish(4, 1), w.shown(), w.versions()), (Some(4), shows(8, "8"), vec![8]));
}

#[test]
fn an_earlier_number_is_not_shown_where_the_pointer_to_a_later_one_is_gone() {
    for pointer in [None, Some(r#"{"version":1,"updatedAt":1700000000000}"#)] {
        let w = World::new(config());
        let publish = |number: u64| {
            let published = w.engine.publish_as(NAME, &value(&number.to_string(), FRESH), 2, number).unwrap();
            published.map(|shown| shown.version)
        };
        assert_eq!(publish(9), Some(9));
        // Another process has moved it, or it is not known any more.
        match pointer {
            None => assert!(w.delete("content:42:meta")),
            Some(text) => w.put("content:42:meta", text, FRESH),
        }
        for number in 5..9 {
            assert_eq!(publish(number), Some(number));
        }
        assert_eq!(w.value("content:42:meta").as_deref(), pointer);
        assert_eq!(w.versions(), [8, 9], "the last one is kept");
        assert!(w.roll_back(9));
        assert_eq!((publish(10), w.shown()), (Some(10), shows(10, "10")));
    }
}

#[test]
fn as_many_versions_are_kept_as_asked_for() {
    for (keep, left) in [(1, vec![6]), (2, vec![5, 6]), (4, vec![3, 4, 5, 6]), (100, vec![1, 2, 3, 4, 5, 6])] {
        let w = World::new(config());
        for n in 1..=6 {
            w.publish_keeping(&n.to_string(), keep);
        }
        assert_eq!(w.versions(), left, "keep {keep}");
        w.publish_keeping("7", 1);
        assert_eq!(w.versions(), [7]);
        assert_eq!(w.shown(), shows(7, "7"));
    }
}

#[test]
fn versions_are_ordered_by_number_and_other_keys_are_none() {
    let w = World::new(config());
    for n in 1..=300 {
        w.publish_keeping(&n.to_string(), 1_000);
    }
    for key in ["content:42:v", "content:42:v0", "content:42:v01", "content:42:vx", "content:42:v1:a", "content:421:v7"]
    {
        w.put(key, "mine", FRESH);
    }
    assert_eq!(w.versions(), (1..=300).collect::<Vec<_>>());
    assert_eq!(w.publish("next"), 301);
    assert_eq!(w.value("content:42:v01").as_deref(), Some("mine"));
}

#[test]
fn after_a_rollback_numbers_go_on_and_what_was_shown_is_kept() {
    let w = World::new(config());
    for n in 1..=3 {
        w.publish_keeping(&n.to_string(), 10);
    }
    assert!(w.roll_back(1));
    assert_eq!(w.shown(), shows(1, "1"));
    assert!(!w.roll_back(4), "there is none");
    assert!(w.roll_back(1), "once more is no error");
    assert_eq!(w.publish("4"), 4);
    assert_eq!(w.versions(), [1, 4], "3 was taken back, 1 is what could be gone back to");
    assert!(w.roll_back(1));
    assert_eq!(w.publish_keeping("5", 3), 5);
    assert_eq!(w.versions(), [1, 4, 5]);
}

#[test]
fn numbers_go_on_when_pointer_or_content_or_all_is_lost() {
    for lost in [&["meta"] as &[_], &["v1", "v2"], &["meta", "v1", "v2"]] {
        let w = World::new(config());
        w.publish("1");
        w.publish("2");
        for what in lost {
            assert!(w.delete(&format!("content:42:{what}")));
        }
        assert_eq!(w.shown(), None, "{lost:?}");
        assert_eq!(w.publish("3"), 3, "{lost:?}");
        assert_eq!(w.shown(), shows(3, "3"));
    }
}

#[test]
fn a_rollback_makes_a_pointer_where_none_is_and_numbers_go_on() {
    let w = World::new(config());
    w.publish("1");
    w.publish("2");
    w.delete("content:42:meta");
    assert!(w.roll_back(1));
    assert_eq!(w.shown(), shows(1, "1"));
    assert_eq!(w.publish("3"), 3);
}

#[test]
fn a_pointer_without_content_goes_and_nothing_is_shown() {
    let w = World::new(config());
    w.publish("1");
    w.publish("2");
    w.delete("content:42:v2");
    assert_eq!(w.shown(), None);
    assert_eq!(w.value("content:42:meta"), None);
    assert_eq!(w.versions(), [1]);
    assert!(w.roll_back(1));
    assert_eq!(w.shown(), shows(1, "1"));
}

#[test]
fn a_pointer_that_somebody_else_wrote_over_is_none() {
    let w = World::new(config());
    w.publish("1");
    w.put("content:42:meta", "mine", FRESH);
    assert_eq!(w.shown(), None);
    assert_eq!(w.value("content:42:meta").as_deref(), Some("mine"));
    assert_eq!(w.publish("2"), 2);
    assert_eq!(w.shown(), shows(2, "2"));
}

#[test]
fn what_is_too_large_changes_nothing() {
    let w = World::new(config());
    w.publish("1");
    let budget = "x".repeat(2 << 20);
    let limit = "x".repeat(MAX_VALUE_BYTES + 1);
    for bytes in [budget, limit] {
        let refused = w.engine.publish(NAME, &value(&bytes, FRESH), 1);
        assert!(matches!(refused, Err(Error::ValueTooLarge { .. })), "{refused:?}");
        assert_eq!((w.shown(), w.versions()), (shows(1, "1"), vec![1]));
    }
    assert_eq!(w.publish("2"), 2);
}

#[test]
fn content_and_pointer_end_together_after_a_rollback_too() {
    let w = World::new(config());
    let ages = |seconds: u64| Ages { max_age: seconds * 1000, stale_age: seconds * 1000, stale_if_error: 0 };
    w.engine.publish(NAME, &value("1", ages(60)), 2).unwrap();
    w.engine.publish(NAME, &value("2", ages(10)), 2).unwrap();
    w.clock.advance_millis(10_000);
    assert_eq!(w.shown(), None);
    assert_eq!(w.value("content:42:meta"), None);
    assert!(!w.roll_back(2));
    assert!(w.roll_back(1));
    w.clock.advance_millis(49_999);
    assert_eq!(w.shown(), shows(1, "1"));
    w.clock.advance_millis(1);
    assert_eq!(w.value("content:42:meta"), None);
    assert_eq!(w.publish("3"), 3);
}

#[test]
fn pointers_are_read_even_if_they_were_compressed() {
    let compression = Some(Compression { algorithm: Algorithm::Gzip, level: 2, threshold: 0 });
    let w = World::new(Config { compression, ..config() });
    let mut tools = Tools::default();
    let long = "long ".repeat(1000);
    w.publish(&long);
    while w.engine.work(&mut tools) {}
    assert_eq!(w.shown(), shows(1, &long));
    assert_eq!(w.publish("2"), 2);
}

#[test]
fn publishers_of_one_name_never_share_a_number_and_readers_see_each_whole() {
    const EACH: usize = 300;
    let w = World::new(config());
    w.publish_keeping("0", 1);
    let engine = &w.engine;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..3)
            .map(|thread| {
                scope.spawn(move || {
                    let mut last = 0;
                    let give = |n| engine.publish(NAME, &value(&format!("{thread} {n}"), FRESH), 1).unwrap().version;
                    let numbers: Vec<_> = (0..EACH).map(give).collect();
                    for number in &numbers {
                        assert!(*number > last, "{number} after {last}");
                        last = *number;
                    }
                    numbers
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let (mut last, mut reads) = (0, 0);
            while !done.load(Ordering::Relaxed) || reads == 0 {
                // Nothing is evicted or expires, so something is always shown.
                let (shown, found) = engine.published(NAME).unwrap();
                assert!(shown.version >= last, "{} after {last}", shown.version);
                assert!(found.entry.key_str().ends_with(&format!(":v{}", shown.version)));
                last = shown.version;
                reads += 1;
            }
        });
        let numbers: Vec<u64> = publishers.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), 3 * EACH);
        assert_eq!(numbers.iter().max(), Some(&(3 * EACH as u64 + 1)));
    });
    assert_eq!(w.versions().len(), 1);
}

// ---------------------------------------------------------------- dependencies

/// Names as the engine takes them: `t` before a tag, `k` before a key.
fn tied(names: &[&str]) -> Vec<u8> {
    let mut text = String::new();
    for name in names {
        let (kind, name) = name.split_at(1);
        text += &format!("{kind}{}:{name}", name.len());
    }
    let mut links = Vec::new();
    links::read(text.as_bytes(), &mut links).unwrap();
    links
}

impl World {
    fn put_tied(&self, key: &str, names: &[&str]) {
        let links = tied(names);
        let entry = self.engine.prepare(key.as_bytes(), &Value { links: &links, ..value(key, FRESH) }).unwrap();
        self.engine.commit(entry);
    }

    fn publish_tied(&self, name: &str, names: &[&str]) -> u64 {
        let links = tied(names);
        self.engine.publish(name.as_bytes(), &Value { links: &links, ..value(name, FRESH) }, 2).unwrap().version
    }

    fn invalidate(&self, target: &Target, soft: bool) {
        self.engine.invalidate(&Invalidation::new(target, "", soft));
    }
}

#[test]
fn a_publication_and_a_rollback_invalidate_what_depends_on_the_name_or_the_pointer() {
    for parent in ["kcontent:42", "kcontent:42:meta"] {
        let w = World::new(config());
        w.publish("1");
        let change: [fn(&World); 2] = [|w| _ = w.publish("2"), |w| assert!(w.roll_back(1))];
        for change in change {
            w.put_tied("page", &[parent]);
            w.put_tied("other", &["kcontent:421"]);
            assert!(w.value("page").is_some());
            change(&w);
            assert_eq!(w.value("page"), None, "{parent}");
            assert!(w.value("other").is_some());
        }
        w.put_tied("page", &[parent]);
        assert!(w.roll_back(1), "it is shown already");
        assert!(w.value("page").is_some(), "nothing has changed");
    }
}

#[test]
fn a_load_that_a_publication_cut_is_not_stored() {
    let w = World::new(config());
    w.publish("1");
    let links = tied(&["kcontent:42"]);
    let token = w.lead("page");
    w.publish("2");
    w.engine.settle(token, &Loaded::Value(Value { links: &links, ..value("of 1", FRESH) }));
    assert_eq!(w.value("page"), None);
}

#[test]
fn a_value_under_the_name_itself_stays() {
    let w = World::new(config());
    w.put("content:42", "mine", FRESH);
    w.publish("1");
    assert_eq!(w.value("content:42").as_deref(), Some("mine"));
}

#[test]
fn content_goes_with_its_tags_and_parents_and_so_does_what_depends_on_its_pointer() {
    for target in [Target::Tag("news".into()), Target::Key(b"author:7"[..].into())] {
        let w = World::new(config());
        w.publish_tied("content:42", &["tnews", "kauthor:7"]);
        w.put_tied("page", &["kcontent:42:meta"]);
        assert!(w.shown().is_some() && w.value("page").is_some());
        w.invalidate(&target, false);
        assert_eq!((w.shown(), w.versions(), w.value("page")), (None, vec![], None));
        assert!(!w.roll_back(1));
        assert_eq!(w.publish("2"), 2);
    }
}

#[test]
fn a_rollback_ties_the_pointer_to_what_the_older_content_is_tied_to() {
    let w = World::new(config());
    w.publish_tied("content:42", &["told"]);
    w.publish_tied("content:42", &["tnew"]);
    assert!(w.roll_back(1));
    w.put_tied("page", &["kcontent:42:meta"]);
    w.invalidate(&Target::Tag("new".into()), false);
    assert!(w.shown().is_some() && w.value("page").is_some());
    w.invalidate(&Target::Tag("old".into()), false);
    assert_eq!((w.shown(), w.value("page")), (None, None));
}

#[test]
fn by_prefix_all_of_a_name_goes_and_softly_nothing_does() {
    let w = World::new(config());
    w.publish("1");
    w.publish("2");
    w.invalidate(&Target::prefix(b"content:42:"), true);
    assert_eq!(w.shown(), shows(2, "2"), "there is nothing to refresh it by");
    w.invalidate(&Target::prefix(b"content:42:"), false);
    assert_eq!((w.shown(), w.versions()), (None, vec![]));
    assert_eq!(w.publish("3"), 3);
}

#[test]
fn content_in_a_circle_is_not_cut_by_its_own_appearance() {
    let w = World::new(config());
    assert_eq!(w.publish_tied("content:42", &["kcontent:42", "kcontent:42:meta"]), 1);
    assert_eq!(w.shown(), shows(1, "content:42"));

    let w = World::new(config());
    w.publish_tied("content:1", &["kcontent:42:meta"]);
    w.publish_tied("content:42", &["kcontent:1:meta"]);
    assert_eq!(w.shown(), shows(1, "content:42"));
    assert!(w.engine.published(b"content:1").is_none(), "what it was made of has changed");
}
