//! The addon: hands what JavaScript says to the engine, and what the engine says to JavaScript. It holds no policy.
//!
//! Calls are free functions with a small integer for the cache, for they cost a tenth of a class method. Numbers travel
//! in a `Float64Array` that JavaScript shares with this thread once ([`thread::init`]), so that a call need not convert
//! or create objects. What a function leaves there is said in [`header`].
//!
//! Everything here runs on the JavaScript thread that called; the one thing that other threads do is to ring
//! ([`mailbox`]).

mod admin;
mod header;
mod invalidating;
mod loading;
mod mailbox;
mod near;
mod publishing;
mod raw;
mod reading;
mod registry;
mod shared;
mod thread;
mod tiers;
mod writing;
