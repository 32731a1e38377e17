//! A table drawn with lines. Widths are settled by the first rows, so that a long result streams in bounded memory;
//! a longer value further down pushes its line out.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use bytes::Bytes;

use super::cell::{Style, cells};
use crate::error::Result;

/// Rows that settle the widths.
const ROWS_AHEAD: usize = 10_000;

pub(super) struct TableText {
    names: Vec<String>,
    /// Whether the column's values stand on the right.
    right: Vec<bool>,
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
}

impl TableText {
    pub(super) fn new(schema: &Schema) -> Self {
        let right = |kind: &DataType| kind.is_numeric();
        Self {
            names: schema.fields().iter().map(|field| field.name().clone()).collect(),
            right: schema.fields().iter().map(|field| right(field.data_type())).collect(),
            waiting: Vec::new(),
            widths: None,
        }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        let columns = batch.columns().iter().map(|column| cells(column, Style::Plain)).collect::<Result<Vec<_>>>()?;
        for row in 0..batch.num_rows() {
            let texts = columns.iter().map(|cells| {
                let mut text = Vec::new();
                cells(row, &mut text);
                String::from_utf8(text).expect("cells write UTF-8")
            });
            self.waiting.push(texts.collect());
        }
        let mut out = String::new();
        if self.widths.is_some() || self.waiting.len() >= ROWS_AHEAD {
            self.draw(&mut out);
        }
        Ok(out.into())
    }

    pub(super) fn finish(mut self) -> Result<Bytes> {
        let mut out = String::new();
        self.draw(&mut out);
        rule(self.widths.as_deref().unwrap_or_default(), &mut out);
        Ok(out.into())
    }

    /// Draws what waits, after the head where that was not drawn yet.
    fn draw(&mut self, out: &mut String) {
        let widths = match self.widths.take() {
            Some(widths) => widths,
            None => {
                let width = |column: usize| {
                    let cells = self.waiting.iter().map(|row| row[column].chars().count());
                    cells.chain([self.names[column].chars().count()]).max().unwrap_or(0)
                };
                let widths: Vec<usize> = (0..self.names.len()).map(width).collect();
                rule(&widths, out);
                line(&self.names, &widths, &vec![false; widths.len()], out);
                rule(&widths, out);
                widths
            }
        };
        for row in self.waiting.drain(..) {
            line(&row, &widths, &self.right, out);
        }
        self.widths = Some(widths);
    }
}

fn rule(widths: &[usize], out: &mut String) {
    for width in widths {
        out.push('+');
        out.extend(std::iter::repeat_n('-', width + 2));
    }
    out.push_str("+\n");
}

fn line(cells: &[String], widths: &[usize], right: &[bool], out: &mut String) {
    for ((cell, width), right) in cells.iter().zip(widths).zip(right) {
        let space = std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()));
        out.push_str("| ");
        if *right {
            out.extend(space);
            out.push_str(cell);
        } else {
            out.push_str(cell);
            out.extend(space);
        }
        out.push(' ');
    }
    out.push_str("|\n");
}
