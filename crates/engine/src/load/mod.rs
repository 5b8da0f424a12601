//! How values come to be: flights, the background queue, the circuit breaker, timeouts and retries.
//!
//! Each module is a state machine without threads of its own; [`crate::engine`] holds them together and
//! [`crate::scheduler`] tells them the time.

pub mod breaker;
pub mod flights;
pub mod queue;
pub mod retry;
pub mod timers;
pub mod waits;
