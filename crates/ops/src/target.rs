//! What an operation works on, as the core sees it.

use std::fmt;
use std::time::Duration;

use weir_limits::Deadline;

use crate::operation::{Entry, Value};

/// Something that can be read and changed by key. Called from several threads at once.
///
/// Every call must end by its deadline (S2). A call that may have had an effect though it failed says so by
/// [`Class::Retry`]: the core asks before it calls again.
pub trait Target: Sync {
    /// A stable name of what is changed; operations and plans are bound to it.
    fn name(&self) -> &str;

    /// The states of `keys` now, in their order, read afresh.
    ///
    /// # Errors
    /// A failure of any class; the core retries what may be retried.
    fn read(&self, keys: &[&str], deadline: Deadline) -> Result<Vec<Value>, Failure>;

    /// Begins to bring `entry.key` to `to`. Must be safe to run twice when the state is still what it was (R2).
    ///
    /// # Errors
    /// The class decides what the core does next.
    fn start(&self, entry: &Entry, to: &Value, deadline: Deadline) -> Result<Started, Failure>;

    /// What came of an earlier [`Target::start`], known by its request where there was an answer.
    ///
    /// # Errors
    /// As [`Target::read`].
    fn ask(&self, entry: &Entry, to: &Value, request: Option<&str>, deadline: Deadline) -> Result<Asked, Failure> {
        let _ = request;
        let state = self.read(&[&entry.key], deadline)?.into_iter().next().unwrap_or(None);
        Ok(if state == *to { Asked::Done } else { Asked::State(state) })
    }

    /// Whether `state` can be what an interrupted change of ours left between `from` and `to`.
    fn is_between(&self, entry: &Entry, from: &Value, to: &Value, state: &Value) -> bool {
        let _ = (entry, from, to, state);
        false
    }

    /// Why `entry`, which takes an earlier change back, cannot be done at all, in words that follow its key; `None` when nothing is
    /// known to be in its way. Asked when an undo is planned; such an entry is a conflict under every policy.
    ///
    /// # Errors
    /// As [`Target::read`].
    fn obstacle(&self, entry: &Entry, deadline: Deadline) -> Result<Option<String>, Failure> {
        let _ = (entry, deadline);
        Ok(None)
    }

    /// How many changes may be outstanding at once.
    fn outstanding_max(&self) -> usize {
        16
    }

    /// Pause between two questions about an accepted request.
    fn ask_pause(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// What a call began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It is done.
    Done {
        /// The target's id for the request.
        request: Option<String>,
    },
    /// The target works on it.
    Accepted {
        /// The target's id for the request.
        request: String,
    },
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// It is done.
    Done,
    /// The target still works on it, under this id.
    Accepted {
        /// The target's id for the request.
        request: String,
    },
    /// Nothing is going on, and this is the state.
    State(Value),
    /// The target gave up, for this reason.
    Failed(Failure),
}

/// What to do about a failure. None of them counts as success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Try again, further and further apart; it may have had an effect.
    Retry,
    /// Somebody else is at it: wait and try again; it had no effect.
    Wait,
    /// This entry cannot be done; go on with the others.
    Skip,
    /// Nothing can be done any more, such as access denied.
    Stop,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What to do about it.
    pub class: Class,
    /// In words, lowercase, without a full stop.
    pub reason: String,
    /// The target's id for the request.
    pub request: Option<String>,
    /// Not before this long.
    pub after: Option<Duration>,
}

impl Failure {
    /// A failure without request and pause.
    pub fn new(class: Class, reason: impl Into<String>) -> Self {
        Self { class, reason: reason.into(), request: None, after: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for crate::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure.class {
            Class::Retry | Class::Wait => weir_base::Kind::Unavailable,
            Class::Skip => weir_base::Kind::NotFound,
            Class::Stop => weir_base::Kind::Unavailable,
        };
        Self::wrap(kind, "the target did not answer", failure)
    }
}
