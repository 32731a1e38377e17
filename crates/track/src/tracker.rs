//! [`Tracker`]: records operations from any thread without waiting, in bounded memory.
//!
//! A label set gets a slot of a table when it is first seen; past the limit all others share one bucket, and how many
//! operations went there is counted (S1). An operation shorter than [`Limits::single_from`] adds to its slot's cells;
//! a longer one goes, with its measures, into a bounded queue, or into the cells where the queue is full. A reader
//! [drains](Tracker::drain) both. Recorders touch atomics and the queue's try-send only, so a reader that stalls costs
//! them nothing but single rows.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use weir_base::{Clock, Timestamp};

use crate::cells::{Cells, STRIPES};
use crate::row::{Finished, Labels, Row, Started};
use crate::sketch::Sketch;

/// The name under which operations past the limit of label sets are summed.
pub const OVERFLOW: &str = "weir.overflow";

/// Longest walk from a hash's own slot.
const PROBES: usize = 64;

/// Most label sets that get stripes of cells, 4 KiB and up to 8 pages of counters more each; others stay as they are.
const WIDE_MAX: usize = 256;

/// What a tracker may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Distinct names with labels and parent. Default 10,000.
    pub label_sets_max: usize,
    /// Single operations that wait for the reader. Default 16,384.
    pub queue_max: usize,
    /// Operations from this duration on are handed on one by one. Default 1 ms.
    pub single_from: Duration,
    /// Measures of one operation; more are not taken, and counted. Default 32.
    pub measures_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { label_sets_max: 10_000, queue_max: 16_384, single_from: Duration::from_millis(1), measures_max: 32 }
    }
}

/// What did not fit; nothing of it is lost but what the words say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Operations that went into the overflow bucket.
    pub overflowed: u64,
    /// Operations that were summed because the queue was full.
    pub summed: u64,
    /// Measures and announcements that were not taken.
    pub dropped: u64,
}

#[derive(Debug)]
struct Series {
    hash: u64,
    name: Box<str>,
    labels: Box<[(Box<str>, Box<str>)]>,
    parent: Option<Box<str>>,
    cells: Cells,
}

impl Series {
    fn is(&self, key: &Key<'_>) -> bool {
        self.hash == key.hash
            && *self.name == *key.name
            && self.parent.as_deref() == key.parent
            && self.labels.len() == key.labels.len()
            && self.labels.iter().zip(key.labels).all(|(own, other)| *own.0 == *other.0 && *own.1 == *other.1)
    }

    fn labels(&self) -> Labels {
        self.labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    fn row(&self) -> Finished {
        let parent = self.parent.as_deref().map(str::to_owned);
        Finished { name: self.name.to_string(), labels: self.labels(), parent, ..Finished::default() }
    }
}

struct Key<'a> {
    hash: u64,
    name: &'a str,
    labels: &'a [(&'a str, &'a str)],
    parent: Option<&'a str>,
}

impl<'a> Key<'a> {
    fn new(name: &'a str, labels: &'a [(&'a str, &'a str)], parent: Option<&'a str>) -> Self {
        let mut hash = mix(0, name);
        for (label, value) in labels {
            hash = mix(mix(hash, label), value);
        }
        if let Some(parent) = parent {
            hash = mix(hash ^ 1, parent);
        }
        Self { hash: hash ^ (hash >> 32), name, labels, parent }
    }
}

/// Multiply and rotate, eight bytes at a time; the number of label sets is bounded, whoever chooses them.
#[inline]
fn mix(mut hash: u64, text: &str) -> u64 {
    const FACTOR: u64 = 0x517c_c1b7_2722_0a95;
    let mut step = |word: u64| hash = (hash.rotate_left(5) ^ word).wrapping_mul(FACTOR);
    let bytes = text.as_bytes();
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        step(u64::from_le_bytes(*chunk));
    }
    // The rest in one word without a copy of unknown length: its beginning and its end overlap.
    step(match (rest.first_chunk::<4>(), rest.last_chunk::<4>()) {
        (Some(first), Some(last)) => u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32,
        _ => match *rest {
            [] => 0,
            [one] => u64::from(one),
            [one, .., last] => u64::from(one) | u64::from(rest[rest.len() / 2]) << 8 | u64::from(last) << 16,
        },
    });
    step(text.len() as u64 | 1 << 63);
    hash
}

/// Where a series is in the table; past its end is the overflow bucket.
type Place = u32;

const OVERFLOW_PLACE: Place = Place::MAX;

enum Event {
    Ended { series: Place, end: Duration, duration: Duration, ok: bool, id: u64, extra: Option<Box<Extra>> },
    Began { series: Place, start: Duration, id: u64 },
}

