//! A plan: exactly what is going to be done, bound to what was seen. Applying it leaves no choice (R3).

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use weir_base::checksum::{blake3, hex};
use weir_base::id::Uuid;
use weir_base::{Kind, Timestamp};
use weir_journal::Query;
use weir_limits::{Deadline, Retry};

use crate::event::Event;
use crate::filter::Filter;
use crate::operation::{Entry, Value};
use crate::target::{Class, Failure, Target};
use crate::{Env, Error, History, Result};

const FORMAT: &str = "weir-plan";
const VERSION: u32 = 1;
/// Entries of one plan.
pub const ENTRIES_MAX: usize = 100_000;
/// How long the states of a plan may take to read.
pub(crate) const READ_MAX: std::time::Duration = std::time::Duration::from_secs(3600);

/// What to do where the world is not as the history left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Do nothing at all.
    #[default]
    Refuse,
    /// Leave those entries alone.
    Skip,
    /// Overwrite.
    Force,
}

/// Why an entry is not simply done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoteKind {
    /// There is nothing to do.
    Skip,
    /// The state is not what the history left.
    Drift,
    /// A later operation changed the same thing.
    Conflict,
}

/// A remark about one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// The key.
    pub key: String,
    /// Of which kind.
    pub kind: NoteKind,
    /// In words.
    pub what: String,
    /// For people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is going to be done. Format: `docs/formats/operations.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// `weir-plan`.
    pub format: String,
    /// 1.
    pub version: u32,
    /// UUIDv7.
    pub id: Uuid,
    /// When it was made, nanoseconds UTC.
    pub made: Timestamp,
    /// Who asked for it.
    pub actor: String,
    /// What it changes, as the target names itself.
    pub target: String,
    /// What it is, such as `assign`.
    pub kind: String,
    /// The operations that it undoes.
    pub undoes: Vec<Uuid>,
    /// What was to be done about drift.
    pub policy: Policy,
    /// The history that it belongs to.
    pub history: Uuid,
    /// The next sequence of that history when the states were read.
    pub position: u64,
    /// BLAKE3 over keys and states as read.
    pub observed: String,
    /// What is done, in order; only what changes something.
    pub entries: Vec<Entry>,
    /// What is not, and why.
    pub notes: Vec<Note>,
    /// BLAKE3 over all of the above.
    pub digest: String,
}

impl Plan {
    /// Reads the states of `wishes` now and says what has to be done so that each is as its `after` (their `before` is not looked at).
    ///
    /// # Errors
    /// `Invalid` when a key comes twice, `Limit` past [`ENTRIES_MAX`], and what reading the target gives.
    pub fn make(history: &History, target: &dyn Target, actor: &str, kind: &str, wishes: Vec<Entry>) -> Result<Self> {
        let mut plan = Self::empty(history, target, actor, kind);
        let states = read(history.env(), target, &keys(&wishes))?;
        for (mut entry, state) in wishes.into_iter().zip(states) {
            entry.before = state;
            if entry.before == entry.after {
                let what = if entry.after.is_some() { "is there already" } else { "is not there" };
                let (key, labels) = (entry.key, entry.labels);
                plan.notes.push(Note { key, kind: NoteKind::Skip, what: what.to_owned(), labels });
            } else {
                plan.entries.push(entry);
            }
        }
        plan.seal()
    }

