//! Rollups: which queries they answer, how they are written down, and how they are brought up to date.
//!
//! - `words`: `CREATE ROLLUP`, `REFRESH ROLLUP` and what else is said of them.
//! - `shape`: what a grouping asks for, where it is one that a rollup could answer; a rollup is defined by such a grouping.
//! - `rewrite`: the rule that puts a rollup under a grouping, with the table itself where the rollup is not right.
//! - `spans`: sets of times.
//! - `refresh`: sums up again what changed.
//!
//! A rollup never decides what is true. It is used for those buckets alone of which the snapshot of the query itself shows that
//! nothing in them changed since they were summed up; the choice and the reasons are in `docs/adr/rollups.md`.

mod refresh;
mod rewrite;
mod shape;
mod spans;
mod words;

pub use refresh::Refreshed;
pub(crate) use rewrite::{Candidate, rewrite};
pub(crate) use shape::define;
pub use words::{RollupStatement, parse};
