//! Leases: a key with a token of its holder, which is over after 5 s unless it is renewed.
//!
//! The holder renews it at a third of that, and deletes it when it lets go of it, if it is still its own. Who finds a lease held
//! leaves a mark on it; the holder, seeing the mark as it lets go, says so in the log's stream, which wakes those that wait. Otherwise
//! they wait until the lease is over, as Redis said how long that is. So nobody asks again and again.
//!
//! This spares the origin work, and no more: a holder that is put to sleep for longer than 5 s may find another at work. What is stored in
//! the end is for the numbers to decide.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use parking_lot::Mutex;
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::feed::Feed;
use super::link::Link;
use super::scripts::Script;
use super::wire::{self, odd};
use crate::tier::{Answer, Key, Lease, Leases, TierError};

/// How long a lease lasts that nobody renews.
const TTL: Duration = Duration::from_millis(5000);

/// `l; token, ttl` gives 0 if it is held from now on, else how long another still has it.
static ACQUIRE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local l = KEYS[1]\n\
         if redis.call('SET', l, ARGV[1], 'NX', 'PX', ARGV[2]) then return 0 end\n\
         local v, left = redis.call('GET', l), redis.call('PTTL', l)\n\
         if string.sub(v, -1) ~= '+' then redis.call('SET', l, v .. '+', 'PX', math.max(left, 1)) end\n\
         return math.max(left, 1)",
    )
});

/// `l; token, ttl` gives whether it is still held.
static RENEW: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local v = redis.call('GET', KEYS[1])\n\
         if v ~= ARGV[1] and v ~= ARGV[1] .. '+' then return 0 end\n\
         return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

/// `l; token` gives whether somebody waits for it.
static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local v = redis.call('GET', KEYS[1])\n\
         if v == ARGV[1] or v == ARGV[1] .. '+' then redis.call('DEL', KEYS[1]) end\n\
         return v == ARGV[1] .. '+' and 1 or 0",
    )
});

/// The leases of one Redis.
pub struct RedisLeases(Arc<Shared>);

struct Shared {
    /// What keys begin with in Redis.
    prefix: Vec<u8>,
    link: Arc<Link>,
    feed: Arc<Feed>,
    runtime: Handle,
    keepers: Mutex<JoinSet<()>>,
}

/// Lets go of the lease when it is dropped.
struct Held {
    _gone: oneshot::Sender<()>,
}

impl RedisLeases {
    pub fn new(prefix: Vec<u8>, link: Arc<Link>, feed: Arc<Feed>, runtime: Handle) -> Self {
        Self(Arc::new(Shared { prefix, link, feed, runtime, keepers: Mutex::default() }))
    }

    /// Waits until all leases have been let go of; to be called when the feed has been ended.
    pub async fn end(&self) {
        let mut keepers = std::mem::take(&mut *self.0.keepers.lock());
        while keepers.join_next().await.is_some() {}
    }

    async fn take(&self, key: &Key) -> Result<Lease, TierError> {
        let shared = &self.0;
        let name = [&shared.prefix, &**key].concat();
        let token = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)).into_bytes();
        let ttl = TTL.as_millis().to_string();
        loop {
            if *shared.feed.ended().borrow() {
                return Err(TierError::closed());
            }
            // Before it is asked for, so that no word of it is lost.
            let released = shared.feed.on_release(&name);
            let reply = ACQUIRE.call(&shared.link, &[&name], &[&token, ttl.as_bytes()]).await?;
            let left = wire::number(&reply).ok_or_else(odd)?;
            if left == 0 {
                let (sender, gone) = oneshot::channel();
                let mut keepers = shared.keepers.lock();
                while keepers.try_join_next().is_some() {}
                keepers.spawn_on(Arc::clone(shared).keep(name, token, gone), &shared.runtime);
                return Ok(Lease::Held(Box::new(Held { _gone: sender })));
            }
            tokio::select! {
                released = released => {
                    // Its sender is gone at the end only.
                    return released.map(|()| Lease::Released).map_err(|_| TierError::closed());
                }
                // Not all at once.
                () = sleep(Duration::from_millis(left + fastrand::u64(1..50))) => {}
            }
        }
    }
}

impl Shared {
    /// Renews a lease until it is let go of.
    async fn keep(self: Arc<Self>, name: Vec<u8>, token: Vec<u8>, mut gone: oneshot::Receiver<()>) {
        let mut ended = self.feed.ended();
        let ttl = TTL.as_millis().to_string();
        loop {
            let is_over = tokio::select! {
                () = sleep(TTL / 3) => false,
                _ = &mut gone => true,
                _ = ended.wait_for(|ended| *ended) => true,
            };
            if is_over {
                break;
            }
            // One that failed is made good by the next.
            if let Ok(Value::Int(0)) = RENEW.call(&self.link, &[&name], &[&token, ttl.as_bytes()]).await {
                return;
            }
        }
        // Where this fails the lease is over by itself.
        if let Ok(Value::Int(1)) = RELEASE.call(&self.link, &[&name], &[&token]).await {
            let _ = self.feed.tell_released(&self.link, &name).await;
        }
    }
}

impl Leases for RedisLeases {
    fn acquire(&self, key: Key) -> Answer<'_, Result<Lease, TierError>> {
        Box::pin(async move { self.take(&key).await })
    }
}
