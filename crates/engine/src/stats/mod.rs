//! What the cache counts and measures, and how it is told.
//!
//! [`counters`] counts events, [`latency`] measures durations, [`prometheus`] writes both as text. Nothing here decides
//! anything: the engine reports in, and asks for totals when a user does.

pub mod counters;
pub mod latency;
pub mod prometheus;
pub mod routes;
mod stripe;
pub mod tiers;

pub use counters::{Counters, Event, RouteEvent, RouteTotals, Totals};
pub use latency::{Latencies, LatencyTotals, Op, Summary};
