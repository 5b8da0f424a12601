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

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use heed::types::Bytes;
use heed::{CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithTls};
use parking_lot::Mutex;

use super::checkpoint::{self, Checkpoints};
use super::head::Head;
use super::layout::{self, Held, Layout, failed, refuse};
use super::queue::Queue;
use super::rows::{self, FORMAT, Holds, Line, State};
use super::values::Values;
use crate::codec::envelope::Envelope;
use crate::tier::{Fact, Found, Listed, Page, Record, TierError, TierErrorKind, unix_now};

/// Address space of an environment: four times the size, and no less than this. It costs nothing until it is used, and
/// processes that ask for different sizes have the same.
const LEAST_MAP: u64 = 1 << 34;

/// Threads of all processes that may read at a time.
const READERS: u32 = 4096;

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
    pub env: Env,
    pub dbs: Dbs,
    pub head: Arc<Head>,
    /// None where a commit waits for the disk.
    checkpoints: Option<Checkpoints>,
    pub values: Values,
    pub epoch: u64,
    pub layout: Mutex<Layout>,
    pub queue: Queue,
    /// Tier objects that have it open.
    pub tiers: AtomicUsize,
    /// Bytes of pages that were written since the last checkpoint, roughly.
    pub unsynced: AtomicU64,
    max_size: AtomicU64,
    page_size: u64,
    /// The file of LMDB, and up to where it has been given its room on the disk.
    data: File,
    reserved: AtomicU64,
    /// Once LMDB says that the environment is damaged.
    damaged: AtomicBool,
    /// Once there was no room.
    full: AtomicBool,
    /// What went wrong at opening, for the first watcher.
    pub warnings: Mutex<Vec<TierError>>,
}

/// By path: what is open in this process.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Store>>>> = LazyLock::new(Mutex::default);

