//! The parser against tables of cases, against every way to cut a body, and against a slow reference.

mod cases;
mod limits;
mod reference;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::rows::Values;
use crate::schema::{FieldType, TableSchema};
use crate::series;

/// A value in a form that compares.
#[derive(Debug, Clone, PartialEq)]
enum Scalar {
    F64(u64),
    I64(i64),
    U64(u64),
    Bool(bool),
    Str(String),
}

/// An accepted line.
#[derive(Debug, Clone, PartialEq)]
struct Point {
    measurement: String,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, Scalar>,
    time: i64,
}

/// Schemas by measurement.
#[derive(Default)]
struct Known(BTreeMap<String, SchemaRef>);

impl Schemas for Known {
    fn schema(&self, measurement: &str) -> Option<SchemaRef> {
        self.0.get(measurement).cloned()
    }
}

impl Known {
    fn with(mut self, measurement: &str, columns: &[(&str, Role)]) -> Self {
        let mut schema = TableSchema::default();
        for (name, role) in columns {
            schema.add(name, *role).unwrap();
        }
        self.0.insert(measurement.to_owned(), Arc::new(schema));
        self
    }
}

const DEFAULT_TIME: i64 = 77;

fn parse_with(schemas: &Known, options: Options, chunks: &[&[u8]]) -> Parsed {
    let mut parser = Parser::new(Box::new(schemas), options);
    for chunk in chunks {
        parser.feed(chunk).unwrap();
    }
    parser.finish().unwrap()
}

fn parse(text: &str) -> Parsed {
    parse_with(&Known::default(), Options::new(DEFAULT_TIME, 1), &[text.as_bytes()])
}

fn scalar(values: &Values, row: usize) -> Scalar {
    match values {
        Values::F64(values) => Scalar::F64(values[row].to_bits()),
        Values::I64(values) => Scalar::I64(values[row]),
        Values::U64(values) => Scalar::U64(values[row]),
        Values::Bool(bits) => Scalar::Bool(bits.get(row)),
        Values::Str(text) => Scalar::Str(String::from_utf8(text.get(row).to_vec()).unwrap()),
    }
}

/// The points of a table, row by row, after checking that its columns hang together.
fn table_points(table: &ParsedTable) -> Vec<Point> {
    let rows = &table.rows;
    assert_eq!(rows.series.len(), rows.len());
    for field in &rows.fields {
        assert_eq!(field.values.len(), rows.len(), "{}", field.name);
        assert!((0..rows.len()).any(|row| field.has(row)), "no row has '{}'", field.name);
        if let Some(present) = &field.present {
            assert_eq!(present.len(), rows.len(), "{}", field.name);
            assert!(!(0..rows.len()).all(|row| field.has(row)), "all rows have '{}'", field.name);
        }
    }
    let mut keys: Vec<_> = rows.keys.iter().collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), rows.keys.len(), "a series twice");
    assert!((0..keys.len()).all(|key| rows.series.contains(&(key as u32))), "a series without rows");
    (0..rows.len())
        .map(|row| Point {
            measurement: rows.table.clone(),
            tags: series::decode(rows.keys.get(rows.series[row] as usize))
                .unwrap()
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            fields: rows
                .fields
                .iter()
                .filter(|field| field.has(row))
                .map(|field| (field.name.clone(), scalar(&field.values, row)))
                .collect(),
            time: rows.times[row],
        })
        .collect()
}

/// The points of all tables, table by table.
fn points(parsed: &Parsed) -> Vec<Point> {
    let points: Vec<_> = parsed.tables.iter().flat_map(table_points).collect();
    assert_eq!(points.len(), parsed.rows);
    assert!(parsed.tables.iter().all(|table| !table.rows.is_empty()));
    points
}

/// One line and the point it stands for.
fn check_point(line: &str, tags: &[(&str, &str)], fields: &[(&str, Scalar)], time: i64) {
    let parsed = parse(line);
    assert_eq!(parsed.rejected, [], "{line:?}");
    let points = points(&parsed);
    assert_eq!(points.len(), 1, "{line:?}");
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    assert_eq!(points[0].tags, tags.iter().map(text).collect(), "{line:?}");
    let expected = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    assert_eq!(points[0].fields, expected, "{line:?}");
    assert_eq!(points[0].time, time, "{line:?}");
}

/// A body with some good lines and the numbers and reasons of the others.
fn check_refused(body: &str, rows: usize, refused: &[(usize, &str)]) {
    let parsed = parse(body);
    let found: Vec<_> = parsed.rejected.iter().map(|line| (line.line_number, line.reason.as_str())).collect();
    assert_eq!(found, refused, "{body:?}");
    assert_eq!(parsed.rejected_count, refused.len());
    assert_eq!(points(&parsed).len(), rows, "{body:?}");
}
