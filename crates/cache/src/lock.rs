//! The namespace's lock: one writer at a time, over threads and processes.
//!
//! A thread first takes its turn within the process (a lease with a deadline, not a mutex held across I/O), then the
//! kernel's lock on the file `lock`. The uncontended path is one system call on a descriptor that stays open; only a waiter
//! pays for a helper thread ([`FileLock`]).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::FlockOperation;
use weir_base::{Clock, File, FileLock, FileSystem, Kind, LockError, OpenMode, Retry};
use weir_limits::Deadline;

use crate::error::{Error, Result};
use crate::options::LockWait;

const POLL_FIRST: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(crate) struct NamespaceLock {
    path: PathBuf,
    file: Arc<dyn File>,
    wait: LockWait,
    clock: Arc<dyn Clock>,
    taken: Mutex<bool>,
    freed: Condvar,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    lock: &'a NamespaceLock,
    /// Set when a helper took the lock on a descriptor of its own.
    by_helper: Option<FileLock>,
}

impl NamespaceLock {
    /// With `read_only` the file must exist; such a handle never takes the lock.
    pub(crate) fn open(
        fs: &dyn FileSystem,
        path: PathBuf,
        wait: LockWait,
        read_only: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let mode = if read_only { OpenMode::Read } else { OpenMode::Create };
        let file = fs.open(&path, mode).map_err(|error| Error::io("cannot open the lock file", error))?;
        let wait = match wait {
            LockWait::Kernel if is_network_disk(&path) => LockWait::Exponential,
            other => other,
        };
        Ok(Self { path, file, wait, clock, taken: Mutex::new(false), freed: Condvar::new() })
    }

    /// How waiting is done here.
    pub(crate) fn wait(&self) -> LockWait {
        self.wait
    }

    /// Takes the lock; `Unavailable` at the deadline.
    pub(crate) fn acquire(&self, deadline: Deadline) -> Result<Held<'_>> {
        self.take_turn(deadline)?;
        // From here on `Held` gives the turn back on every path.
        let mut held = Held { lock: self, by_helper: None };
        if self.try_kernel()? {
            return Ok(held);
        }
        match self.wait {
            LockWait::Kernel => {
                let remaining = deadline.remaining(&*self.clock);
                let lock =
                    FileLock::acquire(&self.path, "weir cache", remaining).map_err(|error| self.not_free(error))?;
                held.by_helper = Some(lock);
            }
            LockWait::Exponential | LockWait::Linear => self.poll(deadline)?,
        }
        Ok(held)
    }

    fn take_turn(&self, deadline: Deadline) -> Result<()> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            let remaining = deadline.remaining(&*self.clock);
            if remaining.is_zero() {
                return Err(unavailable("another thread is writing to this namespace"));
            }
            taken = self.freed.wait_timeout(taken, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(())
    }

    fn try_kernel(&self) -> Result<bool> {
        let Some(file) = self.file.os_file() else { return Ok(true) };
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(Error::io("cannot lock the namespace", errno.into())),
        }
    }

    fn poll(&self, deadline: Deadline) -> Result<()> {
        let mut pause = POLL_FIRST;
        loop {
            let remaining = deadline.remaining(&*self.clock);
            if remaining.is_zero() {
                return Err(unavailable(format!("{} is held by another process", self.path.display())));
            }
            self.clock.sleep(pause.min(remaining));
            if self.try_kernel()? {
                return Ok(());
            }
            if self.wait == LockWait::Exponential {
                pause = (pause * 2).min(POLL_MAX);
            }
        }
    }

    fn not_free(&self, error: LockError) -> Error {
        match error {
            LockError::Io(source) => Error::io("cannot lock the namespace", source),
            held @ LockError::Held { .. } => unavailable(held.to_string()),
        }
    }
}

fn unavailable(context: impl Into<String>) -> Error {
    Error::new(Kind::Unavailable, context).with_retry(Retry::Backoff)
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        match (self.by_helper.take(), self.lock.file.os_file()) {
            (Some(helper), _) => drop(helper),
            // Closing would release it too; an error here leaves nothing to do.
            (None, Some(file)) => drop(rustix::fs::flock(file, FlockOperation::Unlock)),
            (None, None) => {}
        }
        *self.lock.taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.lock.freed.notify_one();
    }
}

/// Whether `path` lies on a file system of the network, where `flock` may be local to each machine or missing.
pub(crate) fn is_network_disk(path: &Path) -> bool {
    // NFS, SMB, SMB2, CIFS, Ceph, 9P, AFS, Lustre: linux/magic.h.
    const NETWORK: [u64; 8] =
        [0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x00c3_6400, 0x0102_1997, 0x5346_414f, 0x0bd0_0bd0];
    rustix::fs::statfs(path).is_ok_and(|found| NETWORK.contains(&(found.f_type as u64 & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_base::{OsFileSystem, SystemClock};

    fn open(path: &Path, wait: LockWait) -> NamespaceLock {
        NamespaceLock::open(&OsFileSystem, path.into(), wait, false, Arc::new(SystemClock::default())).unwrap()
    }

    #[test]
    fn one_at_a_time_over_threads_and_handles_with_a_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let clock = SystemClock::default();
        for wait in [LockWait::Kernel, LockWait::Exponential, LockWait::Linear] {
            let (one, two) = (open(&path, wait), open(&path, wait));
            let held = one.acquire(Deadline::after(&clock, Duration::ZERO)).unwrap();
            for other in [&one, &two] {
                let error = other.acquire(Deadline::after(&clock, Duration::from_millis(20))).unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable, "S2: every wait ends");
            }
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| two.acquire(Deadline::after(&clock, Duration::from_secs(30))).map(drop));
                drop(held);
                waiter.join().unwrap().unwrap();
            });
            drop(one.acquire(Deadline::after(&clock, Duration::from_secs(5))).unwrap());
        }
    }
}
