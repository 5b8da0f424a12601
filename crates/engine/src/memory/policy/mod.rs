//! The eviction policy: S3-FIFO with a correlation window and a self-tuning small queue, over any weight.
//!
//! It knows nothing of keys, locks or bytes: only of numbered nodes, their weights and hashes ([`Nodes`]).
//! A new node goes to the back of the **small** queue; one whose key is remembered among the **ghosts** goes to the **main**
//! queue. Room is made from the small queue while it is over its share, else from the main queue.
//! - At the end of the small queue, a node that was used moves to the main queue; one that was not is dropped and becomes a ghost.
//! - At the end of the main queue (a clock), a node that was used goes round again with one use less; one that was not is dropped.
//! - A use in the small queue counts only once half of that queue has been renewed since the node came: uses in quick
//!   succession are one event (the correlation window of 2Q).
//! - [`Tuner`] moves the small queue's share by what ghosts and old hits show.
//! - Weights: a node much lighter than the average is kept longer. It goes round the main queue without a use
//!   `2 log2(average / weight)` times, at most 7, and moves there from the small queue unused if it is [`LIGHT`] times lighter.
//!   It costs little, and a hit on it is a hit. With equal weights none of this happens.
//!
//! Readers note uses without any lock: [`View::hit`] reads a few published numbers and the node's word, and writes at most the
//! node's count of uses. All else is for whoever holds the shard's lock.
//!
//! S3-FIFO: J. Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023 (<https://doi.org/10.1145/3600006.3613147>).
//! 2Q: T. Johnson and D. Shasha, VLDB 1994. The judging of either side by what it would have gained: ARC, N. Megiddo and D. Modha,
//! FAST 2003.

use std::cell::Cell;
use std::sync::Arc;

use self::ghosts::{Ghosts, Left};
use self::tuner::{MARGIN, MARGINS};
use super::slots::{Id, Links, NIL};
use crate::sync::{AtomicU32, Ordering};

mod ghosts;
mod tuner;

pub(super) use tuner::Tuner;

/// Where the policy finds and notes what belongs to a node.
pub(super) trait Nodes {
    /// Its neighbours in a queue.
    fn links(&self, id: Id) -> &Cell<Links>;
    /// The policy's word of it.
    fn word(&self, id: Id) -> u32;
    /// Changes the policy's word of it.
    fn set_word(&self, id: Id, word: u32);
    /// Its count of uses, which readers change too.
    fn uses(&self, id: Id) -> u8;
    /// Changes its count of uses.
    fn set_uses(&self, id: Id, uses: u8);
    /// What it weighs, at least 1.
    fn weight(&self, id: Id) -> u64;
    /// The hash of its key.
    fn hash(&self, id: Id) -> u64;
}

/// Most uses that are counted.
const MOST_USES: u8 = 3;

/// Part of the small queue that must have been renewed before a use in it counts.
const WINDOW: f64 = 0.3;

/// A ghost counts until so many capacities of weight have gone into the small queue.
const GHOST_REACH: f64 = 2.7;

/// Ghosts remembered, as a multiple of the nodes held.
const GHOSTS: f64 = 2.0;

/// A ghost that left more than so many lives of the main queue ago is taken for new.
const GHOST_LIVES: f64 = 1.5;

/// Weight of the newest life in the moving average of lives.
const LIFE_STEP: f64 = 0.01;

/// Most credits of a light node.
const MOST_CREDITS: u32 = 7;

/// So many times lighter than the average, a node moves to the main queue without having been used.
const LIGHT: u64 = 16;

/// Most nodes looked at to find one victim.
const SWEEP: usize = 256;

/// The word of a node: `main | credits (3 bits) | stamp (28 bits)`. The stamp is the moment at which it was queued, in steps:
/// of the clock of the small queue or, in the main queue, of the clock of misses.
#[derive(Debug, Clone, Copy)]
struct Word(u32);

const STAMP: u32 = (1 << 28) - 1;

impl Word {
    fn small(now: u32) -> Self {
        Self(now & STAMP)
    }

    fn main(now: u32, credits: u32) -> Self {
        Self(1 << 31 | credits << 28 | now & STAMP)
    }

    fn is_main(self) -> bool {
        self.0 >> 31 == 1
    }

