//! What makes cached values invalid, and how everyone agrees on what came before what.

pub mod log;
pub mod stamps;
