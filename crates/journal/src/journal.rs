//! [`Journal`]: the handle through which records are appended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use weir_base::{FileLock, Kind, LockError, Retry};

use crate::compact::{Compacted, Compaction};
use crate::frame::{self, Dictionary};
use crate::housekeeper::{Chore, Housekeeper};
use crate::options::{Durability, Env, Options};
use crate::record::Record;
use crate::recover::{self, Recovery};
use crate::segment;
use crate::writer::{self, Lease, Queue, Shared, Work, Writer, refused};
use crate::{Error, Result};

/// The sequences that an append got: `last - first + 1` records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Sequence of the first record.
    pub first: u64,
    /// Sequence of the last record; below `first` when there was none.
    pub last: u64,
}

/// A journal that is open for writing. One per folder, across processes; share it by reference or [`Arc`].
///
/// Dropping it writes what is queued, as [`Journal::close`] does, but says nothing of errors.
#[derive(Debug)]
pub struct Journal {
    options: Options,
    shared: Arc<Shared>,
    chores: Sender<Chore>,
    writer: Option<JoinHandle<Result<()>>>,
    housekeeper: Option<JoinHandle<()>>,
    /// Last: the lock goes when everything else is at rest.
    _lock: Option<FileLock>,
}

impl Journal {
    /// Opens the journal in `dir`, making it where there is none, and takes the writer's lock as `owner`.
    ///
    /// # Errors
    /// `Conflict` when another writer holds it past [`Options::lock_wait`], `Damaged` when synced records cannot be read
    /// (a [`crate::Reader`] and a repair still can), `Unavailable` when the disk refuses.
    pub fn open(env: Env, dir: &Path, owner: &str, options: Options) -> Result<(Self, Recovery)> {
        options.check()?;
        make_dir(&env, dir)?;
        let lock = lock(&env, dir, owner, &options)?;
        let opened = recover::open(&env, dir)?;
        let recovery = opened.recovery;
        let sealed_bytes: u64 =
            opened.manifest.sealed.iter().chain(&opened.unlisted).map(|sealed| sealed.frames_end).sum();
        let dictionary = Some(&opened.active.header.dictionary).filter(|bytes| !bytes.is_empty());
        let dictionary =
            dictionary.map(|bytes| Arc::new(Dictionary { id: opened.active.header.salt | 1, bytes: bytes.clone() }));
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            work: Condvar::new(),
            room: Condvar::new(),
            next: AtomicU64::new(recovery.next_sequence),
            first: AtomicU64::new(recovery.first_sequence),
            active_bytes: AtomicU64::new(opened.active.survey.offset),
            sealed_bytes: AtomicU64::new(sealed_bytes),
            dictionary: Mutex::new(dictionary),
            trained: Mutex::new(None),
        });
        let (chores, received) = mpsc::channel();
        let housekeeper = Housekeeper {
            env: env.clone(),
            dir: dir.to_path_buf(),
            options: options.clone(),
            shared: Arc::clone(&shared),
            manifest: opened.manifest,
            unlisted: opened.unlisted,
            lens: HashMap::new(),
        };
        let housekeeper = spawn("weir-journal-keep", move || housekeeper.run(&received))?;
        let writer = Writer::new(
            env.clone(),
            dir.to_path_buf(),
            options.clone(),
            Arc::clone(&shared),
            chores.clone(),
            opened.active,
        );
        let (of_thread, group_bytes_max) = (Arc::clone(&shared), options.group_bytes_max);
        let thread = spawn("weir-journal-write", move || writer::run(&env, &of_thread, group_bytes_max))?;
        // Writer and queue hold each other until the thread, at its end, takes the writer out for good.
        shared.lock().writer = Some(Box::new(writer));
        let journal =
            Self { options, shared, chores, writer: Some(thread), housekeeper: Some(housekeeper), _lock: lock };
        Ok((journal, recovery))
    }

    /// Queues records as one group of frames that are next to each other; compresses them on the calling thread.
    ///
    /// `done` is called exactly once if this returns `Ok`, on the writer's thread, in the order of the sequences, after the
    /// records reached `durability` or failed; it must not block. An `Unavailable` that says the journal was poisoned leaves open
    /// whether the records are there after reopening; after any other error they are not.
    ///
    /// # Errors
    /// `Limit` when the queue is full (try again later) or a record too large, `Unavailable` when the journal was poisoned.
    pub fn submit(
        &self,
        records: &[Record<'_>],
        durability: Durability,
        done: impl FnOnce(Result<Appended>) + Send + 'static,
    ) -> Result<()> {
        let frames = self.encode(records)?;
        let mut queue = self.shared.lock();
        if let Some(why) = &queue.refused {
            return Err(refused(why));
        }
        let bytes = frames.bytes.len() as u64;
        if queue.bytes > 0 && queue.bytes + bytes > self.options.queue_bytes_max {
            return Err(Error::new(
                Kind::Limit,
                format!("the journal's queue is full (queue_bytes_max = {})", self.options.queue_bytes_max),
            )
            .with_retry(Retry::Backoff));
        }
        queue.bytes += bytes;
        queue.work.push_back(Work::Append { frames, durability, done: Box::new(done) });
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Appends records and waits until they reached `durability`; waits for room in the queue.
    ///
    /// # Errors
    /// As [`Journal::submit`] and its callback, but for the full queue.
    pub fn append(&self, records: &[Record<'_>], durability: Durability) -> Result<Appended> {
        let frames = self.encode(records)?;
        let bytes = frames.bytes.len() as u64;
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |outcome| {
            let _ = sender.send(outcome);
        });
        let mut queue = self.shared.lock();
        while queue.refused.is_none() && queue.bytes > 0 && queue.bytes + bytes > self.options.queue_bytes_max {
            queue = self.shared.room.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(why) = &queue.refused {
            return Err(refused(why));
        }
        let work = Work::Append { frames, durability, done };
        // Nobody waits and nobody writes: this thread does it by itself.
        let idle = if queue.work.is_empty() { queue.writer.take() } else { None };
        if let Some(writer) = idle {
            drop(queue);
            Lease::new(&self.shared, writer).work_off(vec![work]);
        } else {
            queue.bytes += bytes;
            queue.work.push_back(work);
            drop(queue);
            self.shared.work.notify_one();
        }
        receiver.recv().map_err(|_| refused("its writer ended"))?
    }

    /// Makes everything that was appended before durable.
    ///
    /// # Errors
    /// `Unavailable` when the disk refuses.
    pub fn sync(&self) -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = Box::new(move |outcome| {
            let _ = sender.send(outcome);
        });
        self.shared.push(Work::Sync { done })?;
        receiver.recv().map_err(|_| refused("its writer ended"))?
    }

    /// Seals the current segment, if it holds records, so that it can be trimmed; returns the sequence that the next one begins with.
    ///
    /// # Errors
    /// `Unavailable` when the disk refuses.
    pub fn rotate(&self) -> Result<u64> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let shared = Arc::clone(&self.shared);
        let done = Box::new(move |outcome: Result<()>| {
            let _ = sender.send(outcome.map(|()| shared.next.load(Ordering::Acquire)));
        });
        self.shared.push(Work::Rotate { done })?;
        receiver.recv().map_err(|_| refused("its writer ended"))?
    }

    /// Removes sealed segments that hold nothing at or past `sequence`; returns the bytes freed.
    ///
    /// # Errors
    /// `Unavailable` when the disk refuses.
    pub fn trim_before(&self, sequence: u64) -> Result<u64> {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.chore(Chore::Trim { before: sequence, reply })?;
        receiver.recv().map_err(|_| Error::new(Kind::Internal, "the journal's housekeeper ended"))?
    }

    /// Seals the current segment and rewrites the sealed ones without what is not wanted. Appends go on meanwhile.
    ///
    /// # Errors
    /// `Unavailable` when the disk refuses, `Damaged` when a segment cannot be read; nothing is changed then.
    pub fn compact(&self, compaction: Compaction) -> Result<Compacted> {
        self.rotate()?;
        let (reply, receiver) = mpsc::sync_channel(1);
        self.chore(Chore::Compact { compaction, reply })?;
        receiver.recv().map_err(|_| Error::new(Kind::Internal, "the journal's housekeeper ended"))?
    }

    /// Waits until footers, manifest and retention have caught up with what was sealed.
    ///
    /// # Errors
    /// `Internal` when the housekeeper ended.
    pub fn settle(&self) -> Result<()> {
        let (reply, receiver) = mpsc::sync_channel(1);
        self.chore(Chore::Settle { reply })?;
        receiver.recv().map_err(|_| Error::new(Kind::Internal, "the journal's housekeeper ended"))
    }

    fn chore(&self, chore: Chore) -> Result<()> {
        self.chores.send(chore).map_err(|_| Error::new(Kind::Internal, "the journal's housekeeper ended"))
    }

    /// Bytes of all segments on the disk.
    pub fn stored_bytes(&self) -> u64 {
        self.shared.active_bytes.load(Ordering::Acquire) + self.shared.sealed_bytes.load(Ordering::Acquire)
    }

    /// First sequence that the journal still holds; equal to the next one when it is empty.
    pub fn first_sequence(&self) -> u64 {
        self.shared.first.load(Ordering::Acquire)
    }

    /// The sequence that the next record gets.
    pub fn next_sequence(&self) -> u64 {
        self.shared.next.load(Ordering::Acquire)
    }

    /// Writes and syncs what is queued, marks the end and lets go of the lock.
    ///
    /// # Errors
    /// `Unavailable` when the last sync failed.
    pub fn close(mut self) -> Result<()> {
        self.end()
    }

    fn encode(&self, records: &[Record<'_>]) -> Result<frame::EncodedFrames> {
        let limit = self.options.record_bytes_max;
        if let Some(record) = records.iter().find(|record| record.key.len() + record.payload.len() > limit) {
            let bytes = record.key.len() + record.payload.len();
            return Err(Error::new(
                Kind::Limit,
                format!("a record of {bytes} bytes is too large (record_bytes_max = {limit})"),
            ));
        }
        let dictionary = self.shared.dictionary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        frame::encode(records, self.options.codec, dictionary.as_deref(), self.options.frame_raw_bytes_max)
    }

    fn end(&mut self) -> Result<()> {
        {
            let mut queue = self.shared.lock();
            queue.closing = true;
            queue.refused.get_or_insert_with(|| "it was closed".to_owned());
        }
        self.shared.work.notify_all();
        self.shared.room.notify_all();
        let mut outcome = Ok(());
        if let Some(writer) = self.writer.take()
            && writer.thread().id() != std::thread::current().id()
        {
            outcome =
                writer.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "the journal's writer panicked")));
        }
        let _ = self.chores.send(Chore::Close);
        if let Some(housekeeper) = self.housekeeper.take() {
            let _ = housekeeper.join();
        }
        outcome
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|error| Error::io("cannot start a thread", error))
}

