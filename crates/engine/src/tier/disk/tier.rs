//! The tier: the contract, on top of a store.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::opening::wait_closed;
use super::queue::{Job, Work};
use super::store::Store;
use super::values::ASIDE;
use super::watch::Watch;
use super::writing::{Envelope, Prepared};
use super::{LEAST_SIZE, Settings};
use crate::tier::{
    Answer, Fact, Found, Key, Page, Position, Put, SharedLog, Tier, TierError, TierErrorKind, Watcher, ready,
};

/// How long closing waits for the last thread.
const CLOSING: Duration = Duration::from_millis(500);

/// A directory on this machine as a tier; see [`super`].
pub struct DiskTier {
    /// None once it is closed.
    open: RwLock<Option<Arc<Watch>>>,
    /// Its place in the log when it was closed.
    last: RwLock<Position>,
    runtime: Handle,
    pending: Arc<AtomicUsize>,
}

impl DiskTier {
    /// Opens the store, or begins one. It waits for others that open it at the same time, as long as the settings allow. `runtime`
    /// has the threads that read what is too large for the calling one.
    ///
    /// # Errors
    /// - `refused`: `maxSize` is below [`LEAST_SIZE`]; the path holds something else, or a store of a later release; the system
    ///   does not let us.
    /// - `corrupt`: the store is damaged, and other processes have it open.
    /// - `unavailable`: the disk is full, or the system fails otherwise.
    pub fn open(settings: &Settings, runtime: &Handle) -> Result<Self, TierError> {
        if settings.max_size < LEAST_SIZE {
            let message = format!(
                "tier 'disk', option 'maxSize' ({}): it must be at least {LEAST_SIZE} bytes",
                settings.max_size
            );
            return Err(TierError::new(TierErrorKind::Refused, message));
        }
        let store = Store::open(&settings.path, settings.max_size, settings.timeout)?;
        let watch = Arc::new(Watch::new(store)?);
        watch.store.tiers.fetch_add(1, Ordering::SeqCst);
        Ok(Self {
            last: RwLock::new(watch.position()),
            open: RwLock::new(Some(watch)),
            runtime: runtime.clone(),
            pending: Arc::default(),
        })
    }

    /// Makes the file of a store as small as what it holds: it is copied without its free pages. Bytes before and after. While
    /// a store is open its free pages are used again, so this is for one that has shrunk for good.
    ///
    /// # Errors
    /// `refused` where anybody has the store open, in this process or another; those of [`DiskTier::open`].
    pub fn compact(settings: &Settings) -> Result<(u64, u64), TierError> {
        super::opening::compact(&settings.path, settings.max_size, settings.timeout)
    }

    fn watch(&self) -> Result<Arc<Watch>, TierError> {
        self.open.read().clone().ok_or_else(TierError::closed)
    }

    /// Reads on a thread that may wait for the disk.
    fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> Result<T, TierError> + Send + 'static,
    ) -> Answer<'_, Result<T, TierError>> {
        let watch = match self.watch() {
            Ok(watch) => watch,
            Err(closed) => return ready(Err(closed)),
        };
        let reading = self.runtime.spawn_blocking(move || read(&watch.store));
        Box::pin(async move { reading.await.unwrap_or_else(|_| Err(lost())) })
    }

    /// Has the thread that writes do something.
    async fn write<T>(&self, work: impl FnOnce(oneshot::Sender<T>) -> Work) -> Result<T, TierError> {
        let of = self.watch()?;
        let (to, answer) = oneshot::channel();
        let store = Arc::clone(&of.store);
        store.queue.push(Job { work: work(to), of });
        drop(store);
        answer.await.map_err(|_| lost())
    }
}

