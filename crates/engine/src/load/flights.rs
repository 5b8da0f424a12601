//! Flights: loads under way, at most one a key that anyone may join.
//!
//! A flight is *attached* while the table finds it under its key. A put or a delete of the key cuts it off: its callers
//! still get their answer, but nobody joins it any more and what it brings is not stored. All that happens to one key
//! (joining, cutting, storing what a flight brought) happens under that key's lock, [`FlightTable::lock`], so that a
//! value can never be stored after the change that outdated it.
//!
//! ```text
//!            refresh()                start()               settle() / fail()
//!   (none) ───────────▶ Queued ─────────────────▶ Running ───────────────────▶ (none)
//!      │                  │ ▲      failed, retries left │ │
//!      │                  │ └───────────────────────────┘ │ put / delete          settle() / fail()
//!      │                  │ put / delete / taken over     ├──────────────▶ Cut ───────────────────▶ (none)
//!      │                  └──────────▶ (none)             │                ▲ put / delete / taken over
//!      │                                                  │ hard timeout   │      settle() / fail()
//!      │                                                  └──────────────▶ Expired ───────────────▶ (none)
//!      └──────────────── begin() ───────────────────────▶ Running
//! ```
//! An expired flight holds its key only until its thread reports the failure, so that a put or delete in between is noticed:
//! nobody joins it, what it brings is not stored, and whoever wants to load takes its place. A failed refresh with
//! retries left goes back to Queued from there as well.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::clock::Millis;
use crate::engine::{Positions, ThreadId};
use crate::entry::Entry;
use crate::invalidation::recent::Recent;
use crate::load::breaker::OriginId;
use crate::load::queue::BatchId;
use crate::memory::hash_key;
use crate::sync::{ConcurrentMap, Mutex, MutexGuard};

/// Names a flight, in the whole process, for good. 0 names none.
pub type Token = u64;

static LAST_TOKEN: AtomicU64 = AtomicU64::new(0);

/// What a flight is from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The thread whose fetcher it runs.
    pub thread: ThreadId,
    /// The breaker it counts under.
    pub origin: OriginId,
    /// See [`crate::entry::Header::route`].
    pub route: u16,
    /// After this it fails; [`crate::clock::FOREVER`] for never.
    pub hard_timeout: Millis,
    /// The batch it is refreshed in, if it is a background refresh.
    pub batch: Option<BatchId>,
}

/// A load under way.
#[derive(Debug)]
pub struct Flight {
    pub token: Token,
    pub key: Arc<[u8]>,
    pub plan: Plan,
    pub state: Mutex<FlightState>,
}

/// What changes in the course of a flight.
#[derive(Debug)]
pub struct FlightState {
    pub phase: Phase,
    /// The log's number seen before the fetcher began.
    pub seq: u64,
    /// How far the logs of tiers were known then.
    pub positions: Positions,
    /// When the fetcher began, in nanoseconds of the engine's clock.
    pub started: u64,
    /// When its hard timeout passes; [`FOREVER`](crate::clock::FOREVER) once that has been told.
    pub deadline: Millis,
    /// The copy in hand when the fetcher began.
    pub stale: Option<Entry>,
    /// Whether this flight answers for a permit of the breaker, and whether that one is the trial.
    pub permit: Option<bool>,
    /// The tags and parents that it is known to have, encoded ([`crate::invalidation::links`]).
    pub links: Box<[u8]>,
    /// A soft invalidation came while it ran: what it brings is stored as stale.
    pub outdated: bool,
    /// What was found for it behind memory had been cut meanwhile.
    pub overtaken: bool,
    /// Each waiting caller: its thread, and when it came, in nanoseconds of the engine's clock.
    pub waiting: SmallVec<[(ThreadId, u64); 1]>,
    /// The other threads that wait, each once.
    pub watchers: Vec<ThreadId>,
    /// Nobody in its own thread waits any more.
    pub abandoned: bool,
    /// Someone who left wants it to go on.
    pub kept: bool,
}

/// See the picture at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Queued,
    Running,
    Cut,
    Expired,
}

impl Flight {
    /// A flight of `key` in `phase`, with a token of its own.
    pub fn new(key: &[u8], plan: Plan, phase: Phase, seq: u64, started: u64) -> Arc<Self> {
        Arc::new(Self {
            token: LAST_TOKEN.fetch_add(1, Ordering::Relaxed) + 1,
            key: key.into(),
            plan,
            state: Mutex::new(FlightState {
                phase,
                seq,
                positions: Positions::new(),
                started,
                deadline: (started / 1_000_000).saturating_add(plan.hard_timeout),
                stale: None,
                permit: None,
                links: Box::default(),
                outdated: false,
                overtaken: false,
                waiting: SmallVec::new(),
                watchers: Vec::new(),
                abandoned: false,
                kept: false,
            }),
        })
    }
}

/// What one lock protects.
#[derive(Debug, Default)]
struct Keys {
    flights: HashMap<Arc<[u8]>, Arc<Flight>, PreHashed>,
    recent: Recent,
}

