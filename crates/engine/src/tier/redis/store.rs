//! The tier itself.

use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::RwLock;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::feed::{BLOCK, Feed};
use super::leases::RedisLeases;
use super::link::Link;
use super::list;
use super::reads::{self, Reads};
use super::settings::{Place, Settings};
use super::wire::{self, Stored};
use super::writes::Writes;
use crate::tier::{
    Answer, Fact, Found, Key, Leases, Page, Position, Put, SharedLog, Tier, TierError, Told, Watcher, ready, unix_now,
};

/// A listing walks through all keys that there are, a thousand a command.
const LIST_TAKES: u32 = 60;

/// What what is found is judged by: taken once for all that came together, after it has come.
struct Moment {
    position: Position,
    /// By Redis's clock, as [`Feed::till`] gives it.
    of_redis: u64,
    /// Milliseconds since the UNIX epoch.
    unix: u64,
}

/// Redis as a tier.
pub struct RedisTier {
    timeout: Duration,
    /// What the names of values begin with.
    values: Vec<u8>,
    link: Arc<Link>,
    /// That of the log: a connection on which reading blocks.
    log_link: Arc<Link>,
    feed: Arc<Feed>,
    reads: Arc<Reads>,
    writes: Writes,
    leases: Option<RedisLeases>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    /// Held for reading by what changes something.
    changing: RwLock<()>,
}

impl RedisTier {
    /// Redis need not be there: connections are made in the background, on `runtime`, and made again when they break.
    ///
    /// # Errors
    /// [`TierErrorKind::Refused`] for settings that cannot be; the message begins with the option: `url`, `cluster`, `sentinel`,
    /// `tls.ca` or `prefix`.
    pub fn new(settings: &Settings, runtime: &Handle) -> Result<Self, TierError> {
        // Another provider that was installed before does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let place = Arc::new(Place::of(settings)?);
        let link = Link::new(Arc::clone(&place), settings.timeout, Duration::ZERO);
        let log_link = Link::new(place, settings.timeout, BLOCK);
        let feed = Feed::new(&settings.prefix);
        let named = |kind: &str| format!("{}{kind}:", settings.prefix).into_bytes();
        let values = named("v");
        let reads = Reads::new(values.clone(), Arc::clone(&link));
        let writes = Writes { prefix: values.clone(), link: Arc::clone(&link), feed: Arc::clone(&feed) };
        let leases =
            settings.lock.then(|| RedisLeases::new(named("l"), Arc::clone(&link), Arc::clone(&feed), runtime.clone()));
        let tasks = vec![
            runtime.spawn(Arc::clone(&link).run()),
            runtime.spawn(Arc::clone(&log_link).run()),
            runtime.spawn(Arc::clone(&feed).run(Arc::clone(&log_link))),
            runtime.spawn(Arc::clone(&reads).run()),
        ];
        Ok(Self {
            timeout: settings.timeout,
            values,
            link,
            log_link,
            feed,
            reads,
            writes,
            leases,
            tasks: Mutex::new(tasks),
            closed: AtomicBool::new(false),
            changing: RwLock::default(),
        })
    }

    fn open(&self) -> Result<(), TierError> {
        if self.closed.load(Ordering::SeqCst) { Err(TierError::closed()) } else { Ok(()) }
    }

    /// Where the log stands, if what is found can be judged by it. Before it was read for the first time, waits for that.
    async fn vouched(&self) -> Result<Position, TierError> {
        self.open()?;
        if !self.feed.has_begun() {
            // Where there is no connection it says why.
            self.log_link.get().await?;
            let _ = timeout(self.timeout, self.feed.ready()).await;
        }
        self.feed.check()
    }

    /// What of that which was found under a key is to be given, by what is known now.
    fn judge(&self, key: &Key, found: Bytes, now: &Moment) -> Found {
        let Stored::Stamped { seq, epoch, under_way, envelope } = wire::read(found)? else { return Ok(None) };
        let is_superseded = self.feed.recent(|recent| {
            if under_way.is_some_and(|until| until >= now.of_redis) {
                recent.note_under_way(key, now.position.seq);
            }
            recent.is_superseded(key, seq)
        });
        if epoch != now.position.epoch || is_superseded || envelope.is_empty() {
            return Ok(None);
        }
        let record = wire::record(key, envelope, seq, epoch)?;
        Ok(record.filter(|record| record.is_alive(now.unix)))
    }

