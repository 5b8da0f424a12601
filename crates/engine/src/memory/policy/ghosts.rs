//! The ghost queue: which keys have lately been dropped from the small queue, eight bytes each.
//!
//! A table of buckets of eight records, one cache line. A record is 32 bits of the key's hash and two moments, 16 bits each:
//! how far the small queue and the cache had run when the key left. A full bucket forgets its oldest record, and a record
//! that is too old counts for nothing, so there is no queue to keep and nothing to delete. The bucket is the hash bits scaled to the
//! number of buckets, in order: growing is one pass over the old table.

use crate::memory::prefetch::prefetch;

/// Records a bucket.
const WIDTH: usize = 8;

/// Records that a bucket is to hold on average: with more, it would too often be full.
const LOAD: f64 = 6.8;

/// No record.
const EMPTY: u64 = 0;

/// When a key left the small queue, on the clocks of the policy, both as weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// Weight that had gone into the small queue.
    pub pushed: u64,
    /// Weight that had been missed.
    pub missed: u64,
}

/// Since when a key has been gone, as weight on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone {
    /// Weight that has gone into the small queue since.
    pub pushed: u64,
    /// Weight that has been missed since.
    pub missed: u64,
}

/// The ghosts of one shard.
#[derive(Debug)]
pub(super) struct Ghosts {
    buckets: Vec<[u64; WIDTH]>,
    /// Weight that one step of a record's moments stands for, as powers of two.
    pushed_step: u32,
    missed_step: u32,
}

impl Ghosts {
    /// No ghosts, of a cache of that capacity.
    ///
    /// 16 bits then reach 16 to 64 times the capacity on each clock, so that a record is overwritten long before its age wraps.
    pub fn new(capacity: u64) -> Self {
        let bits = capacity.max(1).ilog2();
        Self { buckets: Vec::new(), pushed_step: bits.saturating_sub(11), missed_step: bits.saturating_sub(10) }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.buckets = Vec::new();
    }

    /// That the key with that hash will soon be looked for, or noted.
    pub fn prefetch(&self, hash: u64) {
        if !self.buckets.is_empty() {
            prefetch(&self.buckets[bucket(hash, self.buckets.len())]);
        }
    }

    /// Bytes allocated.
    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        self.buckets.capacity() * size_of::<[u64; WIDTH]>()
    }

    /// Notes a key that leaves the small queue.
    pub fn insert(&mut self, hash: u64, left: Left) {
        if self.buckets.is_empty() {
            return;
        }
        let record = self.record(hash, left);
        let len = self.buckets.len();
        let bucket = &mut self.buckets[bucket(hash, len)];
        let now = pushed(record);
        let mut oldest = 0;
        let mut age = None;
        for (i, old) in bucket.iter().enumerate() {
            if *old == EMPTY || old >> 32 == record >> 32 {
                oldest = i;
                break;
            }
            let this = now.wrapping_sub(pushed(*old));
            if age.is_none_or(|age| this > age) {
                (oldest, age) = (i, Some(this));
            }
        }
        bucket[oldest] = record;
    }

    /// Takes the record of a key out, and tells how long ago it left.
    pub fn take(&mut self, hash: u64, now: Left) -> Option<Gone> {
        if self.buckets.is_empty() {
            return None;
        }
        let record = self.record(hash, now);
        let (pushed_step, missed_step) = (self.pushed_step, self.missed_step);
        let len = self.buckets.len();
        let bucket = &mut self.buckets[bucket(hash, len)];
        let found = bucket.iter_mut().find(|old| **old != EMPTY && **old >> 32 == record >> 32)?;
        let old = std::mem::replace(found, EMPTY);
        Some(Gone {
            pushed: (pushed(record).wrapping_sub(pushed(old)) as u64) << pushed_step,
            missed: (missed(record).wrapping_sub(missed(old)) as u64) << missed_step,
        })
    }

    /// Makes room for about `records`, if there is not, or far too much.
    pub fn fit(&mut self, records: usize) {
        let wanted = (records as f64 / LOAD) as usize + 1;
        let len = self.buckets.len();
        if wanted > len || wanted < len / 3 {
            self.resize(wanted + wanted / 16);
        }
    }

    #[cold]
    fn resize(&mut self, len: usize) {
        let old = std::mem::replace(&mut self.buckets, vec![[EMPTY; WIDTH]; len]);
        for record in old.into_iter().flatten().filter(|record| *record != EMPTY) {
            let bucket = &mut self.buckets[bucket(record, len)];
            if let Some(place) = bucket.iter_mut().find(|place| **place == EMPTY) {
                *place = record;
            }
        }
    }

    fn record(&self, hash: u64, left: Left) -> u64 {
        // An empty record is all zeros, so a hash of zeros is taken for another.
        (hash & !0xffff_ffff).max(1 << 32)
            | ((left.pushed >> self.pushed_step) as u16 as u64) << 16
            | (left.missed >> self.missed_step) as u16 as u64
    }
}

