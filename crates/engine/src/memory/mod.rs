//! The memory tier: entries within a budget that is never exceeded.
//!
//! The tier is divided into shards by the keys' hash. A shard has one lock for all that changes it; looking a key up takes
//! only the lock of a bucket of its [`table`], for as long as it needs to count a reference. Which entry goes when
//! room is needed is for the [`policy`] to say, of each shard for itself, tuned for all of them together. What is shared
//! beside is the [`budget`]: room is taken from it before an entry is published and given back after one has gone.
//!
//! Promises
//! - [`MemoryTier::bytes`] is never above [`MemoryTier::budget`], whoever looks and whenever. Any entry that fits the whole budget
//!   is stored, whatever a shard's share may be.
//! - Entries that can no longer be served go by [`MemoryTier::reclaim`], without being read ([`wheel`]).
//! - [`MemoryTier::list`] costs the page and a search, not the keys there are ([`order`]).
//! - Listeners are called, and entries freed, outside all locks.
//!
//! Locks: at most one shard's at a time, within it at most two buckets' (the second one not yet known to readers).
//! `turn` comes before a shard's.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZero;
use std::ops::Bound;
use std::sync::Arc;
use std::thread::available_parallelism;

use smallvec::SmallVec;

use self::budget::Budget;
use self::policy::Tuner;
use self::shard::{Inner, Shard, Weigher};
use crate::clock::{FOREVER, Millis};
use crate::entry::{Entry, Hook};
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, pause};

mod budget;
mod hash;
mod order;
mod policy;
mod prefetch;
mod shard;
mod slots;
mod table;
mod wheel;

pub use hash::hash_key;

/// Why the tier let an entry go by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvictReason {
    /// To make room within the budget.
    Budget,
    /// It could no longer be served at all.
    Expired,
}

/// Is told of every entry that the tier lets go by itself: not of `remove`, `clear`, or a replaced value.
pub trait EvictListener: Send + Sync {
    /// Called outside any lock of the tier, by the thread whose call made the entry go.
    fn evicted(&self, entry: &Entry, reason: EvictReason);
}

/// What an entry weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Its allocation and what the tier keeps for it beside, in bytes.
    Bytes,
    /// One. The budget is then a number of entries.
    Unit,
    /// The bytes of its value, at least one: for comparing policies on traces that tell sizes.
    Value,
}

/// How to build a [`MemoryTier`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Most weight held at any moment.
    pub budget: u64,
    /// What an entry weighs.
    pub weight: Weight,
    /// Number of shards, rounded up to a power of two; `None` chooses by budget and processors.
    pub shards: Option<usize>,
}

/// What the tier keeps for an entry beside its allocation, in bytes: slot, table, index and ghosts, as measured over a million
/// entries, and what the allocator adds.
const OVERHEAD: u64 = 88;

/// Least share of the budget that is worth a shard: in a smaller one, entries compete with too few others.
const LEAST_SHARE_BYTES: u64 = 16 << 20;
const LEAST_SHARE_UNITS: u64 = 4096;

/// Most shards.
const MOST_SHARDS: usize = 256;

/// A shard with less than its share by more than this part leaves it to others to make room.
const SHARE_SLACK: u64 = 64;

/// Victims taken while a lock is held.
const BATCH: usize = 32;

/// Slots looked at while a lock is held, by a walk.
const WALK: u32 = 128;

/// Entries taken from a shard at a time while listing.
const PAGE: usize = 256;

/// Entries that left a shard together. Mostly one.
type Gone = SmallVec<[Entry; 4]>;

/// Entries in memory, within a budget. Shared by all threads.
pub struct MemoryTier {
    shards: Box<[Shard]>,
    budget: Arc<Budget>,
    weigh: fn(&Entry) -> u64,
    listener: Option<Arc<dyn EvictListener>>,
    evictions: AtomicU64,
    /// Where the next [`MemoryTier::reclaim`] begins.
    next_shard: AtomicUsize,
    /// Held by an insertion that found nothing left to evict, because others held what they had evicted.
    turn: Mutex<()>,
}

impl MemoryTier {
    /// An empty tier.
    pub fn new(config: Config, listener: Option<Arc<dyn EvictListener>>) -> Self {
        let weigher = match config.weight {
            Weight::Bytes => Weigher { of: |entry| entry.allocated() as u64 + OVERHEAD, least: OVERHEAD },
            Weight::Unit => Weigher { of: |_| 1, least: 1 },
            Weight::Value => Weigher { of: |entry| (entry.value().len() as u64).max(1), least: 1 },
        };
        let shards = match config.shards {
            Some(shards) => shards.next_power_of_two().clamp(1, MOST_SHARDS),
            None => default_shards(&config),
        };
        let tuner = Arc::new(Tuner::new(config.budget));
        let budget = Arc::new(Budget::new(config.budget));
        let share = config.budget / shards as u64;
        let giant = if shards == 1 { u64::MAX } else { share / 4 };
        let shard = |_| Shard::new(share, giant, Arc::clone(&budget), Arc::clone(&tuner), weigher);
        Self {
            shards: (0..shards).map(shard).collect(),
            budget,
            weigh: weigher.of,
            listener,
            evictions: AtomicU64::new(0),
            next_shard: AtomicUsize::new(0),
            turn: Mutex::new(()),
        }
    }

