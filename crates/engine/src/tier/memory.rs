//! A tier in this process's memory: the contract in its plainest form, for tests and as a pattern for other tiers.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{Answer, Fact, Found, Key, Listed, Page, Put, Record, Tier, TierError, ready, unix_now};
use crate::clock::FOREVER;

/// Keeps records in a map, without a bound.
#[derive(Debug, Default)]
pub struct MemoryTier {
    records: Mutex<BTreeMap<Key, Record>>,
    facts: Mutex<HashMap<(&'static str, bool, String), Fact>>,
    closed: AtomicBool,
}

impl MemoryTier {
    fn open(&self) -> Result<(), TierError> {
        if self.closed.load(Ordering::SeqCst) { Err(TierError::closed()) } else { Ok(()) }
    }

    /// The same answer for each of `n`, once closed.
    fn each<T>(&self, n: usize, answers: impl FnOnce() -> Vec<Result<T, TierError>>) -> Vec<Result<T, TierError>> {
        match self.open() {
            Ok(()) => answers(),
            Err(closed) => (0..n).map(|_| Err(closed.clone())).collect(),
        }
    }
}

impl Tier for MemoryTier {
    fn name(&self) -> &str {
        "memory"
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        ready(self.each(keys.len(), || {
            let (records, now) = (self.records.lock(), unix_now());
            keys.iter().map(|key| Ok(records.get(key).filter(|record| record.is_alive(now)).cloned())).collect()
        }))
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        ready(self.each(puts.len(), || {
            let mut records = self.records.lock();
            puts.into_iter().map(|put| records.insert(put.record.key.clone(), put.record)).map(|_| Ok(())).collect()
        }))
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        ready(self.each(keys.len(), || {
            let mut records = self.records.lock();
            keys.iter().map(|key| records.remove(key)).map(|_| Ok(())).collect()
        }))
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        let page = || {
            let (records, now) = (self.records.lock(), unix_now());
            let start: Key = cursor.as_deref().map_or(&prefix[..], str::as_bytes).into();
            let mut after = records
                .range(start..)
                .filter(|(key, record)| {
                    record.is_alive(now) && cursor.as_deref().is_none_or(|at| &***key > at.as_bytes())
                })
                .take_while(|(key, _)| key.starts_with(&prefix));
            let keys: Vec<_> = after.by_ref().take(limit).map(|(_, record)| listed(record)).collect();
            let last = keys.last().map(|last| String::from_utf8_lossy(&last.key).into_owned());
            Page { keys, cursor: last.filter(|_| after.next().is_some()) }
        };
        ready(self.open().map(|()| page()))
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        ready(self.open().map(|()| {
            let mut facts = self.facts.lock();
            let known = facts.entry(fact.register()).or_insert_with(|| fact.clone());
            if fact.supersedes(known) {
                *known = fact;
            }
        }))
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        ready(self.open().map(|()| {
            let now = unix_now();
            let mut facts = self.facts.lock();
            facts.retain(|_, fact| fact.is_alive(now));
            facts.values().filter(|fact| fact.at >= since).cloned().collect()
        }))
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        ready(self.open())
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        self.closed.store(true, Ordering::SeqCst);
        ready(Ok(()))
    }
}

fn listed(record: &Record) -> Listed {
    let expiration = Some(record.dead_at()).filter(|at| *at != FOREVER).map(|at| at.div_ceil(1000));
    Listed { key: record.key.clone(), expiration, metadata: (&*record.metadata).into() }
}
