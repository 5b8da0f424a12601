//! The tiers of one cache, one behind the other: what stands [behind](Behind) the memory tier.
//!
//! Each tier has its guard, its [ledger](super::ledger) of facts and its [outbox](super::outbox). A look-up asks them in their order; what is
//! found goes to the nearer ones. What is written, deleted or invalidated goes to all. What the log of a tier tells of others is applied in
//! memory, and passed on to the tiers that are nearer: those that are farther hear of it from whoever did it, and so do those nearer ones
//! that are his, too.
//!
//! Where a log stands behind another (Redis behind a disk), what is invalidated or deleted goes to the farther one first, and the farther one is
//! read up to its end before what is found there is judged: whoever has heard of a change by the nearer log cannot take what was before from
//! the farther tier, and put it where it would count as newer than the change.
//!
//! Nothing that a tier holds is served before its facts of earlier times are known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::debts;
use super::outbox::{Before, Known, Op};
use super::slot::Slot;
use super::{Fact, Key, Lease, Page, Rest, Runtime, Tier, TierError, TierFigures, unix_now};
use crate::clock::FOREVER;
use crate::engine::{Behind, Engine, Event, Positions, Seek, ThreadId, Trouble};
use crate::entry::{Entry, Freshness};
use crate::invalidation::facts::inherit_from;
use crate::invalidation::links;
use crate::invalidation::target::Target;
use crate::load::flights::Token;

/// How long a fact is kept by a tier, at least: 30 days in milliseconds. Longer where an entry that it could cut lives longer.
const KEPT: u64 = 30 * 24 * 3_600_000;

/// How long a lease is waited for at most.
const LEASE: Duration = Duration::from_secs(60);

/// One tier, to be opened.
pub struct Layer {
    pub tier: Arc<dyn Tier>,
    /// How long one call may take.
    pub timeout: Duration,
}

/// What a call that is answered later has come to.
#[derive(Debug)]
pub enum Behindhand {
    Page(Result<Page, TierError>),
    Version(Result<u64, Trouble>),
}

/// See the module.
pub struct Tiers {
    runtime: Arc<Runtime>,
    engine: Weak<Engine>,
    /// The log that this process's own numbers are of.
    epoch: u64,
    slots: Box<[Arc<Slot>]>,
    /// The latest end of any entry that passed, in milliseconds since the UNIX epoch.
    longest: AtomicU64,
    leases: Mutex<HashMap<Token, Box<dyn Send + Sync>>>,
    results: Mutex<HashMap<u64, Behindhand>>,
    last_receipt: AtomicU64,
}

impl Tiers {
    /// Puts tiers behind an engine, the nearest first.
    pub fn open(engine: &Arc<Engine>, runtime: Arc<Runtime>, layers: Vec<Layer>) -> Arc<Self> {
        let epoch = fastrand::u64(1..);
        let tiers = Arc::new_cyclic(|shared: &Weak<Self>| {
            let slot = |(index, layer): (usize, Layer)| Arc::new(Slot::new(index, layer, epoch, Weak::clone(shared)));
            Self {
                runtime,
                engine: Arc::downgrade(engine),
                epoch,
                slots: layers.into_iter().enumerate().map(slot).collect(),
                longest: AtomicU64::new(0),
                leases: Mutex::default(),
                results: Mutex::default(),
                last_receipt: AtomicU64::new(0),
            }
        });
        tiers.slots.iter().for_each(|slot| slot.start(tiers.runtime()));
        engine.set_behind(Arc::clone(&tiers) as Arc<dyn Behind>);
        tiers
    }

