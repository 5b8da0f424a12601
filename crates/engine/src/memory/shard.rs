//! A shard: the structures that know an entry, changed together under one lock.
//!
//! The slot owns the entry; the table finds it by key, the policy queues it, the wheel ends it, the index orders it.
//! [`Inner`] keeps the five in step. Entries that leave are handed out, so that they are dropped, and told of, after the
//! lock is released.

use std::ops::Bound;
use std::sync::Arc;

use super::budget::Budget;
use super::order::Order;
use super::policy::{Policy, Tuner, View};
use super::slots::{Id, NIL, Slots};
use super::table::Table;
use super::wheel::{Step, Wheel};
use crate::clock::{FOREVER, Millis};
use crate::entry::Entry;
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Falls from wheel to wheel that one call of [`Shard::expire`] may do for each entry that it may give out.
const FALLS: usize = 8;

/// One shard. Aligned so that shards share no cache lines, adjacent-line prefetching included.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Shard {
    pub table: Table,
    view: Apart<View>,
    figures: Apart<Figures>,
    inner: Apart<Mutex<Inner>>,
    budget: Arc<Budget>,
    weigh: fn(&Entry) -> u64,
    /// The capacity of a shard that holds no giants.
    share: u64,
    /// An entry that weighs more is a giant: it does not count where shards are compared.
    giant: u64,
}

/// What entries weigh.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weigher {
    pub of: fn(&Entry) -> u64,
    /// The least that one can weigh.
    pub least: u64,
}

/// On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

/// What others read without the lock. Written under it.
#[derive(Debug)]
struct Figures {
    weight: AtomicU64,
    /// Of that, the weight of giants.
    giants: AtomicU64,
    value_bytes: AtomicU64,
    /// What the wheel calls next; [`FOREVER`] for nothing.
    next_expiry: AtomicU64,
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct Inner {
    slots: Slots,
    policy: Policy,
    wheel: Wheel,
    order: Order,
}

impl Inner {
    /// The entry in a slot.
    pub fn entry(&self, id: Id) -> &Entry {
        self.slots.entry(id)
    }

    /// See [`Slots::walk`].
    pub fn walk(&self, first: Id, max: Id, look: impl FnMut(&Entry)) -> Option<Id> {
        self.slots.walk(first, max, look)
    }

    /// Slots, leaves and bytes of ghosts there are, used or not.
    #[cfg(test)]
    pub fn sizes(&self) -> [usize; 3] {
        [self.slots.capacity(), self.order.leaves().1, self.policy.ghost_bytes()]
    }
}

/// An entry that a shard holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub id: Id,
    pub weight: u64,
}

impl Shard {
    /// An empty shard with that share of the budget, in which what weighs more than `giant` is one.
    pub fn new(share: u64, giant: u64, budget: Arc<Budget>, tuner: Arc<Tuner>, weigher: Weigher) -> Self {
        let weigh = weigher.of;
        // It may borrow from other shards.
        let most = usize::try_from(share / weigher.least).unwrap_or(usize::MAX).saturating_mul(2);
        let (policy, view) = Policy::new(share, tuner);
        let inner = Inner { slots: Slots::new(weigh), policy, wheel: Wheel::new(), order: Order::new() };
        Self {
            table: Table::new(most),
            view: Apart(view),
            figures: Apart(Figures {
                weight: AtomicU64::new(0),
                giants: AtomicU64::new(0),
                value_bytes: AtomicU64::new(0),
                next_expiry: AtomicU64::new(FOREVER),
            }),
            inner: Apart(Mutex::new(inner)),
            budget,
            weigh,
            share,
            giant,
        }
    }

    /// Notes a use of an entry. For anyone.
    #[inline]
    pub fn hit(&self, entry: &Entry) {
        let uses = entry.uses().load(Ordering::Relaxed);
        let word = entry.hook().word.load(Ordering::Relaxed);
        if let Some(uses) = self.view.0.hit(word, uses, || (self.weigh)(entry)) {
            entry.uses().store(uses, Ordering::Relaxed);
        }
    }

