//! Group commit: one thread writes, and takes everything that waits into one transaction. Whoever waits is answered once that is
//! committed, others can see it, and the watcher has been told.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot::Sender;

use super::known::Known;
use super::store::Store;
use super::sweep::Sweep;
use super::watch::Watch;
use super::writing::{Prepared, Writing};
use crate::tier::{Fact, Key, TierError, TierErrorKind};

/// Bytes of records that wait at most.
const MOST_WAITING: usize = 64 << 20;

/// Bytes of records and calls that one transaction takes at most.
const MOST_BYTES: usize = 8 << 20;
const MOST_CALLS: usize = 4096;

/// How often the thread looks for what is over.
const SWEEP: Duration = Duration::from_secs(1);

/// How often what was written is brought to disk.
const SYNC: Duration = Duration::from_secs(1);

/// How long a flush waits for another process that brings the store to disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is to be done, and who waits for it.
pub(super) enum Work {
    Put(Vec<Prepared>, Sender<Vec<Result<(), TierError>>>),
    Delete(Vec<Key>, Sender<Vec<Result<(), TierError>>>),
    Mark(Fact, Sender<Result<(), TierError>>),
    Next(Key, u64, Sender<Result<u64, TierError>>),
    /// Has all before it on disk.
    Flush(Sender<Result<(), TierError>>),
}

/// Work, for one tier object.
pub(super) struct Job {
    pub work: Work,
    pub of: Arc<Watch>,
}

/// What came of a piece of work.
enum Outcome {
    Each(Vec<Result<(), TierError>>),
    One(Result<(), TierError>),
    Number(Result<u64, TierError>),
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    bytes: usize,
    ended: bool,
}

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    change: Condvar,
    /// It is the end.
    end: Condvar,
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Queue(Arc<Inner>);

impl Work {
    fn bytes(&self) -> usize {
        match self {
            Self::Put(puts, _) => puts.iter().map(|put| put.envelope.len()).sum(),
            _ => 0,
        }
    }

    /// Who is left waiting is told why.
    fn fail(self, error: &TierError) {
        // An error of sending is that nobody waits any more.
        match self {
            Self::Put(puts, to) => drop(to.send(vec![Err(error.clone()); puts.len()])),
            Self::Delete(keys, to) => drop(to.send(vec![Err(error.clone()); keys.len()])),
            Self::Mark(_, to) | Self::Flush(to) => drop(to.send(Err(error.clone()))),
            Self::Next(_, _, to) => drop(to.send(Err(error.clone()))),
        }
    }

    fn answer(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Put(_, to) | Self::Delete(_, to), Outcome::Each(each)) => drop(to.send(each)),
            (Self::Mark(_, to) | Self::Flush(to), Outcome::One(one)) => drop(to.send(one)),
            (Self::Next(_, _, to), Outcome::Number(number)) => drop(to.send(number)),
            (work, _) => work.fail(&TierError::new(TierErrorKind::Unavailable, "tier 'disk': no answer")),
        }
    }

    /// Does it within a transaction. An error is that the transaction is lost.
    fn carry_out(&self, writing: &mut Writing<'_>, known: &mut Known) -> Result<Outcome, TierError> {
        Ok(match self {
            Self::Put(puts, _) => {
                let mut each = Vec::with_capacity(puts.len());
                for put in puts {
                    writing.put(put, known)?;
                    writing.make_room(put.envelope.len() as u64)?;
                    each.push(Ok(()));
                }
                Outcome::Each(each)
            }
            Self::Delete(keys, _) => {
                keys.iter().try_for_each(|key| writing.delete(key))?;
                Outcome::Each(vec![Ok(()); keys.len()])
            }
            Self::Mark(fact, _) => Outcome::One(writing.mark(fact.clone(), known)),
            Self::Next(name, above, _) => Outcome::Number(writing.next(name, *above)),
            Self::Flush(_) => Outcome::One(Ok(())),
        })
    }
}

impl Queue {
    /// Starts the threads of a store: one writes, the other brings what was written to disk. They end with the store.
    pub fn start(store: &Arc<Store>) -> std::io::Result<()> {
        let spawn = |name: &str, run: fn(&Inner, &Weak<Store>)| {
            let (inner, weak) = (Arc::clone(&store.queue.0), Arc::downgrade(store));
            std::thread::Builder::new().name(name.into()).spawn(move || run(&inner, &weak)).map(drop)
        };
        spawn("kvcache-disk", Inner::run)?;
        spawn("kvcache-sync", Inner::run_sync)
    }

    /// Takes a job, or fails it where too much waits.
    pub fn push(&self, job: Job) {
        let bytes = job.work.bytes();
        let mut waiting = self.0.waiting.lock();
        if waiting.bytes + bytes > MOST_WAITING && waiting.bytes > 0 {
            drop(waiting);
            let message = format!("tier 'disk': more than {} MB wait to be written", MOST_WAITING >> 20);
            return job.work.fail(&TierError::new(TierErrorKind::Unavailable, message));
        }
        waiting.bytes += bytes;
        waiting.jobs.push_back(job);
        drop(waiting);
        self.0.change.notify_one();
    }

    /// Ends the thread, once it has nothing to do.
    pub fn end(&self) {
        self.0.waiting.lock().ended = true;
        self.0.change.notify_one();
        self.0.end.notify_one();
    }
}

