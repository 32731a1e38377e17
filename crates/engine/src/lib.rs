//! Takes points in and keeps them safe: ingest, WAL, buffer, Delta store, compaction, recovery.
//!
//! The flow of a write: `lp` parses text into [`rows`]; the WAL appends them to the journal; the buffer shows them to
//! queries; flush sorts them into Parquet and commits them to a Delta table of the `store`.

mod background;
pub mod chunk;
pub mod compact;
pub mod config;
pub mod dictionary;
mod drop;
pub mod engine;
pub mod error;
pub mod external;
pub mod flush;
pub mod ingest;
pub mod lp;
pub mod memory;
pub mod merge;
pub mod names;
pub mod operations;
mod overlap;
mod pace;
pub mod past;
pub mod read;
mod recover;
pub mod rewrite;
pub mod rollup;
pub mod rows;
mod run;
pub mod schema;
pub mod series;
mod slices;
pub mod sort;
pub mod spool;
pub mod store;
pub mod table;
mod upkeep;
mod vacuum;
pub mod wal;
mod windows;

pub use engine::Engine;
pub use error::{Error, Result};
