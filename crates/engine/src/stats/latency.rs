//! Latency histograms: quantiles within 1 % from nanoseconds to an hour.
//!
//! Each is an HDR histogram (Gil Tene, <http://hdrhistogram.org/>), one for each operation and stripe behind a lock that
//! in practice nobody else wants. Sum and maximum are kept beside it, exact.

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::stripe::Striped;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Op {
    /// A look-up within the engine that found a fresh value.
    Hit,
    /// A look-up within the engine that found a stale value to be served.
    Stale,
    /// From a get that found nothing to serve to its answer.
    Miss,
    /// A call of a fetcher.
    Fetch,
}

impl Op {
    /// Every operation.
    pub const ALL: [Self; 4] = [Self::Hit, Self::Stale, Self::Miss, Self::Fetch];

    /// The name that users see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
            Self::Fetch => "fetch",
        }
    }
}

/// Longest duration that is told apart, in nanoseconds: one hour. Longer ones count as that long.
pub const MAX_NANOS: u64 = 3_600_000_000_000;

/// Significant decimal digits kept of each duration.
const DIGITS: u8 = 2;

/// What was measured of one operation; durations in microseconds, 0 when nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    /// Number of durations.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p999: f64,
    /// The longest.
    pub max: f64,
    /// All of them together.
    pub sum: f64,
}

/// What was measured since the cache was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LatencyTotals {
    /// [`Op::Hit`].
    pub hit: Summary,
    /// [`Op::Stale`].
    pub stale: Summary,
    /// [`Op::Miss`].
    pub miss: Summary,
    /// [`Op::Fetch`].
    pub fetch: Summary,
}

impl LatencyTotals {
    /// The summary of one operation.
    pub fn of(&self, op: Op) -> &Summary {
        match op {
            Op::Hit => &self.hit,
            Op::Stale => &self.stale,
            Op::Miss => &self.miss,
            Op::Fetch => &self.fetch,
        }
    }
}

/// The latencies of one cache.
pub struct Latencies(Striped<[Mutex<Series>; Op::ALL.len()]>);

/// The durations of one operation as one stripe has seen them.
#[derive(Default)]
struct Series {
    /// Made at the first record, and grown as longer durations come.
    histogram: Option<Histogram<u64>>,
    sum: u64,
    max: u64,
}

