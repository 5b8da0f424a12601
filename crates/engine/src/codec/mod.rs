//! How values become stored bytes, and back.
//!
//! [`compress`] makes large values smaller. Serialization is none of its business: it happens where the values live.

pub mod compress;

pub use compress::{Algorithm, Compressor, Error};
pub mod workshop;
