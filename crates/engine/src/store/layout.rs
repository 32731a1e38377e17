//! Rows on their way between the logical layout of [`crate::read::logical_schema`] and the layout of the Parquet files.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Int32Array, RecordBatch, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt64Array, new_null_array,
};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Schema, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
    UInt64Type,
};
use weir_base::Kind;

use crate::error::{Error, Result};
use crate::read::{logical_schema, logical_type};
use crate::schema::{FieldType, Role, TIME, TIME_NS, TableSchema};

/// The Delta type of an unsigned integer: decimal(20,0).
const U64_TYPE: DataType = DataType::Decimal128(20, 0);

/// The Arrow schema of a file: `time`, `weir_ns` if `sub_micro`, then the columns under their stored names.
pub fn stored_schema(schema: &TableSchema, sub_micro: bool) -> Arc<Schema> {
    let mut fields = vec![Field::new(TIME, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false)];
    if sub_micro {
        fields.push(Field::new(TIME_NS, DataType::Int32, true));
    }
    fields.extend(schema.columns().iter().map(|column| Field::new(&column.stored, stored_type(column.role), true)));
    Arc::new(Schema::new(fields))
}

/// The Arrow type of a stored column. Readers may ask Parquet for `Utf8View` instead of `Utf8`.
pub fn stored_type(role: Role) -> DataType {
    match role {
        Role::Tag | Role::Field(FieldType::Str) => DataType::Utf8,
        Role::Field(FieldType::U64) => U64_TYPE,
        Role::Field(_) => logical_type(role),
    }
}

/// Whether a batch in the logical layout has a time that is not a whole microsecond.
///
/// # Errors
/// `internal` when the first column is not the time.
pub fn has_sub_micro(batch: &RecordBatch) -> Result<bool> {
    Ok(times(batch)?.values().iter().any(|time| time % 1000 != 0))
}

pub(super) fn times(batch: &RecordBatch) -> Result<&TimestampNanosecondArray> {
    let first = batch.columns().first().and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>());
    first.ok_or_else(|| Error::new(Kind::Internal, "rows to be stored do not start with the time in nanoseconds"))
}

/// The time columns of a file: microseconds and, when asked for, the rest in nanoseconds (NULL where it is 0).
pub(super) fn split_time(times: &TimestampNanosecondArray, sub_micro: bool) -> (ArrayRef, Option<ArrayRef>) {
    let micros = times.values().iter().map(|time| time.div_euclid(1000));
    let micros = TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC");
    let rest = sub_micro.then(|| {
        let nanos = times.values().iter().map(|time| time.rem_euclid(1000) as i32);
        Arc::new(Int32Array::from_iter(nanos.map(|nanos| (nanos != 0).then_some(nanos)))) as ArrayRef
    });
    (Arc::new(micros), rest)
}

/// Rows of the logical layout as they are stored. Tags and strings stay in the form they have (`Utf8View` or a dictionary), so
/// the types may differ from [`stored_schema`] there; a column that the batch lacks becomes NULL.
///
/// # Errors
/// `internal` when the batch is not in the logical layout.
pub fn to_stored(batch: &RecordBatch, schema: &TableSchema, sub_micro: bool) -> Result<RecordBatch> {
    let (micros, rest) = split_time(times(batch)?, sub_micro);
    let mut columns = vec![micros];
    columns.extend(rest);
    for column in schema.columns() {
        let stored = match batch.column_by_name(&column.name) {
            None => new_null_array(&stored_type(column.role), batch.num_rows()),
            Some(array) if column.role == Role::Field(FieldType::U64) => decimals(array)?,
            Some(array) => Arc::clone(array),
        };
        columns.push(stored);
    }
    let fields: Vec<Field> = stored_schema(schema, sub_micro)
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, array)| field.as_ref().clone().with_data_type(array.data_type().clone()))
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
        .map_err(|error| Error::wrap(Kind::Internal, "rows to be stored do not fit their schema", error))
}

fn decimals(array: &ArrayRef) -> Result<ArrayRef> {
    let numbers = array
        .as_primitive_opt::<UInt64Type>()
        .ok_or_else(|| Error::new(Kind::Internal, "an unsigned column to be stored is not of unsigned integers"))?;
    let decimals: Decimal128Array = numbers.unary::<_, Decimal128Type>(i128::from);
    Ok(Arc::new(decimals.with_data_type(U64_TYPE)))
}

/// Rows of a file in the logical layout of `schema`: true names, nanoseconds, unsigned integers; columns that the file lacks
/// are NULL.
///
/// # Errors
/// `damaged` when the file's columns do not have the types of the schema or a time is outside the years 1677 to 2262.
pub fn from_stored(batch: &RecordBatch, schema: &TableSchema) -> Result<RecordBatch> {
    let rows = batch.num_rows();
    let mut columns = vec![join_time(batch)?];
    for column in schema.columns() {
        let wanted = logical_type(column.role);
        let array = match batch.column_by_name(&column.stored) {
            None => new_null_array(&wanted, rows),
            Some(array) if *array.data_type() == wanted => Arc::clone(array),
            Some(array) if column.role == Role::Field(FieldType::U64) => unsigned(array)?,
            Some(array) => cast(array, &wanted).map_err(|error| {
                Error::wrap(Kind::Damaged, format!("column '{}' has another type", column.name), error)
            })?,
        };
        columns.push(array);
    }
    RecordBatch::try_new(logical_schema(schema), columns)
        .map_err(|error| Error::wrap(Kind::Damaged, "stored rows do not fit their schema", error))
}

fn unsigned(array: &ArrayRef) -> Result<ArrayRef> {
    let wrong =
        || Error::new(Kind::Damaged, "an unsigned column is not stored as decimal(20,0), or has a value out of range");
    let decimals = array.as_primitive_opt::<Decimal128Type>().ok_or_else(wrong)?;
    let numbers: UInt64Array = decimals.try_unary(|value| u64::try_from(value).map_err(|_| wrong()))?;
    Ok(Arc::new(numbers))
}

/// `time` and `weir_ns` of a stored batch as nanoseconds without zone.
///
/// # Errors
/// `damaged` as for [`from_stored`].
pub fn join_time(batch: &RecordBatch) -> Result<ArrayRef> {
    let damaged = |what: &str| Error::new(Kind::Damaged, format!("stored rows have {what}"));
    let micros = batch
        .column_by_name(TIME)
        .and_then(|array| array.as_primitive_opt::<TimestampMicrosecondType>())
        .filter(|array| array.null_count() == 0)
        .ok_or_else(|| damaged("no time in microseconds"))?;
    let out_of_range = || damaged("a time outside the years 1677 to 2262");
    let rest = match batch.column_by_name(TIME_NS) {
        None => None,
        Some(array) => {
            Some(array.as_primitive_opt::<Int32Type>().ok_or_else(|| damaged("nanoseconds of the wrong type"))?)
        }
    };
    let nanos: TimestampNanosecondArray = match rest {
        Some(rest) if rest.null_count() < rest.len() => {
            let join = |(index, micros): (usize, &i64)| {
                let below = if rest.is_null(index) { 0 } else { i64::from(rest.value(index)) };
                // Near the smallest time the product alone is out of range.
                i64::try_from(i128::from(*micros) * 1000 + i128::from(below)).map_err(|_| out_of_range())
            };
            micros.values().iter().enumerate().map(join).collect::<Result<Vec<_>>>()?.into()
        }
        _ => micros.try_unary(|micros| micros.checked_mul(1000).ok_or_else(out_of_range))?,
    };
    Ok(Arc::new(nanos))
}
