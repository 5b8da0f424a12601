//! The keys of a shard in byte order, for listing: slot numbers, in leaves that are sorted only when somebody looks.
//!
//! A B+ tree of two levels. The upper one, a map of separators, is always exact: a key lies in the leaf with the greatest
//! separator not above it. Within a leaf the slots stand in the order of their coming, except for a sorted beginning, so that an
//! insertion reads no other key: it finds the leaf and appends. A leaf is sorted when a listing reads it and when it
//! is split, so that a page costs the page and one search, however many keys there are and however they came and went.
//! A removal is told the leaf by the slot. Nearly empty leaves are joined with their neighbours, so nothing is left of keys that went.
//!
//! Separators are as short as can be (prefix B-trees: R. Bayer and K. Unterauer, ACM TODS 2(1), 1977).
//!
//! Cost: about 7 bytes a key.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound;

use smallvec::SmallVec;

use super::prefetch::prefetch;
use super::slots::{Id, NIL};

/// Where the index finds what it is to know of a slot.
pub(super) trait Keys {
    /// The slot's key. The same for as long as the slot is in the index.
    fn key(&self, id: Id) -> &[u8];
    /// The slot's leaf.
    fn leaf(&self, id: Id) -> &Cell<u32>;
}

/// Most slots a leaf.
const MOST: usize = 128;

/// Slots whose numbers share a cache line.
const IDS_A_LINE: usize = 16;

/// A leaf with fewer is joined with a neighbour, if both together have at most [`JOINED`].
const LEAST: usize = MOST / 8;
const JOINED: usize = MOST * 3 / 4;

/// A separator: mostly so short that it stands where it is compared.
type Low = SmallVec<[u8; 24]>;

/// Small, so that those of many thousand keys stay in the processor's cache: its separator stands above it only.
#[derive(Debug)]
struct Leaf {
    ids: Vec<Id>,
    /// So many of the first are in order.
    sorted: usize,
}

/// The ordered index of one shard.
#[derive(Debug)]
pub(super) struct Order {
    tops: BTreeMap<Low, u32>,
    leaves: Vec<Leaf>,
    free: Vec<u32>,
    len: usize,
}

impl Order {
    /// No keys.
    pub fn new() -> Self {
        Self {
            tops: BTreeMap::from([(Low::new(), 0)]),
            leaves: vec![Leaf { ids: Vec::new(), sorted: 0 }],
            free: Vec::new(),
            len: 0,
        }
    }

    /// Number of keys.
    #[cfg(any(test, feature = "validate"))]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where a key will soon be taken in: for [`Order::insert`], with nothing changed in between.
    pub fn seek(&self, key: &[u8]) -> u32 {
        let at = self.find(key);
        prefetch(self.leaves[at as usize].ids.as_ptr_range().end);
        at
    }

    /// That a slot will soon be taken out.
    pub fn prefetch(&self, keys: &impl Keys, id: Id) {
        let leaf = keys.leaf(id).get();
        self.leaves[leaf as usize].ids.chunks(IDS_A_LINE).for_each(|ids| prefetch(ids.as_ptr()));
    }

    /// That [`Order::prefetch`] will soon be called.
    pub fn prefetch_leaf(&self, keys: &impl Keys, id: Id) {
        prefetch(&self.leaves[keys.leaf(id).get() as usize]);
    }

    /// Takes in a slot whose key is not in the index, but belongs where [`Order::seek`] says.
    pub fn insert(&mut self, keys: &impl Keys, id: Id, mut at: u32) {
        if self.leaves[at as usize].ids.len() == MOST {
            at = self.split(keys, at, keys.key(id));
        }
        let leaf = &mut self.leaves[at as usize];
        leaf.ids.push(id);
        keys.leaf(id).set(at);
        self.len += 1;
    }

    /// Takes out a slot.
    pub fn remove(&mut self, keys: &impl Keys, id: Id) {
        let at = keys.leaf(id).replace(NIL);
        let leaf = &mut self.leaves[at as usize];
        let Some(place) = leaf.ids.iter().position(|other| *other == id) else { return };
        if place < leaf.sorted {
            leaf.ids.remove(place);
            leaf.sorted -= 1;
        } else {
            leaf.ids.swap_remove(place);
        }
        self.len -= 1;
        if leaf.ids.len() < LEAST {
            self.join(keys, keys.key(id));
        }
    }

