//! The store of one path: the environment, its databases, and what is read from them.
//!
//! | database | key | row |
//! |---|---|---|
//! | `entries` | the key | a head, and the envelope of the record |
//! | `order` | place | the key: what was stored first comes first |
//! | `ends` | moment, place | the key: what ends first comes first |
//! | `log` | number | a fact, and who wrote it |
//! | `markers` | kind, softness, hashes of the target | the newest such fact |
//! | `counters` | name | a number |
//! | `state` | empty | the numbers of the store |

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use heed::types::Bytes;
use heed::{Database, Env, MdbError, RoTxn, WithoutTls};
use parking_lot::Mutex;

use super::checkpoint::Checkpoints;
use super::head::Head;
use super::layout::Layout;
use super::queue::Queue;
use super::rows::{self, Holds, Line, State};
use super::values::Values;
use crate::codec::envelope::Envelope;
use crate::tier::{Fact, Found, Listed, Page, Record, TierError, TierErrorKind, unix_now};

/// Threads of all processes that may read at a time.
pub(super) const READERS: u32 = 4096;

/// Bytes that the file of LMDB has at least to grow into, where the system can set them aside.
const RESERVE: u64 = 1 << 20;

/// Bytes of an envelope that are read on the calling thread.
pub(super) const READ_NOW: usize = 32 * 1024;

pub(super) type Db = Database<'static, Bytes, Bytes>;

/// What is kept in the environment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dbs {
    pub entries: Db,
    pub order: Db,
    pub ends: Db,
    pub log: Db,
    pub markers: Db,
    pub counters: Db,
    pub state: Db,
}

impl Dbs {
    fn all(&self) -> [Db; 7] {
        [self.entries, self.order, self.ends, self.log, self.markers, self.counters, self.state]
    }
}

/// See the module. Shared by all tiers of this process that open the path.
pub(super) struct Store {
    pub env: Env<WithoutTls>,
    pub dbs: Dbs,
    pub head: Arc<Head>,
    /// None where a commit waits for the disk.
    pub checkpoints: Option<Checkpoints>,
    pub values: Values,
    pub epoch: u64,
    pub layout: Mutex<Layout>,
    pub queue: Queue,
    /// Tier objects that have it open.
    pub tiers: AtomicUsize,
    /// Bytes of pages that were written since the last checkpoint, roughly.
    pub unsynced: AtomicU64,
    pub max_size: AtomicU64,
    pub page_size: u64,
    /// The file of LMDB, and up to where it has been given its room on the disk.
    pub data: File,
    pub reserved: AtomicU64,
    /// Once LMDB says that the environment is damaged.
    pub damaged: AtomicBool,
    /// Once there was no room.
    pub full: AtomicBool,
    /// What went wrong at opening, for the first watcher.
    pub warnings: Mutex<Vec<TierError>>,
}

impl Store {
    /// Has on disk what is committed. Where another process does, too, it waits for that at most so long.
    pub fn sync(&self, patience: Duration) -> Result<(), TierError> {
        let Some(checkpoints) = &self.checkpoints else { return self.env.force_sync().map_err(|e| self.error(e)) };
        let unsynced = self.unsynced.swap(0, Ordering::Relaxed);
        checkpoints.take(&self.env, &self.head, patience).map_err(|error| {
            self.unsynced.fetch_add(unsynced, Ordering::Relaxed);
            let message = format!("tier 'disk': cannot bring what was written to the disk: {error}");
            TierError::new(TierErrorKind::Unavailable, message)
        })
    }

    /// Whether what is on disk stays there, if this transaction changes something.
    pub fn is_kept(&self) -> bool {
        self.checkpoints.as_ref().is_none_or(|checkpoints| checkpoints.is_kept(&self.head))
    }

    /// Whether there are commits that are to be brought to disk now: the pages that they have replaced are wanted.
    pub fn is_due(&self) -> bool {
        self.checkpoints.is_some() && self.unsynced.load(Ordering::Relaxed) > self.max_size() / 16
    }

    /// Lets go of pages that need not be kept any more.
    pub fn let_go(&self) {
        self.checkpoints.iter().for_each(|checkpoints| checkpoints.let_go(&self.head));
    }

    pub fn max_size(&self) -> u64 {
        self.max_size.load(Ordering::Relaxed)
    }

    /// What an error of LMDB is to a caller.
    pub fn error(&self, error: heed::Error) -> TierError {
        if is_full(&error) {
            self.full.store(true, Ordering::Relaxed);
        }
        let error = error_of(error);
        if error.kind == TierErrorKind::Corrupt {
            self.damaged.store(true, Ordering::Relaxed);
        }
        error
    }

    /// There was no room for a file.
    pub fn note(&self, error: &std::io::Error) {
        if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there was no room for something since this was asked last.
    pub fn was_full(&self) -> bool {
        self.full.swap(false, Ordering::Relaxed)
    }

    /// # Errors
    /// Once LMDB has found damage.
    pub fn check(&self) -> Result<(), TierError> {
        if self.damaged.load(Ordering::Relaxed) {
            return Err(TierError::new(TierErrorKind::Corrupt, "tier 'disk': the store is damaged; open it anew"));
        }
        Ok(())
    }

    pub fn read(&self) -> Result<RoTxn<'_, WithoutTls>, TierError> {
        self.check()?;
        self.env.read_txn().map_err(|e| self.error(e))
    }

