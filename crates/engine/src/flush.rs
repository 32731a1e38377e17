//! From buffer to files: freeze, sort, write Parquet, commit with the WAL position, show, trim the WAL.
//!
//! Exactly once: the commit carries `txn = (writer, last WAL sequence)`. A crash before the commit leaves a file that no
//! version names (swept by vacuum) and the rows in the WAL; a crash after it leaves the rows in the WAL with a sequence that
//! replay compares to the txn and skips. A commit whose answer is lost is judged by the txn of the latest version.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weir_base::Kind;

use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::read::SortedRows;
use crate::rows::Rows;
use crate::schema::SchemaRef;
use crate::sort::{Sorted, TagForm};
use crate::store::{Change, FileWriter, NewFile, Table};
use crate::table::{Buffered, Frozen, TableState};

/// How often columns are added anew because another server was faster.
const LOST_RACES_MAX: u32 = 16;
/// Rows in one batch handed to the Parquet writer.
const BATCH_ROWS: usize = 64 << 10;

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Tables that had something to flush.
    pub tables: usize,
    /// Rows written to files.
    pub rows: u64,
}

impl Engine {
    /// Commits everything that was buffered when this was called, of one database or all, and trims the WAL.
    ///
    /// # Errors
    /// The first failure, after every table was tried; what failed stays in the buffer and the WAL.
    pub async fn flush(&self, database: Option<&str>) -> Result<Flushed> {
        let wanted = self.shared.tables.all().into_iter();
        let wanted: Vec<_> = wanted.filter(|table| database.is_none_or(|name| table.database == name)).collect();
        self.shared.notice_drops(&wanted).await?;
        let outcome = flush_all(&self.shared, wanted).await;
        let trimmed = self.shared.trim().await;
        let flushed = outcome?;
        trimmed.map(|_| flushed)
    }
}

/// Flushes tables, two at a time: one sorts and encodes while the other waits for its store.
pub(crate) async fn flush_all(shared: &Arc<Shared>, tables: Vec<Arc<TableState>>) -> Result<Flushed> {
    use futures::StreamExt;
    let flushes = tables.into_iter().map(|table| async move { flush_buffered(shared, &table).await });
    let outcomes: Vec<Result<u64>> = futures::stream::iter(flushes).buffer_unordered(2).collect().await;
    let mut flushed = Flushed::default();
    for rows in outcomes {
        let rows = rows?;
        flushed.rows += rows;
        flushed.tables += usize::from(rows > 0);
    }
    Ok(flushed)
}

/// Flushes what a table has buffered now; returns the rows committed.
pub(crate) async fn flush_buffered(shared: &Arc<Shared>, table: &Arc<TableState>) -> Result<u64> {
    let Some(Buffered { last, .. }) = table.buffered() else { return Ok(0) };
    let mut rows = 0;
    // What comes in meanwhile is for the next call.
    while table.buffered().is_some_and(|buffered| buffered.first <= last) {
        rows += flush_once(shared, table).await?;
    }
    Ok(rows)
}

/// Flushes the oldest rows of a table, those that one file takes.
pub(crate) async fn flush_once(shared: &Arc<Shared>, table: &Arc<TableState>) -> Result<u64> {
    let _lease = table.flushing.lock().await;
    let Some(frozen) = table.freeze(&shared.memory) else { return Ok(0) };
    let outcome = commit(shared, table, &frozen).await;
    let counter = if outcome.is_ok() { &shared.counters.flushes } else { &shared.counters.flushes_failed };
    counter.fetch_add(1, Ordering::Relaxed);
    outcome
}

async fn commit(shared: &Arc<Shared>, state: &Arc<TableState>, frozen: &Arc<Frozen>) -> Result<u64> {
    let sorted = {
        let frozen = Arc::clone(frozen);
        blocking(move || frozen.sorted()).await?
    };
    let table = shared.store_table(state).await?;
    let rows = sorted.len() as u64;
    let file = write_sorted(&table, frozen.schema(), sorted).await?;
    let txn = (shared.writer.clone(), frozen.last as i64);
    table.commit(Change::flush(vec![file], Some(txn))).await?;
    state.committed(&table, true);
    shared.counters.rows_flushed.fetch_add(rows, Ordering::Relaxed);
    Ok(rows)
}

/// Gathers and encodes a batch at a time, so that no second copy of the rows exists.
async fn write_sorted(table: &Arc<Table>, schema: &SchemaRef, sorted: Arc<Sorted>) -> Result<NewFile> {
    let mut writer = table.file_writer(schema, sorted.has_sub_micro());
    let columns: Vec<usize> = (0..=schema.columns().len()).collect();
    let encode = move || -> Result<FileWriter> {
        for start in (0..sorted.len()).step_by(BATCH_ROWS) {
            let end = (start + BATCH_ROWS).min(sorted.len());
            writer.write(&sorted.columns_of(start..end, &columns, TagForm::Dictionary)?)?;
        }
        Ok(writer)
    };
    table.finish_file(blocking(encode).await?).await
}

/// Runs CPU work off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::wrap(Kind::Internal, "a background task panicked", error))?
}

impl Shared {
    /// The table in the store, made there when this is its first flush.
    pub(crate) async fn store_table(&self, state: &Arc<TableState>) -> Result<Arc<Table>> {
        if let Some(table) = state.stored() {
            return Ok(table);
        }
        let table = self.store.create_table(&state.database, &state.name).await?;
        state.set_stored(&table);
        Ok(table)
    }

    /// Commits the columns that `rows` add to a shared store before any of them is acknowledged (E3); `None` when they add none.
    pub(crate) async fn store_columns(&self, state: &Arc<TableState>, rows: &Rows) -> Result<Option<SchemaRef>> {
        let mut lost = 0;
        loop {
            let Some(schema) = state.widened(rows, self.config.columns_max)? else { return Ok(None) };
            let table = self.store_table(state).await?;
            match table.commit(Change::columns(schema)).await {
                // Another server added some first, in an order of its own: ours come after those.
                Err(error) if error.kind() == Kind::Conflict && lost < LOST_RACES_MAX => {
                    lost += 1;
                    table.refresh().await?;
                    state.committed(&table, false);
                }
                outcome => {
                    outcome?;
                    state.committed(&table, false);
                    return Ok(Some(Arc::clone(&table.snapshot().schema)));
                }
            }
        }
    }

    /// Removes WAL segments whose rows are all committed; returns the bytes freed.
    pub(crate) async fn trim(self: &Arc<Self>) -> Result<u64> {
        let shared = Arc::clone(self);
        blocking(move || {
            // Read before the tables: what is applied later has a higher sequence than this.
            let applied = shared.applied.load(Ordering::Acquire);
            let first =
                shared.tables.all().iter().filter_map(|table| table.buffered()).map(|buffered| buffered.first).min();
            let needed = first.unwrap_or(u64::MAX).min(applied + 1);
            shared.journal()?.trim_before(needed).map_err(crate::ingest::from_journal)
        })
        .await
    }
}
