//! Stamps: counters in memory that every thread's near cache can read, by which it sees that a copy of its own may have
//! been outdated.
//!
//! A copy is *covered* by a few slots of one table: that of its key, and the *shared* ones, of its ':'-prefixes, its tags, its
//! parents, and one for what no slot can name. Whatever changes one of these adds 1 to the slot; a copy is good while its
//! slots stand where they stood when it was made. Two names that share a slot cost a question to the engine, nothing else.
//!
//! So that a check need not look at the shared slots each time there is the *epoch*, which changes with any of them.
//!
//! # The order of things
//! Who changes something does so in this order, and is answered after it: the change itself (the memory tier, or a marker);
//! then, of a key alone, its slot; of anything shared, the epoch, the slots, the epoch again.
//!
//! Who makes a copy: 1. reads the epoch and the key's slot, 2. asks the engine, 3. reads the shared slots, 4. reads the epoch
//! again and keeps the copy only if it is the same. Who checks a copy reads the key's slot and the epoch; where the epoch has
//! moved, first the new epoch, then the shared slots, and if these stand, the copy is good under the new epoch.
//!
//! Why it is safe, for a reader that begins after a change was answered:
//! - A copy made from what was there before the change has read its key's slot before the change added to it, or else it
//!   would have read it after the change itself and asked the engine later still.
//! - Of a shared slot: if the copy's maker read the slot after the change added to it, the epoch had moved once before and the
//!   maker saw the old one in step 1 (then step 4 throws the copy away), or it saw the moved one, which comes after the
//!   change itself, so that the engine did not answer with what was outdated. If it read the slot before, the sum differs.
//! - A checker that found the epoch moved and the slot not yet is the reason for moving the epoch again after the slots.
//!
//! All is sequentially consistent in Rust. In JavaScript that is so where the epoch has moved; the first reads of a check are
//! plain ones, in any order: each by itself tells of a change that the reader has learned of.

use smallvec::SmallVec;

use crate::memory::hash_key;
use crate::sync::{AtomicU32, Ordering};

/// Place of a stamp in the table.
pub type Slot = u32;

/// Place of the epoch.
pub const EPOCH: usize = 0;
/// The slot of what no other slot can name: everything, patterns with a star in the middle, prefixes without a ':'.
pub const EVERY: Slot = 1;
/// Changes with any shared slot: for copies that too many would cover.
pub const ANY: Slot = 2;
/// Where the slots of names begin: on a cache line of their own.
const FIRST: usize = 16;

/// Bytes of the budget for each slot, and the bounds of their number.
const BYTES_A_SLOT: u64 = 4096;
const LEAST_SLOTS: u64 = 1 << 10;
const MOST_SLOTS: u64 = 1 << 20;

/// Prefixes of a key that have slots, shortest first.
const MOST_PREFIXES: usize = 6;
/// Shared slots of one copy.
pub const MOST_SHARED: usize = 12;

/// The shared slots that cover one entry.
pub type Shared = SmallVec<[Slot; MOST_SHARED]>;

/// The table of one cache. It never moves.
#[derive(Debug)]
pub struct Stamps {
    words: Box<[AtomicU32]>,
    mask: u64,
}

impl Stamps {
    /// A table for a memory tier of so many bytes: 1,024 to 1,048,576 slots, one for 4 KiB. More would be
    /// changed by fewer names, but lie apart in the processor's caches.
    pub fn new(budget: u64) -> Self {
        let slots = (budget / BYTES_A_SLOT).clamp(LEAST_SLOTS, MOST_SLOTS).next_power_of_two();
        Self { words: zeroed(FIRST + slots as usize), mask: slots - 1 }
    }

    /// The words: the epoch, the slots of no name, the slots of names from the sixteenth on.
    pub fn words(&self) -> &[AtomicU32] {
        &self.words
    }

    /// The slot of a key or a prefix, by its hash.
    #[inline]
    pub fn slot(&self, hash: u64) -> Slot {
        // Other bits than those that choose the shard (24 and up) and the bucket (the lowest), so that they spread apart.
        FIRST as Slot + (hash.rotate_left(25) & self.mask) as Slot
    }

    /// The slot of a tag.
    pub fn tag_slot(&self, tag: &str) -> Slot {
        self.slot(hash_tag(tag))
    }

    /// The slot that a change of all keys with that prefix is told by.
    pub fn prefix_slot(&self, prefix: &[u8]) -> Slot {
        prefixes(prefix).last().map_or(EVERY, |prefix| self.slot(hash_key(prefix)))
    }

