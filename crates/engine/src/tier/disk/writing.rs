//! What a transaction that writes does to the store.
//!
//! Each write, delete and marker takes the next number of the log, in the transaction that carries it out: the record or tombstone,
//! the line of the log and the marker are there together or not at all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use heed::{MdbError, RwTxn};

use super::known::Known;
use super::rows::{self, HEAD_BYTES, Head, Holds, Line, State};
use super::store::{STATE, Store};
use crate::clock::FOREVER;
use crate::invalidation::links;
use crate::invalidation::target::Target;
use crate::tier::{Fact, Key, PutOf, Record, TierError, TierErrorKind, unix_now};

/// How long a tombstone is kept: no load takes as long, and one that does is not stored.
const TOMBSTONE: u64 = 3_600_000;

/// How long a transaction waits for another process that brings the store to disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// A record, ready to be stored.
pub(super) struct Prepared {
    pub record: Record,
    pub of: PutOf,
    pub envelope: Envelope,
}

/// Where its envelope is.
pub(super) enum Envelope {
    Here(Vec<u8>),
    /// In that file, of so many bytes.
    Aside(u64, u64),
    /// It is none: it was refused, and leaves nothing older behind.
    None,
}

/// A transaction that writes, with the numbers of the store.
pub(super) struct Writing<'a> {
    pub store: &'a Store,
    pub txn: RwTxn<'a>,
    pub state: State,
    /// Who writes.
    pub writer: u64,
    pub now: u64,
    /// Files that nothing names once this is committed.
    files: Vec<u64>,
    /// Bytes that have come since room was looked for.
    pub came: u64,
    /// Bytes of the pages that were written, roughly: most rows have one of `entries` to themselves, and share those of the rest.
    pages: u64,
}

impl<'a> Writing<'a> {
    pub fn begin(store: &'a Store) -> Result<Self, TierError> {
        store.check()?;
        let mut txn = store.env.write_txn().map_err(|e| store.error(e))?;
        while !store.is_kept() {
            drop(txn);
            store.sync(PATIENCE)?;
            txn = store.env.write_txn().map_err(|e| store.error(e))?;
        }
        let state = store.state(&txn)?;
        Ok(Self { store, txn, state, writer: 0, now: unix_now(), files: Vec::new(), came: 0, pages: 0 })
    }

    /// Commits. Others see it from then on, and that there is something to see.
    pub fn commit(mut self) -> Result<State, TierError> {
        let store = self.store;
        let put = store.dbs.state.put(&mut self.txn, STATE, &self.state.encode());
        put.and_then(|()| self.txn.commit()).map_err(|e| store.error(e))?;
        store.head.raise(self.state.seq);
        store.unsynced.fetch_add(self.pages, Ordering::Relaxed);
        self.files.into_iter().for_each(|file| store.values.remove(file));
        Ok(self.state)
    }

    fn ok<T>(&self, result: heed::Result<T>) -> Result<T, TierError> {
        result.map_err(|e| self.store.error(e))
    }

    /// What a key has. A head that cannot be read counts as nothing: what is written next takes its place.
    pub fn head(&self, key: &[u8]) -> Result<Option<Head>, TierError> {
        let row = match self.store.dbs.entries.get(&self.txn, key) {
            Err(heed::Error::Mdb(MdbError::BadValSize)) => None,
            row => self.ok(row)?,
        };
        Ok(row.and_then(|row| Head::decode(row).ok()).map(|(head, _)| head))
    }

    /// Appends a fact to the log. Its number.
    fn append(&mut self, mut fact: Fact, marked: bool) -> Result<Line, TierError> {
        self.pages += 1024;
        self.state.seq += 1;
        (fact.seq, fact.epoch) = (self.state.seq, self.state.epoch);
        let line = Line { fact, writer: self.writer, marked };
        let put = self.store.dbs.log.put(&mut self.txn, &rows::key_of(self.state.seq), &line.encode());
        self.ok(put)?;
        Ok(line)
    }

