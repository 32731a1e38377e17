//! `rate`, `increase`, `irate`, `delta`, `derivative` and `integral` of (value, time), as aggregates and over windows.
//!
//! `delta`, `derivative` and `irate` hold three samples a group. The others need every sample, as a row that comes late
//! may lie between any two others; they hold 16 bytes a row, within the memory of the query.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::arguments::{Form, elements, list};
use super::samples::{Fold, Kind, Measure, Sample, columns, samples};

/// All of them, to be registered.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let plain = |name| Form { name, arguments: &["value", "time"], needed: 2 };
    let with_unit = |name| Form { name, arguments: &["value", "time", "unit"], needed: 2 };
    let function = |form, measure| {
        let signature = Signature::variadic_any(Volatility::Immutable);
        AggregateUDF::from(OfSamples { form, measure, signature })
    };
    vec![
        function(plain("rate"), Measure::Rate),
        function(plain("increase"), Measure::Increase),
        function(plain("irate"), Measure::Irate),
        function(plain("delta"), Measure::Delta),
        function(with_unit("derivative"), Measure::Derivative),
        function(with_unit("integral"), Measure::Integral),
    ]
}

/// One of them.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfSamples {
    form: Form,
    measure: Measure,
    signature: Signature,
}

impl OfSamples {
    fn fold(&self, args: &AccumulatorArgs) -> Result<Fold> {
        let unit = self.form.constant_seconds(args.exprs, 2)?;
        Ok(Fold::new(self.measure, Kind::of(args.expr_fields[0].data_type()), unit))
    }
}

impl AggregateUDFImpl for OfSamples {
    fn name(&self) -> &str {
        self.form.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.form.check_count(arguments)?;
        self.form.check_number(arguments, 0)?;
        self.form.check_time(arguments, 1)?;
        self.form.check_interval(arguments, 2)?;
        Ok(DataType::Float64)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let kind = Kind::of(args.input_fields[0].data_type());
        let field = |part: &str, kind| Arc::new(Field::new_list(format_state_name(args.name, part), item(kind), true));
        Ok(vec![field("values", kind.data_type()), field("times", DataType::Int64)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let fold = self.fold(&args)?;
        Ok(match self.measure.is_of_ends() {
            true => Box::new(Ends { fold }),
            false => Box::new(Held { fold, held: Vec::new(), folded: 0 }),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Sliding { fold: self.fold(&args)?, held: BTreeMap::new() }))
    }
}

fn item(kind: DataType) -> Field {
    Field::new_list_field(kind, true)
}

fn state(kind: Kind, samples: &[Sample]) -> Vec<ScalarValue> {
    columns(kind, samples).into_iter().map(list).collect()
}

/// The samples of states, a state at a time.
fn states(kind: Kind, states: &[ArrayRef]) -> impl Iterator<Item = Result<Vec<Sample>>> + '_ {
    elements(&states[0]).zip(elements(&states[1])).map(move |(values, times)| samples(kind, &values, &times))
}

/// The ends of the samples so far.
#[derive(Debug)]
struct Ends {
    fold: Fold,
}

impl Accumulator for Ends {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for sample in samples(self.fold.kind(), &values[0], &values[1])? {
            self.fold.add_to_ends(sample);
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.fold.answer()))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(state(self.fold.kind(), &self.fold.ends()))
    }

    fn merge_batch(&mut self, parts: &[ArrayRef]) -> Result<()> {
        for part in states(self.fold.kind(), parts) {
            part?.into_iter().for_each(|sample| self.fold.add_to_ends(sample));
        }
        Ok(())
    }
}

/// All samples so far. Those that come in the order of time are folded once, however often the answer is asked for.
#[derive(Debug)]
struct Held {
    fold: Fold,
    held: Vec<Sample>,
    /// Samples at the start of `held` that are in order and folded.
    folded: usize,
}

impl Held {
    fn settle(&mut self) {
        let last = |fold: &Fold| fold.last().map(|last| last.time);
        let in_order = self.held[self.folded..].is_sorted_by(|one, next| one.time < next.time)
            && self.held.get(self.folded).is_none_or(|next| last(&self.fold).is_none_or(|last| last < next.time));
        if !in_order {
            self.held.sort_unstable();
            // Of equal times the last is the largest.
            self.held.dedup_by(|next, kept| {
                let equal = next.time == kept.time;
                if equal {
                    *kept = *next;
                }
                equal
            });
            self.fold.clear();
            self.folded = 0;
        }
        for sample in &self.held[self.folded..] {
            self.fold.add(*sample);
        }
        self.folded = self.held.len();
    }
}

impl Accumulator for Held {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.held.extend(samples(self.fold.kind(), &values[0], &values[1])?);
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.settle();
        Ok(ScalarValue::Float64(self.fold.answer()))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.held.capacity() * size_of::<Sample>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(state(self.fold.kind(), &self.held))
    }

    fn merge_batch(&mut self, parts: &[ArrayRef]) -> Result<()> {
        for part in states(self.fold.kind(), parts) {
            self.held.extend(part?);
        }
        Ok(())
    }
}

/// The samples of a window that moves on, with how many rows each stands for.
#[derive(Debug)]
struct Sliding {
    fold: Fold,
    held: BTreeMap<Sample, usize>,
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for sample in samples(self.fold.kind(), &values[0], &values[1])? {
            *self.held.entry(sample).or_default() += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for sample in samples(self.fold.kind(), &values[0], &values[1])? {
            let Some(rows) = self.held.get_mut(&sample) else {
                return internal_err!("a row left a window that it was not in");
            };
            *rows -= 1;
            if *rows == 0 {
                self.held.remove(&sample);
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.fold.clear();
        let mut samples = self.held.keys().peekable();
        while let Some(sample) = samples.next() {
            if samples.peek().is_none_or(|next| next.time > sample.time) {
                self.fold.add(*sample);
            }
        }
        Ok(ScalarValue::Float64(self.fold.answer()))
    }

    fn size(&self) -> usize {
        // A node of the tree is half full at least.
        size_of_val(self) + 2 * self.held.len() * size_of::<(Sample, usize)>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        internal_err!("a window has no state to merge")
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        internal_err!("a window has no state to merge")
    }
}
