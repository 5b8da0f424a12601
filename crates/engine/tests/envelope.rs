//! The envelope: what every released version wrote is read for good, what went in comes out, and whatever happens to the bytes
//! on their way is an error and never a panic.
//!
//! The files in `tests/fixtures/envelope` are what a release wrote, and are never written again. To make those of a new
//! version, or of a new case: `KVCACHE_NEW_FIXTURES=1 cargo test -p kvcache-engine --test envelope`, which writes what is
//! missing and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::PathBuf;

use kvcache_engine::clock::FOREVER;
use kvcache_engine::codec::envelope::{Clocks, Envelope, Error, HEAD_BYTES, MAGIC, VERSION};
use kvcache_engine::codec::{Algorithm, Compressor};
use kvcache_engine::entry::{Ages, Entry, EntrySpec, Freshness, Kind, MAX_LINKS_BYTES};
use proptest::prelude::*;

/// 2026-01-01T00:00:00Z.
const NEW_YEAR: u64 = 1_767_225_600_000;

/// One case of the fixtures: an envelope, with its value before compression.
struct Case {
    name: &'static str,
    raw: Vec<u8>,
    envelope: Envelope<'static>,
}

fn case(name: &'static str, kind: Kind, raw: impl AsRef<[u8]>, change: fn(&mut Envelope<'static>)) -> Case {
    let raw = raw.as_ref().to_vec();
    let mut envelope = Envelope {
        key: b"user:1",
        metadata: b"",
        links: b"",
        value: b"",
        kind,
        codec: None,
        raw_len: raw.len() as u32,
        ascii: kind.is_text() && raw.is_ascii(),
        seq: 1,
        epoch: 2,
        version: 0,
        stored_at: NEW_YEAR,
        fresh_until: NEW_YEAR + 60_000,
        stale_until: NEW_YEAR + 3_600_000,
        error_until: NEW_YEAR + 86_400_000,
    };
    change(&mut envelope);
    Case { name, raw, envelope }
}

/// What version 1 wrote.
fn cases() -> Vec<Case> {
    let long = r#"{"id":1,"name":"Ada"},"#.repeat(200);
    vec![
        case("json", Kind::Json, br#"{"id":1}"#, |_| {}),
        case("text", Kind::Text, "grüße 😀", |_| {}),
        case("utf16", Kind::Utf16, b"a\0\0\xd8", |_| {}),
        case("bytes", Kind::Bytes, [0, 1, 254, 255], |_| {}),
        case("buffer", Kind::Buffer, b"buffer", |_| {}),
        case("array-buffer", Kind::ArrayBuffer, b"", |_| {}),
        case("v8", Kind::V8, b"\xff\x0fI\x54", |_| {}),
        case("custom", Kind::Custom, b"custom", |_| {}),
        case("everything", Kind::Json, br#"{"id":1}"#, |e| {
            e.key = "ключ:1".as_bytes();
            e.metadata = br#"{"by":"Ada"}"#;
            e.links = b"\x03\0tag\x46\0user:2";
            (e.seq, e.epoch, e.version) = (u64::MAX, u64::MAX - 1, u32::MAX);
        }),
        case("for-ever", Kind::Text, b"stays", |e| {
            (e.fresh_until, e.stale_until, e.error_until) = (FOREVER, FOREVER, FOREVER);
        }),
        case("gzip", Kind::Json, &long, |e| e.codec = Some(Algorithm::Gzip)),
        case("zstd", Kind::Json, &long, |e| e.codec = Some(Algorithm::Zstd)),
        case("lz4", Kind::Text, "é".repeat(2_000), |e| e.codec = Some(Algorithm::Lz4)),
    ]
}

fn file(version: u8, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/envelope/v{version}/{name}.kvc"))
}

