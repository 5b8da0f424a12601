//! The engine by feature, on a clock that moves when told: each module guards the promises that its head names.

#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod breaker;
mod compression;
mod expiry;
mod figures;
mod flights;
mod harness;
mod invalidation;
mod publishing;
mod queue;
mod recursion;
mod retries;
mod threads;
mod timeouts;
mod writes;
