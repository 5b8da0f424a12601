//! The entry: one allocation that holds a key, a value, and all that is known about them.
//!
//! To those who hold it, an entry never changes once it is shared; a new age or a new value is a new entry. Clones share
//! the allocation, so a reader keeps what it found while the memory tier drops it.
//!
//! Layout: `head | key | metadata | links | value`. The head is 60 bytes, among them the reference count and the three
//! fields in which the memory tier notes where it keeps the entry and how often it was used ([`Hook`]): they lie on the
//! line that a reader loads anyway.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};

use crate::clock::{FOREVER, Millis};
use crate::codec::compress::Algorithm;
use crate::heap;
use crate::key::MAX_KEY_BYTES;

/// Largest value, in bytes as stored: the limit of Workers KV
/// (<https://developers.cloudflare.com/kv/platform/limits/>), kept in every tier.
pub const MAX_VALUE_BYTES: usize = 25 * 1024 * 1024;

/// Most bytes of encoded tags and parents that an entry can hold.
pub const MAX_LINKS_BYTES: usize = (1 << Sizes::LINKS) - 1;

/// How the bytes of a value are to be read back. The numbers are part of the stored form and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// JSON text, UTF-8.
    Json = 0,
    /// A string, UTF-8.
    Text = 1,
    /// A string that UTF-8 cannot carry (it holds lone surrogates): UTF-16, little-endian.
    Utf16 = 2,
    /// Bytes that were given as `Uint8Array`.
    Bytes = 3,
    /// Bytes that were given as Node's `Buffer`.
    Buffer = 4,
    /// Bytes that were given as `ArrayBuffer`.
    ArrayBuffer = 5,
    /// V8's structured-clone serialization.
    V8 = 6,
    /// What the user's own serializer wrote.
    Custom = 7,
}

impl Kind {
    /// The kind of that number, if there is one.
    pub fn from_u8(n: u8) -> Option<Self> {
        Some(match n {
            0 => Self::Json,
            1 => Self::Text,
            2 => Self::Utf16,
            3 => Self::Bytes,
            4 => Self::Buffer,
            5 => Self::ArrayBuffer,
            6 => Self::V8,
            7 => Self::Custom,
            _ => return None,
        })
    }

    /// Whether the value is text in UTF-8.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Json | Self::Text)
    }
}

/// The ages of an entry, in milliseconds from the moment it is stored; [`FOREVER`] for no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ages {
    /// Fresh below this, jitter already taken off.
    pub max_age: Millis,
    /// Stale but served at once below this.
    pub stale_age: Millis,
    /// Served when a load fails below this.
    pub stale_if_error: Millis,
}

/// What is known of an entry beside its key and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The log's number seen before the load began, or given to the put; later, that of the newest change of the log which
    /// the entry was found to have outlived ([`Entry::lift`]). What invalidations are compared with.
    pub seq: u64,
    /// When it was stored.
    pub stored_at: Millis,
    /// Fresh before this moment.
    pub fresh_until: Millis,
    /// Stale but served at once before this moment.
    pub stale_until: Millis,
    /// Served when a load fails before this moment.
    pub error_until: Millis,
    /// Index of the `define()` pattern it is counted under; 0 for none.
    pub route: u16,
    /// How to read the value.
    pub kind: Kind,
    /// Whether a text value is pure ASCII, so that it can be handed over as Latin-1.
    pub ascii: bool,
    /// Which of the values of one cache it is: no other value of the last four thousand million has the same.
    pub version: u32,
}

/// Where an entry stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// To be served at once.
    Fresh,
    /// To be served at once while one background refresh runs.
    Stale,
    /// To be served only when a load fails.
    OnError,
    /// Not to be served.
    Dead,
}

/// A moment in 6 bytes. What lies beyond 2^48 - 2 ms (8,900 years) is [`FOREVER`].
#[derive(Clone, Copy)]
struct Moment([u8; 6]);

impl Moment {
    const END: u64 = (1 << 48) - 1;

