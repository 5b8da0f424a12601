//! What is on its way to one tier: writes, deletes and facts, in the order in which they happened.
//!
//! One call at a time, so that the tier sees them in that order; neighbours of one kind go together. Of a key only the last write is kept. A
//! call that fails because the tier is not well is made again, after its rest, until it succeeds: what was invalidated is never given up. A
//! record that the tier refuses is reported and left out.
//!
//! What was invalidated or deleted goes to the farther tiers' logs first ([`Before`]): so whoever hears of it by a nearer log, and looks
//! into a farther tier, can know there what has become of it.
//!
//! Bounded: beyond [`MOST`] operations or [`MOST_BYTES`] the oldest records are given up, and what the tier may have under their keys is deleted
//! instead where a user wrote them; where even deletes are too many, one fact takes the place of all: everything is invalidated.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{Answer, Fact, Guarded, Key, Put, PutOf, Record, Rest, Tier, TierError, TierErrorKind, ledger};
use crate::clock::FOREVER;
use crate::entry::Entry;
use crate::invalidation::links;
use crate::invalidation::target::Target;

/// Operations that wait at most, and the bytes of their records.
pub const MOST: usize = 100_000;
pub const MOST_BYTES: usize = 256 << 20;

/// Operations of one call, and the bytes of their records.
const AT_ONCE: usize = 1_000;
const BYTES_AT_ONCE: usize = 8 << 20;

/// How often a tier that rests is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// One thing that has happened.
#[derive(Debug, Clone)]
pub enum Op {
    /// Brought by a load that began at that place of the tier's log, or written.
    Put {
        entry: Entry,
        load: Option<(u64, u64)>,
        /// The entry's number when it was handed over; it may be lifted since. 0 where it was found in a tier.
        seq: u64,
    },
    Delete,
    Mark(Fact),
}

struct Pending {
    op: Op,
    key: Option<Key>,
    bytes: usize,
    after: Vec<Before>,
}

/// What has to have arrived in another tier before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// The tier's slot.
    pub slot: usize,
    /// The number of the operation in that slot's outbox.
    pub number: u64,
}

/// An operation with its number and its key.
type Sending = (u64, Op, Option<Key>);

/// What is known of a key before the tier has it.
#[derive(Debug, Clone)]
pub enum Known {
    Entry(Entry),
    Gone,
}

struct Receipt {
    up_to: u64,
    sender: oneshot::Sender<Result<(), TierError>>,
}

#[derive(Default)]
struct State {
    queue: BTreeMap<u64, Pending>,
    /// The newest operation of each key, and the newest that is not what a load has brought.
    by_key: HashMap<Key, u64>,
    written: HashMap<Key, u64>,
    /// Facts among them.
    facts: BTreeMap<u64, Target>,
    /// What is about to be invalidated.
    announced: Vec<Target>,
    last: u64,
    bytes: usize,
    receipts: Vec<Receipt>,
}

/// The writes of one tier.
pub struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    /// Told of whenever something has arrived, or was found not to.
    progress: watch::Sender<()>,
    ended: AtomicBool,
    /// Something may be written down that the tier is owed.
    in_debt: AtomicBool,
}

/// What a tier is owed: invalidated, deleted or overwritten here, and not known there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub target: Target,
    pub soft: bool,
}

/// What the sender needs from outside: how an entry becomes a record, and who is told of what failed.
pub trait Post: Send + Sync {
    /// The tags and parents that the records of these entries, with their numbers as [`Op::Put`] has them, are to name.
    fn links(&self, entries: Vec<(Entry, u64)>) -> Answer<'_, Vec<Arc<[u8]>>>;
    /// The record of an entry, for this tier; of a load in a log's epoch and number, if it has one; with these links instead
    /// of its own, if there are any.
    fn record(&self, entry: &Entry, load: Option<(u64, u64)>, links: Option<Arc<[u8]>>) -> Record;
    /// A record was refused, or given up.
    fn failed(&self, error: &TierError, key: Option<&Key>);
    /// Waits until these have arrived, or cannot for now.
    fn arrived(&self, before: Vec<Before>) -> Answer<'_, ()>;
    /// Whether the tier is told of everything at its time, or is owed something.
    fn in_debt(&self, is: bool);
    /// A fact has reached the tier.
    fn landed(&self, fact: &Fact);
    /// The tier is owed this, and nothing else: to be remembered over restarts, where that can be, before anybody is told.
    fn owe(&self, owed: Vec<Owed>) -> Answer<'_, ()>;
}

