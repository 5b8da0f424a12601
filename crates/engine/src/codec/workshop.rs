//! What is compressed and decompressed off the JavaScript threads, and the tools for it.
//!
//! A value is stored plain at once and compressed later: a put or a load never waits for it, and the compressed form
//! takes the place of the plain one only if that is still what is stored. What waits is bounded; beyond the bound values
//! stay plain. Jobs name a key rather than hold its value, so that what waits takes no memory beside the budget.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::compress::{Compressor, Error};
use crate::engine::{Compression, ThreadId};
use crate::entry::Entry;
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// Most values that wait to be compressed.
const MOST_WAITING: usize = 65_536;

/// Room kept from one piece of work to the next, bytes.
const KEPT: usize = 1024 * 1024;

/// A piece of work.
#[derive(Debug)]
pub enum Job {
    /// Compress what is stored under the key by then.
    Compress(Arc<[u8]>),
    /// Count uses that a near cache has reported, by the hashes of the keys.
    Touch(Vec<u64>),
    /// Decompress the value of an entry for a thread.
    Inflate { thread: ThreadId, number: u64, entry: Entry },
}

/// A value decompressed: the entry it is of, and its bytes.
#[derive(Debug)]
pub struct Inflated {
    pub entry: Entry,
    pub bytes: Result<Vec<u8>, Error>,
}

/// The work of one cache.
#[derive(Debug, Default)]
pub struct Workshop {
    jobs: Mutex<VecDeque<Job>>,
    /// Jobs that wait or are being done.
    open: AtomicUsize,
    inflated: Mutex<HashMap<u64, (ThreadId, Inflated)>>,
    last_number: AtomicU64,
}

impl Workshop {
    /// Adds a job. False if too many wait.
    pub fn submit(&self, job: Job) -> bool {
        let mut jobs = self.jobs.lock();
        if jobs.len() >= MOST_WAITING {
            return false;
        }
        self.open.fetch_add(1, Ordering::SeqCst);
        jobs.push_back(job);
        true
    }

    /// Adds the decompression of a value, ahead of all compression: a caller waits for it. Its number.
    pub fn submit_inflation(&self, thread: ThreadId, entry: Entry) -> u64 {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.fetch_add(1, Ordering::SeqCst);
        self.jobs.lock().push_front(Job::Inflate { thread, number, entry });
        number
    }

    /// Takes a job, which is to be reported by [`Workshop::done`].
    pub fn next(&self) -> Option<Job> {
        self.jobs.lock().pop_front()
    }

    /// A job that was taken is done.
    pub fn done(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether jobs wait.
    pub fn has_work(&self) -> bool {
        !self.jobs.lock().is_empty()
    }

    /// Whether no job waits or is being done.
    pub fn is_idle(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    /// Keeps what was decompressed under that number for a thread.
    pub fn inflated(&self, thread: ThreadId, number: u64, inflated: Inflated) {
        self.inflated.lock().insert(number, (thread, inflated));
    }

    /// What was decompressed under that number, once.
    pub fn take_inflated(&self, number: u64) -> Option<Inflated> {
        self.inflated.lock().remove(&number).map(|(_, inflated)| inflated)
    }

    /// Drops what a thread has not taken, and what is still to be done for it.
    pub fn forget(&self, thread: ThreadId) {
        let mut dropped = 0;
        self.jobs.lock().retain(|job| {
            let keep = !matches!(job, Job::Inflate { thread: of, .. } if *of == thread);
            dropped += usize::from(!keep);
            keep
        });
        self.open.fetch_sub(dropped, Ordering::SeqCst);
        self.inflated.lock().retain(|_, (of, _)| *of != thread);
    }
}

/// What a worker thread works with.
#[derive(Default)]
pub struct Tools {
    compressor: Compressor,
    room: Vec<u8>,
}

impl Tools {
    /// The entry with its value compressed; `None` where that does not pay.
    pub fn compress(&mut self, entry: &Entry, how: &Compression) -> Option<Entry> {
        let paid = self.compressor.compress(how.algorithm, how.level, entry.value(), &mut self.room);
        let compressed = paid.then(|| entry.compressed(how.algorithm, &self.room));
        self.tidy();
        compressed
    }

    /// The value of an entry, decompressed.
    pub fn inflate(&mut self, entry: Entry) -> Inflated {
        let mut bytes = Vec::new();
        let result = self.inflate_into(&entry, &mut bytes);
        Inflated { bytes: result.map(|()| bytes), entry }
    }

    /// Writes the value of an entry, decompressed, in place of what `bytes` holds.
    pub fn inflate_into(&mut self, entry: &Entry, bytes: &mut Vec<u8>) -> Result<(), Error> {
        match entry.codec() {
            Some(algorithm) => self.compressor.decompress(algorithm, entry.value(), entry.raw_len(), bytes),
            None => {
                bytes.clear();
                bytes.extend_from_slice(entry.value());
                Ok(())
            }
        }
    }

    fn tidy(&mut self) {
        if self.room.capacity() > KEPT {
            self.room = Vec::new();
        }
    }
}
