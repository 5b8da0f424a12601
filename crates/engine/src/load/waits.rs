//! Who waits for whom: a graph of loads, to refuse the wait that would close a circle.
//!
//! A fetcher that asks the cache for another key makes its own load wait for that one. Should the other load, through
//! any number of others, already wait for the first, neither would ever end. The edge that would close such a circle is
//! refused instead. The graph is one for the process, because fetchers of different caches can wait for each other; it
//! holds an edge only while both loads run, and nothing at all for loads that are not nested. An edge stays when its caller
//! gives up waiting before either load has ended: a circle may then be seen where nobody waits any more, and a get is
//! refused that would have been answered.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::sync::{Mutex, per_process};

per_process! {
    static GRAPH: Mutex<Graph> = Mutex::default();
}
/// Number of edges. Changed under the graph's lock.
static EDGES: AtomicUsize = AtomicUsize::new(0);

#[derive(Default)]
struct Graph {
    waits_for: HashMap<u64, HashSet<u64>>,
    awaited_by: HashMap<u64, HashSet<u64>>,
}

/// Lets the load `waiter` wait for the load `awaited`. False, and nothing noted, if that would close a circle.
pub fn wait(waiter: u64, awaited: u64) -> bool {
    let mut graph = GRAPH.lock();
    if graph.reaches(awaited, waiter) {
        return false;
    }
    if graph.waits_for.entry(waiter).or_default().insert(awaited) {
        graph.awaited_by.entry(awaited).or_default().insert(waiter);
        EDGES.fetch_add(1, Ordering::SeqCst);
    }
    true
}

/// Forgets a load that has ended.
pub fn ended(token: u64) {
    if EDGES.load(Ordering::SeqCst) == 0 {
        return;
    }
    let mut graph = GRAPH.lock();
    let mut gone = 0;
    for awaited in graph.waits_for.remove(&token).unwrap_or_default() {
        gone += usize::from(unlink(&mut graph.awaited_by, awaited, token));
    }
    for waiter in graph.awaited_by.remove(&token).unwrap_or_default() {
        gone += usize::from(unlink(&mut graph.waits_for, waiter, token));
    }
    EDGES.fetch_sub(gone, Ordering::SeqCst);
}

/// Whether a load waits or is waited for.
#[cfg(any(test, feature = "validate"))]
pub fn knows(token: u64) -> bool {
    let graph = GRAPH.lock();
    graph.waits_for.contains_key(&token) || graph.awaited_by.contains_key(&token)
}

fn unlink(side: &mut HashMap<u64, HashSet<u64>>, from: u64, to: u64) -> bool {
    let Some(set) = side.get_mut(&from) else { return false };
    let removed = set.remove(&to);
    if set.is_empty() {
        side.remove(&from);
    }
    removed
}

impl Graph {
    fn reaches(&self, from: u64, to: u64) -> bool {
        let mut seen = HashSet::new();
        let mut open = vec![from];
        while let Some(node) = open.pop() {
            if node == to {
                return true;
            }
            if seen.insert(node) {
                open.extend(self.waits_for.get(&node).into_iter().flatten());
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The graph is shared by all tests of the process: each takes numbers of its own.
    #[test]
    fn refuses_a_load_that_waits_for_itself() {
        assert!(!wait(1_000, 1_000));
    }

    #[test]
    fn refuses_the_edge_that_closes_a_circle_and_takes_it_once_the_circle_is_gone() {
        assert!(wait(2_001, 2_002));
        assert!(wait(2_002, 2_003));
        assert!(!wait(2_003, 2_001));
        ended(2_002);
        assert!(wait(2_003, 2_001));
        ended(2_001);
        ended(2_003);
    }

    #[test]
    fn holds_nothing_of_loads_that_ended() {
        for awaited in 3_002..3_102 {
            assert!(wait(3_001, awaited));
        }
        for awaited in 3_002..3_102 {
            ended(awaited);
        }
        assert!(!GRAPH.lock().waits_for.contains_key(&3_001));
    }
}
