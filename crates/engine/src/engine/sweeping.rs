//! The sweep's steps: see [`crate::invalidation::sweep`].

use super::{Engine, Event};
use crate::clock::{FOREVER, Millis};
use crate::entry::Entry;
use crate::invalidation::sweep::{MOST_MARKERS, PAUSE_FACTOR, Pass, Step, Told};
use crate::memory::{Walk, hash_key};
use crate::stats::counters::Event as Counted;

/// Most stretches of the memory tier that one piece of work walks through.
const STRETCHES: usize = 16;
/// Nanoseconds after which no further stretch is begun: less than a system gives a thread before it lets another one have the
/// processor, so that an event loop is seldom made to wait.
const SLICE: u64 = 300_000;

impl Engine {
    /// Something is to be swept at that moment.
    pub(super) fn sweep_at(&self, due: Millis) {
        if due <= self.clock.now_millis() {
            self.alarm.work_waits();
        } else if due != FOREVER {
            self.alarm.no_later_than(due);
        }
    }

    /// Wakes a worker if something is to be swept by now.
    pub(super) fn wake_sweep(&self, now: Millis) {
        if self.sweeper.due() <= now {
            self.alarm.work_waits();
        }
    }

    /// When the sweep wants to be told the time next.
    pub(super) fn next_sweep(&self, now: Millis) -> Millis {
        let due = self.sweeper.due();
        if due <= now { FOREVER } else { due }
    }

    /// Does the next step of the sweep. False if nothing is due.
    pub(super) fn sweep(&self) -> bool {
        let now = self.clock.now_millis();
        let Some(step) = self.sweeper.take(now) else { return false };
        match step {
            Step::Begin => {
                let (number, until) = self.facts.begin_pass();
                // Whoever stores from now on has seen all facts up to there.
                self.flights.pass_locks();
                self.slice(Pass { number, until, walk: Walk::default(), swept: Default::default() });
            }
            Step::Slice(pass) => self.slice(pass),
            Step::Drop(clean) => {
                let kept = self.drop_markers(clean);
                self.sweep_at(self.sweeper.dropped(now, kept));
            }
        }
        true
    }

    fn slice(&self, mut pass: Pass) {
        let began = self.clock.now_nanos();
        let sees_parents = self.facts.parents() > 0;
        let mut found = Vec::new();
        for _ in 0..STRETCHES {
            let until = pass.until;
            let more = self.memory.walk(&mut pass.walk, &mut found, |entry| {
                entry.seq() < until || sees_parents && !entry.links().is_empty()
            });
            for entry in found.drain(..) {
                if sees_parents {
                    self.facts.see(entry.links(), pass.number);
                }
                self.sweep_entry(entry, &mut pass);
            }
            if !more {
                return self.finish_sweep(&pass);
            }
            if self.clock.now_nanos() - began > SLICE {
                break;
            }
        }
        let now = self.clock.now_nanos();
        let pause = (PAUSE_FACTOR * (now - began)).div_ceil(1_000_000);
        self.sweep_at(self.sweeper.pause(pass, now / 1_000_000 + pause));
    }

    fn sweep_entry(&self, entry: Entry, pass: &mut Pass) {
        let mark = self.facts.judge_entry(&entry);
        if mark.newest() == 0 {
            return;
        }
        // It may have been replaced meanwhile: what is there now is judged, and under the key's lock it stays.
        let mut lock = self.flights.lock(entry.key());
        let Some(entry) = self.memory.peek(entry.key()) else { return };
        let verdict = self.facts.judge(entry.key(), entry.links(), entry.seq());
        let mark = verdict.mark;
        let fact = if mark.hard > 0 {
            self.memory.remove(entry.key());
            lock.recent().invalidated(hash_key(entry.key()));
            self.key_gone(&mut lock, entry.key(), Some(mark));
            mark.hard
        } else if mark.soft > 0 {
            let outdated = entry.outdated();
            outdated.lift(verdict.as_of);
            self.memory.insert(outdated);
            mark.soft
        } else {
            entry.lift(verdict.as_of);
            return;
        };
        *pass.swept.entry(fact).or_default() += 1;
        self.figures.counters.count(Counted::Swept);
    }

    fn finish_sweep(&self, pass: &Pass) {
        let kept = self.drop_markers(pass.until);
        let oldest = self.flights.oldest().unwrap_or(u64::MAX);
        self.facts.forget(pass.number, oldest.min(pass.until));
        let now = self.clock.now_millis();
        let (told, due) = self.sweeper.finish(pass, now, self.facts.parents(), kept);
        for (told, swept) in told {
            let Told { kind, text, soft, remote, .. } = told;
            self.tell_invalidated(&Event::Invalidated { kind, text, soft, swept, remote });
        }
        self.sweep_at(due);
    }

    /// Drops the markers that nothing in memory, and no load, is older than. Whether some had to stay for the sake of loads.
    fn drop_markers(&self, clean: u64) -> bool {
        let oldest = self.flights.oldest().unwrap_or(u64::MAX);
        self.facts.drop_until(clean.min(oldest));
        if oldest >= clean {
            return false;
        }
        if self.facts.sizes().markers > MOST_MARKERS {
            self.facts.drop_until(clean);
            return false;
        }
        self.facts.sizes().markers > 0
    }
}
