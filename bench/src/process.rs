//! The process that is measured: started, watched through `/proc`, and ended.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts `command` with its output in `log`.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        let err = out.try_clone()?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child })
    }

    /// Waits until `ready` says so; an error when the process ends first or `timeout` passes.
    pub fn wait_until(&mut self, timeout: Duration, mut ready: impl FnMut() -> bool) -> anyhow::Result<Duration> {
        let start = Instant::now();
        loop {
            if ready() {
                return Ok(start.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended before it was ready ({status}); see its log");
            }
            if start.elapsed() > timeout {
                bail!("the server was not ready after {timeout:?}; see its log");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The figures of now.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(&self.child.id().to_string())
    }

    /// Forgets the highest resident size so far.
    pub fn forget_peak(&self) -> anyhow::Result<()> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        // 5 is the kernel's word for it: proc(5).
        std::fs::write(&path, "5").with_context(|| format!("cannot write {path}"))
    }

    /// `SIGKILL`, and waits for the end.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// `SIGTERM`, and waits; whether it ended with code 0 within `timeout`.
    pub fn stop(self, timeout: Duration) -> anyhow::Result<bool> {
        Ok(self.end(timeout)?.is_some_and(|status| status.success()))
    }

    /// `SIGTERM`, and waits; how it ended, if it did within `timeout`.
    pub fn end(mut self, timeout: Duration) -> anyhow::Result<Option<ExitStatus>> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        while start.elapsed() < timeout {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// CPU seconds in user and kernel mode, all threads, the ended ones too.
    pub cpu_seconds: f64,
    /// Highest resident size in bytes (`VmHWM`).
    pub peak_bytes: u64,
    /// Resident size now without the pages of files, such as its code, in bytes (`RssAnon`).
    pub anonymous_bytes: u64,
}

impl Usage {
    /// The figures of this process.
    pub fn of_self() -> anyhow::Result<Self> {
        Self::of("self")
    }

    fn of(pid: &str) -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name is in parentheses and may hold spaces: fields are counted from behind it.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| -> anyhow::Result<u64> { Ok(fields.get(index).context("a short stat")?.parse()?) };
        let total = ticks(11)? + ticks(12)?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| -> anyhow::Result<u64> {
            let found =
                status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok(found.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        Ok(Self {
            cpu_seconds: total as f64 / rustix::param::clock_ticks_per_second() as f64,
            peak_bytes: bytes("VmHWM:")?,
            anonymous_bytes: bytes("RssAnon:")?,
        })
    }
}

/// An address on this machine that nobody listens on.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_work_of_this_process() {
        let before = Usage::of_self().unwrap();
        let start = Instant::now();
        let mut x = 1_u64;
        while start.elapsed() < Duration::from_millis(150) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        let after = Usage::of_self().unwrap();
        assert!(after.cpu_seconds > before.cpu_seconds);
        assert!(after.peak_bytes > 1 << 20);
    }

    #[test]
    fn a_server_that_ends_at_once_is_an_error() {
        let log = std::env::temp_dir().join(format!("weir-bench-process-{}", std::process::id()));
        let mut server = Server::start(Command::new("true"), &log).unwrap();
        assert!(server.wait_until(Duration::from_secs(10), || false).is_err());
        std::fs::remove_file(log).unwrap();
    }
}
