//! What can go wrong in the engine, each with the stable `code` that users see.

use std::fmt;

use crate::entry::MAX_VALUE_BYTES;

/// An engine error. New kinds may be added; match with a wildcard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A key that is empty, too long, or not valid Unicode; the message says which.
    InvalidKey(String),
    /// A value over a limit.
    ValueTooLarge {
        /// The key, shortened.
        key: String,
        /// What the value takes of what is limited.
        bytes: u64,
        /// What it went over.
        limit: Limit,
    },
    /// Tags or parents that are none, or too many: see [`crate::invalidation::links`].
    InvalidLinks,
    /// The cache was closed.
    Closed,
}

/// A limit on the size of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`MAX_VALUE_BYTES`], on the bytes of the value.
    Value,
    /// The whole budget of the memory tier, on what the entry weighs there.
    Budget(u64),
}

impl Limit {
    /// The limit in bytes.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Value => MAX_VALUE_BYTES as u64,
            Self::Budget(bytes) => bytes,
        }
    }
}

impl Error {
    /// The stable code, as documented in the typings.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidKey(_) => "ERR_KVCACHE_INVALID_KEY",
            Self::ValueTooLarge { .. } => "ERR_KVCACHE_VALUE_TOO_LARGE",
            Self::InvalidLinks => "ERR_KVCACHE_INVALID_OPTION",
            Self::Closed => "ERR_KVCACHE_CLOSED",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidKey(message) => f.write_str(message),
            Self::ValueTooLarge { key, bytes, limit } => {
                let name = match limit {
                    Limit::Value => "the largest value",
                    Limit::Budget(_) => "the memory budget",
                };
                write!(f, "the value of key '{key}' takes {bytes} bytes; {name} is {} bytes", limit.bytes())
            }
            Self::InvalidLinks => f.write_str(
                "tags or dependsOn cannot be read; allowed: at most 64 tags of 1 to 256 bytes of UTF-8, and 64 keys",
            ),
            Self::Closed => f.write_str("the cache is closed"),
        }
    }
}

impl std::error::Error for Error {}
