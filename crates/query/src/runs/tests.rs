//! Whatever the rows, their groups and their batches: the same answer as without runs.

use std::sync::Arc;

use arrow::array::{BooleanArray, Float64Array, Int64Array, StringViewArray, TimestampNanosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;

use super::*;

/// host, time, and values of each type that may be NULL.
type Row = (u8, i64, Option<i64>, Option<u64>, Option<f64>, Option<bool>);

fn batch(rows: &[Row]) -> RecordBatch {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let schema = Schema::new(vec![
        Field::new("host", DataType::Utf8View, true),
        Field::new("time", time, false),
        Field::new("i", DataType::Int64, true),
        Field::new("u", DataType::UInt64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("s", DataType::Utf8View, true),
    ]);
    let host = |host: u8| (host > 0).then(|| format!("a host whose name is long: {host}"));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| host(row.0)).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| Some(row.1)).collect::<TimestampNanosecondArray>()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<UInt64Array>()),
        Arc::new(rows.iter().map(|row| row.4).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.5).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.2.map(|value| format!("text {value}"))).collect::<StringViewArray>()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// The answer as text, with runs or without, and whether the plan had any.
fn ask(parts: &[Vec<RecordBatch>], sql: &str, runs: bool) -> (String, bool) {
    let config = SessionConfig::new().with_target_partitions(2).with_batch_size(64);
    let mut builder = SessionStateBuilder::new().with_config(config).with_default_features();
    if runs {
        builder = builder.with_physical_optimizer_rule(Arc::new(RunsRule));
    }
    let context = SessionContext::new_with_state(builder.build());
    let table = MemTable::try_new(parts[0][0].schema(), parts.to_vec()).unwrap();
    context.register_table("t", Arc::new(table)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let frame = context.sql(sql).await.unwrap();
        let plan = frame.create_physical_plan().await.unwrap();
        let shown = datafusion::physical_plan::displayable(&*plan).indent(false).to_string();
        let batches = datafusion::physical_plan::collect(plan, context.task_ctx()).await.unwrap();
        (pretty_format_batches(&batches).unwrap().to_string(), shown.contains("RunsExec"))
    })
}

const QUESTIONS: [&str; 6] = [
    "SELECT host, count(DISTINCT i) FROM t GROUP BY host ORDER BY host",
    "SELECT host, count(*), count(i), count(s), sum(i), sum(u), min(i), max(i), min(u), max(u), min(time), max(time) FROM t \
     GROUP BY host ORDER BY host",
    "SELECT host, date_trunc('second', time) AS second, round(avg(i), 6), round(avg(u), 6), round(avg(f), 6), round(sum(f), 6), min(f), max(f) \
     FROM t GROUP BY 1, 2 ORDER BY 1, 2",
    "SELECT host, last_value(i ORDER BY time NULLS FIRST) IGNORE NULLS, first_value(s ORDER BY time) IGNORE NULLS, \
     last_value(b ORDER BY time NULLS FIRST) IGNORE NULLS, last_value(s ORDER BY time NULLS FIRST) IGNORE NULLS FROM t GROUP BY host ORDER BY host",
    "SELECT b, sum(f) > 0, count(b), round(avg(i + 1), 6) FROM t GROUP BY b ORDER BY b",
    "SELECT count(*) FROM (SELECT host, time, sum(i) FROM t GROUP BY host, time)",
];

fn check(rows: &[Row], cuts: usize) {
    let batches: Vec<RecordBatch> = rows.chunks(cuts).map(batch).collect();
    let (one, other) = batches.split_at(batches.len() / 2);
    let parts: Vec<Vec<RecordBatch>> =
        [one, other].iter().filter(|part| !part.is_empty()).map(|part| part.to_vec()).collect();
    for sql in QUESTIONS {
        let (wanted, _) = ask(&parts, sql, false);
        let (found, with_runs) = ask(&parts, sql, true);
        assert!(with_runs || parts.len() == 1, "{sql} is not asked by runs");
        assert_eq!(found, wanted, "{sql}");
    }
}

/// Rows in runs of any length; times differ, so that first and last are one value.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    let value = (any::<i32>(), prop::option::weighted(0.8, any::<i32>()), any::<bool>());
    let run = (0..4u8, 1..60usize, prop::collection::vec(value, 1..8), any::<bool>());
    prop::collection::vec(run, 1..12).prop_map(|runs| {
        let mut rows = Vec::new();
        for (host, length, values, backward) in runs {
            for at in 0..length {
                let (seed, value, set) = values[at % values.len()];
                let number = rows.len() as i64;
                let time = if backward { 4_000_000_000 - number * 7_000_001 } else { number * 7_000_001 };
                let float = value.map(|value| f64::from(value) / 8.0);
                rows.push((
                    host,
                    time,
                    value.map(i64::from),
                    value.map(|value| u64::from(value.unsigned_abs())),
                    float,
                    set.then_some(seed > 0),
                ));
            }
        }
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn e3_runs_never_change_an_answer(rows in rows(), cuts in 1..70usize) {
        check(&rows, cuts);
    }
}

#[test]
fn runs_that_end_short_are_gone_on_with_as_before() {
    let long = (0..300).map(|at| (1, at, Some(at), None, Some(1.5), None));
    let short = (300..600).map(|at| ((at % 3) as u8, at, Some(at), Some(7), Some(f64::NAN), Some(true)));
    let again = (600..900).map(|at| (2, at, None, None, None, None));
    check(&long.chain(short).chain(again).collect::<Vec<Row>>(), 50);
}

#[test]
fn what_has_no_state_of_a_run_is_left_alone() {
    let rows: Vec<Row> = (0..200).map(|at| ((at / 50) as u8, at, Some(at), None, None, None)).collect();
    let parts = [vec![batch(&rows[..100])], vec![batch(&rows[100..])]];
    for sql in [
        "SELECT host, sum(i) FILTER (WHERE i > 20) FROM t GROUP BY host ORDER BY host",
        "SELECT host, median(i) FROM t GROUP BY host ORDER BY host",
        "SELECT host, b, sum(i) FROM t GROUP BY ROLLUP (host, b) ORDER BY host, b",
        "SELECT host, last_value(i ORDER BY time) FROM t GROUP BY host ORDER BY host",
        "SELECT sum(i) FROM t",
    ] {
        let (found, runs) = ask(&parts, sql, true);
        assert!(!runs, "{sql}");
        assert_eq!(found, ask(&parts, sql, false).0);
    }
}
