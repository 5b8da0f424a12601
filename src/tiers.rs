//! Tiers behind the memory of a cache, and the calls around them. What takes time is answered by events: a receipt is a number
//! that comes back with `delivered`.

use std::sync::Arc;
use std::time::Duration;

use kvcache_engine::engine::{BatchEnd, Behind, Engine};
use kvcache_engine::tier::cloudflare::{self, CloudflareTier};
use kvcache_engine::tier::disk::{self, DiskTier};
use kvcache_engine::tier::redis::{self, RedisTier};
use kvcache_engine::tier::{Behindhand, Layer, Runtime, Tier, TierError, Tiers};
use napi::{Env, Result};
use napi_derive::napi;

use crate::header::{self, Status};
use crate::raw::{Raw, undefined};
use crate::reading::give;
use crate::thread::{with_cache, with_local};

/// A tier as the user described it, checked by JavaScript. Which of the rest is there depends on the kind.
#[napi(object)]
pub struct TierIn {
    /// 'disk', 'redis' or 'cloudflareKV'.
    pub kind: String,
    /// Milliseconds that one call may take.
    pub timeout: f64,
    pub account_id: Option<String>,
    pub namespace_id: Option<String>,
    pub api_token: Option<String>,
    pub base_url: Option<String>,
    pub path: Option<String>,
    /// Bytes.
    pub max_size: Option<f64>,
    pub urls: Option<Vec<String>>,
    pub cluster: Option<bool>,
    pub sentinel: Option<String>,
    pub ca: Option<String>,
    pub prefix: Option<String>,
    pub lock: Option<bool>,
}

/// A tier that cannot be opened.
#[napi(object)]
pub struct TierTrouble {
    pub tier: String,
    pub message: String,
    /// What it was given cannot be right.
    pub refused: bool,
}

impl TierTrouble {
    fn new(tier: &str, error: &TierError) -> Self {
        let refused = error.kind == kvcache_engine::tier::TierErrorKind::Refused;
        Self { tier: tier.to_owned(), message: error.message.to_string(), refused }
    }
}

/// Tiers that are not behind an engine yet, and the threads that they run on; none where there are none.
pub type Made = Option<(Arc<Runtime>, Vec<Layer>)>;

/// Makes the tiers of a cache that is being opened.
pub fn layers(specs: &[TierIn]) -> std::result::Result<Made, TierTrouble> {
    if specs.is_empty() {
        return Ok(None);
    }
    let runtime = Runtime::shared().map_err(|error| TierTrouble {
        tier: specs[0].kind.clone(),
        message: format!("the threads for tiers cannot be started: {error}"),
        refused: false,
    })?;
    let mut layers = Vec::with_capacity(specs.len());
    for spec in specs {
        let timeout = Duration::from_millis(spec.timeout as u64);
        let tier = layer(spec, timeout, &runtime).map_err(|error| TierTrouble::new(&spec.kind, &error))?;
        layers.push(Layer { tier, timeout });
    }
    Ok(Some((runtime, layers)))
}

fn layer(spec: &TierIn, timeout: Duration, runtime: &Runtime) -> std::result::Result<Arc<dyn Tier>, TierError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(match &*spec.kind {
        "disk" => {
            let settings = disk::Settings {
                path: text(&spec.path).into(),
                max_size: spec.max_size.map_or(disk::MAX_SIZE, |bytes| bytes as u64),
                timeout,
            };
            Arc::new(DiskTier::open(&settings, runtime.handle())?)
        }
        "redis" => {
            let settings = redis::Settings {
                urls: spec.urls.clone().unwrap_or_default(),
                cluster: spec.cluster.unwrap_or_default(),
                sentinel: spec.sentinel.clone(),
                tls_ca: spec.ca.clone(),
                prefix: spec.prefix.clone().unwrap_or_else(|| redis::PREFIX.to_owned()),
                lock: spec.lock.unwrap_or_default(),
                timeout,
            };
            Arc::new(RedisTier::new(&settings, runtime.handle())?)
        }
        _ => {
            let settings = cloudflare::Settings {
                account_id: text(&spec.account_id),
                namespace_id: text(&spec.namespace_id),
                api_token: text(&spec.api_token),
                base_url: spec.base_url.clone(),
                timeout,
            };
            Arc::new(CloudflareTier::new(&settings, runtime.handle())?)
        }
    })
}

/// Opens what was made behind an engine.
pub fn open(engine: &Arc<Engine>, made: Made) -> Option<Arc<Tiers>> {
    made.map(|(runtime, layers)| Tiers::open(engine, runtime, layers))
}

/// Looks for the keys of flights behind memory: a `sought` event follows for each that has not ended. `freshOnly`: an old value is in
/// memory; `loads`: a fetcher will run where nothing is found.
#[napi(catch_unwind)]
pub fn seek(cache: u32, tokens: Vec<f64>, fresh_only: bool, loads: bool) -> Result<()> {
    with_cache(cache, |opened, _| {
        let tokens: Vec<u64> = tokens.iter().map(|token| *token as u64).collect();
        opened.engine().seek(&tokens, fresh_only, loads);
    })?;
    Ok(())
}

/// What was sought for a flight: status `Fresh` or `Stale` with the value, the flight having ended; `None` where its fetcher is to run, and
/// whether there is a copy in hand.
#[napi(catch_unwind)]
pub fn take_sought(env: Env, cache: u32, token: f64) -> Result<Raw> {
    let env = env.raw();
    with_local(cache, |local| {
        let Some(opened) = local.cache(cache) else { return undefined(env) };
        let token = token as u64;
        match opened.engine().take_sought(token) {
            Some((found, batch)) => {
                local.header.set(header::BATCH_END, if batch == BatchEnd::Finished { 1.0 } else { 0.0 });
                give(local, env, cache, found, None, true, true)
            }
            None => {
                let has_copy = opened.engine().has_copy(token);
                local.header.status(Status::None);
                local.header.set(header::HAS_COPY, f64::from(u8::from(has_copy)));
                undefined(env)
            }
        }
    })
}

