//! The states of aggregates over runs of rows, in the form in which DataFusion's own partial aggregations hand them on.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, Int64Array, PrimitiveArray, RecordBatch,
    UInt32Array, UInt64Array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit, TimestampNanosecondType, UInt64Type};
use datafusion::common::{Result, internal_err};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr::utils::reassign_expr_columns;
use weir_engine::schema::TIME;

/// An aggregate that knows the state of a run.
#[derive(Debug, Clone)]
pub(super) struct State {
    kind: Kind,
    value: Arc<dyn PhysicalExpr>,
}

#[derive(Debug, Clone)]
enum Kind {
    Count,
    Sum,
    Mean,
    Min,
    Max,
    /// The value at the smallest or largest of an order.
    Extreme {
        last: bool,
        order: Arc<dyn PhysicalExpr>,
    },
}

/// Types that sums, means and extremes are taken of here.
fn is_number(of: &DataType) -> bool {
    matches!(of, DataType::Int64 | DataType::UInt64 | DataType::Float64)
}

const NANOS: DataType = DataType::Timestamp(TimeUnit::Nanosecond, None);

impl State {
    /// `None` when the aggregate is not one of those.
    pub(super) fn of(aggregate: &AggregateFunctionExpr) -> Option<Self> {
        let [value] = &aggregate.expressions()[..] else { return None };
        if aggregate.is_distinct() {
            return None;
        }
        let fields = aggregate.state_fields().ok()?;
        let types: Vec<&DataType> = fields.iter().map(|field| field.data_type()).collect();
        let ordered = !aggregate.order_bys().is_empty();
        let kind = match (aggregate.fun().name(), &types[..]) {
            ("count", [DataType::Int64]) if !ordered => Kind::Count,
            ("sum", [one]) if !ordered && is_number(one) => Kind::Sum,
            ("avg", [DataType::UInt64, DataType::Float64]) if !ordered => Kind::Mean,
            ("min", [one]) if !ordered && (is_number(one) || **one == NANOS) => Kind::Min,
            ("max", [one]) if !ordered && (is_number(one) || **one == NANOS) => Kind::Max,
            (name @ ("first_value" | "last_value"), [_, order, DataType::Boolean])
                if **order == NANOS && aggregate.ignore_nulls() =>
            {
                let [by] = aggregate.order_bys() else { return None };
                if by.options.descending || aggregate.is_reversed() {
                    return None;
                }
                Kind::Extreme { last: name == "last_value", order: Arc::clone(&by.expr) }
            }
            _ => return None,
        };
        Some(Self { kind, value: Arc::clone(value) })
    }

    /// What it is computed from.
    pub(super) fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        match &self.kind {
            Kind::Mean => vec![uncast(&self.value)],
            Kind::Extreme { order, .. } => vec![&self.value, order],
            _ => vec![&self.value],
        }
    }

    /// Where, among the columns of its state, the time is up to which older rows change nothing, and whether there is such a row yet; `None`
    /// when older rows always matter. Then how many columns there are.
    pub(super) fn newest(&self) -> Option<(usize, Option<usize>, usize)> {
        match &self.kind {
            Kind::Max if is_time(&self.value) => Some((0, None, 1)),
            Kind::Extreme { last: true, order } if is_time(order) => Some((1, Some(2), 3)),
            _ => None,
        }
    }

    /// The same over another choice of columns.
    pub(super) fn over(&self, schema: &Schema) -> Result<Self> {
        let of = |expr: &Arc<dyn PhysicalExpr>| reassign_expr_columns(Arc::clone(expr), schema);
        let kind = match &self.kind {
            Kind::Extreme { last, order } => Kind::Extreme { last: *last, order: of(order)? },
            other => other.clone(),
        };
        Ok(Self { kind, value: of(&self.value)? })
    }

    /// Adds the columns of the state, a row for each run; `false` when it cannot tell it. `ascending`: within a run, times are known
    /// to ascend.
    pub(super) fn of_runs(
        &self,
        batch: &RecordBatch,
        runs: &[Range<usize>],
        ascending: bool,
        columns: &mut Vec<ArrayRef>,
    ) -> Result<bool> {
        let evaluate = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(batch.num_rows());
        match &self.kind {
            Kind::Count if self.value.downcast_ref::<Literal>().is_some_and(|value| !value.value().is_null()) => {
                columns.push(Arc::new(runs.iter().map(|run| Some(run.len() as i64)).collect::<Int64Array>()));
            }
            Kind::Count => columns.push(Arc::new(counts(&*evaluate(&self.value)?, runs))),
            Kind::Sum => columns.push(sums(&evaluate(&self.value)?, runs)?),
            Kind::Mean => {
                let value = evaluate(uncast(&self.value))?;
                let (counts, sums) = means(&value, runs)?;
                columns.extend([Arc::new(counts) as ArrayRef, Arc::new(sums)]);
            }
            Kind::Min | Kind::Max if ascending && is_time(&self.value) => {
                let largest = matches!(self.kind, Kind::Max);
                let ends = runs.iter().map(|run| if largest { run.end - 1 } else { run.start } as u32);
                columns.push(take(&evaluate(&self.value)?, &UInt32Array::from_iter_values(ends), None)?);
            }
            Kind::Min => columns.push(extremes(&evaluate(&self.value)?, runs, false)?),
            Kind::Max => columns.push(extremes(&evaluate(&self.value)?, runs, true)?),
            Kind::Extreme { last, order: by } => {
                let (value, order) = (evaluate(&self.value)?, evaluate(by)?);
                let Some(times) = order.as_primitive_opt::<TimestampNanosecondType>() else {
                    return internal_err!("an order by {} is no time", order.data_type());
                };
                if times.null_count() > 0 {
                    return Ok(false);
                }
                let places = places(&*value, times, runs, *last, ascending && is_time(by));
                let set: BooleanArray = places.iter().map(|place| Some(place.is_some())).collect();
                let at: UInt32Array = places.iter().copied().collect();
                // Where there is no value any time will do; the column of times need not allow NULL.
                let times = places.iter().zip(runs).map(|(place, run)| place.unwrap_or(run.start as u32));
                columns.push(take(&value, &at, None)?);
                columns.push(take(&order, &UInt32Array::from_iter_values(times), None)?);
                columns.push(Arc::new(set));
            }
        }
        Ok(true)
    }
}

