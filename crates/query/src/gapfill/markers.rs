//! The functions of gap filling as a query names them; the rule replaces them before anything runs.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

pub(super) const DATE_BIN: &str = "date_bin_gapfill";
pub(super) const TIME_BUCKET: &str = "time_bucket_gapfill";
pub(super) const LOCF: &str = "locf";
pub(super) const INTERPOLATE: &str = "interpolate";

/// All of them, to be registered.
pub(crate) fn markers() -> Vec<ScalarUDF> {
    let any = || Signature::variadic_any(Volatility::Immutable);
    vec![
        ScalarUDF::from(BucketMarker { name: DATE_BIN, signature: any() }),
        ScalarUDF::from(BucketMarker { name: TIME_BUCKET, signature: any() }),
        ScalarUDF::from(FillMarker { name: LOCF, signature: any() }),
        ScalarUDF::from(FillMarker { name: INTERPOLATE, signature: any() }),
    ]
}

/// Whether an expression is a call of one of these functions.
pub(super) fn is_call(expr: &Expr, names: &[&str]) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if names.contains(&call.func.name()))
}

/// `date_bin_gapfill(width, time [, origin])` and `time_bucket_gapfill`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct BucketMarker {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for BucketMarker {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        let name = self.name;
        let (Some(width), Some(time), true) = (arguments.first(), arguments.get(1), arguments.len() <= 3) else {
            return plan_err!("{name} takes a width, a time and, if wanted, an origin");
        };
        if !matches!(
            width,
            DataType::Null | DataType::Interval(_) | DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        ) {
            return plan_err!("the width of {name} must be an interval, not {width}");
        }
        match time {
            DataType::Timestamp(..) => Ok(time.clone()),
            DataType::Null => Ok(DataType::Timestamp(TimeUnit::Nanosecond, None)),
            other => plan_err!("the time of {name} must be a timestamp, not {other}"),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("{} may only stand as a key of GROUP BY", self.name)
    }
}

/// `locf(aggregate)` and `interpolate(aggregate)`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct FillMarker {
    name: &'static str,
    signature: Signature,
}

impl ScalarUDFImpl for FillMarker {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Between two values lies another only where there are numbers.
    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [value] if self.name == LOCF => Ok(value.clone()),
            [DataType::Int64 | DataType::UInt64] => Ok(arguments[0].clone()),
            [value] if value.is_numeric() || value.is_null() => Ok(DataType::Float64),
            [value] => plan_err!("the value of {} must be a number, not {value}", self.name),
            _ => plan_err!("{} takes one argument, an aggregate", self.name),
        }
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!(
            "{} may only stand around an aggregate, in the SELECT or HAVING of a query grouped by {DATE_BIN} or {TIME_BUCKET}",
            self.name
        )
    }
}
