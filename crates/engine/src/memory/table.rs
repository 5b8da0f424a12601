//! The hash table of a shard: read by all threads without the shard's lock, changed by whoever holds it.
//!
//! A bucket is one cache line: a word with a lock bit and a tag byte a place, and seven places for entries. A reader takes the
//! bucket's lock for as long as it needs to find the entry and count a reference, so the line that it has to load anyway
//! is all that readers of other keys never touch. What does not fit hangs in further buckets behind the seventh place.
//! The table grows by one bucket at a time (linear hashing: W. Litwin, VLDB 1980): no pause, nothing copied, and the segments of
//! buckets never move, so that readers need no protection against a table that goes away.
//!
//! A bucket number depends on the table's length; a reader that has locked a bucket looks at the length again, and
//! starts over if its key has moved meanwhile. Whoever grows the table holds the locks of both buckets when he publishes the new length.
//!
//! The table owns no references: an entry is in it only while its slot holds it.

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{self, NonNull};

use super::prefetch::{LINE, prefetch};
use crate::entry::Entry;
use crate::heap;
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, pause};

/// Places a bucket.
const PLACES: usize = 7;

/// A bucket is added when there are more entries than this a bucket, times 2.
const LOAD_TWICE: usize = 8;

/// Buckets at the start.
const START: usize = 16;

/// Buckets a segment: 16 KiB.
const SEGMENT: usize = 256;
const SEGMENT_LAYOUT: Layout = Layout::new::<[Bucket; SEGMENT]>();

/// Most segments: 75 million entries.
const MOST_SEGMENTS: usize = 1 << 16;

/// Bit of a bucket's word: somebody has locked it.
const LOCKED: u64 = 1;
/// Bit of a bucket's word: the last place is a further bucket.
const FURTHER: u64 = 2;

/// The tag bytes of a word.
const TAGS: u64 = !0xff;
const ONES: u64 = 0x0101_0101_0101_0100;
const SEVENS: u64 = 0x7f7f_7f7f_7f7f_7f00;

#[derive(Debug)]
#[repr(align(64))]
struct Bucket {
    /// Byte 0: [`LOCKED`], [`FURTHER`]. Byte `n`: the tag of place `n - 1`, 0 if it is free or a further bucket.
    word: AtomicU64,
    /// Entries; with [`FURTHER`], the last is a `Box<Bucket>`.
    places: [AtomicPtr<()>; PLACES],
}

/// An entry on its way between buckets.
type Pair = (u8, NonNull<()>);

/// The table of one shard.
#[derive(Debug)]
pub(super) struct Table {
    /// Number of buckets.
    len: AtomicUsize,
    /// [`SEGMENT`] buckets each, null from some point on: as many as `len` says are there, or one more.
    segments: Box<[AtomicPtr<Bucket>]>,
    /// Number of entries. Changed under the shard's lock.
    entries: AtomicUsize,
}

/// A locked bucket.
struct Locked<'a> {
    bucket: &'a Bucket,
    /// The word to be when it is unlocked.
    word: u64,
}

impl Bucket {
    fn new() -> Self {
        Self { word: AtomicU64::new(0), places: Default::default() }
    }

