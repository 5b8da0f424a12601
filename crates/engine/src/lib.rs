//! The cache engine: everything that is policy, concurrency or bytes, and nothing that knows JavaScript.
//!
//! [`engine::Engine`] orchestrates; the rooms below it know each other only through the small types of
//! [`entry`], [`key`], [`clock`] and [`error`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod clock;
pub mod codec;
pub mod engine;
pub mod entry;
pub mod error;
pub mod heap;
pub mod invalidation;
pub mod key;
pub mod load;
pub mod memory;
pub mod scheduler;
pub mod stats;
mod sync;
#[cfg(feature = "tiers")]
pub mod tier;
