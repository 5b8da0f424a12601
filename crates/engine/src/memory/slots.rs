//! Where a shard keeps its entries: numbered slots, four bytes a reference instead of eight.
//!
//! A slot owns one reference to its entry, and has room for what the other structures of the shard know of it: its
//! neighbours in a queue of the eviction policy, its neighbours in the expiry wheel, its leaf in the ordered index.
//! Slots lie in pages that are never moved, so growing copies nothing. A freed slot is the next to be used.

use std::cell::Cell;

use super::order::Keys;
use super::policy::Nodes;
use super::prefetch::{LINE, prefetch};
use super::wheel::Timers;
use crate::entry::{Entry, Hook};
use crate::sync::Ordering;

/// A slot's number.
pub(super) type Id = u32;

/// No slot. Numbers above [`MAX_ID`] have meanings of their own in the structures that use them.
pub(super) const NIL: Id = u32::MAX;

/// The greatest number that a slot may have.
pub(super) const MAX_ID: Id = (1 << 31) - 1;

/// Slots a page, as a power of two.
const PAGE_BITS: u32 = 8;

/// Neighbours in a list that is threaded through the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Links {
    /// Towards the front.
    pub prev: Id,
    /// Towards the back.
    pub next: Id,
}

impl Links {
    /// In no list.
    pub const NONE: Self = Self { prev: NIL, next: NIL };
}

#[derive(Debug)]
struct Slot {
    /// `None` while the slot is free; `queue.next` is then the next free one.
    entry: Option<Entry>,
    queue: Cell<Links>,
    timer: Cell<Links>,
    leaf: Cell<u32>,
}

/// The slots of one shard.
#[derive(Debug)]
pub(super) struct Slots {
    pages: Vec<Box<[Slot]>>,
    free: Id,
    len: usize,
    weigh: fn(&Entry) -> u64,
}

impl Slots {
    /// No slots yet. `weigh` tells what an entry weighs.
    pub fn new(weigh: fn(&Entry) -> u64) -> Self {
        Self { pages: Vec::new(), free: NIL, len: 0, weigh }
    }

    /// Number of entries.
    #[cfg(any(test, feature = "validate"))]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What an entry weighs.
    pub fn weigh(&self, entry: &Entry) -> u64 {
        (self.weigh)(entry)
    }

    #[inline]
    fn slot(&self, id: Id) -> &Slot {
        &self.pages[(id >> PAGE_BITS) as usize][id as usize & ((1 << PAGE_BITS) - 1)]
    }

    #[inline]
    fn slot_mut(&mut self, id: Id) -> &mut Slot {
        &mut self.pages[(id >> PAGE_BITS) as usize][id as usize & ((1 << PAGE_BITS) - 1)]
    }

    /// Puts an entry into a free slot, and notes the number in it. Gives it back if all numbers are taken.
    pub fn put(&mut self, entry: Entry) -> Result<Id, Entry> {
        if self.free == NIL && self.add_page().is_none() {
            return Err(entry);
        }
        let id = self.free;
        entry.hook().slot.store(id, Ordering::Relaxed);
        let slot = self.slot_mut(id);
        let next = slot.queue.replace(Links::NONE).next;
        slot.entry = Some(entry);
        self.free = next;
        self.len += 1;
        Ok(id)
    }

    fn add_page(&mut self) -> Option<()> {
        let first = (self.pages.len() as u32).checked_mul(1 << PAGE_BITS).filter(|first| *first <= MAX_ID)?;
        let page = (first..first + (1 << PAGE_BITS)).map(|id| {
            let next = if id + 1 == first + (1 << PAGE_BITS) { NIL } else { id + 1 };
            Slot {
                entry: None,
                queue: Cell::new(Links { prev: NIL, next }),
                timer: Cell::new(Links::NONE),
                leaf: Cell::new(NIL),
            }
        });
        self.pages.push(page.collect());
        self.free = first;
        Some(())
    }

    /// Takes the entry out of a slot that no other structure knows any more, and frees both.
    pub fn take(&mut self, id: Id) -> Option<Entry> {
        let free = self.free;
        let slot = self.slot_mut(id);
        debug_assert!(slot.queue.get() == Links::NONE && slot.timer.get() == Links::NONE && slot.leaf.get() == NIL);
        let entry = slot.entry.take()?;
        slot.queue.set(Links { prev: NIL, next: free });
        self.free = id;
        self.len -= 1;
        entry.hook().slot.store(Hook::FREE, Ordering::Release);
        Some(entry)
    }

