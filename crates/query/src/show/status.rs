//! The state of tables: rows, files, bytes, how much overlaps, and which times they hold.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, Int64Builder, RecordBatch, StringBuilder, TimestampNanosecondBuilder};
use weir_engine::read::{ReadPlan, ReadSnapshot, Source};

use crate::error::{Result, from_engine};
use crate::scan::SnapshotTable;

/// One row a table:
///
/// - `rows`: of all files, before rows of equal keys are merged; `rows_buffered`: those not yet in files.
/// - `files`, `bytes`: live Parquet files and their size.
/// - `bytes_per_point`: bytes over rows times fields; NULL without files.
/// - `files_overlapping`: files of which a part must be merged when it is read; compaction brings it to 0.
/// - `oldest`, `newest`: NULL without rows.
pub(super) fn of(tables: &[Arc<SnapshotTable>]) -> Result<RecordBatch> {
    let mut names = StringBuilder::new();
    let mut numbers: [Int64Builder; 5] = Default::default();
    let mut density = Float64Builder::new();
    let mut times: [TimestampNanosecondBuilder; 2] = Default::default();
    for table in tables {
        let snapshot = table.snapshot();
        names.append_value(&snapshot.table);
        let rows: u64 = snapshot.files.iter().map(|file| file.rows).sum();
        let bytes: u64 = snapshot.files.iter().map(|file| file.size).sum();
        let runs = snapshot.runs.iter().map(|run| run.sorted().map(|run| run.rows()).map_err(from_engine));
        let buffered: usize = runs.sum::<Result<usize>>()?;
        let counts = [rows, buffered as u64, snapshot.files.len() as u64, bytes, overlapping(snapshot)];
        for (builder, count) in numbers.iter_mut().zip(counts) {
            builder.append_value(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let fields = snapshot.schema.columns().len() - snapshot.schema.tags().count();
        let points = rows * fields as u64;
        density.append_option((points > 0).then(|| bytes as f64 / points as f64));
        let sources = snapshot.files.iter().map(|file| (file.time_min, file.time_max));
        let sources: Vec<_> = sources.chain(snapshot.runs.iter().map(|run| (run.time_min, run.time_max))).collect();
        times[0].append_option(sources.iter().map(|times| times.0).min());
        times[1].append_option(sources.iter().map(|times| times.1).max());
    }
    let [mut rows, mut buffered, mut files, mut bytes, mut overlapping] = numbers;
    let [mut oldest, mut newest] = times;
    let columns: [(&str, ArrayRef); 9] = [
        ("table", Arc::new(names.finish())),
        ("rows", Arc::new(rows.finish())),
        ("rows_buffered", Arc::new(buffered.finish())),
        ("files", Arc::new(files.finish())),
        ("bytes", Arc::new(bytes.finish())),
        ("bytes_per_point", Arc::new(density.finish())),
        ("files_overlapping", Arc::new(overlapping.finish())),
        ("oldest", Arc::new(oldest.finish())),
        ("newest", Arc::new(newest.finish())),
    ];
    Ok(RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)))?)
}

/// Files that a scan of the whole table would have to merge with something.
fn overlapping(snapshot: &ReadSnapshot) -> u64 {
    let files = snapshot.files.iter().map(|file| Source::File(Arc::clone(file)));
    let sources = files.chain(snapshot.runs.iter().map(|run| Source::Run(run.clone()))).collect();
    let plan = ReadPlan::new(sources, &(i64::MIN..=i64::MAX));
    let merged = plan.merged.iter().flatten().filter_map(|part| match &part.source {
        Source::File(file) => Some(file.path.as_str()),
        Source::Run(_) => None,
    });
    merged.collect::<HashSet<_>>().len() as u64
}
