//! Versioned content: each publication is an entry of its own, and a pointer says which one is shown.
//!
//! Of the name `content:42` the versions lie under `content:42:v1`, `content:42:v2` and so on, the pointer under
//! `content:42:meta`: JSON, `{"version":2,"updatedAt":1700000000000}`, with the highest number ever given in its metadata.
//! Content is stored before the pointer that shows it, and what is no longer kept goes after. So who follows the pointer
//! finds content, unless the pointer has moved on meanwhile or the content was evicted; [`Engine::published`] tells.
//!
//! The pointer has the tags and parents of the content it shows: both are invalidated at once, and who depends on the pointer
//! depends on what the content was made of.
//!
//! A name is changed by one thread at a time, under a lock that is taken before any key's. It also guards the numbers given,
//! so that none is given twice, even where the pointer was lost.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;

use super::invalidating::own_of;
use super::{Engine, Found, Value};
use crate::clock::{FOREVER, Millis};
use crate::codec::workshop::Tools;
use crate::entry::{Ages, Entry, Kind};
use crate::error::Error;
use crate::invalidation::links;
use crate::invalidation::target::Target;
use crate::load::flights::PreHashed;
use crate::memory::hash_key;
use crate::sync::{Mutex, MutexGuard};

/// Which version a name shows, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    pub version: u64,
    /// Milliseconds since the UNIX epoch.
    pub updated_at: u64,
}

/// The locks of the names, and the numbers given.
#[derive(Debug)]
pub(super) struct Publications([Mutex<Numbers>; LOCKS]);

const LOCKS: usize = 16;

impl Default for Publications {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Publications {
    fn lock(&self, name: &[u8]) -> MutexGuard<'_, Numbers> {
        self.0[hash_key(name) as usize % LOCKS].lock()
    }
}

/// The highest numbers given, by the hash of the name. Of bounded size: when it is full, names are forgotten, and who is not
/// known gets numbers above all that were.
#[derive(Debug, Default)]
struct Numbers {
    given: HashMap<u64, u64, PreHashed>,
    floor: u64,
}

/// Names remembered under one lock: at some 20 bytes each, about a megabyte for all.
const MOST_NAMES: usize = 4096;

impl Numbers {
    /// The highest number that a name may have been given.
    fn highest(&self, name: u64) -> u64 {
        self.given.get(&name).copied().unwrap_or(self.floor)
    }

    fn gave(&mut self, name: u64, number: u64) {
        let full = self.given.len() >= MOST_NAMES;
        match self.given.entry(name) {
            Slot::Occupied(mut known) => _ = known.insert(number),
            Slot::Vacant(unknown) if !full => _ = unknown.insert(number),
            Slot::Vacant(_) => {
                self.floor = self.given.drain().fold(self.floor.max(number), |floor, (_, given)| floor.max(given));
                self.given.insert(name, number);
            }
        }
    }
}

/// What a pointer says.
struct Pointer {
    entry: Entry,
    shown: Shown,
    highest: u64,
}

/// A name, locked, and what is known of it.
struct Content<'a> {
    name: &'a [u8],
    numbers: MutexGuard<'a, Numbers>,
    pointer: Option<Pointer>,
    /// In ascending order.
    kept: Vec<u64>,
}

impl Content<'_> {
    /// The highest number that a version may have been given. It is known from where it is still written down; only of a name that left no
    /// trace must it be guessed.
    fn highest(&self) -> u64 {
        let hash = hash_key(self.name);
        let given = match &self.pointer {
            Some(pointer) => pointer.highest.max(self.numbers.given.get(&hash).copied().unwrap_or(0)),
            None => self.numbers.highest(hash),
        };
        given.max(self.kept.last().copied().unwrap_or(0))
    }
}

impl Engine {
    /// Stores a value as the next version of `name` and shows it, then removes versions so that `keep` are left: the new one,
    /// the one shown until now, and those of the highest numbers. What can be wrong is found before anything is changed.
    pub fn publish(&self, name: &[u8], value: &Value<'_>, keep: usize) -> Result<Shown, Error> {
        let content = self.content(name);
        let version = content.highest() + 1;
        self.publish_under(content, value, keep, version)
    }

    /// As [`Engine::publish`], as the version of that number, which a log shared by processes has given to nobody else. `None` if
    /// that version is here already: the log has lost its numbers.
    ///
    /// Where a later number is known, what is shown stays: here it has been shown before, or will be by who was given it.
    pub fn publish_as(&self, name: &[u8], value: &Value<'_>, keep: usize, number: u64) -> Result<Option<Shown>, Error> {
        let content = self.content(name);
        if content.kept.binary_search(&number).is_ok() {
            return Ok(None);
        }
        self.publish_under(content, value, keep, number).map(Some)
    }

