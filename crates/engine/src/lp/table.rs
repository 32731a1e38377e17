//! The columns of one table while a body is read: typed, checked against the schema, and rolled back line by line.
//!
//! A line writes its values straight into the columns. When it is refused, every column that it touched is cut back to the
//! rows before it, and columns that it made are taken out again, so that it leaves no trace. Columns that a line lacks are
//! not touched: they are filled up when they are next written, or at the end.

use std::collections::HashMap;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::refusal::{Step, Stop, refuse, show};
use super::tags::{Shape, Split};
use super::{Options, ParsedTable};
use crate::rows::{Bits, Field, Keys, Rows, Values};
use crate::schema::{FieldType, Role, SchemaRef, check_column_name, role_word};

const NONE: u32 = u32::MAX;

/// Memory of the body's columns, and how much there may be.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) held: usize,
    pub(super) max: usize,
}

impl Budget {
    /// Accounts for `bytes` about to be taken.
    ///
    /// # Errors
    /// [`Stop::Full`] when they would go past the limit; nothing is taken then.
    pub(super) fn take(&mut self, bytes: usize) -> Step<()> {
        if bytes > self.max.saturating_sub(self.held) {
            return Err(Stop::Full);
        }
        self.held += bytes;
        Ok(())
    }

    /// Gives back what a refused line had taken.
    pub(super) fn give(&mut self, bytes: usize) {
        self.held -= bytes;
    }
}

/// One field's column.
#[derive(Debug)]
pub(super) struct Column {
    /// The name as it stands in the text, and `=`: as bytes, and as words to be compared at once.
    raw: Vec<u8>,
    words: [u64; 4],
    masks: [u64; 4],
    /// The column that followed this one in the last line.
    pub(super) next: u32,
    /// Rows that the column has a value for, or a filler.
    len: usize,
    pub(super) values: Values,
    present: Option<Bits>,
    /// The name as written by users.
    pub(super) name: String,
    /// Bytes of memory, apart from the rows' share.
    pub(super) held: usize,
}

/// One table of the body.
#[derive(Debug)]
pub(super) struct Table {
    name: String,
    schema: Option<SchemaRef>,
    /// Columns that the schema lacks, in order of appearance, and by name.
    new_columns: Vec<(String, Role)>,
    new_roles: HashMap<String, Role>,
    /// The tag keys of the last new series.
    shape: Shape,
    keys: Keys,
    /// Hashes and numbers of the series.
    by_key: HashTable<(u64, u32)>,
    series: Vec<u32>,
    times: Vec<i64>,
    columns: Vec<Column>,
    by_raw: HashTable<u32>,
    /// The column of the first field of the last line.
    first: u32,
    /// Rows that all columns have room for.
    capacity: usize,
    /// Bits that one row takes in all columns.
    row_bits: usize,
    seed: u64,
}

/// How much of a table was there before a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    columns: usize,
    new_columns: usize,
}

/// A place in the chain of predicted columns of a line.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chain {
    last: u32,
    /// Columns that the line has written so far.
    written: usize,
}

impl Chain {
    /// The beginning of a line.
    pub(super) fn new() -> Self {
        Self { last: NONE, written: 0 }
    }

    /// The number of the column written last; none has it at the beginning.
    #[inline(always)]
    pub(super) fn last(self) -> usize {
        self.last as usize
    }

    /// Says that the column `number` was written, and is expected at this place in the next line.
    #[inline(always)]
    pub(super) fn add(&mut self, number: u32) {
        self.last = number;
        self.written += 1;
    }
}

impl Column {
    fn new(raw: &[u8], name: String, values: Values, capacity: usize) -> Self {
        let (mut words, mut masks) = ([0; 4], [0; 4]);
        for (index, &byte) in raw.iter().chain(b"=").enumerate().take(32) {
            words[index / 8] |= u64::from(byte) << (index % 8 * 8);
            masks[index / 8] |= 0xff << (index % 8 * 8);
        }
        let mut column = Self {
            raw: [raw, b"="].concat(),
            words,
            masks,
            next: NONE,
            len: 0,
            values,
            present: None,
            held: size_of::<Self>() * 2 + raw.len() + name.len() + 64,
            name,
        };
        column.values.reserve(capacity);
        column
    }