#[derive(Debug, Default)]
struct Extra {
    items: u64,
    bytes: u64,
    measures: Vec<(Cow<'static, str>, f64)>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    limits: Limits,
    table: Box<[OnceLock<Box<Series>>]>,
    used: AtomicUsize,
    overflow: Box<Series>,
    sender: SyncSender<Event>,
    receiver: Mutex<Receiver<Event>>,
    /// Added to the monotonic clock gives the wall clock, as of the start.
    epoch_ns: Timestamp,
    /// Begins every id, so that ids of several processes differ.
    prefix: String,
    next_id: AtomicU64,
    overflowed: AtomicU64,
    summed: AtomicU64,
    dropped: AtomicU64,
    /// Series that may still get stripes.
    wide_left: AtomicUsize,
}

/// Counts who holds the tracker for an operation: one of several, each on a cache line of its own, so that threads that start
/// operations do not pass one counter from core to core.
#[repr(align(128))]
struct Handle(Arc<Inner>);

impl std::ops::Deref for Handle {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// A number for this thread, to spread threads over handles and stripes.
#[inline]
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

/// Records operations; cheap to clone, to be shared by all threads.
#[derive(Clone)]
pub struct Tracker(Arc<Shared>);

struct Shared {
    inner: Arc<Inner>,
    handles: [Arc<Handle>; STRIPES],
}

impl std::ops::Deref for Shared {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl std::fmt::Debug for Tracker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracker").field("label_sets", &self.0.used).finish_non_exhaustive()
    }
}

impl Tracker {
    /// A tracker on `clock`; `prefix` begins the ids of operations and should differ between processes.
    pub fn new(clock: Arc<dyn Clock>, prefix: impl Into<String>, limits: Limits) -> Self {
        let slots = (limits.label_sets_max.max(1) * 2).next_power_of_two();
        let (sender, receiver) = mpsc::sync_channel(limits.queue_max.max(1));
        let key = Key::new(OVERFLOW, &[], None);
        let overflow = Box::new(new_series(&key));
        let elapsed = i64::try_from(clock.monotonic().as_nanos()).unwrap_or(0);
        let inner = Arc::new(Inner {
            epoch_ns: clock.now().saturating_sub(elapsed),
            clock,
            limits,
            table: (0..slots).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(0),
            overflow,
            sender,
            receiver: Mutex::new(receiver),
            prefix: prefix.into(),
            next_id: AtomicU64::new(1),
            overflowed: AtomicU64::new(0),
            summed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            wide_left: AtomicUsize::new(WIDE_MAX),
        });
        let handles = std::array::from_fn(|_| Arc::new(Handle(Arc::clone(&inner))));
        Self(Arc::new(Shared { inner, handles }))
    }

    fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.0.handles[thread_number() % STRIPES])
    }

    /// Starts an operation. Dropping what comes back without [`Running::finish`] counts as failed.
    #[inline]
    pub fn start(&self, name: &str, labels: &[(&str, &str)]) -> Running {
        Running::new(self.handle(), self.0.find(&Key::new(name, labels, None)))
    }

    /// A kind of operation looked up once, for the hottest places: starting and recording skip the table.
    pub fn kind(&self, name: &str, labels: &[(&str, &str)]) -> OperationKind {
        OperationKind { series: self.0.find(&Key::new(name, labels, None)), tracker: self.clone() }
    }

    /// Records an operation that was timed by the caller.
    #[inline]
    pub fn record(&self, name: &str, labels: &[(&str, &str)], duration: Duration, ok: bool) {
        let key = Key::new(name, labels, None);
        self.0.record(self.0.find(&key), None, duration, ok, 0, None);
    }

    /// What did not fit so far.
    pub fn pressure(&self) -> Pressure {
        Pressure {
            overflowed: self.0.overflowed.load(Relaxed),
            summed: self.0.summed.load(Relaxed),
            dropped: self.0.dropped.load(Relaxed),
        }
    }

    /// Hands on what was recorded since the last call. To be called once a second: summed rows are of one call.
    pub fn drain(&self, mut sink: impl FnMut(Row)) {
        let receiver = self.0.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        // What is queued now, and not what comes meanwhile: a busy process must not hold its reader for ever.
        let events: Vec<Event> = receiver.try_iter().take(self.0.limits.queue_max).collect();
        let now = self.0.wall(self.0.clock.monotonic());
        let mut rows = Vec::new();
        for slot in self.0.table.iter().filter_map(OnceLock::get).chain([&self.0.overflow]) {
            rows.extend(summed_row(slot, now).map(Row::Finished));
        }
        drop(receiver);
        for event in events {
            sink(self.0.event_row(event));
        }
        rows.into_iter().for_each(sink);
    }
}

