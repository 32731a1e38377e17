//! Where answers go, and how long each stage took.

use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use weir_base::{Clock, FileSystem, OsFileSystem, SystemClock};

/// Writes to a file (replaced as a whole) or to stdout. A closed pipe is the reader's wish, not an error.
pub(crate) fn write(file: Option<&Path>, text: &str) -> anyhow::Result<()> {
    if let Some(file) = file {
        return Ok(OsFileSystem.replace(file, text.as_bytes())?);
    }
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Durations of stages, in the order they ran.
#[derive(Debug)]
pub(crate) struct Timings {
    clock: SystemClock,
    last: Duration,
    stages: Vec<(&'static str, Duration)>,
}

impl Timings {
    /// Starts now.
    pub(crate) fn new() -> Self {
        let clock = SystemClock::default();
        Self { last: clock.monotonic(), clock, stages: Vec::new() }
    }

    /// Ends a stage.
    pub(crate) fn mark(&mut self, stage: &'static str) {
        let now = self.clock.monotonic();
        self.stages.push((stage, now - self.last));
        self.last = now;
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (stage, took) in &self.stages {
            writeln!(f, "{stage:>10} {:>9.2} ms", took.as_secs_f64() * 1e3)?;
        }
        let total: Duration = self.stages.iter().map(|(_, took)| *took).sum();
        write!(f, "{:>10} {:>9.2} ms", "total", total.as_secs_f64() * 1e3)
    }
}