/// The bytes of a fixture of this version.
fn fixture(case: &Case) -> Vec<u8> {
    let path = file(VERSION, case.name);
    if !path.exists() && std::env::var_os("KVCACHE_NEW_FIXTURES").is_some() {
        let mut value = case.raw.clone();
        if let Some(algorithm) = case.envelope.codec {
            value.clear();
            assert!(Compressor::new().compress(algorithm, algorithm.default_level(), &case.raw, &mut value));
        }
        fs::write(&path, encoded(&Envelope { value: &value, ..case.envelope })).unwrap();
    }
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn encoded(envelope: &Envelope<'_>) -> Vec<u8> {
    let mut bytes = b"before".to_vec();
    envelope.encode(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 6 + envelope.encoded_len());
    bytes.split_off(6)
}

#[test]
fn reads_what_version_1_wrote_and_writes_the_same() {
    for case in cases() {
        let bytes = fixture(&case);
        let read = Envelope::decode(&bytes).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(Envelope { value: b"", ..read }, case.envelope, "{}", case.name);
        let value = match read.codec {
            None => read.value.to_vec(),
            Some(algorithm) => {
                let mut value = vec![0; read.raw_len as usize];
                Compressor::new().decompress_into(algorithm, read.value, &mut value).unwrap();
                value
            }
        };
        assert_eq!(value, case.raw, "{}", case.name);
        assert_eq!(encoded(&read), bytes, "{}", case.name);
    }
}

#[test]
fn there_is_no_fixture_that_no_test_reads() {
    let names: Vec<_> = cases().iter().map(|case| format!("{}.kvc", case.name)).collect();
    for entry in fs::read_dir(file(VERSION, "x").parent().unwrap()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&name), "{name}");
    }
}

#[test]
fn the_first_bytes_lie_where_the_specification_says() {
    let case = cases().into_iter().find(|case| case.name == "everything").unwrap();
    let bytes = fixture(&case);
    let number = |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
    assert_eq!((&bytes[..3], bytes[3]), (&b"KVC"[..], 1));
    assert_eq!(number(4, 8), twox_hash::XxHash3_64::oneshot(&bytes[12..]));
    assert_eq!((number(12, 2), number(14, 1), number(15, 1)), (1, 0, 0));
    assert_eq!((number(16, 8), number(24, 8)), (u64::MAX, u64::MAX - 1));
    assert_eq!((number(32, 8), number(40, 8)), (NEW_YEAR, NEW_YEAR + 60_000));
    assert_eq!((number(48, 8), number(56, 8)), (NEW_YEAR + 3_600_000, NEW_YEAR + 86_400_000));
    assert_eq!((number(64, 4), number(68, 4)), (u64::from(u32::MAX), 13));
    assert_eq!((number(72, 4), number(76, 4)), (8, 8));
    assert_eq!((number(80, 2), number(82, 2)), (10, 12));
    assert_eq!(bytes[84..].to_vec(), "ключ:1{\"by\":\"Ada\"}\u{3}\0tagF\0user:2{\"id\":1}".as_bytes());
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    for case in cases() {
        let bytes = fixture(&case);
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xFF] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let error = Envelope::decode(&changed).unwrap_err();
                match at {
                    0..3 => assert_eq!(error, Error::NotAnEnvelope),
                    3 if changed[3] == 0 => assert_eq!(error, Error::NotAnEnvelope),
                    3 => assert_eq!(error, Error::Version(changed[3])),
                    _ => assert_eq!(error, Error::Checksum, "{} at {at}", case.name),
                }
            }
        }
    }
}

#[test]
fn what_was_cut_or_lengthened_is_noticed() {
    for case in cases() {
        let mut bytes = fixture(&case);
        for len in 0..bytes.len() {
            let expected = if len < HEAD_BYTES { Error::NotAnEnvelope } else { Error::Checksum };
            assert_eq!(Envelope::decode(&bytes[..len]).unwrap_err(), expected, "{} of {len}", case.name);
        }
        bytes.push(0);
        assert_eq!(Envelope::decode(&bytes).unwrap_err(), Error::Checksum);
    }
}

#[test]
fn a_later_version_is_told_apart_whatever_follows() {
    for version in VERSION + 1..=u8::MAX {
        for rest in [&b""[..], &[0; 200]] {
            let bytes = [&MAGIC[..], &[version], rest].concat();
            assert_eq!(Envelope::decode(&bytes), Err(Error::Version(version)));
        }
    }
    assert!(Error::Version(9).to_string().contains("version 9"), "{}", Error::Version(9));
}

