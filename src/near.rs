//! What a thread's near cache, `lib/near.js`, learns of a value found, and what it reports.

use kvcache_engine::clock::as_word;
use kvcache_engine::engine::{Engine, Found, NearUses, Probe};
use kvcache_engine::scheduler;
use napi::Result;
use napi_derive::napi;

use crate::header;
use crate::thread::{Header, with_cache};

const _: () = assert!(header::LENGTH == 55);

/// Describes how a copy of what was found can be kept. Lets the time be kept, by which copies are checked.
pub fn describe(header: &Header, engine: &Engine, found: &Found, probe: &Probe) {
    scheduler::want_time();
    let entry = &found.entry;
    let h = entry.header();
    let same = header.get(header::IN_VERSION) == f64::from(h.version);
    header.set(header::SAME, f64::from(u8::from(same)));
    header.set(header::VERSION, f64::from(h.version));
    let Some((shared, sum)) = engine.cover(entry, probe) else {
        header.set(header::NEAR_UNTIL, 0.0);
        return;
    };
    header.set(header::NEAR_UNTIL, f64::from(as_word(found.near_until, engine.clock().now_millis())));
    header.set(header::EPOCH, signed(probe.epoch));
    header.set(header::SLOT, f64::from(probe.slot));
    header.set(header::STAMP, signed(probe.stamp));
    header.set(header::SUM, signed(sum));
    header.set(header::SIZE, entry.raw_len() as f64);
    header.set(header::HASH_LOW, signed(probe.hash as u32));
    header.set(header::HASH_HIGH, signed((probe.hash >> 32) as u32));
    header.set(header::ROUTE, f64::from(h.route));
    header.set(header::SHARED_LEN, shared.len() as f64);
    for (n, slot) in shared.iter().enumerate() {
        header.set(header::SHARED + n, f64::from(*slot));
    }
}

/// As JavaScript reads a word of an `Int32Array`.
fn signed(word: u32) -> f64 {
    f64::from(word.cast_signed())
}

/// Numbers for each key that a near cache reports: the halves of its hash, its gets, and its route doubled, plus 1 where
/// they were given a stale value.
const NUMBERS: usize = 4;

/// Counts gets that the near cache has answered: [`NUMBERS`] for each of `len` keys.
#[napi(catch_unwind)]
pub fn report_near(cache: u32, uses: &[i32], len: u32) -> Result<()> {
    scheduler::want_time();
    with_cache(cache, |opened, _| {
        opened.engine().near_used(uses.chunks_exact(NUMBERS).take(len as usize).map(|one| {
            let [low, high, hits, route] = [one[0], one[1], one[2], one[3]].map(i32::cast_unsigned);
            let hash = u64::from(low) | u64::from(high) << 32;
            NearUses { hash, hits, stale: route & 1 != 0, route: (route >> 1) as u16 }
        }));
    })?;
    Ok(())
}