fn new_series(key: &Key<'_>) -> Series {
    Series {
        hash: key.hash,
        name: key.name.into(),
        labels: key.labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        parent: key.parent.map(Into::into),
        cells: Cells::default(),
    }
}

fn summed_row(series: &Series, now: Timestamp) -> Option<Finished> {
    let taken = series.cells.take();
    if taken.counts.is_empty() {
        // An operation that is being recorded right now may have left its time without its count: put it back.
        series.cells.put_back(&taken.sums);
        return None;
    }
    let first = crate::sketch::value_of(taken.counts[0].0) as u64;
    let min_ns = if taken.sums.min_ns == u64::MAX { first } else { taken.sums.min_ns };
    let mut sketch = Sketch::default();
    sketch.add(taken.counts, u128::from(taken.sums.sum_ns), min_ns, taken.sums.max_ns.max(min_ns));
    Some(Finished {
        end_ns: now,
        duration_ns: taken.sums.sum_ns,
        count: sketch.count(),
        failures: taken.sums.failures,
        items: (taken.sums.items > 0).then_some(taken.sums.items),
        bytes: (taken.sums.bytes > 0).then_some(taken.sums.bytes),
        min_ns: sketch.min_ns(),
        max_ns: sketch.max_ns(),
        sketch: Some(sketch.encode()),
        ..series.row()
    })
}

impl Inner {
    #[inline]
    fn find(&self, key: &Key<'_>) -> Place {
        let mask = self.table.len() - 1;
        for probe in 0..PROBES {
            let at = (key.hash as usize).wrapping_add(probe) & mask;
            let slot = &self.table[at];
            let found = match slot.get() {
                Some(series) => series,
                None => match self.claim(slot, key) {
                    Some(series) => series,
                    None => break,
                },
            };
            if found.is(key) {
                return at as Place;
            }
        }
        self.overflowed.fetch_add(1, Relaxed);
        OVERFLOW_PLACE
    }

    #[inline]
    fn series(&self, place: Place) -> &Series {
        self.table.get(place as usize).and_then(OnceLock::get).unwrap_or(&self.overflow)
    }

    /// Fills an empty slot if the limit allows; another thread may have filled it with another label set.
    #[cold]
    fn claim<'a>(&self, slot: &'a OnceLock<Box<Series>>, key: &Key<'_>) -> Option<&'a Series> {
        let room = |used| (used < self.limits.label_sets_max).then_some(used + 1);
        self.used.fetch_update(Relaxed, Relaxed, room).ok()?;
        let mut ours = false;
        let series = slot.get_or_init(|| {
            ours = true;
            Box::new(new_series(key))
        });
        if !ours {
            self.used.fetch_sub(1, Relaxed);
        }
        Some(series)
    }

    #[inline]
    fn record(
        &self,
        series: Place,
        start: Option<Duration>,
        duration: Duration,
        ok: bool,
        id: u64,
        extra: Option<Box<Extra>>,
    ) {
        let (items, bytes) = extra.as_ref().map_or((0, 0), |extra| (extra.items, extra.bytes));
        let measured = extra.as_ref().is_some_and(|extra| !extra.measures.is_empty());
        if duration >= self.limits.single_from || id != 0 || measured {
            let end = start.map_or_else(|| self.clock.monotonic(), |start| start + duration);
            let dropped = if measured { 1 } else { 0 };
            let event = Event::Ended { series, end, duration, ok, id, extra };
            if self.sender.try_send(event).is_ok() {
                return;
            }
            self.summed.fetch_add(1, Relaxed);
            self.dropped.fetch_add(dropped, Relaxed);
        }
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let may_widen = || self.wide_left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        self.series(series).cells.record(thread_number(), (nanoseconds, ok, items, bytes), may_widen);
    }

    fn wall(&self, monotonic: Duration) -> Timestamp {
        self.epoch_ns.saturating_add(i64::try_from(monotonic.as_nanos()).unwrap_or(i64::MAX))
    }

    fn id(&self, id: u64) -> String {
        format!("{}-{id}", self.prefix)
    }

