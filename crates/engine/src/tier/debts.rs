//! What is written down in a tier that lasts, for the process after this one: what a farther tier is owed, the invalidations that it could
//! not be told of; and how far that one's log has been passed on.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::outbox::Owed;
use super::{Key, Record, target_of, text_of, unix_now};
use crate::clock::FOREVER;
use crate::entry::Kind;

/// What the keys of such notes begin with.
const PREFIX: &[u8] = b"__kvcache__:owed:";
const SEEN: &[u8] = b"__kvcache__:seen:";

/// How long it is remembered how far a log was passed on, in milliseconds: 30 days.
const REMEMBERED: u64 = 30 * 24 * 3_600_000;

#[derive(Serialize, Deserialize)]
struct Line {
    kind: String,
    text: String,
    soft: bool,
}

/// What the keys begin with of what the tier of that name is owed.
pub fn prefix(tier: &str) -> Vec<u8> {
    [PREFIX, tier.as_bytes(), b":"].concat()
}

/// The key of what it is owed by the process whose own log is that.
pub fn key(tier: &str, epoch: u64) -> Key {
    [prefix(tier), format!("{epoch:016x}").into_bytes()].concat().into()
}

/// Whether a key is that of a note.
pub fn is_key(key: &[u8]) -> bool {
    key.starts_with(PREFIX) || key.starts_with(SEEN)
}

/// The note of what a tier is owed.
pub fn record(key: Key, owed: &[Owed]) -> Record {
    let line = |owed: &Owed| Line {
        kind: owed.target.kind().as_str().to_owned(),
        text: text_of(&owed.target),
        soft: owed.soft,
    };
    let lines: Vec<_> = owed.iter().map(line).collect();
    // Strings and a flag: JSON can carry them.
    note(key, serde_json::to_vec(&lines).unwrap_or_default(), FOREVER)
}

fn note(key: Key, value: Vec<u8>, until: u64) -> Record {
    Record {
        key,
        metadata: Arc::default(),
        links: Arc::default(),
        raw_len: value.len() as u32,
        ascii: value.is_ascii(),
        value: value.into(),
        kind: Kind::Json,
        codec: None,
        seq: 0,
        epoch: 0,
        version: 0,
        stored_at: unix_now(),
        fresh_until: until,
        stale_until: until,
        error_until: until,
    }
}

/// The key of how far the log of that epoch, of the tier of that name, has been passed on.
pub fn seen_key(tier: &str, epoch: u64) -> Key {
    [SEEN, tier.as_bytes(), format!(":{epoch:016x}").as_bytes()].concat().into()
}

/// That note: up to that number.
pub fn seen_record(key: Key, seq: u64) -> Record {
    note(key, seq.to_string().into_bytes(), unix_now() + REMEMBERED)
}

/// The number of such a note.
pub fn read_seen(record: &Record) -> Option<u64> {
    std::str::from_utf8(&record.value).ok()?.parse().ok()
}

/// What a note of debts says.
pub fn read(record: &Record) -> Vec<Owed> {
    let lines: Vec<Line> = serde_json::from_slice(&record.value).unwrap_or_default();
    let owed = |line: Line| Some(Owed { target: target_of(&line.kind, &line.text)?, soft: line.soft });
    lines.into_iter().filter_map(owed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invalidation::target::Target;

    #[test]
    fn is_read_as_it_was_written() {
        let target = |text: &str| Target::parse(text).unwrap();
        let owed: Vec<_> =
            [target("a*b"), target("k\u{e9}"), Target::Tag("t".into()), Target::All, Target::prefix(b"p:")]
                .into_iter()
                .zip([false, false, true, false, true])
                .map(|(target, soft)| Owed { target, soft })
                .collect();
        let note = record(key("redis", 7), &owed);
        assert!(is_key(&note.key) && read(&note) == owed);
        assert!(read(&Record { value: b"nothing"[..].into(), ..note }).is_empty());
    }
}