    /// Whether the bytes at `at` are this column's name and `=`; where the value begins then.
    #[inline(always)]
    pub(super) fn begins(&self, bytes: &[u8], at: usize) -> Option<usize> {
        let same = match bytes.get(at..at + 32) {
            Some(window) if self.raw.len() <= 32 => {
                let mut other = 0;
                for (index, (word, mask)) in self.words.iter().zip(&self.masks).enumerate() {
                    let found = u64::from_le_bytes(*window[index * 8..].first_chunk().expect("32 bytes"));
                    other |= (found ^ word) & mask;
                }
                other == 0
            }
            _ => bytes[at..].starts_with(&self.raw),
        };
        same.then_some(at + self.raw.len())
    }

    /// Readies the column for the value of row `row`.
    #[inline(always)]
    pub(super) fn ready(&mut self, row: usize) -> Step<()> {
        if self.len == row { Ok(()) } else { self.fill(row) }
    }

    /// Fills rows that the column lacked.
    #[inline(never)]
    fn fill(&mut self, row: usize) -> Step<()> {
        if self.len > row {
            return refuse(format!("field '{}' stands twice in the line", self.name));
        }
        let len = self.len;
        self.present.get_or_insert_with(|| Bits::repeat(true, len)).extend_to(row, false);
        self.values.resize(row);
        self.len = row;
        Ok(())
    }

    /// Takes note that a value was appended to `values`.
    #[inline(always)]
    pub(super) fn appended(&mut self) {
        self.len += 1;
        if let Some(present) = &mut self.present {
            present.push(true);
        }
    }

    /// Appends text to a column of text.
    #[inline]
    pub(super) fn append_text(text: &mut Keys, held: &mut usize, value: &[u8], budget: &mut Budget) -> Step<()> {
        let growth = text.growth(value.len());
        if growth > 0 {
            if text.as_bytes().len() + value.len() > u32::MAX as usize {
                return Err(Stop::Full);
            }
            budget.take(growth)?;
            *held += growth;
        }
        text.push(value);
        Ok(())
    }

    fn cut(&mut self, rows: usize) {
        if self.len > rows {
            self.len = rows;
            self.values.resize(rows);
            if let Some(present) = &mut self.present {
                present.truncate(rows);
            }
        } else {
            // A value that was refused after it was appended.
            self.values.resize(self.len);
        }
    }

    fn into_field(mut self, rows: usize) -> Field {
        if self.len < rows {
            self.fill(rows).unwrap_or_else(|_| unreachable!("the column is shorter"));
        }
        Field { name: self.name, values: self.values, present: self.present }
    }
}

impl Table {
    pub(super) fn new(name: String, schema: Option<SchemaRef>, seed: u64) -> Self {
        Self {
            name,
            schema,
            new_columns: Vec::new(),
            new_roles: HashMap::new(),
            shape: Shape::default(),
            keys: Keys::default(),
            by_key: HashTable::new(),
            series: Vec::new(),
            times: Vec::new(),
            columns: Vec::new(),
            by_raw: HashTable::new(),
            first: NONE,
            capacity: 0,
            row_bits: 8 * (4 + 8),
            seed,
        }
    }

    /// The measurement.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of memory that a table takes besides columns, series and rows.
    pub(super) fn held(&self) -> usize {
        2 * size_of::<Self>() + 2 * self.name.len() + self.shape.bytes() + 256
    }

    pub(super) fn rows(&self) -> usize {
        self.times.len()
    }

    /// The tag keys of the last new series.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Keeps the tag keys of a new series.
    pub(super) fn keep_shape(&mut self, split: &Split, head: &[u8], budget: &mut Budget) -> Step<()> {
        let before = self.shape.bytes();
        split.keep_shape(head, &mut self.shape);
        budget.take(self.shape.bytes() - before)
    }

