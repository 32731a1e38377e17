//! One table: its snapshot in memory, writing its files, and committing changes to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use parquet::errors::ParquetError;
use weir_base::Kind;
use weir_base::checksum::hex;

use super::action::{self, Add, CommitInfo, Format, Line, Metadata, Txn};
use super::check::{check_adjacent, check_after, check_newer, live_of, merge_schema};
use super::encode::Encoder;
use super::file::DataFile;
use super::layout;
use super::log::{Committed, DeltaLog, Planned, Vacuumed};
use super::reader::ObjectReader;
use super::state::{LogState, PROTOCOL, RETAINED_PREFIX, STEP_PREFIX, Tombstone, remove_of};
use super::upload::{PART_BYTES, PartsUpload};
use super::{Env, object_error};
use crate::error::{Error, Result};
use crate::schema::{SchemaRef, TIME, TableSchema};

/// A table is checkpointed when its version is a multiple of this.
const CHECKPOINT_EVERY: i64 = 50;
pub(crate) const READ_BATCH_ROWS: usize = 8192;
/// Where the metadata of a table keeps the definition of a rollup.
const ROLLUP: &str = "weir.rollup";
/// Where it keeps the definition of an external table.
const EXTERNAL: &str = "weir.external";

/// A table as of one version. Immutable and cheap to hold.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Version of the Delta table; -1 before its first commit.
    pub version: i64,
    /// Columns.
    pub schema: SchemaRef,
    /// Live files in write order, oldest first.
    pub files: Vec<Arc<DataFile>>,
    /// The newest `txn` of each writer.
    pub transactions: HashMap<String, i64>,
    /// When each step of an operation was committed, by its `txn`; milliseconds since 1970 UTC.
    pub step_times: HashMap<String, i64>,
    /// The folder, from the root of the store.
    pub folder: Arc<str>,
    /// The definition of a rollup, where the table is one.
    pub rollup: Option<Arc<str>>,
    /// The definition of an external table, where the table is one.
    pub external: Option<Arc<str>>,
}

/// One of the commits of an operation that can be undone: 1 is its effect, 2 the undo, 3 the undo of that, and so on. Each is
/// committed at most once, and only after the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The operation's id.
    pub operation: String,
    /// From 1.
    pub number: u32,
}

impl Step {
    /// The application id of the step's `txn`, whose version is that of the commit.
    pub fn app_id(&self) -> String {
        format!("{STEP_PREFIX}{}/{}", self.operation, self.number)
    }
}

/// A file that is written and not yet committed.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// The file, its path already in place. Its order is set by the commit, unless `order` says it.
    pub file: DataFile,
    /// The schema that it was written with; the commit adds to the table what it lacks.
    pub schema: SchemaRef,
    /// The place in write order of a file that replaces others; `None` for new rows, and for a compaction, which takes the range
    /// of what it removes.
    pub order: Option<(i64, i64)>,
}

/// Why a commit is made. It decides what is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// New rows from the buffer.
    Flush,
    /// The added files hold the merged rows of all removed ones and nothing else.
    Compaction,
    /// Each added file replaces a removed one and says its order: a delete, an update, an undo. The word goes to the log.
    Rewrite(String),
    /// New columns only.
    Schema,
}

/// A change of a table, committed as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Change {
    /// Files to add. Those of one flush have no key in common.
    pub add: Vec<NewFile>,
    /// Live files to remove.
    pub remove: Vec<Arc<DataFile>>,
    /// Columns that the table must have afterwards, besides those of the added files.
    pub schema: Option<SchemaRef>,
    /// The writer's id and a number that grows with each of its commits; a commit whose number is not larger than the one on
    /// record has happened and is not repeated.
    pub txn: Option<(String, i64)>,
    /// The step of an operation that this is; one that is on record has happened and is not repeated.
    pub step: Option<Step>,
    /// The time before which the step deletes all rows for their age, nanoseconds since 1970 UTC.
    pub retained: Option<i64>,
    /// What a rewrite was decided on: it is refused when a file came since that may share keys with an added one and is not newer.
    pub seen: Option<Arc<Snapshot>>,
    /// The number that must be on record for the writer of `txn`, -1 for none: what the change was decided on.
    pub after: Option<i64>,
    /// The definition of a rollup, in the first commit of its table.
    pub rollup: Option<String>,
    /// The definition of an external table, and whether it may take the place of an earlier one.
    pub external: Option<(String, bool)>,
    /// Why.
    pub operation: Operation,
}

