//! A link: one multiplexed connection that comes back by itself.
//!
//! redis-rs has a connection manager, but one that takes no silence for an end. Here a task dials: at once, then with exponential backoff
//! and full jitter. A connection that broke, or that gave no answer in time, is left to whoever still waits on it, and another is
//! dialled. While there is none, commands fail at once, but for the first moments, when they wait for the outcome of the first
//! attempt. Within a cluster redis-rs follows the topology; a command without an answer makes all of it anew.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, SendError};
use redis::cluster::ClusterConfig;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, PushKind, RedisError, RedisResult, ServerErrorKind, Value,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::settings::Place;
use crate::load::retry;
use crate::tier::{TierError, TierErrorKind};

/// First wait between two attempts, in milliseconds, doubled until the fifth: the log is to be caught up with within 5 s of Redis's return.
const FIRST_WAIT: u64 = 50;
const MOST_DOUBLED: u32 = 5;

/// How long an attempt may take at most.
const LONGEST_DIAL: Duration = Duration::from_secs(2);

/// Commands under way at once.
const MOST_AT_ONCE: usize = 1024;

/// A connection: to one node, or to all of a cluster.
#[derive(Clone)]
pub enum Conn {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Conn {
    pub async fn call(&mut self, cmd: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::Node(node) => node.req_packed_command(cmd).await?,
            Self::Cluster(cluster) => cluster.req_packed_command(cmd).await?,
        };
        // At this level an error of the server is a value.
        if let Value::ServerError(error) = answer { Err(error.into()) } else { Ok(answer) }
    }
}

#[derive(Clone)]
enum State {
    /// An attempt is under way, the first since the last connection.
    Dialling,
    Up(Conn),
    Down(TierError),
    Ended,
}

/// See the module.
pub struct Link {
    place: Arc<Place>,
    state: watch::Sender<(u64, State)>,
    /// How long a command may take.
    timeout: Duration,
    /// How long one that blocks may take.
    longest: Duration,
    at_once: Semaphore,
}

impl Link {
    /// Connects to nobody yet: [`Link::run`] does. A command may take so long, and one that blocks that much more.
    pub fn new(place: Arc<Place>, timeout: Duration, block: Duration) -> Arc<Self> {
        let state = watch::Sender::new((0, State::Dialling));
        let longest = timeout + block;
        Arc::new(Self { place, state, timeout, longest, at_once: Semaphore::new(MOST_AT_ONCE) })
    }

    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    pub fn is_cluster(&self) -> bool {
        matches!(*self.place, Place::Cluster(_))
    }

    /// Dials whenever there is no connection, until the end.
    pub async fn run(self: Arc<Self>) {
        let mut state = self.state.subscribe();
        let (mut attempts, mut log_in, mut turn) = (0, false, 0);
        let mut lost = Arc::new(Notify::new());
        loop {
            let (number, is_up) = match &*state.borrow_and_update() {
                (_, State::Ended) => return,
                (number, now) => (*number, matches!(now, State::Up(_))),
            };
            if is_up {
                attempts = 0;
                tokio::select! {
                    () = lost.notified() => self.failed(number),
                    _ = state.changed() => {}
                }
                continue;
            }
            (attempts, turn, lost) = (attempts + 1, turn + 1, Arc::default());
            let dialled = tokio::select! {
                dialled = self.dial((log_in, turn), &lost) => dialled,
                () = self.ended() => return,
            };
            match dialled {
                Ok(conn) => {
                    self.change(|_| Some(State::Up(conn)));
                }
                Err(error) => {
                    log_in ^= error.kind == TierErrorKind::Auth;
                    self.change(|_| Some(State::Down(error)));
                    let wait = retry::backoff(FIRST_WAIT, attempts.min(MOST_DOUBLED), fastrand::f64());
                    tokio::select! {
                        () = sleep(Duration::from_millis(wait)) => {}
                        () = self.ended() => return,
                    }
                }
            }
        }
    }

