//! Which files of a chain of overlaps are merged next: neighbours in write order, no more of them than may be open at once.
//!
//! All files of a merge are read together, so what they take together is bounded (`compact_bytes_max`). A chain that would take more is
//! merged window by window. A window is cut only between commits: the files of one commit share no key, and what lies between two of
//! its members in write order is in it, so that the result takes the window's place (E3). Each merge leaves fewer commits than there
//! were, so merging ends; windows are as long as they may be, so rows are seldom written more than twice.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use crate::schema::{FieldType, Role, TableSchema};
use crate::store::file::DataFile;
use crate::store::{READ_BATCH_ROWS, ROW_GROUP_ROWS};

/// What an open file takes besides its rows.
const FILE_BYTES: u64 = 16 << 10;
/// What reading a column takes while more of it is to come: a page, and what decompresses it.
const COLUMN_BYTES: u64 = 192 << 10;
/// A number in a batch of decoded rows, and a text without its bytes.
const NUMBER_BYTES: u64 = 9;
const TEXT_BYTES: u64 = 17;
/// In the background a window's files are together this many times as long as the time that they span, when it makes more than one file.
const DEPTH: f64 = 1.5;

/// How far a merge may go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Memory that its inputs may take, about.
    pub(crate) bytes: u64,
    /// Rows of a file.
    pub(crate) rows: u64,
    /// Files that are worth a merge by themselves.
    pub(crate) files: usize,
}

/// About how much memory a row takes in a batch of decoded rows, without the bytes of its texts.
pub(crate) fn row_bytes(schema: &TableSchema) -> u64 {
    let is_text = |role: Role| matches!(role, Role::Tag | Role::Field(FieldType::Str));
    let texts = schema.columns().iter().filter(|column| is_text(column.role)).count() as u64;
    NUMBER_BYTES * (schema.columns().len() as u64 - texts + 1) + TEXT_BYTES * texts
}

/// About how much memory a file takes while it is an input of a merge.
pub(crate) fn open_bytes(file: &DataFile, schema: &TableSchema) -> u64 {
    let columns = schema.columns();
    let fields = columns.iter().filter(|column| column.role == Role::Field(FieldType::Str)).count() as u64;
    let batch = file.rows.min(READ_BATCH_ROWS as u64);
    // A file that is one batch is not read on: its pages are let go.
    let part = |rows: u64| file.size.saturating_mul(rows.min(file.rows)) / file.rows.max(1);
    let reading = match file.rows > batch {
        true => part(ROW_GROUP_ROWS as u64) + COLUMN_BYTES * (columns.len() as u64 + 1),
        false => 0,
    };
    // How long texts are is not known; a file that is mostly texts is seldom a quarter of them.
    let text = if fields > 0 { 4 * part(batch) } else { 0 };
    FILE_BYTES + row_bytes(schema) * batch + text + reading
}

/// The window of a group that is merged next, of those whose merge was asked for; `None` when there is nothing to merge. `group` is in
/// write order.
pub(crate) fn asked_for(group: &[Arc<DataFile>], schema: &TableSchema, bounds: Bounds) -> Option<Range<usize>> {
    let windows = windows(group, schema, bounds.bytes, u64::MAX);
    windows.max_by_key(|window| (window.len(), Reverse(rows(&group[window.clone()]))))
}

/// The same of those that are worth it by themselves: none of the files holds most of the rows, so that rows are written again only when they
/// become twice as many, or small files are many.
pub(crate) fn worth_it(group: &[Arc<DataFile>], schema: &TableSchema, bounds: Bounds) -> Option<Range<usize>> {
    let worth = |window: &Range<usize>| {
        let files = &group[window.clone()];
        let rows = rows(files);
        let largest = commits(files).map(self::rows).max().unwrap_or(0);
        let (all, even) = (files.len() == group.len(), largest <= rows / 2);
        match rows > bounds.rows {
            true => even && depth(files) >= DEPTH,
            false if all => even || files.len() >= 2 * bounds.files,
            false => even && files.len() >= bounds.files,
        }
    };
    let windows = windows(group, schema, bounds.bytes, bounds.rows.saturating_mul(2));
    windows.filter(worth).max_by_key(Range::len)
}

/// For each commit the longest window that begins with it and stays within both limits, if that has two commits; the two at least, whatever
/// they take, when nothing else is a window.
fn windows(
    group: &[Arc<DataFile>],
    schema: &TableSchema,
    bytes_max: u64,
    rows_max: u64,
) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    let commits = commits(group).map(|commit| {
        start += commit.len();
        (start - commit.len()..start, bytes(commit, schema), rows(commit))
    });
    let commits: Vec<_> = commits.collect();
    let mut found = Vec::new();
    for (first, (range, bytes, rows)) in commits.iter().enumerate() {
        let (mut bytes, mut rows, mut end) = (*bytes, *rows, range.end);
        for (next, more, many) in &commits[first + 1..] {
            (bytes, rows) = (bytes.saturating_add(*more), rows.saturating_add(*many));
            if bytes > bytes_max || rows > rows_max {
                break;
            }
            end = next.end;
        }
        if end > range.end {
            found.push(range.start..end);
        }
    }
    if found.is_empty() && rows_max == u64::MAX {
        let pairs = commits.windows(2).map(|pair| pair[0].0.start..pair[1].0.end);
        found.extend(pairs.min_by_key(|pair| self::bytes(&group[pair.clone()], schema)));
    }
    found.into_iter()
}

