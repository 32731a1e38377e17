//! `moving_average(value, n) OVER (...)` and `ewma(value, alpha) OVER (...)`: averages that go along with the rows of a
//! partition in its order. A frame has no meaning for them. They hold the last `n` values, or one.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};

use super::arguments::Form;

/// How many values an average may run over; they are held for each partition.
const VALUES_MAX: usize = 1_000_000;

/// Both of them, to be registered.
pub(super) fn functions() -> Vec<WindowUDF> {
    let function = |name, argument: &'static [&'static str]| {
        let form = Form { name, arguments: argument, needed: 2 };
        WindowUDF::from(Moving { form, signature: Signature::variadic_any(Volatility::Immutable) })
    };
    vec![function("moving_average", &["value", "n"]), function("ewma", &["value", "alpha"])]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Moving {
    form: Form,
    signature: Signature,
}

impl WindowUDFImpl for Moving {
    fn name(&self) -> &str {
        self.form.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let Form { name, arguments, .. } = self.form;
        let second = self.form.constant_float(args.input_exprs(), 1)?;
        if arguments[1] == "alpha" {
            if !(second > 0.0 && second <= 1.0) {
                return plan_err!("the alpha of {name} must be above 0 and at most 1, not {second}");
            }
            return Ok(Box::new(Weighted { alpha: second, average: None }));
        }
        if second.fract() != 0.0 || !(1.0..=VALUES_MAX as f64).contains(&second) {
            return plan_err!("the n of {name} must be a whole number from 1 to {VALUES_MAX}, not {second}");
        }
        Ok(Box::new(Average::new(second as usize)))
    }

    fn field(&self, args: WindowUDFFieldArgs) -> Result<FieldRef> {
        let given: Vec<DataType> = args.input_fields().iter().map(|field| field.data_type().clone()).collect();
        self.form.check_count(&given)?;
        self.form.check_number(&given, 0)?;
        self.form.check_number(&given, 1)?;
        Ok(Arc::new(Field::new(args.name(), DataType::Float64, true)))
    }
}

/// The value of the row that a range starts with.
fn value(values: &[ArrayRef], range: &Range<usize>) -> Result<Option<f64>> {
    let row = cast(&values[0].slice(range.start, 1), &DataType::Float64)?;
    let row = row.as_primitive::<Float64Type>();
    Ok(row.is_valid(0).then(|| row.value(0)))
}

/// The exponentially weighted average so far.
#[derive(Debug)]
struct Weighted {
    alpha: f64,
    average: Option<f64>,
}

impl PartitionEvaluator for Weighted {
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        if let Some(value) = value(values, range)? {
            self.average = Some(match self.average {
                // With all weight on the new value an infinite average must not turn it into NaN.
                Some(average) if self.alpha < 1.0 => self.alpha * value + (1.0 - self.alpha) * average,
                _ => value,
            });
        }
        Ok(ScalarValue::Float64(self.average))
    }

    fn supports_bounded_execution(&self) -> bool {
        true
    }

    fn is_causal(&self) -> bool {
        true
    }
}

/// The last `n` values as two stacks with their sums: nothing is ever subtracted, so that errors do not add up and an
/// infinite value leaves no trace once it is out.
#[derive(Debug)]
struct Average {
    n: usize,
    /// Sums of the older values, each with all that came after it among them; the oldest last.
    old: Vec<f64>,
    /// The newer values and their sum.
    new: Vec<f64>,
    new_sum: f64,
}

impl Average {
    fn new(n: usize) -> Self {
        Self { n, old: Vec::new(), new: Vec::new(), new_sum: 0.0 }
    }

    fn push(&mut self, value: f64) {
        if self.old.len() + self.new.len() == self.n {
            if self.old.is_empty() {
                let mut sum = 0.0;
                while let Some(newest) = self.new.pop() {
                    sum += newest;
                    self.old.push(sum);
                }
                self.new_sum = 0.0;
            }
            self.old.pop();
        }
        self.new.push(value);
        self.new_sum += value;
    }

    /// `None` while there are fewer than `n` values.
    fn average(&self) -> Option<f64> {
        let full = self.old.len() + self.new.len() == self.n;
        full.then(|| (self.old.last().copied().unwrap_or(0.0) + self.new_sum) / self.n as f64)
    }
}

impl PartitionEvaluator for Average {
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        if let Some(value) = value(values, range)? {
            self.push(value);
        }
        Ok(ScalarValue::Float64(self.average()))
    }

    fn supports_bounded_execution(&self) -> bool {
        true
    }

    fn is_causal(&self) -> bool {
        true
    }
}
