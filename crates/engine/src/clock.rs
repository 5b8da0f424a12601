//! Time, as the engine sees it: nanoseconds that never go back, and the wall clock where a date is shown to a user.
//!
//! Ages are measured on the monotonic clock only, so a stepped system clock neither revives nor kills an entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds on the engine's monotonic clock. [`FOREVER`] stands for "never".
pub type Millis = u64;

/// The moment that never comes: the end of an entry whose age is `Infinity`.
pub const FOREVER: Millis = u64::MAX;

/// The machine's time in milliseconds, the lower 31 bits of it, for those who may not ask the system: [`ASLEEP`] while nobody
/// has wanted it for a second, see [`crate::scheduler::want_time`]. Late by a millisecond or two, more on a busy machine.
pub static CLOCK_WORD: AtomicU32 = AtomicU32::new(ASLEEP);

/// What [`CLOCK_WORD`] shows while it is not kept: later than any moment it can be compared with.
pub const ASLEEP: u32 = (1 << TURN_BITS) - 1;

/// Every 2^31 ms, some 25 days, the word begins a new turn.
pub const TURN_BITS: u32 = 31;

/// A moment as [`CLOCK_WORD`] shows it, or the last one of the turn of `now` if it comes later.
pub fn as_word(at: Millis, now: Millis) -> u32 {
    let turn = now >> TURN_BITS << TURN_BITS;
    at.saturating_sub(turn).min(u64::from(ASLEEP - 1)) as u32
}

/// A source of time. The engine asks it and nothing else, so that tests can hold time in their hand.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds since some fixed moment; never decreases.
    fn now_nanos(&self) -> u64;

    /// Milliseconds since the UNIX epoch, for dates shown to users. May be stepped.
    fn unix_millis(&self) -> u64;

    /// [`Clock::now_nanos`] in milliseconds.
    fn now_millis(&self) -> Millis {
        self.now_nanos() / 1_000_000
    }
}

/// What [`SystemClock`] shows at its start, some 35 years: an entry that is older than the process has a moment, too. A whole
/// number of turns of [`CLOCK_WORD`].
const START_MILLIS: Millis = 1 << 40;

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now_nanos(&self) -> u64 {
        // 2^64 ns are 584 years.
        START_MILLIS * 1_000_000 + self.start.elapsed().as_nanos() as u64
    }

    fn unix_millis(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}

/// A clock that moves only when told. Clones share the same time.
#[derive(Debug, Clone, Default)]
pub struct FakeClock {
    nanos: Arc<AtomicU64>,
}

impl FakeClock {
    /// The UNIX time that [`FakeClock`] shows at its start: 2020-09-13T12:26:40Z.
    pub const UNIX_START_MILLIS: u64 = 1_600_000_000_000;

    /// Moves the clock on.
    pub fn advance_millis(&self, by: Millis) {
        self.nanos.fetch_add(by * 1_000_000, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now_nanos(&self) -> u64 {
        self.nanos.load(Ordering::SeqCst)
    }

    fn unix_millis(&self) -> u64 {
        Self::UNIX_START_MILLIS + self.now_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_compared_as_a_word_within_its_turn() {
        const TURN: Millis = 1 << TURN_BITS;
        for (at, now, word) in [
            (0, 5, 0),
            (7, 5, 7),
            (TURN - 2, 5, ASLEEP - 1),
            // Later than the turn: until its end, and never as late as the word of a clock that sleeps.
            (TURN + 100, 5, ASLEEP - 1),
            (FOREVER, 5, ASLEEP - 1),
            (TURN + 100, TURN + 5, 100),
            // Earlier than the turn: over.
            (TURN - 1, TURN + 5, 0),
        ] {
            assert_eq!(as_word(at, now), word, "{at} at {now}");
        }
    }

    #[test]
    fn the_machine_s_clock_has_room_for_what_is_older_than_the_process() {
        let now = SystemClock::default().now_millis();
        assert!(now - START_MILLIS < 60_000);
        assert_eq!(START_MILLIS >> TURN_BITS << TURN_BITS, START_MILLIS);
        assert!(u64::from(as_word(now, now)) == now - START_MILLIS);
    }
}
