//! What the log said lately, by key and by marker: to leave out loads that are outdated, and values whose successor has been announced but
//! has not landed yet.
//!
//! Two generations; when the newer is full the older goes, and with it the knowledge of loads that began before it. Those are left
//! out: a tier may forget.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::scripts::GUARD_MS;
use crate::invalidation::links;
use crate::invalidation::markers::{Mark, Markers};
use crate::invalidation::target::Target;
use crate::load::flights::PreHashed;
use crate::memory::hash_key;
use crate::tier::{Fact, Record};

/// Facts of a generation, at least; about 4 MB.
const MOST: usize = 131_072;

/// A generation lasts at least so long: what was announced has landed by then.
const LEAST: Duration = Duration::from_millis(GUARD_MS);

#[derive(Default)]
struct Generation {
    /// The newest number of each key's facts, by its hash: of any, and of hard ones.
    keys: HashMap<u64, (u64, u64), PreHashed>,
    markers: Markers,
    /// Loads of keys that were being written as they began, by the key's hash: those up to that number.
    under_way: HashMap<u64, u64, PreHashed>,
}

impl Generation {
    fn len(&self) -> usize {
        self.keys.len() + self.markers.len() + self.under_way.len()
    }
}

/// See the module.
pub struct Recent {
    now: Generation,
    before: Generation,
    began: Instant,
    /// The number at which each began: all facts after that of `before` are known.
    since: u64,
    floor: u64,
}

impl Recent {
    /// Knows the facts after `seq`.
    pub fn new(seq: u64) -> Self {
        let (now, before) = (Generation::default(), Generation::default());
        Self { now, before, began: Instant::now(), since: seq, floor: seq }
    }

    fn turn(&mut self, seq: u64) {
        if self.now.len() < MOST || self.began.elapsed() < LEAST {
            return;
        }
        self.before = std::mem::take(&mut self.now);
        (self.floor, self.since, self.began) = (self.since, seq, Instant::now());
    }

    /// Notes a fact; those before it are known.
    pub fn note(&mut self, fact: &Fact) {
        self.turn(fact.seq.saturating_sub(1));
        match &fact.target {
            Target::Key(key) => {
                let known = self.now.keys.entry(hash_key(key)).or_default();
                known.0 = fact.seq;
                if !fact.soft {
                    known.1 = fact.seq;
                }
            }
            target => self.now.markers.mark(target, Mark::new(fact.seq, fact.soft)),
        }
    }

    /// Notes that a key is being written while the log is at `seq`.
    pub fn note_under_way(&mut self, key: &[u8], seq: u64) {
        self.turn(seq);
        self.now.under_way.insert(hash_key(key), seq);
    }

    fn key(&self, key: &[u8]) -> (u64, u64) {
        let of = |generation: &Generation| generation.keys.get(&hash_key(key)).copied().unwrap_or_default();
        let (now, before) = (of(&self.now), of(&self.before));
        (now.0.max(before.0), now.1.max(before.1))
    }

    /// Whether what is stored under a key with that number has a successor.
    pub fn is_superseded(&self, key: &[u8], seq: u64) -> bool {
        self.key(key).1 > seq
    }

    /// Whether what a load brought may be stored: it began at the record's number, and nothing cut it since.
    pub fn may_store(&self, record: &Record) -> bool {
        let (seq, hash) = (record.seq, hash_key(&record.key));
        if seq < self.floor || self.key(&record.key).0 > seq {
            return false;
        }
        [&self.now, &self.before].into_iter().all(|of| {
            let cut_by_key = |key: &[u8]| of.markers.over_key(key, seq).hard > seq;
            let is_under_way = of.under_way.get(&hash).is_some_and(|until| seq <= *until);
            !is_under_way
                && !cut_by_key(&record.key)
                && links::names(&record.links).all(|(role, name)| {
                    if role.is_tag() {
                        of.markers.over_tag(name, seq).hard <= seq
                    } else {
                        !cut_by_key(name) && self.key(name).1 <= seq
                    }
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FOREVER;
    use crate::invalidation::links::Role;
    use crate::tier::conformance::record;

    fn fact(target: Target, soft: bool, seq: u64) -> Fact {
        Fact { target, soft, seq, epoch: 1, at: 1, until: FOREVER }
    }

    #[test]
    fn a_load_is_stored_unless_something_cut_it_since_it_began() {
        let mut links = Vec::new();
        links::push(&mut links, Role::Tag, b"t");
        links::push(&mut links, Role::InheritedParent, b"p");
        let load = |seq| Record { links: links.clone().into(), ..record("a:k", "v", seq) };
        let targets = [
            Target::Key(b"a:k"[..].into()),
            Target::Key(b"p"[..].into()),
            Target::Tag("t".into()),
            Target::Prefix(b"a:"[..].into()),
            Target::parse("a*k").unwrap(),
            Target::All,
        ];
        for target in targets {
            let mut recent = Recent::new(4);
            assert!(!recent.may_store(&load(3)) && recent.may_store(&load(4)));
            recent.note(&fact(target.clone(), false, 5));
            assert!(!recent.may_store(&load(4)) && recent.may_store(&load(5)), "{target:?}");
            let others = Record { key: b"other"[..].into(), links: Vec::new().into(), ..load(4) };
            assert_eq!(recent.may_store(&others), target != Target::All);
        }
    }

    #[test]
    fn a_value_whose_successor_was_announced_is_superseded() {
        let mut recent = Recent::new(0);
        recent.note(&fact(Target::Key(b"k"[..].into()), false, 1));
        recent.note(&fact(Target::Key(b"k"[..].into()), true, 2));
        assert!(recent.is_superseded(b"k", 0) && !recent.is_superseded(b"k", 1) && !recent.is_superseded(b"x", 0));
    }

    #[test]
    fn a_load_that_began_while_its_key_was_written_is_left_out() {
        let mut recent = Recent::new(0);
        recent.note_under_way(b"k", 7);
        assert!(!recent.may_store(&record("k", "v", 7)) && recent.may_store(&record("k", "v", 8)));
    }
}
