//! Files for large values: `values/<number in hex>`, each written whole before the transaction that names it, and removed after
//! the one that no longer does. What a process that died has left is found by the sweep.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;

use super::layout::options;
use crate::tier::{TierError, TierErrorKind};

/// Envelopes above this are kept in files.
pub(super) const ASIDE: usize = 256 * 1024;

/// The directory of the files.
#[derive(Debug)]
pub(super) struct Values {
    path: PathBuf,
}

impl Values {
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&path)?;
        Ok(Self { path })
    }

    fn name(&self, file: u64) -> PathBuf {
        self.path.join(format!("{file:016x}"))
    }

    /// Writes a file under a name that nobody has used, and has it on disk. Its name.
    pub fn write(&self, envelope: &[u8]) -> io::Result<u64> {
        let file = fastrand::u64(1..);
        let name = self.name(file);
        let write = |out: &mut File| out.write_all(envelope).and_then(|()| out.sync_data());
        let written = options().create_new(true).open(&name).and_then(|mut out| write(&mut out));
        written.inspect_err(|_| self.remove(file)).map(|()| file)
    }

    /// Reads a file; none where it is no more.
    pub fn read(&self, file: u64, len: u64) -> Result<Option<Vec<u8>>, TierError> {
        let unavailable = |error: io::Error| {
            TierError::new(TierErrorKind::Unavailable, format!("tier 'disk': cannot read a large value: {error}"))
        };
        let opened = match File::open(self.name(file)) {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let mut bytes = Vec::with_capacity(len.min(1 << 25) as usize);
        opened.take(len + 1).read_to_end(&mut bytes).map_err(unavailable)?;
        Ok(Some(bytes))
    }

    /// Removes a file; the sweep finds what cannot be removed now.
    pub fn remove(&self, file: u64) {
        let _ = fs::remove_file(self.name(file));
    }

    /// The files that are there.
    pub fn all(&self) -> Vec<u64> {
        let Ok(entries) = fs::read_dir(&self.path) else { return Vec::new() };
        entries.flatten().filter_map(|entry| u64::from_str_radix(entry.file_name().to_str()?, 16).ok()).collect()
    }

    /// The first bytes of a file.
    pub fn beginning(&self, file: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.name(file))?.take(1024).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}
