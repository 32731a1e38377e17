//! A run of 40 entries on real files that kills itself with SIGKILL at a chosen point; `tests/kill.rs` starts it.
//!
//! `crash_run DIR POINT`: DIR holds the history and the target's effects (`effects`, a line each). Points count, from 0, the moments before and
//! after every change of the disk below the history and before and after every call to the target. It resumes what it finds unfinished.

#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a program for tests that works on real files")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use weir_base::file::Metadata;
use weir_base::{File, FileSystem, OpenMode, OsFileSystem};
use weir_limits::Deadline;
use weir_ops::{Entry, Env, Failure, History, Listing, Options, Plan, RunOptions, Started, State, Target, Value};

const ENTRIES: usize = 40;

/// Counts moments, and dies at the chosen one.
#[derive(Debug)]
struct Fate {
    passed: AtomicU64,
    point: u64,
}

impl Fate {
    fn moment(&self) {
        if self.passed.fetch_add(1, Ordering::SeqCst) == self.point {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    }

    fn around<T>(&self, work: impl FnOnce() -> T) -> T {
        self.moment();
        let done = work();
        self.moment();
        done
    }
}

#[derive(Debug)]
struct Disk(Arc<Fate>);

#[derive(Debug)]
struct DiskFile(Arc<dyn File>, Arc<Fate>);

impl File for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.1.around(|| self.0.write_all_at(buf, offset))
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.around(|| self.0.set_len(len))
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.around(|| self.0.sync_data())
    }
    fn os_file(&self) -> Option<&std::fs::File> {
        self.0.os_file()
    }
}

impl FileSystem for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let file = if mode == OpenMode::Read {
            OsFileSystem.open(path, mode)?
        } else {
            self.0.around(|| OsFileSystem.open(path, mode))?
        };
        Ok(Arc::new(DiskFile(file, Arc::clone(&self.0))))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.around(|| OsFileSystem.create_dir_all(path))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        OsFileSystem.list(dir)
    }
    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        OsFileSystem.metadata(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.around(|| OsFileSystem.rename(from, to))
    }
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.around(|| OsFileSystem.hard_link(from, to))
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.0.around(|| OsFileSystem.remove_file(path))
    }
    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.0.around(|| OsFileSystem.remove_dir(path))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.around(|| OsFileSystem.sync_dir(dir))
    }
    fn available(&self, path: &Path) -> io::Result<u64> {
        OsFileSystem.available(path)
    }
}

/// Keys are set by appending them to a file.
struct Effects {
    path: PathBuf,
    fate: Arc<Fate>,
}

impl Target for Effects {
    fn name(&self) -> &str {
        "effects"
    }

    fn read(&self, keys: &[&str], _deadline: Deadline) -> Result<Vec<Value>, Failure> {
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let there: Vec<&str> = text.lines().collect();
        Ok(keys.iter().map(|key| there.contains(key).then(|| serde_json::json!("set"))).collect())
    }

    fn start(&self, entry: &Entry, _to: &Value, _deadline: Deadline) -> Result<Started, Failure> {
        self.fate.around(|| {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&self.path).expect("opens");
            file.write_all(format!("{}\n", entry.key).as_bytes()).expect("writes");
        });
        Ok(Started::Done { request: None })
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().expect("a folder"));
    let point = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let fate = Arc::new(Fate { passed: AtomicU64::new(0), point });
    let mut env = Env::system();
    env.journal.fs = Arc::new(Disk(Arc::clone(&fate)));
    let target = Effects { path: dir.join("effects"), fate: Arc::clone(&fate) };
    let history = History::open(env, &dir.join("operations"), "crash_run", Options::default()).expect("opens").0;
    let (listed, _) = history.view().and_then(|view| view.list(&Listing::default())).expect("lists");
    let options = RunOptions { concurrency: 1, ..RunOptions::default() };
    let operation = match listed.first() {
        Some(summary) => weir_ops::resume(&history, &target, summary.id, &options),
        None => {
            let wishes = (0..ENTRIES).map(|n| Entry::new(format!("k{n:02}"), None, Some(serde_json::json!("set"))));
            let plan = Plan::make(&history, &target, "crash_run", "assign", wishes.collect()).expect("plans");
            weir_ops::apply(&history, &target, &plan, &options)
        }
    }
    .expect("runs");
    assert_eq!(operation.state, State::Done);
    history.close().expect("closes");
    println!("{}", fate.passed.load(Ordering::SeqCst));
}
