//! Links: the tags and parents of an entry, as it carries them beside its value.
//!
//! A sequence of names, each with its role: those that the user gave (*own*), and those that its parents had when it was
//! written (*inherited*), so that an entry met without its parents is still judged rightly. A name of `n` bytes takes
//! `n + 2`.

use crate::error::Error;
use crate::key::{self, MAX_KEY_BYTES};

/// Most tags, and most parents, that a user may give an entry.
pub const MOST_OWN: usize = 64;
/// Longest tag, in bytes of UTF-8.
pub const MAX_TAG_BYTES: usize = 256;
/// Most inherited names. Beyond it, an entry depends on what the cache knows of its parents when it is read.
pub const MOST_INHERITED: usize = 128;

/// What a name is to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    Tag = 0,
    Parent = 1,
    InheritedTag = 2,
    InheritedParent = 3,
}

impl Role {
    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Tag,
            1 => Self::Parent,
            2 => Self::InheritedTag,
            _ => Self::InheritedParent,
        }
    }

    /// Whether the name is that of a tag.
    pub fn is_tag(self) -> bool {
        matches!(self, Self::Tag | Self::InheritedTag)
    }

    /// Whether the user gave it.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Tag | Self::Parent)
    }

    /// The same kind of name, inherited.
    pub fn inherited(self) -> Self {
        if self.is_tag() { Self::InheritedTag } else { Self::InheritedParent }
    }
}

/// Bytes of a length that fit the first byte beside the role.
const SHORT: usize = 1 << 6;

/// Appends a name of at most 16,383 bytes.
pub fn push(links: &mut Vec<u8>, role: Role, name: &[u8]) {
    debug_assert!(name.len() < SHORT << 8);
    let low = (name.len() % SHORT) as u8;
    links.push((role as u8) << 6 | low);
    links.push((name.len() / SHORT) as u8);
    links.extend_from_slice(name);
}

/// The names in `links`; what is no longer whole is left out.
pub fn names(links: &[u8]) -> Names<'_> {
    Names(links)
}

/// See [`names`].
#[derive(Debug, Clone)]
pub struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = (Role, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let [first, high, rest @ ..] = self.0 else { return None };
        let len = usize::from(first & 63) + usize::from(*high) * SHORT;
        let (name, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((Role::from_bits(first >> 6), name))
    }
}

/// Whether there is a parent among them, own or inherited.
pub fn has_parents(links: &[u8]) -> bool {
    names(links).any(|(role, _)| !role.is_tag())
}

/// Reads the names that a user gave: each as `t` or `k` for a tag or a key, its bytes in decimal, a colon, and itself.
/// Appends them, each once.
///
/// # Errors
/// [`Error::InvalidLinks`] for what is no such text, or beyond the limits.
pub fn read(text: &[u8], links: &mut Vec<u8>) -> Result<(), Error> {
    let start = links.len();
    let mut counts = [0; 2];
    let mut rest = text;
    while !rest.is_empty() {
        let (role, name, after) = read_one(rest).ok_or(Error::InvalidLinks)?;
        rest = after;
        if names(&links[start..]).any(|known| known == (role, name)) {
            continue;
        }
        let fits = match role {
            Role::Tag => (1..=MAX_TAG_BYTES).contains(&name.len()),
            _ => key::check(name).is_ok(),
        };
        counts[role as usize] += 1;
        if !fits || counts[role as usize] > MOST_OWN {
            return Err(Error::InvalidLinks);
        }
        push(links, role, name);
    }
    Ok(())
}

fn read_one(text: &[u8]) -> Option<(Role, &[u8], &[u8])> {
    let (role, text) = match text.split_first()? {
        (b't', rest) => (Role::Tag, rest),
        (b'k', rest) => (Role::Parent, rest),
        _ => return None,
    };
    let colon = text.iter().take(5).position(|byte| *byte == b':')?;
    let len: usize = std::str::from_utf8(&text[..colon]).ok()?.parse().ok()?;
    let (name, rest) = text[colon + 1..].split_at_checked(len)?;
    std::str::from_utf8(name).ok()?;
    Some((role, name, rest))
}

const _: () = assert!(MAX_KEY_BYTES < SHORT << 8 && MAX_TAG_BYTES < SHORT << 8);
const _: () = assert!(
    MOST_OWN * (MAX_TAG_BYTES + MAX_KEY_BYTES + 4) + MOST_INHERITED * (MAX_KEY_BYTES + 2)
        < crate::entry::MAX_LINKS_BYTES
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn gives_back_what_was_pushed(list in prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..600)), 0..20)) {
            let mut links = Vec::new();
            list.iter().for_each(|(role, name)| push(&mut links, Role::from_bits(*role), name));
            let back: Vec<_> = names(&links).map(|(role, name)| (role as u8, name.to_vec())).collect();
            prop_assert_eq!(back, list);
        }

        #[test]
        fn whatever_the_bytes_the_names_come_to_an_end(links in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(names(&links).count() <= links.len());
        }
    }

    #[test]
    fn reads_what_users_give_each_name_once() {
        let mut links = Vec::new();
        read("t1:ak1:at2:ét1:a".as_bytes(), &mut links).unwrap();
        let expected = [(Role::Tag, &b"a"[..]), (Role::Parent, b"a"), (Role::Tag, "é".as_bytes())];
        assert_eq!(names(&links).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn refuses_what_is_no_list_of_names_and_what_is_over_a_limit() {
        let many = |kind: char| (0..=MOST_OWN).map(|n| format!("{kind}4:{n:04}")).collect::<String>();
        let long = |kind: char, len: usize| format!("{kind}{len}:{}", "x".repeat(len));
        for text in ["x1:a", "t", "t1", "t2:a", "t0:", "k0:", "t1a", "t:a", &many('t'), &many('k')] {
            assert_eq!(read(text.as_bytes(), &mut Vec::new()), Err(Error::InvalidLinks), "{text}");
        }
        assert!(read(long('t', 256).as_bytes(), &mut Vec::new()).is_ok());
        assert!(read(long('t', 257).as_bytes(), &mut Vec::new()).is_err());
        assert!(read(long('k', 512).as_bytes(), &mut Vec::new()).is_ok());
        assert!(read(long('k', 513).as_bytes(), &mut Vec::new()).is_err());
    }
}
