//! How large the small queue is to be: tuned for the whole tier, from what all its shards see.
//!
//! Two estimates are kept for three margins `d` of the budget: what a small queue larger by `d` would have gained (weight
//! of ghosts met again that it would still have held), and what a main queue smaller by `d` would have lost (weight of
//! hits near the end of an entry's life there). Each time a tenth of the budget has been missed, the small queue's share
//! moves by their ratio, and both are halved.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Number of margins.
pub(super) const MARGINS: usize = 3;

/// The margins, as parts of the capacity.
pub(super) const MARGIN: [f64; MARGINS] = [0.15, 0.3, 0.6];

/// How much a gain at each margin counts: the larger margins are less likely ever to be reached.
const GAIN: [f64; MARGINS] = [1.0, 0.5, 0.5];

/// How much a loss counts against a gain: a ghost met again is only one use, an entry of the main queue has shown more.
const LOSS: f64 = 3.0;

/// What is added to both sides at the first margin, as part of the budget, so that few events move little.
const PRIOR: f64 = 0.002;

/// Part of the budget that is missed between two steps.
const STEP: f64 = 0.1;

/// Greatest change a step: `exp(0.05)`.
const RATE: f64 = 0.05;

/// The small queue's share at the start, and its bounds.
const START: f32 = 0.1;
const LEAST: f64 = 0.05;
const MOST: f64 = 0.9;

/// The small queue's share, and what it is tuned by. Shared by all shards; losing an event in a race does no harm.
#[derive(Debug)]
pub(in crate::memory) struct Tuner {
    budget: f64,
    /// Weight missed between two steps.
    step: u64,
    /// The bits of an `f32`.
    share: AtomicU32,
    missed: AtomicU64,
    gained: [AtomicU64; MARGINS],
    lost: [AtomicU64; MARGINS],
}

impl Tuner {
    /// The tuner of a tier with that budget.
    pub fn new(budget: u64) -> Self {
        Self {
            budget: budget as f64,
            step: ((budget as f64 * STEP) as u64).max(1),
            share: AtomicU32::new(START.to_bits()),
            missed: AtomicU64::new(0),
            gained: Default::default(),
            lost: Default::default(),
        }
    }

    /// The part of the capacity that the small queue is to have.
    #[inline]
    pub fn share(&self) -> f64 {
        f32::from_bits(self.share.load(Ordering::Relaxed)) as f64
    }

    /// Notes a key met again, that a small queue larger by the margins from `first` on would still have held.
    pub(super) fn gain(&self, first: usize, weight: u64) {
        for gained in &self.gained[first..] {
            gained.fetch_add(weight, Ordering::Relaxed);
        }
    }

    /// Notes a hit that a main queue smaller by that margin would have lost.
    pub(super) fn lose(&self, margin: usize, weight: u64) {
        self.lost[margin].fetch_add(weight, Ordering::Relaxed);
    }

    /// Counts missed weight, and takes the step when it is time.
    pub(super) fn miss(&self, weight: u64) {
        let missed = self.missed.fetch_add(weight, Ordering::Relaxed) + weight;
        if missed >= self.step && self.missed.compare_exchange(missed, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.adjust();
        }
    }

    #[cold]
    fn adjust(&self) {
        let mut most = f64::NEG_INFINITY;
        for (margin, gain) in GAIN.iter().enumerate() {
            let prior = PRIOR * (1 << margin) as f64 * self.budget;
            let gained = halve(&self.gained[margin]) as f64 * gain + prior;
            let lost = halve(&self.lost[margin]) as f64 * LOSS + prior;
            most = most.max((gained / lost).ln());
        }
        let share = (self.share() * (RATE * most.clamp(-1.0, 1.0)).exp()).clamp(LEAST, MOST);
        self.share.store((share as f32).to_bits(), Ordering::Relaxed);
    }
}

/// Halves a count; gives what it was.
fn halve(count: &AtomicU64) -> u64 {
    let was = count.load(Ordering::Relaxed);
    count.fetch_sub(was - was / 2, Ordering::Relaxed);
    was
}
