//! Files that hold no group but those that have been seen: left out whole, so that a long history costs a look a file and not one a row group.
//!
//! The set of groups of a file is known by a hash, kept for later queries once all of the file has been looked at. When each group
//! of one file has been seen with values at later times than its own, the same holds for every file with that hash that is not newer.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use arrow::row::Rows;
use datafusion::common::Result;
use weir_base::checksum::blake3;

use super::newest::GROUPS_MAX;
use crate::scan::ColumnCache;
use crate::scan::hot::{HotSource, Unit};

type Hash = [u8; 32];

/// What is known of the files of one scan.
#[derive(Debug, Clone)]
pub(super) struct Census {
    cache: Arc<ColumnCache>,
    /// Of each file: under which key its hash is kept, and in how many parts it is looked at.
    files: Arc<HashMap<Arc<str>, (Hash, usize)>>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    looks: HashMap<Arc<str>, Looks>,
    /// Sets of groups of which each has been seen after the time.
    seen: HashMap<Hash, i64>,
}

/// How far a file has been looked at.
#[derive(Debug)]
struct Looks {
    left: usize,
    /// Hashes of its groups; `None` when there are too many, or it is known what they are.
    groups: Option<BTreeSet<Hash>>,
    /// All groups of all parts have been seen after this; `None` once one has not.
    after: Option<i64>,
}

impl Census {
    /// For the files of `source`, grouped by `groups`; `None` when filters make that hold for some groups of a file only.
    pub(super) fn of(source: &HotSource, groups: &str) -> Result<Option<Self>> {
        if source.picks_series()? {
            return Ok(None);
        }
        let mut files: HashMap<Arc<str>, (Vec<u8>, usize)> = HashMap::new();
        for unit in source.units() {
            let new = || (format!("{}\0{groups}\0", unit.path).into_bytes(), 0);
            let (key, parts) = files.entry(Arc::clone(&unit.path)).or_insert_with(new);
            key.extend_from_slice(&unit.row_group.to_le_bytes());
            *parts += source.partitions;
        }
        let files = files.into_iter().map(|(path, (key, parts))| (path, (blake3(&key), parts)));
        let (files, cache) = (Arc::new(files.collect()), Arc::clone(source.cache()));
        Ok(Some(Self { cache, files, known: Arc::default() }))
    }

    /// The same with nothing looked at yet.
    pub(super) fn anew(&self) -> Self {
        Self { known: Arc::default(), ..self.clone() }
    }

    /// Whether all groups of the unit's file have been seen at later times than any in the unit.
    pub(super) fn is_past(&self, unit: &Unit) -> bool {
        let Some(hash) = self.files.get(&unit.path).and_then(|(key, _)| self.cache.groups_of(key)) else {
            return false;
        };
        let known = self.known.lock().expect("no holder of this lock panics");
        known.seen.get(&hash).is_some_and(|after| *unit.times.end() <= *after)
    }

    /// Takes note of the groups of a part of a unit, and whether all of them have been seen at later times than any in the unit.
    pub(super) fn note(&self, unit: &Unit, groups: &Rows, all_seen: bool) {
        let Some((key, parts)) = self.files.get(&unit.path) else { return };
        let mut known = self.known.lock().expect("no holder of this lock panics");
        let Known { looks, seen } = &mut *known;
        let look = looks.entry(Arc::clone(&unit.path)).or_insert_with(|| Looks {
            left: *parts,
            groups: self.cache.groups_of(key).is_none().then(BTreeSet::new),
            after: Some(i64::MAX),
        });
        look.after = look.after.filter(|_| all_seen).map(|after| after.min(*unit.times.end()));
        if let Some(hashes) = &mut look.groups {
            hashes.extend(groups.iter().map(|group| blake3(group.as_ref())));
            if hashes.len() > GROUPS_MAX {
                look.groups = None;
            }
        }
        look.left = look.left.saturating_sub(1);
        if look.left > 0 {
            return;
        }
        if let Some(hashes) = look.groups.take() {
            let all: Vec<u8> = hashes.into_iter().flatten().collect();
            self.cache.put_groups(*key, blake3(&all));
        }
        if let Some((after, hash)) = look.after.zip(self.cache.groups_of(key)) {
            let known = seen.entry(hash).or_insert(after);
            *known = after.max(*known);
        }
    }
}
