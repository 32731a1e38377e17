//! The compliance page: one HTML file with the policy in force, the findings and every package. No script, no links out.

use super::escape_markup as e;
use crate::check::{Judged, Report};
use crate::finding::Level;
use crate::policy::Policy;

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}\
table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4;vertical-align:top}\
.deny{color:#a40e26;font-weight:600}.warn{color:#7a4b00;font-weight:600}.allow{color:#57606a}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}td,th{border-color:#30363d}.deny{color:#ff7b72}.warn{color:#e3b341}.allow{color:#8b949e}}";

/// The page.
pub fn report(report: &Report, policy: &Policy) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Dependencies of {0}</title><style>{STYLE}</style></head>\n<body>\n<h1>Dependencies of {0}</h1>\n<p>Checked {1} with the policy \
         <strong>{2}</strong>.</p>\n<p>{3}</p>\n",
        e(&report.source),
        super::instant(report.time),
        e(&report.profile),
        e(super::table::summary(report).trim())
    );
    findings(&mut page, report);
    page.push_str("<h2>Policy</h2>\n<table><tr><th>Class</th><th>Level</th><th>Licences</th></tr>\n");
    let [approved, restricted, prohibited] = policy.lists();
    for (class, level, list) in [
        ("approved", Level::Allow, approved),
        ("restricted", policy.levels.restricted, restricted),
        ("prohibited", policy.levels.prohibited, prohibited),
    ] {
        page.push_str(&format!("<tr><td>{class}</td><td>{}</td><td>{}</td></tr>\n", level.word(), e(&list.join(", "))));
    }
    page.push_str("</table>\n");
    if !policy.exceptions.is_empty() {
        page.push_str(
            "<h2>Exceptions</h2>\n<table><tr><th>Package</th><th>Licence</th><th>Reason</th><th>Until</th></tr>\n",
        );
        for one in &policy.exceptions {
            let until = one.expires.as_deref().unwrap_or("no end");
            let license = one.license.to_string();
            page.push_str(&format!(
                "<tr><td>{} {}</td><td>{}</td><td>{}</td><td>{until}</td></tr>\n",
                e(&one.package),
                e(&one.versions.to_string()),
                e(&license),
                e(&one.reason)
            ));
        }
        page.push_str("</table>\n");
    }
    packages(&mut page, report);
    page.push_str("</body>\n</html>\n");
    page
}

fn findings(page: &mut String, report: &Report) {
    let mut findings: Vec<_> = report.all_findings().collect();
    findings.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.level));
    page.push_str("<h2>Findings</h2>\n<table><tr><th>Level</th><th>Package</th><th>Finding</th><th>To fix</th></tr>\n");
    for (package, finding) in findings {
        let name = package.map_or_else(|| "-".to_owned(), |one| format!("{} {}", one.name, one.version));
        page.push_str(&format!(
            "<tr><td class=\"{0}\">{0}</td><td>{1}</td><td>{2}: {3}</td><td>{4}</td></tr>\n",
            finding.level.word(),
            e(&name),
            finding.code.word(),
            e(&finding.message),
            e(finding.fix.as_deref().unwrap_or(""))
        ));
    }
    page.push_str("</table>\n");
}

fn packages(page: &mut String, report: &Report) {
    page.push_str("<h2>Packages</h2>\n<table><tr><th>Package</th><th>Version</th><th>Licence</th><th>Read from</th><th>Verdict</th><th>Pulled in by</th></tr>\n");
    for one in &report.packages {
        page.push_str(&row(one));
    }
    page.push_str("</table>\n");
}

fn row(one: &Judged) -> String {
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{} ({:.0}%)</td><td class=\"{}\">{}</td><td>{}</td></tr>\n",
        e(&one.name),
        e(&one.version),
        e(one.license.as_deref().unwrap_or("unknown")),
        one.rung.word(),
        one.confidence * 100.0,
        one.level.word(),
        one.verdict.word(),
        e(&one.path.join(" → "))
    )
}