    pub(crate) fn empty(history: &History, target: &dyn Target, actor: &str, kind: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            id: history.new_id(),
            made: history.env().clock().now(),
            actor: actor.to_owned(),
            target: target.name().to_owned(),
            kind: kind.to_owned(),
            undoes: Vec::new(),
            policy: Policy::Refuse,
            history: history.id(),
            position: history.position(),
            observed: String::new(),
            entries: Vec::new(),
            notes: Vec::new(),
            digest: String::new(),
        }
    }

    /// Checks the entries and puts the digests in.
    pub(crate) fn seal(mut self) -> Result<Self> {
        self.check_entries()?;
        self.observed = observed(self.entries.iter().map(|entry| (entry.key.as_str(), &entry.before)));
        self.digest = self.digest_now()?;
        Ok(self)
    }

    fn check_entries(&self) -> Result<()> {
        if self.entries.len() > ENTRIES_MAX {
            let count = self.entries.len();
            return Err(Error::new(Kind::Limit, format!("{count} entries are too many for one plan ({ENTRIES_MAX})")));
        }
        let mut seen = HashSet::new();
        match self.entries.iter().find(|entry| !seen.insert(entry.key.as_str())) {
            Some(entry) => Err(Error::invalid(format!("'{}' is in the plan twice", entry.key))),
            None => Ok(()),
        }
    }

    fn digest_now(&self) -> Result<String> {
        let bare = Self { digest: String::new(), ..self.clone() };
        let bytes =
            serde_json::to_vec(&bare).map_err(|error| Error::wrap(Kind::Internal, "cannot encode the plan", error))?;
        Ok(hex(&blake3(&bytes)))
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// `Invalid` when it is no plan, `Conflict` when it was changed after it was made.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let plan: Self =
            serde_json::from_slice(bytes).map_err(|error| Error::wrap(Kind::Invalid, "this is no plan", error))?;
        if plan.format != FORMAT || plan.version != VERSION {
            return Err(Error::invalid(format!("this is no plan of version {VERSION}")));
        }
        if plan.digest != plan.digest_now()? {
            return Err(Error::conflict("the plan was changed after it was made: make a new one"));
        }
        plan.check_entries()?;
        Ok(plan)
    }

    /// The bytes of a plan file.
    ///
    /// # Errors
    /// `Internal` when JSON cannot express a state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::wrap(Kind::Internal, "cannot encode the plan", error))?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Notes of a kind.
    pub fn notes_of(&self, kind: NoteKind) -> impl Iterator<Item = &Note> {
        self.notes.iter().filter(move |note| note.kind == kind)
    }

    /// Refuses a plan that touches what is protected.
    ///
    /// # Errors
    /// `Conflict` with the first entry that a pattern protects.
    pub fn check_protected(&self, protected: &[Filter]) -> Result<()> {
        let found = self.entries.iter().find(|entry| protected.iter().any(|filter| filter.holds(entry)));
        match found {
            Some(entry) => Err(Error::conflict(format!("'{}' is protected by the configuration", entry.key))),
            None => Ok(()),
        }
    }

    /// R3: refuses when the plan does not belong here, was refused by its own policy, or the world moved since.
    ///
    /// # Errors
    /// `Conflict` when it is stale; what reading the target gives.
    pub fn check_fresh(&self, history: &History, target: &dyn Target) -> Result<()> {
        if self.target != target.name() {
            return Err(Error::conflict(format!("the plan is for {}, not for {}", self.target, target.name())));
        }
        if self.history != history.id() {
            return Err(Error::conflict("the plan was made with another history of operations"));
        }
        if self.policy == Policy::Refuse {
            let moved = self.notes.iter().find(|note| note.kind != NoteKind::Skip);
            if let Some(note) = moved {
                return Err(Error::conflict(format!(
                    "'{}' {}: choose what to do about it with --drift skip or --drift force",
                    note.key, note.what
                )));
            }
        }
        let planned: HashSet<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        let view = history.view()?;
        let query = Query { sequences: self.position..=u64::MAX, kinds: vec![2], ..Query::default() };
        let mut records = view.reader().query(query);
        while let Some(record) = records.next_ref()? {
            let Some(Event::Begin(begin)) = Event::parse(record.kind, record.payload)? else { continue };
            if begin.target == self.target
                && let Some(entry) = begin.entries.iter().find(|entry| planned.contains(entry.key.as_str()))
            {
                let id = String::from_utf8_lossy(record.key).into_owned();
                return Err(Error::conflict(format!(
                    "the plan is stale: operation {id} was about '{}' since: make a new one",
                    entry.key
                )));
            }
        }
        let states = read(history.env(), target, &keys(&self.entries))?;
        let now = self.entries.iter().zip(&states).map(|(entry, state)| (entry.key.as_str(), state));
        if observed(now.clone()) != self.observed {
            let moved = now.zip(&self.entries).find(|((_, state), entry)| **state != entry.before);
            let key = moved.map_or("", |((key, _), _)| key);
            return Err(Error::conflict(format!("the plan is stale: '{key}' changed since: make a new one")));
        }
        Ok(())
    }
}

pub(crate) fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

/// Digest of keys and states.
fn observed<'a>(states: impl Iterator<Item = (&'a str, &'a Value)>) -> String {
    let mut bytes = Vec::new();
    for (key, state) in states {
        let state = serde_json::to_string(state).unwrap_or_default();
        for part in [key.as_bytes(), state.as_bytes()] {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    hex(&blake3(&bytes))
}

/// Reads states, trying again where that may help.
pub(crate) fn read(env: &Env, target: &dyn Target, keys: &[&str]) -> Result<Vec<Value>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let deadline = Deadline::after(env.clock(), READ_MAX);
    let may_retry = |failure: &Failure| matches!(failure.class, Class::Retry | Class::Wait);
    let states = Retry::default()
        .run(env.clock(), &*env.random, deadline, may_retry, || target.read(keys, deadline))
        .map_err(Error::from)?;
    if states.len() == keys.len() {
        Ok(states)
    } else {
        Err(Error::new(Kind::Internal, "the target did not give a state for every key"))
    }
}
