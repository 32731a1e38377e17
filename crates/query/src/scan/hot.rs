//! Scans of files through a cache of decoded columns: what was read before is neither fetched nor decoded again.
//!
//! A file never changes once it is committed, so a column of one of its row groups, decoded once, is right for as long as anything names
//! the file (C1: the cache is a matter of speed). Files are sorted by tags and time, which the decoded form keeps: a tag is a value for each
//! run of rows ([`mod@column`]), times ascend in stretches. A predicate on a tag is therefore asked once a run and a bound of time is found by
//! halving ([`select`]); only a predicate on a field looks at rows, and only then are the other columns touched.
//!
//! A scan takes this way when its columns are a small enough part of the cache ([`HotFiles::fits`]), or when it needs few of its row groups
//! (the newest first: [`HotSource::narrowed`]); else it reads Parquet as it comes ([`Spare`]).
//! Only parts that nothing overlaps are read so: every filter, and every limit, may sink into the scan.

mod cache;
mod column;
mod cursor;
mod filter;
mod load;
mod select;
mod source;
mod spare;

pub(crate) use cache::ColumnCache;
pub(crate) use column::{HotColumn, Rows};
pub(crate) use load::{HotFiles, Unit, UnitColumns};
pub(crate) use select::Stretches;
pub(crate) use source::{HotSource, Selected, Selection};
pub(crate) use spare::Spare;
