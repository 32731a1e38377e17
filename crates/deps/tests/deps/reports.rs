//! Reports, read by validators that are not ours.

use std::path::PathBuf;
use std::process::Command;

use weir_base::{FileSystem, OsFileSystem};
use weir_deps::check::{Context, Report, check};
use weir_deps::finding::{Code, Finding, Level};
use weir_deps::metadata::Metadata;
use weir_deps::package::{Artifact, Package, PackageSet};
use weir_deps::policy::Policy;
use weir_deps::report::{bill, diff, json, markdown, notice, page, pipeline, sarif, table};

fn package(name: &str, version: &str, license: Option<&str>, requires: &[&str]) -> Package {
    let metadata = Metadata {
        name: name.into(),
        version: version.into(),
        license: license.map(str::to_owned),
        author: Some("A <a@b.test> & \"co\"".into()),
        ..Metadata::default()
    };
    Package {
        name: name.into(),
        version: version.into(),
        file: "folder with space/uv.lock".into(),
        line: 7,
        metadata: Some(metadata),
        requires: requires.iter().map(|name| (*name).to_owned()).collect(),
        artifacts: vec![Artifact { sha256: Some("ab".repeat(32)), ..Artifact::default() }],
        ..Package::default()
    }
}

fn report_of(packages: Vec<Package>) -> Report {
    let nasty = "a <script>alert(1)</script> | `x` ]]> \u{1} & \"quote\"\nsecond line";
    let problem = Finding::new(Code::Malformed, Level::Warn, nasty).at("uv.lock", 2);
    let mut set = PackageSet {
        packages,
        problems: vec![problem],
        source: "a & b".into(),
        is_lock: true,
        ..PackageSet::default()
    };
    set.sort();
    let policy = Policy::default();
    check(set, Context { policy: &policy, now: 1_800_000_000_000_000_000, advisories: None, newest: None })
}

fn report() -> Report {
    report_of(vec![
        package("app", "1.0", Some("MIT"), &["lib", "gpl"]),
        package("lib", "2.0+local", Some("MPL-2.0 AND (Apache-2.0 OR MIT)"), &["gpl"]),
        package("gpl", "3", Some("GPL-3.0-only WITH GCC-exception-3.1"), &[]),
        package("own", "4", Some("public domain"), &[]),
        package("none", "5", None, &[]),
    ])
}

#[allow(clippy::disallowed_methods, reason = "the test script says which Python has the validators")]
fn python() -> PathBuf {
    let named = std::env::var_os("WEIR_TEST_PYTHON").map(PathBuf::from);
    named.expect("this test needs WEIR_TEST_PYTHON; `cargo xtask python` makes one")
}

