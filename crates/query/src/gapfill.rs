//! Gap filling: a grouped query whose key is `date_bin_gapfill` or `time_bucket_gapfill` has a row for every bucket.
//!
//! 1. [`mod@markers`] are the functions as a query names them. They compute nothing: they only tell where to fill.
//! 2. [`rule`] runs before every other rule of the optimizer. It finds the markers, takes the range of time from the
//!    predicates of the query ([`bounds`]) and puts a [`GapFill`] over the grouping.
//! 3. [`exec`] runs it: a stream over rows in the order of (other keys, bucket) that holds a few batches at most.
//!
//! A series (one value of the other keys) is filled only if it has a row in the range, as GROUP BY makes no group of
//! nothing.

mod bounds;
mod exec;
mod fill;
mod lookahead;
mod markers;
mod node;
mod rule;
#[cfg(test)]
mod tests;

pub(crate) use bounds::Bounds;
pub(crate) use exec::GapFillExec;
pub(crate) use markers::markers;
pub(crate) use node::{Fill, GapFill, Range};
pub(crate) use rule::GapFillRule;
