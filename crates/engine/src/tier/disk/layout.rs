//! The directory of a store: whose it is, who uses it, and how a damaged one is set aside.
//!
//! | name | what |
//! |---|---|
//! | `format` | says that the directory is ours, and of which version it is |
//! | `open.lock` | held by who opens, and by who changes what others have open |
//! | `use.lock` | shared by all who have it open, and released by the system when one dies |
//! | `data.mdb`, `lock.mdb` | the LMDB environment |
//! | `checkpoint`, `checkpoint.lock`, `pins` | what of it is on disk, and who keeps it so |
//! | `stamps` | the head of the log, mapped by all |
//! | `values` | files of large values |

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::rows::FORMAT;
use crate::tier::{TierError, TierErrorKind, unix_now};

pub(super) const STAMPS: &str = "stamps";
pub(super) const VALUES: &str = "values";
pub(super) const DATA: &str = "data.mdb";
pub(super) const LOCK: &str = "lock.mdb";
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const PINS: &str = "pins";
const MARK: &str = "format";
const OPEN_LOCK: &str = "open.lock";
const USE_LOCK: &str = "use.lock";
/// What is set aside together.
const STORE: [&str; 5] = [DATA, LOCK, CHECKPOINT, STAMPS, VALUES];

/// An error about the path.
pub(super) fn refuse(path: &Path, why: &str) -> TierError {
    TierError::new(TierErrorKind::Refused, format!("tier 'disk', option 'path' ('{}'): {why}", path.display()))
}

/// What the system said about something at the path.
pub(super) fn failed(path: &Path, what: &str, error: &io::Error) -> TierError {
    let kind = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory => {
            TierErrorKind::Refused
        }
        _ => TierErrorKind::Unavailable,
    };
    TierError::new(kind, format!("tier 'disk', option 'path' ('{}'): cannot {what}: {error}", path.display()))
}

/// A directory of ours, held open.
#[derive(Debug)]
pub(super) struct Layout {
    pub path: PathBuf,
    /// Held shared.
    in_use: Held,
}

/// Makes the directory, or takes it if it is ours. Nothing of anybody else's is touched.
///
/// # Errors
/// If it is not ours, of a later version, or the system refuses.
pub(super) fn claim(path: &Path) -> Result<PathBuf, TierError> {
    match fs::metadata(path) {
        Ok(there) if !there.is_dir() => return Err(refuse(path, "it is there and is no directory")),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(path).map_err(|e| failed(path, "make the directory", &e))?;
        }
        Err(error) => return Err(failed(path, "look at it", &error)),
    }
    let path = path.canonicalize().map_err(|e| failed(path, "look at it", &e))?;
    check_mark(&path)?;
    Ok(path)
}