    fn publish_under(
        &self,
        content: Content<'_>,
        value: &Value<'_>,
        keep: usize,
        version: u64,
    ) -> Result<Shown, Error> {
        let highest = content.highest();
        let Content { name, mut numbers, pointer: before, kept: mut rest } = content;
        let stored = self.prepare(&content_key(name, version), value)?;
        let (pointer, published) = self.prepare_pointer(name, version, version, value)?;
        numbers.gave(hash_key(name), version.max(highest));
        self.commit(stored);
        let is_last = version > highest;
        if is_last {
            self.show(name, version, pointer);
        }
        // The one that is shown stays, the one that was until now, and the highest.
        let until_now = before.map(|pointer| pointer.shown.version);
        let shown = if is_last { Some(version) } else { until_now };
        let until_now = until_now.filter(|_| keep > 1);
        rest.push(version);
        rest.sort_unstable();
        let all = rest.len();
        rest.retain(|version| Some(*version) != shown && Some(*version) != until_now);
        let kept = keep.saturating_sub(all - rest.len());
        for version in &rest[..rest.len().saturating_sub(kept)] {
            self.delete(&content_key(name, *version));
        }
        Ok(published)
    }

    /// Locks a name, and looks what there is of it.
    fn content<'a>(&'a self, name: &'a [u8]) -> Content<'a> {
        let numbers = self.publications.lock(name);
        Content { name, numbers, pointer: self.pointer(name), kept: self.kept_versions(name) }
    }

    /// The highest number that a version of `name` may have, as far as is known here; 0 for none.
    pub fn highest_version(&self, name: &[u8]) -> u64 {
        self.content(name).highest()
    }

    /// Shows another version of `name`. False if it is not there.
    pub fn roll_back(&self, name: &[u8], version: u64) -> Result<bool, Error> {
        let mut content = self.content(name);
        let now = self.clock.now_millis();
        let Some(stored) = self.peek(&content_key(name, version)).filter(Found::is_servable) else { return Ok(false) };
        if content.pointer.as_ref().is_some_and(|pointer| pointer.shown.version == version) {
            return Ok(true);
        }
        let highest = content.highest().max(version);
        let header = stored.entry.header();
        // The pointer goes when the content does.
        let left = |until: Millis| if until == FOREVER { FOREVER } else { until.saturating_sub(now) };
        let ages = Ages {
            max_age: left(header.fresh_until),
            stale_age: left(header.stale_until),
            stale_if_error: left(header.error_until),
        };
        let links = own_of(stored.entry.links());
        let like = Value { kind: Kind::Json, bytes: b"", metadata: b"", ages, route: header.route, links: &links };
        let (pointer, _) = self.prepare_pointer(name, version, highest, &like)?;
        content.numbers.gave(hash_key(name), highest);
        self.show(name, version, pointer);
        Ok(true)
    }

    /// The versions of `name` that a get would serve, in ascending order.
    pub fn versions(&self, name: &[u8]) -> Vec<u64> {
        self.kept_versions(name)
    }

    /// What `name` shows, pointer and content of one moment; counted as a get of the content. A pointer whose content is gone,
    /// evicted say, goes too.
    pub fn published(&self, name: &[u8]) -> Option<(Shown, Found)> {
        let _lock = self.publications.lock(name);
        let pointer = self.pointer(name)?;
        if let Some(content) = self.lookup(&content_key(name, pointer.shown.version), Some(0)) {
            return Some((pointer.shown, content));
        }
        let key = pointer_key(name);
        let _lock = self.flights.lock(&key);
        // As if it had been evicted with its content: nothing that depends on it has changed.
        self.memory.remove_if(&key, |entry| entry.is(&pointer.entry));
        self.stamps.key_changed(hash_key(&key));
        None
    }

    /// When the entry of a key was stored, in milliseconds since the UNIX epoch, if a get would serve it.
    pub fn stored_at(&self, key: &[u8]) -> Option<u64> {
        self.peek(key).filter(Found::is_servable).map(|found| self.unix_of(found.entry.header().stored_at))
    }

    /// The pointer of a name, whose lock is held.
    fn pointer(&self, name: &[u8]) -> Option<Pointer> {
        let entry = self.peek(&pointer_key(name)).filter(Found::is_servable)?.entry;
        let shown = parse_shown(&Tools::default().inflate(entry.clone()).bytes.ok()?)?;
        let highest = parse_highest(entry.metadata()).unwrap_or(0).max(shown.version);
        Some(Pointer { entry, shown, highest })
    }

