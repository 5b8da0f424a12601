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