    /// Makes a connection; `lost` hears when it is lost.
    async fn dial(&self, (log_in, turn): (bool, usize), lost: &Arc<Notify>) -> Result<Conn, TierError> {
        let most = self.timeout.clamp(Duration::from_millis(100), LONGEST_DIAL);
        // One node that is silent must not use up the time for the others.
        let part = most / 2;
        let lost = Arc::clone(lost);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(most))
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    lost.notify_one();
                }
                Ok::<(), SendError>(())
            });
        let dialled = async {
            Ok::<_, RedisError>(match &*self.place {
                Place::Node(client) => Conn::Node(client.get_multiplexed_async_connection_with_config(&config).await?),
                Place::Sentinel(sentinels) => {
                    let mut client = sentinels.client(log_in, turn)?;
                    Conn::Node(client.get_async_connection_with_config(&config).await?)
                }
                Place::Cluster(client) => {
                    let config = ClusterConfig::new().set_connection_timeout(part).set_response_timeout(self.longest);
                    Conn::Cluster(client.get_async_connection_with_config(config).await?)
                }
            })
        };
        match timeout(most, dialled).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error))
                if self.is_cluster() && error.kind() == ErrorKind::Server(ServerErrorKind::ResponseError) =>
            {
                Err(TierError::new(TierErrorKind::Unavailable, "cluster is set, but this Redis is none"))
            }
            Ok(Err(error)) => Err(told(&error)),
            Err(_) => Err(late()),
        }
    }

    fn change(&self, next: impl FnOnce(&State) -> Option<State>) {
        self.state.send_if_modified(|(number, state)| {
            if matches!(state, State::Ended) {
                return false;
            }
            let Some(next) = next(state) else { return false };
            *number += u64::from(matches!(next, State::Up(_)));
            *state = next;
            true
        });
    }

    async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The sender is ours.
        let _ = state.wait_for(|(_, state)| matches!(state, State::Ended)).await;
    }

    /// Ends the task and the connection.
    pub fn end(&self) {
        self.state.send_modify(|(_, state)| *state = State::Ended);
    }

    /// The connection, with its number.
    pub async fn get(&self) -> Result<(u64, Conn), TierError> {
        let mut state = None;
        loop {
            match &*self.state.borrow() {
                (number, State::Up(conn)) => return Ok((*number, conn.clone())),
                (_, State::Down(error)) => return Err(error.clone()),
                (_, State::Ended) => return Err(TierError::closed()),
                (_, State::Dialling) => {}
            }
            let state = state.get_or_insert_with(|| self.state.subscribe());
            if state.changed().await.is_err() {
                return Err(TierError::closed());
            }
        }
    }

    /// That connection is of no use any more.
    pub fn failed(&self, number: u64) {
        self.state.send_if_modified(|(current, state)| {
            let is_that = *current == number && matches!(state, State::Up(_));
            if is_that {
                *state = State::Dialling;
            }
            is_that
        });
    }

    /// Makes one command.
    pub async fn call(&self, cmd: &Cmd) -> Result<Value, TierError> {
        self.raw(cmd).await?.map_err(|error| told(&error))
    }

    /// The same, with Redis's own error where Redis gave one.
    pub async fn raw(&self, cmd: &Cmd) -> Result<RedisResult<Value>, TierError> {
        let (number, mut conn) = self.get().await?;
        let answer = timeout(self.timeout, async {
            let _permit = self.at_once.acquire().await;
            conn.call(cmd).await
        });
        match answer.await {
            Err(_) => {
                self.failed(number);
                Err(late())
            }
            Ok(Err(error)) => {
                if is_of_the_connection(&error) {
                    self.failed(number);
                }
                Ok(Err(error))
            }
            Ok(Ok(value)) => Ok(Ok(value)),
        }
    }
}

pub fn late() -> TierError {
    TierError::new(TierErrorKind::Timeout, "Redis gave no answer in time")
}

/// Whether another connection is worth a trial.
fn is_of_the_connection(error: &RedisError) -> bool {
    use ServerErrorKind as Kind;
    match error.kind() {
        // A replica, where there was a master.
        ErrorKind::Server(Kind::ReadOnly | Kind::MasterDown) => true,
        ErrorKind::Io => !error.is_timeout() || error.is_connection_dropped(),
        _ => error.is_unrecoverable_error(),
    }
}

/// An error of Redis in our words: its own may repeat what we sent.
pub fn told(error: &RedisError) -> TierError {
    use ServerErrorKind as Kind;
    let code = error.code().unwrap_or_default();
    let of = |kind, message: &str| TierError::new(kind, message);
    match (error.kind(), code) {
        (_, "WRONGPASS" | "NOAUTH" | "NOPERM") | (ErrorKind::AuthenticationFailed, _) => {
            of(TierErrorKind::Auth, "Redis does not accept the credentials of url, or they may not do what is needed")
        }
        (ErrorKind::Io, _) if error.is_timeout() => late(),
        (ErrorKind::Io, _) if error.is_connection_refusal() => {
            of(TierErrorKind::Unavailable, "Redis cannot be reached: the connection was refused")
        }
        (ErrorKind::Io | ErrorKind::ClusterConnectionNotFound, _) => {
            of(TierErrorKind::Unavailable, "Redis cannot be reached, or broke off")
        }
        (ErrorKind::MasterNameNotFoundBySentinel, _) => {
            of(TierErrorKind::Unavailable, "no sentinel knows a master of that name, or none can be reached")
        }
        (ErrorKind::RESP3NotSupported, _) => {
            of(TierErrorKind::Unavailable, "this Redis is too old: version 6.2 or later is needed")
        }
        (ErrorKind::Server(Kind::ReadOnly), _) => {
            of(TierErrorKind::Unavailable, "this Redis is a replica, and takes no writes")
        }
        (ErrorKind::Server(Kind::Moved | Kind::Ask | Kind::CrossSlot), _) => {
            of(TierErrorKind::Unavailable, "this Redis is a cluster, and cluster is not set; or it is being changed")
        }
        (_, "LATE") => late(),
        (_, "OOM") => of(TierErrorKind::Unavailable, "Redis has no memory left (maxmemory)"),
        (_, "MISCONF") => of(TierErrorKind::Unavailable, "Redis takes no writes: it cannot save them to its disk"),
        (_, "WRONGTYPE") => of(TierErrorKind::Refused, "Redis has something else under that key"),
        (ErrorKind::Server(Kind::ResponseError), _) => of(TierErrorKind::Refused, "Redis refused the command"),
        (_, code) if is_code(code) => {
            TierError::new(TierErrorKind::Unavailable, format!("Redis cannot do that now: it answered {code}"))
        }
        _ => of(TierErrorKind::Unavailable, "what Redis answered cannot be read"),
    }
}

/// Whether it looks like one of Redis's codes, and like nothing of ours.
fn is_code(code: &str) -> bool {
    (1..=16).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_uppercase())
}
