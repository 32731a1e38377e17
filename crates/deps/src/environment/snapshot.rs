//! What an environment held when it was last read, so that the next reading only compares file stamps.
//!
//! One value in the store for each environment. It has, for every package, what was read and the stamps of all files
//! and folders that it was read from: length, and the times at which content and node last changed. A package whose
//! stamps are as they were is taken from here, any other is read anew, alone. Stamps are taken before the content is
//! read, and a package with a stamp that is not [`SETTLED`] yet is not remembered: clocks of file systems tick coarsely,
//! and a second change within the same tick would not show.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use weir_base::FileSystem;

use crate::finding::Finding;
use crate::licence::FileText;
use crate::licence::text::{RULES_VERSION, TextLicenses};
use crate::metadata::Metadata;
use crate::package::Package;
use crate::store::Store;

/// Nanoseconds after which a file's stamp tells the next change from the last one, also on file systems that keep
/// whole seconds.
const SETTLED: i64 = 2_000_000_000;
/// Raised when what is remembered, or how metadata is read, changes.
const FORMAT: u32 = 1;

/// How a file or folder was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Relative to the package's metadata folder; empty for the folder itself.
    path: String,
    len: u64,
    modified: i64,
    changed: i64,
}

impl Stamp {
    /// The stamp of `path` below `info`; `None` when there is nothing.
    pub(super) fn take(fs: &dyn FileSystem, info: &Path, path: &str) -> Option<Self> {
        let whole = if path.is_empty() { info.to_owned() } else { info.join(path) };
        let found = fs.metadata(&whole).ok()?;
        // The length of a folder says nothing on some file systems, and changes by itself on none.
        Some(Self { path: path.to_owned(), len: found.len, modified: found.modified, changed: found.changed })
    }

    fn holds(&self, fs: &dyn FileSystem, info: &Path) -> bool {
        Self::take(fs, info, &self.path).is_some_and(|now| now == *self)
    }
}

/// One package as it was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// The metadata folder (or single file).
    pub(super) info: PathBuf,
    pub(super) stamps: Vec<Stamp>,
    name: String,
    version: String,
    file: String,
    metadata: Option<Metadata>,
    texts: Vec<FileText>,
    requires: Vec<String>,
    problems: Vec<Finding>,
}

impl Remembered {
    pub(super) fn new(info: &Path, stamps: Vec<Stamp>, package: Package) -> Self {
        Self {
            info: info.to_owned(),
            stamps,
            name: package.name,
            version: package.version,
            file: package.file,
            metadata: package.metadata,
            texts: package.texts,
            requires: package.requires,
            problems: package.problems,
        }
    }

    pub(super) fn into_package(self) -> Package {
        Package {
            name: self.name,
            version: self.version,
            file: self.file,
            metadata: self.metadata,
            texts: self.texts,
            requires: self.requires,
            problems: self.problems,
            dist_info: Some(self.info),
            pinned: true,
            ..Package::default()
        }
    }

    fn is_settled(&self, now: i64) -> bool {
        self.stamps.iter().all(|stamp| stamp.modified.max(stamp.changed) < now.saturating_sub(SETTLED))
    }
}

/// An environment as it was.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    by_info: HashMap<PathBuf, Remembered>,
    texts: OnceLock<HashMap<String, TextLicenses>>,
}

/// The store's key for the folders of an environment, as they were named and where that is.
pub(super) fn key(folders: &[PathBuf]) -> String {
    let mut text = String::new();
    for folder in folders {
        let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        text.push_str(&format!("{}\0{}\0", folder.display(), whole.display()));
    }
    let hash = weir_base::checksum::hex(&weir_base::checksum::blake3(text.as_bytes()));
    format!("env/{FORMAT}.{RULES_VERSION}/{hash}")
}

impl Snapshot {
    /// What is remembered; nothing when that cannot be read.
    pub(super) fn load(store: &dyn Store, key: &str) -> Self {
        let entries: Vec<Remembered> =
            store.get(key).and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { by_info: entries.into_iter().map(|one| (one.info.clone(), one)).collect(), texts: OnceLock::new() }
    }

    /// The package of a metadata folder, if all that it was read from is as it was.
    pub(super) fn current(&self, fs: &dyn FileSystem, info: &Path) -> Option<Remembered> {
        let entry = self.by_info.get(info)?;
        entry.stamps.iter().all(|stamp| stamp.holds(fs, info)).then(|| entry.clone())
    }

    /// What a text states, by its content hash: an environment that was made anew has the same texts.
    pub(super) fn text(&self, hash: &str) -> Option<&TextLicenses> {
        let texts = self.texts.get_or_init(|| {
            let all = self.by_info.values().flat_map(|entry| &entry.texts);
            all.map(|text| (text.hash.clone(), text.licenses.clone())).collect()
        });
        texts.get(hash)
    }

    /// How many packages are remembered.
    pub(super) fn len(&self) -> usize {
        self.by_info.len()
    }

    /// Remembers the packages that have settled by `now`, nanoseconds UTC.
    pub(super) fn save(store: &dyn Store, key: &str, entries: &[&Remembered], now: i64) {
        let settled: Vec<&&Remembered> = entries.iter().filter(|entry| entry.is_settled(now)).collect();
        if let Ok(bytes) = serde_json::to_vec(&settled) {
            store.put(key, &bytes, None);
        }
    }
}
