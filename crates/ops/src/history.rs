//! [`History`]: where events are kept, open for writing by one process at a time.
//!
//! Format and crash argument: `docs/formats/operations.md`. The log is the truth; the index is written behind it and may be lost.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use weir_base::id::{Uuid, uuid_v7};
use weir_base::{Clock, File, Kind, OpenMode, OsRandom, Random, Timestamp};
use weir_journal::{Appended, Durability, Journal, Query, Reader, Record, Recovery};

use crate::chain::{self, Link};
use crate::event::{Begin, Event, HISTORY_KEY, Outcome};
use crate::index::{self, Extent};
use crate::operation::{Operation, Step};
use crate::view::{View, history_id};
use crate::{Error, Result};

/// Disk, clock and randomness of a history.
#[derive(Debug, Clone)]
pub struct Env {
    /// Disk and clock.
    pub journal: weir_journal::Env,
    /// For ids and jitter.
    pub random: Arc<dyn Random>,
}

impl Env {
    /// The machine's own.
    pub fn system() -> Self {
        Self { journal: weir_journal::Env::system(), random: Arc::new(OsRandom) }
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        &*self.journal.clock
    }
}

/// Choices and limits of a history.
#[derive(Debug, Clone)]
pub struct Options {
    /// Chain every record from here on, so that tampering shows. A history that is chained stays so. Default false.
    pub chain: bool,
    /// How far an event has come when it is answered. Default durable.
    pub durability: Durability,
    /// How long to wait for another writer. Default 5 s.
    pub lock_wait: Duration,
    /// A segment of the log is sealed past this many bytes. Default 4 MiB.
    pub segment_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            chain: false,
            durability: Durability::Durable,
            lock_wait: Duration::from_secs(5),
            segment_bytes_max: 4 << 20,
        }
    }
}

/// A history open for writing. Share it by reference.
#[derive(Debug)]
pub struct History {
    env: Env,
    dir: PathBuf,
    id: Uuid,
    options: Options,
    journal: Journal,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The value of the last record, where the history is chained.
    link: Option<Link>,
    /// Why nothing can be appended any more.
    broken: Option<String>,
    /// The highest id so far: the order of operations is that of their ids.
    newest: Uuid,
    /// Operations with records that are not in the index.
    unpublished: HashSet<Uuid>,
    /// The last sequence that was acknowledged.
    last: u64,
    /// What the index says it holds.
    extent: Extent,
    /// `None` once writing it failed: the log has everything.
    index: Option<Arc<dyn File>>,
}

/// The folder of the log.
pub(crate) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

impl History {
    /// Opens the history in `dir` for writing, making it where there is none, as `owner`.
    ///
    /// # Errors
    /// `Conflict` when another process writes to it, `Damaged` when it cannot be read whole (it is left as it is), `Unavailable`.
    pub fn open(env: Env, dir: &Path, owner: &str, options: Options) -> Result<(Self, Recovery)> {
        let journal_options = weir_journal::Options {
            segment_bytes_max: options.segment_bytes_max,
            lock_wait: options.lock_wait,
            ..weir_journal::Options::default()
        };
        let disk_error = |error| Error::io(format!("cannot make {}", dir.display()), error);
        env.journal.fs.create_dir_all(dir).map_err(disk_error)?;
        let log = log_dir(dir);
        let (journal, recovery) = Journal::open(env.journal.clone(), &log, owner, journal_options)?;
        let inner = Inner {
            link: options.chain.then_some(chain::START),
            broken: None,
            newest: Uuid::nil(),
            unpublished: HashSet::new(),
            last: journal.next_sequence() - 1,
            extent: Extent { end: 0, through: 0 },
            index: None,
        };
        let mut history =
            Self { env, dir: dir.to_path_buf(), id: Uuid::nil(), options, journal, inner: Mutex::new(inner) };
        if history.journal.next_sequence() == 1 {
            history.id = history.new_id();
            let time = history.env.clock().now();
            history.append_raw(HISTORY_KEY, &[(time, Event::History { id: history.id })])?;
        } else {
            let reader = Reader::open(history.env.journal.clone(), &log)?;
            history.id = history_id(&reader)?;
            let mut records = reader.query(Query { backward: true, ..Query::default() });
            if let Some(record) = records.next_ref()?
                && let Some(link) = chain::split(record.payload).1
            {
                history.lock().link = Some(link);
            }
        }
        history.catch_up()?;
        Ok((history, recovery))
    }

