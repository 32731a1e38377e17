//! Rollups: tables of partial aggregates, kept beside the table that they sum up, and what is known of how right they are.
//!
//! A rollup is a table of its own whose first commit carries its [`Definition`]; the format is `docs/formats/rollups.md`. Each
//! commit of its rows says, as `txn`, up to which version of the base table they are right. What changed in the base since
//! is told by the places of its files in write order and by its steps of operations: [`changed`]. Nothing here knows SQL.

use std::sync::Arc;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_base::Kind;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::flush::blocking;
use crate::read::ReadSnapshot;
use crate::schema::{Column, FieldType, Role, SchemaRef, TableSchema};
use crate::store::file::DataFile;
use crate::store::{Change, FileWriter, NewFile, Snapshot, Table};

/// How the names of tables of rollups begin; nobody else's may.
pub const PREFIX: &str = "weir_rollup-";
/// The column that counts the rows of a bucket; 0 where there are none any more.
pub const ROWS: &str = "weir_rows";
/// How the `txn` of a rollup begins; the number of the generation and the folder of the base table follow.
const TXN: &str = "weir-rollup/";
/// Rows in a file.
const FILE_ROWS: u64 = 1 << 20;
/// The form of a definition, and of one with a retention of its own.
const VERSION: u32 = 1;
const VERSION_RETAINED: u32 = 2;

/// What a rollup keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    version: u32,
    /// Its name.
    pub name: String,
    /// The table that it sums up, in the same database.
    pub table: String,
    /// The width of its buckets, which divides a day and starts at 1970, in nanoseconds.
    pub every_ns: i64,
    /// The tags that it keeps apart.
    pub tags: Vec<String>,
    /// What it keeps of fields.
    pub fields: Vec<FieldParts>,
    /// The query that it was made with.
    pub sql: String,
    /// How long its own rows are kept, nanoseconds; `None`: they go with those of its table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ns: Option<i64>,
}

/// What a rollup keeps of a field, besides how many values there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldParts {
    /// The field.
    pub field: String,
    /// `f64`, `i64`, `u64`, `bool` or `str`.
    pub kind: String,
    /// In order, without doubles.
    pub parts: Vec<Part>,
}

/// A partial aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Values that are not NULL; always kept.
    Count,
    /// Their sum in their own type.
    Sum,
    /// Their sum as doubles, for averages of whole numbers.
    Total,
    /// The smallest.
    Min,
    /// The largest.
    Max,
    /// The earliest.
    First,
    /// Its time.
    FirstTime,
    /// The latest.
    Last,
    /// Its time.
    LastTime,
}

impl Part {
    /// The end of the name of its column.
    pub fn word(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Total => "total",
            Self::Min => "min",
            Self::Max => "max",
            Self::First => "first",
            Self::FirstTime => "first_time",
            Self::Last => "last",
            Self::LastTime => "last_time",
        }
    }
}

impl FieldParts {
    /// The column of a part.
    pub fn column(&self, part: Part) -> String {
        format!("{}_{}", self.field, part.word())
    }

    /// The type of the column of a part.
    ///
    /// # Errors
    /// `damaged` when the definition names a type that there is not.
    pub fn column_type(&self, part: Part) -> Result<FieldType> {
        Ok(match part {
            Part::Count | Part::FirstTime | Part::LastTime => FieldType::I64,
            Part::Total => FieldType::F64,
            _ => kind_of(&self.kind)?,
        })
    }
}

/// The word of a type in a definition.
pub fn kind_word(kind: FieldType) -> &'static str {
    match kind {
        FieldType::F64 => "f64",
        FieldType::I64 => "i64",
        FieldType::U64 => "u64",
        FieldType::Bool => "bool",
        FieldType::Str => "str",
    }
}

fn kind_of(word: &str) -> Result<FieldType> {
    [FieldType::F64, FieldType::I64, FieldType::U64, FieldType::Bool, FieldType::Str]
        .into_iter()
        .find(|kind| kind_word(*kind) == word)
        .ok_or_else(|| {
            Error::new(Kind::Damaged, format!("a rollup keeps a field of the type '{word}', which there is not"))
        })
}

