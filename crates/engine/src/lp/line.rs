//! One line into columns: head, fields, time, end.
//!
//! Every step first tries what the line before suggests (the next series, the next field, its type) and falls back to a
//! general way that knows nothing. Both ways accept the same text: the general way decides what is right.

use hashbrown::HashMap;
use memchr::{memchr, memchr2, memchr3};

use super::heads::Heads;
use super::refusal::{Refusal, Step, Stop, refuse, show};
use super::table::{Budget, Chain, Column, Mark, Table, wrong_type};
use super::tags::{Split, too_long, unescape};
use super::{Options, Schemas, digits, float};
use crate::rows::Values;
use crate::schema::FieldType;

/// The columns of the body and how to find them.
pub(super) struct Body<'a> {
    schemas: Box<dyn Schemas + Send + 'a>,
    pub(super) options: Options,
    pub(super) tables: Vec<Table>,
    /// Numbers of tables by measurement.
    by_name: HashMap<String, u32>,
    heads: Heads,
    pub(super) budget: Budget,
    split: Split,
    /// Of the line's new series: its canonical key, the hash of its spelling, and whether its tags are those of the last.
    key: Vec<u8>,
    head_hash: u64,
    same_shape: bool,
    /// A text without its escapes.
    text: Vec<u8>,
}

/// A line's series.
enum Series {
    /// The number of a head.
    Known(u32),
    /// Not yet in the body; the number of its table. The canonical key is in `key`.
    New(u32),
}

/// A value that no column took yet.
enum Value<'t> {
    F64(f64),
    I64(i64),
    U64(u64),
    Bool(bool),
    Str(&'t [u8]),
}

/// What a line has done so far, to be undone when it is refused.
struct Trace {
    table: u32,
    new_table: bool,
    mark: Mark,
    chain: Chain,
}

/// An accepted line: where the next begins, and its newlines.
pub(super) struct Accepted {
    pub(super) end: usize,
    pub(super) newlines: usize,
}

impl<'a> Body<'a> {
    pub(super) fn new(schemas: Box<dyn Schemas + Send + 'a>, options: Options) -> Self {
        Self {
            schemas,
            tables: Vec::new(),
            by_name: HashMap::new(),
            heads: Heads::new(options.seed),
            budget: Budget { held: 0, max: options.bytes_max },
            split: Split::default(),
            key: Vec::new(),
            head_hash: 0,
            same_shape: false,
            text: Vec::new(),
            options,
        }
    }

    /// Reads the line that begins at `start`, which is neither blank nor a comment, and which ends with a newline in
    /// `bytes` unless that stands in a quoted text. `checked` says up to where `bytes` are known to be UTF-8.
    ///
    /// # Errors
    /// [`Stop`]; the line has left no trace then.
    #[inline]
    pub(super) fn line(&mut self, bytes: &[u8], start: usize, checked: usize) -> Step<Accepted> {
        let (series, end) = match self.heads.predict(bytes, start) {
            Some((head, end)) => (Series::Known(head), end),
            None => self.series(bytes, start)?,
        };
        let table = match series {
            Series::Known(head) => self.heads.get(head).table,
            Series::New(table) => table,
        };
        let mark = self.tables[table as usize].mark();
        let mut trace = Trace { table, new_table: false, mark, chain: Chain::new() };
        if let Series::New(_) = series {
            trace.new_table = self.tables[table as usize].rows() == 0;
        }
        match self.row(bytes, start, end, checked, &series, &mut trace) {
            Ok(accepted) => Ok(accepted),
            Err(stop) => {
                self.undo(trace);
                Err(stop)
            }
        }
    }