    /// Gives the slots whose keys are at or after `from`, in order, until `take` has enough of them and gives false.
    pub fn scan(&mut self, keys: &impl Keys, from: Bound<&[u8]>, mut take: impl FnMut(Id) -> bool) {
        let (Bound::Included(start) | Bound::Excluded(start)) = from else {
            return self.scan(keys, Bound::Included(&[]), take);
        };
        let Some((low, _)) = self.under(start) else { return };
        let mut begun = false;
        for at in self.tops.range::<Low, _>(low..).map(|(_, at)| *at) {
            let leaf = &mut self.leaves[at as usize];
            leaf.sort(keys);
            let mut ids = leaf.ids.as_slice();
            if !begun {
                begun = true;
                let before = |id: &Id| match from {
                    Bound::Excluded(start) => keys.key(*id) <= start,
                    _ => keys.key(*id) < start,
                };
                ids = &ids[ids.partition_point(before)..];
            }
            if !ids.iter().all(|id| take(*id)) {
                return;
            }
        }
    }

    fn find(&self, key: &[u8]) -> u32 {
        self.under(key).map_or(0, |(_, at)| *at)
    }

    /// The separator that is not above a key, with its leaf. The empty one is under every key.
    fn under(&self, key: &[u8]) -> Option<(&Low, &u32)> {
        self.tops.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()
    }

    /// Splits a full leaf; gives the half for `key`.
    fn split(&mut self, keys: &impl Keys, at: u32, key: &[u8]) -> u32 {
        let leaf = &mut self.leaves[at as usize];
        leaf.sort(keys);
        let half = leaf.ids.len() / 2;
        let mut upper = Vec::with_capacity(MOST);
        upper.extend(leaf.ids.drain(half..));
        leaf.sorted = half;
        let low = Low::from_slice(separator(keys.key(leaf.ids[half - 1]), keys.key(upper[0])));
        let new = Leaf { sorted: upper.len(), ids: upper };
        let to = match self.free.pop() {
            Some(to) => {
                self.leaves[to as usize] = new;
                to
            }
            None => {
                self.leaves.push(new);
                self.leaves.len() as u32 - 1
            }
        };
        for id in &self.leaves[to as usize].ids {
            keys.leaf(*id).set(to);
        }
        let below = key < &*low;
        self.tops.insert(low, to);
        if below { at } else { to }
    }

    /// Joins the leaf of a key, which has become small, with the one before or after it, if they fit together.
    fn join(&mut self, keys: &impl Keys, key: &[u8]) {
        let len = |leaf: u32| self.leaves[leaf as usize].ids.len();
        let mut under = self.tops.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        let Some((low, &at)) = under.next_back() else { return };
        let before = under.next_back().map(|(_, before)| *before);
        let after = self.tops.range::<Low, _>((Bound::Excluded(low), Bound::Unbounded)).next();
        let (lower, upper, low) = match (before, after) {
            (Some(before), _) if len(before) + len(at) <= JOINED => (before, at, low.clone()),
            (_, Some((low, &after))) if len(after) + len(at) <= JOINED => (at, after, low.clone()),
            _ => return,
        };
        let gone = std::mem::replace(&mut self.leaves[upper as usize], Leaf { ids: Vec::new(), sorted: 0 });
        self.free.push(upper);
        self.tops.remove(&low);
        let leaf = &mut self.leaves[lower as usize];
        if leaf.sorted == leaf.ids.len() {
            leaf.sorted += gone.sorted;
        }
        for id in &gone.ids {
            keys.leaf(*id).set(lower);
        }
        leaf.ids.extend(gone.ids);
    }

    /// Leaves in use, and leaves there are.
    #[cfg(test)]
    pub fn leaves(&self) -> (usize, usize) {
        (self.tops.len(), self.leaves.len())
    }

    /// Checks that exactly the slots `ids` are in it, each in the leaf that it names and that its key belongs to.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self, keys: &impl Keys, ids: impl Iterator<Item = Id>) {
        let mut found = std::collections::HashSet::new();
        let mut tops = self.tops.iter().peekable();
        while let Some((low, at)) = tops.next() {
            let leaf = &self.leaves[*at as usize];
            assert!(leaf.ids.len() <= MOST);
            assert!(leaf.sorted <= leaf.ids.len());
            assert!(leaf.ids[..leaf.sorted].is_sorted_by(|a, b| keys.key(*a) < keys.key(*b)));
            for id in &leaf.ids {
                assert!(found.insert(*id), "slot {id} is in the index twice");
                assert_eq!(keys.leaf(*id).get(), *at);
                assert!(keys.key(*id) >= &**low);
                assert!(tops.peek().is_none_or(|(next, _)| keys.key(*id) < &***next));
            }
        }
        assert_eq!(self.tops.len() + self.free.len(), self.leaves.len());
        assert_eq!(found.len(), self.len);
        assert_eq!(found, ids.collect::<std::collections::HashSet<_>>());
    }
}

