//! Threads that come and go, and loads that one thread runs and others wait for.
//!
//! A thread that asks for a key which another one loads *watches* that flight. At its end the flight's thread leaves what
//! became of it for each watcher, who is told by [`Event::Landed`] and takes it once. Promises: what was left is taken,
//! or given up with the thread; a flight whose own thread has nobody left who waits runs on while others watch; when a
//! thread ends, its flights end with it, and their watchers are told to begin anew, so that one of them leads.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Engine, Event, Inbox, Settled, ThreadId};
use crate::clock::Millis;
use crate::entry::Entry;
use crate::load::breaker::Outcome;
use crate::load::flights::{Flight, FlightState, Phase, Token};
use crate::sync::Ordering;

/// What became of a flight, for a thread that watched it.
#[derive(Debug, Clone)]
pub enum Landed {
    /// The value that was loaded; false: it is given to those who waited and was not to be stored. With [`Settled::cut`].
    Value(Entry, bool, u64),
    /// The fetcher gave nothing; the same.
    Nothing(u64),
    /// It failed; how the flight's thread describes it.
    Failed(Arc<[u8]>),
    /// It took longer than this.
    TimedOut(Millis),
    /// It came to no end: whoever still wants the key is to begin once more.
    Again,
    /// It had no fetcher, and what it looked for is nowhere: whoever has one is to begin anew.
    NotFound,
}

/// What watchers have not taken yet.
pub(super) type LandedMap = HashMap<(Token, ThreadId), Landed>;

impl Engine {
    /// Lets a thread take part: events that concern it go to `inbox`, until it [detaches](Engine::detach).
    pub fn attach(&self, inbox: Arc<dyn Inbox>) -> ThreadId {
        let mut inboxes = self.figures.inboxes.write();
        let thread = ThreadId(self.last_thread.fetch_add(1, Ordering::SeqCst) + 1);
        let unheard = std::mem::take(&mut *self.figures.unheard.lock());
        inboxes.push((thread, Arc::clone(&inbox)));
        drop(inboxes);
        for event in unheard {
            inbox.post(event);
        }
        thread
    }

    /// A thread takes part no more. Nothing of it is left: its loads end as if they had been aborted, and those who watched
    /// them begin anew; its refreshes that wait are dropped; what it waited for is not told to it.
    pub fn detach(&self, thread: ThreadId) {
        self.figures.inboxes.write().retain(|(id, _)| *id != thread);
        self.tell_evictions(thread, false);
        self.tell_invalidations(thread, false);
        self.drop_queued(thread);
        // What of its refreshes fails from now on is not tried again.
        self.queue.lock().retire(thread);
        let mut flights = self.flights.all();
        // In the order they began, so that others begin anew in that order.
        flights.sort_unstable_by_key(|flight| flight.token);
        for flight in flights {
            if flight.plan.thread == thread {
                self.fail(flight.token, Outcome::Aborted, false);
                // It may be kept for an attempt that will not come.
                self.release(&flight);
            } else {
                self.leave(thread, flight.token, false);
            }
        }
        self.landed.lock().retain(|(_, watcher), _| *watcher != thread);
        self.workshop.forget(thread);
        self.tell(Vec::new());
    }

    /// The last caller in a flight's own thread has left. It is aborted, unless other threads wait for it:
    /// [`Stored::Awaited`](super::Stored::Awaited), and [`Event::Abandoned`] tells once nobody does.
    pub fn abandon(&self, token: Token) -> Settled {
        self.fail_as(token, Outcome::Aborted, false, Landed::Again, true)
    }

    /// The last caller in a thread that watched a flight has left. `running`: it is to go on for those who come later.
    pub fn leave(&self, thread: ThreadId, token: Token, running: bool) {
        self.landed.lock().remove(&(token, thread));
        let Some(flight) = self.flights.by_token(token) else { return };
        let abandoned = {
            let _lock = self.flights.lock(&flight.key);
            let mut state = flight.state.lock();
            state.waiting.retain(|(waiter, _)| *waiter != thread);
            let watched = state.watchers.len();
            state.watchers.retain(|watcher| *watcher != thread);
            state.kept |= running;
            watched > 0 && state.watchers.is_empty() && state.abandoned && !state.kept
        };
        if abandoned {
            self.figures.post(flight.plan.thread, Event::Abandoned(token));
        }
    }

    /// What became of a flight that a thread watched, once. None if it has not ended, or was taken.
    pub fn take_landed(&self, thread: ThreadId, token: Token) -> Option<Landed> {
        self.landed.lock().remove(&(token, thread))
    }

    /// Whether other threads than its own wait for a flight: then they want to know why it failed.
    pub fn is_watched(&self, token: Token) -> bool {
        self.flights.by_token(token).is_some_and(|flight| !flight.state.lock().watchers.is_empty())
    }

    /// Leaves for those who watched a flight, whose key is locked, what became of it. They are to be
    /// [told](Engine::tell_landed) when it is not.
    pub(super) fn land(&self, token: Token, watchers: &[ThreadId], landed: &Landed) {
        if watchers.is_empty() {
            return;
        }
        let mut all = self.landed.lock();
        for watcher in watchers {
            all.insert((token, *watcher), landed.clone());
        }
    }

    pub(super) fn tell_landed(&self, token: Token, watchers: &[ThreadId]) {
        for watcher in watchers {
            if !self.figures.post(*watcher, Event::Landed(token)) {
                // It detached in between.
                self.landed.lock().remove(&(token, *watcher));
            }
        }
    }
}

impl FlightState {
    /// Notes a caller that waits.
    pub(super) fn join(&mut self, flight: &Flight, thread: ThreadId, since: u64) {
        self.waiting.push((thread, since));
        if flight.plan.thread != thread && !self.watchers.contains(&thread) {
            self.watchers.push(thread);
        }
    }

    /// Those who watch, to be told of the end. Those who watch one that has expired have been told.
    pub(super) fn take_watchers(&mut self) -> Vec<ThreadId> {
        debug_assert!(self.phase != Phase::Expired || self.watchers.is_empty());
        std::mem::take(&mut self.watchers)
    }
}
