//! Takes a step of an operation back: the rows become what they would be had it never been, but for what was written since.
//!
//! Walk: the step's `txn` tells its commit N. The files that N removed or added say where rows can differ; the states at N-1, at
//! N and now are merged there (`rewrite::threeway`), and the result replaces the files of now. The undo of an undo is the
//! same on the next step.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_base::Kind;

use super::delete::commit;
use super::threeway::{self, Sides};
use super::{LOST_RACES_MAX, Place, Rewritten, merged_files, newest, span, sub_micro, write_files};
use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::overlap::overlap_groups;
use crate::store::file::DataFile;
use crate::store::{Change, NewFile, Snapshot, Step, Table};

/// A commit and what it changed.
struct Done {
    version: i64,
    before: Arc<Snapshot>,
    after: Arc<Snapshot>,
    /// Files that it removed or added.
    touched: Vec<Arc<DataFile>>,
}

impl Engine {
    /// The number of the last step of an operation that a table has on record: 0 when it was never done, odd when it holds,
    /// even when it is undone.
    ///
    /// # Errors
    /// `not found` when there is no such table; those of the store.
    pub async fn last_step(&self, database: &str, table: &str, operation: &str) -> Result<u32> {
        let state = self.existing(database, table).await?;
        let Some(table) = state.stored() else { return Ok(0) };
        Ok(last_step(&*newest(&self.shared, &table).await?, operation))
    }

    /// Commits step `number` (from 2) of an operation, which takes the step before it back; what was buffered when this was
    /// called is flushed first. Rows and fields that were written since that step keep their values. Once it is on record, nothing
    /// is done again.
    ///
    /// # Errors
    /// `not found` when there is no such table; `conflict` when the step before it is not on record or was committed longer
    /// ago than the undo window (setting `undo_window_s`), and, to be tried again, when others keep changing the files; those of the store.
    pub async fn undo_step(&self, database: &str, table: &str, operation: &str, number: u32) -> Result<Rewritten> {
        let place = self.place(database, table).await?;
        self.undo_at(&place, operation, number).await
    }

    pub(crate) async fn undo_at(&self, place: &Place, operation: &str, number: u32) -> Result<Rewritten> {
        let step = Step { operation: operation.to_owned(), number };
        let mut known = None;
        let mut lost = 0;
        loop {
            match undo_once(&self.shared, place, &step, &mut known).await {
                Err(error) if super::is_lost_race(&error) && lost < LOST_RACES_MAX => lost += 1,
                outcome => return outcome,
            }
        }
    }
}

/// As [`Engine::last_step`], of a snapshot.
pub(crate) fn last_step(snapshot: &Snapshot, operation: &str) -> u32 {
    let on_record = |number| {
        let step = Step { operation: operation.to_owned(), number };
        snapshot.transactions.contains_key(&step.app_id())
    };
    (1..).take_while(|number| on_record(*number)).last().unwrap_or(0)
}

async fn undo_once(shared: &Arc<Shared>, place: &Place, step: &Step, known: &mut Option<Done>) -> Result<Rewritten> {
    let _lease = place.state.compacting.lock().await;
    let table = place.check()?;
    let snapshot = newest(shared, table).await?;
    if let Some(version) = snapshot.transactions.get(&step.app_id()) {
        return Ok(Rewritten { version: *version, already: true, ..Rewritten::default() });
    }
    if known.is_none() {
        *known = Some(find(shared, table, &snapshot, step).await?);
    }
    let Some(done) = known else { return Err(Error::new(Kind::Internal, "a commit was found and is not there")) };
    let mut change = Change::rewrite("UNDO", step.clone(), Arc::clone(&snapshot), Vec::new(), Vec::new());
    let changed = Arc::new(AtomicU64::new(0));
    for (live, touched) in regions(&snapshot, done) {
        change.add.extend(take_back(shared, table, &snapshot, done, &live, &touched, &changed).await?);
        change.remove.extend(live);
    }
    commit(place, change, changed.load(Ordering::Relaxed)).await
}