    pub fn state(&self, txn: &RoTxn<'_>) -> Result<State, TierError> {
        let row = self.dbs.state.get(txn, STATE).map_err(|e| self.error(e))?;
        row.map_or_else(|| Ok(State::default()), State::decode)
    }

    /// Bytes that the store takes: the pages that are in use, and the files beside.
    pub fn used(&self, txn: &RoTxn<'_>, state: &State) -> Result<u64, TierError> {
        let mut used = state.aside;
        for db in self.dbs.all() {
            let stat = db.stat(txn).map_err(|e| self.error(e))?;
            used += (stat.branch_pages + stat.leaf_pages + stat.overflow_pages) as u64 * u64::from(stat.page_size);
        }
        Ok(used)
    }

    /// Bytes of the file of LMDB.
    pub fn file_size(&self) -> u64 {
        (self.env.info().last_page_number as u64 + 1) * self.page_size
    }

    /// Bytes that the file is to have to grow into.
    pub fn ahead(&self) -> u64 {
        (self.max_size() / 16).min(RESERVE)
    }

    /// Has the disk set room aside for the file to grow, so that a full disk is met while there still is some: LMDB cannot remove
    /// anything without. Whether there is.
    pub fn reserve(&self) -> bool {
        let (size, ahead) = (self.file_size(), self.ahead());
        if self.reserved.load(Ordering::Relaxed) >= size + ahead / 2 {
            return true;
        }
        let done = allocate(&self.data, size + ahead);
        self.reserved.store(if done { size + ahead } else { 0 }, Ordering::Relaxed);
        done
    }

    /// Looks a key up. None if it has a value that is too large to be read here and `now` is set.
    pub fn get(&self, txn: &RoTxn<'_>, key: &[u8], now: bool) -> Option<Found> {
        let row = match self.dbs.entries.get(txn, key) {
            Ok(Some(row)) => row,
            Ok(None) => return Some(Ok(None)),
            Err(heed::Error::Mdb(MdbError::BadValSize)) => return Some(Ok(None)),
            Err(error) => return Some(Err(self.error(error))),
        };
        let (head, envelope) = match rows::Head::decode(row) {
            Ok(decoded) => decoded,
            Err(error) => return Some(Err(error)),
        };
        if head.holds == Holds::Tombstone {
            return Some(Ok(None));
        }
        if now && (head.holds == Holds::Aside || envelope.len() > READ_NOW) {
            return None;
        }
        self.head.used(key);
        let aside;
        let envelope = if head.holds == Holds::Aside {
            match self.values.read(head.file, head.len) {
                Ok(Some(bytes)) => {
                    aside = bytes;
                    &aside[..]
                }
                // Replaced or evicted meanwhile.
                Ok(None) => return Some(Ok(None)),
                Err(error) => return Some(Err(error)),
            }
        } else {
            envelope
        };
        let found = Envelope::decode(envelope).map_err(|error| {
            TierError::new(TierErrorKind::Corrupt, format!("what the disk tier has of a key cannot be read: {error}"))
        });
        Some(found.map(|envelope| {
            let mut record = Record::from_envelope(&envelope);
            (record.seq, record.epoch) = (head.seq, self.epoch);
            Some(record).filter(|record| *record.key == *key && record.is_alive(unix_now()))
        }))
    }

    pub fn list(&self, prefix: &[u8], limit: usize, cursor: Option<&str>) -> Result<Page, TierError> {
        use std::ops::Bound;

        let (txn, now) = (self.read()?, unix_now());
        let start = match cursor {
            Some(cursor) => Bound::Excluded(cursor.as_bytes()),
            None if prefix.is_empty() => Bound::Unbounded,
            None => Bound::Included(prefix),
        };
        let range = (start, Bound::Unbounded);
        let mut page = Page::default();
        for row in self.dbs.entries.range(&txn, &range).map_err(|e| self.error(e))? {
            let (key, row) = row.map_err(|e| self.error(e))?;
            if !key.starts_with(prefix) {
                break;
            }
            let (head, envelope) = rows::Head::decode(row)?;
            if head.holds == Holds::Tombstone || head.ends <= now {
                continue;
            }
            if page.keys.len() == limit {
                page.cursor = page.keys.last().map(|last: &Listed| String::from_utf8_lossy(&last.key).into_owned());
                break;
            }
            let metadata = match head.holds {
                Holds::Aside => self.values.read(head.file, head.len)?.map(|bytes| metadata_of(&bytes)),
                _ => Some(metadata_of(envelope)),
            };
            let Some(metadata) = metadata else { continue };
            let expiration = Some(head.ends).filter(|at| *at != crate::clock::FOREVER).map(|at| at.div_ceil(1000));
            page.keys.push(Listed { key: key.into(), expiration, metadata });
        }
        Ok(page)
    }