#[test]
fn what_is_at_odds_with_itself_is_not_written() {
    let good = case("k", Kind::Text, b"value", |e| e.value = b"value").envelope;
    assert_eq!(good.encode(&mut vec![]), Ok(()));
    let (key, links, value) = (vec![b'k'; 513], vec![0; MAX_LINKS_BYTES + 1], vec![b'v'; (25 << 20) + 1]);
    let bad = [
        Envelope { key: b"", ..good },
        Envelope { key: &key, ..good },
        Envelope { key: b"\xff", ..good },
        Envelope { metadata: &value[..1025], ..good },
        Envelope { metadata: b"\xff", ..good },
        Envelope { links: &links, ..good },
        Envelope { value: &value, raw_len: value.len() as u32, ..good },
        Envelope { codec: Some(Algorithm::Gzip), raw_len: value.len() as u32, ..good },
        Envelope { raw_len: 4, ..good },
        Envelope { ascii: false, ..good },
        Envelope { kind: Kind::Bytes, ..good },
        Envelope { value: b"\xff", raw_len: 1, ascii: false, ..good },
    ];
    for (i, envelope) in bad.iter().enumerate() {
        let mut out = vec![7];
        assert!(matches!(envelope.encode(&mut out), Err(Error::Malformed(_))), "case {i}");
        assert_eq!(out, [7]);
    }
}

#[test]
fn what_is_at_odds_with_itself_is_not_read_though_its_checksum_is_right() {
    let good = fixture(&cases()[0]);
    type Change = fn(&mut Vec<u8>);
    let sealed = |change: Change| {
        let mut bytes = good.clone();
        change(&mut bytes);
        let sum = twox_hash::XxHash3_64::oneshot(&bytes[12..]);
        bytes[4..12].copy_from_slice(&sum.to_le_bytes());
        Envelope::decode(&bytes).map(|_| ()).unwrap_err()
    };
    let changes: [Change; 11] = [
        |b| b[12] |= 2,
        |b| b[13] = 1,
        |b| b[14] = 8,
        |b| b[15] = 4,
        |b| b[68..72].fill(0xFF),
        |b| b[72] += 1,
        |b| b[76..80].fill(0xFF),
        |b| b[80..82].fill(0),
        |b| b[80..84].fill(0xFF),
        |b| b.push(0),
        |b| b[84] = 0xFF,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        assert!(matches!(sealed(change), Error::Malformed(_)), "case {i}: {}", sealed(change));
    }
}

#[test]
fn an_entry_lives_on_by_the_wall_clock_in_a_process_that_began_later() {
    let wrote = Clocks { now: 1_000_000, unix: NEW_YEAR };
    let ages = Ages { max_age: 10_000, stale_age: 20_000, stale_if_error: FOREVER };
    let spec = EntrySpec {
        key: b"k",
        metadata: b"{}",
        links: b"\x01\0t",
        value: b"v",
        kind: Kind::Text,
        ages,
        seq: 7,
        route: 3,
        version: 5,
    };
    let mut bytes = vec![];
    Envelope::of(&Entry::new(&spec, wrote.now), 9, &wrote).encode(&mut bytes).unwrap();
    for (passed, freshness) in
        [(0, Freshness::Fresh), (9_999, Freshness::Fresh), (10_000, Freshness::Stale), (20_000, Freshness::OnError)]
    {
        // It has been up for 50 ms only: the entry is older than its clock.
        let reads = Clocks { now: 50, unix: NEW_YEAR + passed };
        let envelope = Envelope::decode(&bytes).unwrap();
        assert_eq!((envelope.epoch, envelope.stored_at), (9, NEW_YEAR));
        let entry = envelope.entry(4, &reads);
        assert_eq!(entry.freshness(reads.now), freshness, "after {passed} ms");
        assert_eq!((entry.header().seq, entry.header().route, entry.header().version), (7, 4, 5));
        assert_eq!(
            (entry.key(), entry.metadata(), entry.links(), entry.value()),
            (spec.key, spec.metadata, spec.links, spec.value)
        );
        assert_eq!(entry.dead_at(), FOREVER);
    }
    // A wall clock set back makes nothing older than it is.
    let back = Clocks { now: 50, unix: NEW_YEAR - 5_000 };
    let entry = Envelope::decode(&bytes).unwrap().entry(0, &back);
    assert_eq!((entry.freshness(50), entry.age(50)), (Freshness::Fresh, 0));
}

