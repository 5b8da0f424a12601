//! The tier that is a directory on this machine, shared by all processes that open it: an LMDB environment
//! (<http://www.lmdb.tech/doc/>), and a page of memory that they share.
//!
//! - [`layout`] is the directory: whose it is, and who uses it; [`opening`] opens it. [`store`] has the databases, and what is read from them; [`rows`]
//!   says what lies in these, byte by byte. [`values`] are files for what is large.
//! - [`queue`] has the one thread that writes, [`writing`] is what a transaction does, [`known`] what it judges loads by, and
//!   [`sweep`] what the store does for itself.
//! - [`head`] is the shared page, and [`watch`] what one tier object knows of the log. [`tier`] puts it all under the contract.
//!
//! *One log.* Its numbers are given within LMDB's transactions, of which there is one at a time among all processes. What a call
//! has changed is committed, and the head raised, before it answers: whoever looks at the head later sees that there is something
//! to see.
//!
//! *What lasts.* What was answered survives the end of the process, however it ends: it is in the system's memory. What was there
//! at a `flush()` survives the end of the machine, too, and so does the store as a whole, as it was at the last of the
//! [`checkpoint`]s, which are a second apart.
//!
//! *What is read where.* A value of up to 32 KiB is read on the calling thread ([`crate::tier::Tier::get_now`]): it is a look-up in
//! memory that the system fills, without a system call, and a thread's hop costs ten times as much (`benches/disk.rs`). What is larger, or in a file, goes to a
//! thread that may wait.

mod checkpoint;
mod head;
mod known;
mod layout;
mod opening;
mod queue;
mod rows;
mod store;
mod sweep;
mod tier;
mod values;
mod watch;
mod writing;

use std::path::PathBuf;
use std::time::Duration;

pub use self::tier::DiskTier;

/// Bytes that a store takes unless told otherwise: 1 GiB.
pub const MAX_SIZE: u64 = 1 << 30;

/// The least it can be told to take: 1 MiB. The page of shared memory, 1 MiB, comes on top.
pub const LEAST_SIZE: u64 = 1 << 20;

/// How a store is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; made if it is not there. On a disk of this machine: LMDB does not work over a network.
    pub path: PathBuf,
    /// Bytes that it takes at most, [`LEAST_SIZE`] or more; see [`MAX_SIZE`]. Where processes differ each keeps to its own, so that the
    /// least counts; within a process the largest does.
    pub max_size: u64,
    /// How long opening waits for others that open it; see [`crate::tier::TIMEOUT`].
    pub timeout: Duration,
}
