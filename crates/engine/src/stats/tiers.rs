//! What is counted of a tier, as stats and metrics have it; there is none of it without the feature `tiers`.

/// Whether a tier is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It is.
    Closed,
    /// It rests.
    Open,
    /// Its trial is due or under way.
    HalfOpen,
}

impl Rest {
    /// Its name in stats: that of a circuit breaker's state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Figures of one tier: counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierFigures {
    /// Keys looked up.
    pub reads: u64,
    /// Keys found.
    pub hits: u64,
    /// Records taken by the tier, keys deleted and markers written.
    pub writes: u64,
    /// Keys, records and calls that failed, those not made because it rests left out.
    pub errors: u64,
    /// Records that were put and have not landed.
    pub pending: usize,
    pub breaker: Rest,
}
