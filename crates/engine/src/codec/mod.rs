//! How values become stored bytes, and back.
//!
//! [`compress`] makes large values smaller; [`envelope`] puts an entry into bytes for the tiers that keep bytes.
//! Serialization is none of its business: it happens where the values live.

pub mod compress;
pub mod envelope;

pub use compress::{Algorithm, Compressor, Error};
pub mod workshop;
