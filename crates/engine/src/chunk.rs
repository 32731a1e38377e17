//! A run of buffered rows in order of arrival: series numbers, times, and the fields that any of them has.

use std::sync::Arc;

use weir_base::Kind;

use crate::dictionary::Dictionary;
use crate::error::{Error, Result};
use crate::rows::{Field, Rows};
use crate::schema::{Role, TableSchema};

/// Rows of one table in order of arrival, later rows written later. `series`, `times` and every field are equally long.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// What numbers the series.
    pub dictionary: Arc<Dictionary>,
    /// The series of each row.
    pub series: Vec<u32>,
    /// Nanoseconds since 1970 UTC.
    pub times: Vec<i64>,
    /// Fields with the index of their column in the table's schema.
    pub fields: Vec<(usize, Field)>,
    /// Smallest and largest of `times`.
    span: Option<(i64, i64)>,
}

impl Chunk {
    /// Numbers the series of `rows` and finds their fields' columns.
    ///
    /// # Errors
    /// `limit` when there are too many series; `conflict` when a field is missing from `schema` or has another type there
    /// (somebody else widened the table in the meantime: parse again).
    pub fn new(rows: Rows, schema: &TableSchema, dictionary: &Arc<Dictionary>) -> Result<Self> {
        let numbers = dictionary.resolve(&rows.keys)?;
        let mut series = rows.series;
        series.iter_mut().for_each(|number| *number = numbers[*number as usize]);
        let fields = rows
            .fields
            .into_iter()
            .map(|field| match schema.get(&field.name) {
                Some((index, column)) if column.role == Role::Field(field.values.kind()) => Ok((index, field)),
                _ => Err(Error::new(
                    Kind::Conflict,
                    format!("field '{}' of '{}' was given another type in the meantime", field.name, rows.table),
                )),
            })
            .collect::<Result<_>>()?;
        let span = span(&rows.times);
        Ok(Self { dictionary: Arc::clone(dictionary), series, times: rows.times, fields, span })
    }

    /// Smallest and largest time, nanoseconds since 1970 UTC; `None` without rows.
    pub fn span(&self) -> Option<(i64, i64)> {
        self.span
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Bytes of memory held, by capacity, without the dictionary.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.series.capacity() * 4
            + self.times.capacity() * 8
            + self.fields.capacity() * size_of::<(usize, Field)>()
            + self.fields.iter().map(|(_, field)| field.bytes()).sum::<usize>()
    }

    /// Appends the rows of `other`, numbered by the same dictionary, as written later.
    pub fn append(&mut self, other: &Chunk) {
        debug_assert!(Arc::ptr_eq(&self.dictionary, &other.dictionary));
        let old = self.len();
        self.series.extend_from_slice(&other.series);
        self.times.extend_from_slice(&other.times);
        self.span = self.span.into_iter().chain(other.span).reduce(|one, two| (one.0.min(two.0), one.1.max(two.1)));
        for (column, field) in &other.fields {
            let place = self.fields.iter().position(|(mine, _)| mine == column).unwrap_or_else(|| {
                self.fields.push((*column, Field::absent(&field.name, field.values.kind(), old)));
                self.fields.len() - 1
            });
            self.fields[place].1.append(field);
        }
        let new = self.len();
        self.fields.iter_mut().for_each(|(_, field)| field.pad_to(new));
    }
}

fn span(times: &[i64]) -> Option<(i64, i64)> {
    let &first = times.first()?;
    Some(times.iter().fold((first, first), |(low, high), &time| (low.min(time), high.max(time))))
}
