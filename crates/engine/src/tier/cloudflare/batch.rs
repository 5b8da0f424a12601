//! The tier itself: reads of one moment become one call, writes are kept until they have landed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::client::{Client, Settings};
use super::wire::{self, Stored};
use super::writes::Writes;
use crate::tier::{
    Answer, Fact, Found, Key, Listed, Page, Put, Record, Tier, TierError, TierErrorKind, ready, unix_now,
};

/// Keys of one bulk read.
const MOST_READ: usize = 100;

/// Bulk reads give text only, and what is compressed costs a call of its own: only larger values are worth that.
const PLAIN_BELOW: usize = 64 * 1024;

/// How long reads wait for others to go with them.
const MOMENT: Duration = Duration::from_millis(2);

/// Calls under way at once, of reads.
const MOST_AT_ONCE: usize = 16;

/// Keys of one page of a listing: the fewest and the most that KV gives.
const LEAST_LISTED: usize = 10;
const MOST_LISTED: usize = 1000;

/// Targets whose newest fact is known, at most.
const MOST_FACTS: usize = 65_536;

/// A Workers KV namespace as a tier.
pub struct CloudflareTier(Arc<Shared>);

struct Shared {
    client: Arc<Client>,
    runtime: Handle,
    reads: Mutex<Reads>,
    at_once: Semaphore,
    writes: Arc<Writes>,
    facts: Mutex<HashMap<String, Fact>>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Reads {
    /// Who waits for each key, asked for or about to be.
    waiting: HashMap<Key, Vec<oneshot::Sender<Found>>>,
    /// Keys not asked for yet.
    next: Vec<Key>,
    /// Whether somebody will ask for them.
    gathering: bool,
}

#[derive(Deserialize)]
struct BulkGet {
    values: HashMap<String, Option<BulkValue>>,
}

#[derive(Deserialize)]
struct BulkValue {
    value: Option<String>,
    metadata: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ListedKey {
    name: String,
    expiration: Option<f64>,
    metadata: Option<Box<RawValue>>,
}

impl CloudflareTier {
    /// Calls nobody yet. What it does in the background runs on `runtime`.
    ///
    /// # Errors
    /// [`TierErrorKind::Refused`] for settings that cannot be; the message names which.
    pub fn new(settings: &Settings, runtime: &Handle) -> Result<Self, TierError> {
        let client = Arc::new(Client::new(settings)?);
        let writes = Arc::new(Writes::default());
        runtime.spawn(Arc::clone(&writes).run(Arc::clone(&client)));
        Ok(Self(Arc::new(Shared {
            client,
            runtime: runtime.clone(),
            reads: Mutex::default(),
            at_once: Semaphore::new(MOST_AT_ONCE),
            writes,
            facts: Mutex::default(),
            closed: AtomicBool::new(false),
        })))
    }

    fn open(&self) -> Result<(), TierError> {
        if self.0.closed.load(Ordering::SeqCst) { Err(TierError::closed()) } else { Ok(()) }
    }
}

impl Drop for CloudflareTier {
    fn drop(&mut self) {
        self.0.writes.end();
    }
}

impl Shared {
    /// Waits for a key together with all who want it.
    fn ask(self: &Arc<Self>, key: &Key) -> oneshot::Receiver<Found> {
        let (sender, receiver) = oneshot::channel();
        let mut reads = self.reads.lock();
        if let Some(others) = reads.waiting.get_mut(key) {
            others.push(sender);
            return receiver;
        }
        reads.waiting.insert(key.clone(), vec![sender]);
        reads.next.push(key.clone());
        if !reads.gathering {
            reads.gathering = true;
            self.runtime.spawn(Arc::clone(self).gather());
        }
        receiver
    }

    async fn gather(self: Arc<Self>) {
        tokio::time::sleep(MOMENT).await;
        let keys = {
            let mut reads = self.reads.lock();
            reads.gathering = false;
            std::mem::take(&mut reads.next)
        };
        for chunk in keys.chunks(MOST_READ) {
            self.runtime.spawn(Arc::clone(&self).read(chunk.to_vec()));
        }
    }

    fn tell(&self, key: &Key, found: &Found) {
        let waiting = self.reads.lock().waiting.remove(key);
        for sender in waiting.into_iter().flatten() {
            // Whoever has let go is not there any more.
            let _ = sender.send(found.clone());
        }
    }

