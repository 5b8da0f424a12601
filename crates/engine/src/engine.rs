//! The cache as a whole: holds the memory tier, the flights, the queue, the breakers and the figures together.
//!
//! The engine decides; fetchers run on the side of its callers. A caller looks a key up, begins a flight where it must
//! load, and reports what came of it. What the engine has to say on its own account (start this refresh, this load timed
//! out) goes to the [`Inbox`] of the thread that it concerns.
//!
//! Locks are taken in this order and never the other way round: that of published names, a key's lock
//! ([`FlightTable::lock`]), then one of: the facts, a flight's state, the queue, a breaker, the cool-downs, the timers, a shard
//! of the memory tier. Inboxes only queue what they are told.

use std::sync::{Arc, OnceLock};

use crate::clock::{Clock, FOREVER, Millis};
use crate::codec::compress::Algorithm;
use crate::codec::workshop::Workshop;
use crate::entry::{Ages, Entry, EntrySpec, Freshness, Kind};
use crate::invalidation::facts::Facts;
use crate::invalidation::stamps::Stamps;
use crate::invalidation::sweep::Sweeper;
use crate::invalidation::target::TargetKind;
use crate::load::breaker::{self, BreakerConfig, Breakers, OriginId};
use crate::load::flights::{FlightTable, Token};
use crate::load::queue::{BatchId, Limits, RefreshQueue};
use crate::load::retry::Cooldowns;
use crate::load::timers::Timers;
use crate::memory::{self, EvictListener, EvictReason, MemoryTier};
use crate::stats::counters::Counters;
use crate::stats::latency::Latencies;
use crate::stats::routes::Routes;
use crate::sync::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Mutex, Ordering, RwLock};

use self::publishing::Publications;

mod behind;
mod figures;
mod invalidating;
mod loading;
mod near;
mod publishing;
mod reading;
mod refreshing;
mod sweeping;
mod threads;
mod timing;
#[cfg(any(test, feature = "validate"))]
mod validate;
mod working;
mod writing;

use self::behind::SoughtMap;
pub use self::behind::{Behind, Positions, Seek};
pub use self::figures::Stats;
pub use self::invalidating::Invalidation;
pub use self::near::{Doorkeeper, NearUses, Probe};
pub use self::publishing::Shown;
pub use self::threads::Landed;
use self::threads::LandedMap;

/// A thread that uses the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThreadId(u32);

/// Where a thread receives what the engine tells it. Evictions come while a key's lock is held, so an inbox only queues: it
/// must not call the engine back.
pub trait Inbox: Send + Sync {
    /// Takes one event. Order is kept.
    fn post(&self, event: Event);
}

/// Who has threads for the engine: asked to call [`Engine::tick`] no later than a moment, and [`Engine::work`] soon.
pub trait Alarm: Send + Sync {
    /// Work waits that no JavaScript thread is to do: some milliseconds hence will do.
    fn work_waits(&self);

    /// As [`Alarm::work_waits`], of work that a caller waits for: it is to be begun at once.
    fn caller_waits(&self) {
        self.work_waits();
    }

    /// Sets the alarm to `at`, unless it is set to an earlier moment.
    fn no_later_than(&self, at: Millis);
}

