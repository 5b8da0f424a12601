//! Opening and closing, figures, events.

use std::sync::Arc;

use kvcache_engine::codec::Algorithm;
use kvcache_engine::engine::{Compression, Config, Event, Trouble};
use kvcache_engine::load::breaker::BreakerConfig;
use kvcache_engine::load::queue::Limits;
use kvcache_engine::memory::EvictReason;
use kvcache_engine::stats::latency::Summary;
use napi::Result;
use napi_derive::napi;

use crate::mailbox::Slot;
use crate::registry::{Mismatch, Opened, Refusal, Setting};
use crate::thread::{with_cache, with_local};
use crate::tiers::{TierIn, TierTrouble};

/// How a cache is set up; milliseconds and bytes.
#[napi(object)]
pub struct OpenOptions {
    pub memory: f64,
    pub concurrency: u32,
    pub max_queued: u32,
    pub retries: u32,
    pub backoff: f64,
    pub cooldown: f64,
    /// 0 for no breaker.
    pub breaker_threshold: u32,
    pub breaker_timeout: f64,
    /// 'gzip', 'zstd' or 'lz4'; '' for none.
    pub algorithm: String,
    /// 0 for the algorithm's own default.
    pub level: i32,
    pub threshold: f64,
    /// None for a cache of its own.
    pub name: Option<String>,
    /// What those who open the same name must agree on.
    pub settings: Vec<SettingIn>,
    /// The nearest first.
    pub tiers: Vec<TierIn>,
}

/// A setting of a named cache, as text.
#[napi(object)]
pub struct SettingIn {
    pub option: String,
    pub value: String,
    /// False for a default.
    pub given: bool,
}

/// A cache that was opened, or the setting that stands against it.
#[napi(object)]
pub struct OpenOut {
    /// Its number in this thread; 0 where it was refused.
    pub number: u32,
    pub mismatch: Option<MismatchOut>,
    /// The tier that cannot be opened.
    pub trouble: Option<TierTrouble>,
    /// The serializer that a named cache was opened with.
    pub serializer: Option<String>,
}

/// A setting that is not the one that the cache is open with.
#[napi(object)]
pub struct MismatchOut {
    pub option: String,
    pub open: String,
    pub given: String,
}

/// Opens a cache for a place.
#[napi(catch_unwind)]
pub fn open(place: u32, options: OpenOptions) -> Result<OpenOut> {
    let breaker = (options.breaker_threshold > 0)
        .then_some(BreakerConfig { threshold: options.breaker_threshold, timeout: options.breaker_timeout as u64 });
    let compression = Algorithm::from_name(&options.algorithm).map(|algorithm| Compression {
        algorithm,
        level: if options.level == 0 { algorithm.default_level() } else { options.level },
        threshold: options.threshold as usize,
    });
    let config = Config {
        memory: options.memory as u64,
        queue: Limits {
            concurrency: options.concurrency as usize,
            max_queued: options.max_queued as usize,
            retries: options.retries,
        },
        backoff: options.backoff as u64,
        cooldown: options.cooldown as u64,
        breaker,
        compression,
    };
    with_local(place, |local| {
        let number = local.next_number()?;
        let slot = Slot { cache: number, mailbox: Arc::clone(&local.mailbox) };
        let opened = match &options.name {
            None => Opened::private(config, &options.tiers, slot),
            Some(name) => {
                let settings = options.settings.into_iter().map(Setting::from).collect();
                Opened::named(name, settings, config, &options.tiers, slot)
            }
        };
        Ok(match opened {
            Ok(opened) => {
                let serializer = opened.setting("serializer").map(str::to_owned);
                local.opened(number, opened);
                OpenOut { number, mismatch: None, trouble: None, serializer }
            }
            Err(Refusal::Mismatch(Mismatch { option, open, given })) => {
                let mismatch = Some(MismatchOut { option, open, given });
                OpenOut { number: 0, mismatch, trouble: None, serializer: None }
            }
            Err(Refusal::Tier(trouble)) => {
                OpenOut { number: 0, mismatch: None, trouble: Some(trouble), serializer: None }
            }
        })
    })?
}

impl From<SettingIn> for Setting {
    fn from(SettingIn { option, value, given }: SettingIn) -> Self {
        Self { option, value, given }
    }
}

