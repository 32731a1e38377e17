//! What an operation is: its entries with exact states, how far each has come, and the fold of [`Event`]s that says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_base::Timestamp;
use weir_base::id::Uuid;

use crate::event::{Event, Outcome};
use crate::{Error, Result};

/// The state of one thing at a target: `None` is absent.
pub type Value = Option<serde_json::Value>;

/// One thing to change, with its exact state before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Names the thing at the target.
    pub key: String,
    /// Its state when the plan was made.
    pub before: Value,
    /// The state that is wanted.
    pub after: Value,
    /// For people and filters, such as `principal` and `account`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Entries of a stage are done before those of the next begin.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub stage: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(stage: &u32) -> bool {
    *stage == 0
}

impl Entry {
    /// An entry of stage 0 without labels.
    pub fn new(key: impl Into<String>, before: Value, after: Value) -> Self {
        Self { key: key.into(), before, after, labels: BTreeMap::new(), stage: 0 }
    }

    /// The word for what it does: `add`, `remove`, `change` or `keep`.
    pub fn action(&self) -> &'static str {
        match (&self.before, &self.after) {
            (before, after) if before == after => "keep",
            (None, _) => "add",
            (_, None) => "remove",
            _ => "change",
        }
    }
}

/// How far an entry has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Never called for.
    Planned,
    /// An intent without an outcome: the target has to be asked.
    Started,
    /// The target accepted it and works on it.
    Accepted,
    /// We changed it.
    Done,
    /// Not changed; the reason says why.
    Failed,
    /// Not touched; the reason says why.
    Skipped,
}

impl Step {
    /// Whether a call was made whose end is not known.
    pub fn is_in_flight(self) -> bool {
        matches!(self, Step::Started | Step::Accepted)
    }
}

/// What is known of one entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// How far it has come.
    pub step: Step,
    /// Calls that were made.
    pub attempts: u32,
    /// The target's id for the request.
    pub request: Option<String>,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// When the first call was announced, nanoseconds UTC.
    pub started: Option<Timestamp>,
    /// When the last outcome was written, nanoseconds UTC.
    pub ended: Option<Timestamp>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { step: Step::Planned, attempts: 0, request: None, reason: None, started: None, ended: None }
    }
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not sealed: it runs, or was interrupted and can be resumed.
    Running,
    /// Every entry is done or was rightly left alone, and a fresh read agrees.
    Done,
    /// Some entries are not done; it can be resumed.
    Partial,
    /// Nothing was done; it can be resumed.
    Failed,
}

impl State {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Done => "done",
            State::Partial => "partial",
            State::Failed => "failed",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

impl std::str::FromStr for State {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [State::Running, State::Done, State::Partial, State::Failed]
            .into_iter()
            .find(|state| state.word() == text)
            .ok_or_else(|| Error::invalid(format!("'{text}' is not running, done, partial or failed")))
    }
}

/// An operation as the history tells it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// UUIDv7.
    pub id: Uuid,
    /// Operations of one command share a run.
    pub run: Uuid,
    /// When it began, nanoseconds UTC.
    pub time: Timestamp,
    /// What it is, such as `assign`.
    pub kind: String,
    /// What it changes, as the target names itself.
    pub target: String,
    /// Who asked for it.
    pub actor: String,
    /// The operations that it undoes.
    pub undoes: Vec<Uuid>,
    /// Digest of the plan that it carries out; empty for an imported one.
    pub plan: String,
    /// Where an imported operation came from.
    pub origin: Option<String>,
    /// How it stands.
    pub state: State,
    /// Whether a fresh read after the last outcome agreed with every entry that is done.
    pub verified: bool,
    /// Entries that the last fresh read found different.
    pub wrong: Vec<u32>,
    /// When it was sealed last, nanoseconds UTC.
    pub ended: Option<Timestamp>,
    /// What is to change.
    pub entries: Vec<Entry>,
    /// How far each entry has come, in the same order.
    pub progress: Vec<Progress>,
}

impl Operation {
    /// The operation that a begin event describes.
    ///
    /// # Errors
    /// `Invalid` for any other event.
    pub fn begin(id: Uuid, time: Timestamp, event: Event) -> Result<Self> {
        let Event::Begin(begin) = event else {
            return Err(Error::invalid(format!("operation {id} does not begin with its beginning")));
        };
        let progress = vec![Progress::default(); begin.entries.len()];
        Ok(Self {
            id,
            run: begin.run,
            time,
            kind: begin.kind,
            target: begin.target,
            actor: begin.actor,
            undoes: begin.undoes,
            plan: begin.plan,
            origin: begin.origin,
            state: State::Running,
            verified: false,
            wrong: Vec::new(),
            ended: None,
            entries: begin.entries,
            progress,
        })
    }

    /// Folds one more event in. What names an entry that is not there is left out: it cannot have come from this operation.
    pub fn fold(&mut self, time: Timestamp, event: Event) {
        match event {
            Event::Begin(_) | Event::History { .. } | Event::Anchor { .. } => {}
            Event::Intent { entry, attempt } => {
                if let Some(progress) = self.progress.get_mut(entry as usize) {
                    progress.step = Step::Started;
                    progress.attempts = progress.attempts.max(attempt);
                    progress.started.get_or_insert(time);
                    progress.request = None;
                }
                self.reopen();
            }
            Event::Outcome { entry, attempts, result, request, reason } => {
                if let Some(progress) = self.progress.get_mut(entry as usize) {
                    progress.step = match result {
                        Outcome::Unknown => Step::Started,
                        Outcome::Accepted => Step::Accepted,
                        Outcome::Done => Step::Done,
                        Outcome::Failed => Step::Failed,
                        Outcome::Skipped => Step::Skipped,
                    };
                    progress.attempts = progress.attempts.max(attempts);
                    progress.request = request.or(progress.request.take());
                    progress.reason = reason;
                    progress.ended = Some(time);
                }
                self.reopen();
            }
            Event::Verified { wrong, .. } => {
                self.verified = wrong.is_empty();
                self.wrong = wrong;
            }
            Event::Seal { state } => {
                self.state = state;
                self.ended = Some(time);
            }
        }
    }

    fn reopen(&mut self) {
        self.state = State::Running;
        self.verified = false;
    }

    /// How many entries are at `step`.
    pub fn count(&self, step: Step) -> u32 {
        self.progress.iter().filter(|progress| progress.step == step).count() as u32
    }

    /// What the state is once no call is going on: done, partial or failed.
    pub fn sealed_state(&self) -> State {
        let open = self.count(Step::Planned) + self.count(Step::Failed) + self.count(Step::Started);
        let open = open + self.count(Step::Accepted);
        if open == 0 && self.verified {
            State::Done
        } else if self.count(Step::Done) == 0 {
            State::Failed
        } else {
            State::Partial
        }
    }

    /// Whether there is something left that resuming can do.
    pub fn is_resumable(&self) -> bool {
        self.state != State::Done
    }
}
