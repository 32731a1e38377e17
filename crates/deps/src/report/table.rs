//! Tables for a terminal: aligned columns, no colours, no wrapping.

use crate::check::{Judged, Report};
use crate::finding::Level;

/// Every package with licence, rung and verdict.
pub fn list(report: &Report) -> String {
    let head = ["package", "version", "licence", "from", "sure", "verdict"];
    let rows = report.packages.iter().map(row).collect::<Vec<_>>();
    columns(&head.map(String::from), &rows)
}

fn row(package: &Judged) -> [String; 6] {
    [
        package.name.clone(),
        package.version.clone(),
        package.license.clone().unwrap_or_else(|| "-".into()),
        package.rung.word().into(),
        format!("{:.0}%", package.confidence * 100.0),
        package.verdict.word().into(),
    ]
}

/// Findings at or above `least`, the most serious first, and one line of counts.
pub fn check(report: &Report, least: Level) -> String {
    let mut rows: Vec<[String; 5]> = Vec::new();
    for (package, finding) in report.all_findings().filter(|(_, finding)| finding.level >= least) {
        let (name, version) = package.map_or(("-", ""), |package| (package.name.as_str(), package.version.as_str()));
        let place = match (&finding.file, finding.line) {
            (Some(file), Some(line)) if package.is_none() => format!(" [{file}:{line}]"),
            (Some(file), None) if package.is_none() => format!(" [{file}]"),
            _ => String::new(),
        };
        let message = format!("{}{place}", finding.message);
        rows.push([finding.level.word().into(), name.into(), version.into(), finding.code.word().into(), message]);
    }
    rows.sort_by(|a, b| (&a[0] != "deny", &a[0] != "warn", &a[1]).cmp(&(&b[0] != "deny", &b[0] != "warn", &b[1])));
    let mut text = String::new();
    if !rows.is_empty() {
        text = columns(&["level", "package", "version", "finding", "what"].map(String::from), &rows);
        text.push('\n');
    }
    text.push_str(&summary(report));
    text
}

/// One line of counts.
pub fn summary(report: &Report) -> String {
    let s = report.summary;
    format!(
        "{} packages: {} approved, {} restricted, {} unlisted, {} prohibited, {} unknown; findings: {} deny, {} warn, {} allow\n",
        s.packages, s.approved, s.restricted, s.unlisted, s.prohibited, s.unknown, s.deny, s.warn, s.allow
    )
}

/// Left-aligned columns, two spaces apart; the last one is not padded.
pub fn columns<const N: usize>(head: &[String; N], rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in std::iter::once(head).chain(rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(head).chain(rows) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            line.push_str(cell);
            if at + 1 < N {
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Everything about one package.
pub fn explain(package: &Judged) -> String {
    let mut text = format!("{} {}\n", package.name, package.version);
    let mut line = |label: &str, value: &str| text.push_str(&format!("  {label:<11} {value}\n"));
    line("licence", package.license.as_deref().unwrap_or("unknown"));
    line("read from", &format!("{} ({:.0}% sure)", package.rung.word(), package.confidence * 100.0));
    line("verdict", package.verdict.word());
    if let Some(reason) = &package.reason {
        line("because", reason);
    }
    let path: Vec<&str> = package.path.iter().map(String::as_str).chain([package.name.as_str()]).collect();
    line("pulled in", &path.join(" -> "));
    line("metadata", &package.file);
    for evidence in &package.evidence {
        line("evidence", &format!("{}: {}", evidence.source, evidence.value));
    }
    for (file, hash) in &package.license_files {
        line("text", &format!("{file} blake3:{hash}"));
    }
    for finding in &package.findings {
        line("finding", &format!("{} {}: {}", finding.level.word(), finding.code.word(), finding.message));
        if let Some(fix) = &finding.fix {
            line("fix", fix);
        }
    }
    text
}