/// Closes a cache: its number means nothing any more, and its memory is freed unless others have it open.
#[napi(catch_unwind)]
pub fn close(cache: u32) -> Result<()> {
    let opened = with_local(cache, |local| local.closed(cache))?;
    drop(opened);
    Ok(())
}

/// Gives an origin's breaker its number.
#[napi(catch_unwind)]
pub fn origin(cache: u32, name: String) -> Result<u32> {
    Ok(with_cache(cache, |opened, _| opened.engine().origin(&name).number())?.unwrap_or(u32::MAX))
}

/// The number that a pattern is counted under in the metrics, the same for all who have the cache open; 0 when there are too
/// many.
#[napi(catch_unwind)]
pub fn route(cache: u32, pattern: String) -> Result<u32> {
    Ok(with_cache(cache, |opened, _| opened.engine().route(&pattern))?.map_or(0, u32::from))
}

/// Whether evictions are to be told.
#[napi(catch_unwind)]
pub fn tell_evictions(cache: u32, wanted: bool) -> Result<()> {
    with_cache(cache, |opened, _| opened.engine().tell_evictions(opened.thread, wanted))?;
    Ok(())
}

/// Whether invalidations are to be told once they were swept up after.
#[napi(catch_unwind)]
pub fn tell_invalidations(cache: u32, wanted: bool) -> Result<()> {
    with_cache(cache, |opened, _| opened.engine().tell_invalidations(opened.thread, wanted))?;
    Ok(())
}

/// Counts a failure that no flight reports.
#[napi(catch_unwind)]
pub fn count_error(cache: u32, route: u32) -> Result<()> {
    with_cache(cache, |opened, _| opened.engine().count_error(route as u16))?;
    Ok(())
}

/// Counts a listener that threw.
#[napi(catch_unwind)]
pub fn count_listener_error(cache: u32) -> Result<()> {
    with_cache(cache, |opened, _| opened.engine().count_listener_error())?;
    Ok(())
}

