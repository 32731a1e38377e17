//! `percentile(value, p)`: the value below which the share `p` of the values lies, exact, between two values on the line
//! between them. It holds 8 bytes a row, within the memory of the query; `approx_percentile` holds some hundred.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, plan_err};
use datafusion::functions_aggregate::approx_percentile_cont::approx_percentile_cont_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::lit;

use super::arguments::{Form, elements, list};

/// Both of them, to be registered.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let function = |name, exact| {
        let form = Form { name, arguments: &["value", "p"], needed: 2 };
        AggregateUDF::from(Percentile { form, exact, signature: Signature::variadic_any(Volatility::Immutable) })
    };
    vec![function("percentile", true), function("approx_percentile", false)]
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Percentile {
    form: Form,
    exact: bool,
    signature: Signature,
}

impl AggregateUDFImpl for Percentile {
    fn name(&self) -> &str {
        self.form.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.form.check_count(arguments)?;
        self.form.check_number(arguments, 0)?;
        self.form.check_number(arguments, 1)?;
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        if self.exact {
            let item = Field::new_list_field(DataType::Float64, true);
            return Ok(vec![Arc::new(Field::new_list(format_state_name(args.name, "values"), item, true))]);
        }
        approx_percentile_cont_udaf().state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{} has no DISTINCT form", self.form.name);
        }
        let share = self.form.constant_float(args.exprs, 1)?;
        if !(0.0..=1.0).contains(&share) {
            return plan_err!("the p of {} must lie between 0 and 1, not be {share}", self.form.name);
        }
        if self.exact {
            return Ok(Box::new(Exact { share, held: Vec::new() }));
        }
        let field: FieldRef = Arc::new(Field::new("value", DataType::Float64, true));
        let exprs: Vec<Arc<dyn PhysicalExpr>> = vec![Arc::clone(&args.exprs[0]), lit(share)];
        let fields = [Arc::clone(&field), Arc::clone(&field)];
        let args = AccumulatorArgs { return_field: field, exprs: &exprs, expr_fields: &fields, ..args };
        Ok(Box::new(Sketch { inner: approx_percentile_cont_udaf().accumulator(args)? }))
    }
}

/// All values so far.
#[derive(Debug)]
struct Exact {
    share: f64,
    held: Vec<f64>,
}

impl Exact {
    fn hold(&mut self, values: &ArrayRef) -> Result<()> {
        let values = cast(values, &DataType::Float64)?;
        self.held.extend(values.as_primitive::<Float64Type>().iter().flatten());
        Ok(())
    }

    /// The rank lies between two of the sorted values, of which only these are looked for.
    fn answer(&mut self) -> Option<f64> {
        let rank = self.share * (self.held.len().checked_sub(1)? as f64);
        let (_, low, above) = self.held.select_nth_unstable_by(rank.floor() as usize, f64::total_cmp);
        let low = *low;
        let part = rank - rank.floor();
        if part == 0.0 {
            return Some(low);
        }
        let high = above.iter().copied().min_by(f64::total_cmp)?;
        let step = high - low;
        // Between equal infinities lies no other value; between far ends the difference may be too large for a number.
        Some(match step {
            _ if low == high => low,
            step if step.is_finite() => low + step * part,
            _ => low * (1.0 - part) + high * part,
        })
    }
}

impl Accumulator for Exact {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.hold(&values[0])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.answer()))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.held.capacity() * size_of::<f64>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![list(Arc::new(Float64Array::from(std::mem::take(&mut self.held))))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        elements(&states[0]).try_for_each(|values| self.hold(&values))
    }
}

/// DataFusion's t-digest, which reads floats only.
#[derive(Debug)]
struct Sketch {
    inner: Box<dyn Accumulator>,
}

impl Accumulator for Sketch {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = cast(&values[0], &DataType::Float64)?;
        if values.null_count() == values.len() {
            return Ok(());
        }
        self.inner.update_batch(&[values])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.inner.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }
}
