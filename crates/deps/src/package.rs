//! A package as an input names it, before anything is judged.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::licence::FileText;
use crate::metadata::Metadata;

/// Where packages of this kind come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// Python packages, names by PEP 503.
    #[default]
    Pypi,
    /// Rust crates.
    Cargo,
    /// JavaScript packages.
    Npm,
}

impl Ecosystem {
    /// The word used in files and output.
    pub const fn word(self) -> &'static str {
        match self {
            Ecosystem::Pypi => "pypi",
            Ecosystem::Cargo => "cargo",
            Ecosystem::Npm => "npm",
        }
    }
}

/// A file that the input lists for a package, as lock files do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Artifact {
    /// File name or last part of the URL.
    pub name: String,
    /// Where to get it, if the input says.
    pub url: Option<String>,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: Option<String>,
    /// Length in bytes.
    pub size: Option<u64>,
}

/// One package of the set.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// Normal form of the name.
    pub name: String,
    /// The exact version, or empty when the input does not pin one.
    pub version: String,
    /// Kind of package.
    pub ecosystem: Ecosystem,
    /// The file that names it, for findings.
    pub file: String,
    /// The line in that file; 0 when unknown.
    pub line: u32,
    /// Metadata, where it is at hand.
    pub metadata: Option<Metadata>,
    /// Licence files, where they are at hand.
    pub texts: Vec<FileText>,
    /// The folder with the metadata of an installed package.
    pub dist_info: Option<PathBuf>,
    /// Names (normal form) that it requires within the set, without optional ones.
    pub requires: Vec<String>,
    /// The input names it directly, not as somebody's requirement.
    pub direct: bool,
    /// `==`, or an exact entry of a lock file.
    pub pinned: bool,
    /// The input gives a hash for it.
    pub hashed: bool,
    /// The index or URL that it comes from, without secrets.
    pub origin: Option<String>,
    /// Files of the package.
    pub artifacts: Vec<Artifact>,
    /// The licence that the input itself gives (an SBOM, a package-lock).
    pub stated_license: Option<String>,
    /// What is wrong with its entry.
    pub problems: Vec<Finding>,
}

/// Packages whose data was at hand, and those whose data had to be read or fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lookups {
    /// The store had it, and it still holds.
    pub hits: usize,
    /// It had to be read or fetched, or could not be had.
    pub misses: usize,
}

impl Lookups {
    /// Hits by all lookups; `None` when nothing was looked up.
    pub fn hit_ratio(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// What an input holds.
#[derive(Debug, Clone, Default)]
pub struct PackageSet {
    /// The packages, ordered by name.
    pub packages: Vec<Package>,
    /// Problems of the input that belong to no package.
    pub problems: Vec<Finding>,
    /// What was read: a folder or a file.
    pub source: String,
    /// Whether the input promises pins (a lock file does, an environment is what it is).
    pub is_lock: bool,
    /// How often the store helped.
    pub lookups: Lookups,
}

impl PackageSet {
    /// Orders by name and version, and drops exact repetitions.
    pub fn sort(&mut self) {
        self.packages.sort_by(|a, b| (a.ecosystem, &a.name, &a.version).cmp(&(b.ecosystem, &b.name, &b.version)));
        self.packages.dedup_by(|later, first| {
            let same = later.ecosystem == first.ecosystem && later.name == first.name && later.version == first.version;
            if same {
                first.direct |= later.direct;
                first.hashed |= later.hashed;
                first.pinned |= later.pinned;
                if first.metadata.is_none() {
                    first.metadata = later.metadata.take();
                }
            }
            same
        });
    }
}
