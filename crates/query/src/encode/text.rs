//! JSON, JSON Lines and CSV: rows one after the other.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use bytes::Bytes;

use super::cell::{Cells, Style, cells, json_key, text};
use crate::error::Result;

/// A text form that goes row by row.
pub(super) struct Text {
    form: Form,
    /// What stands before the value of each column in a row.
    before: Vec<Vec<u8>>,
    /// What stands before the first row.
    head: Vec<u8>,
    started: bool,
    rows: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Array,
    Lines,
    Csv,
}

impl Text {
    pub(super) fn json(schema: &Schema, array: bool) -> Self {
        let keys = schema.fields().iter().enumerate().map(|(index, field)| {
            let mut before = vec![if index == 0 { b'{' } else { b',' }];
            before.extend(json_key(field.name()));
            before
        });
        let (form, head) = if array { (Form::Array, b"[".to_vec()) } else { (Form::Lines, Vec::new()) };
        Self { form, before: keys.collect(), head, started: false, rows: false }
    }

    pub(super) fn csv(schema: &Schema) -> Self {
        let mut head = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            if index > 0 {
                head.push(b',');
            }
            text(field.name(), Style::Csv, &mut head);
        }
        head.push(b'\n');
        let before = (0..schema.fields().len()).map(|index| if index == 0 { Vec::new() } else { vec![b','] });
        Self { form: Form::Csv, before: before.collect(), head, started: false, rows: false }
    }

    pub(super) fn batch(&mut self, batch: &RecordBatch) -> Result<Bytes> {
        let style = if self.form == Form::Csv { Style::Csv } else { Style::Json };
        let columns: Vec<Cells> = batch.columns().iter().map(|column| cells(column, style)).collect::<Result<_>>()?;
        let mut out = self.start();
        for row in 0..batch.num_rows() {
            if self.form == Form::Array && self.rows {
                out.push(b',');
            }
            self.rows = true;
            for (before, cells) in self.before.iter().zip(&columns) {
                out.extend_from_slice(before);
                cells(row, &mut out);
            }
            let end: &[u8] = match (self.form, self.before.is_empty()) {
                (Form::Csv, _) => b"\n",
                (Form::Lines, false) => b"}\n",
                (Form::Lines, true) => b"{}\n",
                (Form::Array, false) => b"}",
                (Form::Array, true) => b"{}",
            };
            out.extend_from_slice(end);
        }
        Ok(out.into())
    }

    pub(super) fn finish(mut self) -> Bytes {
        let mut out = self.start();
        if self.form == Form::Array {
            out.extend_from_slice(b"]\n");
        }
        out.into()
    }

    fn start(&mut self) -> Vec<u8> {
        if std::mem::replace(&mut self.started, true) { Vec::new() } else { std::mem::take(&mut self.head) }
    }
}
