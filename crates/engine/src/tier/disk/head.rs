//! The stamps file: a page of memory that all processes share.
//!
//! - *The head*: the lower 32 bits of the newest number of the log. It is stored after a commit and before the commit is
//!   answered, so whoever finds it unchanged has missed nothing that was answered.
//! - *The owner* of the last checkpoint.
//! - *Uses*: a byte for each of many slots of keys, set by who reads one, cleared by who looks for something to evict.
//!
//! All of the file is allocated when it is made: a full disk later is no fault of the memory. It holds nothing that is missed
//! when it is made anew.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use twox_hash::XxHash3_64;

use super::layout::options;

/// Where the uses begin.
const USES_AT: usize = 4096;
/// Slots of uses; a power of two.
const USES: usize = 1 << 20;

/// The mapped file.
pub(super) struct Head {
    map: MmapRaw,
}

impl Head {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = options().open(path)?;
        let len = (USES_AT + USES) as u64;
        if file.metadata()?.len() != len {
            let made = file.set_len(len).and_then(|()| allocate(&file, len));
            // One that has its length has its room.
            made.inspect_err(|_| drop(file.set_len(0)))?;
        }
        let map = MmapOptions::new().len(len as usize).map_raw(&file)?;
        Ok(Self { map })
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the mapping is longer than a word, begins at a page, and lasts as long as `self`; all who share it, in this
        // process or others, use atomics.
        unsafe { AtomicU32::from_ptr(self.map.as_mut_ptr().cast()) }
    }

    /// The head.
    #[inline]
    pub fn load(&self) -> u32 {
        self.word().load(Ordering::SeqCst)
    }

    /// Raises the head to that number, if it is not there yet. Numbers go round; none is 2^31 behind another, but in a file that
    /// was just made.
    pub fn raise(&self, seq: u64) {
        let new = seq as u32;
        let newer = |old: u32| (old == 0 || new.wrapping_sub(old) as i32 > 0).then_some(new);
        // It fails where it is there already.
        let _ = self.word().fetch_update(Ordering::SeqCst, Ordering::SeqCst, newer);
    }

    /// Who took the last checkpoint.
    pub fn owner(&self) -> &AtomicU64 {
        // SAFETY: as with the head; the second word of eight bytes is within the page, and aligned.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(8).cast()) }
    }

    fn slot(&self, key: &[u8]) -> &AtomicU8 {
        let slot = USES_AT + XxHash3_64::oneshot(key) as usize % USES;
        // SAFETY: the slot is within the mapping, which lasts as long as `self`; all who share it use atomics.
        unsafe { AtomicU8::from_ptr(self.map.as_mut_ptr().add(slot)) }
    }

    /// A key was read.
    #[inline]
    pub fn used(&self, key: &[u8]) {
        let slot = self.slot(key);
        if slot.load(Ordering::Relaxed) == 0 {
            slot.store(1, Ordering::Relaxed);
        }
    }

    /// Whether a key, or another of its slot, was read since this was asked last.
    pub fn take_used(&self, key: &[u8]) -> bool {
        self.slot(key).swap(0, Ordering::Relaxed) != 0
    }
}

impl AsRef<AtomicU32> for Head {
    fn as_ref(&self) -> &AtomicU32 {
        self.word()
    }
}

/// Has the disk give the room now.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
fn allocate(file: &std::fs::File, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    // SAFETY: the descriptor is open, as `file` owns it.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Where there is no such call zeros are written: the file was just made.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
fn allocate(mut file: &std::fs::File, len: u64) -> io::Result<()> {
    io::Write::write_all(&mut file, &vec![0; len as usize])
}
