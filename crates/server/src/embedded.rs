//! The real database behind the routes: an engine and the SQL engine on it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use serde_json::Value;
use weir_base::{Clock, Random};
use weir_engine::Engine;
use weir_engine::compact::Compacted;
use weir_engine::engine::Stats;
use weir_engine::flush::Flushed;
use weir_engine::ingest::{Write, WriteOptions, Written};
use weir_engine::rollup::Definition;
use weir_query::{Encoding, Request, ScalarValue, Settings, SqlEngine, encode};

use crate::changes::{Changes, HistorySettings};
use crate::database::{
    Answer, Component, Database, Format, QueryRequest, Retention, Running, Sample, SampleKind, State, WriteSession,
};
use crate::error::{Error, Result};
use crate::externals;
use crate::rollups;
use crate::tokens::{Grant, Right};

/// Nanoseconds.
const DAY: i64 = 86_400_000_000_000;
/// Failed flushes in a row after which somebody should look, and after which the store counts as gone.
const FLUSH_WARNING_AFTER: u64 = 3;
const FLUSH_UNHEALTHY_AFTER: u64 = 10;

/// An engine with its SQL side.
pub struct Embedded {
    engine: Engine,
    sql: SqlEngine,
    changes: Changes,
    clock: Arc<dyn Clock>,
}

impl Embedded {
    /// Over an open engine, with a history of what changes its tables. Call it on a runtime.
    ///
    /// # Errors
    /// `unavailable` when the threads for queries cannot be started.
    pub fn new(
        engine: Engine,
        settings: Settings,
        history: HistorySettings,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self> {
        let tables = Arc::new(engine.clone());
        let sql = SqlEngine::new(tables, settings, Arc::clone(&clock), random).map_err(of_query)?;
        let changes = Changes::new(engine.clone(), sql.filters(), history);
        Ok(Self { engine, sql, changes, clock })
    }

    /// The answer to a statement: a change of tables is carried out, everything else only reads.
    async fn ask(&self, mut request: Request, actor: Option<String>, grant: Grant) -> Result<weir_query::Answer> {
        if let Some(statement) = weir_query::rollup::parse(&request.sql).map_err(of_query)? {
            if actor.is_none() {
                return Err(Error::invalid("a statement that makes or refreshes a rollup must be sent by POST"));
            }
            grant.check(Right::Write, &request.database)?;
            request.databases = grant.databases;
            return Ok(self.sql.answer(rollups::run(&self.engine, &self.sql, &request, statement).await?));
        }
        if let Some(statement) = weir_query::external::parse(&request.sql).map_err(of_query)? {
            if actor.is_none() {
                return Err(Error::invalid("a statement that makes an external table must be sent by POST"));
            }
            let database = statement.database.as_deref().unwrap_or(&request.database);
            grant.check(Right::Write, database)?;
            return Ok(self.sql.answer(externals::create(&self.engine, &self.sql, database, &statement).await?));
        }
        let now = self.clock.now();
        let asked =
            weir_query::change::parse(&request.sql, &request.database, &request.params, now).map_err(of_query)?;
        let Some(asked) = asked else {
            grant.check(Right::Read, &request.database)?;
            request.databases = grant.databases;
            return self.sql.query(request).await.map_err(of_query);
        };
        let Some(actor) = actor else {
            return Err(Error::invalid("a statement that changes tables must be sent by POST"));
        };
        Ok(self.sql.answer(self.changes.run(asked, actor, grant).await?))
    }
}

impl Embedded {
    /// Deletes rows of rollups that are past their own age.
    async fn retain_rollups(&self) -> Result<u64> {
        let mut rows = 0;
        for database in self.engine.databases().await.map_err(of_engine)? {
            for rollup in self.engine.rollups(&database).await.map_err(of_engine)? {
                let Some(age) = rollup.retention_ns.filter(|age| *age < i64::MAX) else { continue };
                let older_than = self.clock.now().saturating_sub(age).div_euclid(DAY) * DAY;
                rows += self.changes.retain(database.clone(), rollup.table_name(), older_than).await?;
            }
        }
        Ok(rows)
    }
}

pub(crate) fn of_query(error: weir_query::Error) -> Error {
    Error::new(error.kind(), weir_base::error::chain(&error)).with_retry(error.retry())
}

fn encoding_of(format: Format) -> Encoding {
    match format {
        Format::Json => Encoding::Json,
        Format::JsonLines => Encoding::JsonLines,
        Format::Csv => Encoding::Csv,
        Format::Parquet => Encoding::Parquet,
        Format::Arrow => Encoding::Arrow,
        Format::Pretty => Encoding::Table,
    }
}

/// A parameter's value as SQL knows it. JSON has no other kinds of plain values.
fn scalar(name: String, value: Value) -> Result<(String, ScalarValue)> {
    let scalar = match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(value)),
        Value::String(text) => ScalarValue::Utf8(Some(text)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => ScalarValue::Int64(Some(value)),
            (None, Some(value)) => ScalarValue::UInt64(Some(value)),
            (None, None) => ScalarValue::Float64(number.as_f64()),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(Error::invalid(format!("parameter '{name}' is not a plain value")));
        }
    };
    Ok((name.trim_start_matches('$').to_owned(), scalar))
}