fn is_time(value: &Arc<dyn PhysicalExpr>) -> bool {
    value.downcast_ref::<Column>().is_some_and(|column| column.name() == TIME)
}

/// What a mean casts to floats before it adds: the sum does that itself.
fn uncast(value: &Arc<dyn PhysicalExpr>) -> &Arc<dyn PhysicalExpr> {
    match value.downcast_ref::<CastExpr>() {
        Some(cast) if *cast.cast_type() == DataType::Float64 => cast.expr(),
        _ => value,
    }
}

fn counts(value: &dyn Array, runs: &[Range<usize>]) -> Int64Array {
    let nulls = value.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    let count = |run: &Range<usize>| match &nulls {
        Some(nulls) => nulls.inner().slice(run.start, run.len()).count_set_bits() as i64,
        None => run.len() as i64,
    };
    runs.iter().map(|run| Some(count(run))).collect()
}

/// Folds the values of each run: those of runs without NULL in one piece, of others one after the other.
fn fold<T: ArrowPrimitiveType, A: Copy>(
    values: &PrimitiveArray<T>,
    runs: &[Range<usize>],
    zero: A,
    whole: impl Fn(&[T::Native]) -> A,
    join: impl Fn(A, A) -> A,
) -> Vec<Option<A>> {
    let all = values.values();
    let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return runs.iter().map(|run| Some(whole(&all[run.clone()]))).collect();
    };
    let valid = |run: &Range<usize>| {
        let mut folded = None;
        for (start, end) in nulls.inner().slice(run.start, run.len()).set_slices() {
            let piece = whole(&all[run.start + start..run.start + end]);
            folded = Some(join(folded.unwrap_or(zero), piece));
        }
        folded
    };
    runs.iter().map(valid).collect()
}

/// Values added at the same time.
const LANES: usize = 8;

/// The sum of values as floats, in several lanes: one addition need not wait for the one before.
fn float_sum<N: Copy>(values: &[N], float: impl Fn(N) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += float(*value);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|value| float(*value)).sum::<f64>()
}

fn sums(value: &ArrayRef, runs: &[Range<usize>]) -> Result<ArrayRef> {
    Ok(match value.data_type() {
        DataType::Int64 => {
            let whole = |values: &[i64]| values.iter().fold(0i64, |sum, value| sum.wrapping_add(*value));
            let sums = fold(value.as_primitive::<Int64Type>(), runs, 0, whole, i64::wrapping_add);
            Arc::new(Int64Array::from(sums))
        }
        DataType::UInt64 => {
            let whole = |values: &[u64]| values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value));
            let sums = fold(value.as_primitive::<UInt64Type>(), runs, 0, whole, u64::wrapping_add);
            Arc::new(UInt64Array::from(sums))
        }
        DataType::Float64 => {
            let whole = |values: &[f64]| float_sum(values, |value| value);
            let sums = fold(value.as_primitive::<Float64Type>(), runs, 0.0, whole, |one, other| one + other);
            Arc::new(Float64Array::from(sums))
        }
        other => return internal_err!("a sum of {other}"),
    })
}