impl Definition {
    /// A definition in the form of this version.
    pub fn new(
        name: String,
        table: String,
        every_ns: i64,
        tags: Vec<String>,
        fields: Vec<FieldParts>,
        sql: String,
    ) -> Self {
        Self { version: VERSION, name, table, every_ns, tags, fields, sql, retention_ns: None }
    }

    /// One that keeps its rows that long, whatever becomes of those of its table for their age.
    pub fn with_retention(self, retention_ns: Option<i64>) -> Self {
        let version = if retention_ns.is_some() { VERSION_RETAINED } else { VERSION };
        Self { version, retention_ns, ..self }
    }

    /// From which bucket on its rows can still be summed up from the table: those before are kept as they are. `None` for all.
    pub fn open_from(&self, base: &Snapshot) -> Option<i64> {
        self.retention_ns?;
        let until = base.retained_until()?;
        // A bucket of which only a part is left cannot be summed up again.
        let over = until.rem_euclid(self.every_ns);
        Some(if over == 0 { until } else { until.saturating_add(self.every_ns - over) })
    }

    fn parse(text: &str) -> Result<Self> {
        let damaged = |error| Error::wrap(Kind::Damaged, "the definition of a rollup cannot be read", error);
        let definition: Self = serde_json::from_str(text).map_err(damaged)?;
        if !(VERSION..=VERSION_RETAINED).contains(&definition.version) {
            let what = format!("a rollup has a definition of version {}, this is {VERSION}", definition.version);
            return Err(Error::new(Kind::Invalid, what));
        }
        Ok(definition)
    }

    /// The name of its table.
    pub fn table_name(&self) -> String {
        table_name(&self.name)
    }

    /// The columns of its table.
    ///
    /// # Errors
    /// `invalid` when two columns would have the same name.
    pub fn schema(&self) -> Result<SchemaRef> {
        let mut schema = TableSchema::default();
        for tag in &self.tags {
            schema.add(tag, Role::Tag)?;
        }
        let rows = Column { name: ROWS.to_owned(), stored: ROWS.to_owned(), role: Role::Field(FieldType::I64) };
        schema.push(rows);
        for field in &self.fields {
            for &part in &field.parts {
                let (name, role) = (field.column(part), Role::Field(field.column_type(part)?));
                if schema.get(&name).is_some() {
                    return Err(Error::invalid(format!("a rollup would have two columns '{name}'")));
                }
                schema.add(&name, role)?;
            }
        }
        Ok(Arc::new(schema))
    }
}

/// The name of the table of a rollup.
pub fn table_name(rollup: &str) -> String {
    format!("{PREFIX}{rollup}")
}

/// Up to which version of the table in `base_folder` a rollup is right; `None` when its rows are not of that table.
pub fn right_until(rollup: &Snapshot, base_folder: &str) -> Option<i64> {
    match generation(rollup).1[..] {
        [(folder, version)] if folder == base_folder => Some(version),
        _ => None,
    }
}

/// The newest generation of a rollup's rows, and of which table they are up to which version. Another begins when the base table is
/// another one of its name; what was said of an earlier one means nothing any more, also when that table comes back.
fn generation(rollup: &Snapshot) -> (u64, Vec<(&str, i64)>) {
    let mut newest = (0, Vec::new());
    for (app_id, version) in &rollup.transactions {
        let Some((number, folder)) = app_id.strip_prefix(TXN).and_then(|rest| rest.split_once('/')) else { continue };
        let Ok(number) = number.parse::<u64>() else { continue };
        if number > newest.0 {
            newest = (number, Vec::new());
        }
        if number == newest.0 {
            newest.1.push((folder, *version));
        }
    }
    newest
}

/// Times, both ends included, outside which a table holds what it held at a version; `None` when rows were removed or
/// brought back since, which its files do not tell. With `keeps`, what went for its age does not count.
///
/// A file whose place in write order ends at or before the version holds only rows that were committed until then: files
/// come to be by a flush (its version), a compaction (the range of what it merged) or a step of an operation, and of the
/// last it is known when they were.
pub fn changed(base: &ReadSnapshot, version: i64, keeps: bool) -> Option<Vec<(i64, i64)>> {
    let committed = base.committed.as_ref()?;
    if steps_since(committed, version, keeps).next().is_some() {
        return None;
    }
    let files = base.files.iter().filter(|file| file.order.1 > version).map(|file| (file.time_min, file.time_max));
    Some(files.chain(base.runs.iter().map(|run| (run.time_min, run.time_max))).collect())
}

