//! Fewer, larger files with the same rows: merges runs of files that are neighbours in write order (E3).
//!
//! A set of files may be merged into one when no live file outside the set that may share keys with it lies between its
//! members in write order; the result spans their order. The store checks that again at the commit, where it also checks
//! that every input is still live, so two servers that compact the same files cannot both win. Readers keep the snapshot
//! they have; replaced files stay until vacuum.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use weir_base::Kind;

use crate::engine::{Engine, Shared};
use crate::error::Result;
use crate::overlap::overlap_groups;
use crate::pace::Pace;
use crate::slices;
use crate::store::file::DataFile;
use crate::store::{Change, Snapshot, Table};
use crate::table::TableState;
use crate::windows;

/// Files with fewer rows than this share of `compact_rows` count as small.
const SMALL_SHARE: usize = 8;

/// How often a compaction that was asked for starts over because another server was faster.
const LOST_RACES_MAX: u32 = 16;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files replaced.
    pub files_before: usize,
    /// Files that replaced them.
    pub files_after: usize,
    /// Rows in the new files.
    pub rows: u64,
}

impl Engine {
    /// Merges all files of a table that may share keys, and small neighbours, until neither are left; all tables and rollups of the
    /// database when `table` is `None`. Rows still in the buffer are not touched: flush first for a table of one row a key.
    ///
    /// # Errors
    /// `not found` when there is no such table; `conflict`, to be tried again, when another server changed the files.
    pub async fn compact(&self, database: &str, table: Option<&str>) -> Result<Compacted> {
        let names = match table {
            Some(table) => vec![table.to_owned()],
            None => {
                let rollups = self.shared.store.tables_beginning(database, crate::rollup::PREFIX);
                self.tables(database).await?.into_iter().chain(rollups).collect()
            }
        };
        let mut total = Compacted::default();
        for name in names {
            let state = self.shared.table(database, &name).await?.filter(|state| state.exists()).ok_or_else(|| {
                crate::Error::new(Kind::NotFound, format!("there is no table '{name}' in database '{database}'"))
            })?;
            while let Some(done) = compact_contended(&self.shared, &state).await? {
                total.files_before += done.files_before;
                total.files_after += done.files_after;
                total.rows += done.rows;
            }
        }
        Ok(total)
    }
}

/// Compacts a table in the background when it has grown many small files.
pub(crate) fn spawn_if_due(shared: &Arc<Shared>, state: Arc<TableState>) {
    let Some(snapshot) = state.snapshot() else { return };
    if snapshot.files.len() < shared.config.compact_files || choose(shared, &snapshot, false).is_none() {
        return;
    }
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let stop = shared.stop.clone();
        let work = compact_once(&shared, &state, false);
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = stop.cancelled() => return,
        };
        if let Err(error) = outcome {
            tracing::warn!(table = %state.name, error = %weir_base::error::chain(&error), "compaction failed");
        }
    });
}

/// One merge; chooses anew when another server replaced an input first, a bounded number of times.
async fn compact_contended(shared: &Arc<Shared>, state: &Arc<TableState>) -> Result<Option<Compacted>> {
    let mut lost = 0;
    loop {
        match compact_once(shared, state, true).await {
            Err(error) if error.kind() == Kind::Conflict && lost < LOST_RACES_MAX => lost += 1,
            outcome => return outcome,
        }
    }
}

/// One merge, or `None` when nothing is worth merging or somebody else is at it.
async fn compact_once(shared: &Arc<Shared>, state: &Arc<TableState>, wait: bool) -> Result<Option<Compacted>> {
    let _lease = if wait {
        state.compaction().await
    } else {
        match state.compacting.try_lock() {
            Ok(lease) => lease,
            Err(_) => return Ok(None),
        }
    };
    let Some(table) = state.stored() else { return Ok(None) };
    let snapshot = if shared.store.is_shared() { table.refresh().await? } else { table.snapshot() };
    let Some(inputs) = choose(shared, &snapshot, wait) else { return Ok(None) };
    let pace = Pace::new(state, (!wait).then(|| shared.config.compact_bytes_per_s.bytes()));
    let done = merge_files(shared, &table, &snapshot, inputs, state, pace).await?;
    shared.counters.compactions.fetch_add(1, Ordering::Relaxed);
    Ok(Some(done))
}

async fn merge_files(
    shared: &Arc<Shared>,
    table: &Arc<Table>,
    snapshot: &Arc<Snapshot>,
    inputs: Vec<Arc<DataFile>>,
    state: &Arc<TableState>,
    pace: Pace,
) -> Result<Compacted> {
    let add = {
        let (shared, table) = (Arc::clone(shared), Arc::clone(table));
        let (schema, inputs) = (Arc::clone(&snapshot.schema), inputs.clone());
        let (rows, bytes) = (shared.config.compact_rows, shared.config.compact_bytes_max);
        async move { slices::write(&table, &schema, &inputs, rows, bytes.bytes(), &pace).await }
    };
    let add = match &shared.upkeep {
        Some(upkeep) => upkeep.run(add).await?,
        None => add.await?,
    };
    let rows = add.iter().map(|new| new.file.rows).sum();
    let done = Compacted { files_before: inputs.len(), files_after: add.len(), rows };
    table.commit(Change::compaction(inputs, add)).await?;
    state.committed(table, false);
    Ok(done)
}

/// The files to merge next, oldest first: of a group that may share keys what may be open at once, else a run of small neighbours.
fn choose(shared: &Shared, snapshot: &Snapshot, thorough: bool) -> Option<Vec<Arc<DataFile>>> {
    let groups = overlap_groups(&snapshot.files);
    let rows = |group: &[Arc<DataFile>]| group.iter().map(|file| file.rows as usize).sum::<usize>();
    let bounds = windows::Bounds {
        bytes: shared.config.compact_bytes_max.bytes(),
        rows: shared.config.compact_rows as u64,
        files: shared.config.compact_files / 2,
    };
    // Files of one commit hold each key once, whatever their ranges look like: merging them gains nothing, and would be chosen again.
    let overlapping = groups.iter().filter_map(|group| {
        let window = match thorough {
            true => windows::asked_for(group, &snapshot.schema, bounds),
            false => windows::worth_it(group, &snapshot.schema, bounds),
        };
        window.map(|window| &group[window])
    });
    if let Some(window) = overlapping.min_by_key(|window| rows(window)) {
        return Some(window.to_vec());
    }
    let small = shared.config.compact_rows / SMALL_SHARE;
    let mut run: Vec<Arc<DataFile>> = Vec::new();
    let mut alone: Vec<&Arc<DataFile>> =
        groups.iter().filter(|group| group.len() == 1).map(|group| &group[0]).collect();
    // Neighbours in time make files with narrow time ranges; nothing shares keys with any of them, so any set is allowed.
    alone.sort_by_key(|file| file.time_min);
    for file in alone {
        if file.rows as usize >= small {
            if run.len() > 1 {
                break;
            }
            run.clear();
        } else if rows(&run) + file.rows as usize > shared.config.compact_rows
            || windows::bytes(&run, &snapshot.schema) + windows::open_bytes(file, &snapshot.schema) > bounds.bytes
        {
            break;
        } else {
            run.push(Arc::clone(file));
        }
    }
    let least = if thorough { 2 } else { shared.config.compact_files / 2 };
    run.sort_by_key(|file| file.order);
    (run.len() >= least.max(2)).then_some(run)
}
