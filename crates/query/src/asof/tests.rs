//! The merge against a search of all pairs, over any rows in any batches.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringViewArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryConsumer, MemoryPool};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use proptest::prelude::*;

use super::Match;
use super::merge::{Merge, Side};

/// Key and time of a row.
type Row = (Option<String>, Option<i64>);
/// The number of a left row, and that of the right row it was joined with.
type Joined = (i64, Option<i64>);

fn schema(parts: &[&str]) -> SchemaRef {
    let fields = parts.iter().flat_map(|part| {
        let named = |name: &str, kind| Field::new(format!("{part}.{name}"), kind, true);
        [named("key", DataType::Utf8View), named("time", DataType::Int64), named("number", DataType::Int64)]
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn side(rows: &[Row], name: &str, keyed: bool, sizes: &[usize], pool: &Arc<dyn MemoryPool>) -> Side {
    let schema = schema(&[name]);
    let keys: StringViewArray = rows.iter().map(|row| row.0.clone()).collect();
    let times: Int64Array = rows.iter().map(|row| row.1).collect();
    let numbers = Int64Array::from_iter_values(0..rows.len() as i64);
    let whole = RecordBatch::try_new(schema.clone(), vec![Arc::new(keys), Arc::new(times), Arc::new(numbers)]).unwrap();
    let (mut batches, mut from, mut turn) = (Vec::new(), 0, 0);
    while from < rows.len() {
        let size = sizes[turn % sizes.len()].min(rows.len() - from);
        batches.push(Ok(whole.slice(from, size)));
        (from, turn) = (from + size, turn + 1);
    }
    let column = |index: usize| Arc::new(Column::new(schema.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
    let exprs = if keyed { vec![column(0), column(1)] } else { vec![column(1)] };
    let input = Box::pin(RecordBatchStreamAdapter::new(schema.clone(), futures::stream::iter(batches)));
    Side::try_new(input, &exprs, MemoryConsumer::new("test").register(pool)).unwrap()
}

fn join(left: &[Row], right: &[Row], nearest: Match, keyed: bool, sizes: &[usize]) -> Vec<Joined> {
    let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(1 << 30));
    let sides = (side(left, "l", keyed, sizes, &pool), side(right, "r", keyed, &sizes[1..], &pool));
    let both = schema(&["l", "r"]);
    let mut merge = Merge::try_new(sides, nearest, both.clone(), &schema(&["r"])).unwrap();
    let mut out = Vec::new();
    while let Some(batch) = futures::executor::block_on(merge.next()).unwrap() {
        assert!(batch.num_rows() > 0);
        out.push(batch);
    }
    drop(merge);
    assert_eq!(pool.reserved(), 0);
    let all = concat_batches(&both, &out).unwrap();
    let (numbers, matched) = (all.column(2).as_primitive::<Int64Type>(), all.column(5).as_primitive::<Int64Type>());
    (0..all.num_rows()).map(|row| (numbers.value(row), matched.is_valid(row).then(|| matched.value(row)))).collect()
}

/// The time of the nearest row.
fn nearest_time(row: &Row, right: &[Row], nearest: Match, keyed: bool) -> Option<i64> {
    let time = row.1?;
    let same = |other: &&Row| !keyed || row.0.is_some() && row.0 == other.0;
    let times = right.iter().filter(same).filter_map(|other| other.1);
    if nearest.before {
        times.filter(|other| *other < time || nearest.equal && *other == time).max()
    } else {
        times.filter(|other| *other > time || nearest.equal && *other == time).min()
    }
}

fn rows(len: usize) -> impl Strategy<Value = Vec<Row>> {
    let key = proptest::option::weighted(0.9, "[abc]");
    let time = proptest::option::weighted(0.9, -12i64..12);
    proptest::collection::vec((key, time), 0..len)
}

fn sorted(mut rows: Vec<Row>, keyed: bool) -> Vec<Row> {
    rows.sort_by_key(|row| (keyed.then(|| (row.0.is_none(), row.0.clone())), row.1.is_none(), row.1));
    rows
}

proptest! {
    /// Every left row comes out once and in order, with one of the rows at the nearest time.
    #[test]
    fn a_merge_finds_the_nearest(
        left in rows(30),
        right in rows(60),
        (before, equal, keyed) in any::<(bool, bool, bool)>(),
        sizes in proptest::collection::vec(1usize..5, 2..5),
    ) {
        let nearest = Match { before, equal };
        let (left, right) = (sorted(left, keyed), sorted(right, keyed));
        let joined = join(&left, &right, nearest, keyed, &sizes);
        let numbers: Vec<i64> = joined.iter().map(|row| row.0).collect();
        prop_assert_eq!(numbers, (0..left.len() as i64).collect::<Vec<_>>());
        for (row, (number, matched)) in left.iter().zip(joined) {
            let found = matched.map(|place| &right[place as usize]);
            prop_assert_eq!(found.and_then(|found| found.1), nearest_time(row, &right, nearest, keyed), "row {}", number);
            prop_assert!(found.is_none_or(|found| !keyed || found.0 == row.0));
        }
    }
}
