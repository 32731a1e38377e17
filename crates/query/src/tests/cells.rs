//! Cells as the files write them, and how answers are compared.
//!
//! NULL is `NULL`, no text is `(empty)`, numbers stand without exponent and with at most twelve decimals; a cell of several
//! lines at the end of a row becomes a row for each.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sqllogictest::{ColumnType, Normalizer};

/// Decimals of floating numbers.
const DECIMALS: usize = 12;
/// Stands for what is not to be compared.
const ANYTHING: &str = "<slt:ignore>";

/// The letter of a column's type: `B`, `D`, `I`, `P`, `R`, `T`, or `?` for all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind(char);

impl ColumnType for Kind {
    fn from_char(letter: char) -> Option<Self> {
        Some(Self(if "BDIPRT".contains(letter) { letter } else { '?' }))
    }

    fn to_char(&self) -> char {
        self.0
    }
}

pub(super) fn kinds(schema: &Schema) -> Vec<Kind> {
    schema.fields().iter().map(|field| Kind(letter(field.data_type()))).collect()
}

fn letter(kind: &DataType) -> char {
    match kind {
        DataType::Boolean => 'B',
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => 'D',
        DataType::Timestamp(..) => 'P',
        DataType::Dictionary(_, values) => match values.is_string() {
            true => 'T',
            false => '?',
        },
        kind if kind.is_integer() => 'I',
        kind if kind.is_floating() || kind.is_decimal() => 'R',
        kind if kind.is_string() => 'T',
        _ => '?',
    }
}

/// The rows of an answer; `changed` may rewrite each cell.
pub(super) fn rows(batches: &[RecordBatch], changed: impl Fn(String) -> String) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let mut cells: Vec<String> = batch.columns().iter().map(|column| changed(cell(column, row))).collect();
            let last = cells.pop().unwrap_or_default();
            match last.contains('\n') {
                true => {
                    rows.push(cells);
                    rows.extend(last.split('\n').enumerate().map(|(number, line)| vec![numbered(number + 1, line)]));
                }
                false => {
                    cells.push(last);
                    rows.push(cells);
                }
            }
        }
    }
    rows
}

/// A line of a plan; blanks before it would be taken for one.
fn numbered(number: usize, line: &str) -> String {
    let content = line.trim_start();
    format!("{number:02}){}{content}", "-".repeat(line.len() - content.len()))
}

fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    match column.data_type() {
        DataType::Null => "NULL".to_owned(),
        DataType::Float16 => number(column.as_primitive::<Float16Type>().value(row).to_f64()),
        // Spelled as the short number that it is.
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            if value.is_finite() { plain(&value.to_string(), DECIMALS) } else { number(f64::from(value)) }
        }
        DataType::Float64 => number(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => text(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(column.as_string::<i64>().value(row)),
        DataType::Utf8View => text(column.as_string_view().value(row)),
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            cell(dictionary.values(), dictionary.normalized_keys()[row])
        }
        kind => {
            let shown = formatted(column, row);
            if kind.is_decimal() { plain(&shown, usize::MAX) } else { shown }
        }
    }
}

fn formatted(column: &ArrayRef, row: usize) -> String {
    let options = datafusion::config::FormatOptions { null: "NULL".to_owned(), ..Default::default() };
    let options = FormatOptions::try_from(&options).expect("the options of DataFusion are known");
    ArrayFormatter::try_new(column, &options).expect("every type can be shown").value(row).to_string()
}

fn text(value: &str) -> String {
    match value {
        "" => "(empty)".to_owned(),
        value => value.trim_end_matches('\n').replace('\0', "\\0"),
    }
}

fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => plain(&value.to_string(), DECIMALS),
    }
}

/// A decimal number rounded to so many places, ties to even, without zeros at its end.
fn plain(text: &str, places: usize) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let kept = fraction.len().min(places);
    let mut all: Vec<u8> = whole.bytes().chain(fraction.bytes().take(kept)).collect();
    let rest = &fraction.as_bytes()[kept..];
    let odd = all.last().is_some_and(|digit| (digit - b'0') % 2 == 1);
    let half = [b"5".as_slice(), &vec![b'0'; rest.len().saturating_sub(1)]].concat();
    if !rest.is_empty() && (rest > half.as_slice() || (rest == half.as_slice() && odd)) {
        increase(&mut all);
    }
    let all = String::from_utf8(all).expect("digits");
    let (whole, fraction) = all.split_at(all.len() - kept);
    let fraction = fraction.trim_end_matches('0');
    let whole = whole.trim_start_matches('0');
    match (whole, fraction) {
        ("", "") => "0".to_owned(),
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{}.{fraction}", if whole.is_empty() { "0" } else { whole }),
    }
}

fn increase(digits: &mut Vec<u8>) {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return;
        }
        *digit = b'0';
    }
    digits.insert(0, b'1');
}

#[allow(clippy::ptr_arg, reason = "the runner asks for this signature")]
pub(super) fn trimmed(line: &String) -> String {
    line.trim_end().to_owned()
}

/// Whether an answer is the expected one.
pub(super) fn matches(normalizer: Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    let actual: Vec<String> = actual.iter().map(|row| row.join(" ").trim_end().to_owned()).collect();
    let expected: Vec<String> = expected.iter().map(normalizer).collect();
    if !expected.iter().any(|line| line.contains(ANYTHING)) {
        return actual == expected;
    }
    let (actual, expected) = (actual.join("\n"), expected.join("\n"));
    let mut left = actual.as_str();
    for (number, piece) in expected.split(ANYTHING).enumerate() {
        match left.find(piece) {
            Some(start) if number > 0 || start == 0 => left = &left[start + piece.len()..],
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain_and_rounded() {
        for (text, places, wanted) in [
            ("0", 12, "0"),
            ("-0", 12, "0"),
            ("1.50", 12, "1.5"),
            ("0.1234567890125", 12, "0.123456789012"),
            ("0.1234567890135", 12, "0.123456789014"),
            ("-9.9999999999999", 12, "-10"),
            ("-0.0000000000001", 12, "0"),
            ("100", 12, "100"),
            ("12.3400", usize::MAX, "12.34"),
        ] {
            assert_eq!(plain(text, places), wanted, "{text}");
        }
        assert_eq!(number(1e20), "100000000000000000000");
    }

    #[test]
    fn what_is_not_to_be_compared_is_not_and_the_rest_is() {
        let is = |expected: &str| matches(trimmed, &[vec!["foo bar".into(), "baz".into()]], &[expected.to_owned()]);
        assert!(is("foo bar baz") && is("foo <slt:ignore> baz") && is("<slt:ignore>baz"));
        assert!(!is("bar <slt:ignore>") && !is("foo <slt:ignore> qux") && !is("foo"));
    }
}
