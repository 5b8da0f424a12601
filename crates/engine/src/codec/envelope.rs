//! The envelope: an entry as bytes, for tiers that keep bytes.
//!
//! `docs/format.md` specifies it byte by byte. Promises:
//! - What was written by this version or an earlier one is read, for good: `tests/fixtures` has files of each version.
//! - Bytes that were changed, cut or lengthened, that are of a later version, or that were never an envelope, are an
//!   [`Error`]; never a panic, and nothing is allocated on their word.
//! - What [`Envelope::decode`] takes, [`Envelope::encode`] gives back to the byte: there is one form of an entry.
//! - Moments are those of the wall clock, for the clock of a process means nothing to the next one. Tags and parents, the
//!   number in the log and the log's epoch are kept for those who judge an entry by them.

use std::fmt;

use twox_hash::XxHash3_64;

use crate::clock::{FOREVER, Millis};
use crate::codec::compress::Algorithm;
use crate::entry::{Ages, Entry, EntrySpec, Kind, MAX_LINKS_BYTES, MAX_VALUE_BYTES, Packed};
use crate::key::MAX_KEY_BYTES;

/// What an envelope begins with.
pub const MAGIC: [u8; 3] = *b"KVC";

/// The version that is written.
pub const VERSION: u8 = 1;

/// Bytes in front of the key.
pub const HEAD_BYTES: usize = 84;

/// Largest envelope.
pub const MAX_BYTES: usize = HEAD_BYTES + MAX_KEY_BYTES + MAX_METADATA_BYTES + MAX_LINKS_BYTES + MAX_VALUE_BYTES;

/// Most bytes of metadata: the limit of Workers KV, kept in every tier.
const MAX_METADATA_BYTES: usize = 1024;

/// Where the fields lie.
mod at {
    pub const VERSION: usize = 3;
    pub const CHECKSUM: usize = 4;
    pub const FLAGS: usize = 12;
    pub const KIND: usize = 14;
    pub const CODEC: usize = 15;
    pub const SEQ: usize = 16;
    pub const EPOCH: usize = 24;
    pub const STORED: usize = 32;
    pub const FRESH: usize = 40;
    pub const STALE: usize = 48;
    pub const ERROR: usize = 56;
    pub const FORM: usize = 64;
    pub const LINKS: usize = 68;
    pub const RAW: usize = 72;
    pub const VALUE: usize = 76;
    pub const KEY: usize = 80;
    pub const METADATA: usize = 82;
}

/// What the checksum is of: everything after it.
const CHECKED: usize = at::FLAGS;

/// Flag: the value, before compression, is ASCII text.
const ASCII: u16 = 1;

/// Why bytes are no envelope that can be read. Whoever finds one has nothing to serve: a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// They do not begin like one, or end before one could.
    NotAnEnvelope,
    /// They are of that version, which this one does not know: a later one wrote them.
    Version(u8),
    /// They are not what was written.
    Checksum,
    /// What was written was no entry: says what is wrong.
    Malformed(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnEnvelope => f.write_str("the bytes are no envelope"),
            Self::Version(version) => {
                write!(f, "the envelope is of version {version}; this release reads up to {VERSION}")
            }
            Self::Checksum => f.write_str("the envelope does not match its checksum"),
            Self::Malformed(why) => write!(f, "the envelope is malformed: {why}"),
        }
    }
}

impl std::error::Error for Error {}

/// An entry in its envelope. The parts are borrowed: from the bytes it was read from, or from the entry it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The key: 1 to [`MAX_KEY_BYTES`] bytes of UTF-8.
    pub key: &'a [u8],
    /// The user's metadata as JSON text, at most 1,024 bytes; empty for none.
    pub metadata: &'a [u8],
    /// Encoded tags and parents, at most [`MAX_LINKS_BYTES`]; empty for none.
    pub links: &'a [u8],
    /// The value as `codec` left it, at most [`MAX_VALUE_BYTES`].
    pub value: &'a [u8],
    /// How to read the value.
    pub kind: Kind,
    /// What the value is compressed by.
    pub codec: Option<Algorithm>,
    /// Bytes of the value before compression.
    pub raw_len: u32,
    /// Whether the value, before compression, is text in ASCII.
    pub ascii: bool,
    /// The entry's number in the log; see [`crate::entry::Header::seq`].
    pub seq: u64,
    /// Which log the number is of: numbers of different epochs cannot be compared.
    pub epoch: u64,
    /// Which of the user's forms the value has; see [`crate::entry::Header::version`].
    pub version: u32,
    /// When it was stored, in milliseconds since the UNIX epoch, as the other moments; [`FOREVER`] for never.
    pub stored_at: u64,
    /// Fresh before this moment.
    pub fresh_until: u64,
    /// Stale but served at once before this moment.
    pub stale_until: u64,
    /// Served when a load fails before this moment.
    pub error_until: u64,
}

