//! What a store does for itself: drops what is over, makes room, trims the log, clears what dead processes have left.
//!
//! *What goes first* where there is no room: lines of the log beyond the newest thousand, then records in the order in which they were
//! stored, those left out that were read since this was asked last (a clock, or second chance: W. Kahan, F. Corbató 1968). That a
//! record was read is one byte in the stamps file, for a read must not write to the store.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::rows::{self, Head, Holds, Line};
use super::store::Store;
use super::writing::Writing;
use crate::tier::{Fact, TierError, unix_now};

/// Lines that the log keeps, and how long it keeps those beyond, and at most.
const LINES: u64 = 100_000;
const LINES_AGE: u64 = 60_000;
const MOST_LINES: u64 = 1_000_000;

/// Lines that are left of it where there is no room.
const LEAST_LINES: u64 = 1000;

/// How long, in milliseconds, it is remembered of what is over that it was written: else no load that began before would be
/// stored, whichever its key.
const TOMBSTONE: u64 = 120_000;

/// Rows that one sweep's transaction removes at most: others want to write, too.
const SLICE: usize = 2000;

/// How often what is rare is looked for.
const MINUTE: Duration = Duration::from_secs(60);

/// See the module. Kept by the thread that writes.
#[derive(Default)]
pub(super) struct Sweep {
    /// Files that nothing named a minute ago.
    orphans: HashSet<u64>,
    last: Option<Instant>,
}

impl Sweep {
    /// One sweep. Whether markers have gone. What fails is tried again by the next.
    pub fn run(&mut self, store: &Store) -> bool {
        store.let_go();
        for _ in 0..50 {
            match step(store) {
                Ok(true) => {}
                Ok(false) | Err(_) => break,
            }
        }
        if self.last.is_some_and(|last| last.elapsed() < MINUTE) {
            return false;
        }
        self.last = Some(Instant::now());
        // Those of the dead may be what keeps the pages of the last checkpoint.
        if store.is_kept() || store.sync(Duration::ZERO).is_ok() {
            let _ = store.env.clear_stale_readers();
        }
        let _ = self.drop_orphans(store);
        drop_markers(store).unwrap_or(false)
    }

    /// Removes the files that nothing names, now nor a minute ago: one that was just written is to be named.
    fn drop_orphans(&mut self, store: &Store) -> Result<(), TierError> {
        let mut orphans = HashSet::new();
        for file in store.values.all() {
            let named = match store.values.beginning(file) {
                Ok(bytes) => names(store, &bytes, file)?,
                Err(_) => true,
            };
            if !named && self.orphans.contains(&file) {
                store.values.remove(file);
            } else if !named {
                orphans.insert(file);
            }
        }
        self.orphans = orphans;
        Ok(())
    }
}

/// Whether the key that a file begins with has its value there.
fn names(store: &Store, beginning: &[u8], file: u64) -> Result<bool, TierError> {
    let txn = store.read()?;
    let key = crate::codec::envelope::key_of(beginning).unwrap_or_default();
    if key.is_empty() {
        return Ok(false);
    }
    let row = store.dbs.entries.get(&txn, key).map_err(|e| store.error(e))?;
    let head = row.and_then(|row| Head::decode(row).ok());
    Ok(head.is_some_and(|(head, _)| head.holds == Holds::Aside && head.file == file))
}

/// Removes a slice of what is over. Whether there may be more.
fn step(store: &Store) -> Result<bool, TierError> {
    {
        let (txn, now) = (store.read()?, unix_now());
        let first = store.dbs.ends.first(&txn).map_err(|e| store.error(e))?;
        let over = first.is_some_and(|(key, _)| rows::number_of(key) <= now);
        if !over && !log_is_long(store, &txn)? && store.used(&txn, &store.state(&txn)?)? <= limit(store) {
            return Ok(false);
        }
    }
    let mut writing = Writing::begin(store)?;
    let mut removed = 0;
    while removed < SLICE && writing.drop_first_over()? {
        removed += 1;
    }
    let trimmed = writing.trim(LINES, SLICE * 4)?;
    writing.make_room(u64::MAX)?;
    writing.commit()?;
    Ok(removed == SLICE || trimmed == SLICE * 4)
}

fn log_is_long(store: &Store, txn: &heed::RoTxn<'_>) -> Result<bool, TierError> {
    let first = store.dbs.log.first(txn).map_err(|e| store.error(e))?;
    let Some((key, row)) = first else { return Ok(false) };
    let lines = store.state(txn)?.seq - rows::number_of(key) + 1;
    let at = Line::decode(row, store.epoch)?.fact.at;
    Ok(lines > LINES && (lines > MOST_LINES || at + LINES_AGE < unix_now()))
}

/// Removes the markers that can cut nothing any more. Whether there were any.
fn drop_markers(store: &Store) -> Result<bool, TierError> {
    let over = |row: &[u8]| Line::decode(row, store.epoch).map_or(true, |line| !Fact::is_alive(&line.fact, unix_now()));
    let mut keys = Vec::new();
    {
        let txn = store.read()?;
        for row in store.dbs.markers.iter(&txn).map_err(|e| store.error(e))? {
            let (key, row) = row.map_err(|e| store.error(e))?;
            if over(row) {
                keys.push(key.to_vec());
            }
        }
    }
    if keys.is_empty() {
        return Ok(false);
    }
    let mut writing = Writing::begin(store)?;
    for key in keys {
        let still = store.dbs.markers.get(&writing.txn, &key).map_err(|e| store.error(e))?.is_some_and(over);
        if still {
            store.dbs.markers.delete(&mut writing.txn, &key).map_err(|e| store.error(e))?;
        }
    }
    writing.commit()?;
    Ok(true)
}

