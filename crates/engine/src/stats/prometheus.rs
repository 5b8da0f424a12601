//! The metrics as text, in Prometheus' exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), named after its conventions
//! (<https://prometheus.io/docs/practices/naming/>): base units, counters ending in `_total`.
//!
//! Names, types and labels are a public interface, listed in `docs/metrics.md`; a test holds the two together.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::counters::{RouteTotals, Totals};
use super::latency::{LatencyTotals, Op};
use crate::load::breaker::State;

/// What the text says, whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Name of the cache, a label `cache` on every series; `None` for no such label.
    pub cache: Option<String>,
    /// Events of the whole cache.
    pub totals: Totals,
    /// Entries in the memory tier.
    pub entries: u64,
    /// Bytes accounted to the memory tier: keys, values and bookkeeping.
    pub memory_bytes: u64,
    /// Bytes that the memory tier may use.
    pub memory_budget_bytes: u64,
    /// Bytes of the values in the memory tier, before compression.
    pub value_bytes: u64,
    /// Refreshes that wait in the queue.
    pub queued: u64,
    /// Refreshes under way.
    pub running: u64,
    /// Durations, in microseconds as everywhere in the engine; written in seconds.
    pub latency: LatencyTotals,
    /// Events by `define()` pattern. Several lines of one pattern are added up.
    pub routes: Vec<Route>,
    /// The breakers, one for each origin.
    pub breakers: Vec<Breaker>,
}

/// The events of one `define()` pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The pattern as it was given.
    pub pattern: String,
    /// Its events.
    pub totals: RouteTotals,
}

/// The breaker of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    /// The origin's name.
    pub origin: String,
    /// Where its breaker stands.
    pub state: State,
    /// Failures in a row.
    pub failures: u32,
}

/// Content-Type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Writes the whole text, which ends in a line feed.
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = Text::new(snapshot.cache.as_deref());
    events(&mut text, &snapshot.totals);
    gauges(&mut text, snapshot);
    latencies(&mut text, &snapshot.latency);
    routes(&mut text, &snapshot.routes);
    breakers(&mut text, &snapshot.breakers);
    text.out
}

fn events(text: &mut Text, t: &Totals) {
    let mut counter = |name, help, value: u64| text.family(name, Type::Counter, help).sample("", &[], value);
    counter("kvcache_hits_total", "Gets answered from the cache, fresh or stale.", t.hits);
    counter("kvcache_near_hits_total", "Hits answered by a thread's near cache, without the engine.", t.near_hits);
    counter("kvcache_misses_total", "Gets that waited for a load or found nothing.", t.misses);
    counter("kvcache_stale_total", "Hits answered with a stale value.", t.stale);
    counter("kvcache_coalesced_total", "Misses that joined a load already running.", t.coalesced);
    counter("kvcache_loads_total", "Fetcher calls, foreground and background.", t.loads);
    counter("kvcache_background_updates_total", "Background refreshes that succeeded.", t.background_updates);
    counter("kvcache_refreshes_dropped_total", "Refreshes dropped because the queue was full.", t.refreshes_dropped);
    counter("kvcache_errors_total", "Failed loads, serializations and listeners.", t.errors);
    counter("kvcache_listener_errors_total", "Event listeners that threw.", t.listener_errors);
    counter("kvcache_invalidations_total", "Invalidations applied.", t.invalidations);
    let mut evictions = text.family("kvcache_evictions_total", Type::Counter, "Entries dropped, by reason.");
    evictions.sample("", &[("reason", "budget")], t.evicted_for_budget);
    evictions.sample("", &[("reason", "expired")], t.evicted_expired);
}

fn gauges(text: &mut Text, s: &Snapshot) {
    let mut gauge = |name, help, value: u64| text.family(name, Type::Gauge, help).sample("", &[], value);
    gauge("kvcache_entries", "Entries in the memory tier.", s.entries);
    gauge("kvcache_memory_bytes", "Bytes accounted to the memory tier: keys, values, bookkeeping.", s.memory_bytes);
    gauge("kvcache_memory_budget_bytes", "Bytes that the memory tier may use.", s.memory_budget_bytes);
    gauge("kvcache_uncompressed_value_bytes", "Bytes of the values held, before compression.", s.value_bytes);
    gauge("kvcache_refreshes_queued", "Background refreshes that wait.", s.queued);
    gauge("kvcache_refreshes_running", "Background refreshes under way.", s.running);
}

fn latencies(text: &mut Text, latency: &LatencyTotals) {
    let help = "Duration of an operation since the cache was opened.";
    let mut family = text.family("kvcache_latency_seconds", Type::Summary, help);
    for op in Op::ALL {
        let of = latency.of(op);
        for (quantile, micros) in [("0.5", of.p50), ("0.99", of.p99), ("0.999", of.p999)] {
            // Nothing measured has no quantile, and 0 would look like a very good one.
            let seconds = if of.count == 0 { f64::NAN } else { seconds(micros) };
            family.sample("", &[("op", op.as_str()), ("quantile", quantile)], seconds);
        }
        family.sample("_sum", &[("op", op.as_str())], seconds(of.sum));
        family.sample("_count", &[("op", op.as_str())], of.count);
    }
}

