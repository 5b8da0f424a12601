//! How things lie in Redis.
//!
//! A value is a stamp of 32 bytes and the [envelope](crate::codec::envelope); a stamp alone says that the key was deleted, or is about to be
//! written. The number of a value is that of its stamp, not that in the envelope: Redis gives it as it stores it. Numbers little-endian:
//!
//! | from | bytes | field |
//! |---|---|---|
//! | 0 | 4 | `4B 56 52 01`, "KVR" and version 1 |
//! | 4 | 4 | writes under way: as long as there are some, no load is stored |
//! | 8 | 8 | until when that holds, milliseconds since the UNIX epoch by Redis's clock |
//! | 16 | 8 | number in the log |
//! | 24 | 8 | epoch of the log |
//!
//! A fact in the stream is its writer (8 bytes), the nearer log that is told of it, too (8), when (8), until (8), kind and softness (1), and
//! the target's text.

use std::fmt;

use bytes::{Buf, Bytes};
use redis::Value;

use crate::clock::FOREVER;
use crate::invalidation::target::{Target, TargetKind};
use crate::tier::{Fact, Found, Key, Position, Record, TierError, TierErrorKind, target_of, text_of};

const STAMP: usize = 32;
const MAGIC: &[u8; 4] = b"KVR\x01";

/// What is under a key.
pub enum Stored {
    /// Nothing of ours.
    None,
    /// A stamp, and what comes after it; until when a write is under way, if one is.
    Stamped { seq: u64, epoch: u64, under_way: Option<u64>, envelope: Bytes },
}

fn corrupt(why: impl fmt::Display) -> TierError {
    TierError::new(TierErrorKind::Corrupt, format!("Redis: {why}"))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Reads a value.
pub fn read(mut bytes: Bytes) -> Result<Stored, TierError> {
    if !bytes.starts_with(&MAGIC[..3]) {
        return Ok(Stored::None);
    }
    let (Some(seq), Some(epoch)) = (u64_at(&bytes, 16), u64_at(&bytes, 24)) else { return Ok(Stored::None) };
    if bytes[3] != MAGIC[3] {
        return Err(corrupt("the value was written by a later version"));
    }
    let under_way = u64_at(&bytes, 8).filter(|_| bytes[4..8] != [0; 4]);
    bytes.advance(STAMP);
    Ok(Stored::Stamped { seq, epoch, under_way, envelope: bytes })
}

/// The record in an envelope, with the stamp's number.
pub fn record(key: &Key, envelope: Bytes, seq: u64, epoch: u64) -> Found {
    let record = Record::within(envelope, key).map_err(corrupt)?;
    let record = record.ok_or_else(|| corrupt("the value is of another key"))?;
    Ok(Some(Record { seq, epoch, ..record }))
}

/// The envelope of a record.
pub fn envelope(record: &Record) -> Result<Vec<u8>, TierError> {
    let mut bytes = Vec::new();
    record.envelope().encode(&mut bytes).map_err(|error| TierError::new(TierErrorKind::Refused, error.to_string()))?;
    Ok(bytes)
}

/// A fact as it lies in the stream.
pub fn payload(writer: u64, too: u64, fact: &Fact) -> Vec<u8> {
    let text = text_of(&fact.target);
    let kind = TargetKind::ALL.iter().position(|kind| *kind == fact.target.kind()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(33 + text.len());
    for number in [writer, too, fact.at, fact.until] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.push((kind as u8) << 1 | u8::from(fact.soft));
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The fact of such a payload, who wrote it, and which log is told of it, too.
fn fact_of(bytes: &[u8], seq: u64, epoch: u64) -> Option<(u64, u64, Fact)> {
    let (writer, too, at, until) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?, u64_at(bytes, 16)?, u64_at(bytes, 24)?);
    let flags = *bytes.get(32)?;
    let kind = TargetKind::ALL.get(usize::from(flags >> 1))?;
    let target = target_of(kind.as_str(), std::str::from_utf8(&bytes[33..]).ok()?)?;
    Some((writer, too, Fact { target, soft: flags & 1 == 1, seq, epoch, at, until }))
}

/// An entry of the stream.
pub enum Entry {
    Fact {
        writer: u64,
        too: u64,
        fact: Fact,
    },
    /// A lease was let go of.
    Released(Vec<u8>),
    /// Of a later release: what it says is not known, so that it may be anything.
    Unknown {
        seq: u64,
        epoch: u64,
    },
}

/// The field of a stream's entry that says which lease was let go of.
pub const RELEASED: &str = "l";

/// Reads what `XREAD` gave of one stream: ids and entries.
pub fn entries(reply: Value) -> Option<Vec<(Vec<u8>, Entry)>> {
    let list = match reply {
        Value::Nil => return Some(Vec::new()),
        Value::Map(mut map) => map.pop()?.1,
        Value::Array(mut array) => items(array.pop()?)?.into_iter().nth(1)?,
        _ => return None,
    };
    range(list)
}

/// Entries of the stream, as they follow one another.
pub fn range(list: Value) -> Option<Vec<(Vec<u8>, Entry)>> {
    items(list)?.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<(Vec<u8>, Entry)> {
    let mut parts = items(value)?.into_iter();
    let (id, fields) = (bytes(parts.next()?)?, items(parts.next()?)?);
    let (mut seq, mut epoch, mut payload) = (None, None, None);
    let mut fields = fields.into_iter();
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (name, value) = (bytes(name)?, bytes(value)?);
        match &name[..] {
            b"n" => seq = std::str::from_utf8(&value).ok()?.parse().ok(),
            b"e" => epoch = u64_at(&value, 0),
            b"f" => payload = Some(value),
            name if name == RELEASED.as_bytes() => return Some((id, Entry::Released(value))),
            _ => {}
        }
    }
    let (seq, epoch) = (seq?, epoch?);
    let fact = payload.and_then(|payload| fact_of(&payload, seq, epoch));
    Some((id, fact.map_or(Entry::Unknown { seq, epoch }, |(writer, too, fact)| Entry::Fact { writer, too, fact })))
}

/// Where a fact's marker is kept: a field of the hash.
pub fn field(fact: &Fact) -> Vec<u8> {
    let (kind, soft, text) = fact.register();
    format!("m{}{kind}:{text}", u8::from(soft)).into_bytes()
}

/// The fact of a marker; none for a field that is none.
pub fn marker(field: &[u8], value: &[u8]) -> Option<Fact> {
    let field = std::str::from_utf8(field.strip_prefix(b"m")?).ok()?;
    let (soft, rest) = field.split_at_checked(1)?;
    let (kind, text) = rest.split_once(':')?;
    let (numbers, epoch) = value.split_at_checked(value.len().checked_sub(8)?)?;
    let mut numbers = std::str::from_utf8(numbers).ok()?.split(' ').map(str::parse);
    let mut number = || numbers.next()?.ok();
    Some(Fact {
        target: target_of(kind, text)?,
        soft: soft == "1",
        seq: number()?,
        at: number()?,
        until: number()?,
        epoch: u64_at(epoch, 0)?,
    })
}

/// The epoch and the number that a script gave.
pub fn position(reply: Value) -> Option<Position> {
    let mut parts = items(reply)?.into_iter();
    let epoch = u64_at(&bytes(parts.next()?)?, 0)?;
    Some(Position { epoch, seq: number(&parts.next()?)? })
}

/// What can no longer be read for want of time is over in so many milliseconds; 0 for never.
pub fn left(dead_at: u64, now: u64) -> u64 {
    // Beyond what Redis can say it is for ever.
    const MOST: u64 = 1 << 52;
    if dead_at == FOREVER || dead_at.saturating_sub(now) > MOST { 0 } else { dead_at.saturating_sub(now).max(1) }
}

/// That a key was written or deleted.
pub fn key_fact(key: &Key, now: u64) -> Fact {
    Fact { target: Target::Key((&**key).into()), soft: false, seq: 0, epoch: 0, at: now, until: FOREVER }
}

pub fn items(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) | Value::Set(items) => Some(items),
        Value::Map(pairs) => Some(pairs.into_iter().flat_map(|(name, value)| [name, value]).collect()),
        Value::Nil => Some(Vec::new()),
        _ => None,
    }
}

