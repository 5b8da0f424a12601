//! Invalidations and dependencies: what they do to what is stored and to what is being loaded.

use super::{Engine, Event, Found, Loaded};
use crate::clock::Millis;
use crate::codec::workshop::Tools;
use crate::entry::Entry;
use crate::invalidation::links;
use crate::invalidation::markers::Mark;
use crate::invalidation::stamps::{EVERY, Slot};
use crate::invalidation::sweep::Told;
use crate::invalidation::target::Target;
use crate::load::flights::{Flight, FlightState, KeyLock, Phase, Token};
use crate::memory::hash_key;
use crate::stats::counters::Event as Counted;

/// An invalidation as a user asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Invalidation<'a> {
    pub target: &'a Target,
    /// The target as the user wrote it, for [`Event::Invalidated`].
    pub text: &'a str,
    /// Ends freshness only.
    pub soft: bool,
}

/// What ties a value about to be stored to others.
pub(super) struct Tied {
    /// The tags and parents that the user gave, encoded.
    pub own: Vec<u8>,
    /// The same, and those inherited.
    pub links: Vec<u8>,
    /// A compressed value that the key holds, and whether the new one has the same bytes.
    same: Option<(Entry, bool)>,
}

impl Tied {
    /// Whether two values have the same bytes, to be read the same way.
    pub fn is_same(&self, before: &Entry, after: &Entry) -> bool {
        if before.header().kind != after.header().kind || before.raw_len() != after.raw_len() {
            return false;
        }
        match (before.codec() == after.codec(), &self.same) {
            (true, _) => before.value() == after.value(),
            (false, Some((entry, same))) if entry.is(before) => *same,
            (false, _) => false,
        }
    }
}

impl Engine {
    /// Invalidates a target, however many keys it covers: from the return of this on, nothing that it covers is served as it
    /// was, and loads that have begun are not stored (or, of a soft one, as stale). What that leaves behind in memory is swept
    /// up afterwards, in the background.
    pub fn invalidate(&self, invalidation: &Invalidation<'_>) {
        let Invalidation { target, soft, .. } = *invalidation;
        self.figures.counters.count(Counted::invalidation(target.kind()));
        if let Target::Key(key) = target {
            let swept = if soft { self.outdate(target, key, false) } else { self.forget_value(key, false) };
            self.figures.counters.count_n(Counted::Swept, u64::from(swept));
            if self.tells_invalidations() {
                let text = invalidation.text.into();
                let swept = u64::from(swept);
                self.tell_invalidated(&Event::Invalidated { kind: target.kind(), text, soft, swept, remote: false });
            }
            return;
        }
        // Before it has a number: a load that begins after that, and is cut by it no more, finds nothing older behind memory.
        self.behind().inspect(|behind| behind.invalidating(target));
        let number = self.invalidate_here(invalidation, false);
        if let Some(behind) = self.behind() {
            behind.invalidated(target, soft, number);
        }
    }

    /// Invalidates what is no single key, in this process. Its number.
    pub(super) fn invalidate_here(&self, invalidation: &Invalidation<'_>, remote: bool) -> u64 {
        let Invalidation { target, soft, .. } = *invalidation;
        let number = self.facts.invalidate(target, soft);
        self.stamps.shared_changed(&[self.slot_of(target)]);
        let told = self.tells_invalidations().then(|| Told {
            number,
            kind: target.kind(),
            text: invalidation.text.into(),
            soft,
            remote,
        });
        self.sweep_at(self.sweeper.want(told));
        number
    }

    /// The slot that tells of a target.
    fn slot_of(&self, target: &Target) -> Slot {
        match target {
            Target::Key(key) => self.stamps.slot(hash_key(key)),
            Target::Prefix(prefix) => self.stamps.prefix_slot(prefix),
            Target::Pattern(pattern) => self.stamps.prefix_slot(&pattern.head),
            Target::Tag(tag) => self.stamps.tag_slot(tag),
            Target::All => EVERY,
        }
    }

