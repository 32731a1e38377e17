//! What the engine does by itself: flush what is due, compact what has grown many files, trim the WAL.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::engine::Shared;
use crate::table::{Buffered, TableState};

/// How often what is due is looked for, besides being woken.
const TICK: Duration = Duration::from_millis(250);
/// Share of the buffer limit from which on the largest tables are flushed early, in percent.
const BUFFER_HIGH_PERCENT: u64 = 60;

/// Runs until the engine is closed. A failure is counted, logged and tried again with backoff; it never ends the loop.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut backoff = Duration::ZERO;
    loop {
        let wait = async {
            if backoff.is_zero() {
                tokio::select! {
                    () = shared.flush_wanted.notified() => {}
                    () = tokio::time::sleep(TICK) => {}
                }
            } else {
                tokio::time::sleep(backoff).await;
            }
        };
        tokio::select! {
            () = wait => {}
            () = shared.stop.cancelled() => return,
        }
        backoff = match flush_due(&shared).await {
            Ok(()) => {
                shared.counters.flushes_failed_in_a_row.store(0, Ordering::Relaxed);
                Duration::ZERO
            }
            Err(error) => {
                shared.counters.flushes_failed_in_a_row.fetch_add(1, Ordering::Relaxed);
                let next = (backoff * 2).clamp(shared.config.flush_backoff, shared.config.flush_backoff_max);
                tracing::warn!(error = %weir_base::error::chain(&error), retry_in_ms = next.as_millis() as u64, "flush failed");
                // Full jitter, so that servers on one store do not come back together.
                let jitter = shared.env.random.below(next.as_millis() as u64 + 1);
                (next / 2 + Duration::from_millis(jitter) / 2).max(shared.config.flush_backoff)
            }
        };
    }
}

async fn flush_due(shared: &Arc<Shared>) -> crate::Result<()> {
    let due = due(shared);
    if due.is_empty() {
        return Ok(());
    }
    shared.notice_drops(&due).await?;
    let touched = due.clone();
    let flushed = crate::flush::flush_all(shared, due).await;
    let trimmed = shared.trim().await;
    flushed?;
    trimmed?;
    for table in touched {
        crate::compact::spawn_if_due(shared, table);
    }
    Ok(())
}

/// Which tables to flush now, most urgent first.
fn due(shared: &Shared) -> Vec<Arc<TableState>> {
    let config = &shared.config;
    let now = shared.env.clock.monotonic();
    let mut buffered: Vec<(Arc<TableState>, Buffered)> = shared
        .tables
        .all()
        .into_iter()
        .filter_map(|table| {
            let buffered = table.buffered()?;
            Some((table, buffered))
        })
        .collect();
    let wal = shared.journal().map_or(0, |journal| journal.stored_bytes());
    if wal > config.wal_flush_bytes.bytes() {
        // The oldest rows are what keeps the log long.
        buffered.sort_by_key(|(_, table)| table.first);
        let half = buffered.len().div_ceil(2);
        return buffered.into_iter().take(half).map(|(table, _)| table).collect();
    }
    if shared.memory.used() > shared.memory.limit() / 100 * BUFFER_HIGH_PERCENT {
        buffered.sort_by_key(|(_, table)| std::cmp::Reverse(table.bytes));
        let half = buffered.len().div_ceil(2);
        return buffered.into_iter().take(half).map(|(table, _)| table).collect();
    }
    let is_due = |table: &Buffered| {
        let age = now.saturating_sub(table.since);
        table.frozen
            || table.bytes >= config.flush_bytes.bytes()
            || (table.bytes >= config.flush_bytes_min.bytes() && age >= config.flush_age)
            || age >= config.flush_age_max
    };
    buffered.into_iter().filter(|(_, table)| is_due(table)).map(|(table, _)| table).collect()
}
