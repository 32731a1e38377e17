//! Aggregates give equal answers in any order of rows and any split of them, and the answers of a plain model.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringViewArray, TimestampNanosecondArray, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, lit};
use proptest::prelude::*;

use super::{histogram, mode, percentile, rates, selectors};

/// An argument: a column or a constant.
#[derive(Clone)]
enum Argument {
    Column(ArrayRef),
    Constant(ScalarValue),
}

struct Call {
    function: AggregateUDF,
    arguments: Vec<Argument>,
}

impl Call {
    fn accumulator(&self, sliding: bool) -> Box<dyn Accumulator> {
        let kind = |argument: &Argument| match argument {
            Argument::Column(values) => values.data_type().clone(),
            Argument::Constant(value) => value.data_type(),
        };
        let kinds: Vec<DataType> = self.arguments.iter().map(kind).collect();
        let fields: Vec<FieldRef> = kinds.iter().map(|kind| Arc::new(Field::new("x", kind.clone(), true))).collect();
        let expr = |(index, argument): (usize, &Argument)| match argument {
            Argument::Column(_) => Arc::new(Column::new("x", index)) as Arc<dyn PhysicalExpr>,
            Argument::Constant(value) => lit(value.clone()),
        };
        let exprs: Vec<_> = self.arguments.iter().enumerate().map(expr).collect();
        let args = AccumulatorArgs {
            return_field: Arc::new(Field::new("y", self.function.return_type(&kinds).unwrap(), true)),
            schema: &Schema::empty(),
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: "y",
            is_distinct: false,
            exprs: &exprs,
            expr_fields: &fields,
        };
        match sliding {
            true => self.function.create_sliding_accumulator(args).unwrap(),
            false => self.function.accumulator(args).unwrap(),
        }
    }

    /// The arguments of some rows.
    fn rows(&self, rows: &[usize]) -> Vec<ArrayRef> {
        let places = UInt64Array::from_iter_values(rows.iter().map(|row| *row as u64));
        let column = |argument: &Argument| match argument {
            Argument::Column(values) => take(values, &places, None).unwrap(),
            Argument::Constant(value) => value.to_array_of_size(rows.len()).unwrap(),
        };
        self.arguments.iter().map(column).collect()
    }

    fn whole(&self, rows: usize) -> ScalarValue {
        let mut whole = self.accumulator(false);
        whole.update_batch(&self.rows(&(0..rows).collect::<Vec<_>>())).unwrap();
        whole.evaluate().unwrap()
    }

    /// Every part in batches, some with an answer in between as windows ask for it, their states merged in the end.
    fn split(&self, parts: &[Vec<Vec<usize>>]) -> ScalarValue {
        let mut merged = self.accumulator(false);
        for part in parts {
            let mut accumulator = self.accumulator(false);
            for batch in part {
                accumulator.update_batch(&self.rows(batch)).unwrap();
                if batch.len() % 2 == 0 {
                    accumulator.evaluate().unwrap();
                }
            }
            assert!(accumulator.size() > 0);
            let state = accumulator.state().unwrap();
            let state: Vec<ArrayRef> = state.iter().map(|value| value.to_array().unwrap()).collect();
            merged.merge_batch(&state).unwrap();
        }
        merged.evaluate().unwrap()
    }
}

type Row = (i64, Option<f64>, Option<i64>, Option<u64>, Option<u8>);

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let time = prop_oneof![-5i64..5, Just(i64::MIN), Just(i64::MAX), any::<i64>()];
    let float = prop_oneof![
        4 => (-8i32..8).prop_map(|value| f64::from(value) / 4.0),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(f64::MAX)],
    ];
    let whole = prop_oneof![4 => -3i64..4, 1 => prop_oneof![Just(i64::MIN), Just(i64::MAX)]];
    let unsigned = prop_oneof![4 => 0u64..5, 1 => Just(u64::MAX)];
    let letter = proptest::option::of(0u8..3);
    let (float, whole) = (proptest::option::of(float), proptest::option::of(whole));
    proptest::collection::vec((time, float, whole, proptest::option::of(unsigned), letter), 0..24)
}

