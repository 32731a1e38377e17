//! The batch of one input that is being merged, and where in it the merge stands.

use std::cmp::Ordering;
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::{partition, take};
use arrow::datatypes::TimestampNanosecondType;
use arrow::error::ArrowError;
use arrow::row::Rows;

use super::Keys;

/// A batch cut into runs of one series, and the row that comes next.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) batch: RecordBatch,
    pub(super) row: usize,
    /// Place of the batch in an output batch, once a row of it was used: which output batch, and where in it.
    pub(super) slot: Option<(usize, usize)>,
    /// What the rows take, bytes.
    pub(super) bytes: usize,
    times: ScalarBuffer<i64>,
    runs: Vec<Range<usize>>,
    run: usize,
    /// One comparable form a run; none when the table has no tags.
    series: Option<Rows>,
}

impl Head {
    pub(super) fn new(batch: RecordBatch, keys: &Keys) -> Result<Self, ArrowError> {
        let times = batch.column(keys.time).as_primitive_opt::<TimestampNanosecondType>();
        let times = times.ok_or_else(|| ArrowError::SchemaError("time is not timestamp(ns)".to_owned()))?.values();
        let tags: Vec<ArrayRef> = keys.tags.iter().map(|&tag| std::sync::Arc::clone(batch.column(tag))).collect();
        let (runs, series) = match &keys.converter {
            None => (std::iter::once(0..batch.num_rows()).collect(), None),
            Some(converter) => {
                let runs = partition(&tags)?.ranges();
                let series = if runs.len() == batch.num_rows() {
                    converter.convert_columns(&tags)?
                } else {
                    let firsts: UInt64Array = runs.iter().map(|run| Some(run.start as u64)).collect();
                    let firsts = tags.iter().map(|tag| take(tag, &firsts, None)).collect::<Result<Vec<_>, _>>()?;
                    converter.convert_columns(&firsts)?
                };
                (runs, Some(series))
            }
        };
        let bytes = batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum();
        Ok(Self { times: times.clone(), runs, run: 0, row: 0, slot: None, series, bytes, batch })
    }

    pub(super) fn rows(&self) -> usize {
        self.times.len()
    }

    /// Compares the keys of the rows that come next.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.series(self.run).cmp(other.series(other.run)).then_with(|| self.time().cmp(&other.time()))
    }

    /// The end of the rows that lie before the next row of `bound`; the next row of `self` must be one of them.
    pub(super) fn stretch(&self, bound: &Self) -> usize {
        let series = bound.series(bound.run);
        if self.series(self.runs.len() - 1) < series {
            return self.rows();
        }
        let run = self.run + gallop(self.runs.len() - self.run, |step| self.series(self.run + step) < series);
        let Range { start, end } = self.runs[run].clone();
        let start = start.max(self.row);
        if self.series(run) != series {
            return start;
        }
        let (times, time) = (&self.times[start..end], bound.time());
        start + gallop(times.len(), |step| times[step] < time)
    }

    /// Goes to a later row; `false` when there is none.
    pub(super) fn advance(&mut self, row: usize) -> bool {
        debug_assert!(row > self.row, "a merge goes forward");
        self.row = row;
        while self.run < self.runs.len() && self.runs[self.run].end <= row {
            self.run += 1;
        }
        row < self.rows()
    }

    fn series(&self, run: usize) -> &[u8] {
        self.series.as_ref().map_or(&[], |rows| rows.row(run).data())
    }

    fn time(&self) -> i64 {
        self.times[self.row]
    }
}

/// How many of `len` steps from the first satisfy `holds`, which is true up to a point and false after it: few comparisons
/// when that point is near.
fn gallop(len: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut width) = (0, 1);
    while low + width <= len && holds(low + width - 1) {
        low += width;
        width *= 2;
    }
    let mut high = (low + width - 1).min(len);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::gallop;

    #[test]
    fn gallop_finds_the_point() {
        for len in 0..70 {
            for point in 0..=len {
                assert_eq!(gallop(len, |step| step < point), point, "{point} of {len}");
            }
        }
    }
}
