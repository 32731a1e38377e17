//! `selector_first`, `selector_last`, `selector_min` and `selector_max` of (value, time): the chosen row's value and time
//! as one structure. Rows whose value or time is NULL are passed over.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, StructArray, make_comparator};
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::arguments::{Form, complete_rows};

/// All of them, to be registered.
pub(super) fn functions() -> Vec<AggregateUDF> {
    let selector = |name, choice| {
        let form = Form { name, arguments: &["value", "time"], needed: 2 };
        let signature = Signature::variadic_any(Volatility::Immutable);
        AggregateUDF::from(Selector { form, choice, signature })
    };
    vec![
        selector("selector_first", Choice::First),
        selector("selector_last", Choice::Last),
        selector("selector_min", Choice::Min),
        selector("selector_max", Choice::Max),
    ]
}

/// Which row is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Choice {
    First,
    Last,
    Min,
    Max,
}

impl Choice {
    /// Whether a row is to be preferred, by how its value and time compare to those of the row chosen so far. Of equal
    /// times the larger value is taken, of equal values the earlier time.
    fn prefers(self, value: impl Fn() -> Ordering, time: Ordering) -> bool {
        match self {
            Self::First => time.then_with(|| value().reverse()).is_lt(),
            Self::Last => time.then_with(value).is_gt(),
            Self::Min => value().then(time).is_lt(),
            Self::Max => value().then(time.reverse()).is_gt(),
        }
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Selector {
    form: Form,
    choice: Choice,
    signature: Signature,
}

impl AggregateUDFImpl for Selector {
    fn name(&self) -> &str {
        self.form.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.form.check_count(arguments)?;
        self.form.check_time(arguments, 1)?;
        Ok(DataType::Struct(fields(&arguments[0], &arguments[1])))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field =
            |part: &str, kind: &DataType| Arc::new(Field::new(format_state_name(args.name, part), kind.clone(), true));
        Ok(vec![field("value", args.input_fields[0].data_type()), field("time", args.input_fields[1].data_type())])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let fields = fields(args.expr_fields[0].data_type(), args.expr_fields[1].data_type());
        Ok(Box::new(Chosen { choice: self.choice, fields, row: None }))
    }
}

fn fields(value: &DataType, time: &DataType) -> Fields {
    Fields::from(vec![Field::new("value", value.clone(), true), Field::new("time", time.clone(), true)])
}

/// The row chosen so far.
#[derive(Debug)]
struct Chosen {
    choice: Choice,
    fields: Fields,
    /// Its value, and its time in the unit of the time.
    row: Option<(ScalarValue, i64)>,
}

impl Chosen {
    /// Value and time, NULL when there is no row.
    fn parts(&self) -> Result<Vec<ScalarValue>> {
        let (value, time) = match &self.row {
            Some((value, time)) => (value.clone(), ScalarValue::Int64(Some(*time))),
            None => (ScalarValue::try_from(self.fields[0].data_type())?, ScalarValue::Int64(None)),
        };
        Ok(vec![value, time.cast_to(self.fields[1].data_type())?])
    }
}

impl Accumulator for Chosen {
    fn update_batch(&mut self, columns: &[ArrayRef]) -> Result<()> {
        let (values, times) = (&columns[0], cast(&columns[1], &DataType::Int64)?);
        let times = times.as_primitive::<Int64Type>();
        let compare = make_comparator(values, values, SortOptions::default())?;
        let rows = [values.as_ref(), times];
        let best = complete_rows(&rows).reduce(|best, row| {
            let time = times.value(row).cmp(&times.value(best));
            if self.choice.prefers(|| compare(row, best), time) { row } else { best }
        });
        let Some(best) = best else { return Ok(()) };
        let (value, time) = (ScalarValue::try_from_array(values, best)?, times.value(best));
        let wins = self.row.as_ref().is_none_or(|(chosen, when)| {
            let order = || value.partial_cmp(chosen).unwrap_or(Ordering::Equal);
            self.choice.prefers(order, time.cmp(when))
        });
        if wins {
            self.row = Some((value, time));
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.row.is_none() {
            return ScalarValue::try_from(DataType::Struct(self.fields.clone()));
        }
        let parts = self.parts()?;
        let parts = parts.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>>>()?;
        Ok(ScalarValue::Struct(Arc::new(StructArray::try_new(self.fields.clone(), parts, None)?)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.row.as_ref().map_or(0, |(value, _)| value.size())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.parts()
    }

    /// A state is a row like any other.
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}
