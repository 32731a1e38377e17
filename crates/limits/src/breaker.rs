//! A circuit breaker: after enough failures in a row a peer is left alone for a while, then tried by one caller.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use weir_base::Clock;

/// Failures in a row after which the breaker opens.
pub const FAILURES_MAX: u32 = 5;
/// How long it stays open.
pub const OPEN_FOR: Duration = Duration::from_secs(30);

/// Lets calls through until they fail; takes no lock.
///
/// A dead peer costs its deadline once per `open_for`, because only one caller is let through when the time has passed.
#[derive(Debug)]
pub struct Breaker {
    failures_max: u32,
    open_for: Duration,
    failures: AtomicU32,
    /// Monotonic microseconds until which calls are refused.
    open_until: AtomicU64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(FAILURES_MAX, OPEN_FOR)
    }
}

impl Breaker {
    /// Opens after `failures_max` (at least 1) failures in a row, for `open_for`.
    pub fn new(failures_max: u32, open_for: Duration) -> Self {
        Self { failures_max: failures_max.max(1), open_for, failures: AtomicU32::new(0), open_until: AtomicU64::new(0) }
    }

    /// Whether a call may be made now. When an open breaker's time has passed, one caller gets `true`, the others wait
    /// for what it reports (at most another `open_for`).
    pub fn allows(&self, clock: &dyn Clock) -> bool {
        if self.failures.load(Ordering::Acquire) < self.failures_max {
            return true;
        }
        let now = micros(clock.monotonic());
        let until = self.open_until.load(Ordering::Acquire);
        let next = now.saturating_add(micros(self.open_for));
        now >= until && self.open_until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether calls are being refused, without taking the turn to try.
    pub fn is_open(&self, clock: &dyn Clock) -> bool {
        self.failures.load(Ordering::Acquire) >= self.failures_max
            && micros(clock.monotonic()) < self.open_until.load(Ordering::Acquire)
    }

    /// The call worked.
    pub fn succeeded(&self) {
        self.failures.store(0, Ordering::Release);
    }

    /// The call failed or timed out.
    pub fn failed(&self, clock: &dyn Clock) {
        let until = micros(clock.monotonic().saturating_add(self.open_for));
        self.open_until.store(until, Ordering::Release);
        let _ = self.failures.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_add(1));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::tests::StepClock;

    #[test]
    fn opens_after_failures_in_a_row_and_lets_one_caller_try() {
        let clock = StepClock::default();
        let breaker = Breaker::new(2, Duration::from_secs(30));
        breaker.failed(&clock);
        breaker.succeeded();
        breaker.failed(&clock);
        assert!(breaker.allows(&clock), "failures must be in a row");
        breaker.failed(&clock);
        assert!(breaker.is_open(&clock) && !breaker.allows(&clock));
        clock.sleep(Duration::from_secs(30));
        assert!(breaker.allows(&clock));
        assert!(!breaker.allows(&clock), "one caller tries, the others fail fast");
        breaker.failed(&clock);
        assert!(!breaker.allows(&clock));
        clock.sleep(Duration::from_secs(31));
        assert!(breaker.allows(&clock));
        breaker.succeeded();
        assert!(breaker.allows(&clock) && breaker.allows(&clock));
    }
}