    /// Puts an entry in place of the one in a slot; gives that.
    pub fn replace(&mut self, id: Id, entry: Entry) -> Option<Entry> {
        entry.hook().slot.store(id, Ordering::Relaxed);
        let old = self.slot_mut(id).entry.replace(entry)?;
        old.hook().slot.store(Hook::FREE, Ordering::Release);
        Some(old)
    }

    /// Hands up to `max` slots from `first` on to `look`, those that are in use. Where to go on; `None` at the end.
    pub fn walk(&self, first: Id, max: Id, mut look: impl FnMut(&Entry)) -> Option<Id> {
        let end = (self.pages.len() as Id) << PAGE_BITS;
        let next = first.saturating_add(max).min(end);
        (first..next).filter_map(|id| self.slot(id).entry.as_ref()).for_each(&mut look);
        (next < end).then_some(next)
    }

    /// The entry in a slot.
    ///
    /// # Panics
    /// If the slot is free: the structures of a shard know only slots that are in use.
    #[inline]
    pub fn entry(&self, id: Id) -> &Entry {
        match &self.slot(id).entry {
            Some(entry) => entry,
            None => unreachable!("slot {id} is free"),
        }
    }

    /// That a slot will soon be looked at.
    pub fn prefetch(&self, id: Id) {
        prefetch(self.slot(id));
    }

    /// That the entry in a slot will soon be looked at.
    pub fn prefetch_entry(&self, id: Id) {
        if let Some(entry) = &self.slot(id).entry {
            // Most keys end on the line after the one where the entry begins.
            let at = entry.as_pointer().as_ptr();
            for line in [0, LINE] {
                prefetch(at.wrapping_byte_add(line));
            }
        }
    }

    /// Tells the entries that no tier holds them, and lets go of them.
    pub fn release(self) {
        for entry in self.pages.iter().flat_map(|page| page.iter()).filter_map(|slot| slot.entry.as_ref()) {
            entry.hook().slot.store(Hook::FREE, Ordering::Release);
        }
    }

    /// The slots in use, for checks.
    #[cfg(any(test, feature = "validate"))]
    pub fn ids(&self) -> impl Iterator<Item = Id> + '_ {
        let slots = self.pages.iter().flat_map(|page| page.iter());
        slots.enumerate().filter(|(_, slot)| slot.entry.is_some()).map(|(id, _)| id as Id)
    }

    /// Number of slots, free ones included.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.pages.len() << PAGE_BITS
    }
}

impl Nodes for Slots {
    #[inline]
    fn links(&self, id: Id) -> &Cell<Links> {
        &self.slot(id).queue
    }

    #[inline]
    fn word(&self, id: Id) -> u32 {
        self.entry(id).hook().word.load(Ordering::Relaxed)
    }

    #[inline]
    fn set_word(&self, id: Id, word: u32) {
        self.entry(id).hook().word.store(word, Ordering::Relaxed);
    }

    #[inline]
    fn uses(&self, id: Id) -> u8 {
        self.entry(id).uses().load(Ordering::Relaxed)
    }

    #[inline]
    fn set_uses(&self, id: Id, uses: u8) {
        self.entry(id).uses().store(uses, Ordering::Relaxed);
    }

    #[inline]
    fn weight(&self, id: Id) -> u64 {
        (self.weigh)(self.entry(id))
    }

    #[inline]
    fn hash(&self, id: Id) -> u64 {
        super::hash_key(self.entry(id).key())
    }
}

impl Timers for Slots {
    #[inline]
    fn links(&self, id: Id) -> &Cell<Links> {
        &self.slot(id).timer
    }

    #[inline]
    fn due(&self, id: Id) -> u64 {
        self.entry(id).dead_at()
    }
}

impl Keys for Slots {
    #[inline]
    fn key(&self, id: Id) -> &[u8] {
        self.entry(id).key()
    }

    #[inline]
    fn leaf(&self, id: Id) -> &Cell<u32> {
        &self.slot(id).leaf
    }
}
