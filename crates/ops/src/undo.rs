//! Planning an undo: exactly what the operations changed, newest first, as the world is now (R4).
//!
//! Walk: `changes` puts what the operations did into one net change per key; `later` finds operations that changed the same
//! keys since; [`Plan::undo`] compares both with a fresh read and decides by the policy.

use std::collections::{HashMap, HashSet};

use weir_base::Kind;
use weir_base::id::Uuid;
use weir_limits::Deadline;

use crate::filter::Filter;
use crate::operation::{Entry, Operation, State, Step, Value};
use crate::plan::{self, Note, NoteKind, Plan, Policy};
use crate::target::Target;
use crate::view::{Listing, View};
use crate::{Env, Error, History, Result};

/// What to undo, and what to do about drift.
#[derive(Debug, Clone, Default)]
pub struct UndoOptions {
    /// What to do where the world is not as the operations left it.
    pub policy: Policy,
    /// Only these entries.
    pub only: Filter,
}

/// The net change of a key by the operations that are undone.
struct Change {
    key: String,
    /// What the newest of them left, or where it failed in between, what that was aimed at.
    left: Value,
    /// What was there before the oldest of them.
    back: Value,
    /// Whether it is certain that we changed it.
    certain: bool,
    stage: u32,
    entry: Entry,
}

impl Plan {
    /// The plan that undoes `ids`, as one operation: the newest first, entries in reverse.
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when they changed something else than `target` or are still running, and what reading gives.
    pub fn undo(
        history: &History,
        target: &dyn Target,
        actor: &str,
        ids: &[Uuid],
        options: &UndoOptions,
    ) -> Result<Self> {
        let mut plan = Self::empty(history, target, actor, "undo");
        let view = history.view()?;
        let mut operations = Vec::new();
        for id in ids {
            let (operation, _) = view.show(&id.to_string())?;
            check(&operation, target)?;
            operations.push(operation);
        }
        if operations.is_empty() {
            return Err(Error::new(Kind::NotFound, "no operation to undo"));
        }
        operations.sort_unstable_by_key(|operation| std::cmp::Reverse(operation.id));
        plan.undoes = operations.iter().map(|operation| operation.id).collect();
        plan.policy = options.policy;
        let changes = changes(&operations, &options.only);
        let conflicts = later(&view, &operations, &changes)?;
        let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
        let states = plan::read(history.env(), target, &keys)?;
        for (change, live) in changes.into_iter().zip(states) {
            plan.decide(history.env(), target, change, live, &conflicts)?;
        }
        plan.entries.sort_by_key(|entry| entry.stage);
        plan.seal()
    }

    fn decide(
        &mut self,
        env: &Env,
        target: &dyn Target,
        change: Change,
        live: Value,
        conflicts: &HashMap<String, Uuid>,
    ) -> Result<()> {
        let labels = change.entry.labels.clone();
        let note = |kind, what: String| Note { key: change.key.clone(), kind, what, labels: labels.clone() };
        if live == change.back {
            self.notes.push(note(NoteKind::Skip, "is as it was before".to_owned()));
            return Ok(());
        }
        let between = target.is_between(&change.entry, &change.back, &change.left, &live);
        if !change.certain && live != change.left && !between {
            self.notes.push(note(NoteKind::Skip, "was not changed by the operation".to_owned()));
            return Ok(());
        }
        let trouble = match conflicts.get(&change.key) {
            Some(id) => Some(note(NoteKind::Conflict, format!("was changed by the later operation {id}"))),
            None if live == change.left || between => None,
            None => Some(note(NoteKind::Drift, "is not as the operation left it".to_owned())),
        };
        if let Some(note) = trouble {
            self.notes.push(note);
            if self.policy != Policy::Force {
                return Ok(());
            }
        }
        let labels = change.entry.labels;
        let entry = Entry { key: change.key, before: live, after: change.back, labels, stage: change.stage };
        let deadline = Deadline::after(env.clock(), plan::READ_MAX);
        match target.obstacle(&entry, deadline).map_err(Error::from)? {
            Some(what) => {
                self.notes.push(Note { key: entry.key, kind: NoteKind::Conflict, what, labels: entry.labels });
            }
            None => self.entries.push(entry),
        }
        Ok(())
    }
}

fn check(operation: &Operation, target: &dyn Target) -> Result<()> {
    let id = operation.id;
    if operation.target != target.name() {
        let theirs = &operation.target;
        return Err(Error::conflict(format!("operation {id} changed {theirs}, not {}", target.name())));
    }
    if operation.state == State::Running {
        return Err(Error::conflict(format!("operation {id} is not finished: resume it, or settle it first")));
    }
    Ok(())
}

/// One net change per key, in the order of undoing. `operations` are the newest first.
fn changes(operations: &[Operation], only: &Filter) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut stage_base = 0;
    for operation in operations {
        let stage_last = operation.entries.iter().map(|entry| entry.stage).max().unwrap_or(0);
        for (entry, progress) in operation.entries.iter().zip(&operation.progress).rev() {
            let certain = progress.step == Step::Done;
            let possible =
                certain || progress.step.is_in_flight() || (progress.step == Step::Failed && progress.attempts > 0);
            if !possible || !only.holds(entry) {
                continue;
            }
            let stage = stage_base + stage_last - entry.stage;
            if let Some(place) = places.get(&entry.key) {
                let change = &mut changes[*place];
                change.back.clone_from(&entry.before);
                change.stage = stage;
                continue;
            }
            places.insert(entry.key.clone(), changes.len());
            changes.push(Change {
                key: entry.key.clone(),
                left: entry.after.clone(),
                back: entry.before.clone(),
                certain,
                stage,
                entry: entry.clone(),
            });
        }
        stage_base += stage_last + 1;
    }
    changes
}

/// Keys that an operation changed after the oldest of `operations`, if it still holds, and which one that was.
fn later(view: &View, operations: &[Operation], changes: &[Change]) -> Result<HashMap<String, Uuid>> {
    let mut found = HashMap::new();
    let Some(oldest) = operations.last() else { return Ok(found) };
    let selected: HashSet<Uuid> = operations.iter().map(|operation| operation.id).collect();
    let keys: HashSet<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    let (mut summaries, _) = view.list(&Listing::default())?;
    summaries.retain(|summary| summary.id >= oldest.id);
    let newer: HashSet<Uuid> = summaries.iter().map(|summary| summary.id).collect();
    for summary in summaries.iter().rev() {
        let is_ours = selected.contains(&summary.id) || *summary.target != *oldest.target;
        // An undo of something newer, and what it undid, together changed nothing.
        let cancels = !summary.undoes.is_empty() && summary.undoes.iter().all(|id| newer.contains(id));
        if is_ours || cancels || summary.undone_by.is_some() || summary.done == 0 {
            continue;
        }
        let (operation, _) = view.show(&summary.id.to_string())?;
        for (entry, progress) in operation.entries.iter().zip(&operation.progress) {
            if progress.step == Step::Done && keys.contains(entry.key.as_str()) {
                found.insert(entry.key.clone(), operation.id);
            }
        }
    }
    Ok(found)
}
