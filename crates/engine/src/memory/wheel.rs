//! Expiry without reads: a hierarchical timing wheel.
//!
//! Eight wheels of 64 places each; a place of wheel `n` spans `64^n` ms, so that together they reach further than an entry's
//! age can. An entry is put where its moment first differs, in groups of six bits, from the wheel's own time; as that
//! moves on, it falls from wheel to wheel and leaves the first one in its very millisecond. Putting in, taking out
//! and each fall cost a fixed number of steps, and an entry falls at most seven times.
//!
//! Cost: 2 KiB a shard, and the two neighbours in each slot (8 bytes). Entries that never expire are not in it.
//!
//! After scheme 7 of G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987
//! (<https://doi.org/10.1145/41457.37504>).

use std::cell::Cell;

use super::prefetch::prefetch;
use super::slots::{Id, Links, NIL};
use crate::clock::{FOREVER, Millis};

/// Where the wheel finds what it is to know of a slot.
pub(super) trait Timers {
    /// The slot's neighbours in the wheel.
    fn links(&self, id: Id) -> &Cell<Links>;
    /// When it is due. The same for as long as it is in the wheel.
    fn due(&self, id: Id) -> Millis;
}

const BITS: u32 = 6;
const PLACES: usize = 1 << BITS;
const WHEELS: usize = 8;

/// Marks a `prev` that is not a slot but the number of the place whose first slot this is.
const PLACE: Id = 1 << 31;

/// What [`Wheel::advance`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// This slot is due, and out of the wheel.
    Due(Id),
    /// A slot fell to a lower wheel.
    Fell,
    /// Nothing more is to be done up to that time.
    Done,
}

/// The wheels of one shard.
#[derive(Debug)]
pub(super) struct Wheel {
    /// All that was due before this moment has been given out.
    time: Millis,
    /// The first slot of each place.
    first: Box<[[Id; PLACES]; WHEELS]>,
    /// A bit for each place that has a slot.
    taken: [u64; WHEELS],
    len: usize,
}

impl Wheel {
    /// An empty wheel at time 0.
    pub fn new() -> Self {
        Self { time: 0, first: Box::new([[NIL; PLACES]; WHEELS]), taken: [0; WHEELS], len: 0 }
    }

    /// Number of slots in it.
    #[cfg(any(test, feature = "validate"))]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Puts a slot in, unless it is never due.
    pub fn insert(&mut self, timers: &impl Timers, id: Id) {
        let due = timers.due(id);
        if due != FOREVER {
            self.place(timers, id, due);
            self.len += 1;
        }
    }

    /// That a slot will soon be taken out.
    pub fn prefetch(&self, timers: &impl Timers, id: Id) {
        let Links { prev, next } = timers.links(id).get();
        // Numbers that are places, or none, are above those of all slots.
        [prev, next].into_iter().filter(|id| *id < PLACE).for_each(|id| prefetch(timers.links(id)));
    }

    /// Takes a slot out, if it is in.
    pub fn remove(&mut self, timers: &impl Timers, id: Id) {
        let Links { prev, next } = timers.links(id).replace(Links::NONE);
        if prev == NIL {
            return;
        }
        if next != NIL {
            let links = timers.links(next);
            links.set(Links { prev, ..links.get() });
        }
        if prev & PLACE == 0 {
            let links = timers.links(prev);
            links.set(Links { next, ..links.get() });
        } else {
            let (wheel, place) = ((prev & !PLACE) as usize / PLACES, (prev & !PLACE) as usize % PLACES);
            self.first[wheel][place] = next;
            if next == NIL {
                self.taken[wheel] &= !(1 << place);
            }
        }
        self.len -= 1;
    }

    /// The next step on the way to `now`. Time does not go back: an earlier `now` than the last one does nothing.
    pub fn advance(&mut self, timers: &impl Timers, now: Millis) -> Step {
        let Some((start, wheel, place)) = self.earliest().filter(|(start, ..)| *start <= now) else {
            self.time = self.time.max(now.min(FOREVER >> 16));
            return Step::Done;
        };
        self.time = self.time.max(start);
        let id = self.first[wheel][place];
        self.remove(timers, id);
        if wheel == 0 {
            return Step::Due(id);
        }
        self.place(timers, id, timers.due(id));
        self.len += 1;
        Step::Fell
    }