    /// The history's own id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Disk, clock and randomness.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// The sequence that the next record gets.
    pub fn position(&self) -> u64 {
        self.journal.next_sequence()
    }

    /// The same history for reading, as it is now.
    ///
    /// # Errors
    /// As [`View::open`].
    pub fn view(&self) -> Result<View> {
        View::open(self.env.clone(), &self.dir)
    }

    /// A new id, for an operation or a run: higher than any before it in this history, also when the clock was set back.
    pub fn new_id(&self) -> Uuid {
        let drawn = uuid_v7(self.env.clock(), &*self.env.random);
        let mut inner = self.lock();
        let step = 1 + self.env.random.below(1 << 20);
        let id = if drawn > inner.newest {
            drawn
        } else {
            Uuid::from_u128(inner.newest.as_u128().wrapping_add(u128::from(step)))
        };
        inner.newest = id;
        id
    }

    /// Appends events of an operation; they are as durable as the options say when this returns.
    ///
    /// # Errors
    /// `Unavailable` when the disk refuses; nothing can be appended then until the history is opened again.
    pub fn append(&self, id: Uuid, events: &[(Timestamp, Event)]) -> Result<()> {
        self.lock().unpublished.insert(id);
        self.append_raw(id.to_string().as_bytes(), events)
    }

    fn append_raw(&self, key: &[u8], events: &[(Timestamp, Event)]) -> Result<()> {
        let mut payloads: Vec<Vec<u8>> = events.iter().map(|(_, event)| event.to_json()).collect::<Result<_>>()?;
        let (sender, receiver) = mpsc::sync_channel(1);
        {
            // The order of the chain is that of the sequences, so both are decided under one lock; nothing here waits for the disk.
            let mut inner = self.lock();
            if let Some(why) = &inner.broken {
                return Err(Error::new(Kind::Unavailable, format!("the history cannot be written: {why}")));
            }
            let mut link = inner.link;
            for (payload, (time, event)) in payloads.iter_mut().zip(events) {
                if let Some(link) = &mut link {
                    *link = chain::next(link, event.kind(), *time, key, payload);
                    chain::join(payload, link);
                }
            }
            let records: Vec<Record<'_>> = payloads
                .iter()
                .zip(events)
                .map(|(payload, (time, event))| Record { time: *time, kind: event.kind(), key, payload })
                .collect();
            let done = move |outcome| {
                let _ = sender.send(outcome);
            };
            self.journal.submit(&records, self.options.durability, done)?;
            inner.link = link;
        }
        let outcome: weir_journal::Result<Appended> =
            receiver.recv().map_err(|_| Error::new(Kind::Unavailable, "the writer of the history ended"))?;
        let mut inner = self.lock();
        match outcome {
            Ok(appended) => {
                inner.last = inner.last.max(appended.last);
                Ok(())
            }
            Err(error) => {
                inner.broken.get_or_insert_with(|| error.to_string());
                Err(error.into())
            }
        }
    }

    /// Stores a whole operation as it stands, with one append.
    ///
    /// # Errors
    /// As [`History::append`].
    pub fn store(&self, operation: &Operation) -> Result<()> {
        self.append(operation.id, &events_of(operation))?;
        self.publish(operation);
        Ok(())
    }

    /// Writes the summary of an operation into the index. What fails here is found in the log again.
    pub fn publish(&self, operation: &Operation) {
        self.publish_encoded(vec![index::encode(operation)], &[operation.id]);
    }

