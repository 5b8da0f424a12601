//! Puts and deletes: they win over every load of their key that has begun.

use std::sync::Arc;

use super::{Engine, Value, build};
use crate::entry::{Entry, MAX_VALUE_BYTES};
use crate::error::{Error, Limit};
use crate::invalidation::markers::Mark;
use crate::key;
use crate::load::flights::{Flight, KeyLock, Phase};
use crate::load::queue::Notice;
use crate::memory::hash_key;

impl Engine {
    /// Builds an entry to be [committed](Engine::commit), or says why it cannot be: all that can be wrong with a put is found
    /// here, before anything is changed.
    pub fn prepare(&self, key: &[u8], value: &Value<'_>) -> Result<Entry, Error> {
        key::check(key)?;
        check_size(key, value.bytes.len())?;
        let links = self.inherit(key, value.links);
        let entry = build(key, value, &links, 0, 0, 0);
        let weight = self.memory.weigh(&entry);
        if weight > self.memory.budget() {
            return Err(Error::ValueTooLarge {
                key: key::shorten(entry.key_str()),
                bytes: weight,
                limit: Limit::Budget(self.memory.budget()),
            });
        }
        Ok(entry)
    }

    /// Stores a prepared entry, its ages counted from now. It wins over every load of the key that has begun.
    pub fn commit(&self, mut entry: Entry) {
        let key: Arc<[u8]> = entry.key().into();
        let len = entry.value().len();
        let mut notices = Vec::new();
        let dead_at;
        {
            let mut lock = self.flights.lock(&key);
            // The number is taken under the lock, so that numbers and puts of one key are in the same order.
            entry.stamp(self.facts.next(), self.clock.now_millis(), Some(self.next_version()));
            dead_at = entry.dead_at();
            self.cut(&mut lock, &mut notices);
            self.memory.insert(entry.clone());
            if let Some(behind) = self.behind() {
                behind.stored(&entry, None);
            }
            self.key_stored(&mut lock, &entry, Mark::default(), true);
        }
        self.cooldowns.lock().recovered(&key);
        self.expects_expiry(dead_at);
        self.compress_later(&key, len);
        self.tell(notices);
    }

    /// Removes a key, and outdates every load of it that has begun. Whether get would have served it.
    pub fn delete(&self, key: &[u8]) -> bool {
        let now = self.clock.now_millis();
        let mut notices = Vec::new();
        let removed = {
            let mut lock = self.flights.lock(key);
            let number = self.facts.next();
            self.cut(&mut lock, &mut notices);
            let removed = self.memory.remove(key);
            if let Some(behind) = self.behind() {
                behind.gone(key, number);
            }
            self.key_gone(&mut lock, key, None);
            removed
        };
        self.cooldowns.lock().recovered(key);
        self.tell(notices);
        removed.and_then(|entry| self.judge(entry, now)).is_some_and(|found| found.is_servable())
    }

    /// Outdates the load of a locked key, if there is one.
    pub(super) fn cut(&self, lock: &mut KeyLock<'_>, notices: &mut Vec<Notice>) {
        let Some(flight) = lock.detach() else { return };
        let queued = {
            let mut state = flight.state.lock();
            let queued = state.phase == Phase::Queued;
            state.phase = Phase::Cut;
            queued
        };
        if queued {
            self.withdraw(&flight, notices);
        }
    }

    /// Ends a queued flight that was detached.
    pub(super) fn withdraw(&self, flight: &Flight, notices: &mut Vec<Notice>) {
        self.stamps.key_changed(hash_key(&flight.key));
        self.flights.end(flight.token);
        if let Some(batch) = flight.plan.batch {
            self.queue.lock().withdraw(batch, flight.token, notices);
        }
    }
}

fn check_size(key: &[u8], bytes: usize) -> Result<(), Error> {
    if bytes > MAX_VALUE_BYTES {
        return Err(Error::ValueTooLarge {
            key: key::shorten(&String::from_utf8_lossy(key)),
            bytes: bytes as u64,
            limit: Limit::Value,
        });
    }
    Ok(())
}