    /// Takes a key's value away. Whether there was one. `remote`: by another process, which has told the tiers.
    pub(super) fn forget_value(&self, key: &[u8], remote: bool) -> bool {
        let now = self.clock.now_millis();
        let hash = hash_key(key);
        let mut notices = Vec::new();
        let removed = {
            let mut lock = self.flights.lock(key);
            let number = self.facts.next();
            let was_loading = lock.attached().is_some();
            self.cut(&mut lock, &mut notices);
            let held = self.memory.remove(key).filter(|entry| entry.dead_at() > now);
            if held.is_some() || was_loading {
                lock.recent().invalidated(hash);
            }
            let removed = held.is_some_and(|entry| self.facts.judge_entry(&entry).hard == 0);
            if let Some(behind) = self.behind().filter(|_| !remote) {
                behind.gone(key, number);
            }
            self.key_gone(&mut lock, key, None);
            removed
        };
        self.cooldowns.lock().recovered(key);
        self.tell(notices);
        removed
    }

    /// Ends the freshness of a key's value, the target's. Whether there was one. `remote`: as in [`Engine::forget_value`].
    pub(super) fn outdate(&self, target: &Target, key: &[u8], remote: bool) -> bool {
        let now = self.clock.now_millis();
        let mut lock = self.flights.lock(key);
        let number = self.facts.next();
        if let Some(flight) = lock.attached() {
            flight.state.lock().outdated = true;
        }
        let found = self.peek_at(key, now);
        if let Some(found) = &found
            && !found.entry.is_outdated()
        {
            self.memory.insert(found.entry.outdated());
        }
        if let Some(behind) = self.behind().filter(|_| !remote) {
            behind.invalidated(target, true, number);
        }
        self.key_changed(&mut lock, hash_key(key), true);
        found.is_some()
    }

    /// `child` is invalidated whenever `parent` is, or changes, from now on.
    pub fn add_dependency(&self, parent: &[u8], child: &[u8]) {
        let child = hash_key(child);
        {
            let mut lock = self.flights.lock(parent);
            self.register_parent(&mut lock, parent, self.memory.peek(parent).as_ref());
            self.facts.add_edge(parent, child);
        }
        // Copies of the child, and of what depends on it, are covered by the parent's slots from now on.
        self.stamps.shared_changed(&[self.stamps.slot(child)]);
    }

    /// Takes back what [`Engine::add_dependency`] did: for one child, or for all of the parent. The latter looks at every edge.
    pub fn remove_dependency(&self, parent: &[u8], child: Option<&[u8]>) {
        self.facts.remove_edges(hash_key(parent), child.map(hash_key));
    }

    /// The newest number of the log: what a caller that joins a load is to remember, for [`super::Settled::cut`].
    pub fn current(&self) -> u64 {
        self.facts.current()
    }

    /// Says what tags and parents a load that has begun will have at least, so that it is not joined once they were invalidated.
    pub fn declare(&self, token: Token, links: &[u8]) {
        let Some(flight) = self.flights.by_token(token) else { return };
        self.register_parents(links);
        flight.state.lock().links = links.into();
        self.sweep_if_many();
    }

    // ------------------------------------------------------------ what the rest of the engine asks

    /// The links of a value about to be stored: those given, and what its parents have. These are known as parents from then on.
    pub(super) fn inherit(&self, key: &[u8], given: &[u8]) -> Vec<u8> {
        let mut links = given.to_vec();
        if links::has_parents(given) {
            self.register_parents(given);
            self.facts.inherit(key, &mut links);
            self.sweep_if_many();
        }
        links
    }

    /// Makes the parents among `links` known as such; those that were inherited too, of which an entry met in a tier is all that tells.
    pub(super) fn register_parents(&self, given: &[u8]) {
        for (_, parent) in links::names(given).filter(|(role, _)| !role.is_tag()) {
            let mut lock = self.flights.lock(parent);
            self.register_parent(&mut lock, parent, self.memory.peek(parent).as_ref());
        }
    }

    /// Makes a key a parent, under its lock. `held` is what memory holds of it.
    pub(super) fn register_parent(&self, lock: &mut KeyLock<'_>, parent: &[u8], held: Option<&Entry>) {
        let changed = lock.recent().changes(hash_key(parent));
        self.facts.register(parent, held, changed);
    }

