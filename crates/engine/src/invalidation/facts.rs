//! Facts: all that has been invalidated and all parents that have changed, and the judgement of an entry by them.
//!
//! An entry is as good as its number: it is cut by whatever concerns it and is newer. What may concern it is a marker over its
//! key, over one of its tags, or over an ancestor of its, or a change of a parent.
//!
//! Promises
//! - *What is answered is seen.* A fact has its number, is written down, and [`Facts::newest`] shows it, before
//!   [`Facts::invalidate`] or [`Facts::change`] returns.
//! - *No gaps.* Numbers of facts are taken under the lock that they are written down under. So whoever was judged under that
//!   lock has been judged by every fact up to the number that it shows, and an entry that outlived them may be lifted to it.
//! - *Reading creates nothing.*

use super::dependencies::{Ancestor, Dependencies};
use super::links::{self, MOST_INHERITED, Role};
use super::log::Log;
use super::markers::{Mark, Markers};
use super::stamps::{Shared, Stamps};
use super::target::Target;
use crate::entry::Entry;
use crate::memory::hash_key;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, RwLock};

/// The facts of one cache.
#[derive(Debug, Default)]
pub struct Facts {
    log: Log,
    newest: AtomicU64,
    /// How many keys are parents, to see without a lock that there is none.
    parents: AtomicUsize,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    markers: Markers,
    dependencies: Dependencies,
    /// Markers up to here have been dropped: what is older counts as cut.
    floor: u64,
    /// The sweep under way, or the last.
    pass: u32,
}

impl State {
    /// What has cut by its tags and ancestors what is of that key.
    fn over_links(&self, key: &[u8], links: &[u8], since: u64) -> Mark {
        let mut mark = Mark::default();
        self.dependencies.walk(key, links, since, |ancestor, since| match ancestor {
            Ancestor::Tag(tag) => mark.merge(self.markers.over_tag(tag, since)),
            Ancestor::Key { name, changed, .. } => {
                mark.merge(changed.after(since));
                mark.merge(self.markers.over_key(name, since));
            }
        });
        mark
    }
}

/// How an entry, or a load, stands to the facts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The newest facts that cut it.
    pub mark: Mark,
    /// The newest fact of all that were looked at.
    pub as_of: u64,
}

/// A key has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub number: u64,
    /// Whether it is a parent.
    pub is_parent: bool,
}

/// What there is, for figures and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    pub markers: usize,
    pub parents: usize,
    pub edges: usize,
}

impl Facts {
    /// The next number of the log, for what is not a fact itself: a put.
    pub fn next(&self) -> u64 {
        self.log.advance()
    }

    /// The newest number of the log: what a load that begins now is to carry.
    pub fn current(&self) -> u64 {
        self.log.current()
    }

    /// The number of the newest fact. What is not older needs no judgement.
    #[inline]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// Writes an invalidation down. Its number.
    pub fn invalidate(&self, target: &Target, soft: bool) -> u64 {
        let mut state = self.state.write();
        let number = self.log.advance();
        state.markers.mark(target, Mark::new(number, soft));
        self.newest.store(number, Ordering::SeqCst);
        number
    }

    /// Writes down that a key has changed, under its lock and after the change itself.
    pub fn change(&self, hash: u64, soft: bool) -> Change {
        if self.is_parent(hash) {
            let mut state = self.state.write();
            let number = self.log.advance();
            if state.dependencies.change(hash, Mark::new(number, soft)) {
                self.newest.store(number, Ordering::SeqCst);
                return Change { number, is_parent: true };
            }
        }
        Change { number: self.log.advance(), is_parent: false }
    }

    /// Whether a key is a parent. Under the key's lock it does not become one meanwhile.
    pub fn is_parent(&self, hash: u64) -> bool {
        self.parents.load(Ordering::SeqCst) > 0 && self.state.read().dependencies.knows(hash)
    }

    /// How many keys are parents.
    pub fn parents(&self) -> usize {
        self.parents.load(Ordering::SeqCst)
    }

    /// Judges what is of that key and has these links by the facts newer than `since`.
    pub fn judge(&self, key: &[u8], links: &[u8], since: u64) -> Verdict {
        let state = self.state.read();
        let as_of = self.newest.load(Ordering::SeqCst);
        let mut mark = state.markers.over_key(key, since);
        if since < state.floor {
            mark.merge(Mark::new(state.floor, false));
        }
        if state.dependencies.concern(key, links) {
            mark.merge(state.over_links(key, links, since));
        }
        Verdict { mark, as_of }
    }