    fn append_key(&mut self, key: &[u8]) -> Result<u64, TierError> {
        let target = Target::Key(key.into());
        let fact = Fact { target, soft: false, seq: 0, epoch: 0, at: self.now, until: FOREVER };
        self.append(fact, false).map(|line| line.fact.seq)
    }

    /// Removes what the indices and the files have of a row.
    fn unlink(&mut self, head: &Head) -> Result<(), TierError> {
        let dbs = self.store.dbs;
        self.pages += 4096;
        if head.holds != Holds::Tombstone {
            let gone = dbs.order.delete(&mut self.txn, &rows::key_of(head.order));
            self.ok(gone)?;
        }
        if head.ends != FOREVER {
            let gone = dbs.ends.delete(&mut self.txn, &rows::ends_key(head.ends, head.order));
            self.ok(gone)?;
        }
        if head.holds == Holds::Aside {
            self.state.aside = self.state.aside.saturating_sub(head.len);
            self.files.push(head.file);
        }
        Ok(())
    }

    /// Writes a row, with its places in the indices. What the key had is unlinked before.
    fn link(&mut self, key: &[u8], mut head: Head, envelope: &[u8]) -> Result<(), TierError> {
        let dbs = self.store.dbs;
        self.pages += 4096 + envelope.len() as u64;
        self.state.order += 1;
        head.order = self.state.order;
        if head.holds != Holds::Tombstone {
            let put = dbs.order.put(&mut self.txn, &rows::key_of(head.order), key);
            self.ok(put)?;
        }
        if head.ends != FOREVER {
            let put = dbs.ends.put(&mut self.txn, &rows::ends_key(head.ends, head.order), key);
            self.ok(put)?;
        }
        let mut row = Vec::with_capacity(HEAD_BYTES + envelope.len());
        row.extend_from_slice(&head.encode());
        row.extend_from_slice(envelope);
        let put = dbs.entries.put(&mut self.txn, key, &row);
        self.ok(put)
    }

    /// Leaves nothing of a key but the number of the fact that ended it.
    fn bury(&mut self, key: &[u8], fact: u64) -> Result<(), TierError> {
        self.bury_for(key, fact, TOMBSTONE)
    }

    /// The same, for so many milliseconds.
    pub fn bury_for(&mut self, key: &[u8], fact: u64, time: u64) -> Result<(), TierError> {
        if let Some(old) = self.head(key)? {
            self.unlink(&old)?;
        }
        let ends = self.now + time;
        self.link(key, Head { holds: Holds::Tombstone, seq: fact, fact, order: 0, ends, file: 0, len: 0 }, &[])
    }

    /// Removes a row for good. A load that began before the fact it had will not be stored: who could tell whether it may be?
    pub fn remove(&mut self, key: &[u8], head: &Head) -> Result<(), TierError> {
        self.unlink(head)?;
        self.state.floor = self.state.floor.max(head.fact);
        let gone = self.store.dbs.entries.delete(&mut self.txn, key);
        self.ok(gone).map(|_| ())
    }

    /// Puts a row at the end of the order: it was used.
    pub fn renew(&mut self, key: &[u8], head: &Head) -> Result<(), TierError> {
        let row = self.ok(self.store.dbs.entries.get(&self.txn, key))?.map(<[u8]>::to_vec).unwrap_or_default();
        let (order, ends) = (self.store.dbs.order, self.store.dbs.ends);
        let gone = order.delete(&mut self.txn, &rows::key_of(head.order));
        self.ok(gone)?;
        if head.ends != FOREVER {
            let gone = ends.delete(&mut self.txn, &rows::ends_key(head.ends, head.order));
            self.ok(gone)?;
        }
        self.link(key, *head, row.get(HEAD_BYTES..).unwrap_or_default())
    }