fn routes(text: &mut Text, routes: &[Route]) {
    // A series may appear once only, and two patterns may look alike: one defined again, or once shown as text.
    let mut by_label: BTreeMap<String, RouteTotals> = BTreeMap::new();
    for route in routes {
        let sum = by_label.entry(label_text(&route.pattern)).or_default();
        sum.hits += route.totals.hits;
        sum.stale += route.totals.stale;
        sum.misses += route.totals.misses;
        sum.errors += route.totals.errors;
        sum.background_updates += route.totals.background_updates;
        sum.loads += route.totals.loads;
    }
    if by_label.is_empty() {
        return;
    }
    let mut counter = |name, help, value: fn(&RouteTotals) -> u64| {
        let mut family = text.family(name, Type::Counter, help);
        for (pattern, totals) in &by_label {
            family.sample("", &[("pattern", pattern)], value(totals));
        }
    };
    counter("kvcache_pattern_hits_total", "Gets answered from the cache, by define() pattern.", |t| t.hits);
    counter("kvcache_pattern_stale_total", "Hits answered with a stale value, by define() pattern.", |t| t.stale);
    counter("kvcache_pattern_misses_total", "Gets that waited or found nothing, by define() pattern.", |t| t.misses);
    counter("kvcache_pattern_loads_total", "Fetcher calls, by define() pattern.", |t| t.loads);
    counter("kvcache_pattern_errors_total", "Failed loads and serializations, by define() pattern.", |t| t.errors);
    counter(
        "kvcache_pattern_background_updates_total",
        "Background refreshes that succeeded, by define() pattern.",
        |t| t.background_updates,
    );
}

fn breakers(text: &mut Text, breakers: &[Breaker]) {
    if breakers.is_empty() {
        return;
    }
    let by_label: BTreeMap<String, &Breaker> = breakers.iter().map(|b| (label_text(&b.origin), b)).collect();
    let help = "1 for the state that the circuit breaker of an origin is in, 0 for the others.";
    let mut family = text.family("kvcache_breaker_state", Type::Gauge, help);
    for (origin, breaker) in &by_label {
        for state in State::ALL {
            let is = u8::from(breaker.state == state);
            family.sample("", &[("origin", origin), ("state", state.as_str())], is);
        }
    }
    let help = "Failures in a row that the circuit breaker of an origin has counted.";
    let mut family = text.family("kvcache_breaker_failures", Type::Gauge, help);
    for (origin, breaker) in &by_label {
        family.sample("", &[("origin", origin)], breaker.failures);
    }
}

fn seconds(micros: f64) -> f64 {
    micros / 1_000_000.0
}

/// A user's text as a label value. The format takes any Unicode, but Prometheus' own scanner ends at a NUL, so that
/// one is shown as U+FFFD.
fn label_text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

#[derive(Clone, Copy)]
enum Type {
    Counter,
    Gauge,
    Summary,
}

impl Type {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Summary => "summary",
        }
    }
}

/// The text as it grows. Samples of one family stand together, after its HELP and TYPE.
struct Text {
    out: String,
    cache: Option<String>,
}

struct Family<'a> {
    name: &'static str,
    text: &'a mut Text,
}

impl Text {
    fn new(cache: Option<&str>) -> Self {
        Self { out: String::with_capacity(8 * 1024), cache: cache.map(label_text) }
    }

    fn family(&mut self, name: &'static str, of: Type, help: &str) -> Family<'_> {
        self.out.push_str("# HELP ");
        self.out.push_str(name);
        self.out.push(' ');
        escape(help, &mut self.out, false);
        self.out.push_str("\n# TYPE ");
        self.out.push_str(name);
        self.out.push(' ');
        self.out.push_str(of.as_str());
        self.out.push('\n');
        Family { name, text: self }
    }
}

impl Family<'_> {
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let Text { out, cache } = &mut *self.text;
        out.push_str(self.name);
        out.push_str(suffix);
        let cache = cache.as_deref().map(|name| ("cache", name));
        let mut open = '{';
        for (name, value) in cache.iter().chain(labels) {
            out.push(open);
            open = ',';
            out.push_str(name);
            out.push_str("=\"");
            escape(value, out, true);
            out.push('"');
        }
        if open == ',' {
            out.push('}');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(out, " {value}");
    }
}

/// Escapes as the format demands: backslash and line feed, and within label values the double quote.
fn escape(text: &str, out: &mut String, quote: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quote => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}
