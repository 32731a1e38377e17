//! What may go from the history: old and surplus operations, never unfinished or unverified ones unless told.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use weir_base::checksum::hex;
use weir_base::id::Uuid;
use weir_journal::{Compaction, Query};

use crate::chain;
use crate::event::HISTORY_KEY;
use crate::index::{self, Texts};
use crate::operation::State;
use crate::view::{Listing, Summary};
use crate::{History, Result};

/// What may go.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Operations that ended longer ago may go. Default 90 days.
    pub age_max: Option<Duration>,
    /// The oldest past so many may go. Default: no bound.
    pub count_max: Option<usize>,
    /// Also those that are not done, or not verified. Default false.
    pub unfinished: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age_max: Some(Duration::from_secs(90 * 86400)), count_max: None, unfinished: false }
    }
}

/// What went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retained {
    /// Operations removed.
    pub removed: usize,
    /// Operations that are left.
    pub left: usize,
    /// Bytes of the log before, without footers.
    pub bytes_before: u64,
    /// Bytes of the log after, without footers.
    pub bytes_after: u64,
}

impl History {
    /// Removes what may go. A crash leaves the log as before or as after.
    ///
    /// # Errors
    /// `Damaged` when the log cannot be read (nothing goes then), `Unavailable`.
    pub fn retain(&self, retention: &Retention) -> Result<Retained> {
        let view = self.view()?;
        let (summaries, _) = view.list(&Listing::default())?;
        let gone = chosen(&summaries, retention, self.env().clock().now());
        let left = summaries.len() - gone.len();
        if gone.is_empty() {
            return Ok(Retained { left, ..Retained::default() });
        }
        let keys: HashSet<Vec<u8>> = gone.iter().map(|id| id.to_string().into_bytes()).collect();
        if self.is_chained() {
            self.anchor(&keys)?;
        }
        let removed = keys.len();
        let keep = Box::new(move |record: &weir_journal::RecordRef<'_>| !keys.contains(record.key));
        let compacted = self.journal().compact(Compaction { keep: Some(keep), ..Compaction::default() })?;
        // The index is made anew: it must not list what is gone.
        let fs = &*self.env().journal.fs;
        let mut kept: BTreeMap<Uuid, Vec<u8>> = BTreeMap::new();
        let mut texts = Texts::default();
        let extent = index::scan(fs, self.dir(), self.id(), self.position(), |raw| {
            if let Some((summary, _)) = raw.parse(&mut texts)
                && !gone.contains(&summary.id)
            {
                kept.insert(summary.id, raw.to_encoded());
            }
        })?;
        let mut bytes = index::header(self.id());
        bytes.extend_from_slice(&index::group(extent.through, &kept.into_values().collect::<Vec<_>>()));
        let path = index::path(self.dir());
        fs.replace(&path, &bytes)
            .map_err(|error| crate::Error::io(format!("cannot replace {}", path.display()), error))?;
        self.reopen_index()?;
        let (bytes_before, bytes_after) = (compacted.bytes_before, compacted.bytes_after);
        Ok(Retained { removed, left, bytes_before, bytes_after })
    }

    /// Writes the chain values before the gaps that are about to be made, and before those made earlier.
    fn anchor(&self, gone: &HashSet<Vec<u8>>) -> Result<()> {
        let view = self.view()?;
        let mut gaps = Vec::new();
        let mut last: Option<(chain::Link, bool)> = None;
        let mut records = view.reader().query(Query::default());
        while let Some(record) = records.next_ref()? {
            let goes = record.key != HISTORY_KEY && gone.contains(record.key);
            if let Some((link, true)) = last
                && !goes
            {
                gaps.push((record.sequence, hex(&link)));
            }
            if let Some(link) = chain::split(record.payload).1 {
                last = Some((link, goes));
            }
        }
        // The anchor itself follows the last record; where that goes, the anchor says so of itself.
        if let Some((link, true)) = last {
            gaps.push((self.position(), hex(&link)));
        }
        self.append_anchor(gaps)
    }
}

/// The operations that may go. `summaries` are the newest first.
fn chosen(summaries: &[Summary], retention: &Retention, now: i64) -> HashSet<Uuid> {
    let oldest = retention.age_max.map(|age| now.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)));
    let mut gone = HashSet::new();
    for (place, summary) in summaries.iter().enumerate() {
        let finished = summary.state == State::Done && summary.verified;
        let old = oldest.is_some_and(|oldest| summary.ended.unwrap_or(summary.time) < oldest);
        let surplus = retention.count_max.is_some_and(|max| place >= max);
        if (old || surplus) && (finished || retention.unfinished) {
            gone.insert(summary.id);
        }
    }
    gone
}