impl State {
    fn push(&mut self, op: Op, key: Option<Key>, after: Vec<Before>) {
        self.last += 1;
        let bytes = match &op {
            Op::Put { entry, .. } => entry.allocated(),
            _ => 0,
        };
        if let Some(key) = &key {
            let tells = !matches!(op, Op::Put { load: Some(_), .. });
            let before = self.by_key.insert(Arc::clone(key), self.last);
            // What a load has brought takes the place of what another has, and of nothing that others are to be told of.
            let before = before.filter(|before| tells || self.written.get(key) != Some(before));
            if let Some(before) = before {
                self.supersede(before);
            }
            if tells && let Some(before) = self.written.insert(Arc::clone(key), self.last) {
                self.supersede(before);
            }
        }
        if let Op::Mark(fact) = &op {
            self.facts.insert(self.last, fact.target.clone());
        }
        self.bytes += bytes;
        self.queue.insert(self.last, Pending { op, key, bytes, after });
    }

    /// The newest operation, of the same key, takes the place of that one: who waits for the one waits for the other.
    fn supersede(&mut self, number: u64) {
        if let Some(pending) = self.queue.remove(&number) {
            self.bytes -= pending.bytes;
            for receipt in self.receipts.iter_mut().filter(|receipt| receipt.up_to >= number) {
                receipt.up_to = self.last;
            }
        }
    }

    fn take_out(&mut self, number: u64) -> Option<Pending> {
        let pending = self.queue.remove(&number)?;
        self.bytes -= pending.bytes;
        self.facts.remove(&number);
        if let Some(key) = &pending.key
            && self.by_key.get(key) == Some(&number)
        {
            self.by_key.remove(key);
        }
        if let Some(key) = &pending.key
            && self.written.get(key) == Some(&number)
        {
            self.written.remove(key);
        }
        Some(pending)
    }

    /// Gives up the oldest records until there is room; those that are lost.
    fn make_room(&mut self) -> Vec<Key> {
        let mut lost = Vec::new();
        if self.queue.len() <= MOST && self.bytes <= MOST_BYTES {
            return lost;
        }
        let numbers: Vec<u64> = self.queue.keys().copied().collect();
        for number in numbers {
            if self.queue.len() <= MOST * 9 / 10 && self.bytes <= MOST_BYTES * 9 / 10 {
                return lost;
            }
            let Some(pending) = self.queue.get_mut(&number) else { continue };
            let Op::Put { load, .. } = &pending.op else { continue };
            let written = load.is_none();
            lost.extend(pending.key.clone());
            if written {
                self.bytes -= std::mem::take(&mut pending.bytes);
                pending.op = Op::Delete;
            } else {
                self.take_out(number);
            }
        }
        if self.queue.len() > MOST {
            // Nothing but deletes and facts: one says it all.
            self.queue.clear();
            self.by_key.clear();
            self.written.clear();
            self.facts.clear();
            self.bytes = 0;
            self.push(Op::Mark(Fact::unnumbered(Target::All, false, FOREVER)), None, Vec::new());
        }
        lost
    }

    /// Whether an entry that was handed over with that number is covered by a fact, or depends on a key that was changed, since.
    fn has_cut(&self, entry: &Entry, number: u64) -> bool {
        let facts = self.facts.range(number..).map(|(_, target)| target);
        facts.chain(&self.announced).any(|target| ledger::covers(target, entry.key(), entry.links()))
            || links::names(entry.links())
                .any(|(role, name)| !role.is_tag() && self.written.get(name).is_some_and(|written| *written > number))
    }