    /// Judges an entry by what is newer than it. One that outlived all is lifted.
    #[inline]
    pub fn judge_entry(&self, entry: &Entry) -> Mark {
        let seq = entry.seq();
        if seq >= self.newest() { Mark::default() } else { self.judge_older(entry, seq) }
    }

    fn judge_older(&self, entry: &Entry, seq: u64) -> Mark {
        let verdict = self.judge(entry.key(), entry.links(), seq);
        // The sweep has found meanwhile that it outlived all, and dropped what could have told.
        if verdict.mark.hard > 0 && entry.seq() > seq {
            return self.judge_entry(entry);
        }
        if verdict.mark == Mark::default() {
            entry.lift(verdict.as_of);
        }
        verdict.mark
    }

    /// Makes a key a parent; its lock is held. `stored` is what it holds, `changed` what is known of its changes before.
    pub fn register(&self, key: &[u8], stored: Option<&Entry>, changed: Mark) {
        let mut state = self.state.write();
        let pass = state.pass;
        let (links, since) = stored.map_or((&[][..], 0), |entry| (entry.links(), entry.seq()));
        state.dependencies.register(key, links, since, changed, pass);
        self.parents.store(state.dependencies.len(), Ordering::SeqCst);
    }

    /// A parent's value has been stored, or is gone; its lock is held. Whether it has other tags or parents now. What had cut the
    /// value before by its tags and parents is noted as a change, for these are not known any more.
    pub fn stored(&self, key: &[u8], entry: Option<&Entry>) -> bool {
        let hash = hash_key(key);
        if !self.is_parent(hash) {
            return false;
        }
        let links = entry.map_or(&[][..], Entry::links);
        let mut state = self.state.write();
        let mark = match state.dependencies.known(hash) {
            None if links.is_empty() => return false,
            Some((known, _)) if known == links => return false,
            None => Mark::default(),
            Some((known, since)) => state.over_links(key, known, since),
        };
        state.dependencies.change(hash, mark);
        state.dependencies.stored(hash, links, entry.map_or(0, Entry::seq));
        true
    }

    /// Takes in what tags and parents the value of a [registered](Self::register) parent has elsewhere, as was asked at the number
    /// `asked`: for what is not older than `since`. Where one of these has been invalidated or has changed since then, the parent counts as
    /// changed now: its children may have been judged, and lifted, without that. Whether it does.
    pub fn learn(&self, key: &[u8], links: &[u8], since: u64, asked: u64) -> bool {
        let hash = hash_key(key);
        let mut state = self.state.write();
        // What had cut it by what was known before is not known any more.
        let before = state.dependencies.known(hash).map(|(known, since)| state.over_links(key, known, since));
        state.dependencies.change(hash, before.unwrap_or_default());
        state.dependencies.learn(hash, links, since, asked);
        let has_changed = state.over_links(key, links, since).hard > 0 || since < state.floor;
        if has_changed {
            let number = self.log.advance();
            state.dependencies.change(hash, Mark::new(number, false));
            self.newest.store(number, Ordering::SeqCst);
        }
        has_changed
    }

    /// Whether that was taken in, and nothing has changed the parent since.
    pub fn has_learnt(&self, key: &[u8]) -> bool {
        let hash = hash_key(key);
        let state = self.state.read();
        let asked = state.dependencies.asked(hash);
        if asked == 0 || asked < state.floor {
            return false;
        }
        let mut mark = state.markers.over_key(key, asked);
        mark.merge(state.dependencies.parent(hash).map_or(Mark::default(), |(_, changed)| changed.after(asked)));
        if let Some((links, _)) = state.dependencies.known(hash) {
            mark.merge(state.over_links(key, links, asked));
        }
        mark.hard == 0
    }

    /// Adds an edge from a [registered](Self::register) parent, whose lock is held: what happens to it from now on concerns the
    /// child.
    pub fn add_edge(&self, parent: &[u8], child: u64) -> bool {
        let mut state = self.state.write();
        let since = self.log.current();
        state.dependencies.add_edge(hash_key(parent), child, since)
    }

    /// Removes the edge from `parent` to `child`, or all from `parent`. What the edges have cut stays so.
    pub fn remove_edges(&self, parent: u64, child: Option<u64>) {
        let mut state = self.state.write();
        let Some((name, mut mark)) = state.dependencies.parent(parent) else { return };
        mark.merge(state.markers.over_key(name, 0));
        mark.merge(state.over_links(name, state.dependencies.known(parent).map_or(&[], |known| known.0), 0));
        for (child, since) in state.dependencies.remove_edges(parent, child) {
            let mark = mark.after(since);
            if mark.newest() > 0 {
                state.markers.mark_key(child, mark);
            }
        }
    }

