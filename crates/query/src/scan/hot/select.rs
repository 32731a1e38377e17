//! Which rows of a row group pass the filters that need not look at rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use datafusion::common::{Result, internal_err};
use weir_engine::read::Times;

use super::column::Rows;
use super::filter::{Filters, TIME_INDEX, ask};
use super::load::UnitColumns;
use super::{HotColumn, HotFiles};

/// Two cache lines of times.
const NEWEST_ROWS: usize = 16;

/// The times of a row group and where they ascend.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretches<'a> {
    pub(crate) times: &'a [i64],
    pub(crate) starts: &'a [u32],
}

impl<'a> Stretches<'a> {
    pub(crate) fn of(columns: &'a UnitColumns) -> Result<Self> {
        let HotColumn::Time { times, stretches } = columns.get(TIME_INDEX)? else {
            return internal_err!("time is no column of times");
        };
        Ok(Self { times: times.values(), starts: stretches })
    }

    /// Calls `each` with the rows of each stretch among `rows`.
    pub(crate) fn each(&self, rows: &Rows, mut each: impl FnMut(Rows)) {
        let mut next = self.starts.partition_point(|start| *start <= rows.start);
        let mut from = rows.start;
        while from < rows.end {
            let end = self.starts.get(next).copied().unwrap_or(rows.end).min(rows.end);
            each(from..end);
            (next, from) = (next + 1, end);
        }
    }

    /// The rows of one stretch, or a part of it, that lie within `times`.
    pub(crate) fn within(&self, rows: Rows, times: &Times) -> Rows {
        if times.is_empty() || rows.is_empty() {
            return rows.start..rows.start;
        }
        let of = &self.times[rows.start as usize..rows.end as usize];
        // Rows that are far apart in memory cost most: none is looked at that need not be.
        let from = match *times.start() {
            i64::MIN => 0,
            first => first_at(of, first),
        };
        let to = match *times.end() {
            i64::MAX => of.len(),
            last if of[of.len() - 1] <= last => of.len(),
            last => of.partition_point(|time| *time <= last),
        };
        rows.start + from as u32..rows.start + to.max(from) as u32
    }
}

/// How many of ascending times are before `first`. Questions are mostly about the newest rows, so these are looked at first.
fn first_at(times: &[i64], first: i64) -> usize {
    let newest = times.len().saturating_sub(NEWEST_ROWS);
    match times[newest] < first {
        true => newest + times[newest..].partition_point(|time| *time < first),
        false => times[..newest].partition_point(|time| *time < first),
    }
}

/// Rows of `rows` whose tags pass, ascending.
pub(super) fn passing(files: &HotFiles, columns: &UnitColumns, filters: &Filters, rows: Rows) -> Result<Vec<Rows>> {
    let mut passing = vec![rows];
    for (column, filter) in &filters.tags {
        let tag = columns.get(*column)?;
        let HotColumn::Tag { values, .. } = tag else { return internal_err!("column {column} is no tag") };
        let alone = Arc::new(files.schema.project(&[*column])?);
        let batch = RecordBatch::try_new(alone, vec![Arc::new(values.clone()) as ArrayRef])?;
        let answers = ask(filter, &batch)?;
        debug_assert_eq!(answers.len(), values.len());
        let mut kept: Vec<Rows> = Vec::new();
        for rows in &passing {
            tag.each_run(rows, |run, rows| {
                if !answers.value(run as usize) {
                    return;
                }
                match kept.last_mut() {
                    Some(last) if last.end == rows.start => last.end = rows.end,
                    _ => kept.push(rows),
                }
            });
        }
        passing = kept;
    }
    Ok(passing)
}

/// What of `rows` lies within `times`, ascending; each range lies within one stretch.
pub(super) fn within(columns: &UnitColumns, rows: &[Rows], times: &Times) -> Result<Vec<Rows>> {
    let stretches = Stretches::of(columns)?;
    let mut selected = Vec::with_capacity(rows.len());
    for rows in rows {
        stretches.each(rows, |rows| {
            let rows = stretches.within(rows, times);
            if !rows.is_empty() {
                selected.push(rows);
            }
        });
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_stretch_within_times_are_found() {
        let times: Vec<i64> = (0..100).map(|row| row * 10).collect();
        for rows in [0..100_u32, 3..5, 50..100, 90..91] {
            for first in (-15..1020).step_by(5).chain([i64::MIN, i64::MAX]) {
                for last in [i64::MIN, -1, 0, 35, 899, 900, 990, i64::MAX] {
                    let stretches = Stretches { times: &times, starts: &[0] };
                    let found = stretches.within(rows.clone(), &(first..=last));
                    let wanted: Vec<u32> =
                        rows.clone().filter(|row| (first..=last).contains(&times[*row as usize])).collect();
                    assert_eq!(found.collect::<Vec<_>>(), wanted, "{rows:?} {first}..={last}");
                }
            }
        }
    }
}
