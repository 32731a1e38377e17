//! Keeps one call inside its bounds: deadline, retry with jitter, circuit breaker, rate limit, bounded decompression,
//! admission.

pub mod admission;

pub use admission::{Admission, Permit, Priority};