    /// A pointer that lives as long as `content`, and is invalidated with it.
    fn prepare_pointer(
        &self,
        name: &[u8],
        version: u64,
        highest: u64,
        content: &Value<'_>,
    ) -> Result<(Entry, Shown), Error> {
        let shown = Shown { version, updated_at: self.unix_of(self.clock.now_millis()) };
        let text = format!(r#"{{"version":{version},"updatedAt":{}}}"#, shown.updated_at);
        let metadata = format!(r#"{{"highest":{highest}}}"#);
        let value = Value { kind: Kind::Json, bytes: text.as_bytes(), metadata: metadata.as_bytes(), ..*content };
        Ok((self.prepare(&pointer_key(name), &value)?, shown))
    }

    /// Moves the pointer to a version that is there. What depends on the pointer, or on the name itself, is invalidated.
    fn show(&self, name: &[u8], version: u64, pointer: Entry) {
        self.commit(pointer);
        // After the pointer: what is loaded from here on sees it moved.
        {
            let mut lock = self.flights.lock(name);
            if let Some(behind) = self.behind() {
                // What depends on the name may be known elsewhere only.
                behind.invalidated(&Target::Key(name.into()), false, self.facts.next());
            }
            self.key_changed(&mut lock, hash_key(name), false);
        }
        let keys = [pointer_key(name), content_key(name, version)];
        for entry in keys.iter().filter_map(|key| self.memory.peek(key)) {
            // In a circle of dependencies it would be cut by its own appearance.
            if links::names(entry.links()).any(|(role, parent)| !role.is_tag() && (parent == name || parent == keys[0]))
            {
                entry.lift(self.facts.current());
            }
        }
    }

    fn kept_versions(&self, name: &[u8]) -> Vec<u64> {
        let prefix = [name, b":v"].concat();
        let mut versions = Vec::new();
        let mut after: Option<Entry> = None;
        loop {
            let (page, complete) = self.list(&prefix, after.as_ref().map(Entry::key), PAGE);
            versions.extend(page.iter().filter_map(|entry| parse_number(entry.key().get(prefix.len()..)?)));
            after = page.last().cloned();
            if complete || after.is_none() {
                break;
            }
        }
        versions.sort_unstable();
        versions
    }
}

/// Keys listed in one go.
const PAGE: usize = 256;

fn pointer_key(name: &[u8]) -> Vec<u8> {
    [name, b":meta"].concat()
}

fn content_key(name: &[u8], version: u64) -> Vec<u8> {
    [name, b":v", version.to_string().as_bytes()].concat()
}

/// Largest number that JavaScript counts up to.
const MOST: u64 = (1 << 53) - 1;

/// A number as it is written in a key: decimal, without leading zeros.
fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.first().is_none_or(|first| !matches!(first, b'1'..=b'9')) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|number| *number < MOST)
}

fn parse_shown(json: &[u8]) -> Option<Shown> {
    let fields = json.strip_prefix(br#"{"version":"#)?.strip_suffix(b"}")?;
    let comma = fields.iter().position(|byte| *byte == b',')?;
    let (version, rest) = fields.split_at(comma);
    let updated_at = parse_number(rest.strip_prefix(br#","updatedAt":"#)?)?;
    Some(Shown { version: parse_number(version)?, updated_at })
}

fn parse_highest(json: &[u8]) -> Option<u64> {
    parse_number(json.strip_prefix(br#"{"highest":"#)?.strip_suffix(b"}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let shown = Some(Shown { version: 7, updated_at: 1_700_000_000_000 });
        assert_eq!(parse_shown(br#"{"version":7,"updatedAt":1700000000000}"#), shown);
        for other in [
            "",
            "{}",
            "null",
            r#"{"version":0,"updatedAt":1}"#,
            r#"{"version":7}"#,
            r#"{"version":7,"updatedAt":1,"x":2}"#,
        ] {
            assert_eq!(parse_shown(other.as_bytes()), None, "{other}");
        }
        assert_eq!(parse_highest(br#"{"highest":12}"#), Some(12));
        assert_eq!(parse_highest(b""), None);
        for other in ["", "0", "07", "-1", "1.5", "1e3", "9007199254740992", "99999999999999999999", "٧"] {
            assert_eq!(parse_number(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn names_that_were_forgotten_get_numbers_above_all_given() {
        let mut numbers = Numbers::default();
        for name in 0..MOST_NAMES as u64 {
            assert_eq!(numbers.highest(name), 0);
            numbers.gave(name, name + 1);
        }
        numbers.gave(0, 2);
        assert_eq!(numbers.highest(0), 2);
        numbers.gave(u64::MAX, 5);
        assert!(numbers.given.len() <= MOST_NAMES);
        assert_eq!(numbers.highest(u64::MAX), 5);
        assert_eq!(numbers.highest(1), MOST_NAMES as u64, "forgotten");
    }
}