/// What the engine says on its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A batch of refreshes has a slot: call [`Engine::start`].
    Start(BatchId),
    /// A batch will never start: forget its fetcher.
    Dropped(BatchId),
    /// A flight's hard timeout has passed: fire its signal and call [`Engine::fail`].
    TimedOut(Token),
    /// A flight of another thread that this one waits for has ended: call [`Engine::take_landed`].
    Landed(Token),
    /// Nobody in other threads waits any more for a flight that nobody waits for in its own: [abandon](Engine::abandon) it.
    Abandoned(Token),
    /// The queue has become idle while someone waited for it.
    Idle,
    /// A value that was to be decompressed is ready: call [`Engine::take_inflated`].
    Inflated(u64),
    /// An entry was evicted. Only while asked for.
    Evicted { key: Arc<str>, bytes: u64, reason: EvictReason },
    /// An invalidation was swept up after: `text` is the target as the user wrote it. Only while asked for.
    Invalidated { kind: TargetKind, text: Arc<str>, soft: bool, swept: u64, remote: bool },
    /// A look-up behind memory has come to its end: call [`Engine::take_sought`].
    Sought(Token),
    /// What had been handed over before that receipt was asked for has reached the tiers; or the trouble with one.
    Delivered { receipt: u64, trouble: Option<Trouble> },
    /// Something went wrong with a tier that nobody waited for.
    Ailing(Trouble),
    /// A breaker has changed.
    Breaker { origin: Arc<str>, state: breaker::State },
}

/// What went wrong with a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The tier's name.
    pub tier: Arc<str>,
    pub message: Arc<str>,
    /// The key that it was about, if it was one.
    pub key: Option<Arc<str>>,
}

/// How a cache is set up.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Bytes of the memory tier.
    pub memory: u64,
    /// Bounds of the refresh queue.
    pub queue: Limits,
    /// First wait before a retry, doubled with each.
    pub backoff: Millis,
    /// First rest of a key whose refresh failed.
    pub cooldown: Millis,
    /// None for no breaker.
    pub breaker: Option<BreakerConfig>,
    /// None to keep every value plain.
    pub compression: Option<Compression>,
}

/// Which values are compressed, and how.
#[derive(Debug, Clone, Copy)]
pub struct Compression {
    pub algorithm: Algorithm,
    /// One that [`Algorithm::check_level`] gave.
    pub level: i32,
    /// Values of more bytes than this.
    pub threshold: usize,
}

/// A value to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pub kind: Kind,
    pub bytes: &'a [u8],
    /// JSON text, or empty.
    pub metadata: &'a [u8],
    pub ages: Ages,
    /// See [`crate::entry::Header::route`].
    pub route: u16,
    /// The tags and parents that the user gave, encoded ([`crate::invalidation::links`]); empty for none.
    pub links: &'a [u8],
}

/// An entry that was found, and where it stands.
#[derive(Debug, Clone)]
pub struct Found {
    pub entry: Entry,
    pub freshness: Freshness,
    /// Milliseconds since it was stored.
    pub age: Millis,
    /// It is stale, and nobody refreshes it yet.
    pub refresh_due: bool,
    /// Until when, on the engine's clock, a thread may answer from a copy of its own without asking again, as long as the
    /// stamps stand; 0 for not at all. Only a lookup says so.
    pub near_until: Millis,
    /// A soft invalidation has ended its freshness.
    pub outdated: bool,
}

impl Found {
    /// Whether a get serves it at once.
    pub fn is_servable(&self) -> bool {
        matches!(self.freshness, Freshness::Fresh | Freshness::Stale)
    }
}

/// How a load is to begin.
#[derive(Debug, Clone, Copy)]
pub struct Begin {
    pub thread: ThreadId,
    /// The flight whose fetcher asks; 0 for none.
    pub parent: Token,
    pub origin: OriginId,
    pub route: u16,
    pub hard_timeout: Millis,
    /// Load even where a value is fresh.
    pub force: bool,
    /// Ask the breaker, and answer to it. False for all but the first key of a batch.
    pub permit: bool,
    /// When the caller came, in nanoseconds of the engine's clock, if it begins anew since the load that it waited for came
    /// to no end: it has been counted. 0 for now.
    pub since: u64,
}

/// What a caller that wants a load is to do.
#[derive(Debug, Clone)]
pub enum Begun {
    /// Nothing: the value is there by now.
    Hit(Found),
    /// Run the fetcher and report by this token. `stale` is the copy in hand; `invalidated` tells whether the load runs because
    /// what the key held was invalidated.
    Lead { token: Token, stale: Option<Found>, invalidated: bool },
    /// Wait for the flight of this token.
    Join(Token),
    /// The circuit is open until then, on the engine's clock.
    Refused { next_attempt: Millis },
    /// The caller's own load would wait for itself.
    Recursion,
}