/// One measurement in the store.
#[derive(Debug)]
pub struct Table {
    env: Arc<Env>,
    database: String,
    name: String,
    folder: String,
    log: DeltaLog,
    /// The snapshot last asked for.
    snapshot: Mutex<Arc<Snapshot>>,
}

impl Table {
    pub(super) async fn open(env: Arc<Env>, database: &str, name: &str, folder: &str) -> Result<Self> {
        let log = DeltaLog::open(Arc::clone(&env), folder).await?;
        Ok(Self::with_log(env, database, name, folder, log))
    }

    pub(super) fn create(env: Arc<Env>, database: &str, name: &str, folder: &str) -> Self {
        let log = DeltaLog::create(Arc::clone(&env), folder);
        Self::with_log(env, database, name, folder, log)
    }

    fn with_log(env: Arc<Env>, database: &str, name: &str, folder: &str, log: DeltaLog) -> Self {
        let snapshot = Mutex::new(Arc::new(Snapshot::of(&log.state())));
        let (database, name, folder) = (database.to_owned(), name.to_owned(), folder.to_owned());
        Self { env, database, name, folder, log, snapshot }
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The measurement.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder, from the root of the store.
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// The newest version known to this process.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let state = self.log.state();
        let mut known = self.snapshot.lock().expect("no panic under this lock");
        if known.version < state.version {
            *known = Arc::new(Snapshot::of(&state));
        }
        Arc::clone(&known)
    }

