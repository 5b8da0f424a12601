//! Dependencies: which keys are parents of others, and when they last changed.
//!
//! A key is known here as long as it is the parent of some entry (`dependsOn`) or has an edge (`addDependency`): as a *node*,
//! with the numbers of its last change and with the tags and parents that its value was last stored with, which it keeps when
//! the value is evicted. Edges are kept apart from entries, a child by its hash alone, and stay until removed.
//!
//! An entry's *ancestors* are the names it carries, and what is known here of each of these, and so on. Each is visited once,
//! so cycles and diamonds do no harm; an entry is no ancestor of its own. What was added later (an edge, a parent's new
//! tags) counts for what happens after it was added.
//!
//! An edge takes 24 bytes, and 5 to 10 of a table; a node 40 and its name, and 5 to 10 of a table; one whose value has changed,
//! or has ties of its own, 48 more.

use std::collections::HashMap;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::links;
use super::markers::Mark;
use crate::load::flights::PreHashed;
use crate::memory::hash_key;
use crate::sync::{AtomicU32, Ordering};

/// No node, no edge.
const NIL: u32 = u32::MAX;

/// A parent.
#[derive(Debug)]
struct Node {
    name: Box<[u8]>,
    /// None as long as nothing is to be told.
    past: Option<Box<Past>>,
    /// Edges to children; [`NIL`] for a place that is free.
    edges: u32,
    /// The sweep that last met an entry which names it.
    seen: AtomicU32,
    /// The log's number when its tags and parents were last asked for elsewhere, 0 for never.
    asked: u64,
}

/// What has happened to a parent.
#[derive(Debug, Default)]
struct Past {
    /// When its value was last put, deleted, invalidated or loaded anew with other bytes.
    changed: Mark,
    known: Option<Known>,
}

impl Node {
    fn hash(&self) -> u64 {
        hash_key(&self.name)
    }

    fn changed(&self) -> Mark {
        self.past.as_ref().map_or(Mark::default(), |past| past.changed)
    }

    fn known(&self) -> Option<&Known> {
        self.past.as_ref()?.known.as_ref()
    }

    fn past(&mut self) -> &mut Past {
        self.past.get_or_insert_default()
    }

    fn stays(&self, pass: u32, until: u64) -> bool {
        self.edges > 0 || self.changed().newest() > until || pass.wrapping_sub(self.seen.load(Ordering::Relaxed)) < 2
    }
}

/// What a parent's value was last stored with.
#[derive(Debug)]
struct Known {
    since: u64,
    links: Box<[u8]>,
}

#[derive(Debug)]
struct Edge {
    /// The child's hash.
    child: u64,
    /// The number of the log when it was added.
    since: u64,
    /// [`NIL`] for a place that is free.
    parent: u32,
    /// The child's next edge, or the next free place.
    next: u32,
}