/// An error of the engine, passed on with its kind, whether to retry, and its causes.
pub(crate) fn of_engine(error: weir_engine::Error) -> Error {
    Error::new(error.kind(), weir_base::error::chain(&error)).with_retry(error.retry())
}

struct EmbeddedWrite(Write);

#[async_trait]
impl WriteSession for EmbeddedWrite {
    fn feed(&mut self, text: &[u8]) -> Result<()> {
        self.0.feed(text).map_err(of_engine)
    }

    async fn commit(self: Box<Self>) -> Result<Written> {
        self.0.commit().await.map_err(of_engine)
    }
}

#[async_trait]
impl Database for Embedded {
    fn begin_write(&self, database: &str, options: WriteOptions) -> Result<Box<dyn WriteSession>> {
        Ok(Box::new(EmbeddedWrite(self.engine.begin_write(database, options).map_err(of_engine)?)))
    }

    async fn query(&self, request: QueryRequest) -> Result<Answer> {
        let params = request.params.into_iter().map(|(name, value)| scalar(name, value)).collect::<Result<_>>()?;
        let asked = Request { database: request.database, sql: request.sql, params, ..Request::default() };
        let answer = self.ask(asked, request.actor, request.grant).await?;
        let (id, notes) = (answer.id().to_string(), answer.notes().to_vec());
        let mut pieces = encode(answer, encoding_of(request.format));
        // The first piece decides the status: an error that comes with the first rows is still an error's answer.
        let first = pieces.next().await.transpose().map_err(of_query)?;
        let chunks = futures::stream::iter(first.map(Ok)).chain(pieces.map(|piece| piece.map_err(of_query))).boxed();
        Ok(Answer { id, notes, chunks })
    }

    fn queries(&self) -> Vec<Running> {
        let listed = self.sql.running().into_iter();
        let running = |query: weir_query::RunningQuery| Running {
            id: query.id.to_string(),
            database: query.database,
            sql: query.sql,
            running: query.admitted,
            elapsed: query.elapsed,
        };
        listed.map(running).collect()
    }

    fn cancel_query(&self, id: &str) -> bool {
        id.parse().is_ok_and(|id| self.sql.cancel(id))
    }

    async fn flush(&self, database: Option<&str>) -> Result<Flushed> {
        self.engine.flush(database).await.map_err(of_engine)
    }

    async fn compact(&self, database: &str, table: Option<&str>) -> Result<Compacted> {
        self.engine.compact(database, table).await.map_err(of_engine)
    }

    async fn retain(&self, retention: &[Retention]) -> Result<u64> {
        let mut rows = 0;
        for Retention { database, table, age } in retention {
            let older_than = cut(self.clock.now(), *age);
            let own = |name: &String| {
                retention.iter().any(|one| one.database == *database && one.table.as_ref() == Some(name))
            };
            let listed = self.engine.tables(database).await.map_err(of_engine)?;
            let meant = listed.into_iter().filter(|name| table.as_ref().map_or(!own(name), |table| table == name));
            let rollups = self.engine.rollups(database).await.map_err(of_engine)?;
            for name in meant {
                let keeps = |one: &&Definition| one.table == name && one.retention_ns.is_some();
                let keeping: Vec<Definition> = rollups.iter().filter(keeps).cloned().collect();
                // Whole days are whole buckets of any rollup.
                let older_than = if keeping.is_empty() { older_than } else { older_than.div_euclid(DAY) * DAY };
                if keeping.is_empty() || rollups::keep(&self.engine, &self.sql, database, &keeping).await {
                    rows += self.changes.retain(database.clone(), name, older_than).await?;
                }
            }
        }
        Ok(rows + self.retain_rollups().await?)
    }