    #[inline(always)]
    fn row(
        &mut self,
        bytes: &[u8],
        start: usize,
        head_end: usize,
        checked: usize,
        series: &Series,
        trace: &mut Trace,
    ) -> Step<Accepted> {
        if let Series::New(number) = *series {
            self.add_tags(number, &bytes[start..head_end])?;
        }
        let mut at = head_end + 1;
        while bytes[at] == b' ' {
            at += 1;
        }
        let mut newlines = 1;
        if bytes[at] == b'\n' || (bytes[at] == b'\r' && bytes[at + 1] == b'\n') {
            return refuse("the line has no fields");
        }
        at = self.fields(bytes, at, trace, &mut newlines)?;
        let (time, at) = self.time(bytes, at)?;
        let end = line_end(bytes, at)?;
        if end - start > self.options.line_bytes_max {
            return Err(Stop::Refused(Box::new(self.too_long())));
        }
        if end > checked && std::str::from_utf8(&bytes[start..end]).is_err() {
            return refuse("the line is not UTF-8");
        }
        let table = &mut self.tables[trace.table as usize];
        table.make_room(&mut self.budget)?;
        let head = match *series {
            Series::Known(head) => head,
            Series::New(number) => self.insert(number, &bytes[start..head_end])?,
        };
        self.heads.follow(head);
        self.tables[trace.table as usize].commit(self.heads.get(head).series, time);
        Ok(Accepted { end: end + 1, newlines })
    }

    /// Why a line past its limit is refused.
    pub(super) fn too_long(&self) -> Refusal {
        Refusal(too_long("the line", self.options.line_bytes_max, "line_bytes_max"))
    }

    /// Takes back what a refused line did.
    #[cold]
    fn undo(&mut self, trace: Trace) {
        let table = &mut self.tables[trace.table as usize];
        table.roll_back(trace.mark, trace.chain, &mut self.budget);
        if trace.new_table && table.rows() == 0 && trace.table as usize + 1 == self.tables.len() {
            let table = self.tables.pop().expect("it was looked at");
            self.by_name.remove(table.name());
            self.budget.give(table.held());
        }
    }

    /// The series of a line that is not the one predicted, and where its head ends.
    fn series(&mut self, bytes: &[u8], start: usize) -> Step<(Series, usize)> {
        let mut at = start;
        let end = loop {
            // A newline is always there: the line is not blank, and this is before any quoted text.
            let found = at + memchr2(b' ', b'\n', &bytes[at..]).expect("the bytes end with a newline");
            if bytes[found] == b'\n' {
                return refuse("the line has no fields");
            }
            if found == start || bytes[found - 1] != b'\\' {
                break found;
            }
            at = found + 1;
        };
        let head = &bytes[start..end];
        if head.len() > self.options.line_bytes_max {
            return Err(Stop::Refused(Box::new(self.too_long())));
        }
        self.head_hash = self.heads.hash(head);
        if let Some(number) = self.heads.find(head, self.head_hash) {
            return Ok((Series::Known(number), end));
        }
        self.split.split(head, &self.options)?;
        self.key.clear();
        let name = unescape(&head[..self.split.name_end]);
        let Ok(name) = std::str::from_utf8(&name) else { return refuse("the line is not UTF-8") };
        let known = self.by_name.get(name).copied();
        match known.map(|number| self.tables[number as usize].shape()) {
            Some(shape) if self.split.has_shape(head, shape) => {
                self.same_shape = true;
                self.split.canonical_as(head, shape, &mut self.key);
            }
            _ => {
                self.same_shape = false;
                self.split.canonical(head, &mut self.key)?;
            }
        }
        let table = match known {
            Some(number) => number,
            None => self.new_table(name)?,
        };
        Ok((Series::New(table), end))
    }

    /// Adds a table to the body.
    fn new_table(&mut self, name: &str) -> Step<u32> {
        if crate::names::is_own(name) {
            return refuse(format!("measurements that begin as '{name}' does are Weir's own"));
        }
        if self.tables.len() >= self.options.tables_max {
            return refuse(format!("more than {} measurements in a body (limit tables_max)", self.options.tables_max));
        }
        let schema = self.schemas.schema(name);
        if schema.is_none() && self.schemas.is_external(name) {
            return refuse(format!("'{name}' is an external table: no rows are written there"));
        }
        let table = Table::new(name.to_owned(), schema, self.options.seed);
        self.budget.take(table.held())?;
        let number = u32::try_from(self.tables.len()).expect("bounded by the limit on tables");
        self.tables.push(table);
        self.by_name.insert(name.to_owned(), number);
        Ok(number)
    }

