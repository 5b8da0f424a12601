//! Targets: what an invalidation names.
//!
//! A pattern holds stars for any run of characters, none and ':' included, and covers the whole key; `\*` is a star, `\\` a
//! backslash, and nothing else is special. What a pattern can be told apart by beforehand is taken out of it: one without a
//! star names a key, one whose only star is its end names a prefix, a star alone names everything.

use std::fmt;

use smallvec::SmallVec;

/// What an invalidation names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One key.
    Key(Box<[u8]>),
    /// Every key that begins so; not empty.
    Prefix(Box<[u8]>),
    /// Every key that matches.
    Pattern(Pattern),
    /// Every entry with that tag.
    Tag(Box<str>),
    /// Every entry.
    All,
}

/// Which of the five a target is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TargetKind {
    Key,
    Prefix,
    Pattern,
    Tag,
    All,
}

impl TargetKind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Key, Self::Prefix, Self::Pattern, Self::Tag, Self::All];

    /// Its name, in events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Prefix => "prefix",
            Self::Pattern => "pattern",
            Self::Tag => "tag",
            Self::All => "all",
        }
    }
}

/// A pattern with a star before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What a key begins with.
    pub head: Box<[u8]>,
    /// What follows, in this order; none of them empty.
    pub middle: Box<[Box<[u8]>]>,
    /// What a key ends with.
    pub tail: Box<[u8]>,
}

/// A text that is no pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    Empty,
    /// A backslash before something else than a star or a backslash.
    Escape,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a pattern must not be empty",
            Self::Escape => "a backslash in a pattern must be followed by '*' or '\\'",
        })
    }
}

impl std::error::Error for PatternError {}

impl Target {
    /// What a pattern names.
    ///
    /// # Errors
    /// An empty text, or one with a backslash before anything but a star or a backslash.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        let mut parts: SmallVec<[Vec<u8>; 4]> = SmallVec::new();
        let mut part = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'*' => parts.push(std::mem::take(&mut part)),
                b'\\' => match bytes.next() {
                    Some(escaped @ (b'*' | b'\\')) => part.push(escaped),
                    _ => return Err(PatternError::Escape),
                },
                _ => part.push(byte),
            }
        }
        Ok(Self::from_parts(parts.into_vec(), part))
    }

    /// The target of a pattern with a star after each of `parts`, and `tail` after the last.
    fn from_parts(parts: Vec<Vec<u8>>, tail: Vec<u8>) -> Self {
        let mut parts = parts.into_iter();
        let Some(head) = parts.next() else { return Self::Key(tail.into()) };
        // A run of stars is one star.
        let middle: Box<[Box<[u8]>]> = parts.filter(|part| !part.is_empty()).map(Vec::into_boxed_slice).collect();
        match (head.is_empty(), middle.is_empty() && tail.is_empty()) {
            (true, true) => Self::All,
            (false, true) => Self::Prefix(head.into()),
            _ => Self::Pattern(Pattern { head: head.into(), middle, tail: tail.into() }),
        }
    }

    /// Every key that begins so.
    pub fn prefix(prefix: &[u8]) -> Self {
        if prefix.is_empty() { Self::All } else { Self::Prefix(prefix.into()) }
    }

    /// Which of the five it is.
    pub fn kind(&self) -> TargetKind {
        match self {
            Self::Key(_) => TargetKind::Key,
            Self::Prefix(_) => TargetKind::Prefix,
            Self::Pattern(_) => TargetKind::Pattern,
            Self::Tag(_) => TargetKind::Tag,
            Self::All => TargetKind::All,
        }
    }
}

impl Pattern {
    /// Whether the whole key matches.
    pub fn matches(&self, key: &[u8]) -> bool {
        let ends = self.head.len() + self.tail.len();
        key.len() >= ends
            && key.starts_with(&self.head)
            && key.ends_with(&self.tail)
            && holds(&self.middle, &key[self.head.len()..key.len() - self.tail.len()])
    }
}

/// Whether `parts` are in `text` one after the other. Each is looked for once, leftmost first, which is right because one
/// found earlier never leaves less room for those that follow.
pub(super) fn holds(parts: &[Box<[u8]>], mut text: &[u8]) -> bool {
    parts.iter().all(|part| match find(text, part) {
        Some(at) => {
            text = &text[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Keys are short: nothing is gained by preparing the search.
fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    let (first, last) = (part.first()?, text.len().checked_sub(part.len())?);
    (0..=last).find(|at| text[*at] == *first && text[*at..].starts_with(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        match Target::parse(text) {
            Ok(Target::Pattern(pattern)) => pattern,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn tells_keys_prefixes_and_all_from_patterns() {
        let key = |text: &str| Target::Key(text.as_bytes().into());
        assert_eq!(Target::parse("user:1"), Ok(key("user:1")));
        assert_eq!(Target::parse(r"2\*3\\"), Ok(key(r"2*3\")));
        assert_eq!(Target::parse("user:*"), Ok(Target::Prefix(b"user:"[..].into())));
        assert_eq!(Target::parse("user:**"), Ok(Target::Prefix(b"user:"[..].into())));
        assert_eq!(Target::parse("***"), Ok(Target::All));
        assert_eq!(Target::prefix(b""), Target::All);
        assert_eq!(pattern("a*b**c*").middle.len(), 2);
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        assert_eq!(Target::parse(""), Err(PatternError::Empty));
        for text in [r"\", r"a\b", r"*\", r"\é"] {
            assert_eq!(Target::parse(text), Err(PatternError::Escape), "{text}");
        }
    }

    #[test]
    fn a_star_stands_for_any_run_and_the_pattern_for_the_whole_key() {
        for (text, yes, no) in [
            ("user:*:profile", &["user:1:profile", "user::profile", "user:1:2:profile"][..], &["user:profile"][..]),
            ("*:profile", &[":profile", "a:profile"], &["a:profile:", "profile"]),
            ("*a*b*", &["ab", "xaxbx", "aab"], &["ba", "a", "b"]),
            ("a*a", &["aa", "aba"], &["a", "ab"]),
            (r"\**\*", &["**", "*x*"], &["*", "x*"]),
        ] {
            let pattern = pattern(text);
            yes.iter().for_each(|key| assert!(pattern.matches(key.as_bytes()), "{text} covers {key}"));
            no.iter().for_each(|key| assert!(!pattern.matches(key.as_bytes()), "{text} does not cover {key}"));
        }
    }

    /// The definition, read as it stands.
    fn naive(pattern: &[u8], key: &[u8]) -> bool {
        match pattern {
            [] => key.is_empty(),
            [b'*', rest @ ..] => (0..=key.len()).any(|at| naive(rest, &key[at..])),
            [b'\\', byte, rest @ ..] | [byte, rest @ ..] => key.first() == Some(byte) && naive(rest, &key[1..]),
        }
    }

    proptest! {
        #[test]
        fn covers_what_the_definition_covers(text in r"([ab:*]|\\\*|\\\\){1,8}", key in r"[ab:*\\]{1,8}") {
            let target = Target::parse(&text).unwrap();
            let covers = match &target {
                Target::Key(name) => key.as_bytes() == &**name,
                Target::Prefix(prefix) => key.as_bytes().starts_with(prefix),
                Target::Pattern(pattern) => pattern.matches(key.as_bytes()),
                Target::All => true,
                Target::Tag(_) => unreachable!(),
            };
            prop_assert_eq!(covers, naive(text.as_bytes(), key.as_bytes()));
        }
    }
}
