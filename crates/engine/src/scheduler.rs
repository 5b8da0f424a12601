//! The threads of the process: one that tells engines the time, and a few that compress and decompress for them.
//!
//! All sleep until something is due, and never wake for their own sake: an idle cache with nothing to expire costs
//! nothing. The first starts with the first engine, the workers with the first piece of work; all are joined when the last
//! engine is gone, so that a library can be unloaded.

use std::num::NonZero;
use std::sync::{Arc, LazyLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{Clock, FOREVER, Millis, SystemClock};
use crate::codec::workshop::Tools;
use crate::engine::{Alarm, Config, Engine};

static CLOCK: LazyLock<Arc<SystemClock>> = LazyLock::new(Arc::default);
static SCHEDULER: LazyLock<Arc<Scheduler>> = LazyLock::new(Arc::default);

/// Most workers.
const MOST_WORKERS: usize = 4;

#[derive(Default)]
struct Scheduler {
    state: Mutex<State>,
    /// Rung for the thread that tells the time.
    time: Condvar,
    /// Rung for the workers.
    work: Condvar,
}

#[derive(Default)]
struct State {
    engines: Vec<Weak<Engine>>,
    /// Counts up each time that the last engine has gone: threads of an earlier run end.
    run: u64,
    threads: Vec<JoinHandle<()>>,
    workers: usize,
    /// Workers that sleep.
    idle: usize,
    /// When the time is to be told next.
    next: Millis,
}

/// An engine that is told the time as long as this lives.
pub struct Scheduled {
    engine: Arc<Engine>,
}

impl Scheduled {
    /// Opens an engine on the machine's clock.
    pub fn open(config: Config) -> Self {
        let alarm = Arc::clone(&*SCHEDULER) as Arc<dyn Alarm>;
        let engine = Arc::new(Engine::new(config, Arc::clone(&*CLOCK) as Arc<dyn Clock>, alarm));
        let mut state = SCHEDULER.state.lock();
        state.engines.push(Arc::downgrade(&engine));
        if state.threads.is_empty() {
            state.next = FOREVER;
            let run = state.run;
            start(&mut state, "kvcache-time", move || SCHEDULER.tell_time(run));
        }
        Self { engine }
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Drop for Scheduled {
    fn drop(&mut self) {
        let threads = {
            let mut state = SCHEDULER.state.lock();
            state.engines.retain(|weak| !std::ptr::eq(weak.as_ptr(), Arc::as_ptr(&self.engine)));
            if !state.engines.is_empty() {
                return;
            }
            state.run += 1;
            state.workers = 0;
            state.idle = 0;
            SCHEDULER.time.notify_all();
            SCHEDULER.work.notify_all();
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            // It ends after the piece of work that it has in hand; a panic in it has nothing more to say here.
            let _ = thread.join();
        }
    }
}

/// Starts a thread. Where the process may start no more, the cache works on, but nothing is done on time.
fn start(state: &mut State, name: &str, body: impl FnOnce() + Send + 'static) -> bool {
    let thread = thread::Builder::new().name(name.into()).spawn(body);
    let started = thread.is_ok();
    state.threads.extend(thread);
    started
}

impl Scheduler {
    fn tell_time(&self, run: u64) {
        loop {
            let engines: Vec<_> = {
                let mut state = self.state.lock();
                if state.run != run {
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
            while state.run == run {
                let now = CLOCK.now_millis();
                if state.next <= now {
                    break;
                }
                if state.next == FOREVER {
                    self.time.wait(&mut state);
                } else {
                    let pause = Duration::from_millis(state.next - now);
                    self.time.wait_for(&mut state, pause);
                }
            }
        }
    }

    fn work(&self, run: u64) {
        let mut tools = Tools::default();
        let mut state = self.state.lock();
        while state.run == run {
            let engine = state.engines.iter().filter_map(Weak::upgrade).find(|engine| engine.has_work());
            match engine {
                Some(engine) => {
                    drop(state);
                    engine.work(&mut tools);
                    // It may be the last reference, and dropping it takes a while.
                    drop(engine);
                    state = self.state.lock();
                }
                None => {
                    state.idle += 1;
                    self.work.wait(&mut state);
                    if state.run == run {
                        state.idle -= 1;
                    }
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
            self.time.notify_all();
        }
    }

    fn work_waits(&self) {
        let mut state = self.state.lock();
        if state.idle > 0 {
            self.work.notify_one();
        } else if state.workers < most_workers() && !state.engines.is_empty() {
            let run = state.run;
            if start(&mut state, "kvcache-work", move || SCHEDULER.work(run)) {
                state.workers += 1;
            }
        }
    }
}

/// One processor is left to JavaScript, where there are several.
fn most_workers() -> usize {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    processors.saturating_sub(1).clamp(1, MOST_WORKERS)
}