    fn event_row(&self, event: Event) -> Row {
        match event {
            Event::Began { series, start, id } => {
                let Finished { name, labels, parent, .. } = self.series(series).row();
                let (id, start_ns) = (self.id(id), self.wall(start));
                Row::Started(Started { id, name, labels, parent, start_ns, detached: false })
            }
            Event::Ended { series, end, duration, ok, id, extra } => {
                let extra = extra.map(|extra| *extra).unwrap_or_default();
                let id = if id == 0 { self.next_id.fetch_add(1, Relaxed) } else { id };
                Row::Finished(Finished {
                    id: Some(self.id(id)),
                    end_ns: self.wall(end),
                    duration_ns: u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX),
                    count: 1,
                    failures: u64::from(!ok),
                    items: (extra.items > 0).then_some(extra.items),
                    bytes: (extra.bytes > 0).then_some(extra.bytes),
                    measures: extra.measures.into_iter().map(|(name, value)| (name.into_owned(), value)).collect(),
                    ..self.series(series).row()
                })
            }
        }
    }
}

/// A kind of operation, looked up once.
#[derive(Debug, Clone)]
pub struct OperationKind {
    tracker: Tracker,
    series: Place,
}

impl OperationKind {
    /// Starts an operation of this kind.
    pub fn start(&self) -> Running {
        Running::new(self.tracker.handle(), self.series)
    }

    /// Runs `work` as an operation of this kind: what is `Err` failed, and so did what panics.
    #[inline]
    pub fn time<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        struct OnPanic<'a>(&'a OperationKind, Duration, bool);
        impl Drop for OnPanic<'_> {
            fn drop(&mut self) {
                let inner = &self.0.tracker.0;
                let duration = inner.clock.monotonic().saturating_sub(self.1);
                inner.record(self.0.series, Some(self.1), duration, self.2, 0, None);
            }
        }
        let mut guard = OnPanic(self, self.tracker.0.clock.monotonic(), false);
        let outcome = work();
        guard.2 = outcome.is_ok();
        outcome
    }

    /// Records an operation that was timed by the caller.
    #[inline]
    pub fn record(&self, duration: Duration, ok: bool) {
        self.tracker.0.record(self.series, None, duration, ok, 0, None);
    }
}

/// An operation that runs. May move between threads and tasks. Dropped unfinished, it failed.
#[must_use = "an operation that is dropped at once has failed at once"]
pub struct Running {
    tracker: Arc<Handle>,
    series: Place,
    start: Duration,
    /// Not 0 once announced.
    id: u64,
    ok: bool,
    extra: Option<Box<Extra>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = &self.tracker.series(self.series).name;
        f.debug_struct("Running").field("name", name).field("start", &self.start).finish_non_exhaustive()
    }
}

impl Running {
    #[inline]
    fn new(tracker: Arc<Handle>, series: Place) -> Self {
        let start = tracker.clock.monotonic();
        Self { tracker, series, start, id: 0, ok: false, extra: None }
    }

    /// It worked.
    #[inline]
    pub fn finish(mut self) {
        self.ok = true;
    }

    /// It did not.
    pub fn fail(self) {}

    /// It ended as `outcome` says.
    pub fn finish_as<T, E>(mut self, outcome: &Result<T, E>) {
        self.ok = outcome.is_ok();
    }

    /// A part of it, to be finished by itself.
    pub fn child(&self, name: &str, labels: &[(&str, &str)]) -> Running {
        let parent = &self.tracker.series(self.series).name;
        let series = self.tracker.find(&Key::new(name, labels, Some(parent)));
        Running::new(Arc::clone(&self.tracker), series)
    }

    /// Adds to the items done.
    pub fn items(&mut self, count: u64) {
        self.extra().items += count;
    }

    /// Adds to the bytes done.
    pub fn bytes(&mut self, count: u64) {
        self.extra().bytes += count;
    }

    /// A number of its own, by a name with its unit such as `hit_ratio` or `queue_bytes`. Not finite is not measured (M1).
    pub fn measure(&mut self, name: impl Into<Cow<'static, str>>, value: f64) {
        let max = self.tracker.limits.measures_max;
        if self.extra().measures.len() < max && value.is_finite() {
            self.extra().measures.push((name.into(), value));
        } else {
            self.tracker.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Announces it to the history, so that it shows as unfinished should the process die. For what takes long.
    pub fn announce(&mut self) {
        if self.id != 0 {
            return;
        }
        let inner = &self.tracker;
        self.id = inner.next_id.fetch_add(1, Relaxed);
        let began = Event::Began { series: self.series, start: self.start, id: self.id };
        if inner.sender.try_send(began).is_err() {
            inner.dropped.fetch_add(1, Relaxed);
        }
    }

    /// How long it runs already.
    pub fn elapsed(&self) -> Duration {
        self.tracker.clock.monotonic().saturating_sub(self.start)
    }

    fn extra(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        let duration = self.elapsed();
        let extra = self.extra.take();
        self.tracker.record(self.series, Some(self.start), duration, self.ok, self.id, extra);
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
