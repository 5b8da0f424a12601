//! Tiers: each keeps the contract, also when calls are late, fail and overtake one another; and the guard around them.

#![cfg(all(feature = "tiers", not(feature = "shuttle")))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

mod cloudflare;
mod disk;
mod guarded;
mod redis;
mod stack;

use std::sync::Arc;

use kvcache_engine::tier::Tier;
use kvcache_engine::tier::conformance::{conformance, under_chaos};
use kvcache_engine::tier::memory::MemoryTier;

#[tokio::test]
async fn the_reference_keeps_the_contract() {
    conformance(&|| Box::pin(async { Arc::new(MemoryTier::default()) as Arc<dyn Tier> })).await;
}

#[tokio::test(start_paused = true)]
async fn the_reference_keeps_it_under_chaos() {
    for seed in 0..20 {
        under_chaos(Arc::new(MemoryTier::default()), seed, 200).await;
    }
}
