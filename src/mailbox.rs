//! What the engines have to say to one JavaScript thread, and the bell that makes it look.
//!
//! Many events, one ring: the bell is rung when the mailbox was empty; during a call of its own place at the end of that, though most
//! callers see in the header that something waits, and look. The bell does not keep the process alive.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ptr;

use kvcache_engine::engine::{Event, Inbox};
use napi::Status;
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Calls the thread's `drain` without arguments; weak: it holds no process.
pub type Bell = ThreadsafeFunction<(), (), (), Status, false, true, 0>;

/// Most events that wait; beyond it evictions and invalidations, which come in any number and which nothing depends on, are not told.
const CROWDED: usize = 100_000;

thread_local! {
    /// The mailbox of the place whose call this thread serves.
    static SERVED: Cell<*const Mailbox> = const { Cell::new(ptr::null()) };
}

/// The events of one place, of whichever cache.
pub struct Mailbox {
    events: Mutex<VecDeque<(u32, Event)>>,
    pending: AtomicBool,
    /// The bell has been rung for what waits.
    rung: AtomicBool,
    bell: Bell,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new(bell: Bell) -> Self {
        Self { events: Mutex::default(), pending: AtomicBool::new(false), rung: AtomicBool::new(false), bell }
    }

    /// A call of the place whose mailbox this is begins: what comes until the guard is dropped is seen when the call ends.
    pub fn serve(&self) -> Serving {
        Serving(SERVED.replace(self))
    }

    /// Whether events wait.
    pub fn pending(&self) -> bool {
        self.pending.load(Ordering::SeqCst)
    }

    /// Takes all that waits.
    pub fn drain(&self) -> VecDeque<(u32, Event)> {
        let mut events = self.events.lock();
        self.pending.store(false, Ordering::SeqCst);
        self.rung.store(false, Ordering::SeqCst);
        std::mem::take(&mut *events)
    }

    /// A call has ended in which something came. Most callers look for it at once; for the others the bell is rung, so that nothing waits
    /// for ever.
    fn ring_if_pending(&self) {
        if self.pending() && !self.rung.swap(true, Ordering::SeqCst) {
            self.bell.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }

    fn post(&self, cache: u32, event: Event) {
        {
            let mut events = self.events.lock();
            if events.len() >= CROWDED && matches!(event, Event::Evicted { .. } | Event::Invalidated { .. }) {
                return;
            }
            events.push_back((cache, event));
            if self.pending.swap(true, Ordering::SeqCst) {
                return;
            }
        }
        if !ptr::eq(SERVED.get(), self) {
            // A thread that is ending takes no more calls; it will not need them.
            self.bell.call((), ThreadsafeFunctionCallMode::NonBlocking);
        }
    }
}

/// A call is being served; holds what was served before.
pub struct Serving(*const Mailbox);

impl Drop for Serving {
    fn drop(&mut self) {
        let served = SERVED.replace(self.0);
        // SAFETY: it is that of the call that ends, which the place has held all the while; null only if another guard has been
        // dropped out of order.
        if let Some(mailbox) = unsafe { served.as_ref() } {
            mailbox.ring_if_pending();
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
