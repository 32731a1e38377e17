//! `mode(value)`: the most frequent value that is not NULL; of several the smallest.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt64Array, new_empty_array};
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use arrow::row::{RowConverter, SortField};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use super::arguments::{Form, elements, list};

/// To be registered.
pub(super) fn function() -> AggregateUDF {
    let form = Form { name: "mode", arguments: &["value"], needed: 1 };
    AggregateUDF::from(Mode { form, signature: Signature::variadic_any(Volatility::Immutable) })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mode {
    form: Form,
    signature: Signature,
}

impl AggregateUDFImpl for Mode {
    fn name(&self) -> &str {
        self.form.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.form.check_count(arguments)?;
        Ok(arguments[0].clone())
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let field = |part: &str, kind: &DataType| {
            let item = Field::new_list_field(kind.clone(), true);
            Arc::new(Field::new_list(format_state_name(args.name, part), item, true))
        };
        Ok(vec![field("values", args.input_fields[0].data_type()), field("counts", &DataType::UInt64)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let kind = args.expr_fields[0].data_type().clone();
        let converter = RowConverter::new(vec![SortField::new(kind.clone())])?;
        // With DISTINCT every value counts once.
        let count_max = if args.is_distinct { 1 } else { u64::MAX };
        Ok(Box::new(Counts { kind, converter, counts: HashMap::new(), key_bytes: 0, count_max }))
    }
}

/// How often each value was seen, by bytes that have the order of the values.
#[derive(Debug)]
struct Counts {
    kind: DataType,
    converter: RowConverter,
    counts: HashMap<Box<[u8]>, u64>,
    key_bytes: usize,
    count_max: u64,
}

impl Counts {
    fn add(&mut self, values: &ArrayRef, counts: Option<&UInt64Array>) -> Result<()> {
        let rows = self.converter.convert_columns(std::slice::from_ref(values))?;
        let nulls = values.logical_nulls();
        for (row, key) in rows.iter().enumerate() {
            if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let more = counts.map_or(1, |counts| counts.value(row));
            if let Some(count) = self.counts.get_mut(key.as_ref()) {
                *count = count.saturating_add(more).min(self.count_max);
            } else {
                self.key_bytes += key.as_ref().len();
                self.counts.insert(key.as_ref().into(), more.min(self.count_max));
            }
        }
        Ok(())
    }

    fn values<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<ArrayRef> {
        let parser = self.converter.parser();
        let rows: Vec<_> = keys.map(|key| parser.parse(key)).collect();
        if rows.is_empty() {
            return Ok(new_empty_array(&self.kind));
        }
        Ok(self.converter.convert_rows(rows)?.swap_remove(0))
    }
}

impl Accumulator for Counts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], None)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let entries = self.counts.iter().map(|(key, count)| (*count, std::cmp::Reverse(key.as_ref())));
        match entries.max() {
            Some((_, key)) => ScalarValue::try_from_array(&self.values(std::iter::once(key.0))?, 0),
            None => ScalarValue::try_from(&self.kind),
        }
    }

    fn size(&self) -> usize {
        let entry = size_of::<(Box<[u8]>, u64)>() + 1;
        size_of_val(self) + self.converter.size() + self.key_bytes + self.counts.capacity() * entry
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values = self.values(self.counts.keys().map(AsRef::as_ref))?;
        let counts = self.counts.values().map(|count| Some(*count)).collect::<UInt64Array>();
        Ok(vec![list(values), list(Arc::new(counts))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for (values, counts) in elements(&states[0]).zip(elements(&states[1])) {
            self.add(&values, Some(counts.as_primitive::<UInt64Type>()))?;
        }
        Ok(())
    }
}
