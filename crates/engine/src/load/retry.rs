//! How long to wait before trying again.
//!
//! Between attempts: exponential backoff with full jitter, a random wait between nothing and the doubled base, so that
//! refreshes that failed together do not come back together (Marc Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015). After the last attempt a key rests for a cool-down that doubles while it keeps failing.

use std::collections::HashMap;

use crate::clock::Millis;

/// Longest wait between two attempts, and longest rest of a key, unless a longer one is configured as the first.
pub const LONGEST_WAIT: Millis = 30_000;

/// The wait before attempt `attempt` (1 is the first retry), with `random` in 0..1.
pub fn backoff(base: Millis, attempt: u32, random: f64) -> Millis {
    (doubled(base, attempt.saturating_sub(1)) as f64 * random) as Millis
}

fn doubled(base: Millis, times: u32) -> Millis {
    let factor = 1u64.checked_shl(times.min(63)).unwrap_or(u64::MAX);
    base.saturating_mul(factor).min(LONGEST_WAIT.max(base))
}

/// Keys that rest after failed refreshes.
///
/// A key's count of failures is kept for a while beyond its rest, so that one that keeps failing is known to; what is
/// past that is thrown out as the table grows.
#[derive(Debug)]
pub struct Cooldowns {
    base: Millis,
    keys: HashMap<Box<[u8]>, Rest>,
    swept_at_len: usize,
    /// While the table is full it is not swept again before this.
    full_until: Millis,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Millis,
    failures: u32,
}

impl Rest {
    fn remembered_until(&self) -> Millis {
        self.until.saturating_add(LONGEST_WAIT)
    }
}

/// Most keys remembered, about 10 MB. Beyond it, those whose rest is over are forgotten, and where that is not enough a
/// further key gets no rest.
const MOST_KEYS: usize = 100_000;

/// A full table is swept no more often than this, in milliseconds.
const FULL_FOR: Millis = 1_000;

/// Below this many keys a sweep is never worth it.
const SWEEP_FLOOR: usize = 1024;

impl Cooldowns {
    /// With a first rest of `base` milliseconds.
    pub fn new(base: Millis) -> Self {
        Self { base, keys: HashMap::new(), swept_at_len: 0, full_until: 0 }
    }

    /// A refresh of the key failed for good: it rests.
    pub fn failed(&mut self, key: &[u8], now: Millis) {
        if self.keys.len() > SWEEP_FLOOR.max(2 * self.swept_at_len) {
            self.keys.retain(|_, rest| rest.remembered_until() > now);
            self.swept_at_len = self.keys.len();
        }
        if self.keys.len() >= MOST_KEYS && !self.keys.contains_key(key) {
            if now >= self.full_until {
                self.keys.retain(|_, rest| rest.until > now);
                self.swept_at_len = self.keys.len();
                self.full_until = now.saturating_add(FULL_FOR);
            }
            if self.keys.len() >= MOST_KEYS {
                return;
            }
        }
        let failures = match self.keys.get(key) {
            Some(rest) if rest.remembered_until() > now => rest.failures,
            _ => 0,
        };
        let until = now.saturating_add(doubled(self.base, failures));
        self.keys.insert(key.into(), Rest { until, failures: failures.saturating_add(1) });
    }

    /// A load of the key succeeded, or its value was replaced: it is well again.
    pub fn recovered(&mut self, key: &[u8]) {
        if !self.keys.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Whether the key rests.
    pub fn resting(&self, key: &[u8], now: Millis) -> bool {
        self.rests_until(key, now).is_some()
    }

    /// Until when the key rests, if it does.
    pub fn rests_until(&self, key: &[u8], now: Millis) -> Option<Millis> {
        self.keys.get(key).map(|rest| rest.until).filter(|until| now < *until)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.keys.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let longest: Vec<_> = [1, 2, 3, 9, 10, 200].iter().map(|n| backoff(100, *n, 1.0)).collect();
        assert_eq!(longest, [100, 200, 400, 25_600, 30_000, 30_000]);
        assert_eq!(backoff(100, 3, 0.5), 200);
        assert_eq!(backoff(60_000, 5, 1.0), 60_000);
    }

    #[test]
    fn a_failing_key_rests_longer_each_time_until_it_recovers() {
        let mut c = Cooldowns::new(1_000);
        c.failed(b"k", 0);
        assert!(c.resting(b"k", 999) && !c.resting(b"k", 1_000));
        c.failed(b"k", 1_000);
        assert!(c.resting(b"k", 2_999) && !c.resting(b"k", 3_000));
        c.recovered(b"k");
        assert!(!c.resting(b"k", 2_000));
        c.failed(b"k", 5_000);
        assert!(!c.resting(b"k", 6_000));
    }

    #[test]
    fn does_not_grow_with_keys_whose_failures_are_long_past() {
        let mut c = Cooldowns::new(1_000);
        for n in 0..100_000u64 {
            c.failed(&n.to_le_bytes(), n * 1_000);
        }
        assert!(c.keys.len() <= SWEEP_FLOOR + 1, "{}", c.keys.len());
    }

    #[test]
    fn is_bounded_however_many_keys_fail_at_once() {
        let mut c = Cooldowns::new(1_000);
        for n in 0..MOST_KEYS as u64 + 1_000 {
            c.failed(&n.to_le_bytes(), 0);
        }
        assert_eq!(c.keys.len(), MOST_KEYS);
        c.failed(b"later", 2_000);
        assert!(c.resting(b"later", 2_000));
        assert!(c.keys.len() <= MOST_KEYS);
    }
}
