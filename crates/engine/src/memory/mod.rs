//! The memory tier.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::{FOREVER, Millis};
use crate::entry::Entry;

mod hash;

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

const OVERHEAD: u64 = 64;

#[derive(Default)]
struct Inner {
    map: BTreeMap<Vec<u8>, Entry>,
    fifo: VecDeque<Vec<u8>>,
    expiry: BTreeSet<(Millis, Vec<u8>)>,
    bytes: u64,
    value_bytes: u64,
}

/// Entries in memory, within a budget.
pub struct MemoryTier {
    config: Config,
    listener: Option<Arc<dyn EvictListener>>,
    inner: Mutex<Inner>,
    evictions: AtomicU64,
}

impl MemoryTier {
    /// An empty tier.
    pub fn new(config: Config, listener: Option<Arc<dyn EvictListener>>) -> Self {
        Self { config, listener, inner: Mutex::default(), evictions: AtomicU64::new(0) }
    }

    /// The entry of that key; counts as a use. Does not judge its age.
    pub fn get(&self, key: &[u8]) -> Option<Entry> {
        self.peek(key)
    }

    /// The entry of that key, without counting as a use.
    pub fn peek(&self, key: &[u8]) -> Option<Entry> {
        self.inner.lock().map.get(key).cloned()
    }

    /// Stores an entry, in place of the one of the same key. False if it weighs more than the whole budget: then nothing
    /// has changed.
    pub fn insert(&self, entry: Entry) -> bool {
        let weight = self.weigh(&entry);
        if weight > self.config.budget {
            return false;
        }
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            drop(self.take(inner, entry.key()));
            while inner.bytes + weight > self.config.budget {
                let Some(victim) = inner.fifo.front().cloned() else { break };
                gone.extend(self.take(inner, &victim));
            }
            inner.bytes += weight;
            inner.value_bytes += entry.value().len() as u64;
            inner.fifo.push_back(entry.key().to_vec());
            if entry.dead_at() != FOREVER {
                inner.expiry.insert((entry.dead_at(), entry.key().to_vec()));
            }
            inner.map.insert(entry.key().to_vec(), entry);
        }
        self.tell(&gone, EvictReason::Budget);
        true
    }

    /// Takes an entry out.
    pub fn remove(&self, key: &[u8]) -> Option<Entry> {
        self.remove_if(key, |_| true)
    }

    /// Takes an entry out if `pred` holds for it.
    pub fn remove_if(&self, key: &[u8], pred: impl FnOnce(&Entry) -> bool) -> Option<Entry> {
        let mut inner = self.inner.lock();
        if pred(inner.map.get(key)?) { self.take(&mut inner, key) } else { None }
    }

    /// Up to `limit` entries for which `keep` holds, whose keys begin with `prefix` and come after `after`, in the byte order
    /// of their keys; and whether that was all.
    pub fn list(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        mut keep: impl FnMut(&Entry) -> bool,
    ) -> (Vec<Entry>, bool) {
        let inner = self.inner.lock();
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = Vec::new();
        for (key, entry) in inner.map.range::<[u8], _>((start, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            if keep(entry) {
                if page.len() == limit {
                    return (page, false);
                }
                page.push(entry.clone());
            }
        }
        (page, true)
    }

    /// Drops up to `max` entries that can no longer be served at `now`; gives their number.
    pub fn reclaim(&self, now: Millis, max: usize) -> usize {
        let mut gone = Vec::new();
        {
            let mut inner = self.inner.lock();
            while gone.len() < max {
                match inner.expiry.first().cloned() {
                    Some((at, key)) if at <= now => gone.extend(self.take(&mut inner, &key)),
                    _ => break,
                }
            }
        }
        self.tell(&gone, EvictReason::Expired);
        gone.len()
    }

    /// A lower bound of the moment at which [`MemoryTier::reclaim`] has something to do; `None` if nothing ever expires.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.inner.lock().expiry.first().map(|(at, _)| *at)
    }

    /// Counts uses reported from elsewhere, by [`hash_key`].
    pub fn touch(&self, uses: &[u64]) {
        let _ = uses;
    }

    /// What an entry weighs here.
    pub fn weigh(&self, entry: &Entry) -> u64 {
        match self.config.weight {
            Weight::Bytes => entry.allocated() as u64 + OVERHEAD,
            Weight::Unit => 1,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.inner.lock().map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Weight held. Never more than [`MemoryTier::budget`].
    pub fn bytes(&self) -> u64 {
        self.inner.lock().bytes
    }

    /// Most weight held at any moment.
    pub fn budget(&self) -> u64 {
        self.config.budget
    }

    /// Bytes of the values alone.
    pub fn value_bytes(&self) -> u64 {
        self.inner.lock().value_bytes
    }

    /// Drops everything.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *self.inner.lock());
        drop(gone);
    }

    /// Entries dropped to make room, since the start.
    pub fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Relaxed)
    }

    fn take(&self, inner: &mut Inner, key: &[u8]) -> Option<Entry> {
        let entry = inner.map.remove(key)?;
        inner.fifo.retain(|k| k != key);
        inner.expiry.remove(&(entry.dead_at(), key.to_vec()));
        inner.bytes -= self.weigh(&entry);
        inner.value_bytes -= entry.value().len() as u64;
        Some(entry)
    }

    fn tell(&self, gone: &[Entry], reason: EvictReason) {
        if reason == EvictReason::Budget {
            self.evictions.fetch_add(gone.len() as u64, Ordering::Relaxed);
        }
        if let Some(listener) = &self.listener {
            gone.iter().for_each(|e| listener.evicted(e, reason));
        }
    }

    /// Checks every invariant of every structure.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self) {
        let inner = self.inner.lock();
        assert_eq!(inner.map.len(), inner.fifo.len());
        assert!(inner.bytes <= self.config.budget);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Ages, EntrySpec, Kind};

    fn entry(key: &str, len: usize, life: Millis) -> Entry {
        let ages = Ages { max_age: life, stale_age: life, stale_if_error: life };
        let value = vec![b'v'; len];
        let spec = EntrySpec {
            key: key.as_bytes(),
            metadata: b"",
            links: b"",
            value: &value,
            kind: Kind::Text,
            ages,
            seq: 0,
            route: 0,
        };
        Entry::new(&spec, 0)
    }

    #[test]
    fn holds_lists_and_reclaims() {
        let tier = MemoryTier::new(Config { budget: 1 << 20, weight: Weight::Bytes, shards: None }, None);
        for i in 0..10 {
            assert!(tier.insert(entry(&format!("k{i}"), 10, 100 + i)));
        }
        assert_eq!(tier.get(b"k3").unwrap().key(), b"k3");
        let (page, complete) = tier.list(b"k", Some(b"k2"), 3, |_| true);
        assert_eq!(page.iter().map(|e| e.key_str()).collect::<Vec<_>>(), ["k3", "k4", "k5"]);
        assert!(!complete);
        assert_eq!(tier.next_expiry(), Some(100));
        assert_eq!(tier.reclaim(104, 100), 5);
        assert_eq!(tier.len(), 5);
        tier.validate();
    }
}
