//! `histogram_quantile(q, le, count)`: a quantile of the buckets of a classic Prometheus histogram.
//!
//! Each row is a bucket: `count` observations were at most `le`. Rows with equal `le` are added up. Within a bucket values
//! are taken to be spread evenly, the lowest bucket to start at 0 when its bound is above that, as Prometheus 2 and 3
//! define `histogram_quantile` (<https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile>).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::arguments::{Form, complete_rows, elements, is_text, list};
use super::samples::Ordered;

/// To be registered.
pub(super) fn function() -> AggregateUDF {
    let form = Form { name: "histogram_quantile", arguments: &["q", "le", "count"], needed: 3 };
    AggregateUDF::from(HistogramQuantile { form, signature: Signature::variadic_any(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HistogramQuantile {
    form: Form,
    signature: Signature,
}

impl AggregateUDFImpl for HistogramQuantile {
    fn name(&self) -> &str {
        self.form.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.form.check_count(arguments)?;
        self.form.check_number(arguments, 0)?;
        if !is_text(&arguments[1]) && !matches!(arguments[1], DataType::Dictionary(..)) {
            self.form.check_number(arguments, 1)?;
        }
        self.form.check_number(arguments, 2)?;
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part: &str| {
            let item = Field::new_list_field(DataType::Float64, true);
            Arc::new(Field::new_list(format_state_name(args.name, part), item, true))
        };
        Ok(vec![field("bounds"), field("counts")])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            return plan_err!("{} has no DISTINCT form", self.form.name);
        }
        let quantile = self.form.constant_float(args.exprs, 0)?;
        Ok(Box::new(Buckets { quantile, counts: BTreeMap::new() }))
    }
}

/// Cumulative counts by upper bound.
#[derive(Debug)]
struct Buckets {
    quantile: f64,
    counts: BTreeMap<Ordered, f64>,
}

impl Buckets {
    fn add(&mut self, bounds: &ArrayRef, counts: &ArrayRef) -> Result<()> {
        let counts = cast(counts, &DataType::Float64)?;
        let bounds = bounds_of(bounds)?;
        let columns = [&bounds as &dyn Array, counts.as_ref()];
        let counts = counts.as_primitive::<Float64Type>();
        for row in complete_rows(&columns) {
            // Zero has one bound, whatever its sign.
            let bound = Ordered::of_float(bounds.value(row) + 0.0);
            *self.counts.entry(bound).or_default() += counts.value(row);
        }
        Ok(())
    }

    fn answer(&self) -> f64 {
        if self.quantile.is_nan() {
            return f64::NAN;
        }
        if self.quantile < 0.0 {
            return f64::NEG_INFINITY;
        }
        if self.quantile > 1.0 {
            return f64::INFINITY;
        }
        // A scrape may catch the buckets of one histogram in between: counts never fall from one to the next.
        let mut most = 0.0_f64;
        let buckets: Vec<(f64, f64)> = self
            .counts
            .iter()
            .map(|(bound, count)| {
                most = most.max(*count);
                (bound.float(), most)
            })
            .collect();
        let [rest @ .., (highest, total)] = buckets.as_slice() else { return f64::NAN };
        let Some((largest, _)) = rest.last() else { return f64::NAN };
        if *highest != f64::INFINITY || *total == 0.0 {
            return f64::NAN;
        }
        let rank = self.quantile * total;
        let Some(place) = rest.iter().position(|(_, count)| *count >= rank) else { return *largest };
        let (end, count) = rest[place];
        let (start, below) = match place.checked_sub(1) {
            Some(before) => rest[before],
            None if end <= 0.0 => return end,
            None => (0.0, 0.0),
        };
        start + (end - start) * ((rank - below) / (count - below))
    }
}

fn bounds_of(bounds: &ArrayRef) -> Result<Float64Array> {
    if !is_text(bounds.data_type()) && !matches!(bounds.data_type(), DataType::Dictionary(..)) {
        return Ok(cast(bounds, &DataType::Float64)?.as_primitive::<Float64Type>().clone());
    }
    let texts = cast(bounds, &DataType::Utf8View)?;
    let bound = |text: Option<&str>| match text.map(|text| (text, text.trim().parse::<f64>())) {
        None => Ok(None),
        Some((_, Ok(bound))) if !bound.is_nan() => Ok(Some(bound)),
        Some((text, _)) => exec_err!("the le of histogram_quantile must read as a number, '{text}' does not"),
    };
    texts.as_string_view().iter().map(bound).collect()
}

impl Accumulator for Buckets {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[1], &values[2])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64((!self.counts.is_empty()).then(|| self.answer())))
    }

    fn size(&self) -> usize {
        // A node of the tree is half full at least.
        size_of_val(self) + 2 * self.counts.len() * size_of::<(Ordered, f64)>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bounds = self.counts.keys().map(|bound| Some(bound.float())).collect::<Float64Array>();
        let counts = self.counts.values().map(|count| Some(*count)).collect::<Float64Array>();
        Ok(vec![list(Arc::new(bounds)), list(Arc::new(counts))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        elements(&states[0]).zip(elements(&states[1])).try_for_each(|(bounds, counts)| self.add(&bounds, &counts))
    }
}
