//! What the log of a table says at one version: pure bookkeeping, no I/O.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weir_base::Kind;

use super::action::{self, Add, Line, Metadata, Protocol, Remove, Txn};
use super::file::DataFile;
use super::log::HOUR_MS;
use crate::error::{Error, Result};
use crate::schema::{SchemaRef, TableSchema};

/// A live file and what its `add` needs to be written again.
#[derive(Debug, Clone)]
pub(super) struct LiveFile {
    pub(super) file: Arc<DataFile>,
    /// Its path in the log, as written there.
    pub(super) base: String,
    pub(super) modified_ms: i64,
}

/// A file that was removed and may still be on the disk.
#[derive(Debug, Clone)]
pub(super) struct Tombstone {
    pub(super) base: String,
    pub(super) deleted_ms: i64,
    /// When it was added; `None` when nobody knows any more.
    pub(super) added_ms: Option<i64>,
    pub(super) size: Option<u64>,
}

/// A table at one version. Version -1 is a table without a log.
#[derive(Debug, Clone)]
pub(super) struct LogState {
    pub(super) version: i64,
    pub(super) folder: Arc<str>,
    pub(super) metadata: Option<Metadata>,
    pub(super) schema: SchemaRef,
    /// Whether the table has the column for nanoseconds below a microsecond.
    pub(super) sub_micro: bool,
    /// In write order.
    pub(super) files: Vec<LiveFile>,
    pub(super) transactions: HashMap<String, i64>,
    /// When each step of an operation was committed, by its `txn`; milliseconds.
    pub(super) step_times: HashMap<String, i64>,
    /// The time of the newest commit as far as known, milliseconds. Each commit is later than the one before it.
    pub(super) stamp_ms: i64,
    pub(super) tombstones: Vec<Tombstone>,
}

impl LogState {
    pub(super) fn empty(folder: &str) -> Self {
        Self {
            version: -1,
            folder: folder.into(),
            metadata: None,
            schema: Arc::new(TableSchema::default()),
            sub_micro: false,
            files: Vec::new(),
            transactions: HashMap::new(),
            step_times: HashMap::new(),
            stamp_ms: i64::MIN,
            tombstones: Vec::new(),
        }
    }

    /// The state after commit `version`, or after a checkpoint of it, whose actions are `lines`.
    pub(super) fn apply(&mut self, version: i64, lines: &[Line]) -> Result<()> {
        for line in lines {
            if let Some(protocol) = &line.protocol {
                check_protocol(protocol, &self.folder)?;
            }
            if let Some(metadata) = &line.meta_data {
                let (schema, sub_micro) = action::parse_schema(&metadata.schema_string)?;
                self.schema = Arc::new(schema);
                self.sub_micro = sub_micro;
                self.metadata = Some(metadata.clone());
            }
            if let Some(txn) = &line.txn {
                self.transactions.insert(txn.app_id.clone(), txn.version);
                if let Some(time) = txn.last_updated.filter(|_| txn.app_id.starts_with(STEP_PREFIX)) {
                    self.step_times.insert(txn.app_id.clone(), time);
                }
            }
        }
        self.stamp_ms = lines.iter().filter_map(time_of).fold(self.stamp_ms, i64::max);
        let rearranged = self.remove(lines);
        self.add(version, lines, rearranged)?;
        self.version = version;
        Ok(())
    }

    /// Removes what `lines` remove and returns the range of its write order when it only rearranges rows.
    fn remove(&mut self, lines: &[Line]) -> Option<(i64, i64)> {
        let removes: HashMap<&str, &Remove> =
            lines.iter().filter_map(|line| line.remove.as_ref()).map(|remove| (remove.path.as_str(), remove)).collect();
        if removes.is_empty() {
            return None;
        }
        let mut range: Option<(i64, i64)> = None;
        let mut added: HashMap<&str, i64> = HashMap::new();
        self.files.retain(|live| {
            let Some((base, remove)) = removes.get_key_value(live.base.as_str()) else { return true };
            added.insert(base, live.modified_ms);
            if !remove.data_change {
                let (low, high) = live.file.order;
                range = Some(range.map_or((low, high), |(min, max)| (min.min(low), max.max(high))));
            }
            false
        });
        self.tombstones.extend(removes.values().map(|remove| Tombstone {
            base: remove.path.clone(),
            deleted_ms: remove.deletion_timestamp.unwrap_or(0),
            added_ms: added.get(remove.path.as_str()).copied().or_else(|| action::added_of(remove)),
            size: remove.size,
        }));
        range
    }