    fn next_receipt(&self) -> u64 {
        self.last_receipt.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells a thread by [`Event::Delivered`] when all that was handed over so far has reached the tiers; `all`: not only those
    /// that writers wait for. 0: it has.
    pub fn receipt(&self, thread: ThreadId, all: bool) -> u64 {
        let waited = self.slots.iter().filter(|slot| all || slot.guarded.is_awaited());
        let waits: Vec<_> = waited.filter_map(|slot| Some((Arc::clone(slot), slot.outbox.receipt()?))).collect();
        if waits.is_empty() {
            return 0;
        }
        let receipt = self.next_receipt();
        let engine = Weak::clone(&self.engine);
        self.runtime.handle().spawn(async move {
            let mut trouble = None;
            for (slot, wait) in waits {
                if let Err(error) = wait.await.unwrap_or_else(|_| Err(TierError::closed())) {
                    trouble.get_or_insert(slot.trouble(&error, None));
                }
            }
            tell(&engine, thread, receipt, trouble);
        });
        receipt
    }

    /// Waits, until then, for everything to land in every tier; `close`: and closes them. [`Event::Delivered`] tells.
    pub fn flush(self: &Arc<Self>, thread: ThreadId, within: Duration, close: bool) -> u64 {
        let receipt = self.next_receipt();
        let tiers = Arc::clone(self);
        let deadline = Instant::now() + within.min(Duration::from_secs(365 * 24 * 3600));
        self.runtime.handle().spawn(async move {
            let mut trouble = None;
            if close {
                for slot in &tiers.slots {
                    let _ = timeout_at(deadline, slot.write_notes()).await;
                }
            }
            for slot in &tiers.slots {
                if let Err(error) = slot.finish(deadline, close).await {
                    trouble.get_or_insert(slot.trouble(&error, None));
                }
            }
            tell(&tiers.engine, thread, receipt, trouble);
        });
        receipt
    }

    fn slot(&self, name: &str) -> Option<&Arc<Slot>> {
        self.slots.iter().find(|slot| *slot.name == *name)
    }

    /// Lists keys of a tier; [`Event::Delivered`] tells when [`Tiers::take`] has them. 0: there is no such tier.
    pub fn list(
        self: &Arc<Self>,
        thread: ThreadId,
        tier: &str,
        prefix: &[u8],
        limit: usize,
        cursor: Option<String>,
    ) -> u64 {
        let Some(slot) = self.slot(tier).cloned() else { return 0 };
        let prefix = prefix.to_vec();
        self.later(thread, async move {
            let mut page = slot.guarded.list(prefix, limit, cursor).await;
            if let Ok(page) = &mut page {
                page.keys.retain(|listed| !debts::is_key(&listed.key));
            }
            Behindhand::Page(page)
        })
    }

    /// Asks a log for a counter's next number above that one, or without one for the number that it gave last; as
    /// [`Tiers::list`]. 0: there is no log.
    pub fn version(self: &Arc<Self>, thread: ThreadId, name: &[u8], above: Option<u64>) -> u64 {
        // The farthest one: it is shared by most.
        let Some(slot) = self.slots.iter().rev().find(|slot| slot.guarded.log().is_some()).cloned() else { return 0 };
        let name: Key = name.into();
        self.later(thread, async move {
            let version = match (slot.guarded.log(), above) {
                (Some(log), Some(above)) => log.next_version(name, above).await,
                (Some(log), None) => log.last_version(name).await,
                (None, _) => Err(TierError::closed()),
            };
            Behindhand::Version(version.map_err(|error| slot.trouble(&error, None)))
        })
    }

    fn later(self: &Arc<Self>, thread: ThreadId, call: impl Future<Output = Behindhand> + Send + 'static) -> u64 {
        let receipt = self.next_receipt();
        let tiers = Arc::clone(self);
        self.runtime.handle().spawn(async move {
            let result = call.await;
            tiers.results.lock().insert(receipt, result);
            if !tell(&tiers.engine, thread, receipt, None) {
                tiers.results.lock().remove(&receipt);
            }
        });
        receipt
    }

    /// What a call has come to, once.
    pub fn take(&self, receipt: u64) -> Option<Behindhand> {
        self.results.lock().remove(&receipt)
    }

    /// The word of the nearest log that has one: see [`super::SharedLog::head`].
    pub fn head(&self) -> Option<Arc<dyn AsRef<AtomicU32> + Send + Sync>> {
        self.slots.iter().find_map(|slot| slot.guarded.log()?.head())
    }

    // ------------------------------------------------------------ looking

    async fn look(self: Arc<Self>, seeks: Vec<Seek>) {
        let positions = self.positions();
        let mut found: Vec<Option<Entry>> = seeks.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..seeks.len()).collect();
        let mut done = vec![false; seeks.len()];
        for slot in &self.slots {
            let asked: Vec<usize> =
                open.iter().copied().filter(|n| !seeks[*n].fresh_only || slot.guarded.log().is_some()).collect();
            let keys = asked.iter().map(|n| Arc::clone(&seeks[*n].key)).collect();
            let entries = slot.get(keys).await;
            let Some(now) = self.engine.upgrade().map(|engine| engine.clocks().now) else { return };
            for (n, entry) in asked.into_iter().zip(entries) {
                let Some(entry) = entry else { continue };
                let freshness = entry.freshness(now);
                let enough = match freshness {
                    Freshness::Fresh => !entry.is_outdated() || !seeks[n].fresh_only,
                    Freshness::Stale => !seeks[n].fresh_only,
                    Freshness::OnError | Freshness::Dead => false,
                };
                if enough {
                    self.refill(slot.index, &entry, &positions);
                    done[n] = true;
                }
                if enough || freshness == Freshness::OnError && found[n].is_none() && !seeks[n].fresh_only {
                    found[n] = Some(entry);
                }
            }
            open.retain(|n| !done[*n]);
            if open.is_empty() {
                break;
            }
        }
        let leased = self.slots.iter().any(|slot| slot.guarded.leases().is_some());
        let mut results = Vec::with_capacity(seeks.len());
        for ((seek, found), done) in seeks.into_iter().zip(found).zip(done) {
            if leased && seek.loads && !done {
                let tiers = Arc::clone(&self);
                self.runtime.handle().spawn(async move { tiers.lease(seek, found).await });
            } else {
                results.push((seek.token, found));
            }
        }
        if let Some(engine) = self.engine.upgrade() {
            engine.sought(results);
        }
    }