/// A latency's figures, microseconds.
#[napi(object)]
pub struct LatencyFigures {
    pub count: f64,
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl From<&Summary> for LatencyFigures {
    fn from(s: &Summary) -> Self {
        Self { count: s.count as f64, p50: s.p50, p99: s.p99, p999: s.p999, max: s.max }
    }
}

/// The latencies of a cache.
#[napi(object)]
pub struct Latency {
    pub hit: LatencyFigures,
    pub stale: LatencyFigures,
    pub miss: LatencyFigures,
    pub fetch: LatencyFigures,
}

/// The figures of a cache.
#[napi(object)]
pub struct Stats {
    pub hits: f64,
    pub near_hits: f64,
    pub misses: f64,
    pub stale: f64,
    pub background_updates: f64,
    pub errors: f64,
    pub evictions: f64,
    pub invalidations: f64,
    pub swept: f64,
    pub coalesced: f64,
    pub refreshes_dropped: f64,
    pub hit_ratio: f64,
    pub stale_ratio: f64,
    pub entries: f64,
    pub bytes: f64,
    pub bytes_before_compression: f64,
    pub queued: f64,
    pub running: f64,
    pub latency: Latency,
}

/// All figures of this moment.
#[napi(catch_unwind)]
pub fn stats(cache: u32) -> Result<Option<Stats>> {
    with_cache(cache, |opened, _| {
        let stats = opened.engine().stats();
        let totals = &stats.totals;
        Stats {
            hits: totals.hits as f64,
            near_hits: totals.near_hits as f64,
            misses: totals.misses as f64,
            stale: totals.stale as f64,
            background_updates: totals.background_updates as f64,
            errors: totals.errors as f64,
            evictions: totals.evictions() as f64,
            invalidations: totals.invalidations() as f64,
            swept: totals.swept as f64,
            coalesced: totals.coalesced as f64,
            refreshes_dropped: totals.refreshes_dropped as f64,
            hit_ratio: totals.hit_ratio(),
            stale_ratio: totals.stale_ratio(),
            entries: stats.entries as f64,
            bytes: stats.bytes as f64,
            bytes_before_compression: stats.value_bytes as f64,
            queued: stats.queued as f64,
            running: stats.running as f64,
            latency: Latency {
                hit: (&stats.latency.hit).into(),
                stale: (&stats.latency.stale).into(),
                miss: (&stats.latency.miss).into(),
                fetch: (&stats.latency.fetch).into(),
            },
        }
    })
}

/// All figures as Prometheus text.
#[napi(catch_unwind)]
pub fn metrics(cache: u32) -> Result<Option<String>> {
    with_cache(cache, |opened, _| opened.engine().metrics_of(opened.name()))
}

/// Where a breaker stands.
#[napi(object)]
pub struct BreakerState {
    pub state: String,
    pub failures: u32,
    /// Milliseconds since the UNIX epoch.
    pub next_attempt: Option<f64>,
}

/// Where an origin's breaker stands.
#[napi(catch_unwind)]
pub fn breaker(cache: u32, origin: String) -> Result<Option<BreakerState>> {
    with_cache(cache, |opened, _| {
        let snapshot = opened.engine().breaker(&origin);
        BreakerState {
            state: snapshot.state.as_str().to_owned(),
            failures: snapshot.failures,
            next_attempt: snapshot.next_attempt.map(|at| opened.engine().unix_of(at) as f64),
        }
    })
}

/// One event for this thread.
#[napi(object)]
pub struct EventOut {
    pub cache: u32,
    /// 'start', 'dropped', 'timeout', 'landed', 'abandoned', 'idle', 'inflated', 'evict', 'invalidate', 'breaker', 'sought', 'delivered' or
    /// 'ailing'.
    pub kind: String,
    /// The batch or the flight; of an eviction the bytes, of an invalidation the entries swept.
    pub id: f64,
    /// Of 'sought' all the flights.
    pub ids: Option<Vec<f64>>,
    /// The key or the origin; of an invalidation the label that it was given.
    pub name: Option<String>,
    /// The reason or the state; of an invalidation 'hard' or 'soft', and ' remote' where another process did it; of trouble with a
    /// tier what went wrong.
    pub detail: Option<String>,
    /// Of trouble with a tier the key, if it was about one.
    pub key: Option<String>,
}

impl EventOut {
    fn new(cache: u32, event: Event) -> Self {
        let mut out = Self { cache, kind: String::new(), id: 0.0, ids: None, name: None, detail: None, key: None };
        let (kind, id, name, detail) = match event {
            Event::Start(batch) => ("start", batch, None, None),
            Event::Dropped(batch) => ("dropped", batch, None, None),
            Event::TimedOut(token) => ("timeout", token, None, None),
            Event::Landed(token) => ("landed", token, None, None),
            Event::Abandoned(token) => ("abandoned", token, None, None),
            Event::Idle => ("idle", 0, None, None),
            Event::Inflated(number) => ("inflated", number, None, None),
            Event::Evicted { key, bytes, reason } => {
                let reason = match reason {
                    EvictReason::Budget => "budget",
                    EvictReason::Expired => "expired",
                };
                ("evict", bytes, Some(key.to_string()), Some(reason.to_owned()))
            }
            Event::Invalidated { text, soft, swept, remote, .. } => {
                let detail = format!("{}{}", if soft { "soft" } else { "hard" }, if remote { " remote" } else { "" });
                ("invalidate", swept, Some(text.to_string()), Some(detail))
            }
            Event::Sought(token) => {
                out.ids = Some(vec![token as f64]);
                ("sought", token, None, None)
            }
            Event::Delivered { receipt, trouble } => match trouble {
                Some(trouble) => {
                    ("delivered", receipt, Some(trouble.tier.to_string()), Some(trouble.message.to_string()))
                }
                None => ("delivered", receipt, None, None),
            },
            Event::Ailing(Trouble { tier, message, key }) => {
                out.key = key.map(|key| key.to_string());
                ("ailing", 0, Some(tier.to_string()), Some(message.to_string()))
            }
            Event::Breaker { origin, state } => {
                ("breaker", 0, Some(origin.to_string()), Some(state.as_str().to_owned()))
            }
        };
        Self { kind: kind.to_owned(), id: id as f64, name, detail, ..out }
    }
}

/// Takes the events that wait for a place.
#[napi(catch_unwind)]
pub fn drain(place: u32) -> Result<Vec<EventOut>> {
    let events = with_local(place, |local| local.mailbox.drain())?;
    let mut all: Vec<EventOut> = Vec::new();
    for (cache, event) in events {
        // An object for each would cost more than what it tells.
        if let Event::Sought(token) = event
            && let Some(last) = all.last_mut()
            && last.cache == cache
            && let Some(ids) = &mut last.ids
        {
            ids.push(token as f64);
        } else {
            all.push(EventOut::new(cache, event));
        }
    }
    Ok(all)
}
