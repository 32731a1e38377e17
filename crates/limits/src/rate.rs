//! A rate limit: at most so many calls in any second, shared by all threads that hold it.
//!
//! Permits are spaced evenly, so that every window holds, not only the average: a bucket that lets a burst through passes twice its rate in the first
//! window. The spacing is a twentieth wider than the rate asks, for what threads and networks bunch together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use weir_base::{Clock, Kind};

use crate::{Deadline, Error, Result};

/// Lets calls through at an even pace.
#[derive(Debug)]
pub struct RateLimit {
    spacing: Duration,
    /// Monotonic time of the last permit.
    last: Mutex<Option<Duration>>,
}

impl RateLimit {
    /// At most `per_second` (at least 1) calls in any second.
    pub fn new(per_second: u32) -> Self {
        Self { spacing: Duration::from_secs_f64(1.05 / f64::from(per_second.max(1))), last: Mutex::new(None) }
    }

    /// Waits for a permit.
    ///
    /// # Errors
    /// `Unavailable` when there would be none before the deadline.
    pub fn acquire(&self, clock: &dyn Clock, deadline: Deadline) -> Result<()> {
        loop {
            let wait = {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                let now = clock.monotonic();
                let next = last.map_or(now, |last| last.saturating_add(self.spacing));
                if next <= now {
                    *last = Some(now);
                    return Ok(());
                }
                next - now
            };
            if wait >= deadline.remaining(clock) {
                return Err(Error::new(Kind::Unavailable, "no call may be made before the deadline (rate limit)")
                    .with_retry(weir_base::Retry::Backoff));
            }
            clock.sleep(wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::tests::StepClock;

    #[test]
    fn no_window_of_a_second_holds_more_and_the_deadline_is_kept() {
        let (clock, rate) = (StepClock::default(), RateLimit::new(20));
        let far = Deadline::after(&clock, Duration::from_secs(3600));
        let times: Vec<Duration> = (0..100)
            .map(|_| {
                rate.acquire(&clock, far).unwrap();
                clock.monotonic()
            })
            .collect();
        for (at, from) in times.iter().enumerate() {
            let window = times[at..].iter().take_while(|time| **time < *from + Duration::from_secs(1));
            assert!(window.count() <= 20, "S1");
        }
        assert!(times[99] < Duration::from_secs(6), "it is not much slower than it may be");
        assert!(rate.acquire(&clock, Deadline::after(&clock, Duration::from_millis(1))).is_err(), "S2");
    }
}
