//! Tables as a target of operations: deletes, retention and drops are journaled, resumed and undone like any other (R1 to R4).
//!
//! The key of an entry is the folder of a table, for a drop, or the folder, `#` and an id, for a delete. Its state is read from the
//! store, never assumed: what the catalog says of the folder (`live`, `dropped`), or whether the last step of the delete that the
//! table has on record is one that deletes (`deleted`) or one that takes it back (absent). A change that takes longer than a call may
//! goes on by itself and is asked about; after a crash nobody knows it any more, the state tells how far it came, and it is called
//! for again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use weir_base::id::Uuid;
use weir_base::{Kind, Retry};
use weir_limits::Deadline;
use weir_ops::{Asked, Class, Entry, Failure, Started, Target, Value};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::external;
use crate::rewrite::{Place, RowFilter, undo};
use crate::schema::TableSchema;
use crate::store::{CatalogEntry, Step, TableState as CatalogState};

/// Makes the filter of a delete from its predicate, as the user wrote it, for a table with these columns.
pub type FilterOf = Arc<dyn Fn(&TableSchema, &str) -> Result<RowFilter> + Send + Sync>;

/// The name under which operations know it.
pub const TARGET: &str = "tables";
const DATABASE: &str = "database";
const TABLE: &str = "table";
const PREDICATE: &str = "predicate";
const OLDER_THAN: &str = "older_than_ns";
/// Tables that are changed at once.
const OUTSTANDING_MAX: usize = 2;
/// How long a question about a change that goes on waits for its end.
const LOOK: Duration = Duration::from_millis(100);

/// The tables of an engine as a [`Target`]. Its calls block: make them on threads that may.
pub struct TablesTarget {
    work: Work,
    runtime: Handle,
    /// Changes that go on by themselves, by key. Never held across a wait.
    running: Mutex<HashMap<String, JoinHandle<Result<String>>>>,
}

/// What a change needs.
#[derive(Clone)]
struct Work {
    engine: Engine,
    filter_of: FilterOf,
}

impl fmt::Debug for TablesTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TablesTarget").field("engine", &self.work.engine).finish_non_exhaustive()
    }
}

/// What an entry's key means.
enum Change<'a> {
    Drop { folder: &'a str },
    Delete { folder: &'a str, id: &'a str },
}

impl<'a> Change<'a> {
    fn of(key: &'a str) -> Self {
        match key.split_once('#') {
            Some((folder, id)) => Change::Delete { folder, id },
            None => Change::Drop { folder: key },
        }
    }

    fn folder(&self) -> &'a str {
        match self {
            Change::Drop { folder } | Change::Delete { folder, .. } => folder,
        }
    }
}

fn state(word: &str) -> Value {
    Some(serde_json::Value::from(word))
}

impl TablesTarget {
    /// The tables of `engine`, whose work runs on `runtime`.
    pub fn new(engine: Engine, runtime: Handle, filter_of: FilterOf) -> Self {
        Self { work: Work { engine, filter_of }, runtime, running: Mutex::default() }
    }

    /// The entry of a delete by predicate. `id` is new for each: [`weir_ops::History::new_id`]. Counts the rows now, for people; what is
    /// deleted are those for which the predicate holds when it is done.
    ///
    /// # Errors
    /// `not found` when there is no such table; those of making and evaluating the filter, and of the store.
    pub fn delete_entry(&self, id: Uuid, database: &str, table: &str, predicate: &str) -> Result<Entry> {
        self.rows_entry(id, database, table, (PREDICATE, predicate))
    }

    /// The entry of a delete of all rows older than a time in nanoseconds UTC. Otherwise as [`TablesTarget::delete_entry`].
    ///
    /// # Errors
    /// As [`TablesTarget::delete_entry`].
    pub fn retention_entry(&self, id: Uuid, database: &str, table: &str, older_than: i64) -> Result<Entry> {
        self.rows_entry(id, database, table, (OLDER_THAN, &older_than.to_string()))
    }

    fn rows_entry(&self, id: Uuid, database: &str, table: &str, (label, what): (&str, &str)) -> Result<Entry> {
        self.runtime.block_on(async {
            let place = self.work.engine.place(database, table).await?;
            let mut labels = labels(database, table);
            labels.insert(label.to_owned(), what.to_owned());
            let filter = self.work.filter(&place, &labels)?;
            let preview = self.work.engine.preview_delete(database, table, &filter).await?;
            labels.insert("rows".to_owned(), preview.rows.to_string());
            labels.insert("files".to_owned(), preview.files.to_string());
            labels.insert("version".to_owned(), preview.version.to_string());
            let key = format!("{}#{id}", place.table.folder());
            Ok(Entry { key, before: None, after: state("deleted"), labels, stage: 0 })
        })
    }

