//! Checkpoints: what of the store is on disk, whatever happens to the machine.
//!
//! A commit waits for no disk. LMDB then keeps no promise about the file after a power cut: of its pages any may have been written, and
//! its two meta pages may both name pages that were not. So, every second in which there were commits, at a `flush()` and
//! after as many pages as a 16th of the size, a *checkpoint* is taken: all pages of a snapshot are brought to disk, then a copy of the meta page that names
//! them is put into a file of its own. Two things make that snapshot last until the next checkpoint is there:
//! - *A pin*: a reader of that snapshot, which keeps LMDB from using any of its pages again. Who took the last checkpoint holds it, and
//!   a lock that the system releases when its process dies. Who is about to write looks whether that one is alive, and
//!   if not takes a checkpoint before it changes anything.
//! - *The boot's id* in the file. Who opens the store in another boot than that which the checkpoint was taken in puts its meta page back
//!   in the place of both, and begins a new log if that undoes anything.
//!
//! Where the boot has no id there are no checkpoints, and a commit waits until its data is on disk.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use heed::{Env, WithoutTls};
use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use super::head::Head;
use super::layout::{CHECKPOINT, DATA, Held, LOCK, PINS, VALUES, options};

/// What a checkpoint begins with: the name and the version.
const MAGIC: [u8; 8] = *b"KVCCHKP1";

/// The file has room for two, so that one is whole while the other is written; they need no more room on the disk later.
const SLOT: u64 = 4096;

/// A file of LMDB that is not longer holds nothing yet.
const EMPTY: u64 = 64 << 10;

/// LMDB's meta page: the bytes before what is kept of it, how many these are, and where in them the fields lie that are looked at
/// (`MDB_page`, `MDB_meta` and `MDB_db` in LMDB's mdb.c, for 64 bits).
const PAGE_HEAD: usize = 16;
const META: usize = 136;
const META_MAGIC: usize = 0;
const META_PAGE_SIZE: usize = 24;
const META_TXN: usize = 128;
const LMDB_MAGIC: u32 = 0xBEEF_C0DE;

/// An id of this boot of the machine, where the system has one.
pub(super) fn boot() -> Option<String> {
    if !cfg!(target_pointer_width = "64") {
        return None;
    }
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Checkpoint {
    /// How many were taken before.
    count: u64,
    meta: [u8; META],
    boot: String,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|part| part.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|part| part.try_into().ok()).map_or(0, u64::from_ne_bytes)
}

/// The number of the transaction that a meta page is of; none if it is none.
fn txn_of(meta: &[u8; META]) -> Option<u64> {
    (u32_at(meta, META_MAGIC) == LMDB_MAGIC).then(|| u64_at(meta, META_TXN))
}

impl Checkpoint {
    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.count.to_ne_bytes());
        out.extend_from_slice(&self.meta);
        out.extend_from_slice(&(self.boot.len() as u64).to_ne_bytes());
        out.extend_from_slice(self.boot.as_bytes());
        out.extend_from_slice(&XxHash3_64::oneshot(&out).to_ne_bytes());
        out.resize(SLOT as usize, 0);
        out
    }

    fn decode(slot: &[u8]) -> Option<Self> {
        let rest = slot.strip_prefix(&MAGIC)?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        let (meta, rest) = rest.split_first_chunk::<META>()?;
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (boot, rest) = rest.split_at_checked(u64::from_ne_bytes(*len).try_into().ok()?)?;
        let checked = &slot[..slot.len() - rest.len()];
        let sum = rest.first_chunk::<8>()?;
        let boot = std::str::from_utf8(boot).ok()?.to_owned();
        (u64::from_ne_bytes(*sum) == XxHash3_64::oneshot(checked)).then_some(())?;
        Some(Self { count: u64::from_ne_bytes(*count), meta: *meta, boot })
    }

    /// The newest in a file.
    fn newest(bytes: &[u8]) -> Option<Self> {
        bytes.chunks(SLOT as usize).filter_map(Self::decode).max_by_key(|checkpoint| checkpoint.count)
    }
}