    async fn refresh_rollups(&self) -> Result<u64> {
        rollups::refresh_all(&self.engine, &self.sql).await
    }

    fn components(&self) -> Vec<Component> {
        let stats = self.engine.stats();
        vec![wal(&stats), buffer(&stats), store(&stats)]
    }

    fn samples(&self) -> Result<Vec<Sample>> {
        let mut all = samples(&self.engine.stats());
        let (admission, columns) = (self.sql.admission(), self.sql.columns());
        all.extend([
            sample("weir_queries_running", "Queries that run.", SampleKind::Gauge, admission.running() as u64),
            sample(
                "weir_queries_waiting",
                "Queries that wait for a slot.",
                SampleKind::Gauge,
                admission.waiting() as u64,
            ),
            sample(
                "weir_queries_slow_total",
                "Queries past query_slow_ms, each in the log.",
                SampleKind::Counter,
                self.sql.slow(),
            ),
            sample("weir_query_memory_bytes", "Memory that queries hold.", SampleKind::Gauge, self.sql.memory_bytes()),
            sample("weir_query_footer_bytes", "Memory for footers of files.", SampleKind::Gauge, self.sql.footers().1),
            sample(
                "weir_query_spilled_bytes",
                "Bytes on disk that queries spilled.",
                SampleKind::Gauge,
                self.sql.spilled_bytes(),
            ),
            sample("weir_query_column_bytes", "Memory of decoded columns.", SampleKind::Gauge, columns.0),
            sample("weir_query_column_hits_total", "Columns found decoded.", SampleKind::Counter, columns.1),
            sample("weir_query_column_misses_total", "Columns that were decoded.", SampleKind::Counter, columns.2),
        ]);
        Ok(all)
    }

    async fn close(&self, deadline: Duration) -> Result<()> {
        self.engine.close(deadline).await.map_err(of_engine)
    }
}

/// Before which time rows are past their age, in nanoseconds UTC: a whole hour, and for ages over a week a whole day.
fn cut(now: i64, age: Duration) -> i64 {
    let hour: i64 = 3600 * 1_000_000_000;
    let step = if age > Duration::from_secs(7 * 24 * 3600) { 24 * hour } else { hour };
    let cut = now.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX));
    cut.div_euclid(step).saturating_mul(step)
}

fn part(name: &'static str, problem: Option<(State, String)>, blocks_writes: bool) -> Component {
    let (state, reason) = problem.map_or((State::Ok, None), |(state, reason)| (state, Some(reason)));
    Component { name, state, reason, blocks_writes }
}

fn wal(stats: &Stats) -> Component {
    let Some(bytes) = stats.wal_bytes else {
        return part("wal", Some((State::Unhealthy, "the write-ahead log is closed".into())), true);
    };
    let (full, high) = (bytes >= stats.wal_bytes_max, bytes >= stats.wal_bytes_max / 10 * 9);
    let told = || format!("the write-ahead log holds {bytes} of {} bytes (engine.wal_bytes_max)", stats.wal_bytes_max);
    part("wal", high.then(|| (State::Warning, told())), full)
}

fn buffer(stats: &Stats) -> Component {
    let (full, high) =
        (stats.buffer_bytes >= stats.buffer_bytes_max, stats.buffer_bytes >= stats.buffer_bytes_max / 10 * 9);
    let told = || {
        format!("the buffer holds {} of {} bytes (engine.buffer_bytes_max)", stats.buffer_bytes, stats.buffer_bytes_max)
    };
    part("buffer", high.then(|| (State::Warning, told())), full)
}

fn store(stats: &Stats) -> Component {
    let failures = stats.flushes_failed_in_a_row;
    let remote = stats.store.as_ref();
    let failing = remote.and_then(|remote| remote.failing.as_deref());
    let told = || match (failing, failures) {
        (Some(last), 0) => format!("the store does not answer: {last}"),
        (Some(last), _) => {
            format!(
                "{failures} flushes in a row failed, rows stay in the write-ahead log; the store does not answer: {last}"
            )
        }
        (None, _) => format!("{failures} flushes in a row failed; rows stay in the write-ahead log"),
    };
    let open = remote.is_some_and(|remote| remote.breaker_open);
    let state = match failures {
        FLUSH_UNHEALTHY_AFTER.. => Some(State::Unhealthy),
        FLUSH_WARNING_AFTER.. => Some(State::Warning),
        _ => open.then_some(State::Warning),
    };
    part("store", state.map(|state| (state, told())), false)
}

