//! What somebody should hear of even when nobody reads the report: data that cannot be had, a cache that does not help, a
//! licence that is denied now and was not before, a licence that changed.

use serde::Serialize;

use crate::check::{Judged, Report};
use crate::finding::{Code, Level};
use crate::report::diff;

/// Lookups below which the ratio of hits says nothing.
const LOOKUPS_MIN: usize = 20;

/// What an alert is about. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The index, or what it should have, could not be had.
    IndexFailing,
    /// The cache had less than the wanted share, though there was a run before.
    HitRatioLow,
    /// A package's licence is denied that was not in the last run.
    LicenseDenied,
    /// A package's licence differs from the last run.
    LicenseChanged,
}

impl Kind {
    /// The stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::IndexFailing => "index-failing",
            Kind::HitRatioLow => "hit-ratio-low",
            Kind::LicenseDenied => "license-denied",
            Kind::LicenseChanged => "license-changed",
        }
    }
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// What it is about.
    pub kind: Kind,
    /// The package, where it is about one.
    pub package: Option<String>,
    /// One sentence.
    pub message: String,
}

/// The alerts of a run, given the last one of the same project and the least share of hits, in 0..=1.
pub fn alerts(before: Option<&Report>, now: &Report, hit_ratio_min: f64) -> Vec<Alert> {
    let mut found = Vec::new();
    let missing = |one: &&Judged| one.findings.iter().any(|finding| finding.code == Code::DataMissing);
    let without: Vec<&Judged> = now.packages.iter().filter(missing).collect();
    if let Some(first) = without.first() {
        let why = first.findings.iter().find(|finding| finding.code == Code::DataMissing);
        let message = format!(
            "the data of {} packages could not be had; {}: {}",
            without.len(),
            first.name,
            why.map_or("", |finding| finding.message.as_str())
        );
        found.push(Alert { kind: Kind::IndexFailing, package: None, message });
    }
    let Some(before) = before else { return found };
    let lookups = now.cache.hits + now.cache.misses;
    if let Some(ratio) = now.cache.hit_ratio().filter(|ratio| lookups >= LOOKUPS_MIN && *ratio < hit_ratio_min) {
        let message = format!(
            "the cache had {} of {lookups} packages ({:.1} %), less than {:.1} %",
            now.cache.hits,
            ratio * 100.0,
            hit_ratio_min * 100.0
        );
        found.push(Alert { kind: Kind::HitRatioLow, package: None, message });
    }
    found.extend(denied(before, now));
    for change in diff::compare(before, now).into_iter().filter(|change| change.license_changed) {
        let word = |license: &Option<String>| license.clone().unwrap_or_else(|| "unknown".into());
        let message =
            format!("its licence was '{}' and is '{}' now", word(&change.license_before), word(&change.license));
        found.push(Alert { kind: Kind::LicenseChanged, package: Some(change.name), message });
    }
    found
}

/// Packages that are denied for their licence now, and were not then.
fn denied(before: &Report, now: &Report) -> Vec<Alert> {
    let is_denied = |package: &Judged| -> Option<String> {
        let about_licence = |code: Code| {
            matches!(
                code,
                Code::LicenseProhibited | Code::LicenseRestricted | Code::LicenseUnlisted | Code::LicenseUnknown
            )
        };
        let finding = package.findings.iter().find(|one| one.level == Level::Deny && about_licence(one.code))?;
        Some(finding.message.clone())
    };
    let denied_then: std::collections::HashSet<(&str, _)> = before
        .packages
        .iter()
        .filter(|one| is_denied(one).is_some())
        .map(|one| (one.name.as_str(), one.ecosystem))
        .collect();
    let fresh = now.packages.iter().filter(|one| !denied_then.contains(&(one.name.as_str(), one.ecosystem)));
    fresh
        .filter_map(|one| {
            let message = format!("{} {}: {}", one.name, one.version, is_denied(one)?);
            Some(Alert { kind: Kind::LicenseDenied, package: Some(one.name.clone()), message })
        })
        .collect()
}

/// The document that a webhook gets: `source`, `time` (RFC 3339), `alerts`.
pub fn document(report: &Report, alerts: &[Alert]) -> String {
    let source = if report.project.is_empty() { &report.source } else { &report.project };
    let time = crate::report::instant(report.time);
    serde_json::json!({"source": source, "time": time, "alerts": alerts}).to_string()
}