/// The versions after `version` that steps of operations made; with `keeps`, without those that are about the age of rows.
fn steps_since(committed: &Snapshot, version: i64, keeps: bool) -> impl Iterator<Item = i64> {
    let counts = move |app_id: &&String| !(keeps && committed.is_for_age(app_id));
    let steps = committed.step_times.keys().filter(counts);
    let steps = steps.filter_map(|app_id| committed.transactions.get(app_id).copied());
    steps.filter(move |step| *step > version)
}

/// What a refresh has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    /// Up to which version of the base the rollup is right, -1 for never.
    pub from: i64,
    /// Up to which it will be.
    pub to: i64,
    /// Times of the base, both ends included, that must be summed up anew.
    pub times: Vec<(i64, i64)>,
    /// Rows of the files at these times, and their first and last time.
    pub rows: u64,
    /// See `rows`.
    pub span: (i64, i64),
    app_id: String,
}

impl Engine {
    /// The rollups of a database, by name.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn rollups(&self, database: &str) -> Result<Vec<Definition>> {
        let mut found = Vec::new();
        for table in self.shared.store.tables_beginning(database, PREFIX) {
            // One whose first commit has not happened is none yet.
            if let Some(state) = self.shared.find(database, &table).await?
                && let Some(stored) = state.stored()
                && let Some(text) = &stored.snapshot().rollup
            {
                found.push(Definition::parse(text)?);
            }
        }
        Ok(found)
    }

    /// Makes a rollup without rows.
    ///
    /// # Errors
    /// `conflict` when there is one of its name; `not found` without its base table; those of the store.
    pub async fn create_rollup(&self, database: &str, definition: &Definition) -> Result<()> {
        crate::names::check_database(database)?;
        self.existing(database, &definition.table).await?;
        let exists = || Error::new(Kind::Conflict, format!("there is a rollup '{}' already", definition.name));
        let schema = definition.schema()?;
        let text = serde_json::to_string(definition)
            .map_err(|error| Error::wrap(Kind::Internal, "a definition cannot be written", error))?;
        let state = self.shared.table_or_new(database, &definition.table_name()).await?;
        let table = self.shared.store_table(&state).await?;
        if table.refresh().await?.version >= 0 {
            return Err(exists());
        }
        let done = table.commit(Change { rollup: Some(text), ..Change::columns(schema) }).await?;
        state.committed(&table, false);
        if done.already { Err(exists()) } else { Ok(()) }
    }

    /// What changed in the base of a rollup since its rows were right; `None` when nothing did.
    ///
    /// # Errors
    /// `not found` when the base table is not there; those of the store.
    pub async fn rollup_work(&self, database: &str, definition: &Definition) -> Result<Option<Work>> {
        let base = self.existing(database, &definition.table).await?;
        let rollup = self.existing(database, &definition.table_name()).await?;
        // A base without a commit has everything in the buffer.
        let (Some(base), Some(rollup)) = (base.stored(), rollup.stored()) else { return Ok(None) };
        let (committed, rolled) = (base.refresh().await?, rollup.refresh().await?);
        let right = right_until(&rolled, base.folder());
        let from = right.unwrap_or(-1);
        if committed.version <= from {
            return Ok(None);
        }
        let everything = || vec![(i64::MIN, i64::MAX)];
        let keeps = definition.retention_ns.is_some();
        let mut times = match right {
            Some(from) => self.times_since(&base, &committed, from, keeps).await?.unwrap_or_else(everything),
            // Also the keys of rows that are of another table.
            None => everything(),
        };
        if times.is_empty() {
            return Ok(None);
        }
        // What the table does not have any more stays, and what is past its own age does not come again.
        let open_from = definition.open_from(&committed).filter(|_| right.is_some()).max(rolled.retained_until());
        if let Some(open_from) = open_from {
            times.retain(|(_, last)| *last >= open_from);
            times.iter_mut().for_each(|(first, _)| *first = (*first).max(open_from));
        }
        let newest = generation(&rolled).0;
        let number = if right.is_some() { newest } else { newest + 1 };
        let app_id = format!("{TXN}{number}/{}", base.folder());
        let touched =
            |file: &&Arc<DataFile>| times.iter().any(|(first, last)| *first <= file.time_max && file.time_min <= *last);
        let meant: Vec<_> = committed.files.iter().filter(touched).collect();
        let rows = meant.iter().map(|file| file.rows).sum();
        let first = meant.iter().map(|file| file.time_min).min().unwrap_or_default();
        let last = meant.iter().map(|file| file.time_max).max().unwrap_or_default();
        Ok(Some(Work { from, to: committed.version, times, rows, span: (first, last), app_id }))
    }

    /// The times at which a table may differ from its version `from`; `None` when that is not known any more.
    async fn times_since(
        &self,
        base: &Table,
        now: &Snapshot,
        from: i64,
        keeps: bool,
    ) -> Result<Option<Vec<(i64, i64)>>> {
        let new = now.files.iter().filter(|file| file.order.1 > from);
        let mut times: Vec<(i64, i64)> = new.map(|file| (file.time_min, file.time_max)).collect();
        for step in steps_since(now, from, keeps) {
            let (before, after) = match (base.snapshot_at(step - 1).await, base.snapshot_at(step).await) {
                (Ok(before), Ok(after)) => (before, after),
                (Err(error), _) | (_, Err(error)) if error.kind() == Kind::NotFound => return Ok(None),
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            let apart = |one: &Snapshot, other: &Snapshot| -> Vec<(i64, i64)> {
                let missing = one.files.iter().filter(|file| !other.files.iter().any(|kept| kept.path == file.path));
                missing.map(|file| (file.time_min, file.time_max)).collect()
            };
            times.extend(apart(&before, &after));
            times.extend(apart(&after, &before));
        }
        Ok(Some(times))
    }

    /// Begins the rows of a refresh.
    ///
    /// # Errors
    /// `not found` when the rollup is not there; those of the store.
    pub async fn rollup_writer(&self, database: &str, definition: &Definition) -> Result<RollupWriter> {
        let state = self.existing(database, &definition.table_name()).await?;
        let missing = || Error::new(Kind::NotFound, format!("there is no rollup '{}'", definition.name));
        let table = state.stored().ok_or_else(missing)?;
        Ok(RollupWriter {
            engine: self.clone(),
            database: database.to_owned(),
            table,
            schema: definition.schema()?,
            open: None,
            done: Vec::new(),
        })
    }
}

