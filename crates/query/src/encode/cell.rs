//! One value as text: how each type is spelled in JSON and in CSV.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::calendar::civil;
use crate::error::{Error, Result};

/// Appends the value of a row.
pub(super) type Cells = Box<dyn Fn(usize, &mut Vec<u8>) + Send>;

/// Where the text goes, which decides its quotes and what stands for NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Json,
    Csv,
    /// For people: no quotes.
    Plain,
}

/// The cells of one column.
///
/// # Errors
/// `internal` for a type that has no text form.
pub(super) fn cells(array: &ArrayRef, style: Style) -> Result<Cells> {
    let write = valid_cells(array, style)?;
    let nulls = array.logical_nulls();
    let null: &[u8] = if style == Style::Json { b"null" } else { b"" };
    Ok(Box::new(move |row, out| match &nulls {
        Some(nulls) if nulls.is_null(row) => out.extend_from_slice(null),
        _ => write(row, out),
    }))
}

fn valid_cells(array: &ArrayRef, style: Style) -> Result<Cells> {
    Ok(match array.data_type() {
        DataType::Null => Box::new(|_, _| {}),
        DataType::Boolean => {
            let array = array.as_boolean().clone();
            Box::new(move |row, out| out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }))
        }
        DataType::Int8 => displayed::<Int8Type>(array),
        DataType::Int16 => displayed::<Int16Type>(array),
        DataType::Int32 => displayed::<Int32Type>(array),
        DataType::Int64 => displayed::<Int64Type>(array),
        DataType::UInt8 => displayed::<UInt8Type>(array),
        DataType::UInt16 => displayed::<UInt16Type>(array),
        DataType::UInt32 => displayed::<UInt32Type>(array),
        DataType::UInt64 => displayed::<UInt64Type>(array),
        DataType::Float32 => floats::<Float32Type>(array, style, |value| value.is_finite()),
        DataType::Float64 => floats::<Float64Type>(array, style, |value| value.is_finite()),
        DataType::Decimal128(..) => {
            let array = array.as_primitive::<Decimal128Type>().clone();
            Box::new(move |row, out| out.extend_from_slice(array.value_as_string(row).as_bytes()))
        }
        DataType::Decimal256(..) => {
            let array = array.as_primitive::<Decimal256Type>().clone();
            Box::new(move |row, out| out.extend_from_slice(array.value_as_string(row).as_bytes()))
        }
        DataType::Utf8View => {
            let array = array.as_string_view().clone();
            Box::new(move |row, out| text(array.value(row), style, out))
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Dictionary(..) => {
            let kind = match array.data_type() {
                DataType::Dictionary(_, values) if !is_text(values) => values.as_ref().clone(),
                _ => DataType::Utf8View,
            };
            return valid_cells(&cast(array, &kind)?, style);
        }
        DataType::Timestamp(unit, zone) => timestamps(array, *unit, zone.is_some(), style),
        DataType::Date32 => {
            let array = array.as_primitive::<Date32Type>().clone();
            Box::new(move |row, out| quoted(style, out, |out| date(i64::from(array.value(row)), out)))
        }
        DataType::Date64 => {
            let array = array.as_primitive::<Date64Type>().clone();
            Box::new(move |row, out| quoted(style, out, |out| date(array.value(row).div_euclid(86_400_000), out)))
        }
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) if style == Style::Json => {
            list(array)?
        }
        DataType::Struct(_) if style == Style::Json => object(array)?,
        _ => return other(array, style),
    })
}

fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn displayed<T: ArrowPrimitiveType>(array: &ArrayRef) -> Cells
where
    T::Native: std::fmt::Display,
{
    let array = array.as_primitive::<T>().clone();
    Box::new(move |row, out| write(out, format_args!("{}", array.value(row))))
}

/// Debug spelling: the shortest digits that read back as the same float, with an exponent where that is shorter.
fn floats<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    style: Style,
    finite: impl Fn(T::Native) -> bool + Send + 'static,
) -> Cells
where
    T::Native: std::fmt::Debug,
{
    let array = array.as_primitive::<T>().clone();
    Box::new(move |row, out| {
        let value = array.value(row);
        if style == Style::Json && !finite(value) {
            out.extend_from_slice(b"null");
        } else {
            write(out, format_args!("{value:?}"));
        }
    })
}

