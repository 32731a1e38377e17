//! Where recorders count: atomics only, taken back to zero by readers. No recorder ever waits for anybody.
//!
//! A reader swaps each cell with zero. An operation that is recorded meanwhile is split at worst: counted in this taking,
//! its time in the next. Over both nothing is lost and nothing is counted twice; `tests/loom.rs` tries every order.
//!
//! Threads that record the same label set at once would pass its cells from core to core. Where they get into each other's way,
//! the label set gets stripes of cells, one for every few threads (as Java's `LongAdder` by Doug Lea does).

use std::collections::BTreeMap;
use std::sync::OnceLock;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::sketch::{BUCKETS, bucket_of};

const PAGE: usize = 64;
const PAGES: usize = BUCKETS / PAGE;

/// A 32-bit counter passes on this much at once, long before it could wrap.
#[cfg(not(loom))]
const CARRY: u32 = 1 << 31;
/// In the model so small that two threads reach it once, and their carries do not reach it in turn.
#[cfg(loom)]
const CARRY: u32 = 3;

/// A counter that says when it must be relieved.
#[derive(Debug)]
pub struct Counter(AtomicU32);

impl Default for Counter {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Counter {
    /// Counts one. True for exactly one caller per carry: who gets it counts one carry elsewhere.
    #[inline]
    pub fn add(&self) -> bool {
        if self.0.fetch_add(1, Relaxed).wrapping_add(1) < CARRY {
            return false;
        }
        // Several may be past the mark at once; each takes only what is there, so that one relief serves one carry.
        self.0.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(CARRY)).is_ok()
    }

    /// Takes what is there.
    pub fn take(&self) -> u32 {
        self.0.swap(0, Relaxed)
    }

    /// What one carry stands for.
    pub fn carry() -> u64 {
        u64::from(CARRY)
    }
}

/// Sums and extremes of durations, with failures, items and bytes.
#[derive(Debug)]
pub struct Sums {
    sum_ns: AtomicU64,
    min_ns: AtomicU64,
    max_ns: AtomicU64,
    failures: AtomicU64,
    items: AtomicU64,
    bytes: AtomicU64,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            sum_ns: AtomicU64::new(0),
            min_ns: AtomicU64::new(u64::MAX),
            max_ns: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            items: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }
}

/// What [`Sums`] held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenSums {
    /// Sum of the durations, in nanoseconds.
    pub sum_ns: u64,
    /// The shortest; `u64::MAX` when there was none.
    pub min_ns: u64,
    /// The longest; 0 when there was none.
    pub max_ns: u64,
    /// How many failed.
    pub failures: u64,
    /// Items done.
    pub items: u64,
    /// Bytes done.
    pub bytes: u64,
}

impl TakenSums {
    fn merge(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.failures += other.failures;
        self.items += other.items;
        self.bytes += other.bytes;
    }
}

impl Sums {
    /// Adds one operation. True when another thread was just changing the same sums.
    #[inline]
    pub fn add(&self, duration_ns: u64, ok: bool, items: u64, bytes: u64) -> bool {
        let seen = self.sum_ns.load(Relaxed);
        let met = self.sum_ns.compare_exchange(seen, seen.wrapping_add(duration_ns), Relaxed, Relaxed).is_err();
        if met {
            self.sum_ns.fetch_add(duration_ns, Relaxed);
        }
        // The extremes move seldom: a load is cheaper than a write that changes nothing.
        if duration_ns < self.min_ns.load(Relaxed) {
            self.min_ns.fetch_min(duration_ns, Relaxed);
        }
        if duration_ns > self.max_ns.load(Relaxed) {
            self.max_ns.fetch_max(duration_ns, Relaxed);
        }
        for (cell, value) in [(&self.failures, u64::from(!ok)), (&self.items, items), (&self.bytes, bytes)] {
            if value > 0 {
                cell.fetch_add(value, Relaxed);
            }
        }
        met
    }

