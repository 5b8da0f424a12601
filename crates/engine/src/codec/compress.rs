//! Compression of values: gzip, zstd and lz4 behind one pair of functions.
//!
//! | algorithm | stored form | integrity |
//! |---|---|---|
//! | gzip | one member (RFC 1952), read by any gunzip and by `Content-Encoding: gzip` | CRC-32 and length |
//! | zstd | one frame (RFC 8878) that tells its content size | length |
//! | lz4 | one block ([format](https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md)) after its length before compression, 4 bytes, little-endian | length |
//!
//! lz4 is stored as a block and not as a frame: a frame adds 11 bytes or more and copies through buffers of its own, all
//! for streaming, which a value held whole has no use for. The length in front is the custom among lz4 libraries, and is
//! compared with the length expected before anything is written. zstd and lz4 carry no checksum of the content: what
//! stores bytes where they can rot adds one over all of its envelope.
//!
//! Promises:
//! - A value that does not get smaller by at least a tenth ([`pays`]) is not compressed: the space won would not be
//!   worth the time of every read. Large values that look compressed already are not even tried with gzip.
//! - Decompression writes exactly as many bytes as are expected, or fails; it never allocates or writes more, whatever the
//!   input says. Corrupt input is an [`Error`], never a panic.
//! - A [`Compressor`] keeps its contexts from one value to the next, as long as they are no larger than [`KEPT_BYTES`].
//!   It belongs to one thread at a time.

use std::fmt;
use std::ops::RangeInclusive;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use lz4_flex::block::{self as lz4, CompressTable};
use zstd::bulk;

use crate::entry::MAX_VALUE_BYTES;

/// Largest context, in bytes, that a [`Compressor`] keeps after use. Only zstd grows beyond: at high levels its tables
/// take tens of megabytes for a large value.
pub const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Base-2 logarithm of deflate's window: its largest, 32 KiB, which every gunzip reads.
const GZIP_WINDOW_BITS: u8 = 15;

/// Bytes in front of an lz4 block: its length before compression.
const LZ4_PREFIX: usize = 4;

/// Inputs of at least this many bytes are looked at before gzip is tried: for small ones trying costs little.
const GZIP_LOOK: usize = 16 * 1024;

/// Inputs below this many bytes use lz4's table of 16-bit positions, which is half as large to clear.
const LZ4_SMALL: usize = u16::MAX as usize;

/// A way to compress. The numbers are part of the stored form and never reused; 0 stands for not compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Algorithm {
    /// Read everywhere; the slowest of the three.
    Gzip = 1,
    /// Smaller than gzip in less time.
    Zstd = 2,
    /// The fastest, and the least small.
    Lz4 = 3,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::Lz4];

    /// The algorithm of that number, if there is one.
    #[inline]
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Gzip),
            2 => Some(Self::Zstd),
            3 => Some(Self::Lz4),
            _ => None,
        }
    }

    /// The algorithm of that name, as options spell it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }

    /// The name that users see: `gzip`, `zstd` or `lz4`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
        }
    }

    /// The levels there are, from fast to small; `None` where there is no choice.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::Gzip => Some(1..=9),
            Self::Zstd => Some(1..=19),
            Self::Lz4 => None,
        }
    }

    /// The level taken when none is asked for; 0 where there is no choice.
    pub fn default_level(self) -> i32 {
        match self {
            Self::Gzip => 2,
            Self::Zstd => 1,
            Self::Lz4 => 0,
        }
    }

    /// Largest value, in bytes before compression, that is worth decompressing on the thread that wants it. Below it the
    /// time is less than handing the work to another thread and being woken takes; see "Compression" in
    /// `docs/benchmarks.md`.
    pub fn inline_limit(self) -> usize {
        match self {
            Self::Gzip => 32 * 1024,
            Self::Zstd => 64 * 1024,
            Self::Lz4 => 128 * 1024,
        }
    }

    /// The level to use when a user asked for this one, or for none: an error that tells what is allowed where it is not.
    pub fn check_level(self, level: Option<i32>) -> Result<i32, Error> {
        match (level, self.levels()) {
            (None, _) => Ok(self.default_level()),
            (Some(level), Some(levels)) if levels.contains(&level) => Ok(level),
            (Some(level), Some(levels)) => Err(Error::InvalidLevel(format!(
                "compression level {level} for {}; allowed: whole numbers from {} to {}, default {}",
                self.as_str(),
                levels.start(),
                levels.end(),
                self.default_level()
            ))),
            (Some(level), None) => Err(Error::InvalidLevel(format!(
                "compression level {level} for {}, which has no levels; leave it out",
                self.as_str()
            ))),
        }
    }
}