    /// Checks the tags of a new series against the columns of its table.
    fn add_tags(&mut self, number: u32, head: &[u8]) -> Step<()> {
        if self.same_shape {
            return Ok(());
        }
        let table = &mut self.tables[number as usize];
        for key in self.split.keys(head) {
            let name = unescape(key);
            let Ok(name) = std::str::from_utf8(&name) else { return refuse("the line is not UTF-8") };
            table.add_tag(name, &self.options, &mut self.budget)?;
        }
        table.keep_shape(&self.split, head, &mut self.budget)
    }

    /// Adds the new series of an accepted line, when no other spelling brought it before, and this spelling of it.
    fn insert(&mut self, number: u32, head: &[u8]) -> Step<u32> {
        let table = &mut self.tables[number as usize];
        let series = table.series_of(&self.key, self.heads.hash(&self.key), &mut self.budget)?;
        self.budget.take(self.heads.growth(head.len()))?;
        Ok(self.heads.insert(head, self.head_hash, number, series))
    }

    /// Reads the fields that begin at `at`; the answer is where the byte behind them stands.
    #[inline(always)]
    fn fields(&mut self, bytes: &[u8], mut at: usize, trace: &mut Trace, newlines: &mut usize) -> Step<usize> {
        let mut chain = trace.chain;
        loop {
            let table = &mut self.tables[trace.table as usize];
            let row = table.rows();
            let (columns, mut expected) = table.columns();
            if let Some(last) = columns.get(chain.last()) {
                expected = last.next;
            }
            // As long as the fields are those of the line before, the table is not looked at again.
            while let Some(column) = columns.get_mut(expected as usize)
                && let Some(value) = column.begins(bytes, at)
            {
                column.ready(row)?;
                at = match quick(bytes, value, column) {
                    Some(end) => end,
                    None => {
                        let (value, end) = read(bytes, value, &mut self.text, newlines)?;
                        append(column, value, &mut self.budget)?;
                        end
                    }
                };
                chain.add(expected);
                trace.chain = chain;
                if bytes[at] != b',' {
                    return Ok(at);
                }
                at += 1;
                expected = column.next;
            }
            at = self.field(bytes, at, trace, newlines)?;
            chain = trace.chain;
            if bytes[at] != b',' {
                return Ok(at);
            }
            at += 1;
        }
    }

    /// Reads a field that is not the one predicted.
    fn field(&mut self, bytes: &[u8], at: usize, trace: &mut Trace, newlines: &mut usize) -> Step<usize> {
        let equals = name_end(bytes, at)?;
        let raw = &bytes[at..equals];
        let table = &mut self.tables[trace.table as usize];
        let found = table.find(raw);
        if found.is_none() && raw.len() > self.options.name_bytes_max {
            return refuse(too_long("a field's name", self.options.name_bytes_max, "name_bytes_max"));
        }
        let (value, end) = read(bytes, equals + 1, &mut self.text, newlines)?;
        let number = match found {
            Some(number) => number,
            None => {
                let name = unescape(raw);
                let Ok(name) = std::str::from_utf8(&name) else { return refuse("the line is not UTF-8") };
                table.add_field(raw, name, value.kind(), &self.options, &mut self.budget)?
            }
        };
        append(table.open(&mut trace.chain, number)?, value, &mut self.budget)?;
        Ok(end)
    }