    #[inline]
    fn lock(&self) -> Locked<'_> {
        let mut round = 0;
        loop {
            let word = self.word.load(Ordering::Relaxed);
            if word & LOCKED != 0 {
                pause(round);
                round += 1;
            } else if self.word.compare_exchange(word, word | LOCKED, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Locked { bucket: self, word };
            }
        }
    }

    #[inline]
    fn place(&self, n: usize) -> *mut () {
        self.places[n].load(Ordering::Relaxed)
    }

    /// The bucket behind this one.
    #[inline]
    fn further(&self, word: u64) -> Option<&Bucket> {
        if word & FURTHER == 0 {
            return None;
        }
        // SAFETY: with this bit the last place is a further bucket, which lives until the bit is taken away under the lock.
        Some(unsafe { &*self.place(PLACES - 1).cast::<Bucket>() })
    }

    /// The first place, in this bucket or those behind it, that has the tag and for which `is` holds.
    #[inline]
    fn find(&self, mut word: u64, tag: u8, is: impl Fn(&Entry) -> bool) -> Option<(&Self, usize)> {
        let mut bucket = self;
        loop {
            let apart = word ^ (tag as u64 * ONES);
            // The highest bit of each byte that is 0, and of no other.
            let mut equal = !(((apart & SEVENS) + SEVENS) | apart | SEVENS) & TAGS;
            while equal != 0 {
                let place = equal.trailing_zeros() as usize / 8 - 1;
                equal &= equal - 1;
                if let Some(entry) = NonNull::new(bucket.place(place)) {
                    // Most keys end on the line after the one where the entry begins.
                    prefetch(entry.as_ptr().wrapping_byte_add(LINE));
                    // SAFETY: places with a tag are entries; those are kept by their slots, and the caller holds off their removal.
                    let entry = unsafe { Entry::borrow_pointer(entry) };
                    if is(&entry) {
                        return Some((bucket, place));
                    }
                }
            }
            bucket = bucket.further(word)?;
            word = bucket.word.load(Ordering::Relaxed);
        }
    }

    /// All that is in this bucket and those behind it.
    fn pairs(&self, pairs: &mut Vec<Pair>) {
        let mut bucket = Some(self);
        while let Some(this) = bucket {
            let word = this.word.load(Ordering::Relaxed);
            let tags = word.to_le_bytes();
            let tagged = (0..PLACES).filter(|n| tags[n + 1] != 0);
            pairs.extend(tagged.filter_map(|n| Some((tags[n + 1], NonNull::new(this.place(n))?))));
            bucket = this.further(word);
        }
    }
}

impl Locked<'_> {
    fn set(&mut self, place: usize, (tag, entry): Pair) {
        self.bucket.places[place].store(entry.as_ptr(), Ordering::Relaxed);
        self.word = with_tag(self.word, place, tag);
    }

    /// Takes a pair into the first free place, here or behind; with none, into a further bucket.
    fn put(&mut self, pair: Pair) {
        if let Some(place) = (0..PLACES).find(|n| self.bucket.place(*n).is_null()) {
            self.set(place, pair);
        } else if let Some(mut behind) = self.behind() {
            behind.put(pair);
        } else if let Some(last) = NonNull::new(self.bucket.place(PLACES - 1)) {
            let [.., moved] = self.word.to_le_bytes();
            self.word = with_tag(self.word, PLACES - 1, 0);
            self.attach(&[(moved, last), pair]);
        }
    }

    /// Takes an entry out, from here or from behind, and frees the bucket that it leaves empty there. False if it is in neither.
    fn take(&mut self, entry: NonNull<()>) -> bool {
        // A further bucket is no entry.
        if let Some(place) = (0..PLACES).find(|n| self.bucket.place(*n) == entry.as_ptr()) {
            self.bucket.places[place].store(ptr::null_mut(), Ordering::Relaxed);
            self.word = with_tag(self.word, place, 0);
            return true;
        }
        let Some(mut behind) = self.behind() else { return false };
        let taken = behind.take(entry);
        let empty = behind.word == 0;
        drop(behind);
        if empty {
            drop(self.bucket.take_further(self.word));
            self.word &= !FURTHER;
        }
        taken
    }

    /// The bucket behind this one: this one's lock is its lock too.
    fn behind(&self) -> Option<Locked<'_>> {
        let bucket = self.bucket.further(self.word)?;
        Some(Locked { bucket, word: bucket.word.load(Ordering::Relaxed) })
    }

    /// Puts a further bucket behind this one, whose last place is free.
    fn attach(&mut self, pairs: &[Pair]) {
        let further = Box::new(Bucket::new());
        let mut filled = Locked { bucket: &further, word: 0 };
        filled.fill(pairs);
        drop(filled);
        self.bucket.places[PLACES - 1].store(Box::into_raw(further).cast(), Ordering::Relaxed);
        self.word |= FURTHER;
    }

    /// Empties the bucket and gives the one that was behind it.
    fn empty(&mut self) -> Option<Box<Bucket>> {
        let further = self.bucket.take_further(self.word);
        self.bucket.places.iter().for_each(|place| place.store(ptr::null_mut(), Ordering::Relaxed));
        self.word = 0;
        further
    }

    /// Fills the empty bucket, with further ones behind it if need be.
    fn fill(&mut self, pairs: &[Pair]) {
        let (here, behind) = pairs.split_at(if pairs.len() > PLACES { PLACES - 1 } else { pairs.len() });
        here.iter().enumerate().for_each(|(place, pair)| self.set(place, *pair));
        if !behind.is_empty() {
            self.attach(behind);
        }
    }
}

