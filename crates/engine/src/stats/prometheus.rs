//! The metrics as text, in Prometheus' exposition format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>), named after its conventions
//! (<https://prometheus.io/docs/practices/naming/>): base units, counters ending in `_total`.
//!
//! Names, types and labels are a public interface, listed in `docs/metrics.md`; a test holds the two together.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use super::counters::{RouteTotals, Totals};
use super::latency::{LatencyTotals, Op};
use crate::invalidation::target::TargetKind;
use crate::load::breaker::State;
use crate::stats::tiers::{Rest, TierFigures};

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
    /// The tiers behind memory, each of another name.
    pub tiers: Vec<Tier>,
}

/// One tier behind memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: String,
    /// What it has counted.
    pub figures: TierFigures,
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
    tiers(&mut text, &snapshot.tiers);
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
    counter("kvcache_swept_entries_total", "Entries that invalidations have cut, as they were cleared away.", t.swept);
    let mut invalidations =
        text.family("kvcache_invalidations_total", Type::Counter, "Invalidations, by what they named.");
    for (kind, count) in TargetKind::ALL.into_iter().zip(t.invalidated) {
        invalidations.sample("", &[("target", kind.as_str())], count);
    }
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
    // A series may appear once only, and a pattern may be defined again.
    let mut by_label: BTreeMap<&str, RouteTotals> = BTreeMap::new();
    for route in routes {
        let sum = by_label.entry(&route.pattern).or_default();
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
    let by_label: BTreeMap<&str, &Breaker> = breakers.iter().map(|b| (b.origin.as_str(), b)).collect();
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

fn tiers(text: &mut Text, tiers: &[Tier]) {
    if tiers.is_empty() {
        return;
    }
    let mut each = |name, of, help, value: fn(&TierFigures) -> u64| {
        let mut family = text.family(name, of, help);
        for tier in tiers {
            family.sample("", &[("tier", &tier.name)], value(&tier.figures));
        }
    };
    each("kvcache_tier_reads_total", Type::Counter, "Keys looked up in a tier.", |f| f.reads);
    each("kvcache_tier_hits_total", Type::Counter, "Keys found in a tier.", |f| f.hits);
    let help = "Values and invalidations written to a tier, and keys deleted.";
    each("kvcache_tier_writes_total", Type::Counter, help, |f| f.writes);
    each("kvcache_tier_errors_total", Type::Counter, "Keys and calls that failed in a tier.", |f| f.errors);
    each("kvcache_tier_pending", Type::Gauge, "Writes that have not reached a tier.", |f| f.pending as u64);
    let help = "1 for the state that the circuit breaker of a tier is in, 0 for the others.";
    let mut family = text.family("kvcache_tier_breaker_state", Type::Gauge, help);
    for tier in tiers {
        for state in [Rest::Closed, Rest::Open, Rest::HalfOpen] {
            let is = u8::from(tier.figures.breaker == state);
            family.sample("", &[("tier", &tier.name), ("state", state.as_str())], is);
        }
    }
}

fn seconds(micros: f64) -> f64 {
    micros / 1_000_000.0
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
        Self { out: String::with_capacity(8 * 1024), cache: cache.map(str::to_owned) }
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use prom_text_format_parser::{Sample, Scrape, Type as Parsed};
    use proptest::prelude::*;

    use super::*;
    use crate::stats::latency::Summary;

    const HOSTILE: [&str; 10] = [
        "say \"hi\":*",
        "line\nfeed:*",
        "back\\slash\\*",
        "trailing\\",
        "carriage\rreturn\u{2028}\u{85}",
        "{a=\"b\"} 1 # HELP x y",
        "emoji 🦀 ünïcödé \u{202e}",
        "",
        " \t spaces \t ",
        "control \0 \u{1} \u{7f} \u{1b}[31m",
    ];

    fn sample_snapshot() -> Snapshot {
        let totals = Totals {
            hits: 10,
            near_hits: 1,
            misses: 20,
            stale: 3,
            background_updates: 4,
            errors: 5,
            evicted_for_budget: 6,
            evicted_expired: 7,
            invalidated: [8, 80, 81, 82, 83],
            swept: 21,
            coalesced: 9,
            refreshes_dropped: 11,
            listener_errors: 12,
            loads: 13,
        };
        let measured = Summary { count: 3, p50: 1.5, p99: 250.0, p999: 1_000_000.0, max: 2e6, sum: 2_000_251.5 };
        Snapshot {
            cache: None,
            totals,
            entries: 14,
            memory_bytes: 15,
            memory_budget_bytes: 268_435_456,
            value_bytes: 16,
            queued: 17,
            running: 18,
            latency: LatencyTotals { fetch: measured, ..Default::default() },
            routes: vec![route("user:*", 21), route("page:*", 22)],
            breakers: vec![
                Breaker { origin: "default".into(), state: State::Closed, failures: 0 },
                Breaker { origin: "user:*".into(), state: State::HalfOpen, failures: 6 },
            ],
            tiers: vec![tier("disk", 23, Rest::Closed), tier("redis", 24, Rest::Open)],
        }
    }

    fn route(pattern: &str, hits: u64) -> Route {
        let totals = RouteTotals { hits, stale: 1, misses: 2, errors: 3, background_updates: 4, loads: 5 };
        Route { pattern: pattern.into(), totals }
    }

    fn tier(name: &str, reads: u64, breaker: Rest) -> Tier {
        let figures = TierFigures { reads, hits: 1, writes: 2, errors: 3, pending: 4, breaker };
        Tier { name: name.into(), figures }
    }

    fn parse(text: &str) -> Scrape {
        Scrape::parse(text).unwrap_or_else(|error| panic!("{error:?} in\n{text}"))
    }

    /// Labels by name, read back as Prometheus reads them.
    fn labels(sample: &Sample) -> BTreeMap<String, String> {
        sample.labels.iter().map(|label| (label.key.clone(), unescape(&label.value))).collect()
    }

    fn unescape(value: &str) -> String {
        let mut chars = value.chars();
        let mut out = String::new();
        while let Some(c) = chars.next() {
            match (c, c == '\\') {
                (_, true) => out.push(match chars.next() {
                    Some('n') => '\n',
                    Some(c @ ('"' | '\\')) => c,
                    other => panic!("no such escape: {other:?} in {value}"),
                }),
                (c, false) => out.push(c),
            }
        }
        out
    }

    fn values(text: &str, metric: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let scrape = parse(text);
        let metric = scrape.metrics.iter().find(|m| m.name == metric).unwrap();
        metric.samples.iter().map(|s| (labels(s), s.value.value.as_f64())).collect()
    }

    fn value(text: &str, metric: &str, wanted: &[(&str, &str)]) -> f64 {
        let wanted = wanted.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        values(text, metric).into_iter().find(|(labels, _)| *labels == wanted).unwrap().1
    }

    #[test]
    fn writes_every_figure_under_its_name() {
        let text = render(&sample_snapshot());
        for (metric, expected) in [
            ("kvcache_hits_total", 10.0),
            ("kvcache_near_hits_total", 1.0),
            ("kvcache_misses_total", 20.0),
            ("kvcache_stale_total", 3.0),
            ("kvcache_background_updates_total", 4.0),
            ("kvcache_errors_total", 5.0),
            ("kvcache_swept_entries_total", 21.0),
            ("kvcache_coalesced_total", 9.0),
            ("kvcache_refreshes_dropped_total", 11.0),
            ("kvcache_listener_errors_total", 12.0),
            ("kvcache_loads_total", 13.0),
            ("kvcache_entries", 14.0),
            ("kvcache_memory_bytes", 15.0),
            ("kvcache_memory_budget_bytes", 268_435_456.0),
            ("kvcache_uncompressed_value_bytes", 16.0),
            ("kvcache_refreshes_queued", 17.0),
            ("kvcache_refreshes_running", 18.0),
        ] {
            assert_eq!(value(&text, metric, &[]), expected, "{metric}");
        }
        for (kind, expected) in [("key", 8.0), ("prefix", 80.0), ("pattern", 81.0), ("tag", 82.0), ("all", 83.0)] {
            assert_eq!(value(&text, "kvcache_invalidations_total", &[("target", kind)]), expected, "{kind}");
        }
        assert_eq!(value(&text, "kvcache_evictions_total", &[("reason", "budget")]), 6.0);
        assert_eq!(value(&text, "kvcache_evictions_total", &[("reason", "expired")]), 7.0);
        for (metric, expected) in [
            ("kvcache_pattern_hits_total", 21.0),
            ("kvcache_pattern_stale_total", 1.0),
            ("kvcache_pattern_misses_total", 2.0),
            ("kvcache_pattern_errors_total", 3.0),
            ("kvcache_pattern_background_updates_total", 4.0),
            ("kvcache_pattern_loads_total", 5.0),
        ] {
            assert_eq!(value(&text, metric, &[("pattern", "user:*")]), expected, "{metric}");
        }
    }

    #[test]
    fn durations_are_summaries_in_seconds() {
        let text = render(&sample_snapshot());
        let of = |quantile| value(&text, "kvcache_latency_seconds", &[("op", "fetch"), ("quantile", quantile)]);
        assert_eq!([of("0.5"), of("0.99"), of("0.999")], [0.000_001_5, 0.000_25, 1.0]);
        assert!(text.contains("kvcache_latency_seconds_sum{op=\"fetch\"} 2.0002515\n"), "{text}");
        assert!(text.contains("kvcache_latency_seconds_count{op=\"fetch\"} 3\n"), "{text}");
    }

    #[test]
    fn what_was_never_measured_has_no_quantile() {
        let text = render(&sample_snapshot());
        assert!(value(&text, "kvcache_latency_seconds", &[("op", "hit"), ("quantile", "0.5")]).is_nan());
        assert!(text.contains("kvcache_latency_seconds_count{op=\"hit\"} 0\n"), "{text}");
    }

    #[test]
    fn a_breaker_is_in_one_state() {
        let text = render(&sample_snapshot());
        let of = |origin, state| value(&text, "kvcache_breaker_state", &[("origin", origin), ("state", state)]);
        assert_eq!(["closed", "open", "half-open"].map(|s| of("default", s)), [1.0, 0.0, 0.0]);
        assert_eq!(["closed", "open", "half-open"].map(|s| of("user:*", s)), [0.0, 0.0, 1.0]);
        assert_eq!(value(&text, "kvcache_breaker_failures", &[("origin", "user:*")]), 6.0);
    }

    #[test]
    fn a_cache_without_patterns_and_origins_has_no_empty_families() {
        let text = render(&Snapshot::default());
        assert!(!text.contains("kvcache_pattern") && !text.contains("breaker"), "{text}");
        parse(&text);
    }

    #[test]
    fn a_name_is_on_every_series() {
        let text = render(&Snapshot { cache: Some("main \"one\"".into()), ..sample_snapshot() });
        for metric in parse(&text).metrics {
            for sample in &metric.samples {
                assert_eq!(labels(sample)["cache"], "main \"one\"", "{}", metric.name);
            }
        }
    }

    #[test]
    fn hostile_names_arrive_as_they_were() {
        let long = "x:".repeat(100_000);
        let names: Vec<&str> = HOSTILE.into_iter().chain([long.as_str()]).collect();
        let text = render(&Snapshot {
            routes: names.iter().map(|name| route(name, 1)).collect(),
            breakers: names
                .iter()
                .map(|name| Breaker { origin: (*name).into(), state: State::Open, failures: 1 })
                .collect(),
            ..Default::default()
        });
        let expected: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let patterns = values(&text, "kvcache_pattern_hits_total");
        assert_eq!(
            patterns.into_iter().map(|(labels, _)| labels["pattern"].clone()).collect::<BTreeSet<_>>(),
            expected
        );
        let origins = values(&text, "kvcache_breaker_failures");
        assert_eq!(origins.into_iter().map(|(labels, _)| labels["origin"].clone()).collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn a_pattern_defined_again_stays_one_series() {
        let routes = vec![route("a:*", 1), route("b:*", 4), route("a:*", 2)];
        let text = render(&Snapshot { routes, ..Default::default() });
        let hits: Vec<_> = values(&text, "kvcache_pattern_hits_total").into_iter().map(|(_, hits)| hits).collect();
        assert_eq!(hits, [3.0, 4.0]);
    }

    /// Names, types and labels, as they are written and as `docs/metrics.md` tells them.
    #[test]
    fn the_documentation_lists_what_is_written() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        let documented: BTreeSet<(String, String, String)> = std::fs::read_to_string(path)
            .unwrap()
            .lines()
            .filter(|line| line.starts_with("| `kvcache_"))
            .map(|line| {
                let cells: Vec<_> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
                (cells[1].clone(), cells[2].clone(), cells[3].clone())
            })
            .collect();
        let written = parse(&render(&sample_snapshot()))
            .metrics
            .iter()
            .map(|metric| {
                let names: BTreeSet<_> = metric.samples.iter().flat_map(|s| labels(s).into_keys()).collect();
                let labels = names.into_iter().collect::<Vec<_>>().join(", ");
                (metric.name.clone(), metric.kind.to_string(), labels)
            })
            .collect();
        assert_eq!(documented, written);
    }

    /// Text of any characters whatever, control characters too, and often of those that the format gives a meaning.
    fn any_text() -> impl Strategy<Value = String> {
        let special = prop::sample::select(vec!['\\', '"', '\n', '\r', '\0', '{', '}', ',', '=', '#', ' ', 'n']);
        prop::collection::vec(prop_oneof![special, any::<char>()], 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn any_names_give_valid_text(names in prop::collection::vec(any_text(), 0..8), cache in prop::option::of(any_text())) {
            let text = render(&Snapshot {
                cache,
                routes: names.iter().map(|name| route(name, 1)).collect(),
                breakers: names
                    .iter()
                    .map(|name| Breaker { origin: name.clone(), state: State::Closed, failures: 0 })
                    .collect(),
                ..Default::default()
            });
            prop_assert!(text.ends_with('\n'));
            let scrape = parse(&text);
            let mut series = BTreeSet::new();
            for metric in &scrape.metrics {
                prop_assert!(metric.help_desc.is_some());
                prop_assert_eq!(metric.kind == Parsed::Counter, metric.name.ends_with("_total"));
                for sample in &metric.samples {
                    let id = (metric.name.clone(), format!("{:?}", sample.value.value_type), labels(sample));
                    prop_assert!(series.insert(id), "a series twice: {} {:?}", metric.name, sample);
                }
            }
            let patterns: BTreeSet<_> = series.iter().filter_map(|(_, _, labels)| labels.get("pattern")).collect();
            let expected: BTreeSet<_> = names.iter().cloned().collect();
            prop_assert_eq!(patterns, expected.iter().collect::<BTreeSet<_>>());
        }
    }
}
