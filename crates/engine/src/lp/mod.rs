//! Line protocol into columns: `measurement,tag=value field=1i,other="text" 1700000000000000000`.
//!
//! The text comes in chunks of any size, the rows leave as one [`Rows`] a measurement. A line that breaks a rule is refused by
//! itself, with its number and the reason, and leaves no trace: no column, no series, no row.
//!
//! Parsing is fast because lines repeat. A line's series is compared with the one that followed last time (`heads`), its
//! field names with those of the line before (`table`), and digits are read eight at a time (`digits`); a value goes straight
//! into its column. `line` holds the walk through a line with the general way behind each shortcut, `tags` what is done for a
//! series that is new, `extent` where a line ends that cannot be parsed.
//!
//! The dialect, where implementations differ:
//! - In measurement, tags and field names a backslash before comma, equals sign or space makes that byte part of the name;
//!   any other backslash stands for itself. In quoted texts `\"` and `\\` are escapes.
//! - A newline ends the line everywhere but in a quoted text; `\r\n` ends it too. Blank lines and lines that begin with `#` are
//!   skipped. Several spaces count as one.
//! - Numbers may have a sign, a point without digits on one side, an exponent; NaN, infinities and what rounds to them are
//!   refused. Timestamps are whole numbers, maybe negative.
//! - A tag without a value, a tag or field twice in a line, a name that is both, and the names `time` and `weir_*` are refused.
//!
//! ```
//! use weir_engine::lp::{Options, Parser};
//! # use weir_engine::schema::SchemaRef;
//! # struct Empty;
//! # impl weir_engine::lp::Schemas for Empty {
//! #     fn schema(&self, _: &str) -> Option<SchemaRef> { None }
//! # }
//! let mut parser = Parser::new(Box::new(Empty), Options::new(0, 42));
//! parser.feed(b"cpu,host=a usage=58i 17\ncpu,host=a usage=\"high\"")?;
//! let parsed = parser.finish()?;
//! assert_eq!(parsed.tables[0].rows.times, [17]);
//! assert_eq!(parsed.rejected[0].line_number, 2);
//! # Ok::<(), weir_engine::Error>(())
//! ```

mod digits;
mod extent;
mod float;
mod heads;
mod line;
mod precision;
mod refusal;
mod scan;
mod table;
mod tags;

use memchr::{memchr, memchr_iter, memrchr};
use weir_base::Kind;

use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::schema::{Role, SchemaRef};
use extent::Extent;
use line::Body;
pub use precision::Precision;
pub use refusal::Rejected;
use refusal::{Refusal, Stop, cut};

/// The schemas of the tables that exist, to check types against.
pub trait Schemas {
    /// The schema of `measurement`; `None` when there is no such table.
    fn schema(&self, measurement: &str) -> Option<SchemaRef>;

    /// Whether a measurement without a schema is the name of an external table, where nothing is written.
    fn is_external(&self, _measurement: &str) -> bool {
        false
    }
}

impl<T: Schemas + ?Sized> Schemas for &T {
    fn schema(&self, measurement: &str) -> Option<SchemaRef> {
        (**self).schema(measurement)
    }

    fn is_external(&self, measurement: &str) -> bool {
        (**self).is_external(measurement)
    }
}

/// How a body is read, and its limits.
#[derive(Debug, Clone)]
pub struct Options {
    /// The unit of its timestamps.
    pub precision: Precision,
    /// The time of lines that have none, in nanoseconds since 1970 UTC.
    pub default_time: i64,
    /// Seeds the hash tables; draw it anew for each request, so that nobody can prepare colliding names.
    pub seed: u64,
    /// Longest line.
    pub line_bytes_max: usize,
    /// Longest measurement, tag key and field name, escapes included.
    pub name_bytes_max: usize,
    /// Longest tag value, escapes included.
    pub tag_value_bytes_max: usize,
    /// Most columns of a table, those of its schema included.
    pub columns_max: usize,
    /// Most measurements in a body.
    pub tables_max: usize,
    /// Most memory that the columns of a body may take.
    pub bytes_max: usize,
    /// How many refused lines are kept with their text; the rest is only counted.
    pub rejected_max: usize,
    /// How much of a refused line is kept.
    pub rejected_line_bytes_max: usize,
}

