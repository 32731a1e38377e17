//! `weir-deps.toml` as written: every key optional, nothing checked yet.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::finding::Level;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPolicy {
    pub(super) profile: Option<String>,
    pub(super) licenses: RawLists,
    pub(super) levels: BTreeMap<String, Level>,
    pub(super) exceptions: Vec<RawException>,
    pub(super) clarifications: Vec<RawClarification>,
    pub(super) packages: RawPackages,
    pub(super) indexes: RawIndexes,
    pub(super) pinning: RawPinning,
    pub(super) behind: RawBehind,
    pub(super) advisories: RawAdvisories,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawLists {
    pub(super) approved: Vec<String>,
    pub(super) restricted: Vec<String>,
    pub(super) prohibited: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawException {
    pub(super) package: String,
    pub(super) versions: Option<String>,
    pub(super) license: String,
    pub(super) reason: String,
    pub(super) expires: Option<toml::Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawClarification {
    pub(super) package: String,
    pub(super) versions: Option<String>,
    pub(super) license: String,
    pub(super) file: String,
    pub(super) hash: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPackages {
    pub(super) approved: Vec<String>,
    pub(super) banned: Vec<String>,
    pub(super) level: Option<Level>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawIndexes {
    pub(super) allowed: Vec<String>,
    pub(super) level: Option<Level>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawPinning {
    pub(super) require: Option<String>,
    pub(super) level: Option<Level>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawBehind {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) age_days: Option<u64>,
    pub(super) level: Option<Level>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawAdvisories {
    pub(super) critical: Option<Level>,
    pub(super) high: Option<Level>,
    pub(super) medium: Option<Level>,
    pub(super) low: Option<Level>,
    pub(super) unknown: Option<Level>,
    pub(super) ignore: Vec<RawIgnore>,
    pub(super) deadline_days: BTreeMap<String, u32>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawIgnore {
    pub(super) id: String,
    pub(super) reason: String,
    pub(super) expires: Option<toml::Value>,
}

/// The keys of each table, to warn of others.
pub(super) const KNOWN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "profile",
            "licenses",
            "levels",
            "exceptions",
            "clarifications",
            "packages",
            "indexes",
            "pinning",
            "behind",
            "advisories",
        ],
    ),
    ("licenses", &["approved", "restricted", "prohibited"]),
    ("levels", super::LEVEL_NAMES),
    ("exceptions", &["package", "versions", "license", "reason", "expires"]),
    ("clarifications", &["package", "versions", "license", "file", "hash"]),
    ("packages", &["approved", "banned", "level"]),
    ("indexes", &["allowed", "level"]),
    ("pinning", &["require", "level"]),
    ("behind", &["major", "minor", "age_days", "level"]),
    ("advisories", &["critical", "high", "medium", "low", "unknown", "ignore", "deadline_days"]),
];