/// How a refresh is to be queued.
#[derive(Debug, Clone, Copy)]
pub struct Refresh {
    pub thread: ThreadId,
    pub origin: OriginId,
    pub route: u16,
    pub hard_timeout: Millis,
}

/// One key of a batch that has started.
#[derive(Debug, Clone)]
pub struct Started {
    pub token: Token,
    pub key: Arc<[u8]>,
    pub stale: Option<Found>,
    /// See [`Begun::Lead`].
    pub invalidated: bool,
}

/// What a fetcher brought.
#[derive(Debug, Clone, Copy)]
pub enum Loaded<'a> {
    /// A value to be stored.
    Value(Value<'a>),
    /// The copy in hand is still good: its age starts again. Without metadata, or tags and parents, of its own it keeps the
    /// copy's.
    NotModified { ages: Ages, metadata: Option<&'a [u8]>, links: Option<&'a [u8]> },
    /// A value for those who wait, and not to be stored.
    Passing(Value<'a>),
    /// As `NotModified`, and not to be stored.
    PassingCopy { metadata: Option<&'a [u8]>, links: Option<&'a [u8]> },
    /// Nothing to be stored. What it is tied to tells who of those that wait must load again.
    Unstored { links: &'a [u8] },
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    pub stored: Stored,
    pub batch: BatchEnd,
    /// 0 if nothing has cut the load while it ran. Else who [joined](Engine::current) at this number or later must load again: that it
    /// was cut may have turned out at its end only, by the tags and parents that it brought, and so after they came.
    pub cut: u64,
}

impl Loaded<'_> {
    /// Bytes of a value that comes plain.
    fn len(&self) -> usize {
        match self {
            Self::Value(value) => value.bytes.len(),
            Self::NotModified { .. } | Self::Passing(_) | Self::PassingCopy { .. } | Self::Unstored { .. } => 0,
        }
    }
}

impl Settled {
    const GONE: Self = Self { stored: Stored::Gone, batch: BatchEnd::None, cut: 0 };
}

/// Whether what a load brought was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    Yes,
    /// Nothing was to be stored, or the key was written while the load ran.
    No,
    /// It weighs so much, more than the whole memory tier.
    TooLarge {
        bytes: u64,
    },
    /// The flight had ended before, by its hard timeout or otherwise.
    Gone,
    /// The flight goes on, since other threads wait for it.
    Awaited,
}

/// Where a batch stands after one of its keys has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchEnd {
    /// Not a refresh, or others of its batch still run.
    None,
    /// The batch is over: forget its fetcher.
    Finished,
    /// It will be started again.
    Retry,
}

/// The engine of one cache.
pub struct Engine {
    config: Config,
    clock: Arc<dyn Clock>,
    alarm: Arc<dyn Alarm>,
    facts: Facts,
    stamps: Arc<Stamps>,
    versions: AtomicU32,
    sweeper: Sweeper,
    memory: MemoryTier,
    flights: FlightTable,
    queue: Mutex<RefreshQueue>,
    cooldowns: Mutex<Cooldowns>,
    breakers: Breakers,
    timers: Mutex<Timers>,
    reclaim_at: AtomicU64,
    routes: RwLock<Routes>,
    figures: Arc<Figures>,
    flush_wanted: AtomicBool,
    unix_offset: AtomicI64,
    workshop: Workshop,
    last_thread: AtomicU32,
    landed: Mutex<LandedMap>,
    behind: OnceLock<Arc<dyn Behind>>,
    sought: Mutex<SoughtMap>,
    publications: Publications,
}