/// Rows and a way to deal them out: to parts, in batches, in some order.
fn dealt() -> impl Strategy<Value = (Vec<Row>, Vec<Vec<Vec<usize>>>)> {
    rows().prop_flat_map(|rows| {
        let order = Just((0..rows.len()).collect::<Vec<_>>()).prop_shuffle();
        let places = proptest::collection::vec((0usize..3, 0usize..3), rows.len());
        (Just(rows), order, places).prop_map(|(rows, order, places)| {
            let mut parts = vec![vec![Vec::new(); 3]; 3];
            for (row, (part, batch)) in order.into_iter().zip(places) {
                parts[part][batch].push(row);
            }
            (rows, parts)
        })
    })
}

struct Columns {
    time: ArrayRef,
    float: ArrayRef,
    whole: ArrayRef,
    unsigned: ArrayRef,
    letter: ArrayRef,
    bound: ArrayRef,
}

impl Columns {
    fn new(rows: &[Row]) -> Self {
        let letters: Vec<Option<String>> =
            rows.iter().map(|row| row.4.map(|letter| char::from(b'a' + letter).to_string())).collect();
        let bounds: Vec<Option<&str>> =
            rows.iter().map(|row| row.4.map(|place| ["0.5", "1", "+Inf"][usize::from(place)])).collect();
        Self {
            time: Arc::new(rows.iter().map(|row| Some(row.0)).collect::<TimestampNanosecondArray>()),
            float: Arc::new(rows.iter().map(|row| row.1).collect::<Float64Array>()),
            whole: Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
            unsigned: Arc::new(rows.iter().map(|row| row.3).collect::<UInt64Array>()),
            letter: Arc::new(StringViewArray::from_iter(letters)),
            bound: Arc::new(StringViewArray::from_iter(bounds)),
        }
    }

    /// Every function over every kind of value it takes.
    fn calls(&self) -> Vec<Call> {
        let column = |values: &ArrayRef| Argument::Column(values.clone());
        let numbers = [&self.float, &self.whole, &self.unsigned];
        let mut calls = Vec::new();
        for values in numbers {
            for function in rates::functions() {
                calls.push(Call { function, arguments: vec![column(values), column(&self.time)] });
            }
            let share = Argument::Constant(ScalarValue::from(0.3));
            let function = percentile::functions().swap_remove(0);
            calls.push(Call { function, arguments: vec![column(values), share] });
        }
        for values in numbers.into_iter().chain([&self.letter]) {
            for function in selectors::functions() {
                calls.push(Call { function, arguments: vec![column(values), column(&self.time)] });
            }
            calls.push(Call { function: mode::function(), arguments: vec![column(values)] });
        }
        let quantile = Argument::Constant(ScalarValue::from(0.6));
        let counts = arrow::compute::cast(&self.letter_counts(), &DataType::Int64).unwrap();
        let arguments = vec![quantile, column(&self.bound), Argument::Column(counts)];
        calls.push(Call { function: histogram::function(), arguments });
        calls
    }

    /// Small counts, whose sums are exact in any order.
    fn letter_counts(&self) -> ArrayRef {
        let counts = (0..self.time.len()).map(|row| (row % 5 != 4).then_some(row as i64));
        Arc::new(counts.collect::<Int64Array>())
    }
}

/// The samples that count, in order, as the guide defines them.
fn samples(rows: &[Row]) -> Vec<(i64, f64)> {
    let mut samples: BTreeMap<i64, f64> = BTreeMap::new();
    for (time, value, ..) in rows {
        let Some(value) = value else { continue };
        let kept = samples.entry(*time).or_insert(*value);
        if value.total_cmp(kept).is_gt() {
            *kept = *value;
        }
    }
    samples.into_iter().collect()
}

fn model(name: &str, samples: &[(i64, f64)]) -> Option<f64> {
    let [first, _, before, last] = match samples {
        [one, other] => [*one, *one, *one, *other],
        [first, .., before, last] => [*first, *first, *before, *last],
        _ => return None,
    };
    let seconds = |from: i64, to: i64| (i128::from(to) - i128::from(from)) as f64 / 1e9;
    let rise = |from: f64, to: f64| if to < from { to } else { to - from };
    let increase = samples.windows(2).fold(0.0, |sum, pair| sum + rise(pair[0].1, pair[1].1));
    let area = |sum, pair: &[(i64, f64)]| sum + (pair[0].1 / 2.0 + pair[1].1 / 2.0) * seconds(pair[0].0, pair[1].0);
    Some(match name {
        "increase" => increase,
        "rate" => increase / seconds(first.0, last.0),
        "irate" => rise(before.1, last.1) / seconds(before.0, last.0),
        "delta" => last.1 - first.1,
        "derivative" => (last.1 - first.1) / seconds(first.0, last.0),
        _ => samples.windows(2).fold(0.0, area),
    })
}

