//! Drops tables, and brings them back: one commit of the catalog; the folder stays until the undo window is over.
//!
//! A drop waits for the writes that are on their way and holds new ones back for a moment, so that every row lies clearly
//! before it (flushed into the folder that is dropped) or after it (in a new table of the same name). Between servers on a
//! shared store the order is that of commits (E3): another server learns of a drop from the catalog, before each flush and
//! each query, and what it has not flushed by then comes after the drop.

use std::sync::Arc;
use std::time::Duration;

use weir_base::{Kind, Retry};

use crate::engine::{Engine, Shared};
use crate::error::{Error, Result};
use crate::external;
use crate::store::{CatalogEntry, TableState as CatalogState};
use crate::table::TableState;

impl Engine {
    /// Drops a table, as `operation` (an id, or a word). The entry that is returned names its folder, by which it can be brought back.
    ///
    /// # Errors
    /// `not found` when there is no such table; `unavailable` when writes do not end in time (setting `schema_wait_ms`); those of the store.
    pub async fn drop_table(&self, database: &str, table: &str, operation: &str) -> Result<CatalogEntry> {
        let place = self.place(database, table).await?;
        self.drop_folder(place.table.folder(), operation).await
    }

    /// Drops the table in a folder; one that is dropped already stays so.
    ///
    /// # Errors
    /// As [`Engine::drop_table`].
    pub async fn drop_folder(&self, folder: &str, operation: &str) -> Result<CatalogEntry> {
        let shared = &self.shared;
        let entry = self.folder(folder).await?;
        let loaded = shared.tables.get(&entry.database, &entry.table);
        if entry.state == CatalogState::Dropped {
            // An earlier call did it and may not have learned so.
            shared.notice_drops(loaded.as_slice()).await?;
            return Ok(entry);
        }
        if let Some(state) = loaded {
            // Most rows go before writes are held back.
            crate::flush::flush_buffered(shared, &state).await?;
        }
        let _gate = shared.hold_writes().await?;
        let loaded = shared.tables.get(&entry.database, &entry.table);
        let Some(state) = loaded.filter(|state| state.stored().is_some_and(|table| table.folder() == folder)) else {
            return shared.store.drop_folder(folder, operation).await;
        };
        let _compacting = state.compacting.lock().await;
        crate::flush::flush_buffered(shared, &state).await?;
        let _flushing = state.flushing.lock().await;
        let dropped = shared.store.drop_folder(folder, operation).await?;
        state.detach(&shared.memory);
        Ok(dropped)
    }

    /// Brings the dropped table in a folder back, as `operation`; one that is live already stays so.
    ///
    /// # Errors
    /// `conflict` when its name is in use again, or when it was dropped longer ago than the undo window (setting `undo_window_s`);
    /// `not found`; those of the store.
    pub async fn undrop_folder(&self, folder: &str, operation: &str) -> Result<CatalogEntry> {
        let shared = &self.shared;
        let entry = self.folder(folder).await?;
        if entry.state == CatalogState::Live {
            return Ok(entry);
        }
        if let Some(why) = self.undrop_obstacle(&entry) {
            return Err(Error::new(Kind::Conflict, why));
        }
        let _gate = shared.hold_writes().await?;
        if let Some(why) = self.undrop_obstacle(&entry) {
            return Err(Error::new(Kind::Conflict, why));
        }
        let revived = shared.store.undrop_table(folder, operation).await?;
        // Loads it, so that the next write finds its columns.
        shared.table(&entry.database, &entry.table).await?;
        Ok(revived)
    }

    /// What the catalog says of a folder now.
    ///
    /// # Errors
    /// `not found` when it does not know it; those of the store.
    pub async fn folder(&self, folder: &str) -> Result<CatalogEntry> {
        // Also where nobody else writes: an earlier commit may have happened without an answer.
        self.shared.store.refresh().await?;
        let missing = || Error::new(Kind::NotFound, format!("the catalog has no table in folder '{folder}'"));
        self.shared.store.entry(folder).ok_or_else(missing)
    }

    /// Why a dropped table cannot be brought back; `None` when it can.
    pub(crate) fn undrop_obstacle(&self, entry: &CatalogEntry) -> Option<String> {
        let (database, table) = (&entry.database, external::shown_name(&entry.table));
        let buffered = self.shared.tables.get(database, table).is_some_and(|state| state.exists());
        let is_live = |name: &str| self.shared.store.is_live(database, name);
        if buffered || is_live(table) || is_live(&external::table_name(table)) {
            return Some(format!("the name '{table}' is in use again in database '{database}'"));
        }
        let window = self.config().undo_window;
        let window_us = i64::try_from(window.as_micros()).unwrap_or(i64::MAX);
        let age_us = self.shared.env.clock.now().div_euclid(1000).saturating_sub(entry.changed_us);
        (age_us > window_us).then(|| {
            let hours = window.as_secs() / 3600;
            format!("table '{table}' was dropped longer ago than the undo window of {hours} h (setting undo_window_s)")
        })
    }
}

impl Shared {
    /// Waits for the writes on their way and holds new ones back while the guard lives.
    pub(crate) async fn hold_writes(&self) -> Result<tokio::sync::OwnedRwLockWriteGuard<()>> {
        let held = tokio::time::timeout(self.config.schema_wait, Arc::clone(&self.write_gate).write_owned()).await;
        held.map_err(|_| {
            Error::new(Kind::Unavailable, "writes do not end in time (setting schema_wait_ms)")
                .with_retry(Retry::After(Duration::from_secs(1)))
        })
    }

    /// Lets go of those of these tables that the catalog says are dropped: by another server, or by a commit that had no answer.
    ///
    /// # Errors
    /// Those of the store; `unavailable` when writes do not end in time.
    pub(crate) async fn notice_drops(&self, tables: &[Arc<TableState>]) -> Result<()> {
        if self.store.is_shared() {
            self.store.refresh().await?;
        }
        for table in tables {
            self.let_go_if_dropped(table).await?;
        }
        Ok(())
    }

    /// The rows that a dropped table has buffered and later ones go into a new table.
    async fn let_go_if_dropped(&self, state: &Arc<TableState>) -> Result<()> {
        let is_dropped = |shared: &Self| state.stored().is_some_and(|table| shared.store.is_dropped(table.folder()));
        if !is_dropped(self) {
            return Ok(());
        }
        let _gate = self.hold_writes().await?;
        let _compacting = state.compacting.lock().await;
        let _flushing = state.flushing.lock().await;
        if is_dropped(self) {
            state.detach(&self.memory);
        }
        Ok(())
    }
}
