//! Writes that have not landed, and what was written lately.
//!
//! One write a key is kept, the last; one task sends them, so that no two calls change one key at once. Puts wait up to a second
//! for others to go with them, deletes and markers hardly; a key that was sent rests for a second, as KV asks. What fails
//! for want of the tier is tried again, with backoff and full jitter; what KV refuses is lost, and [`Writes::flush`] says so.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::Client;
use super::wire;
use crate::load::retry;
use crate::tier::{Key, Record, TierError, TierErrorKind};

/// Keys and bytes of one bulk write: KV's limits are 10,000 and 100 MB.
const MOST_KEYS: usize = 10_000;
const MOST_BYTES: usize = 95_000_000;

/// Pending writes that are taken at most, and their bytes.
const MOST_PENDING: usize = 100_000;
const MOST_PENDING_BYTES: usize = 256 << 20;

/// How long puts wait for others, and how long what somebody waits for does.
const LINGER: Duration = Duration::from_secs(1);
const SHORT_LINGER: Duration = Duration::from_millis(5);

/// Time between two writes of a key.
const BETWEEN_WRITES: Duration = Duration::from_millis(1000);

/// First wait before a batch is tried again, in milliseconds.
const BACKOFF: u64 = 500;

/// What was written is known for so long after it landed, and no more than so many keys. KV shows a write everywhere within 60 s.
const KNOWN_FOR: Duration = Duration::from_secs(300);
const MOST_KNOWN: usize = 200_000;

enum Op {
    Put(Arc<Record>, String),
    Mark { metadata: String, until: u64 },
    Delete,
}

struct Write {
    op: Op,
    number: u64,
    bytes: usize,
    landing: Vec<oneshot::Sender<Result<(), TierError>>>,
}

/// A key with a write that has not landed.
#[derive(Default)]
struct Slot {
    waiting: Option<Write>,
    sending: Option<Write>,
}

/// What this process wrote last under a key.
#[derive(Clone, Copy)]
enum Wrote {
    Record {
        seq: u64,
        epoch: u64,
        stored_at: u64,
    },
    /// Nothing, at that moment of the wall clock.
    Gone {
        at: u64,
    },
}

#[derive(Default)]
struct State {
    slots: HashMap<Key, Slot>,
    /// Keys that have a write waiting, each once.
    queue: VecDeque<Key>,
    bytes: usize,
    number: u64,
    wrote: HashMap<Key, (Wrote, Instant)>,
    sent: HashMap<Key, Instant>,
    /// When the oldest waiting write came.
    since: Option<Instant>,
    urgent: bool,
    flushing: usize,
    lost: usize,
    why: Option<TierError>,
    ended: bool,
}

/// The writes of one tier.
#[derive(Default)]
pub struct Writes {
    state: Mutex<State>,
    /// Something for the sender to look at.
    changed: Notify,
    /// Something has landed, or was lost.
    landed: Notify,
    count: AtomicUsize,
}

/// What is sent by one call.
struct Batch {
    body: Vec<u8>,
    keys: Vec<Key>,
    delete: bool,
}

impl State {
    fn enqueue(&mut self, key: &Key, op: Op, bytes: usize) -> Option<oneshot::Receiver<Result<(), TierError>>> {
        let (sender, receiver) = oneshot::channel();
        let waited_for = matches!(op, Op::Mark { .. } | Op::Delete);
        self.number += 1;
        let slot = self.slots.entry(key.clone()).or_default();
        let before = slot.waiting.take();
        if before.is_none() {
            self.queue.push_back(key.clone());
        }
        self.bytes = self.bytes + bytes - before.as_ref().map_or(0, |before| before.bytes);
        let mut landing = before.map_or_else(Vec::new, |before| before.landing);
        if waited_for {
            landing.push(sender);
        }
        slot.waiting = Some(Write { op, number: self.number, bytes, landing });
        self.since.get_or_insert_with(Instant::now);
        self.urgent |= waited_for;
        waited_for.then_some(receiver)
    }

