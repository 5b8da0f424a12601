//! A tier as tests fear it: slow, failing, silent, and answering out of order. What it does is drawn from a seed.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Answer, Fact, Found, Key, Leases, Page, Put, SharedLog, Tier, TierError, TierErrorKind};

/// What goes wrong, each with its probability, 0 to 1, in each call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ills {
    /// A call waits for a random time up to this before it is made, so that calls overtake one another.
    pub delay: Duration,
    /// It fails, and nothing was done.
    pub refused: f64,
    /// It fails, and was done.
    pub failed_after: f64,
    /// It is done and never answers.
    pub lost: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Well,
    Refused,
    FailedAfter,
    Lost,
}

/// A tier with its ills. `flush` and `close` are as they were.
pub struct Chaos {
    tier: Arc<dyn Tier>,
    ills: Mutex<Ills>,
    random: Mutex<fastrand::Rng>,
}

impl Chaos {
    /// Draws from `seed` what befalls each call.
    pub fn new(tier: Arc<dyn Tier>, ills: Ills, seed: u64) -> Self {
        Self { tier, ills: Mutex::new(ills), random: Mutex::new(fastrand::Rng::with_seed(seed)) }
    }

    /// Changes the ills from the next call on.
    pub fn set(&self, ills: Ills) {
        *self.ills.lock() = ills;
    }

    fn draw(&self) -> (Duration, Fate) {
        let (ills, mut random) = (*self.ills.lock(), self.random.lock());
        let delay = ills.delay.mul_f64(random.f64());
        let mut at = random.f64();
        let fates = [(ills.refused, Fate::Refused), (ills.failed_after, Fate::FailedAfter), (ills.lost, Fate::Lost)];
        for (share, fate) in fates {
            if at < share {
                return (delay, fate);
            }
            at -= share;
        }
        (delay, Fate::Well)
    }

    /// Makes a call, or not; `failed` is its answer where it fails.
    async fn befall<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce() -> Answer<'a, T> + Send,
        failed: impl FnOnce() -> T + Send,
    ) -> T {
        let (delay, fate) = self.draw();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fate == Fate::Refused {
            return failed();
        }
        let answer = call().await;
        match fate {
            Fate::FailedAfter => failed(),
            Fate::Lost => std::future::pending().await,
            _ => answer,
        }
    }
}

fn chaos() -> TierError {
    TierError::new(TierErrorKind::Unavailable, "chaos")
}

fn each<T>(n: usize) -> impl FnOnce() -> Vec<Result<T, TierError>> {
    move || (0..n).map(|_| Err(chaos())).collect()
}

impl Tier for Chaos {
    fn name(&self) -> &str {
        self.tier.name()
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        let n = keys.len();
        Box::pin(self.befall(move || self.tier.get_many(keys), each(n)))
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        let n = puts.len();
        Box::pin(self.befall(move || self.tier.put_many(puts), each(n)))
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        let n = keys.len();
        Box::pin(self.befall(move || self.tier.delete_many(keys), each(n)))
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        Box::pin(self.befall(move || self.tier.list(prefix, limit, cursor), || Err(chaos())))
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        Box::pin(self.befall(move || self.tier.write_marker(fact), || Err(chaos())))
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        Box::pin(self.befall(move || self.tier.read_markers(since), || Err(chaos())))
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        self.tier.flush()
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        self.tier.close()
    }

    fn pending(&self) -> usize {
        self.tier.pending()
    }

    fn log(&self) -> Option<&dyn SharedLog> {
        self.tier.log()
    }

    fn leases(&self) -> Option<&dyn Leases> {
        self.tier.leases()
    }

    fn plain_below(&self) -> usize {
        self.tier.plain_below()
    }

    fn is_awaited(&self) -> bool {
        self.tier.is_awaited()
    }

    fn list_takes(&self) -> u32 {
        self.tier.list_takes()
    }
}
