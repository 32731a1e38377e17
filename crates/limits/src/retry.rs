//! Trying again: a bounded number of times, exponentially further apart, with full jitter.
//!
//! Full jitter (a uniform draw between zero and the exponential bound) spreads callers that failed together; see
//! "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weir_base::{Clock, Random};

use crate::Deadline;

/// How often and how far apart to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Tries in all, the first included; at least 1.
    pub tries_max: u32,
    /// Bound of the first pause.
    pub pause_first: Duration,
    /// Bound of every pause.
    pub pause_max: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { tries_max: 4, pause_first: Duration::from_millis(100), pause_max: Duration::from_secs(2) }
    }
}

impl Retry {
    /// The pause before try `next` (1 for the second try).
    pub fn pause(&self, next: u32, random: &dyn Random) -> Duration {
        let bound = self.pause_first.saturating_mul(1u32.checked_shl(next.saturating_sub(1)).unwrap_or(u32::MAX));
        let bound = u64::try_from(bound.min(self.pause_max).as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random.below(bound.saturating_add(1)))
    }

    /// Calls `call` until it works, `may_retry` says no, the tries are used up or the deadline would pass in the pause.
    ///
    /// # Errors
    /// The error of the last try.
    pub fn run<T, E>(
        &self,
        clock: &dyn Clock,
        random: &dyn Random,
        deadline: Deadline,
        may_retry: impl Fn(&E) -> bool,
        mut call: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut tries = 0;
        loop {
            let error = match call() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            tries += 1;
            if tries >= self.tries_max || !may_retry(&error) {
                return Err(error);
            }
            let pause = self.pause(tries, random);
            if pause >= deadline.remaining(clock) {
                return Err(error);
            }
            clock.sleep(pause);
        }
    }
}

/// What all calls to one peer together may spend on trying again. A retry takes one from it, a call that works gives a tenth
/// back: a peer that fails most calls gets few retries on top of them, one that fails now and then gets all it needs.
#[derive(Debug)]
pub struct RetryBudget {
    /// Tenths of a retry.
    left: AtomicU64,
    max: u64,
}

impl RetryBudget {
    /// A full budget of `retries_max`.
    pub fn new(retries_max: u32) -> Self {
        let max = u64::from(retries_max) * 10;
        Self { left: AtomicU64::new(max), max }
    }

    /// Takes one retry; `false` when there is none left.
    pub fn take(&self) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(10)).is_ok()
    }

    /// A call worked.
    pub fn succeeded(&self) {
        let more = |left: u64| (left < self.max).then_some(left + 1);
        // Full already: nothing to give back.
        let _ = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
    }

    /// Whole retries that are left.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Acquire) / 10
    }
}

#[cfg(test)]
pub(crate) mod tests {

    use weir_base::{OsRandom, Timestamp};

    use super::*;

    /// A clock that moves only when somebody sleeps.
    #[derive(Debug, Default)]
    pub(crate) struct StepClock(AtomicU64);

    impl Clock for StepClock {
        fn now(&self) -> Timestamp {
            self.0.load(Ordering::Relaxed) as i64
        }
        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
        fn sleep(&self, duration: Duration) {
            self.0.fetch_add(duration.as_nanos() as u64, Ordering::Relaxed);
        }
    }

    fn count(retry: Retry, wait: Duration, may_retry: bool) -> u32 {
        let (clock, mut calls) = (StepClock::default(), 0);
        let deadline = Deadline::after(&clock, wait);
        let outcome: Result<(), &str> = retry.run(
            &clock,
            &OsRandom,
            deadline,
            |_| may_retry,
            || {
                calls += 1;
                Err("no")
            },
        );
        assert_eq!(outcome, Err("no"));
        assert!(!deadline.has_passed(&clock), "S2: never sleeps past its deadline");
        calls
    }

    #[test]
    fn tries_are_bounded_by_count_deadline_and_kind_of_failure() {
        let retry = Retry::default();
        assert_eq!(count(retry, Duration::from_secs(60), true), 4);
        assert_eq!(count(retry, Duration::from_secs(60), false), 1);
        assert_eq!(count(retry, Duration::from_nanos(1), true), 1);
    }

    #[test]
    fn pauses_stay_below_their_bounds() {
        let retry = Retry { tries_max: 99, ..Retry::default() };
        for next in 1..99 {
            let bound = Duration::from_millis(100 << (next - 1).min(10)).min(Duration::from_secs(2));
            assert!(retry.pause(next, &OsRandom) <= bound);
        }
    }

    #[test]
    fn s1_a_budget_of_retries_is_spent_and_earned_back() {
        let budget = RetryBudget::new(3);
        assert_eq!((0..5).map(|_| budget.take()).collect::<Vec<_>>(), [true, true, true, false, false]);
        for _ in 0..10 {
            assert!(!budget.take());
            budget.succeeded();
        }
        assert!(budget.take() && !budget.take(), "ten calls that work are worth one retry");
        (0..1000).for_each(|_| budget.succeeded());
        assert_eq!(budget.left(), 3, "no more than it began with");
    }
}
