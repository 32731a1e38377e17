//! Keeps one call inside its bounds: deadline, retry with jitter, circuit breaker, rate limit, bounded decompression,
//! admission.

pub mod admission;
pub mod error;
pub mod inflate;

pub use admission::{Admission, Permit, Priority};
pub use error::{Error, Result};
pub use inflate::{BoundedReader, Budget, Encoding, Inflate, InflateLimits};