    fn publish_encoded(&self, summaries: Vec<Vec<u8>>, ids: &[Uuid]) {
        let (file, offset, bytes) = {
            let mut inner = self.lock();
            for id in ids {
                inner.unpublished.remove(id);
            }
            let Some(file) = inner.index.clone() else { return };
            if inner.unpublished.is_empty() {
                inner.extent.through = inner.last;
            }
            let bytes = index::group(inner.extent.through, &summaries);
            let offset = inner.extent.end;
            inner.extent.end += bytes.len() as u64;
            (file, offset, bytes)
        };
        if file.write_all_at(&bytes, offset).is_err() {
            self.lock().index = None;
        }
    }

    /// Opens the index, cuts what is bad behind it, and puts in what the log has beyond it.
    fn catch_up(&self) -> Result<()> {
        let next = self.position();
        let fs = &*self.env.journal.fs;
        let mut newest = Uuid::nil();
        let mut extent = index::scan(fs, &self.dir, self.id, next, |raw| newest = newest.max(raw.id()))?;
        let path = index::path(&self.dir);
        let opened = fs.open(&path, OpenMode::Create).and_then(|file| {
            if extent.end == 0 {
                file.set_len(0)?;
                let header = index::header(self.id);
                file.write_all_at(&header, 0)?;
                extent = Extent { end: header.len() as u64, through: 0 };
            } else {
                file.set_len(extent.end)?;
            }
            Ok(file)
        });
        if let Ok(file) = opened {
            let mut inner = self.lock();
            (inner.index, inner.extent) = (Some(file), extent);
        }
        if extent.through + 1 < next {
            let view = self.view()?;
            let mut summaries = Vec::new();
            view.fold_beyond(extent.through, &mut |operation| {
                newest = newest.max(operation.id);
                summaries.push(index::encode(operation));
                Ok(())
            })?;
            self.publish_encoded(summaries, &[]);
        }
        let mut inner = self.lock();
        inner.newest = inner.newest.max(newest);
        Ok(())
    }

    /// Closes it; everything acknowledged is already where it was promised to be.
    ///
    /// # Errors
    /// `Unavailable` when the last sync failed.
    pub fn close(self) -> Result<()> {
        Ok(self.journal.close()?)
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn is_chained(&self) -> bool {
        self.lock().link.is_some()
    }

    /// Appends an event of the history itself.
    pub(crate) fn append_anchor(&self, gaps: Vec<(u64, String)>) -> Result<()> {
        self.append_raw(HISTORY_KEY, &[(self.env.clock().now(), Event::Anchor { gaps })])
    }

    /// Reads the index again after it was replaced.
    pub(crate) fn reopen_index(&self) -> Result<()> {
        self.lock().index = None;
        self.catch_up()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The begin event of an operation.
pub(crate) fn begin_of(operation: &Operation) -> Event {
    Event::Begin(Box::new(Begin {
        run: operation.run,
        kind: operation.kind.clone(),
        target: operation.target.clone(),
        actor: operation.actor.clone(),
        undoes: operation.undoes.clone(),
        plan: operation.plan.clone(),
        origin: operation.origin.clone(),
        entries: operation.entries.clone(),
    }))
}

/// All events of an operation as it stands.
fn events_of(operation: &Operation) -> Vec<(Timestamp, Event)> {
    let mut events = vec![(operation.time, begin_of(operation))];
    let ended = operation.ended.unwrap_or(operation.time);
    for (number, progress) in operation.progress.iter().enumerate() {
        let result = match progress.step {
            Step::Planned => continue,
            Step::Started => Outcome::Unknown,
            Step::Accepted => Outcome::Accepted,
            Step::Done => Outcome::Done,
            Step::Failed => Outcome::Failed,
            Step::Skipped => Outcome::Skipped,
        };
        let outcome = Event::Outcome {
            entry: number as u32,
            attempts: progress.attempts,
            result,
            request: progress.request.clone(),
            reason: progress.reason.clone(),
        };
        events.push((progress.ended.unwrap_or(ended), outcome));
    }
    if operation.verified {
        events.push((ended, Event::Verified { read: operation.entries.len() as u32, wrong: Vec::new() }));
    }
    if operation.state != crate::State::Running {
        events.push((ended, Event::Seal { state: operation.state }));
    }
    events
}
