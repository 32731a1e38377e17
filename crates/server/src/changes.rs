//! Statements that change tables, carried out as operations of the history beside the data (R1 to R4).
//!
//! One at a time: a change waits for its turn, and for its own part of the journal's lock; queries and writes do not wait for it. The work
//! blocks, so it has threads that may, and goes on to its end when whoever asked goes away.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Field, Schema};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use weir_base::{Kind, Retry};
use weir_engine::Engine;
use weir_engine::operations::{FilterOf, TablesTarget};
use weir_ops::plan::NoteKind;
use weir_ops::{Env, Filter, History, Operation, Options, Plan, Policy, RunOptions, State, Step, Target, UndoOptions};
use weir_query::change::{Change, ChangeRequest, Drift};

use crate::error::{Error, Result};
use crate::tokens::{Grant, Right};

/// How long a change waits for the one before it.
const TURN_WAIT: Duration = Duration::from_secs(60);
/// The kind of an operation that deletes what is past its age, and who asks for it.
const RETENTION: &str = "retention";
/// Reasons that an error tells; the history has all.
const REASONS_MAX: usize = 3;

/// Where operations are recorded, and what they must leave alone.
#[derive(Debug, Clone)]
pub struct HistorySettings {
    /// The folder of the history.
    pub dir: PathBuf,
    /// Who writes it, for others who want to.
    pub owner: String,
    /// How it is written.
    pub options: Options,
    /// Entries that no operation may touch.
    pub protected: Vec<Filter>,
}

/// The tables of an engine, changed by operations.
pub(crate) struct Changes {
    work: Arc<Work>,
    /// Held by the change that is at work.
    turn: Mutex<()>,
}

struct Work {
    settings: HistorySettings,
    target: TablesTarget,
}

/// One line of an answer.
#[derive(Debug, Clone, Default)]
struct Line {
    operation: Option<String>,
    kind: String,
    labels: BTreeMap<String, String>,
    state: String,
    note: Option<String>,
}

impl Changes {
    pub(crate) fn new(engine: Engine, filter_of: FilterOf, settings: HistorySettings) -> Self {
        let target = TablesTarget::new(engine, Handle::current(), filter_of);
        Self { work: Arc::new(Work { settings, target }), turn: Mutex::new(()) }
    }

    /// Carries a change out, or says what it would do: a row for each table.
    ///
    /// # Errors
    /// `forbidden` when anything of it is past the grant; nothing is done then.
    pub(crate) async fn run(&self, request: ChangeRequest, actor: String, grant: Grant) -> Result<RecordBatch> {
        check_named(&request.change, &grant)?;
        self.work(move |work| work.run(&request, &actor, &grant)).await
    }

    /// Deletes the rows of a table that are older than a time in nanoseconds UTC; returns how many.
    pub(crate) async fn retain(&self, database: String, table: String, older_than: i64) -> Result<u64> {
        self.work(move |work| work.retain(&database, &table, older_than)).await
    }

    async fn work<T: Send + 'static>(&self, job: impl FnOnce(&Work) -> Result<T> + Send + 'static) -> Result<T> {
        let busy = |_| {
            let what = format!("another change of tables is at work, and was not done within {TURN_WAIT:?}");
            Error::new(Kind::Unavailable, what).with_retry(Retry::Backoff)
        };
        let _turn = tokio::time::timeout(TURN_WAIT, self.turn.lock()).await.map_err(busy)?;
        let work = Arc::clone(&self.work);
        let done = tokio::task::spawn_blocking(move || job(&work)).await;
        done.map_err(|error| Error::wrap(Kind::Internal, "a change of tables panicked", error))?
    }
}

impl Work {
    fn run(&self, request: &ChangeRequest, actor: &str, grant: &Grant) -> Result<RecordBatch> {
        let history = self.history()?;
        if let Change::Resume { operation, drift } = &request.change {
            return self.resume(&history, operation, *drift, request.preview, grant);
        }
        let plan = match self.plan(&history, &request.change, actor, grant) {
            Err(error) if error.kind() == Kind::NotFound && may_be_missing(&request.change) => return lines(&[]),
            plan => plan?,
        };
        check_entries(&plan.entries, grant)?;
        plan.check_protected(&self.settings.protected).map_err(of_ops)?;
        if request.preview {
            return lines(&[planned(&plan), noted(&plan)].concat());
        }
        let refused = plan.policy == Policy::Refuse && plan.notes.iter().any(|note| note.kind != NoteKind::Skip);
        if nothing(&plan) && !refused {
            return lines(&[planned(&plan), noted(&plan)].concat());
        }
        let operation = weir_ops::apply(&history, &self.target, &plan, &RunOptions::default()).map_err(of_ops)?;
        answer(&operation, noted(&plan))
    }

