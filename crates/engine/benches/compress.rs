//! What compression costs and saves, by size, algorithm and level, on JSON as an API answers it.
//!
//! `cargo bench -p kvcache-engine --bench compress`. A case is named `algorithm-level size (bytes left %)`. The input is
//! made up from a fixed seed: product records with identifiers, prices, dates, addresses and a few sentences of text.

use std::fmt;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use kvcache_engine::codec::{Algorithm, Compressor};

fn main() {
    divan::main();
}

const SIZES: [(&str, usize); 5] =
    [("1 KB", 1_000), ("4 KB", 4_000), ("16 KB", 16_000), ("100 KB", 100_000), ("1000 KB", 1_000_000)];

const LEVELS: [(Algorithm, &[i32]); 3] =
    [(Algorithm::Gzip, &[1, 2, 3, 4, 6, 9]), (Algorithm::Zstd, &[1, 2, 3, 5, 9]), (Algorithm::Lz4, &[0])];

/// One value to be compressed in one way, or that value compressed.
struct Case {
    algorithm: Algorithm,
    level: i32,
    size: &'static str,
    plain: Vec<u8>,
    compressed: Vec<u8>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left = 100.0 * self.compressed.len() as f64 / self.plain.len() as f64;
        let level = if self.level == 0 { String::new() } else { format!("-{}", self.level) };
        write!(f, "{}{level} {} ({left:.1} %)", self.algorithm.as_str(), self.size)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (size, len) in SIZES {
        let plain = json(len);
        for (algorithm, levels) in LEVELS {
            for &level in levels {
                let mut compressed = vec![];
                assert!(Compressor::new().compress(algorithm, level, &plain, &mut compressed));
                cases.push(Case { algorithm, level, size, plain: plain.clone(), compressed });
            }
        }
    }
    cases
}

/// The cases whose compressed form is the default one: the level hardly matters to reading.
fn default_cases() -> Vec<Case> {
    cases().into_iter().filter(|case| case.level == case.algorithm.default_level()).collect()
}

/// As an engine thread does it: contexts and buffers used before.
#[divan::bench(args = cases(), max_time = 0.4)]
fn compress(bencher: Bencher<'_, '_>, case: &Case) {
    let mut compressor = Compressor::new();
    let mut output = vec![];
    bencher
        .counter(BytesCount::of_slice(&case.plain))
        .bench_local(|| compressor.compress(case.algorithm, case.level, black_box(&case.plain), &mut output));
}

/// The same with contexts made anew for each value: what keeping them saves.
#[divan::bench(args = default_cases(), max_time = 0.4)]
fn compress_with_new_contexts(bencher: Bencher<'_, '_>, case: &Case) {
    let mut output = vec![];
    bencher
        .counter(BytesCount::of_slice(&case.plain))
        .bench_local(|| Compressor::new().compress(case.algorithm, case.level, black_box(&case.plain), &mut output));
}

#[divan::bench(args = default_cases(), max_time = 0.4)]
fn decompress(bencher: Bencher<'_, '_>, case: &Case) {
    let mut compressor = Compressor::new();
    let mut output = vec![];
    bencher.counter(BytesCount::of_slice(&case.plain)).bench_local(|| {
        compressor.decompress(case.algorithm, black_box(&case.compressed), case.plain.len(), &mut output)
    });
}

/// What every algorithm is measured against: the same bytes copied.
#[divan::bench(args = SIZES.map(|(_, len)| len), max_time = 0.2)]
fn copy(bencher: Bencher<'_, '_>, len: usize) {
    let plain = json(len);
    let mut output = Vec::with_capacity(len);
    bencher.counter(BytesCount::new(len)).bench_local(|| {
        output.clear();
        output.extend_from_slice(black_box(&plain));
    });
}

/// Incompressible bytes: what it costs to find out that compression does not pay.
#[divan::bench(args = Algorithm::ALL.map(Algorithm::as_str), max_time = 0.4)]
fn give_up_100_kb(bencher: Bencher<'_, '_>, name: &str) {
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..100_000).map(|_| rng.u8(..)).collect();
    let algorithm = Algorithm::from_name(name).unwrap_or(Algorithm::Gzip);
    let mut compressor = Compressor::new();
    let mut output = vec![];
    bencher.counter(BytesCount::of_slice(&noise)).bench_local(|| {
        assert!(!compressor.compress(algorithm, algorithm.default_level(), black_box(&noise), &mut output));
    });
}

