//! One vulnerability record in the OSV format, cut down to what a check needs.

use std::str::FromStr;

use pep440_rs::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cvss::{self, Severity};
use crate::name;

/// A step of a version range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Affected from this version.
    Introduced(String),
    /// No longer affected from this version.
    Fixed(String),
    /// Affected up to and including this version.
    LastAffected(String),
}

/// A record as far as one package is concerned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Identifier in the database.
    pub id: String,
    /// Identifiers elsewhere.
    pub aliases: Vec<String>,
    /// One line.
    pub summary: String,
    /// By CVSS, else by the database's word.
    pub severity: Severity,
    /// `YYYY-MM-DD` of the publication.
    pub published: String,
    /// Version ranges.
    pub ranges: Vec<Vec<Event>>,
    /// Versions listed one by one.
    pub versions: Vec<String>,
}

/// Reads an OSV document: (package name, record) for each affected Python package. Withdrawn records give none.
pub fn parse(bytes: &[u8]) -> Result<Vec<(String, Record)>, String> {
    of_document(&serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?)
}

/// Reads the same document written as YAML, as the PyPA keeps it.
pub fn parse_yaml(bytes: &[u8]) -> Result<Vec<(String, Record)>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("not UTF-8: {error}"))?;
    // The reader bounds depth, nodes and the expansion of aliases by itself.
    let document: Value = serde_yaml_ng::from_str(text).map_err(|error| {
        let message = error.to_string();
        format!("not YAML: {}", message.lines().next().unwrap_or_default())
    })?;
    of_document(&document)
}

fn of_document(document: &Value) -> Result<Vec<(String, Record)>, String> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let id = text(document, "id");
    if id.is_empty() || id.len() > 128 {
        return Err("no id".into());
    }
    if document.get("withdrawn").is_some_and(|withdrawn| !withdrawn.is_null()) {
        return Ok(Vec::new());
    }
    let list = |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let strings =
        |values: Vec<Value>| values.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect::<Vec<_>>();
    let mut found = Vec::new();
    for affected in list(document, "affected").iter().take(1000) {
        let package = affected.get("package").unwrap_or(&Value::Null);
        if !text(package, "ecosystem").eq_ignore_ascii_case("pypi") {
            continue;
        }
        let name = name::normalize(&text(package, "name")).map_err(|error| error.to_string())?;
        let mut ranges = Vec::new();
        for range in list(affected, "ranges") {
            if text(&range, "type") == "ECOSYSTEM" {
                ranges.push(list(&range, "events").iter().filter_map(event).collect());
            }
        }
        let published = text(document, "published").get(..10).unwrap_or("1970-01-01").to_owned();
        let summary: String = first_line(&text(document, "summary"), &text(document, "details"));
        let severity = severity(document, affected);
        let (aliases, versions) = (strings(list(document, "aliases")), strings(list(affected, "versions")));
        found.push((name, Record { id: id.clone(), aliases, summary, severity, published, ranges, versions }));
    }
    Ok(found)
}

fn first_line(summary: &str, details: &str) -> String {
    let text = if summary.is_empty() { details } else { summary };
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect()
}

fn event(value: &Value) -> Option<Event> {
    let get = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    get("introduced")
        .map(Event::Introduced)
        .or_else(|| get("fixed").map(Event::Fixed))
        .or_else(|| get("last_affected").map(Event::LastAffected))
}

fn severity(document: &Value, affected: &Value) -> Severity {
    let mut best: Option<f64> = None;
    for holder in [affected, document] {
        for one in holder.get("severity").and_then(Value::as_array).into_iter().flatten() {
            if let Some(score) = one.get("score").and_then(Value::as_str).and_then(cvss::base_score) {
                best = Some(best.map_or(score, |have| have.max(score)));
            }
        }
    }
    if let Some(score) = best {
        return Severity::from_score(score);
    }
    let word = |holder: &Value| {
        let word = holder.get("database_specific")?.get("severity")?.as_str()?;
        Severity::from_word(word)
    };
    word(document).or_else(|| word(affected)).unwrap_or(Severity::Unknown)
}

impl Record {
    /// Whether a version is affected. One outside PEP 440 is only found in the list.
    pub fn affects(&self, version: &str) -> bool {
        if self.versions.iter().any(|listed| listed == version) {
            return true;
        }
        let Ok(version) = Version::from_str(version) else { return false };
        if self.versions.iter().any(|listed| Version::from_str(listed).is_ok_and(|listed| listed == version)) {
            return true;
        }
        self.ranges.iter().any(|events| in_events(events, &version))
    }