impl Store {
    /// The store of that path, which this process may have open already.
    pub fn open(path: &Path, max_size: u64, patience: Duration) -> Result<Arc<Self>, TierError> {
        let path = layout::claim(path)?;
        let mut open = OPEN.lock();
        if let Some(store) = open.get(&path).and_then(Weak::upgrade) {
            store.max_size.fetch_max(max_size, Ordering::Relaxed);
            return Ok(store);
        }
        let (mut layout, opening) = Layout::enter(&path, patience)?;
        // The last one here may not have let go of it yet.
        let deadline = Instant::now() + patience;
        if let Some(closing) = heed::env_closing_event(&path) {
            closing.wait_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        let mut warnings = Vec::new();
        let boot = checkpoint::boot();
        let restored = match &boot {
            Some(boot) => restore(&path, boot, &mut layout, &opening)?,
            None => checkpoint::Found::Good,
        };
        let opened = match restored {
            checkpoint::Found::Damaged => {
                Err(Trouble::Damaged("its checkpoint is missing or not what was written".into()))
            }
            _ => open_env(&path, max_size, boot.is_some()),
        };
        let (env, dbs, mut state) = match opened {
            Err(Trouble::Damaged(why)) => {
                let aside = layout.alone(&opening, Layout::set_aside)?;
                let Some(aside) = aside.transpose()? else {
                    let why = format!("the store is damaged ({why}), and other processes have it open; end them first");
                    return Err(TierError::new(TierErrorKind::Corrupt, refuse(&path, &why).message));
                };
                let aside = aside.display();
                let message =
                    format!("the store was damaged ({why}); it was set aside as '{aside}', and a new one begun");
                warnings.push(TierError::new(TierErrorKind::Corrupt, refuse(&path, &message).message));
                open_env(&path, max_size, boot.is_some()).map_err(|trouble| trouble.or_damaged(&path))?
            }
            opened => opened.map_err(|trouble| trouble.or_damaged(&path))?,
        };
        let head = Head::open(&path.join(layout::STAMPS)).map_err(|e| failed(&path, "make the file 'stamps'", &e))?;
        if restored == (checkpoint::Found::Restored { undone: true }) {
            // Numbers that are given again are of another log.
            state.epoch = fastrand::u64(1..);
            begin_log(&env, &dbs, &state).map_err(|e| about_path(&path, error_of(e)))?;
        }
        head.raise(state.seq);
        let values = Values::open(path.join(layout::VALUES)).map_err(|e| failed(&path, "make 'values'", &e))?;
        let checkpoints = match boot {
            Some(boot) => {
                let checkpoints = Checkpoints::new(&path, boot).map_err(|e| failed(&path, "make 'pins'", &e))?;
                if restored != checkpoint::Found::Good || !path.join(layout::CHECKPOINT).exists() {
                    let taken = checkpoints.take(&env, &head, patience);
                    taken.map_err(|e| failed(&path, "take a checkpoint", &e))?;
                }
                Some(checkpoints)
            }
            None => None,
        };
        drop(opening);
        let data = env.try_clone_inner_file().map_err(|e| about_path(&path, error_of(e)))?;
        let store = Arc::new(Self {
            data,
            reserved: AtomicU64::new(0),
            page_size: u64::from(env.unnamed_database_stat().page_size),
            checkpoints,
            env,
            dbs,
            head: Arc::new(head),
            values,
            epoch: state.epoch,
            layout: Mutex::new(layout),
            max_size: AtomicU64::new(max_size),
            damaged: AtomicBool::new(false),
            full: AtomicBool::new(false),
            queue: Queue::default(),
            tiers: AtomicUsize::new(0),
            unsynced: AtomicU64::new(0),
            warnings: Mutex::new(warnings),
        });
        open.retain(|_, store| store.strong_count() > 0);
        open.insert(path, Arc::downgrade(&store));
        Queue::start(&store).map_err(|e| failed(&store.layout.lock().path, "start a thread", &e))?;
        Ok(store)
    }

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

    pub fn read(&self) -> Result<RoTxn<'_, WithTls>, TierError> {
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

/// Waits until the store of that path, which no tier has open any more, is closed; not for long.
pub(super) fn wait_closed(path: &Path, patience: Duration) {
    if let Some(closing) = heed::env_closing_event(path) {
        closing.wait_timeout(patience);
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

/// Puts the last checkpoint back, if the machine has been started anew since.
fn restore(path: &Path, boot: &str, layout: &mut Layout, opening: &Held) -> Result<checkpoint::Found, TierError> {
    let mut lost = None;
    let restored = checkpoint::restore(path, boot, |put_back| match layout.alone(opening, |_| put_back()) {
        Ok(done) => done.transpose(),
        Err(error) => {
            lost = Some(error);
            Ok(None)
        }
    });
    match lost {
        Some(error) => Err(error),
        None => restored.map_err(|e| failed(path, "put its checkpoint back", &e)),
    }
}

fn about_path(path: &Path, error: TierError) -> TierError {
    TierError::new(error.kind, refuse(path, &error.message).message)
}

/// Writes the numbers of the store down.
fn begin_log(env: &Env, dbs: &Dbs, state: &State) -> heed::Result<()> {
    let mut txn = env.write_txn()?;
    dbs.log.clear(&mut txn)?;
    dbs.state.put(&mut txn, STATE, &state.encode())?;
    txn.commit()
}

/// Copies a store that nobody has open without its free pages, in the place of what it was. Bytes of the file before and after.
///
/// # Errors
/// If somebody has it open, in this process or another, or the copy fails: then all is as it was.
pub(super) fn compact(path: &Path, max_size: u64, patience: Duration) -> Result<(u64, u64), TierError> {
    let path = layout::claim(path)?;
    let mut open = OPEN.lock();
    open.retain(|_, store| store.strong_count() > 0);
    let busy = || refuse(&path, "a store can be compacted only while nobody has it open, in this process or another");
    if open.contains_key(&path) {
        return Err(busy());
    }
    let (mut layout, opening) = Layout::enter(&path, patience)?;
    if let Some(closing) = heed::env_closing_event(&path) {
        closing.wait_timeout(patience);
    }
    let copied = layout.alone(&opening, |path| {
        let (data, copy) = (path.join("data.mdb"), path.join("data.new"));
        let size = |name: &Path| name.metadata().map_or(0, |meta| meta.len());
        let before = size(&data);
        let (env, ..) =
            open_env(path, max_size, checkpoint::boot().is_some()).map_err(|trouble| trouble.or_damaged(path))?;
        let copying = || -> heed::Result<()> {
            let mut file = layout::options().truncate(true).open(&copy)?;
            env.copy_to_file(&mut file, CompactionOption::Enabled)?;
            Ok(file.sync_all()?)
        };
        let copied = copying().map_err(error_of);
        env.prepare_for_closing().wait();
        let renamed = copied.and_then(|()| {
            // It is of the old file.
            let _ = std::fs::remove_file(path.join(layout::CHECKPOINT));
            std::fs::rename(&copy, &data).map_err(|e| failed(path, "put the compacted file in place", &e))
        });
        renamed.inspect_err(|_| drop(std::fs::remove_file(&copy)))?;
        if let Some(boot) = checkpoint::boot() {
            let take = || {
                let (env, ..) = open_env(path, max_size, true).map_err(|trouble| trouble.or_damaged(path))?;
                let head = Head::open(&path.join(layout::STAMPS));
                let taken = head.and_then(|head| {
                    let checkpoints = Checkpoints::new(path, boot)?;
                    let taken = checkpoints.take(&env, &head, patience);
                    checkpoints.end(env.clone());
                    taken
                });
                env.prepare_for_closing().wait();
                taken.map_err(|e| failed(path, "take a checkpoint", &e))
            };
            take()?;
        }
        Ok((before, size(&data)))
    })?;
    copied.unwrap_or_else(|| Err(busy()))
}

/// The key of the only row of `state`.
pub(super) const STATE: &[u8] = b"state";

fn metadata_of(envelope: &[u8]) -> Box<[u8]> {
    Envelope::decode(envelope).map_or_else(|_| Box::default(), |envelope| envelope.metadata.into())
}

/// What opening an environment comes to.
enum Trouble {
    Damaged(String),
    Other(TierError),
}

impl Trouble {
    fn or_damaged(self, path: &Path) -> TierError {
        match self {
            Self::Damaged(why) => {
                TierError::new(TierErrorKind::Corrupt, refuse(path, &format!("the store is damaged: {why}")).message)
            }
            Self::Other(error) => error,
        }
    }
}

/// Opens the environment, and makes its databases where they are missing.
fn open_env(path: &Path, max_size: u64, checkpoints: bool) -> Result<(Env, Dbs, State), Trouble> {
    let map_size = max_size.saturating_mul(4).max(LEAST_MAP).next_power_of_two().min(1 << 46);
    let about = |error: heed::Error| match error {
        heed::Error::Io(error) => Trouble::Other(failed(path, "open the store", &error)),
        heed::Error::Mdb(MdbError::Other(code)) => {
            Trouble::Other(failed(path, "open the store", &std::io::Error::from_raw_os_error(code)))
        }
        error => {
            let error = error_of(error);
            if error.kind == TierErrorKind::Corrupt {
                Trouble::Damaged(error.message.into())
            } else {
                Trouble::Other(TierError::new(error.kind, refuse(path, &error.message).message))
            }
        }
    };
    let mut options = EnvOpenOptions::new();
    options.map_size(map_size as usize).max_dbs(7).max_readers(READERS);
    let sync = if checkpoints { EnvFlags::NO_SYNC } else { EnvFlags::NO_META_SYNC };
    // SAFETY: with the first a commit returns before it is on disk: what the file is after a power cut is mended by the checkpoint. With
    // the second only its meta page is not: what is lost is the newest commit.
    unsafe { options.flags(sync | EnvFlags::NO_READ_AHEAD) };
    // SAFETY: the file is changed by LMDB alone: its directory is marked as ours, and not shared over a network.
    let env = unsafe { options.open(path) }.map_err(about)?;
    check_length(&env).map_err(about)?;
    let txn = env.write_txn().map_err(about)?;
    let mut state = State::default();
    let dbs = env
        .create_databases_and_commit(txn, |opener, txn| {
            let mut create = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            let [entries, order] = [create("entries")?, create("order")?];
            let [ends, log] = [create("ends")?, create("log")?];
            let [markers, counters, kept] = [create("markers")?, create("counters")?, create("state")?];
            state = match kept.get(txn, STATE)? {
                Some(row) => State::decode(row).map_err(|error| heed::Error::Decoding(Box::new(error)))?,
                None => {
                    let new = State { format: FORMAT, epoch: fastrand::u64(1..), ..State::default() };
                    kept.put(txn, STATE, &new.encode())?;
                    new
                }
            };
            Ok(CommitOrAbort::<_, ()>::Commit([entries, order, ends, log, markers, counters, kept]))
        })
        .map_err(about)?;
    if state.format > FORMAT {
        return Err(Trouble::Other(layout::later_version(path, state.format)));
    }
    let CommitOrAbort::Commit([entries, order, ends, log, markers, counters, kept]) = dbs else {
        return Err(Trouble::Damaged("it has no databases".into()));
    };
    Ok((env, Dbs { entries, order, ends, log, markers, counters, state: kept }, state))
}

/// Whether the file is as long as its pages. One that is shorter is lengthened: reading beyond its end would be the end of the
/// process, while a page of zeros is an error.
fn check_length(env: &Env) -> heed::Result<()> {
    let (info, page) = (env.info(), u64::from(env.unnamed_database_stat().page_size));
    let needed = (info.last_page_number as u64 + 1) * page;
    let file = env.try_clone_inner_file()?;
    if file.metadata()?.len() >= needed {
        return Ok(());
    }
    if needed > info.map_size as u64 {
        return Err(heed::Error::Mdb(MdbError::Corrupted));
    }
    file.set_len(needed)?;
    let txn = env.read_txn()?;
    let walked = env.open_databases_and_commit(txn, |opener, txn| {
        for name in ["entries", "order", "ends", "log", "markers", "counters", "state"] {
            if let Some(db) = opener.open_database::<Bytes, Bytes>(txn, Some(name))? {
                for row in db.iter(txn)? {
                    row?;
                }
            }
        }
        Ok::<_, heed::Error>(CommitOrAbort::<(), ()>::Abort(()))
    });
    walked.map(|_| ())
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