    /// Finds out before the key is locked what storing the end of a load needs to know.
    pub(super) fn tie(&self, flight: &Flight, loaded: &Loaded<'_>) -> Tied {
        let copy = flight.state.lock().stale.clone();
        let mut bytes = None;
        let given = match loaded {
            Loaded::Value(value) => {
                bytes = Some(value.bytes);
                value.links
            }
            Loaded::Passing(value) => value.links,
            Loaded::NotModified { links, .. } | Loaded::PassingCopy { links, .. } => {
                links.or(copy.as_ref().map(Entry::links)).unwrap_or_default()
            }
            Loaded::Unstored { links } => links,
        };
        let own = own_of(given);
        let mut tied = Tied { links: own.clone(), own, same: None };
        if links::has_parents(&tied.own) {
            self.register_parents(&tied.own);
            self.facts.inherit(&flight.key, &mut tied.links);
            self.sweep_if_many();
        }
        // Whether a parent has changed is seen by its bytes; compressed ones are read before its lock is taken.
        if let Some(bytes) = bytes
            && self.facts.is_parent(hash_key(&flight.key))
            && let Some(before) = self.memory.peek(&flight.key)
            && before.codec().is_some()
            && before.raw_len() == bytes.len()
        {
            let inflated = Tools::default().inflate(before.clone());
            let same = inflated.bytes.is_ok_and(|before| before == bytes);
            tied.same = Some((before, same));
        }
        tied
    }

    /// Whether a load that runs has been cut by what is known of it.
    pub(super) fn is_cut(&self, key: &[u8], state: &FlightState) -> bool {
        debug_assert_eq!(state.phase, Phase::Running);
        state.seq < self.facts.newest() && self.facts.judge(key, &state.links, state.seq).mark.hard > 0
    }

    /// Whether a key that is to be loaded is so because what it held was invalidated. `held` is what memory holds of it, `found` that
    /// as it was judged.
    pub(super) fn was_invalidated(
        &self,
        key: &[u8],
        found: Option<&Found>,
        held: Option<&Entry>,
        lock: &mut KeyLock<'_>,
        now: Millis,
    ) -> bool {
        match found {
            Some(found) => found.outdated,
            None => {
                lock.recent().was_invalidated(hash_key(key))
                    || held.is_some_and(|entry| entry.dead_at() > now && self.facts.judge_entry(entry).hard > 0)
            }
        }
    }

    /// A value was stored under the key's lock; `changed` tells whether it is another than before, `before` what had cut that.
    pub(super) fn key_stored(&self, lock: &mut KeyLock<'_>, entry: &Entry, before: Mark, changed: bool) {
        let hash = hash_key(entry.key());
        lock.recent().stored(hash);
        if before != Mark::default() {
            lock.recent().changed(hash, before);
        }
        if self.facts.stored(entry.key(), Some(entry)) && !changed {
            // Copies of its children are to be covered by its new tags.
            self.stamps.shared_changed(&[self.stamps.slot(hash)]);
        }
        if changed {
            self.key_changed(lock, hash, false);
            // Lifted over its own change, which in a cycle may come back to it.
            self.facts.judge_entry(entry);
        } else {
            self.stamps.key_changed(hash);
        }
    }

    /// A key's value is gone, under its lock: deleted, or swept because of `mark`.
    pub(super) fn key_gone(&self, lock: &mut KeyLock<'_>, key: &[u8], mark: Option<Mark>) {
        let hash = hash_key(key);
        self.facts.stored(key, None);
        match mark {
            Some(mark) => lock.recent().changed(hash, mark),
            None => self.key_changed(lock, hash, false),
        }
    }

    /// A key has changed, under its lock. What stands behind memory has been told before: who does not hold the lock, and has seen the number
    /// of this, finds nothing older there.
    pub(super) fn key_changed(&self, lock: &mut KeyLock<'_>, hash: u64, soft: bool) {
        let change = self.facts.change(hash, soft);
        if change.is_parent {
            self.stamps.shared_changed(&[self.stamps.slot(hash)]);
            self.sweep_at(self.sweeper.want_later(self.clock.now_millis()));
        }
        // Where there are tiers, somebody may have found the key itself there and not have kept it yet.
        if !change.is_parent || self.behind().is_some() {
            lock.recent().changed(hash, Mark::new(change.number, soft));
        }
        self.stamps.key_changed(hash);
    }

    fn sweep_if_many(&self) {
        if self.sweeper.are_many(self.facts.parents()) {
            self.sweep_at(self.sweeper.want(None));
        }
    }
}

/// The names among them that the user gave.
pub(super) fn own_of(all: &[u8]) -> Vec<u8> {
    let mut own = Vec::new();
    links::names(all).filter(|(role, _)| role.is_own()).for_each(|(role, name)| links::push(&mut own, role, name));
    own
}

impl<'a> Invalidation<'a> {
    /// Of a target that the user wrote so.
    pub fn new(target: &'a Target, text: &'a str, soft: bool) -> Self {
        Self { target, text, soft }
    }
}