/// The meta page in that place.
fn read_meta(file: &mut File, at: u64) -> io::Result<[u8; META]> {
    let mut meta = [0; META];
    file.seek(SeekFrom::Start(at + PAGE_HEAD as u64))?;
    file.read_exact(&mut meta)?;
    Ok(meta)
}

/// What is to be done before a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// There is no store.
    Nothing,
    /// It is as it was left.
    Good,
    /// It is that of the last checkpoint: the machine has been started anew. `undone` if there had been commits since.
    Restored { undone: bool },
    /// It has no checkpoint, or one that is not what was written.
    Damaged,
}

/// Puts the last checkpoint of another boot back. Nobody has the store open, which `alone` finds out.
pub(super) fn restore(
    path: &Path,
    boot: &str,
    alone: impl FnOnce(&mut dyn FnMut() -> io::Result<Found>) -> io::Result<Option<Found>>,
) -> io::Result<Found> {
    if !path.join(DATA).exists() {
        return Ok(Found::Nothing);
    }
    let bytes = match fs::read(path.join(CHECKPOINT)) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        read => read.unwrap_or_default(),
    };
    let Some(checkpoint) = Checkpoint::newest(&bytes) else {
        if fs::metadata(path.join(DATA))?.len() > EMPTY {
            return Ok(Found::Damaged);
        }
        // Who was making it got no further.
        let mut remove = || {
            fs::remove_file(path.join(DATA))?;
            fs::remove_file(path.join(LOCK))
                .or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            Ok(Found::Nothing)
        };
        return Ok(alone(&mut remove)?.unwrap_or(Found::Damaged));
    };
    if checkpoint.boot == boot {
        return Ok(Found::Good);
    }
    let mut put_back = || {
        let mut file = options().open(path.join(DATA))?;
        let page = u64::from(u32_at(&checkpoint.meta, META_PAGE_SIZE));
        let newest =
            [0, page].into_iter().filter_map(|at| read_meta(&mut file, at).ok().and_then(|meta| txn_of(&meta)));
        let undone = newest.max() != txn_of(&checkpoint.meta);
        for at in [0, page] {
            // The head of the page was written when the store was made, and is the same for good.
            file.seek(SeekFrom::Start(at + PAGE_HEAD as u64))?;
            file.write_all(&checkpoint.meta)?;
        }
        file.sync_all()?;
        Ok(Found::Restored { undone })
    };
    // Whoever has it open has done this.
    Ok(alone(&mut put_back)?.unwrap_or(Found::Good))
}

/// A reader that stays, on a thread of its own, which waits for its end.
#[derive(Debug)]
struct Pin {
    /// The transaction whose pages are kept.
    txn: u64,
    /// Hung up when it may end.
    until: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.until = None;
        // It does nothing but end: whoever writes next may use its pages.
        self.thread.take().map(std::thread::JoinHandle::join);
    }
}

impl Pin {
    fn new(env: &Env<WithoutTls>) -> io::Result<Self> {
        let (until, released) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        let env = env.clone();
        let thread = std::thread::Builder::new().name("kvcache-pin".into()).stack_size(128 << 10).spawn(move || {
            match env.read_txn() {
                Ok(txn) => {
                    let _ = tell.send(Ok(txn.id() as u64));
                    let _ = released.recv();
                }
                Err(error) => drop(tell.send(Err(io::Error::other(error.to_string())))),
            }
        })?;
        let txn = told.recv().map_err(|_| io::Error::other("a thread has ended"))??;
        Ok(Self { txn, until: Some(until), thread: Some(thread) })
    }
}

/// The checkpoints that this process takes of a store.
#[derive(Debug)]
pub(super) struct Checkpoints {
    path: PathBuf,
    boot: String,
    /// Which process this is: the name of its lock.
    token: u64,
    alive: Option<Held>,
    pin: Mutex<Option<Pin>>,
}