    /// The line's time, and where the byte behind it stands.
    #[inline(always)]
    fn time(&self, bytes: &[u8], mut at: usize) -> Step<(i64, usize)> {
        while bytes[at] == b' ' {
            at += 1;
        }
        let negative = bytes[at] == b'-';
        let start = at + usize::from(negative);
        let (number, end) = digits::append(bytes, start, 0);
        // 19 digits fit 64 bits, but maybe not with a sign; more fit only when they begin with zeros.
        if end - start > 19 || number > i64::MAX as u64 {
            let Some(time) = digits::signed(&bytes[at..end]) else {
                return refuse(format!("time '{}' does not fit 64 bits", show(&bytes[at..end])));
            };
            return Ok((self.scaled(time)?, end));
        }
        if end == start {
            if matches!(bytes[at], b'\n' | b'\r') {
                return Ok((self.options.default_time, at));
            }
            return refuse(format!("'{}' is not a time", show(token(bytes, at).0)));
        }
        let number = number as i64;
        Ok((self.scaled(if negative { -number } else { number })?, end))
    }

    #[inline(always)]
    fn scaled(&self, time: i64) -> Step<i64> {
        match self.options.precision.to_nanoseconds(time) {
            Some(time) => Ok(time),
            None => refuse(format!("time {time} does not fit 64 bits in nanoseconds")),
        }
    }
}

impl Value<'_> {
    fn kind(&self) -> FieldType {
        match self {
            Value::F64(_) => FieldType::F64,
            Value::I64(_) => FieldType::I64,
            Value::U64(_) => FieldType::U64,
            Value::Bool(_) => FieldType::Bool,
            Value::Str(_) => FieldType::Str,
        }
    }
}

/// Reads a value of the type that the column has, where that is simple; `None` leaves the column as it was.
#[inline(always)]
fn quick(bytes: &[u8], at: usize, column: &mut Column) -> Option<usize> {
    let end = match &mut column.values {
        Values::I64(values) => {
            let (number, end) = digits::short_signed(bytes, at)?;
            if bytes[end] != b'i' || !ends_value(bytes[end + 1]) {
                return None;
            }
            values.push(number);
            end + 1
        }
        Values::U64(values) => {
            let (number, end) = digits::short_unsigned(bytes, at)?;
            if bytes[end] != b'u' || !ends_value(bytes[end + 1]) {
                return None;
            }
            values.push(number);
            end + 1
        }
        Values::Bool(values) => {
            let bit = match bytes[at] {
                b't' | b'T' => true,
                b'f' | b'F' => false,
                _ => return None,
            };
            if !ends_value(bytes[at + 1]) {
                return None;
            }
            values.push(bit);
            at + 1
        }
        Values::F64(values) => {
            let (number, end) = float::parse(bytes, at)?;
            if !ends_value(bytes[end]) {
                return None;
            }
            values.push(number);
            end
        }
        Values::Str(_) => return None,
    };
    column.appended();
    Some(end)
}

/// Whether a value can end before `byte`. A `\r` must be followed by a newline: the end of the line checks that.
#[inline(always)]
fn ends_value(byte: u8) -> bool {
    matches!(byte, b',' | b' ' | b'\n' | b'\r')
}

/// Appends a value to a column that is open.
#[inline]
fn append(column: &mut Column, value: Value<'_>, budget: &mut Budget) -> Step<()> {
    match (&mut column.values, value) {
        (Values::F64(values), Value::F64(value)) => values.push(value),
        (Values::I64(values), Value::I64(value)) => values.push(value),
        (Values::U64(values), Value::U64(value)) => values.push(value),
        (Values::Bool(values), Value::Bool(value)) => values.push(value),
        (Values::Str(values), Value::Str(value)) => Column::append_text(values, &mut column.held, value, budget)?,
        (values, value) => return wrong_type(&column.name, values.kind(), value.kind()),
    }
    column.appended();
    Ok(())
}

/// Where the `=` behind the field's name at `at` stands.
fn name_end(bytes: &[u8], mut at: usize) -> Step<usize> {
    let start = at;
    loop {
        match bytes[at] {
            b'\\' if matches!(bytes[at + 1], b',' | b'=' | b' ') => at += 1,
            b'=' if at == start => return refuse("a field has no name"),
            b'=' => return Ok(at),
            b',' | b' ' | b'\n' if at == start => return refuse("a field has no name"),
            b',' | b' ' | b'\n' => {
                return refuse(format!("field '{}' has no value", show(bytes[start..at].trim_ascii_end())));
            }
            _ => {}
        }
        at += 1;
    }
}

