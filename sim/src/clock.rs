//! A clock that moves only when told to, or when somebody sleeps on it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use weir_base::Timestamp;

/// Starts at 2023-11-14T22:13:20Z.
#[derive(Debug)]
pub struct Clock {
    nanos: AtomicI64,
}

const START: i64 = 1_700_000_000_000_000_000;

impl Default for Clock {
    fn default() -> Self {
        Self { nanos: AtomicI64::new(0) }
    }
}

impl Clock {
    /// Moves the time forward.
    pub fn advance(&self, duration: Duration) {
        let nanos = i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX);
        self.nanos.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl weir_base::Clock for Clock {
    fn now(&self) -> Timestamp {
        START + self.nanos.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::SeqCst).unsigned_abs())
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}
