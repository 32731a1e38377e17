//! The policy: which licences, packages and sources are welcome, and how serious each breach is.
//!
//! `weir-deps.toml` is read as written (`raw`) and checked once into [`Policy`]; unknown keys are warnings, so that an
//! older Weir reads a newer file. A licence is approved, restricted, prohibited or unlisted; no licence is unknown.

mod profile;
mod raw;

use std::str::FromStr;

use pep440_rs::{Version, VersionSpecifiers};
use serde::{Deserialize, Serialize};

use crate::finding::Level;
use crate::licence::expression::{self, Expression, License};
use crate::{Error, Result, name};

/// The commented default file, as `weir deps init` writes it.
pub const DEFAULT_TOML: &str = include_str!("default.toml");
/// Largest policy file, bytes.
pub const POLICY_BYTES_MAX: usize = 4 << 20;

/// What the policy says of a licence; the order is the order of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// May be used.
    Approved,
    /// Needs a review.
    Restricted,
    /// In none of the lists.
    Unlisted,
    /// Must not be used.
    Prohibited,
    /// There is no licence to judge.
    Unknown,
}

impl Class {
    /// The word in files and output.
    pub const fn word(self) -> &'static str {
        match self {
            Class::Approved => "approved",
            Class::Restricted => "restricted",
            Class::Unlisted => "unlisted",
            Class::Prohibited => "prohibited",
            Class::Unknown => "unknown",
        }
    }
}

/// Lists of licences: identifiers, `X WITH E`, or a start followed by `*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) approved: Vec<String>,
    pub(crate) restricted: Vec<String>,
    pub(crate) prohibited: Vec<String>,
}

/// A level for each kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Levels {
    /// A licence that needs a review.
    pub restricted: Level,
    /// A licence that must not be used.
    pub prohibited: Level,
    /// A licence in no list.
    pub unlisted: Level,
    /// No licence.
    pub unknown: Level,
    /// An inferred licence.
    pub uncertain: Level,
    /// Sources that disagree.
    pub conflict: Level,
    /// A further licence of bundled code.
    pub bundled: Level,
    /// A deprecated identifier.
    pub deprecated: Level,
    /// A broken file.
    pub malformed: Level,
    /// Data that could not be had.
    pub missing: Level,
    /// An exception that is unused, expired or not true any more.
    pub exceptions: Level,
}

const LEVEL_NAMES: &[&str] = &[
    "restricted",
    "prohibited",
    "unlisted",
    "unknown",
    "uncertain",
    "conflict",
    "bundled",
    "deprecated",
    "malformed",
    "missing",
    "exceptions",
];

/// A package that may have a licence that the lists do not allow.
#[derive(Debug, Clone)]
pub struct Exception {
    /// Normal form of the name.
    pub package: String,
    /// Versions it holds for.
    pub versions: VersionSpecifiers,
    /// The licence that the package is expected to have.
    pub license: Expression,
    /// Why.
    pub reason: String,
    /// Last day it holds, `YYYY-MM-DD`.
    pub expires: Option<String>,
}

/// What a licence file means, as long as its content stays the same.
#[derive(Debug, Clone)]
pub struct Clarification {
    /// Normal form of the name.
    pub package: String,
    /// Versions it holds for.
    pub versions: VersionSpecifiers,
    /// The licence.
    pub license: Expression,
    /// The file, relative to the metadata folder or its `licenses`.
    pub file: String,
    /// BLAKE3 of the file, lower-case hexadecimal.
    pub hash: String,
}

/// What must be given for each package of a lock file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pinning {
    /// Nothing.
    None,
    /// `==`.
    Version,
    /// A hash.
    Hash,
}

/// When a package counts as behind.
#[derive(Debug, Clone, Copy)]
pub struct Behind {
    /// Major versions.
    pub major: u64,
    /// Minor versions within the same major one.
    pub minor: u64,
    /// Days between the releases.
    pub age_days: u64,
    /// How serious it is.
    pub level: Level,
}