    fn new(at: Millis) -> Self {
        let [a, b, c, d, e, f, ..] = at.min(Self::END).to_le_bytes();
        Self([a, b, c, d, e, f])
    }

    #[inline]
    fn get(self) -> Millis {
        let [a, b, c, d, e, f] = self.0;
        match u64::from_le_bytes([a, b, c, d, e, f, 0, 0]) {
            Self::END => FOREVER,
            at => at,
        }
    }
}

/// The lengths of an entry's parts in one word: key, metadata, links and value, from its low end.
#[derive(Clone, Copy)]
struct Sizes([u32; 2]);

impl Sizes {
    /// Bits of each length.
    const KEY: u32 = 10;
    const META: u32 = 11;
    const LINKS: u32 = 18;
    const VALUE: u32 = 25;

    /// # Panics
    /// If a part is longer than its field can say.
    fn new(key: usize, meta: usize, links: usize, value: usize) -> Self {
        let parts = [(value, Self::VALUE), (links, Self::LINKS), (meta, Self::META), (key, Self::KEY)];
        Self(halves(parts.iter().fold(0, |word, (len, bits)| {
            assert!(len >> bits == 0, "a part of the entry is too long: {len} bytes");
            word << bits | *len as u64
        })))
    }

    /// The same with another length of the value.
    fn with_value(self, value: usize) -> Self {
        Self::new(self.key(), self.meta(), self.links(), value)
    }

    #[inline]
    fn field(self, start: u32, bits: u32) -> usize {
        (whole(self.0) >> start) as usize & ((1 << bits) - 1)
    }

    #[inline]
    fn key(self) -> usize {
        self.field(0, Self::KEY)
    }

    #[inline]
    fn meta(self) -> usize {
        self.field(Self::KEY, Self::META)
    }

    #[inline]
    fn links(self) -> usize {
        self.field(Self::KEY + Self::META, Self::LINKS)
    }

    #[inline]
    fn value(self) -> usize {
        self.field(Self::KEY + Self::META + Self::LINKS, Self::VALUE)
    }

    /// Bytes after the head.
    #[inline]
    fn sum(self) -> usize {
        self.key() + self.meta() + self.links() + self.value()
    }
}

const _: () = assert!(Sizes::KEY + Sizes::META + Sizes::LINKS + Sizes::VALUE == u64::BITS);
const _: () = assert!(MAX_KEY_BYTES >> Sizes::KEY == 0 && (MAX_VALUE_BYTES + RAW_LEN) >> Sizes::VALUE == 0);

/// What precedes the bytes.
#[repr(C)]
struct Head {
    count: AtomicU32,
    hook: Hook,
    version: u32,
    seq: Seq,
    sizes: Sizes,
    stored_at: Moment,
    fresh_until: Moment,
    stale_until: Moment,
    error_until: Moment,
    route: u16,
    /// [`Kind`], [`CODEC`] and [`ASCII`].
    form: u8,
    uses: AtomicU8,
}

/// The number of an entry, which only grows. Two halves: an `AtomicU64` would round the head up to 64 bytes.
#[repr(C)]
struct Seq([AtomicU32; 2]);

const _: () = assert!(std::mem::offset_of!(Head, seq) % align_of::<AtomicU64>() == 0);

impl Seq {
    fn new(seq: u64) -> Self {
        Self(halves(seq).map(AtomicU32::new))
    }
}

/// Beside the kind: the text is ASCII.
const ASCII: u8 = 0x80;
/// Beside the kind: the [`Algorithm`] that the value is compressed by; 0 for none.
const CODEC: u8 = 0x70;
const CODEC_SHIFT: u32 = 4;
/// The kind itself.
const KIND: u8 = 0x0F;
/// In front of a compressed value: its bytes before compression, little-endian.
const RAW_LEN: usize = size_of::<u32>();

/// What the memory tier notes in the entries that it holds, beside [`Entry::uses`]. Meaningless elsewhere.
#[derive(Debug)]
pub(crate) struct Hook {
    /// Number of the tier's slot that holds the entry; [`Hook::FREE`] if none does.
    pub slot: AtomicU32,
    /// The eviction policy's word. Written under the lock of the entry's shard only.
    pub word: AtomicU32,
}

