//! The threads of the process: one that tells engines the time, a few that compress and decompress for them, and one that
//! keeps [`CLOCK_WORD`] while it is wanted.
//!
//! All sleep until something is due, and never wake for their own sake: an idle cache with nothing to expire costs
//! nothing. Only a worker that has just done something looks for more a few times, a millisecond apart, before it sleeps: while values
//! come one after the other, who stores them need not wake it for each, which costs more than storing. The first starts with the first engine, the others when they are first needed; all are joined when the last
//! engine is gone, so that a library can be unloaded.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::clock::{ASLEEP, CLOCK_WORD, Clock, FOREVER, Millis, SystemClock, TURN_BITS, as_word};
use crate::codec::workshop::Tools;
use crate::engine::{Alarm, Config, Engine};

static CLOCK: LazyLock<Arc<SystemClock>> = LazyLock::new(Arc::default);
static SCHEDULER: LazyLock<Arc<Scheduler>> = LazyLock::new(Arc::default);

/// When the word of the time was wanted last.
static WANTED: AtomicU64 = AtomicU64::new(0);

/// How long the word is kept after it was wanted last, milliseconds.
const WANTED_FOR: Millis = 1000;

/// Most workers.
const MOST_WORKERS: usize = 4;

/// How many. One processor is left to JavaScript, where there are several. Asked once: finding out reads files of the system's.
static WORKERS: LazyLock<usize> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    processors.saturating_sub(1).clamp(1, MOST_WORKERS)
});

/// How long a worker that has nothing to do waits before it looks again, and how often it does before it sleeps.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const LOOKS: u32 = 8;

#[derive(Default)]
struct Scheduler {
    state: Mutex<State>,
    /// Rung for the thread that tells the time.
    time: Condvar,
    /// Rung for the workers.
    work: Condvar,
    /// Rung for the keeper of the word.
    word: Condvar,
    /// Workers that sleep until they are rung for. Changed under the lock of the state, and before the worker looks for work a
    /// last time: who has left work and reads 0 here is sure that another look follows.
    asleep: AtomicUsize,
    /// Workers that have nothing to do, and will look again soon.
    looking: AtomicUsize,
    /// Workers started.
    workers: AtomicUsize,
}

#[derive(Default)]
struct State {
    engines: Vec<Weak<Engine>>,
    /// Counts up each time that the last engine has gone: threads of an earlier run end.
    run: u64,
    threads: Vec<JoinHandle<()>>,
    /// Whether the word has its keeper.
    keeper: bool,
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
            state.keeper = false;
            SCHEDULER.workers.store(0, Ordering::SeqCst);
            SCHEDULER.asleep.store(0, Ordering::SeqCst);
            SCHEDULER.looking.store(0, Ordering::SeqCst);
            SCHEDULER.time.notify_all();
            SCHEDULER.work.notify_all();
            SCHEDULER.word.notify_all();
            std::mem::take(&mut state.threads)
        };
        for thread in threads {
            // It ends after the piece of work that it has in hand; a panic in it has nothing more to say here.
            let _ = thread.join();
        }
    }
}

