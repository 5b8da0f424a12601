//! Patterns, targets and links as they come from users: whatever the text, it is refused or means what its definition says, and
//! many patterns together cover what each of them covers for itself.

#![no_main]

use kvcache_engine::invalidation::links::{Role, names, push, read};
use kvcache_engine::invalidation::markers::{Mark, Markers};
use kvcache_engine::invalidation::target::Target;
use libfuzzer_sys::fuzz_target;

/// The definition of a pattern, read as it stands, over its bytes with escapes resolved; a star is `None`.
fn tokens(text: &str) -> Option<Vec<Option<u8>>> {
    let mut tokens = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        tokens.push(match byte {
            b'*' => None,
            b'\\' => Some(bytes.next().filter(|byte| matches!(byte, b'*' | b'\\'))?),
            byte => Some(byte),
        });
    }
    (!tokens.is_empty()).then_some(tokens)
}

/// By dynamic programming, so that no text takes long.
fn covers(pattern: &[Option<u8>], key: &[u8]) -> bool {
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for token in pattern {
        match token {
            None => {
                let mut any = false;
                reached.iter_mut().for_each(|at| {
                    any |= *at;
                    *at = any;
                });
            }
            Some(byte) => {
                for at in (0..key.len()).rev() {
                    reached[at + 1] = reached[at] && key[at] == *byte;
                }
                reached[0] = false;
            }
        }
    }
    reached[key.len()]
}

fuzz_target!(|input: (Vec<&str>, Vec<&[u8]>, &[u8])| {
    let (texts, keys, links) = input;
    let mut markers = Markers::default();
    let mut known = Vec::new();
    for (number, text) in (1..).zip(texts.iter().take(16)) {
        let expected = tokens(text);
        let target = Target::parse(text);
        assert_eq!(target.is_ok(), expected.is_some(), "{text}");
        if let (Ok(target), Some(tokens)) = (target, expected) {
            markers.mark(&target, Mark::new(number, false));
            known.push((number, tokens, target));
        }
    }
    for key in keys.iter().take(16).filter(|key| key.len() <= 512) {
        let mut newest = 0;
        for (number, tokens, target) in &known {
            let covered = covers(tokens, key);
            let says = match target {
                Target::Key(name) => **name == **key,
                Target::Prefix(prefix) => key.starts_with(prefix),
                Target::Pattern(pattern) => pattern.matches(key),
                Target::All => true,
                Target::Tag(_) => unreachable!("no text is a tag"),
            };
            assert_eq!(says, covered, "{target:?} and {key:?}");
            // Of keys there are no markers.
            if covered && !matches!(target, Target::Key(_)) {
                newest = *number;
            }
        }
        assert_eq!(markers.over_key(key, 0).hard, newest);
        assert_eq!(markers.over_key(key, newest).hard, 0);
    }
    // Links: what is read can be given back, and whatever the bytes, the names come to an end.
    let mut encoded = Vec::new();
    if read(links, &mut encoded).is_ok() {
        let mut again = Vec::new();
        names(&encoded).for_each(|(role, name)| push(&mut again, role, name));
        assert_eq!(encoded, again);
        assert!(names(&encoded).all(|(role, _)| matches!(role, Role::Tag | Role::Parent)));
    }
    assert!(names(links).count() <= links.len());
});