    fn add(&mut self, version: i64, lines: &[Line], rearranged: Option<(i64, i64)>) -> Result<()> {
        let adds: Vec<&Add> = lines.iter().filter_map(|line| line.add.as_ref()).collect();
        if adds.is_empty() {
            return Ok(());
        }
        let names: HashSet<&str> = adds.iter().map(|add| add.path.as_str()).collect();
        self.files.retain(|live| !names.contains(live.base.as_str()));
        if !self.tombstones.is_empty() {
            self.tombstones.retain(|tombstone| !names.contains(tombstone.base.as_str()));
        }
        for add in adds {
            let order = match rearranged {
                Some(range) if !action::has_order(add) && !add.data_change => range,
                _ => (version, version),
            };
            let file = action::file_of(add, &self.folder, &self.schema, order)?;
            let (base, modified_ms) = (add.path.clone(), add.modification_time);
            self.files.push(LiveFile { file: Arc::new(file), base, modified_ms });
        }
        self.files.sort_by_key(|live| live.file.order);
        Ok(())
    }

    /// Whether a kept version needs a file that was removed: one of the last hour, the one at a full hour of the window, or one
    /// before or after a step of an operation. An undo that begins at the end of the window has an hour to finish.
    pub(super) fn is_kept(&self, tombstone: &Tombstone, now_ms: i64, window_ms: i64) -> bool {
        let (added, removed) = (tombstone.added_ms.unwrap_or(i64::MIN), tombstone.deleted_ms);
        let oldest = now_ms.saturating_sub(window_ms);
        let recent = removed >= now_ms.saturating_sub(window_ms.min(HOUR_MS));
        let hour = removed.saturating_sub(1).div_euclid(HOUR_MS) * HOUR_MS;
        let spared = oldest.saturating_sub(window_ms.min(HOUR_MS));
        let by_step = |time: &i64| *time >= spared && (added..=removed).contains(time);
        recent || hour >= added.max(oldest) || self.step_times.values().any(by_step)
    }

    /// All of the state as actions; tombstones older than `tombstones_since_ms` are left out.
    pub(super) fn to_lines(&self, tombstones_since_ms: i64) -> Result<Vec<Line>> {
        let mut lines = vec![
            Line { protocol: Some(PROTOCOL), ..Line::default() },
            Line { meta_data: self.metadata.clone(), ..Line::default() },
        ];
        lines.extend(self.transactions.iter().map(|(app_id, &version)| Line {
            txn: Some(Txn { app_id: app_id.clone(), version, last_updated: self.step_times.get(app_id).copied() }),
            ..Line::default()
        }));
        for live in &self.files {
            let add = action::add_of(&live.file, &live.base, live.modified_ms, false, &self.schema)?;
            lines.push(Line { add: Some(add), ..Line::default() });
        }
        let kept = self.tombstones.iter().filter(|tombstone| tombstone.deleted_ms >= tombstones_since_ms);
        lines.extend(kept.map(|tombstone| Line { remove: Some(remove_of(tombstone, false)), ..Line::default() }));
        Ok(lines)
    }
}

/// How the `txn` of a step of an operation begins; its version is that of the commit.
pub(super) const STEP_PREFIX: &str = "weir-op/";

/// How the `txn` begins that says before which time an operation deleted all rows for their age; that time is its version.
pub(super) const RETAINED_PREFIX: &str = "weir-retained/";

/// The protocol of every table of Weir: what every reader knows.
pub(super) const PROTOCOL: Protocol = Protocol { min_reader_version: 1, min_writer_version: 2, reader_features: None };

/// The `remove` of a file.
pub(super) fn remove_of(tombstone: &Tombstone, data_change: bool) -> Remove {
    Remove {
        path: tombstone.base.clone(),
        deletion_timestamp: Some(tombstone.deleted_ms),
        data_change,
        extended_file_metadata: Some(true),
        partition_values: Some(Default::default()),
        size: tombstone.size,
        tags: tombstone.added_ms.map(action::added_tag),
    }
}

/// The time that an action tells, milliseconds.
fn time_of(line: &Line) -> Option<i64> {
    let info = line.commit_info.as_ref().map(|info| info.timestamp);
    let add = || line.add.as_ref().map(|add| add.modification_time);
    let remove = || line.remove.as_ref()?.deletion_timestamp;
    info.or_else(add).or_else(remove)
}

fn check_protocol(protocol: &Protocol, folder: &str) -> Result<()> {
    if protocol.min_reader_version > 1 || protocol.min_writer_version > 2 {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "table '{folder}' has been raised to Delta protocol ({}, {}) by another program; Weir reads and writes (1, 2)",
                protocol.min_reader_version, protocol.min_writer_version
            ),
        ));
    }
    Ok(())
}
