//! A moment on the monotonic clock by which an answer is wanted.

use std::time::Duration;

use weir_base::Clock;

/// The moment after which nobody waits any more. Copied down through every call that can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// Monotonic time of the clock it was made with.
    at: Duration,
}

impl Deadline {
    /// `wait` from now; a wait too long to express never ends.
    pub fn after(clock: &dyn Clock, wait: Duration) -> Self {
        Self { at: clock.monotonic().saturating_add(wait) }
    }

    /// What is left; zero when it has passed.
    pub fn remaining(&self, clock: &dyn Clock) -> Duration {
        self.at.saturating_sub(clock.monotonic())
    }

    /// Whether it has passed.
    pub fn has_passed(&self, clock: &dyn Clock) -> bool {
        self.remaining(clock).is_zero()
    }

    /// The earlier of this one and `wait` from now.
    pub fn at_most(self, clock: &dyn Clock, wait: Duration) -> Self {
        self.min(Self::after(clock, wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::tests::StepClock;

    #[test]
    fn it_passes_once_and_is_only_ever_shortened() {
        let clock = StepClock::default();
        let deadline = Deadline::after(&clock, Duration::from_secs(2));
        assert_eq!(deadline.remaining(&clock), Duration::from_secs(2));
        let inner = deadline.at_most(&clock, Duration::from_secs(1));
        assert_eq!(inner.remaining(&clock), Duration::from_secs(1));
        assert_eq!(deadline.at_most(&clock, Duration::from_secs(9)), deadline);
        clock.sleep(Duration::from_secs(2));
        assert!(deadline.has_passed(&clock) && inner.has_passed(&clock));
        assert!(!Deadline::after(&clock, Duration::MAX).has_passed(&clock));
    }
}
