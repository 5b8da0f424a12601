//! The tiers of one cache, one behind the other: what stands [behind](Behind) the memory tier.
//!
//! Each tier has its guard, its [ledger](super::ledger) of facts and its [outbox](super::outbox). A look-up asks them in their order; what is
//! found goes to the nearer ones. What is written, deleted or invalidated goes to all. What the log of a tier tells of others is applied in
//! memory, and passed on to the tiers that are nearer: those that are farther hear of it from whoever did it.
//!
//! Nothing that a tier holds is served before its facts of earlier times are known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout_at};

use super::debts;
use super::ledger::Ledger;
use super::outbox::{Known, Op, Outbox, Owed, Post};
use super::{
    Answer, Fact, Guarded, Key, Lease, Page, Put, Record, Rest, Runtime, SharedLog, Tier, TierError, TierFigures, Told,
    Watcher, text_of, unix_now,
};
use crate::clock::FOREVER;
use crate::codec::workshop::Tools;
use crate::engine::{Behind, Engine, Event, Positions, Seek, ThreadId, Trouble};
use crate::entry::{Entry, Freshness};
use crate::invalidation::links;
use crate::invalidation::markers::Mark;
use crate::invalidation::target::Target;
use crate::load::flights::Token;

/// How long a fact is kept by a tier, at least: 30 days in milliseconds. Longer where an entry that it could cut lives longer.
const KEPT: u64 = 30 * 24 * 3_600_000;

/// Between two attempts to read the facts of earlier times: at first, and at most.
const SOON: Duration = Duration::from_millis(5);
const AGAIN: Duration = Duration::from_millis(500);

/// Notes of earlier processes that are looked for.
const MOST_NOTES: usize = 1000;

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
    Version(Result<u64, TierError>),
}

