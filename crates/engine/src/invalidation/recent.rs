//! What the keys of one lock went through lately: which have changed, for loads that will name a parent only at their end;
//! and which were invalidated, so that the load that follows can be told why it runs.
//!
//! Both are bounded. What was forgotten of changes counts as a change: then a load is done again for nothing, once, for the key
//! is known as a parent from there on. What was forgotten of invalidations is told as a plain miss.

use std::collections::{HashSet, VecDeque};

use super::markers::Mark;
use crate::load::flights::PreHashed;

/// Changes remembered, and invalidated keys, by each lock.
const MOST: usize = 128;

/// See the head of the module.
#[derive(Debug, Default)]
pub struct Recent {
    /// Hashes of keys and their changes, oldest first.
    changes: VecDeque<(u64, Mark)>,
    /// Changes up to this number may be missing.
    floor: u64,
    invalidated: HashSet<u64, PreHashed>,
    /// In the order in which they came.
    order: VecDeque<u64>,
}

impl Recent {
    /// A key has changed.
    pub fn changed(&mut self, hash: u64, mark: Mark) {
        if self.changes.len() == MOST
            && let Some((_, oldest)) = self.changes.pop_front()
        {
            self.floor = self.floor.max(oldest.newest());
        }
        self.changes.push_back((hash, mark));
    }

    /// The newest changes of a key, or what stands for them.
    pub fn changes(&self, hash: u64) -> Mark {
        let mut mark = Mark::new(self.floor, false);
        self.changes.iter().filter(|(changed, _)| *changed == hash).for_each(|(_, change)| mark.merge(*change));
        mark
    }

    /// A key's value was invalidated.
    pub fn invalidated(&mut self, hash: u64) {
        if self.order.len() >= MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.invalidated.remove(&oldest);
        }
        if self.invalidated.insert(hash) {
            self.order.push_back(hash);
        }
    }

    /// Whether a key's value was invalidated, and nothing was stored since.
    pub fn was_invalidated(&self, hash: u64) -> bool {
        self.invalidated.contains(&hash)
    }

    /// A value was stored.
    pub fn stored(&mut self, hash: u64) {
        if !self.invalidated.is_empty() && self.invalidated.remove(&hash) {
            self.order.retain(|other| *other != hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_newest_change_and_takes_what_it_forgot_for_one() {
        let hard = |number| Mark { hard: number, soft: 0 };
        let mut recent = Recent::default();
        (1..=MOST as u64).for_each(|number| recent.changed(number % 7, Mark::new(number, false)));
        assert_eq!((recent.changes(3), recent.changes(9)), (hard(122), hard(0)));
        recent.changed(3, Mark::new(1_000, true));
        assert_eq!(recent.changes(3), Mark { hard: 122, soft: 1_000 });
        assert_eq!(recent.changes(9), hard(1));
    }

    #[test]
    fn remembers_the_last_invalidated_keys_until_something_is_stored() {
        let mut recent = Recent::default();
        (0..MOST as u64 + 10).for_each(|key| recent.invalidated(key));
        assert!(!recent.was_invalidated(9) && recent.was_invalidated(10));
        recent.stored(10);
        assert!(!recent.was_invalidated(10) && recent.order.len() == recent.invalidated.len());
    }
}
