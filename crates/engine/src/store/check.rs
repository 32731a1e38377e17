//! When a change must be refused: what it was decided on is not so any more, or never fitted.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weir_base::{Kind, Retry};

use super::file::DataFile;
use super::state::LogState;
use super::table::{Change, NewFile, Snapshot};
use crate::error::{Error, Result};
use crate::schema::TableSchema;

fn conflict(what: impl Into<String>) -> Error {
    Error::new(Kind::Conflict, what).with_retry(Retry::Backoff)
}

/// The log's names and the sizes of the files to be removed, all of which must be live.
pub(super) fn live_of(state: &LogState, remove: &[Arc<DataFile>]) -> Result<Vec<(String, u64)>> {
    if remove.is_empty() {
        return Ok(Vec::new());
    }
    let live: HashMap<&str, &str> =
        state.files.iter().map(|live| (live.file.path.as_str(), live.base.as_str())).collect();
    let find = |file: &Arc<DataFile>| match live.get(file.path.as_str()) {
        Some(base) => Ok(((*base).to_owned(), file.size)),
        None => Err(conflict(format!("file '{}' has been removed by another commit", file.path))),
    };
    remove.iter().map(find).collect()
}

/// Refuses to merge files when a live file that may share keys with them lies between two of them in the write order.
pub(super) fn check_adjacent(state: &LogState, inputs: &[Arc<DataFile>]) -> Result<()> {
    let paths: HashSet<&str> = inputs.iter().map(|file| file.path.as_str()).collect();
    for live in state.files.iter().filter(|live| !paths.contains(live.file.path.as_str())) {
        let file = &live.file;
        let between =
            inputs.iter().any(|input| input.order < file.order) && inputs.iter().any(|input| input.order > file.order);
        if between && inputs.iter().any(|input| input.may_share_keys(file)) {
            return Err(conflict(format!("file '{}' lies between the files to be merged", file.path)));
        }
    }
    Ok(())
}

/// `current` with the columns of `wanted` that it lacks; `None` when it lacks none.
pub(super) fn merge_schema(current: &TableSchema, wanted: &TableSchema) -> Result<Option<TableSchema>> {
    let mut merged: Option<TableSchema> = None;
    let mut last_tag = None;
    for column in wanted.columns() {
        let base = merged.as_ref().unwrap_or(current);
        let index = match base.get(&column.name) {
            Some((index, found)) if found == column => index,
            Some((_, found)) if found.role != column.role => {
                let (is, not) = (crate::schema::role_word(found.role), crate::schema::role_word(column.role));
                return Err(conflict(format!("column '{}' is {is}, not {not}", column.name)));
            }
            Some(_) => return Err(conflict(format!("column '{}' is stored under another name", column.name))),
            None => {
                if base.columns().iter().any(|found| found.stored.eq_ignore_ascii_case(&column.stored)) {
                    return Err(conflict(format!("the stored name of column '{}' is taken", column.name)));
                }
                merged.get_or_insert_with(|| current.clone()).push(column.clone())
            }
        };
        if column.role == crate::schema::Role::Tag && last_tag.replace(index).is_some_and(|last| last > index) {
            return Err(conflict("the tags of the table have another order"));
        }
    }
    Ok(merged)
}

/// Refuses rewritten files when a file that came since `seen` may share keys with one of them and is not newer than all of it:
/// its rows would no longer lie where they were in the write order.
pub(super) fn check_newer(state: &LogState, seen: &Snapshot, remove: &[Arc<DataFile>], add: &[NewFile]) -> Result<()> {
    let known: HashSet<&str> = seen.files.iter().chain(remove).map(|file| file.path.as_str()).collect();
    for live in state.files.iter().filter(|live| !known.contains(live.file.path.as_str())) {
        let clashes = |new: &NewFile| {
            new.order.is_some_and(|order| live.file.order.0 <= order.1) && new.file.may_share_keys(&live.file)
        };
        if add.iter().any(clashes) {
            return Err(conflict(format!("file '{}' came in between", live.file.path)));
        }
    }
    Ok(())
}

/// What the change was decided on must be the last that its writer committed.
pub(super) fn check_after(state: &LogState, change: &Change) -> Result<()> {
    let (Some((app_id, _)), Some(after)) = (&change.txn, change.after) else { return Ok(()) };
    let last = state.transactions.get(app_id).copied().unwrap_or(-1);
    if last == after {
        return Ok(());
    }
    let what = format!("'{app_id}' is at {last} and not at {after} any more: somebody else committed meanwhile");
    Err(Error::new(Kind::Conflict, what))
}
