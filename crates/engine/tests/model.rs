//! Random operations on an engine, compared after each with a naive model of what it should do, on a clock that moves when
//! told: what is cached and served, who leads, joins, is refused or would recurse, the refresh queue batch by batch, the
//! breakers, everything posted, every figure, when the alarm is set; and every structure of the engine checks itself
//! ([`Engine::validate`](kvcache_engine::engine::Engine::validate)).
//!
//! `cargo test -p kvcache-engine --test model` runs 120 cases of 250 operations each. For longer:
//!
//! ```sh
//! KVCACHE_MODEL_CASES=100000 cargo test -p kvcache-engine --test model --release
//! ```
//!
//! A failure prints what was done last and the seed of its case, which `KVCACHE_MODEL_SEED=…` runs alone.

// Outside of shuttle, its locks panic.
#![cfg(not(feature = "shuttle"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr)]

#[path = "model/reference.rs"]
mod reference;
#[path = "model/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::{Choices, World};

const OPERATIONS: usize = 250;
const CASES: u64 = 120;

struct Random(fastrand::Rng);

impl Choices for Random {
    fn below(&mut self, n: usize) -> usize {
        self.0.usize(..n)
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs the case of that seed; gives what was done, if it was to be noted, and whether all was well.
fn run(seed: u64, journal: bool) -> (Option<Vec<String>>, std::thread::Result<()>) {
    let mut choices = Random(fastrand::Rng::with_seed(seed));
    let mut world = World::new(&mut choices, journal);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..OPERATIONS {
            world.step(&mut choices);
        }
        world.finish();
    }));
    (world.journal, outcome)
}

#[test]
fn does_what_a_naive_model_does() {
    let seeds = match variable("KVCACHE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        // The same cases each time, so that what passes here passes there.
        None => 0..variable("KVCACHE_MODEL_CASES").unwrap_or(CASES),
    };
    for seed in seeds {
        if run(seed, false).1.is_err() {
            let (journal, outcome) = run(seed, true);
            let journal = journal.unwrap_or_default();
            journal
                .iter()
                .take(1)
                .chain(journal.iter().skip(1).rev().take(40).rev())
                .for_each(|line| eprintln!("{line}"));
            eprintln!("To run this case alone: KVCACHE_MODEL_SEED={seed}");
            outcome.unwrap_or_else(|panic| resume_unwind(panic));
            panic!("the case of seed {seed} failed the first time only");
        }
    }
}