impl Hook {
    /// No tier holds the entry.
    pub const FREE: u32 = u32::MAX;
    /// A tier is about to hold the entry.
    pub const CLAIMED: u32 = u32::MAX - 1;

    const fn new() -> Self {
        Self { slot: AtomicU32::new(Self::FREE), word: AtomicU32::new(0) }
    }
}

/// Where the key begins.
const HEAD: usize = size_of::<Head>();
const _: () = assert!(HEAD == 60);

/// One cached value with its key. Cheap to clone.
pub struct Entry(NonNull<Head>);

// SAFETY: what is shared is read only, but for atomics; the count frees it once.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

impl Entry {
    /// Builds an entry stored at `now`. `key` is a checked key; `metadata` is JSON text or empty; `links` is empty or the
    /// encoded tags and parents of the entry.
    ///
    /// # Panics
    /// If a part is longer than its length field can say: 1,023 bytes of key, 2,047 of metadata, [`MAX_LINKS_BYTES`] of links,
    /// 32 MiB of value.
    pub fn new(spec: &EntrySpec<'_>, now: Millis) -> Self {
        let parts = [spec.key, spec.metadata, spec.links, &[], spec.value];
        let head = Head {
            count: AtomicU32::new(1),
            hook: Hook::new(),
            sizes: Sizes::new(spec.key.len(), spec.metadata.len(), spec.links.len(), spec.value.len()),
            version: spec.version,
            seq: Seq::new(spec.seq),
            stored_at: Moment::new(now),
            fresh_until: Moment::new(until(now, spec.ages.max_age)),
            stale_until: Moment::new(until(now, spec.ages.stale_age)),
            error_until: Moment::new(until(now, spec.ages.stale_if_error)),
            route: spec.route,
            form: spec.kind as u8 | if spec.kind.is_text() && spec.value.is_ascii() { ASCII } else { 0 },
            uses: AtomicU8::new(0),
        };
        Self::allocate(head, parts)
    }

    /// An entry that was kept elsewhere, as it was there. `spec` has its value as it was kept, by `packed` if compressed, and
    /// its ages from `stored_at`.
    ///
    /// # Panics
    /// As [`Entry::new`].
    pub fn restored(spec: &EntrySpec<'_>, stored_at: Millis, packed: Option<Packed>) -> Self {
        let Some(Packed { algorithm, raw_len, ascii }) = packed else { return Self::new(spec, stored_at) };
        let prefix = raw_len.to_le_bytes();
        let empty = Self::new(&EntrySpec { value: &[], ..*spec }, stored_at);
        let h = empty.head();
        let ascii = if ascii && spec.kind.is_text() { ASCII } else { 0 };
        let head = empty.head_with(
            h.sizes.with_value(RAW_LEN + spec.value.len()),
            spec.kind as u8 | ascii | (algorithm as u8) << CODEC_SHIFT,
        );
        Self::allocate(head, [spec.key, spec.metadata, spec.links, &prefix, spec.value])
    }

    fn allocate(head: Head, parts: [&[u8]; 5]) -> Self {
        debug_assert_eq!(head.sizes.sum(), parts.iter().map(|part| part.len()).sum::<usize>());
        let layout = layout(head.sizes.sum());
        // SAFETY: the layout has at least the size of the head.
        let Some(base) = NonNull::new(unsafe { allocate(layout) }) else { handle_alloc_error(layout) };
        let mut at = HEAD;
        for part in parts {
            // SAFETY: the parts' lengths add up to `head.len()`, for which the allocation was made.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), base.as_ptr().add(at), part.len()) };
            at += part.len();
        }
        let at = base.cast::<Head>();
        // SAFETY: the allocation is aligned to 8 and has room for the head.
        unsafe { at.write(head) };
        Self(at)
    }

