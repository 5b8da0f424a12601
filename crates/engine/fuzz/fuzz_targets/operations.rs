//! Operations on the engine, as the bytes say, compared after each with the naive model of `tests/model`.

#![no_main]

#[path = "../../tests/model/reference.rs"]
mod reference;
#[path = "../../tests/model/world.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use world::{Choices, World};

struct Bytes<'a>(&'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, n: usize) -> usize {
        let mut number = 0;
        // As many bytes as it takes. When there are no more, the first choice is taken.
        for _ in 0..(n - 1).checked_ilog2().unwrap_or(0) / 8 + 1 {
            let Some((byte, rest)) = self.0.split_first() else { return 0 };
            self.0 = rest;
            number = number << 8 | usize::from(*byte);
        }
        number % n
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Bytes(bytes);
    // The journal of a crash: KVCACHE_FUZZ_JOURNAL=1 cargo fuzz run operations ARTIFACT
    let mut world = World::new(&mut choices, std::env::var_os("KVCACHE_FUZZ_JOURNAL").is_some());
    while !choices.0.is_empty() {
        world.step(&mut choices);
    }
    world.finish();
});
