//! What stands behind the memory tier, as the engine sees it.
//!
//! The engine tells [`Behind`] of everything that is stored, removed and invalidated here, in the order of the log for each key, and
//! asks it for what memory does not hold. Behind it tells of what other processes did ([`Engine::apply`]) and of what a look-up has come to
//! ([`Engine::sought`]). So that I2 holds through tiers as well: what is found there is stored only while the flight that looked for
//! it has not been cut, as if a fetcher had brought it.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{BatchEnd, Engine, Event, Found, Invalidation, Landed, ThreadId};
use crate::clock::{FOREVER, Millis};
use crate::entry::{Entry, Freshness};
use crate::invalidation::links;
use crate::invalidation::target::Target;
use crate::load::breaker::Outcome;
use crate::load::flights::{KeyLock, Phase, PreHashed, Token};
use crate::memory::hash_key;
use crate::stats::counters::RouteEvent;
use crate::stats::tiers::TierFigures;

/// What is kept for a thread that is to come.
const MOST_UNHEARD: usize = 64;

/// How far each tier's log was known when a load began: epoch and number, in the order of the tiers.
pub type Positions = SmallVec<[(u64, u64); 2]>;

/// One key to be looked for.
#[derive(Debug, Clone)]
pub struct Seek {
    /// The flight that wants it.
    pub token: Token,
    pub key: Arc<[u8]>,
    /// There is an old value here: only a fresh one is of use, and only tiers that others write to are asked.
    pub fresh_only: bool,
    /// If nothing is found a fetcher will run.
    pub loads: bool,
}

/// See the module. None of it blocks; [`Behind::stored`], [`Behind::gone`] and [`Behind::invalidated`] may be called under a key's lock.
pub trait Behind: Send + Sync {
    /// Where the logs stand.
    fn positions(&self) -> Positions;

    /// Hears of what other processes did, where that can be known at once: before every look-up.
    fn catch_up(&self);

    /// Looks for keys. Each is answered by [`Engine::sought`].
    fn seek(&self, seeks: Vec<Seek>);

    /// What can be looked up at once, on the calling thread.
    fn seek_now(&self, engine: &Engine, key: &[u8]) -> Option<Entry>;

    /// An entry was stored: written by a user, or brought by a load that began at `load`.
    fn stored(&self, entry: &Entry, load: Option<&Positions>);

    /// A key was deleted or invalidated, by that number of the log.
    fn gone(&self, key: &[u8], number: u64);

    /// Something else is about to be invalidated; [`Behind::invalidated`] follows. What it covers is found no more.
    fn invalidating(&self, target: &Target);

    /// Something else was invalidated, by that number of the log, or a key softly.
    fn invalidated(&self, target: &Target, soft: bool, number: u64);

    /// A flight has ended.
    fn ended(&self, token: Token);

    /// What each tier has counted, the nearest first.
    fn figures(&self) -> Vec<(Arc<str>, TierFigures)>;
}

/// What a look-up has found, until the flight's thread takes it.
pub(super) type SoughtMap = HashMap<Token, (Entry, BatchEnd), PreHashed>;

impl Engine {
    /// Puts tiers behind memory, once.
    pub fn set_behind(&self, behind: Arc<dyn Behind>) {
        // A second one is not meant to be; the first stays.
        let _ = self.behind.set(behind);
    }

    /// What stands behind memory.
    #[inline]
    pub(super) fn behind(&self) -> Option<&dyn Behind> {
        self.behind.get().map(|behind| &**behind)
    }

    pub(super) fn positions(&self) -> Positions {
        self.behind().map(Behind::positions).unwrap_or_default()
    }

    /// Looks for the keys of flights that have begun behind memory; [`Event::Sought`] follows for each that is still wanted.
    pub fn seek(&self, tokens: &[Token], fresh_only: bool, loads: bool) {
        let Some(behind) = self.behind() else { return };
        let wanted = tokens.iter().filter_map(|token| self.flights.by_token(*token));
        behind.seek(
            wanted
                .map(|flight| Seek { token: flight.token, key: Arc::clone(&flight.key), fresh_only, loads })
                .collect(),
        );
    }

