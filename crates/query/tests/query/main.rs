//! SQL on made-up snapshots: Parquet files in a store in memory and runs of a buffer, in any overlap.

mod columns;
mod dedup;
mod duckdb;
mod external;
mod golden;
mod limits;
mod oracle;
mod past;
mod pruning;
mod rollup;
mod rollup_crash;
mod world;
