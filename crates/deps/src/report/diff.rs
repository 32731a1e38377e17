//! What changed between two reports: packages added, removed, moved to another version, or under another licence.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check::{Judged, Report};
use crate::finding::Level;
use crate::policy::Class;

/// One difference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Name of the package.
    pub name: String,
    /// added, removed, upgraded, downgraded or same.
    pub change: &'static str,
    /// Whether the licence differs.
    pub license_changed: bool,
    /// Version before.
    pub version_before: Option<String>,
    /// Version now.
    pub version: Option<String>,
    /// Licence before.
    pub license_before: Option<String>,
    /// Licence now.
    pub license: Option<String>,
    /// Verdict now.
    pub verdict: Option<Class>,
    /// Level of the package now, at least `warn` when its licence changed.
    pub level: Level,
}

/// Compares, by name. Packages that did not change are left out.
pub fn compare(before: &Report, now: &Report) -> Vec<Change> {
    let index = |report: &'_ Report| -> BTreeMap<String, Judged> {
        report.packages.iter().map(|one| (format!("{:?}/{}", one.ecosystem, one.name), one.clone())).collect()
    };
    let (old, new) = (index(before), index(now));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    names.into_iter().filter_map(|name| change(old.get(name), new.get(name))).collect()
}

fn change(old: Option<&Judged>, new: Option<&Judged>) -> Option<Change> {
    let license_changed = matches!((old, new), (Some(old), Some(new)) if old.license != new.license);
    let change = match (old, new) {
        (None, Some(_)) => "added",
        (Some(_), None) => "removed",
        (Some(old), Some(new)) if old.version != new.version => direction(&old.version, &new.version),
        (Some(_), Some(_)) if license_changed => "same",
        _ => return None,
    };
    let level = match new {
        Some(new) if license_changed => new.level.max(Level::Warn),
        Some(new) => new.level,
        None => Level::Allow,
    };
    Some(Change {
        name: new.or(old)?.name.clone(),
        change,
        license_changed,
        version_before: old.map(|one| one.version.clone()),
        version: new.map(|one| one.version.clone()),
        license_before: old.and_then(|one| one.license.clone()),
        license: new.and_then(|one| one.license.clone()),
        verdict: new.map(|one| one.verdict),
        level,
    })
}

fn direction(old: &str, new: &str) -> &'static str {
    let parse = |text: &str| text.parse::<pep440_rs::Version>().ok();
    match (parse(old), parse(new)) {
        (Some(old), Some(new)) if new < old => "downgraded",
        _ => "upgraded",
    }
}

/// As JSON.
pub fn json(changes: &[Change]) -> String {
    let mut text = serde_json::to_string_pretty(changes).expect("changes are plain data");
    text.push('\n');
    text
}

/// As a table.
pub fn table(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "nothing changed\n".into();
    }
    let arrow = |before: &Option<String>, now: &Option<String>| match (before.as_deref(), now.as_deref()) {
        (Some(before), Some(now)) if before == now => now.to_owned(),
        (Some(before), Some(now)) => format!("{before} -> {now}"),
        (before, now) => now.or(before).unwrap_or("unknown").to_owned(),
    };
    let rows: Vec<[String; 5]> = changes
        .iter()
        .map(|one| {
            let license = match (&one.license_before, &one.license, one.license_changed) {
                (before, now, true) => {
                    format!(
                        "{} -> {} (changed)",
                        before.as_deref().unwrap_or("unknown"),
                        now.as_deref().unwrap_or("unknown")
                    )
                }
                (before, now, false) => arrow(before, now),
            };
            let verdict = one.verdict.map_or("-", Class::word);
            [one.change.into(), one.name.clone(), arrow(&one.version_before, &one.version), license, verdict.into()]
        })
        .collect();
    super::table::columns(&["change", "package", "version", "licence", "verdict"].map(String::from), &rows)
}