    /// The entry of that key; counts as a use. Does not judge its age.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        let hash = hash_key(key);
        let shard = self.shard(hash);
        shard.table.get(hash, key, |entry| shard.hit(entry))
    }

    /// The entry of that key, without counting as a use.
    pub fn peek(&self, key: &[u8]) -> Option<Entry> {
        let hash = hash_key(key);
        self.shard(hash).table.get(hash, key, |_| ())
    }

    /// Counts uses reported from elsewhere, by [`hash_key`].
    pub fn touch(&self, uses: &[u64]) {
        for hash in uses {
            let shard = self.shard(*hash);
            shard.table.get_by(*hash, |entry| hash_key(entry.key()) == *hash, |entry| shard.hit(entry));
        }
    }

    /// Stores an entry, in place of the one of the same key, and drops others until it fits. False if it weighs more than the
    /// whole budget: then nothing has changed.
    ///
    /// A replaced entry's place with the eviction policy goes on, and the listener is not told of it. An entry that a tier
    /// already holds is stored as a copy.
    pub fn insert(&self, entry: Entry) -> bool {
        let weight = (self.weigh)(&entry);
        if weight > self.budget.limit() {
            return false;
        }
        let hash = hash_key(entry.key());
        let home = self.shard(hash);
        home.table.prefetch(hash);
        let mut coming = Coming { entry: Some(claim(entry)), hash, weight, held: 0 };
        let mut gone = Gone::new();
        let mut turn = None;
        loop {
            let before = coming.held;
            let settled = home.with(|inner| {
                home.expect(inner, hash);
                self.settle_or_evict(home, inner, &mut coming, &mut gone)
            });
            if let Some(Settled { stored, replaced }) = settled {
                drop(turn);
                drop(replaced);
                self.report(gone, EvictReason::Budget);
                return stored;
            }
            if coming.held == before {
                self.evict_from_heaviest(&mut coming, &mut gone);
            }
            if turn.is_none() {
                self.report(std::mem::take(&mut gone), EvictReason::Budget);
            }
            if coming.held == before {
                // Nothing is left to evict: other insertions hold what they have evicted. One at a time may wait for that, and
                // whoever waits lets go of his own.
                self.budget.give(std::mem::take(&mut coming.held));
                match turn {
                    None => turn = Some(self.turn.lock()),
                    Some(_) => pause(u32::MAX),
                }
            }
        }
    }

    /// Publishes the coming entry if there is room, for which entries of its home shard go if these are to.
    fn settle_or_evict(
        &self,
        home: &Shard,
        inner: &mut Inner,
        coming: &mut Coming,
        gone: &mut Gone,
    ) -> Option<Settled> {
        for _ in 0..BATCH {
            if let Some(settled) = self.settle(home, inner, coming) {
                return Some(settled);
            }
            if !self.evicts_at_home(home, coming.weight) {
                return None;
            }
            let victim = home.evict(inner)?;
            coming.held += (self.weigh)(&victim);
            gone.push(victim);
        }
        self.settle(home, inner, coming)
    }

    /// Publishes the coming entry if the budget has room for it.
    fn settle(&self, home: &Shard, inner: &mut Inner, coming: &mut Coming) -> Option<Settled> {
        let old = home.find(coming.hash, coming.entry.as_ref()?.key());
        let room = coming.held + old.map_or(0, |old| old.weight);
        let lacking = coming.weight.saturating_sub(room);
        if lacking > 0 && !self.budget.take(lacking) {
            return None;
        }
        let entry = coming.entry.take()?;
        let settled = match old {
            Some(old) => Settled { stored: true, replaced: home.replace(inner, coming.hash, old, entry) },
            None => match home.add(inner, coming.hash, entry) {
                Ok(()) => Settled { stored: true, replaced: None },
                Err(entry) => {
                    // Two thousand million entries in one shard.
                    entry.hook().slot.store(Hook::FREE, Ordering::Release);
                    self.budget.give(coming.weight);
                    Settled { stored: false, replaced: None }
                }
            },
        };
        self.budget.give(room + lacking - coming.weight);
        coming.held = 0;
        Some(settled)
    }

    /// Whether room for an entry of that weight is made in its home shard: unless that has less than its share already, or
    /// the entry is so heavy that all shards should give.
    fn evicts_at_home(&self, home: &Shard, weight: u64) -> bool {
        let ordinary = self.budget.limit().saturating_sub(self.budget.giants()) / self.shards.len() as u64;
        self.shards.len() == 1
            || !home.is_giant(weight) && home.ordinary_weight() + weight >= ordinary - ordinary / SHARE_SLACK
    }

    /// Makes room in the shard that has most, giants left out.
    fn evict_from_heaviest(&self, coming: &mut Coming, gone: &mut Gone) {
        let heaviest = self.shards.iter().max_by_key(|shard| (shard.ordinary_weight(), shard.weight()));
        let Some(shard) = heaviest.filter(|shard| shard.weight() > 0) else { return };
        shard.with(|inner| {
            for _ in 0..BATCH {
                if coming.held + (self.budget.limit() - self.budget.used()) >= coming.weight && coming.held > 0 {
                    return;
                }
                let Some(victim) = shard.evict(inner) else { return };
                coming.held += (self.weigh)(&victim);
                gone.push(victim);
            }
        });
    }

    /// Takes an entry out.
    pub fn remove(&self, key: &[u8]) -> Option<Entry> {
        self.remove_if(key, |_| true)
    }

    /// Takes an entry out if `pred` holds for it. `pred` is called under a lock of the tier, and must not call the tier.
    pub fn remove_if(&self, key: &[u8], pred: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let hash = hash_key(key);
        let shard = self.shard(hash);
        let entry = shard.with(|inner| {
            let held = shard.find(hash, key).filter(|held| pred(inner.entry(held.id)))?;
            shard.remove(inner, hash, held.id)
        })?;
        self.budget.give((self.weigh)(&entry));
        Some(entry)
    }

    /// Up to `limit` entries for which `keep` holds, whose keys begin with `prefix` and come after `after`, in the byte order
    /// of their keys; and whether that was all.
    ///
    /// Not a snapshot: a key that is there throughout is in it once, one that comes or goes meanwhile may be or not. `keep` is
    /// called outside all locks.
    pub fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        mut keep: impl FnMut(&Entry) -> bool,
    ) -> (Vec<Entry>, bool) {
        let size = (limit / self.shards.len()).saturating_add(PAGE / 16).min(PAGE);
        let mut sources: Vec<_> = self.shards.iter().map(|shard| Source::new(shard, size)).collect();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let first = |(n, source): (usize, &mut Source<'_>)| Some(Reverse((ByKey(source.begin(prefix, start)?), n)));
        let mut heads: BinaryHeap<_> = sources.iter_mut().enumerate().filter_map(first).collect();
        let mut page = Vec::new();
        while let Some(Reverse((ByKey(entry), n))) = heads.pop() {
            heads.extend(sources[n].next(prefix, &entry).map(|next| Reverse((ByKey(next), n))));
            if keep(&entry) {
                if page.len() == limit {
                    return (page, false);
                }
                page.push(entry);
            }
        }
        (page, true)
    }

    /// Drops up to `max` entries that can no longer be served at `now`, and tells the listener; gives their number. Work is bounded
    /// by `max` too, so [`MemoryTier::next_expiry`] rather than the number tells whether there is more to do.
    pub fn reclaim(&self, now: Millis, max: usize) -> usize {
        let first = self.next_shard.fetch_add(1, Ordering::Relaxed);
        let mut reclaimed = 0;
        for shard in (0..self.shards.len()).map(|n| &self.shards[first.wrapping_add(n) % self.shards.len()]) {
            // What never expires is due at no time, not even at the end of it.
            while reclaimed < max && shard.next_expiry() <= now.min(FOREVER - 1) {
                let mut gone = Gone::new();
                let most = (max - reclaimed).min(BATCH);
                let falling = shard.with(|inner| shard.expire(inner, now, most, |entry| gone.push(entry)));
                reclaimed += gone.len();
                self.budget.give(gone.iter().map(self.weigh).sum());
                self.report(gone, EvictReason::Expired);
                if falling {
                    break;
                }
            }
        }
        reclaimed
    }

    /// A lower bound of the moment at which [`MemoryTier::reclaim`] has something to do; `None` if nothing ever expires.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.shards.iter().map(Shard::next_expiry).min().filter(|at| *at != FOREVER)
    }

    /// Goes on with a walk over all entries: adds to `found` those of the next slots for which `pick` holds, and says whether
    /// there is more. An entry that is there throughout is met once; `pick` is called under a lock of the tier.
    pub fn walk(&self, walk: &mut Walk, found: &mut Vec<Entry>, pick: impl Fn(&Entry) -> bool) -> bool {
        let Some(shard) = self.shards.get(walk.shard) else { return false };
        let next = shard.with(|inner| {
            inner.walk(walk.slot, WALK, |entry| {
                if pick(entry) {
                    found.push(entry.clone());
                }
            })
        });
        match next {
            Some(slot) => walk.slot = slot,
            None => *walk = Walk { shard: walk.shard + 1, slot: 0 },
        }
        walk.shard < self.shards.len()
    }

    /// What an entry weighs here.
    pub fn weigh(&self, entry: &Entry) -> u64 {
        (self.weigh)(entry)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight in use, room taken for entries that are just being stored included. Never more than [`MemoryTier::budget`].
    pub fn bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Most weight in use at any moment.
    pub fn budget(&self) -> u64 {
        self.budget.limit()
    }

    /// Bytes of the values alone.
    pub fn value_bytes(&self) -> u64 {
        self.shards.iter().map(Shard::value_bytes).sum()
    }

    /// Entries dropped to make room, since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    /// Drops everything, shard by shard. The listener is not told.
    pub fn clear(&self) {
        for shard in &self.shards {
            let (slots, weight) = shard.with(|inner| {
                let weight = shard.weight();
                (shard.clear(inner), weight)
            });
            self.budget.give(weight);
            slots.release();
        }
    }

    #[inline]
    fn shard(&self, hash: u64) -> &Shard {
        // Bits that neither the table's bucket nor the tag nor the ghosts depend on. The number of shards is a power of two.
        &self.shards[(hash >> 24) as usize & (self.shards.len() - 1)]
    }

    /// Tells of entries that the tier let go, and drops them.
    fn report(&self, gone: Gone, reason: EvictReason) {
        if reason == EvictReason::Budget && !gone.is_empty() {
            self.evictions.fetch_add(gone.len() as u64, Ordering::Relaxed);
        }
        if let Some(listener) = &self.listener {
            gone.iter().for_each(|entry| listener.evicted(entry, reason));
        }
    }

    /// Checks every invariant of every structure. Nobody else may be changing the tier.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self) {
        let mut sum = 0;
        for shard in &self.shards {
            shard.with(|inner| shard.validate(inner));
            sum += shard.weight();
        }
        assert_eq!(sum, self.budget.used());
        assert_eq!(self.shards.iter().map(Shard::giants).sum::<u64>(), self.budget.giants());
        assert!(sum <= self.budget.limit());
    }
}

