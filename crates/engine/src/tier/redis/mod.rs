//! The tier that is Redis (or Valkey): one node, a master that sentinels know, or a cluster.
//!
//! - [`settings`] says where; [`link`] is a connection that comes back by itself.
//! - [`reads`] joins the reads of one moment; [`writes`] numbers and stores what is written; [`list`] lists.
//! - [`feed`] is the log: the stream of facts, which every process reads; [`recent`] is what it said lately.
//! - [`leases`] are leases.
//! - [`scripts`] is the Lua that Redis runs; [`wire`] is how things lie in Redis.
//!
//! # What makes it coherent
//!
//! All numbers are from one counter in Redis, which gives a number and appends the fact to the stream in one step.
//!
//! *On one node* a write is one step: number, fact and value. *In a cluster* the value lies in another slot than the log, so there
//! are three: the key is marked as being written, the fact is appended, and the value lands with the fact's number, unless there is a
//! larger one already. While the mark is there no load is stored, so that none which began before the value landed takes its place; a mark
//! whose writer died is over after 15 s. Between the second and the third step a reader may know of the fact and find the value that
//! was before: a value whose number is smaller than that of the newest fact of its key is not given.
//!
//! *A load* is stored by a compare: it carries the number at which it began, and is left out where a larger one is, a mark is, or
//! a fact that is known here cuts it. A deleted key keeps its number for 15 s, for loads that began before. That is longer than
//! a process can be behind the log without noticing.
//!
//! *The call that wrote* answers when its own fact has been told, so that whoever continues after it sees the log beyond it.

mod feed;
mod leases;
mod link;
mod list;
mod reads;
mod recent;
mod scripts;
mod settings;
mod store;
mod wire;
mod writes;

pub use self::settings::{PREFIX, Settings};
pub use self::store::RedisTier;
