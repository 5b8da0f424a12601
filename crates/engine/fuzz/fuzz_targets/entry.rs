//! The entry, one allocation of raw bytes: gives back what it was built from, also in its compressed form, as a copy, and
//! moved to another moment; and is as old and as fresh as plain arithmetic says.

#![no_main]

use arbitrary::Arbitrary;
use kvcache_engine::clock::{FOREVER, Millis};
use kvcache_engine::codec::compress::Algorithm;
use kvcache_engine::entry::{Ages, Entry, EntrySpec, Freshness, Kind, MAX_LINKS_BYTES};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    key: &'a [u8],
    metadata: &'a [u8],
    links: &'a [u8],
    value: &'a [u8],
    compressed: &'a [u8],
    kind: u8,
    algorithm: u8,
    ages: [Age; 3],
    seq: u64,
    route: u16,
    version: u32,
    now: u32,
    stamped: Option<(u64, u32, Option<u32>)>,
    later: u32,
}

#[derive(Debug, Arbitrary, Clone, Copy)]
enum Age {
    Forever,
    Short(u8),
    Long(u32),
}

impl Age {
    fn millis(self) -> Millis {
        match self {
            Self::Forever => FOREVER,
            Self::Short(age) => age.into(),
            Self::Long(age) => age.into(),
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let kind = Kind::from_u8(input.kind % 8).expect("there are eight");
    let key = &input.key[..input.key.len().min(512)];
    let metadata = &input.metadata[..input.metadata.len().min(1024)];
    let links = &input.links[..input.links.len().min(MAX_LINKS_BYTES)];
    let [max_age, stale_age, stale_if_error] = input.ages.map(Age::millis);
    let ages = Ages { max_age, stale_age, stale_if_error };
    let spec = EntrySpec {
        key,
        metadata,
        links,
        value: input.value,
        kind,
        ages,
        seq: input.seq,
        route: input.route,
        version: input.version,
    };
    let mut entry = Entry::new(&spec, input.now.into());
    let (seq, stored_at, version) = match input.stamped {
        Some((seq, at, version)) => {
            entry.stamp(seq, at.into(), version);
            (seq, Millis::from(at), version.unwrap_or(input.version))
        }
        None => (input.seq, input.now.into(), input.version),
    };
    let algorithm = Algorithm::ALL[usize::from(input.algorithm) % 3];
    let compressed = entry.compressed(algorithm, input.compressed);
    assert_eq!((compressed.codec(), compressed.value()), (Some(algorithm), input.compressed));
    assert_eq!(compressed.raw_len(), input.value.len());
    let reformed = Entry::new(&EntrySpec { value: input.compressed, ..spec }, stored_at).in_the_form_of(&compressed);
    assert_eq!((reformed.codec(), reformed.value()), (Some(algorithm), input.compressed));
    assert_eq!(reformed.raw_len(), input.value.len());
    assert_eq!((entry.codec(), entry.value(), entry.raw_len()), (None, input.value, input.value.len()));
    let now = stored_at + Millis::from(input.later);
    for entry in [&entry, &entry.clone(), &compressed, &compressed.clone()] {
        let header = entry.header();
        assert_eq!((entry.key(), entry.metadata(), entry.links()), (key, metadata, links));
        assert_eq!((header.seq, header.stored_at, header.route), (seq, stored_at, input.route));
        assert_eq!(header.version, version);
        assert_eq!((header.kind, header.ascii), (kind, kind.is_text() && input.value.is_ascii()));
        let end = |age: Millis| stored_at.checked_add(age).unwrap_or(FOREVER);
        let expected = if now < end(max_age) {
            Freshness::Fresh
        } else if now < end(stale_age) {
            Freshness::Stale
        } else if now < end(stale_if_error) {
            Freshness::OnError
        } else {
            Freshness::Dead
        };
        assert_eq!((entry.freshness(now), entry.age(now)), (expected, input.later.into()));
        assert_eq!(entry.dead_at(), end(max_age.max(stale_age).max(stale_if_error)));
    }
});