/// Equal, NaN being equal to NaN.
fn same(one: Option<f64>, other: Option<f64>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one == other || one.is_nan() && other.is_nan(),
        (one, other) => one.is_none() && other.is_none(),
    }
}

fn float(value: &ScalarValue) -> Option<f64> {
    match value {
        ScalarValue::Float64(value) => *value,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn no_order_and_no_split_changes_an_answer((rows, parts) in dealt()) {
        for call in Columns::new(&rows).calls() {
            let (whole, split) = (call.whole(rows.len()), call.split(&parts));
            let equal = match (&whole, &split) {
                (ScalarValue::Float64(one), ScalarValue::Float64(other)) => same(*one, *other),
                _ => whole == split,
            };
            prop_assert!(equal, "{}: {whole:?} and {split:?}", call.function.name());
        }
    }

    #[test]
    fn rates_are_as_the_guide_defines_them(rows in rows()) {
        let columns = Columns::new(&rows);
        for function in rates::functions() {
            let arguments = vec![Argument::Column(columns.float.clone()), Argument::Column(columns.time.clone())];
            let call = Call { function, arguments };
            let expected = model(call.function.name(), &samples(&rows));
            let found = float(&call.whole(rows.len()));
            prop_assert!(same(found, expected), "{}: {found:?}, not {expected:?}", call.function.name());
        }
    }

    /// A frame that moves gives what its rows alone give.
    #[test]
    fn a_sliding_frame_forgets_what_left_it(rows in rows(), width in 1usize..6) {
        let columns = Columns::new(&rows);
        for function in rates::functions() {
            let arguments = vec![Argument::Column(columns.whole.clone()), Argument::Column(columns.time.clone())];
            let call = Call { function, arguments };
            let mut sliding = call.accumulator(true);
            for row in 0..rows.len() {
                sliding.update_batch(&call.rows(&[row])).unwrap();
                let from = (row + 1).saturating_sub(width);
                if row >= width {
                    sliding.retract_batch(&call.rows(&[from - 1])).unwrap();
                }
                let mut alone = call.accumulator(false);
                alone.update_batch(&call.rows(&(from..=row).collect::<Vec<_>>())).unwrap();
                let (found, expected) = (sliding.evaluate().unwrap(), alone.evaluate().unwrap());
                prop_assert!(same(float(&found), float(&expected)), "{}: {found:?}, not {expected:?}", call.function.name());
            }
        }
    }
}

/// S1: what is held is counted, so that the memory of a query limits it.
#[test]
fn what_is_held_is_counted() {
    let rows: Vec<Row> = (0..10_000).map(|row| (row, Some(row as f64), Some(row), None, None)).collect();
    let columns = Columns::new(&rows);
    let call = |function, argument: &ArrayRef| Call {
        function,
        arguments: vec![Argument::Column(columns.float.clone()), Argument::Column(argument.clone())],
    };
    let size = |call: &Call| {
        let mut accumulator = call.accumulator(false);
        accumulator.update_batch(&call.rows(&(0..rows.len()).collect::<Vec<_>>())).unwrap();
        accumulator.size()
    };
    for function in rates::functions() {
        let of_ends = ["irate", "delta", "derivative"].contains(&function.name());
        let size = size(&call(function, &columns.time));
        assert!(if of_ends { size < 1000 } else { size >= 160_000 }, "{size}");
    }
    let share = Argument::Constant(ScalarValue::from(0.5));
    let arguments = vec![Argument::Column(columns.float.clone()), share];
    assert!(size(&Call { function: percentile::functions().swap_remove(0), arguments }) >= 80_000);
    let arguments = vec![Argument::Column(columns.whole.clone())];
    assert!(size(&Call { function: mode::function(), arguments }) >= 250_000);
}