    fn credits(self) -> u32 {
        self.0 >> 28 & 7
    }

    /// Steps since it was queued. A stamp ahead of `now`, which readers see a little late, is of no age.
    fn age(self, now: u32) -> u32 {
        match now.wrapping_sub(self.0) & STAMP {
            age if age > STAMP / 2 => 0,
            age => age,
        }
    }
}

/// What readers need to judge a use, published by the policy now and then.
#[derive(Debug)]
pub(super) struct View {
    /// The clock of the small queue, in steps.
    pushed: AtomicU32,
    /// Age from which a use in the small queue counts, in steps.
    window: AtomicU32,
    /// The clock of misses, in steps.
    missed: AtomicU32,
    /// Ages from which an unused node of the main queue would have been lost, were that smaller by each margin; in steps.
    old: [AtomicU32; MARGINS],
    tuner: Arc<Tuner>,
}

impl View {
    fn new(tuner: Arc<Tuner>) -> Self {
        Self {
            pushed: AtomicU32::new(0),
            window: AtomicU32::new(0),
            missed: AtomicU32::new(0),
            old: [const { AtomicU32::new(u32::MAX) }; MARGINS],
            tuner,
        }
    }

    /// A node with that word and that count of uses is used: the new count, if it changes.
    #[inline]
    pub fn hit(&self, word: u32, uses: u8, weight: impl FnOnce() -> u64) -> Option<u8> {
        if uses >= MOST_USES {
            return None;
        }
        let word = Word(word);
        if word.is_main() {
            if uses == 0 && word.credits() == 0 {
                self.judge(word.age(self.missed.load(Ordering::Relaxed)), weight);
            }
        } else if word.age(self.pushed.load(Ordering::Relaxed)) < self.window.load(Ordering::Relaxed) {
            return None;
        }
        Some(uses + 1)
    }

    #[cold]
    fn judge(&self, age: u32, weight: impl FnOnce() -> u64) {
        // The larger the margin, the younger an entry would have been lost.
        if age > self.old[MARGINS - 1].load(Ordering::Relaxed) {
            let weight = weight();
            for (margin, old) in self.old.iter().enumerate().filter(|(_, old)| age > old.load(Ordering::Relaxed)) {
                let _ = old;
                self.tuner.lose(margin, weight);
            }
        }
    }
}

/// A queue through the nodes' links: in at the back, out at the front.
#[derive(Debug)]
struct Queue {
    front: Id,
    back: Id,
    len: usize,
    weight: u64,
}

impl Queue {
    const EMPTY: Self = Self { front: NIL, back: NIL, len: 0, weight: 0 };

    fn push(&mut self, nodes: &impl Nodes, id: Id, weight: u64) {
        nodes.links(id).set(Links { prev: self.back, next: NIL });
        if self.back == NIL {
            self.front = id;
        } else {
            let back = nodes.links(self.back);
            back.set(Links { next: id, ..back.get() });
        }
        self.back = id;
        self.len += 1;
        self.weight += weight;
    }

    fn remove(&mut self, nodes: &impl Nodes, id: Id, weight: u64) {
        let Links { prev, next } = nodes.links(id).replace(Links::NONE);
        if prev == NIL {
            self.front = next;
        } else {
            let links = nodes.links(prev);
            links.set(Links { next, ..links.get() });
        }
        if next == NIL {
            self.back = prev;
        } else {
            let links = nodes.links(next);
            links.set(Links { prev, ..links.get() });
        }
        self.len -= 1;
        self.weight -= weight;
    }
}

/// The policy of one shard.
#[derive(Debug)]
pub(super) struct Policy {
    capacity: f64,
    small: Queue,
    main: Queue,
    ghosts: Ghosts,
    /// Weight that has gone into the small queue.
    pushed: u64,
    /// Weight that has been missed.
    missed: u64,
    /// How long a node lives in the main queue between two visits of the hand, as missed weight: a moving average.
    life: f64,
    /// Weight that one step of a stamp stands for, as a power of two.
    step: u32,
    tuner: Arc<Tuner>,
}