    /// Puts what was found in a tier into the nearer ones.
    fn refill(&self, index: usize, entry: &Entry, positions: &Positions) {
        let has_log = |slot: &Slot| slot.guarded.log().is_some();
        let depends = links::names(entry.links()).any(|(role, _)| !role.is_tag());
        // Whether its parents have changed is known by the numbers of the log where it was found, which the nearer log does not have.
        let stays = depends && has_log(&self.slots[index]);
        for slot in self.slots[..index].iter().filter(|slot| !(stays && has_log(slot))) {
            let load = Some(positions[slot.index]);
            slot.push(Op::Put { entry: entry.clone(), load, seq: 0 }, Some(entry.key().into()));
        }
    }

    /// Waits for the right to load a key that no tier has, or for the value that another process loads.
    async fn lease(self: Arc<Self>, seek: Seek, found: Option<Entry>) {
        let deadline = Instant::now() + LEASE;
        let Some(slot) = self.slots.iter().find(|slot| slot.guarded.leases().is_some()) else { return };
        let mut found = found;
        while slot.guarded.rest() == Rest::Closed
            && let Some(leases) = slot.guarded.leases()
        {
            match timeout_at(deadline, leases.acquire(Arc::clone(&seek.key))).await {
                Ok(Ok(Lease::Held(lease))) => {
                    self.leases.lock().insert(seek.token, lease);
                    if !self.engine.upgrade().is_some_and(|engine| engine.is_open(seek.token)) {
                        self.leases.lock().remove(&seek.token);
                    }
                    break;
                }
                Ok(Ok(Lease::Released)) => {
                    let entry = slot.get(vec![Arc::clone(&seek.key)]).await.pop().flatten();
                    let Some(engine) = self.engine.upgrade() else { return };
                    if !engine.is_open(seek.token) {
                        return;
                    }
                    if let Some(entry) = entry
                        && entry.freshness(engine.clocks().now) == Freshness::Fresh
                    {
                        self.refill(slot.index, &entry, &self.positions());
                        found = Some(entry);
                        break;
                    }
                }
                Ok(Err(_)) | Err(_) => break,
            }
        }
        if let Some(engine) = self.engine.upgrade() {
            engine.sought([(seek.token, found)]);
        }
    }