pub fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

pub fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        _ => None,
    }
}

/// What a command answered that cannot be.
pub fn odd() -> TierError {
    TierError::new(TierErrorKind::Unavailable, "what Redis answered cannot be read")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Vec<Fact> {
        let fact = |target, soft, until| Fact { target, soft, seq: 7, epoch: 9, at: 5, until };
        vec![
            fact(Target::All, false, FOREVER),
            fact(Target::Tag("a:é".into()), true, 6),
            fact(Target::Key(b"k*"[..].into()), false, FOREVER),
            fact(Target::Prefix(b"p:"[..].into()), true, 0),
            fact(Target::parse(r"a*\*b").unwrap(), false, 1),
        ]
    }

    #[test]
    fn facts_are_read_back() {
        for fact in facts() {
            assert_eq!(fact_of(&payload(3, 4, &fact), 7, 9), Some((3, 4, fact)));
        }
        assert_eq!(fact_of(&payload(3, 4, &facts()[0])[..32], 7, 9), None);
    }

    #[test]
    fn markers_are_read_back() {
        for fact in facts() {
            let mut value = format!("7 5 {} ", fact.until).into_bytes();
            value.extend_from_slice(&9u64.to_le_bytes());
            assert_eq!(marker(&field(&fact), &value), Some(fact));
        }
        assert_eq!((marker(b"e", b"12345678"), marker(b"m0all:", b"7 5")), (None, None));
    }

    #[test]
    fn values_of_others_are_none_and_later_ones_an_error() {
        let none = |bytes: &[u8]| matches!(read(Bytes::copy_from_slice(bytes)), Ok(Stored::None));
        assert!(none(b"") && none(b"12") && none(b"KVR\x01") && none(&[0; 40]));
        let mut later = [0; 40];
        later[..4].copy_from_slice(b"KVR\x02");
        assert_eq!(read(Bytes::copy_from_slice(&later)).err().unwrap().kind, TierErrorKind::Corrupt);
    }
}
