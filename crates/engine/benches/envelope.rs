//! What it costs to put an entry into its envelope and to take it out, by the size of its value, and what of it is the checksum,
//! beside CRC-32.
//!
//! `cargo bench -p kvcache-engine --bench envelope`.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use kvcache_engine::codec::envelope::Envelope;
use kvcache_engine::entry::Kind;

fn main() {
    divan::main();
}

const SIZES: [usize; 4] = [100, 1_000, 100_000, 10_000_000];

fn envelope(value: &[u8]) -> Envelope<'_> {
    Envelope {
        key: b"product:0123456789abcdef",
        metadata: br#"{"by":"bench"}"#,
        links: b"",
        value,
        kind: Kind::Bytes,
        codec: None,
        raw_len: value.len() as u32,
        ascii: false,
        seq: 1,
        epoch: 2,
        version: 0,
        stored_at: 1,
        fresh_until: 2,
        stale_until: 3,
        error_until: 4,
    }
}

fn bytes(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    (0..len).map(|_| rng.u8(..)).collect()
}

#[divan::bench(args = SIZES)]
fn encode(bencher: Bencher<'_, '_>, size: usize) {
    let value = bytes(size);
    let mut out = vec![];
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        envelope(black_box(&value)).encode(&mut out).is_ok()
    });
}

#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, size: usize) {
    let value = bytes(size);
    let mut out = vec![];
    assert!(envelope(&value).encode(&mut out).is_ok());
    bencher.counter(BytesCount::new(size)).bench_local(|| Envelope::decode(black_box(&out)).is_ok());
}

#[divan::bench(args = SIZES)]
fn checksum_xxh3(bencher: Bencher<'_, '_>, size: usize) {
    let value = bytes(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| twox_hash::XxHash3_64::oneshot(black_box(&value)));
}

#[divan::bench(args = SIZES)]
fn checksum_crc32(bencher: Bencher<'_, '_>, size: usize) {
    let value = bytes(size);
    bencher.counter(BytesCount::new(size)).bench_local(|| crc32fast::hash(black_box(&value)));
}
