//! Keeps one call inside its bounds. One vocabulary for all rooms.
//!
//! - [`Admission`]: how many may run and how many may wait, by priority and deadline.
//! - [`Breaker`]: stops asking a peer that keeps failing, and asks again after a while.
//! - [`Deadline`]: the moment by which an answer is wanted, handed down through every call that can wait.
//! - [`Inflate`], [`BoundedReader`]: decompress a stream that may be a bomb.
//! - [`RateLimit`]: how many calls a second, in every window.
//! - [`Retry`]: how often and how far apart to try again, with full jitter.

pub mod admission;
pub mod breaker;
pub mod deadline;
pub mod error;
pub mod inflate;
pub mod rate;
pub mod retry;

pub use admission::{Admission, Permit, Priority};
pub use breaker::Breaker;
pub use deadline::Deadline;
pub use error::{Error, Result};
pub use inflate::{BoundedReader, Inflate};
pub use rate::RateLimit;
pub use retry::{Retry, RetryBudget};