impl Drop for DiskTier {
    fn drop(&mut self) {
        if let Some(watch) = self.open.get_mut() {
            watch.store.tiers.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn lost() -> TierError {
    TierError::new(TierErrorKind::Unavailable, "tier 'disk': its thread has ended")
}

fn each<T>(n: usize, error: &TierError) -> Vec<Result<T, TierError>> {
    (0..n).map(|_| Err(error.clone())).collect()
}

/// Makes a record ready to be stored. One that is refused leaves nothing older behind, either.
fn prepare(store: &Store, put: Put) -> (Prepared, Result<(), TierError>) {
    let mut bytes = Vec::new();
    let envelope = put.record.envelope();
    let encoded = if envelope.encoded_len() as u64 > store.max_size() / 4 {
        let (len, most) = (envelope.encoded_len(), store.max_size() / 4);
        let message = format!("tier 'disk': a record of {len} bytes is more than {most}, a quarter of 'maxSize'");
        Err(TierError::new(TierErrorKind::TooLarge, message))
    } else {
        let refused = |error| TierError::new(TierErrorKind::Refused, format!("tier 'disk': {error}"));
        envelope.encode(&mut bytes).map_err(refused)
    };
    let written = encoded.and_then(|()| {
        if bytes.len() <= ASIDE {
            return Ok(Envelope::Here(std::mem::take(&mut bytes)));
        }
        let failed = |error| {
            store.note(&error);
            let message = format!("tier 'disk': cannot write a large value: {error}");
            TierError::new(TierErrorKind::Unavailable, message)
        };
        store.values.write(&bytes).map(|file| Envelope::Aside(file, bytes.len() as u64)).map_err(failed)
    });
    let (envelope, answer) = match written {
        Ok(envelope) => (envelope, Ok(())),
        Err(error) => (Envelope::None, Err(error)),
    };
    (Prepared { record: put.record, of: put.of, envelope }, answer)
}

/// A count of puts under way.
struct Pending(Arc<AtomicUsize>, usize);

impl Pending {
    fn of(count: &Arc<AtomicUsize>, n: usize) -> Self {
        count.fetch_add(n, Ordering::Relaxed);
        Self(Arc::clone(count), n)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Tier for DiskTier {
    fn name(&self) -> &str {
        "disk"
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        let n = keys.len();
        let found = self.read(move |store| {
            let txn = store.read()?;
            Ok(keys.iter().map(|key| store.get(&txn, key, false).unwrap_or(Ok(None))).collect())
        });
        Box::pin(async move { found.await.unwrap_or_else(|error| each(n, &error)) })
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        Box::pin(async move {
            let n = puts.len();
            let _pending = Pending::of(&self.pending, n);
            let watch = match self.watch() {
                Ok(watch) => watch,
                Err(closed) => return each(n, &closed),
            };
            let large = puts.iter().any(|put| put.record.len() > ASIDE / 2);
            let prepare = move || puts.into_iter().map(|put| prepare(&watch.store, put)).unzip();
            // A file is written by a thread that may wait.
            let (prepared, ready): (Vec<_>, Vec<_>) = if large {
                match self.runtime.spawn_blocking(prepare).await {
                    Ok(done) => done,
                    Err(_) => return each(n, &lost()),
                }
            } else {
                prepare()
            };
            match self.write(|to| Work::Put(prepared, to)).await {
                Ok(done) => ready.into_iter().zip(done).map(|(ready, done)| ready.and(done)).collect(),
                Err(error) => each(n, &error),
            }
        })
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        Box::pin(async move {
            let n = keys.len();
            self.write(|to| Work::Delete(keys, to)).await.unwrap_or_else(|error| each(n, &error))
        })
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        self.read(move |store| store.list(&prefix, limit, cursor.as_deref()))
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move { self.write(|to| Work::Mark(fact, to)).await? })
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        self.read(move |store| store.markers(since))
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move { self.write(Work::Flush).await? })
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            let Some(watch) = self.open.write().take() else { return Ok(()) };
            *self.last.write() = watch.position();
            let (to, answer) = oneshot::channel();
            watch.store.queue.push(Job { work: Work::Flush(to), of: Arc::clone(&watch) });
            let done = answer.await.unwrap_or_else(|_| Err(lost()));
            let path = watch.store.env.path().to_path_buf();
            let last = watch.store.tiers.fetch_sub(1, Ordering::SeqCst) == 1;
            drop(watch);
            if last {
                // Its files and memory are given back when this has answered.
                let _ = self.runtime.spawn_blocking(move || wait_closed(&path, CLOSING)).await;
            }
            done
        })
    }

    fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    fn log(&self) -> Option<&dyn SharedLog> {
        Some(self)
    }

    fn is_awaited(&self) -> bool {
        true
    }

    fn get_now(&self, key: &[u8]) -> Option<Found> {
        let open = self.open.read();
        let Some(watch) = &*open else { return Some(Err(TierError::closed())) };
        match watch.store.read() {
            Ok(txn) => watch.store.get(&txn, key, true),
            Err(error) => Some(Err(error)),
        }
    }
}

impl SharedLog for DiskTier {
    fn position(&self) -> Position {
        self.open.read().as_ref().map_or_else(|| *self.last.read(), |watch| watch.position())
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        if let Ok(watch) = DiskTier::watch(self) {
            watch.watch(watcher);
        }
    }

    fn is_behind(&self) -> bool {
        self.open.read().as_ref().is_some_and(|watch| watch.is_behind())
    }

    fn catch_up(&self) {
        if let Ok(watch) = DiskTier::watch(self) {
            watch.catch_up();
        }
    }

    fn head(&self) -> Option<Arc<dyn AsRef<std::sync::atomic::AtomicU32> + Send + Sync>> {
        let watch = DiskTier::watch(self).ok()?;
        Some(Arc::clone(&watch.store.head) as _)
    }

    fn past(&self) -> Answer<'_, Result<(u64, Vec<Fact>), TierError>> {
        self.read(Store::past)
    }

    fn next_version(&self, name: Key, above: u64) -> Answer<'_, Result<u64, TierError>> {
        Box::pin(async move { self.write(|to| Work::Next(name, above, to)).await? })
    }

    fn last_version(&self, name: Key) -> Answer<'_, Result<u64, TierError>> {
        self.read(move |store| store.last_number(&name))
    }
}