    fn now(&self) -> Moment {
        Moment { position: self.feed.standing(), of_redis: self.feed.till(Duration::ZERO), unix: unix_now() }
    }

    fn stop(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.feed.end();
        self.log_link.end();
    }
}

impl Drop for RedisTier {
    fn drop(&mut self) {
        self.stop();
        self.link.end();
        self.tasks.lock().drain(..).for_each(|task| task.abort());
    }
}

/// The same answer for each of `n`.
fn each<T>(n: usize, error: &TierError) -> Vec<Result<T, TierError>> {
    (0..n).map(|_| Err(error.clone())).collect()
}

impl Tier for RedisTier {
    fn name(&self) -> &str {
        "redis"
    }

    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Found>> {
        Box::pin(async move {
            if let Err(error) = self.vouched().await {
                return each(keys.len(), &error);
            }
            let Some(found) = self.reads.get(keys.clone()).await else { return each(keys.len(), &TierError::closed()) };
            let now = self.now();
            let judge =
                |(key, found): (&Key, reads::Raw)| found?.map_or(Ok(None), |found| self.judge(key, found, &now));
            keys.iter().zip(found).map(judge).collect()
        })
    }

    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>> {
        Box::pin(async move {
            let _changing = self.changing.read().await;
            match self.open() {
                Ok(()) => self.writes.put(puts).await,
                Err(closed) => each(puts.len(), &closed),
            }
        })
    }

    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>> {
        Box::pin(async move {
            let _changing = self.changing.read().await;
            match self.open() {
                Ok(()) => self.writes.delete(keys).await,
                Err(closed) => each(keys.len(), &closed),
            }
        })
    }

    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>> {
        Box::pin(async move {
            self.vouched().await?;
            let judge = |key: &Key, found| self.judge(key, found, &self.now());
            list::list(&self.reads, &self.link, &self.values, (prefix, limit, cursor), judge).await
        })
    }

    fn list_takes(&self) -> u32 {
        LIST_TAKES
    }

    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            let _changing = self.changing.read().await;
            self.open()?;
            self.writes.mark(&fact).await
        })
    }

    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>> {
        Box::pin(async move {
            self.open()?;
            list::markers(&self.link, &self.feed, since).await
        })
    }

    fn flush(&self) -> Answer<'_, Result<(), TierError>> {
        // What was answered has landed.
        ready(self.open())
    }

    fn close(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::SeqCst) {
                return Ok(());
            }
            // What has begun ends, as every command does in time.
            let _changing = self.changing.write().await;
            self.stop();
            if let Some(leases) = &self.leases {
                leases.end().await;
            }
            self.link.end();
            let tasks = std::mem::take(&mut *self.tasks.lock());
            for task in tasks {
                task.abort();
                let _ = task.await;
            }
            Ok(())
        })
    }

    fn log(&self) -> Option<&dyn SharedLog> {
        Some(self)
    }

    fn leases(&self) -> Option<&dyn Leases> {
        self.leases.as_ref().map(|leases| leases as &dyn Leases)
    }
}

impl SharedLog for RedisTier {
    fn position(&self) -> Position {
        self.feed.position()
    }

    fn watch(&self, watcher: Weak<dyn Watcher>) {
        self.feed.watch(watcher);
    }

    fn caught_up(&self) -> Answer<'_, Result<(), TierError>> {
        Box::pin(async move {
            self.vouched().await?;
            let head = self.writes.head().await?;
            self.feed.reached(head, self.timeout).await
        })
    }

    fn tell_too(&self, epoch: u64) {
        self.feed.too.store(epoch, Ordering::SeqCst);
    }

    fn since(&self, seq: u64) -> Answer<'_, Result<Option<Vec<Told>>, TierError>> {
        Box::pin(async move {
            self.open()?;
            list::since(&self.link, &self.feed, seq).await
        })
    }

    fn past(&self) -> Answer<'_, Result<(u64, Vec<Fact>), TierError>> {
        Box::pin(async move {
            self.open()?;
            list::past(&self.link, &self.feed).await
        })
    }

    fn next_version(&self, name: Key, above: u64) -> Answer<'_, Result<u64, TierError>> {
        Box::pin(async move {
            self.open()?;
            self.writes.next(&name, above).await
        })
    }

    fn last_version(&self, name: Key) -> Answer<'_, Result<u64, TierError>> {
        Box::pin(async move {
            self.open()?;
            self.writes.last(&name).await
        })
    }
}