impl Checkpoints {
    pub fn new(path: &Path, boot: String) -> io::Result<Self> {
        let pins = path.join(PINS);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&pins)?;
        // Those of the dead.
        for name in fs::read_dir(&pins)?.flatten().map(|entry| entry.path()) {
            if Held::is_free(&name) {
                let _ = fs::remove_file(name);
            }
        }
        let token = fastrand::u64(1..);
        let alive = Held::wait(&pins.join(format!("{token:016x}")), true, Instant::now())?;
        Ok(Self { path: path.into(), boot, token, alive: Some(alive), pin: Mutex::default() })
    }

    /// Takes one. Where another takes one, it waits for that at most so long.
    pub fn take(&self, env: &Env<WithoutTls>, head: &Head, patience: Duration) -> io::Result<()> {
        let _one = Held::wait(&self.path.join("checkpoint.lock"), true, Instant::now() + patience)?;
        let mut kept = self.pin.lock();
        let mut file = File::open(self.path.join(DATA))?;
        let (pin, meta) = loop {
            let pin = Pin::new(env)?;
            if head.owner().load(Ordering::SeqCst) == self.token
                && kept.as_ref().is_some_and(|kept| kept.txn == pin.txn)
            {
                // There was no commit since the last.
                return Ok(());
            }
            let first = read_meta(&mut file, 0)?;
            let second = read_meta(&mut file, u64::from(u32_at(&first, META_PAGE_SIZE)))?;
            // None, if two more transactions have been committed meanwhile.
            if let Some(meta) = [first, second].into_iter().find(|meta| txn_of(meta) == Some(pin.txn)) {
                break (pin, meta);
            }
        };
        env.force_sync().map_err(|error| io::Error::other(error.to_string()))?;
        #[cfg(unix)]
        File::open(self.path.join(VALUES))?.sync_all()?;
        let mut out = options().open(self.path.join(CHECKPOINT))?;
        let mut bytes = Vec::new();
        out.read_to_end(&mut bytes)?;
        let count = Checkpoint::newest(&bytes).map_or(0, |newest| newest.count) + 1;
        if bytes.len() < 2 * SLOT as usize {
            bytes.resize(2 * SLOT as usize, 0);
            out.rewind()?;
            out.write_all(&bytes)?;
        }
        out.seek(SeekFrom::Start(count % 2 * SLOT))?;
        out.write_all(&Checkpoint { count, meta, boot: self.boot.clone() }.encode())?;
        out.sync_all()?;
        #[cfg(unix)]
        if count == 1 {
            File::open(&self.path)?.sync_all()?;
        }
        head.owner().store(self.token, Ordering::SeqCst);
        *kept = Some(pin);
        Ok(())
    }

    /// Whether the pages of the last checkpoint are kept; asked within a transaction that is to write.
    pub fn is_kept(&self, head: &Head) -> bool {
        let owner = head.owner().load(Ordering::SeqCst);
        owner == self.token || owner != 0 && !Held::is_free(&self.path.join(PINS).join(format!("{owner:016x}")))
    }

    /// Lets go of a pin that another's has replaced.
    pub fn let_go(&self, head: &Head) {
        let mut kept = self.pin.lock();
        if kept.is_some() && head.owner().load(Ordering::SeqCst) != self.token {
            *kept = None;
        }
    }

    /// The end: within a transaction that changes nothing, so that nobody writes who still counts on us. Another may keep that
    /// waiting, so it is left to a thread.
    pub fn end(self, env: Env<WithoutTls>) {
        let Self { path, token, alive, pin, .. } = self;
        let end = move || {
            let alone = env.write_txn();
            drop((pin, alive));
            let _ = fs::remove_file(path.join(PINS).join(format!("{token:016x}")));
            drop(alone);
        };
        let _ = std::thread::Builder::new().name("kvcache-pin".into()).stack_size(128 << 10).spawn(end);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::tier::conformance::{get, puts, record};
    use crate::tier::disk::{DiskTier, MAX_SIZE, Settings};
    use crate::tier::{SharedLog, Tier};

    fn dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("kvcache-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn open(path: &Path) -> DiskTier {
        let settings = Settings { path: path.into(), max_size: MAX_SIZE, timeout: Duration::from_secs(5) };
        DiskTier::open(&settings, &tokio::runtime::Handle::current()).unwrap()
    }

    async fn write(tier: &DiskTier, n: u32, value: &str) {
        let put = tier.put_many(puts(vec![record(&format!("k:{n}"), value, 0)])).await;
        assert_eq!(put, [Ok(())]);
    }

    /// What the disk may have after a power cut: of each page what it was when it was last brought there, or what was written since.
    fn cut(synced: &[u8], written: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
        let page = |bytes: &[u8], at: usize| bytes.get(at..at + 4096).map_or(vec![0; 4096], <[u8]>::to_vec);
        let likely = random.f64();
        let one = |at| page(if random.f64() < likely { written } else { synced }, at);
        let mut bytes: Vec<_> = (0..written.len()).step_by(4096).flat_map(one).collect();
        bytes.truncate(if fastrand::bool() { synced.len() } else { written.len() });
        bytes
    }

    #[tokio::test]
    async fn what_was_flushed_survives_a_power_cut_whatever_was_written_since() {
        let (before, after) = (dir("before"), dir("after"));
        let mut tried = 0;
        for seed in 0..12 {
            let mut random = fastrand::Rng::with_seed(seed);
            let _ = fs::remove_dir_all(&before);
            let tier = open(&before);
            let mut values = vec![None; 150];
            for round in 0..3 {
                for n in 0..150_u32 {
                    let value = format!("{round}:{n}").repeat(random.usize(1..400));
                    write(&tier, n, &value).await;
                    values[n as usize] = Some(value);
                }
                assert_eq!(tier.flush().await, Ok(()));
            }
            let synced = fs::read(before.join(DATA)).unwrap();
            let kept = fs::read(before.join(CHECKPOINT)).unwrap();
            for n in 0..random.u32(0..200) {
                write(&tier, random.u32(..150), &format!("new {n}").repeat(random.usize(1..400))).await;
            }
            let written = fs::read(before.join(DATA)).unwrap();
            let epoch = tier.position().epoch;
            if fs::read(before.join(CHECKPOINT)).unwrap() != kept {
                // A second has passed.
                continue;
            }
            tried += 1;
            for _ in 0..3 {
                let _ = fs::remove_dir_all(&after);
                fs::create_dir(&after).unwrap();
                fs::copy(before.join("format"), after.join("format")).unwrap();
                fs::write(after.join(DATA), cut(&synced, &written, &mut random)).unwrap();
                let newest = Checkpoint::newest(&kept).unwrap();
                fs::write(after.join(CHECKPOINT), Checkpoint { boot: "another".into(), ..newest }.encode()).unwrap();
                let restored = open(&after);
                for (n, value) in values.iter().enumerate() {
                    let found = get(&restored, &format!("k:{n}")).await.unwrap().map(|record| record.value);
                    assert_eq!(found.as_deref(), value.as_deref().map(str::as_bytes), "seed {seed}: key {n}");
                }
                let undone = synced[..8192] != written[..8192];
                assert!(restored.position().epoch == epoch || undone);
                write(&restored, 1, "later").await;
                assert!(tier.close().await.is_ok() && restored.close().await.is_ok());
            }
        }
        assert!(tried > 2, "{tried}");
        let _ = (fs::remove_dir_all(before), fs::remove_dir_all(after));
    }

    #[test]
    fn a_checkpoint_is_read_back_and_a_changed_one_is_none() {
        let mut meta = [7; META];
        meta[..4].copy_from_slice(&LMDB_MAGIC.to_ne_bytes());
        let [old, new] = [1, 2].map(|count| Checkpoint { count, meta, boot: "boot".into() });
        let mut bytes = [new.encode(), old.encode()].concat();
        assert_eq!(Checkpoint::newest(&bytes), Some(new));
        bytes[100] ^= 1;
        assert_eq!(Checkpoint::newest(&bytes), Some(old));
        assert_eq!(Checkpoint::newest(&bytes[..4000]), None);
    }
}