    /// Whether a user's write or deletion of that key is on its way.
    fn changes(&self, key: &[u8]) -> bool {
        self.written.contains_key(key)
    }

    fn settle_receipts(&mut self) {
        let first = self.queue.keys().next().copied().unwrap_or(u64::MAX);
        for receipt in self.receipts.extract_if(.., |receipt| receipt.up_to < first) {
            // Whoever has let go is not there any more.
            let _ = receipt.sender.send(Ok(()));
        }
    }

    fn fail_receipts(&mut self, error: &TierError) {
        for receipt in self.receipts.drain(..) {
            let _ = receipt.sender.send(Err(error.clone()));
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            progress: watch::Sender::new(()),
            ended: AtomicBool::new(false),
            in_debt: AtomicBool::new(false),
        }
    }
}

impl Outbox {
    /// Hands something over, to be sent when those have arrived in other tiers, or cannot for now. What had to be given up for it.
    pub fn push(&self, op: Op, key: Option<Key>, after: Vec<Before>) -> Vec<Key> {
        let lost = {
            let mut state = self.state.lock();
            state.push(op, key, after);
            state.make_room()
        };
        self.changed.notify_one();
        lost
    }

    /// Whether the sender has been ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// The number of what was handed over last.
    pub fn last(&self) -> u64 {
        self.state.lock().last
    }

    /// Waits until all up to that number has arrived, or the tier turns out not to be well.
    pub async fn arrived(&self, number: u64) {
        let mut progress = self.progress.subscribe();
        let waits = || {
            let is_there = self.state.lock().queue.keys().next().is_some_and(|first| *first <= number);
            is_there && !self.in_debt.load(Ordering::SeqCst) && !self.ended.load(Ordering::SeqCst)
        };
        while waits() && progress.changed().await.is_ok() {}
    }

    /// What was handed over of a key and has not arrived.
    pub fn known(&self, key: &[u8]) -> Option<Known> {
        let state = self.state.lock();
        let number = *state.by_key.get(key)?;
        let pending = state.queue.get(&number)?;
        match &pending.op {
            // What has cut it since, here, may have been swept away: it is not in memory any more.
            Op::Put { entry, load: None, .. } if state.has_cut(entry, number) => None,
            // What had cut it by its tags and parents may have been swept away: it is not in memory any more. The tier knows.
            Op::Put { entry, load: Some(_), .. } if !entry.links().is_empty() => None,
            Op::Put { entry, .. } => Some(Known::Entry(entry.clone())),
            Op::Delete => Some(Known::Gone),
            Op::Mark(_) => None,
        }
    }

    /// Something is about to be invalidated: from now on what is covered by it is cut.
    pub fn announce(&self, target: &Target) {
        self.state.lock().announced.push(target.clone());
    }

    /// It has been handed over, or will not be.
    pub fn withdraw(&self, target: &Target) {
        let mut state = self.state.lock();
        if let Some(place) = state.announced.iter().position(|announced| announced == target) {
            state.announced.swap_remove(place);
        }
    }

    /// Whether a record is covered by a fact that has not arrived, or is of a key whose deletion or new value has not, or depends on a key whose deletion or new value has not.
    pub fn cuts(&self, record: &Record) -> bool {
        let state = self.state.lock();
        state.changes(&record.key)
            || state
                .facts
                .values()
                .chain(&state.announced)
                .any(|target| ledger::covers(target, &record.key, &record.links))
            || (!state.written.is_empty()
                && links::names(&record.links).any(|(role, name)| !role.is_tag() && state.changes(name)))
    }

