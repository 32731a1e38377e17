//! JSON: the report itself, and the list in the shape that pip-licenses prints.

use serde_json::{Value, json};

use crate::check::Report;

/// The report; the names are a promise (`docs/guide/deps.md`).
pub fn report(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report is plain data");
    text.push('\n');
    text
}

/// What `pip-licenses --format=json` prints: Name, Version, License.
pub fn pip_licenses(report: &Report) -> String {
    let rows: Vec<Value> = report
        .packages
        .iter()
        .map(|package| {
            let license = package.license.as_deref().unwrap_or("UNKNOWN");
            json!({"License": license, "Name": package.name, "Version": package.version})
        })
        .collect();
    let mut text = serde_json::to_string_pretty(&rows).expect("rows are plain data");
    text.push('\n');
    text
}