/// Makes the folder, and its name durable.
fn make_dir(env: &Env, dir: &Path) -> Result<()> {
    let disk_error = |error| Error::io(format!("cannot make the journal's folder {}", dir.display()), error);
    if env.fs.exists(dir).map_err(disk_error)? {
        return Ok(());
    }
    env.fs.create_dir_all(dir).map_err(disk_error)?;
    match dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => env.fs.sync_dir(parent).map_err(disk_error),
        None => Ok(()),
    }
}

/// The path of the writer's lock.
pub(crate) fn lock_path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

/// Takes the writer's lock. A disk that is not the machine's (the simulator's) has no other processes to keep out.
pub(crate) fn lock(env: &Env, dir: &Path, owner: &str, options: &Options) -> Result<Option<FileLock>> {
    let path = lock_path(dir);
    let file = env.fs.open(&path, weir_base::OpenMode::Create).map_err(|error| segment::read_error(&path, error))?;
    if file.os_file().is_none() {
        return Ok(None);
    }
    FileLock::acquire(&path, owner, options.lock_wait).map(Some).map_err(|error| match error {
        LockError::Held { path, holder } => {
            Error::new(Kind::Conflict, format!("the journal's lock {} is held by {holder}", path.display()))
                .with_retry(Retry::Backoff)
        }
        LockError::Io(error) => Error::io(format!("cannot lock {}", path.display()), error),
    })
}
