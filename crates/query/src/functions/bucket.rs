//! A grid of buckets on the time line: what `time_bucket` rounds to and what gap filling walks along.

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};

use crate::calendar::{civil, first_of_month};

const DAY_NANOS: i128 = 86_400_000_000_000;
/// 1970-01-05 was a Monday.
const MONDAY: i128 = 4 * DAY_NANOS;

/// The width of a bucket; either is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Width {
    Months(i64),
    Nanos(i128),
}

/// Buckets of one width, counted from an origin in nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Buckets {
    pub(crate) width: Width,
    pub(crate) origin: i128,
}

impl Buckets {
    /// The grid that the arguments of `function` ask for; buckets of whole weeks start on Mondays if no origin is given.
    ///
    /// # Errors
    /// A width that is NULL, not above 0 or both months and days; an origin that is NULL or no time.
    pub(crate) fn parse(function: &str, width: &ScalarValue, origin: Option<&ScalarValue>) -> Result<Self> {
        let width = width_of(function, width)?;
        let origin = match (origin, width) {
            (Some(origin), _) => match time_nanos(origin)? {
                Some(nanos) => nanos,
                None => return exec_err!("the origin of {function} is NULL"),
            },
            (None, Width::Nanos(nanos)) if nanos % (7 * DAY_NANOS) == 0 => MONDAY,
            (None, _) => 0,
        };
        Ok(Self { width, origin })
    }

    /// The grid of `date_trunc`; `None` for a unit that it does not have.
    pub(crate) fn of_unit(unit: &str) -> Option<Self> {
        let nanos = |width: i128| Some(Self { width: Width::Nanos(width), origin: 0 });
        let months = |width: i64| Some(Self { width: Width::Months(width), origin: 0 });
        match unit.to_ascii_lowercase().as_str() {
            "microsecond" => nanos(1000),
            "millisecond" => nanos(1_000_000),
            "second" => nanos(1_000_000_000),
            "minute" => nanos(60_000_000_000),
            "hour" => nanos(3_600_000_000_000),
            "day" => nanos(DAY_NANOS),
            "week" => Some(Self { width: Width::Nanos(7 * DAY_NANOS), origin: MONDAY }),
            "month" => months(1),
            "quarter" => months(3),
            "year" => months(12),
            _ => None,
        }
    }

    /// The grid of `date_bin`, counted from 1970; `None` where its width is no fixed time.
    pub(crate) fn of_width(width: &ScalarValue) -> Option<Self> {
        match width_of("date_bin", width).ok()? {
            Width::Nanos(nanos) => Some(Self { width: Width::Nanos(nanos), origin: 0 }),
            Width::Months(_) => None,
        }
    }

    /// The start of the bucket in which a time lies; both in nanoseconds since 1970.
    pub(crate) fn start(&self, nanos: i128) -> i128 {
        match self.width {
            Width::Nanos(width) => nanos - (nanos - self.origin).rem_euclid(width),
            Width::Months(width) => {
                let first = month(self.origin);
                month_start(first + (month(nanos) - first).div_euclid(width) * width)
            }
        }
    }

    /// How many buckets there are from one start to another, both included; 0 when the last lies before the first.
    pub(crate) fn count(&self, first: i128, last: i128) -> u64 {
        let steps = match self.width {
            Width::Nanos(width) => (last - first).div_euclid(width),
            Width::Months(width) => i128::from((month(last) - month(first)).div_euclid(width)),
        };
        u64::try_from(steps + 1).unwrap_or(if steps < 0 { 0 } else { u64::MAX })
    }

    /// The start that lies `steps` buckets after another.
    pub(crate) fn after(&self, first: i128, steps: u64) -> i128 {
        match self.width {
            Width::Nanos(width) => first + i128::from(steps) * width,
            Width::Months(width) => month_start(month(first) + width * steps as i64),
        }
    }
}

