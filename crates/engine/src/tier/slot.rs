//! One tier as the [stack](super::stack) has it: with its guard, its ledger and its outbox.
//!
//! What it holds is served once the facts of earlier times are known, and only what neither these, nor newer ones, nor what is on its way
//! to it have cut. It hears what the tier's log tells of others, and passes that on to the nearer tiers: but to those that the others tell, too.
//!
//! *A nearer tier that lasts* (a disk before Redis) may hold what was cut while no process listened. How far the log of the farther one had
//! been passed on is written down in it, and what came after that is passed on before it is read from; if not all of that is to be had any more
//! everything in it counts as cut.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout_at};

use super::debts;
use super::ledger::Ledger;
use super::outbox::{Before, Known, Op, Outbox, Owed, Post};
use super::runtime;
use super::stack::{Layer, Tiers};
use super::{
    Answer, Fact, Found, Guarded, Key, Put, Record, Rest, SharedLog, Tier, TierError, TierErrorKind, Told, Watcher,
    text_of,
};
use crate::clock::FOREVER;
use crate::codec::envelope::Clocks;
use crate::codec::workshop::Tools;
use crate::engine::{Engine, Event, Trouble};
use crate::entry::Entry;
use crate::invalidation::links;
use crate::invalidation::markers::Mark;
use crate::invalidation::target::Target;

/// Between two attempts to read the facts of earlier times: at first, and at most.
const SOON: Duration = Duration::from_millis(5);
const AGAIN: Duration = Duration::from_millis(500);

/// How often it is written down how far a log has been passed on.
const NOTES: Duration = Duration::from_secs(1);

/// Notes of earlier processes that are looked for.
const MOST_NOTES: usize = 1000;

/// Compressing a value of more bytes lasts: about a millisecond and more.
const LASTING: usize = 64 * 1024;

/// One tier in its place.
pub(super) struct Slot {
    /// Its place, the nearest being 0.
    pub index: usize,
    pub name: Arc<str>,
    pub guarded: Guarded,
    pub ledger: Mutex<Ledger>,
    pub outbox: Outbox,
    /// The facts of earlier times are known.
    ready: watch::Sender<bool>,
    /// There was nothing in it when it was opened, and no note has been written yet.
    fresh: AtomicBool,
    /// The nearer tiers that last have been told what this one's log has.
    passed_on: watch::Sender<bool>,
    /// How long that is waited for.
    patience: Duration,
    /// When that is over: the time is given once, not to each look-up.
    waits_until: Mutex<Instant>,
    /// The log has once been read.
    known: AtomicBool,
    /// Something was stored here before that.
    pub early: AtomicBool,
    /// From which number of the log on every changed key is in the ledger.
    since: AtomicU64,
    /// What the log has of before was taken in.
    past: OnceCell<()>,
    /// What earlier processes owed this tier, taken up: where that is written down.
    notes: Mutex<Vec<Key>>,
    tools: Mutex<Tools>,
    pub shared: Weak<Tiers>,
}

impl Slot {
    pub fn new(index: usize, layer: Layer, epoch: u64, shared: Weak<Tiers>) -> Self {
        Self {
            index,
            name: layer.tier.name().into(),
            patience: layer.timeout,
            waits_until: Mutex::new(Instant::now() + layer.timeout),
            guarded: Guarded::new(layer.tier, layer.timeout),
            ledger: Mutex::new(Ledger::new(epoch)),
            outbox: Outbox::default(),
            ready: watch::Sender::new(false),
            fresh: AtomicBool::new(false),
            passed_on: watch::Sender::new(false),
            known: AtomicBool::new(false),
            early: AtomicBool::new(false),
            since: AtomicU64::new(u64::MAX),
            past: OnceCell::new(),
            notes: Mutex::default(),
            tools: Mutex::default(),
            shared,
        }
    }