/// How serious advisories are.
#[derive(Debug, Clone)]
pub struct Advisories {
    /// Levels for critical, high, medium, low, unknown.
    pub levels: [Level; 5],
    /// Days until an advisory is denied: critical, high, medium.
    pub deadline_days: [u32; 3],
    /// Ids that are ignored: (id, reason, last day).
    pub ignore: Vec<(String, String, Option<String>)>,
}

/// A checked policy.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The profile it starts from.
    pub profile: String,
    own: Lists,
    base: Lists,
    /// Levels.
    pub levels: Levels,
    /// Exceptions.
    pub exceptions: Vec<Exception>,
    /// Clarifications.
    pub clarifications: Vec<Clarification>,
    /// Names that are approved whatever their licence.
    pub approved_packages: Vec<String>,
    /// Names with the versions that are banned.
    pub banned_packages: Vec<(String, VersionSpecifiers)>,
    /// Level of a banned package.
    pub banned_level: Level,
    /// Prefixes of URLs; empty allows all.
    pub indexes: Vec<String>,
    /// Level of an index that is not allowed.
    pub indexes_level: Level,
    /// What lock files must give.
    pub pinning: Pinning,
    /// Level of a missing pin.
    pub pinning_level: Level,
    /// When a package is behind.
    pub behind: Behind,
    /// Advisories.
    pub advisories: Advisories,
    /// Unknown keys, to be shown.
    pub warnings: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self::parse(DEFAULT_TOML).expect("the embedded policy is valid; a test reads it")
    }
}

impl Policy {
    /// Reads and checks a policy file's text. Fails (`Invalid`) with the key that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(Error::new(weir_base::Kind::Limit, "the policy file is larger than 4 MiB"));
        }
        let wrong = |error: toml::de::Error| {
            Error::invalid(format!("the policy is not valid: {}", error.to_string().trim_end().replace('\n', " ")))
        };
        let table: toml::Table = text.parse().map_err(wrong)?;
        let warnings = unknown_keys(&table);
        let raw: raw::RawPolicy = table.try_into().map_err(wrong)?;
        check(raw, warnings)
    }

    /// What the policy says of one licence. Its own lists win over the profile's, an exact entry over a `*`.
    pub fn class_of(&self, license: &License) -> Class {
        let whole = license.to_string();
        let mut class = self.class_of_name(&whole);
        if class == Class::Unlisted && license.exception.is_some() {
            class = self.class_of_name(&license.id);
        }
        if class == Class::Unlisted
            && let Some(base) = license.id.strip_suffix('+')
        {
            class = self.class_of_name(base);
        }
        class
    }

    fn class_of_name(&self, name: &str) -> Class {
        for lists in [&self.own, &self.base] {
            for exact in [true, false] {
                // The careful answer first, should a name be in two lists.
                for (class, list) in [
                    (Class::Prohibited, &lists.prohibited),
                    (Class::Restricted, &lists.restricted),
                    (Class::Approved, &lists.approved),
                ] {
                    if list.iter().any(|entry| matches(entry, name, exact)) {
                        return class;
                    }
                }
            }
        }
        Class::Unlisted
    }

    /// What the policy says of an expression: the worst of an `AND`, the best of an `OR`.
    pub fn class_of_expression(&self, expression: &Expression) -> Class {
        expression.evaluate(&|license: &License| self.class_of(license))
    }

    /// The level of a class.
    pub fn level_of(&self, class: Class) -> Level {
        match class {
            Class::Approved => Level::Allow,
            Class::Restricted => self.levels.restricted,
            Class::Unlisted => self.levels.unlisted,
            Class::Prohibited => self.levels.prohibited,
            Class::Unknown => self.levels.unknown,
        }
    }

    /// The lists in force for people: approved, restricted, prohibited, own entries first.
    pub fn lists(&self) -> [Vec<&str>; 3] {
        let both = |pick: fn(&Lists) -> &Vec<String>| {
            pick(&self.own).iter().chain(pick(&self.base)).map(String::as_str).collect::<Vec<_>>()
        };
        [both(|lists| &lists.approved), both(|lists| &lists.restricted), both(|lists| &lists.prohibited)]
    }
}