impl Bucket {
    fn take_further(&self, word: u64) -> Option<Box<Bucket>> {
        if word & FURTHER == 0 {
            return None;
        }
        let further = self.places[PLACES - 1].swap(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: it came from a box, with this bit; the bit goes with the pointer.
        Some(unsafe { Box::from_raw(further.cast::<Bucket>()) })
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let word = self.word.load(Ordering::Relaxed);
        drop(self.take_further(word));
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.bucket.word.store(self.word & !LOCKED, Ordering::Release);
    }
}

impl Table {
    /// An empty table that is to hold at most about that many entries; with more, its buckets get longer.
    pub fn new(most: usize) -> Self {
        let segments = (most.saturating_mul(2) / LOAD_TWICE / SEGMENT + 1).min(MOST_SEGMENTS);
        let table = Self {
            len: AtomicUsize::new(START),
            segments: std::iter::repeat_with(AtomicPtr::default).take(segments).collect(),
            entries: AtomicUsize::new(0),
        };
        table.provide(START - 1);
        table
    }

    /// That the key with that hash will soon be looked for.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        prefetch(self.bucket(number(hash, self.len.load(Ordering::Acquire))));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// A reference to the entry of that key, after `seen` has looked at it. For anyone.
    #[inline]
    pub fn get(&self, hash: u64, key: &[u8], seen: impl FnOnce(&Entry)) -> Option<Entry> {
        self.get_by(hash, |entry| entry.has_key(key), seen)
    }

    /// A reference to the entry with that hash for which `is` holds, after `seen` has looked at it. For anyone.
    #[inline]
    pub fn get_by(&self, hash: u64, is: impl Fn(&Entry) -> bool, seen: impl FnOnce(&Entry)) -> Option<Entry> {
        let locked = self.lock(hash);
        let (bucket, place) = locked.bucket.find(locked.word, tag(hash), is)?;
        let entry = NonNull::new(bucket.place(place))?;
        // SAFETY: the bucket is locked, so the entry stays in the table and its slot keeps it.
        let entry = unsafe { Entry::borrow_pointer(entry) };
        seen(&entry);
        Some(Entry::clone(&entry))
    }

    #[inline]
    fn lock(&self, hash: u64) -> Locked<'_> {
        let mut len = self.len.load(Ordering::Acquire);
        loop {
            let n = number(hash, len);
            let locked = self.bucket(n).lock();
            let now = self.len.load(Ordering::Acquire);
            if now == len || number(hash, now) == n {
                return locked;
            }
            len = now;
        }
    }

    /// What `look` makes of the entry of that key. For the holder of the shard's lock.
    pub fn look<T>(&self, hash: u64, key: &[u8], look: impl FnOnce(&Entry) -> T) -> Option<T> {
        let bucket = self.bucket(number(hash, self.len.load(Ordering::Relaxed)));
        // Without the bucket's lock: only the holder of the shard's lock changes anything.
        let (bucket, place) =
            bucket.find(bucket.word.load(Ordering::Relaxed), tag(hash), |entry| entry.has_key(key))?;
        let entry = NonNull::new(bucket.place(place))?;
        // SAFETY: nobody else removes it.
        let entry = unsafe { Entry::borrow_pointer(entry) };
        Some(look(&entry))
    }

    /// Takes in an entry whose key is not in the table. For the holder of the shard's lock; the entry's slot must keep it.
    pub fn insert(&self, hash: u64, entry: &Entry) {
        let pair = (tag(hash), entry.as_pointer());
        self.lock(hash).put(pair);
        let entries = self.len() + 1;
        self.entries.store(entries, Ordering::Relaxed);
        if entries * 2 > self.len.load(Ordering::Relaxed) * LOAD_TWICE {
            self.grow();
        }
    }

    /// Puts an entry in place of another of the same key. For the holder of the shard's lock; both must be kept by a slot until
    /// this returns.
    pub fn replace(&self, hash: u64, old: &Entry, new: &Entry) {
        let locked = self.lock(hash);
        let pointer = old.as_pointer();
        if let Some((bucket, place)) = locked.bucket.find(locked.word, tag(hash), |e| e.as_pointer() == pointer) {
            bucket.places[place].store(new.as_pointer().as_ptr(), Ordering::Relaxed);
        }
    }

