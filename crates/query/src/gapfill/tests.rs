//! The filling against a plain model of it, over any rows in any batches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray, TimestampNanosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use proptest::prelude::*;

use super::fill::{Filler, Shape};
use super::{Fill, Range};
use crate::functions::Buckets;

/// Series, bucket number and value of a row.
type Row = (Option<String>, Option<i64>, Option<i64>);
/// What comes out: series, bucket number, the value as it is, carried forward, on the line.
type Filled = (Option<String>, Option<i64>, Option<i64>, Option<i64>, Option<i64>);

const WIDTH: i64 = 10;

fn schema(keyed: bool) -> SchemaRef {
    let mut fields = vec![Field::new("t", DataType::Timestamp(TimeUnit::Nanosecond, None), true)];
    if keyed {
        fields.push(Field::new("host", DataType::Utf8View, true));
    }
    fields.extend(["value", "carried", "line"].map(|name| Field::new(name, DataType::Int64, true)));
    Arc::new(Schema::new(fields))
}

fn shape(keyed: bool, first: i64, count: i64) -> Shape {
    let width = ScalarValue::from("10 nanoseconds");
    let origin = ScalarValue::TimestampNanosecond(Some(0), None);
    let buckets = Buckets::parse("test", &width, Some(&origin)).unwrap();
    let (lower, upper) = (i128::from(first * WIDTH), i128::from((first + count - 1) * WIDTH));
    let range = Range::new(buckets, lower, upper, TimeUnit::Nanosecond).unwrap();
    let mut fills = vec![Fill::Bucket];
    fills.extend(keyed.then_some(Fill::Key));
    fills.extend([Fill::Empty(ScalarValue::Int64(Some(0))), Fill::Previous, Fill::Linear]);
    let keys = if keyed { vec![1] } else { Vec::new() };
    Shape { schema: schema(keyed), fills, keys, bucket: 0, range }
}

fn batch(rows: &[Row], keyed: bool) -> RecordBatch {
    let times: TimestampNanosecondArray = rows.iter().map(|row| row.1.map(|bucket| bucket * WIDTH)).collect();
    let hosts: StringViewArray = rows.iter().map(|row| row.0.clone()).collect();
    let values: ArrayRef = Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(times)];
    if keyed {
        columns.push(Arc::new(hosts));
    }
    columns.extend([values.clone(), values.clone(), values]);
    RecordBatch::try_new(schema(keyed), columns).unwrap()
}

/// Fills rows that come in batches of these sizes, over and over.
fn fill(rows: &[Row], keyed: bool, range: (i64, i64), sizes: &[usize], rows_max: u64) -> Result<Vec<Filled>> {
    let (mut batches, mut left, mut turn) = (Vec::new(), rows, 0);
    while !left.is_empty() {
        let (now, rest) = left.split_at(sizes[turn % sizes.len()].min(left.len()));
        batches.push(Ok(batch(now, keyed)));
        (left, turn) = (rest, turn + 1);
    }
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 30));
    let memory = MemoryConsumer::new("test").register(&pool);
    let input = Box::pin(RecordBatchStreamAdapter::new(schema(keyed), futures::stream::iter(batches)));
    let shape = Arc::new(shape(keyed, range.0, range.1));
    let mut filler = Filler::try_new(input, shape, sizes[0], (Arc::new(AtomicU64::new(0)), rows_max), memory)?;
    let mut out = vec![RecordBatch::new_empty(schema(keyed))];
    while let Some(batch) = futures::executor::block_on(filler.next())? {
        assert!(batch.num_rows() <= sizes[0], "a batch is no larger than asked for");
        out.push(batch);
    }
    drop(filler);
    assert_eq!(pool.reserved(), 0);
    Ok(read(&concat_batches(&schema(keyed), &out)?, keyed))
}

fn read(batch: &RecordBatch, keyed: bool) -> Vec<Filled> {
    let columns = batch.columns();
    let number = |column: &ArrayRef, row: usize| {
        let column = column.as_primitive::<Int64Type>();
        column.is_valid(row).then(|| column.value(row))
    };
    let row = |row: usize| {
        let times = columns[0].as_primitive::<TimestampNanosecondType>();
        let host = keyed.then(|| columns[1].as_string_view()).filter(|hosts| hosts.is_valid(row));
        let [value, carried, line] = [3, 2, 1].map(|back| number(&columns[columns.len() - back], row));
        (
            host.map(|hosts| hosts.value(row).to_owned()),
            times.is_valid(row).then(|| times.value(row) / WIDTH),
            value,
            carried,
            line,
        )
    };
    (0..batch.num_rows()).map(row).collect()
}

