//! What is known of the invalidations that concern one tier, and the judgement of its records by them.
//!
//! Records and facts of one log are compared by their numbers, all others by the clocks ([`Fact::cuts`]). Like the engine's own
//! facts this is a set of registers that only grow, so that facts may come twice and in any order. It is bounded: when there are too many, all
//! that is older counts as cut.

use std::collections::HashMap;

use super::{Fact, Record};
use crate::invalidation::links;
use crate::invalidation::markers::{Mark, Markers};
use crate::invalidation::target::Target;
use crate::load::flights::PreHashed;
use crate::memory::hash_key;

/// Targets, and changed keys, that are known at most.
const MOST: usize = 100_000;

/// Facts of one way of comparing, by their numbers or by the clock.
#[derive(Debug, Default)]
struct Book {
    markers: Markers,
    /// When keys have changed, by their hashes: for what depends on them.
    keys: HashMap<u64, u64, PreHashed>,
    /// Of what is not newer than this it is not known whether it was cut.
    floor: u64,
    /// The same of keys that others depend on.
    key_floor: u64,
    newest: u64,
}

impl Book {
    fn note(&mut self, target: &Target, soft: bool, number: u64) {
        self.newest = self.newest.max(number);
        if let Target::Key(key) = target {
            if self.keys.len() >= MOST {
                self.keys.clear();
                self.key_floor = self.newest;
            }
            let known = self.keys.entry(hash_key(key)).or_default();
            *known = (*known).max(number);
            if soft {
                // Of the key itself: a hard one is a record of its own, or none.
                self.markers.mark_key(hash_key(key), Mark::new(number, true));
            }
        } else {
            self.markers.mark(target, Mark::new(number, soft));
        }
        if self.markers.len() > MOST {
            self.markers = Markers::default();
            self.floor = self.newest;
        }
    }