/// `len` bytes of an array of product records, cut at the end.
fn json(len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(42);
    let mut out = String::from("{\"total\":1284,\"page\":3,\"products\":[");
    while out.len() < len {
        record(&mut rng, &mut out);
        out.push(',');
    }
    out.truncate(len);
    out.into_bytes()
}

fn record(rng: &mut fastrand::Rng, out: &mut String) {
    let (id, hash) = (rng.u32(1..9_999_999), rng.u128(..));
    let name = format!("{} {}", capital(word(rng)), word(rng));
    let sentences: Vec<_> = (0..rng.usize(1..4)).map(|_| sentence(rng)).collect();
    let tags: Vec<_> = (0..rng.usize(1..5)).map(|_| format!("\"{}\"", word(rng))).collect();
    let (price, old, stock, rating) = (rng.u32(99..99_999), rng.u32(99..99_999), rng.u32(..500), rng.u32(10..51));
    let (month, day, hour, minute) = (rng.u8(1..13), rng.u8(1..29), rng.u8(..24), rng.u8(..60));
    let (street, city) = (capital(word(rng)), capital(word(rng)));
    *out += &format!(
        "{{\"id\":{id},\"sku\":\"{:08X}\",\"etag\":\"{hash:032x}\",\"name\":\"{name}\",\"description\":\"{}\",\
         \"price\":{{\"amount\":{}.{:02},\"currency\":\"EUR\",\"was\":{}}},\"inStock\":{},\"stock\":{stock},\
         \"rating\":{}.{},\"tags\":[{}],\"image\":\"https://cdn.example.com/images/{:x}/{id}.webp\",\
         \"createdAt\":\"2024-{month:02}-{day:02}T{hour:02}:{minute:02}:00.000Z\",\
         \"vendor\":{{\"id\":{},\"street\":\"{street} {}\",\"city\":\"{city}\",\"country\":\"DE\",\"verified\":{}}}}}",
        rng.u32(..),
        sentences.join(" "),
        price / 100,
        price % 100,
        if old > price { (old / 100).to_string() } else { "null".to_owned() },
        stock > 0,
        rating / 10,
        rating % 10,
        tags.join(","),
        hash >> 112,
        rng.u16(..),
        rng.u8(1..120),
        rng.bool(),
    );
}

fn sentence(rng: &mut fastrand::Rng) -> String {
    let words: Vec<_> = (0..rng.usize(5..14)).map(|_| word(rng)).collect();
    format!("{}.", capital(&words.join(" ")))
}

/// A word, the first ones far more often than the last, as in any language.
fn word(rng: &mut fastrand::Rng) -> &'static str {
    let nth = (WORDS.len() as f64).powf(rng.f64()) as usize - 1;
    WORDS[nth.min(WORDS.len() - 1)]
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

const WORDS: [&str; 96] = [
    "the",
    "of",
    "and",
    "with",
    "for",
    "a",
    "in",
    "is",
    "to",
    "from",
    "light",
    "cotton",
    "black",
    "water",
    "steel",
    "small",
    "large",
    "wooden",
    "garden",
    "kitchen",
    "table",
    "chair",
    "lamp",
    "bottle",
    "outdoor",
    "classic",
    "travel",
    "soft",
    "leather",
    "bag",
    "winter",
    "summer",
    "jacket",
    "shirt",
    "running",
    "shoe",
    "coffee",
    "glass",
    "set",
    "bamboo",
    "waterproof",
    "portable",
    "wireless",
    "charger",
    "cable",
    "battery",
    "speaker",
    "headphones",
    "keyboard",
    "screen",
    "organic",
    "natural",
    "handmade",
    "ceramic",
    "plate",
    "bowl",
    "knife",
    "cutting",
    "board",
    "storage",
    "basket",
    "linen",
    "curtain",
    "pillow",
    "blanket",
    "mattress",
    "frame",
    "mirror",
    "clock",
    "candle",
    "vase",
    "plant",
    "pot",
    "soil",
    "seeds",
    "hammer",
    "screwdriver",
    "drill",
    "ladder",
    "paint",
    "brush",
    "bicycle",
    "helmet",
    "tent",
    "sleeping",
    "backpack",
    "compass",
    "thermos",
    "fishing",
    "climbing",
    "yoga",
    "dumbbell",
    "treadmill",
    "racket",
    "football",
    "skates",
];