impl Latencies {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self(Striped::new())
    }

    /// Records one duration in nanoseconds.
    #[inline]
    pub fn record(&self, op: Op, nanos: u64) {
        self.record_n(op, nanos, 1);
    }

    /// Records a duration in nanoseconds as if it had been seen `n` times: for an operation measured once in `n`.
    #[inline]
    pub fn record_n(&self, op: Op, nanos: u64, n: u64) {
        self.0.mine()[op as usize].lock().record(nanos.min(MAX_NANOS), n);
    }

    /// What was measured so far.
    pub fn snapshot(&self) -> LatencyTotals {
        LatencyTotals {
            hit: self.summary(Op::Hit),
            stale: self.summary(Op::Stale),
            miss: self.summary(Op::Miss),
            fetch: self.summary(Op::Fetch),
        }
    }

    fn summary(&self, op: Op) -> Summary {
        let mut all = Series::default();
        for stripe in self.0.iter() {
            all.merge(&stripe[op as usize].lock());
        }
        all.summary()
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Series {
    fn record(&mut self, nanos: u64, n: u64) {
        if self.histogram.is_none() {
            self.histogram = Histogram::new(DIGITS).ok();
        }
        // Neither can fail: the digits are valid, and a histogram that may grow holds any value.
        if let Some(histogram) = &mut self.histogram {
            let _ = histogram.record_n(nanos, n);
        }
        self.sum = self.sum.saturating_add(nanos.saturating_mul(n));
        self.max = self.max.max(nanos);
    }

    fn merge(&mut self, other: &Self) {
        match (&mut self.histogram, &other.histogram) {
            (_, None) => {}
            (None, Some(theirs)) => self.histogram = Some(theirs.clone()),
            (Some(ours), Some(theirs)) => {
                let _ = ours.add(theirs);
            }
        }
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    fn summary(&self) -> Summary {
        let Some(histogram) = &self.histogram else { return Summary::default() };
        // A quantile is told as the upper end of its bucket, which may lie beyond the maximum.
        let quantile = |q: f64| micros(histogram.value_at_quantile(q).min(self.max));
        Summary {
            count: histogram.len(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: micros(self.max),
            sum: micros(self.sum),
        }
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_measured_is_all_0() {
        assert_eq!(Latencies::new().snapshot(), LatencyTotals::default());
    }

    #[test]
    fn tells_microseconds() {
        let latencies = Latencies::new();
        latencies.record(Op::Miss, 1_500);
        latencies.record(Op::Miss, 2_500);
        let miss = latencies.snapshot().miss;
        assert_eq!((miss.count, miss.max, miss.sum), (2, 2.5, 4.0));
        assert!((miss.p50 - 1.5).abs() <= 0.015, "{miss:?}");
        assert_eq!(miss.p999, 2.5);
    }

    #[test]
    fn operations_are_measured_apart() {
        let latencies = Latencies::new();
        for (i, op) in Op::ALL.into_iter().enumerate() {
            (0..=i).for_each(|_| latencies.record(op, 10));
        }
        let totals = latencies.snapshot();
        assert_eq!(Op::ALL.map(|op| totals.of(op).count), [1, 2, 3, 4]);
        assert_eq!([totals.hit.count, totals.stale.count, totals.miss.count, totals.fetch.count], [1, 2, 3, 4]);
        assert_eq!(Op::ALL.map(Op::as_str), ["hit", "stale", "miss", "fetch"]);
    }

    #[test]
    fn takes_0_and_counts_the_endless_as_an_hour() {
        let latencies = Latencies::new();
        latencies.record(Op::Fetch, 0);
        latencies.record(Op::Fetch, u64::MAX);
        let fetch = latencies.snapshot().fetch;
        assert_eq!((fetch.count, fetch.p50, fetch.max), (2, 0.0, 3.6e9));
        assert_eq!((fetch.p999, fetch.sum), (3.6e9, 3.6e9));
    }

    #[test]
    fn a_measure_that_stands_for_several_weighs_as_many() {
        let latencies = Latencies::new();
        latencies.record_n(Op::Hit, 100, 16);
        latencies.record(Op::Hit, 9_000);
        let hit = latencies.snapshot().hit;
        assert_eq!((hit.count, hit.p50, hit.max, hit.sum), (17, 0.1, 9.0, 10.6));
    }

    #[test]
    fn what_many_threads_record_is_all_there() {
        let latencies = Latencies::new();
        std::thread::scope(|scope| {
            for thread in 1..=8 {
                let latencies = &latencies;
                scope.spawn(move || (0..1_000).for_each(|_| latencies.record(Op::Hit, thread * 1_000)));
            }
        });
        let hit = latencies.snapshot().hit;
        assert_eq!((hit.count, hit.max, hit.sum), (8_000, 8.0, 36_000.0));
        assert!((hit.p50 - 4.0).abs() <= 0.04, "{hit:?}");
    }

    /// The `q` quantile by sorting: the smallest measure that at least `q` of all do not exceed.
    fn exact(sorted: &[u64], q: f64) -> f64 {
        let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted[rank - 1] as f64 / 1_000.0
    }

    proptest! {
        #[test]
        fn quantiles_are_within_one_percent(exponents in prop::collection::vec(0.0..42.0f64, 1..2_000)) {
            // Even over all magnitudes from 1 ns to beyond an hour.
            let mut nanos: Vec<_> = exponents.into_iter().map(|e| e.exp2() as u64).collect();
            let latencies = Latencies::new();
            nanos.iter().for_each(|&n| latencies.record(Op::Fetch, n));
            nanos.iter_mut().for_each(|n| *n = (*n).min(MAX_NANOS));
            nanos.sort_unstable();
            let fetch = latencies.snapshot().fetch;
            prop_assert_eq!(fetch.count, nanos.len() as u64);
            prop_assert_eq!(fetch.max, micros(*nanos.last().unwrap()));
            prop_assert_eq!(fetch.sum, micros(nanos.iter().sum()));
            for (told, q) in [(fetch.p50, 0.5), (fetch.p99, 0.99), (fetch.p999, 0.999)] {
                let exact = exact(&nanos, q);
                prop_assert!((told - exact).abs() <= 0.01 * exact, "q {}: {} for {}", q, told, exact);
            }
        }
    }
}
