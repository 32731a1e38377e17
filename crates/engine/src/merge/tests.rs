//! Merges against a map from key to row, written value by value.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, StringViewArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Float64Type, TimeUnit, TimestampNanosecondType};
use futures::StreamExt;
use proptest::prelude::*;

use super::*;

type Key = (Option<String>, Option<String>, i64);
type Row = (Option<f64>, Option<String>);

/// time, tag `b`, field `x`, tag `a`, field `text`; sorted by (a, b, time).
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(TIME, DataType::Timestamp(TimeUnit::Nanosecond, None), false),
        Field::new("b", DataType::Utf8View, true),
        Field::new("x", DataType::Float64, true),
        Field::new("a", DataType::Utf8View, true),
        Field::new("text", DataType::Utf8View, true),
    ]))
}

const TAGS: [usize; 2] = [3, 1];

fn batch(rows: &[(Key, Row)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(row.0.2)).collect::<TimestampNanosecondArray>()),
        Arc::new(rows.iter().map(|row| row.0.1.clone()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.1.0).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.0.0.clone()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.1.1.clone()).collect::<StringViewArray>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<(Key, Row)> {
    let text = |column: usize, row: usize| {
        let column = batch.column(column).as_string_view();
        (!column.is_null(row)).then(|| column.value(row).to_owned())
    };
    let times = batch.column(0).as_primitive::<TimestampNanosecondType>();
    let values = batch.column(2).as_primitive::<Float64Type>();
    let value = |row| (!values.is_null(row)).then(|| values.value(row));
    (0..batch.num_rows())
        .map(|row| ((text(3, row), text(1, row), times.value(row)), (value(row), text(4, row))))
        .collect()
}

/// Every input cut into batches of the given sizes, over and over.
fn merge(inputs: &[BTreeMap<Key, Row>], cuts: &[usize], batch_rows: usize) -> Vec<RecordBatch> {
    let mut merge = Merge::new(&schema(), &TAGS, inputs.len(), batch_rows).unwrap();
    let mut queues: Vec<VecDeque<RecordBatch>> = inputs
        .iter()
        .map(|input| {
            let all: Vec<_> = input.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
            let (mut rest, mut cuts, mut queue) = (&all[..], cuts.iter().cycle(), VecDeque::new());
            while !rest.is_empty() {
                let (head, tail) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                queue.push_back(batch(head));
                rest = tail;
            }
            queue
        })
        .collect();
    let mut merged = Vec::new();
    loop {
        match merge.pull().unwrap() {
            Some(batch) => merged.push(batch),
            None if merge.waiting().is_empty() => return merged,
            None => {
                let input = merge.waiting()[0];
                match queues[input].pop_front() {
                    Some(batch) => merge.push(input, batch).unwrap(),
                    None => merge.end(input),
                }
            }
        }
    }
}

fn oracle(inputs: &[BTreeMap<Key, Row>]) -> Vec<(Key, Row)> {
    let mut map: BTreeMap<Key, Row> = BTreeMap::new();
    for (key, (value, text)) in inputs.iter().flatten() {
        let row = map.entry(key.clone()).or_default();
        row.0 = value.or(row.0);
        row.1 = text.clone().or(row.1.take());
    }
    map.into_iter().collect()
}

fn key() -> impl Strategy<Value = Key> {
    let tag =
        || prop_oneof![Just(None), "[ab]".prop_map(Some), Just(Some("a tag value longer than twelve".to_owned()))];
    (tag(), tag(), -6i64..6)
}