/// Counts and sums; both NULL where there is no value.
fn means(value: &ArrayRef, runs: &[Range<usize>]) -> Result<(UInt64Array, Float64Array)> {
    let add = |one: f64, other: f64| one + other;
    let sums = match value.data_type() {
        DataType::Int64 => {
            let whole = |values: &[i64]| float_sum(values, |value| value as f64);
            fold(value.as_primitive::<Int64Type>(), runs, 0.0, whole, add)
        }
        DataType::UInt64 => {
            let whole = |values: &[u64]| float_sum(values, |value| value as f64);
            fold(value.as_primitive::<UInt64Type>(), runs, 0.0, whole, add)
        }
        DataType::Float64 => {
            fold(value.as_primitive::<Float64Type>(), runs, 0.0, |values| float_sum(values, |value| value), add)
        }
        other => {
            let floats = arrow::compute::cast(value, &DataType::Float64);
            let Ok(floats) = floats else { return internal_err!("a mean of {other}") };
            return means(&floats, runs);
        }
    };
    let counts = counts(&**value, runs);
    let counts = counts.values().iter().zip(&sums).map(|(count, sum)| sum.map(|_| *count as u64)).collect();
    Ok((counts, Float64Array::from(sums)))
}

fn extremes(value: &ArrayRef, runs: &[Range<usize>], largest: bool) -> Result<ArrayRef> {
    Ok(match value.data_type() {
        DataType::Int64 => Arc::new(Int64Array::from(ordered(value.as_primitive::<Int64Type>(), runs, largest))),
        DataType::UInt64 => Arc::new(UInt64Array::from(ordered(value.as_primitive::<UInt64Type>(), runs, largest))),
        DataType::Timestamp(TimeUnit::Nanosecond, None) => {
            let found = ordered(value.as_primitive::<TimestampNanosecondType>(), runs, largest);
            Arc::new(PrimitiveArray::<TimestampNanosecondType>::from(found))
        }
        DataType::Float64 => Arc::new(Float64Array::from(floats(value.as_primitive::<Float64Type>(), runs, largest))),
        other => return internal_err!("an extreme of {other}"),
    })
}

/// Smallest or largest of values that are all comparable.
fn ordered<T>(values: &PrimitiveArray<T>, runs: &[Range<usize>], largest: bool) -> Vec<Option<T::Native>>
where
    T: ArrowPrimitiveType,
    T::Native: Ord,
{
    // A run, and a piece of one, has at least one value: the first stands for none.
    let best = |one: T::Native, other: T::Native| if largest { one.max(other) } else { one.min(other) };
    let whole = |values: &[T::Native]| values.iter().copied().fold(values[0], best);
    let all = values.values();
    let Some(nulls) = values.nulls().filter(|nulls| nulls.null_count() > 0) else {
        return runs.iter().map(|run| Some(whole(&all[run.clone()]))).collect();
    };
    let valid = |run: &Range<usize>| {
        let pieces = nulls.inner().slice(run.start, run.len());
        let pieces = pieces.set_slices().map(|(start, end)| whole(&all[run.start + start..run.start + end]));
        pieces.reduce(best)
    };
    runs.iter().map(valid).collect()
}

/// Smallest or largest float as DataFusion's own aggregation takes it: what cannot be compared with the one so far replaces it.
fn floats(values: &Float64Array, runs: &[Range<usize>], largest: bool) -> Vec<Option<f64>> {
    let better = |new: f64, so_far: f64| match new.partial_cmp(&so_far) {
        Some(order) => {
            if largest {
                order.is_gt()
            } else {
                order.is_lt()
            }
        }
        None => true,
    };
    let of = |run: &Range<usize>| {
        let valid = run.clone().filter(|row| values.is_valid(*row)).map(|row| values.value(row));
        valid.reduce(|so_far, new| if better(new, so_far) { new } else { so_far })
    };
    runs.iter().map(of).collect()
}

/// The row of each run that has a value and the smallest or largest time, of which none is NULL.
fn places(
    value: &dyn Array,
    times: &PrimitiveArray<TimestampNanosecondType>,
    runs: &[Range<usize>],
    last: bool,
    ascending: bool,
) -> Vec<Option<u32>> {
    let nulls = value.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    let all = times.values();
    let of = |run: &Range<usize>| {
        let is_set = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        if ascending || all[run.clone()].is_sorted() {
            let mut rows = run.clone().filter(|row| is_set(*row));
            return if last { rows.next_back() } else { rows.next() };
        }
        let rows = run.clone().filter(|row| is_set(*row));
        if last { rows.max_by_key(|row| all[*row]) } else { rows.min_by_key(|row| all[*row]) }
    };
    runs.iter().map(|run| of(run).map(|row| row as u32)).collect()
}
