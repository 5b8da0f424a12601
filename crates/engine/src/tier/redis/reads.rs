//! Reads of one moment go together: `MGET` to one node, and in a cluster one for each slot.
//!
//! A task sends what has been asked for since the last time. A few of those are under way at once; what is asked for meanwhile goes with the next,
//! so that the more is asked for at once, the more goes together, and nothing waits on a timer.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::cluster_routing::Slot;
use redis::{RedisWrite, ToRedisArgs, Value, cmd};
use tokio::sync::{Notify, Semaphore, oneshot};

use super::link::Link;
use super::wire::odd;
use crate::tier::{Key, TierError};

/// Sendings under way at once.
const MOST_AT_ONCE: usize = 4;

/// Keys of one command.
const MOST_KEYS: usize = 256;

/// What is under a key, as it lies there.
pub type Raw = Result<Option<Bytes>, TierError>;

struct Ask {
    keys: Vec<Key>,
    answer: oneshot::Sender<Vec<Raw>>,
}

/// What a key is called in Redis, put together where it is sent.
#[derive(Clone, Copy)]
struct Name<'a> {
    prefix: &'a [u8],
    key: &'a [u8],
}

impl ToRedisArgs for Name<'_> {
    fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
        let mut writer = out.writer_for_next_arg();
        // It is memory, which takes everything.
        let _ = writer.write_all(self.prefix).and_then(|()| writer.write_all(self.key));
    }
}

/// See the module.
pub struct Reads {
    /// What keys begin with in Redis.
    prefix: Vec<u8>,
    link: Arc<Link>,
    queue: Mutex<Vec<Ask>>,
    asked: Notify,
    at_once: Arc<Semaphore>,
}

impl Reads {
    pub fn new(prefix: Vec<u8>, link: Arc<Link>) -> Arc<Self> {
        let at_once = Arc::new(Semaphore::new(MOST_AT_ONCE));
        Arc::new(Self { prefix, link, queue: Mutex::default(), asked: Notify::new(), at_once })
    }

    /// Asks for keys: an answer for each. None if that was given up.
    pub async fn get(&self, keys: Vec<Key>) -> Option<Vec<Raw>> {
        let (answer, receiver) = oneshot::channel();
        self.queue.lock().push(Ask { keys, answer });
        self.asked.notify_one();
        receiver.await.ok()
    }

    /// Sends what is asked for; to be given up at the end.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.asked.notified().await;
            loop {
                let Ok(permit) = Arc::clone(&self.at_once).acquire_owned().await else { return };
                // Whoever else is about to ask goes with it.
                tokio::task::yield_now().await;
                let asks = std::mem::take(&mut *self.queue.lock());
                if asks.is_empty() {
                    break;
                }
                let reads = Arc::clone(&self);
                tokio::spawn(async move {
                    reads.send(asks).await;
                    drop(permit);
                });
            }
        }
    }

    async fn send(&self, asks: Vec<Ask>) {
        // Whoever has let go is asked for no more.
        let asks: Vec<_> = asks.into_iter().filter(|ask| !ask.answer.is_closed()).collect();
        let name = |key| Name { prefix: &self.prefix, key };
        let names: Vec<_> = asks.iter().flat_map(|ask| &ask.keys).map(|key| name(&**key)).collect();
        let mut found = if self.link.is_cluster() { self.by_slot(&names).await } else { self.by_chunk(&names).await };
        let mut rest = found.drain(..);
        for ask in asks {
            let answers = rest.by_ref().take(ask.keys.len()).collect();
            let _ = ask.answer.send(answers);
        }
    }

    async fn by_chunk(&self, names: &[Name<'_>]) -> Vec<Raw> {
        join_all(names.chunks(MOST_KEYS).map(|chunk| self.mget(chunk))).await.into_iter().flatten().collect()
    }

    async fn by_slot(&self, names: &[Name<'_>]) -> Vec<Raw> {
        let mut slots: HashMap<Slot, Vec<usize>> = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            slots.entry(Slot::for_key([name.prefix, name.key].concat())).or_default().push(at);
        }
        let calls = slots.into_values().map(|places| async {
            let asked: Vec<_> = places.iter().map(|at| names[*at]).collect();
            let found = self.mget(&asked).await;
            places.into_iter().zip(found)
        });
        let mut all: Vec<Raw> = names.iter().map(|_| Err(odd())).collect();
        for (at, found) in join_all(calls).await.into_iter().flatten() {
            all[at] = found;
        }
        all
    }

    async fn mget(&self, names: &[Name<'_>]) -> Vec<Raw> {
        let mut cmd = cmd("MGET");
        for name in names {
            cmd.arg(*name);
        }
        match self.link.call(&cmd).await {
            Ok(Value::Array(values)) if values.len() == names.len() => values
                .into_iter()
                .map(|value| match value {
                    Value::BulkString(bytes) => Ok(Some(bytes.into())),
                    Value::Nil => Ok(None),
                    _ => Err(odd()),
                })
                .collect(),
            Ok(_) => names.iter().map(|_| Err(odd())).collect(),
            Err(error) => names.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}