impl Inner {
    fn run(&self, store: &Weak<Store>) {
        let (mut known, mut sweep, mut next) = (Known::default(), Sweep::default(), Instant::now());
        loop {
            let mut waiting = self.waiting.lock();
            while waiting.jobs.is_empty() && !waiting.ended && Instant::now() < next {
                self.change.wait_until(&mut waiting, next);
            }
            let jobs = waiting.take();
            if jobs.is_empty() && waiting.ended {
                return;
            }
            drop(waiting);
            let Some(store) = store.upgrade() else {
                let closed = TierError::closed();
                jobs.into_iter().for_each(|job| job.work.fail(&closed));
                return;
            };
            if !jobs.is_empty() {
                perform(&store, jobs, &mut known);
                if store.was_full() || is_tight(&store).unwrap_or(false) {
                    // An error is met again, by who writes.
                    let _ = make_room(&store);
                }
                if store.is_due() {
                    // Whoever writes on would do so on new pages. An error is met again, by who flushes.
                    let _ = store.sync(SYNC);
                }
            }
            if Instant::now() >= next {
                if sweep.run(&store) {
                    known.forget();
                }
                next = Instant::now() + SWEEP;
            }
        }
    }
}

impl Inner {
    /// Once a second, what was written is brought to disk.
    fn run_sync(&self, store: &Weak<Store>) {
        loop {
            let mut waiting = self.waiting.lock();
            let until = Instant::now() + SYNC;
            while !waiting.ended && Instant::now() < until {
                self.end.wait_until(&mut waiting, until);
            }
            if waiting.ended {
                return;
            }
            drop(waiting);
            let Some(store) = store.upgrade() else { return };
            if store.unsynced.load(Ordering::Relaxed) > 0 {
                // An error is met again, by who flushes.
                let _ = store.sync(Duration::ZERO);
            }
        }
    }
}

impl Waiting {
    /// What one transaction takes.
    fn take(&mut self) -> Vec<Job> {
        let (mut jobs, mut bytes) = (Vec::new(), 0);
        while jobs.len() < MOST_CALLS && bytes < MOST_BYTES {
            let Some(job) = self.jobs.pop_front() else { break };
            bytes += job.work.bytes();
            jobs.push(job);
        }
        self.bytes -= bytes;
        jobs
    }
}

/// Does all of it in one transaction. If there is no room, room is made and it is tried once more.
fn perform(store: &Arc<Store>, jobs: Vec<Job>, known: &mut Known) {
    let mut done = transact(store, &jobs, known);
    if done.is_err() && store.was_full() {
        known.forget();
        done = make_room(store).and_then(|()| transact(store, &jobs, known));
    }
    let outcomes = match done {
        Ok(outcomes) => outcomes,
        Err(error) => {
            known.forget();
            for job in jobs {
                if let Work::Put(puts, _) = &job.work {
                    puts.iter().filter_map(|put| put.envelope.file()).for_each(|file| store.values.remove(file));
                }
                job.work.fail(&error);
            }
            return;
        }
    };
    // Own facts are told before the call that wrote them is answered.
    let mut told: Vec<*const Watch> = Vec::new();
    for job in &jobs {
        if !told.contains(&Arc::as_ptr(&job.of)) {
            told.push(Arc::as_ptr(&job.of));
            job.of.catch_up();
        }
    }
    let mut synced = None;
    for (job, outcome) in jobs.into_iter().zip(outcomes) {
        let outcome = match &job.work {
            Work::Flush(_) => Outcome::One(synced.get_or_insert_with(|| store.sync(PATIENCE)).clone()),
            _ => outcome,
        };
        job.work.answer(outcome);
    }
}

fn transact(store: &Store, jobs: &[Job], known: &mut Known) -> Result<Vec<Outcome>, TierError> {
    if jobs.iter().all(|job| matches!(job.work, Work::Flush(_))) {
        return Ok(jobs.iter().map(|_| Outcome::One(Ok(()))).collect());
    }
    let mut writing = Writing::begin(store)?;
    let mut outcomes = Vec::with_capacity(jobs.len());
    for job in jobs {
        writing.writer = job.of.writer;
        outcomes.push(job.work.carry_out(&mut writing, known)?);
    }
    writing.make_room(u64::MAX)?;
    writing.commit()?;
    Ok(outcomes)
}

/// Whether the file can neither grow nor has free pages to speak of.
fn is_tight(store: &Store) -> Result<bool, TierError> {
    if store.reserve() {
        return Ok(false);
    }
    let txn = store.read()?;
    let state = store.state(&txn)?;
    let pages = store.used(&txn, &state)?.saturating_sub(state.aside);
    Ok(store.file_size().saturating_sub(pages) < store.ahead())
}

/// Removes what goes first. That takes free pages itself, which a checkpoint sets free; less is removed where these are few.
fn make_room(store: &Store) -> Result<(), TierError> {
    let mut done = Ok(());
    for part in [8, 64, 512] {
        store.sync(PATIENCE)?;
        done = evict(store, part);
        if done.is_ok() {
            break;
        }
    }
    done?;
    store.sync(PATIENCE)
}

fn evict(store: &Store, part: u64) -> Result<(), TierError> {
    let mut writing = Writing::begin(store)?;
    let used = store.used(&writing.txn, &writing.state)?;
    writing.evict_to(used - used / part)?;
    writing.commit().map(drop)
}
