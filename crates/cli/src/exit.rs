//! Exit codes, and the one place that maps error kinds to them.

use std::process::ExitCode;

use weir_base::Kind;

use crate::client::{Refused, Unreachable};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "the codes are a promise; commands use them as they come")]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The check or comparison failed.
    Failed,
    /// Bad usage or bad input.
    Usage,
    /// The named thing does not exist.
    NotFound,
    /// Conflict or stale plan.
    Conflict,
    /// Some of it was done.
    Partial,
    /// Unavailable or timed out.
    Unavailable,
    /// Damaged data.
    Damaged,
    /// A bug in Weir.
    Bug,
    /// As the command that was run, or repeated, ended.
    Command(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotFound => 3,
            Exit::Conflict => 4,
            Exit::Partial => 5,
            Exit::Unavailable => 6,
            Exit::Damaged => 7,
            Exit::Bug => 70,
            Exit::Command(code) => code,
        })
    }
}

impl From<Kind> for Exit {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::NotFound => Exit::NotFound,
            // A command that its token does not allow was the wrong command, or the wrong token.
            Kind::Invalid | Kind::Forbidden => Exit::Usage,
            Kind::Conflict => Exit::Conflict,
            Kind::Limit | Kind::Unavailable => Exit::Unavailable,
            Kind::Damaged => Exit::Damaged,
            Kind::Internal => Exit::Bug,
        }
    }
}

/// The code for an error: that of the first error in its chain whose kind is known, else of bad usage.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    kind_in(error).map_or(Exit::Usage, Exit::from)
}

/// The kind of the first error in the chain that has one.
pub(crate) fn kind_in(error: &anyhow::Error) -> Option<Kind> {
    error.chain().find_map(kind_of)
}

fn kind_of(error: &(dyn std::error::Error + 'static)) -> Option<Kind> {
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        return Some(weir_base::error::kind_of_io(io));
    }
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return Some(refused.kind);
    }
    if error.is::<Unreachable>() {
        return Some(Kind::Unavailable);
    }
    macro_rules! kind_of_crates {
        ($($name:ident),*) => {
            $(if let Some(error) = error.downcast_ref::<$name::Error>() {
                return Some(error.kind());
            })*
        };
    }
    kind_of_crates!(
        weir_access,
        weir_cache,
        weir_deps,
        weir_engine,
        weir_journal,
        weir_ops,
        weir_query,
        weir_server,
        weir_track
    );
    None
}