    fn history(&self) -> Result<History> {
        let HistorySettings { dir, owner, options, .. } = &self.settings;
        let (history, recovery) = History::open(Env::system(), dir, owner, options.clone()).map_err(of_ops)?;
        if let Some(torn) = recovery.torn {
            let (bytes, offset) = (torn.bytes, torn.offset);
            tracing::warn!(bytes, offset, "the history of operations ended in a torn write, which was cut");
        }
        Ok(history)
    }

    fn retain(&self, database: &str, table: &str, older_than: i64) -> Result<u64> {
        let history = self.history()?;
        let entry = self.target.retention_entry(history.new_id(), database, table, older_than).map_err(of_engine)?;
        let rows = entry.labels.get("rows").and_then(|rows| rows.parse().ok()).unwrap_or(0);
        let plan = Plan::make(&history, &self.target, RETENTION, RETENTION, vec![entry]).map_err(of_ops)?;
        if rows == 0 || plan.check_protected(&self.settings.protected).is_err() {
            return Ok(0);
        }
        let operation = weir_ops::apply(&history, &self.target, &plan, &RunOptions::default()).map_err(of_ops)?;
        answer(&operation, Vec::new()).map(|_| rows)
    }

    fn plan(&self, history: &History, change: &Change, actor: &str, grant: &Grant) -> Result<Plan> {
        let (kind, entries) = match change {
            Change::Delete { database, table, predicate } => {
                let entry = self.target.delete_entry(history.new_id(), database, table, predicate);
                ("delete", vec![entry.map_err(of_engine)?])
            }
            Change::DropTable { database, table, .. } => {
                ("drop", vec![self.target.drop_entry(database, table).map_err(of_engine)?])
            }
            Change::DropDatabase { database, .. } => {
                ("drop", self.target.drop_database_entries(database).map_err(of_engine)?)
            }
            Change::Undo { operations, only, drift } => {
                for prefix in operations {
                    check_entries(
                        &history.view().and_then(|view| view.show(prefix)).map_err(of_ops)?.0.entries,
                        grant,
                    )?;
                }
                return self.undo(history, operations, only, *drift, actor);
            }
            Change::Resume { .. } => return Err(Error::new(Kind::Internal, "a resume has no plan of its own")),
        };
        Plan::make(history, &self.target, actor, kind, entries).map_err(of_ops)
    }

    fn undo(&self, history: &History, operations: &[String], only: &str, drift: Drift, actor: &str) -> Result<Plan> {
        let view = history.view().map_err(of_ops)?;
        let mut ids = Vec::with_capacity(operations.len());
        for prefix in operations {
            let operation = view.show(prefix).map_err(of_ops)?.0;
            if operation.state == State::Running && operation.target == self.target.name() {
                // What is in flight is found out about first: only then is it known what there is to undo.
                weir_ops::settle(history, &self.target, operation.id, &RunOptions::default()).map_err(of_ops)?;
            }
            ids.push(operation.id);
        }
        let options = UndoOptions { policy: policy(drift), only: only.parse().map_err(of_ops)? };
        Plan::undo(history, &self.target, actor, &ids, &options).map_err(of_ops)
    }

    fn resume(
        &self,
        history: &History,
        prefix: &str,
        drift: Drift,
        preview: bool,
        grant: &Grant,
    ) -> Result<RecordBatch> {
        let operation = history.view().and_then(|view| view.show(prefix)).map_err(of_ops)?.0;
        check_entries(&operation.entries, grant)?;
        let touches = |filter: &Filter| operation.entries.iter().any(|entry| filter.holds(entry));
        if self.settings.protected.iter().any(touches) {
            let what = format!("operation {} touches what is protected by the configuration", operation.id);
            return Err(Error::new(Kind::Conflict, what));
        }
        if preview {
            return lines(&outcome(&operation));
        }
        let options = RunOptions { policy: policy(drift), ..RunOptions::default() };
        let resumed = weir_ops::resume(history, &self.target, operation.id, &options).map_err(of_ops)?;
        answer(&resumed, Vec::new())
    }
}

/// What a statement itself says about databases; what it says about operations is looked up under the history.
fn check_named(change: &Change, grant: &Grant) -> Result<()> {
    match change {
        Change::Delete { database, .. }
        | Change::DropTable { database, .. }
        | Change::DropDatabase { database, .. } => grant.check(Right::Write, database),
        Change::Undo { .. } | Change::Resume { .. } => grant.check_right(Right::Write),
    }
}