struct Slot {
    index: usize,
    name: Arc<str>,
    guarded: Guarded,
    ledger: Mutex<Ledger>,
    outbox: Outbox,
    /// The facts of earlier times are known.
    ready: watch::Sender<bool>,
    /// How long that is waited for.
    patience: Duration,
    /// When that is over: the time is given once, not to each look-up.
    waits_until: Mutex<Instant>,
    /// The log has once been read.
    known: AtomicBool,
    /// Something was stored here before that.
    early: AtomicBool,
    /// From which number of the log on every changed key is in the ledger.
    since: AtomicU64,
    /// What the log has of before was taken in.
    past: OnceCell<()>,
    /// What earlier processes owed this tier, taken up: where that is written down.
    notes: Mutex<Vec<Key>>,
    tools: Mutex<Tools>,
    shared: Weak<Tiers>,
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
            let slot = |(index, layer): (usize, Layer)| {
                Arc::new(Slot {
                    index,
                    name: layer.tier.name().into(),
                    patience: layer.timeout,
                    waits_until: Mutex::new(Instant::now() + layer.timeout),
                    guarded: Guarded::new(layer.tier, layer.timeout),
                    ledger: Mutex::new(Ledger::new(epoch)),
                    outbox: Outbox::default(),
                    ready: watch::Sender::new(false),
                    known: AtomicBool::new(false),
                    early: AtomicBool::new(false),
                    since: AtomicU64::new(u64::MAX),
                    past: OnceCell::new(),
                    notes: Mutex::default(),
                    tools: Mutex::default(),
                    shared: Weak::clone(shared),
                })
            };
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
        for slot in &tiers.slots {
            if let Some(log) = slot.guarded.log() {
                let watcher: Weak<dyn Watcher> = Arc::downgrade(slot) as Weak<dyn Watcher>;
                log.watch(watcher);
                slot.known.fetch_or(log.position().epoch != 0, Ordering::SeqCst);
            }
            let sender = Arc::clone(slot);
            tiers.runtime.handle().spawn(async move { sender.outbox.run(&sender.guarded, &*sender).await });
            tiers.learn(slot);
        }
        engine.set_behind(Arc::clone(&tiers) as Arc<dyn Behind>);
        tiers
    }

    /// Has the facts of earlier times read.
    fn learn(&self, slot: &Arc<Slot>) {
        let slot = Arc::clone(slot);
        self.runtime.handle().spawn(async move {
            let mut pause = SOON;
            let mut knows_debts = false;
            loop {
                if slot.shared.upgrade().is_none() {
                    return;
                }
                knows_debts = knows_debts || slot.take_up_debts().await;
                let position = slot.guarded.log().map(SharedLog::position);
                let epoch = position.map(|position| position.epoch);
                if knows_debts
                    && epoch != Some(0)
                    && let Ok(facts) = slot.guarded.read_markers(0).await
                {
                    let mut ledger = slot.ledger.lock();
                    if let Some(epoch) = epoch {
                        ledger.turn_to(epoch);
                    }
                    facts.iter().for_each(|fact| ledger.note(fact));
                    slot.since.store(position.map_or(0, |position| position.seq), Ordering::SeqCst);
                    drop(ledger);
                    slot.ready.send_replace(true);
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN);
            }
        });
    }

    fn next_receipt(&self) -> u64 {
        self.last_receipt.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells a thread by [`Event::Delivered`] when all that was handed over so far has reached the tiers; `all`: not only those
    /// that writers wait for. 0: it has.
    pub fn receipt(&self, thread: ThreadId, all: bool) -> u64 {
        let waited = self.slots.iter().filter(|slot| all || slot.guarded.is_awaited());
        let waits: Vec<_> = waited.filter_map(|slot| Some((Arc::clone(&slot.name), slot.outbox.receipt()?))).collect();
        if waits.is_empty() {
            return 0;
        }
        let receipt = self.next_receipt();
        let engine = Weak::clone(&self.engine);
        self.runtime.handle().spawn(async move {
            let mut trouble = None;
            for (tier, wait) in waits {
                let error = match wait.await {
                    Ok(Ok(())) => continue,
                    Ok(Err(error)) => error,
                    Err(_) => TierError::closed(),
                };
                trouble.get_or_insert(Trouble { tier, message: error.message.as_ref().into(), key: None });
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

    /// Asks the nearest log for the next number of a counter, above that one; as [`Tiers::list`]. 0: there is no log.
    pub fn next_version(self: &Arc<Self>, thread: ThreadId, name: &[u8], above: u64) -> u64 {
        // The farthest one: it is shared by most.
        let Some(slot) = self.slots.iter().rev().find(|slot| slot.guarded.log().is_some()).cloned() else { return 0 };
        let name: Key = name.into();
        self.later(thread, async move {
            Behindhand::Version(match slot.guarded.log() {
                Some(log) => log.next_version(name, above).await,
                None => Err(TierError::closed()),
            })
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

    /// Whether loads are to look here first.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
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
            for (n, entry) in asked.into_iter().zip(slot.get(keys).await) {
                let Some(entry) = entry else { continue };
                let Some(engine) = self.engine.upgrade() else { return };
                let freshness = entry.freshness(engine.clocks().now);
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
        for slot in &self.slots[..index] {
            slot.push(Op::Put { entry: entry.clone(), load: Some(positions[slot.index]) }, Some(entry.key().into()));
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

    fn until(&self) -> u64 {
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

    fn catch_up(&self, _engine: &Engine) {
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
        if !*slot.ready.borrow() {
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
        slot.judged(engine, &record)
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
            slot.push(Op::Put { entry: entry.clone(), load }, Some(entry.key().into()));
            if load.is_none() && slot.guarded.log().is_none() {
                // For what depends on it, and lies in the tier.
                slot.ledger.lock().note(&self.fact(Target::Key(entry.key().into()), false, entry.seq()));
            }
        }
    }

    fn gone(&self, key: &[u8], number: u64) {
        for slot in &self.slots {
            slot.push(Op::Delete, Some(key.into()));
            if slot.guarded.log().is_none() {
                slot.ledger.lock().note(&self.fact(Target::Key(key.into()), false, number));
            }
        }
    }

    fn invalidated(&self, target: &Target, soft: bool, number: u64) {
        let fact = self.fact(target.clone(), soft, number);
        for slot in &self.slots {
            slot.push(Op::Mark(fact.clone()), None);
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

    fn forget(&self, _thread: ThreadId) {
        // Receipts that nobody waits for end by themselves.
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
    fn fact(&self, target: Target, soft: bool, number: u64) -> Fact {
        Fact { target, soft, seq: number, epoch: self.epoch, at: unix_now(), until: self.until() }
    }
}

impl Slot {
    /// Where it can be written down what this tier is owed.
    fn durable(&self) -> Option<Arc<Self>> {
        let shared = self.shared.upgrade()?;
        shared.slots.iter().find(|slot| slot.index != self.index && slot.guarded.is_awaited()).cloned()
    }

    /// Takes up what earlier processes owed this tier. False: it cannot be known yet.
    async fn take_up_debts(&self) -> bool {
        let Some(durable) = self.durable() else { return true };
        let Ok(page) = durable.guarded.list(debts::prefix(&self.name), MOST_NOTES, None).await else { return false };
        let keys: Vec<Key> = page.keys.into_iter().map(|listed| listed.key).collect();
        let (at, until) = (unix_now(), self.shared.upgrade().map_or(FOREVER, |shared| shared.until()));
        for note in durable.guarded.get_many(keys.clone()).await {
            let Ok(note) = note else { return false };
            for Owed { target, soft } in note.as_ref().map(debts::read).unwrap_or_default() {
                match &target {
                    Target::Key(key) if !soft => self.push(Op::Delete, Some((&**key).into())),
                    _ => self.push(Op::Mark(Fact { target, soft, seq: 0, epoch: 0, at, until }), None),
                }
            }
        }
        if !keys.is_empty() {
            *self.notes.lock() = keys;
            self.outbox.takes_up_debts();
        }
        true
    }

    fn position(&self) -> (u64, u64) {
        self.guarded.log().map_or((0, 0), |log| {
            let position = log.position();
            (position.epoch, position.seq)
        })
    }

    fn trouble(&self, error: &TierError, key: Option<&Key>) -> Trouble {
        Trouble {
            tier: Arc::clone(&self.name),
            message: error.message.as_ref().into(),
            key: key.map(|key| String::from_utf8_lossy(key).into()),
        }
    }

    fn report(&self, error: &TierError, key: Option<&Key>) {
        if let Some(engine) = self.engine() {
            engine.post_to_any(Event::Ailing(self.trouble(error, key)));
        }
    }

    fn engine(&self) -> Option<Arc<Engine>> {
        self.shared.upgrade()?.engine.upgrade()
    }

    fn push(&self, op: Op, key: Option<Key>) {
        let lost = self.outbox.push(op, key);
        if let Some(first) = lost.first() {
            let message =
                format!("tier '{}' does not keep up: {} pending records were given up", self.name, lost.len());
            self.report(&TierError::new(super::TierErrorKind::Unavailable, message), Some(first));
        }
    }

    /// The entry of a record that nothing has cut.
    fn judged(&self, engine: &Engine, record: &Record) -> Option<Entry> {
        if self.outbox.cuts(record) {
            return None;
        }
        let Mark { hard, soft } = self.ledger.lock().judge(record);
        if hard > 0 {
            return None;
        }
        let entry = record.envelope().entry(0, &engine.clocks());
        Some(if soft > 0 { entry.outdated() } else { entry })
    }

    /// Whether the facts of earlier times are known, or become so in the time that a tier has for it.
    async fn is_ready(&self) -> bool {
        *self.ready.borrow() || {
            let mut ready = self.ready.subscribe();
            let until = *self.waits_until.lock();
            timeout_at(until, ready.wait_for(|ready| *ready)).await.is_ok_and(|ready| ready.is_ok())
        }
    }

    /// The parents of a record of which it is not known here whether they have changed since it was written: it is older than what
    /// the ledger has of changed keys.
    fn unknown_parents(&self, record: &Record) -> Vec<Key> {
        if record.links.is_empty() {
            return Vec::new();
        }
        let is_known = record.epoch == self.ledger.lock().epoch() && record.seq >= self.since.load(Ordering::SeqCst);
        let parents =
            links::names(&record.links).filter(|(role, name)| !is_known && !role.is_tag() && **name != *record.key);
        parents.map(|(_, name)| Key::from(name)).collect()
    }

    /// Takes in what the log still has of the time before this process, once that is of use.
    async fn learn_past(&self) {
        let learn = async {
            let log = self.guarded.log().ok_or(())?;
            let (whole, facts) =
                timeout_at(Instant::now() + self.patience * 5, log.past()).await.map_err(drop)?.map_err(drop)?;
            let mut ledger = self.ledger.lock();
            facts.iter().for_each(|fact| ledger.note(fact));
            self.since.fetch_min(whole, Ordering::SeqCst);
            Ok::<(), ()>(())
        };
        // If it cannot be had now it is asked for again by the next.
        let _ = self.past.get_or_try_init(|| learn).await;
    }

    /// Whether a record is as good as its parents are old. What the tier has of these tells; of one that it does not have nothing
    /// is known, and that counts as changed.
    async fn outlived_its_parents(&self, record: &Record) -> bool {
        if self.unknown_parents(record).is_empty() {
            return true;
        }
        self.learn_past().await;
        let parents = self.unknown_parents(record);
        if parents.is_empty() {
            return true;
        }
        let is_older = |parent: &Record| {
            if parent.epoch == record.epoch { parent.seq <= record.seq } else { parent.stored_at <= record.stored_at }
        };
        let found = self.guarded.get_many(parents).await;
        found.iter().all(|parent| matches!(parent, Ok(Some(parent)) if is_older(parent)))
    }

    /// Looks keys up: what is on its way counts as there.
    async fn get(&self, keys: Vec<Key>) -> Vec<Option<Entry>> {
        let mut found: Vec<Option<Entry>> = keys.iter().map(|_| None).collect();
        let Some(engine) = self.engine() else { return found };
        let mut asked = Vec::new();
        for (n, key) in keys.iter().enumerate() {
            match self.outbox.known(key) {
                Some(Known::Entry(entry)) => found[n] = Some(entry).filter(|entry| engine.is_valid(entry)),
                Some(Known::Gone) => {}
                None => asked.push(n),
            }
        }
        if asked.is_empty() || !self.is_ready().await {
            return found;
        }
        let was_well = self.guarded.rest() == Rest::Closed;
        let answers = self.guarded.get_many(asked.iter().map(|n| Arc::clone(&keys[*n])).collect()).await;
        let mut told = false;
        for (n, answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(Some(record)) => {
                    if self.outlived_its_parents(&record).await {
                        found[n] = self.judged(&engine, &record);
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    // One of a call says it for all; while it rests nothing more is said.
                    if was_well && !told {
                        told = true;
                        self.report(&error, Some(&keys[n]));
                    }
                }
            }
        }
        found
    }

    /// Waits until all has landed, or says what has not.
    async fn finish(&self, deadline: Instant, close: bool) -> Result<(), TierError> {
        let mut result = Ok(());
        if let Some(landed) = self.outbox.receipt() {
            result = match timeout_at(deadline, landed).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(TierError::closed()),
                Err(_) => Ok(()),
            };
            let left = self.outbox.len();
            if left > 0 {
                let why = result.err().map(|error| format!(": {}", error.message)).unwrap_or_default();
                let message = format!("{left} writes have not reached tier '{}'{why}", self.name);
                result = Err(TierError::new(super::TierErrorKind::Unavailable, message));
            }
        }
        if close {
            self.outbox.end();
            return result.and(self.guarded.close_until(deadline).await);
        }
        result?;
        self.guarded.flush_until(deadline).await
    }
}

impl Post for Slot {
    fn record(&self, entry: &Entry, load: Option<(u64, u64)>) -> Record {
        let Some(shared) = self.shared.upgrade() else { return Record::of(entry, 0, &NO_CLOCKS) };
        let Some(engine) = shared.engine.upgrade() else { return Record::of(entry, shared.epoch, &NO_CLOCKS) };
        let mut form = engine.form_of(entry);
        let plain_below = self.guarded.plain_below();
        if form.codec().is_some() && form.raw_len() < plain_below {
            form = if entry.codec().is_none() { entry.clone() } else { self.plain(form) };
        } else if form.codec().is_none()
            && let Some(compression) = engine.compression()
            && form.value().len() > compression.threshold.max(plain_below)
        {
            form = self.tools.lock().compress(&form, &compression).unwrap_or(form);
        }
        let mut record = Record::of(&form, shared.epoch, &engine.clocks());
        if let Some((epoch, seq)) = load.filter(|_| self.guarded.log().is_some()) {
            (record.epoch, record.seq) = (epoch, seq);
        }
        record
    }

    fn failed(&self, error: &TierError, key: Option<&Key>) {
        self.report(error, key);
    }

    fn landed(&self, fact: &Fact) {
        if self.guarded.log().is_none() {
            self.ledger.lock().note(fact);
        }
    }

    fn owe(&self, owed: Vec<Owed>) -> Answer<'_, ()> {
        Box::pin(async move {
            let (Some(durable), Some(shared)) = (self.durable(), self.shared.upgrade()) else { return };
            let key = debts::key(&self.name, shared.epoch);
            // If it cannot be written down it is still tried as long as this process lives.
            let _ = if owed.is_empty() {
                let mut keys = std::mem::take(&mut *self.notes.lock());
                keys.push(key);
                durable.guarded.delete_many(keys).await
            } else {
                durable.guarded.put_many(vec![Put::write(debts::record(key, &owed))]).await
            };
        })
    }
}

impl Slot {
    /// An entry with its value decompressed.
    fn plain(&self, entry: Entry) -> Entry {
        let inflated = self.tools.lock().inflate(entry);
        match inflated.bytes {
            Ok(bytes) => inflated.entry.inflated(&bytes),
            Err(_) => inflated.entry,
        }
    }
}

const NO_CLOCKS: crate::codec::envelope::Clocks = crate::codec::envelope::Clocks { now: 0, unix: 0 };

impl Watcher for Slot {
    fn told(&self, facts: &[Told]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let engine = shared.engine.upgrade();
        for Told { fact, own } in facts {
            {
                let mut ledger = self.ledger.lock();
                // What is told before the facts of earlier times are read stays known beside them.
                ledger.turn_to(fact.epoch);
                ledger.note(fact);
            }
            if *own {
                continue;
            }
            let changed = match &fact.target {
                Target::Key(key) if !fact.soft => Some(key),
                _ => None,
            };
            // Before, so that nobody takes it from there, and after, for a load that has just ended.
            changed.inspect(|key| self.outbox.forget_load(key));
            if let Some(engine) = &engine {
                engine.apply(&fact.target, &label(&fact.target), fact.soft);
            }
            changed.inspect(|key| self.outbox.forget_load(key));
            for nearer in &shared.slots[..self.index] {
                match &fact.target {
                    Target::Key(key) if !fact.soft => nearer.push(Op::Delete, Some((&**key).into())),
                    _ => nearer.push(Op::Mark(fact.clone()), None),
                }
            }
        }
    }

    fn missed(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        *self.waits_until.lock() = Instant::now() + self.patience;
        self.ready.send_replace(false);
        // At the first reading there is nothing to be outdated, but what was stored before it.
        let outdates = self.known.swap(true, Ordering::SeqCst) | self.early.swap(false, Ordering::SeqCst);
        if outdates && let Some(engine) = shared.engine.upgrade() {
            engine.apply(&Target::All, &label(&Target::All), false);
            let everything =
                Fact { target: Target::All, soft: false, seq: 0, epoch: 0, at: unix_now(), until: FOREVER };
            for nearer in &shared.slots[..self.index] {
                nearer.push(Op::Mark(everything.clone()), None);
            }
        }
        if let Some(slot) = shared.slots.get(self.index) {
            *self.ledger.lock() = Ledger::new(self.position().0);
            shared.learn(slot);
        }
    }

    fn returned(&self) {
        self.guarded.wake();
    }

    fn failed(&self, error: &TierError, key: Option<&Key>) {
        self.report(error, key);
    }
}

/// A target as a user would write it, as JSON.
fn label(target: &Target) -> String {
    match target {
        Target::All => r#"{"all":true}"#.to_owned(),
        _ => serde_json::json!({ target.kind().as_str(): text_of(target) }).to_string(),
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
