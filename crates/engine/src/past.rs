//! Reading the past: a table as it was at a version or at a time, as far as vacuum has kept it.
//!
//! Kept are all versions of the last hour, those before and after each step of an operation, and the one at each full hour of
//! the undo window. Where the version that was asked for has gone, the nearest kept one before it is given, and says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use weir_base::Kind;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::read::{ReadSnapshot, Source, logical_schema};
use crate::rewrite::RowStream;
use crate::store::{HOUR_MS, Snapshot, Store, Table};

/// Rows of a batch that is cut from a run of the buffer.
const RUN_BATCH_ROWS: usize = 16 << 10;

/// A moment of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// A version of its Delta table.
    Version(i64),
    /// A time, nanoseconds UTC: the last version committed until then.
    Time(i64),
}

/// A table as it was.
#[derive(Debug, Clone)]
pub struct Past {
    /// What was committed then; without what was in any buffer.
    pub snapshot: ReadSnapshot,
    /// The version that was meant. The one that is given is `snapshot.version`: the same, or the nearest kept one before it.
    pub wanted: i64,
    /// When the version that is given was committed, milliseconds UTC.
    pub committed_ms: i64,
}

impl Engine {
    /// The table at `at`, or at the nearest kept version before that.
    ///
    /// # Errors
    /// `not found` when there is no such table or version, or nothing before it is kept any more (setting `undo_window_s`); those of
    /// the store.
    pub async fn snapshot_at(&self, database: &str, table: &str, at: At) -> Result<Past> {
        let state = self.existing(database, table).await?;
        let nothing = || Error::new(Kind::NotFound, format!("nothing of table '{table}' has been committed yet"));
        let stored = state.stored().ok_or_else(nothing)?;
        let newest = stored.refresh().await?;
        if newest.version < 0 {
            return Err(nothing());
        }
        let wanted = match at {
            At::Version(version) if (0..=newest.version).contains(&version) => version,
            At::Version(version) => {
                let what = format!("table '{table}' has no version {version}; the newest is {}", newest.version);
                return Err(Error::new(Kind::NotFound, what));
            }
            At::Time(time) => {
                let before = || Error::new(Kind::NotFound, format!("table '{table}' has no version that old"));
                stored.version_at(time.div_euclid(1_000_000)).await?.ok_or_else(before)?
            }
        };
        let (version, found) = self.nearest(&stored, &newest, wanted).await?;
        let snapshot = ReadSnapshot {
            database: database.to_owned(),
            table: table.to_owned(),
            schema: Arc::clone(&found.schema),
            version,
            files: found.files.clone(),
            runs: Vec::new(),
            committed: Some(Arc::clone(&found)),
        };
        let committed_ms = stored.commit_time(version).await?.unwrap_or_default();
        Ok(Past { snapshot, wanted, committed_ms })
    }

    /// The nearest version at or before `wanted` whose files are all there.
    async fn nearest(&self, table: &Table, newest: &Snapshot, wanted: i64) -> Result<(i64, Arc<Snapshot>)> {
        let steps = newest.step_times.keys().filter_map(|app_id| newest.transactions.get(app_id));
        let kept: BTreeSet<i64> = steps.flat_map(|version| [version - 1, *version]).collect();
        let present = table.data_files().await?;
        let mut version = wanted;
        loop {
            match table.snapshot_at(version).await {
                Ok(found) if found.files.iter().all(|file| present.contains(&file.path)) => {
                    return Ok((version, found));
                }
                Ok(_) => {}
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
            let hour = match table.commit_time(version).await? {
                Some(time) => table.version_at((time - 1).div_euclid(HOUR_MS) * HOUR_MS).await?,
                None => None,
            };
            let step = kept.range(0..version).next_back().copied();
            version = hour.max(step).ok_or_else(|| self.vacuumed(table, wanted))?;
        }
    }

    fn vacuumed(&self, table: &Table, wanted: i64) -> Error {
        let hours = self.config().undo_window.as_secs() / 3600;
        let what = format!(
            "version {wanted} of table '{}' is vacuumed, and so is all before it: kept are {hours} h (setting undo_window_s)",
            table.name()
        );
        Error::new(Kind::NotFound, what)
    }
}

/// The merged rows of sources, which come oldest first.
pub(crate) async fn merged_sources(store: &Store, snapshot: &ReadSnapshot, sources: &[Source]) -> Result<RowStream> {
    let table = store.table(&snapshot.database, &snapshot.table).await?;
    let logical = logical_schema(&snapshot.schema);
    let all: Vec<usize> = (0..logical.fields().len()).collect();
    let mut inputs: Vec<RowStream> = Vec::with_capacity(sources.len());
    for source in sources {
        match (source, &table) {
            (Source::File(file), Some(table)) => inputs.push(table.read_file(file, &snapshot.schema).await?),
            (Source::File(file), None) => {
                return Err(Error::new(Kind::NotFound, format!("the table of file '{}' was dropped", file.path)));
            }
            (Source::Run(run), _) => {
                let (run, all, logical) = (run.clone(), all.clone(), Arc::clone(&logical));
                let run = run.sorted()?;
                let rows = run.rows();
                let batches = stream::iter((0..rows).step_by(RUN_BATCH_ROWS))
                    .map(move |start| run.batch(start..(start + RUN_BATCH_ROWS).min(rows), &all, &logical));
                inputs.push(batches.boxed());
            }
        }
    }
    Ok(crate::read::merged(&snapshot.schema, inputs)?.boxed())
}