    /// Takes an entry out. For the holder of the shard's lock; the slot may let go of it afterwards, not before.
    pub fn remove(&self, hash: u64, entry: &Entry) {
        if self.lock(hash).take(entry.as_pointer()) {
            self.entries.store(self.len() - 1, Ordering::Relaxed);
        }
    }

    /// Takes everything out. For the holder of the shard's lock.
    pub fn clear(&self) {
        for n in 0..self.len.load(Ordering::Relaxed) {
            drop(self.bucket(n).lock().empty());
        }
        self.entries.store(0, Ordering::Relaxed);
    }

    /// Splits the next bucket in two.
    fn grow(&self) {
        let len = self.len.load(Ordering::Relaxed);
        if !self.provide(len) {
            return;
        }
        let old = self.bucket(number(len as u64, len));
        let mut pairs = Vec::new();
        old.pairs(&mut pairs);
        let (moving, staying): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(_, entry)| {
            // SAFETY: only the holder of the shard's lock, who called this, could remove it.
            let entry = unsafe { Entry::borrow_pointer(*entry) };
            number(super::hash_key(entry.key()), len + 1) == len
        });
        let mut from = old.lock();
        let mut to = self.bucket(len).lock();
        drop(from.empty());
        from.fill(&staying);
        to.fill(&moving);
        self.len.store(len + 1, Ordering::Release);
    }

    /// Sees to it that the segment of that bucket is there. False if there is no place for it.
    fn provide(&self, n: usize) -> bool {
        let Some(segment) = self.segments.get(n / SEGMENT) else { return false };
        if segment.load(Ordering::Relaxed).is_null() {
            // SAFETY: the layout is not empty.
            let Some(buckets) = NonNull::new(unsafe { heap::alloc(SEGMENT_LAYOUT) }.cast::<Bucket>()) else {
                handle_alloc_error(SEGMENT_LAYOUT)
            };
            for n in 0..SEGMENT {
                // SAFETY: there is room for so many.
                unsafe { buckets.add(n).write(Bucket::new()) };
            }
            segment.store(buckets.as_ptr(), Ordering::Release);
        }
        true
    }

    #[inline]
    fn bucket(&self, n: usize) -> &Bucket {
        let segment = self.segments[n / SEGMENT].load(Ordering::Acquire);
        // SAFETY: a bucket has a number only after its segment of this length has been provided, and segments stay.
        unsafe { &*segment.add(n % SEGMENT) }
    }

    /// Checks that exactly `entries` are in it, each where its hash belongs.
    #[cfg(any(test, feature = "validate"))]
    pub fn validate<'a>(&self, entries: impl Iterator<Item = &'a Entry>) {
        let len = self.len.load(Ordering::Relaxed);
        let mut found = std::collections::HashSet::new();
        for n in 0..len {
            let bucket = self.bucket(n);
            assert_eq!(bucket.word.load(Ordering::Relaxed) & LOCKED, 0);
            let mut pairs = Vec::new();
            bucket.pairs(&mut pairs);
            for (tagged, pointer) in pairs {
                // SAFETY: the caller holds the shard's lock.
                let entry = unsafe { Entry::borrow_pointer(pointer) };
                let hash = super::hash_key(entry.key());
                assert_eq!((number(hash, len), tag(hash)), (n, tagged));
                assert!(found.insert(pointer));
            }
        }
        assert_eq!(found.len(), self.len());
        assert_eq!(found, entries.map(Entry::as_pointer).collect::<std::collections::HashSet<_>>());
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for segment in &self.segments {
            let buckets = segment.load(Ordering::Relaxed);
            if !buckets.is_null() {
                // SAFETY: so many were written, by `provide`, to what it had allocated; nobody else has the table.
                unsafe {
                    ptr::slice_from_raw_parts_mut(buckets, SEGMENT).drop_in_place();
                    heap::dealloc(buckets.cast(), SEGMENT_LAYOUT);
                }
            }
        }
    }
}

/// The bucket of a hash in a table of that length, which is not 0.
#[inline]
fn number(hash: u64, len: usize) -> usize {
    // All bits up to the highest of the length.
    let mask = usize::MAX >> len.leading_zeros();
    let wide = hash as usize & mask;
    if wide < len { wide } else { wide & (mask >> 1) }
}

