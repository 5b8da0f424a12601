//! The entry: one allocation that holds a key, a value, and all that is known about them.
//!
//! An entry never changes once it is built; a new age or a new value is a new entry. Clones share the allocation,
//! so a reader keeps what it found while the memory tier drops it.
//!
//! Layout: `count | length | header | key | metadata | links | value`.

use std::fmt;

use triomphe::ThinArc;

use crate::clock::{FOREVER, Millis};

/// Largest value, in bytes as stored: the limit of Workers KV
/// (<https://developers.cloudflare.com/kv/platform/limits/>), kept in every tier.
pub const MAX_VALUE_BYTES: usize = 25 * 1024 * 1024;

/// How the bytes of a value are to be read back. The numbers are part of the stored form and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// JSON text, UTF-8.
    Json = 0,
    /// A string, UTF-8.
    Text = 1,
    /// A string that UTF-8 cannot carry (it holds lone surrogates): UTF-16, little-endian.
    Utf16 = 2,
    /// Bytes that were given as `Uint8Array`.
    Bytes = 3,
    /// Bytes that were given as Node's `Buffer`.
    Buffer = 4,
    /// Bytes that were given as `ArrayBuffer`.
    ArrayBuffer = 5,
    /// V8's structured-clone serialization.
    V8 = 6,
    /// What the user's own serializer wrote.
    Custom = 7,
}

impl Kind {
    /// The kind of that number, if there is one.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::Json,
            1 => Self::Text,
            2 => Self::Utf16,
            3 => Self::Bytes,
            4 => Self::Buffer,
            5 => Self::ArrayBuffer,
            6 => Self::V8,
            7 => Self::Custom,
            _ => return None,
        })
    }

    /// Whether the value is text in UTF-8.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::Text)
    }
}

/// The ages of an entry, in milliseconds from the moment it is stored; [`FOREVER`] for no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// Fresh below this, jitter already taken off.
    pub max_age: Millis,
    /// Stale but served at once below this.
    pub stale_age: Millis,
    /// Served when a load fails below this.
    pub stale_if_error: Millis,
}

/// What is known of an entry beside its key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The log's number seen before the load began, or given to the put: what invalidations are compared with.
    pub seq: u64,
    /// When it was stored.
    pub stored_at: Millis,
    /// Fresh before this moment.
    pub fresh_until: Millis,
    /// Stale but served at once before this moment.
    pub stale_until: Millis,
    /// Served when a load fails before this moment.
    pub error_until: Millis,
    /// Index of the `define()` pattern it is counted under; 0 for none.
    pub route: u16,
    /// How to read the value.
    pub kind: Kind,
    /// Whether a text value is pure ASCII, so that it can be handed over as Latin-1.
    pub ascii: bool,
    key_len: u16,
    meta_len: u16,
    links_len: u32,
}

/// Where an entry stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// To be served at once.
    Fresh,
    /// To be served at once while one background refresh runs.
    Stale,
    /// To be served only when a load fails.
    OnError,
    /// Not to be served.
    Dead,
}

/// One cached value with its key. Cheap to clone.
#[derive(Clone)]
pub struct Entry(ThinArc<Header, u8>);

impl Entry {
    /// Builds an entry stored at `now`. `key` is a checked key; `metadata` is JSON text or empty; `links` is empty or the
    /// encoded tags and parents of the entry.
    pub fn new(spec: &EntrySpec<'_>, now: Millis) -> Self {
        let mut bytes = Vec::with_capacity(spec.key.len() + spec.metadata.len() + spec.links.len() + spec.value.len());
        bytes.extend_from_slice(spec.key);
        bytes.extend_from_slice(spec.metadata);
        bytes.extend_from_slice(spec.links);
        bytes.extend_from_slice(spec.value);
        let header = Header {
            seq: spec.seq,
            stored_at: now,
            fresh_until: until(now, spec.ages.max_age),
            stale_until: until(now, spec.ages.stale_age),
            error_until: until(now, spec.ages.stale_if_error),
            route: spec.route,
            kind: spec.kind,
            ascii: spec.kind.is_text() && spec.value.is_ascii(),
            key_len: spec.key.len() as u16,
            meta_len: spec.metadata.len() as u16,
            links_len: spec.links.len() as u32,
        };
        Self(ThinArc::from_header_and_slice(header, &bytes))
    }

    /// Moves an entry that nobody shares yet to another number and another moment; its ages count from there.
    pub fn stamp(&mut self, seq: u64, now: Millis) {
        self.0.with_arc_mut(|arc| {
            if let Some(inner) = triomphe::Arc::get_mut(arc) {
                let h = inner.header_mut();
                let was = h.stored_at;
                let moved = |moment: Millis| if moment == FOREVER { FOREVER } else { until(now, moment - was) };
                (h.fresh_until, h.stale_until, h.error_until) =
                    (moved(h.fresh_until), moved(h.stale_until), moved(h.error_until));
                (h.seq, h.stored_at) = (seq, now);
            }
        });
    }