    fn judge(&self, record: &Record, since: u64) -> Mark {
        let mut mark = self.markers.over_key(&record.key, since);
        if since < self.floor {
            mark.merge(Mark::new(self.floor, false));
        }
        for (role, name) in links::names(&record.links) {
            if role.is_tag() {
                mark.merge(self.markers.over_tag(name, since));
                continue;
            }
            mark.merge(self.markers.over_key(name, since));
            let changed = self.keys.get(&hash_key(name)).copied().unwrap_or(0).max(self.key_floor);
            mark.merge(Mark::new(changed, false).after(since));
        }
        mark
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Ledger {
    epoch: u64,
    /// Facts of the log `epoch`, by number and by clock, and those of others.
    numbered: Book,
    timed: Book,
    foreign: Book,
    /// The numbers by which keys were put or deleted last, those of late.
    own: HashMap<u64, u64, PreHashed>,
}

impl Ledger {
    /// One whose own facts are of the log `epoch`.
    pub fn new(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// The log whose numbers are compared.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Compares the numbers of another log from now on, and forgets what it knew; of the same log it goes on.
    pub fn turn_to(&mut self, epoch: u64) {
        if epoch != self.epoch {
            *self = Self::new(epoch);
        }
    }

    /// Takes a fact in.
    pub fn note(&mut self, fact: &Fact) {
        if fact.epoch == self.epoch {
            self.numbered.note(&fact.target, fact.soft, fact.seq);
            self.timed.note(&fact.target, fact.soft, fact.at);
            if let (Target::Key(key), false) = (&fact.target, fact.soft) {
                if self.own.len() >= MOST {
                    self.own.clear();
                }
                let last = self.own.entry(hash_key(key)).or_default();
                *last = (*last).max(fact.seq);
            }
        } else {
            self.foreign.note(&fact.target, fact.soft, fact.at);
        }
    }

    /// Whether a record of this log was put anew or deleted since: it was read before that, and is judged after.
    pub fn supersedes(&self, record: &Record) -> bool {
        record.epoch == self.epoch && self.own.get(&hash_key(&record.key)).is_some_and(|last| *last > record.seq)
    }

    /// What has cut a record, hard or softly.
    pub fn judge(&self, record: &Record) -> Mark {
        // One of the same millisecond counts as older.
        let before = record.stored_at.saturating_sub(1);
        let mut mark = if record.epoch == self.epoch {
            self.numbered.judge(record, record.seq)
        } else {
            self.timed.judge(record, before)
        };
        mark.merge(self.foreign.judge(record, before));
        mark
    }
}

/// Whether a target covers what has that key and those links, by its key, its tags or what it depends on.
pub fn covers(target: &Target, key: &[u8], links: &[u8]) -> bool {
    let covers_key = |target: &Target, key: &[u8]| match target {
        Target::Key(name) => **name == *key,
        Target::Prefix(prefix) => key.starts_with(prefix),
        Target::Pattern(pattern) => pattern.matches(key),
        Target::All => true,
        Target::Tag(_) => false,
    };
    covers_key(target, key)
        || links::names(links).any(|(role, name)| match target {
            Target::Tag(tag) => role.is_tag() && tag.as_bytes() == name,
            _ => !role.is_tag() && covers_key(target, name),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FOREVER;
    use crate::invalidation::links::Role;
    use crate::tier::conformance::record;

    fn fact(target: Target, soft: bool, epoch: u64, seq: u64, at: u64) -> Fact {
        Fact { target, soft, seq, epoch, at, until: FOREVER }
    }

    fn tied(key: &str, epoch: u64, seq: u64, stored_at: u64) -> Record {
        let mut links = Vec::new();
        links::push(&mut links, Role::Tag, b"t");
        links::push(&mut links, Role::InheritedParent, b"parent");
        Record { epoch, seq, stored_at, links: links.into(), ..record(key, "x", 0) }
    }

    #[test]
    fn numbers_of_one_log_are_compared_and_clocks_across() {
        let mut ledger = Ledger::new(1);
        ledger.note(&fact(Target::Tag("t".into()), false, 1, 10, 1_000));
        assert_eq!(ledger.judge(&tied("a", 1, 9, 9_999)).hard, 10);
        assert_eq!(ledger.judge(&tied("a", 1, 10, 1)).hard, 0);
        assert!(ledger.judge(&tied("a", 2, 99, 1_000)).hard > 0, "of the same millisecond");
        assert_eq!(ledger.judge(&tied("a", 2, 0, 1_001)).hard, 0);
        ledger.note(&fact(Target::prefix(b"a"), true, 2, 1, 2_000));
        assert!(ledger.judge(&tied("ab", 1, 10, 2_000)).soft > 0, "a fact of another log");
        assert_eq!(ledger.judge(&tied("b", 1, 10, 2_000)).soft, 0);
    }

    #[test]
    fn a_changed_key_cuts_what_depends_on_it_and_not_itself() {
        let mut ledger = Ledger::new(1);
        ledger.note(&fact(Target::Key(b"parent"[..].into()), false, 1, 10, 1_000));
        ledger.note(&fact(Target::Key(b"child"[..].into()), false, 1, 11, 1_000));
        assert!(ledger.judge(&tied("child", 1, 9, 0)).hard > 0);
        assert_eq!(ledger.judge(&tied("child", 1, 10, 0)).hard, 0);
        assert_eq!(ledger.judge(&Record { links: Default::default(), ..tied("child", 1, 0, 0) }), Mark::default());
        ledger.note(&fact(Target::Key(b"child"[..].into()), true, 1, 12, 1_000));
        assert_eq!(ledger.judge(&tied("child", 1, 11, 0)), Mark { hard: 0, soft: 12 });
    }

    #[test]
    fn what_was_forgotten_counts_as_cut() {
        let mut ledger = Ledger::new(1);
        for n in 1..=MOST as u64 + 1 {
            ledger.note(&fact(Target::Key(format!("k{n}").as_bytes().into()), false, 1, n, n));
        }
        assert!(ledger.judge(&tied("child", 1, 5, 0)).hard > 0, "a parent that may have been forgotten");
        assert_eq!(ledger.judge(&Record { links: Default::default(), ..tied("child", 1, 5, 0) }).hard, 0);
        for n in 1..=MOST as u64 + 1 {
            ledger.note(&fact(Target::Tag(format!("t{n}").into()), false, 1, n, n));
        }
        assert!(ledger.judge(&Record { links: Default::default(), ..tied("x", 1, 5, 0) }).hard > 0);
        assert_eq!(ledger.judge(&tied("x", 1, MOST as u64 + 1, u64::MAX)).hard, 0);
    }

    #[test]
    fn covers_by_key_tag_and_parent() {
        let record = tied("child", 1, 1, 1);
        for target in ["child", "ch*", "par*nt", "*"] {
            assert!(covers(&Target::parse(target).unwrap(), &record.key, &record.links), "{target}");
        }
        let covers = |target: &Target| covers(target, &record.key, &record.links);
        assert!(covers(&Target::Tag("t".into())) && covers(&Target::All));
        assert!(!covers(&Target::Tag("child".into())) && !covers(&Target::parse("t").unwrap()));
    }
}