/// What is counted and who is told: shared with the listener of the memory tier.
struct Figures {
    counters: Counters,
    latencies: Latencies,
    inboxes: RwLock<Vec<(ThreadId, Arc<dyn Inbox>)>>,
    /// What concerned all before there was anybody: the first to come is told.
    unheard: Mutex<Vec<Event>>,
    /// Those who are told of evictions, and whether there are any.
    evictions_to: RwLock<Vec<ThreadId>>,
    tell_evictions: AtomicBool,
    /// As for evictions.
    invalidations_to: RwLock<Vec<ThreadId>>,
}

/// Entries reclaimed in one go, and the least time between two goes.
const RECLAIM_AT_ONCE: usize = 4096;
const RECLAIM_EVERY: Millis = 50;

/// Milliseconds by which the difference of the two clocks may seem to change without one of them having been stepped.
const SAME_CLOCK: u64 = 5;

impl Engine {
    /// A cache with nothing in it.
    pub fn new(config: Config, clock: Arc<dyn Clock>, alarm: Arc<dyn Alarm>) -> Self {
        let figures = Arc::new(Figures {
            counters: Counters::new(),
            latencies: Latencies::new(),
            inboxes: RwLock::default(),
            unheard: Mutex::default(),
            evictions_to: RwLock::default(),
            tell_evictions: AtomicBool::new(false),
            invalidations_to: RwLock::default(),
        });
        let memory = MemoryTier::new(
            memory::Config { budget: config.memory, weight: memory::Weight::Bytes, shards: None },
            Some(Arc::clone(&figures) as Arc<dyn EvictListener>),
        );
        Self {
            facts: Facts::default(),
            stamps: Arc::new(Stamps::new(config.memory)),
            versions: AtomicU32::new(0),
            sweeper: Sweeper::default(),
            memory,
            flights: FlightTable::default(),
            queue: Mutex::new(RefreshQueue::new(config.queue)),
            cooldowns: Mutex::new(Cooldowns::new(config.cooldown)),
            breakers: Breakers::new(config.breaker),
            timers: Mutex::default(),
            reclaim_at: AtomicU64::new(FOREVER),
            routes: RwLock::default(),
            figures,
            flush_wanted: AtomicBool::new(false),
            unix_offset: AtomicI64::new(0),
            workshop: Workshop::default(),
            last_thread: AtomicU32::new(0),
            landed: Mutex::default(),
            behind: OnceLock::new(),
            sought: Mutex::default(),
            publications: Publications::default(),
            config,
            clock,
            alarm,
        }
    }

    /// The engine's clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// A moment of the engine's clock as milliseconds since the UNIX epoch. The same moment is always given the same date,
    /// unless the system's clock was stepped in between.
    pub fn unix_of(&self, at: Millis) -> u64 {
        let offset = self.clock.unix_millis() as i64 - self.clock.now_millis() as i64;
        // The two clocks are read one after the other, and in whole milliseconds: small differences are no step.
        let known = self.unix_offset.load(Ordering::Relaxed);
        let offset = if known.abs_diff(offset) <= SAME_CLOCK {
            known
        } else {
            self.unix_offset.store(offset, Ordering::Relaxed);
            offset
        };
        at.saturating_add_signed(offset)
    }

    /// Bytes that the memory tier may use.
    pub fn budget(&self) -> u64 {
        self.memory.budget()
    }

    /// The number of an origin's breaker.
    pub fn origin(&self, name: &str) -> OriginId {
        self.breakers.origin(name)
    }

    /// The number of a pattern in the metrics, 1 and up, given at its first use; 0 when there is none left.
    pub fn route(&self, pattern: &str) -> u16 {
        self.routes.write().number(pattern)
    }
}

fn build(key: &[u8], value: &Value<'_>, links: &[u8], seq: u64, now: Millis, version: u32) -> Entry {
    let spec = EntrySpec {
        key,
        metadata: value.metadata,
        links,
        value: value.bytes,
        kind: value.kind,
        ages: value.ages,
        seq,
        route: value.route,
        version,
    };
    Entry::new(&spec, now)
}
