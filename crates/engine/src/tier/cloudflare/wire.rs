//! How a record lies in KV: its value as a Worker wants it, and all else in the metadata.
//!
//! The value is stored as it is, text as text; a compressed one is the compressed bytes. The metadata is
//! `{"user": …, "kvcache": {…}}`, `user` being the metadata that was put with the value and absent without. Fields of `kvcache`:
//!
//! | field | meaning |
//! |---|---|
//! | `v` | version of this form: 1 |
//! | `encoding` | `gzip`, `zstd` or `lz4`; absent for a plain value |
//! | `k` | kind of value, as in the envelope |
//! | `x` | XXH3 of the stored bytes, 64 bits, seed 0, in hexadecimal |
//! | `n`, `e` | number in the log, and which log; in hexadecimal |
//! | `t` | moments: stored, fresh until, stale until, on error until; milliseconds since the UNIX epoch, null for never |
//! | `r`, `a` | of a compressed value: bytes before compression; whether it is ASCII text |
//! | `w` | version of the value; absent for 0 |
//! | `l` | tags and parents, base64; absent for none |

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use twox_hash::XxHash3_64;

use crate::clock::FOREVER;
use crate::codec::Algorithm;
use crate::entry::Kind;
use crate::invalidation::target::Target;
use crate::tier::{Fact, Key, Record, TierError, TierErrorKind, target_of, text_of};

/// Most bytes of metadata that KV takes.
pub const MAX_METADATA_BYTES: usize = 1024;

/// Keys that begin so are ours.
pub const RESERVED: &str = "__kvcache__:";

/// Shortest time to live that KV takes, in seconds.
const SHORTEST_TTL: u64 = 60;

#[derive(Serialize, Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, skip_serializing_if = "Option::is_none", default)]
    user: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    kvcache: Option<Ours>,
}

#[derive(Serialize, Deserialize)]
struct Ours {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    encoding: Option<String>,
    k: u8,
    x: String,
    n: String,
    e: String,
    t: [Option<u64>; 4],
    #[serde(skip_serializing_if = "Option::is_none", default)]
    r: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    a: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    w: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    l: Option<String>,
}

/// Metadata of a marker.
#[derive(Serialize, Deserialize)]
struct Marker {
    v: u32,
    kind: String,
    text: String,
    soft: bool,
    n: String,
    e: String,
    at: u64,
    until: Option<u64>,
}

/// One item of a bulk write.
#[derive(Serialize)]
pub struct Item<'a> {
    key: &'a str,
    value: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    base64: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    expiration_ttl: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
}

fn corrupt(why: &str) -> TierError {
    TierError::new(TierErrorKind::Corrupt, why)
}

fn checksum(value: &[u8]) -> String {
    format!("{:016x}", XxHash3_64::oneshot(value))
}

fn moment(at: u64) -> Option<u64> {
    Some(at).filter(|at| *at != FOREVER)
}

fn hex(text: &str) -> Result<u64, TierError> {
    u64::from_str_radix(text, 16).map_err(|_| corrupt("a number that is none"))
}

/// Whether a key may be a user's.
pub fn check_key(key: &[u8]) -> Result<&str, TierError> {
    let refused = |why| Err(TierError::new(TierErrorKind::Refused, why));
    match std::str::from_utf8(key) {
        Ok("." | "..") => refused("Workers KV takes neither '.' nor '..' as a key"),
        Ok(key) if key.starts_with(RESERVED) => {
            refused("keys that begin with '__kvcache__:' are reserved in this tier")
        }
        Ok(key) => Ok(key),
        Err(_) => refused("a key that is no UTF-8"),
    }
}

/// The metadata of a record, as text.
pub fn metadata_of(record: &Record) -> Result<String, TierError> {
    let malformed = || TierError::new(TierErrorKind::Refused, "metadata that is no JSON");
    let user = std::str::from_utf8(&record.metadata).map_err(|_| malformed())?;
    let user: Option<&RawValue> =
        if user.is_empty() { None } else { Some(serde_json::from_str(user).map_err(|_| malformed())?) };
    let kvcache = Some(Ours {
        v: 1,
        encoding: record.codec.map(|algorithm| algorithm.as_str().to_owned()),
        k: record.kind as u8,
        x: checksum(&record.value),
        n: format!("{:x}", record.seq),
        e: format!("{:x}", record.epoch),
        t: [record.stored_at, record.fresh_until, record.stale_until, record.error_until].map(moment),
        r: record.codec.map(|_| record.raw_len),
        a: record.codec.is_some() && record.ascii,
        w: Some(record.version).filter(|version| *version != 0),
        l: Some(&record.links).filter(|links| !links.is_empty()).map(|links| BASE64.encode(links)),
    });
    let text = serde_json::to_string(&Metadata { user, kvcache }).map_err(|_| malformed())?;
    if text.len() > MAX_METADATA_BYTES {
        let message = format!(
            "metadata, tags and parents take {} bytes in Workers KV; allowed: {MAX_METADATA_BYTES}, ours included",
            text.len()
        );
        return Err(TierError::new(TierErrorKind::TooLarge, message));
    }
    Ok(text)
}