/// The tag of a hash: bits that neither the bucket nor the shard depends on, never 0.
#[inline]
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

#[inline]
fn with_tag(word: u64, place: usize, tag: u8) -> u64 {
    let shift = 8 * (place + 1);
    (word & !(0xff << shift)) | ((tag as u64) << shift)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;
    use crate::clock::FOREVER;
    use crate::entry::{Ages, EntrySpec, Kind};

    fn entry(key: &str) -> Entry {
        let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
        let (key, value) = (key.as_bytes(), key.as_bytes());
        let (metadata, links) = (&b""[..], &b""[..]);
        Entry::new(&EntrySpec { key, metadata, links, value, kind: Kind::Text, ages, seq: 0, route: 0, version: 0 }, 0)
    }

    fn hash(entry: &Entry) -> u64 {
        crate::memory::hash_key(entry.key())
    }

    #[test]
    fn a_longer_table_divides_a_bucket_in_two() {
        for len in 1..1_000 {
            let old = number(len as u64, len);
            for n in 0..2_000_u64 {
                let (before, after) = (number(n, len), number(n, len + 1));
                assert!(before < len && (after == before || (before == old && after == len)), "{n} in {len}");
            }
        }
    }

    #[test]
    fn goes_on_when_it_may_not_grow() {
        let table = Table::new(10);
        let entries: Vec<_> = (0..3_000).map(|n| entry(&format!("{n}"))).collect();
        entries.iter().for_each(|e| table.insert(hash(e), e));
        assert_eq!(table.len.load(Ordering::Relaxed), SEGMENT);
        table.validate(entries.iter());
    }

    #[test]
    fn holds_what_is_put_in_while_it_grows_and_empties() {
        let table = Table::new(usize::MAX);
        let mut entries: Vec<_> = (0..5_000).map(|n| entry(&format!("key {n}"))).collect();
        for (n, e) in entries.iter().enumerate() {
            table.insert(hash(e), e);
            if n % 500 == 0 {
                table.validate(entries[..=n].iter());
            }
        }
        for e in &entries {
            assert_eq!(table.get(hash(e), e.key(), |_| ()).unwrap().as_pointer(), e.as_pointer());
        }
        assert!(table.get(hash(&entry("no")), b"no", |_| ()).is_none());
        while entries.len() > 10 {
            for e in entries.drain(..entries.len() / 2) {
                table.remove(hash(&e), &e);
            }
            table.validate(entries.iter());
        }
        let new = entry("key 4999");
        table.replace(hash(&new), entries.last().unwrap(), &new);
        assert_eq!(table.look(hash(&new), b"key 4999", Entry::as_pointer), Some(new.as_pointer()));
        table.clear();
        table.validate(std::iter::empty());
    }

    #[test]
    fn equal_hashes_are_told_apart_by_key() {
        let table = Table::new(usize::MAX);
        let entries: Vec<_> = (0..40).map(|n| entry(&format!("{n}"))).collect();
        // All in one chain of buckets, with one tag.
        entries.iter().for_each(|e| table.insert(7 << 56, e));
        for e in &entries {
            assert_eq!(table.look(7 << 56, e.key(), Entry::as_pointer), Some(e.as_pointer()));
        }
        for e in entries.iter().rev() {
            table.remove(7 << 56, e);
            assert!(table.look(7 << 56, e.key(), |_| ()).is_none());
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn readers_find_what_stays_while_the_table_grows() {
        let table = Table::new(usize::MAX);
        let stays: Vec<_> = (0..100).map(|n| entry(&format!("stays {n}"))).collect();
        stays.iter().for_each(|e| table.insert(hash(e), e));
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        for e in &stays {
                            assert!(table.get(hash(e), e.key(), |_| ()).is_some());
                        }
                    }
                });
            }
            for round in 0..4 {
                let comes: Vec<_> = (0..4_000).map(|n| entry(&format!("comes {round} {n}"))).collect();
                comes.iter().for_each(|e| table.insert(hash(e), e));
                comes.iter().for_each(|e| table.remove(hash(e), e));
            }
            done.store(true, Ordering::Relaxed);
        });
        table.validate(stays.iter());
    }
}
