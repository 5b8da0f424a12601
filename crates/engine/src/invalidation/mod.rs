//! What makes cached values invalid, and how everyone agrees on what came before what.

pub mod dependencies;
pub mod facts;
pub mod links;
pub mod log;
pub mod markers;
pub mod patterns;
pub mod recent;
pub mod stamps;
pub mod sweep;
pub mod target;
