//! SARIF 2.1.0 (OASIS): one result per finding, one rule per code.

use serde_json::{Value, json};

use crate::check::Report;
use crate::finding::{Code, Finding, Level};

/// The log.
pub fn report(report: &Report) -> String {
    let rules: Vec<Value> = Code::ALL
        .iter()
        .map(|code| {
            json!({
                "id": code.word(),
                "shortDescription": {"text": code.title()},
                "defaultConfiguration": {"level": "warning"},
            })
        })
        .collect();
    let results: Vec<Value> = report
        .all_findings()
        .map(|(package, finding)| {
            let about = package.map_or(String::new(), |one| format!("{} {}: ", one.name, one.version));
            let key = package.map_or("-", |one| one.name.as_str());
            let fix = finding.fix.as_deref().map_or(String::new(), |fix| format!(". To fix: {fix}"));
            json!({
                "ruleId": finding.code.word(),
                "ruleIndex": Code::ALL.iter().position(|code| *code == finding.code),
                "level": level(finding.level),
                "message": {"text": format!("{about}{}{fix}", finding.message)},
                "locations": [location(finding, package.map_or(report.source.as_str(), |one| one.file.as_str()))],
                "partialFingerprints": {"weirDeps/v1": format!("{key}/{}", finding.code.word())},
            })
        })
        .collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "weir deps", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "utf16CodeUnits",
            "results": results,
        }],
    });
    format!("{log:#}\n")
}

fn level(level: Level) -> &'static str {
    match level {
        Level::Allow => "note",
        Level::Warn => "warning",
        Level::Deny => "error",
    }
}

fn location(finding: &Finding, fallback: &str) -> Value {
    let file = finding.file.as_deref().filter(|file| !file.is_empty()).unwrap_or(fallback);
    let mut place = json!({"artifactLocation": {"uri": super::uri(if file.is_empty() { "." } else { file })}});
    if let Some(line) = finding.line {
        place["region"] = json!({"startLine": line});
    }
    json!({"physicalLocation": place})
}
