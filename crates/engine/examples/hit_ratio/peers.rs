//! What the tier is compared with: the plain policies, as their papers have them.

use std::collections::{HashMap, VecDeque};

use crate::Cache;

/// Least recently used goes first.
pub struct Lru {
    budget: u64,
    used: u64,
    clock: u64,
    /// When each key was last used, and its size.
    held: HashMap<u32, (u64, u64)>,
    /// Uses in order; those that are not the key's last are passed over.
    uses: VecDeque<(u32, u64)>,
}

impl Lru {
    pub fn new(budget: u64) -> Self {
        Self { budget, used: 0, clock: 0, held: HashMap::new(), uses: VecDeque::new() }
    }
}

impl Cache for Lru {
    fn request(&mut self, key: u32, size: u64) -> bool {
        if size > self.budget {
            return false;
        }
        self.clock += 1;
        self.uses.push_back((key, self.clock));
        let hit = self.held.insert(key, (self.clock, size)).is_some();
        if !hit {
            self.used += size;
        }
        while self.used > self.budget {
            let Some((victim, at)) = self.uses.pop_front() else { break };
            if let Some((_, size)) = self.held.get(&victim).filter(|(last, _)| *last == at) {
                self.used -= size;
                self.held.remove(&victim);
            }
        }
        hit
    }
}

/// S3-FIFO (Yang et al., SOSP 2023): a small queue of a tenth, a main queue with two-bit counters, a ghost queue of nine tenths.
pub struct S3Fifo {
    budget: u64,
    small: Queue,
    main: Queue,
    ghosts: Queue,
    nodes: HashMap<u32, Node>,
}

#[derive(Default)]
struct Queue {
    /// With their sizes.
    keys: VecDeque<(u32, u64)>,
    used: u64,
}

impl Queue {
    fn push(&mut self, key: u32, size: u64) {
        self.keys.push_back((key, size));
        self.used += size;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Small,
    Main,
    Ghost,
}

#[derive(Clone, Copy)]
struct Node {
    place: Place,
    uses: u8,
}

impl S3Fifo {
    pub fn new(budget: u64) -> Self {
        let (small, main, ghosts) = Default::default();
        Self { budget, small, main, ghosts, nodes: HashMap::new() }
    }

    fn evict(&mut self) {
        if self.small.used * 10 >= self.budget || self.main.keys.is_empty() {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    fn evict_small(&mut self) {
        let Some((key, size)) = self.small.keys.pop_front() else { return };
        let Some(node) = self.nodes.get_mut(&key) else { return };
        self.small.used -= size;
        let to = if node.uses > 1 { &mut self.main } else { &mut self.ghosts };
        node.place = if node.uses > 1 { Place::Main } else { Place::Ghost };
        node.uses = 0;
        to.push(key, size);
        while self.ghosts.used * 10 > self.budget * 9 {
            let Some((key, size)) = self.ghosts.keys.pop_front() else { break };
            self.ghosts.used -= size;
            if self.nodes.get(&key).is_some_and(|node| node.place == Place::Ghost) {
                self.nodes.remove(&key);
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some((key, size)) = self.main.keys.pop_front() {
            self.main.used -= size;
            let Some(node) = self.nodes.get_mut(&key) else { continue };
            if node.uses == 0 {
                self.nodes.remove(&key);
                return;
            }
            node.uses -= 1;
            self.main.push(key, size);
        }
    }
}

impl Cache for S3Fifo {
    fn request(&mut self, key: u32, size: u64) -> bool {
        let ghost = match self.nodes.get_mut(&key) {
            Some(node) if node.place != Place::Ghost => {
                node.uses = (node.uses + 1).min(3);
                return true;
            }
            ghost => ghost.is_some(),
        };
        if size > self.budget {
            return false;
        }
        while self.small.used + self.main.used + size > self.budget {
            self.evict();
        }
        let (queue, place) = if ghost { (&mut self.main, Place::Main) } else { (&mut self.small, Place::Small) };
        queue.push(key, size);
        self.nodes.insert(key, Node { place, uses: 0 });
        false
    }
}
