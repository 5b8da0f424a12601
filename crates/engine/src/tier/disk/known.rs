//! The markers of the store in memory, for the judgement of what loads bring: kept by the one thread that writes, and brought up to
//! date in each transaction that needs them.

use heed::RoTxn;

use super::rows::{Line, State};
use super::store::Store;
use crate::invalidation::markers::{Mark, Markers};
use crate::invalidation::target::Target;
use crate::memory::hash_key;
use crate::tier::{Fact, TierError};

/// Lines of the log that are rather read than all markers.
const MOST_LINES: u64 = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    markers: Markers,
    /// Everything up to here is in; none where nothing is.
    as_of: Option<u64>,
}

impl Known {
    /// Forgets everything: it may be what was never committed, or more than the store still has.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// A fact that the transaction under way has written.
    pub fn add(&mut self, fact: &Fact) {
        let mark = Mark::new(fact.seq, fact.soft);
        match &fact.target {
            Target::Key(key) => self.markers.mark_key(hash_key(key), mark),
            target => self.markers.mark(target, mark),
        }
    }

    /// The markers as the transaction sees them.
    pub fn up_to(&mut self, store: &Store, txn: &RoTxn<'_>, state: &State) -> Result<&Markers, TierError> {
        let missing = self.as_of.map_or(u64::MAX, |as_of| state.seq.saturating_sub(as_of));
        let as_of = self.as_of.unwrap_or_default();
        let lines = if missing > MOST_LINES { None } else { store.lines(txn, as_of, missing as usize)? };
        match lines {
            Some(lines) if lines.len() as u64 == missing => {
                lines.iter().filter(|line| line.marked).for_each(|line| self.add(&line.fact));
            }
            _ => {
                self.markers = Markers::default();
                for row in store.dbs.markers.iter(txn).map_err(|e| store.error(e))? {
                    let row = row.map_err(|e| store.error(e))?.1;
                    self.add(&Line::decode(row, state.epoch)?.fact);
                }
            }
        }
        self.as_of = Some(state.seq);
        Ok(&self.markers)
    }
}
