//! The log over Redis: a stream, read by a task with a connection of its own from the last entry seen.
//!
//! Redis numbers a fact and appends it in one step, so that the numbers of the stream have no gaps. A gap is therefore how this
//! notices that it has missed something, whatever the cause:
//! - *The stream was cut off beyond what was seen* while this was away: [`Watcher::missed`], and on from the end.
//! - *Redis lost its memory*: the epoch is gone, and whoever comes first makes another. Or it has gone back, to an older dump or a replica that
//!   was behind: its number is smaller than one seen here, or goes on with other facts. Then the first to notice makes another
//!   epoch. Records of another epoch than that of the log are not given.
//!
//! *Silence is noticed.* `XREAD` blocks for a second at most, then the epoch and the number are looked at; no answer within another
//! second is a broken connection, and dialled anew. [`Feed::check`] says how long ago Redis was heard: beyond 3 s nothing from the tier is
//! given and no load is stored, since it could have been invalidated by facts that are not known.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use redis::{Cmd, Value, cmd};
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::link::Link;
use super::recent::Recent;
use super::scripts;
use super::wire::{self, Entry, odd};
use crate::load::retry;
use crate::tier::{Fact, Position, TierError, TierErrorKind, Told, Watcher};

/// How long `XREAD` waits for something.
pub const BLOCK: Duration = Duration::from_millis(1000);

/// How long any answer may take beyond that.
const PATIENCE: Duration = Duration::from_millis(1000);

/// For how long what was heard last is good.
const VOUCHED: Duration = Duration::from_millis(3000);

/// Entries of one read.
const MOST: usize = 1000;

/// The names of the log's keys.
pub struct Names {
    /// Epoch, number and markers.
    pub hash: Vec<u8>,
    pub stream: Vec<u8>,
    /// Counters of versions.
    pub counters: Vec<u8>,
}

impl Names {
    pub fn of(prefix: &str) -> Self {
        let of = |rest: &str| format!("{prefix}{{log}}{rest}").into_bytes();
        Self { hash: of(""), stream: of(":s"), counters: of(":n") }
    }
}

/// See the module.
pub struct Feed {
    pub names: Names,
    /// Who this is, in the entries it writes.
    pub writer: u64,
    /// The log that is told of what this writes, too.
    pub too: AtomicU64,
    /// Where the watcher stands.
    position: watch::Sender<Position>,
    recent: Mutex<Recent>,
    watcher: RwLock<Option<Weak<dyn Watcher>>>,
    /// Whether a load has begun before there was a position.
    asked_early: AtomicBool,
    /// The largest number that a write of this tier was given, and in which log.
    written: Mutex<Position>,
    began: Instant,
    /// When Redis was heard last: milliseconds after `began`, and one; 0 for never.
    heard: AtomicU64,
    /// Redis's clock at `began`, as far as is known: milliseconds since the UNIX epoch; 0 if not at all.
    clock: AtomicU64,
    ended: watch::Sender<bool>,
    /// Who waits for a lease, by its key.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    by_lease: HashMap<Vec<u8>, Vec<oneshot::Sender<()>>>,
    /// How many there were when those who have let go were last thrown out.
    swept: usize,
}

/// Why reading ended.
enum End {
    Broken(TierError),
    /// What was read does not go on from what was seen.
    Gap {
        rolled_back: bool,
    },
}

impl From<TierError> for End {
    fn from(error: TierError) -> Self {
        Self::Broken(error)
    }
}

/// 8 bytes for another epoch, should one be needed.
pub fn fresh() -> [u8; 8] {
    fastrand::u64(1..).to_le_bytes()
}

impl Feed {
    pub fn new(prefix: &str) -> Arc<Self> {
        Arc::new(Self {
            names: Names::of(prefix),
            writer: fastrand::u64(..),
            too: AtomicU64::new(0),
            position: watch::Sender::new(Position::default()),
            recent: Mutex::new(Recent::new(0)),
            watcher: RwLock::new(None),
            asked_early: AtomicBool::new(false),
            written: Mutex::default(),
            began: Instant::now(),
            heard: AtomicU64::new(0),
            clock: AtomicU64::new(0),
            ended: watch::Sender::new(false),
            waiting: Mutex::default(),
        })
    }

    /// Whether it has been read at all.
    pub fn has_begun(&self) -> bool {
        self.position.borrow().epoch != 0
    }