    /// Lets go of what a load has brought of a key that another process has changed since.
    pub fn forget_load(&self, key: &[u8]) {
        let mut state = self.state.lock();
        if let Some(number) = state.by_key.get(key).copied()
            && let Some(Pending { op: Op::Put { load: Some(_), .. }, .. }) = state.queue.get(&number)
        {
            state.take_out(number);
            state.settle_receipts();
        }
    }

    /// What an earlier process owed the tier has been taken up: its notes go when all has arrived.
    pub fn takes_up_debts(&self) {
        self.in_debt.store(true, Ordering::SeqCst);
    }

    /// How much is on its way.
    pub fn len(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// Waits until all that was handed over has arrived, or the tier turns out not to be well.
    pub fn receipt(&self) -> Option<oneshot::Receiver<Result<(), TierError>>> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let up_to = state.last;
        state.receipts.push(Receipt { up_to, sender });
        Some(receiver)
    }

    /// Ends the sender. What is left is lost.
    pub fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.state.lock().fail_receipts(&TierError::closed());
        self.changed.notify_one();
        self.progress.send_replace(());
    }

    fn owed(&self) -> Vec<Owed> {
        let owed = |pending: &Pending| match &pending.op {
            Op::Put { load: Some(_), .. } => None,
            Op::Put { .. } | Op::Delete => {
                pending.key.as_ref().map(|key| Owed { target: Target::Key((&**key).into()), soft: false })
            }
            Op::Mark(fact) => Some(Owed { target: fact.target.clone(), soft: fact.soft }),
        };
        self.state.lock().queue.values().filter_map(owed).collect()
    }

    /// Tells those who wait that the tier is not well, once what it is owed is written down.
    async fn tell_trouble(&self, post: &dyn Post, error: &TierError) {
        if !self.state.lock().receipts.is_empty() {
            post.owe(self.owed()).await;
            self.state.lock().fail_receipts(error);
        }
    }

    /// Sends what comes, until [`Outbox::end`].
    pub async fn run(&self, tier: &Guarded, post: &dyn Post) {
        while !self.ended.load(Ordering::SeqCst) {
            let (batch, after) = self.batch();
            if batch.is_empty() {
                self.changed.notified().await;
                continue;
            }
            if !after.is_empty() {
                post.arrived(after).await;
                self.clear(&batch);
                // Something newer may have taken the place of some of it.
                continue;
            }
            if let Err(error) = self.send(tier, post, batch).await {
                if !self.in_debt.swap(true, Ordering::SeqCst) {
                    post.in_debt(true);
                    post.failed(&error, None);
                }
                self.progress.send_replace(());
                self.tell_trouble(post, &error).await;
                tokio::time::sleep(LOOK).await;
                while tier.rest() == Rest::Open && !self.ended.load(Ordering::SeqCst) {
                    self.tell_trouble(post, &error).await;
                    tokio::time::sleep(LOOK).await;
                }
            } else {
                if self.len() == 0 && self.in_debt.swap(false, Ordering::SeqCst) {
                    post.in_debt(false);
                    post.owe(Vec::new()).await;
                }
                self.state.lock().settle_receipts();
                self.progress.send_replace(());
            }
        }
    }

    /// Those wait for nothing any more.
    fn clear(&self, batch: &[Sending]) {
        let mut state = self.state.lock();
        for (number, ..) in batch {
            if let Some(pending) = state.queue.get_mut(number) {
                pending.after = Vec::new();
            }
        }
    }

    /// The first of the queue, and its neighbours of the same kind; and what has to have arrived before.
    fn batch(&self) -> (Vec<Sending>, Vec<Before>) {
        let state = self.state.lock();
        let mut batch: Vec<Sending> = Vec::new();
        let mut after = Vec::new();
        let mut bytes = 0;
        let (mut keys, mut parents) = (HashSet::new(), HashSet::new());
        for (number, pending) in &state.queue {
            bytes += pending.bytes;
            let fits = batch.len() < AT_ONCE && bytes <= BYTES_AT_ONCE;
            let same = |first: &Op| {
                matches!((first, &pending.op), (Op::Put { .. }, Op::Put { .. }) | (Op::Delete, Op::Delete))
            };
            if batch.first().is_some_and(|(_, first, _)| !fits || !same(first)) {
                break;
            }
            if let (Op::Put { entry, .. }, Some(key)) = (&pending.op, &pending.key) {
                // A tier may number the records of one call in any order, and whether a child is older than its parent is seen by the numbers.
                let own: Vec<Key> = links::names(entry.links())
                    .filter(|(role, _)| !role.is_tag())
                    .map(|(_, name)| name.into())
                    .collect();
                if parents.contains(key) || own.iter().any(|parent| keys.contains(parent)) {
                    break;
                }
                keys.insert(Arc::clone(key));
                parents.extend(own);
            }
            batch.push((*number, pending.op.clone(), pending.key.clone()));
            after.extend(&pending.after);
        }
        (batch, after)
    }

    /// Makes one call. An error is that of the tier as a whole.
    async fn send(&self, tier: &Guarded, post: &dyn Post, batch: Vec<Sending>) -> Result<(), TierError> {
        let numbers: Vec<u64> = batch.iter().map(|(number, ..)| *number).collect();
        let keys: Vec<Option<Key>> = batch.iter().map(|(.., key)| key.clone()).collect();
        let first = batch.first().map(|(_, op, _)| op.clone());
        let answers = match first {
            None => return Ok(()),
            Some(Op::Put { .. }) => {
                let is_tied = |entry: &Entry| links::has_parents(entry.links());
                let tied = batch.iter().filter_map(|(_, op, _)| match op {
                    Op::Put { entry, seq, .. } if is_tied(entry) => Some((entry.clone(), *seq)),
                    _ => None,
                });
                let tied: Vec<(Entry, u64)> = tied.collect();
                let mut links = if tied.is_empty() { Vec::new() } else { post.links(tied).await }.into_iter();
                let puts = batch
                    .iter()
                    .filter_map(|(_, op, _)| match op {
                        Op::Put { entry, load, .. } => Some(Put {
                            record: post.record(entry, *load, if is_tied(entry) { links.next() } else { None }),
                            of: if load.is_some() { PutOf::Load } else { PutOf::Write },
                        }),
                        _ => None,
                    })
                    .collect();
                tier.put_many(puts).await
            }
            Some(Op::Delete) => tier.delete_many(keys.iter().flatten().cloned().collect()).await,
            Some(Op::Mark(fact)) => {
                let answer = tier.write_marker(fact.clone()).await;
                if answer.is_ok() {
                    post.landed(&fact);
                }
                vec![answer]
            }
        };
        let mut ill = None;
        for ((number, key), answer) in numbers.iter().zip(&keys).zip(answers) {
            match answer {
                Err(error) if error.kind.is_illness() || error.kind == TierErrorKind::Closed => ill = Some(error),
                Err(error) => {
                    post.failed(&error, key.as_ref());
                    self.state.lock().take_out(*number);
                }
                Ok(()) => _ = self.state.lock().take_out(*number),
            }
        }
        ill.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::conformance::record;

    #[test]
    fn what_is_about_to_be_invalidated_cuts_until_it_is_handed_over_and_has_arrived() {
        let (outbox, target) = (Outbox::default(), Target::prefix(b"a"));
        let cuts = || (outbox.cuts(&record("ab", "x", 0)), outbox.cuts(&record("b", "x", 0)));
        outbox.announce(&target);
        outbox.announce(&target);
        assert_eq!(cuts(), (true, false));
        outbox.push(Op::Mark(Fact::unnumbered(target.clone(), false, FOREVER)), None, Vec::new());
        outbox.withdraw(&target);
        outbox.state.lock().take_out(1);
        assert_eq!(cuts(), (true, false), "somebody else is still at it");
        outbox.withdraw(&target);
        assert_eq!(cuts(), (false, false));
    }
}