impl<'a> Envelope<'a> {
    /// Reads an envelope.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() < at::VERSION + 1 || bytes[..at::VERSION] != MAGIC {
            return Err(Error::NotAnEnvelope);
        }
        match bytes[at::VERSION] {
            VERSION => {}
            0 => return Err(Error::NotAnEnvelope),
            later => return Err(Error::Version(later)),
        }
        let Some((head, mut parts)) = bytes.split_at_checked(HEAD_BYTES) else { return Err(Error::NotAnEnvelope) };
        if u64_at(head, at::CHECKSUM) != checksum(bytes) {
            return Err(Error::Checksum);
        }
        let mut part = |len: usize| {
            let (part, rest) =
                parts.split_at_checked(len).ok_or(Error::Malformed("a part is longer than the whole"))?;
            parts = rest;
            Ok(part)
        };
        let key = part(u16_at(head, at::KEY).into())?;
        let metadata = part(u16_at(head, at::METADATA).into())?;
        let links = part(u32_at(head, at::LINKS) as usize)?;
        let value = part(u32_at(head, at::VALUE) as usize)?;
        if !parts.is_empty() {
            return Err(Error::Malformed("there is more than its parts"));
        }
        let flags = u16_at(head, at::FLAGS);
        if flags & !ASCII != 0 {
            return Err(Error::Malformed("a flag that is not known"));
        }
        let codec = match head[at::CODEC] {
            0 => None,
            n => Some(Algorithm::from_u8(n).ok_or(Error::Malformed("a codec that is not known"))?),
        };
        let envelope = Self {
            key,
            metadata,
            links,
            value,
            kind: Kind::from_u8(head[at::KIND]).ok_or(Error::Malformed("a kind of value that is not known"))?,
            codec,
            raw_len: u32_at(head, at::RAW),
            ascii: flags & ASCII != 0,
            seq: u64_at(head, at::SEQ),
            epoch: u64_at(head, at::EPOCH),
            version: u32_at(head, at::FORM),
            stored_at: u64_at(head, at::STORED),
            fresh_until: u64_at(head, at::FRESH),
            stale_until: u64_at(head, at::STALE),
            error_until: u64_at(head, at::ERROR),
        };
        envelope.check()?;
        Ok(envelope)
    }

    /// Appends the bytes of the envelope; nothing where it cannot be one.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a part that is beyond its limit, or at odds with another.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.check()?;
        let start = out.len();
        out.reserve(self.encoded_len());
        let mut head = [0; HEAD_BYTES];
        head[..at::VERSION].copy_from_slice(&MAGIC);
        head[at::VERSION] = VERSION;
        put(&mut head, at::FLAGS, if self.ascii { ASCII } else { 0 }.to_le_bytes());
        head[at::KIND] = self.kind as u8;
        head[at::CODEC] = self.codec.map_or(0, |algorithm| algorithm as u8);
        put(&mut head, at::SEQ, self.seq.to_le_bytes());
        put(&mut head, at::EPOCH, self.epoch.to_le_bytes());
        put(&mut head, at::STORED, self.stored_at.to_le_bytes());
        put(&mut head, at::FRESH, self.fresh_until.to_le_bytes());
        put(&mut head, at::STALE, self.stale_until.to_le_bytes());
        put(&mut head, at::ERROR, self.error_until.to_le_bytes());
        put(&mut head, at::FORM, self.version.to_le_bytes());
        put(&mut head, at::RAW, self.raw_len.to_le_bytes());
        // They fit: it was checked.
        put(&mut head, at::LINKS, (self.links.len() as u32).to_le_bytes());
        put(&mut head, at::VALUE, (self.value.len() as u32).to_le_bytes());
        put(&mut head, at::KEY, (self.key.len() as u16).to_le_bytes());
        put(&mut head, at::METADATA, (self.metadata.len() as u16).to_le_bytes());
        out.extend_from_slice(&head);
        for part in [self.key, self.metadata, self.links, self.value] {
            out.extend_from_slice(part);
        }
        let sum = checksum(&out[start..]);
        put(&mut out[start..], at::CHECKSUM, sum.to_le_bytes());
        Ok(())
    }

    /// Bytes of the whole envelope.
    pub fn encoded_len(&self) -> usize {
        HEAD_BYTES + self.key.len() + self.metadata.len() + self.links.len() + self.value.len()
    }

    /// What must hold of every entry, so that whoever has one need not ask.
    ///
    /// # Errors
    /// [`Error::Malformed`] where it does not.
    pub fn check(&self) -> Result<(), Error> {
        let within = |part: &[u8], most| part.len() <= most;
        let raw_len = self.raw_len as usize;
        let text = self.kind.is_text();
        let plain_text = text && self.codec.is_none();
        let wrong = if self.key.is_empty() || !within(self.key, MAX_KEY_BYTES) {
            "a key of no bytes, or of too many"
        } else if std::str::from_utf8(self.key).is_err() {
            "a key that is no UTF-8"
        } else if !within(self.metadata, MAX_METADATA_BYTES) {
            "metadata of too many bytes"
        } else if std::str::from_utf8(self.metadata).is_err() {
            "metadata that is no UTF-8"
        } else if !within(self.links, MAX_LINKS_BYTES) {
            "tags and parents of too many bytes"
        } else if !within(self.value, MAX_VALUE_BYTES) || raw_len > MAX_VALUE_BYTES {
            "a value of too many bytes"
        } else if self.codec.is_none() && raw_len != self.value.len() {
            "a plain value of another length"
        } else if self.ascii && !text || plain_text && self.ascii != self.value.is_ascii() {
            "a flag that says of the value what it is not"
        } else if plain_text && !self.ascii && std::str::from_utf8(self.value).is_err() {
            "text that is no UTF-8"
        } else {
            return Ok(());
        };
        Err(Error::Malformed(wrong))
    }

    /// The envelope of an entry whose number is of the log `epoch`.
    pub fn of(entry: &'a Entry, epoch: u64, clocks: &Clocks) -> Self {
        let header = entry.header();
        Self {
            key: entry.key(),
            metadata: entry.metadata(),
            links: entry.links(),
            value: entry.value(),
            kind: header.kind,
            codec: entry.codec(),
            raw_len: entry.raw_len() as u32,
            ascii: header.ascii,
            seq: header.seq,
            epoch,
            version: header.version,
            stored_at: clocks.unix_of(header.stored_at),
            fresh_until: clocks.unix_of(header.fresh_until),
            stale_until: clocks.unix_of(header.stale_until),
            error_until: clocks.unix_of(header.error_until),
        }
    }

    /// The entry, counted under `route`. Its moments are those of the envelope; one before this process's clock began is that
    /// beginning.
    pub fn entry(&self, route: u16, clocks: &Clocks) -> Entry {
        let stored_at = clocks.here(self.stored_at);
        let age = |until| match clocks.here(until) {
            FOREVER => FOREVER,
            until => until.saturating_sub(stored_at),
        };
        let spec = EntrySpec {
            key: self.key,
            metadata: self.metadata,
            links: self.links,
            value: self.value,
            kind: self.kind,
            ages: Ages {
                max_age: age(self.fresh_until),
                stale_age: age(self.stale_until),
                stale_if_error: age(self.error_until),
            },
            seq: self.seq,
            route,
            version: self.version,
        };
        let packed = self.codec.map(|algorithm| Packed { algorithm, raw_len: self.raw_len, ascii: self.ascii });
        Entry::restored(&spec, stored_at, packed)
    }
}