    /// Reads what other writers have committed since, and returns the newest version.
    ///
    /// # Errors
    /// Those of the store; `damaged` when the log is.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>> {
        self.log.refresh().await?;
        Ok(self.snapshot())
    }

    /// The table at an earlier version.
    ///
    /// # Errors
    /// `not found` when the version does not exist or has been cleaned up.
    pub async fn snapshot_at(&self, version: i64) -> Result<Arc<Snapshot>> {
        Ok(Arc::new(Snapshot::of(&self.log.state_at(version).await?)))
    }

    /// The last version that was committed until a time in milliseconds UTC, as far back as the log goes; `None` when none was.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn version_at(&self, time_ms: i64) -> Result<Option<i64>> {
        self.log.version_at(time_ms).await
    }

    /// When a version was committed, milliseconds UTC; `None` when the log does not have it (any more).
    ///
    /// # Errors
    /// Those of the store.
    pub async fn commit_time(&self, version: i64) -> Result<Option<i64>> {
        self.log.commit_time(version).await
    }

    /// The paths of all data files that are there, of whatever version.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn data_files(&self) -> Result<HashSet<String>> {
        Ok(self.log.data_files().await?.into_iter().map(|meta| meta.location.to_string()).collect())
    }

    /// Commits a change by the rules of `docs/formats/store.md`.
    ///
    /// # Errors
    /// `conflict` when a file to be removed is not live any more, when a live file lies between the inputs of a compaction, or when
    /// the schema does not hold the change's columns under the same types and stored names (then take the snapshot's schema and
    /// write the files again); `unavailable`, to be tried again with the same `txn`, when the store does not answer.
    pub async fn commit(&self, change: Change) -> Result<Committed> {
        let mut parameters = BTreeMap::new();
        parameters.insert("added".to_owned(), change.add.len().into());
        parameters.insert("removed".to_owned(), change.remove.len().into());
        let operation = match &change.operation {
            Operation::Flush => "WRITE",
            Operation::Compaction => "OPTIMIZE",
            Operation::Schema => "SET COLUMNS",
            Operation::Rewrite(word) => word,
        };
        let info =
            CommitInfo { operation: operation.to_owned(), operation_parameters: parameters, ..CommitInfo::default() };
        let done = self.log.commit(info, |state, now_ms| self.plan(state, now_ms, &change)).await?;
        if !done.already && done.version % CHECKPOINT_EVERY == 0 && done.version > 0 {
            // The commit has happened; without a checkpoint the next start reads more of the log, nothing else.
            if let Err(error) = self.log.checkpoint().await {
                tracing::warn!(table = self.folder, error = weir_base::error::chain(&error), "checkpoint failed");
            }
        }
        Ok(done)
    }

    /// What a change means for the table at `state`, or why it cannot be made there.
    fn plan(&self, state: &LogState, now_ms: i64, change: &Change) -> Result<Planned> {
        if let Some((app_id, number)) = &change.txn
            && state.transactions.get(app_id).is_some_and(|last| last >= number)
        {
            return Ok(Planned::Done);
        }
        check_after(state, change)?;
        if let Some(step) = &change.step {
            if state.transactions.contains_key(&step.app_id()) {
                return Ok(Planned::Done);
            }
            let before = Step { number: step.number.saturating_sub(1), ..step.clone() };
            if step.number > 1 && !state.transactions.contains_key(&before.app_id()) {
                let what = format!("step {} of operation {} has not happened", before.number, step.operation);
                return Err(Error::new(Kind::Conflict, what));
            }
        }
        let removed = live_of(state, &change.remove)?;
        if change.operation == Operation::Compaction {
            check_adjacent(state, &change.remove)?;
        }
        if let Some(seen) = &change.seen {
            check_newer(state, seen, &change.remove, &change.add)?;
        }
        let mut lines = Vec::new();
        if state.version < 0 {
            lines.push(Line { protocol: Some(PROTOCOL), ..Line::default() });
        }
        let schema = self.plan_schema(state, change, &mut lines)?;
        if change.operation == Operation::Schema && !lines.iter().any(|line| line.meta_data.is_some()) {
            return Ok(Planned::Done);
        }
        if let Some((app_id, version)) = &change.txn {
            let txn = Txn { app_id: app_id.clone(), version: *version, last_updated: Some(now_ms) };
            lines.push(Line { txn: Some(txn), ..Line::default() });
        }
        if let Some(step) = &change.step {
            let txn = Txn { app_id: step.app_id(), version: state.version + 1, last_updated: Some(now_ms) };
            lines.push(Line { txn: Some(txn), ..Line::default() });
            if let Some(time) = change.retained {
                let app_id = format!("{RETAINED_PREFIX}{}", step.operation);
                let txn = Txn { app_id, version: time, last_updated: None };
                lines.push(Line { txn: Some(txn), ..Line::default() });
            }
        }
        let data_change = change.operation != Operation::Compaction;
        lines.extend(removed.into_iter().map(|base| {
            let tombstone = Tombstone { base: base.0, deleted_ms: now_ms, added_ms: None, size: Some(base.1) };
            Line { remove: Some(remove_of(&tombstone, data_change)), ..Line::default() }
        }));
        let version = state.version + 1;
        for new in &change.add {
            let add = self.plan_add(new, change, version, now_ms, &schema)?;
            lines.push(Line { add: Some(add), ..Line::default() });
        }
        Ok(Planned::Write(lines))
    }

    fn plan_add(&self, new: &NewFile, change: &Change, version: i64, now_ms: i64, schema: &TableSchema) -> Result<Add> {
        let order = match (new.order, &change.operation) {
            (Some(order), _) => order,
            (None, Operation::Compaction) => {
                let orders = || change.remove.iter().map(|file| file.order);
                let range = orders().map(|order| order.0).min().zip(orders().map(|order| order.1).max());
                range.unwrap_or((version, version))
            }
            (None, _) => (version, version),
        };
        let file = DataFile { order, ..new.file.clone() };
        let base = file.path.strip_prefix(&self.folder).and_then(|rest| rest.strip_prefix('/')).ok_or_else(|| {
            Error::new(Kind::Internal, format!("file '{}' was not written for table '{}'", file.path, self.folder))
        })?;
        action::add_of(&file, base, now_ms, change.operation != Operation::Compaction, schema)
    }

    /// The schema after the change; adds its `metaData` to `lines` when it differs from the one of `state`.
    fn plan_schema(&self, state: &LogState, change: &Change, lines: &mut Vec<Line>) -> Result<SchemaRef> {
        let mut schema = Arc::clone(&state.schema);
        for wanted in change.add.iter().map(|new| &new.schema).chain(&change.schema) {
            if !Arc::ptr_eq(wanted, &schema)
                && let Some(merged) = merge_schema(&schema, wanted)?
            {
                schema = Arc::new(merged);
            }
        }
        let sub_micro = state.sub_micro || change.add.iter().any(|new| new.file.sub_micro() != Some(false));
        let old = state.metadata.as_ref();
        let widened = sub_micro != state.sub_micro || schema.columns().len() != state.schema.columns().len();
        if old.is_none() || widened || change.external.is_some() {
            let mut metadata = self.metadata(old, &schema, sub_micro)?;
            if let Some((definition, replace)) = &change.external {
                if old.is_some() && !replace {
                    return Err(Error::new(Kind::Conflict, format!("table '{}' exists already", self.name)));
                }
                metadata.configuration.insert(EXTERNAL.to_owned(), Some(definition.clone()));
            }
            if let Some(definition) = change.rollup.as_ref().filter(|_| old.is_none()) {
                metadata.configuration.insert(ROLLUP.to_owned(), Some(definition.clone()));
            }
            lines.push(Line { meta_data: Some(metadata), ..Line::default() });
        }
        Ok(schema)
    }

    fn metadata(&self, old: Option<&Metadata>, schema: &TableSchema, sub_micro: bool) -> Result<Metadata> {
        let schema_string = action::schema_string(schema, sub_micro)?;
        let indexed: Vec<&str> =
            std::iter::once(TIME).chain(schema.tags().map(|(_, tag)| tag.stored.as_str())).collect();
        let mut metadata = old.cloned().unwrap_or_else(|| Metadata {
            id: weir_base::id::uuid_v7(self.env.clock.as_ref(), self.env.random.as_ref()).to_string(),
            name: Some(self.name.clone()),
            format: Format { provider: "parquet".to_owned(), options: BTreeMap::new() },
            schema_string: String::new(),
            partition_columns: Vec::new(),
            configuration: BTreeMap::new(),
            created_time: Some(self.env.now_ms()),
        });
        metadata.schema_string = schema_string;
        let mut set = |key: &str, value: &str| metadata.configuration.insert(key.to_owned(), Some(value.to_owned()));
        set("delta.dataSkippingStatsColumns", &indexed.join(","));
        set("weir.database", &self.database);
        set("weir.table", &self.name);
        Ok(metadata)
    }

    /// Encodes sorted rows (the logical layout; tags may be dictionaries) and puts them into the table's folder. Nobody sees the file
    /// before it is committed.
    ///
    /// # Errors
    /// Those of the store; `internal` when the batches are not in the layout of `schema`.
    pub async fn write_file(&self, schema: &SchemaRef, batches: Vec<RecordBatch>) -> Result<NewFile> {
        let mut sub_micro = false;
        for batch in &batches {
            sub_micro = sub_micro || layout::has_sub_micro(batch)?;
        }
        let mut writer = self.file_writer(schema, sub_micro);
        for batch in batches {
            writer = self.append(writer, batch).await?;
        }
        self.finish_file(writer).await
    }

    /// Starts a file that is written batch by batch. `sub_micro` says whether any time may not be a whole microsecond; true is always
    /// right and costs a column. See [`DataFile::sub_micro`].
    pub fn file_writer(&self, schema: &SchemaRef, sub_micro: bool) -> FileWriter {
        let mut name = [0; 16];
        self.env.random.fill(&mut name);
        let path = format!("{}/{}.{}.parquet", self.folder, hex(&name), if sub_micro { "ns" } else { "us" });
        let encoder = Encoder::new(Arc::clone(schema), sub_micro);
        FileWriter { encoder, schema: Arc::clone(schema), sub_micro, path, upload: None }
    }

    /// Appends rows as [`FileWriter::write`] does, off the runtime's threads. Of a large file for a remote store, what is encoded is
    /// sent on the way: no more of it is held than a few parts and a row group.
    ///
    /// # Errors
    /// Those of the store; `internal` when the batch is not in the layout of the schema.
    pub async fn append(&self, mut writer: FileWriter, batch: RecordBatch) -> Result<FileWriter> {
        let encode = move || writer.write(&batch).map(|()| writer);
        let mut writer = crate::flush::blocking(encode).await?;
        while self.env.is_remote()
            && let Some(part) = writer.encoder.take(PART_BYTES)
        {
            self.upload(&mut writer).await?.put(part).await.map_err(|error| unwritten(&writer.path, error))?;
        }
        Ok(writer)
    }

    /// The upload of a file, begun when this is its first part.
    async fn upload<'a>(&self, writer: &'a mut FileWriter) -> Result<&'a mut PartsUpload> {
        if writer.upload.is_none() {
            let begun = PartsUpload::begin(self.env.objects.as_ref(), &Path::from(writer.path.as_str())).await;
            writer.upload = Some(begun.map_err(|error| unwritten(&writer.path, error))?);
        }
        Ok(writer.upload.as_mut().expect("begun above"))
    }

    /// Ends a file started by [`Table::file_writer`].
    ///
    /// # Errors
    /// As [`Table::write_file`].
    pub async fn finish_file(&self, writer: FileWriter) -> Result<NewFile> {
        let FileWriter { encoder, schema, sub_micro: _, path, mut upload } = writer;
        let encoded = crate::flush::blocking(move || encoder.finish()).await?;
        let (place, rest) = (Path::from(path.as_str()), encoded.bytes.len());
        let failed = |error| unwritten(&path, error);
        if upload.is_none() && self.env.is_remote() && rest > PART_BYTES {
            upload = Some(PartsUpload::begin(self.env.objects.as_ref(), &place).await.map_err(failed)?);
        }
        let size = if let Some(mut upload) = upload {
            upload.put(encoded.bytes).await.map_err(failed)?;
            let size = upload.bytes();
            upload.complete().await.map_err(failed)?;
            size
        } else {
            let options = PutOptions { mode: PutMode::Overwrite, ..PutOptions::default() };
            let payload = PutPayload::from(encoded.bytes);
            self.env.objects.put_opts(&place, payload, options).await.map_err(failed)?;
            rest as u64
        };
        let file = DataFile {
            path,
            size,
            rows: encoded.rows,
            time_min: encoded.time_min,
            time_max: encoded.time_max,
            tags: encoded.tags,
            order: (-1, -1),
        };
        Ok(NewFile { file, schema, order: None })
    }

    /// The rows of a file in the logical layout of `schema`, in the file's order.
    ///
    /// # Errors
    /// Those of the store; `damaged` when the file is. The stream yields the same.
    pub async fn read_file(
        &self,
        file: &DataFile,
        schema: &SchemaRef,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let reader = ObjectReader::new(Arc::clone(&self.env.objects), file);
        let what = format!("file '{}' cannot be read", file.path);
        let failed = move |error: ParquetError| match error {
            ParquetError::External(source) => match source.downcast::<object_store::Error>() {
                Ok(error) => object_error(what.clone(), *error),
                Err(source) => Error::wrap(Kind::Damaged, what.clone(), source),
            },
            error => Error::wrap(Kind::Damaged, what.clone(), error),
        };
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(&failed)?;
        let stream = builder.with_batch_size(READ_BATCH_ROWS).build().map_err(&failed)?;
        let schema = Arc::clone(schema);
        // What decodes pages is let go with the last rows, not when somebody asks for more: a merge keeps the last rows of many files.
        let (stream, left) = (Some(Box::pin(stream)), file.rows);
        let rows = futures::stream::try_unfold((stream, left), move |(stream, left)| {
            let (schema, failed) = (Arc::clone(&schema), failed.clone());
            async move {
                let Some(mut stream) = stream else { return Ok(None) };
                let Some(batch) = stream.try_next().await.map_err(failed)? else { return Ok(None) };
                let left = left.saturating_sub(batch.num_rows() as u64);
                let batch = layout::from_stored(&batch, &schema)?;
                Ok(Some((batch, ((left > 0).then_some(stream), left))))
            }
        });
        Ok(rows.boxed())
    }

    /// Deletes files that were removed, or written and never committed, longer ago than the retention.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn vacuum(&self) -> Result<Vacuumed> {
        self.log.vacuum().await
    }

    /// Writes a checkpoint of the newest version known.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn checkpoint(&self) -> Result<()> {
        self.log.checkpoint().await
    }
}

