//! The hit ratio of the memory tier on an access trace: the tier itself, with the shards it ships with.
//!
//! ```text
//! cargo run --release -p kvcache-engine --example hit_ratio -- --trace FILE.csv.gz --capacity PERCENT [--bytes]
//!     [--shards N] [--policy tier|lru|s3-fifo]
//! ```
//! A trace has one request a line, `key` or `key,size` with the size in bytes, as gzip or plain text. The capacity is in percent
//! of the different keys, each of weight one; with `--bytes`, in percent of their bytes, each key's size counted once, and
//! an entry weighs its size. A key's first size holds throughout. A request that finds nothing stores the key. Every
//! request counts, there is no warm-up. The last line is the hit ratio in percent.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};

use flate2::read::MultiGzDecoder;
use kvcache_engine::clock::FOREVER;
use kvcache_engine::entry::{Ages, Entry, EntrySpec, Kind};
use kvcache_engine::memory::{Config, MemoryTier, Weight};

use crate::peers::{Lru, S3Fifo};

mod peers;

/// A cache that is asked for one key after another.
trait Cache {
    /// Whether the key was there; if not, it is now.
    fn request(&mut self, key: u32, size: u64) -> bool;
}

struct Trace {
    /// Keys, numbered from 0 in the order of their first request.
    requests: Vec<u32>,
    /// The keys' sizes.
    sizes: Vec<u64>,
}

struct Options {
    trace: String,
    capacity: f64,
    bytes: bool,
    shards: Option<usize>,
    policy: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse(std::env::args().skip(1))?;
    let mut trace = Trace::read(&options.trace)?;
    if !options.bytes {
        trace.sizes.fill(1);
    }
    let whole = trace.sizes.iter().sum::<u64>();
    let budget = ((whole as f64 * options.capacity / 100.0).round() as u64).max(1);
    let mut cache: Box<dyn Cache> = match options.policy.as_str() {
        "tier" => Box::new(Tier::new(&options, budget, trace.sizes.iter().copied().max().unwrap_or(0))),
        "lru" => Box::new(Lru::new(budget)),
        "s3-fifo" => Box::new(S3Fifo::new(budget)),
        other => return Err(format!("no policy '{other}': tier, lru or s3-fifo").into()),
    };
    let (mut hits, mut hit_bytes, mut bytes) = (0_u64, 0, 0);
    for key in &trace.requests {
        let size = trace.sizes[*key as usize];
        bytes += size;
        if cache.request(*key, size) {
            hits += 1;
            hit_bytes += size;
        }
    }
    let unit = if options.bytes { "bytes" } else { "entries" };
    println!("{} requests, {} keys, {whole} {unit}; room for {budget}", trace.requests.len(), trace.sizes.len());
    if options.bytes {
        println!("byte hit ratio, %: {:.2}", 100.0 * hit_bytes as f64 / bytes.max(1) as f64);
    }
    println!("hit ratio, %:");
    println!("{:.2}", 100.0 * hits as f64 / trace.requests.len().max(1) as f64);
    Ok(())
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, Box<dyn Error>> {
        let (mut trace, mut capacity, mut bytes, mut shards, mut policy) = (None, None, false, None, "tier".to_owned());
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or(format!("{arg} needs a value"));
            match arg.as_str() {
                "--trace" => trace = Some(value()?),
                "--capacity" => capacity = Some(value()?.parse()?),
                "--bytes" => bytes = true,
                "--shards" => shards = Some(value()?.parse()?),
                "--policy" => policy = value()?,
                other => return Err(format!("unknown option '{other}'").into()),
            }
        }
        let trace = trace.ok_or("--trace FILE is missing")?;
        let capacity = capacity.filter(|percent: &f64| *percent > 0.0).ok_or("--capacity PERCENT is missing")?;
        Ok(Self { trace, capacity, bytes, shards, policy })
    }
}

impl Trace {
    fn read(path: &str) -> Result<Self, Box<dyn Error>> {
        let mut file = File::open(path).map_err(|error| format!("{path}: {error}"))?;
        let mut magic = [0; 2];
        let gzip = file.read(&mut magic)? == 2 && magic == [0x1f, 0x8b];
        file.rewind()?;
        let text: Box<dyn Read> = if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
        let mut numbers: HashMap<String, u32> = HashMap::new();
        let mut trace = Self { requests: Vec::new(), sizes: Vec::new() };
        for line in BufReader::new(text).lines() {
            let line = line?;
            let (key, size) = line.trim().split_once(',').unwrap_or((line.trim(), "1"));
            if key.is_empty() {
                continue;
            }
            let next = trace.sizes.len() as u32;
            let number = match numbers.get(key) {
                Some(number) => *number,
                None => {
                    numbers.insert(key.to_owned(), next);
                    trace.sizes.push(size.trim().parse::<u64>()?.max(1));
                    next
                }
            };
            trace.requests.push(number);
        }
        Ok(trace)
    }
}

/// The memory tier. An entry's key is the number of the trace's key in decimal digits.
struct Tier {
    tier: MemoryTier,
    /// What values are made of.
    filler: Vec<u8>,
}

impl Tier {
    fn new(options: &Options, budget: u64, largest: u64) -> Self {
        let weight = if options.bytes { Weight::Value } else { Weight::Unit };
        let tier = MemoryTier::new(Config { budget, weight, shards: options.shards }, None);
        Self { tier, filler: vec![b'.'; largest as usize] }
    }
}

impl Cache for Tier {
    fn request(&mut self, key: u32, size: u64) -> bool {
        let key = key.to_string();
        if self.tier.get(key.as_bytes()).is_some() {
            return true;
        }
        let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
        let spec = EntrySpec {
            key: key.as_bytes(),
            metadata: b"",
            links: b"",
            value: &self.filler[..size as usize],
            kind: Kind::Bytes,
            ages,
            seq: 0,
            route: 0,
            version: 0,
        };
        self.tier.insert(Entry::new(&spec, 0));
        false
    }
}
