//! Many patterns at once: which of them cover a key is looked up by the ends of the key, not tried one after another.
//!
//! A pattern has a literal head and a literal tail, either of which may be empty; a prefix is one with no tail. All patterns
//! whose ends have the same two lengths form a class. For a key each class costs one look-up of its two ends, which finds
//! those patterns alone that begin and end as the key does. With one star that is the whole answer; what stands between two
//! stars is looked for only then.
//!
//! A class knows its newest number, and one with nothing newer than asked for is not looked at. As an entry is lifted over
//! what it has outlived ([`crate::entry::Entry::lift`]), it meets each pattern once, however often it is read.

use std::collections::HashMap;

use super::markers::Mark;
use super::target::holds;
use crate::load::flights::PreHashed;
use crate::memory::hash_key;

/// Patterns with markers.
#[derive(Debug, Default)]
pub struct Patterns {
    classes: Vec<Class>,
    len: usize,
}

/// The patterns whose ends have these lengths.
#[derive(Debug)]
struct Class {
    head: usize,
    tail: usize,
    newest: u64,
    by_ends: HashMap<u64, Ends, PreHashed>,
}

/// What stands between the first and the last star.
type Middle = Box<[Box<[u8]>]>;

/// The patterns with the same ends. Ends of one hash are taken for the same: once in 2^64, something is invalidated that
/// need not be.
#[derive(Debug, Default)]
struct Ends {
    /// Of the pattern with one star, or the prefix.
    simple: Mark,
    /// Of those with more.
    more: Vec<(Middle, Mark)>,
}

fn hash_ends(head: &[u8], tail: &[u8]) -> u64 {
    let head = hash_key(head);
    if tail.is_empty() { head } else { head ^ hash_key(tail).rotate_left(21).wrapping_mul(0x9E37_79B9_7F4A_7C15) }
}

impl Patterns {
    /// Notes an invalidation of what begins with `head`, ends with `tail` and has `middle` between.
    pub fn mark(&mut self, head: &[u8], middle: &[Box<[u8]>], tail: &[u8], mark: Mark) {
        let lengths = (head.len(), tail.len());
        let at = self.classes.iter().position(|class| (class.head, class.tail) == lengths).unwrap_or_else(|| {
            self.classes.push(Class { head: head.len(), tail: tail.len(), newest: 0, by_ends: HashMap::default() });
            self.classes.len() - 1
        });
        let class = &mut self.classes[at];
        class.newest = class.newest.max(mark.newest());
        let ends = class.by_ends.entry(hash_ends(head, tail)).or_default();
        if middle.is_empty() {
            self.len += usize::from(ends.simple == Mark::default());
            ends.simple.merge(mark);
        } else if let Some((_, known)) = ends.more.iter_mut().find(|(known, _)| **known == *middle) {
            known.merge(mark);
        } else {
            self.len += 1;
            ends.more.push((middle.into(), mark));
        }
    }

    /// Merges into `mark` what covers `key` and is newer than `since`.
    #[inline]
    pub fn over(&self, key: &[u8], since: u64, mark: &mut Mark) {
        for class in &self.classes {
            if class.newest > since && class.head + class.tail <= key.len() {
                class.over(key, since, mark);
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Drops those with nothing newer than `until`.
    pub fn drop_until(&mut self, until: u64) {
        self.len = 0;
        self.classes.retain_mut(|class| {
            if class.newest <= until {
                return false;
            }
            class.by_ends.retain(|_, ends| {
                ends.simple = ends.simple.after(until);
                ends.more.retain_mut(|(_, mark)| {
                    *mark = mark.after(until);
                    mark.newest() > 0
                });
                self.len += usize::from(ends.simple != Mark::default()) + ends.more.len();
                ends.simple != Mark::default() || !ends.more.is_empty()
            });
            true
        });
    }
}

impl Class {
    fn over(&self, key: &[u8], since: u64, mark: &mut Mark) {
        let (head, tail) = (&key[..self.head], &key[key.len() - self.tail..]);
        let Some(ends) = self.by_ends.get(&hash_ends(head, tail)) else { return };
        mark.merge(ends.simple.after(since));
        let between = &key[self.head..key.len() - self.tail];
        for (middle, known) in &ends.more {
            let newer = known.after(since);
            if (newer.hard > mark.hard || newer.soft > mark.soft) && holds(middle, between) {
                mark.merge(newer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::invalidation::target::{Pattern, Target};

    fn parse(text: &str) -> Pattern {
        match Target::parse(text).unwrap() {
            Target::Pattern(pattern) => pattern,
            Target::Prefix(head) => Pattern { head, middle: [].into(), tail: [].into() },
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// What covers a key is what each pattern says for itself.
        #[test]
        fn finds_what_trying_one_after_another_finds(
            texts in prop::collection::vec("[ab:]{1,2}\\*[ab:*]{0,4}|\\*[ab:]{1,3}", 1..20),
            keys in prop::collection::vec("[ab:]{1,7}", 1..10),
            until in 0_u64..20,
        ) {
            let mut patterns = Patterns::default();
            let known: Vec<_> = texts.iter().map(|text| parse(text)).zip(1_u64..).collect();
            for (pattern, number) in &known {
                patterns.mark(&pattern.head, &pattern.middle, &pattern.tail, Mark::new(*number, number % 3 == 0));
            }
            for drop in [false, true] {
                if drop {
                    patterns.drop_until(until);
                }
                for key in &keys {
                    for since in [0, until, until + 2] {
                        let mut expected = Mark::default();
                        known
                            .iter()
                            .filter(|(pattern, number)| pattern.matches(key.as_bytes()) && *number > since)
                            .filter(|(_, number)| !drop || *number > until)
                            .for_each(|(_, number)| expected.merge(Mark::new(*number, number % 3 == 0)));
                        let mut found = Mark::default();
                        patterns.over(key.as_bytes(), since, &mut found);
                        prop_assert_eq!(found, expected, "{} since {}", key, since);
                    }
                }
            }
            patterns.drop_until(u64::MAX);
            prop_assert_eq!((patterns.len(), patterns.classes.len()), (0, 0));
        }
    }
}