    /// Stores a record, or leaves out what a load brought and a newer fact cuts.
    pub fn put(&mut self, put: &Prepared, known: &mut Known) -> Result<(), TierError> {
        let (record, old) = (&put.record, self.head(&put.record.key)?);
        let (seq, fact) = match put.of {
            PutOf::Write => {
                let seq = self.append_key(&record.key)?;
                (seq, seq)
            }
            PutOf::Load if self.is_cut(record, old.as_ref(), known)? => {
                self.files.extend(put.envelope.file());
                return Ok(());
            }
            PutOf::Load => (record.seq, old.map_or(0, |old| old.fact)),
        };
        let (holds, file, len, bytes) = match &put.envelope {
            Envelope::Here(bytes) => (Holds::Record, 0, bytes.len() as u64, &bytes[..]),
            Envelope::Aside(file, len) => (Holds::Aside, *file, *len, &[][..]),
            Envelope::None => return self.bury(&record.key, fact),
        };
        if !record.is_alive(self.now) {
            self.files.extend(put.envelope.file());
            return self.bury(&record.key, fact);
        }
        if let Some(old) = old {
            self.unlink(&old)?;
        }
        if holds == Holds::Aside {
            self.state.aside += len;
        }
        self.link(&record.key, Head { holds, seq, fact, order: 0, ends: record.dead_at(), file, len }, bytes)
    }

    /// Whether what a load brought is of another log, or older than a fact that cuts it.
    fn is_cut(&self, record: &Record, old: Option<&Head>, known: &mut Known) -> Result<bool, TierError> {
        let seq = record.seq;
        if record.epoch != self.state.epoch || seq > self.state.seq || seq < self.state.floor {
            return Ok(true);
        }
        if old.is_some_and(|old| old.seq > seq || old.fact > seq) {
            return Ok(true);
        }
        if seq == self.state.seq {
            return Ok(false);
        }
        let markers = known.up_to(self.store, &self.txn, &self.state)?;
        if markers.over_key(&record.key, seq).newest() > seq {
            return Ok(true);
        }
        for (role, name) in links::names(&record.links) {
            let newest = if role.is_tag() { markers.over_tag(name, seq) } else { markers.over_key(name, seq) }.newest();
            if newest > seq || !role.is_tag() && self.head(name)?.is_some_and(|parent| parent.fact > seq) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes a key.
    pub fn delete(&mut self, key: &Key) -> Result<(), TierError> {
        let fact = self.append_key(key)?;
        self.bury(key, fact)
    }

    /// Writes a fact down.
    pub fn mark(&mut self, fact: Fact, known: &mut Known) -> Result<(), TierError> {
        let mut line = self.append(fact, true)?;
        known.add(&line.fact);
        if let (Target::Key(key), false) = (&line.fact.target, line.fact.soft) {
            let seq = line.fact.seq;
            let key = key.clone();
            self.bury(&key, seq)?;
        }
        let markers = self.store.dbs.markers;
        let register = line.register();
        let before = self.ok(markers.get(&self.txn, &register))?;
        if let Some(before) = before.and_then(|row| Line::decode(row, self.state.epoch).ok()) {
            // The newest number, and what else says more.
            line.fact.at = line.fact.at.max(before.fact.at);
            line.fact.until = line.fact.until.max(before.fact.until);
        }
        let put = markers.put(&mut self.txn, &register, &line.encode());
        self.ok(put)
    }

    /// The next number of a counter.
    pub fn next(&mut self, name: &Key, above: u64) -> Result<u64, TierError> {
        let counters = self.store.dbs.counters;
        let before = self.ok(counters.get(&self.txn, name))?.map_or(0, rows::number_of);
        let next = before
            .max(above)
            .checked_add(1)
            .ok_or_else(|| TierError::new(TierErrorKind::Refused, "tier 'disk': there is no larger version number"))?;
        let put = counters.put(&mut self.txn, name, &rows::key_of(next));
        self.ok(put)?;
        Ok(next)
    }
}

impl Envelope {
    pub fn file(&self) -> Option<u64> {
        match self {
            Self::Aside(file, _) => Some(*file),
            _ => None,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::Aside(_, len) => *len as usize,
            Self::None => 0,
        }
    }
}