    /// The entry of dropping a table.
    ///
    /// # Errors
    /// `not found` when there is no such table; those of the store.
    pub fn drop_entry(&self, database: &str, table: &str) -> Result<Entry> {
        let engine = &self.work.engine;
        let key = match self.runtime.block_on(engine.place(database, table)) {
            // An external table is forgotten; what it is about stays where it is.
            Err(error) if error.kind() == Kind::NotFound => {
                let kept = external::table_name(table);
                let kept = self.runtime.block_on(engine.store().table(database, &kept))?;
                kept.ok_or(error)?.folder().to_owned()
            }
            place => place?.table.folder().to_owned(),
        };
        let labels = labels(database, table);
        Ok(Entry { key, before: state("live"), after: state("dropped"), labels, stage: 0 })
    }

    /// The entries of dropping all tables of a database.
    ///
    /// # Errors
    /// `not found` when it has none; those of the store.
    pub fn drop_database_entries(&self, database: &str) -> Result<Vec<Entry>> {
        let mut tables = self.runtime.block_on(self.work.engine.tables(database))?;
        let rollups = self.runtime.block_on(self.work.engine.rollups(database))?;
        tables.extend(rollups.iter().map(crate::rollup::Definition::table_name));
        let externals = self.runtime.block_on(self.work.engine.externals(database))?;
        tables.extend(externals.into_iter().map(|external| external.name));
        if tables.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("there is no database '{database}'")));
        }
        tables.iter().map(|table| self.drop_entry(database, table)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, JoinHandle<Result<String>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most until `deadline`; one that is not done by then goes on. `None` then.
    fn wait(&self, key: &str, mut task: JoinHandle<Result<String>>, wait: Duration) -> Option<Result<String>> {
        match self.runtime.block_on(async { tokio::time::timeout(wait, &mut task).await }) {
            Ok(Ok(outcome)) => Some(outcome),
            Ok(Err(error)) => Some(Err(Error::wrap(Kind::Internal, "a change of a table panicked", error))),
            Err(_) => {
                self.lock().insert(key.to_owned(), task);
                None
            }
        }
    }

    fn remaining(&self, deadline: Deadline) -> Duration {
        deadline.remaining(&*self.work.engine.shared.env.clock)
    }
}

impl Work {
    fn filter(&self, place: &Place, labels: &BTreeMap<String, String>) -> Result<RowFilter> {
        if let Some(older_than) = labels.get(OLDER_THAN) {
            let time = older_than.parse().map_err(|_| Error::invalid(format!("'{older_than}' is not a time")))?;
            return Ok(RowFilter::older_than(time));
        }
        let missing = || Error::invalid("a delete without a predicate");
        (self.filter_of)(&place.state.schema(), labels.get(PREDICATE).ok_or_else(missing)?)
    }

    async fn read(&self, key: &str) -> Result<Value> {
        let entry = match self.engine.folder(Change::of(key).folder()).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            entry => entry?,
        };
        match Change::of(key) {
            Change::Drop { .. } => Ok(state(if entry.state == CatalogState::Live { "live" } else { "dropped" })),
            Change::Delete { folder, id } => {
                let holds = self.last_step(folder, id).await? % 2 == 1;
                Ok(state("deleted").filter(|_| holds))
            }
        }
    }

    async fn last_step(&self, folder: &str, id: &str) -> Result<u32> {
        let snapshot = self.engine.store().table_in(folder).await?.refresh().await?;
        Ok(undo::last_step(&snapshot, id))
    }

    /// The live table in a folder.
    async fn live(&self, folder: &str) -> Result<CatalogEntry> {
        let entry = self.engine.folder(folder).await?;
        let dropped =
            || Error::new(Kind::Conflict, format!("table '{}' was dropped: bring it back first", entry.table));
        if entry.state == CatalogState::Live { Ok(entry) } else { Err(dropped()) }
    }

    /// Brings what `entry` names to `to`, and says what it came to. Safe to run twice: what is so already is left alone.
    async fn change(&self, entry: &Entry, to: &Value) -> Result<String> {
        let (folder, id) = match Change::of(&entry.key) {
            Change::Delete { folder, id } => (folder, id),
            Change::Drop { folder } => {
                let done = if *to == state("dropped") {
                    self.engine.drop_folder(folder, "drop").await?
                } else {
                    self.engine.undrop_folder(folder, "undo").await?
                };
                return Ok(done.folder);
            }
        };
        let found = self.live(folder).await?;
        let last = self.last_step(folder, id).await?;
        if (last % 2 == 1) == to.is_some() {
            return Ok(format!("step {last}"));
        }
        let place = self.engine.place(&found.database, &found.table).await?;
        if place.table.folder() != folder {
            return Err(Error::new(Kind::Conflict, format!("table '{}' was dropped", found.table)));
        }
        let done = match last {
            0 => self.engine.delete_at(&place, &self.filter(&place, &entry.labels)?, id).await?,
            last => self.engine.undo_at(&place, id, last + 1).await?,
        };
        Ok(format!("version {}", done.version))
    }

    /// Why what `entry` names cannot be taken back.
    async fn obstacle(&self, entry: &Entry) -> Result<Option<String>> {
        let folder = Change::of(&entry.key).folder();
        let found = match self.engine.folder(folder).await {
            Err(error) if error.kind() == Kind::NotFound => return Ok(Some(error.to_string())),
            found => found?,
        };
        let Change::Delete { id, .. } = Change::of(&entry.key) else {
            let undrop = found.state == CatalogState::Dropped;
            return Ok(if undrop { self.engine.undrop_obstacle(&found) } else { None });
        };
        match self.live(folder).await {
            Err(error) if error.kind() == Kind::Conflict => return Ok(Some(error.to_string())),
            live => drop(live?),
        }
        let snapshot = self.engine.store().table_in(folder).await?.refresh().await?;
        let step = Step { operation: id.to_owned(), number: undo::last_step(&snapshot, id) };
        Ok(undo::check_window(&self.engine.shared, &snapshot, &step).err().map(|error| error.to_string()))
    }
}