    async fn read(self: Arc<Self>, keys: Vec<Key>) {
        let mut parts = vec![keys];
        let mut singles = JoinSet::new();
        while let Some(mut keys) = parts.pop() {
            match self.read_bulk(&keys).await {
                Ok(stored) => {
                    for (key, stored) in keys.iter().zip(stored) {
                        match stored {
                            Ok(Stored::Foreign) => self.tell(key, &Ok(None)),
                            Ok(Stored::Whole(record)) => self.tell(key, &Ok(Some(*record))),
                            Err(error) => self.tell(key, &Err(error)),
                            Ok(Stored::Bytes(record, sum)) => {
                                let shared = Arc::clone(&self);
                                singles.spawn_on(shared.read_bytes(record, sum), &self.runtime);
                            }
                        }
                    }
                }
                // One of them may be too much for all: each half for itself.
                Err(error) if is_of_a_key(&error) && keys.len() > 1 => {
                    let half = keys.split_off(keys.len() / 2);
                    parts.extend([keys, half]);
                }
                Err(error) if is_of_a_key(&error) => {
                    let shared = Arc::clone(&self);
                    singles.spawn_on(shared.read_single(keys.remove(0)), &self.runtime);
                }
                Err(error) => keys.iter().for_each(|key| self.tell(key, &Err(error.clone()))),
            }
        }
        singles.detach_all();
    }

    async fn read_bulk(&self, keys: &[Key]) -> Result<Vec<Result<Stored, TierError>>, TierError> {
        let _permit = self.at_once.acquire().await;
        let names: Vec<&str> = keys.iter().map(|key| std::str::from_utf8(key).unwrap_or_default()).collect();
        let found: BulkGet = self.client.bulk_get(&names).await?;
        let stored = keys.iter().zip(names).map(|(key, name)| match found.values.get(name) {
            Some(Some(BulkValue { value: Some(text), metadata })) => wire::read(key, text, metadata.as_deref()),
            _ => Ok(Stored::Foreign),
        });
        Ok(stored.collect())
    }

    async fn read_bytes(self: Arc<Self>, record: Box<Record>, sum: String) {
        let key = record.key.clone();
        let found = self.bytes(record, &sum).await;
        self.tell(&key, &found);
    }

    async fn bytes(&self, record: Box<Record>, sum: &str) -> Found {
        let _permit = self.at_once.acquire().await;
        let name = String::from_utf8_lossy(&record.key).into_owned();
        let Some(bytes) = self.client.value(&name).await? else { return Ok(None) };
        match wire::with_bytes(record, sum, &bytes)? {
            Stored::Whole(record) => Ok(Some(*record)),
            _ => Ok(None),
        }
    }

