//! Markdown, for pull requests and wikis.

use crate::check::Report;
use crate::finding::Level;

/// Counts, findings from `warn` on, and every package in a folded table.
pub fn report(report: &Report) -> String {
    let mut text = format!("# Dependencies of {}\n\n{}\n", cell(&report.source), super::table::summary(report));
    let mut findings: Vec<_> = report.all_findings().filter(|(_, one)| one.level >= Level::Warn).collect();
    findings.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.level));
    if !findings.is_empty() {
        text.push_str("| level | package | finding | what | to fix |\n|---|---|---|---|---|\n");
        for (package, finding) in findings {
            let name = package.map_or_else(|| "-".into(), |one| format!("{} {}", one.name, one.version));
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} |\n",
                finding.level.word(),
                cell(&name),
                finding.code.word(),
                cell(&finding.message),
                cell(finding.fix.as_deref().unwrap_or(""))
            ));
        }
        text.push('\n');
    }
    text.push_str("<details><summary>All packages</summary>\n\n| package | version | licence | from | verdict |\n|---|---|---|---|---|\n");
    for one in &report.packages {
        let license = one.license.as_deref().unwrap_or("unknown");
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} |\n",
            cell(&one.name),
            cell(&one.version),
            cell(license),
            one.rung.word(),
            one.verdict.word()
        ));
    }
    text.push_str("\n</details>\n");
    text
}

/// Text within a table's cell: no markup of its own.
fn cell(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '#' => {
                escaped.push('\\');
                escaped.push(c);
            }
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