    /// A copy with an allocation of its own, held by no tier.
    pub(crate) fn duplicate(&self) -> Self {
        let h = self.head();
        let head = self.head_with(h.sizes, h.form);
        // SAFETY: they are all the bytes there are.
        let bytes = unsafe { self.bytes(0, h.sizes.sum()) };
        Self::allocate(head, [bytes, &[], &[], &[], &[]])
    }

    /// Moves an entry that nobody shares yet to another number and another moment; its ages count from there. And to another
    /// version, if one is given.
    pub fn stamp(&mut self, seq: u64, now: Millis, version: Option<u32>) {
        if self.head().count.load(Ordering::Acquire) != 1 {
            return;
        }
        // SAFETY: this is the only reference, and it is borrowed mutably.
        let h = unsafe { self.0.as_mut() };
        let was = h.stored_at.get();
        let moved = |moment: Moment| match moment.get() {
            FOREVER => moment,
            moment => Moment::new(until(now, moment - was)),
        };
        (h.fresh_until, h.stale_until, h.error_until) =
            (moved(h.fresh_until), moved(h.stale_until), moved(h.error_until));
        (h.seq, h.stored_at) = (Seq::new(seq), Moment::new(now));
        h.version = version.unwrap_or(h.version);
    }

    /// Makes an entry that came from elsewhere one of this cache: with a number, a version and a route of its own.
    pub fn adopt(&mut self, seq: u64, version: u32, route: u16) {
        if self.head().count.load(Ordering::Acquire) != 1 {
            *self = self.duplicate();
        }
        // SAFETY: this is the only reference, and it is borrowed mutably.
        let h = unsafe { self.0.as_mut() };
        (h.seq, h.version, h.route) = (Seq::new(seq), version, route);
    }

    #[inline]
    fn head(&self) -> &Head {
        // SAFETY: the allocation lives as long as this reference to it.
        unsafe { self.0.as_ref() }
    }

    /// `len` bytes from `start` after the head.
    ///
    /// # Safety
    /// They lie within `head().len()`.
    #[inline]
    unsafe fn bytes(&self, start: usize, len: usize) -> &[u8] {
        // SAFETY: within the allocation and initialized, says the caller; the pointer is that of the whole allocation.
        unsafe { slice::from_raw_parts(self.0.as_ptr().cast::<u8>().add(HEAD + start), len) }
    }

