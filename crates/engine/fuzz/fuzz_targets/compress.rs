//! Compression: what was compressed comes back byte by byte, at any level; and bytes that nobody compressed are refused or
//! read as something of the length that was asked for, without a panic and without more memory than that.

#![no_main]

use std::cell::RefCell;

use arbitrary::Arbitrary;
use kvcache_engine::codec::compress::{Algorithm, Compressor, pays};
use kvcache_engine::entry::MAX_VALUE_BYTES;
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    algorithm: u8,
    level: i32,
    /// What is claimed to have been the length.
    len: u32,
    /// Repeated so often, so that there is something to compress.
    times: u8,
    bytes: &'a [u8],
}

thread_local! {
    // Used again and again, as it is by a worker: what one call leaves must not harm the next.
    static COMPRESSOR: RefCell<Compressor> = RefCell::default();
}

fuzz_target!(|input: Input<'_>| {
    COMPRESSOR.with_borrow_mut(|compressor| {
        let algorithm = Algorithm::ALL[usize::from(input.algorithm) % 3];
        let mut output = Vec::new();
        // Mostly small, for the sake of speed.
        let len = if input.len.is_multiple_of(16) { input.len as usize } else { input.len as usize % 100_000 };
        match compressor.decompress(algorithm, input.bytes, len, &mut output) {
            Ok(()) => assert_eq!(output.len(), len),
            Err(_) => assert!(output.len() <= len.min(MAX_VALUE_BYTES)),
        }
        assert!(len <= MAX_VALUE_BYTES || output.is_empty());
        let plain = input.bytes.repeat(usize::from(input.times % 64));
        let mut room = std::mem::take(&mut output);
        if compressor.compress(algorithm, input.level.rem_euclid(23), &plain, &mut room) {
            assert!(room.len() <= pays(plain.len()));
            assert_eq!(compressor.decompress(algorithm, &room, plain.len(), &mut output), Ok(()));
            assert_eq!(output, plain);
            // Cut short, or of another length than claimed: refused.
            assert!(compressor.decompress(algorithm, &room[..room.len() - 1], plain.len(), &mut output).is_err());
            assert!(compressor.decompress(algorithm, &room, plain.len() + 1, &mut output).is_err());
        } else {
            assert!(room.is_empty());
        }
    });
});