fn timestamps(array: &ArrayRef, unit: TimeUnit, zoned: bool, style: Style) -> Cells {
    let (values, per_second) = match unit {
        TimeUnit::Second => (array.as_primitive::<TimestampSecondType>().values().clone(), 1),
        TimeUnit::Millisecond => (array.as_primitive::<TimestampMillisecondType>().values().clone(), 1_000),
        TimeUnit::Microsecond => (array.as_primitive::<TimestampMicrosecondType>().values().clone(), 1_000_000),
        TimeUnit::Nanosecond => (array.as_primitive::<TimestampNanosecondType>().values().clone(), 1_000_000_000),
    };
    Box::new(move |row, out| {
        let value = values[row];
        let (seconds, rest) = (value.div_euclid(per_second), value.rem_euclid(per_second));
        quoted(style, out, |out| {
            timestamp(seconds, rest * (1_000_000_000 / per_second), out);
            if zoned {
                out.push(b'Z');
            }
        });
    })
}

/// ISO 8601 without zone.
fn timestamp(seconds: i64, nanos: i64, out: &mut Vec<u8>) {
    date(seconds.div_euclid(86_400), out);
    let second = seconds.rem_euclid(86_400);
    write(out, format_args!("T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60));
    match nanos {
        0 => {}
        _ if nanos % 1_000_000 == 0 => write(out, format_args!(".{:03}", nanos / 1_000_000)),
        _ if nanos % 1_000 == 0 => write(out, format_args!(".{:06}", nanos / 1_000)),
        _ => write(out, format_args!(".{nanos:09}")),
    }
}

fn date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    write(out, format_args!("{year:04}-{month:02}-{day:02}"));
}

fn list(array: &ArrayRef) -> Result<Cells> {
    let rows: Vec<Option<(ArrayRef, Cells)>> = (0..array.len())
        .map(|row| {
            let values = match array.data_type() {
                DataType::List(_) => array.as_list::<i32>().value(row),
                DataType::LargeList(_) => array.as_list::<i64>().value(row),
                _ => array.as_fixed_size_list().value(row),
            };
            if array.is_null(row) { Ok(None) } else { Ok(Some((values.clone(), cells(&values, Style::Json)?))) }
        })
        .collect::<Result<_>>()?;
    Ok(Box::new(move |row, out| {
        out.push(b'[');
        if let Some((values, cells)) = &rows[row] {
            for index in 0..values.len() {
                if index > 0 {
                    out.push(b',');
                }
                cells(index, out);
            }
        }
        out.push(b']');
    }))
}

fn object(array: &ArrayRef) -> Result<Cells> {
    let array = array.as_struct();
    let fields = array.fields().iter().zip(array.columns());
    let fields = fields.map(|(field, column)| Ok((json_key(field.name()), cells(column, Style::Json)?)));
    let fields = fields.collect::<Result<Vec<_>>>()?;
    Ok(Box::new(move |row, out| {
        out.push(b'{');
        for (index, (key, cells)) in fields.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            cells(row, out);
        }
        out.push(b'}');
    }))
}

/// `"name":`
pub(super) fn json_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    text(name, Style::Json, &mut key);
    key.push(b':');
    key
}

/// Types without a spelling of their own: intervals, durations, times of day, binary, maps.
fn other(array: &ArrayRef, style: Style) -> Result<Cells> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &options)?;
    let texts: Vec<String> = (0..array.len())
        .map(|row| formatter.value(row).try_to_string())
        .collect::<Result<_, _>>()
        .map_err(Error::from)?;
    Ok(Box::new(move |row, out| text(&texts[row], style, out)))
}

/// Text with the quotes and escapes of its style.
pub(super) fn text(value: &str, style: Style, out: &mut Vec<u8>) {
    match style {
        Style::Json => json_text(value, out),
        Style::Csv => csv_text(value, out),
        Style::Plain => {
            for letter in value.chars() {
                if letter.is_control() {
                    out.extend(letter.escape_default().map(|letter| letter as u8));
                } else {
                    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }
}

fn json_text(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut start = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[start..index]);
        start = index + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => write(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&bytes[start..]);
    out.push(b'"');
}

fn csv_text(value: &str, out: &mut Vec<u8>) {
    let plain = !value.is_empty() && !value.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r'));
    if plain {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    out.push(b'"');
    for (index, part) in value.split('"').enumerate() {
        if index > 0 {
            out.extend_from_slice(b"\"\"");
        }
        out.extend_from_slice(part.as_bytes());
    }
    out.push(b'"');
}

fn quoted(style: Style, out: &mut Vec<u8>, write: impl Fn(&mut Vec<u8>)) {
    let quote: &[u8] = if style == Style::Json { b"\"" } else { b"" };
    out.extend_from_slice(quote);
    write(out);
    out.extend_from_slice(quote);
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all bytes");
}