/// Where a walk over all entries stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk {
    shard: usize,
    slot: u32,
}

/// An entry on its way into the tier.
struct Coming {
    /// Until it is published.
    entry: Option<Entry>,
    hash: u64,
    weight: u64,
    /// Weight of entries evicted for it, which stays taken from the budget.
    held: u64,
}

/// How an insertion ended.
struct Settled {
    stored: bool,
    /// The entry of the same key, to be dropped outside the lock.
    replaced: Option<Entry>,
}

/// What a listing reads from one shard, some entries at a time.
struct Source<'a> {
    shard: &'a Shard,
    size: usize,
    read: std::vec::IntoIter<Entry>,
    ended: bool,
}

impl<'a> Source<'a> {
    fn new(shard: &'a Shard, size: usize) -> Self {
        Self { shard, size, read: Vec::new().into_iter(), ended: false }
    }

    fn begin(&mut self, prefix: &[u8], from: Bound<&[u8]>) -> Option<Entry> {
        let mut read = Vec::new();
        self.ended = self.shard.with(|inner| Shard::page(inner, prefix, from, self.size, &mut read));
        self.read = read.into_iter();
        self.read.next()
    }

    /// The entry after `last`, which came from here.
    fn next(&mut self, prefix: &[u8], last: &Entry) -> Option<Entry> {
        match self.read.next() {
            None if !self.ended => self.begin(prefix, Bound::Excluded(last.key())),
            next => next,
        }
    }
}

/// Entries compared by their keys.
struct ByKey(Entry);

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.key() == other.0.key()
    }
}

impl Eq for ByKey {}

impl PartialOrd for ByKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.key().cmp(other.0.key())
    }
}

/// The entry for this tier to hold: itself, or a copy if some tier has it.
fn claim(entry: Entry) -> Entry {
    let free = &entry.hook().slot;
    match free.compare_exchange(Hook::FREE, Hook::CLAIMED, Ordering::Acquire, Ordering::Relaxed) {
        Ok(_) => entry,
        Err(_) => claim(entry.duplicate()),
    }
}

/// Two shards a processor, unless their shares of the budget would be small.
fn default_shards(config: &Config) -> usize {
    let least = match config.weight {
        Weight::Bytes | Weight::Value => LEAST_SHARE_BYTES,
        Weight::Unit => LEAST_SHARE_UNITS,
    };
    let worth = (config.budget / least).clamp(1, MOST_SHARDS as u64) as usize;
    let processors = available_parallelism().map_or(1, NonZero::get);
    // The greatest power of two that is not above either.
    1 << worth.min((processors * 2).next_power_of_two().min(MOST_SHARDS)).ilog2()
}

#[cfg(test)]
mod tests;
