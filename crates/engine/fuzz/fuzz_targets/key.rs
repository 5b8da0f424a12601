//! Keys as they come from users: exactly those of 1 to 512 bytes are taken, and whatever they hold, they can be shown,
//! hashed, stored, found, listed and taken out again.

#![no_main]

use kvcache_engine::entry::{Ages, Entry, EntrySpec, Kind};
use kvcache_engine::key;
use kvcache_engine::memory::{Config, MemoryTier, Weight};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let bytes = text.as_bytes();
    let taken = key::check(bytes);
    assert_eq!(taken.is_ok(), (1..=512).contains(&bytes.len()));
    let shown = key::shorten(text);
    assert!(shown.chars().count() <= 65 && text.starts_with(shown.trim_end_matches('…')));
    match taken {
        Err(error) => {
            assert_eq!(error.code(), "ERR_KVCACHE_INVALID_KEY");
            assert!(error.to_string().len() < 512);
        }
        Ok(()) => {
            let tier = MemoryTier::new(Config { budget: 1 << 16, weight: Weight::Bytes, shards: Some(2) }, None);
            let spec = EntrySpec {
                key: bytes,
                metadata: b"",
                links: b"",
                value: bytes,
                kind: Kind::Text,
                ages: Ages { max_age: 1, stale_age: 1, stale_if_error: 1 },
                seq: 0,
                route: 0,
                version: 0,
            };
            assert!(tier.insert(Entry::new(&spec, 0)));
            assert_eq!(tier.get(bytes).map(|entry| entry.key_str().to_owned()).as_deref(), Some(text));
            for end in 0..=bytes.len() {
                let (page, complete) = tier.list(&bytes[..end], None, 10, |_| true);
                assert!(complete && page.len() == 1);
            }
            assert!(tier.list(bytes, Some(bytes), 10, |_| true).0.is_empty());
            tier.validate();
            assert!(tier.remove(bytes).is_some() && tier.is_empty());
        }
    }
});