/// The bytes from `at` to the end of a value that is not quoted, and where they end.
fn token(bytes: &[u8], at: usize) -> (&[u8], usize) {
    let len = memchr3(b',', b' ', b'\n', &bytes[at..]).expect("the bytes end with a newline");
    let end = at + len;
    let end = if bytes[end] == b'\n' && bytes[at..end].ends_with(b"\r") { end - 1 } else { end };
    (&bytes[at..end], end)
}

/// Reads a value of any type.
fn read<'t>(bytes: &'t [u8], at: usize, text: &'t mut Vec<u8>, newlines: &mut usize) -> Step<(Value<'t>, usize)> {
    if bytes[at] == b'"' {
        return quoted(bytes, at + 1, text, newlines);
    }
    let (token, end) = token(bytes, at);
    let value = match token {
        b"" => return refuse("a field has no value"),
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => Value::Bool(true),
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => Value::Bool(false),
        [number @ .., b'i'] => match digits::signed(number) {
            Some(number) => Value::I64(number),
            None => return refuse(format!("'{}' is not an integer of 64 bits", show(token))),
        },
        [number @ .., b'u'] => match digits::unsigned(number) {
            Some(number) => Value::U64(number),
            None => return refuse(format!("'{}' is not an unsigned integer of 64 bits", show(token))),
        },
        _ => match float::parse(bytes, at) {
            Some((number, float_end)) if float_end == end => Value::F64(number),
            _ => {
                let what = "a finite number, an integer with 'i' or 'u', a boolean or a quoted text";
                return refuse(format!("value '{}' is not {what}", show(token)));
            }
        },
    };
    Ok((value, end))
}

/// Reads the text that begins behind a quote at `start - 1`.
fn quoted<'t>(bytes: &'t [u8], start: usize, text: &'t mut Vec<u8>, newlines: &mut usize) -> Step<(Value<'t>, usize)> {
    let (mut at, mut escaped) = (start, false);
    let end = loop {
        let Some(found) = memchr3(b'"', b'\\', b'\n', &bytes[at..]) else { return Err(Stop::Incomplete) };
        at += found + 1;
        match bytes[at - 1] {
            b'"' => break at - 1,
            b'\n' => *newlines += 1,
            // A backslash takes the next byte with it; a newline there is counted too.
            _ => {
                escaped = true;
                *newlines += usize::from(bytes.get(at) == Some(&b'\n'));
                at += 1;
                if at > bytes.len() {
                    return Err(Stop::Incomplete);
                }
            }
        }
    };
    if !ends_value(bytes[end + 1]) {
        return refuse("a quoted text is not followed by a comma, a space or the end of the line");
    }
    if !escaped {
        return Ok((Value::Str(&bytes[start..end]), end + 1));
    }
    text.clear();
    let mut rest = &bytes[start..end];
    while let Some(found) = memchr(b'\\', rest) {
        let keep = if matches!(rest[found + 1], b'"' | b'\\') { found } else { found + 1 };
        text.extend_from_slice(&rest[..keep]);
        text.push(rest[found + 1]);
        rest = &rest[found + 2..];
    }
    text.extend_from_slice(rest);
    Ok((Value::Str(text), end + 1))
}

/// Where the newline stands that ends the line whose last part ended at `at`.
#[inline(always)]
fn line_end(bytes: &[u8], mut at: usize) -> Step<usize> {
    if bytes[at] == b'\n' {
        return Ok(at);
    }
    while bytes[at] == b' ' {
        at += 1;
    }
    at += usize::from(bytes[at] == b'\r' && bytes[at + 1] == b'\n');
    if bytes[at] == b'\n' {
        return Ok(at);
    }
    refuse(format!("'{}' stands behind the end of the line's last part", show(token(bytes, at).0)))
}