/// The item of a bulk write for a record whose metadata is that text.
pub fn item<'a>(record: &'a Record, metadata: &'a str, now: u64) -> Option<Item<'a>> {
    let key = std::str::from_utf8(&record.key).ok()?;
    let plain =
        if record.kind.is_text() && record.codec.is_none() { std::str::from_utf8(&record.value).ok() } else { None };
    let left = moment(record.dead_at()).map(|at| at.saturating_sub(now).div_ceil(1000).max(SHORTEST_TTL));
    Some(Item {
        key,
        base64: plain.is_none(),
        value: plain.map_or_else(|| BASE64.encode(&record.value), str::to_owned),
        // Beyond what KV can say it is for ever.
        expiration_ttl: left.filter(|left| *left < 1 << 31),
        metadata: serde_json::from_str(metadata).ok(),
    })
}

/// What is in KV under a key.
pub enum Stored {
    /// Nothing of ours.
    Foreign,
    /// A record whose value is known.
    Whole(Box<Record>),
    /// A record whose value must be fetched as bytes: with them, [`Stored::Whole`].
    Bytes(Box<Record>, String),
}

/// Reads what a bulk read gave: text, and metadata.
pub fn read(key: &Key, text: &str, metadata: Option<&RawValue>) -> Result<Stored, TierError> {
    let Some(metadata) = metadata else { return Ok(Stored::Foreign) };
    // Other metadata than ours may be anything.
    let Ok(Metadata { user, kvcache: Some(ours) }) = serde_json::from_str(metadata.get()) else {
        return Ok(Stored::Foreign);
    };
    if ours.v != 1 {
        return Err(corrupt("the value was written by a later version"));
    }
    let codec = match &ours.encoding {
        None => None,
        Some(name) => Some(Algorithm::from_name(name).ok_or_else(|| corrupt("an encoding that is not known"))?),
    };
    let kind = Kind::from_u8(ours.k).ok_or_else(|| corrupt("a kind of value that is not known"))?;
    let links = ours.l.as_deref().map_or(Ok(Vec::new()), |links| BASE64.decode(links));
    let [stored_at, fresh_until, stale_until, error_until] = ours.t.map(|at| at.unwrap_or(FOREVER));
    let mut record = Record {
        key: key.clone(),
        metadata: user.map_or("", RawValue::get).as_bytes().into(),
        links: links.map_err(|_| corrupt("links that are no base64"))?.into(),
        value: Bytes::new(),
        kind,
        codec,
        raw_len: ours.r.unwrap_or(0),
        ascii: ours.a,
        seq: hex(&ours.n)?,
        epoch: hex(&ours.e)?,
        version: ours.w.unwrap_or(0),
        stored_at,
        fresh_until,
        stale_until,
        error_until,
    };
    if codec.is_none() && checksum(text.as_bytes()) == ours.x {
        set_value(&mut record, text.as_bytes());
        return whole(record);
    }
    // Bytes have no text, and some text comes back changed: a byte order mark is lost.
    Ok(Stored::Bytes(Box::new(record), ours.x))
}

/// A record whose bytes have been fetched.
pub fn with_bytes(mut record: Box<Record>, sum: &str, bytes: &[u8]) -> Result<Stored, TierError> {
    if checksum(bytes) != sum {
        return Err(corrupt("the value does not match its metadata"));
    }
    set_value(&mut record, bytes);
    whole(*record)
}

fn set_value(record: &mut Record, bytes: &[u8]) {
    record.value = Bytes::copy_from_slice(bytes);
    if record.codec.is_none() {
        record.raw_len = bytes.len() as u32;
        record.ascii = record.kind.is_text() && bytes.is_ascii();
    }
}

/// What holds of every entry is checked by its envelope.
fn whole(record: Record) -> Result<Stored, TierError> {
    record.envelope().check().map_err(|error| corrupt(&error.to_string()))?;
    Ok(Stored::Whole(Box::new(record)))
}