    /// The number of the series with the canonical `key`, which is added when it is new.
    pub(super) fn series_of(&mut self, key: &[u8], hash: u64, budget: &mut Budget) -> Step<u32> {
        let known = self.by_key.find(hash, |&(other, number)| other == hash && self.keys.get(number as usize) == key);
        if let Some(&(_, number)) = known {
            return Ok(number);
        }
        // Its end among the keys, and its entry in the index, each twice for what growing leaves free.
        budget.take(self.keys.growth(key.len()) + 2 * (4 + 20))?;
        let number = u32::try_from(self.keys.len()).expect("a series takes bytes of a body under 4 GiB");
        self.keys.push(key);
        self.by_key.insert_unique(hash, (hash, number), |&(hash, _)| hash);
        Ok(number)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { columns: self.columns.len(), new_columns: self.new_columns.len() }
    }

    /// Makes room for one more row in all columns.
    #[inline(always)]
    pub(super) fn make_room(&mut self, budget: &mut Budget) -> Step<()> {
        if self.times.len() < self.capacity { Ok(()) } else { self.grow(budget) }
    }

    #[cold]
    fn grow(&mut self, budget: &mut Budget) -> Step<()> {
        let capacity = (self.capacity * 2).max(4);
        budget.take((capacity - self.capacity) * self.row_bits / 8)?;
        self.capacity = capacity;
        self.series.reserve_exact(capacity - self.series.len());
        self.times.reserve_exact(capacity - self.times.len());
        for column in &mut self.columns {
            column.values.reserve(capacity);
        }
        Ok(())
    }

    /// What `name` is, in the schema or in the body so far.
    fn role(&self, name: &str) -> Option<Role> {
        let known = self.schema.as_ref().and_then(|schema| schema.get(name)).map(|(_, column)| column.role);
        known.or_else(|| self.new_roles.get(name).copied())
    }

    fn add_role(&mut self, name: &str, role: Role, options: &Options, budget: &mut Budget) -> Step<()> {
        if let Err(error) = check_column_name(name) {
            return refuse(error.context());
        }
        let columns = self.schema.as_ref().map_or(0, |schema| schema.columns().len()) + self.new_columns.len();
        if columns >= options.columns_max {
            return refuse(format!("more than {} columns in table '{}' (limit columns_max)", columns, self.name));
        }
        // The name twice, the entry of the list, the entry of the map.
        budget.take(role_bytes(name))?;
        self.new_columns.push((name.to_owned(), role));
        self.new_roles.insert(name.to_owned(), role);
        Ok(())
    }

    /// Takes note of a tag key of a new series.
    pub(super) fn add_tag(&mut self, name: &str, options: &Options, budget: &mut Budget) -> Step<()> {
        match self.role(name) {
            Some(Role::Tag) => Ok(()),
            Some(role) => refuse(format!("'{name}' is {} of this table, not a tag", role_word(role))),
            None => self.add_role(name, Role::Tag, options, budget),
        }
    }

    /// The columns and, for the first field of a line, the number of the one to expect.
    #[inline(always)]
    pub(super) fn columns(&mut self) -> (&mut [Column], u32) {
        (&mut self.columns, self.first)
    }

    /// The column whose name is spelled `raw`.
    pub(super) fn find(&self, raw: &[u8]) -> Option<u32> {
        let same = |&number: &u32| {
            let name = &self.columns[number as usize].raw;
            name[..name.len() - 1] == *raw
        };
        self.by_raw.find(xxh3_64_with_seed(raw, self.seed), same).copied()
    }