    // ------------------------------------------------------------ parents

    /// The links of these entries, with what their parents have in turn. What that is of parents that another process has put is asked of the
    /// tiers: what is known of them there is in their records, so that one look is enough. One that is nowhere is looked for again by
    /// the next that names it.
    ///
    /// What is known here may be forgotten at any moment, when another process is heard of, or be learnt for another tier; so it is taken down
    /// before it is looked which parents are not known, and again after.
    pub(super) async fn all_links(&self, entries: &[(Entry, u64)]) -> Vec<Arc<[u8]>> {
        let Some(engine) = self.engine.upgrade() else {
            return entries.iter().map(|(entry, _)| entry.links().into()).collect();
        };
        let mut links: Vec<Vec<u8>> = entries.iter().map(|(entry, _)| engine.all_links(entry)).collect();
        // What was found in a tier has what its parents had when it was written.
        let unknown = |(entry, seq): &(Entry, u64)| if *seq > 0 { engine.unknown_parents(entry) } else { Vec::new() };
        let unknown: Vec<Vec<Key>> = entries.iter().map(unknown).collect();
        let learnt = self.learn_parents(&engine, entries, &unknown).await;
        for (((entry, _), links), unknown) in entries.iter().zip(&mut links).zip(unknown) {
            for parent in unknown.iter().filter_map(|parent| learnt.get(parent)) {
                inherit_from(entry.key(), links, parent);
            }
            inherit_from(entry.key(), links, &engine.all_links(entry));
        }
        links.into_iter().map(Arc::from).collect()
    }

    /// Asks the tiers for the unknown parents of entries, and has the engine take in what they have; gives that.
    async fn learn_parents(
        &self,
        engine: &Engine,
        entries: &[(Entry, u64)],
        unknown: &[Vec<Key>],
    ) -> HashMap<Key, Arc<[u8]>> {
        let mut learnt = HashMap::new();
        let mut since: HashMap<Key, u64> = HashMap::new();
        for ((_, seq), parents) in entries.iter().zip(unknown) {
            for parent in parents {
                let oldest = since.entry(Arc::clone(parent)).or_insert(u64::MAX);
                *oldest = *seq.min(oldest);
            }
        }
        let asked = engine.current();
        for slot in self.slots.iter().filter(|slot| slot.guarded.log().is_some()) {
            if since.is_empty() {
                break;
            }
            for (key, links) in slot.links_of(since.keys().cloned().collect()).await {
                if let Some(since) = since.remove(&key) {
                    engine.learn_parent(&key, &links, since, asked);
                    learnt.insert(key, links);
                }
            }
        }
        learnt
    }

    // ------------------------------------------------------------ what its slots ask

    pub(super) fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    pub(super) fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.upgrade()
    }

    /// The log that this process's own numbers are of.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// Until when a fact of this moment is to be kept.
    pub(super) fn until(&self) -> u64 {
        match self.longest.load(Ordering::Relaxed) {
            FOREVER => FOREVER,
            longest => longest.max(unix_now() + KEPT),
        }
    }

    fn has_passed(&self, dead_at: u64) {
        self.longest.fetch_max(dead_at, Ordering::Relaxed);
    }
}

/// False: the thread is gone.
fn tell(engine: &Weak<Engine>, thread: ThreadId, receipt: u64, trouble: Option<Trouble>) -> bool {
    engine.upgrade().is_some_and(|engine| engine.post(thread, Event::Delivered { receipt, trouble }))
}

impl Behind for Tiers {
    fn positions(&self) -> Positions {
        self.slots.iter().map(|slot| slot.position()).collect()
    }

    fn catch_up(&self) {
        for slot in &self.slots {
            if let Some(log) = slot.guarded.log()
                && log.is_behind()
            {
                log.catch_up();
            }
        }
    }

    fn seek(&self, seeks: Vec<Seek>) {
        let Some(tiers) = self.slots.first().and_then(|slot| slot.shared.upgrade()) else { return };
        self.runtime.handle().spawn(tiers.look(seeks));
    }