/// The user's part of the metadata.
pub fn user_metadata(metadata: Option<&RawValue>) -> Box<[u8]> {
    let user = metadata.and_then(|metadata| serde_json::from_str::<Metadata<'_>>(metadata.get()).ok()?.user);
    user.map_or("", RawValue::get).as_bytes().into()
}

/// The key and the metadata of a marker.
pub fn marker(fact: &Fact) -> Result<(String, String), TierError> {
    let (kind, soft, text) = (fact.target.kind().as_str(), fact.soft, text_of(&fact.target));
    // A target may be longer than what KV takes as a key.
    let name = format!("{RESERVED}m:{kind}:{}:{:016x}", u8::from(soft), XxHash3_64::oneshot(text.as_bytes()));
    let (n, e) = (format!("{:x}", fact.seq), format!("{:x}", fact.epoch));
    let marker = Marker { v: 1, kind: kind.to_owned(), text, soft, n, e, at: fact.at, until: moment(fact.until) };
    let metadata = serde_json::to_string(&marker).map_err(|_| corrupt("a marker that is no JSON"))?;
    if metadata.len() > MAX_METADATA_BYTES {
        // What covers more is right, too: rather everything than nothing.
        let all = Fact { target: Target::All, ..fact.clone() };
        return self::marker(&all);
    }
    Ok((name, metadata))
}

/// What all markers begin with.
pub fn markers() -> String {
    format!("{RESERVED}m:")
}

/// The fact of a marker.
pub fn fact(metadata: &RawValue) -> Result<Fact, TierError> {
    let marker: Marker = serde_json::from_str(metadata.get()).map_err(|_| corrupt("a marker that cannot be read"))?;
    Ok(Fact {
        target: target_of(&marker.kind, &marker.text).ok_or_else(|| corrupt("a target that is not known"))?,
        soft: marker.soft,
        seq: hex(&marker.n)?,
        epoch: hex(&marker.e)?,
        at: marker.at,
        until: marker.until.unwrap_or(FOREVER),
    })
}

/// The item of a bulk write for a marker.
pub fn marker_item<'a>(name: &'a str, metadata: &'a str, until: u64, now: u64) -> Item<'a> {
    let left = moment(until).map(|at| at.saturating_sub(now).div_ceil(1000).max(SHORTEST_TTL));
    Item {
        key: name,
        value: String::new(),
        base64: false,
        expiration_ttl: left.filter(|left| *left < 1 << 31),
        metadata: serde_json::from_str(metadata).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::conformance::record;

    #[test]
    fn refuses_what_metadata_has_no_room_for_and_says_how_much_it_is() {
        let tags = Record { links: vec![7; 900].into(), ..record("k", "v", 1) };
        let error = metadata_of(&tags).unwrap_err();
        assert_eq!(error.kind, TierErrorKind::TooLarge);
        let bytes: usize = error.message.split(' ').find_map(|word| word.parse().ok()).unwrap();
        assert!(bytes > 1024 + 200 && error.message.contains("1024"), "{error}");
    }

    #[test]
    fn what_others_wrote_is_not_ours() {
        let key: Key = b"k"[..].into();
        for metadata in ["5", "null", "{}", r#"{"kvcache":7}"#, r#"{"user":1}"#] {
            let metadata: &RawValue = serde_json::from_str(metadata).unwrap();
            assert!(matches!(read(&key, "x", Some(metadata)), Ok(Stored::Foreign)));
        }
        assert!(matches!(read(&key, "x", None), Ok(Stored::Foreign)));
    }

    #[test]
    fn what_a_later_version_wrote_is_an_error_and_so_is_what_was_changed() {
        let record = record("k", "v", 1);
        let text = metadata_of(&record).unwrap();
        let later = text.replace("\"v\":1", "\"v\":2");
        let raw = |text: &str| serde_json::from_str::<Box<RawValue>>(text).unwrap();
        assert_eq!(read(&record.key, "v", Some(&raw(&later))).err().unwrap().kind, TierErrorKind::Corrupt);
        let Ok(Stored::Bytes(found, sum)) = read(&record.key, "w", Some(&raw(&text))) else { panic!() };
        assert_eq!(with_bytes(found, &sum, b"w").err().unwrap().kind, TierErrorKind::Corrupt);
        let Ok(Stored::Whole(found)) = read(&record.key, "v", Some(&raw(&text))) else { panic!() };
        assert_eq!(*found, record);
    }

    #[test]
    fn a_target_that_has_no_room_becomes_all() {
        let fact = |text: String| Fact {
            target: Target::Tag(text.into()),
            soft: true,
            seq: 3,
            epoch: u64::MAX,
            at: 5,
            until: FOREVER,
        };
        for (sent, read_back) in [(fact("a".into()), fact("a".into()).target), (fact("\"".repeat(600)), Target::All)] {
            let (name, metadata) = marker(&sent).unwrap();
            assert!(name.len() <= 512 && metadata.len() <= MAX_METADATA_BYTES);
            let raw: &RawValue = serde_json::from_str(&metadata).unwrap();
            assert_eq!(self::fact(raw), Ok(Fact { target: read_back, ..sent }));
        }
    }
}
