//! Markers: what was invalidated, each with the number of its newest invalidation.
//!
//! A marker is a register that only grows (a max-merge register), so that the order in which invalidations arrive does not
//! matter. Hard and soft ones are kept apart. Looking for the markers over a key or a tag is a look-up, not a walk through
//! all there are, and one that passes over what is not newer than asked for.

use std::collections::HashMap;

use super::patterns::Patterns;
use super::stamps::hash_tag;
use super::target::Target;
use crate::load::flights::PreHashed;
use crate::memory::hash_key;

/// Numbers of the newest hard and soft invalidation; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub hard: u64,
    pub soft: u64,
}

impl Mark {
    /// Of one invalidation.
    pub fn new(number: u64, soft: bool) -> Self {
        if soft { Self { hard: 0, soft: number } } else { Self { hard: number, soft: 0 } }
    }

    /// Takes in another: the newer of each.
    #[inline]
    pub fn merge(&mut self, other: Self) {
        self.hard = self.hard.max(other.hard);
        self.soft = self.soft.max(other.soft);
    }

    /// What of it is newer than `since`.
    #[inline]
    pub fn after(self, since: u64) -> Self {
        let newer = |number| if number > since { number } else { 0 };
        Self { hard: newer(self.hard), soft: newer(self.soft) }
    }

    /// The newer of the two.
    #[inline]
    pub fn newest(self) -> u64 {
        self.hard.max(self.soft)
    }
}

/// The markers that are alive.
#[derive(Debug, Default)]
pub struct Markers {
    all: Mark,
    patterns: Patterns,
    tags: HashMap<u64, Mark, PreHashed>,
    newest_tag: u64,
    /// By their hashes: what had cut a key through an edge that is no more.
    keys: HashMap<u64, Mark, PreHashed>,
    newest_key: u64,
}

impl Markers {
    /// Notes what has cut a key, by its hash.
    pub fn mark_key(&mut self, hash: u64, mark: Mark) {
        self.keys.entry(hash).or_default().merge(mark);
        self.newest_key = self.newest_key.max(mark.newest());
    }

    /// Notes an invalidation. Of a key there is no marker: what it held goes at once.
    pub fn mark(&mut self, target: &Target, mark: Mark) {
        match target {
            Target::Key(_) => {}
            Target::All => self.all.merge(mark),
            Target::Prefix(prefix) => self.patterns.mark(prefix, &[], b"", mark),
            Target::Pattern(pattern) => self.patterns.mark(&pattern.head, &pattern.middle, &pattern.tail, mark),
            Target::Tag(tag) => {
                self.tags.entry(hash_tag(tag)).or_default().merge(mark);
                self.newest_tag = self.newest_tag.max(mark.newest());
            }
        }
    }

    /// The newest invalidations of a key that are newer than `since`, its tags left out.
    pub fn over_key(&self, key: &[u8], since: u64) -> Mark {
        let mut mark = self.all.after(since);
        self.patterns.over(key, since, &mut mark);
        if self.newest_key > since
            && let Some(known) = self.keys.get(&hash_key(key))
        {
            mark.merge(known.after(since));
        }
        mark
    }

    /// The newest invalidations of a tag that are newer than `since`.
    #[inline]
    pub fn over_tag(&self, tag: &[u8], since: u64) -> Mark {
        if self.newest_tag <= since {
            return Mark::default();
        }
        // A tag is text: it is that of an entry.
        std::str::from_utf8(tag)
            .ok()
            .and_then(|tag| self.tags.get(&hash_tag(tag)))
            .map_or(Mark::default(), |mark| mark.after(since))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        usize::from(self.all != Mark::default()) + self.patterns.len() + self.tags.len() + self.keys.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops those that are not newer than `until`: nothing older than these is left.
    pub fn drop_until(&mut self, until: u64) {
        self.all = self.all.after(until);
        self.patterns.drop_until(until);
        for map in [&mut self.tags, &mut self.keys] {
            map.retain(|_, mark| {
                *mark = mark.after(until);
                mark.newest() > 0
            });
            if map.capacity() > 4 * map.len() + 64 {
                map.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers(list: &[(&str, u64, bool)]) -> Markers {
        let mut markers = Markers::default();
        for (target, number, soft) in list {
            let target = match target.strip_prefix('#') {
                Some(tag) => Target::Tag(tag.into()),
                None => Target::parse(target).unwrap(),
            };
            markers.mark(&target, Mark::new(*number, *soft));
        }
        markers
    }

    #[test]
    fn the_newest_of_each_kind_counts_whatever_the_order() {
        let forth = [("a*", 1, false), ("a*", 4, false), ("*", 2, true), ("a*b", 3, true), ("#t", 5, false)];
        let mut back = forth;
        back.reverse();
        for list in [forth, back] {
            let markers = markers(&list);
            assert_eq!(markers.over_key(b"ab", 0), Mark { hard: 4, soft: 3 });
            assert_eq!(markers.over_key(b"ab", 3), Mark { hard: 4, soft: 0 });
            assert_eq!(markers.over_key(b"x", 0), Mark { hard: 0, soft: 2 });
            assert_eq!(markers.over_tag(b"t", 4), Mark { hard: 5, soft: 0 });
            assert_eq!((markers.over_tag(b"t", 5), markers.over_tag(b"a", 0)), (Mark::default(), Mark::default()));
        }
    }

    #[test]
    fn nothing_is_left_of_those_dropped() {
        let mut markers =
            markers(&[("a*", 1, false), ("a*b*c", 2, true), ("#t", 3, false), ("*", 4, true), ("b*", 5, false)]);
        assert_eq!(markers.len(), 5);
        markers.drop_until(4);
        assert_eq!((markers.len(), markers.over_key(b"bc", 0)), (1, Mark { hard: 5, soft: 0 }));
        markers.drop_until(5);
        assert!(markers.is_empty());
    }
}
