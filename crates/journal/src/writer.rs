//! The writer: takes groups off the queue, writes them, syncs once, answers everybody.
//!
//! There is one [`Writer`], and whoever took it out of the [`Queue`] is the only one that writes: the writer thread when there is
//! something in the queue, or a caller of `append` that finds the queue empty, which saves two changes of threads. Who finds it
//! taken queues, and forms the next group.
//!
//! Walk: [`run`] waits for work; [`Writer::commit`] begins a new segment when the old one is full, places
//! the frames of the group behind the last one, writes them, syncs if anybody in the group asked for it, publishes the new end, and
//! only then answers. A failed write is cut back; a failed sync poisons. No lock is held while disk or callbacks run.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_base::{Kind, Retry};

use crate::frame::{Dictionary, EncodedFrames, FrameHeader};
use crate::housekeeper::Chore;
use crate::manifest::Sealed;
use crate::options::{Durability, Env, Options};
use crate::recover::{Active, Staged};
use crate::segment::SegmentHeader;
use crate::{Appended, Error, Result};

/// What is called when an append is settled.
pub(crate) type Done = Box<dyn FnOnce(Result<Appended>) + Send>;

/// Something for the writer thread to do.
pub(crate) enum Work {
    /// Append frames.
    Append { frames: EncodedFrames, durability: Durability, done: Done },
    /// Sync what is not synced yet.
    Sync { done: Box<dyn FnOnce(Result<()>) + Send> },
    /// Seal the segment if it holds records, and begin the next.
    Rotate { done: Box<dyn FnOnce(Result<()>) + Send> },
}

/// What waits for the writer thread.
#[derive(Default)]
pub(crate) struct Queue {
    pub(crate) work: VecDeque<Work>,
    pub(crate) bytes: u64,
    pub(crate) closing: bool,
    /// Why nothing is accepted any more.
    pub(crate) refused: Option<String>,
    /// The writer, unless somebody is writing.
    pub(crate) writer: Option<Box<Writer>>,
    /// When the writer thread must sync, on the monotonic clock, unless somebody writes before.
    sync_due: Option<Duration>,
}

/// What callers, the writer thread and the housekeeper share.
pub(crate) struct Shared {
    pub(crate) queue: Mutex<Queue>,
    /// Work came or the journal closes.
    pub(crate) work: Condvar,
    /// Room came in the queue.
    pub(crate) room: Condvar,
    pub(crate) next: AtomicU64,
    pub(crate) first: AtomicU64,
    /// Bytes of the active segment.
    pub(crate) active_bytes: AtomicU64,
    /// Bytes of the sealed segments.
    pub(crate) sealed_bytes: AtomicU64,
    /// The dictionary of the active segment. A journal gets one at most once, so frames compressed with it fit every later segment.
    pub(crate) dictionary: Mutex<Option<Arc<Dictionary>>>,
    /// A dictionary that the next segment shall have.
    pub(crate) trained: Mutex<Option<Arc<Dictionary>>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("next", &self.next).field("first", &self.first).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues work that is not an append.
    pub(crate) fn push(&self, work: Work) -> Result<()> {
        let mut queue = self.lock();
        if let Some(why) = &queue.refused {
            return Err(refused(why));
        }
        queue.work.push_back(work);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }
}

/// The error of a journal that takes nothing any more.
pub(crate) fn refused(why: &str) -> Error {
    Error::new(Kind::Unavailable, format!("the journal refuses writes until it is reopened: {why}"))
}

/// The right to write, from the queue and back into it on every path.
pub(crate) struct Lease<'a> {
    shared: &'a Shared,
    writer: Option<Box<Writer>>,
}

impl<'a> Lease<'a> {
    /// For a writer just taken out of the queue.
    pub(crate) fn new(shared: &'a Shared, writer: Box<Writer>) -> Self {
        Self { shared, writer: Some(writer) }
    }

