//! What can go wrong in the engine, each with the stable `code` that users see.

use std::fmt;

/// An engine error. New kinds may be added; match with a wildcard.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A key that is empty, too long, or not valid Unicode.
    InvalidKey(String),
    /// A value over a limit; the message names the limit.
    ValueTooLarge(String),
    /// The cache was closed.
    Closed,
}

impl Error {
    /// The stable code, as documented in the typings.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidKey(_) => "ERR_KVCACHE_INVALID_KEY",
            Self::ValueTooLarge(_) => "ERR_KVCACHE_VALUE_TOO_LARGE",
            Self::Closed => "ERR_KVCACHE_CLOSED",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidKey(message) | Self::ValueTooLarge(message) => f.write_str(message),
            Self::Closed => f.write_str("the cache is closed"),
        }
    }
}

impl std::error::Error for Error {}
