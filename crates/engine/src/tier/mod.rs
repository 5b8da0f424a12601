//! Tiers: where entries are kept beyond the memory of this process.
//!
//! [`Tier`] is the contract. Whatever keeps it can stand behind the memory tier; [`conformance`] checks that it does, and
//! [`chaos`] makes any tier slow, faulty and disorderly for tests. `docs/tiers.md` says the same to users.
//!
//! How the engine goes by it:
//! - It wraps each tier in [`Guarded`], once, and keeps a [`Runtime`] for as long as it has tiers. Calls are spawned there: a
//!   tier never runs on a JavaScript thread.
//! - *A miss* asks the tiers in their order, with all keys of one moment in one `get_many`. An error is a miss of that tier.
//!   What is found is judged like any entry before it is served: first by its numbers if [`Record::epoch`] is this log's, else
//!   by [`Fact::cuts`]. It goes to the nearer tiers as it is, with the ages it has.
//! - *A put or a load that is stored* goes to each tier by `put_many`, after memory has it. Calls for one key are made in the
//!   order of the log, one after the other: a tier is not asked to sort them.
//! - *A delete or an invalidation* is applied in memory first, then by `delete_many` or `write_marker` in each tier. A failed one
//!   is the caller's `ERR_KVCACHE_TIER`, and is tried again by the engine until the tier has it. Until then what that tier
//!   answers is judged by the facts in memory, as ever.
//! - *At the start* `read_markers(0)` gives the facts of earlier processes. Until it has answered nothing from that tier is
//!   served.

pub mod chaos;
pub mod cloudflare;
#[cfg(any(test, feature = "validate"))]
pub mod conformance;
mod debts;
pub mod disk;
mod error;
mod fact;
mod guarded;
mod lease;
mod ledger;
mod log;
pub mod memory;
mod outbox;
mod record;
pub mod redis;
mod runtime;
mod slot;
mod stack;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use self::error::{TierError, TierErrorKind};
pub use self::fact::{Fact, target_of, text_of};
pub use self::guarded::{Guarded, Rest, TIMEOUT, TierFigures};
pub use self::lease::{Lease, Leases};
pub use self::log::{Position, SharedLog, Told, Watcher};
pub use self::record::{Found, Put, PutOf, Record};
pub use self::runtime::Runtime;
pub use self::stack::{Behindhand, Layer, Tiers};

/// What a call of a tier gives, once it is awaited on a [`Runtime`]. Dropping it gives up waiting; what the call was to change
/// may change all the same.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A key: 1 to 512 bytes of UTF-8.
pub type Key = Arc<[u8]>;

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// In the order of their bytes, after those of the page before.
    pub keys: Vec<Listed>,
    /// Where the next page begins; none where this was the last.
    pub cursor: Option<String>,
}

/// One key of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: Key,
    /// When the tier drops it, in seconds since the UNIX epoch; none for never.
    pub expiration: Option<u64>,
    /// The user's metadata as JSON text; empty for none.
    pub metadata: Box<[u8]>,
}

