//! Opening a store: its directory, what is put back or set aside of it, its environment and databases; and making its file small.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use heed::types::Bytes;
use heed::{CommitOrAbort, CompactionOption, Env, EnvFlags, EnvOpenOptions, MdbError, WithoutTls};
use parking_lot::Mutex;

use super::checkpoint::{self, Checkpoints};
use super::head::Head;
use super::layout::{self, Held, Layout, failed, refuse};
use super::queue::Queue;
use super::rows::{FORMAT, State};
use super::store::{Dbs, READERS, STATE, Store, error_of};
use super::values::Values;
use crate::tier::{TierError, TierErrorKind};

/// Address space of an environment: four times the size, and no less than this. It costs nothing until it is used, and
/// processes that ask for different sizes have the same.
const LEAST_MAP: u64 = 1 << 34;

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
}

/// Waits until the store of that path, which no tier has open any more, is closed; not for long.
pub(super) fn wait_closed(path: &Path, patience: Duration) {
    if let Some(closing) = heed::env_closing_event(path) {
        closing.wait_timeout(patience);
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
fn begin_log(env: &Env<WithoutTls>, dbs: &Dbs, state: &State) -> heed::Result<()> {
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
fn open_env(path: &Path, max_size: u64, checkpoints: bool) -> Result<(Env<WithoutTls>, Dbs, State), Trouble> {
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
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
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
fn check_length(env: &Env<WithoutTls>) -> heed::Result<()> {
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