    /// Appends to the links of a value about to be stored what its parents have: their tags and parents, and so on. These
    /// are [registered](Self::register).
    pub fn inherit(&self, key: &[u8], links: &mut Vec<u8>) {
        let mut inherited = Inherited::new(key, links);
        let state = self.state.read();
        state.dependencies.walk(key, links, 0, |ancestor, _| match ancestor {
            Ancestor::Tag(name) => inherited.add(Role::InheritedTag, name),
            Ancestor::Key { name, .. } => inherited.add(Role::InheritedParent, name),
        });
        let inherited = inherited.names;
        drop(state);
        links.extend_from_slice(&inherited);
    }

    /// The slots whose change tells that an entry of that key with these links may have been cut: its shared ones.
    pub fn cover(&self, key: &[u8], links: &[u8], stamps: &Stamps, shared: &mut Shared) {
        stamps.cover_prefixes(key, shared);
        let state = self.state.read();
        if state.dependencies.concern(key, links) {
            state.dependencies.walk(key, links, 0, |ancestor, _| match ancestor {
                Ancestor::Tag(tag) => shared.extend(std::str::from_utf8(tag).ok().map(|tag| stamps.tag_slot(tag))),
                Ancestor::Key { name, hash, .. } => {
                    shared.push(stamps.slot(hash));
                    stamps.cover_prefixes(name, shared);
                }
            });
            shared.sort_unstable();
            shared.dedup();
        }
    }

    // ------------------------------------------------------------ the sweep

    /// A sweep begins: its number, and that of the newest fact.
    pub fn begin_pass(&self) -> (u32, u64) {
        let mut state = self.state.write();
        state.pass = state.pass.wrapping_add(1);
        (state.pass, self.newest.load(Ordering::SeqCst))
    }

    /// The sweep `pass` has met an entry with these links.
    pub fn see(&self, links: &[u8], pass: u32) {
        let state = self.state.read();
        for (role, name) in links::names(links) {
            if !role.is_tag() {
                state.dependencies.see(hash_key(name), pass);
            }
        }
    }

    /// Drops the markers up to `until`: nothing older is left. What turns up all the same, found by a reader before the sweep took it away and
    /// judged after, or brought by a load that was not waited for, counts as cut.
    pub fn drop_until(&self, until: u64) {
        let mut state = self.state.write();
        state.markers.drop_until(until);
        state.floor = state.floor.max(until);
    }

    /// Forgets the parents that nothing names, as the sweep `pass` has seen, and that have not changed since `until`.
    pub fn forget(&self, pass: u32, until: u64) {
        let mut state = self.state.write();
        state.dependencies.forget(pass, until);
        self.parents.store(state.dependencies.len(), Ordering::SeqCst);
    }

    /// What there is.
    pub fn sizes(&self) -> Sizes {
        let state = self.state.read();
        Sizes { markers: state.markers.len(), parents: state.dependencies.len(), edges: state.dependencies.edges() }
    }

    /// Checks the books.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate(&self) {
        let state = self.state.read();
        state.dependencies.validate();
        assert_eq!(self.parents.load(Ordering::SeqCst), state.dependencies.len());
        assert!(self.newest() <= self.current() && state.floor <= self.newest());
    }
}

/// Appends to the links of a value of that key those of one of its parents.
pub fn inherit_from(key: &[u8], links: &mut Vec<u8>, parent: &[u8]) {
    let mut inherited = Inherited::new(key, links);
    links::names(parent).for_each(|(role, name)| inherited.add(role.inherited(), name));
    let inherited = inherited.names;
    links.extend_from_slice(&inherited);
}

/// Names that a value inherits, each once.
struct Inherited<'a> {
    key: &'a [u8],
    own: &'a [u8],
    /// Encoded.
    names: Vec<u8>,
    count: usize,
}

impl<'a> Inherited<'a> {
    fn new(key: &'a [u8], own: &'a [u8]) -> Self {
        let count = links::names(own).filter(|(role, _)| !role.is_own()).count();
        Self { key, own, names: Vec::new(), count }
    }

    fn add(&mut self, role: Role, name: &[u8]) {
        let has = |links: &[u8]| links::names(links).any(|(known, other)| known.inherited() == role && other == name);
        if self.count < MOST_INHERITED && (role.is_tag() || name != self.key) && !has(self.own) && !has(&self.names) {
            links::push(&mut self.names, role, name);
            self.count += 1;
        }
    }
}
