//! Merged rows that are too many for one file, as files that follow each other in time.
//!
//! Merged rows come series by series. Cut where a file is full, each file would hold some series over all of the time: by what is known of
//! files (the least and largest value of each tag) they would seem to share keys, be merged whenever they are read, and be chosen for
//! merging again without end. Cut by time they share nothing that anybody could mistake, and what is asked of an hour is in one or two.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampNanosecondType;
use futures::StreamExt;
use weir_base::Kind;

use crate::error::{Error, Result};
use crate::pace::Pace;
use crate::rewrite::{merged_files, sub_micro};
use crate::schema::SchemaRef;
use crate::store::file::DataFile;
use crate::store::{NewFile, Table};
use crate::windows;

/// Files that are written at the same time, at most: what is encoded of each is held until it is whole. For more, inputs are read again.
const AT_ONCE: usize = 8;
/// Cuts are at whole seconds: what Delta's statistics say of times is less exact than what rows hold.
const GRAIN_NS: i64 = 1_000_000_000;

/// Writes the merged rows of files, which come oldest first, to files of about `rows_max` rows that do not overlap in time. Inputs that are
/// open at once take about `bytes_max`.
pub(crate) async fn write(
    table: &Table,
    schema: &SchemaRef,
    inputs: &[Arc<DataFile>],
    rows_max: usize,
    bytes_max: u64,
    pace: &Pace,
) -> Result<Vec<NewFile>> {
    let mut bounds = cuts(inputs, rows_max);
    bounds.insert(0, i64::MIN);
    let within = |from: i64, end: Option<i64>| {
        let within = move |file: &&Arc<DataFile>| file.time_max >= from && end.is_none_or(|end| file.time_min < end);
        inputs.iter().filter(within).cloned().collect::<Vec<_>>()
    };
    let mut files = Vec::new();
    let mut first = 0;
    while first < bounds.len() {
        let fits = |count: &usize| {
            windows::bytes(&within(bounds[first], bounds.get(first + count).copied()), schema) <= bytes_max
        };
        let count = (1..=AT_ONCE.min(bounds.len() - first)).take_while(fits).last().unwrap_or(1);
        let (starts, end) = (&bounds[first..first + count], bounds.get(first + count).copied());
        first += count;
        let inputs = within(starts[0], end);
        let mut rows = merged_files(table, schema, &inputs).await?;
        let mut writers: Vec<_> =
            starts.iter().map(|_| table.file_writer(schema, sub_micro(&inputs))).map(Some).collect();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            pace.keep(windows::row_bytes(schema) * batch.num_rows() as u64).await;
            for (slice, part) in parts(&batch, starts, end)? {
                let writer = writers[slice].take().expect("a writer comes back");
                writers[slice] = Some(table.append(writer, part).await?);
            }
        }
        for writer in writers.into_iter().flatten().filter(|writer| writer.rows() > 0) {
            files.push(table.finish_file(writer).await?);
        }
    }
    Ok(files)
}

/// Times, ascending, between which there are about `rows_max` rows each, as far as can be told without opening files.
fn cuts(files: &[Arc<DataFile>], rows_max: usize) -> Vec<i64> {
    let rows: u64 = files.iter().map(|file| file.rows).sum();
    let slices = rows.div_ceil(rows_max.max(1) as u64);
    let (Some(begin), Some(end)) =
        (files.iter().map(|file| file.time_min).min(), files.iter().map(|file| file.time_max).max())
    else {
        return Vec::new();
    };
    let before = |time: i64| files.iter().map(|file| rows_before(file, time)).sum::<f64>();
    let mut cuts = Vec::new();
    for slice in 1..slices {
        let wanted = rows as f64 * slice as f64 / slices as f64;
        let (mut low, mut high) = (begin, end);
        while low < high {
            let middle = low + ((i128::from(high) - i128::from(low)) / 2) as i64;
            if before(middle) < wanted { low = middle + 1 } else { high = middle }
        }
        let cut = low.div_euclid(GRAIN_NS).saturating_mul(GRAIN_NS);
        if cut > cuts.last().copied().unwrap_or(begin) {
            cuts.push(cut);
        }
    }
    cuts
}

/// Rows of a file before a time, were they spread evenly.
fn rows_before(file: &DataFile, time: i64) -> f64 {
    let length = file.time_max as f64 - file.time_min as f64 + 1.0;
    file.rows as f64 * ((time as f64 - file.time_min as f64) / length).clamp(0.0, 1.0)
}

/// The rows of a batch by the slice that their time is in; those before the first and from `end` on are left out.
fn parts(batch: &RecordBatch, starts: &[i64], end: Option<i64>) -> Result<Vec<(usize, RecordBatch)>> {
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); starts.len()];
    for (row, time) in (0..).zip(batch.column(0).as_primitive::<TimestampNanosecondType>().values()) {
        let slice = starts.partition_point(|start| start <= time);
        if slice > 0 && end.is_none_or(|end| *time < end) {
            rows[slice - 1].push(row);
        }
    }
    let parts = rows.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()).map(|(slice, rows)| {
        if rows.len() == batch.num_rows() {
            return Ok((slice, batch.clone()));
        }
        let part = take_record_batch(batch, &UInt32Array::from(rows));
        Ok((slice, part.map_err(|error| Error::wrap(Kind::Internal, "cannot cut rows by time", error))?))
    });
    parts.collect()
}
