//! The locks and atomics of the memory tier, in one place, so that a model checker can be put in their stead.

pub(crate) use parking_lot::Mutex;
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