/// Bytes above which room is made. The rest is for pages that are free, but not to be used again before the next checkpoint; where
/// the file is nearly as long as it may get there must be more of these.
fn limit(store: &Store) -> u64 {
    let most = store.max_size();
    let limit = most / 8 * 7 - (most / 6).min(8 << 20);
    let beyond = store.file_size().saturating_sub(most / 16 * 15);
    limit - beyond.min(limit / 2)
}

impl Writing<'_> {
    /// Removes the row that ended first, if it has.
    fn drop_first_over(&mut self) -> Result<bool, TierError> {
        let store = self.store;
        let Some((at, key)) = store.dbs.ends.first(&self.txn).map_err(|e| store.error(e))? else { return Ok(false) };
        if rows::number_of(at) > self.now {
            return Ok(false);
        }
        let (at, key) = (at.to_vec(), key.to_vec());
        match self.head(&key)? {
            Some(head) if rows::ends_key(head.ends, head.order) != at[..] => {
                store.dbs.ends.delete(&mut self.txn, &at).map_err(|e| store.error(e))?;
            }
            Some(head) if head.holds != Holds::Tombstone && head.fact > self.state.floor => {
                self.bury_for(&key, head.fact, TOMBSTONE)?;
            }
            Some(head) => self.remove(&key, &head)?,
            None => {
                store.dbs.ends.delete(&mut self.txn, &at).map_err(|e| store.error(e))?;
            }
        }
        Ok(true)
    }

    /// Removes lines of the log, so that `keep` are left and those that are young. How many.
    fn trim(&mut self, keep: u64, most: usize) -> Result<usize, TierError> {
        let (store, mut trimmed) = (self.store, 0);
        while trimmed < most {
            let first = store.dbs.log.first(&self.txn).map_err(|e| store.error(e))?;
            let Some((key, row)) = first else { break };
            let lines = self.state.seq.saturating_sub(rows::number_of(key)) + 1;
            let young = || Line::decode(row, store.epoch).is_ok_and(|line| line.fact.at + LINES_AGE >= self.now);
            if lines <= keep || keep == LINES && lines <= MOST_LINES && young() {
                break;
            }
            let key = key.to_vec();
            store.dbs.log.delete(&mut self.txn, &key).map_err(|e| store.error(e))?;
            trimmed += 1;
        }
        Ok(trimmed)
    }

    /// After so many bytes have come: evicts, if there is more than there may be. It is looked at each time a 64th of the size
    /// has come, and at the end of each transaction.
    pub fn make_room(&mut self, came: u64) -> Result<(), TierError> {
        self.came = self.came.saturating_add(came).saturating_add(256);
        if self.came < self.store.max_size() / 64 {
            return Ok(());
        }
        self.came = 0;
        let limit = limit(self.store);
        if self.store.used(&self.txn, &self.state)? > limit { self.evict_to(limit / 16 * 15) } else { Ok(()) }
    }

    /// Removes what goes first, until no more than so many bytes are used.
    pub fn evict_to(&mut self, target: u64) -> Result<(), TierError> {
        let store = self.store;
        let mut chances = 10_000;
        loop {
            let used = store.used(&self.txn, &self.state)?;
            if used <= target {
                return Ok(());
            }
            if self.trim(LEAST_LINES, 1000)? > 0 {
                continue;
            }
            // What is freed is looked at anew after a few rows: pages are shared.
            let mut freed = 0;
            for _ in 0..32 {
                if freed >= used - target {
                    break;
                }
                let first = store.dbs.order.first(&self.txn).map_err(|e| store.error(e))?;
                let Some((at, key)) = first else { return self.drop_tombstones() };
                let (at, key) = (at.to_vec(), key.to_vec());
                match self.head(&key)? {
                    Some(head) if head.order == rows::number_of(&at) => {
                        if chances > 0 && store.head.take_used(&key) {
                            chances -= 1;
                            self.renew(&key, &head)?;
                        } else {
                            freed += head.len;
                            self.remove(&key, &head)?;
                        }
                    }
                    _ => {
                        store.dbs.order.delete(&mut self.txn, &at).map_err(|e| store.error(e))?;
                    }
                }
            }
        }
    }

    /// Nothing else is left.
    fn drop_tombstones(&mut self) -> Result<(), TierError> {
        let store = self.store;
        while let Some((at, key)) = store.dbs.ends.first(&self.txn).map_err(|e| store.error(e))? {
            let (at, key) = (at.to_vec(), key.to_vec());
            store.dbs.ends.delete(&mut self.txn, &at).map_err(|e| store.error(e))?;
            if let Some(head) = self.head(&key)?.filter(|head| head.holds == Holds::Tombstone) {
                self.remove(&key, &head)?;
            }
        }
        Ok(())
    }
}
