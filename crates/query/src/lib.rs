//! Runs SQL on an engine snapshot; the only crate that knows DataFusion's SQL side.
//!
//! [`SqlEngine`] admits a statement, takes one snapshot of each table that it names (Q1), plans it with DataFusion over
//! `scan` and streams its rows; `encode` turns them into JSON, CSV, Parquet or text.

mod asof;
mod calendar;
mod catalog;
pub mod change;
mod count;
pub mod encode;
mod error;
pub mod external;
mod functions;
mod gapfill;
mod memory;
mod past;
mod planner;
mod predicate;
pub mod rollup;
mod running;
mod runs;
mod scan;
mod scope;
mod session;
mod settings;
mod show;
mod slow;
mod sql;
mod statement;
#[cfg(test)]
mod tests;

pub use datafusion::common::ScalarValue;
pub use encode::{Encoding, encode};
pub use error::{Error, Result};
pub use running::{Answer, RunningQuery};
pub use settings::Settings;
pub use sql::{Request, SqlEngine};