    /// Listens to the tier's log, begins to send, and learns what was before.
    pub fn start(self: &Arc<Self>, runtime: &Handle) {
        self.fresh.store(self.position().1 == 0, Ordering::SeqCst);
        if let Some(log) = self.guarded.log() {
            log.watch(Arc::downgrade(self) as Weak<dyn Watcher>);
            self.known.fetch_or(log.position().epoch != 0, Ordering::SeqCst);
        }
        self.in_debt(false);
        let sender = Arc::clone(self);
        runtime.spawn(async move { sender.outbox.run(&sender.guarded, &*sender).await });
        self.learn(runtime);
        if self.guarded.log().is_some() && !self.nearer_that_last().is_empty() {
            let slot = Arc::clone(self);
            runtime.spawn(async move { slot.keep_notes().await });
        }
    }

    /// Has the facts of earlier times read.
    fn learn(self: &Arc<Self>, runtime: &Handle) {
        let slot = Arc::clone(self);
        runtime.spawn(async move {
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
                    {
                        let mut ledger = slot.ledger.lock();
                        if let Some(epoch) = epoch {
                            ledger.turn_to(epoch);
                        }
                        facts.iter().for_each(|fact| ledger.note(fact));
                        slot.since.store(position.map_or(0, |position| position.seq), Ordering::SeqCst);
                    }
                    slot.ready.send_replace(true);
                    while !slot.pass_on().await {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(AGAIN);
                    }
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(AGAIN);
            }
        });
    }

    /// Where it can be written down what this tier is owed.
    fn durable(&self) -> Option<Arc<Self>> {
        let shared = self.shared.upgrade()?;
        shared.slots().iter().find(|slot| slot.index != self.index && slot.guarded.is_awaited()).cloned()
    }

    /// Takes up what earlier processes owed this tier. False: it cannot be known yet.
    async fn take_up_debts(&self) -> bool {
        let Some(durable) = self.durable() else { return true };
        let Ok(page) = durable.guarded.list(debts::prefix(&self.name), MOST_NOTES, None).await else { return false };
        let keys: Vec<Key> = page.keys.into_iter().map(|listed| listed.key).collect();
        let until = self.shared.upgrade().map_or(FOREVER, |shared| shared.until());
        for note in durable.guarded.get_many(keys.clone()).await {
            let Ok(note) = note else { return false };
            for Owed { target, soft } in note.as_ref().map(debts::read).unwrap_or_default() {
                self.hand_over(&Fact::unnumbered(target, soft, until));
            }
        }
        if !keys.is_empty() {
            *self.notes.lock() = keys;
            self.outbox.takes_up_debts();
            self.in_debt(true);
        }
        true
    }

    pub fn position(&self) -> (u64, u64) {
        self.guarded.log().map_or((0, 0), |log| {
            let position = log.position();
            (position.epoch, position.seq)
        })
    }

    pub fn trouble(&self, error: &TierError, key: Option<&Key>) -> Trouble {
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
        self.shared.upgrade()?.engine()
    }

    // ------------------------------------------------------------ the nearer tiers

    /// Whether other processes read it, and those to come, and are told what is in it by its own log.
    fn lasts(&self) -> bool {
        self.guarded.is_awaited() && self.guarded.log().is_some()
    }

    fn nearer_that_last(&self) -> Vec<Arc<Self>> {
        let Some(shared) = self.shared.upgrade() else { return Vec::new() };
        shared.slots()[..self.index].iter().filter(|slot| slot.lasts()).cloned().collect()
    }

    /// Tells the nearer tiers that last what this one's log has beyond what they were told. False: it cannot be known yet.
    async fn pass_on(&self) -> bool {
        let (nearer, Some(log)) = (self.nearer_that_last(), self.guarded.log()) else { return true };
        let position = log.position();
        for slot in &nearer {
            // Before the note is looked for: once it has been written there is one.
            let fresh = slot.fresh.load(Ordering::SeqCst);
            let Ok(noted) = slot.noted(&self.name, position.epoch).await else { return false };
            let told = match noted {
                Some(seq) => {
                    let since = timeout_at(Instant::now() + self.patience * 5, log.since(seq)).await;
                    let Ok(Ok(told)) = since else { return false };
                    told
                }
                // In a store that has just been made there is nothing to be cut.
                None if fresh => Some(Vec::new()),
                None => None,
            };
            match told {
                Some(told) => {
                    let epoch = slot.position().0;
                    told.iter().filter(|told| told.too != epoch).for_each(|told| slot.hand_over(&told.fact));
                }
                None => slot.hand_over(&Fact::unnumbered(Target::All, false, FOREVER)),
            }
        }
        if log.position().epoch != position.epoch {
            return false;
        }
        self.passed_on.send_replace(true);
        self.write_notes().await;
        true
    }

    /// How far the log of the tier of that name had been passed on to this one.
    async fn noted(&self, tier: &str, epoch: u64) -> Result<Option<u64>, TierError> {
        let found = self.guarded.get_many(vec![debts::seen_key(tier, epoch)]).await.pop();
        found.unwrap_or(Ok(None)).map(|note| note.as_ref().and_then(debts::read_seen))
    }

    /// Writes down how far this one's log has been passed on, once all of that has arrived.
    pub async fn write_notes(&self) {
        let Some(log) = self.guarded.log() else { return };
        // Before it is looked at what is on its way: whatever was told up to here has been handed over.
        let position = log.position();
        if !*self.passed_on.borrow() {
            return;
        }
        for slot in self.nearer_that_last() {
            if let Some(landed) = slot.outbox.receipt()
                && !landed.await.is_ok_and(|landed| landed.is_ok())
            {
                continue;
            }
            let note = debts::seen_record(debts::seen_key(&self.name, position.epoch), position.seq);
            // Where it cannot be written what is there says less, which is no harm.
            if slot.guarded.put_many(vec![Put::write(note)]).await.iter().all(Result::is_ok) {
                slot.fresh.store(false, Ordering::SeqCst);
            }
        }
    }

    /// Writes it down every now and then, as long as there is something new.
    async fn keep_notes(&self) {
        let mut last = (0, 0);
        while self.shared.upgrade().is_some() && !self.outbox.has_ended() {
            tokio::time::sleep(NOTES).await;
            let position = self.position();
            if position != last {
                last = position;
                self.write_notes().await;
            }
        }
    }

    pub fn push(&self, op: Op, key: Option<Key>) {
        self.push_after(op, key, Vec::new());
    }

    /// The same, to be sent when those have arrived in other tiers, or cannot for now.
    pub fn push_after(&self, op: Op, key: Option<Key>, after: Vec<Before>) {
        let lost = self.outbox.push(op, key, after);
        if let Some(first) = lost.first() {
            let message =
                format!("tier '{}' does not keep up: {} pending records were given up", self.name, lost.len());
            self.report(&TierError::new(TierErrorKind::Unavailable, message), Some(first));
        }
    }

    /// Has the tier told of a fact that was not made here.
    fn hand_over(&self, fact: &Fact) {
        match &fact.target {
            Target::Key(key) if !fact.soft => self.push(Op::Delete, Some((&**key).into())),
            _ => self.push(Op::Mark(fact.clone()), None),
        }
    }

    /// The entry of a record that nothing has cut; `clocks` are those of this moment, more or less.
    pub fn judged(&self, record: &Record, clocks: &Clocks) -> Option<Entry> {
        if self.outbox.cuts(record) {
            return None;
        }
        let (Mark { hard, soft }, superseded) = {
            let ledger = self.ledger.lock();
            (ledger.judge(record), self.guarded.log().is_some() && ledger.supersedes(record))
        };
        if hard > 0 || superseded {
            return None;
        }
        let entry = record.envelope().entry(0, clocks);
        Some(if soft > 0 { entry.outdated() } else { entry })
    }

    /// Whether the facts of earlier times are known, or become so in the time that a tier has for it.
    async fn is_ready(&self) -> bool {
        let Some(shared) = self.shared.upgrade() else { return false };
        for (slot, what) in self.awaits(&shared) {
            let mut ready = what.subscribe();
            let until = *slot.waits_until.lock();
            if !timeout_at(until, ready.wait_for(|ready| *ready)).await.is_ok_and(|ready| ready.is_ok()) {
                return false;
            }
        }
        true
    }

    /// The same, at this moment.
    pub fn is_ready_now(&self, shared: &Tiers) -> bool {
        self.awaits(shared).all(|(_, what)| *what.borrow())
    }

    /// What must be known before it is read from, and by whose patience.
    fn awaits<'a>(&'a self, shared: &'a Tiers) -> impl Iterator<Item = (&'a Self, &'a watch::Sender<bool>)> {
        let farther =
            shared.slots()[self.index + 1..].iter().filter(|slot| self.lasts() && slot.guarded.log().is_some());
        std::iter::once((self, &self.ready)).chain(farther.map(|slot| (&**slot, &slot.passed_on)))
    }

    /// The parents of a record of which it is not known here whether they have changed since it was written: it is older than what
    /// the ledger has of changed keys.
    pub fn unknown_parents(&self, record: &Record) -> Vec<Key> {
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
    pub async fn get(&self, keys: Vec<Key>) -> Vec<Option<Entry>> {
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
        let get = self.guarded.get_many(asked.iter().map(|n| Arc::clone(&keys[*n])).collect());
        // What a nearer log has told of, this one was told of before: it has to be known here, too, before anything is judged.
        let (answers, caught_up) = join(get, async {
            match self.log_behind_a_log().filter(|_| was_well) {
                Some(log) => log.caught_up().await.is_ok(),
                None => true,
            }
        })
        .await;
        let unknown = || Ok(None);
        let answers = answers.into_iter().map(|answer| if caught_up || answer.is_err() { answer } else { unknown() });
        let (mut told, clocks) = (false, engine.clocks());
        for (n, answer) in asked.into_iter().zip(answers) {
            match answer {
                Ok(Some(record)) => {
                    if record.links.is_empty() || self.outlived_its_parents(&record).await {
                        found[n] = self.judged(&record, &clocks);
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

    /// The tier's log, if a nearer tier has one, too.
    fn log_behind_a_log(&self) -> Option<&dyn SharedLog> {
        let shared = self.shared.upgrade()?;
        self.guarded.log().filter(|_| self.nearer_with_a_log(&shared).is_some())
    }

    fn nearer_with_a_log<'a>(&self, shared: &'a Tiers) -> Option<&'a Arc<Self>> {
        shared.slots()[..self.index].iter().find(|nearer| nearer.guarded.log().is_some())
    }

    /// Whether the log of that epoch is this tier's.
    fn has_log(&self, epoch: u64) -> bool {
        epoch != 0 && self.position().0 == epoch
    }

    /// The tags and parents of what it holds under these keys, or is on its way to it, whether cut or not.
    pub async fn links_of(&self, keys: Vec<Key>) -> Vec<(Key, Arc<[u8]>)> {
        let found = self.guarded.get_many(keys.clone()).await;
        let links = |key: &Key, found: Found| match self.outbox.known(key) {
            Some(Known::Entry(entry)) => Some(entry.links().into()),
            _ => found.ok().flatten().map(|record| record.links),
        };
        keys.into_iter().zip(found).filter_map(|(key, found)| Some((Arc::clone(&key), links(&key, found)?))).collect()
    }

    /// Waits until all has landed, or says what has not.
    pub async fn finish(&self, deadline: Instant, close: bool) -> Result<(), TierError> {
        let mut result = Ok(());
        if let Some(landed) = self.outbox.receipt() {
            // What has not landed in time is counted below.
            let landed = timeout_at(deadline, landed).await;
            result = landed.map_or(Ok(()), |landed| landed.unwrap_or_else(|_| Err(TierError::closed())));
            let left = self.outbox.len();
            if left > 0 {
                let why = result.err().map(|error| format!(": {}", error.message)).unwrap_or_default();
                let message = format!("{left} writes have not reached tier '{}'{why}", self.name);
                result = Err(TierError::new(TierErrorKind::Unavailable, message));
            }
        }
        if close {
            self.outbox.end();
            return result.and(self.guarded.close_until(deadline).await);
        }
        result?;
        self.guarded.flush_until(deadline).await
    }

    /// An entry in the form that the tier is to have it in: compressed or not.
    fn form(&self, engine: &Engine, entry: &Entry) -> Entry {
        let form = engine.form_of(entry);
        let plain_below = self.guarded.plain_below();
        if form.codec().is_some() && form.raw_len() < plain_below {
            return if entry.codec().is_none() { entry.clone() } else { self.plain(form) };
        }
        if form.codec().is_none()
            && let Some(compression) = engine.compression()
            && form.value().len() > compression.threshold.max(plain_below)
        {
            return self.tools.lock().compress(&form, &compression).unwrap_or(form);
        }
        form
    }

    /// An entry with its value decompressed.
    fn plain(&self, entry: Entry) -> Entry {
        let inflated = self.tools.lock().inflate(entry);
        match inflated.bytes {
            Ok(bytes) => inflated.entry.inflated(&bytes),
            Err(_) => inflated.entry,
        }
    }
}

impl Post for Slot {
    fn links(&self, entries: Vec<(Entry, u64)>) -> Answer<'_, Vec<Arc<[u8]>>> {
        Box::pin(async move {
            match self.shared.upgrade().filter(|_| self.guarded.log().is_some()) {
                Some(shared) => shared.all_links(&entries).await,
                // Who reads from a tier without a log knows of the parents what its own process knows.
                None => entries.iter().map(|(entry, _)| entry.links().into()).collect(),
            }
        })
    }

    fn record(&self, entry: &Entry, load: Option<(u64, u64)>, links: Option<Arc<[u8]>>) -> Record {
        let Some(shared) = self.shared.upgrade() else { return Record::of(entry, 0, &NO_CLOCKS) };
        let Some(engine) = shared.engine() else { return Record::of(entry, shared.epoch(), &NO_CLOCKS) };
        let form = || self.form(&engine, entry);
        let form = if entry.raw_len() > LASTING { runtime::lasting(form) } else { form() };
        let mut record = Record::of(&form, shared.epoch(), &engine.clocks());
        if let Some(links) = links {
            record.links = links;
        }
        if let Some((epoch, seq)) = load.filter(|_| self.guarded.log().is_some()) {
            (record.epoch, record.seq) = (epoch, seq);
        }
        record
    }

    fn failed(&self, error: &TierError, key: Option<&Key>) {
        self.report(error, key);
    }

    fn arrived(&self, before: Vec<Before>) -> Answer<'_, ()> {
        Box::pin(async move {
            for Before { slot, number } in before {
                let Some(slot) = self.shared.upgrade().and_then(|shared| shared.slots().get(slot).cloned()) else {
                    return;
                };
                slot.outbox.arrived(number).await;
            }
        })
    }

    fn in_debt(&self, is: bool) {
        let (Some(log), Some(shared)) = (self.guarded.log(), self.shared.upgrade()) else { return };
        // What is told late may have been undone in a nearer tier, by who found here what was before.
        let nearer = self.nearer_with_a_log(&shared).filter(|_| !is);
        log.tell_too(nearer.map_or(0, |nearer| nearer.position().0));
    }

    fn landed(&self, fact: &Fact) {
        if self.guarded.log().is_none() {
            self.ledger.lock().note(fact);
        }
    }

    fn owe(&self, owed: Vec<Owed>) -> Answer<'_, ()> {
        Box::pin(async move {
            let (Some(durable), Some(shared)) = (self.durable(), self.shared.upgrade()) else { return };
            let key = debts::key(&self.name, shared.epoch());
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

const NO_CLOCKS: Clocks = Clocks { now: 0, unix: 0 };

impl Watcher for Slot {
    fn told(&self, facts: &[Told]) {
        let Some(shared) = self.shared.upgrade() else { return };
        let engine = shared.engine();
        for Told { fact, own, too } in facts {
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
            let nearer = shared.slots()[..self.index].iter().filter(|nearer| !nearer.has_log(*too));
            nearer.for_each(|nearer| nearer.hand_over(fact));
        }
    }

    fn missed(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        *self.waits_until.lock() = Instant::now() + self.patience;
        self.ready.send_replace(false);
        // By this those that last are told, too.
        self.passed_on.send_replace(false);
        // At the first reading there is nothing to be outdated, but what was stored before it.
        let outdates = self.known.swap(true, Ordering::SeqCst) | self.early.swap(false, Ordering::SeqCst);
        if outdates && let Some(engine) = shared.engine() {
            engine.apply(&Target::All, &label(&Target::All), false);
            let everything = Fact::unnumbered(Target::All, false, FOREVER);
            let others = shared.slots()[..self.index].iter().filter(|slot| !slot.lasts());
            others.for_each(|nearer| nearer.hand_over(&everything));
        }
        if let Some(slot) = shared.slots().get(self.index) {
            *self.ledger.lock() = Ledger::new(self.position().0);
            slot.learn(shared.runtime());
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
