//! How fast a merge that nobody asked for goes: so many bytes of rows a second, so that it leaves disk and processor to others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::table::TableState;

/// How long it is before it notices that somebody waits for the end.
const STEP: Duration = Duration::from_millis(50);

/// The pace of one merge.
#[derive(Debug)]
pub(crate) struct Pace {
    begun: Instant,
    bytes: AtomicU64,
    bytes_per_s: Option<u64>,
    table: Arc<TableState>,
}

impl Pace {
    /// At most `bytes_per_s` on the average from now on, for as long as nobody waits for a merge of the table; `None`: as fast as it goes.
    pub(crate) fn new(table: &Arc<TableState>, bytes_per_s: Option<u64>) -> Self {
        Self { begun: Instant::now(), bytes: AtomicU64::new(0), bytes_per_s, table: Arc::clone(table) }
    }

    /// Waits until `bytes` more may be merged.
    pub(crate) async fn keep(&self, bytes: u64) {
        let Some(bytes_per_s) = self.bytes_per_s else { return };
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let due = self.begun + Duration::from_secs_f64(before as f64 / bytes_per_s.max(1) as f64);
        while Instant::now() < due && !self.table.is_waited_for() {
            tokio::time::sleep_until(due.min(Instant::now() + STEP)).await;
        }
    }
}
