//! What can go wrong with a tier.

use std::fmt;

/// Why a tier did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TierErrorKind {
    /// It did not answer in time. What was to be changed may have been.
    Timeout,
    /// It could not be reached, failed, asks for patience, or rests.
    Unavailable,
    /// It refuses what it was given; trying again is of no use.
    Refused,
    /// What it holds is not what was written, or of a later version: to the cache a miss.
    Corrupt,
    /// Something is beyond a limit of the tier; the message has the figures.
    TooLarge,
    /// It does not accept our credentials.
    Auth,
    /// It was closed.
    Closed,
}

impl TierErrorKind {
    /// Its name, in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Corrupt => "corrupt",
            Self::TooLarge => "too large",
            Self::Auth => "auth",
            Self::Closed => "closed",
        }
    }

    /// Whether it says that the tier as a whole is not well, so that asking for something else would fail as well.
    pub fn is_illness(self) -> bool {
        matches!(self, Self::Timeout | Self::Unavailable | Self::Auth)
    }
}

/// An error of a tier. Its message never holds a credential: it is made of the tier's own words, and of those of a server
/// only where it cannot repeat what we sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierError {
    pub kind: TierErrorKind,
    pub message: Box<str>,
}

impl TierError {
    pub fn new(kind: TierErrorKind, message: impl Into<Box<str>>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A call after the end.
    pub(crate) fn closed() -> Self {
        Self::new(TierErrorKind::Closed, "the tier is closed")
    }
}

impl fmt::Display for TierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.kind.as_str())
    }
}

impl std::error::Error for TierError {}