impl Leaf {
    fn sort(&mut self, keys: &impl Keys) {
        if self.sorted < self.ids.len() {
            // A stable sort makes use of the part that is in order.
            self.ids.sort_by(|a, b| keys.key(*a).cmp(keys.key(*b)));
            self.sorted = self.ids.len();
        }
    }
}

/// The shortest text above `lower` and not above `upper`.
fn separator<'a>(lower: &[u8], upper: &'a [u8]) -> &'a [u8] {
    let common = lower.iter().zip(upper).take_while(|(a, b)| a == b).count();
    &upper[..upper.len().min(common + 1)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Nodes(Vec<(Vec<u8>, Cell<u32>)>);

    impl Nodes {
        fn add(&mut self, key: &[u8]) -> Id {
            self.0.push((key.to_vec(), Cell::new(NIL)));
            self.0.len() as Id - 1
        }
    }

    impl Keys for Nodes {
        fn key(&self, id: Id) -> &[u8] {
            &self.0[id as usize].0
        }

        fn leaf(&self, id: Id) -> &Cell<u32> {
            &self.0[id as usize].1
        }
    }

    fn scan(order: &mut Order, nodes: &Nodes, from: Bound<&[u8]>, limit: usize) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        order.scan(nodes, from, |id| {
            keys.push(nodes.key(id).to_vec());
            keys.len() < limit
        });
        keys
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_a_set(
            steps in prop::collection::vec((any::<bool>(), 0..3_000_u32, 0..200_usize), 1..12),
            dense in any::<bool>(),
        ) {
            let (mut order, mut nodes) = (Order::new(), Nodes::default());
            let mut held = std::collections::BTreeMap::new();
            for (n, (grow, start, limit)) in steps.into_iter().enumerate() {
                for i in 0..600_u32 {
                    // Keys with common beginnings, some of them prefixes of others, coming in no order.
                    let number = if dense { start + i } else { (start + i).wrapping_mul(2_654_435_761) % 4_096 };
                    let key = format!("k:{}", number / 2 * if number % 2 == 0 { 1 } else { 10 }).into_bytes();
                    if grow || i % 3 == 0 {
                        held.entry(key.clone()).or_insert_with(|| {
                            let id = nodes.add(&key);
                            let at = order.seek(&key);
                            order.insert(&nodes, id, at);
                            id
                        });
                    } else if let Some(id) = held.remove(&key) {
                        order.remove(&nodes, id);
                    }
                }
                order.validate(&nodes, held.values().copied());
                let keys: BTreeSet<_> = held.keys().cloned().collect();
                let from = format!("k:{}", start + n as u32).into_bytes();
                for bound in [Bound::Included(&from[..]), Bound::Excluded(&from[..])] {
                    let expected: Vec<_> =
                        keys.range::<[u8], _>((bound, Bound::Unbounded)).take(limit.max(1)).cloned().collect();
                    prop_assert_eq!(scan(&mut order, &nodes, bound, limit.max(1)), expected);
                }
                order.validate(&nodes, held.values().copied());
            }
        }
    }

    #[test]
    fn shrinks_with_its_keys() {
        let (mut order, mut nodes) = (Order::new(), Nodes::default());
        let ids: Vec<_> = (0..20_000).map(|n| nodes.add(format!("{n:06}").as_bytes())).collect();
        for round in 0..3 {
            for id in &ids {
                let at = order.seek(nodes.key(*id));
                order.insert(&nodes, *id, at);
            }
            assert!(order.leaves().0 > 20_000 / MOST);
            ids.iter().step_by(2).for_each(|id| order.remove(&nodes, *id));
            ids.iter().skip(1).step_by(2).for_each(|id| order.remove(&nodes, *id));
            assert_eq!((order.leaves().0, order.len()), (1, 0));
            assert!(order.leaves().1 < 20_000 / LEAST, "{:?} leaves in round {round}", order.leaves());
        }
        order.validate(&nodes, std::iter::empty());
    }

    #[test]
    fn separators_part_neighbours() {
        for (lower, upper, expected) in
            [("a", "b", "b"), ("abc", "abd", "abd"), ("a", "ab", "ab"), ("ab1", "ac999", "ac")]
        {
            assert_eq!(separator(lower.as_bytes(), upper.as_bytes()), expected.as_bytes());
        }
    }
}
