//! A record: an entry on its way to a tier or from it, with all that the envelope carries.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::Key;
use crate::clock::FOREVER;
use crate::codec::Algorithm;
use crate::codec::envelope::{Clocks, Envelope, Error};
use crate::entry::{Entry, Kind};

/// An entry as tiers have it. Moments are milliseconds since the UNIX epoch, [`FOREVER`] for never. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: Key,
    /// JSON text, or empty.
    pub metadata: Arc<[u8]>,
    /// Encoded tags and parents, or empty.
    pub links: Arc<[u8]>,
    /// As `codec` left it. It may keep what it was read from.
    pub value: Bytes,
    pub kind: Kind,
    pub codec: Option<Algorithm>,
    /// Bytes before compression.
    pub raw_len: u32,
    pub ascii: bool,
    /// The entry's number in the log `epoch`.
    pub seq: u64,
    pub epoch: u64,
    pub version: u32,
    pub stored_at: u64,
    pub fresh_until: u64,
    pub stale_until: u64,
    pub error_until: u64,
}

/// A record to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    pub record: Record,
    pub of: PutOf,
}

/// Where a record comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOf {
    /// Somebody has written it: it wins over what was there, and is a fact for everybody else. A tier with a
    /// [log](super::Tier::log) gives it its number.
    Write,
    /// A load has brought it. In a tier with a log its number is the [position](super::SharedLog::position) that the load began
    /// at.
    Load,
}

impl Put {
    pub fn write(record: Record) -> Self {
        Self { record, of: PutOf::Write }
    }

    pub fn load(record: Record) -> Self {
        Self { record, of: PutOf::Load }
    }
}

/// What a look-up gives for one key.
pub type Found = Result<Option<Record>, super::TierError>;

impl Record {
    /// The record of an entry whose number is of the log `epoch`.
    pub fn of(entry: &Entry, epoch: u64, clocks: &Clocks) -> Self {
        Self::from_envelope(&Envelope::of(entry, epoch, clocks))
    }

    /// A copy of what an envelope holds.
    pub fn from_envelope(e: &Envelope<'_>) -> Self {
        Self::with(e, e.key.into(), Bytes::copy_from_slice(e.value))
    }

    /// What an envelope holds that was found under `key`; its value is not copied. None if it is of another key.
    ///
    /// # Errors
    /// Those of [`Envelope::decode`].
    pub fn within(mut envelope: Bytes, key: &Key) -> Result<Option<Self>, Error> {
        let decoded = Envelope::decode(&envelope)?;
        if decoded.key != &**key {
            return Ok(None);
        }
        // The value is the last part.
        let before = envelope.len() - decoded.value.len();
        let mut record = Self::with(&decoded, Arc::clone(key), Bytes::new());
        envelope.advance(before);
        record.value = envelope;
        Ok(Some(record))
    }

    fn with(e: &Envelope<'_>, key: Key, value: Bytes) -> Self {
        // Mostly there is none, which costs no allocation.
        let part = |bytes: &[u8]| if bytes.is_empty() { Arc::default() } else { bytes.into() };
        Self {
            key,
            metadata: part(e.metadata),
            links: part(e.links),
            value,
            kind: e.kind,
            codec: e.codec,
            raw_len: e.raw_len,
            ascii: e.ascii,
            seq: e.seq,
            epoch: e.epoch,
            version: e.version,
            stored_at: e.stored_at,
            fresh_until: e.fresh_until,
            stale_until: e.stale_until,
            error_until: e.error_until,
        }
    }

    /// The same, borrowed: to be [encoded](Envelope::encode), or made an [entry](Envelope::entry) of.
    pub fn envelope(&self) -> Envelope<'_> {
        Envelope {
            key: &self.key,
            metadata: &self.metadata,
            links: &self.links,
            value: &self.value,
            kind: self.kind,
            codec: self.codec,
            raw_len: self.raw_len,
            ascii: self.ascii,
            seq: self.seq,
            epoch: self.epoch,
            version: self.version,
            stored_at: self.stored_at,
            fresh_until: self.fresh_until,
            stale_until: self.stale_until,
            error_until: self.error_until,
        }
    }

    /// When it can no longer be served.
    pub fn dead_at(&self) -> u64 {
        self.fresh_until.max(self.stale_until).max(self.error_until)
    }

    /// Whether it can be served at that moment.
    pub fn is_alive(&self, unix: u64) -> bool {
        let dead_at = self.dead_at();
        dead_at == FOREVER || dead_at > unix
    }

    /// Bytes of key, metadata, links and value.
    pub fn len(&self) -> usize {
        self.key.len() + self.metadata.len() + self.links.len() + self.value.len()
    }

    /// Never: a key has at least a byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
