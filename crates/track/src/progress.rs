//! [`Progress`]: how far work is, and an honest guess of how long it still takes.
//!
//! Whoever works adds to atomics; whoever shows it looks at a [`Snapshot`] when it likes. Nothing is called back and no
//! lock is held but for the copying of a message, so that showing never holds up working.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const UNKNOWN: u64 = u64::MAX;

/// Nested bars at most; more are not shown.
const CHILDREN_MAX: usize = 64;

#[derive(Debug)]
struct State {
    what: String,
    done: AtomicU64,
    total: AtomicU64,
    ended: AtomicBool,
    message: Mutex<Arc<str>>,
    children: Mutex<Vec<Progress>>,
}

/// Work that goes on; cheap to clone and to share.
#[derive(Debug, Clone)]
pub struct Progress(Arc<State>);

/// How far it is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What is done.
    pub what: String,
    /// Items or bytes done.
    pub done: u64,
    /// Of how many; none when nobody knows.
    pub total: Option<u64>,
    /// What is on right now.
    pub message: Arc<str>,
    /// Whether it has ended.
    pub ended: bool,
    /// Parts of it that have not ended.
    pub children: Vec<Snapshot>,
}

impl Progress {
    /// Work called `what`, of `total` items if that is known.
    pub fn new(what: &str, total: Option<u64>) -> Self {
        Self(Arc::new(State {
            what: what.to_owned(),
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(UNKNOWN)),
            ended: AtomicBool::new(false),
            message: Mutex::new(Arc::from("")),
            children: Mutex::new(Vec::new()),
        }))
    }

    /// Adds to what is done.
    pub fn add(&self, count: u64) {
        self.0.done.fetch_add(count, Relaxed);
    }

    /// Says how much there is, once that is known.
    pub fn set_total(&self, total: Option<u64>) {
        self.0.total.store(total.unwrap_or(UNKNOWN), Relaxed);
    }

    /// Says what is on right now.
    pub fn set_message(&self, message: &str) {
        let message: Arc<str> = Arc::from(message);
        *self.0.message.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }

    /// A part of it, with a bar of its own.
    pub fn child(&self, what: &str, total: Option<u64>) -> Self {
        let child = Self::new(what, total);
        let mut children = self.0.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| !child.0.ended.load(Relaxed));
        if children.len() < CHILDREN_MAX {
            children.push(child.clone());
        }
        child
    }

    /// It has ended.
    pub fn finish(&self) {
        self.0.ended.store(true, Relaxed);
    }

    /// How far it is.
    pub fn snapshot(&self) -> Snapshot {
        let children: Vec<Self> = self.0.children.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let message = Arc::clone(&self.0.message.lock().unwrap_or_else(PoisonError::into_inner));
        Snapshot {
            what: self.0.what.clone(),
            done: self.0.done.load(Relaxed),
            total: Some(self.0.total.load(Relaxed)).filter(|total| *total != UNKNOWN),
            message,
            ended: self.0.ended.load(Relaxed),
            children: children.iter().map(Self::snapshot).filter(|child| !child.ended).collect(),
        }
    }
}

/// Most samples that a [`Pace`] keeps.
const SAMPLES: usize = 64;

/// The recent rate of some work, robust against pauses and bursts: the median of the slopes between all recent samples
/// (Theil, 1950; Sen, 1968), where recent is the later half of the time so far.
#[derive(Debug, Default)]
pub struct Pace {
    samples: VecDeque<(Duration, u64)>,
    spacing: Duration,
}

impl Pace {
    /// Takes how much was done at `elapsed` since the start. Samples that come faster than they are kept are passed over.
    pub fn observe(&mut self, elapsed: Duration, done: u64) {
        if self.samples.back().is_some_and(|(last, _)| elapsed < *last + self.spacing.max(Duration::from_millis(20))) {
            return;
        }
        self.samples.push_back((elapsed, done));
        if self.samples.len() > SAMPLES {
            let mut at = 0;
            self.samples.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            let span = self.samples.back().map_or(Duration::ZERO, |last| last.0);
            self.spacing = span / (SAMPLES as u32 / 2);
        }
    }

