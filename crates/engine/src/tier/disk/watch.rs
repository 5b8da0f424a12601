//! What one tier object knows of the log, and tells its watcher.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::store::Store;
use crate::tier::{Position, TierError, Told, Watcher};

/// Lines that are read at a time.
const MOST_LINES: usize = 4096;

/// See the module.
pub(super) struct Watch {
    pub store: Arc<Store>,
    /// Which of all tier objects this is.
    pub writer: u64,
    /// The head as it was when all up to it had been told.
    seen: AtomicU32,
    seq: AtomicU64,
    /// Held while the watcher is told.
    watcher: Mutex<Option<Weak<dyn Watcher>>>,
}

impl Watch {
    /// Begins at the newest number: what was before is among the markers.
    pub fn new(store: Arc<Store>) -> Result<Self, TierError> {
        let seen = store.head.load();
        let seq = newest(&store)?;
        Ok(Self {
            store,
            writer: fastrand::u64(1..),
            seen: AtomicU32::new(seen),
            seq: AtomicU64::new(seq),
            watcher: Mutex::new(None),
        })
    }

    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        let warnings = std::mem::take(&mut *self.store.warnings.lock());
        if let Some(watcher) = watcher.upgrade() {
            warnings.iter().for_each(|warning| watcher.failed(warning, None));
        }
        *self.watcher.lock() = Some(watcher);
    }

    pub fn position(&self) -> Position {
        Position { epoch: self.store.epoch, seq: self.seq.load(Ordering::SeqCst) }
    }

    #[inline]
    pub fn is_behind(&self) -> bool {
        self.store.head.load() != self.seen.load(Ordering::SeqCst)
    }

    /// Tells all there is.
    pub fn catch_up(&self) {
        let slot = self.watcher.lock();
        let watcher = slot.as_ref().and_then(Weak::upgrade);
        // Before the log is read: what is committed later raises the head beyond it.
        let head = self.store.head.load();
        if let (Err(error), Some(watcher)) = (self.tell(watcher.as_deref()), &watcher) {
            watcher.failed(&error, None);
            watcher.missed();
        }
        self.seen.store(head, Ordering::SeqCst);
    }

    fn tell(&self, watcher: Option<&dyn Watcher>) -> Result<(), TierError> {
        loop {
            let after = self.seq.load(Ordering::SeqCst);
            let (lines, newest) = {
                let txn = self.store.read()?;
                (self.store.lines(&txn, after, MOST_LINES)?, self.store.state(&txn)?.seq)
            };
            match lines {
                Some(lines) if lines.len() as u64 + after == newest || lines.len() == MOST_LINES => {
                    let seq = after + lines.len() as u64;
                    let own = |writer| writer == self.writer;
                    let told: Vec<_> =
                        lines.into_iter().map(|line| Told { own: own(line.writer), fact: line.fact, too: 0 }).collect();
                    if let Some(watcher) = watcher.filter(|_| !told.is_empty()) {
                        watcher.told(&told);
                    }
                    self.seq.store(seq, Ordering::SeqCst);
                    if seq == newest {
                        return Ok(());
                    }
                }
                _ => {
                    if let Some(watcher) = watcher {
                        watcher.missed();
                    }
                    self.seq.store(newest, Ordering::SeqCst);
                    return Ok(());
                }
            }
        }
    }
}

fn newest(store: &Store) -> Result<u64, TierError> {
    Ok(store.state(&*store.read()?)?.seq)
}