/// The files of each commit.
fn commits(group: &[Arc<DataFile>]) -> impl Iterator<Item = &[Arc<DataFile>]> {
    group.chunk_by(|one, two| one.order == two.order)
}

pub(crate) fn bytes(files: &[Arc<DataFile>], schema: &TableSchema) -> u64 {
    files.iter().map(|file| open_bytes(file, schema)).fold(0, u64::saturating_add)
}

fn rows(files: &[Arc<DataFile>]) -> u64 {
    files.iter().map(|file| file.rows).sum()
}

/// How many files lie over each other, in the mean over the time that they span.
fn depth(files: &[Arc<DataFile>]) -> f64 {
    let length = |from: i64, to: i64| to as f64 - from as f64 + 1.0;
    let sum: f64 = files.iter().map(|file| length(file.time_min, file.time_max)).sum();
    let from = files.iter().map(|file| file.time_min).min().unwrap_or(0);
    let to = files.iter().map(|file| file.time_max).max().unwrap_or(0);
    sum / length(from, to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 1 << 20, rows: 1000, files: 4 };

    fn file(order: i64, rows: u64, times: (i64, i64)) -> Arc<DataFile> {
        Arc::new(DataFile {
            path: format!("{order}-{}", times.0),
            size: rows,
            rows,
            time_min: times.0,
            time_max: times.1,
            tags: Vec::new(),
            order: (order, order),
        })
    }

    fn all(rows: &[u64]) -> Vec<Arc<DataFile>> {
        (0..).zip(rows).map(|(order, rows)| file(order, *rows, (0, 100))).collect()
    }

    #[test]
    fn a_small_group_is_merged_whole() {
        let schema = TableSchema::default();
        assert_eq!(worth_it(&all(&[10, 10]), &schema, BOUNDS), Some(0..2));
        assert_eq!(worth_it(&all(&[700, 10, 10]), &schema, BOUNDS), None);
        assert_eq!(worth_it(&all(&[700, 10, 10, 10, 10, 10, 10, 10]), &schema, BOUNDS), Some(0..8));
        assert_eq!(asked_for(&all(&[700, 10, 10]), &schema, BOUNDS), Some(0..3));
    }

    #[test]
    fn a_large_file_waits_for_as_many_rows_of_others() {
        let schema = TableSchema::default();
        assert_eq!(worth_it(&all(&[990, 10, 10, 10]), &schema, BOUNDS), None);
        assert_eq!(worth_it(&all(&[990, 10, 10, 10, 10]), &schema, BOUNDS), Some(1..5));
        assert_eq!(worth_it(&all(&[990, 500, 490]), &schema, BOUNDS), Some(0..3));
        let in_a_row: Vec<_> = (0..3).map(|order| file(order, 990, (order * 90, order * 90 + 100))).collect();
        assert_eq!(worth_it(&in_a_row, &schema, BOUNDS), None, "little of it lies over each other");
        assert_eq!(asked_for(&in_a_row, &schema, BOUNDS), Some(0..3));
    }

    #[test]
    fn files_of_a_commit_stay_together() {
        let schema = TableSchema::default();
        let mut group = vec![file(1, 100, (0, 10)), file(1, 100, (11, 20)), file(1, 100, (21, 30))];
        assert_eq!(asked_for(&group, &schema, BOUNDS), None);
        assert_eq!(worth_it(&group, &schema, BOUNDS), None);
        group.push(file(2, 5, (0, 30)));
        let tight = Bounds { bytes: 1, ..BOUNDS };
        assert_eq!(asked_for(&group, &schema, tight), Some(0..4), "two commits, whatever they take");
        assert_eq!(worth_it(&group, &schema, tight), None);
    }

    proptest! {
        #[test]
        fn what_is_asked_for_ends_within_bounds(
            rows in proptest::collection::vec((1..3_u8, 1..5000_u64), 2..40),
            open in 2..10_u64,
        ) {
            let schema = TableSchema::default();
            let mut group: Vec<_> = (0..).zip(&rows).flat_map(|(order, (files, rows))| {
                (0..i64::from(*files)).map(move |part| file(order, *rows, (part * 50, part * 50 + 49)))
            }).collect();
            let largest = group.iter().map(|file| open_bytes(file, &schema)).max().unwrap();
            let bounds = Bounds { bytes: largest * 2 * open, ..BOUNDS };
            let mut merges = 0;
            while let Some(window) = asked_for(&group, &schema, bounds) {
                prop_assert!(bytes(&group[window.clone()], &schema) <= bounds.bytes);
                let orders = |index: usize| group.get(index).map(|file| file.order);
                prop_assert!(window.start == 0 || orders(window.start - 1) != orders(window.start));
                prop_assert!(orders(window.end - 1) != orders(window.end));
                let merged = file(group[window.start].order.0, 1, (0, 100));
                group.splice(window, [merged]);
                merges += 1;
                prop_assert!(merges < rows.len());
            }
            prop_assert_eq!(group.len(), 1);
        }
    }
}
