//! Deletes files that no kept version needs, by itself once in a while.

use std::sync::Arc;

use crate::engine::{Engine, Shared};
use crate::error::Result;
use crate::store::Vacuumed;

impl Engine {
    /// Deletes the files of all tables that no kept version needs (setting `undo_window_s`), and whole tables that were dropped
    /// longer ago than that.
    ///
    /// # Errors
    /// The first failure, after every table was tried.
    pub async fn vacuum(&self) -> Result<Vacuumed> {
        vacuum(&self.shared).await
    }
}

async fn vacuum(shared: &Shared) -> Result<Vacuumed> {
    if shared.store.is_shared() {
        shared.store.refresh().await?;
    }
    let mut total = Vacuumed::default();
    let mut failure = None;
    // One at a time: nobody waits for it, and others want the store.
    for entry in shared.store.tables_with_dropped() {
        match shared.store.vacuum(&entry).await {
            Ok(done) => {
                total.files += done.files;
                total.bytes += done.bytes;
            }
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    let done = shared.store.vacuum_catalog().await?;
    total.files += done.files;
    total.bytes += done.bytes;
    match failure {
        Some(error) => Err(error),
        None => Ok(total),
    }
}

/// Runs until the engine is closed.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(shared.config.vacuum_every) => {}
            () = shared.stop.cancelled() => return,
        }
        let outcome = tokio::select! {
            outcome = vacuum(&shared) => outcome,
            () = shared.stop.cancelled() => return,
        };
        match outcome {
            Ok(done) if done.files > 0 => tracing::info!(files = done.files, bytes = done.bytes, "vacuumed"),
            Ok(_) => {}
            Err(error) => tracing::warn!(error = %weir_base::error::chain(&error), "vacuum failed"),
        }
    }
}
