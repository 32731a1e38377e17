//! Arguments of functions: which types they may have, which must be constants, and how they are named in errors.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Int64Type, IntervalMonthDayNanoType, Schema, TimeUnit};
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;

/// The name of a function and of its arguments, as errors show them: `rate(value, time)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) arguments: &'static [&'static str],
    /// Arguments that must be given; the others may be left out.
    pub(super) needed: usize,
}

impl Form {
    pub(super) fn check_count(&self, given: &[DataType]) -> Result<()> {
        if given.len() >= self.needed && given.len() <= self.arguments.len() {
            return Ok(());
        }
        let (needed, more) = self.arguments.split_at(self.needed);
        let more: String = more.iter().map(|argument| format!(" [, {argument}]")).collect();
        plan_err!("{}({}{more}) cannot be called with {} arguments", self.name, needed.join(", "), given.len())
    }

    /// A number, or NULL.
    pub(super) fn check_number(&self, given: &[DataType], index: usize) -> Result<()> {
        match given.get(index) {
            Some(kind) if !kind.is_numeric() && !kind.is_null() => self.wrong(given, index, "a number"),
            _ => Ok(()),
        }
    }

    /// A timestamp or a date, or NULL.
    pub(super) fn check_time(&self, given: &[DataType], index: usize) -> Result<()> {
        match given.get(index) {
            None | Some(DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 | DataType::Null) => Ok(()),
            Some(_) => self.wrong(given, index, "a timestamp"),
        }
    }

    /// An interval or text that reads as one.
    pub(super) fn check_interval(&self, given: &[DataType], index: usize) -> Result<()> {
        match given.get(index) {
            None | Some(DataType::Interval(_) | DataType::Null) => Ok(()),
            Some(kind) if is_text(kind) => Ok(()),
            Some(_) => self.wrong(given, index, "an interval"),
        }
    }

    pub(super) fn wrong<T>(&self, given: &[DataType], index: usize, wanted: &str) -> Result<T> {
        plan_err!("the {} of {} must be {wanted}, not {}", self.arguments[index], self.name, given[index])
    }

    /// The value of an argument that must not depend on the row.
    pub(super) fn constant(&self, expressions: &[Arc<dyn PhysicalExpr>], index: usize) -> Result<ScalarValue> {
        let no_rows = RecordBatch::new_empty(Arc::new(Schema::empty()));
        match expressions[index].evaluate(&no_rows) {
            Ok(ColumnarValue::Scalar(value)) => Ok(value),
            _ => plan_err!("the {} of {} must be the same for all rows", self.arguments[index], self.name),
        }
    }

    /// A constant as a number.
    pub(super) fn constant_float(&self, expressions: &[Arc<dyn PhysicalExpr>], index: usize) -> Result<f64> {
        match self.constant(expressions, index)?.cast_to(&DataType::Float64)? {
            ScalarValue::Float64(Some(value)) => Ok(value),
            _ => plan_err!("the {} of {} is NULL", self.arguments[index], self.name),
        }
    }

    /// A constant interval in seconds, above 0; one second when it is left out.
    pub(super) fn constant_seconds(&self, expressions: &[Arc<dyn PhysicalExpr>], index: usize) -> Result<f64> {
        if expressions.len() <= index {
            return Ok(1.0);
        }
        let argument = self.arguments[index];
        let kind = IntervalMonthDayNanoType::DATA_TYPE;
        let ScalarValue::IntervalMonthDayNano(Some(unit)) = self.constant(expressions, index)?.cast_to(&kind)? else {
            return plan_err!("the {argument} of {} is NULL", self.name);
        };
        let nanos = i128::from(unit.days) * 86_400_000_000_000 + i128::from(unit.nanoseconds);
        if unit.months != 0 || nanos <= 0 {
            return plan_err!("the {argument} of {} must be above 0 and without months", self.name);
        }
        Ok(nanos as f64 / 1e9)
    }
}

pub(super) fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

/// Times as nanoseconds since 1970.
pub(super) fn nanos(times: &ArrayRef) -> Result<Int64Array> {
    let times = cast(times, &DataType::Timestamp(TimeUnit::Nanosecond, None))?;
    Ok(cast(&times, &DataType::Int64)?.as_primitive::<Int64Type>().clone())
}

/// The rows in which no column is NULL.
pub(super) fn complete_rows<'a>(columns: &'a [&'a dyn Array]) -> impl Iterator<Item = usize> + 'a {
    let rows = columns.first().map_or(0, |column| column.len());
    (0..rows).filter(|&row| columns.iter().all(|column| column.is_valid(row)))
}

/// A list as one value, for the state of an accumulator.
pub(super) fn list(values: ArrayRef) -> ScalarValue {
    ScalarValue::List(Arc::new(SingleRowListArrayBuilder::new(values).build_list_array()))
}

/// The elements of all lists in an array, for merging states.
pub(super) fn elements(lists: &ArrayRef) -> impl Iterator<Item = ArrayRef> + '_ {
    lists.as_list::<i32>().iter().flatten()
}