    /// A moment before which [`Wheel::advance`] has nothing to do; `None` if the wheel is empty.
    pub fn next(&self) -> Option<Millis> {
        self.earliest().map(|(start, ..)| start)
    }

    /// The place that begins first, with its beginning; of two, the one in the higher wheel, whose slots have yet to fall.
    fn earliest(&self) -> Option<(Millis, usize, usize)> {
        let mut earliest: Option<(Millis, usize, usize)> = None;
        for (wheel, taken) in self.taken.iter().enumerate().filter(|(_, taken)| **taken != 0) {
            // Slots differ from the wheel's time first in these bits, upwards: no place before the current one is taken.
            let place = taken.trailing_zeros() as usize;
            let shift = BITS * wheel as u32;
            let start = self.time >> (shift + BITS) << (shift + BITS) | (place as u64) << shift;
            if earliest.is_none_or(|(least, ..)| start <= least) {
                earliest = Some((start, wheel, place));
            }
        }
        earliest
    }

    fn place(&mut self, timers: &impl Timers, id: Id, due: Millis) {
        let due = due.max(self.time);
        let wheel = ((63 - ((due ^ self.time) | 1).leading_zeros()) / BITS) as usize;
        let place = (due >> (BITS * wheel as u32)) as usize % PLACES;
        let next = self.first[wheel][place];
        timers.links(id).set(Links { prev: PLACE | (wheel * PLACES + place) as Id, next });
        if next != NIL {
            let links = timers.links(next);
            links.set(Links { prev: id, ..links.get() });
        }
        self.first[wheel][place] = id;
        self.taken[wheel] |= 1 << place;
    }

    /// Checks that exactly the slots `ids` that can expire are in it, each where it belongs.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self, timers: &impl Timers, ids: impl Iterator<Item = Id>) {
        let mut found = std::collections::HashSet::new();
        for wheel in 0..WHEELS {
            for place in 0..PLACES {
                let mut prev = PLACE | (wheel * PLACES + place) as Id;
                let mut at = self.first[wheel][place];
                assert_eq!(at != NIL, self.taken[wheel] >> place & 1 == 1, "bit of place {wheel}/{place}");
                while at != NIL {
                    assert_eq!(timers.links(at).get().prev, prev);
                    assert!(found.insert(at), "slot {at} is in the wheel twice");
                    let (due, shift) = (timers.due(at), BITS * wheel as u32);
                    if due >= self.time {
                        assert_eq!((due >> shift) as usize % PLACES, place, "place of slot {at} in wheel {wheel}");
                        assert_eq!(due >> (shift + BITS), self.time >> (shift + BITS), "wheel of slot {at}");
                    }
                    prev = at;
                    at = timers.links(at).get().next;
                }
            }
        }
        assert_eq!(found.len(), self.len);
        let expected: std::collections::HashSet<_> = ids.filter(|id| timers.due(*id) != FOREVER).collect();
        assert_eq!(found, expected);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Nodes(BTreeMap<Id, (Millis, Cell<Links>)>);

    impl Nodes {
        fn add(&mut self, id: Id, due: Millis) {
            self.0.insert(id, (due, Cell::new(Links::NONE)));
        }
    }

    impl Timers for Nodes {
        fn links(&self, id: Id) -> &Cell<Links> {
            &self.0[&id].1
        }

        fn due(&self, id: Id) -> Millis {
            self.0[&id].0
        }
    }

