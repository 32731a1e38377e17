//! The SQL engine: admits queries, runs each on one snapshot within its limits, and streams its rows (Q1, Q2).
//!
//! A query is one task on a runtime of its own, whose threads serve nothing else. The task holds everything that must
//! come back (slot, memory, place in the list), so that all of it does when the task ends: with its last row, an error, a
//! panic, its deadline, a cancel, or because nobody reads the answer any more. Operators give way often enough that the
//! task notices the last three while it computes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use futures::{FutureExt, StreamExt};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use weir_base::id::{Uuid, uuid_v7};
use weir_base::{Clock, Kind, Random, Retry};
use weir_engine::external;
use weir_engine::operations::FilterOf;
use weir_engine::read::Tables;
use weir_engine::rollup::Definition;
use weir_limits::{Admission, Permit, Priority};

use crate::error::{Error, Result};
use crate::external::ExternalStatement;
use crate::running::{Answer, Listed, Message, Registry, RunningQuery};
use crate::session::Sessions;
use crate::settings::Settings;
use crate::slow::Trace;

/// Deep plans recurse; unoptimised builds take several times the stack.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 32 << 20 } else { 8 << 20 };
/// Batches that wait for a slow reader.
const BATCHES_AHEAD: usize = 2;

/// How far queries stand back behind ingest and health checks (Q2).
const NICE_STEPS: i32 = 5;

/// What is asked.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The database in which tables are looked up that name none.
    pub database: String,
    /// One statement.
    pub sql: String,
    /// Values of `$name` and `$1` in the statement, by name without the sign.
    pub params: Vec<(String, ScalarValue)>,
    /// Less time than the setting allows.
    pub deadline: Option<Duration>,
    /// The only databases that may be read or listed; `None` for all.
    pub databases: Option<Arc<[String]>>,
    /// Who goes first when all slots are taken.
    pub priority: Priority,
}

/// Runs SQL on the tables of an engine. Dropping it stops all queries.
#[derive(Debug)]
pub struct SqlEngine {
    inner: Arc<Inner>,
    runtime: Option<Runtime>,
}

/// Columns of an answer, and what is to be said beside it.
type Started = (SchemaRef, Vec<String>);

#[derive(Debug)]
struct Inner {
    sessions: Sessions,
    settings: Settings,
    admission: Admission,
    /// Queries that were told in the log because they took long.
    slow: AtomicU64,
    registry: Registry,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl SqlEngine {
    /// Starts the threads that compute queries.
    ///
    /// # Errors
    /// `unavailable` when threads cannot be started or the folder for spilled data cannot be used.
    pub fn new(
        tables: Arc<dyn Tables>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.query_threads.max(1))
            .thread_stack_size(STACK_BYTES)
            .thread_name("weir-query")
            .on_thread_start(|| weir_base::machine::lower_thread_priority(NICE_STEPS))
            .enable_all()
            .build()
            .map_err(|error| Error::io("cannot start threads for queries", error))?;
        let inner = Inner {
            sessions: Sessions::new(tables, &settings)?,
            admission: Admission::new(settings.query_running_max, settings.query_waiting_max),
            slow: AtomicU64::new(0),
            registry: Registry::new(Arc::clone(&clock)),
            settings,
            clock,
            random,
        };
        Ok(Self { inner: Arc::new(inner), runtime: Some(runtime) })
    }

    /// Runs one statement; resolves when its columns are known. May be called on any runtime.
    ///
    /// # Errors
    /// `invalid` when the statement is wrong, `not_found` for a table that does not exist, `limit` past a limit,
    /// `unavailable` when no slot came free in time or the store does not answer.
    pub async fn query(&self, request: Request) -> Result<Answer> {
        let inner = Arc::clone(&self.inner);
        let id = uuid_v7(&*inner.clock, &*inner.random);
        let listed = inner.registry.enter(id, &request.database, &request.sql);
        let (schema_out, schema_in) = oneshot::channel();
        let (batches_out, batches) = mpsc::channel(BATCHES_AHEAD);
        let Some(runtime) = &self.runtime else { return Err(stopped()) };
        // The event of a slow query belongs to the request that asked, whose span knows its id.
        let span = tracing::Span::current();
        runtime.spawn(async move { inner.watched(request, listed, schema_out, batches_out, &span).await });
        let (schema, notes) = schema_in.await.map_err(|_| stopped())??;
        Ok(Answer { id, schema, notes, batches, ended: false })
    }

