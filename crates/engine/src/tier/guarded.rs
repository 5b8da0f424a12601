//! A tier under guard: no call lasts longer than its timeout, one that keeps failing is left alone for a while, and all is
//! counted.
//!
//! Rest: the first failure makes the tier rest for a second; the next call after that is the trial, alone. If it fails the rest
//! is doubled, up to 30 s; if it is answered, all is as before. While the tier rests its calls fail at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::{Answer, Fact, Found, Key, Leases, Page, Put, SharedLog, Tier, TierError, TierErrorKind};
pub use crate::stats::tiers::{Rest, TierFigures};

/// How long a call of a tier may take unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_millis(1000);

/// The first rest, and the longest.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    rest: Duration,
    until: Option<Instant>,
    on_trial: bool,
}

/// A guarded tier.
pub struct Guarded {
    tier: Arc<dyn Tier>,
    timeout: Duration,
    state: Mutex<State>,
    reads: AtomicU64,
    hits: AtomicU64,
    writes: AtomicU64,
    errors: AtomicU64,
}

/// A call that is let go of while on trial has decided nothing: the next is the trial.
struct Trial<'a> {
    guarded: &'a Guarded,
    on_trial: bool,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        if self.on_trial {
            self.guarded.state.lock().on_trial = false;
        }
    }
}

impl Guarded {
    /// Guards a tier, of which a call may take so long; see [`TIMEOUT`].
    pub fn new(tier: Arc<dyn Tier>, timeout: Duration) -> Self {
        let zero = AtomicU64::default;
        Self { tier, timeout, state: Mutex::default(), reads: zero(), hits: zero(), writes: zero(), errors: zero() }
    }

    /// What has been counted.
    pub fn figures(&self) -> TierFigures {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TierFigures {
            reads: read(&self.reads),
            hits: read(&self.hits),
            writes: read(&self.writes),
            errors: read(&self.errors),
            pending: self.tier.pending(),
            breaker: self.rest(),
        }
    }

    /// Whether it is called at present.
    pub fn rest(&self) -> Rest {
        match self.state.lock().until {
            None => Rest::Closed,
            Some(until) if Instant::now() < until => Rest::Open,
            Some(_) => Rest::HalfOpen,
        }
    }

    /// It is said to be well again: the next call is the trial, whatever is left of the rest.
    pub fn wake(&self) {
        if let Some(until) = &mut self.state.lock().until {
            *until = Instant::now();
        }
    }

