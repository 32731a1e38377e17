//! What people see: messages and errors on stderr, never wrapped machine output on stdout.

use std::io::{IsTerminal, Write};

/// Where and how to talk to people.
#[derive(Debug)]
pub(crate) struct Terminal {
    quiet: bool,
    color: bool,
    progress: bool,
}

#[allow(dead_code, reason = "commands use these as they come")]
impl Terminal {
    /// Colours and progress bars only where stderr is a terminal.
    pub(crate) fn new(quiet: bool, no_color: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let refused = no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { quiet, color: is_terminal && !refused, progress: is_terminal && !quiet }
    }

    /// A message for people; nothing with `--quiet`.
    pub(crate) fn say(&self, message: impl std::fmt::Display) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr(), "{message}");
        }
    }

    /// A warning for people, also with `--quiet`.
    pub(crate) fn warn(&self, message: impl std::fmt::Display) {
        self.labelled("33", "warning", &message.to_string());
    }

    /// An error with its causes.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.labelled("31", "error", &format!("{error:#}"));
    }

    /// Whether to draw progress bars.
    pub(crate) fn draws_progress(&self) -> bool {
        self.progress
    }

    fn labelled(&self, color: &str, label: &str, message: &str) {
        let mut stderr = std::io::stderr();
        let _ = if self.color {
            writeln!(stderr, "\x1b[1;{color}m{label}:\x1b[0m {message}")
        } else {
            writeln!(stderr, "{label}: {message}")
        };
    }
}