    /// Where the watcher stands.
    pub fn standing(&self) -> Position {
        *self.position.borrow()
    }

    /// The same, where a load begins.
    pub fn position(&self) -> Position {
        let position = *self.position.borrow();
        if position.epoch == 0 {
            self.asked_early.store(true, Ordering::Relaxed);
        }
        position
    }

    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        *self.watcher.write() = Some(watcher);
    }

    pub fn end(&self) {
        self.ended.send_replace(true);
        self.waiting.lock().by_lease.clear();
    }

    /// Milliseconds since this began.
    fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn hear(&self) {
        self.heard.store(self.elapsed() + 1, Ordering::Relaxed);
    }

    /// A moment of Redis's clock so long from now; 0 if that clock is not known.
    pub fn till(&self, wait: Duration) -> u64 {
        match self.clock.load(Ordering::Relaxed) {
            0 => 0,
            clock => clock + self.elapsed() + u64::try_from(wait.as_millis()).unwrap_or(0),
        }
    }

    /// Where the log stands, if that is known well enough to judge by it.
    pub fn check(&self) -> Result<Position, TierError> {
        let heard = self.heard.load(Ordering::Relaxed);
        let position = *self.position.borrow();
        if position.epoch == 0 || heard == 0 {
            return Err(TierError::new(TierErrorKind::Unavailable, "the log of Redis has not been read yet"));
        }
        let silent = self.began.elapsed().saturating_sub(Duration::from_millis(heard - 1));
        if silent > VOUCHED {
            let message = format!("the log of Redis has not been heard for {} ms", silent.as_millis());
            return Err(TierError::new(TierErrorKind::Unavailable, message));
        }
        Ok(position)
    }

    /// Waits until the log has been read for the first time.
    pub async fn ready(&self) {
        let mut position = self.position.subscribe();
        let mut ended = self.ended.subscribe();
        tokio::select! {
            _ = position.wait_for(|position| position.epoch != 0) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    /// Waits until the watcher has been told what this tier wrote when the log stood `before`, for so long at most.
    pub async fn told(&self, written: Position, before: Position, most: Duration) -> Result<(), TierError> {
        if written.epoch == before.epoch && written.seq <= before.seq {
            // What reads the log is about to notice the same.
            let message = "Redis has lost what it had: its numbers have gone back";
            return Err(TierError::new(TierErrorKind::Unavailable, message));
        }
        {
            let mut newest = self.written.lock();
            if newest.epoch != written.epoch || newest.seq < written.seq {
                *newest = written;
            }
        }
        self.reached(written, most).await
    }

    /// Waits until the watcher has been told of all up to there, for so long at most.
    pub async fn reached(&self, written: Position, most: Duration) -> Result<(), TierError> {
        let mut position = self.position.subscribe();
        let mut ended = self.ended.subscribe();
        // In another log all that was before counts as outdated.
        let is_told = |now: &Position| now.seq >= written.seq || now.epoch != written.epoch && now.epoch != 0;
        tokio::select! {
            _ = position.wait_for(is_told) => Ok(()),
            _ = ended.wait_for(|ended| *ended) => Err(TierError::closed()),
            () = sleep(most) => {
                Err(TierError::new(TierErrorKind::Timeout, "Redis was reached, but its log cannot be read"))
            }
        }
    }

    /// Something to ask what was said lately.
    pub fn recent<T>(&self, ask: impl FnOnce(&mut Recent) -> T) -> T {
        ask(&mut self.recent.lock())
    }

    /// Tells when that lease is let go of.
    pub fn on_release(&self, lease: &[u8]) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.by_lease.len() > 2 * waiting.swept + 64 {
            waiting.by_lease.retain(|_, senders| {
                senders.retain(|sender| !sender.is_closed());
                !senders.is_empty()
            });
            waiting.swept = waiting.by_lease.len();
        }
        let senders = waiting.by_lease.entry(lease.to_vec()).or_default();
        senders.retain(|sender| !sender.is_closed());
        senders.push(sender);
        receiver
    }

    fn released(&self, lease: &[u8]) {
        for sender in self.waiting.lock().by_lease.remove(lease).into_iter().flatten() {
            // Whoever has let go is not there any more.
            let _ = sender.send(());
        }
    }

    fn watcher(&self) -> Option<Arc<dyn Watcher>> {
        self.watcher.read().as_ref().and_then(Weak::upgrade)
    }

    /// Reads until the end.
    pub async fn run(self: Arc<Self>, link: Arc<Link>) {
        let mut ended = self.ended.subscribe();
        tokio::select! {
            () = self.read_for_ever(&link) => {}
            _ = ended.wait_for(|ended| *ended) => {}
        }
    }

    async fn read_for_ever(&self, link: &Link) {
        let mut reader = Reader { feed: self, link, position: Position::default(), last: Vec::new() };
        let mut failures = 0;
        loop {
            let heard = self.heard.load(Ordering::Relaxed);
            let Err(end) = reader.read().await;
            match end {
                End::Gap { rolled_back } => {
                    if let Err(error) = reader.begin_anew(rolled_back).await {
                        self.complain(&error);
                    }
                }
                End::Broken(error) => {
                    if error.kind == TierErrorKind::Closed {
                        return;
                    }
                    let was_well = self.heard.load(Ordering::Relaxed) != heard;
                    if was_well || failures == 0 {
                        // Once for each time that it breaks off.
                        self.complain(&error);
                    }
                    failures = if was_well { 1 } else { failures + 1 };
                    let wait = retry::backoff(20, failures.min(5), fastrand::f64());
                    sleep(Duration::from_millis(wait)).await;
                }
            }
        }
    }

    fn complain(&self, error: &TierError) {
        if let Some(watcher) = self.watcher() {
            watcher.failed(error, None);
        }
    }
}

