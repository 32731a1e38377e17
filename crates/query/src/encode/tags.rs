//! Tags of an Arrow answer as dictionaries: a tag has few values, and they repeat from row to row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, DictionaryArray, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use hashbrown::HashMap;

use crate::error::Result;
use crate::scan::is_tag;

/// A text of up to so many bytes is within its view.
const INLINE_BYTES_MAX: u32 = 12;

/// The schema with tags as dictionaries.
pub(super) fn schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match is_tag(field) && *field.data_type() == DataType::Utf8View {
        true => {
            let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
            Arc::new(Field::new(field.name(), dictionary, field.is_nullable()))
        }
        false => Arc::clone(field),
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The column as the schema has it.
pub(super) fn column(array: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    match (array.data_type(), field.data_type()) {
        (DataType::Utf8View, DataType::Dictionary(..)) => dictionary(array),
        _ => Ok(Arc::clone(array)),
    }
}

fn dictionary(array: &ArrayRef) -> Result<ArrayRef> {
    let texts = array.as_string_view();
    let nulls = texts.nulls().filter(|nulls| nulls.null_count() > 0);
    let mut keys = Vec::with_capacity(texts.len());
    let mut values: Vec<&str> = Vec::new();
    // Equal views are equal texts; unequal ones may be, when they are long.
    let (mut by_view, mut by_text) = (HashMap::<u128, i32>::new(), HashMap::<&str, i32>::new());
    let mut last: Option<(u128, i32)> = None;
    for (row, &view) in texts.views().iter().enumerate() {
        if nulls.is_some_and(|nulls| nulls.is_null(row)) {
            keys.push(0);
            continue;
        }
        if let Some((before, key)) = last
            && before == view
        {
            keys.push(key);
            continue;
        }
        let mut add = |text| {
            values.push(text);
            (values.len() - 1) as i32
        };
        let key = *by_view.entry(view).or_insert_with(|| {
            let text = texts.value(row);
            if view as u32 <= INLINE_BYTES_MAX { add(text) } else { *by_text.entry(text).or_insert_with(|| add(text)) }
        });
        last = Some((view, key));
        keys.push(key);
    }
    let keys = Int32Array::new(keys.into(), nulls.cloned());
    if values.is_empty() {
        values.push("");
    }
    let values = Arc::new(StringArray::from_iter_values(values));
    Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, values)?))
}

#[cfg(test)]
mod tests {
    use arrow::array::StringViewArray;
    use arrow::compute::cast;

    use super::*;

    #[test]
    fn a_dictionary_has_each_text_once_and_gives_all_back() {
        let long = "a text that is longer than a view";
        let one = StringViewArray::from(vec![Some("a"), Some("a"), None, Some("b"), Some(long), Some("a"), Some("")]);
        let other = StringViewArray::from(vec![Some(long), Some("b"), Some(long)]);
        let both = arrow::compute::concat(&[&one, &other]).unwrap();
        for (array, count) in [(both, 4), (Arc::new(StringViewArray::new_null(2)) as ArrayRef, 1)] {
            let found = dictionary(&array).unwrap();
            assert_eq!(found.as_dictionary::<Int32Type>().values().len(), count);
            assert_eq!(&cast(&found, &DataType::Utf8View).unwrap(), &array);
        }
    }
}
