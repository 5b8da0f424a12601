//! Leases: one load a key among all processes that share a tier. They spare the origin work; correctness does not rest on them.

use super::{Answer, Key, TierError};

/// What came of asking for a lease.
pub enum Lease {
    /// It is held, and renewed, until this is dropped.
    Held(Box<dyn Send + Sync>),
    /// Another had it and has let go of it: look again before loading.
    Released,
}

/// A tier that gives leases.
pub trait Leases: Send + Sync {
    /// Asks for the lease of a key. While another holds it this waits, without asking again and again, until that one lets go of it, or
    /// dies and it runs out.
    fn acquire(&self, key: Key) -> Answer<'_, Result<Lease, TierError>>;
}