    /// Does work, then syncs if it is time.
    pub(crate) fn work_off(&mut self, group: Vec<Work>) {
        if let Some(writer) = &mut self.writer {
            writer.work_off(group);
            writer.sync_if_due();
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        if std::thread::panicking() {
            writer.poison("its writer panicked");
        }
        let mut queue = self.shared.lock();
        let wake = !queue.work.is_empty() || queue.closing || writer.sync_due != queue.sync_due;
        queue.sync_due = writer.sync_due;
        queue.writer = Some(writer);
        drop(queue);
        if wake {
            self.shared.work.notify_one();
        }
    }
}

/// The writer thread: runs until the journal is closed and the queue is empty.
pub(crate) fn run(env: &Env, shared: &Shared, group_bytes_max: u64) -> Result<()> {
    loop {
        let mut queue = shared.lock();
        let writer = loop {
            if let Some(writer) = queue.writer.take() {
                let due = queue.sync_due.map(|due| due.saturating_sub(env.clock.monotonic()));
                if !queue.work.is_empty() || queue.closing || due.is_some_and(|left| left.is_zero()) {
                    break writer;
                }
                queue.writer = Some(writer);
                queue = match due {
                    None => shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                    Some(left) => shared.work.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
                };
            } else {
                queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        };
        if queue.work.is_empty() && queue.closing {
            drop(queue);
            return writer.finish();
        }
        let group = take_group(&mut queue, group_bytes_max);
        drop(queue);
        shared.room.notify_all();
        Lease::new(shared, writer).work_off(group);
    }
}

/// What waits, up to the size of a group.
fn take_group(queue: &mut Queue, group_bytes_max: u64) -> Vec<Work> {
    let mut group = Vec::new();
    let mut bytes = 0;
    while bytes < group_bytes_max {
        let Some(work) = queue.work.pop_front() else { break };
        if let Work::Append { frames, .. } = &work {
            bytes += frames.bytes.len() as u64;
        }
        group.push(work);
    }
    queue.bytes -= bytes;
    group
}

/// What the one who writes knows.
#[derive(Debug)]
pub(crate) struct Writer {
    env: Env,
    dir: PathBuf,
    options: Options,
    shared: Arc<Shared>,
    chores: Sender<Chore>,
    active: Active,
    /// Every sequence below it is synced.
    synced: u64,
    /// When what was written without a sync must be synced, on the monotonic clock.
    sync_due: Option<Duration>,
    poisoned: bool,
    room: Room,
}

/// Zeros ahead of the frames of the active segment. A sync of blocks that the file already had needs no change of its
/// metadata, so that it neither commits nor waits for the journal of the file system.
#[derive(Debug, Default)]
struct Room {
    /// Where the zeros end.
    end: u64,
    /// The disk refused: not tried again in this segment.
    refused: bool,
}

struct Append {
    frames: EncodedFrames,
    durability: Durability,
    done: Done,
}

impl Writer {
    pub(crate) fn new(
        env: Env,
        dir: PathBuf,
        options: Options,
        shared: Arc<Shared>,
        chores: Sender<Chore>,
        active: Active,
    ) -> Self {
        let synced = active.survey.mark;
        Self {
            env,
            dir,
            options,
            shared,
            chores,
            active,
            synced,
            sync_due: None,
            poisoned: false,
            room: Room::default(),
        }
    }

    /// Does what was taken off the queue.
    pub(crate) fn work_off(&mut self, group: Vec<Work>) {
        let mut appends = Vec::new();
        for work in group {
            match work {
                Work::Append { frames, durability, done } => appends.push(Append { frames, durability, done }),
                Work::Sync { done } => {
                    self.commit(std::mem::take(&mut appends));
                    let outcome = self.sync();
                    call(|| done(outcome));
                }
                Work::Rotate { done } => {
                    self.commit(std::mem::take(&mut appends));
                    let outcome = self.rotate();
                    call(|| done(outcome));
                }
            }
        }
        self.commit(appends);
    }

    /// Writes a group, syncs it if anybody asked, answers everybody in order.
    fn commit(&mut self, mut group: Vec<Append>) {
        if group.is_empty() {
            return;
        }
        let outcome = self.write_and_sync(&mut group);
        match outcome {
            Ok(first) => answer(group, first),
            Err(_) if group.len() > 1 && !self.poisoned => {
                // One of them may be too large for what is left of the disk: each gets its own chance.
                for append in group {
                    self.commit(vec![append]);
                }
            }
            Err(error) => {
                for append in group {
                    let error = error.copy();
                    call(|| (append.done)(Err(error)));
                }
            }
        }
    }

    /// Returns the first sequence of the group.
    fn write_and_sync(&mut self, group: &mut [Append]) -> Result<u64> {
        self.check_poison()?;
        let bytes: u64 = group.iter().map(|append| append.frames.bytes.len() as u64).sum();
        let survey = &self.active.survey;
        let full = survey.offset + bytes > self.options.segment_bytes_max;
        if survey.records > 0 && (full || self.wants_dictionary()) {
            self.rotate()?;
        }
        let first = self.active.survey.next;
        self.write(group)?;
        let durability = group.iter().map(|append| append.durability).max().unwrap_or(Durability::None);
        if durability == Durability::Durable {
            self.make_room(bytes);
            self.sync()?;
        } else if durability == Durability::Interval && self.sync_due.is_none() {
            self.sync_due = Some(self.env.clock.monotonic() + self.options.interval);
        }
        self.shared.next.store(self.active.survey.next, Ordering::Release);
        self.shared.active_bytes.store(self.active.survey.offset, Ordering::Release);
        Ok(first)
    }

    /// Places and writes the frames of a group; after an error the file is as it was before.
    fn write(&mut self, group: &mut [Append]) -> Result<()> {
        let before = self.active.survey.clone();
        let mut joined = Vec::new();
        let mut joined_at = before.offset;
        let mut outcome = Ok(());
        for append in group.iter_mut() {
            let survey = &mut self.active.survey;
            let (offset, next) = (survey.offset, survey.next);
            append.frames.place(self.active.header.salt, offset, next, self.synced);
            for header in &append.frames.headers {
                survey.add(&FrameHeader {
                    first: header.first + next,
                    end: header.end + next,
                    mark: self.synced,
                    ..*header
                });
            }
            if joined.is_empty() {
                joined_at = offset;
            }
            let small = append.frames.bytes.len() <= JOIN_BYTES_MAX;
            if small {
                joined.extend_from_slice(&append.frames.bytes);
            }
            if outcome.is_ok() && (!small || joined.len() > JOIN_BYTES_MAX) {
                outcome = self.active.file.write_all_at(&joined, joined_at);
                joined.clear();
            }
            if outcome.is_ok() && !small {
                outcome = self.active.file.write_all_at(&append.frames.bytes, offset);
            }
        }
        if outcome.is_ok() && !joined.is_empty() {
            outcome = self.active.file.write_all_at(&joined, joined_at);
        }
        outcome.map_err(|error| {
            self.active.survey = before;
            self.cut_back();
            let error = Error::io(format!("cannot append to {}", self.active.path.display()), error);
            if self.poisoned { error } else { error.with_retry(Retry::Backoff) }
        })
    }

    /// Writes zeros behind the frames once these have used up those before, so that one sync in many grows the file. Groups
    /// so large that the zeros would cost more than they save get none.
    fn make_room(&mut self, group_bytes: u64) {
        let offset = self.active.survey.offset;
        if offset <= self.room.end || self.room.refused || group_bytes > ROOM_BYTES_MAX / 8 {
            return;
        }
        let end = (offset + offset.clamp(ROOM_BYTES_MIN, ROOM_BYTES_MAX)).min(self.options.segment_bytes_max);
        if end <= offset {
            return;
        }
        match self.active.file.write_all_at(&ZEROS[..(end - offset) as usize], offset) {
            Ok(()) => self.room.end = end,
            Err(_) => {
                // The frames are written; on a full disk the rest of the room is given back. Zeros that stay do no harm.
                let _ = self.active.file.set_len(offset);
                self.room.refused = true;
            }
        }
    }

    /// Gives back the room that was not needed; zeros that stay do no harm.
    fn give_room_back(&mut self) {
        if self.room.end > self.active.survey.offset {
            let _ = self.active.file.set_len(self.active.survey.offset);
        }
        self.room = Room::default();
    }

    /// Takes back what a failed write left; the cut is synced before anything is written in its place.
    fn cut_back(&mut self) {
        let cut = self.active.file.set_len(self.active.survey.offset).and_then(|()| self.active.file.sync_data());
        self.room = Room { end: 0, refused: true };
        match cut {
            Ok(()) => {
                self.synced = self.active.survey.next;
                self.sync_due = None;
            }
            Err(error) => self.poison(&format!("a failed write could not be cut back ({error})")),
        }
    }

    /// Makes everything written so far durable.
    fn sync(&mut self) -> Result<()> {
        self.check_poison()?;
        if self.synced < self.active.survey.next {
            if let Err(error) = self.active.file.sync_data() {
                self.poison(&format!("a sync failed ({error})"));
                return Err(
                    Error::io(format!("cannot sync {}", self.active.path.display()), error).with_retry(Retry::Never)
                );
            }
            self.synced = self.active.survey.next;
        }
        self.sync_due = None;
        Ok(())
    }

    /// Nobody waits for this sync; if it fails, the next caller hears of it.
    fn sync_if_due(&mut self) {
        if self.sync_due.is_some_and(|due| due <= self.env.clock.monotonic()) && self.sync().is_err() {
            self.sync_due = None;
        }
    }

    /// Whether a new segment would bring a dictionary nearer: one is ready, or there is enough to train one from.
    fn wants_dictionary(&self) -> bool {
        const TRAINING_BYTES: u64 = 1 << 20;
        let survey = &self.active.survey;
        self.options.dictionary_bytes_max.is_some()
            && self.active.header.dictionary.is_empty()
            && (self.shared.trained.lock().unwrap_or_else(PoisonError::into_inner).is_some()
                || (self.active.header.first == 1 && survey.raw_bytes >= TRAINING_BYTES))
    }

    /// Seals the active segment and begins the next; nothing happens to one without records.
    fn rotate(&mut self) -> Result<()> {
        self.sync()?;
        if self.active.survey.records == 0 {
            return Ok(());
        }
        self.give_room_back();
        let next = self.active.survey.next;
        let trained = self.shared.trained.lock().unwrap_or_else(PoisonError::into_inner).take();
        let dictionary = match &trained {
            Some(trained) if self.active.header.dictionary.is_empty() => trained.bytes.clone(),
            _ => self.active.header.dictionary.clone(),
        };
        let header = SegmentHeader::new(&self.env, &self.dir, next, 0, dictionary);
        let active = Staged::new(&self.env, &self.dir, header)?;
        let active = match active.publish(&self.env, &self.dir) {
            Ok(active) => active,
            Err(error) => {
                self.poison("a new segment could not be made durable");
                return Err(error);
            }
        };
        let old = std::mem::replace(&mut self.active, active);
        let sealed: Sealed = old.survey.sealed(&old.header);
        self.shared.sealed_bytes.fetch_add(sealed.frames_end, Ordering::AcqRel);
        self.shared.active_bytes.store(self.active.survey.offset, Ordering::Release);
        if let Some(trained) = trained {
            self.shared.dictionary.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(trained);
        }
        // The housekeeper lives as long as the journal; without it the next writer finds the segment by its name.
        let _ = self.chores.send(Chore::Sealed(sealed));
        Ok(())
    }

    fn poison(&mut self, why: &str) {
        self.poisoned = true;
        self.shared.lock().refused.get_or_insert_with(|| why.to_owned());
    }

    fn check_poison(&self) -> Result<()> {
        if !self.poisoned {
            return Ok(());
        }
        Err(refused(self.shared.lock().refused.as_deref().unwrap_or("a sync failed")))
    }

    /// The orderly end: everything durable, and a mark that says so.
    fn finish(mut self) -> Result<()> {
        if self.poisoned {
            return Ok(());
        }
        self.sync()?;
        self.give_room_back();
        if self.options.index && self.active.survey.offset >= SEAL_AT_CLOSE_BYTES {
            return self.rotate();
        }
        let survey = &self.active.survey;
        if survey.mark < self.synced {
            let header = FrameHeader::mark_only(survey.next, self.synced);
            let mut bytes = [0; crate::frame::HEADER_LEN];
            header.put(&mut bytes, self.active.header.salt, survey.offset);
            // Only a hint to the next opening: without it the last group is written again.
            let _ = self.active.file.write_all_at(&bytes, survey.offset);
        }
        Ok(())
    }
}

/// Room that is made at once: as much as the segment already takes, between these two.
const ROOM_BYTES_MIN: u64 = 64 << 10;
const ROOM_BYTES_MAX: u64 = 1 << 20;
static ZEROS: [u8; ROOM_BYTES_MAX as usize] = [0; ROOM_BYTES_MAX as usize];

/// A segment of this size is sealed when the journal is closed: with its footer it is found by key at once, and the next opening
/// need not read it.
const SEAL_AT_CLOSE_BYTES: u64 = 4 << 20;

/// Batches up to this size are copied together to save calls to the kernel.
const JOIN_BYTES_MAX: usize = 128 << 10;

fn answer(group: Vec<Append>, mut first: u64) {
    for append in group {
        let end = first + append.frames.records;
        let appended = Appended { first, last: end.saturating_sub(1) };
        call(|| (append.done)(Ok(appended)));
        first = end;
    }
}

/// A callback that panics must not take the writer with it; the panic was reported by its hook.
fn call(callback: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(callback));
}