fn unwritten(path: &str, error: object_store::Error) -> Error {
    object_error(format!("file '{path}' cannot be written"), error)
}

/// A file being written batch by batch; see [`Table::file_writer`].
#[derive(Debug)]
pub struct FileWriter {
    encoder: Encoder,
    schema: SchemaRef,
    sub_micro: bool,
    path: String,
    /// What of it is on its way; none for a file that is not large or not remote.
    upload: Option<PartsUpload>,
}

impl FileWriter {
    /// Appends rows, which must follow all before in the sort order. CPU only: nothing is put before the end.
    ///
    /// # Errors
    /// `internal` when the batch is not in the layout of the schema.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if !self.sub_micro && layout::has_sub_micro(batch)? {
            return Err(Error::new(Kind::Internal, "a time below a microsecond in a file that has no room for it"));
        }
        self.encoder.write(batch)
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.encoder.rows()
    }

    /// Bytes so far, roughly.
    pub fn bytes(&self) -> usize {
        self.encoder.bytes_so_far()
    }
}

impl Snapshot {
    /// Before which time all rows are deleted for their age, nanoseconds since 1970 UTC; what was taken back does not count.
    pub fn retained_until(&self) -> Option<i64> {
        let kept = self.transactions.iter().filter_map(|(app_id, time)| {
            let operation = app_id.strip_prefix(RETAINED_PREFIX)?;
            let step = |number: &u32| {
                let step = Step { operation: operation.to_owned(), number: *number };
                self.transactions.contains_key(&step.app_id())
            };
            (1..).take_while(step).last().filter(|last| last % 2 == 1).map(|_| *time)
        });
        kept.max()
    }