    /// Whether it has that key. Where the bytes lie is told by the key that is looked for, so that the processor need not wait for
    /// the entry's length to fetch them.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        if self.head().sizes.key() != key.len() {
            return false;
        }
        // SAFETY: the key comes first, and has that length.
        let own = unsafe { self.bytes(0, key.len()) };
        let word = |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes);
        match (own.last_chunk(), key.last_chunk()) {
            // The last eight bytes overlap those before.
            (Some(own_last), Some(last)) => {
                let words = own.as_chunks().0.iter().zip(key.as_chunks().0);
                words.fold(word(own_last) == word(last), |equal, (a, b)| equal & (word(a) == word(b)))
            }
            _ => own == key,
        }
    }

    /// Its head for another allocation, held by no tier.
    fn head_with(&self, sizes: Sizes, form: u8) -> Head {
        Head {
            count: AtomicU32::new(1),
            hook: Hook::new(),
            seq: Seq::new(self.seq()),
            uses: AtomicU8::new(0),
            sizes,
            form,
            ..*self.head()
        }
    }

    #[inline]
    fn number(&self) -> &AtomicU64 {
        // SAFETY: both halves lie side by side at an offset that is a multiple of 8, in an allocation aligned to 8 that lives
        // as long as this reference; once an entry is built they are used in this way alone.
        unsafe { AtomicU64::from_ptr((&raw const (*self.0.as_ptr()).seq).cast_mut().cast()) }
    }

    /// See [`Header::seq`].
    #[inline]
    pub fn seq(&self) -> u64 {
        self.number().load(Ordering::Acquire)
    }

    /// Notes that no change of the log up to `seq` concerns the entry, so that these need not be looked at again.
    #[inline]
    pub fn lift(&self, seq: u64) {
        self.number().fetch_max(seq, Ordering::AcqRel);
    }

    /// The same entry, its freshness ended by an invalidation. Held by no tier.
    pub fn outdated(&self) -> Self {
        let h = self.head();
        let mut head = self.head_with(h.sizes, h.form);
        // Before it was stored: no age makes it so.
        head.fresh_until = Moment::new(h.stored_at.get().saturating_sub(1));
        // SAFETY: they are all the bytes there are.
        let bytes = unsafe { self.bytes(0, h.sizes.sum()) };
        Self::allocate(head, [bytes, &[], &[], &[], &[]])
    }

    /// Whether it is [outdated](Entry::outdated). Of one stored in the clock's first millisecond it is not known.
    pub fn is_outdated(&self) -> bool {
        let h = self.head();
        h.fresh_until.get() < h.stored_at.get()
    }

    /// What the memory tier notes in it.
    #[inline]
    pub(crate) fn hook(&self) -> &Hook {
        &self.head().hook
    }

    /// Uses since the memory tier's policy last looked. Written by readers too: a count lost in a race does no harm.
    #[inline]
    pub(crate) fn uses(&self) -> &AtomicU8 {
        &self.head().uses
    }

    /// The entry as a pointer, without a reference.
    pub(crate) fn as_pointer(&self) -> NonNull<()> {
        self.0.cast()
    }

    /// The entry behind a pointer, to look at: its reference is another's.
    ///
    /// # Safety
    /// The pointer came from [`Entry::as_pointer`], and the entry outlives what is made of it.
    #[inline]
    pub(crate) unsafe fn borrow_pointer(pointer: NonNull<()>) -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self(pointer.cast()))
    }

    /// What is known of the entry.
    #[inline]
    pub fn header(&self) -> Header {
        let h = self.head();
        Header {
            seq: self.seq(),
            stored_at: h.stored_at.get(),
            fresh_until: h.fresh_until.get(),
            stale_until: h.stale_until.get(),
            error_until: h.error_until.get(),
            route: h.route,
            kind: Kind::from_u8(h.form & KIND).unwrap_or(Kind::Bytes),
            ascii: h.form & ASCII != 0,
            version: h.version,
        }
    }

    /// The key's bytes of UTF-8.
    #[inline]
    pub fn key(&self) -> &[u8] {
        // SAFETY: the key comes first.
        unsafe { self.bytes(0, self.head().sizes.key()) }
    }

    /// The key as text.
    pub fn key_str(&self) -> &str {
        // Keys are checked to be UTF-8 before an entry is built.
        std::str::from_utf8(self.key()).unwrap_or_default()
    }

    /// The user's metadata as JSON text; empty for none.
    pub fn metadata(&self) -> &[u8] {
        let sizes = self.head().sizes;
        // SAFETY: the metadata follows the key.
        unsafe { self.bytes(sizes.key(), sizes.meta()) }
    }

    /// The encoded tags and parents; empty for none.
    pub fn links(&self) -> &[u8] {
        let sizes = self.head().sizes;
        // SAFETY: the links follow the metadata.
        unsafe { self.bytes(sizes.key() + sizes.meta(), sizes.links()) }
    }

    /// The value's bytes, as [`Entry::codec`] left them.
    #[inline]
    pub fn value(&self) -> &[u8] {
        let h = self.head();
        let prefix = if h.form & CODEC == 0 { 0 } else { RAW_LEN };
        let len = h.sizes.value();
        // SAFETY: the value comes last, and a compressed one is longer than its prefix.
        unsafe { self.bytes(h.sizes.sum() - len + prefix, len - prefix) }
    }

    /// What the value is compressed by.
    #[inline]
    pub fn codec(&self) -> Option<Algorithm> {
        Algorithm::from_u8((self.head().form & CODEC) >> CODEC_SHIFT)
    }

    /// Bytes of the value before compression.
    #[inline]
    pub fn raw_len(&self) -> usize {
        let h = self.head();
        if h.form & CODEC == 0 {
            return h.sizes.value();
        }
        // SAFETY: a compressed value has its prefix.
        let prefix = unsafe { self.bytes(h.sizes.sum() - h.sizes.value(), RAW_LEN) };
        prefix.try_into().map_or(0, u32::from_le_bytes) as usize
    }

    /// The same entry with its value, plain until now, in a compressed form. Held by no tier.
    pub fn compressed(&self, algorithm: Algorithm, value: &[u8]) -> Self {
        let h = self.head();
        let prefix = (h.sizes.value() as u32).to_le_bytes();
        let head = self.head_with(h.sizes.with_value(RAW_LEN + value.len()), h.form | (algorithm as u8) << CODEC_SHIFT);
        Self::allocate(head, [self.key(), self.metadata(), self.links(), &prefix, value])
    }

    /// The same entry with its value, compressed until now, plain. Held by no tier.
    pub fn inflated(&self, value: &[u8]) -> Self {
        let h = self.head();
        let head = self.head_with(h.sizes.with_value(value.len()), h.form & !CODEC);
        Self::allocate(head, [self.key(), self.metadata(), self.links(), &[], value])
    }

    /// The same entry, its value being the compressed one of `other` as it stands there.
    pub fn in_the_form_of(self, other: &Self) -> Self {
        let Some(algorithm) = other.codec() else { return self };
        let h = self.head();
        let prefix = (other.raw_len() as u32).to_le_bytes();
        let form = other.head().form & (CODEC | ASCII) | h.form & KIND;
        debug_assert_eq!(form >> CODEC_SHIFT & 7, algorithm as u8);
        let head = self.head_with(h.sizes.with_value(h.sizes.value() + RAW_LEN), form);
        Self::allocate(head, [self.key(), self.metadata(), self.links(), &prefix, self.value()])
    }

    /// Whether both are the same allocation.
    pub fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// Bytes of the one allocation behind this entry: head, key, metadata, links and value.
    #[inline]
    pub fn allocated(&self) -> usize {
        HEAD + self.head().sizes.sum()
    }

    /// Where the entry stands at `now`.
    #[inline]
    pub fn freshness(&self, now: Millis) -> Freshness {
        let h = self.head();
        if now < h.fresh_until.get() {
            Freshness::Fresh
        } else if now < h.stale_until.get() {
            Freshness::Stale
        } else if now < h.error_until.get() {
            Freshness::OnError
        } else {
            Freshness::Dead
        }
    }

    /// The moment from which it can no longer be served at all.
    #[inline]
    pub fn dead_at(&self) -> Millis {
        let h = self.head();
        h.fresh_until.get().max(h.stale_until.get()).max(h.error_until.get())
    }

    /// Milliseconds since it was stored.
    pub fn age(&self, now: Millis) -> Millis {
        now.saturating_sub(self.head().stored_at.get())
    }
}

