//! Work that no JavaScript thread is to do: compression and decompression.

use std::sync::Arc;

use super::{Engine, Event, ThreadId};
use crate::codec::workshop::{Inflated, Job, Tools};
use crate::entry::Entry;

impl Engine {
    /// Has a stored value compressed, if it is one to be, by a worker: until then it is served plain.
    pub(super) fn compress_later(&self, key: &Arc<[u8]>, len: usize) {
        if self.config.compression.is_some_and(|c| len > c.threshold)
            && self.workshop.submit(Job::Compress(Arc::clone(key)))
        {
            self.alarm.work_waits();
        }
    }

    /// Has a compressed value decompressed by a worker: [`Event::Inflated`] with this number tells the thread when it is done.
    pub fn inflate(&self, thread: ThreadId, entry: Entry) -> u64 {
        let number = self.workshop.submit_inflation(thread, entry);
        self.alarm.caller_waits();
        number
    }

    /// What was decompressed under that number, once.
    pub fn take_inflated(&self, number: u64) -> Option<Inflated> {
        self.workshop.take_inflated(number)
    }

    /// Whether [`Engine::work`] has something to do.
    pub fn has_work(&self) -> bool {
        self.workshop.has_work() || self.sweeper.due() <= self.clock.now_millis()
    }

    /// Does one piece of work. False if there is none. Called by worker threads, each with a compressor of its own.
    pub fn work(&self, tools: &mut Tools) -> bool {
        let Some(job) = self.workshop.next() else { return self.sweep() };
        match job {
            Job::Compress(key) => self.compress(&key, tools),
            Job::Touch(hashes) => self.memory.touch(&hashes),
            Job::Inflate { thread, number, entry } => {
                self.workshop.inflated(thread, number, tools.inflate(entry));
                if !self.figures.post(thread, Event::Inflated(number)) {
                    // It detached in between.
                    self.workshop.forget(thread);
                }
            }
        }
        self.workshop.done();
        self.tell(Vec::new());
        true
    }

    pub(super) fn compress(&self, key: &[u8], tools: &mut Tools) {
        let Some(compression) = self.config.compression else { return };
        let Some(entry) = self.memory.peek(key) else { return };
        if entry.codec().is_some() || entry.value().len() <= compression.threshold {
            return;
        }
        if let Some(compressed) = tools.compress(&entry, &compression) {
            // Under the key's lock, as all that changes what is stored: nothing newer is overwritten.
            let _lock = self.flights.lock(key);
            if self.memory.peek(key).is_some_and(|now| now.is(&entry)) {
                // It may have outlived something meanwhile.
                compressed.lift(entry.seq());
                // The plain one may be evicted between the two; then the compressed one ends by itself.
                let dead_at = compressed.dead_at();
                self.memory.insert(compressed);
                self.expects_expiry(dead_at);
            }
        }
    }
}
