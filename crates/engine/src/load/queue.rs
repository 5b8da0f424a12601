//! The background refresh queue: bounded in length and in concurrency, each key in it at most once.
//!
//! What is queued is a batch: the keys that one call of a fetcher refreshes, nearly always one. That a key is in at most
//! one batch is seen to by the flight table, where a queued refresh is attached to its key like any load.
//!
//! ```text
//!   open ─add─▶ Forming ─seal─▶ Waiting ─pump─▶ Starting ─start─▶ Running ─finish─▶ (done)
//!                                  ▲                                 │ some failed, retries left
//!                                  └──────── retry_due ── Resting ◀──┘
//! ```
//! A batch takes a slot of the concurrency from `Starting` until it leaves `Running`. Whatever leaves a batch before it
//! runs is withdrawn; a batch with nothing left is dropped, and its thread is told.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::engine::ThreadId;
use crate::load::flights::{Flight, Token};

/// Names a batch within one cache. 0 names none.
pub type BatchId = u64;

/// Bounds of the queue.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Batches that run at once.
    pub concurrency: usize,
    /// Keys that wait.
    pub max_queued: usize,
    /// Further attempts after a failed one.
    pub retries: u32,
}

/// What is to be told to a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The batch has a slot: start it.
    Start(ThreadId, BatchId),
    /// Nothing is left of the batch: forget its fetcher.
    Dropped(ThreadId, BatchId),
}