    fn due_by(wheel: &mut Wheel, nodes: &Nodes, now: Millis) -> Vec<Id> {
        let mut due = Vec::new();
        loop {
            match wheel.advance(nodes, now) {
                Step::Due(id) => due.push(id),
                Step::Fell => {}
                Step::Done => return due,
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Act {
        Insert(u64),
        Remove(usize),
        Advance(u64),
        Step(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        // Spans of every wheel.
        let span = (0..46_u32, any::<u64>()).prop_map(|(bits, n)| n & ((1 << bits) - 1));
        let act = prop_oneof![
            4 => span.clone().prop_map(Act::Insert),
            1 => any::<usize>().prop_map(Act::Remove),
            2 => span.clone().prop_map(Act::Advance),
            1 => span.prop_map(Act::Step),
        ];
        prop::collection::vec(act, 1..80)
    }

    proptest! {
        #[test]
        fn gives_out_what_is_due_and_nothing_else(acts in acts()) {
            let (mut wheel, mut nodes, mut now) = (Wheel::new(), Nodes::default(), 0_u64);
            let mut held = BTreeMap::new();
            for (id, act) in acts.into_iter().enumerate() {
                match act {
                    Act::Insert(span) => {
                        // Some are late already.
                        let due = (now + span).saturating_sub(100);
                        nodes.add(id as Id, due);
                        wheel.insert(&nodes, id as Id);
                        held.insert(id as Id, due);
                    }
                    Act::Remove(n) => {
                        if let Some(id) = held.keys().nth(n % held.len().max(1)).copied() {
                            wheel.remove(&nodes, id);
                            held.remove(&id);
                        }
                    }
                    Act::Advance(span) => {
                        now += span;
                        let due = due_by(&mut wheel, &nodes, now);
                        let expected = held.iter().filter(|(_, due)| **due <= now).map(|(id, _)| *id);
                        let mut sorted = due.clone();
                        sorted.sort_unstable();
                        prop_assert_eq!(sorted, expected.collect::<Vec<_>>());
                        held.retain(|_, due| *due > now);
                    }
                    Act::Step(span) => {
                        // Work broken off in the middle.
                        now += span;
                        if let Step::Due(id) = wheel.advance(&nodes, now) {
                            prop_assert!(held.remove(&id).is_some_and(|due| due <= now));
                        }
                    }
                }
                wheel.validate(&nodes, held.keys().copied());
                let first = held.values().min();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next(), first) {
                    prop_assert!(next <= (*first).max(now), "next {} after first {}", next, first);
                }
            }
        }
    }

    #[test]
    fn leaves_endless_entries_out() {
        let (mut wheel, mut nodes) = (Wheel::new(), Nodes::default());
        nodes.add(1, FOREVER);
        wheel.insert(&nodes, 1);
        wheel.remove(&nodes, 1);
        assert_eq!((wheel.len(), wheel.next()), (0, None));
    }

    #[test]
    fn is_exact_to_the_millisecond_and_falls_at_most_once_a_wheel() {
        for due in [1, 63, 64, 65, 4_095, 4_096, 3_600_000, 86_400_000, 1 << 40, (1 << 48) - 2] {
            let (mut wheel, mut nodes) = (Wheel::new(), Nodes::default());
            nodes.add(7, due);
            wheel.insert(&nodes, 7);
            assert_eq!(due_by(&mut wheel, &nodes, due - 1), Vec::<u32>::new());
            let mut falls = 0;
            while let Some(next) = wheel.next() {
                assert!(next <= due);
                match wheel.advance(&nodes, due) {
                    Step::Fell => falls += 1,
                    Step::Due(id) => assert_eq!(id, 7),
                    Step::Done => panic!("{due} was not given out"),
                }
            }
            assert!(falls < WHEELS, "{due} fell {falls} times");
        }
    }

    #[test]
    fn gives_out_at_once_what_is_late() {
        let (mut wheel, mut nodes) = (Wheel::new(), Nodes::default());
        assert_eq!(due_by(&mut wheel, &nodes, 1_000), Vec::<u32>::new());
        nodes.add(1, 10);
        wheel.insert(&nodes, 1);
        assert_eq!(wheel.next(), Some(1_000));
        assert_eq!(due_by(&mut wheel, &nodes, 1_000), [1]);
    }
}