/// What reads, and how far it is.
struct Reader<'a> {
    feed: &'a Feed,
    link: &'a Link,
    position: Position,
    /// The last entry's id.
    last: Vec<u8>,
}

enum Never {}

impl Reader<'_> {
    /// What the log says of itself: where it is, and its last entry.
    async fn sync(&self) -> Result<(Position, Vec<u8>), TierError> {
        let (names, asked) = (&self.feed.names, self.feed.elapsed());
        let reply = scripts::SYNC.call(self.link, &[&names.hash, &names.stream], &[&fresh()]).await?;
        let mut parts = wire::items(reply).ok_or_else(odd)?;
        let now = parts.pop().as_ref().and_then(wire::number).ok_or_else(odd)?;
        self.feed.clock.store(now.saturating_sub(asked), Ordering::Relaxed);
        let last = parts.pop().and_then(wire::bytes).ok_or_else(odd)?;
        Ok((wire::position(Value::Array(parts)).ok_or_else(odd)?, last))
    }

    /// Goes to the end of the log, as what is before it is not known.
    async fn begin_anew(&mut self, rolled_back: bool) -> Result<(), TierError> {
        let feed = self.feed;
        if rolled_back {
            let floor = self.seen().to_string();
            let args: [&[u8]; 3] = [&self.position.epoch.to_le_bytes(), &fresh(), floor.as_bytes()];
            scripts::RENEW.call(self.link, &[&feed.names.hash], &args).await?;
        }
        let (position, last) = self.sync().await?;
        let is_first = self.position.epoch == 0;
        (self.position, self.last) = (position, last);
        *feed.recent.lock() = Recent::new(position.seq);
        feed.hear();
        feed.position.send_replace(position);
        // What others wrote before the first reading may have cut what was loaded before it.
        if (!is_first || feed.asked_early.load(Ordering::Relaxed))
            && let Some(watcher) = feed.watcher()
        {
            watcher.missed();
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Never, End> {
        let (number, _) = self.link.get().await?;
        let outcome = self.read_on(number).await;
        if matches!(outcome, Err(End::Broken(_))) {
            // What is silent or odd is dialled anew.
            self.link.failed(number);
        }
        outcome
    }

    async fn read_on(&mut self, number: u64) -> Result<Never, End> {
        if self.position.epoch == 0 {
            self.begin_anew(false).await?;
        }
        let mut end = self.look().await?;
        if let Some(watcher) = self.feed.watcher() {
            watcher.returned();
        }
        // What is there already is read at once; then it is waited for more.
        let mut block = false;
        loop {
            let (now, mut conn) = self.link.get().await?;
            if now != number {
                return Err(End::Broken(TierError::new(TierErrorKind::Unavailable, "the connection was lost")));
            }
            let cmd = self.xread(block);
            let reply = timeout(BLOCK + PATIENCE, conn.call(&cmd)).await;
            let reply = reply.map_err(|_| TierError::new(TierErrorKind::Timeout, "the log of Redis is silent"))?;
            let entries = wire::entries(reply.map_err(|error| super::link::told(&error))?).ok_or_else(odd)?;
            let read = entries.len();
            self.tell(entries)?;
            if read == 0 && self.position.seq < end {
                // There are no entries of numbers that were given.
                return Err(End::Gap { rolled_back: true });
            }
            if read < MOST {
                self.feed.hear();
            }
            if read == 0 && block {
                end = self.look().await?;
                self.feed.hear();
            }
            block = read < MOST;
        }
    }

    /// The largest number of this log that is known of.
    fn seen(&self) -> u64 {
        let written = *self.feed.written.lock();
        if written.epoch == self.position.epoch { self.position.seq.max(written.seq) } else { self.position.seq }
    }

    /// Where the log ends, if it is still the one that was read so far.
    async fn look(&self) -> Result<u64, End> {
        let seen = self.seen();
        let now = self.sync().await?.0;
        if now.epoch != self.position.epoch {
            return Err(End::Gap { rolled_back: false });
        }
        if now.seq < seen {
            return Err(End::Gap { rolled_back: true });
        }
        Ok(now.seq)
    }

    fn xread(&self, block: bool) -> Cmd {
        let mut cmd = cmd("XREAD");
        cmd.arg("COUNT").arg(MOST);
        if block {
            cmd.arg("BLOCK").arg(BLOCK.as_millis() as u64);
        }
        cmd.arg("STREAMS").arg(&self.feed.names.stream).arg(&self.last);
        cmd
    }

    /// Tells what was read, up to the first gap.
    fn tell(&mut self, entries: Vec<(Vec<u8>, Entry)>) -> Result<(), End> {
        let (mut told, mut gap, mut released) = (Vec::new(), None, Vec::new());
        for (id, entry) in entries {
            let (seq, epoch, fact) = match entry {
                Entry::Released(lease) => {
                    released.push(lease);
                    self.last = id;
                    continue;
                }
                Entry::Fact { writer, too, fact } => (fact.seq, fact.epoch, Some((writer, too, fact))),
                Entry::Unknown { seq, epoch } => (seq, epoch, None),
            };
            if epoch != self.position.epoch || seq != self.position.seq + 1 {
                let rolled_back = epoch == self.position.epoch && seq <= self.position.seq;
                gap = Some(End::Gap { rolled_back });
                break;
            }
            // An entry's id begins with Redis's time, which is later now, if anything.
            if let Some(at) = std::str::from_utf8(&id).ok().and_then(|id| id.split_once('-')?.0.parse::<u64>().ok()) {
                self.feed.clock.fetch_max(at.saturating_sub(self.feed.elapsed()), Ordering::Relaxed);
            }
            (self.position.seq, self.last) = (seq, id);
            let Some((writer, too, fact)) = fact else {
                gap = Some(End::Gap { rolled_back: false });
                break;
            };
            told.push(Told { fact, own: writer == self.feed.writer, too });
        }
        if !told.is_empty() {
            self.feed.recent(|recent| told.iter().for_each(|told| recent.note(&told.fact)));
            if let Some(watcher) = self.feed.watcher() {
                watcher.told(&told);
            }
            let seq = told.last().map_or(0, |told| told.fact.seq);
            self.feed.position.send_modify(|position| position.seq = seq);
        }
        released.iter().for_each(|lease| self.feed.released(lease));
        gap.map_or(Ok(()), Err)
    }
}

impl Feed {
    /// A fact as this tier writes it.
    pub fn payload(&self, fact: &Fact) -> Vec<u8> {
        wire::payload(self.writer, self.too.load(Ordering::SeqCst), fact)
    }

    /// To notice the end.
    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Says in the stream that a lease was let go of.
    pub async fn tell_released(&self, link: &Link, lease: &[u8]) -> Result<(), TierError> {
        let mut cmd = cmd("XADD");
        cmd.arg(&self.names.stream).arg("MAXLEN").arg("~").arg(scripts::MOST_KEPT).arg("*");
        cmd.arg(wire::RELEASED).arg(lease);
        link.call(&cmd).await.map(|_| ())
    }
}
