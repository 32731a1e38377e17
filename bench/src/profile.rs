//! Where a server's CPU time goes during a run: `perf` samples it from outside, by symbol, without its callers.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// A running recorder.
#[derive(Debug)]
pub struct Recorder {
    child: Child,
    samples: PathBuf,
}

impl Recorder {
    /// Samples the process `pid` with all its threads, into `folder`.
    pub fn start(pid: u32, folder: &Path) -> anyhow::Result<Self> {
        let samples = folder.join("perf.data");
        let child = Command::new("perf")
            .args(["record", "--quiet", "--freq", "299", "--pid", &pid.to_string(), "--output"])
            .arg(&samples)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run perf (package linux-perf)")?;
        Ok(Self { child, samples })
    }

    /// Stops sampling and returns the symbols that took at least 1 % of the CPU time, largest first.
    pub fn stop(mut self) -> anyhow::Result<String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::INT)?;
        self.child.wait()?;
        let output = Command::new("perf")
            .args(["report", "--stdio", "--no-children", "--percent-limit", "1", "--sort", "dso,symbol", "--input"])
            .arg(&self.samples)
            .output()?;
        ensure!(output.status.success(), "perf report: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        Ok(lines.map(|line| line.trim_end().to_owned() + "\n").collect())
    }
}