/// Why something could not be decompressed, or a level not be taken. New kinds may be added; match with a wildcard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A level that the algorithm does not have; the message tells those it has.
    InvalidLevel(String),
    /// More bytes expected than a value may have.
    TooLarge(usize),
    /// Input that is no such compressed value, or not one of the length expected.
    Corrupt {
        /// What it was taken for.
        algorithm: Algorithm,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidLevel(message) => f.write_str(message),
            Self::TooLarge(len) => {
                write!(f, "{len} bytes expected after decompression; allowed: at most {MAX_VALUE_BYTES}")
            }
            Self::Corrupt { algorithm, why } => write!(f, "corrupt {} data: {why}", algorithm.as_str()),
        }
    }
}

impl std::error::Error for Error {}

/// Most bytes that `len` bytes may take compressed to be stored so: nine tenths.
pub fn pays(len: usize) -> usize {
    len - len.div_ceil(10)
}

/// The contexts of all algorithms, each made at its first use and used again.
#[derive(Default)]
pub struct Compressor {
    gzip: Option<(i32, Compress)>,
    gunzip: Option<Decompress>,
    zstd: Option<bulk::Compressor<'static>>,
    unzstd: Option<bulk::Decompressor<'static>>,
    lz4_small: Option<CompressTable>,
    lz4_large: Option<CompressTable>,
}

impl Compressor {
    /// No context yet, and nearly no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compresses `input` into `output`, whose content is replaced. False, and an empty `output`, where that does not
    /// [pay](pays).
    ///
    /// `level` is one that [`Algorithm::check_level`] gave; others are taken as the nearest. Hand in the same `output`
    /// again and again, and uncleared: what it already holds need not be zeroed anew.
    pub fn compress(&mut self, algorithm: Algorithm, level: i32, input: &[u8], output: &mut Vec<u8>) -> bool {
        let level = algorithm.levels().map_or(0, |levels| level.clamp(*levels.start(), *levels.end()));
        let written = match algorithm {
            Algorithm::Gzip => self.gzip(level, input, output),
            Algorithm::Zstd => self.zstd(level, input, output),
            Algorithm::Lz4 => self.lz4(input, output),
        };
        let len = written.filter(|len| *len <= pays(input.len())).unwrap_or(0);
        output.truncate(len);
        len > 0
    }

    /// Decompresses `input` into `output`, whose content is replaced by the `expected_len` bytes that went in.
    /// An `output` used before and handed in uncleared is the fastest, as with [`Self::compress`].
    ///
    /// # Errors
    /// [`Error::Corrupt`] where `input` is not the compressed form of exactly that many bytes, [`Error::TooLarge`] where
    /// those are more than a value may have; `output` is then empty.
    pub fn decompress(
        &mut self,
        algorithm: Algorithm,
        input: &[u8],
        expected_len: usize,
        output: &mut Vec<u8>,
    ) -> Result<(), Error> {
        if expected_len > MAX_VALUE_BYTES {
            output.clear();
            return Err(Error::TooLarge(expected_len));
        }
        output.resize(expected_len, 0);
        let result = self.decompress_into(algorithm, input, output);
        if result.is_err() {
            output.clear();
        }
        result
    }

