//! `time_bucket(width, time [, origin])`: the start of the bucket of `width` in which `time` lies, of the same type.
//!
//! Buckets are counted from `origin`; without one from 1970-01-01, so that days and hours start where people expect, except
//! that buckets of whole weeks start on Mondays. Months and years follow the calendar. Times before the origin are floored
//! too. The width is an interval or text that reads as one (`'5 minutes'`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowTimestampType, DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::bucket::{Buckets, Width};

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeBucket {
    signature: Signature,
}

impl Default for TimeBucket {
    fn default() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TimeBucket {
    fn name(&self) -> &str {
        "time_bucket"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let (Some(width), Some(time), true) = (arguments.first(), arguments.get(1), arguments.len() <= 3) else {
            return plan_err!("time_bucket takes a width, a time and, if wanted, an origin");
        };
        if !matches!(
            width,
            DataType::Null | DataType::Interval(_) | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        ) {
            return plan_err!("the width of time_bucket must be an interval, not {width}");
        }
        match time {
            DataType::Timestamp(..) | DataType::Date32 => Ok(time.clone()),
            DataType::Null => Ok(DataType::Timestamp(TimeUnit::Nanosecond, None)),
            other => plan_err!("time_bucket needs a timestamp or date, not {other}"),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ColumnarValue::Scalar(width) = &args.args[0] else {
            return exec_err!("the width of time_bucket must be the same for all rows");
        };
        let origin = match args.args.get(2) {
            None => None,
            Some(ColumnarValue::Scalar(origin)) => Some(origin),
            Some(ColumnarValue::Array(_)) => {
                return exec_err!("the origin of time_bucket must be the same for all rows");
            }
        };
        let grid = Buckets::parse(self.name(), width, origin)?;
        let kind = args.return_field.data_type().clone();
        match &args.args[1] {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(buckets(times, &kind, grid)?)),
            ColumnarValue::Scalar(time) => {
                let bucket = buckets(&time.to_array()?, &kind, grid)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&bucket, 0)?))
            }
        }
    }

    /// Buckets ascend with time, so that sorted rows stay sorted by bucket.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        let constant =
            |index: usize| inputs.get(index).is_none_or(|input| input.sort_properties == SortProperties::Singleton);
        Ok(if constant(0) && constant(2) { inputs[1].sort_properties } else { SortProperties::Unordered })
    }
}

fn buckets(times: &ArrayRef, kind: &DataType, grid: Buckets) -> Result<ArrayRef> {
    let times = if times.data_type() == kind { Arc::clone(times) } else { cast(times, kind)? };
    match kind {
        DataType::Timestamp(TimeUnit::Second, _) => each::<TimestampSecondType>(&times, 1_000_000_000, grid),
        DataType::Timestamp(TimeUnit::Millisecond, _) => each::<TimestampMillisecondType>(&times, 1_000_000, grid),
        DataType::Timestamp(TimeUnit::Microsecond, _) => each::<TimestampMicrosecondType>(&times, 1_000, grid),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => each::<TimestampNanosecondType>(&times, 1, grid),
        _ => {
            let seconds = cast(&times, &DataType::Timestamp(TimeUnit::Second, None))?;
            Ok(cast(&each::<TimestampSecondType>(&seconds, 1_000_000_000, grid)?, kind)?)
        }
    }
}

fn each<T: ArrowTimestampType>(times: &ArrayRef, unit: i128, grid: Buckets) -> Result<ArrayRef> {
    let times: &PrimitiveArray<T> = times.as_primitive();
    let zone = match times.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    // Neighbours mostly lie in the same bucket.
    let mut known: (std::ops::Range<i128>, i64) = (0..0, 0);
    let mut starts = Vec::with_capacity(times.len());
    for (row, &time) in times.values().iter().enumerate() {
        let nanos = i128::from(time) * unit;
        if !known.0.contains(&nanos) && times.is_valid(row) {
            let from = grid.start(nanos);
            let to = if let Width::Nanos(width) = grid.width { from + width } else { nanos + 1 };
            let Ok(found) = i64::try_from(from.div_euclid(unit)) else {
                return exec_err!("the bucket of a time is out of range");
            };
            known = (nanos.min(from)..to, found);
        }
        starts.push(known.1);
    }
    let starts = PrimitiveArray::<T>::new(starts.into(), times.nulls().cloned());
    Ok(Arc::new(starts.with_timezone_opt(zone)))
}
