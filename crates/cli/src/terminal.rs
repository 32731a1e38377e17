//! What people see: messages and errors on stderr, never wrapped machine output on stdout.

use std::io::{IsTerminal, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::exit::Exit;

/// Prints an answer to stdout. A reader that went away (`| head`) has what it wanted: that is no error.
pub(crate) fn print(text: impl AsRef<str>) -> anyhow::Result<Exit> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_ref().as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Done),
    }
}

/// Where and how to talk to people.
#[derive(Debug, Clone, Copy)]
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

    /// Whether only answers and errors are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether to draw progress bars.
    pub(crate) fn draws_progress(&self) -> bool {
        self.progress
    }

    /// A bar over `total` bytes, or a counter when that is not known; drawn only on a terminal.
    pub(crate) fn bytes_bar(&self, total: Option<u64>, what: &'static str) -> ProgressBar {
        if !self.progress {
            return ProgressBar::hidden();
        }
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{msg:10} {bar:32} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
            ),
            None => (ProgressBar::new_spinner(), "{msg:10} {spinner} {bytes}, {binary_bytes_per_sec}"),
        };
        // The templates are fixed; a test makes both.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what);
        bar
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