impl Target for TablesTarget {
    fn name(&self) -> &str {
        TARGET
    }

    fn read(&self, keys: &[&str], deadline: Deadline) -> Result<Vec<Value>, Failure> {
        let read = async {
            let mut states = Vec::with_capacity(keys.len());
            for key in keys {
                states.push(self.work.read(key).await?);
            }
            Ok(states)
        };
        let wait = self.remaining(deadline);
        let read = self.runtime.block_on(async { tokio::time::timeout(wait, read).await });
        read.map_err(|_| Failure::new(Class::Retry, "the store did not answer in time"))?.map_err(failure)
    }

    fn start(&self, entry: &Entry, to: &Value, deadline: Deadline) -> Result<Started, Failure> {
        let (work, what, aim) = (self.work.clone(), entry.clone(), to.clone());
        let task = self.runtime.spawn(async move { work.change(&what, &aim).await });
        match self.wait(&entry.key, task, self.remaining(deadline)) {
            Some(outcome) => Ok(Started::Done { request: Some(outcome.map_err(failure)?) }),
            None => Ok(Started::Accepted { request: entry.key.clone() }),
        }
    }

    fn ask(&self, entry: &Entry, to: &Value, _request: Option<&str>, deadline: Deadline) -> Result<Asked, Failure> {
        let task = self.lock().remove(&entry.key);
        if let Some(task) = task {
            // The core pauses between questions; here it is only looked.
            return match self.wait(&entry.key, task, self.remaining(deadline).min(LOOK)) {
                Some(Ok(_)) => Ok(Asked::Done),
                Some(Err(error)) => Ok(Asked::Failed(failure(error))),
                None => Ok(Asked::Accepted { request: entry.key.clone() }),
            };
        }
        let found = self.read(&[&entry.key], deadline)?.into_iter().next().unwrap_or(None);
        Ok(if found == *to { Asked::Done } else { Asked::State(found) })
    }

    fn obstacle(&self, entry: &Entry, deadline: Deadline) -> Result<Option<String>, Failure> {
        let wait = self.remaining(deadline);
        let asked = self.runtime.block_on(async { tokio::time::timeout(wait, self.work.obstacle(entry)).await });
        asked.map_err(|_| Failure::new(Class::Retry, "the store did not answer in time"))?.map_err(failure)
    }

    fn outstanding_max(&self) -> usize {
        OUTSTANDING_MAX
    }
}

fn labels(database: &str, table: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(DATABASE.to_owned(), database.to_owned()), (TABLE.to_owned(), table.to_owned())])
}

/// What the core is to do about an error.
fn failure(error: Error) -> Failure {
    let class = match (error.kind(), error.retry()) {
        (Kind::Unavailable | Kind::Limit, _) => Class::Retry,
        (Kind::Conflict, retry) if retry != Retry::Never => Class::Retry,
        (Kind::Conflict | Kind::NotFound | Kind::Invalid, _) => Class::Skip,
        _ => Class::Stop,
    };
    Failure::new(class, weir_base::error::chain(&error))
}