    fn admit(&self) -> Result<Trial<'_>, TierError> {
        let mut state = self.state.lock();
        let Some(until) = state.until else { return Ok(Trial { guarded: self, on_trial: false }) };
        if state.on_trial || Instant::now() < until {
            let message = format!("tier '{}' rests after a failure", self.tier.name());
            return Err(TierError::new(TierErrorKind::Unavailable, message));
        }
        state.on_trial = true;
        Ok(Trial { guarded: self, on_trial: true })
    }

    /// A call has ended. What began before the rest and ends in it decides nothing.
    fn settle(&self, mut trial: Trial<'_>, ill: bool) {
        let mut state = self.state.lock();
        if state.until.is_some() && !trial.on_trial {
            return;
        }
        trial.on_trial = false;
        *state = if ill {
            let rest = if state.rest.is_zero() { REST } else { (state.rest * 2).min(LONGEST_REST) };
            State { rest, until: Some(Instant::now() + rest), on_trial: false }
        } else {
            State::default()
        };
    }

    fn add(count: &AtomicU64, n: usize) {
        count.fetch_add(n as u64, Ordering::Relaxed);
    }

    /// Counts what was written.
    fn wrote(&self, answers: Vec<Result<(), TierError>>) -> Vec<Result<(), TierError>> {
        Self::add(&self.writes, answers.iter().filter(|answer| answer.is_ok()).count());
        answers
    }

    fn late(&self, most: Duration) -> TierError {
        let message = format!("tier '{}' gave no answer within {} ms", self.tier.name(), most.as_millis());
        TierError::new(TierErrorKind::Timeout, message)
    }

    /// A call that answers for each of `n`.
    async fn each<'a, T: Send + 'a>(
        &'a self,
        n: usize,
        call: impl FnOnce() -> Answer<'a, Vec<Result<T, TierError>>> + Send,
    ) -> Vec<Result<T, TierError>> {
        let same = |error: TierError| (0..n).map(|_| Err(error.clone())).collect();
        let trial = match self.admit() {
            Ok(trial) => trial,
            Err(resting) => return same(resting),
        };
        let answers: Vec<_> = timeout(self.timeout, call()).await.unwrap_or_else(|_| same(self.late(self.timeout)));
        Self::add(&self.errors, answers.iter().filter(|answer| answer.is_err()).count());
        // One key that was answered says that the tier is well.
        let ill = |answer: &Result<T, TierError>| answer.as_ref().is_err_and(|error| error.kind.is_illness());
        self.settle(trial, !answers.is_empty() && answers.iter().all(ill));
        answers
    }

    /// A call that has one answer.
    async fn one<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce() -> Answer<'a, Result<T, TierError>> + Send,
    ) -> Result<T, TierError> {
        self.one_within(self.timeout, call).await
    }

    /// One that may take so long.
    async fn one_within<'a, T: Send + 'a>(
        &'a self,
        most: Duration,
        call: impl FnOnce() -> Answer<'a, Result<T, TierError>> + Send,
    ) -> Result<T, TierError> {
        let trial = self.admit()?;
        let answer = timeout(most, call()).await.unwrap_or_else(|_| Err(self.late(most)));
        Self::add(&self.errors, usize::from(answer.is_err()));
        self.settle(trial, answer.as_ref().is_err_and(|error| error.kind.is_illness()));
        answer
    }

    /// [`Tier::flush`] until then; it has the time it is given, and is made although the tier rests.
    pub async fn flush_until(&self, deadline: Instant) -> Result<(), TierError> {
        self.last(self.tier.flush(), deadline).await
    }

    /// [`Tier::close`], likewise.
    pub async fn close_until(&self, deadline: Instant) -> Result<(), TierError> {
        self.last(self.tier.close(), deadline).await
    }

    async fn last(
        &self,
        call: impl Future<Output = Result<(), TierError>>,
        deadline: Instant,
    ) -> Result<(), TierError> {
        let answer = timeout_at(deadline, call).await.unwrap_or_else(|_| {
            let (name, pending) = (self.tier.name(), self.tier.pending());
            let message = format!("tier '{name}' did not get to the end in time; {pending} writes have not landed");
            Err(TierError::new(TierErrorKind::Timeout, message))
        });
        Self::add(&self.errors, usize::from(answer.is_err()));
        answer
    }
}

impl Tier for Guarded {
    fn name(&self) -> &str {
        self.tier.name()
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        Box::pin(async move {
            let n = keys.len();
            Self::add(&self.reads, n);
            let found = self.each(n, || self.tier.get_many(keys)).await;
            Self::add(&self.hits, found.iter().filter(|found| matches!(found, Ok(Some(_)))).count());
            found
        })
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        Box::pin(async move {
            let answers = self.each(puts.len(), || self.tier.put_many(puts)).await;
            self.wrote(answers)
        })
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        Box::pin(async move {
            let answers = self.each(keys.len(), || self.tier.delete_many(keys)).await;
            self.wrote(answers)
        })
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        Box::pin(self.one_within(self.timeout * self.list_takes(), move || self.tier.list(prefix, limit, cursor)))
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            let answer = self.one(|| self.tier.write_marker(fact)).await;
            Self::add(&self.writes, usize::from(answer.is_ok()));
            answer
        })
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        Box::pin(self.one(move || self.tier.read_markers(since)))
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(self.flush_until(Instant::now() + self.timeout))
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(self.close_until(Instant::now() + self.timeout))
    }

    fn pending(&self) -> usize {
        self.tier.pending()
    }

    fn get_now(&self, key: &[u8]) -> Option<Found> {
        if self.rest() != Rest::Closed {
            return None;
        }
        let found = self.tier.get_now(key)?;
        Self::add(&self.reads, 1);
        Self::add(&self.hits, usize::from(matches!(found, Ok(Some(_)))));
        Self::add(&self.errors, usize::from(found.is_err()));
        Some(found)
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