fn row() -> impl Strategy<Value = Row> {
    let text = proptest::option::of(prop_oneof!["[a-z]{0,3}", Just("text longer than twelve bytes".to_owned())]);
    (proptest::option::of((0i32..9).prop_map(f64::from)), text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// E3: one row a key, the last write of each field, whatever inputs and batches the rows are spread over.
    #[test]
    fn any_inputs_merge_as_a_map_does(
        inputs in proptest::collection::vec(proptest::collection::btree_map(key(), row(), 0..40), 0..6),
        cuts in proptest::collection::vec(1usize..12, 1..4),
        batch_rows in 1usize..20,
    ) {
        let merged = merge(&inputs, &cuts, batch_rows);
        prop_assert!(merged.iter().all(|batch| (1..=batch_rows).contains(&batch.num_rows())));
        prop_assert_eq!(merged.iter().flat_map(rows).collect::<Vec<_>>(), oracle(&inputs));
    }
}

#[test]
fn stretches_that_do_not_interleave_are_not_copied() {
    let series = |tag: &str, from: i64| -> BTreeMap<Key, Row> {
        let key = |time| (Some(tag.to_owned()), None, time);
        (from..from + 5000).map(|time| (key(time), (Some(time as f64), None))).collect()
    };
    let inputs = [series("b", 0), series("a", 0), series("b", 5000)];
    let merged = merge(&inputs, &[5000], 8192);
    assert_eq!(merged.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [5000, 5000, 5000]);
    assert_eq!(merged.iter().flat_map(rows).collect::<Vec<_>>(), oracle(&inputs));
}

#[test]
fn a_table_without_tags_merges_by_time() {
    let schema = Arc::new(schema().project(&[0, 2]).unwrap());
    let batch = |rows: &[(i64, Option<f64>)]| {
        let times = rows.iter().map(|row| Some(row.0)).collect::<TimestampNanosecondArray>();
        let values = rows.iter().map(|row| row.1).collect::<Float64Array>();
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(times), Arc::new(values)]).unwrap()
    };
    let mut merge = Merge::new(&schema, &[], 2, 100).unwrap();
    merge.push(0, batch(&[(1, Some(1.0)), (2, Some(2.0)), (3, Some(3.0))])).unwrap();
    merge.push(1, batch(&[(2, None), (3, Some(30.0)), (4, None)])).unwrap();
    assert_eq!(merge.pull().unwrap(), None, "more of input 0 may come before 4");
    assert_eq!(merge.waiting(), [0]);
    merge.end(0);
    assert_eq!(merge.pull().unwrap(), None);
    merge.end(1);
    let merged = merge.pull().unwrap().unwrap();
    assert_eq!(merged, batch(&[(1, Some(1.0)), (2, Some(2.0)), (3, Some(30.0)), (4, None)]));
    assert_eq!(merge.pull().unwrap(), None);
}

#[test]
fn a_stream_merges_and_stops_at_an_error() {
    let key = |time| (None, None, time);
    let one = batch(&[(key(1), (Some(1.0), None)), (key(3), (None, None))]);
    let two = batch(&[(key(1), (None, Some("x".to_owned()))), (key(2), (None, None))]);
    let stream = |last: Result<RecordBatch, ArrowError>| {
        let one = futures::stream::iter([Ok(one.clone())]).boxed();
        let two = futures::stream::iter([Ok(two.slice(0, 0)), Ok(two.clone()), last]).boxed();
        MergeStream::new(&schema(), &TAGS, vec![one, two], 10).unwrap()
    };
    let batches: Vec<_> = futures::executor::block_on(stream(Ok(batch(&[(key(9), (None, None))]))).collect());
    let merged: Vec<_> = batches.into_iter().flat_map(|batch| rows(&batch.unwrap())).collect();
    assert_eq!(merged.iter().map(|row| row.0.2).collect::<Vec<_>>(), [1, 2, 3, 9]);
    assert_eq!(merged[0].1, (Some(1.0), Some("x".to_owned())));
    let failed = stream(Err(ArrowError::ComputeError("lost".to_owned())));
    let batches: Vec<_> = futures::executor::block_on(failed.collect());
    assert_eq!(batches.iter().filter(|batch| batch.is_err()).count(), 1);
    assert!(batches.last().unwrap().is_err());
}