    /// Items per second; none until there is something to tell from.
    pub fn per_second(&self) -> Option<f64> {
        let (end, last) = *self.samples.back()?;
        let recent: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|(time, _)| *time * 2 >= end || self.samples.len() < 8)
            .map(|(time, done)| (time.as_secs_f64(), *done as f64))
            .collect();
        let mut slopes = Vec::with_capacity(recent.len() * recent.len() / 2);
        for (at, one) in recent.iter().enumerate() {
            slopes.extend(recent[at + 1..].iter().map(|other| (other.1 - one.1) / (other.0 - one.0)));
        }
        let rate = crate::compare::median(&slopes);
        if rate.is_finite() && rate > 0.0 {
            return Some(rate);
        }
        // Work that comes in few large pieces stands still most of the time: then the whole is the better guess.
        (last > 0 && !end.is_zero()).then(|| last as f64 / end.as_secs_f64())
    }

    /// How long the rest of `total` takes at that rate; none when nobody can tell.
    pub fn left(&self, total: Option<u64>) -> Option<Duration> {
        let (rate, (_, done)) = (self.per_second()?, *self.samples.back()?);
        Duration::try_from_secs_f64(total?.saturating_sub(done) as f64 / rate).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Seeded;

    #[test]
    fn the_guess_on_uneven_work_is_off_by_less_than_a_fifth_mostly() {
        let random = Seeded::new(21);
        let mut errors = Vec::new();
        for _ in 0..100 {
            // Items of very different size, a pause in one of fifty, and a machine that slows down by a third half-way.
            let times: Vec<f64> = (0..2000)
                .map(|at| {
                    let pause = if random.uniform() < 0.02 { 0.3 } else { 0.0 };
                    let slow = if at > 1000 { 1.33 } else { 1.0 };
                    (0.01 * (0.8 * random.normal()).exp() + pause) * slow
                })
                .collect();
            let whole: f64 = times.iter().sum();
            let (mut pace, mut elapsed) = (Pace::default(), 0.0);
            for (at, time) in times.iter().enumerate() {
                elapsed += time;
                pace.observe(Duration::from_secs_f64(elapsed), at as u64 + 1);
                if at > 300 && at % 100 == 0 && at < 1900 {
                    let told = pace.left(Some(2000)).unwrap().as_secs_f64();
                    errors.push(((told - (whole - elapsed)) / (whole - elapsed)).abs());
                }
            }
        }
        errors.sort_by(f64::total_cmp);
        let (middle, most) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
        assert!(middle < 0.2 && most < 0.4, "half of the guesses are within {middle:.3}, nine of ten within {most:.3}");
    }

    #[test]
    fn a_long_pause_does_not_spoil_the_guess_and_nothing_known_is_no_guess() {
        let mut pace = Pace::default();
        assert_eq!((pace.per_second(), pace.left(Some(5))), (None, None));
        let mut elapsed = 0.0;
        for done in 1..=500 {
            elapsed += if done == 400 { 8.0 } else { 0.1 };
            pace.observe(Duration::from_secs_f64(elapsed), done);
        }
        let rate = pace.per_second().unwrap();
        assert!((7.0..=10.5).contains(&rate), "{rate}");
        assert_eq!(pace.left(None), None);
        assert!(pace.samples.len() <= SAMPLES);
    }

    #[test]
    fn snapshots_show_open_parts_and_a_stalled_reader_stalls_nobody() {
        let whole = Progress::new("import", None);
        whole.set_total(Some(10));
        let part = whole.child("file a", Some(3));
        let ended = whole.child("file b", None);
        ended.finish();
        whole.set_message("reading");
        part.add(2);
        whole.add(4);
        let seen = whole.snapshot();
        assert_eq!((seen.done, seen.total, &*seen.message, seen.children.len()), (4, Some(10), "reading", 1));
        assert_eq!((seen.children[0].done, seen.children[0].total), (2, Some(3)));
        for _ in 0..1000 {
            let _ = whole.child("many", None);
        }
        assert!(whole.snapshot().children.len() <= CHILDREN_MAX);
    }
}