/// A place that keeps records by key.
///
/// The contract, beside what each call says:
/// - *A value or nothing.* What is given back is whole and was put under that key. Anything else is an error. Metadata is the
///   same JSON, though it may be written otherwise.
/// - *Own writes are seen.* A get that begins after this process's put or delete has answered gives what that wrote or
///   something newer, though the tier may not have landed it yet; or nothing, for a tier may forget. It never gives what was
///   before.
/// - *Errors are told per key* where keys fail apart, and never hold a credential. Nobody panics and nobody waits for ever: a call
///   that is let go of leaves nothing behind that waits for it.
/// - *Ends.* A record is not given once none of its moments is to come. Until then it may be dropped, but not changed.
/// - *No policy.* A tier neither judges records nor refreshes them. It may be called by many at once.
pub trait Tier: Send + Sync + 'static {
    /// Its name, in errors, events and figures: `disk`, `redis`, `cloudflareKV`.
    fn name(&self) -> &str;

    /// Looks keys up: an answer for each, in their order. None where the tier has nothing, or nothing of ours.
    fn get_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<Option<Record>, TierError>>>;

    /// Stores records, each in the place of what its key had: an answer for each, in their order. A tier may answer once it holds
    /// them, before they have landed; see [`Tier::flush`]. Of a key that is given twice the last counts. A record that was refused
    /// leaves nothing older behind: a get of its key gives nothing. What a load brought ([`PutOf::Load`]) may be left out, as if
    /// it had been stored and dropped, and must be by a tier with a [log](Tier::log) where a fact that is newer than the record
    /// cuts it.
    fn put_many(&self, puts: Vec<Put>) -> Answer<'_, Vec<Result<(), TierError>>>;

    /// Removes keys: an answer for each, in their order, once that has landed. Those that are not there are no error. After an
    /// error it may have been done all the same, or be done later.
    fn delete_many(&self, keys: Vec<Key>) -> Answer<'_, Vec<Result<(), TierError>>>;

    /// Lists up to `limit` keys that begin with `prefix`, after `cursor`. A page may have fewer, or none, before the last. What
    /// has not landed yet may be missing.
    fn list(&self, prefix: Vec<u8>, limit: usize, cursor: Option<String>) -> Answer<'_, Result<Page, TierError>>;

    /// Writes a fact down, so that later processes know of it; answers once that has landed. Facts of one target are merged: the
    /// newest hard and the newest soft one are kept, in whatever order they come. A tier with a [log](Tier::log) gives it a number
    /// of its own.
    fn write_marker(&self, fact: Fact) -> Answer<'_, Result<(), TierError>>;

    /// The facts written down at or after that moment (milliseconds since the UNIX epoch), in no order, by whichever process, but
    /// those whose [`Fact::until`] is over.
    fn read_markers(&self, since: u64) -> Answer<'_, Result<Vec<Fact>, TierError>>;

    /// Waits until all that was put before has landed. An error says how much has not, or was lost since the last flush, and why.
    fn flush(&self) -> Answer<'_, Result<(), TierError>>;

    /// Takes nothing more, lands what it holds, gives back what it has of the machine. An error as of [`Tier::flush`]. Closing
    /// again does nothing. All other calls end in [`TierErrorKind::Closed`] from then on.
    fn close(&self) -> Answer<'_, Result<(), TierError>>;

    /// Records that were put and have not landed.
    fn pending(&self) -> usize {
        0
    }

    /// The log that it shares with other processes, if it has one.
    fn log(&self) -> Option<&dyn SharedLog> {
        None
    }

    /// Its leases, if it gives any.
    fn leases(&self) -> Option<&dyn Leases> {
        None
    }

    /// Values of fewer bytes are better put plain, though the cache would compress them.
    fn plain_below(&self) -> usize {
        0
    }

    /// How many times the timeout of a call a listing may take: more than once where it is a walk, of which each step has a timeout of
    /// its own.
    fn list_takes(&self) -> u32 {
        1
    }

    /// Whether who writes waits until it has the record, since others read it from the moment they are told.
    fn is_awaited(&self) -> bool {
        false
    }

    /// Looks a key up on the calling thread, where that takes a few microseconds and waits for nothing: none where it cannot be
    /// said at once, and [`Tier::get_many`] is to be asked.
    fn get_now(&self, _key: &[u8]) -> Option<Found> {
        None
    }
}

/// Wraps what is known at once.
pub(crate) fn ready<'a, T: Send + 'a>(value: T) -> Answer<'a, T> {
    Box::pin(std::future::ready(value))
}

/// Milliseconds since the UNIX epoch.
pub(crate) fn unix_now() -> u64 {
    use crate::clock::{Clock, SystemClock};
    SystemClock::default().unix_millis()
}