/// What the end of one key's refresh means for its batch.
#[derive(Debug)]
pub enum Progress {
    /// Others of it still run.
    Running,
    /// It is over; these failed.
    Finished(Vec<Arc<Flight>>),
    /// It is to be tried again; the number of the attempt to come, 1 for the first retry.
    Retry(u32),
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum State {
    Forming,
    Waiting,
    Starting,
    Running { outstanding: usize },
    Resting,
}

#[derive(Debug)]
struct Batch {
    thread: ThreadId,
    state: State,
    attempt: u32,
    /// Forming to Starting, and Resting: what is to be refreshed. Running: what has failed so far.
    flights: Vec<Arc<Flight>>,
}

/// The queue.
#[derive(Debug)]
pub struct RefreshQueue {
    limits: Limits,
    batches: HashMap<BatchId, Batch>,
    waiting: VecDeque<BatchId>,
    waiting_keys: usize,
    running_batches: usize,
    running_keys: usize,
    last_id: BatchId,
}

impl RefreshQueue {
    /// Batches that have gone and are still in line, below which it is never worth clearing them out.
    const DEAD_FLOOR: usize = 64;

    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            batches: HashMap::new(),
            waiting: VecDeque::new(),
            waiting_keys: 0,
            running_batches: 0,
            running_keys: 0,
            last_id: 0,
        }
    }

    /// Opens a batch for a thread.
    pub fn open(&mut self, thread: ThreadId) -> BatchId {
        self.last_id += 1;
        self.batches.insert(self.last_id, Batch { thread, state: State::Forming, attempt: 0, flights: Vec::new() });
        self.last_id
    }

    /// Whether one more key may come in: a free slot that it would run in at once, or room to wait.
    pub fn has_room(&self) -> bool {
        self.waiting_keys < self.limits.max_queued
            || (self.waiting.is_empty() && self.running_batches < self.limits.concurrency)
    }

    /// Adds a queued flight to a forming batch.
    pub fn add(&mut self, id: BatchId, flight: &Arc<Flight>) {
        if let Some(batch) = self.batches.get_mut(&id) {
            batch.flights.push(Arc::clone(flight));
            self.waiting_keys += 1;
        }
    }

    /// Lines a forming batch up. False if nothing is in it, and then it is gone.
    pub fn seal(&mut self, id: BatchId) -> bool {
        let Some(batch) = self.batches.get_mut(&id) else { return false };
        if batch.flights.is_empty() {
            self.batches.remove(&id);
            return false;
        }
        batch.state = State::Waiting;
        self.waiting.push_back(id);
        true
    }

    /// Gives free slots to those who wait.
    pub fn pump(&mut self, notices: &mut Vec<Notice>) {
        while self.running_batches < self.limits.concurrency {
            let Some(id) = self.waiting.pop_front() else { return };
            // A batch that lost all its flights is gone already.
            let Some(batch) = self.batches.get_mut(&id) else { continue };
            batch.state = State::Starting;
            self.waiting_keys -= batch.flights.len();
            self.running_keys += batch.flights.len();
            self.running_batches += 1;
            notices.push(Notice::Start(batch.thread, id));
        }
    }

    /// What a batch that was given a slot is to refresh. None if it has gone since.
    pub fn take(&mut self, id: BatchId) -> Option<Vec<Arc<Flight>>> {
        let batch = self.batches.get_mut(&id)?;
        if batch.state != State::Starting {
            return None;
        }
        let flights = std::mem::take(&mut batch.flights);
        batch.state = State::Running { outstanding: flights.len() };
        Some(flights)
    }

    /// The refresh of one key of a running batch has ended: `failed` holds it if it may be tried again or must rest.
    pub fn finish(&mut self, id: BatchId, failed: Option<Arc<Flight>>, notices: &mut Vec<Notice>) -> Progress {
        let retries = self.limits.retries;
        let Some(batch) = self.batches.get_mut(&id) else { return Progress::Finished(Vec::new()) };
        let State::Running { outstanding } = &mut batch.state else { return Progress::Running };
        batch.flights.extend(failed);
        *outstanding -= 1;
        self.running_keys -= 1;
        if *outstanding > 0 {
            return Progress::Running;
        }
        let progress = if !batch.flights.is_empty() && batch.attempt < retries {
            batch.attempt += 1;
            batch.state = State::Resting;
            self.waiting_keys += batch.flights.len();
            Progress::Retry(batch.attempt)
        } else {
            let failed = std::mem::take(&mut batch.flights);
            self.batches.remove(&id);
            Progress::Finished(failed)
        };
        self.running_batches -= 1;
        self.pump(notices);
        self.tidy();
        progress
    }

    /// Whether a flight of that batch which fails now will be tried again.
    pub fn will_retry(&self, id: BatchId) -> bool {
        self.batches.get(&id).is_some_and(|batch| batch.attempt < self.limits.retries)
    }

    /// A resting batch lines up again.
    pub fn retry_due(&mut self, id: BatchId, notices: &mut Vec<Notice>) {
        if let Some(batch) = self.batches.get_mut(&id)
            && batch.state == State::Resting
        {
            batch.state = State::Waiting;
            self.waiting.push_back(id);
            self.pump(notices);
        }
    }

    /// Takes a queued flight out of its batch: its key was written, or a caller loads it in the foreground.
    pub fn withdraw(&mut self, id: BatchId, token: Token, notices: &mut Vec<Notice>) {
        let Some(batch) = self.batches.get_mut(&id) else { return };
        let before = batch.flights.len();
        batch.flights.retain(|flight| flight.token != token);
        let gone = before - batch.flights.len();
        let empty = batch.flights.is_empty();
        let thread = batch.thread;
        match batch.state {
            // seal() looks after one that is empty; a running one has others to wait for.
            State::Forming => {
                self.waiting_keys -= gone;
                return;
            }
            State::Running { .. } => return,
            State::Waiting | State::Resting => self.waiting_keys -= gone,
            State::Starting => self.running_keys -= gone,
        }
        if empty && gone > 0 {
            let was_starting = batch.state == State::Starting;
            self.batches.remove(&id);
            notices.push(Notice::Dropped(thread, id));
            if was_starting {
                self.running_batches -= 1;
                self.pump(notices);
            }
            self.tidy();
        }
    }

    /// Takes a batch that cannot be started out of the queue, with what is in it.
    pub fn drop_batch(&mut self, id: BatchId, notices: &mut Vec<Notice>) -> Vec<Arc<Flight>> {
        let Some(batch) = self.batches.remove(&id) else { return Vec::new() };
        match batch.state {
            State::Forming | State::Waiting | State::Resting => self.waiting_keys -= batch.flights.len(),
            State::Starting => {
                self.running_keys -= batch.flights.len();
                self.running_batches -= 1;
            }
            State::Running { outstanding } => {
                self.running_keys -= outstanding;
                self.running_batches -= 1;
            }
        }
        notices.push(Notice::Dropped(batch.thread, id));
        self.pump(notices);
        self.tidy();
        batch.flights
    }

    /// A thread ends: what of its batches still runs is not tried again.
    pub fn retire(&mut self, thread: ThreadId) {
        for batch in self.batches.values_mut().filter(|batch| batch.thread == thread) {
            batch.attempt = self.limits.retries;
        }
    }

    /// The thread of a batch.
    pub fn thread(&self, id: BatchId) -> Option<ThreadId> {
        self.batches.get(&id).map(|batch| batch.thread)
    }

    /// Clears the line of batches that have gone, once they are many: [`RefreshQueue::pump`] passes them over, but does not
    /// come to them while all slots are taken.
    fn tidy(&mut self) {
        if self.waiting.len() > Self::DEAD_FLOOR + 2 * self.batches.len() {
            let batches = &self.batches;
            self.waiting.retain(|id| batches.contains_key(id));
        }
    }

    /// Every batch there is.
    pub fn ids(&self) -> Vec<BatchId> {
        self.batches.keys().copied().collect()
    }

    /// Whether a batch does not run yet, or not again.
    pub fn is_waiting(&self, id: BatchId) -> bool {
        self.batches
            .get(&id)
            .is_some_and(|batch| matches!(batch.state, State::Waiting | State::Starting | State::Resting))
    }

    /// Keys that wait for a slot or for their next attempt.
    pub fn queued(&self) -> usize {
        self.waiting_keys
    }

    /// Keys being refreshed.
    pub fn running(&self) -> usize {
        self.running_keys
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.batches.is_empty()
    }

    /// Checks the books, and gives for each batch that runs how many of its flights have not ended.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self) -> HashMap<BatchId, usize> {
        let mut outstanding = HashMap::new();
        let (mut waiting, mut waiting_keys, mut running, mut running_keys) = (0, 0, 0, 0);
        for (id, batch) in &self.batches {
            assert!(batch.attempt <= self.limits.retries);
            match batch.state {
                State::Forming => waiting_keys += batch.flights.len(),
                State::Waiting => {
                    assert_eq!(self.waiting.iter().filter(|waits| *waits == id).count(), 1);
                    assert!(!batch.flights.is_empty());
                    waiting += 1;
                    waiting_keys += batch.flights.len();
                }
                State::Resting => {
                    assert!(batch.attempt > 0 && !batch.flights.is_empty());
                    waiting_keys += batch.flights.len();
                }
                State::Starting => {
                    assert!(!batch.flights.is_empty());
                    running += 1;
                    running_keys += batch.flights.len();
                }
                State::Running { outstanding: n } => {
                    assert!(n > 0);
                    running += 1;
                    running_keys += n;
                    outstanding.insert(*id, n);
                }
            }
        }
        assert_eq!((waiting_keys, running, running_keys), (self.waiting_keys, self.running_batches, self.running_keys));
        assert!(running <= self.limits.concurrency);
        assert!(waiting == 0 || running == self.limits.concurrency, "a slot is free, and batches wait for one");
        assert!(
            self.waiting.len() <= Self::DEAD_FLOOR + 2 * self.batches.len(),
            "the line is full of batches that have gone"
        );
        outstanding
    }

    /// Whether a flight is in that batch, to be started or started again.
    #[cfg(any(test, feature = "validate"))]
    pub fn holds(&self, id: BatchId, token: Token) -> bool {
        self.batches.get(&id).is_some_and(|batch| batch.flights.iter().any(|flight| flight.token == token))
    }
}