fn halves(n: u64) -> [u32; 2] {
    [n as u32, (n >> 32) as u32]
}

#[inline]
fn whole([low, high]: [u32; 2]) -> u64 {
    low as u64 | (high as u64) << 32
}

fn layout(len: usize) -> Layout {
    // SAFETY: 8 is a power of two, and the parts of an entry were slices, so that their sum is far below `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(HEAD + len, 8) }
}

/// Largest allocation of an entry that lies on the [`heap`] for what look-ups read, in bytes.
const SMALL: usize = 512;

/// # Safety
/// As [`alloc`].
unsafe fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promise.
    unsafe { if layout.size() <= SMALL { heap::alloc(layout) } else { alloc(layout) } }
}

/// # Safety
/// As [`dealloc`], of what [`allocate`] gave.
unsafe fn free(memory: *mut u8, layout: Layout) {
    // SAFETY: the caller's promise; the layout says where it came from.
    unsafe { if layout.size() <= SMALL { heap::dealloc(memory, layout) } else { dealloc(memory, layout) } }
}

impl Clone for Entry {
    #[inline]
    fn clone(&self) -> Self {
        // A new reference is made from one that exists, so nothing has to be ordered; dropping does that.
        if self.head().count.fetch_add(1, Ordering::Relaxed) > u32::MAX / 2 {
            // Two thousand million clones that were forgotten: better an end than a count that wraps.
            std::process::abort();
        }
        Self(self.0)
    }
}