#[inline]
fn bucket(hash: u64, len: usize) -> usize {
    ((hash >> 32).wrapping_mul(len as u64) >> 32) as usize
}

fn pushed(record: u64) -> u16 {
    (record >> 16) as u16
}

fn missed(record: u64) -> u16 {
    record as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        crate::memory::hash_key(&n.to_le_bytes())
    }

    #[test]
    fn remembers_since_when_once() {
        let mut ghosts = Ghosts::new(1_000);
        ghosts.fit(100);
        ghosts.insert(hash(1), Left { pushed: 10, missed: 20 });
        assert_eq!(ghosts.take(hash(2), Left { pushed: 30, missed: 50 }), None);
        assert_eq!(ghosts.take(hash(1), Left { pushed: 30, missed: 50 }), Some(Gone { pushed: 20, missed: 30 }));
        assert_eq!(ghosts.take(hash(1), Left { pushed: 30, missed: 50 }), None);
    }

    #[test]
    fn ages_are_right_to_a_thousandth_of_a_large_capacity() {
        let capacity = 3 << 30;
        let mut ghosts = Ghosts::new(capacity);
        ghosts.fit(10);
        let left = Left { pushed: 77 << 30, missed: 99 << 30 };
        ghosts.insert(hash(1), left);
        let now = Left { pushed: left.pushed + 2 * capacity, missed: left.missed + 9 * capacity };
        let gone = ghosts.take(hash(1), now).unwrap();
        assert!(gone.pushed.abs_diff(2 * capacity) <= capacity / 1_000);
        assert!(gone.missed.abs_diff(9 * capacity) <= capacity / 1_000);
    }

    #[test]
    fn keeps_the_latest_in_bounded_space() {
        let mut ghosts = Ghosts::new(1_000);
        ghosts.fit(1_000);
        let allocated = ghosts.allocated();
        for n in 0..100_000 {
            ghosts.insert(hash(n), Left { pushed: n, missed: n });
        }
        assert_eq!(ghosts.allocated(), allocated);
        assert!(allocated <= 1_000 * 12);
        let now = Left { pushed: 100_000, missed: 100_000 };
        let kept = (99_500..100_000).filter(|n| ghosts.take(hash(*n), now).is_some()).count();
        assert!(kept > 450, "{kept} of the last 500");
        // One in fifty times a hash of them equals one that is kept, in the 32 bits that are.
        let taken_for = (0..90_000).filter(|n| ghosts.take(hash(*n), now).is_some()).count();
        assert!(taken_for <= 3, "{taken_for} that are long gone");
    }

    #[test]
    fn keeps_its_records_when_it_is_resized() {
        let mut ghosts = Ghosts::new(1_000);
        ghosts.fit(1_000);
        (0..60).for_each(|n| ghosts.insert(hash(n), Left { pushed: n, missed: n }));
        ghosts.fit(50_000);
        let now = Left { pushed: 60, missed: 60 };
        assert!((0..60).all(|n| ghosts.take(hash(n), now).is_some_and(|gone| gone.pushed == 60 - n)));
        (0..60).for_each(|n| ghosts.insert(hash(n), Left { pushed: n, missed: n }));
        ghosts.fit(1_000);
        assert!(ghosts.allocated() < 20_000);
        assert!((0..60).all(|n| ghosts.take(hash(n), now).is_some_and(|gone| gone.missed == 60 - n)));
    }
}