    fn note(&mut self, key: &Key, wrote: Wrote) {
        let now = Instant::now();
        if self.wrote.len() >= MOST_KNOWN {
            self.wrote.retain(|_, (_, at)| now - *at < KNOWN_FOR);
            if self.wrote.len() >= MOST_KNOWN {
                self.wrote.clear();
            }
        }
        self.wrote.insert(key.clone(), (wrote, now));
    }

    /// A write is over: it has landed, or never will.
    fn over(&mut self, key: &Key, outcome: &Result<(), TierError>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(write) = slot.sending.take() else { return };
        if slot.waiting.is_none() {
            self.slots.remove(key);
        }
        self.bytes -= write.bytes;
        if let Err(error) = outcome {
            // Who waits for it is told; of the others flush() tells.
            self.lost += usize::from(write.landing.is_empty());
            self.why = Some(error.clone());
        }
        for landing in write.landing {
            // Whoever has let go is not there any more.
            let _ = landing.send(outcome.clone());
        }
    }

    /// A write is to be sent again, if there is no newer one.
    fn again(&mut self, key: &Key) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(write) = slot.sending.take() else { return };
        match &mut slot.waiting {
            Some(newer) => {
                self.bytes -= write.bytes;
                newer.landing.extend(write.landing);
            }
            none => {
                *none = Some(write);
                self.queue.push_back(key.clone());
                self.since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Takes what can be sent by one call: puts and markers, or deletes, as the first is.
    fn take(&mut self, most: usize, unix: u64) -> Option<Batch> {
        let now = Instant::now();
        let mut batch: Option<Batch> = None;
        let mut later = VecDeque::new();
        while let Some(key) = self.queue.pop_front() {
            let rests = self.sent.get(&key).is_some_and(|at| now - *at < BETWEEN_WRITES);
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let Some(write) = slot.waiting.take() else { continue };
            let delete = matches!(write.op, Op::Delete);
            let batch = batch.get_or_insert_with(|| Batch { body: b"[".to_vec(), keys: Vec::new(), delete });
            let other = batch.delete != delete;
            let full =
                batch.keys.len() >= most || batch.body.len() + write.bytes > MOST_BYTES && !batch.keys.is_empty();
            if rests || other || full || !batch.push(&key, &write.op, unix) {
                slot.waiting = Some(write);
                later.push_back(key);
                if full {
                    break;
                }
                if batch.keys.is_empty() {
                    batch.delete = !delete;
                }
                continue;
            }
            slot.sending = Some(write);
        }
        later.append(&mut self.queue);
        self.queue = later;
        // Those that stay wait for others anew.
        self.since = if self.queue.is_empty() { None } else { Some(now) };
        self.urgent &= !self.queue.is_empty();
        let mut batch = batch.filter(|batch| !batch.keys.is_empty())?;
        batch.body.push(b']');
        self.sent.retain(|_, at| now - *at < BETWEEN_WRITES);
        self.sent.extend(batch.keys.iter().map(|key| (key.clone(), now)));
        Some(batch)
    }
}

impl Batch {
    /// Appends one write. Whether there was room.
    fn push(&mut self, key: &Key, op: &Op, unix: u64) -> bool {
        let start = self.body.len();
        if !self.keys.is_empty() {
            self.body.push(b',');
        }
        let name = std::str::from_utf8(key).unwrap_or_default();
        let written = match op {
            Op::Delete => serde_json::to_writer(&mut self.body, name),
            Op::Mark { metadata, until } => {
                serde_json::to_writer(&mut self.body, &wire::marker_item(name, metadata, *until, unix))
            }
            Op::Put(record, metadata) => match wire::item(record, metadata, unix) {
                Some(item) => serde_json::to_writer(&mut self.body, &item),
                None => Ok(()),
            },
        };
        if written.is_err() || self.body.len() > MOST_BYTES && !self.keys.is_empty() {
            self.body.truncate(start);
            return false;
        }
        self.keys.push(key.clone());
        true
    }
}

impl Writes {
    /// Keys with a write that has not landed.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let value = change(&mut state);
        self.count.store(state.slots.len(), Ordering::Relaxed);
        value
    }

    /// Takes a record to be written. One that cannot be is deleted, with what was there before.
    pub fn put(&self, record: Record, unix: u64) -> Result<(), TierError> {
        wire::check_key(&record.key)?;
        let key = record.key.clone();
        let metadata = wire::metadata_of(&record);
        let outcome = self.with(|state| {
            if state.ended {
                return Err(TierError::closed());
            }
            let full = state.slots.len() >= MOST_PENDING || state.bytes + record.len() > MOST_PENDING_BYTES;
            let metadata = match metadata {
                Ok(_) if full => {
                    let message = format!("{} writes are pending already", state.slots.len());
                    Err(TierError::new(TierErrorKind::Unavailable, message))
                }
                metadata => metadata,
            };
            match metadata {
                Ok(metadata) if record.is_alive(unix) => {
                    let (seq, epoch, stored_at) = (record.seq, record.epoch, record.stored_at);
                    state.note(&key, Wrote::Record { seq, epoch, stored_at });
                    // Base64 and escapes make it longer.
                    let bytes = record.len() + record.len() / 3 + metadata.len();
                    state.enqueue(&key, Op::Put(Arc::new(record), metadata), bytes);
                    Ok(())
                }
                unfit => {
                    state.note(&key, Wrote::Gone { at: unix });
                    state.enqueue(&key, Op::Delete, key.len());
                    unfit.map(|_| ())
                }
            }
        });
        self.changed.notify_one();
        outcome
    }

    /// Deletes a key; tells when that has landed.
    pub fn delete(&self, key: &Key, unix: u64) -> oneshot::Receiver<Result<(), TierError>> {
        self.waited_for(key, |state| {
            state.note(key, Wrote::Gone { at: unix });
            (Op::Delete, key.len())
        })
    }

    /// Writes a marker; tells when that has landed.
    pub fn mark(&self, key: Key, metadata: String, until: u64) -> oneshot::Receiver<Result<(), TierError>> {
        self.waited_for(&key, |_| {
            let bytes = key.len() + metadata.len();
            (Op::Mark { metadata, until }, bytes)
        })
    }

    fn waited_for(
        &self,
        key: &Key,
        op: impl FnOnce(&mut State) -> (Op, usize),
    ) -> oneshot::Receiver<Result<(), TierError>> {
        let receiver = self.with(|state| {
            let (op, bytes) = op(state);
            if state.ended { None } else { state.enqueue(key, op, bytes) }
        });
        self.changed.notify_one();
        // Its sender is gone: closed.
        receiver.unwrap_or_else(|| oneshot::channel().1)
    }

    /// What a key is about to have: none if nothing is pending.
    pub fn pending(&self, key: &Key) -> Option<Option<Record>> {
        let state = self.state.lock();
        let slot = state.slots.get(key)?;
        let write = slot.waiting.as_ref().or(slot.sending.as_ref())?;
        Some(match &write.op {
            Op::Put(record, _) if record.is_alive(crate::tier::unix_now()) => Some((**record).clone()),
            _ => None,
        })
    }

    /// What of that which was read is to be given: nothing that is older than what this process has written.
    pub fn judge(&self, key: &Key, found: Option<Record>, unix: u64) -> Option<Record> {
        if let Some(pending) = self.pending(key) {
            return pending;
        }
        let found = found.filter(|record| record.is_alive(unix))?;
        let state = self.state.lock();
        let taken = match state.wrote.get(key) {
            None => true,
            Some((Wrote::Gone { at }, _)) => found.stored_at > *at,
            Some((Wrote::Record { seq, epoch, .. }, _)) if *epoch == found.epoch => found.seq >= *seq,
            Some((Wrote::Record { stored_at, .. }, _)) => found.stored_at >= *stored_at,
        };
        taken.then_some(found)
    }

    /// Waits until all that was taken before is over.
    pub async fn flush(&self) -> Result<(), TierError> {
        struct Flushing<'a>(&'a Writes);
        impl Drop for Flushing<'_> {
            fn drop(&mut self) {
                self.0.state.lock().flushing -= 1;
            }
        }
        let number = self.with(|state| {
            state.flushing += 1;
            state.number
        });
        let _flushing = Flushing(self);
        self.changed.notify_one();
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            let done = self.with(|state| {
                let mut writes = state.slots.values().flat_map(|slot| slot.waiting.iter().chain(&slot.sending));
                if writes.any(|write| write.number <= number) {
                    return None;
                }
                let lost = std::mem::take(&mut state.lost);
                let why = state.why.take();
                Some(match why {
                    Some(why) if lost > 0 => {
                        Err(TierError::new(why.kind, format!("{lost} writes are lost: {}", why.message)))
                    }
                    _ => Ok(()),
                })
            });
            if let Some(outcome) = done {
                return outcome;
            }
            landed.await;
        }
    }

    /// Drops what is pending, and ends the task.
    pub fn end(&self) {
        self.with(|state| {
            state.ended = true;
            state.slots.clear();
            state.queue.clear();
            state.bytes = 0;
        });
        self.changed.notify_one();
        self.landed.notify_waiters();
    }

    /// [`Writes::end`] once this is dropped.
    pub fn end_on_drop(&self) -> impl Drop + '_ {
        struct End<'a>(&'a Writes);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.end();
            }
        }
        End(self)
    }

    /// When to send next: none if there is nothing, a moment that is over if now.
    fn due(&self) -> Option<Instant> {
        let state = self.state.lock();
        let since = state.since.filter(|_| !state.queue.is_empty())?;
        let full = state.queue.len() >= MOST_KEYS || state.bytes >= MOST_BYTES;
        Some(match () {
            () if state.flushing > 0 || full => since,
            () if state.urgent => since + SHORT_LINGER,
            () => since + LINGER,
        })
    }

    /// Sends what is there, until the end.
    pub async fn run(self: Arc<Self>, client: Arc<Client>) {
        let (mut attempts, mut most) = (0, MOST_KEYS);
        loop {
            if self.state.lock().ended {
                return;
            }
            match self.due() {
                None => {
                    self.changed.notified().await;
                    continue;
                }
                Some(due) if due > Instant::now() => {
                    // Something more urgent may come.
                    tokio::select! {
                        () = sleep_until(due) => {}
                        () = self.changed.notified() => {}
                    }
                    continue;
                }
                Some(_) => {}
            }
            if timeout(LINGER, client.limiter.ready()).await.is_err() {
                continue;
            }
            let batch = self.with(|state| state.take(most, crate::tier::unix_now()));
            let Some(batch) = batch else {
                // All that there is rests for a moment.
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let outcome = client.bulk_write(batch.delete, batch.body).await;
            let wait = self.with(|state| settle(state, &batch.keys, outcome, &mut attempts, &mut most));
            self.landed.notify_waiters();
            if let Some(wait) = wait {
                sleep(wait).await;
            }
        }
    }
}