fn matches(entry: &str, name: &str, exact: bool) -> bool {
    match entry.strip_suffix('*') {
        Some(start) => !exact && name.get(..start.len()).is_some_and(|have| have.eq_ignore_ascii_case(start)),
        None => exact && entry.eq_ignore_ascii_case(name),
    }
}

/// Whether a version is in the range. A version outside PEP 440 is only in the empty range, which means any.
pub fn in_range(range: &VersionSpecifiers, version: &str) -> bool {
    range.is_empty() || Version::from_str(version).is_ok_and(|version| range.contains(&version))
}

fn unknown_keys(table: &toml::Table) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut check = |section: &str, keys: &toml::Table| {
        let Some((_, known)) = raw::KNOWN.iter().find(|(name, _)| *name == section) else { return };
        for key in keys.keys().filter(|key| !known.contains(&key.as_str())) {
            let dot = if section.is_empty() { "" } else { "." };
            warnings.push(format!("unknown key '{section}{dot}{}' in the policy", name::printable(key)));
        }
    };
    check("", table);
    for (section, value) in table {
        match value {
            toml::Value::Table(keys) => check(section, keys),
            toml::Value::Array(entries) => {
                entries.iter().filter_map(|one| one.as_table()).for_each(|keys| check(section, keys))
            }
            _ => {}
        }
    }
    warnings
}

fn check(raw: raw::RawPolicy, mut warnings: Vec<String>) -> Result<Policy> {
    let profile = raw.profile.unwrap_or_else(|| "strict".into());
    let base = profile::lists(&profile).ok_or_else(|| {
        Error::invalid(format!(
            "profile '{}' is unknown (strict, weak-copyleft, permissive)",
            name::printable(&profile)
        ))
    })?;
    let own = Lists {
        approved: raw.licenses.approved,
        restricted: raw.licenses.restricted,
        prohibited: raw.licenses.prohibited,
    };
    for entry in own.approved.iter().chain(&own.restricted).chain(&own.prohibited) {
        if !entry.ends_with('*') && expression::parse(entry).is_err() {
            warnings.push(format!(
                "'{}' in the policy's lists is no SPDX identifier and matches nothing",
                name::printable(entry)
            ));
        }
    }
    let level = |name: &str, default: Level| raw.levels.get(name).copied().unwrap_or(default);
    let levels = Levels {
        restricted: level("restricted", Level::Warn),
        prohibited: level("prohibited", Level::Deny),
        unlisted: level("unlisted", Level::Deny),
        unknown: level("unknown", Level::Deny),
        uncertain: level("uncertain", Level::Warn),
        conflict: level("conflict", Level::Warn),
        bundled: level("bundled", Level::Warn),
        deprecated: level("deprecated", Level::Allow),
        malformed: level("malformed", Level::Warn),
        missing: level("missing", Level::Deny),
        exceptions: level("exceptions", Level::Warn),
    };
    Ok(Policy {
        profile,
        own,
        base,
        levels,
        exceptions: raw.exceptions.into_iter().map(exception).collect::<Result<_>>()?,
        clarifications: raw.clarifications.into_iter().map(clarification).collect::<Result<_>>()?,
        approved_packages: raw.packages.approved.iter().map(|one| name::normalize(one)).collect::<Result<_>>()?,
        banned_packages: raw.packages.banned.iter().map(|one| requirement(one)).collect::<Result<_>>()?,
        banned_level: raw.packages.level.unwrap_or(Level::Deny),
        indexes: raw.indexes.allowed,
        indexes_level: raw.indexes.level.unwrap_or(Level::Deny),
        pinning: pinning(raw.pinning.require.as_deref().unwrap_or("none"))?,
        pinning_level: raw.pinning.level.unwrap_or(Level::Warn),
        behind: Behind {
            major: raw.behind.major.unwrap_or(2),
            minor: raw.behind.minor.unwrap_or(10),
            age_days: raw.behind.age_days.unwrap_or(1095),
            level: raw.behind.level.unwrap_or(Level::Allow),
        },
        advisories: advisories(raw.advisories)?,
        warnings,
    })
}