    /// What is known of the entry.
    #[inline]
    pub fn header(&self) -> &Header {
        &self.0.header.header
    }

    /// The key's bytes of UTF-8.
    #[inline]
    pub fn key(&self) -> &[u8] {
        &self.0.slice[..self.header().key_len as usize]
    }

    /// The key as text.
    pub fn key_str(&self) -> &str {
        // Keys are checked to be UTF-8 before an entry is built.
        std::str::from_utf8(self.key()).unwrap_or_default()
    }

    /// The user's metadata as JSON text; empty for none.
    pub fn metadata(&self) -> &[u8] {
        let h = self.header();
        let start = h.key_len as usize;
        &self.0.slice[start..start + h.meta_len as usize]
    }

    /// The encoded tags and parents; empty for none.
    pub fn links(&self) -> &[u8] {
        let h = self.header();
        let start = h.key_len as usize + h.meta_len as usize;
        &self.0.slice[start..start + h.links_len as usize]
    }

    /// The value's bytes.
    #[inline]
    pub fn value(&self) -> &[u8] {
        let h = self.header();
        &self.0.slice[h.key_len as usize + h.meta_len as usize + h.links_len as usize..]
    }

    /// Bytes of the one allocation behind this entry: header, key, metadata, links and value.
    #[inline]
    pub fn allocated(&self) -> usize {
        // Reference count and length precede the header.
        2 * size_of::<usize>() + size_of::<Header>() + self.0.slice.len()
    }

    /// Where the entry stands at `now`.
    #[inline]
    pub fn freshness(&self, now: Millis) -> Freshness {
        let h = self.header();
        if now < h.fresh_until {
            Freshness::Fresh
        } else if now < h.stale_until {
            Freshness::Stale
        } else if now < h.error_until {
            Freshness::OnError
        } else {
            Freshness::Dead
        }
    }

    /// The moment from which it can no longer be served at all.
    #[inline]
    pub fn dead_at(&self) -> Millis {
        let h = self.header();
        h.fresh_until.max(h.stale_until).max(h.error_until)
    }

    /// Milliseconds since it was stored.
    pub fn age(&self, now: Millis) -> Millis {
        now.saturating_sub(self.header().stored_at)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key_str())
            .field("header", self.header())
            .field("value_len", &self.value().len())
            .finish()
    }
}

/// What an entry is built from.
#[derive(Debug, Clone, Copy)]
pub struct EntrySpec<'a> {
    /// A checked key.
    pub key: &'a [u8],
    /// The user's metadata as JSON text, at most 1,024 bytes; empty for none.
    pub metadata: &'a [u8],
    /// Encoded tags and parents; empty for none.
    pub links: &'a [u8],
    /// The value, at most [`MAX_VALUE_BYTES`].
    pub value: &'a [u8],
    /// How to read the value.
    pub kind: Kind,
    /// Its ages from now.
    pub ages: Ages,
    /// See [`Header::seq`].
    pub seq: u64,
    /// See [`Header::route`].
    pub route: u16,
}

fn until(now: Millis, age: Millis) -> Millis {
    now.checked_add(age).unwrap_or(FOREVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>() -> EntrySpec<'a> {
        EntrySpec {
            key: b"k",
            metadata: b"{}",
            links: b"",
            value: b"\"v\"",
            kind: Kind::Json,
            ages: Ages { max_age: 10, stale_age: 20, stale_if_error: 30 },
            seq: 7,
            route: 3,
        }
    }

    #[test]
    fn gives_back_what_it_was_built_from() {
        let e = Entry::new(&spec(), 100);
        assert_eq!((e.key(), e.metadata(), e.links(), e.value()), (&b"k"[..], &b"{}"[..], &b""[..], &b"\"v\""[..]));
        assert_eq!((e.header().seq, e.header().route, e.header().ascii), (7, 3, true));
    }

    #[test]
    fn lives_through_its_four_stages() {
        let e = Entry::new(&spec(), 100);
        for (now, expected) in [
            (100, Freshness::Fresh),
            (109, Freshness::Fresh),
            (110, Freshness::Stale),
            (119, Freshness::Stale),
            (120, Freshness::OnError),
            (129, Freshness::OnError),
            (130, Freshness::Dead),
        ] {
            assert_eq!(e.freshness(now), expected, "at {now}");
        }
        assert_eq!(e.dead_at(), 130);
    }

    #[test]
    fn an_endless_age_never_ends() {
        let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
        let e = Entry::new(&EntrySpec { ages, ..spec() }, 100);
        assert_eq!(e.freshness(u64::MAX - 1), Freshness::Fresh);
        assert_eq!(e.dead_at(), FOREVER);
    }
}
