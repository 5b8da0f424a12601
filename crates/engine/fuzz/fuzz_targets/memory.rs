//! The memory tier by itself, with entries of all sizes in a small budget, compared with a map; every structure checks itself
//! after each operation.

#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use kvcache_engine::clock::{FOREVER, Millis};
use kvcache_engine::entry::{Ages, Entry, EntrySpec, Kind};
use kvcache_engine::memory::{Config, EvictListener, EvictReason, MemoryTier, Weight};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    budget: u16,
    shards: u8,
    weight: u8,
    steps: Vec<Step>,
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Step {
    Insert { key: u8, len: u16, life: Option<u16> },
    Get(u8),
    Touch(u8),
    Remove(u8),
    Reclaim { later: u32, max: u8 },
    List { prefix: Option<u8>, after: Option<u8>, limit: u8 },
    Clear,
}

#[derive(Default)]
struct Evicted(Mutex<Vec<(Vec<u8>, EvictReason)>>);

impl EvictListener for Evicted {
    fn evicted(&self, entry: &Entry, reason: EvictReason) {
        self.0.lock().unwrap().push((entry.key().to_vec(), reason));
    }
}

/// Keys of different lengths, many with others as their prefixes.
fn name(key: u8) -> Vec<u8> {
    vec![b'a' + key % 4; 1 + usize::from(key / 4)]
}

fuzz_target!(|input: Input| {
    let weight = [Weight::Bytes, Weight::Unit, Weight::Value][usize::from(input.weight % 3)];
    let budget = if weight == Weight::Unit { u64::from(input.budget % 300) } else { u64::from(input.budget) } + 1;
    let shards = Some(1 << (input.shards % 4));
    let evicted = Arc::new(Evicted::default());
    let listener = Some(Arc::clone(&evicted) as Arc<dyn EvictListener>);
    let tier = MemoryTier::new(Config { budget, weight, shards }, listener);
    let mut held: BTreeMap<Vec<u8>, (usize, Millis)> = BTreeMap::new();
    let mut now: Millis = 0;
    for step in input.steps.into_iter().take(500) {
        match step {
            Step::Insert { key, len, life } => {
                let key = name(key);
                let life = life.map_or(FOREVER, Millis::from);
                let value = vec![b'v'; usize::from(len)];
                let spec = EntrySpec {
                    key: &key,
                    metadata: b"",
                    links: b"",
                    value: &value,
                    kind: Kind::Text,
                    ages: Ages { max_age: life, stale_age: life, stale_if_error: life },
                    seq: 0,
                    route: 0,
                    version: 0,
                };
                let entry = Entry::new(&spec, now);
                let fits = tier.weigh(&entry) <= budget;
                assert_eq!(tier.insert(entry), fits);
                for (key, reason) in evicted.0.lock().unwrap().drain(..) {
                    assert_eq!(reason, EvictReason::Budget);
                    assert!(held.remove(&key).is_some());
                }
                if fits {
                    held.insert(key, (value.len(), now.saturating_add(life)));
                }
            }
            Step::Get(key) => {
                let key = name(key);
                assert_eq!(tier.get(&key).map(|e| e.value().len()), held.get(&key).map(|(len, _)| *len));
            }
            Step::Touch(key) => tier.touch(&[kvcache_engine::memory::hash_key(&name(key))]),
            Step::Remove(key) => {
                let key = name(key);
                assert_eq!(tier.remove(&key).is_some(), held.remove(&key).is_some());
            }
            Step::Reclaim { later, max } => {
                now += Millis::from(later % 100_000);
                let reclaimed = tier.reclaim(now, usize::from(max));
                let gone = std::mem::take(&mut *evicted.0.lock().unwrap());
                assert!(gone.len() == reclaimed && reclaimed <= usize::from(max));
                for (key, reason) in gone {
                    assert_eq!(reason, EvictReason::Expired);
                    assert!(held.remove(&key).is_some_and(|(_, dead_at)| dead_at <= now));
                }
                let due = held.values().map(|(_, dead_at)| *dead_at).min().filter(|at| *at != FOREVER);
                assert!(due.is_none_or(|due| tier.next_expiry().is_some_and(|next| next <= due)));
            }
            Step::List { prefix, after, limit } => {
                let prefix = prefix.map_or(Vec::new(), name);
                let after = after.map(name);
                let limit = usize::from(limit);
                let mut expected: Vec<_> = held.keys().filter(|key| key.starts_with(&prefix)).collect();
                expected.retain(|key| after.as_ref().is_none_or(|after| *key > after));
                let (page, complete) = tier.list(&prefix, after.as_deref(), limit, |_| true);
                assert_eq!(complete, expected.len() <= limit);
                expected.truncate(limit);
                assert!(page.iter().map(Entry::key).eq(expected.into_iter().map(Vec::as_slice)));
            }
            Step::Clear => {
                tier.clear();
                held.clear();
            }
        }
        tier.validate();
        assert_eq!(tier.len(), held.len());
        assert!(tier.bytes() <= budget);
    }
    // Whatever ends, goes in the end: as often as is asked for.
    for _ in 0..10_000 {
        let Some(next) = tier.next_expiry() else { break };
        now = now.max(next);
        tier.reclaim(now, 100);
    }
    assert_eq!(tier.next_expiry(), None);
    assert_eq!(tier.len(), held.values().filter(|(_, dead_at)| *dead_at == FOREVER).count());
});