/// Reads one body.
pub struct Parser<'a> {
    body: Body<'a>,
    /// The beginning of a line whose end has not been seen.
    carry: Vec<u8>,
    /// How far that line has been looked through for its end.
    extent: Extent,
    /// Whether that line is past its limit; only its beginning is kept then, and its newlines are counted.
    too_long: bool,
    carry_newlines: usize,
    /// Newlines in the body before the line that comes next.
    newlines: usize,
    rows: usize,
    rejected: Vec<Rejected>,
    rejected_count: usize,
    full: bool,
}

/// What a body holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The measurements with accepted lines, in order of appearance.
    pub tables: Vec<ParsedTable>,
    /// Accepted lines.
    pub rows: usize,
    /// The first refused lines, at most [`Options::rejected_max`].
    pub rejected: Vec<Rejected>,
    /// All refused lines.
    pub rejected_count: usize,
}

/// The accepted lines of one measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedTable {
    /// The rows, in the order of their lines.
    pub rows: Rows,
    /// The columns that the schema lacks, in order of appearance.
    pub new_columns: Vec<(String, Role)>,
}

impl Options {
    /// The defaults: nanoseconds, lines up to 1 MiB, names up to 1 KiB, tag values up to 64 KiB, 2,000 columns a table,
    /// 20,000 measurements, 1 GiB of columns.
    pub fn new(default_time: i64, seed: u64) -> Self {
        Self {
            precision: Precision::Nanosecond,
            default_time,
            seed,
            line_bytes_max: 1 << 20,
            name_bytes_max: 1 << 10,
            tag_value_bytes_max: 64 << 10,
            columns_max: 2_000,
            tables_max: 20_000,
            bytes_max: 1 << 30,
            rejected_max: 100,
            rejected_line_bytes_max: 512,
        }
    }
}

impl<'a> Parser<'a> {
    /// A parser of one body.
    pub fn new(schemas: Box<dyn Schemas + Send + 'a>, options: Options) -> Self {
        Self {
            body: Body::new(schemas, options),
            carry: Vec::new(),
            extent: Extent::default(),
            too_long: false,
            carry_newlines: 0,
            newlines: 0,
            rows: 0,
            rejected: Vec::new(),
            rejected_count: 0,
            full: false,
        }
    }

    /// Bytes of memory that the columns and what finds them take, and room they have reserved.
    pub fn bytes_held(&self) -> usize {
        self.body.budget.held + self.carry.capacity()
    }