    /// Adds the slots of a key's prefixes, and of what no slot can name.
    pub fn cover_prefixes(&self, key: &[u8], shared: &mut Shared) {
        shared.push(EVERY);
        shared.extend(prefixes(key).map(|prefix| self.slot(hash_key(prefix))));
    }

    /// Where a slot stands.
    #[inline]
    pub fn stamp(&self, slot: Slot) -> u32 {
        self.words[slot as usize].load(Ordering::SeqCst)
    }

    /// The sum of slots; one of them has changed if it has.
    pub fn sum(&self, slots: &[Slot]) -> u32 {
        slots.iter().fold(0, |sum, slot| sum.wrapping_add(self.stamp(*slot)))
    }

    /// Where the epoch stands.
    #[inline]
    pub fn epoch(&self) -> u32 {
        self.stamp(EPOCH as Slot)
    }

    /// A key has changed, by its hash.
    #[inline]
    pub fn key_changed(&self, hash: u64) {
        self.add(self.slot(hash));
    }

    /// Something shared has changed: what one of these slots covers.
    pub fn shared_changed(&self, slots: &[Slot]) {
        self.add(EPOCH as Slot);
        slots.iter().for_each(|slot| self.add(*slot));
        self.add(ANY);
        self.add(EPOCH as Slot);
    }

    #[inline]
    fn add(&self, slot: Slot) {
        self.words[slot as usize].fetch_add(1, Ordering::SeqCst);
    }
}

/// The prefixes of a key that end with a ':', the shortest six of them, the ':' included.
pub fn prefixes(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = key.iter().enumerate().filter(|(_, byte)| **byte == b':').map(|(at, _)| at + 1);
    ends.take(MOST_PREFIXES).map(|end| &key[..end])
}

/// The hash of a tag: another one than that of a key of the same name.
pub fn hash_tag(tag: &str) -> u64 {
    hash_key(tag.as_bytes()).rotate_left(32) ^ 0x7461_6773
}

/// So many zeros, whose pages the system gives when they are first written to.
#[cfg(not(feature = "shuttle"))]
fn zeroed(len: usize) -> Box<[AtomicU32]> {
    let words = Box::into_raw(vec![0_u32; len].into_boxed_slice());
    // SAFETY: an AtomicU32 has the size, alignment and values of a u32, and the box was just taken apart.
    unsafe { Box::from_raw(words as *mut [AtomicU32]) }
}

#[cfg(feature = "shuttle")]
fn zeroed(len: usize) -> Box<[AtomicU32]> {
    (0..len).map(|_| AtomicU32::new(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_a_slot_for_4_kibibytes_within_bounds() {
        for (budget, slots) in [(0, 1 << 10), (256 << 20, 1 << 16), (300 << 20, 1 << 17), (u64::MAX, 1 << 20)] {
            assert_eq!(Stamps::new(budget).words().len(), FIRST + slots, "for {budget}");
        }
    }

    #[test]
    fn prefixes_end_with_colons_and_are_few() {
        let of = |key: &'static str| prefixes(key.as_bytes()).collect::<Vec<_>>();
        assert!(of("plain").is_empty());
        assert_eq!(of("user:1:profile"), [&b"user:"[..], b"user:1:"]);
        assert_eq!(of(":"), [b":"]);
        assert_eq!(of("a:b:c:d:e:f:g:h:").len(), MOST_PREFIXES);
    }

    #[test]
    fn a_prefix_is_told_by_a_slot_that_covers_its_keys() {
        let stamps = Stamps::new(1 << 30);
        for (prefix, key) in [
            ("user:", "user:1"),
            ("user:1", "user:12"),
            ("user:1:", "user:1:x"),
            ("us", "user:1"),
            ("", "k"),
            ("a:b:c:d:e:f:g:h", "a:b:c:d:e:f:g:hi"),
        ] {
            let mut shared = Shared::new();
            stamps.cover_prefixes(key.as_bytes(), &mut shared);
            assert!(shared.contains(&stamps.prefix_slot(prefix.as_bytes())), "{prefix} covers {key}");
            let before = (stamps.sum(&shared), stamps.epoch());
            stamps.shared_changed(&[stamps.prefix_slot(prefix.as_bytes())]);
            assert!(stamps.sum(&shared) != before.0 && stamps.epoch() == before.1 + 2);
        }
    }

    #[test]
    fn a_key_that_changed_changes_its_own_slot_alone() {
        let stamps = Stamps::new(1 << 30);
        let (one, other) = (hash_key(b"one"), hash_key(b"other"));
        stamps.key_changed(one);
        let slots = [stamps.slot(one), stamps.slot(other), stamps.tag_slot("one")];
        assert_eq!((slots.map(|slot| stamps.stamp(slot)), stamps.epoch()), ([1, 0, 0], 0));
    }
}