/// Lets [`CLOCK_WORD`] show the time for the next second at least, from a millisecond or so on.
pub fn want_time() {
    let now = CLOCK.now_millis();
    WANTED.store(now, Ordering::SeqCst);
    if CLOCK_WORD.load(Ordering::SeqCst) != ASLEEP {
        return;
    }
    let mut state = SCHEDULER.state.lock();
    if state.keeper {
        SCHEDULER.word.notify_one();
    } else if !state.engines.is_empty() {
        let run = state.run;
        state.keeper = start(&mut state, "kvcache-word", move || SCHEDULER.keep_word(run));
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

    fn keep_word(&self, run: u64) {
        let mut turn = CLOCK.now_millis() >> TURN_BITS;
        let mut state = self.state.lock();
        while state.run == run {
            let now = CLOCK.now_millis();
            if now.saturating_sub(WANTED.load(Ordering::SeqCst)) < WANTED_FOR {
                if now >> TURN_BITS != turn {
                    // Moments of another turn would be taken for moments of this one: nothing that was kept till then stands.
                    turn = now >> TURN_BITS;
                    state.engines.iter().filter_map(Weak::upgrade).for_each(|engine| engine.outdate_copies());
                }
                CLOCK_WORD.store(as_word(now, now), Ordering::SeqCst);
                self.word.wait_for(&mut state, Duration::from_millis(1));
            } else {
                // Who wants it from now on sees that it is not kept, and rings.
                CLOCK_WORD.store(ASLEEP, Ordering::SeqCst);
                if now.saturating_sub(WANTED.load(Ordering::SeqCst)) >= WANTED_FOR {
                    self.word.wait(&mut state);
                }
            }
        }
        CLOCK_WORD.store(ASLEEP, Ordering::SeqCst);
    }

    fn work(&self, run: u64) {
        let mut tools = Tools::default();
        let mut looks = 0;
        let mut state = self.state.lock();
        while state.run == run {
            if let Some(engine) = state.engine_with_work() {
                drop(state);
                engine.work(&mut tools);
                // It may be the last reference, and dropping it takes a while.
                drop(engine);
                looks = 0;
                state = self.state.lock();
                continue;
            }
            let waits = if looks < LOOKS { &self.looking } else { &self.asleep };
            waits.fetch_add(1, Ordering::SeqCst);
            if looks < LOOKS {
                looks += 1;
                self.work.wait_for(&mut state, LOOK_AGAIN);
            } else if state.engine_with_work().is_none() {
                self.work.wait(&mut state);
            }
            // The counts of an earlier run are gone.
            if state.run == run {
                waits.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    /// Wakes a worker, or starts one.
    fn wake(&self) {
        let mut state = self.state.lock();
        if self.asleep.load(Ordering::SeqCst) > 0 || self.looking.load(Ordering::SeqCst) > 0 {
            self.work.notify_one();
        } else if self.workers.load(Ordering::SeqCst) < *WORKERS && !state.engines.is_empty() {
            let run = state.run;
            if start(&mut state, "kvcache-work", move || SCHEDULER.work(run)) {
                self.workers.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

impl State {
    fn engine_with_work(&self) -> Option<Arc<Engine>> {
        self.engines.iter().filter_map(Weak::upgrade).find(|engine| engine.has_work())
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
        let looks_soon = self.looking.load(Ordering::SeqCst) > 0;
        let all_are_up = self.asleep.load(Ordering::SeqCst) == 0 && self.workers.load(Ordering::SeqCst) >= *WORKERS;
        if !looks_soon && !all_are_up {
            self.wake();
        }
    }

    fn caller_waits(&self) {
        self.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;
    use crate::codec::compress::Algorithm;
    use crate::engine::{Begin, Begun, Compression, Event, Inbox, ThreadId, Value};
    use crate::entry::{Ages, Kind};
    use crate::load::breaker::{OriginId, Outcome};
    use crate::load::queue::Limits;

    /// One test at a time: the scheduler is one for the process.
    static TURN: Mutex<()> = Mutex::new(());

    /// Long enough for anything that happens at all, however busy the machine.
    const LONG: Duration = Duration::from_secs(30);

    struct Post(Mutex<Sender<Event>>);

    impl Inbox for Post {
        fn post(&self, event: Event) {
            let _ = self.0.lock().send(event);
        }
    }

    fn open() -> (Scheduled, ThreadId, Receiver<Event>) {
        let scheduled = Scheduled::open(Config {
            memory: 1 << 20,
            queue: Limits { concurrency: 1, max_queued: 10, retries: 0 },
            backoff: 1,
            cooldown: 1,
            breaker: None,
            compression: Some(Compression { algorithm: Algorithm::Lz4, level: 0, threshold: 100 }),
        });
        let (sender, receiver) = channel();
        let thread = scheduled.engine().attach(Arc::new(Post(Mutex::new(sender))));
        (scheduled, thread, receiver)
    }

    fn lead(scheduled: &Scheduled, thread: ThreadId, hard_timeout: Millis) -> u64 {
        let begin = Begin {
            thread,
            parent: 0,
            origin: OriginId::NONE,
            route: 0,
            hard_timeout,
            force: false,
            permit: true,
            since: 0,
        };
        match scheduled.engine().begin(b"k", &begin) {
            Begun::Lead { token, .. } => token,
            other => panic!("{other:?}"),
        }
    }

    fn put(scheduled: &Scheduled, key: &str, bytes: &[u8], life: Millis) {
        let ages = Ages { max_age: life, stale_age: life, stale_if_error: life };
        let value = Value { kind: Kind::Bytes, bytes, metadata: b"", ages, route: 0, links: b"" };
        scheduled.engine().commit(scheduled.engine().prepare(key.as_bytes(), &value).unwrap());
    }

    /// Waits until it is so, for [`LONG`] at most.
    fn eventually(what: &str, is_so: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !is_so() {
            assert!(start.elapsed() < LONG, "{what}: not within {LONG:?}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The scheduler's threads, where the system tells.
    fn threads() -> Option<usize> {
        let tasks = std::fs::read_dir("/proc/self/task").ok()?;
        let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
        Some(names.filter(|name| name.starts_with("kvcache-")).count())
    }

    #[test]
    fn keeps_the_word_of_the_time_while_it_is_wanted() {
        let _turn = TURN.lock();
        let word = || CLOCK_WORD.load(Ordering::SeqCst);
        assert_eq!(word(), ASLEEP);
        let (scheduled, ..) = open();
        for _ in 0..2 {
            want_time();
            eventually("it shows the time", || word() != ASLEEP);
            let shown = word();
            eventually("it goes on", || word() > shown && word() != ASLEEP);
            assert!(word() <= as_word(CLOCK.now_millis(), CLOCK.now_millis()), "it is never early");
            eventually("it sleeps when nobody has wanted it for a while", || word() == ASLEEP);
        }
        want_time();
        eventually("it shows the time", || word() != ASLEEP);
        drop(scheduled);
        assert_eq!(word(), ASLEEP, "without an engine nobody keeps it");
    }

    #[test]
    fn tells_a_time_out_to_an_engine_that_nobody_calls() {
        let _turn = TURN.lock();
        let (scheduled, thread, events) = open();
        // A later alarm is set first: the earlier one has to wake it.
        let (other, other_thread, other_events) = open();
        lead(&other, other_thread, 200);
        let token = lead(&scheduled, thread, 20);
        assert_eq!(events.recv_timeout(LONG), Ok(Event::TimedOut(token)));
        assert!(matches!(other_events.recv_timeout(LONG), Ok(Event::TimedOut(_))));
        scheduled.engine().fail(token, Outcome::Failure, true);
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn entries_end_although_nobody_reads_them() {
        let _turn = TURN.lock();
        let (scheduled, ..) = open();
        (0..100).for_each(|n| put(&scheduled, &n.to_string(), b"v", 10 + n));
        put(&scheduled, "stays", b"v", FOREVER);
        eventually("entries end", || scheduled.engine().stats().entries == 1);
    }

    #[test]
    fn workers_compress_and_decompress() {
        let _turn = TURN.lock();
        let (scheduled, thread, events) = open();
        let engine = scheduled.engine();
        (0..100).for_each(|n| put(&scheduled, &n.to_string(), &[b'v'; 10_000], FOREVER));
        if !engine.flush() {
            assert_eq!(events.recv_timeout(LONG), Ok(Event::Idle));
        }
        let found = engine.peek(b"99").unwrap();
        assert_eq!(found.entry.codec(), Some(Algorithm::Lz4));
        let number = engine.inflate(thread, found.entry);
        assert_eq!(events.recv_timeout(LONG), Ok(Event::Inflated(number)));
        assert_eq!(engine.take_inflated(number).unwrap().bytes.unwrap(), [b'v'; 10_000]);
    }

    #[test]
    fn its_threads_end_with_the_last_engine_and_start_again_with_the_next() {
        let _turn = TURN.lock();
        for _ in 0..3 {
            let (first, ..) = open();
            let (second, thread, events) = open();
            put(&second, "k", &[b'v'; 10_000], FOREVER);
            drop(first);
            // A worker may start at any moment until its work is done.
            if !second.engine().flush() {
                assert_eq!(events.recv_timeout(LONG), Ok(Event::Idle));
            }
            assert!(threads().is_none_or(|threads| threads >= 1));
            let number = second.engine().inflate(thread, second.engine().peek(b"k").unwrap().entry);
            assert_eq!(events.recv_timeout(LONG), Ok(Event::Inflated(number)));
            drop(second);
            // Joined, all of them; the system may list them a moment longer.
            eventually("threads end", || threads().is_none_or(|threads| threads == 0));
        }
    }

    #[test]
    fn engines_that_come_and_go_in_many_threads_never_wait_for_one_another_for_ever() {
        let _turn = TURN.lock();
        let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let users: Vec<_> = (0..4)
            .map(|n| {
                let done = Arc::clone(&done);
                thread::spawn(move || {
                    for round in 0..200 {
                        let (scheduled, thread, events) = open();
                        if (round + n) % 20 == 0 {
                            let token = lead(&scheduled, thread, 1);
                            assert_eq!(events.recv_timeout(LONG), Ok(Event::TimedOut(token)));
                        } else if round % 3 == 0 {
                            put(&scheduled, "k", &[b'v'; 1_000], 1);
                        }
                    }
                    done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                })
            })
            .collect();
        eventually("all have come and gone", || done.load(std::sync::atomic::Ordering::SeqCst) == users.len());
        users.into_iter().for_each(|user| user.join().unwrap());
        eventually("threads end", || threads().is_none_or(|threads| threads == 0));
    }

    #[test]
    fn an_engine_that_is_still_used_after_its_handle_has_gone_is_let_be() {
        let _turn = TURN.lock();
        let (scheduled, thread, events) = open();
        let engine = Arc::clone(scheduled.engine());
        let token = lead(&scheduled, thread, 10);
        drop(scheduled);
        put_into(&engine);
        assert!(events.try_recv().is_err());
        assert_eq!(engine.fail(token, Outcome::Aborted, false).stored, crate::engine::Stored::No);
        assert_eq!(engine.open_flights(), 0);
    }

    fn put_into(engine: &Engine) {
        let ages = Ages { max_age: 1, stale_age: 1, stale_if_error: 1 };
        let value = Value { kind: Kind::Bytes, bytes: &[b'v'; 1_000], metadata: b"", ages, route: 0, links: b"" };
        engine.commit(engine.prepare(b"other", &value).unwrap());
    }
}
