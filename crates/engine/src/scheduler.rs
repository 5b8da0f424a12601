//! The thread that tells engines the time: one for the process, asleep until something is due.
//!
//! It starts with the first engine and is joined when the last one is gone, so that a library can be unloaded. It never
//! wakes for its own sake: an idle cache with nothing to expire costs nothing.

use std::sync::{Arc, LazyLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, FOREVER, Millis, SystemClock};
use crate::engine::{Alarm, Config, Engine};

static CLOCK: LazyLock<Arc<SystemClock>> = LazyLock::new(Arc::default);
static SCHEDULER: LazyLock<Arc<Scheduler>> = LazyLock::new(Arc::default);

#[derive(Default)]
struct Scheduler {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    engines: Vec<Weak<Engine>>,
    thread: Option<JoinHandle<()>>,
    /// When the thread is to look again.
    next: Millis,
}

/// An engine that is told the time as long as this lives.
pub struct Scheduled {
    engine: Option<Arc<Engine>>,
}

impl Scheduled {
    /// Opens an engine on the machine's clock.
    pub fn open(config: Config) -> Self {
        let alarm = Arc::clone(&*SCHEDULER) as Arc<dyn Alarm>;
        let engine = Arc::new(Engine::new(config, Arc::clone(&*CLOCK) as Arc<dyn Clock>, alarm));
        let mut state = SCHEDULER.state.lock();
        state.engines.push(Arc::downgrade(&engine));
        if state.thread.is_none() {
            state.next = FOREVER;
            // Without a thread (the process may start no more) the cache works, but nothing is done on time; a later open
            // tries again.
            state.thread = thread::Builder::new().name("kvcache".into()).spawn(|| SCHEDULER.run()).ok();
        }
        Self { engine: Some(engine) }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        // Only drop() takes it.
        match &self.engine {
            Some(engine) => engine,
            None => unreachable!("the engine lives as long as its handle"),
        }
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        let engine = self.engine.take();
        let thread = {
            let mut state = SCHEDULER.state.lock();
            state.engines.retain(|weak| !engine.as_ref().is_some_and(|e| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(e))));
            if state.engines.is_empty() {
                SCHEDULER.wake.notify_all();
                state.thread.take()
            } else {
                None
            }
        };
        drop(engine);
        if let Some(thread) = thread {
            // It ends as soon as it sees that no engine is left; a panic in it has nothing more to say here.
            let _ = thread.join();
        }
    }
}

impl Scheduler {
    fn run(&self) {
        let me = thread::current().id();
        loop {
            let engines: Vec<_> = {
                let mut state = self.state.lock();
                // Another thread may have been started after the last engine had gone and a new one came.
                if state.engines.is_empty() || state.thread.as_ref().is_some_and(|t| t.thread().id() != me) {
                    return;
                }
                state.next = FOREVER;
                state.engines.iter().filter_map(Weak::upgrade).collect()
            };
            let next = engines.iter().map(|engine| engine.tick()).min().unwrap_or(FOREVER);
            drop(engines);
            let mut state = self.state.lock();
            // An alarm may have been set while the engines were told.
            state.next = state.next.min(next);
            loop {
                let now = CLOCK.now_millis();
                if state.engines.is_empty() || state.next <= now {
                    break;
                }
                if state.next == FOREVER {
                    self.wake.wait(&mut state);
                } else {
                    let pause = Duration::from_millis(state.next - now);
                    self.wake.wait_for(&mut state, pause);
                }
            }
        }
    }
}

impl Alarm for Scheduler {
    fn no_later_than(&self, at: Millis) {
        let mut state = self.state.lock();
        if at < state.next {
            state.next = at;
            self.wake.notify_all();
        }
    }
}
