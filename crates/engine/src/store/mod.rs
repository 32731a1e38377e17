//! Tables on disk or in an object store: Delta Lake tables of sorted Parquet files, and the catalog of them.

pub mod file;
