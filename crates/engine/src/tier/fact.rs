//! A fact: one invalidation, as it is kept by a tier for processes to come.

use super::Record;
use crate::clock::FOREVER;
use crate::invalidation::target::Target;

/// That a target was invalidated. Which keys it covers is for [`crate::invalidation`] to say; here is what came before what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    pub target: Target,
    /// Ends freshness only.
    pub soft: bool,
    /// Its number in the log `epoch`.
    pub seq: u64,
    /// Which log; see [`crate::codec::envelope::Envelope::epoch`].
    pub epoch: u64,
    /// When, in milliseconds since the UNIX epoch.
    pub at: u64,
    /// From when on no record that it could cut is left, and it may be dropped; [`FOREVER`] where some never end.
    pub until: u64,
}

impl Fact {
    /// One of this moment that no log has numbered yet.
    pub(crate) fn unnumbered(target: Target, soft: bool, until: u64) -> Self {
        Self { target, soft, seq: 0, epoch: 0, at: super::unix_now(), until }
    }

    /// Whether it is newer than a record that its target covers. Numbers of one log are compared; across logs there are only
    /// the clocks, and a record of the same millisecond counts as older.
    pub fn cuts(&self, record: &Record) -> bool {
        if self.epoch == record.epoch { self.seq > record.seq } else { self.at >= record.stored_at }
    }

    /// Whether it supersedes another of the same target and softness: what is newer cuts more.
    pub fn supersedes(&self, other: &Self) -> bool {
        if self.epoch == other.epoch { self.seq >= other.seq } else { self.at >= other.at }
    }

    /// Whether it may still cut something at that moment.
    pub fn is_alive(&self, unix: u64) -> bool {
        self.until == FOREVER || self.until > unix
    }

    /// What it is kept under beside others: kind, softness and the target's text.
    pub(crate) fn register(&self) -> (&'static str, bool, String) {
        (self.target.kind().as_str(), self.soft, text_of(&self.target))
    }
}

/// A target as text, which [`target_of`] reads back, given its kind.
pub fn text_of(target: &Target) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match target {
        Target::Key(key) => text(key),
        Target::Prefix(prefix) => text(prefix),
        Target::Tag(tag) => tag.to_string(),
        Target::All => String::new(),
        Target::Pattern(pattern) => {
            let parts =
                std::iter::once(&pattern.head).chain(pattern.middle.iter()).chain(std::iter::once(&pattern.tail));
            let escaped = |part: &[u8]| text(part).replace('\\', "\\\\").replace('*', "\\*");
            parts.map(|part| escaped(part)).collect::<Vec<_>>().join("*")
        }
    }
}

/// The target of that kind and text.
pub fn target_of(kind: &str, text: &str) -> Option<Target> {
    Some(match kind {
        "key" => Target::Key(text.as_bytes().into()),
        "prefix" => Target::Prefix(text.as_bytes().into()),
        "tag" => Target::Tag(text.into()),
        "all" => Target::All,
        "pattern" => Target::parse(text).ok()?,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_back_from_its_text() {
        let mut targets = vec![Target::All, Target::Tag("a*b".into()), Target::Key(b"a*"[..].into())];
        for text in [r"a*b", r"*\**", r"\\*x*", "user:*", "*:profile", "a*b*c*"] {
            targets.push(Target::parse(text).unwrap());
        }
        for target in targets {
            assert_eq!(target_of(target.kind().as_str(), &text_of(&target)), Some(target));
        }
        assert_eq!(target_of("other", "x"), None);
    }
}
