//! What lies in the databases, byte by byte. Numbers are little-endian in values and big-endian in keys, whose order counts.

use twox_hash::XxHash3_64;

use crate::tier::{Fact, TierError, TierErrorKind, target_of, text_of};

/// The version of all that is kept. A store of a later one is left alone.
pub(super) const FORMAT: u32 = 1;

/// Bytes in front of a record's envelope.
pub(super) const HEAD_BYTES: usize = 56;

/// What a key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Holds {
    /// A record: its envelope follows.
    Record = 0,
    /// A record whose envelope is in a file of its own.
    Aside = 1,
    /// Nothing any more: only the number of the fact that ended it.
    Tombstone = 2,
}

/// The head of a row of `entries`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub holds: Holds,
    /// The record's number in the log.
    pub seq: u64,
    /// The newest hard fact of the key itself: a write, a delete. It outlasts what loads bring.
    pub fact: u64,
    /// The row's place in `order`.
    pub order: u64,
    /// The row's moment in `ends`: when nobody needs it any more; [`crate::clock::FOREVER`] where it is not there.
    pub ends: u64,
    /// The name of its file, if it has one.
    pub file: u64,
    /// Bytes of the envelope.
    pub len: u64,
}

fn corrupt(what: &str) -> TierError {
    TierError::new(TierErrorKind::Corrupt, format!("the disk tier holds {what} that is not what was written"))
}

/// The `N` bytes that begin there; zeros where there are fewer, which a checked length rules out.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(part(bytes, at))
}

/// A number as a key.
pub(super) fn key_of(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The number that a key begins with.
pub(super) fn number_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(part(key, 0))
}

/// The key of a row in `ends`.
pub(super) fn ends_key(ends: u64, order: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&key_of(ends));
    key[8..].copy_from_slice(&key_of(order));
    key
}

impl Head {
    /// As it is kept: a checksum of its own, what it holds, and its numbers.
    pub fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[4] = self.holds as u8;
        let numbers = [self.seq, self.fact, self.order, self.ends, self.file, self.len];
        for (n, number) in numbers.into_iter().enumerate() {
            out[8 + 8 * n..16 + 8 * n].copy_from_slice(&number.to_le_bytes());
        }
        let sum = XxHash3_64::oneshot(&out[4..]) as u32;
        out[..4].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The head of a row, and what follows it.
    ///
    /// # Errors
    /// If it is not what was written.
    pub fn decode(row: &[u8]) -> Result<(Self, &[u8]), TierError> {
        let (head, rest) = row.split_at_checked(HEAD_BYTES).ok_or_else(|| corrupt("a row"))?;
        if u32::from_le_bytes(part(head, 0)) != XxHash3_64::oneshot(&head[4..]) as u32 {
            return Err(corrupt("the head of a row"));
        }
        let holds = match head[4] {
            0 => Holds::Record,
            1 => Holds::Aside,
            2 => Holds::Tombstone,
            _ => return Err(corrupt("the head of a row")),
        };
        let number = |n: usize| u64_at(head, 8 + 8 * n);
        let head = Self {
            holds,
            seq: number(0),
            fact: number(1),
            order: number(2),
            ends: number(3),
            file: number(4),
            len: number(5),
        };
        Ok((head, rest))
    }
}

/// The one row of `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct State {
    pub format: u32,
    /// Which log.
    pub epoch: u64,
    /// The newest number of the log.
    pub seq: u64,
    /// The newest place in `order`.
    pub order: u64,
    /// What is known of keys up to this number may have been dropped: a load that began before is not stored.
    pub floor: u64,
    /// Bytes in files of their own.
    pub aside: u64,
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.format.to_le_bytes().to_vec();
        for number in [self.epoch, self.seq, self.order, self.floor, self.aside] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub fn decode(row: &[u8]) -> Result<Self, TierError> {
        if row.len() < 4 {
            return Err(corrupt("a state"));
        }
        let format = u32::from_le_bytes(part(row, 0));
        let number = |n: usize| u64_at(row, 4 + 8 * n);
        let state =
            Self { format, epoch: number(0), seq: number(1), order: number(2), floor: number(3), aside: number(4) };
        // A later format says itself what its state is like.
        if format <= FORMAT && row.len() != 44 { Err(corrupt("a state")) } else { Ok(state) }
    }
}

/// A row of `log`, or of `markers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub fact: Fact,
    /// Which tier object wrote it.
    pub writer: u64,
    /// It is kept among the markers, too; else a record or a tombstone has its number.
    pub marked: bool,
}

const KINDS: [&str; 5] = ["key", "prefix", "pattern", "tag", "all"];

const SOFT: u8 = 1;
const MARKED: u8 = 2;

impl Line {
    pub fn encode(&self) -> Vec<u8> {
        let fact = &self.fact;
        let kind = KINDS.iter().position(|kind| *kind == fact.target.kind().as_str()).unwrap_or(0);
        let flags = if fact.soft { SOFT } else { 0 } | if self.marked { MARKED } else { 0 };
        let mut out = vec![kind as u8, flags];
        for number in [fact.seq, fact.at, fact.until, self.writer] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(text_of(&fact.target).as_bytes());
        out
    }

    /// # Errors
    /// If it is not what was written.
    pub fn decode(row: &[u8], epoch: u64) -> Result<Self, TierError> {
        let broken = || corrupt("a fact");
        let (head, text) = row.split_at_checked(34).ok_or_else(broken)?;
        let text = std::str::from_utf8(text).map_err(|_| broken())?;
        let kind = KINDS.get(usize::from(head[0])).ok_or_else(broken)?;
        let number = |n: usize| u64_at(head, 2 + 8 * n);
        let fact = Fact {
            target: target_of(kind, text).ok_or_else(broken)?,
            soft: head[1] & SOFT != 0,
            seq: number(0),
            epoch,
            at: number(1),
            until: number(2),
        };
        Ok(Self { fact, writer: number(3), marked: head[1] & MARKED != 0 })
    }

    /// Its key among the markers: that of its kind, softness and target.
    pub fn register(&self) -> [u8; 18] {
        let row = self.encode();
        let mut key = [0; 18];
        key[0] = row[0];
        key[1] = row[1] & SOFT;
        key[2..10].copy_from_slice(&XxHash3_64::oneshot(&row[34..]).to_be_bytes());
        key[10..].copy_from_slice(&XxHash3_64::oneshot_with_seed(1, &row[34..]).to_be_bytes());
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invalidation::target::Target;

    #[test]
    fn rows_are_read_back_and_changed_ones_refused() {
        let head = Head { holds: Holds::Aside, seq: 1, fact: 2, order: 3, ends: u64::MAX, file: 5, len: 6 };
        let mut row = head.encode().to_vec();
        row.push(9);
        assert_eq!(Head::decode(&row), Ok((head, &[9][..])));
        for at in 0..HEAD_BYTES {
            row[at] ^= 1;
            assert!(Head::decode(&row).is_err() || (5..8).contains(&at), "byte {at}");
            row[at] ^= 1;
        }
        let state = State { format: 1, epoch: 2, seq: 3, order: 4, floor: 5, aside: 6 };
        assert_eq!(State::decode(&state.encode()), Ok(state));
        for (target, soft) in [("a", true), ("a*", false), ("*:b*", true), ("*", false)] {
            let target = Target::parse(target).unwrap();
            let fact = Fact { target, soft, seq: 1, epoch: 2, at: 3, until: 4 };
            let line = Line { fact, writer: 8, marked: soft };
            assert_eq!(Line::decode(&line.encode(), 2), Ok(line));
        }
    }
}