    fn seek_now(&self, engine: &Engine, key: &[u8]) -> Option<Entry> {
        let slot = self.slots.first()?;
        if !slot.is_ready_now(self) {
            return None;
        }
        match slot.outbox.known(key) {
            Some(Known::Entry(entry)) => return Some(entry).filter(|entry| engine.is_valid(entry)),
            Some(Known::Gone) => return None,
            None => {}
        }
        let record = slot.guarded.get_now(key)?.ok()??;
        if !slot.unknown_parents(&record).is_empty() {
            return None;
        }
        slot.judged(&record, &engine.clocks())
    }

    fn stored(&self, entry: &Entry, load: Option<&Positions>) {
        if let Some(engine) = self.engine.upgrade() {
            self.has_passed(engine.clocks().unix_of(entry.dead_at()));
        }
        for slot in &self.slots {
            if slot.guarded.log().is_some_and(|log| log.position().epoch == 0) {
                slot.early.store(true, Ordering::SeqCst);
            }
            let load = load.map(|positions| positions.get(slot.index).copied().unwrap_or_default());
            slot.push(Op::Put { entry: entry.clone(), load, seq: entry.seq() }, Some(entry.key().into()));
            if load.is_none() && slot.guarded.log().is_none() {
                // For what depends on it, and lies in the tier.
                slot.ledger.lock().note(&self.fact(Target::Key(entry.key().into()), false, entry.seq()));
            }
        }
    }

    fn gone(&self, key: &[u8], number: u64) {
        for (slot, after) in self.farthest_first() {
            slot.push_after(Op::Delete, Some(key.into()), after);
            if slot.guarded.log().is_none() {
                slot.ledger.lock().note(&self.fact(Target::Key(key.into()), false, number));
            }
        }
    }

    fn invalidating(&self, target: &Target) {
        self.slots.iter().for_each(|slot| slot.outbox.announce(target));
    }

    fn invalidated(&self, target: &Target, soft: bool, number: u64) {
        let fact = self.fact(target.clone(), soft, number);
        for (slot, after) in self.farthest_first() {
            slot.push_after(Op::Mark(fact.clone()), None, after);
            slot.outbox.withdraw(target);
        }
    }

    fn ended(&self, token: Token) {
        let Some(lease) = self.leases.lock().remove(&token) else { return };
        let landing: Vec<_> = self.slots.iter().filter_map(|slot| slot.outbox.receipt()).collect();
        self.runtime.handle().spawn(async move {
            // Those who wait find what was loaded.
            for landed in landing {
                let _ = landed.await;
            }
            drop(lease);
        });
    }

    fn figures(&self) -> Vec<(Arc<str>, TierFigures)> {
        let of = |slot: &Arc<Slot>| {
            let mut figures = slot.guarded.figures();
            figures.pending += slot.outbox.len();
            (Arc::clone(&slot.name), figures)
        };
        self.slots.iter().map(of).collect()
    }
}

impl Tiers {
    /// The slots, from the farthest on, each with what has to have arrived before: what was handed to the farther logs last.
    fn farthest_first(&self) -> impl Iterator<Item = (&Arc<Slot>, Vec<Before>)> {
        let mut farther: Vec<&Arc<Slot>> = Vec::new();
        self.slots.iter().rev().map(move |slot| {
            let before = |slot: &&Arc<Slot>| Before { slot: slot.index, number: slot.outbox.last() };
            let has_log = slot.guarded.log().is_some();
            let after = if has_log { farther.iter().map(before).collect() } else { Vec::new() };
            farther.extend(has_log.then_some(slot));
            (slot, after)
        })
    }

    fn fact(&self, target: Target, soft: bool, number: u64) -> Fact {
        Fact { target, soft, seq: number, epoch: self.epoch, at: unix_now(), until: self.until() }
    }
}

impl Drop for Tiers {
    fn drop(&mut self) {
        for slot in &self.slots {
            slot.outbox.end();
            let slot = Arc::clone(slot);
            self.runtime.handle().spawn(async move {
                let deadline = Instant::now() + Duration::from_secs(1);
                // Whoever wanted to know has closed it before.
                let _ = slot.guarded.close_until(deadline).await;
            });
        }
    }
}
