//! Turns work into progress and timing events and into honest statistics (M1); never touches terminal or disk.
//!
//! ```
//! use std::sync::Arc;
//! use weir_track::{Limits, Row, Tracker};
//!
//! let tracker = Tracker::new(Arc::new(weir_base::SystemClock::default()), "example", Limits::default());
//! let mut flush = tracker.start("flush", &[("table", "cpu")]);
//! flush.items(1000);
//! flush.finish(); // dropped without this, it failed
//! tracker.drain(|row| {
//!     let Row::Finished(row) = row else { unreachable!() };
//!     assert_eq!((row.name.as_str(), row.count, row.failures, row.items), ("flush", 1, 0, Some(1000)));
//! });
//! ```

pub mod cells;
pub mod change;
pub mod compare;
mod error;
pub mod html;
pub mod import;
mod interleaved;
pub mod progress;
pub mod random;
pub mod recommend;
pub mod report;
pub mod row;
pub mod simulate;
pub mod sketch;
pub mod tracker;

pub use error::{Error, Result};
pub use progress::Progress;
pub use row::{Finished, Labels, Row, Sampled, Started};
pub use tracker::{Limits, OperationKind, Running, Tracker};
