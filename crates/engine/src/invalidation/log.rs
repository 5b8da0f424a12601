//! The log's numbers: one counter, the authority for what came before what.
//!
//! Every change that ends the life of a value (a put, a delete) takes the next number. A load carries the number it saw
//! *before* it began, so a value can always be told from what has been cut since: it is older than the cut.

use crate::sync::{AtomicU64, Ordering};

/// A source of increasing numbers, starting at 1. 0 is before everything.
#[derive(Debug, Default)]
pub struct Log(AtomicU64);

impl Log {
    /// Takes the next number.
    pub fn advance(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The newest number taken so far: what a load that begins now is to carry.
    pub fn current(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