    /// Whether a `txn` is that of a step that deletes rows for their age.
    pub fn is_for_age(&self, app_id: &str) -> bool {
        let step = app_id.strip_prefix(STEP_PREFIX).and_then(|rest| rest.split_once('/'));
        let deletes = |number: &str| number.parse::<u32>().is_ok_and(|number| number % 2 == 1);
        step.is_some_and(|(id, number)| {
            deletes(number) && self.transactions.contains_key(&format!("{RETAINED_PREFIX}{id}"))
        })
    }

    fn of(state: &LogState) -> Self {
        let kept = |key: &str| -> Option<Arc<str>> {
            state.metadata.as_ref()?.configuration.get(key)?.as_deref().map(Arc::from)
        };
        Self {
            version: state.version,
            schema: Arc::clone(&state.schema),
            files: state.files.iter().map(|live| Arc::clone(&live.file)).collect(),
            transactions: state.transactions.clone(),
            step_times: state.step_times.clone(),
            folder: Arc::clone(&state.folder),
            rollup: kept(ROLLUP),
            external: kept(EXTERNAL),
        }
    }
}

impl Change {
    /// A change that adds new rows.
    pub fn flush(add: Vec<NewFile>, txn: Option<(String, i64)>) -> Self {
        let (remove, operation) = (Vec::new(), Operation::Flush);
        let (schema, step, retained, seen, after, rollup, external) = (None, None, None, None, None, None, None);
        Self { add, remove, schema, txn, step, retained, seen, after, rollup, external, operation }
    }

    /// A change that replaces files by their merged rows.
    pub fn compaction(remove: Vec<Arc<DataFile>>, add: Vec<NewFile>) -> Self {
        Self { remove, operation: Operation::Compaction, ..Self::flush(add, None) }
    }

    /// A change that replaces files by what a step of an operation makes of their rows, decided on `seen`.
    pub fn rewrite(word: &str, step: Step, seen: Arc<Snapshot>, remove: Vec<Arc<DataFile>>, add: Vec<NewFile>) -> Self {
        let (step, seen, operation) = (Some(step), Some(seen), Operation::Rewrite(word.to_owned()));
        Self { remove, step, seen, operation, ..Self::flush(add, None) }
    }

    /// A change that adds columns.
    pub fn columns(schema: SchemaRef) -> Self {
        Self { schema: Some(schema), operation: Operation::Schema, ..Self::flush(Vec::new(), None) }
    }
}
