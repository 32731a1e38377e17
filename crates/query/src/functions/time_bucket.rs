//! `time_bucket(width, time [, origin])`: the start of the bucket of `width` in which `time` lies, of the same type.
//!
//! Buckets are counted from `origin`; without one from 1970-01-01, so that days and hours start where people expect, except
//! that buckets of whole weeks start on Mondays. Months and years follow the calendar. Times before the origin are floored
//! too. The width is an interval or text that reads as one (`'5 minutes'`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::{cast, kernels::cast_utils::parse_interval_month_day_nano};
use arrow::datatypes::{
    ArrowTimestampType, DataType, IntervalMonthDayNano, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::calendar::{civil, first_of_month};

const DAY_NANOS: i128 = 86_400_000_000_000;
/// 1970-01-05 was a Monday.
const MONDAY: i128 = 4 * DAY_NANOS;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct TimeBucket {
    signature: Signature,
}

impl Default for TimeBucket {
    fn default() -> Self {
        Self { signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

/// The width of a bucket; either is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Width {
    Months(i64),
    Nanos(i128),
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
        if !matches!(width, DataType::Interval(_) | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
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
        let width = width_of(width)?;
        let origin = match args.args.get(2) {
            None => default_origin(width),
            Some(ColumnarValue::Scalar(origin)) => origin_of(origin)?,
            Some(ColumnarValue::Array(_)) => {
                return exec_err!("the origin of time_bucket must be the same for all rows");
            }
        };
        let kind = args.return_field.data_type().clone();
        match &args.args[1] {
            ColumnarValue::Array(times) => Ok(ColumnarValue::Array(buckets(times, &kind, width, origin)?)),
            ColumnarValue::Scalar(time) => {
                let bucket = buckets(&time.to_array()?, &kind, width, origin)?;
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

fn width_of(width: &ScalarValue) -> Result<Width> {
    let text = |text: &str| Ok::<_, datafusion::common::DataFusionError>(parse_interval_month_day_nano(text)?);
    let IntervalMonthDayNano { months, days, nanoseconds } = match width {
        ScalarValue::IntervalMonthDayNano(Some(width)) => *width,
        ScalarValue::IntervalYearMonth(Some(months)) => IntervalMonthDayNano::new(*months, 0, 0),
        ScalarValue::IntervalDayTime(Some(width)) => {
            IntervalMonthDayNano::new(0, width.days, i64::from(width.milliseconds) * 1_000_000)
        }
        ScalarValue::Utf8(Some(width)) | ScalarValue::LargeUtf8(Some(width)) | ScalarValue::Utf8View(Some(width)) => {
            text(width)?
        }
        _ => return exec_err!("the width of time_bucket is NULL"),
    };
    let nanos = i128::from(days) * DAY_NANOS + i128::from(nanoseconds);
    match (months, nanos) {
        (1.., 0) => Ok(Width::Months(i64::from(months))),
        (0, 1..) => Ok(Width::Nanos(nanos)),
        (0, _) | (..0, 0) => exec_err!("the width of time_bucket must be above 0"),
        _ => exec_err!("the width of time_bucket must be whole months, or days and shorter, not both"),
    }
}

fn default_origin(width: Width) -> i128 {
    match width {
        Width::Nanos(nanos) if nanos % (7 * DAY_NANOS) == 0 => MONDAY,
        _ => 0,
    }
}

fn origin_of(origin: &ScalarValue) -> Result<i128> {
    match origin.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, None))? {
        ScalarValue::TimestampNanosecond(Some(nanos), _) => Ok(i128::from(nanos)),
        _ => exec_err!("the origin of time_bucket is NULL"),
    }
}

fn buckets(times: &ArrayRef, kind: &DataType, width: Width, origin: i128) -> Result<ArrayRef> {
    let times = if times.data_type() == kind { Arc::clone(times) } else { cast(times, kind)? };
    match kind {
        DataType::Timestamp(TimeUnit::Second, _) => each::<TimestampSecondType>(&times, 1_000_000_000, width, origin),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            each::<TimestampMillisecondType>(&times, 1_000_000, width, origin)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => each::<TimestampMicrosecondType>(&times, 1_000, width, origin),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => each::<TimestampNanosecondType>(&times, 1, width, origin),
        _ => {
            let seconds = cast(&times, &DataType::Timestamp(TimeUnit::Second, None))?;
            Ok(cast(&each::<TimestampSecondType>(&seconds, 1_000_000_000, width, origin)?, kind)?)
        }
    }
}

fn each<T: ArrowTimestampType>(times: &ArrayRef, unit: i128, width: Width, origin: i128) -> Result<ArrayRef> {
    let times: &PrimitiveArray<T> = times.as_primitive();
    let zone = match times.data_type() {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    let bucket = |time: i64| {
        let start = start(i128::from(time) * unit, width, origin).div_euclid(unit);
        i64::try_from(start).map_err(|_| arrow::error::ArrowError::ComputeError("time_bucket is out of range".into()))
    };
    // Neighbours mostly lie in the same bucket.
    let mut last: Option<(std::ops::Range<i128>, i64)> = None;
    let starts: PrimitiveArray<T> = times.try_unary(|time| {
        let nanos = i128::from(time) * unit;
        if let Some((range, start)) = &last
            && range.contains(&nanos)
        {
            return Ok(*start);
        }
        let found = bucket(time)?;
        if let Width::Nanos(width) = width {
            let from = start(nanos, Width::Nanos(width), origin);
            last = Some((from..from + width, found));
        }
        Ok::<_, arrow::error::ArrowError>(found)
    })?;
    Ok(Arc::new(starts.with_timezone_opt(zone)))
}

/// The start of the bucket, nanoseconds since 1970.
fn start(nanos: i128, width: Width, origin: i128) -> i128 {
    match width {
        Width::Nanos(width) => nanos - (nanos - origin).rem_euclid(width),
        Width::Months(width) => {
            let month = |nanos: i128| {
                let (year, month, _) = civil(nanos.div_euclid(DAY_NANOS) as i64);
                year * 12 + month - 1
            };
            let first = month(origin);
            let bucket = first + (month(nanos) - first).div_euclid(width) * width;
            i128::from(first_of_month(bucket.div_euclid(12), bucket.rem_euclid(12) + 1)) * DAY_NANOS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(width: &str, time: &str) -> String {
        let time = ScalarValue::from(time).cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, None)).unwrap();
        let ScalarValue::TimestampNanosecond(Some(nanos), _) = time else { unreachable!() };
        let width = width_of(&ScalarValue::from(width)).unwrap();
        let bucket = start(i128::from(nanos), width, default_origin(width));
        ScalarValue::TimestampNanosecond(Some(i64::try_from(bucket).unwrap()), None).to_string_in_utc()
    }

    trait InUtc {
        fn to_string_in_utc(&self) -> String;
    }

    impl InUtc for ScalarValue {
        fn to_string_in_utc(&self) -> String {
            let text = self.cast_to(&DataType::Utf8).unwrap();
            text.to_string()
        }
    }

    #[test]
    fn buckets_floor_on_both_sides_of_1970() {
        for (width, time, expected) in [
            ("5 minutes", "2011-07-01T00:07:59.999", "2011-07-01T00:05:00"),
            ("5 minutes", "1969-12-31T23:59:59", "1969-12-31T23:55:00"),
            ("1 hour", "1960-02-29T00:00:00", "1960-02-29T00:00:00"),
            ("1 day", "1969-12-31T00:00:00", "1969-12-31T00:00:00"),
            ("1 week", "2024-01-03T12:00:00", "2024-01-01T00:00:00"),
            ("1 week", "2024-01-07T23:59:59", "2024-01-01T00:00:00"),
            ("2 weeks", "1970-01-04T00:00:00", "1969-12-22T00:00:00"),
            ("1 month", "2024-02-29T12:00:00", "2024-02-01T00:00:00"),
            ("1 month", "1969-12-31T23:59:59", "1969-12-01T00:00:00"),
            ("3 months", "1969-12-31T23:59:59", "1969-10-01T00:00:00"),
            ("1 year", "2011-07-01T00:00:00", "2011-01-01T00:00:00"),
        ] {
            assert_eq!(bucket(width, time), expected, "{width} {time}");
        }
    }

    #[test]
    fn a_width_must_be_one_above_zero() {
        for width in ["0 seconds", "-1 hour", "1 month 1 day", "-1 month"] {
            assert!(width_of(&ScalarValue::from(width)).is_err(), "{width}");
        }
    }
}
