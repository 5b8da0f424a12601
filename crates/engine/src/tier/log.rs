//! The log that processes share through a tier: one authority for the numbers of facts, which every process is told.
//!
//! A tier with a log numbers what is written to it: records that are put, keys that are deleted, facts that are written down. The
//! numbers grow, and all processes see them in that order. Those of the records that it gives back are of this log too, so that a
//! record and a fact can be compared without a clock, whoever wrote them.

use std::sync::Weak;

use super::{Answer, Fact, Key, TierError, ready};

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Which log: another after its numbers have begun anew.
    pub epoch: u64,
    /// Every fact up to here has been told.
    pub seq: u64,
}

/// A fact as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// With a number of the log. Of a record that was put, or a key that was deleted, it is a hard one of that key.
    pub fact: Fact,
    /// It was written through this very tier object.
    pub own: bool,
    /// The log of a nearer tier that its writer tells of it, too: see [`SharedLog::tell_too`]. 0 for none.
    pub too: u64,
}

/// Who is told what the log has.
pub trait Watcher: Send + Sync {
    /// Facts, each once, in the order of their numbers. Own ones come before the call that wrote them has answered. Called from one thread at
    /// a time; it must not call the tier back.
    fn told(&self, facts: &[Told]);

    /// Facts may have been missed: the log was cut off beyond what was told, or begun anew. Whatever was read before counts as
    /// outdated. What [`super::Tier::read_markers`] gives from now on is whole again.
    fn missed(&self);

    /// The tier can be reached again after it could not.
    fn returned(&self) {}

    /// Something went wrong that nobody waited for.
    fn failed(&self, error: &TierError, key: Option<&Key>);
}

/// See the module.
pub trait SharedLog: Send + Sync {
    /// Where the watcher stands: cheap, for it is asked at the beginning of each load. What a load that begins here brings is stored only
    /// while no newer fact cuts it.
    fn position(&self) -> Position;

    /// Tells this one from now on. One watcher a tier.
    fn watch(&self, watcher: Weak<dyn Watcher>);

    /// Whether others have written what the watcher was not told yet, where that can be seen at once: an atomic load, for every
    /// read asks. A log that tells by itself is never behind.
    fn is_behind(&self) -> bool {
        false
    }

    /// Tells the watcher all there is, on the calling thread.
    fn catch_up(&self) {}

    /// A word that changes with each fact of others, in memory that lasts as long as the answer is held: for copies that are to answer
    /// without a call. [`SharedLog::is_behind`] is false while it is what it was after [`SharedLog::catch_up`].
    fn head(&self) -> Option<std::sync::Arc<dyn AsRef<std::sync::atomic::AtomicU32> + Send + Sync>> {
        None
    }

    /// Waits until the watcher has been told of all that the log has now: for what is found here by who has heard of changes elsewhere,
    /// of which this log was told before.
    fn caught_up(&self) -> Answer<'_, Result<(), TierError>> {
        self.catch_up();
        ready(Ok(()))
    }

    /// From now on says of what it writes that the log of that epoch is told of it, too, by this process: others that share that log
    /// need not pass it on. 0 for none.
    fn tell_too(&self, _epoch: u64) {}

    /// What was told after that number, by whichever process; none where the log does not have all of it any more, or does not keep it
    /// in this form.
    fn since(&self, _seq: u64) -> Answer<'_, Result<Option<Vec<Told>>, TierError>> {
        ready(Ok(None))
    }

    /// What the log still has of the time before the watcher was told, in any order, and the number after which that is whole.
    fn past(&self) -> Answer<'_, Result<(u64, Vec<Fact>), TierError>>;

    /// The next number of a counter, larger than all it gave before and than `above`, whichever process asks: for versions.
    fn next_version(&self, name: Key, above: u64) -> Answer<'_, Result<u64, TierError>>;

    /// The number that a counter gave last; 0 for none.
    fn last_version(&self, name: Key) -> Answer<'_, Result<u64, TierError>>;
}
