//! How often Cloudflare may be called: 1,200 times in 5 minutes
//! (<https://developers.cloudflare.com/fundamentals/api/reference/limits/>), by a token bucket; and when it asks for patience.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Calls that may be made at once after a long rest, and calls a second beyond them. Together they stay within 1,200 in
/// whichever 5 minutes: 600 + 300 * 2.
const BURST: f64 = 600.0;
const PER_SECOND: f64 = 2.0;

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
    /// Nobody calls before this: Cloudflare said so.
    not_before: Option<Instant>,
}

/// The token bucket of one tier.
#[derive(Debug)]
pub struct Limiter(Mutex<State>);

impl Limiter {
    pub fn new() -> Self {
        Self(Mutex::new(State { tokens: BURST, at: Instant::now(), not_before: None }))
    }

    /// Takes leave for one call, or says how long there is none.
    pub fn take(&self) -> Result<(), Duration> {
        let mut state = self.0.lock();
        let now = Instant::now();
        if let Some(until) = state.not_before {
            if now < until {
                return Err(until - now);
            }
            state.not_before = None;
        }
        state.tokens = (state.tokens + (now - state.at).as_secs_f64() * PER_SECOND).min(BURST);
        state.at = now;
        if state.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - state.tokens) / PER_SECOND));
        }
        state.tokens -= 1.0;
        Ok(())
    }

    /// Waits until there is leave; somebody else may take it meanwhile.
    pub async fn ready(&self) {
        loop {
            let wait = {
                let state = self.0.lock();
                let now = Instant::now();
                let tokens = (state.tokens + (now - state.at).as_secs_f64() * PER_SECOND).min(BURST);
                match state.not_before {
                    Some(until) if now < until => until - now,
                    _ if tokens >= 1.0 => return,
                    _ => Duration::from_secs_f64((1.0 - tokens) / PER_SECOND),
                }
            };
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }

    /// Nobody calls for so long.
    pub fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut state = self.0.lock();
        state.not_before = Some(state.not_before.map_or(until, |known| known.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn allows_no_more_than_1200_calls_in_any_five_minutes() {
        let limiter = Limiter::new();
        let mut calls = Vec::new();
        for _ in 0..5000 {
            match limiter.take() {
                Ok(()) => calls.push(Instant::now()),
                Err(wait) => tokio::time::advance(wait.max(Duration::from_millis(1))).await,
            }
        }
        let window = Duration::from_secs(300);
        let most =
            calls.iter().map(|from| calls.iter().filter(|at| *at >= from && **at - *from < window).count()).max();
        assert!(most.is_some_and(|most| most > 1100 && most <= 1200), "{most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn waits_as_long_as_it_was_told() {
        let limiter = Limiter::new();
        limiter.pause(Duration::from_secs(7));
        limiter.pause(Duration::from_secs(2));
        assert_eq!(limiter.take(), Err(Duration::from_secs(7)));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(limiter.take(), Ok(()));
    }
}