    /// [`Self::decompress`] into bytes that are already there, all of which it writes.
    ///
    /// # Errors
    /// [`Error::Corrupt`], as above; `output` then holds anything.
    pub fn decompress_into(&mut self, algorithm: Algorithm, input: &[u8], output: &mut [u8]) -> Result<(), Error> {
        match algorithm {
            Algorithm::Gzip => self.gunzip(input, output),
            Algorithm::Zstd => self.unzstd(input, output),
            Algorithm::Lz4 => unlz4(input, output),
        }
        .map_err(|why| Error::Corrupt { algorithm, why })
    }

    /// Bytes written, or `None` where more than would pay were needed or it looks so.
    fn gzip(&mut self, level: i32, input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
        if input.len() >= GZIP_LOOK && looks_like_noise(input) {
            return None;
        }
        output.resize(pays(input.len()), 0);
        let context = match &mut self.gzip {
            Some((made_for, context)) if *made_for == level => {
                context.reset();
                context
            }
            other => &mut other.insert((level, Compress::new_gzip(Compression::new(level as u32), GZIP_WINDOW_BITS))).1,
        };
        match context.compress(input, output, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => Some(context.total_out() as usize),
            _ => None,
        }
    }

    fn gunzip(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), &'static str> {
        let context = match &mut self.gunzip {
            Some(context) => {
                context.reset(true);
                context
            }
            none => none.insert(Decompress::new_gzip(GZIP_WINDOW_BITS)),
        };
        match context.decompress(input, output, FlushDecompress::Finish) {
            Ok(Status::StreamEnd) if context.total_out() != output.len() as u64 => Err(SHORT),
            Ok(Status::StreamEnd) if context.total_in() != input.len() as u64 => Err("bytes after its end"),
            Ok(Status::StreamEnd) => Ok(()),
            Ok(_) => Err("cut short, or longer than expected"),
            Err(_) => Err("not a gzip member, or its checksum does not fit"),
        }
    }

    /// Bytes written, or `None` where more than would pay were needed.
    fn zstd(&mut self, level: i32, input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
        output.resize(pays(input.len()), 0);
        let context = self.zstd.get_or_insert_default();
        let written = context
            .set_compression_level(level)
            .and_then(|()| context.compress_to_buffer(input, output.as_mut_slice()));
        if context.context_mut().sizeof() > KEPT_BYTES {
            self.zstd = None;
        }
        written.ok()
    }

    fn unzstd(&mut self, input: &[u8], output: &mut [u8]) -> Result<(), &'static str> {
        let context = self.unzstd.get_or_insert_default();
        match context.decompress_to_buffer(input, output) {
            Ok(len) if len == output.len() => Ok(()),
            Ok(_) => Err(SHORT),
            Err(_) => Err("not a zstd frame, or longer than expected"),
        }
    }

    /// Bytes written; `None` where the input is too long for the prefix.
    fn lz4(&mut self, input: &[u8], output: &mut Vec<u8>) -> Option<usize> {
        let prefix = u32::try_from(input.len()).ok()?.to_le_bytes();
        // The library wants room for the worst case, and cannot be stopped early.
        output.resize(LZ4_PREFIX + lz4::get_maximum_output_size(input.len()), 0);
        let table = if input.len() < LZ4_SMALL {
            self.lz4_small.get_or_insert_with(CompressTable::small)
        } else {
            self.lz4_large.get_or_insert_with(CompressTable::large)
        };
        let (head, block) = output.split_at_mut(LZ4_PREFIX);
        head.copy_from_slice(&prefix);
        let written = lz4::compress_into_with_table(input, block, table).ok()?;
        Some(LZ4_PREFIX + written)
    }
}

fn unlz4(input: &[u8], output: &mut [u8]) -> Result<(), &'static str> {
    let (prefix, block) = input.split_first_chunk().ok_or("cut short")?;
    if u32::from_le_bytes(*prefix) as usize != output.len() {
        return Err("its length is not the one expected");
    }
    match lz4::decompress_into(block, output) {
        Ok(len) if len == output.len() => Ok(()),
        Ok(_) => Err(SHORT),
        Err(_) => Err("not an lz4 block, or longer than expected"),
    }
}