/// One ancestor of an entry. A change after the number beside it concerns the entry.
#[derive(Debug, Clone, Copy)]
pub enum Ancestor<'a> {
    Tag(&'a [u8]),
    Key { name: &'a [u8], hash: u64, changed: Mark },
}

/// The parents of a cache.
#[derive(Debug)]
pub struct Dependencies {
    nodes: Vec<Node>,
    free_nodes: Vec<u32>,
    by_key: HashTable<u32>,
    edges: Vec<Edge>,
    free_edge: u32,
    /// The first edge of each child.
    by_child: HashTable<u32>,
    edge_count: usize,
}

impl Default for Dependencies {
    fn default() -> Self {
        Self {
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            by_key: HashTable::new(),
            edges: Vec::new(),
            free_edge: NIL,
            by_child: HashTable::new(),
            edge_count: 0,
        }
    }
}

impl Dependencies {
    fn node(&self, hash: u64) -> Option<u32> {
        self.by_key.find(hash, |id| self.nodes[*id as usize].hash() == hash).copied()
    }

    /// Whether a key is a parent.
    pub fn knows(&self, hash: u64) -> bool {
        !self.by_key.is_empty() && self.node(hash).is_some()
    }

    /// How many keys are parents.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no key is a parent.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// How many edges there are.
    pub fn edges(&self) -> usize {
        self.edge_count
    }

    /// Makes a key a parent, in the sweep `pass`. Where it was none, `links` is what its value has, stored at `since`, and
    /// `changed` what is known of its changes.
    pub fn register(&mut self, name: &[u8], links: &[u8], since: u64, changed: Mark, pass: u32) {
        let hash = hash_key(name);
        if let Some(id) = self.node(hash) {
            self.nodes[id as usize].seen.store(pass, Ordering::Relaxed);
            return;
        }
        let known = known(links, since);
        let past = known.is_some() || changed != Mark::default();
        let past = past.then(|| Box::new(Past { changed, known }));
        let node = Node { name: name.into(), past, edges: 0, seen: AtomicU32::new(pass), asked: 0 };
        let id = match self.free_nodes.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        };
        let nodes = &self.nodes;
        self.by_key.insert_unique(hash, id, |id| nodes[*id as usize].hash());
    }

    /// A parent has changed. False if the key is none.
    pub fn change(&mut self, hash: u64, mark: Mark) -> bool {
        let node = self.node(hash);
        if let Some(id) = node
            && mark != Mark::default()
        {
            self.nodes[id as usize].past().changed.merge(mark);
        }
        node.is_some()
    }

    /// What a parent's value was last stored with, and at which number. None if that is nothing.
    pub fn known(&self, hash: u64) -> Option<(&[u8], u64)> {
        let known = self.nodes[self.node(hash)? as usize].known()?;
        Some((&known.links, known.since))
    }

    /// A parent's value was stored with these tags and parents, its number being `since`; or is gone, with none.
    pub fn stored(&mut self, hash: u64, links: &[u8], since: u64) {
        if let Some(id) = self.node(hash) {
            let node = &mut self.nodes[id as usize];
            node.past().known = known(links, since);
            // That was of another value.
            node.asked = 0;
        }
    }

    /// A parent's value lies elsewhere, with these tags and parents: that was asked at the number `asked`, and counts from `since` on.
    pub fn learn(&mut self, hash: u64, links: &[u8], since: u64, asked: u64) {
        if let Some(id) = self.node(hash) {
            let node = &mut self.nodes[id as usize];
            node.asked = asked;
            let known = known(links, since);
            if known.is_some() || node.past.is_some() {
                node.past().known = known;
            }
        }
    }

    /// When it was last asked elsewhere what tags and parents a parent has; 0 for never.
    pub fn asked(&self, hash: u64) -> u64 {
        self.node(hash).map_or(0, |id| self.nodes[id as usize].asked)
    }

    /// The sweep `pass` has met an entry that names this parent.
    pub fn see(&self, hash: u64, pass: u32) {
        if let Some(id) = self.node(hash) {
            self.nodes[id as usize].seen.store(pass, Ordering::Relaxed);
        }
    }

    /// Forgets the parents without edges that nothing has named in the sweep `pass` and in the one before, and that have not
    /// changed since `until`: a load that began before might yet name them. One sweep is not enough, for an entry may be on its
    /// way into memory.
    pub fn forget(&mut self, pass: u32, until: u64) {
        self.see_known(pass, until);
        let Self { nodes, free_nodes, by_key, .. } = self;
        by_key.retain(|id| {
            let node = &mut nodes[*id as usize];
            let stays = node.stays(pass, until);
            if !stays {
                (node.name, node.past, node.edges) = ([].into(), None, NIL);
                free_nodes.push(*id);
            }
            stays
        });
        if self.by_key.is_empty() {
            (self.nodes, self.free_nodes, self.by_key) = (Vec::new(), Vec::new(), HashTable::new());
        }
    }

    /// What stays keeps the parents that its value was stored with.
    fn see_known(&self, pass: u32, until: u64) {
        let stays = |node: &&Node| node.edges != NIL && node.known().is_some() && node.stays(pass, until);
        let mut open: Vec<&Node> = self.nodes.iter().filter(stays).collect();
        while let Some(node) = open.pop() {
            let Some(known) = node.known() else { continue };
            for (_, name) in links::names(&known.links).filter(|(role, _)| !role.is_tag()) {
                let parent = self.node(hash_key(name)).map(|id| &self.nodes[id as usize]);
                if let Some(parent) = parent.filter(|parent| !parent.stays(pass, until)) {
                    parent.seen.store(pass, Ordering::Relaxed);
                    open.push(parent);
                }
            }
        }
    }

    /// Adds an edge from a [registered](Self::register) parent, at that number of the log. False if it is there already.
    pub fn add_edge(&mut self, parent: u64, child: u64, since: u64) -> bool {
        let Some(parent) = self.node(parent) else { return false };
        let head = self.head(child);
        if self.edges_from(head).any(|edge| edge.parent == parent) {
            return false;
        }
        let edge = Edge { child, since, parent, next: head.unwrap_or(NIL) };
        let at = match self.free_edge {
            NIL => {
                self.edges.push(edge);
                self.edges.len() as u32 - 1
            }
            at => {
                self.free_edge = self.edges[at as usize].next;
                self.edges[at as usize] = edge;
                at
            }
        };
        self.set_head(child, Some(at));
        self.nodes[parent as usize].edges += 1;
        self.edge_count += 1;
        true
    }

    /// Removes the edge from `parent` to `child`, or all from `parent`. The children, each with the number at which its edge was
    /// added. The latter looks at every edge.
    pub fn remove_edges(&mut self, parent: u64, child: Option<u64>) -> Vec<(u64, u64)> {
        let Some(node) = self.node(parent) else { return Vec::new() };
        let of_parent = |edge: &&Edge| edge.parent == node;
        let children: Vec<_> = match child {
            Some(child) => self.edges_from(self.head(child)).filter(of_parent).map(|e| (e.child, e.since)).collect(),
            None => self.edges.iter().filter(of_parent).map(|edge| (edge.child, edge.since)).collect(),
        };
        for (child, _) in &children {
            self.remove_edge(node, *child);
        }
        if self.edge_count == 0 {
            (self.edges, self.by_child, self.free_edge) = (Vec::new(), HashTable::new(), NIL);
        }
        children
    }

    /// The name of a parent, and when it changed.
    pub fn parent(&self, hash: u64) -> Option<(&[u8], Mark)> {
        let node = &self.nodes[self.node(hash)? as usize];
        Some((&node.name, node.changed()))
    }

    fn remove_edge(&mut self, parent: u32, child: u64) {
        let mut before = NIL;
        let mut at = self.head(child).unwrap_or(NIL);
        while at != NIL && self.edges[at as usize].parent != parent {
            (before, at) = (at, self.edges[at as usize].next);
        }
        if at == NIL {
            return;
        }
        let next = self.edges[at as usize].next;
        match before {
            NIL => self.set_head(child, (next != NIL).then_some(next)),
            before => self.edges[before as usize].next = next,
        }
        self.edges[at as usize] = Edge { child: 0, since: 0, parent: NIL, next: self.free_edge };
        self.free_edge = at;
        self.nodes[parent as usize].edges -= 1;
        self.edge_count -= 1;
    }

    fn head(&self, child: u64) -> Option<u32> {
        if self.edge_count == 0 {
            return None;
        }
        self.by_child.find(child, |at| self.edges[*at as usize].child == child).copied()
    }

    fn set_head(&mut self, child: u64, head: Option<u32>) {
        let edges = &self.edges;
        let found = self.by_child.find_entry(child, |at| edges[*at as usize].child == child);
        match (found, head) {
            (Ok(mut entry), Some(head)) => *entry.get_mut() = head,
            (Ok(entry), None) => drop(entry.remove()),
            (Err(_), Some(head)) => {
                self.by_child.insert_unique(child, head, |at| edges[*at as usize].child);
            }
            (Err(_), None) => {}
        }
    }

    fn edges_from(&self, head: Option<u32>) -> impl Iterator<Item = &Edge> {
        let mut at = head.unwrap_or(NIL);
        std::iter::from_fn(move || {
            let edge = self.edges.get(at as usize)?;
            at = edge.next;
            Some(edge)
        })
    }

    /// Whether an entry of that key with these links has ancestors, or tags of its own.
    pub fn concern(&self, key: &[u8], links: &[u8]) -> bool {
        !links.is_empty() || self.edge_count > 0 && self.head(hash_key(key)).is_some()
    }

    /// Visits the tags of an entry and all its ancestors, each with the number after which a change of it concerns the entry.
    /// One may be visited again with a smaller number.
    pub fn walk<'a>(&'a self, key: &[u8], links: &'a [u8], since: u64, mut visit: impl FnMut(Ancestor<'a>, u64)) {
        let own = hash_key(key);
        let mut seen = Seen::new(own);
        let mut open = Open::new();
        expand(links, since, &mut open, &mut visit);
        self.follow(own, since, &mut open);
        while let Some((hash, name, since)) = open.pop() {
            if !seen.insert(hash, since) {
                continue;
            }
            let node = self.node(hash).map(|id| &self.nodes[id as usize]);
            let changed = node.map_or(Mark::default(), Node::changed);
            visit(Ancestor::Key { name, hash, changed }, since);
            if let Some(known) = node.and_then(Node::known) {
                expand(&known.links, since.max(known.since), &mut open, &mut visit);
            }
            self.follow(hash, since, &mut open);
        }
    }

    /// Opens the parents that a key has by edges.
    fn follow<'a>(&'a self, hash: u64, since: u64, open: &mut Open<'a>) {
        for edge in self.edges_from(self.head(hash)) {
            let parent = &self.nodes[edge.parent as usize];
            open.push((parent.hash(), &parent.name, since.max(edge.since)));
        }
    }

    /// Checks the books.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self) {
        let alive = self.nodes.iter().filter(|node| node.edges != NIL);
        assert_eq!((alive.clone().count(), self.nodes.len()), (self.len(), self.len() + self.free_nodes.len()));
        for node in alive {
            assert_eq!(self.node(node.hash()).map(|id| &self.nodes[id as usize].name), Some(&node.name));
        }
        let edges = self.edges.iter().filter(|edge| edge.parent != NIL);
        assert_eq!(edges.clone().count(), self.edge_count);
        assert_eq!(
            self.nodes.iter().filter(|n| n.edges != NIL).map(|n| n.edges as usize).sum::<usize>(),
            self.edge_count
        );
        for edge in edges {
            assert!(self.edges_from(self.head(edge.child)).any(|other| std::ptr::eq(other, edge)));
        }
    }
}