/// Every entry must be of a database within the grant; what names none is of all.
fn check_entries(entries: &[weir_ops::Entry], grant: &Grant) -> Result<()> {
    entries.iter().try_for_each(|entry| match entry.labels.get("database") {
        Some(database) => grant.check(Right::Write, database),
        None => grant.check_everywhere(Right::Write),
    })
}

/// Whether it is fine that what is to be dropped is not there.
fn may_be_missing(change: &Change) -> bool {
    matches!(change, Change::DropTable { if_exists: true, .. } | Change::DropDatabase { if_exists: true, .. })
}

/// Whether a plan would change no row: such a delete is not recorded.
fn nothing(plan: &Plan) -> bool {
    let empty = |labels: &BTreeMap<String, String>| labels.get("rows").is_some_and(|rows| rows == "0");
    plan.undoes.is_empty() && plan.entries.iter().all(|entry| empty(&entry.labels)) || plan.is_empty()
}

fn policy(drift: Drift) -> Policy {
    match drift {
        Drift::Refuse => Policy::Refuse,
        Drift::Skip => Policy::Skip,
        Drift::Force => Policy::Force,
    }
}

fn planned(plan: &Plan) -> Vec<Line> {
    let state = if nothing(plan) { "nothing to do" } else { "planned" };
    let line = |entry: &weir_ops::Entry| Line {
        kind: plan.kind.clone(),
        labels: entry.labels.clone(),
        state: state.to_owned(),
        ..Line::default()
    };
    plan.entries.iter().map(line).collect()
}

fn noted(plan: &Plan) -> Vec<Line> {
    let line = |note: &weir_ops::plan::Note| Line {
        kind: plan.kind.clone(),
        labels: note.labels.clone(),
        state: match note.kind {
            NoteKind::Skip => "skipped",
            NoteKind::Drift => "drift",
            NoteKind::Conflict => "conflict",
        }
        .to_owned(),
        note: Some(note.what.clone()),
        ..Line::default()
    };
    plan.notes.iter().map(line).collect()
}

fn outcome(operation: &Operation) -> Vec<Line> {
    let line = |(entry, progress): (&weir_ops::Entry, &weir_ops::Progress)| Line {
        operation: Some(operation.id.to_string()),
        kind: operation.kind.clone(),
        labels: entry.labels.clone(),
        state: match progress.step {
            Step::Planned => "planned",
            Step::Started | Step::Accepted => "running",
            Step::Done => "done",
            Step::Failed => "failed",
            Step::Skipped => "skipped",
        }
        .to_owned(),
        note: progress.reason.clone().or_else(|| progress.request.clone()),
    };
    operation.entries.iter().zip(&operation.progress).map(line).collect()
}

/// What an operation came to. One that is not done is an error, which names it.
fn answer(operation: &Operation, noted: Vec<Line>) -> Result<RecordBatch> {
    if operation.state == State::Done {
        return lines(&[outcome(operation), noted].concat());
    }
    let reasons = operation.progress.iter().filter_map(|progress| progress.reason.clone());
    let reasons: Vec<String> = reasons.take(REASONS_MAX).collect();
    let (id, state) = (operation.id, operation.state);
    let why = if reasons.is_empty() { "it was not finished".to_owned() } else { reasons.join("; ") };
    Err(Error::new(Kind::Conflict, format!("operation {id} is {state}: {why}; go on with RESUME OPERATION '{id}'")))
}

fn lines(lines: &[Line]) -> Result<RecordBatch> {
    let text =
        |of: &dyn Fn(&Line) -> Option<String>| -> ArrayRef { Arc::new(lines.iter().map(of).collect::<StringArray>()) };
    let label = |name: &'static str| text(&move |line| line.labels.get(name).cloned());
    let rows = lines.iter().map(|line| line.labels.get("rows").and_then(|rows| rows.parse().ok()));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("operation", text(&|line| line.operation.clone())),
        ("kind", text(&|line| Some(line.kind.clone()))),
        ("database", label("database")),
        ("table", label("table")),
        ("rows", Arc::new(rows.collect::<Int64Array>())),
        ("state", text(&|line| Some(line.state.clone()))),
        ("note", text(&|line| line.note.clone())),
    ];
    let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let arrays = columns.into_iter().map(|column| column.1).collect();
    RecordBatch::try_new(Arc::new(schema), arrays)
        .map_err(|error| Error::wrap(Kind::Internal, "cannot build the answer", error))
}

fn of_ops(error: weir_ops::Error) -> Error {
    Error::new(error.kind(), weir_base::error::chain(&error)).with_retry(error.retry())
}

fn of_engine(error: weir_engine::Error) -> Error {
    Error::new(error.kind(), weir_base::error::chain(&error)).with_retry(error.retry())
}
