//! What the engines have to say to one JavaScript thread, and the bell that makes it look.
//!
//! Many events, one ring: the bell is rung when the mailbox was empty, and not at all by the thread itself, which sees
//! in the header of each call that something waits. The bell does not keep the process alive.

use std::collections::VecDeque;
use std::thread::{self, ThreadId};

use kvcache_engine::engine::{Event, Inbox};
use napi::Status;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Calls the thread's `drain` without arguments; weak: it holds no process.
pub type Bell = ThreadsafeFunction<(), (), (), Status, false, true, 0>;

/// Most events that wait; beyond it evictions, which come in any number and which nothing depends on, are not told.
const CROWDED: usize = 100_000;

/// The events of one thread, of whichever cache.
pub struct Mailbox {
    owner: ThreadId,
    events: Mutex<VecDeque<(u32, Event)>>,
    pending: AtomicBool,
    bell: Bell,
}

impl Mailbox {
    /// The mailbox of the calling thread.
    pub fn new(bell: Bell) -> Self {
        Self { owner: thread::current().id(), events: Mutex::default(), pending: AtomicBool::new(false), bell }
    }

    /// Whether events wait.
    pub fn pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Takes all that waits.
    pub fn drain(&self) -> VecDeque<(u32, Event)> {
        let mut events = self.events.lock();
        self.pending.store(false, Ordering::SeqCst);
        std::mem::take(&mut *events)
    }

    fn post(&self, cache: u32, event: Event) {
        {
            let mut events = self.events.lock();
            if events.len() >= CROWDED && matches!(event, Event::Evicted { .. }) {
                return;
            }
            events.push_back((cache, event));
            if self.pending.swap(true, Ordering::SeqCst) {
                return;
            }
        }
        if thread::current().id() != self.owner {
            // A thread that is ending takes no more calls; it will not need them.
            self.bell.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

/// The slot of one cache in a thread's mailbox.
pub struct Slot {
    pub cache: u32,
    pub mailbox: Arc<Mailbox>,
}

impl Inbox for Slot {
    fn post(&self, event: Event) {
        self.mailbox.post(self.cache, event);
    }
}