fn moment() -> impl Strategy<Value = u64> {
    prop_oneof![Just(FOREVER), Just(0), NEW_YEAR..2 * NEW_YEAR, any::<u64>()]
}

prop_compose! {
    fn parts()(
        key in "\\PC{1,128}",
        metadata in prop_oneof![Just(String::new()), "\\PC{0,256}"],
        links in prop::collection::vec(any::<u8>(), 0..300),
        value in prop_oneof!["\\PC{0,200}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 0..5_000)],
        kind in 0..8_u8,
        codec in 0..4_u8,
        raw_len in 0..=25_u32 << 20,
        ascii in any::<bool>(),
        numbers in (any::<u64>(), any::<u64>(), any::<u32>()),
        moments in [moment(), moment(), moment(), moment()],
    ) -> Parts {
        Parts { key, metadata, links, value, kind, codec, raw_len, ascii, numbers, moments }
    }
}

#[derive(Debug)]
struct Parts {
    key: String,
    metadata: String,
    links: Vec<u8>,
    value: Vec<u8>,
    kind: u8,
    codec: u8,
    raw_len: u32,
    ascii: bool,
    numbers: (u64, u64, u32),
    moments: [u64; 4],
}

impl Parts {
    fn envelope(&self) -> Envelope<'_> {
        let kind = Kind::from_u8(self.kind).unwrap();
        // Text is UTF-8.
        let kind = if std::str::from_utf8(&self.value).is_err() && kind.is_text() { Kind::Bytes } else { kind };
        let codec = Algorithm::from_u8(self.codec);
        Envelope {
            key: self.key.as_bytes(),
            metadata: self.metadata.as_bytes(),
            links: &self.links,
            value: &self.value,
            kind,
            codec,
            raw_len: if codec.is_some() { self.raw_len } else { self.value.len() as u32 },
            ascii: kind.is_text() && if codec.is_some() { self.ascii } else { self.value.is_ascii() },
            seq: self.numbers.0,
            epoch: self.numbers.1,
            version: self.numbers.2,
            stored_at: self.moments[0],
            fresh_until: self.moments[1],
            stale_until: self.moments[2],
            error_until: self.moments[3],
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_goes_in_comes_out(parts in parts()) {
        let envelope = parts.envelope();
        let bytes = encoded(&envelope);
        prop_assert_eq!(Envelope::decode(&bytes), Ok(envelope));
    }

    #[test]
    fn an_entry_comes_back_as_it_was(parts in parts(), now in 0..1_u64 << 40, ages in [0..1_u64 << 40, 0..1 << 40, 0..1 << 40]) {
        let envelope = parts.envelope();
        let clocks = Clocks { now, unix: NEW_YEAR };
        let [max_age, stale_age, stale_if_error] = ages;
        let moments = ages.map(|age| NEW_YEAR + age);
        let envelope = Envelope {
            stored_at: NEW_YEAR, fresh_until: moments[0], stale_until: moments[1], error_until: moments[2], ..envelope
        };
        let entry = envelope.entry(6, &clocks);
        prop_assert_eq!(entry.header().stored_at, now);
        prop_assert_eq!(entry.header().fresh_until, now + max_age);
        prop_assert_eq!((entry.header().stale_until, entry.header().error_until), (now + stale_age, now + stale_if_error));
        prop_assert_eq!(Envelope::of(&entry, envelope.epoch, &clocks), envelope);
        let bytes = encoded(&Envelope::of(&entry, envelope.epoch, &clocks));
        prop_assert_eq!(Envelope::decode(&bytes).unwrap().entry(6, &clocks).header(), entry.header());
    }

    #[test]
    fn no_bytes_are_a_reason_to_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), seal in any::<bool>()) {
        let mut bytes = [&MAGIC[..], &[VERSION], &bytes].concat();
        if seal && bytes.len() > 12 {
            let sum = twox_hash::XxHash3_64::oneshot(&bytes[12..]);
            bytes[4..12].copy_from_slice(&sum.to_le_bytes());
        }
        if let Ok(envelope) = Envelope::decode(&bytes) {
            prop_assert_eq!(encoded(&envelope), bytes);
        }
    }
}
