//! What build pipelines read: JUnit XML and GitHub's workflow commands.

use super::escape_markup;
use crate::check::Report;
use crate::finding::{Finding, Level};

/// JUnit XML: a test case per package, failed by findings at or above `fail_on`; the rest is in `system-out`.
pub fn junit(report: &Report, fail_on: Level) -> String {
    let mut cases = String::new();
    let mut failures = 0;
    let mut case = |name: &str, findings: &[Finding]| {
        let (bad, rest): (Vec<&Finding>, Vec<&Finding>) = findings.iter().partition(|one| one.level >= fail_on);
        failures += usize::from(!bad.is_empty());
        cases.push_str(&format!("    <testcase classname=\"weir.deps\" name=\"{}\">\n", escape_markup(name)));
        if let Some(first) = bad.first() {
            let all: Vec<String> = bad.iter().map(|one| line(one)).collect();
            cases.push_str(&format!(
                "      <failure type=\"{}\" message=\"{}\">{}</failure>\n",
                first.code.word(),
                escape_markup(&first.message),
                escape_markup(&all.join("\n"))
            ));
        }
        if !rest.is_empty() {
            let all: Vec<String> = rest.iter().map(|one| line(one)).collect();
            cases.push_str(&format!("      <system-out>{}</system-out>\n", escape_markup(&all.join("\n"))));
        }
        cases.push_str("    </testcase>\n");
    };
    for package in &report.packages {
        case(format!("{} {}", package.name, package.version).trim(), &package.findings);
    }
    case("the set as a whole", &report.findings);
    let tests = report.packages.len() + 1;
    let time = super::instant(report.time);
    let time = time.trim_end_matches('Z');
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"weir deps\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\">\n  \
         <testsuite name=\"{}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\" timestamp=\"{time}\" time=\"0\">\n{cases}  \
         </testsuite>\n</testsuites>\n",
        escape_markup(&report.source)
    )
}

fn line(finding: &Finding) -> String {
    let fix = finding.fix.as_deref().map_or(String::new(), |fix| format!(" (to fix: {fix})"));
    format!("{} {}: {}{fix}", finding.level.word(), finding.code.word(), finding.message)
}

/// GitHub's workflow commands: an annotation per finding, the most serious first.
pub fn github(report: &Report) -> String {
    let mut lines: Vec<(Level, String)> = Vec::new();
    for (package, finding) in report.all_findings() {
        let command = match finding.level {
            Level::Deny => "error",
            Level::Warn => "warning",
            Level::Allow => "notice",
        };
        let mut properties = String::new();
        if let Some(file) = finding.file.as_deref().filter(|file| !file.is_empty()) {
            properties.push_str(&format!("file={},", property(file)));
        }
        if let Some(line) = finding.line {
            properties.push_str(&format!("line={line},"));
        }
        let about = package.map_or(String::new(), |one| format!("{} {}: ", one.name, one.version));
        properties.push_str(&format!("title={}", property(finding.code.title())));
        lines.push((
            finding.level,
            format!("::{command} {properties}::{}\n", data(&format!("{about}{}", finding.message))),
        ));
    }
    lines.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    lines.into_iter().map(|(_, line)| line).collect()
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
