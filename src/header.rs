//! The numbers that travel beside a call, in an array shared with JavaScript. `lib/native.js` has the same list.

use kvcache_engine::invalidation::stamps::MOST_SHARED;

/// What became of the call: see [`Status`].
pub const STATUS: usize = 0;
/// Out: how the value is to be read, a `Kind`.
pub const KIND: usize = 1;
/// Out: age of the value, milliseconds.
pub const AGE: usize = 2;
/// Out: its effective maxAge, milliseconds, may be infinite.
pub const MAX_AGE: usize = 3;
/// Out: a flight, or a batch, or the number of a published version.
pub const TOKEN: usize = 4;
/// Out: 1 when the stale value found is not being refreshed yet.
pub const REFRESH_DUE: usize = 5;
/// Out, after every call: 1 when events wait in the mailbox.
pub const PENDING: usize = 6;
/// Out: when an open circuit may be tried, milliseconds since the UNIX epoch.
pub const NEXT_ATTEMPT: usize = 7;
/// Out: 1 when the value has metadata, which `takeMetadata()` gives.
pub const HAS_METADATA: usize = 8;
/// Out: 1 when there is a copy in hand.
pub const HAS_COPY: usize = 9;
/// Out: where a batch stands, a `BatchEnd`.
pub const BATCH_END: usize = 10;
/// Out: of a value that is too large, its bytes and the limit; and 1 when the limit is the memory budget.
pub const BYTES: usize = 11;
pub const LIMIT: usize = 12;
pub const LIMIT_IS_BUDGET: usize = 13;
/// Out: the number under which a worker decompresses the value found, 0 if it is here.
pub const DEFERRED: usize = 14;

/// Out: when a caller that joins a load came; in: the same, when it begins anew.
pub const SINCE: usize = 15;

/// In: ages, milliseconds, may be infinite.
pub const IN_MAX_AGE: usize = 16;
pub const IN_STALE_AGE: usize = 17;
pub const IN_STALE_IF_ERROR: usize = 18;
/// In: the route, 0 for none.
pub const IN_ROUTE: usize = 19;
/// In: the origin's number.
pub const IN_ORIGIN: usize = 20;
/// In: milliseconds, may be infinite.
pub const IN_HARD_TIMEOUT: usize = 21;
/// In: the flight whose fetcher asks, 0 for none.
pub const IN_PARENT: usize = 22;

/// In: the version of the copy that the thread has of the key looked up, 0 for none.
pub const IN_VERSION: usize = 23;

/// Out, where asked for: until when a copy of the value found may answer, as the clock's word shows it, if its stamps
/// stand, 0 for not at all. With it all up to [`SHARED`].
pub const NEAR_UNTIL: usize = 24;
/// Out: the version of the value found.
pub const VERSION: usize = 25;
/// Out: 1 when it is the version of [`IN_VERSION`]: the value is not given then.
pub const SAME: usize = 26;
/// Out: the epoch of the stamps, as an `i32`, as all stamps are.
pub const EPOCH: usize = 27;
/// Out: the slot of the key, and its stamp.
pub const SLOT: usize = 28;
pub const STAMP: usize = 29;
/// Out: the sum of the shared stamps, and their number.
pub const SUM: usize = 30;
pub const SHARED_LEN: usize = 31;
/// Out: bytes of the value before compression.
pub const SIZE: usize = 32;
/// Out: the key's hash, as two `i32`, and its route.
pub const HASH_LOW: usize = 33;
pub const HASH_HIGH: usize = 34;
pub const ROUTE: usize = 35;
/// Out: the shared slots, from here on.
pub const SHARED: usize = 36;

/// Out: the newest number of the log when the caller began or joined a load.
pub const SEQ: usize = SHARED + MOST_SHARED;
/// Out: the number of the invalidation that turned out at the end of a load to have cut it, 0 for none. Who joined at this
/// [`SEQ`] or later is to load again.
pub const CUT: usize = SEQ + 1;
/// Out: 1 when a load runs because what the key held was invalidated.
pub const INVALIDATED: usize = CUT + 1;
/// Out: 1 when the value has tags or parents, which `takeLinks()` gives.
pub const HAS_LINKS: usize = INVALIDATED + 1;
/// Out: when a version was published, or shown, in milliseconds since the UNIX epoch.
pub const UPDATED_AT: usize = HAS_LINKS + 1;
/// In: how many versions are to be kept.
pub const IN_KEEP: usize = UPDATED_AT + 1;
/// In: the number that a version is to have at least.
pub const IN_NUMBER: usize = IN_KEEP + 1;

/// Length of the array.
pub const LENGTH: usize = IN_NUMBER + 1;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i8)]
pub enum Status {
    /// No cache of that number: it was closed.
    Closed = -1,
    /// Not a string, empty, too long, or with a lone surrogate.
    InvalidKey = -2,
    /// See [`BYTES`].
    TooLarge = -3,
    /// The data given cannot be read: not a string where text is due, not bytes where bytes are.
    InvalidData = -4,
    /// Nothing there, or nothing to say.
    None = 0,
    /// A value, fresh.
    Fresh = 1,
    /// A value, stale.
    Stale = 2,
    /// A value that may stand in for a failed load.
    OnError = 3,
    /// The caller leads the flight [`TOKEN`].
    Lead = 4,
    /// The caller waits for the flight [`TOKEN`].
    Join = 5,
    /// The circuit is open until [`NEXT_ATTEMPT`].
    Refused = 6,
    /// The caller would wait for itself.
    Recursion = 7,
    /// Done.
    Done = 8,
    /// What was reported was not stored: there was nothing to store, or the key was written meanwhile.
    Unstored = 9,
    /// The flight had ended before.
    Gone = 10,
    /// The flight goes on: other threads wait for it.
    Awaited = 11,
    /// What was waited for has failed.
    Failed = 12,
    /// What was waited for took longer than [`AGE`] milliseconds.
    TimedOut = 13,
    /// What was waited for had no fetcher, and was found nowhere.
    NotFound = 14,
}