    /// Runs one statement and gathers its rows.
    ///
    /// # Errors
    /// As [`SqlEngine::query`], and what comes up while it runs.
    pub async fn collect(&self, request: Request) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let mut answer = self.query(request).await?;
        let mut batches = Vec::new();
        while let Some(batch) = answer.next().await {
            batches.push(batch?);
        }
        Ok((Arc::clone(answer.schema()), batches))
    }

    /// The definition of a rollup `name` by the query of `request`, which must be about the table `on` where that is given.
    ///
    /// # Errors
    /// `invalid`, saying what a rollup can be; `not found` without its table.
    pub async fn define_rollup(&self, request: &Request, name: &str, on: Option<&str>) -> Result<Definition> {
        self.inner.sessions.define(request, name, on).await
    }

    /// The definition of the external table that a statement makes, and how many columns it has. Its files are looked at.
    ///
    /// # Errors
    /// `forbidden` where its files may not be read; `not found` without files; `invalid` for what cannot be read as its format.
    pub async fn define_external(&self, statement: &ExternalStatement) -> Result<(external::Definition, usize)> {
        self.inner.sessions.define_external(statement).await
    }

    /// Makes filters of rows out of the predicates of deletes, with the functions that queries have.
    pub fn filters(&self) -> FilterOf {
        self.inner.sessions.filters()
    }

    /// An answer that is there already: one batch.
    pub fn answer(&self, batch: RecordBatch) -> Answer {
        Answer::of(uuid_v7(&*self.inner.clock, &*self.inner.random), batch)
    }

    /// Queries that wait or run, the oldest first.
    pub fn running(&self) -> Vec<RunningQuery> {
        self.inner.registry.list()
    }

    /// Stops a query; `false` when there is none with this id.
    pub fn cancel(&self, id: Uuid) -> bool {
        self.inner.registry.cancel(id)
    }

    /// How many queries run and wait.
    pub fn admission(&self) -> &Admission {
        &self.inner.admission
    }

    /// Bytes of memory that queries hold.
    pub fn memory_bytes(&self) -> u64 {
        self.inner.sessions.memory_bytes()
    }

    /// Queries that took longer than the setting `query_slow` so far.
    pub fn slow(&self) -> u64 {
        self.inner.slow.load(Relaxed)
    }

    /// Bytes of decoded columns in memory; how often a column asked for was there; how often it was not.
    pub fn columns(&self) -> (u64, u64, u64) {
        let columns = self.inner.sessions.columns();
        let (hits, misses) = columns.hits_and_misses();
        (columns.bytes(), hits, misses)
    }

    /// Footers of files in memory: how many, and their bytes.
    pub fn footers(&self) -> (u64, u64) {
        self.inner.sessions.footers()
    }

    /// Bytes on disk that queries have spilled.
    pub fn spilled_bytes(&self) -> u64 {
        self.inner.sessions.spilled_bytes()
    }
}

impl Drop for SqlEngine {
    fn drop(&mut self) {
        for query in self.inner.registry.list() {
            self.inner.registry.cancel(query.id);
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn stopped() -> Error {
    Error::new(Kind::Unavailable, "the query engine has stopped")
}

impl Inner {
    /// The life of one query, told in the log when it was long.
    async fn watched(
        &self,
        request: Request,
        listed: Listed,
        schema_out: oneshot::Sender<Result<Started>>,
        batches: mpsc::Sender<Message>,
        span: &tracing::Span,
    ) {
        let (id, start, trace) = (listed.id, self.clock.monotonic(), Trace::default());
        let mut schema_out = Some(schema_out);
        let result = self.run(&request, listed, &mut schema_out, &batches, &trace).await;
        let elapsed = self.clock.monotonic().saturating_sub(start);
        if elapsed >= self.settings.query_slow {
            self.slow.fetch_add(1, Relaxed);
            trace.tell(span, id, &request, elapsed, result.as_ref().map(Result::as_ref));
        }
        // It holds the plan, and that perhaps memory.
        drop(trace);
        let message = match (result, schema_out) {
            (None, _) => return,
            (Some(Err(error)), Some(schema_out)) => {
                // Whoever asked may have gone.
                let _ = schema_out.send(Err(error));
                return;
            }
            (Some(Err(error)), None) => Message::Failed(error),
            (Some(Ok(())), _) => Message::Complete,
        };
        // The reader may be slow or gone; by now nothing is held for it.
        let _ = batches.send(message).await;
    }

    /// From admission to the last row; `None` when nobody read on.
    async fn run(
        &self,
        request: &Request,
        listed: Listed,
        schema_out: &mut Option<oneshot::Sender<Result<Started>>>,
        batches: &mpsc::Sender<Message>,
        trace: &Trace,
    ) -> Option<Result<()>> {
        let deadline = request.deadline.unwrap_or(self.settings.query_deadline).min(self.settings.query_deadline);
        let work = async {
            let permit = self.admit(request.priority).await?;
            listed.admitted();
            let work = self.stream(request, schema_out, batches, trace);
            let done = tokio::time::timeout(deadline, AssertUnwindSafe(work).catch_unwind()).await;
            drop(permit);
            match done {
                // A limit that another try may keep: servers tell it apart by that.
                Err(_) => Err(Error::new(
                    Kind::Limit,
                    format!("the query ran past its deadline of {deadline:?} (setting query_deadline)"),
                )
                .with_retry(Retry::Backoff)),
                Ok(Err(_)) => Err(Error::new(Kind::Internal, "the query panicked")),
                Ok(Ok(result)) => result,
            }
        };
        tokio::select! {
            biased;
            () = listed.cancel.cancelled() => Some(Err(Error::new(Kind::Conflict, "the query was cancelled"))),
            () = batches.closed() => None,
            result = work => Some(result),
        }
    }

    async fn admit(&self, priority: Priority) -> Result<Permit> {
        let wait = self.settings.query_wait;
        let refused = |why: String| Error::new(Kind::Unavailable, why).with_retry(Retry::After(wait));
        match tokio::time::timeout(wait, self.admission.admit(priority)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(full)) => Err(refused(format!(
                "{} queries run and {} wait already (settings query_running_max, query_waiting_max)",
                self.settings.query_running_max, full.waiting_max
            ))),
            Err(_) => {
                Err(refused(format!("no query slot came free in {wait:?} (settings query_running_max, query_wait)")))
            }
        }
    }

    async fn stream(
        &self,
        request: &Request,
        schema_out: &mut Option<oneshot::Sender<Result<Started>>>,
        batches: &mpsc::Sender<Message>,
        trace: &Trace,
    ) -> Result<()> {
        let (mut stream, notes): (SendableRecordBatchStream, _) =
            self.sessions.execute(request, self.clock.now(), trace).await?;
        if let Some(schema_out) = schema_out.take()
            && schema_out.send(Ok((stream.schema(), notes))).is_err()
        {
            return Ok(());
        }
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            trace.rows(batch.num_rows());
            if batch.num_rows() > 0 && batches.send(Message::Batch(batch)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}
