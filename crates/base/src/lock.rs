//! A kernel file lock with a deadline and the holder's name in the file.
//!
//! The lock is `flock(2)` on a small file: the kernel lets it go when its holder dies, and wakes the next in line at
//! once. `flock` has no timeout, so one helper thread per waited-for file blocks in the kernel, however many callers wait: they
//! stand in a line, and the helper hands the lock to the first. Who gives up leaves the line; a helper that gets the lock with nobody in
//! line lets go at once. The file's content names the holder for error messages only.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Clock, SystemClock};

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
        drop(file);
        match wait_in_line(path, wait) {
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

/// Who waits in this process, for which file.
#[derive(Default)]
struct Waiting {
    /// The callers in line for each file that has a helper.
    lines: BTreeMap<PathBuf, VecDeque<u64>>,
    /// What callers got and have not fetched yet.
    outcomes: BTreeMap<u64, io::Result<std::fs::File>>,
    next: u64,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { lines: BTreeMap::new(), outcomes: BTreeMap::new(), next: 0 });
static OUTCOME: Condvar = Condvar::new();

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Joins the line for the lock; `None` when `wait` passes first.
fn wait_in_line(path: &Path, wait: Duration) -> io::Result<Option<std::fs::File>> {
    let clock = SystemClock::default();
    let path = std::path::absolute(path)?;
    let mut state = waiting();
    let caller = state.next;
    state.next += 1;
    if let Some(line) = state.lines.get_mut(&path) {
        line.push_back(caller);
    } else {
        let of = path.clone();
        std::thread::Builder::new().name("weir-lock-wait".into()).spawn(move || serve_line(&of))?;
        state.lines.insert(path.clone(), VecDeque::from([caller]));
    }
    loop {
        if let Some(outcome) = state.outcomes.remove(&caller) {
            return outcome.map(Some);
        }
        let left = wait.saturating_sub(clock.monotonic());
        if left.is_zero() {
            if let Some(line) = state.lines.get_mut(&path) {
                line.retain(|other| *other != caller);
            }
            return Ok(None);
        }
        state = OUTCOME.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// The helper of one file: blocks in the kernel and hands the lock to the first in line, until nobody is in line.
fn serve_line(path: &Path) {
    loop {
        let mut outcome = block(path);
        let mut state = waiting();
        let line = state.lines.entry(path.to_path_buf()).or_default();
        let first = line.pop_front();
        let rest = if outcome.is_err() { std::mem::take(line) } else { VecDeque::new() };
        if line.is_empty() {
            state.lines.remove(path);
        }
        for caller in rest {
            let copy =
                outcome.as_ref().map_or_else(|error| io::Error::from(error.kind()), |_| io::Error::other("lock"));
            state.outcomes.insert(caller, Err(copy));
        }
        if let Some(first) = first {
            state.outcomes.insert(first, std::mem::replace(&mut outcome, Err(io::Error::other("handed on"))));
        }
        OUTCOME.notify_all();
        let done = !state.lines.contains_key(path);
        drop(state);
        // With nobody in line the lock goes here, by closing its file.
        drop(outcome);
        if done {
            return;
        }
    }
}

/// Blocks until the lock is ours.
fn block(path: &Path) -> io::Result<std::fs::File> {
    let file = open(path)?;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(|()| file).map_err(io::Error::from),
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

    #[test]
    fn one_helper_serves_the_line_and_who_gave_up_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = FileLock::acquire(&path, "first", Duration::ZERO).unwrap();
        for _ in 0..3 {
            FileLock::acquire(&path, "impatient", Duration::from_millis(5)).unwrap_err();
        }
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || FileLock::acquire(&path, "patient", Duration::from_secs(30)).map(drop))
            })
            .collect();
        while waiting().lines.get(&path).is_none_or(|line| line.len() < 4) {
            std::thread::yield_now();
        }
        assert_eq!(waiting().lines.keys().filter(|line| **line == path).count(), 1);
        drop(first);
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
        FileLock::acquire(&path, "last", Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn processes_contend_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        drop(FileLock::acquire(&path, "make", Duration::ZERO).unwrap());
        // flock(1) holds the lock until its command's input ends.
        let mut other = std::process::Command::new("flock")
            .args([path.as_os_str(), "sh".as_ref(), "-c".as_ref(), "echo held; cat".as_ref()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut word = [0; 5];
        other.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
        assert!(FileLock::acquire(&path, "us", Duration::from_millis(20)).unwrap_err().to_string().contains("another"));
        let waiter = {
            let path = path.clone();
            std::thread::spawn(move || FileLock::acquire(&path, "us", Duration::from_secs(30)).unwrap())
        };
        drop(other.stdin.take());
        assert!(other.wait().unwrap().success());
        drop(waiter.join().unwrap());
    }
}