    /// What came of a look-up. A value that may be served, and that nothing has cut since the flight began, ends the flight as
    /// if it had been loaded, but keeps its ages; one for a failed load becomes the copy in hand. Then the flights' threads are told, of
    /// all at once: a thread that is woken for each would do little else.
    pub fn sought(&self, results: impl IntoIterator<Item = (Token, Option<Entry>)>) {
        let ended = self.clock.now_nanos();
        let told: SmallVec<[_; 4]> = results
            .into_iter()
            .filter_map(|(token, found)| Some((token, self.seek_ended(token, found, ended)?)))
            .collect();
        for (token, thread) in told {
            if !self.figures.post(thread, Event::Sought(token)) {
                self.sought.lock().remove(&token);
            }
        }
    }

    /// Which thread is to be told. `ended` is this moment, more or less, in nanoseconds.
    fn seek_ended(&self, token: Token, found: Option<Entry>, ended: u64) -> Option<ThreadId> {
        let flight = self.flights.by_token(token)?;
        let now = ended / 1_000_000;
        let mut dead_at = FOREVER;
        let mut over = None;
        if let Some(entry) = found.filter(|entry| entry.dead_at() > now) {
            self.register_parents(entry.links());
            let mut lock = self.flights.lock(&flight.key);
            let running = {
                let state = flight.state.lock();
                (state.phase == Phase::Running && self.flights.is_alive(token)).then_some((state.seq, state.outdated))
            };
            let attached = lock.attached().is_some_and(|f| f.token == token);
            if let Some((seq, outdated)) = running
                && attached
                && let Some(entry) = self.admit(&mut lock, entry, seq, flight.plan.route, outdated)
            {
                dead_at = entry.dead_at();
                let servable = self.judge(entry.clone(), now).is_some_and(|found| found.is_servable());
                if servable {
                    lock.detach_if(&flight);
                    self.flights.end(token);
                    let watchers = flight.state.lock().take_watchers();
                    self.land(token, &watchers, &Landed::Value(entry.clone(), true, 0));
                    over = Some((entry, watchers));
                } else {
                    flight.state.lock().stale = Some(entry);
                }
            } else {
                flight.state.lock().overtaken = true;
            }
        }
        if over.is_none() {
            // It is from here that its fetcher looks at the world.
            let positions = self.positions();
            flight.state.lock().positions = positions;
        }
        self.expects_expiry(dead_at);
        if let Some((entry, watchers)) = over {
            self.tell_landed(token, &watchers);
            self.cooldowns.lock().recovered(&flight.key);
            if flight.plan.batch.is_some() {
                self.figures.counters.route(RouteEvent::BackgroundUpdate, flight.plan.route);
            }
            self.ended(&flight, ended, Outcome::Aborted);
            let batch = self.finish(&flight, None, now);
            self.sought.lock().insert(token, (entry, batch));
        }
        Some(flight.plan.thread)
    }

    /// Keeps in memory, under the key's lock, what was found behind it, unless something has cut it since `seq`.
    fn admit(&self, lock: &mut KeyLock<'_>, entry: Entry, seq: u64, route: u16, outdated: bool) -> Option<Entry> {
        let verdict = self.facts.judge(entry.key(), entry.links(), seq);
        if verdict.mark.hard > 0 {
            return None;
        }
        let mut entry = if outdated || verdict.mark.soft > 0 { entry.outdated() } else { entry };
        entry.adopt(seq.max(verdict.as_of), self.next_version(), route);
        let before = self.memory.peek(entry.key());
        let mark = before.as_ref().map(|before| self.facts.judge_entry(before)).unwrap_or_default();
        if self.memory.insert(entry.clone()) {
            let changed =
                before.is_some_and(|before| before.codec() != entry.codec() || before.value() != entry.value());
            self.key_stored(lock, &entry, mark, changed);
        }
        Some(entry)
    }

    /// What [`Engine::sought`] has found for a flight, once, and what that means for its batch: None where its fetcher is to run, or
    /// the flight has ended otherwise.
    pub fn take_sought(&self, token: Token) -> Option<(Found, BatchEnd)> {
        let (entry, batch) = self.sought.lock().remove(&token)?;
        let now = self.clock.now_millis();
        let (freshness, age, outdated) = (entry.freshness(now), entry.age(now), entry.is_outdated());
        // It was served at the moment it was found.
        let freshness = if outdated || freshness != Freshness::Fresh { Freshness::Stale } else { freshness };
        let mut found = Found { entry, freshness, age, refresh_due: false, near_until: 0, outdated };
        self.judge_refresh(&mut found, now);
        Some((found, batch))
    }

    /// Whether a flight has not ended.
    pub fn is_open(&self, token: Token) -> bool {
        self.flights.is_alive(token)
    }

    /// Whether a flight has a copy in hand.
    pub fn has_copy(&self, token: Token) -> bool {
        self.flights.by_token(token).is_some_and(|flight| flight.state.lock().stale.is_some())
    }