fn pinning(word: &str) -> Result<Pinning> {
    match word {
        "none" => Ok(Pinning::None),
        "version" => Ok(Pinning::Version),
        "hash" => Ok(Pinning::Hash),
        _ => {
            Err(Error::invalid(format!("pinning.require '{}' is unknown (none, version, hash)", name::printable(word))))
        }
    }
}

fn specifiers(text: Option<&str>) -> Result<VersionSpecifiers> {
    let text = text.unwrap_or("").trim();
    if text.is_empty() || text == "*" {
        return Ok(VersionSpecifiers::empty());
    }
    VersionSpecifiers::from_str(text).map_err(|error| {
        Error::wrap(
            weir_base::Kind::Invalid,
            format!("'{}' is not a version range", name::printable(text)),
            error.to_string(),
        )
    })
}

fn requirement(text: &str) -> Result<(String, VersionSpecifiers)> {
    let end = text.find(['<', '>', '=', '!', '~', ' ']).unwrap_or(text.len());
    Ok((name::normalize(&text[..end])?, specifiers(Some(&text[end..]))?))
}

fn license(text: &str) -> Result<Expression> {
    expression::parse(text)
        .map(|parsed| parsed.expression)
        .map_err(|why| Error::invalid(format!("'{}' in the policy is not a licence: {why}", name::printable(text))))
}

fn date(value: Option<toml::Value>) -> Result<Option<String>> {
    let Some(value) = value else { return Ok(None) };
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let day = text.get(..10).unwrap_or_default().to_owned();
    match day.parse::<jiff::civil::Date>() {
        Ok(_) => Ok(Some(day)),
        Err(_) => Err(Error::invalid(format!("'{}' is not a date (YYYY-MM-DD)", name::printable(&text)))),
    }
}

fn exception(raw: raw::RawException) -> Result<Exception> {
    if raw.reason.trim().is_empty() {
        return Err(Error::invalid(format!("the exception for '{}' gives no reason", name::printable(&raw.package))));
    }
    Ok(Exception {
        package: name::normalize(&raw.package)?,
        versions: specifiers(raw.versions.as_deref())?,
        license: license(&raw.license)?,
        reason: raw.reason,
        expires: date(raw.expires)?,
    })
}

fn clarification(raw: raw::RawClarification) -> Result<Clarification> {
    let hash = raw.hash.strip_prefix("blake3:").unwrap_or(&raw.hash).to_ascii_lowercase();
    if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Error::invalid(format!(
            "the clarification for '{}' has no BLAKE3 hash",
            name::printable(&raw.package)
        )));
    }
    Ok(Clarification {
        package: name::normalize(&raw.package)?,
        versions: specifiers(raw.versions.as_deref())?,
        license: license(&raw.license)?,
        file: raw.file,
        hash,
    })
}