    /// Adds the column of a field that the body did not have so far; `kind` is the type of the line's value.
    pub(super) fn add_field(
        &mut self,
        raw: &[u8],
        name: &str,
        kind: FieldType,
        options: &Options,
        budget: &mut Budget,
    ) -> Step<u32> {
        match self.role(name) {
            Some(Role::Field(known)) if known == kind => {}
            Some(Role::Field(known)) => return wrong_type(name, known, kind),
            Some(Role::Tag) => return refuse(format!("'{name}' is a tag of this table, not a field")),
            None => self.add_role(name, Role::Field(kind), options, budget)?,
        }
        let number = u32::try_from(self.columns.len()).expect("bounded by the limit on columns");
        let bits = row_bits(kind);
        budget.take(self.capacity * bits / 8)?;
        self.row_bits += bits;
        let column = Column::new(raw, name.to_owned(), Values::new(kind), self.capacity);
        let held = column.held;
        self.columns.push(column);
        budget.take(held)?;
        let (columns, seed) = (&self.columns, self.seed);
        self.by_raw.insert_unique(xxh3_64_with_seed(raw, seed), number, |&number| {
            let name = &columns[number as usize].raw;
            xxh3_64_with_seed(&name[..name.len() - 1], seed)
        });
        Ok(number)
    }

    /// The column `number`, ready for the value of the row being written; it is expected here in the next line.
    pub(super) fn open(&mut self, chain: &mut Chain, number: u32) -> Step<&mut Column> {
        let row = self.times.len();
        self.columns[number as usize].ready(row)?;
        match self.columns.get_mut(chain.last as usize) {
            Some(last) => last.next = number,
            None => self.first = number,
        }
        chain.add(number);
        Ok(&mut self.columns[number as usize])
    }

    /// Ends the line: its row is in.
    #[inline(always)]
    pub(super) fn commit(&mut self, series: u32, time: i64) {
        self.series.push(series);
        self.times.push(time);
    }

    /// Takes the line back. The chain tells which columns it wrote, so the cost depends on the line, not on the table.
    pub(super) fn roll_back(&mut self, mark: Mark, chain: Chain, budget: &mut Budget) {
        let rows = self.times.len();
        let mut number = self.first;
        for _ in 0..chain.written {
            let column = &mut self.columns[number as usize];
            column.cut(rows);
            number = column.next;
        }
        while self.columns.len() > mark.columns {
            let number = u32::try_from(self.columns.len() - 1).expect("bounded by the limit on columns");
            let column = self.columns.pop().expect("longer than the mark");
            let hash = xxh3_64_with_seed(&column.raw[..column.raw.len() - 1], self.seed);
            if let Ok(entry) = self.by_raw.find_entry(hash, |&other| other == number) {
                entry.remove();
            }
            let bits = row_bits(column.values.kind());
            self.row_bits -= bits;
            budget.give(column.held + self.capacity * bits / 8);
        }
        self.shape.clear();
        for (name, _) in self.new_columns.drain(mark.new_columns..) {
            self.new_roles.remove(&name);
            budget.give(role_bytes(&name));
        }
    }

    pub(super) fn finish(self) -> ParsedTable {
        let rows = self.times.len();
        let fields = self.columns.into_iter().map(|column| column.into_field(rows)).collect();
        ParsedTable {
            rows: Rows { table: self.name, keys: self.keys, series: self.series, times: self.times, fields },
            new_columns: self.new_columns,
        }
    }
}

/// Bytes that a new column's name takes in the list and the map.
fn role_bytes(name: &str) -> usize {
    2 * name.len() + 128
}

/// Bits that a row takes in a column, its presence bit and the slack of growing bitmaps counted.
const fn row_bits(kind: FieldType) -> usize {
    match kind {
        FieldType::F64 | FieldType::I64 | FieldType::U64 => 64 + 2,
        FieldType::Bool => 2 + 2,
        FieldType::Str => 32 + 2,
    }
}

/// Refuses a value of another type than its column's.
pub(super) fn wrong_type<T>(name: &str, known: FieldType, found: FieldType) -> Step<T> {
    refuse(format!(
        "field '{}' is {}, the line has {}",
        show(name.as_bytes()),
        role_word(Role::Field(known)),
        role_word(Role::Field(found))
    ))
}