    /// What can be found behind memory at once.
    pub(super) fn seek_now(&self, key: &[u8], now: Millis) -> Option<Found> {
        let behind = self.behind()?;
        let seq = self.facts.current();
        let entry = behind.seek_now(self, key)?;
        if entry.dead_at() <= now {
            return None;
        }
        self.register_parents(entry.links());
        let mut lock = self.flights.lock(key);
        // Somebody loads it, or has written it meanwhile.
        if lock.attached().is_some()
            || lock.recent().changes(hash_key(key)).hard > seq
            || self.memory.peek(key).is_some()
        {
            return None;
        }
        let entry = self.admit(&mut lock, entry, seq, 0, false)?;
        drop(lock);
        self.expects_expiry(entry.dead_at());
        self.judge(entry, now).filter(Found::is_servable)
    }

    /// Something was invalidated by another process: applied here as if by this one, but for telling the tiers. `text` is what
    /// [`Event::Invalidated`] says.
    pub fn apply(&self, target: &Target, text: &str, soft: bool) {
        match target {
            Target::Key(key) if soft => _ = self.outdate(target, key, true),
            Target::Key(key) => _ = self.forget_value(key, true),
            _ => _ = self.invalidate_here(&Invalidation { target, text, soft }, true),
        }
    }

    /// Whether nothing known here has cut an entry that is in memory, or waits to be written.
    pub fn is_valid(&self, entry: &Entry) -> bool {
        self.facts.judge_entry(entry).hard == 0
    }

    /// The parents among the links of an entry of which it is not known here what tags and parents they have in turn.
    pub fn unknown_parents(&self, entry: &Entry) -> Vec<Arc<[u8]>> {
        let parents =
            links::names(entry.links()).filter(|(role, name)| role.is_own() && !role.is_tag() && *name != entry.key());
        let is_here = |name: &[u8]| self.memory.peek(name).is_some_and(|held| self.is_valid(&held));
        parents
            .filter(|(_, name)| !is_here(name) && !self.facts.has_learnt(name))
            .map(|(_, name)| name.into())
            .collect()
    }

    /// Takes in what tags and parents a parent has behind memory, asked at the number `asked`. They count for what is not older than
    /// `since`.
    pub fn learn_parent(&self, name: &[u8], has: &[u8], since: u64, asked: u64) {
        self.register_parents(has);
        let mut lock = self.flights.lock(name);
        let held = self.memory.peek(name);
        self.register_parent(&mut lock, name, held.as_ref());
        if held.is_some_and(|held| self.is_valid(&held)) {
            // It came meanwhile.
            return;
        }
        if self.facts.learn(name, has, since, asked) {
            self.sweep_at(self.sweeper.want_later(self.clock.now_millis()));
        }
        // Copies of its children are to be covered by its tags and parents.
        self.stamps.shared_changed(&[self.stamps.slot(hash_key(name))]);
    }

    /// The links of an entry, and what its parents have that is known by now.
    pub fn all_links(&self, entry: &Entry) -> Vec<u8> {
        let mut links = entry.links().to_vec();
        self.facts.inherit(entry.key(), &mut links);
        links
    }

    /// The entry in the form that memory has it in by now: compressed, perhaps.
    pub fn form_of(&self, entry: &Entry) -> Entry {
        match self.memory.peek(entry.key()) {
            Some(held) if held.header().version == entry.header().version => held,
            _ => entry.clone(),
        }
    }

    /// How values are compressed.
    pub fn compression(&self) -> Option<super::Compression> {
        self.config.compression
    }

    /// Both clocks, at this moment.
    pub fn clocks(&self) -> crate::codec::envelope::Clocks {
        let now = self.clock.now_millis();
        crate::codec::envelope::Clocks { now, unix: self.unix_of(now) }
    }

    /// Tells a thread something. False: it is gone.
    pub fn post(&self, thread: ThreadId, event: Event) -> bool {
        self.figures.post(thread, event)
    }

    /// Tells one of the threads something that concerns them all; the first that comes, if there is none yet.
    pub fn post_to_any(&self, event: Event) {
        let inboxes = self.figures.inboxes.read();
        let Some(&(thread, _)) = inboxes.first() else {
            let mut unheard = self.figures.unheard.lock();
            if unheard.len() < MOST_UNHEARD {
                unheard.push(event);
            }
            return;
        };
        drop(inboxes);
        self.figures.post(thread, event);
    }
}