/// Ancestors still to be visited.
type Open<'a> = SmallVec<[(u64, &'a [u8], u64); 8]>;

/// Visits the tags among `names`, and opens the parents.
fn expand<'a>(names: &'a [u8], since: u64, open: &mut Open<'a>, visit: &mut impl FnMut(Ancestor<'a>, u64)) {
    for (role, name) in links::names(names) {
        if role.is_tag() {
            visit(Ancestor::Tag(name), since);
        } else {
            open.push((hash_key(name), name, since));
        }
    }
}

fn known(links: &[u8], since: u64) -> Option<Known> {
    (!links.is_empty()).then(|| Known { since, links: links.into() })
}

/// Which ancestors were visited, and with which number.
struct Seen {
    few: SmallVec<[(u64, u64); 16]>,
    many: HashMap<u64, u64, PreHashed>,
}

impl Seen {
    /// An entry is no ancestor of its own.
    fn new(own: u64) -> Self {
        Self { few: SmallVec::from_slice(&[(own, 0)]), many: HashMap::default() }
    }

    /// Whether it is new, or was visited with a greater number only.
    fn insert(&mut self, hash: u64, since: u64) -> bool {
        if let Some((_, known)) = self.few.iter_mut().find(|(known, _)| *known == hash) {
            let less = since < *known;
            *known = since.min(*known);
            return less;
        }
        if self.few.len() < self.few.inline_size() {
            self.few.push((hash, since));
            return true;
        }
        let known = self.many.entry(hash).or_insert(u64::MAX);
        let less = since < *known;
        *known = since.min(*known);
        less
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::links::{Role, push};
    use super::*;

    fn links(names: &[(Role, &str)]) -> Vec<u8> {
        let mut links = Vec::new();
        names.iter().for_each(|(role, name)| push(&mut links, *role, name.as_bytes()));
        links
    }

    /// Keys and, with a '#', tags, in order; each with the least number.
    fn visited(deps: &Dependencies, key: &str, links: &[u8], since: u64) -> Vec<(String, u64)> {
        let mut all = std::collections::BTreeMap::new();
        deps.walk(key.as_bytes(), links, since, |ancestor, since| {
            let (mark, name) = match ancestor {
                Ancestor::Tag(name) => ("#", name),
                Ancestor::Key { name, .. } => ("", name),
            };
            let known = all.entry(format!("{mark}{}", String::from_utf8_lossy(name))).or_insert(since);
            *known = since.min(*known);
        });
        all.into_iter().collect()
    }

    fn edge(deps: &mut Dependencies, parent: &str, child: &str, since: u64) -> bool {
        deps.register(parent.as_bytes(), &[], 0, Mark::default(), 0);
        deps.add_edge(hash_key(parent.as_bytes()), hash_key(child.as_bytes()), since)
    }

    #[test]
    fn ancestors_come_from_the_entry_from_edges_and_from_what_parents_were_stored_with() {
        let mut deps = Dependencies::default();
        assert!(edge(&mut deps, "grandparent", "parent", 3));
        assert!(!edge(&mut deps, "grandparent", "parent", 4));
        deps.register(b"parent", &links(&[(Role::Tag, "known"), (Role::Parent, "aunt")]), 5, Mark::default(), 0);
        let own = links(&[(Role::Tag, "own"), (Role::Parent, "parent"), (Role::InheritedTag, "inherited")]);
        let expected = [("#inherited", 1), ("#known", 5), ("#own", 1), ("aunt", 5), ("grandparent", 3), ("parent", 1)];
        assert_eq!(visited(&deps, "child", &own, 1), expected.map(|(name, since)| (name.to_owned(), since)));
        deps.stored(hash_key(b"parent"), &[], 9);
        assert_eq!(visited(&deps, "child", &[], 1), []);
        deps.validate();
    }

    #[test]
    fn cycles_and_diamonds_are_visited_once_and_nobody_is_an_ancestor_of_its_own() {
        let mut deps = Dependencies::default();
        for (parent, child) in [("b", "a"), ("c", "a"), ("d", "b"), ("d", "c"), ("a", "d"), ("a", "a")] {
            edge(&mut deps, parent, child, 0);
        }
        assert_eq!(visited(&deps, "a", &[], 0).iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["b", "c", "d"]);
    }

    #[test]
    fn a_path_of_older_edges_counts_although_a_younger_one_was_followed_first() {
        let mut deps = Dependencies::default();
        for (parent, child, since) in [("top", "left", 1), ("top", "right", 9), ("left", "a", 2), ("right", "a", 3)] {
            edge(&mut deps, parent, child, since);
        }
        assert!(visited(&deps, "a", &[], 0).contains(&("top".into(), 2)));
    }

    #[test]
    fn a_parent_without_edges_that_no_entry_names_is_forgotten_once_no_load_can_name_it() {
        let mut deps = Dependencies::default();
        deps.register(b"named", &[], 0, Mark::default(), 1);
        deps.register(b"gone", &[], 0, Mark::default(), 1);
        deps.register(b"changed", &[], 0, Mark::default(), 1);
        deps.change(hash_key(b"changed"), Mark::new(7, false));
        edge(&mut deps, "kept", "child", 0);
        deps.see(hash_key(b"named"), 2);
        deps.forget(3, 6);
        assert_eq!(
            ["named", "gone", "changed", "kept"].map(|key| deps.knows(hash_key(key.as_bytes()))),
            [true, false, true, true]
        );
        deps.forget(4, 7);
        assert_eq!(deps.len(), 1);
        assert_eq!(deps.remove_edges(hash_key(b"kept"), None).len(), 1);
        deps.forget(5, 7);
        assert!(deps.is_empty() && deps.nodes.is_empty());
    }

    proptest! {
        #[test]
        fn edges_come_and_go_as_in_a_set(ops in prop::collection::vec((any::<bool>(), 0_u8..5, prop::option::of(0_u8..5)), 1..80)) {
            let mut deps = Dependencies::default();
            let mut model = std::collections::BTreeSet::new();
            for (add, parent, child) in ops {
                let (name, hash) = ([parent], |key: u8| hash_key(&[key]));
                match child {
                    Some(child) if add => {
                        deps.register(&name, &[], 0, Mark::default(), 0);
                        prop_assert_eq!(deps.add_edge(hash(parent), hash(child), 0), model.insert((parent, child)));
                    }
                    child => {
                        let before = model.len();
                        model.retain(|(p, c)| *p != parent || child.is_some_and(|child| child != *c));
                        prop_assert_eq!(deps.remove_edges(hash(parent), child.map(hash)).len(), before - model.len());
                    }
                }
                deps.validate();
                prop_assert_eq!(deps.edges(), model.len());
                for child in 0..5 {
                    let parents: Vec<_> = deps.edges_from(deps.head(hash(child))).map(|e| deps.nodes[e.parent as usize].name[0]).collect();
                    prop_assert_eq!(parents.len(), model.iter().filter(|(_, c)| *c == child).count());
                    prop_assert!(parents.iter().all(|parent| model.contains(&(*parent, child))));
                }
            }
        }
    }
}