/// Finds the commit of the step before `step`, and the states around it.
async fn find(shared: &Shared, table: &Table, snapshot: &Snapshot, step: &Step) -> Result<Done> {
    let back = Step { number: step.number.saturating_sub(1), ..step.clone() };
    let unknown = || {
        let what =
            format!("step {} of operation {} is not on record in '{}'", back.number, back.operation, table.name());
        Error::new(Kind::Conflict, what)
    };
    let version = *snapshot.transactions.get(&back.app_id()).ok_or_else(unknown)?;
    check_window(shared, snapshot, &back)?;
    let gone = |error: Error| match error.kind() {
        Kind::NotFound => past_window(shared, &back),
        _ => error,
    };
    let after = table.snapshot_at(version).await.map_err(gone)?;
    let before = table.snapshot_at(version - 1).await.map_err(gone)?;
    let only = |one: &Snapshot, other: &Snapshot| -> Vec<Arc<DataFile>> {
        let theirs: HashSet<&str> = other.files.iter().map(|file| file.path.as_str()).collect();
        one.files.iter().filter(|file| !theirs.contains(file.path.as_str())).cloned().collect()
    };
    let mut touched = only(&before, &after);
    touched.extend(only(&after, &before));
    Ok(Done { version, before, after, touched })
}

/// Refuses what is older than the undo window.
pub(crate) fn check_window(shared: &Shared, snapshot: &Snapshot, step: &Step) -> Result<()> {
    let window_ms = i64::try_from(shared.config.undo_window.as_millis()).unwrap_or(i64::MAX);
    let oldest = shared.env.clock.now().div_euclid(1_000_000).saturating_sub(window_ms);
    match snapshot.step_times.get(&step.app_id()) {
        Some(time) if *time < oldest => Err(past_window(shared, step)),
        _ => Ok(()),
    }
}

fn past_window(shared: &Shared, step: &Step) -> Error {
    let hours = shared.config.undo_window.as_secs() / 3600;
    let what = format!(
        "operation {} is past the undo window of {hours} h (setting undo_window_s): the files that held its rows are vacuumed",
        step.operation
    );
    Error::new(Kind::Conflict, what)
}

type Files = Vec<Arc<DataFile>>;

/// The closed groups of live files that may hold a key that the commit changed, each with the touched files that concern it.
fn regions(snapshot: &Snapshot, done: &Done) -> Vec<(Files, Files)> {
    let mut all: HashMap<&str, &Arc<DataFile>> = done.touched.iter().map(|file| (file.path.as_str(), file)).collect();
    let touched: HashSet<&str> = all.keys().copied().collect();
    all.extend(snapshot.files.iter().map(|file| (file.path.as_str(), file)));
    let live: HashSet<&str> = snapshot.files.iter().map(|file| file.path.as_str()).collect();
    let all: Files = all.into_values().cloned().collect();
    let groups = overlap_groups(&all).into_iter().map(|group| {
        let of = |paths: &HashSet<&str>| -> Files {
            group.iter().filter(|file| paths.contains(file.path.as_str())).cloned().collect()
        };
        (of(&live), of(&touched))
    });
    groups.filter(|(_, touched)| !touched.is_empty()).collect()
}

/// Writes the rows of a region as they would be without the commit.
async fn take_back(
    shared: &Shared,
    table: &Table,
    now: &Snapshot,
    done: &Done,
    live: &[Arc<DataFile>],
    touched: &[Arc<DataFile>],
    changed: &Arc<AtomicU64>,
) -> Result<Vec<NewFile>> {
    // A key that no touched file may hold is the same before and after, so what else these files hold comes out as it is now.
    let near = |snapshot: &Snapshot| -> Files {
        let files = snapshot.files.iter();
        files.filter(|file| touched.iter().any(|other| other.may_share_keys(file))).cloned().collect()
    };
    let (base, theirs) = (near(&done.after), near(&done.before));
    let sides = Sides {
        ours: merged_files(table, &now.schema, live).await?,
        base: merged_files(table, &now.schema, &base).await?,
        theirs: merged_files(table, &now.schema, &theirs).await?,
    };
    let rows = threeway::merge(&now.schema, sides, Arc::clone(changed))?;
    let fine = sub_micro(live) || sub_micro(&theirs);
    let mut files = write_files(shared, table, &now.schema, fine, rows).await?;
    let order = span(live).unwrap_or((done.version, done.version));
    files.iter_mut().for_each(|file| file.order = Some(order));
    Ok(files)
}
