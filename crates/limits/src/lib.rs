//! Keeps one call inside its bounds. One vocabulary for all rooms.
//!
//! - [`Admission`]: how many run at once and how many may wait, by priority.
//! - [`Deadline`]: the moment by which an answer is wanted, handed down through every call that can wait.
//! - [`Retry`]: how often and how far apart to try again, with full jitter.
//! - [`Breaker`]: stops asking a peer that keeps failing, and asks again after a while.

pub mod admission;
pub mod breaker;
pub mod deadline;
pub mod retry;

pub use admission::{Admission, Permit, Priority};
pub use breaker::Breaker;
pub use deadline::Deadline;
pub use retry::Retry;