/// Whether `input` is in all likelihood compressed or encrypted already: its bytes are as good as evenly spread, judged
/// by the entropy of 4,096 of them taken from 16 places. Text, numbers and base64 are far from that.
///
/// Deflate needs four times as long to find nothing than to find something, where zstd and lz4 notice by themselves. The
/// idea is that of Btrfs (`btrfs_compress_heuristic` in Linux' `fs/btrfs/compression.c`). What repeats only at a
/// distance is taken for noise, too; deflate would see such repeats within 32 KiB.
fn looks_like_noise(input: &[u8]) -> bool {
    const PLACES: usize = 16;
    const PLACE: usize = 256;
    /// Bits in a byte; 4,096 even bytes give 7.95 or more. Between them and what compresses lie few files of any kind.
    const NOISE: f64 = 7.85;

    let mut counts = [0u32; 256];
    let step = input.len().saturating_sub(PLACE) / (PLACES - 1);
    for place in 0..PLACES {
        for &byte in input.iter().skip(place * step).take(PLACE) {
            counts[usize::from(byte)] += 1;
        }
    }
    let all = f64::from(counts.iter().sum::<u32>());
    let entropy: f64 = counts.iter().filter(|&&n| n > 0).map(|&n| f64::from(n) * (all / f64::from(n)).log2()).sum();
    entropy > NOISE * all
}