impl Drop for Entry {
    #[inline]
    fn drop(&mut self) {
        // Whoever drops the last reference must see all that was done through the others.
        if self.head().count.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let layout = layout(self.head().sizes.sum());
            // SAFETY: it was the last reference; the head holds nothing that is to be dropped.
            unsafe { free(self.0.as_ptr().cast(), layout) };
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key_str())
            .field("header", &self.header())
            .field("value_len", &self.value().len())
            .finish()
    }
}

/// How the value of an entry that was kept elsewhere is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// What it is compressed by.
    pub algorithm: Algorithm,
    /// Its bytes before compression.
    pub raw_len: u32,
    /// See [`Header::ascii`].
    pub ascii: bool,
}

/// What an entry is built from.
#[derive(Debug, Clone, Copy)]
pub struct EntrySpec<'a> {
    /// A checked key.
    pub key: &'a [u8],
    /// The user's metadata as JSON text, at most 1,024 bytes; empty for none.
    pub metadata: &'a [u8],
    /// Encoded tags and parents; empty for none.
    pub links: &'a [u8],
    /// The value, at most [`MAX_VALUE_BYTES`].
    pub value: &'a [u8],
    /// How to read the value.
    pub kind: Kind,
    /// Its ages from now.
    pub ages: Ages,
    /// See [`Header::seq`].
    pub seq: u64,
    /// See [`Header::route`].
    pub route: u16,
    /// See [`Header::version`].
    pub version: u32,
}