fn advisories(raw: raw::RawAdvisories) -> Result<Advisories> {
    let days = |name: &str, default: u32| raw.deadline_days.get(name).copied().unwrap_or(default);
    Ok(Advisories {
        levels: [
            raw.critical.unwrap_or(Level::Deny),
            raw.high.unwrap_or(Level::Deny),
            raw.medium.unwrap_or(Level::Warn),
            raw.low.unwrap_or(Level::Warn),
            raw.unknown.unwrap_or(Level::Deny),
        ],
        deadline_days: [days("critical", 7), days("high", 30), days("medium", 90)],
        ignore: raw
            .ignore
            .into_iter()
            .map(|one| Ok((one.id, one.reason, date(one.expires)?)))
            .collect::<Result<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(policy: &Policy, text: &str) -> Class {
        policy.class_of_expression(&expression::parse(text).unwrap().expression)
    }

    #[test]
    fn the_default_file_is_the_default() {
        let policy = Policy::default();
        let empty = Policy::parse("").unwrap();
        assert!(policy.warnings.is_empty(), "{:?}", policy.warnings);
        assert_eq!((policy.levels, policy.base.clone()), (empty.levels, empty.base));
        assert_eq!(policy.advisories.deadline_days, [7, 30, 90]);
        assert_eq!(empty.advisories.levels, policy.advisories.levels);
    }

    #[test]
    fn profiles_judge_as_their_names_say() {
        for (profile, judged) in [
            (
                "strict",
                "MIT approved; PSF-2.0 approved; MPL-2.0 restricted; LGPL-2.1-only restricted; GPL-3.0-only prohibited; MIT-CMU unlisted; \
              AGPL-3.0-only prohibited; SSPL-1.0 prohibited; LicenseRef-Commons-Clause prohibited; MPL-2.0 AND (Apache-2.0 OR MIT) restricted; \
              GPL-2.0-or-later WITH Bootloader-exception prohibited; MIT OR GPL-2.0-only approved; LicenseRef-Proprietary unlisted",
            ),
            ("permissive", "MIT-CMU approved; 0BSD approved; MPL-2.0 restricted; GPL-2.0-only prohibited"),
            (
                "weak-copyleft",
                "MPL-2.0 approved; LGPL-3.0-or-later approved; GPL-2.0-only restricted; AGPL-3.0-or-later prohibited",
            ),
        ] {
            let policy = Policy::parse(&format!("profile = \"{profile}\"")).unwrap();
            for one in judged.split(';') {
                let (license, expected) = one.trim().rsplit_once(' ').unwrap();
                assert_eq!(class(&policy, license).word(), expected, "{profile}: {license}");
            }
        }
    }

    #[test]
    fn own_entries_win_and_exact_ones_first() {
        let policy = Policy::parse(
            "[licenses]\napproved = ['GPL-2.0-or-later WITH Bootloader-exception', 'MIT-*']\nprohibited = ['MIT-0']\n",
        )
        .unwrap();
        assert_eq!(class(&policy, "GPL-2.0-or-later WITH Bootloader-exception"), Class::Approved);
        assert_eq!(class(&policy, "GPL-2.0-or-later"), Class::Prohibited);
        assert_eq!(class(&policy, "MIT-CMU"), Class::Approved);
        assert_eq!(class(&policy, "MIT-0"), Class::Prohibited);
    }

    #[test]
    fn wrong_policies_are_refused_and_unknown_keys_warned_of() {
        for text in [
            "profile = 'x'",
            "[levels]\nunknown = 'never'",
            "[[exceptions]]\npackage = 'a'\nlicense = 'MIT'\nreason = ' '",
            "[[exceptions]]\npackage = 'a'\nlicense = 'nope'\nreason = 'x'",
            "[[exceptions]]\npackage = '../a'\nlicense = 'MIT'\nreason = 'x'",
            "[[exceptions]]\npackage = 'a'\nlicense = 'MIT'\nreason = 'x'\nexpires = '2026-13-01'",
            "[[clarifications]]\npackage = 'a'\nlicense = 'MIT'\nfile = 'L'\nhash = 'md5:1'",
            "[packages]\nbanned = ['a<<2']",
            "not toml",
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
        let policy = Policy::parse("colour = 1\n[levels]\nunkown = 'deny'\n[licenses]\napproved=['MTI']").unwrap();
        assert_eq!(policy.warnings.len(), 3, "{:?}", policy.warnings);
        let dated =
            Policy::parse("[[exceptions]]\npackage='a'\nlicense='MIT'\nreason='x'\nexpires=2027-01-01").unwrap();
        assert_eq!(dated.exceptions[0].expires.as_deref(), Some("2027-01-01"));
    }
}