const SHORT: &str = "shorter than expected";

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compressor")
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    /// Every algorithm at its ends and at its default level.
    fn methods() -> impl Iterator<Item = (Algorithm, i32)> {
        Algorithm::ALL.into_iter().flat_map(|algorithm| {
            let levels = algorithm.levels().unwrap_or(0..=0);
            [*levels.start(), algorithm.default_level(), *levels.end()].map(|level| (algorithm, level))
        })
    }

    /// Records as a database would give them, `len` bytes of them.
    fn records(len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut text = String::new();
        while text.len() < len {
            let (id, price) = (rng.u32(..), rng.u32(..100_000));
            text.push_str(&format!(
                "{{\"id\":{id},\"name\":\"item {}\",\"price\":{price},\"stock\":true}},",
                id % 1_000
            ));
        }
        text.truncate(len);
        text.into_bytes()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(len as u64);
        (0..len).map(|_| rng.u8(..)).collect()
    }

    fn compressed(algorithm: Algorithm, level: i32, input: &[u8]) -> Vec<u8> {
        let mut output = vec![];
        assert!(Compressor::new().compress(algorithm, level, input, &mut output), "{algorithm:?} {level}");
        output
    }

    #[test]
    fn gives_back_what_went_in() {
        let mut compressor = Compressor::new();
        let (mut small, mut back) = (vec![], vec![]);
        for (algorithm, level) in methods() {
            for len in [300, 1_024, 4_096, 65_534, 65_535, 65_536, 300_000] {
                let input = records(len);
                assert!(compressor.compress(algorithm, level, &input, &mut small), "{algorithm:?} {level} {len}");
                assert!(small.len() <= pays(len), "{algorithm:?} {level} {len}: {}", small.len());
                compressor.decompress(algorithm, &small, len, &mut back).unwrap();
                assert!(back == input, "{algorithm:?} {level} {len}");
            }
        }
    }

    #[test]
    fn the_largest_value_there_may_be_goes_in_and_out() {
        let input = records(MAX_VALUE_BYTES / 25).repeat(25);
        assert_eq!(input.len(), MAX_VALUE_BYTES);
        let mut compressor = Compressor::new();
        let (mut small, mut back) = (vec![], vec![]);
        for algorithm in Algorithm::ALL {
            assert!(compressor.compress(algorithm, 1, &input, &mut small));
            compressor.decompress(algorithm, &small, input.len(), &mut back).unwrap();
            assert!(back == input, "{algorithm:?}");
        }
    }

    #[test]
    fn what_does_not_pay_stays_plain() {
        let mut compressor = Compressor::new();
        for (algorithm, level) in methods() {
            for len in [0, 1, 2, 17, 1_000, 100_000] {
                let mut output = b"of before".to_vec();
                assert!(
                    !compressor.compress(algorithm, level, &noise(len), &mut output),
                    "{algorithm:?} {level} {len}"
                );
                assert_eq!(output, b"", "{algorithm:?} {level} {len}");
            }
        }
    }

    #[test]
    fn a_tenth_must_be_saved() {
        assert_eq!([0, 1, 9, 10, 11, 20, 1_000].map(pays), [0, 0, 8, 9, 9, 18, 900]);
        // Noise and zeros, mixed so that clearly more, then clearly less than nine tenths are left.
        for (zeros, expected) in [(60, false), (250, true)] {
            let mut input = noise(1_000 - zeros);
            input.resize(1_000, 0);
            for (algorithm, level) in methods() {
                let paid = Compressor::new().compress(algorithm, level, &input, &mut vec![]);
                assert_eq!(paid, expected, "{algorithm:?} {level}, {zeros} zeros");
            }
        }
    }

    #[test]
    fn noise_is_told_from_what_compresses() {
        let hex: String = noise(50_000).iter().map(|byte| format!("{byte:02x}")).collect();
        let mixed = [noise(75_000), records(25_000)].concat();
        for compressible in [records(100_000), hex.into_bytes(), mixed, vec![0; 40_000], vec![]] {
            assert!(!looks_like_noise(&compressible));
        }
        for len in [GZIP_LOOK, 50_001, 1_000_000] {
            assert!(looks_like_noise(&noise(len)), "{len}");
        }
        assert!(looks_like_noise(&compressed(Algorithm::Zstd, 9, &records(500_000))));
    }

    #[test]
    fn used_contexts_write_what_new_ones_write() {
        let inputs = [records(100_000), records(700), noise(5_000), records(70_000)];
        let mut used = Compressor::new();
        let mut output = vec![];
        for _ in 0..2 {
            for (algorithm, level) in methods() {
                for input in &inputs {
                    let mut expected = vec![];
                    let paid = Compressor::new().compress(algorithm, level, input, &mut expected);
                    assert_eq!(used.compress(algorithm, level, input, &mut output), paid, "{algorithm:?} {level}");
                    assert!(output == expected, "{algorithm:?} {level}");
                }
            }
        }
    }

    #[test]
    fn gzip_is_one_plain_member() {
        let input = records(10_000);
        let small = compressed(Algorithm::Gzip, 6, &input);
        assert_eq!(small[..4], [0x1f, 0x8b, 8, 0], "magic, deflate, no flags");
        assert_eq!(small[small.len() - 4..], 10_000u32.to_le_bytes());
        let mut back = vec![];
        flate2::read::GzDecoder::new(&small[..]).read_to_end(&mut back).unwrap();
        assert_eq!(back, input);
    }

    #[test]
    fn a_zstd_frame_tells_its_content_size() {
        let small = compressed(Algorithm::Zstd, 1, &records(10_000));
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&small).ok(), Some(Some(10_000)));
        assert_eq!(zstd::stream::decode_all(&small[..]).unwrap(), records(10_000));
    }

    #[test]
    fn an_lz4_block_stands_after_its_length() {
        let small = compressed(Algorithm::Lz4, 0, &records(10_000));
        assert_eq!(lz4::decompress_size_prepended(&small).unwrap(), records(10_000));
    }

    #[test]
    fn a_bomb_is_stopped_at_the_length_expected() {
        const MIB: usize = 1024 * 1024;
        let mut compressor = Compressor::new();
        for algorithm in Algorithm::ALL {
            let bomb = compressed(algorithm, algorithm.default_level(), &vec![0; 20 * MIB]);
            for expected in [0, 1, 1_000, MIB] {
                let mut output = vec![];
                let error = compressor.decompress(algorithm, &bomb, expected, &mut output).unwrap_err();
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                assert!(output.is_empty() && output.capacity() <= MIB, "{algorithm:?} {}", output.capacity());
            }
        }
    }

    #[test]
    fn more_than_a_value_may_have_is_refused_before_room_is_made() {
        let mut output = vec![1];
        let error = Compressor::new().decompress(Algorithm::Lz4, &[], MAX_VALUE_BYTES + 1, &mut output).unwrap_err();
        assert_eq!(error, Error::TooLarge(MAX_VALUE_BYTES + 1));
        assert!(error.to_string().contains("26214401"), "{error}");
        assert!(output.is_empty() && output.capacity() < 1_000);
    }

    #[test]
    fn any_other_length_is_an_error() {
        let input = records(5_000);
        for algorithm in Algorithm::ALL {
            let small = compressed(algorithm, algorithm.default_level(), &input);
            for expected in [0, 1, 4_999, 5_001, 10_000, MAX_VALUE_BYTES] {
                let result = Compressor::new().decompress(algorithm, &small, expected, &mut vec![]);
                assert!(matches!(result, Err(Error::Corrupt { .. })), "{algorithm:?} {expected}");
            }
        }
    }

    #[test]
    fn whatever_is_cut_off_or_added_is_an_error() {
        let input = records(2_000);
        let mut compressor = Compressor::new();
        let mut output = vec![];
        for algorithm in Algorithm::ALL {
            let small = compressed(algorithm, algorithm.default_level(), &input);
            for cut in 0..small.len() {
                let result = compressor.decompress(algorithm, &small[..cut], input.len(), &mut output);
                assert!(matches!(result, Err(Error::Corrupt { .. })), "{algorithm:?} cut at {cut}");
                assert_eq!(output, b"");
            }
            for more in [&b"\0"[..], b"more", &small] {
                let longer = [&small, more].concat();
                let result = compressor.decompress(algorithm, &longer, input.len(), &mut output);
                assert!(matches!(result, Err(Error::Corrupt { .. })), "{algorithm:?} and {more:?}");
            }
            // Nothing of this harms the context.
            compressor.decompress(algorithm, &small, input.len(), &mut output).unwrap();
            assert_eq!(output, input);
        }
    }

    #[test]
    fn one_form_is_not_taken_for_another() {
        let input = records(3_000);
        for written in Algorithm::ALL {
            let small = compressed(written, written.default_level(), &input);
            for read in Algorithm::ALL.into_iter().filter(|read| *read != written) {
                let result = Compressor::new().decompress(read, &small, input.len(), &mut vec![]);
                assert!(matches!(result, Err(Error::Corrupt { .. })), "{written:?} as {read:?}");
            }
        }
    }

    #[test]
    fn a_damaged_gzip_member_never_gives_other_bytes() {
        let input = records(1_500);
        let small = compressed(Algorithm::Gzip, 2, &input);
        let mut compressor = Compressor::new();
        let mut output = vec![];
        for at in 0..small.len() {
            for bit in 0..8 {
                let mut damaged = small.clone();
                damaged[at] ^= 1 << bit;
                // Some bits of the header mean nothing to the content.
                if compressor.decompress(Algorithm::Gzip, &damaged, input.len(), &mut output).is_ok() {
                    assert!(output == input, "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn large_contexts_are_not_kept() {
        let mut compressor = Compressor::new();
        compressor.compress(Algorithm::Zstd, 1, &records(100_000), &mut vec![]);
        assert!(compressor.zstd.is_some());
        compressor.compress(Algorithm::Zstd, 19, &records(1024 * 1024), &mut vec![]);
        assert!(compressor.zstd.is_none());
    }

    #[test]
    fn levels_are_checked() {
        assert_eq!(Algorithm::Gzip.check_level(None), Ok(2));
        assert_eq!(Algorithm::Lz4.check_level(None), Ok(0));
        for algorithm in Algorithm::ALL {
            for level in algorithm.levels().into_iter().flatten() {
                assert_eq!(algorithm.check_level(Some(level)), Ok(level));
            }
            let default = algorithm.default_level();
            assert!(algorithm.levels().is_none_or(|levels| levels.contains(&default)), "{algorithm:?}");
        }
        for (algorithm, level, message) in [
            (Algorithm::Gzip, 0, "compression level 0 for gzip; allowed: whole numbers from 1 to 9, default 2"),
            (Algorithm::Gzip, 10, "compression level 10 for gzip; allowed: whole numbers from 1 to 9, default 2"),
            (Algorithm::Zstd, 20, "compression level 20 for zstd; allowed: whole numbers from 1 to 19, default 1"),
            (Algorithm::Lz4, 1, "compression level 1 for lz4, which has no levels; leave it out"),
        ] {
            assert_eq!(algorithm.check_level(Some(level)).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_level_that_does_not_exist_is_taken_as_the_nearest() {
        let input = records(20_000);
        for (algorithm, asked, taken) in [(Algorithm::Gzip, -5, 1), (Algorithm::Gzip, 99, 9), (Algorithm::Zstd, 99, 19)]
        {
            assert!(
                compressed(algorithm, asked, &input) == compressed(algorithm, taken, &input),
                "{algorithm:?} {asked}"
            );
        }
    }

    #[test]
    fn algorithms_are_known_by_number_and_by_name() {
        assert_eq!(Algorithm::ALL.map(|algorithm| algorithm as u8), [1, 2, 3]);
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_u8(algorithm as u8), Some(algorithm));
            assert_eq!(Algorithm::from_name(algorithm.as_str()), Some(algorithm));
        }
        assert_eq!((Algorithm::from_u8(0), Algorithm::from_u8(4), Algorithm::from_name("GZIP")), (None, None, None));
    }

    fn algorithm() -> impl Strategy<Value = Algorithm> {
        prop::sample::select(Algorithm::ALL.to_vec())
    }

    /// Text and bytes that compress more or less well.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3_000),
            prop::collection::vec(0..4u8, 0..3_000),
            (prop::collection::vec(any::<u8>(), 1..40), 1..300usize).prop_map(|(part, times)| part.repeat(times)),
            (0..100_000usize).prop_map(records),
        ]
    }

    proptest! {
        #[test]
        fn any_value_comes_back(algorithm in algorithm(), level in 1..=9, values in prop::collection::vec(value(), 1..4)) {
            let mut compressor = Compressor::new();
            let (mut small, mut back) = (vec![], vec![]);
            for value in values {
                if compressor.compress(algorithm, level, &value, &mut small) {
                    prop_assert!(small.len() <= pays(value.len()));
                    compressor.decompress(algorithm, &small, value.len(), &mut back).unwrap();
                    prop_assert!(back == value);
                } else {
                    prop_assert!(small.is_empty());
                }
            }
        }

        #[test]
        fn noise_is_refused_or_fits(
            algorithm in algorithm(),
            input in prop::collection::vec(any::<u8>(), 0..600),
            magic in any::<bool>(),
            expected in 0..100_000usize,
        ) {
            let mut input = input;
            if magic {
                let head = match algorithm {
                    Algorithm::Gzip => vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3],
                    Algorithm::Zstd => vec![0x28, 0xb5, 0x2f, 0xfd],
                    Algorithm::Lz4 => (expected as u32).to_le_bytes().to_vec(),
                };
                input.splice(0..0, head);
            }
            let mut output = vec![];
            match Compressor::new().decompress(algorithm, &input, expected, &mut output) {
                Ok(()) => prop_assert_eq!(output.len(), expected),
                Err(error) => {
                    let corrupt = matches!(error, Error::Corrupt { algorithm: named, .. } if named == algorithm);
                    prop_assert!(corrupt, "{}", error);
                    prop_assert!(output.is_empty());
                }
            }
        }

        #[test]
        fn damage_is_refused_or_fits(
            algorithm in algorithm(),
            len in 300..20_000usize,
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut compressor = Compressor::new();
            let mut small = vec![];
            prop_assert!(compressor.compress(algorithm, 1, &records(len), &mut small));
            for (at, byte) in damage {
                let at = at.index(small.len());
                small[at] = byte;
            }
            let mut output = vec![];
            match compressor.decompress(algorithm, &small, len, &mut output) {
                Ok(()) => prop_assert_eq!(output.len(), len),
                Err(_) => prop_assert!(output.is_empty()),
            }
        }
    }
}