/// Nanoseconds since 1970 of a time or of text that reads as one; `None` for NULL.
pub(crate) fn time_nanos(time: &ScalarValue) -> Result<Option<i128>> {
    match time.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, None))? {
        ScalarValue::TimestampNanosecond(nanos, _) => Ok(nanos.map(i128::from)),
        _ => Ok(None),
    }
}

/// Months since the year 0.
fn month(nanos: i128) -> i64 {
    let (year, month, _) = civil(nanos.div_euclid(DAY_NANOS) as i64);
    year * 12 + month - 1
}

fn month_start(month: i64) -> i128 {
    i128::from(first_of_month(month.div_euclid(12), month.rem_euclid(12) + 1)) * DAY_NANOS
}

fn width_of(function: &str, width: &ScalarValue) -> Result<Width> {
    let text = |text: &str| Ok::<_, DataFusionError>(parse_interval_month_day_nano(text)?);
    let IntervalMonthDayNano { months, days, nanoseconds } = match width {
        ScalarValue::IntervalMonthDayNano(Some(width)) => *width,
        ScalarValue::IntervalYearMonth(Some(months)) => IntervalMonthDayNano::new(*months, 0, 0),
        ScalarValue::IntervalDayTime(Some(width)) => {
            IntervalMonthDayNano::new(0, width.days, i64::from(width.milliseconds) * 1_000_000)
        }
        ScalarValue::Utf8(Some(width)) | ScalarValue::LargeUtf8(Some(width)) | ScalarValue::Utf8View(Some(width)) => {
            text(width)?
        }
        _ => return exec_err!("the width of {function} is NULL"),
    };
    let nanos = i128::from(days) * DAY_NANOS + i128::from(nanoseconds);
    match (months, nanos) {
        (1.., 0) => Ok(Width::Months(i64::from(months))),
        (0, 1..) => Ok(Width::Nanos(nanos)),
        (0, _) | (..0, 0) => exec_err!("the width of {function} must be above 0"),
        _ => exec_err!("the width of {function} must be whole months, or days and shorter, not both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(time: &str) -> i128 {
        time_nanos(&ScalarValue::from(time)).unwrap().unwrap()
    }

    fn text(nanos: i128) -> String {
        let time = ScalarValue::TimestampNanosecond(Some(i64::try_from(nanos).unwrap()), None);
        time.cast_to(&DataType::Utf8).unwrap().to_string()
    }

    fn grid(width: &str) -> Buckets {
        Buckets::parse("time_bucket", &ScalarValue::from(width), None).unwrap()
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
            assert_eq!(text(grid(width).start(nanos(time))), expected, "{width} {time}");
        }
    }

    #[test]
    fn a_grid_is_walked_over_leap_days_and_1970() {
        for (width, first, last, count) in [
            ("1 day", "2024-02-28T00:00:00", "2024-03-01T00:00:00", 3),
            ("1 month", "1969-11-01T00:00:00", "1970-02-01T00:00:00", 4),
            ("7 months", "1969-06-01T00:00:00", "1970-01-01T00:00:00", 2),
            ("10 minutes", "1969-12-31T23:50:00", "1970-01-01T00:00:00", 2),
            ("10 minutes", "1970-01-01T00:00:00", "1970-01-01T00:00:00", 1),
            ("10 minutes", "1970-01-01T00:00:00", "1969-12-31T23:50:00", 0),
            ("1 month", "1970-02-01T00:00:00", "1970-01-01T00:00:00", 0),
        ] {
            let (grid, first, last) = (grid(width), nanos(first), nanos(last));
            assert_eq!(grid.count(first, last), count, "{width}");
            if count > 0 {
                assert_eq!(text(grid.after(first, count - 1)), text(last), "{width}");
            }
        }
    }

    #[test]
    fn a_width_must_be_one_above_zero() {
        for width in ["0 seconds", "-1 hour", "1 month 1 day", "-1 month"] {
            assert!(width_of("time_bucket", &ScalarValue::from(width)).is_err(), "{width}");
        }
    }
}
