//! How values come to be: flights, the background queue, the circuit breaker, timeouts and retries.

pub mod breaker;
