//! A kernel file lock with a deadline and the holder's name in the file.
//!
//! The lock is `flock(2)` on a small file: the kernel lets it go when its holder dies, and wakes the next in line at
//! once. `flock` has no timeout, so one helper thread per waited-for file blocks in the kernel; when the caller gives up,
//! the helper lets go of the lock the moment it gets it. The file's content names the holder for error messages only.

use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct FileLock {
    file: std::fs::File,
    path: PathBuf,
}

/// Why a lock was not obtained.
#[derive(Debug)]
pub enum LockError {
    /// Somebody holds it and did not let go in time; the holder as it named itself, if readable.
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote about itself, such as `weir serve (pid 4711)`.
        holder: String,
    },
    /// The lock file cannot be opened or locked at all.
    Io(io::Error),
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Held { path, holder } => write!(f, "{} is held by {holder}", path.display()),
            LockError::Io(_) => f.write_str("cannot lock"),
        }
    }
}

impl std::error::Error for LockError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LockError::Held { .. } => None,
            LockError::Io(error) => Some(error),
        }
    }
}

impl FileLock {
    /// Takes the lock at `path` for `owner`, waiting at most `wait` (zero: do not wait).
    pub fn acquire(path: &Path, owner: &str, wait: Duration) -> Result<Self, LockError> {
        let file = open(path).map_err(LockError::Io)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Self::held(file, path, owner)),
            Err(rustix::io::Errno::WOULDBLOCK) if !wait.is_zero() => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(held_by(path)),
            Err(errno) => return Err(LockError::Io(errno.into())),
        }
        match wait_in_kernel(file, wait) {
            Ok(Some(file)) => Ok(Self::held(file, path, owner)),
            Ok(None) => Err(held_by(path)),
            Err(error) => Err(LockError::Io(error)),
        }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Best effort: a holder that cannot write its name still holds the lock.
    fn held(mut file: std::fs::File, path: &Path, owner: &str) -> Self {
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{owner} (pid {})\n", std::process::id()).as_bytes()));
        Self { file, path: path.to_path_buf() }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        let _ = rustix::fs::flock(&self.file, rustix::fs::FlockOperation::Unlock);
    }
}

#[allow(clippy::disallowed_methods, reason = "kernel locks are a seam of this crate")]
/// The name that the holder of the lock at `path` wrote, or empty when nobody does.
pub fn holder(path: &Path) -> String {
    let mut text = String::new();
    if let Ok(file) = std::fs::OpenOptions::new().read(true).open(path) {
        let _ = file.take(200).read_to_string(&mut text);
    }
    text.trim().to_owned()
}

fn held_by(path: &Path) -> LockError {
    let holder = match holder(path) {
        name if name.is_empty() => "another process".to_owned(),
        name => name,
    };
    LockError::Held { path: path.to_path_buf(), holder }
}

#[allow(clippy::disallowed_methods, reason = "kernel locks are a seam of this crate")]
fn open(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Blocks a helper thread in `flock`; `None` when `wait` passes first.
fn wait_in_kernel(file: std::fs::File, wait: Duration) -> io::Result<Option<std::fs::File>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let abandoned = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&abandoned);
    std::thread::Builder::new().name("weir-lock-wait".into()).spawn(move || {
        let outcome = loop {
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other,
            }
        };
        let given_up = flag.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !*given_up {
            let _ = sender.send(outcome.map(|()| file).map_err(io::Error::from));
        }
    })?;
    match receiver.recv_timeout(wait) {
        Ok(outcome) => outcome.map(Some),
        Err(_) => {
            *abandoned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
            receiver.try_recv().map_or(Ok(None), |outcome| outcome.map(Some))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_gets_it_when_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = FileLock::acquire(&path, "first", Duration::ZERO).unwrap();
        for wait in [Duration::ZERO, Duration::from_millis(20)] {
            let error = FileLock::acquire(&path, "second", wait).unwrap_err();
            assert!(error.to_string().contains("first (pid"), "{error}");
        }
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || FileLock::acquire(&path, "third", Duration::from_secs(30)).unwrap())
        };
        drop(first);
        let third = waiter.join().unwrap();
        assert!(holder(&path).starts_with("third"), "{:?}", holder(&path));
        drop(third);
    }
}