    /// Reads the next bytes of the body; they may begin and end anywhere.
    ///
    /// # Errors
    /// `limit` when the columns would take more than [`Options::bytes_max`]. The parser is of no use then: every further
    /// call gives the same error.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.extent.is_open() && !self.full {
            let end = self.extent.find_end(bytes);
            let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
            self.keep(line);
            bytes = rest;
            if end.is_some() {
                self.carried();
            }
        }
        let whole = memrchr(b'\n', bytes).map_or(0, |last| last + 1);
        let read = self.lines(&bytes[..whole]);
        self.check()?;
        let rest = &bytes[read..];
        let rest = &rest[rest.iter().take_while(|byte| is_blank(**byte)).count()..];
        let end = self.extent.find_end(rest);
        assert_eq!(end, None, "a whole line was left over");
        self.keep(rest);
        Ok(())
    }

    /// Ends the body; a last line without a newline counts.
    ///
    /// # Errors
    /// As [`Parser::feed`].
    pub fn finish(mut self) -> Result<Parsed> {
        if self.extent.in_text() && !self.too_long {
            let line = std::mem::take(&mut self.carry);
            self.reject(&line, Refusal("a quoted text is not closed before the end of the body".to_owned()));
        } else if self.extent.is_open() {
            self.keep(b"\n");
            self.carried();
        }
        self.check()?;
        Ok(Parsed {
            tables: self.body.tables.into_iter().map(table::Table::finish).collect(),
            rows: self.rows,
            rejected: self.rejected,
            rejected_count: self.rejected_count,
        })
    }

    fn check(&self) -> Result<()> {
        if !self.full {
            return Ok(());
        }
        let max = weir_base::ByteSize::new(self.body.budget.max as u64);
        Err(Error::new(Kind::Limit, format!("the rows of the body take more than {max} of memory (limit bytes_max)")))
    }

    /// Adds to the line that was cut: nothing of comments, and only the beginning of a line past its limit.
    fn keep(&mut self, bytes: &[u8]) {
        if self.extent.is_comment() {
            return;
        }
        let options = &self.body.options;
        // One more byte for the newline, which does not count.
        let past = self.too_long || self.carry.len() + bytes.len() > options.line_bytes_max + 1;
        if past && !self.too_long {
            self.too_long = true;
            self.carry_newlines = memchr_iter(b'\n', &self.carry).count();
        }
        if past {
            self.carry_newlines += memchr_iter(b'\n', bytes).count();
            // Three more than are shown: the line's end, and one that says that it was cut.
            let kept = (options.rejected_line_bytes_max + 3).saturating_sub(self.carry.len()).min(bytes.len());
            self.carry.extend_from_slice(&bytes[..kept]);
        } else {
            self.carry.extend_from_slice(bytes);
        }
    }

    /// Parses the line that was cut, now that it is whole.
    fn carried(&mut self) {
        let mut line = std::mem::take(&mut self.carry);
        if self.extent.is_comment() {
            self.newlines += 1;
        } else if self.too_long {
            self.reject(line.strip_suffix(b"\n").unwrap_or(&line), self.body.too_long());
            self.newlines += self.carry_newlines;
        } else {
            let read = self.lines(&line);
            assert!(read == line.len() || self.full, "a line is parsed as far as its extent goes");
        }
        line.clear();
        self.carry = line;
        self.too_long = false;
        self.extent = Extent::default();
    }

    /// Parses whole lines; the answer is where the first line begins that is not whole after all, because its last newline
    /// stands in a quoted text.
    fn lines(&mut self, bytes: &[u8]) -> usize {
        let checked = if bytes.is_ascii() {
            bytes.len()
        } else {
            std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len)
        };
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] <= b'#' {
                let (next, blank) = skip(bytes, at);
                at = next;
                if blank {
                    self.newlines += 1;
                    continue;
                }
            }
            match self.body.line(bytes, at, checked) {
                Ok(accepted) => {
                    at = accepted.end;
                    self.newlines += accepted.newlines;
                    self.rows += 1;
                }
                Err(Stop::Full) => {
                    self.full = true;
                    break;
                }
                Err(stop) => match self.refuse(&bytes[at..], stop) {
                    Some(len) => at += len,
                    None => break,
                },
            }
        }
        at
    }

    /// Skips the line that `bytes` begin with and reports it; the answer is its length, `None` when its end is not there.
    #[cold]
    fn refuse(&mut self, bytes: &[u8], stop: Stop) -> Option<usize> {
        let len = Extent::default().find_end(bytes)?;
        let Stop::Refused(refusal) = stop else { unreachable!("an incomplete line has no end") };
        let line = &bytes[..len - 1];
        // Reasons that do not depend on how far the line was parsed come first: they are the same for every chunking.
        if line.len() > self.body.options.line_bytes_max {
            self.reject(line, self.body.too_long());
        } else if std::str::from_utf8(line).is_err() {
            self.reject(line, Refusal("the line is not UTF-8".to_owned()));
        } else {
            self.reject(line, *refusal);
        }
        self.newlines += memchr_iter(b'\n', &bytes[..len]).count();
        Some(len)
    }

    fn reject(&mut self, line: &[u8], refusal: Refusal) {
        self.rejected_count += 1;
        if self.rejected.len() < self.body.options.rejected_max {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let original_line = cut(line, self.body.options.rejected_line_bytes_max);
            self.rejected.push(Rejected { line_number: self.newlines + 1, reason: refusal.0, original_line });
        }
    }
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

/// Skips blanks, and the whole line when it holds nothing else or is a comment: where to go on, and whether it was skipped.
fn skip(bytes: &[u8], mut at: usize) -> (usize, bool) {
    while is_blank(bytes[at]) {
        at += 1;
    }
    match bytes[at] {
        b'\n' => (at + 1, true),
        b'\r' if bytes[at + 1] == b'\n' => (at + 2, true),
        b'#' => (at + memchr(b'\n', &bytes[at..]).map_or(bytes.len() - at, |newline| newline + 1), true),
        _ => (at, false),
    }
}

#[cfg(test)]
mod tests;
