//! What comes with time: timeouts, retries, entries that end.

use super::{Engine, Event, Landed, RECLAIM_AT_ONCE, RECLAIM_EVERY};
use crate::clock::{FOREVER, Millis};
use crate::load::flights::{Phase, Token};
use crate::load::timers::Timer;
use crate::sync::Ordering;

impl Engine {
    /// Does what is due. Returns when it wants to be called again.
    pub fn tick(&self) -> Millis {
        let now = self.clock.now_millis();
        let mut notices = Vec::new();
        loop {
            let due = self.timers.lock().pop_due(now);
            match due {
                None => break,
                Some(Timer::Deadline(token)) => self.time_out(token, now),
                Some(Timer::Retry(batch)) => self.queue.lock().retry_due(batch, &mut notices),
            }
        }
        self.tell(notices);
        self.reclaim(now);
        self.wake_sweep(now);
        let next = self.timers.lock().next().unwrap_or(FOREVER);
        next.min(self.reclaim_at.load(Ordering::SeqCst)).min(self.next_sweep(now))
    }

    pub(super) fn time_out(&self, token: Token, now: Millis) {
        let Some(flight) = self.flights.by_token(token) else { return };
        let watchers = {
            let _lock = self.flights.lock(&flight.key);
            let mut state = flight.state.lock();
            // A refresh that is tried again has a new deadline from its next start; this one may be of an attempt before.
            if state.phase == Phase::Queued || state.deadline > now {
                return;
            }
            state.deadline = FOREVER;
            // Other threads are told at once: its own may be busy for long, or for ever.
            let watchers = state.take_watchers();
            self.land(token, &watchers, &Landed::TimedOut(flight.plan.hard_timeout));
            if state.phase == Phase::Running {
                state.phase = Phase::Expired;
            }
            watchers
        };
        self.tell_landed(token, &watchers);
        self.figures.post(flight.plan.thread, Event::TimedOut(token));
    }

    pub(super) fn reclaim(&self, now: Millis) {
        if now < self.reclaim_at.load(Ordering::SeqCst) {
            return;
        }
        self.reclaim_at.store(FOREVER, Ordering::SeqCst);
        self.memory.reclaim(now, RECLAIM_AT_ONCE);
        if let Some(next) = self.memory.next_expiry() {
            // Not the number reclaimed tells whether there is more to do: see there.
            let pause = if next <= now { 1 } else { RECLAIM_EVERY };
            self.reclaim_at.fetch_min(next.max(now + pause), Ordering::SeqCst);
        }
    }

    /// An entry was stored that ends at `dead_at`.
    pub(super) fn expects_expiry(&self, dead_at: Millis) {
        if dead_at < self.reclaim_at.load(Ordering::SeqCst) {
            let at = dead_at.max(self.clock.now_millis() + RECLAIM_EVERY);
            if self.reclaim_at.fetch_min(at, Ordering::SeqCst) > at {
                self.alarm.no_later_than(at);
            }
        }
    }
}