    /// Adds what was taken too early.
    pub fn put_back(&self, taken: &TakenSums) {
        for (cell, value) in [
            (&self.sum_ns, taken.sum_ns),
            (&self.failures, taken.failures),
            (&self.items, taken.items),
            (&self.bytes, taken.bytes),
        ] {
            if value > 0 {
                cell.fetch_add(value, Relaxed);
            }
        }
        self.min_ns.fetch_min(taken.min_ns, Relaxed);
        self.max_ns.fetch_max(taken.max_ns, Relaxed);
    }

    /// Takes what is there.
    pub fn take(&self) -> TakenSums {
        TakenSums {
            sum_ns: self.sum_ns.swap(0, Relaxed),
            min_ns: self.min_ns.swap(u64::MAX, Relaxed),
            max_ns: self.max_ns.swap(0, Relaxed),
            failures: self.failures.swap(0, Relaxed),
            items: self.items.swap(0, Relaxed),
            bytes: self.bytes.swap(0, Relaxed),
        }
    }
}

#[derive(Debug)]
struct Page {
    low: [Counter; PAGE],
    /// Carries of `low`; there only once a counter had one.
    high: OnceLock<Box<[Counter; PAGE]>>,
}

impl Page {
    fn new() -> Box<Self> {
        Box::new(Self { low: std::array::from_fn(|_| Counter::default()), high: OnceLock::new() })
    }
}

/// Cells that few threads share: a sketch in pages that come as they are needed, and its sums.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    pages: [OnceLock<Box<Page>>; PAGES],
    sums: Sums,
}

/// Stripes of a label set that many threads record.
pub const STRIPES: usize = 8;

/// Meetings of two threads after which a label set gets stripes.
const MEETINGS: u32 = 64;

/// The cells of one label set.
#[derive(Debug, Default)]
pub struct Cells {
    base: Stripe,
    more: OnceLock<Box<[Stripe; STRIPES]>>,
    meetings: std::sync::atomic::AtomicU32,
}

/// What [`Cells`] held.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// Buckets that hold something, in order.
    pub counts: Vec<(usize, u64)>,
    /// Sums and extremes.
    pub sums: TakenSums,
}

impl Stripe {
    #[inline]
    fn record(&self, duration_ns: u64, ok: bool, items: u64, bytes: u64) -> bool {
        let bucket = bucket_of(duration_ns);
        let page = self.pages[bucket / PAGE].get_or_init(Page::new);
        if page.low[bucket % PAGE].add() {
            let high = page.high.get_or_init(|| Box::new(std::array::from_fn(|_| Counter::default())));
            let _ = high[bucket % PAGE].add();
        }
        self.sums.add(duration_ns, ok, items, bytes)
    }

    fn take(&self, counts: &mut BTreeMap<usize, u64>) -> TakenSums {
        for (at, page) in self.pages.iter().enumerate() {
            let Some(page) = page.get() else { continue };
            for (offset, low) in page.low.iter().enumerate() {
                let high = page.high.get().map_or(0, |high| high[offset].take());
                let count = u64::from(low.take()) + u64::from(high) * Counter::carry();
                if count > 0 {
                    *counts.entry(at * PAGE + offset).or_default() += count;
                }
            }
        }
        self.sums.take()
    }
}

impl Cells {
    /// Counts one operation, by the thread of number `thread`. Asks `may_widen` once threads meet too often.
    #[inline]
    pub fn record(
        &self,
        thread: usize,
        (duration_ns, ok, items, bytes): (u64, bool, u64, u64),
        may_widen: impl FnOnce() -> bool,
    ) {
        if let Some(more) = self.more.get() {
            more[thread % STRIPES].record(duration_ns, ok, items, bytes);
        } else if self.base.record(duration_ns, ok, items, bytes)
            && self.meetings.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == MEETINGS
            && may_widen()
        {
            self.more.get_or_init(Box::default);
        }
    }

    /// Adds sums that were taken without a count.
    pub fn put_back(&self, sums: &TakenSums) {
        self.base.sums.put_back(sums);
    }

    /// Takes what is there.
    pub fn take(&self) -> Taken {
        let mut counts = BTreeMap::new();
        let mut sums = self.base.take(&mut counts);
        for stripe in self.more.get().into_iter().flat_map(|more| more.iter()) {
            sums.merge(&stripe.take(&mut counts));
        }
        Taken { counts: counts.into_iter().collect(), sums }
    }
}