/// Whether the directory is marked as ours; one that is empty but for our locks is to be.
fn check_mark(path: &Path) -> Result<bool, TierError> {
    match fs::read_to_string(path.join(MARK)) {
        Ok(mark) => {
            let version = mark.strip_prefix("kvcache disk tier, format ").and_then(|rest| rest.trim().parse().ok());
            match version {
                Some(FORMAT) => Ok(true),
                Some(later @ 1..) => Err(later_version(path, later)),
                _ => Err(refuse(path, "the directory holds something else, which was left untouched")),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            for entry in fs::read_dir(path).map_err(|e| failed(path, "list the directory", &e))? {
                let name = entry.map_err(|e| failed(path, "list the directory", &e))?.file_name();
                let ours = [OPEN_LOCK, "format.new", MARK].iter().any(|ours| name == *ours);
                // What is there now may be ours if the mark has come meanwhile.
                if !ours && !path.join(MARK).exists() {
                    return Err(refuse(path, "the directory holds something else, which was left untouched"));
                }
            }
            Ok(false)
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(refuse(path, "the directory holds something else, which was left untouched"))
        }
        Err(error) => Err(failed(path, "read the file 'format'", &error)),
    }
}

/// The error for a store that a later release has made.
pub(super) fn later_version(path: &Path, version: u32) -> TierError {
    let why = format!("the store is of format {version}, and this release reads up to {FORMAT}; choose another path");
    refuse(path, &why)
}

/// A file of ours, for the owner alone.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

impl Layout {
    /// Enters a [claimed](claim) directory: what is given is held while the store is opened, and keeps others from it.
    ///
    /// # Errors
    /// If another keeps us from it for longer than `patience`, or the system refuses.
    pub fn enter(path: &Path, patience: Duration) -> Result<(Self, Held), TierError> {
        let deadline = Instant::now() + patience;
        let opening = Held::wait(&path.join(OPEN_LOCK), true, deadline).map_err(|e| failed(path, "lock it", &e))?;
        if !check_mark(path)? {
            let mark = || {
                let new = path.join("format.new");
                let mut file = options().truncate(true).open(&new)?;
                writeln!(file, "kvcache disk tier, format {FORMAT}")?;
                file.sync_all()?;
                fs::rename(new, path.join(MARK))
            };
            mark().map_err(|e| failed(path, "write the file 'format'", &e))?;
        }
        let in_use = Held::wait(&path.join(USE_LOCK), false, deadline).map_err(|e| failed(path, "lock it", &e))?;
        Ok((Self { path: path.to_path_buf(), in_use }, opening))
    }

    /// Does something while nobody else has the store open; `opening` is held. None if somebody has.
    pub fn alone<T>(&mut self, _opening: &Held, work: impl FnOnce(&Path) -> T) -> Result<Option<T>, TierError> {
        let name = self.path.join(USE_LOCK);
        let lost = |e: io::Error| failed(&self.path, "lock it", &e);
        self.in_use = Held::none();
        let alone = match Held::wait(&name, true, Instant::now()) {
            Ok(held) => Some(held),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => return Err(lost(error)),
        };
        let done = alone.is_some().then(|| work(&self.path));
        drop(alone);
        self.in_use = Held::wait(&name, false, Instant::now() + Duration::from_secs(5)).map_err(lost)?;
        Ok(done)
    }

    /// Moves what the store consists of to a directory beside it, or in it where that is not allowed. Where to.
    pub fn set_aside(path: &Path) -> Result<PathBuf, TierError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let beside = path.with_file_name(format!("{name}.damaged-{}", unix_now()));
        let within = path.join(format!("damaged-{}", unix_now()));
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        let made = [beside, within].into_iter().map(|aside| (builder.create(&aside), aside));
        let mut last = io::Error::from(ErrorKind::NotFound);
        for (made, aside) in made {
            let moved = made.and_then(|()| {
                STORE
                    .iter()
                    .filter(|name| path.join(name).exists())
                    .try_for_each(|name| fs::rename(path.join(name), aside.join(name)))
            });
            match moved {
                Ok(()) => return Ok(aside),
                Err(error) => last = error,
            }
        }
        Err(failed(path, "set the damaged store aside", &last))
    }
}

/// A lock on a file, released when it is dropped, or its process dies.
#[derive(Debug)]
pub(super) struct Held {
    _file: Option<File>,
}

impl Held {
    fn none() -> Self {
        Self { _file: None }
    }

    /// Whether nobody has that lock. It is not made.
    pub fn is_free(name: &Path) -> bool {
        !name.exists() || lock(name, false).is_ok()
    }

    /// Waits for the lock until then.
    pub fn wait(name: &Path, alone: bool, deadline: Instant) -> io::Result<Self> {
        loop {
            match lock(name, alone) {
                Ok(file) => return Ok(Self { _file: Some(file) }),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(unix)]
fn lock(name: &Path, alone: bool) -> io::Result<File> {
    use std::os::fd::AsRawFd;

    let file = options().open(name)?;
    let how = if alone { libc::LOCK_EX } else { libc::LOCK_SH } | libc::LOCK_NB;
    // SAFETY: the descriptor is open, as `file` owns it.
    match unsafe { libc::flock(file.as_raw_fd(), how) } {
        0 => Ok(file),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A file that is open without sharing cannot be opened by another.
#[cfg(windows)]
fn lock(name: &Path, alone: bool) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;

    const SHARED: u32 = 1 | 2;
    const SHARING_VIOLATION: i32 = 32;
    let opened = options().share_mode(if alone { 0 } else { SHARED }).open(name);
    opened.map_err(|error| match error.raw_os_error() {
        Some(SHARING_VIOLATION) => ErrorKind::WouldBlock.into(),
        _ => error,
    })
}