fn sample(name: &'static str, help: &'static str, kind: SampleKind, value: u64) -> Sample {
    Sample { name, help, kind, labels: Vec::new(), value: value as f64 }
}

fn samples(stats: &Stats) -> Vec<Sample> {
    use SampleKind::{Counter, Gauge};
    let mut all = vec![
        sample("weir_engine_rows_total", "Rows acknowledged since start.", Counter, stats.rows_written),
        sample("weir_engine_writes_refused_total", "Requests refused at a limit.", Counter, stats.writes_refused),
        sample("weir_engine_flushes_total", "Flushes committed.", Counter, stats.flushes),
        sample("weir_engine_flushes_failed_total", "Flushes that failed.", Counter, stats.flushes_failed),
        sample(
            "weir_engine_flushes_failed_in_a_row",
            "Flushes that failed since the last that committed.",
            Gauge,
            stats.flushes_failed_in_a_row,
        ),
        sample("weir_engine_rows_flushed_total", "Rows committed to files.", Counter, stats.rows_flushed),
        sample("weir_engine_compactions_total", "Compactions committed.", Counter, stats.compactions),
        sample("weir_buffer_rows", "Rows not yet in files.", Gauge, stats.rows_buffered),
        sample("weir_buffer_bytes", "Bytes of the buffer and of requests on their way.", Gauge, stats.buffer_bytes),
        sample("weir_buffer_peak_bytes", "Most bytes of the buffer so far.", Gauge, stats.buffer_bytes_peak),
        sample("weir_buffer_limit_bytes", "Limit of the buffer.", Gauge, stats.buffer_bytes_max),
        sample("weir_wal_limit_bytes", "Limit of the write-ahead log.", Gauge, stats.wal_bytes_max),
        sample("weir_series", "Series known.", Gauge, stats.series),
        sample("weir_tables", "Tables loaded.", Gauge, stats.tables),
    ];
    if let Some(store) = &stats.store {
        all.extend([
            sample("weir_store_tries_total", "Requests to the object store.", Counter, store.tries),
            sample("weir_store_failures_total", "Requests without a usable answer.", Counter, store.failures),
            sample("weir_store_retries_total", "Requests after the first of a call.", Counter, store.retries),
            sample("weir_store_refused_total", "Calls not made while the breaker was open.", Counter, store.refused),
            sample("weir_store_breaker_open", "1 while the store is left alone.", Gauge, u64::from(store.breaker_open)),
        ]);
    }
    all.extend(stats.wal_bytes.map(|bytes| sample("weir_wal_bytes", "Bytes of the write-ahead log.", Gauge, bytes)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_counted_from_whole_hours_or_days() {
        let (hour, day) = (3_600_000_000_000, 86_400_000_000_000);
        let now = 20_000 * day + 5 * hour + 7;
        assert_eq!(cut(now, Duration::from_secs(3600)), 20_000 * day + 4 * hour);
        assert_eq!(cut(now, Duration::from_secs(30 * 86_400)), 19_970 * day);
        assert!(cut(now, Duration::MAX) < 0);
    }

    #[test]
    fn a_full_log_or_buffer_blocks_writes_and_a_failing_store_does_not() {
        let full = Stats { wal_bytes: Some(10), wal_bytes_max: 10, buffer_bytes_max: 10, ..Stats::default() };
        assert!(wal(&full).blocks_writes && !buffer(&full).blocks_writes);
        assert_eq!(buffer(&Stats { buffer_bytes: 9, ..full.clone() }).state, State::Warning);
        assert!(wal(&Stats { wal_bytes: None, ..full.clone() }).blocks_writes);
        let failing = store(&Stats { flushes_failed_in_a_row: 10, ..full });
        assert_eq!((failing.state, failing.blocks_writes), (State::Unhealthy, false));
    }

    #[test]
    fn m1_what_cannot_be_measured_is_absent() {
        let named = |stats: &Stats| samples(stats).iter().any(|sample| sample.name == "weir_wal_bytes");
        assert!(named(&Stats { wal_bytes: Some(0), ..Stats::default() }));
        assert!(!named(&Stats::default()));
    }
}