    /// The lowest fixed version above the given one.
    pub fn fixed_after(&self, version: &str) -> Option<String> {
        let version = Version::from_str(version).ok()?;
        let fixed = self.ranges.iter().flatten().filter_map(|event| match event {
            Event::Fixed(fixed) => Version::from_str(fixed).ok().filter(|fixed| *fixed > version),
            _ => None,
        });
        fixed.min().map(|fixed| fixed.to_string())
    }
}

/// The algorithm of the OSV schema: events in the order of versions switch the state.
fn in_events(events: &[Event], version: &Version) -> bool {
    let parse = |text: &str| if text == "0" { Some(Version::new([0])) } else { Version::from_str(text).ok() };
    let mut steps: Vec<(Version, bool, bool)> = Vec::new();
    for event in events {
        let (text, on, inclusive) = match event {
            Event::Introduced(text) => (text, true, true),
            Event::Fixed(text) => (text, false, true),
            Event::LastAffected(text) => (text, false, false),
        };
        let Some(at) = parse(text) else { continue };
        let at = if text == "0" { at.with_dev(Some(0)) } else { at };
        steps.push((at, on, inclusive));
    }
    steps.sort_by(|a, b| a.0.cmp(&b.0));
    let mut affected = false;
    for (at, on, inclusive) in steps {
        if at < *version || (inclusive && at == *version) {
            affected = on;
        }
    }
    affected
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"{"id":"GHSA-x","aliases":["CVE-1"],"summary":"bad","published":"2024-05-20T10:00:00Z",
        "severity":[{"type":"CVSS_V3","score":"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
        "affected":[{"package":{"ecosystem":"PyPI","name":"Some_Pkg"},
          "ranges":[{"type":"ECOSYSTEM","events":[{"introduced":"0"},{"fixed":"1.5"},{"introduced":"2.0"},{"last_affected":"2.3"}]}],
          "versions":["9.9"]},{"package":{"ecosystem":"npm","name":"x"}}]}"#;

    #[test]
    fn ranges_and_lists_say_which_versions_are_affected() {
        let found = parse(SAMPLE.as_bytes()).unwrap();
        assert_eq!(found.len(), 1);
        let (name, record) = &found[0];
        assert_eq!((name.as_str(), record.severity), ("some-pkg", Severity::Critical));
        for (version, affected) in [
            ("0.1", true),
            ("1.4.9", true),
            ("1.5", false),
            ("1.5.0", false),
            ("1.9", false),
            ("2.0", true),
            ("2.3", true),
            ("2.3.1", false),
            ("9.9", true),
            ("1.5rc1", true),
            ("not a version", false),
            ("0a1", true),
        ] {
            assert_eq!(record.affects(version), affected, "{version}");
        }
        assert_eq!(record.fixed_after("1.0").as_deref(), Some("1.5"));
        assert_eq!(record.fixed_after("2.1"), None);
    }

    #[test]
    fn yaml_is_the_same_document() {
        let yaml = "id: GHSA-x\naliases:\n- CVE-1\nsummary: bad\npublished: '2024-05-20T10:00:00Z'\nseverity:\n- type: CVSS_V3\n  \
            score: CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H\naffected:\n- package: {ecosystem: PyPI, name: Some_Pkg}\n  ranges:\n  \
            - type: ECOSYSTEM\n    events:\n    - introduced: '0'\n    - fixed: '1.5'\n    - introduced: '2.0'\n    \
            - last_affected: '2.3'\n  versions: ['9.9']\n";
        assert_eq!(parse_yaml(yaml.as_bytes()).unwrap(), parse(SAMPLE.as_bytes()).unwrap());
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
            d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
            g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\nid: x\n";
        for text in ["a: [", "- x", "\u{1}", bomb] {
            assert!(parse_yaml(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn withdrawn_records_and_other_severities() {
        let withdrawn = SAMPLE.replacen("\"summary\"", "\"withdrawn\":\"2024-06-01T00:00:00Z\",\"summary\"", 1);
        assert!(parse(withdrawn.as_bytes()).unwrap().is_empty());
        let worded = SAMPLE.replace("CVSS:3.1", "CVSS:9").replacen(
            "{\"id\"",
            "{\"database_specific\":{\"severity\":\"MODERATE\"},\"id\"",
            1,
        );
        assert_eq!(parse(worded.as_bytes()).unwrap()[0].1.severity, Severity::Medium);
        assert_eq!(parse(SAMPLE.replace("CVSS:3.1", "CVSS:9").as_bytes()).unwrap()[0].1.severity, Severity::Unknown);
        assert!(parse(b"{}").is_err() && parse(b"[").is_err());
        assert!(parse(SAMPLE.replace("Some_Pkg", "../x").as_bytes()).is_err());
    }
}
