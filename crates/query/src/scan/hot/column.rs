//! Columns of a row group as a scan keeps them: decoded, with what their order tells.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, PrimitiveArray, StringViewArray, TimestampNanosecondArray, UInt32Array,
    new_null_array,
};
use arrow::compute::{cast, concat, take};
use arrow::datatypes::{ArrowDictionaryKeyType, DataType, Int32Type, TimestampNanosecondType};
use datafusion::common::{Result, internal_err};

/// Rows of a row group, by number.
pub(crate) type Rows = Range<u32>;

/// A decoded column of one row group.
#[derive(Debug)]
pub(crate) enum HotColumn {
    /// `time`, nanoseconds UTC. `stretches` are the rows at which it does not ascend, 0 first: between two of them it does, strictly.
    Time { times: TimestampNanosecondArray, stretches: Vec<u32> },
    /// A tag: a value for each run of rows. Run `i` begins at row `starts[i]`; 0 is the first, neighbours may be equal.
    Tag { starts: Vec<u32>, values: StringViewArray },
    /// Any other column.
    Field(ArrayRef),
}

impl HotColumn {
    pub(super) fn time(times: &ArrayRef) -> Result<Self> {
        let Some(times) = times.as_primitive_opt::<TimestampNanosecondType>() else {
            return internal_err!("time is read as {}", times.data_type());
        };
        let all = times.values();
        let breaks = (1..all.len()).filter(|&row| all[row] <= all[row - 1]).map(|row| row as u32);
        let stretches = std::iter::once(0).chain(breaks).collect();
        Ok(Self::Time { times: times.clone(), stretches })
    }

    /// From the keys and values of a dictionary, which is how tags are read.
    pub(super) fn tag(array: &ArrayRef) -> Result<Self> {
        let Some(tags) = array.as_dictionary_opt::<Int32Type>() else {
            return internal_err!("a tag is read as {}", array.data_type());
        };
        let starts = runs(tags);
        let firsts = UInt32Array::from(starts.clone());
        let values = cast(&take(tags, &firsts, None)?, &DataType::Utf8View)?;
        // A copy without the texts that no run has.
        let values = values.as_string_view().gc();
        Ok(Self::Tag { starts, values })
    }

    /// A tag that no row of the file has.
    pub(super) fn no_tag() -> Self {
        Self::Tag { starts: vec![0], values: StringViewArray::new_null(1) }
    }

    /// A field that no row of the file has.
    pub(super) fn no_field(of: &DataType, rows: u32) -> Self {
        Self::Field(new_null_array(of, rows as usize))
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Time { times, stretches } => times.get_array_memory_size() + stretches.capacity() * size_of::<u32>(),
            Self::Tag { starts, values } => values.get_array_memory_size() + starts.capacity() * size_of::<u32>(),
            Self::Field(array) => array.get_array_memory_size(),
        }
    }

    /// All rows as an array; of a tag there is none.
    pub(crate) fn whole(&self) -> Result<ArrayRef> {
        match self {
            Self::Time { times, .. } => Ok(Arc::new(times.clone())),
            Self::Field(array) => Ok(Arc::clone(array)),
            Self::Tag { .. } => internal_err!("a tag has no array of its rows"),
        }
    }

    /// Some rows, which ascend, as a column of their own.
    pub(super) fn part(&self, rows: &[Rows]) -> Result<Self> {
        if let Self::Tag { .. } = self {
            let (mut starts, mut at, mut end) = (Vec::new(), Vec::new(), 0);
            for rows in rows {
                self.each_run(rows, |run, rows| {
                    starts.push(end);
                    at.push(run);
                    end += rows.len() as u32;
                });
            }
            let values = self.of_runs(at)?.as_string_view().clone();
            return Ok(Self::Tag { starts, values });
        }
        let parts = rows.iter().map(|rows| self.slice(rows)).collect::<Result<Vec<_>>>()?;
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        let array = concat(&parts)?;
        match self {
            Self::Time { .. } => Self::time(&array),
            _ => Ok(Self::Field(array)),
        }
    }

    /// Rows side by side as an array.
    pub(crate) fn slice(&self, rows: &Rows) -> Result<ArrayRef> {
        let (start, length) = (rows.start as usize, rows.len());
        Ok(match self {
            Self::Time { times, .. } => Arc::new(times.slice(start, length)),
            Self::Field(array) => array.slice(start, length),
            Self::Tag { .. } => {
                let mut at = Vec::with_capacity(length);
                self.each_run(rows, |run, rows| at.resize(at.len() + rows.len(), run));
                self.of_runs(at)?
            }
        })
    }

    /// Rows as an array, in the order given.
    pub(crate) fn take(&self, rows: &UInt32Array) -> Result<ArrayRef> {
        Ok(match self {
            Self::Time { times, .. } => take(times, rows, None)?,
            Self::Field(array) => take(array, rows, None)?,
            Self::Tag { starts, .. } => {
                let mut at = Vec::with_capacity(rows.len());
                // Rows mostly come run by run.
                let (mut run, mut of_run) = (0, 0..0);
                for row in rows.values() {
                    if !of_run.contains(row) {
                        run = run_of(starts, *row);
                        of_run = starts[run]..starts.get(run + 1).copied().unwrap_or(u32::MAX);
                    }
                    at.push(run as u32);
                }
                self.of_runs(at)?
            }
        })
    }

    /// The values of runs of a tag, one for each number.
    pub(crate) fn of_runs(&self, at: Vec<u32>) -> Result<ArrayRef> {
        let Self::Tag { values, .. } = self else { return internal_err!("only tags have runs") };
        Ok(take(values, &UInt32Array::from(at), None)?)
    }

    /// Calls `each` with the number of each run of a tag that has rows among `rows`, and these.
    pub(crate) fn each_run(&self, rows: &Rows, mut each: impl FnMut(u32, Rows)) {
        let Self::Tag { starts, .. } = self else { return };
        let (mut run, mut from) = (run_of(starts, rows.start), rows.start);
        while from < rows.end {
            let end = starts.get(run + 1).copied().unwrap_or(rows.end).min(rows.end);
            each(run as u32, from..end);
            (run, from) = (run + 1, end);
        }
    }
}

/// The run that has the row.
fn run_of(starts: &[u32], row: u32) -> usize {
    starts.partition_point(|start| *start <= row).saturating_sub(1)
}

/// The rows at which a key differs from the one before.
fn runs<K: ArrowDictionaryKeyType>(tags: &DictionaryArray<K>) -> Vec<u32> {
    let keys: &PrimitiveArray<K> = tags.keys();
    let values = keys.values();
    let mut starts = Vec::new();
    if !values.is_empty() {
        starts.push(0);
    }
    match keys.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => starts.extend((1..values.len()).filter(|&row| values[row] != values[row - 1]).map(|row| row as u32)),
        Some(nulls) => {
            let same = |row: usize| match (nulls.is_valid(row), nulls.is_valid(row - 1)) {
                (true, true) => values[row] == values[row - 1],
                (mine, other) => mine == other,
            };
            starts.extend((1..values.len()).filter(|&row| !same(row)).map(|row| row as u32));
        }
    }
    starts.shrink_to_fit();
    starts
}
