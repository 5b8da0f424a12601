//! Keys: any non-empty text of at most [`MAX_KEY_BYTES`] bytes of UTF-8, compared and ordered by those bytes.

use crate::error::Error;

/// Longest key, in bytes of UTF-8: the limit of Workers KV
/// (<https://developers.cloudflare.com/kv/platform/limits/>), kept in every tier.
pub const MAX_KEY_BYTES: usize = 512;

/// Most characters of a key that an error message repeats.
const SHOWN_CHARS: usize = 64;

/// Refuses what cannot be a key. Text that was not valid UTF-16 in JavaScript is refused by the addon, which still sees it.
pub fn check(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        return Err(Error::InvalidKey("a key must not be empty; allowed: 1 to 512 bytes of UTF-8".into()));
    }
    if key.len() > MAX_KEY_BYTES {
        return Err(Error::InvalidKey(format!(
            "key '{}' has {} bytes of UTF-8; allowed: 1 to {MAX_KEY_BYTES}",
            shorten(&String::from_utf8_lossy(key)),
            key.len()
        )));
    }
    Ok(())
}

/// A key as messages show it: its first characters, and an ellipsis where something was cut.
pub fn shorten(key: &str) -> String {
    match key.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{}…", &key[..cut]),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_1_to_512_bytes() {
        assert!(check(b"").is_err());
        assert!(check(b"a").is_ok());
        assert!(check(&[b'a'; 512]).is_ok());
        let err = check(&[b'a'; 513]).unwrap_err();
        assert_eq!(err.code(), "ERR_KVCACHE_INVALID_KEY");
        assert!(err.to_string().contains("513"), "{err}");
    }

    #[test]
    fn shortens_by_characters_not_bytes() {
        assert_eq!(shorten("abc"), "abc");
        assert_eq!(shorten(&"é".repeat(65)), format!("{}…", "é".repeat(64)));
    }
}