/// Rows of a rollup on their way: nobody sees them before the commit, and then all at once.
#[derive(Debug)]
pub struct RollupWriter {
    engine: Engine,
    database: String,
    table: Arc<Table>,
    schema: SchemaRef,
    open: Option<FileWriter>,
    done: Vec<NewFile>,
}

impl RollupWriter {
    /// Adds rows in the logical layout of the rollup's table, sorted as its files are.
    ///
    /// # Errors
    /// `internal` when they are not; those of the store.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<()> {
        let mut writer = self.open.take().unwrap_or_else(|| self.table.file_writer(&self.schema, false));
        let writer = blocking(move || writer.write(&batch).map(|()| writer)).await?;
        self.open = Some(writer);
        if self.open.as_ref().is_some_and(|writer| writer.rows() >= FILE_ROWS) {
            self.end_file().await?;
        }
        Ok(())
    }

    /// Ends a file. What is written next must not have keys in common with what is in it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_file(&mut self) -> Result<()> {
        if let Some(writer) = self.open.take().filter(|writer| writer.rows() > 0) {
            self.done.push(self.table.finish_file(writer).await?);
        }
        Ok(())
    }

    /// Shows the rows: from now on the rollup is right up to the version that the work goes to.
    ///
    /// # Errors
    /// `conflict` when somebody else refreshed it meanwhile; those of the store.
    pub async fn commit(mut self, work: &Work) -> Result<u64> {
        self.end_file().await?;
        let rows = self.done.iter().map(|new| new.file.rows).sum();
        let txn = (work.app_id.clone(), work.to);
        let change = Change { after: Some(work.from), ..Change::flush(self.done, Some(txn)) };
        self.table.commit(change).await?;
        if let Some(state) = self.engine.shared.table(&self.database, self.table.name()).await? {
            state.committed(&self.table, false);
            // No flush comes by here, after which other tables are looked at.
            if self.engine.shared.config.background {
                crate::compact::spawn_if_due(&self.engine.shared, state);
            }
        }
        Ok(rows)
    }
}