    pub fn markers(&self, since: u64) -> Result<Vec<Fact>, TierError> {
        let (txn, now) = (self.read()?, unix_now());
        let mut facts = Vec::new();
        for row in self.dbs.markers.iter(&txn).map_err(|e| self.error(e))? {
            let fact = Line::decode(row.map_err(|e| self.error(e))?.1, self.epoch)?.fact;
            if fact.at >= since && fact.is_alive(now) {
                facts.push(fact);
            }
        }
        Ok(facts)
    }

    /// The number that a counter gave last; 0 for none.
    pub fn last_number(&self, name: &[u8]) -> Result<u64, TierError> {
        let txn = self.read()?;
        let row = self.dbs.counters.get(&txn, name).map_err(|e| self.error(e))?;
        Ok(row.map_or(0, rows::number_of))
    }

    /// All that the log has, and the number after which that is whole.
    pub fn past(&self) -> Result<(u64, Vec<Fact>), TierError> {
        let txn = self.read()?;
        let mut facts = Vec::new();
        for row in self.dbs.log.iter(&txn).map_err(|e| self.error(e))? {
            let (_, row) = row.map_err(|e| self.error(e))?;
            facts.push(Line::decode(row, self.epoch)?.fact);
        }
        let whole = match facts.first() {
            Some(first) => first.seq - 1,
            None => self.state(&txn)?.seq,
        };
        Ok((whole, facts))
    }

    /// The lines of the log after that number, up to so many; none where some are missing.
    pub fn lines(&self, txn: &RoTxn<'_>, after: u64, most: usize) -> Result<Option<Vec<Line>>, TierError> {
        let from = rows::key_of(after + 1);
        let mut lines = Vec::new();
        let range = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Unbounded);
        for row in self.dbs.log.range(txn, &range).map_err(|e| self.error(e))?.take(most) {
            let (key, row) = row.map_err(|e| self.error(e))?;
            if rows::number_of(key) != after + 1 + lines.len() as u64 {
                return Ok(None);
            }
            lines.push(Line::decode(row, self.epoch)?);
        }
        Ok(Some(lines))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.queue.end();
        if let Some(checkpoints) = self.checkpoints.take() {
            checkpoints.end(self.env.clone());
        }
    }
}

/// The key of the only row of `state`.
pub(super) const STATE: &[u8] = b"state";

fn metadata_of(envelope: &[u8]) -> Box<[u8]> {
    Envelope::decode(envelope).map_or_else(|_| Box::default(), |envelope| envelope.metadata.into())
}

/// An error of input or output, as Unix numbers it.
const EIO: i32 = 5;

/// Whether it says that there is no room.
fn is_full(error: &heed::Error) -> bool {
    let code = |code| std::io::Error::from_raw_os_error(code).kind();
    match error {
        heed::Error::Mdb(MdbError::MapFull) => true,
        heed::Error::Mdb(MdbError::Other(other)) => {
            // LMDB says EIO where the system wrote a part only.
            matches!(code(*other), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) || *other == EIO
        }
        heed::Error::Io(error) => matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
        _ => false,
    }
}

/// Has the disk give a file room up to there, and leaves its length as it is. False where the disk has none.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn allocate(file: &File, len: u64) -> bool {
    use std::os::fd::AsRawFd;

    // SAFETY: the descriptor is open, as `file` owns it.
    let done = unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, len as libc::off_t) };
    done == 0
        || !matches!(
            std::io::Error::last_os_error().kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
        )
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn allocate(_file: &File, _len: u64) -> bool {
    true
}

/// What an error of LMDB is to a caller.
pub(super) fn error_of(error: heed::Error) -> TierError {
    let of = |kind, what: String| TierError::new(kind, format!("tier 'disk': {what}"));
    match error {
        heed::Error::Mdb(
            error @ (MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch
            | MdbError::Panic
            | MdbError::Incompatible
            | MdbError::CursorFull
            | MdbError::PageFull),
        ) => of(TierErrorKind::Corrupt, error.to_string()),
        heed::Error::Mdb(MdbError::MapFull) => {
            of(TierErrorKind::Unavailable, "its map is full although it evicts; is 'maxSize' larger elsewhere?".into())
        }
        heed::Error::Mdb(MdbError::MapResized) => {
            of(TierErrorKind::Unavailable, "another process uses it with a much larger 'maxSize'".into())
        }
        heed::Error::Mdb(MdbError::ReadersFull) => {
            of(TierErrorKind::Unavailable, format!("more than {READERS} threads read from it"))
        }
        heed::Error::Mdb(MdbError::Other(code)) => {
            of(TierErrorKind::Unavailable, std::io::Error::from_raw_os_error(code).to_string())
        }
        heed::Error::Decoding(error) => of(TierErrorKind::Corrupt, error.to_string()),
        other => of(TierErrorKind::Unavailable, other.to_string()),
    }
}