/// One moment on both clocks: that of the process, on which ages are measured, and that of the wall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Now, on the process's clock.
    pub now: Millis,
    /// Now, in milliseconds since the UNIX epoch.
    pub unix: u64,
}

impl Clocks {
    /// A moment of the process's clock, in milliseconds since the UNIX epoch.
    pub fn unix_of(&self, at: Millis) -> u64 {
        Self::moved(at, self.now, self.unix)
    }

    /// A moment of the wall clock on the process's; its beginning for what was before.
    pub fn here(&self, unix: u64) -> Millis {
        Self::moved(unix, self.unix, self.now)
    }

    fn moved(at: u64, from: u64, to: u64) -> u64 {
        if at == FOREVER {
            FOREVER
        } else if at >= from {
            to.saturating_add(at - from)
        } else {
            to.saturating_sub(from - at)
        }
    }
}

/// The key in the beginning of an envelope, unchecked; none where it is not one.
#[cfg(feature = "tiers")]
pub(crate) fn key_of(beginning: &[u8]) -> Option<&[u8]> {
    let head = beginning.get(..HEAD_BYTES).filter(|head| head.starts_with(&MAGIC))?;
    beginning.get(HEAD_BYTES..HEAD_BYTES + usize::from(u16_at(head, at::KEY)))
}

/// The checksum of an envelope: XXH3, 64 bits, seed 0, of all that follows it.
fn checksum(envelope: &[u8]) -> u64 {
    XxHash3_64::oneshot(&envelope[CHECKED..])
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, field: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&field);
}

/// The field that begins there: zeros where it would not be whole, which no caller asks for.
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(field(bytes, at))
}