/// What becomes of a batch. How long to wait before the next call.
fn settle(
    state: &mut State,
    keys: &[Key],
    outcome: Result<Vec<String>, TierError>,
    attempts: &mut u32,
    most: &mut usize,
) -> Option<Duration> {
    let mut failed = false;
    match outcome {
        Ok(unsuccessful) => {
            for key in keys {
                if unsuccessful.iter().any(|name| name.as_bytes() == &**key) {
                    failed = true;
                    state.again(key);
                } else {
                    state.over(key, &Ok(()));
                }
            }
            *most = MOST_KEYS;
        }
        Err(error) => match error.kind {
            TierErrorKind::Timeout | TierErrorKind::Unavailable => {
                failed = true;
                keys.iter().for_each(|key| state.again(key));
            }
            // One of them is the cause: it is found by halves.
            TierErrorKind::Refused | TierErrorKind::TooLarge if keys.len() > 1 => {
                *most = keys.len() / 2;
                keys.iter().for_each(|key| state.again(key));
            }
            _ => keys.iter().for_each(|key| state.over(key, &Err(error.clone()))),
        },
    }
    if !failed {
        *attempts = 0;
        return None;
    }
    *attempts = attempts.saturating_add(1);
    Some(Duration::from_millis(retry::backoff(BACKOFF, *attempts, fastrand::f64())))
}