    /// A key that cannot be had by a bulk read, for its value is too large.
    async fn read_single(self: Arc<Self>, key: Key) {
        let name = String::from_utf8_lossy(&key).into_owned();
        let metadata = self.client.metadata(&name).await;
        let found = match metadata.and_then(|metadata| wire::read(&key, "", metadata.as_deref())) {
            Ok(Stored::Bytes(record, sum)) => self.bytes(record, &sum).await,
            Ok(Stored::Whole(record)) => Ok(Some(*record)),
            Ok(Stored::Foreign) => Ok(None),
            Err(error) => Err(error),
        };
        self.tell(&key, &found);
    }
}

/// Whether an error is of what was asked for, and not of the tier.
fn is_of_a_key(error: &TierError) -> bool {
    matches!(error.kind, TierErrorKind::TooLarge | TierErrorKind::Refused)
}

/// The same answer for each of `n`.
fn each<'a, T: Send + 'a>(n: usize, error: &TierError) -> Answer<'a, Vec<Result<T, TierError>>> {
    ready((0..n).map(|_| Err(error.clone())).collect())
}

impl Tier for CloudflareTier {
    fn name(&self) -> &str {
        "cloudflareKV"
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        if let Err(closed) = self.open() {
            return each(keys.len(), &closed);
        }
        Box::pin(async move {
            let asked: Vec<_> = keys
                .into_iter()
                .map(|key| {
                    // What cannot be there is not.
                    let known = if wire::check_key(&key).is_err() { Some(None) } else { self.0.writes.pending(&key) };
                    let receiver = if known.is_none() { Some(self.0.ask(&key)) } else { None };
                    (key, known.flatten(), receiver)
                })
                .collect();
            let mut answers = Vec::with_capacity(asked.len());
            for (key, known, receiver) in asked {
                let Some(receiver) = receiver else {
                    answers.push(Ok(known));
                    continue;
                };
                let lost = || TierError::new(TierErrorKind::Unavailable, "the read was given up");
                let found = receiver.await.unwrap_or_else(|_| Err(lost()));
                answers.push(found.map(|found| self.0.writes.judge(&key, found, unix_now())));
            }
            answers
        })
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        if let Err(closed) = self.open() {
            return each(puts.len(), &closed);
        }
        ready(puts.into_iter().map(|put| self.0.writes.put(put.record, unix_now())).collect())
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        if let Err(closed) = self.open() {
            return each(keys.len(), &closed);
        }
        Box::pin(async move {
            let landing: Vec<_> = keys
                .iter()
                .map(|key| wire::check_key(key).ok().map(|_| self.0.writes.delete(key, unix_now())))
                .collect();
            let mut answers = Vec::with_capacity(landing.len());
            for landing in landing {
                answers.push(match landing {
                    None => Ok(()),
                    Some(landing) => landing.await.unwrap_or_else(|_| Err(TierError::closed())),
                });
            }
            answers
        })
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        Box::pin(async move {
            self.open()?;
            let prefix = String::from_utf8(prefix)
                .map_err(|_| TierError::new(TierErrorKind::Refused, "a prefix that is no UTF-8"))?;
            // KV gives ten keys at least. Ours is its cursor, and how many of that page were given before.
            let (skip, cursor) = match cursor.as_deref().and_then(|cursor| cursor.split_once(':')) {
                None => (0, None),
                Some((skip, cursor)) => (skip.parse().unwrap_or(0), Some(cursor).filter(|cursor| !cursor.is_empty())),
            };
            let asked = limit.saturating_add(skip).clamp(LEAST_LISTED, MOST_LISTED);
            let (keys, next): (Vec<ListedKey>, _) = self.0.client.keys(&prefix, asked, cursor).await?;
            let here = keys.len().min(skip.saturating_add(limit));
            let cursor = if here < keys.len() {
                Some(format!("{here}:{}", cursor.unwrap_or_default()))
            } else {
                next.map(|next| format!("0:{next}"))
            };
            let ours = |key: &&ListedKey| !key.name.starts_with(wire::RESERVED);
            let keys = keys[..here].iter().skip(skip).filter(ours).map(|key| Listed {
                key: key.name.as_bytes().into(),
                expiration: key.expiration.map(|at| at as u64),
                metadata: wire::user_metadata(key.metadata.as_deref()),
            });
            Ok(Page { keys: keys.collect(), cursor })
        })
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            self.open()?;
            let (name, metadata) = wire::marker(&fact)?;
            {
                let mut facts = self.0.facts.lock();
                if facts.len() >= MOST_FACTS {
                    facts.clear();
                }
                let known = facts.entry(name.clone()).or_insert_with(|| fact.clone());
                if !fact.supersedes(known) {
                    return Ok(());
                }
                *known = fact.clone();
            }
            let landing = self.0.writes.mark(name.as_bytes().into(), metadata, fact.until);
            landing.await.unwrap_or_else(|_| Err(TierError::closed()))
        })
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        Box::pin(async move {
            self.open()?;
            let (mut facts, mut cursor) = (Vec::new(), None);
            loop {
                let page = self.0.client.keys(&wire::markers(), MOST_LISTED, cursor.as_deref()).await?;
                let (keys, next): (Vec<ListedKey>, _) = page;
                for key in &keys {
                    // A marker without metadata is nobody's.
                    let Some(metadata) = key.metadata.as_deref() else { continue };
                    facts.push(wire::fact(metadata)?);
                }
                cursor = next;
                if cursor.is_none() {
                    let now = unix_now();
                    facts.retain(|fact: &Fact| fact.at >= since && fact.is_alive(now));
                    return Ok(facts);
                }
            }
        })
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            self.open()?;
            self.0.writes.flush().await
        })
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        if self.0.closed.swap(true, Ordering::SeqCst) {
            return ready(Ok(()));
        }
        Box::pin(async move {
            // Also if this is let go of before it got to the end.
            let _end = self.0.writes.end_on_drop();
            self.0.writes.flush().await
        })
    }

    fn plain_below(&self) -> usize {
        PLAIN_BELOW
    }

    fn pending(&self) -> usize {
        self.0.writes.len()
    }
}