fn validate(kind: &str, text: &str) {
    let dir = tempfile::tempdir().unwrap();
    let name = if kind == "spdx" { "bill.spdx.json" } else { kind };
    let path = dir.path().join(name);
    OsFileSystem.replace(&path, text.as_bytes()).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/validate.py");
    let output = Command::new(python()).arg(script).arg(kind).arg(&path).output().unwrap();
    assert!(output.status.success(), "{kind}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn sarif_is_valid() {
    validate("sarif", &sarif::report(&report()));
}

#[test]
fn bills_of_materials_are_valid() {
    validate("cyclonedx", &bill::cyclonedx(&report()));
    validate("spdx", &bill::spdx(&report()));
}

#[test]
fn bills_of_materials_are_read_back_the_same() {
    use weir_deps::lock::{LockKind, parse};
    let report = report();
    for (kind, text) in [(LockKind::CycloneDx, bill::cyclonedx(&report)), (LockKind::Spdx, bill::spdx(&report))] {
        let set = parse(kind, &text, "bill", &weir_deps::marker::Target::default());
        assert!(set.problems.is_empty(), "{:?}", set.problems);
        let found: Vec<_> = set.packages.iter().map(|one| (&one.name, &one.version, &one.stated_license)).collect();
        let wanted: Vec<_> = report.packages.iter().map(|one| (&one.name, &one.version, &one.license)).collect();
        assert_eq!(found, wanted, "{kind:?}");
        assert_eq!(set.packages[0].requires, ["gpl", "lib"]);
    }
}

#[test]
fn junit_and_the_page_are_well_formed() {
    validate("junit", &pipeline::junit(&report(), Level::Warn));
    validate("html", &page::report(&report(), &Policy::default()));
}

#[test]
fn annotations_and_markdown_cannot_be_broken_out_of() {
    let text = pipeline::github(&report());
    assert_eq!(text.lines().count(), report().all_findings().count());
    assert!(text.starts_with("::error file=folder with space/uv.lock,line=7,title="), "{text}");
    assert!(text.contains("%0Asecond line"));
    let text = markdown::report(&report());
    assert!(!text.contains("<script>") && text.contains("\\| \\`x\\`"), "{text}");
}

#[test]
fn json_has_the_promised_names() {
    let value: serde_json::Value = serde_json::from_str(&json::report(&report())).unwrap();
    assert_eq!(value["summary"]["packages"], 5);
    let gpl = &value["packages"][1];
    for key in ["name", "version", "license", "rung", "confidence", "verdict", "findings"] {
        assert!(gpl.get(key).is_some(), "{key}");
    }
    assert_eq!((gpl["verdict"].as_str(), gpl["rung"].as_str()), (Some("prohibited"), Some("field")));
    assert_eq!(gpl["findings"][0]["level"], "deny");
    assert_eq!(gpl["path"], serde_json::json!(["app"]));
    let none = &value["packages"][3];
    assert_eq!((none["name"].as_str(), none["license"].is_null()), (Some("none"), true));
    let back: Report = serde_json::from_str(&json::report(&report())).unwrap();
    assert_eq!(back.summary, report().summary);
    assert!(json::pip_licenses(&report()).contains("\"License\": \"UNKNOWN\""));
}

#[test]
fn tables_and_notice_are_complete() {
    let report = report();
    assert_eq!(table::list(&report).lines().count(), 6);
    assert!(
        table::check(&report, Level::Deny)
            .contains("5 packages: 1 approved, 1 restricted, 1 unlisted, 1 prohibited, 1 unknown")
    );
    let gpl = table::explain(&report.packages[1]);
    assert!(gpl.contains("app -> gpl") && gpl.contains("fix"), "{gpl}");
    let notice = notice::report(&report, &OsFileSystem);
    assert!(notice.contains("Mozilla Public License") && notice.contains("lib 2.0+local"));
}

#[test]
fn differences_name_changed_licences() {
    let before = report();
    let mut after = report_of(vec![
        package("app", "1.1", Some("MIT"), &[]),
        package("lib", "2.0+local", Some("AGPL-3.0-only"), &[]),
        package("gpl", "2", Some("GPL-3.0-only WITH GCC-exception-3.1"), &[]),
        package("own", "4", Some("public domain"), &[]),
        package("new", "1", Some("MIT"), &[]),
    ]);
    after.recount();
    let changes = diff::compare(&before, &after);
    let found: Vec<_> =
        changes.iter().map(|one| (one.name.as_str(), one.change, one.license_changed, one.level)).collect();
    assert_eq!(
        found,
        [
            ("app", "upgraded", false, Level::Allow),
            ("gpl", "downgraded", false, Level::Deny),
            ("lib", "same", true, Level::Deny),
            ("new", "added", false, Level::Allow),
            ("none", "removed", false, Level::Allow),
        ]
    );
    assert!(diff::table(&changes).contains("-> AGPL-3.0-only (changed)"));
    assert!(diff::compare(&before, &before).is_empty());
}

#[test]
fn runs_are_recorded_found_again_and_bounded() {
    use weir_deps::history;
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let mut report = report();
    report.project = "a & b".into();
    assert!(history::last(&OsFileSystem, &runs, "a & b", i64::MAX).unwrap().is_none());
    report.packages.truncate(1);
    for time in 1..=(history::RUNS_MAX as i64 + 3) {
        report.time = time;
        report.project = if time % 2 == 0 { "another".into() } else { "a & b".into() };
        history::record(&OsFileSystem, &runs, &report).unwrap();
    }
    assert_eq!(history::list(&OsFileSystem, &runs).unwrap().len(), history::RUNS_MAX);
    let last = history::last(&OsFileSystem, &runs, "a & b", 401).unwrap().unwrap();
    assert_eq!(last.time, 399);
    let unsent = history::unsent(&OsFileSystem, &runs).unwrap();
    assert_eq!(unsent.len(), history::RUNS_MAX);
    history::mark_sent(&OsFileSystem, &unsent[0]).unwrap();
    history::mark_sent(&OsFileSystem, &unsent[0]).unwrap();
    assert_eq!(history::unsent(&OsFileSystem, &runs).unwrap(), unsent[1..]);
    assert_eq!(history::list(&OsFileSystem, &runs).unwrap().len(), history::RUNS_MAX);
    // A damaged run is passed over.
    let newest = history::list(&OsFileSystem, &runs).unwrap().pop().unwrap();
    let bytes = OsFileSystem.read(&newest).unwrap();
    OsFileSystem.replace(&newest, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(history::last(&OsFileSystem, &runs, "a & b", i64::MAX).unwrap().unwrap().time, 501);
}

#[test]
fn a_run_is_rows_with_every_finding() {
    let mut report = report();
    report.project = "a & b".into();
    let lines = weir_deps::history::lines(&report);
    assert!(lines.starts_with("deps_runs,source=a\\ &\\ b,profile=strict packages=5i"), "{lines}");
    let findings = report.all_findings().count();
    let clean = report.packages.iter().filter(|package| package.findings.is_empty()).count();
    assert_eq!(lines.lines().count(), 1 + findings + clean);
    let keys: std::collections::BTreeSet<&str> =
        lines.lines().filter_map(|line| line.split(" level=").next()).collect();
    assert_eq!(keys.len(), lines.lines().count(), "no row replaces another");
    let unknown = lines.lines().find(|line| line.contains("package=none,")).unwrap();
    assert!(!unknown.contains("license="), "M1: what is not known is absent: {unknown}");
}