/// The flights of one cache, by key and by token.
#[derive(Debug)]
pub struct FlightTable {
    shards: Box<[Mutex<Keys>]>,
    by_token: ConcurrentMap<Token, Arc<Flight>, PreHashed>,
}

/// How many locks the keys share. A lock is held for well under a microsecond, or for one insert into the memory tier.
const SHARDS: usize = 64;

impl Default for FlightTable {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            by_token: ConcurrentMap::with_hasher(PreHashed),
        }
    }
}

/// The lock of one key, which some other keys share.
pub struct KeyLock<'a> {
    flights: &'a FlightTable,
    keys: MutexGuard<'a, Keys>,
    key: &'a [u8],
}

impl FlightTable {
    /// Locks a key. Nothing else may be locked by this thread but what comes after it: the queue, the breaker, the memory
    /// tier, timers, a flight's state.
    pub fn lock<'a>(&'a self, key: &'a [u8]) -> KeyLock<'a> {
        let shard = (hash_key(key) >> 32) as usize % SHARDS;
        KeyLock { flights: self, keys: self.shards[shard].lock(), key }
    }

    /// Whether a flight is attached to the key, queued or running.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.lock(key).attached().is_some()
    }

    /// The flight of that token, unless it has ended.
    pub fn by_token(&self, token: Token) -> Option<Arc<Flight>> {
        self.by_token.get(&token).map(|f| Arc::clone(&f))
    }

    /// Whether the flight of that token has not ended.
    pub fn is_alive(&self, token: Token) -> bool {
        self.by_token.contains_key(&token)
    }

    /// Ends a flight: its token names nothing from now on. None if it had ended before.
    pub fn end(&self, token: Token) -> Option<Arc<Flight>> {
        self.by_token.remove(&token).map(|(_, flight)| flight)
    }

    /// How many flights have not ended, detached ones included.
    pub fn len(&self) -> usize {
        self.by_token.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_token.is_empty()
    }

    /// The least number of a load that runs and may yet be stored.
    pub fn oldest(&self) -> Option<u64> {
        let running = |flight: Arc<Flight>| {
            let state = flight.state.lock();
            (state.phase == Phase::Running).then_some(state.seq)
        };
        // Not within the walk: that holds a lock of the table, which those who end a flight take while they hold its state.
        self.all().into_iter().filter_map(running).min()
    }

    /// Waits until whoever holds a key's lock has let go of it once.
    pub fn pass_locks(&self) {
        self.shards.iter().for_each(|shard| drop(shard.lock()));
    }

    /// Every flight that has not ended.
    pub fn all(&self) -> Vec<Arc<Flight>> {
        self.by_token.iter().map(|flight| Arc::clone(&flight)).collect()
    }

    /// Every flight that is attached to its key.
    #[cfg(any(test, feature = "validate"))]
    pub fn all_attached(&self) -> Vec<Arc<Flight>> {
        let mut attached = Vec::new();
        for shard in &self.shards {
            let map = &shard.lock().flights;
            assert!(map.iter().all(|(key, flight)| *key == flight.key));
            attached.extend(map.values().cloned());
        }
        attached
    }
}

impl KeyLock<'_> {
    /// What the keys of this lock went through lately.
    pub fn recent(&mut self) -> &mut Recent {
        &mut self.keys.recent
    }

    /// The flight attached to the key.
    pub fn attached(&self) -> Option<&Arc<Flight>> {
        self.keys.flights.get(self.key)
    }

    /// Attaches a flight, the key having none.
    pub fn attach(&mut self, flight: &Arc<Flight>) {
        self.flights.by_token.insert(flight.token, Arc::clone(flight));
        self.keys.flights.insert(Arc::clone(&flight.key), Arc::clone(flight));
    }

    /// Detaches whatever is attached.
    pub fn detach(&mut self) -> Option<Arc<Flight>> {
        self.keys.flights.remove(self.key)
    }

    /// Detaches `flight` if it is the one attached, and says whether it was.
    pub fn detach_if(&mut self, flight: &Flight) -> bool {
        let attached = self.attached().is_some_and(|f| f.token == flight.token);
        if attached {
            self.keys.flights.remove(self.key);
        }
        attached
    }
}

/// Hashes keys as the memory tier does, and tokens by multiplication: both are spread well and neither is chosen freely
/// by an attacker within one cache's few flights.
#[derive(Debug, Clone, Copy, Default)]
pub struct PreHashed;

/// See [`PreHashed`].
#[derive(Debug, Default)]
pub struct FlightHasher(u64);

impl std::hash::BuildHasher for PreHashed {
    type Hasher = FlightHasher;

    fn build_hasher(&self) -> FlightHasher {
        FlightHasher::default()
    }
}

impl std::hash::Hasher for FlightHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= hash_key(bytes);
    }

    fn write_usize(&mut self, _length: usize) {
        // The length prefix of a slice adds nothing: a key is the only thing hashed.
    }

    fn write_u64(&mut self, token: u64) {
        self.0 ^= token.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