fn until(now: Millis, age: Millis) -> Millis {
    now.checked_add(age).unwrap_or(FOREVER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec<'a>() -> EntrySpec<'a> {
        EntrySpec {
            key: b"k",
            metadata: b"{}",
            links: b"",
            value: b"\"v\"",
            kind: Kind::Json,
            ages: Ages { max_age: 10, stale_age: 20, stale_if_error: 30 },
            seq: 7,
            route: 3,
            version: 5,
        }
    }

    #[test]
    fn gives_back_what_it_was_built_from() {
        let e = Entry::new(&spec(), 100);
        assert_eq!((e.key(), e.metadata(), e.links(), e.value()), (&b"k"[..], &b"{}"[..], &b""[..], &b"\"v\""[..]));
        assert_eq!((e.header().seq, e.header().route, e.header().ascii, e.header().version), (7, 3, true, 5));
    }

    #[test]
    fn lives_through_its_four_stages() {
        let e = Entry::new(&spec(), 100);
        for (now, expected) in [
            (100, Freshness::Fresh),
            (109, Freshness::Fresh),
            (110, Freshness::Stale),
            (119, Freshness::Stale),
            (120, Freshness::OnError),
            (129, Freshness::OnError),
            (130, Freshness::Dead),
        ] {
            assert_eq!(e.freshness(now), expected, "at {now}");
        }
        assert_eq!(e.dead_at(), 130);
    }

    #[test]
    fn a_compressed_form_keeps_everything_but_the_bytes_of_the_value() {
        let e = Entry::new(&spec(), 100);
        for algorithm in Algorithm::ALL {
            for c in [e.compressed(algorithm, b"short"), e.compressed(algorithm, b"short").duplicate()] {
                assert_eq!((c.codec(), c.value(), c.raw_len()), (Some(algorithm), &b"short"[..], 3));
                assert_eq!(
                    (c.key(), c.metadata(), c.links(), c.header()),
                    (e.key(), e.metadata(), e.links(), e.header())
                );
            }
        }
        assert_eq!((e.codec(), e.raw_len()), (None, 3));
        assert!(e.is(&e.clone()) && !e.is(&e.duplicate()));
    }

    #[test]
    fn comes_back_from_elsewhere_as_it_was() {
        let plain = Entry::new(&spec(), 100);
        for e in [plain.compressed(Algorithm::Lz4, b"short"), plain] {
            let packed = e.codec().map(|algorithm| Packed { algorithm, raw_len: e.raw_len() as u32, ascii: true });
            let back = Entry::restored(&EntrySpec { value: e.value(), ..spec() }, 100, packed);
            assert_eq!((back.header(), back.codec(), back.raw_len()), (e.header(), e.codec(), e.raw_len()));
            assert_eq!(
                (back.key(), back.metadata(), back.links(), back.value()),
                (e.key(), e.metadata(), e.links(), e.value())
            );
        }
    }

    #[test]
    fn an_endless_age_never_ends() {
        let ages = Ages { max_age: FOREVER, stale_age: FOREVER, stale_if_error: FOREVER };
        let e = Entry::new(&EntrySpec { ages, ..spec() }, 100);
        assert_eq!(e.freshness(u64::MAX - 1), Freshness::Fresh);
        assert_eq!(e.dead_at(), FOREVER);
    }

    #[test]
    fn is_shared_and_freed_once() {
        let e = Entry::new(&spec(), 100);
        let others: Vec<_> = (0..4).map(|_| e.clone()).collect();
        let threads: Vec<_> =
            others.into_iter().map(|e| std::thread::spawn(move || e.clone().value() == b"\"v\"")).collect();
        drop(e);
        assert!(threads.into_iter().all(|t| t.join().unwrap()));
    }

    #[test]
    fn a_shared_entry_is_not_stamped_anew() {
        let mut e = Entry::new(&spec(), 100);
        let other = e.clone();
        e.stamp(8, 200, Some(6));
        assert_eq!(e.header(), other.header());
        drop(other);
        e.stamp(8, 200, None);
        assert_eq!((e.header().seq, e.header().stored_at, e.dead_at(), e.header().version), (8, 200, 230, 5));
        e.stamp(9, 200, Some(6));
        assert_eq!((e.header().seq, e.header().version), (9, 6));
    }

    #[test]
    fn a_duplicate_is_equal_and_apart() {
        let e = Entry::new(&spec(), 100);
        let copy = e.duplicate();
        assert_eq!(
            (e.key(), e.metadata(), e.links(), e.value()),
            (copy.key(), copy.metadata(), copy.links(), copy.value())
        );
        assert_eq!((e.header(), e.allocated()), (copy.header(), copy.allocated()));
        assert_ne!(e.value().as_ptr(), copy.value().as_ptr());
    }

    #[test]
    fn compares_keys_of_all_lengths() {
        for len in 0..40 {
            let key: Vec<u8> = (0..len).collect();
            let e = Entry::new(&EntrySpec { key: &key, ..spec() }, 0);
            assert!(e.has_key(&key.clone()));
            assert!(!e.has_key(&[&key[..], b"x"].concat()));
            for n in 0..len as usize {
                let mut other = key.clone();
                other[n] ^= 1;
                assert!(!e.has_key(&other), "byte {n} of {len}");
            }
        }
    }

    #[test]
    fn each_length_goes_to_its_limit() {
        let largest = [(1 << Sizes::KEY) - 1, (1 << Sizes::META) - 1, MAX_LINKS_BYTES, (1 << Sizes::VALUE) - 1];
        for n in 0..4 {
            let mut lens = [1; 4];
            lens[n] = largest[n];
            let [key, meta, links, value] = lens;
            let sizes = Sizes::new(key, meta, links, value);
            assert_eq!([sizes.key(), sizes.meta(), sizes.links(), sizes.value()], lens);
            assert_eq!(sizes.sum(), largest[n] + 3);
        }
    }

    #[test]
    #[should_panic = "too long: 262144 bytes"]
    fn refuses_what_it_could_not_tell() {
        Entry::new(&EntrySpec { links: &[0; MAX_LINKS_BYTES + 1], ..spec() }, 0);
    }

    #[test]
    fn moments_saturate_to_forever() {
        for (at, back) in [(0, 0), (1 << 40, 1 << 40), ((1 << 48) - 2, (1 << 48) - 2), (1 << 48, FOREVER)] {
            assert_eq!(Moment::new(at).get(), back);
        }
    }
}