impl Policy {
    /// The policy of a cache, or of a shard, of that capacity; and what its readers need.
    pub fn new(capacity: u64, tuner: Arc<Tuner>) -> (Self, View) {
        let policy = Self {
            capacity: capacity.max(1) as f64,
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::new(capacity),
            pushed: 0,
            missed: 0,
            life: f64::INFINITY,
            // Half of 28 bits then reaches 2,048 times the capacity.
            step: capacity.max(1).ilog2().saturating_sub(15),
            tuner: Arc::clone(&tuner),
        };
        (policy, View::new(tuner))
    }

    /// Changes the capacity.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity.max(1) as f64;
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.small.len + self.main.len
    }

    /// Weight of all nodes.
    pub fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// Takes in a node whose key was not held: a miss.
    pub fn insert(&mut self, nodes: &impl Nodes, view: &View, id: Id, hash: u64) {
        let weight = nodes.weight(id);
        self.missed += weight;
        self.tuner.miss(weight);
        let known = self.ghosts.take(hash, Left { pushed: self.pushed, missed: self.missed });
        let known = known.filter(|gone| gone.pushed as f64 <= GHOST_REACH * self.capacity);
        if let Some(gone) = known
            && let Some(first) = (0..MARGINS).find(|m| gone.pushed as f64 <= MARGIN[*m] * self.capacity)
        {
            self.tuner.gain(first, weight);
        }
        nodes.set_uses(id, 0);
        if known.is_some_and(|gone| gone.missed as f64 <= GHOST_LIVES * self.life) {
            self.enter_main(nodes, id, weight);
        } else {
            nodes.set_word(id, Word::small(self.steps(self.pushed)).0);
            self.pushed += weight;
            self.small.push(nodes, id, weight);
        }
        self.publish(view);
    }

    /// Takes out a node that goes for reasons of its own.
    pub fn remove(&mut self, nodes: &impl Nodes, id: Id) {
        let weight = nodes.weight(id);
        self.queue_of(nodes, id).remove(nodes, id, weight);
    }

    /// The node has another entry of that weight from now on, in place of one that weighed `old`; it keeps its place.
    pub fn reweigh(&mut self, nodes: &impl Nodes, id: Id, old: u64, new: u64) {
        let queue = self.queue_of(nodes, id);
        queue.weight = queue.weight - old + new;
    }

    /// The nodes that are next at the end of the queue from which room would be made now; [`NIL`] where there are no more.
    pub fn next(&self, nodes: &impl Nodes) -> [Id; 3] {
        let from_small = self.small.weight as f64 >= self.tuner.share() * self.capacity;
        let mut at = if from_small && self.small.len > 0 { self.small.front } else { self.main.front };
        [(); 3].map(|()| {
            let this = at;
            if this != NIL {
                at = nodes.links(this).get().next;
            }
            this
        })
    }

    /// That a key with that hash will soon come or go.
    pub fn prefetch(&self, hash: u64) {
        self.ghosts.prefetch(hash);
    }

    /// Bytes allocated for ghosts.
    #[cfg(test)]
    pub fn ghost_bytes(&self) -> usize {
        self.ghosts.allocated()
    }

    /// Forgets all nodes and ghosts.
    pub fn clear(&mut self) {
        (self.small, self.main) = (Queue::EMPTY, Queue::EMPTY);
        self.ghosts.clear();
    }

    fn queue_of(&mut self, nodes: &impl Nodes, id: Id) -> &mut Queue {
        if Word(nodes.word(id)).is_main() { &mut self.main } else { &mut self.small }
    }

    /// Chooses a node to drop, and takes it out. `None` if there is none.
    pub fn evict(&mut self, nodes: &impl Nodes) -> Option<Id> {
        let target = self.tuner.share() * self.capacity;
        for step in 0.. {
            let from_small = self.small.weight as f64 >= target || self.main.len == 0;
            let victim = if from_small && self.small.len > 0 {
                self.leave_small(nodes)
            } else {
                self.turn_main(nodes, step >= SWEEP)
            };
            if victim.is_some() || self.len() == 0 {
                return victim;
            }
        }
        None
    }

    /// The small queue's front goes on to the main queue, or is the victim.
    fn leave_small(&mut self, nodes: &impl Nodes) -> Option<Id> {
        let id = self.small.front;
        let weight = nodes.weight(id);
        let light = weight * LIGHT < self.average();
        self.small.remove(nodes, id, weight);
        if nodes.uses(id) > 0 || light {
            nodes.set_uses(id, 0);
            self.enter_main(nodes, id, weight);
            return None;
        }
        self.ghosts.fit((self.len() as f64 * GHOSTS) as usize);
        self.ghosts.insert(nodes.hash(id), Left { pushed: self.pushed, missed: self.missed });
        Some(id)
    }

    /// The main queue's front goes round again, or is the victim.
    fn turn_main(&mut self, nodes: &impl Nodes, at_once: bool) -> Option<Id> {
        let id = self.main.front;
        if id == NIL {
            return None;
        }
        let (word, uses, weight) = (Word(nodes.word(id)), nodes.uses(id), nodes.weight(id));
        let life = ((word.age(self.steps(self.missed)) as u64) << self.step) as f64;
        self.life = if self.life.is_finite() { self.life + LIFE_STEP * (life - self.life) } else { life };
        self.main.remove(nodes, id, weight);
        if at_once || (uses == 0 && word.credits() == 0) {
            return Some(id);
        }
        let credits = if uses > 0 {
            nodes.set_uses(id, uses - 1);
            self.credits(weight)
        } else {
            word.credits() - 1
        };
        nodes.set_word(id, Word::main(self.steps(self.missed), credits).0);
        self.main.push(nodes, id, weight);
        None
    }

    fn enter_main(&mut self, nodes: &impl Nodes, id: Id, weight: u64) {
        nodes.set_word(id, Word::main(self.steps(self.missed), self.credits(weight)).0);
        self.main.push(nodes, id, weight);
    }

    /// Rounds that a node of that weight may go without a use.
    fn credits(&self, weight: u64) -> u32 {
        let lighter = self.average() as f64 / weight as f64;
        if lighter < 1.0 { 0 } else { ((lighter * lighter) as u64).ilog2().min(MOST_CREDITS) }
    }

    fn average(&self) -> u64 {
        self.weight() / self.len().max(1) as u64
    }

    fn steps(&self, weight: u64) -> u32 {
        (weight >> self.step) as u32
    }

    /// Tells readers how far the clocks are, if that has changed by more than a little: they share the line.
    fn publish(&self, view: &View) {
        let target = self.tuner.share() * self.capacity;
        let window = (WINDOW * target.min(self.small.weight as f64)) as u64;
        let (pushed, missed) = (self.steps(self.pushed), self.steps(self.missed));
        let behind = pushed.wrapping_sub(view.pushed.load(Ordering::Relaxed));
        let behind = behind.max(missed.wrapping_sub(view.missed.load(Ordering::Relaxed)));
        if behind as u64 * 64 < window >> self.step {
            return;
        }
        view.pushed.store(pushed, Ordering::Relaxed);
        view.missed.store(missed, Ordering::Relaxed);
        view.window.store(self.steps(window), Ordering::Relaxed);
        for (old, margin) in view.old.iter().zip(MARGIN) {
            let left = 1.0 - margin * self.capacity / self.main.weight.max(1) as f64;
            let age = if self.life.is_finite() { (self.life * left).max(0.0) as u64 >> self.step } else { u64::MAX };
            old.store(age.min(u32::MAX as u64) as u32, Ordering::Relaxed);
        }
    }

    /// Checks that exactly the nodes `ids` are queued, each once and where its word says.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self, nodes: &impl Nodes, ids: impl Iterator<Item = Id>) {
        let mut found = std::collections::HashSet::new();
        for (queue, is_main) in [(&self.small, false), (&self.main, true)] {
            let (mut prev, mut at, mut len, mut weight) = (NIL, queue.front, 0, 0);
            while at != NIL {
                assert!(found.insert(at), "node {at} is queued twice");
                assert_eq!(nodes.links(at).get().prev, prev, "back link of node {at}");
                assert_eq!(Word(nodes.word(at)).is_main(), is_main, "queue of node {at}");
                assert!(nodes.uses(at) <= MOST_USES);
                len += 1;
                weight += nodes.weight(at);
                prev = at;
                at = nodes.links(at).get().next;
            }
            assert_eq!((prev, len, weight), (queue.back, queue.len, queue.weight));
        }
        assert_eq!(found, ids.collect::<std::collections::HashSet<_>>());
    }
}