    /// Does something under the lock, and publishes the figures.
    pub fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner.0.lock();
        let done = act(&mut inner);
        let next = inner.wheel.next().unwrap_or(FOREVER);
        let published = &self.figures.0.next_expiry;
        if published.load(Ordering::Relaxed) != next {
            published.store(next, Ordering::Release);
        }
        done
    }

    /// Weight of its entries, giants left out.
    pub fn ordinary_weight(&self) -> u64 {
        let figures = &self.figures.0;
        figures.weight.load(Ordering::Relaxed).saturating_sub(figures.giants.load(Ordering::Relaxed))
    }

    /// Weight of its entries.
    pub fn weight(&self) -> u64 {
        self.figures.0.weight.load(Ordering::Relaxed)
    }

    /// Weight of its giants.
    pub fn giants(&self) -> u64 {
        self.figures.0.giants.load(Ordering::Relaxed)
    }

    /// Bytes of its values.
    pub fn value_bytes(&self) -> u64 {
        self.figures.0.value_bytes.load(Ordering::Relaxed)
    }

    /// A moment before which no entry expires.
    pub fn next_expiry(&self) -> Millis {
        self.figures.0.next_expiry.load(Ordering::Acquire)
    }

    /// Whether an entry of that weight is a giant here.
    pub fn is_giant(&self, weight: u64) -> bool {
        weight > self.giant
    }

    /// The entry of that key.
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<Held> {
        let held = |entry: &Entry| Held { id: entry.hook().slot.load(Ordering::Relaxed), weight: (self.weigh)(entry) };
        self.table.look(hash, key, held)
    }

    /// Takes in an entry whose key is not held. Gives it back if there are no slot numbers left.
    pub fn add(&self, inner: &mut Inner, hash: u64, entry: Entry) -> Result<(), Entry> {
        let id = inner.slots.put(entry)?;
        let Inner { slots, policy, wheel, order } = inner;
        self.count(policy, slots.entry(id), true);
        let leaf = order.seek(slots.entry(id).key());
        // First what readers look at, then the table, through which they find it.
        policy.insert(slots, &self.view.0, id, hash);
        wheel.insert(slots, id);
        order.insert(slots, id, leaf);
        self.table.insert(hash, slots.entry(id));
        Ok(())
    }

    /// Puts an entry in place of a held one of the same key; gives that. The new one keeps its place with the policy.
    pub fn replace(&self, inner: &mut Inner, hash: u64, held: Held, entry: Entry) -> Option<Entry> {
        let Inner { slots, policy, wheel, .. } = inner;
        let old = slots.entry(held.id);
        self.count(policy, old, false);
        self.count(policy, &entry, true);
        let relaxed = Ordering::Relaxed;
        entry.hook().word.store(old.hook().word.load(relaxed), relaxed);
        entry.uses().store(old.uses().load(relaxed), relaxed);
        self.table.replace(hash, old, &entry);
        policy.reweigh(slots, held.id, held.weight, slots.weigh(&entry));
        wheel.remove(slots, held.id);
        let old = slots.replace(held.id, entry);
        wheel.insert(slots, held.id);
        old
    }

    /// Takes an entry out.
    pub fn remove(&self, inner: &mut Inner, hash: u64, id: Id) -> Option<Entry> {
        inner.policy.remove(&inner.slots, id);
        self.drop_from_rest(inner, hash, id)
    }

    /// Takes out the entry that the policy chooses; `None` if there is none.
    pub fn evict(&self, inner: &mut Inner) -> Option<Entry> {
        let id = inner.policy.evict(&inner.slots)?;
        let hash = super::hash_key(inner.slots.entry(id).key());
        let entry = self.drop_from_rest(inner, hash, id);
        self.look_ahead(inner);
        entry
    }

    /// Has what the next evictions will read fetched meanwhile: they would else wait for one piece of memory after another. Each
    /// step reads only what an earlier call has had fetched.
    fn look_ahead(&self, inner: &Inner) {
        let Inner { slots, policy, wheel, order } = inner;
        let [first, second, third] = policy.next(slots);
        if first != NIL {
            let hash = super::hash_key(slots.entry(first).key());
            self.table.prefetch(hash);
            policy.prefetch(hash);
            wheel.prefetch(slots, first);
            order.prefetch(slots, first);
        }
        if second != NIL {
            slots.prefetch_entry(second);
            order.prefetch_leaf(slots, second);
        }
        if third != NIL {
            slots.prefetch(third);
        }
    }

    /// Has what taking in a key with that hash will read fetched meanwhile.
    pub fn expect(&self, inner: &Inner, hash: u64) {
        inner.policy.prefetch(hash);
    }

    /// Takes out entries that are due by `now`, up to `max`. True if it stopped before, because too many only fell to a lower wheel.
    pub fn expire(&self, inner: &mut Inner, now: Millis, max: usize, mut gone: impl FnMut(Entry)) -> bool {
        let (mut due, mut falls) = (0, 0);
        while due < max && falls < max.saturating_mul(FALLS) {
            match inner.wheel.advance(&inner.slots, now) {
                Step::Done => break,
                Step::Fell => falls += 1,
                Step::Due(id) => {
                    due += 1;
                    let hash = super::hash_key(inner.slots.entry(id).key());
                    if let Some(entry) = self.remove(inner, hash, id) {
                        gone(entry);
                    }
                }
            }
        }
        due < max && falls == max.saturating_mul(FALLS)
    }

    /// Takes everything out.
    pub fn clear(&self, inner: &mut Inner) -> Slots {
        self.table.clear();
        inner.policy.clear();
        self.count_nothing();
        inner.policy.set_capacity(self.share);
        inner.wheel = Wheel::new();
        inner.order = Order::new();
        std::mem::replace(&mut inner.slots, Slots::new(self.weigh))
    }

    /// Up to `max` entries at or after `from` whose keys begin with `prefix`, in order; whether these were all.
    pub fn page(inner: &mut Inner, prefix: &[u8], from: Bound<&[u8]>, max: usize, out: &mut Vec<Entry>) -> bool {
        let Inner { slots, order, .. } = inner;
        let mut all = true;
        order.scan(slots, from, |id| {
            let entry = slots.entry(id);
            if !entry.key().starts_with(prefix) {
                return false;
            }
            if out.len() == max {
                all = false;
                return false;
            }
            out.push(entry.clone());
            true
        });
        all
    }

    fn drop_from_rest(&self, inner: &mut Inner, hash: u64, id: Id) -> Option<Entry> {
        let Inner { slots, policy, wheel, order } = inner;
        let entry = slots.entry(id);
        self.table.remove(hash, entry);
        self.count(policy, entry, false);
        wheel.remove(slots, id);
        order.remove(slots, id);
        slots.take(id)
    }

    fn count(&self, policy: &mut Policy, entry: &Entry, comes: bool) {
        let figures = &self.figures.0;
        let weight = (self.weigh)(entry);
        let add = |figure: &AtomicU64, amount: u64| {
            // Under the lock, so nobody else writes.
            let was = figure.load(Ordering::Relaxed);
            figure.store(if comes { was + amount } else { was - amount }, Ordering::Relaxed);
        };
        add(&figures.weight, weight);
        add(&figures.value_bytes, entry.raw_len() as u64);
        if self.is_giant(weight) {
            add(&figures.giants, weight);
            self.budget.count_giant(weight, comes);
            policy.set_capacity(self.share + figures.giants.load(Ordering::Relaxed));
        }
    }

    fn count_nothing(&self) {
        let figures = &self.figures.0;
        self.budget.count_giant(self.giants(), false);
        for figure in [&figures.weight, &figures.giants, &figures.value_bytes] {
            figure.store(0, Ordering::Relaxed);
        }
    }

    /// Checks every structure, and that they agree.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self, inner: &Inner) {
        let Inner { slots, policy, wheel, order } = inner;
        let ids = || slots.ids();
        policy.validate(slots, ids());
        wheel.validate(slots, ids());
        order.validate(slots, ids());
        self.table.validate(ids().map(|id| slots.entry(id)));
        for id in ids() {
            assert_eq!(slots.entry(id).hook().slot.load(Ordering::Relaxed), id);
        }
        assert_eq!((slots.len(), policy.len(), order.len()), (ids().count(), slots.len(), slots.len()));
        assert!(wheel.len() <= slots.len());
        let sum = |of: &dyn Fn(&Entry) -> u64| ids().map(|id| of(slots.entry(id))).sum::<u64>();
        let giants = |e: &Entry| if self.is_giant((self.weigh)(e)) { (self.weigh)(e) } else { 0 };
        assert_eq!((self.weight(), self.giants()), (sum(&self.weigh), sum(&giants)));
        assert_eq!(self.weight(), policy.weight());
        assert_eq!(self.value_bytes(), sum(&|e| e.raw_len() as u64));
        assert_eq!(self.next_expiry(), wheel.next().unwrap_or(FOREVER));
    }
}
