//! The envelope: any bytes are read or refused, never a panic; what is read is written again to the byte, and is the entry that
//! its fields say. Bytes whose checksum is made right get past it, to what it would have kept away.

#![no_main]

use kvcache_engine::clock::FOREVER;
use kvcache_engine::codec::Compressor;
use kvcache_engine::codec::envelope::{Clocks, Envelope, Error, HEAD_BYTES, MAGIC, VERSION};
use libfuzzer_sys::fuzz_target;
use twox_hash::XxHash3_64;

fuzz_target!(|input: &[u8]| {
    // The first byte says what is done to the rest.
    let Some((&how, rest)) = input.split_first() else { return };
    let mut bytes = rest.to_vec();
    if how & 1 != 0 && bytes.len() >= HEAD_BYTES {
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = VERSION;
        if how & 2 != 0 {
            // The value is what is left, so that the lengths fit.
            let parts = &bytes[HEAD_BYTES..];
            let key = usize::from(u16::from_le_bytes([bytes[80], bytes[81]])).min(parts.len());
            let metadata = usize::from(u16::from_le_bytes([bytes[82], bytes[83]])).min(parts.len() - key);
            let value = parts.len() - key - metadata;
            bytes[80..82].copy_from_slice(&(key as u16).to_le_bytes());
            bytes[82..84].copy_from_slice(&(metadata as u16).to_le_bytes());
            bytes[68..72].fill(0);
            bytes[76..80].copy_from_slice(&(value as u32).to_le_bytes());
        }
        let sum = XxHash3_64::oneshot(&bytes[12..]);
        bytes[4..12].copy_from_slice(&sum.to_le_bytes());
    }
    let envelope = match Envelope::decode(&bytes) {
        Ok(envelope) => envelope,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert_eq!(
                matches!(error, Error::Version(_)),
                bytes.starts_with(&MAGIC) && bytes.get(3).is_some_and(|&v| v > VERSION)
            );
            return;
        }
    };
    let mut again = vec![];
    envelope.encode(&mut again).expect("what was read can be written");
    assert_eq!(again, bytes);
    let clocks = Clocks { now: 1 << 40, unix: 1 << 41 };
    let entry = envelope.entry(3, &clocks);
    let of = Envelope::of(&entry, envelope.epoch, &clocks);
    // Moments beyond what an entry can hold are the nearest it can.
    let timeless = |e: Envelope<'_>| {
        Envelope { stored_at: 0, fresh_until: 0, stale_until: 0, error_until: 0, ..e }
            == Envelope { stored_at: 0, fresh_until: 0, stale_until: 0, error_until: 0, ..envelope }
    };
    assert!(timeless(of));
    assert!(envelope.fresh_until != FOREVER || of.fresh_until == FOREVER);
    if let Some(algorithm) = envelope.codec {
        // What it holds may be anything: it is decompressed or refused.
        let mut value = vec![];
        let _ = Compressor::new().decompress(
            algorithm,
            envelope.value,
            (envelope.raw_len as usize).min(1 << 20),
            &mut value,
        );
    }
});
