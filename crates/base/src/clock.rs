//! Time as a parameter: wall time for what is stored, monotonic time for deadlines.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970-01-01T00:00:00Z; negative before.
pub type Timestamp = i64;

/// Where a room reads the time and waits.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Wall time, nanoseconds UTC. May jump.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary start; never goes back. For deadlines and durations.
    fn monotonic(&self) -> Duration;
    /// Blocks the calling thread.
    fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Debug, Clone)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam that the ban points to")]
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the seam that the ban points to")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}