/// A receipt for what was handed over to the tiers so far: `all`, or what writers wait for. 0: it has arrived.
#[napi(catch_unwind)]
pub fn receipt(cache: u32, all: bool) -> Result<f64> {
    let receipt = with_cache(cache, |opened, _| opened.tiers().map_or(0, |tiers| tiers.receipt(opened.thread, all)))?;
    Ok(receipt.unwrap_or(0) as f64)
}

/// Has everything land in the tiers within so many milliseconds, and `close`: closes them. A receipt; 0: there are none.
#[napi(catch_unwind)]
pub fn flush_tiers(cache: u32, within: f64, close: bool) -> Result<f64> {
    let within = Duration::from_millis(within as u64);
    let receipt =
        with_cache(cache, |opened, _| opened.tiers().map_or(0, |tiers| tiers.flush(opened.thread, within, close)))?;
    Ok(receipt.unwrap_or(0) as f64)
}

/// Lists keys of a tier. A receipt, for `takePage`; 0: there is no tier of that name.
#[napi(catch_unwind)]
pub fn list_tier(cache: u32, tier: String, prefix: String, limit: u32, cursor: Option<String>) -> Result<f64> {
    let receipt = with_cache(cache, |opened, _| {
        let list = |tiers: &Arc<Tiers>| tiers.list(opened.thread, &tier, prefix.as_bytes(), limit as usize, cursor);
        opened.tiers().map_or(0, list)
    })?;
    Ok(receipt.unwrap_or(0) as f64)
}

/// A page of a tier's keys.
#[napi(object)]
pub struct TierPage {
    pub names: Vec<String>,
    /// Seconds since the UNIX epoch; 0 for never.
    pub expirations: Vec<f64>,
    /// JSON text; '' for none.
    pub metadata: Vec<String>,
    pub cursor: Option<String>,
    /// Why there is none.
    pub trouble: Option<String>,
}

/// What `listTier` has come to, once.
#[napi(catch_unwind)]
pub fn take_page(cache: u32, receipt: f64) -> Result<Option<TierPage>> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let page = with_cache(cache, |opened, _| {
        let Some(Behindhand::Page(page)) = opened.tiers()?.take(receipt as u64) else { return None };
        Some(match page {
            Err(error) => TierPage {
                names: Vec::new(),
                expirations: Vec::new(),
                metadata: Vec::new(),
                cursor: None,
                trouble: Some(error.message.to_string()),
            },
            Ok(page) => TierPage {
                names: page.keys.iter().map(|listed| text(&listed.key)).collect(),
                expirations: page.keys.iter().map(|listed| listed.expiration.unwrap_or(0) as f64).collect(),
                metadata: page.keys.iter().map(|listed| text(&listed.metadata)).collect(),
                cursor: page.cursor,
                trouble: None,
            },
        })
    })?;
    Ok(page.flatten())
}

/// Asks for the next version of a name, above all that are known here, or else for the one that was given last. A receipt, for
/// `takeVersion`; 0: no tier gives any.
#[napi(catch_unwind)]
pub fn ask_version(cache: u32, name: String, next: bool) -> Result<f64> {
    let name = name.as_bytes();
    let receipt = with_cache(cache, |opened, _| {
        let above = next.then(|| opened.engine().highest_version(name));
        opened.tiers().map_or(0, |tiers| tiers.version(opened.thread, name, above))
    })?;
    Ok(receipt.unwrap_or(0) as f64)
}

/// A version, or why there is none.
#[napi(object)]
pub struct VersionOut {
    pub version: f64,
    /// The tier that gives none, and why.
    pub tier: Option<String>,
    pub trouble: Option<String>,
}

/// What `askVersion` has come to, once.
#[napi(catch_unwind)]
pub fn take_version(cache: u32, receipt: f64) -> Result<Option<VersionOut>> {
    let version = with_cache(cache, |opened, _| {
        let Some(Behindhand::Version(version)) = opened.tiers()?.take(receipt as u64) else { return None };
        Some(match version {
            Ok(version) => VersionOut { version: version as f64, tier: None, trouble: None },
            Err(trouble) => VersionOut {
                version: 0.0,
                tier: Some(trouble.tier.to_string()),
                trouble: Some(trouble.message.to_string()),
            },
        })
    })?;
    Ok(version.flatten())
}

/// What one tier has counted.
#[napi(object)]
pub struct TierStats {
    pub name: String,
    pub reads: f64,
    pub hits: f64,
    pub writes: f64,
    pub errors: f64,
    pub pending: f64,
    /// 'closed', 'open' or 'half-open'.
    pub breaker: String,
}

/// What the tiers have counted, the nearest first.
#[napi(catch_unwind)]
pub fn tier_stats(cache: u32) -> Result<Vec<TierStats>> {
    let stats = with_cache(cache, |opened, _| {
        let figures = opened.tiers().map(|tiers| tiers.figures()).unwrap_or_default();
        figures
            .into_iter()
            .map(|(name, figures)| TierStats {
                name: name.to_string(),
                reads: figures.reads as f64,
                hits: figures.hits as f64,
                writes: figures.writes as f64,
                errors: figures.errors as f64,
                pending: figures.pending as f64,
                breaker: figures.breaker.as_str().to_owned(),
            })
            .collect()
    })?;
    Ok(stats.unwrap_or_default())
}
