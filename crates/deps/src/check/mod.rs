//! The check: every package of a set resolved, judged by the policy, and told why.
//!
//! The result is data ([`Report`]): it is printed by `report`, stored by `history`, compared by `diff`. Problems of one
//! package never stop the others, and what could not be looked at is a finding, never clean.

mod judge;
mod paths;

use serde::{Deserialize, Serialize};
use weir_base::Timestamp;

use crate::advisory::Advisories;
use crate::finding::{Finding, Level};
use crate::licence::{Evidence, Rung};
use crate::package::{Ecosystem, Lookups, PackageSet};
use crate::parallel;
use crate::policy::{Class, Policy};

/// One package and its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Normal form of the name.
    pub name: String,
    /// Version; empty when the input does not say.
    pub version: String,
    /// SPDX expression.
    pub license: Option<String>,
    /// Rung of the ladder that answered.
    pub rung: Rung,
    /// In 0..=1, two digits.
    pub confidence: f32,
    /// Class of the licence, after exceptions.
    pub verdict: Class,
    /// The highest level among its findings.
    pub level: Level,
    /// What was found.
    pub findings: Vec<Finding>,
    /// What the licence was read from.
    #[serde(default)]
    pub evidence: Vec<Evidence>,
    /// Who pulled it in: from a direct requirement down to the one before this package. Empty for a direct one.
    #[serde(default)]
    pub path: Vec<String>,
    /// Names it requires within the set.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Kind of package.
    #[serde(default)]
    pub ecosystem: Ecosystem,
    /// Why an exception or an approval lets it pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Home page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Author as declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Licence files: (path relative to the metadata folder, BLAKE3).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub license_files: Vec<(String, String)>,
    /// The file that names it.
    #[serde(default)]
    pub file: String,
    /// SHA-256 of an artifact, where the input gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// Counts over a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Packages in all.
    pub packages: usize,
    /// By verdict.
    pub approved: usize,
    /// By verdict.
    pub restricted: usize,
    /// By verdict.
    pub unlisted: usize,
    /// By verdict.
    pub prohibited: usize,
    /// By verdict.
    pub unknown: usize,
    /// Findings at `deny`, those of no package included.
    pub deny: usize,
    /// Findings at `warn`.
    pub warn: usize,
    /// Findings at `allow`.
    pub allow: usize,
}

/// The answer to one check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was checked.
    pub source: String,
    /// The name under which the run is recorded; empty when it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub project: String,
    /// Profile of the policy.
    pub profile: String,
    /// When, nanoseconds UTC.
    pub time: Timestamp,
    /// Packages by name.
    pub packages: Vec<Judged>,
    /// Findings of no package.
    pub findings: Vec<Finding>,
    /// Counts.
    pub summary: Summary,
    /// How often the cache helped.
    #[serde(default)]
    pub cache: Lookups,
}

impl Report {
    /// All findings with the package they belong to.
    pub fn all_findings(&self) -> impl Iterator<Item = (Option<&Judged>, &Finding)> {
        let own = self.packages.iter().flat_map(|package| package.findings.iter().map(move |one| (Some(package), one)));
        own.chain(self.findings.iter().map(|one| (None, one)))
    }

    /// Whether a finding is at or above `level`.
    pub fn fails_at(&self, level: Level) -> bool {
        self.all_findings().any(|(_, finding)| finding.level >= level)
    }

    /// Counts anew, after findings were added.
    pub fn recount(&mut self) {
        let mut summary = Summary { packages: self.packages.len(), ..Summary::default() };
        for package in &mut self.packages {
            package.level = package.findings.iter().map(|one| one.level).max().unwrap_or(Level::Allow);
            *match package.verdict {
                Class::Approved => &mut summary.approved,
                Class::Restricted => &mut summary.restricted,
                Class::Unlisted => &mut summary.unlisted,
                Class::Prohibited => &mut summary.prohibited,
                Class::Unknown => &mut summary.unknown,
            } += 1;
        }
        for (_, finding) in self.all_findings() {
            *match finding.level {
                Level::Deny => &mut summary.deny,
                Level::Warn => &mut summary.warn,
                Level::Allow => &mut summary.allow,
            } += 1;
        }
        self.summary = summary;
    }
}

/// What a check needs beside the packages.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The rules.
    pub policy: &'a Policy,
    /// Now, nanoseconds UTC: exceptions expire, advisories have deadlines.
    pub now: Timestamp,
    /// Known vulnerabilities, where they are at hand.
    pub advisories: Option<&'a Advisories>,
    /// Newest versions by name, where an index was asked.
    pub newest: Option<&'a std::collections::HashMap<String, Newest>>,
}

/// The newest release of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// Version.
    pub version: String,
    /// Days since 1970 of its upload, where known.
    pub day: Option<i64>,
    /// Days since 1970 of the upload of the version in use, where known.
    pub day_in_use: Option<i64>,
}

/// The day of a time, as `YYYY-MM-DD` in UTC.
pub fn day_of(time: Timestamp) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time))
        .map_or_else(|_| "1970-01-01".into(), |time| time.strftime("%Y-%m-%d").to_string())
}

/// Judges a set.
pub fn check(set: PackageSet, context: Context<'_>) -> Report {
    let mut used = judge::Used::new(context.policy);
    let judged =
        parallel::map(&set.packages, parallel::threads().min(8), |package| judge::judge(package, &set, context));
    let mut packages = Vec::with_capacity(judged.len());
    for (one, marks) in judged {
        used.add(&marks);
        packages.push(one);
    }
    paths::fill(&mut packages, &set);
    let mut findings = set.problems;
    findings.extend(used.findings(context));
    if let Some(advisories) = context.advisories {
        findings.extend(advisories.problems(context.policy));
    }
    let mut report = Report {
        source: set.source,
        project: String::new(),
        profile: context.policy.profile.clone(),
        time: context.now,
        packages,
        findings,
        summary: Summary::default(),
        cache: set.lookups,
    };
    report.recount();
    report
}