/// What must come out, computed from all rows at once.
fn model(rows: &[Row], (first, count): (i64, i64)) -> Vec<Filled> {
    let series: BTreeSet<_> = rows.iter().map(|row| row.0.clone()).collect();
    // NULL comes last, as the rows are sorted.
    let mut series: Vec<_> = series.into_iter().collect();
    series.sort_by_key(|host| (host.is_none(), host.clone()));
    let mut out = Vec::new();
    for host in series {
        let of = |row: &&Row| row.0 == host;
        let known: BTreeMap<i64, Option<i64>> =
            rows.iter().filter(of).filter_map(|row| row.1.map(|bucket| (bucket, row.2))).collect();
        for bucket in first..first + count {
            let before = known.range(..=bucket).rev().find_map(|(at, value)| value.map(|value| (*at, value)));
            let after = known.range(bucket..).find_map(|(at, value)| value.map(|value| (*at, value)));
            let line = match (before, after) {
                (Some((from, value)), Some((to, _))) if from == to => Some(value),
                (Some((from, low)), Some((to, high))) => {
                    let exact = low as f64 + (high - low) as f64 * (bucket - from) as f64 / (to - from) as f64;
                    let away = if high < low { (exact - 0.5).ceil() } else { (exact + 0.5).floor() };
                    Some(away as i64)
                }
                _ => None,
            };
            let value = known.get(&bucket).copied().unwrap_or(Some(0));
            out.push((host.clone(), Some(bucket), value, before.map(|point| point.1), line));
        }
        // Where there is no bucket there is nothing to fill from; the last value is carried as ever.
        if let Some(row) = rows.iter().filter(of).find(|row| row.1.is_none()) {
            let last = known.values().rev().find_map(|value| *value);
            out.push((host.clone(), None, row.2, row.2.or(last), None));
        }
    }
    out
}

fn rows(keyed: bool, (first, count): (i64, i64)) -> impl Strategy<Value = Vec<Row>> {
    let host = prop_oneof![Just(None), "[ab]".prop_map(Some)].prop_map(move |host| host.filter(|_| keyed));
    let bucket = prop_oneof![20 => (first..first + count).prop_map(Some), 1 => Just(None)];
    let value = proptest::option::of(-40i64..40);
    let key = (host, bucket);
    proptest::collection::btree_map(key, value, 0..40).prop_map(|rows| {
        let mut rows: Vec<Row> = rows.into_iter().map(|((host, bucket), value)| (host, bucket, value)).collect();
        rows.sort_by_key(|row| (row.0.is_none(), row.0.clone(), row.1.is_none(), row.1));
        rows
    })
}

fn cases() -> impl Strategy<Value = (bool, (i64, i64), Vec<Row>, Vec<usize>)> {
    (any::<bool>(), -30i64..10, 1i64..40).prop_flat_map(|(keyed, first, count)| {
        let sizes = proptest::collection::vec(1usize..6, 1..4);
        (Just(keyed), Just((first, count)), rows(keyed, (first, count)), sizes)
    })
}

proptest! {
    /// Batches may break anywhere, a gap may be longer than a batch, a value far away from the gap it ends.
    #[test]
    fn a_filling_is_as_the_model_says((keyed, range, rows, sizes) in cases()) {
        prop_assert_eq!(fill(&rows, keyed, range, &sizes, u64::MAX).unwrap(), model(&rows, range));
    }
}

/// S1: rows that are made up are limited.
#[test]
fn no_more_rows_are_made_than_allowed() {
    let rows: Vec<Row> = ["a", "b"].map(|host| (Some(host.to_owned()), Some(0), Some(1))).to_vec();
    assert_eq!(fill(&rows, true, (0, 6), &[4], 10).unwrap().len(), 12);
    let error = fill(&rows, true, (0, 6), &[4], 9).unwrap_err();
    assert!(error.to_string().contains("limited to 9 rows (setting query_gapfill_rows_max)"), "{error}");
}
