//! Exceptions, clarifications, bans, pins, advisories: what a policy says about packages.

use weir_base::{FileSystem, OsFileSystem};
use weir_deps::advisory::{Advisories, compile};
use weir_deps::check::{Context, Judged, Newest, Report, check};
use weir_deps::licence::{FileText, text};
use weir_deps::metadata::Metadata;
use weir_deps::package::{Package, PackageSet};
use weir_deps::policy::{Class, Policy};

const DAY: i64 = 86_400 * 1_000_000_000;
/// 2026-01-01.
const NOW: i64 = 20_454 * DAY;

fn package(name: &str, version: &str, license: &str) -> Package {
    let metadata = Metadata { license: Some(license.into()), ..Metadata::default() };
    Package { name: name.into(), version: version.into(), pinned: true, metadata: Some(metadata), ..Package::default() }
}

fn run(policy: &str, packages: Vec<Package>) -> Report {
    let policy = Policy::parse(policy).unwrap();
    let set = PackageSet { packages, is_lock: true, ..PackageSet::default() };
    check(set, Context { policy: &policy, now: NOW, advisories: None, newest: None })
}

fn codes(package: &Judged) -> Vec<&'static str> {
    package.findings.iter().map(|finding| finding.code.word()).collect()
}

#[test]
fn an_exception_applies_while_it_is_true() {
    let exception = |more: &str| {
        format!("[[exceptions]]\npackage='Cer_tifi'\nversions='>=2'\nlicense='mpl-2.0'\nreason='agreed'\n{more}")
    };
    for (more, version, license, verdict, code) in [
        ("", "2.1", "MPL-2.0", Class::Approved, vec![]),
        ("expires='2026-01-01'", "2.1", "MPL-2.0", Class::Approved, vec![]),
        ("expires='2025-12-31'", "2.1", "MPL-2.0", Class::Restricted, vec!["exception-expired", "license-restricted"]),
        ("", "2.1", "GPL-2.0-only", Class::Prohibited, vec!["license-prohibited", "exception-mismatch"]),
    ] {
        let report = run(&exception(more), vec![package("cer-tifi", version, license)]);
        assert_eq!((report.packages[0].verdict, codes(&report.packages[0])), (verdict, code), "{more} {license}");
        assert!(report.findings.is_empty());
    }
    let report = run(&exception(""), vec![package("cer-tifi", "1.9", "MPL-2.0")]);
    assert_eq!(report.packages[0].verdict, Class::Restricted);
    assert_eq!(report.findings[0].code.word(), "exception-unused");
}

#[test]
fn a_clarification_holds_for_the_text_it_was_made_for() {
    let mut odd = package("odd", "1", "see the file");
    let hash = "ab".repeat(32);
    odd.texts =
        vec![FileText { file: "licenses/LICENSE".into(), hash: hash.clone(), licenses: text::TextLicenses::default() }];
    let policy =
        |hash: &str| format!("[[clarifications]]\npackage='odd'\nlicense='MIT'\nfile='LICENSE'\nhash='blake3:{hash}'");
    let report = run(&policy(&hash), vec![odd.clone()]);
    assert_eq!((report.packages[0].license.as_deref(), report.packages[0].rung.word()), (Some("MIT"), "clarification"));
    assert!(report.packages[0].findings.is_empty());
    let report = run(&policy(&"cd".repeat(32)), vec![odd]);
    assert_eq!(codes(&report.packages[0]), ["license-unknown", "clarification-stale"]);
    assert_eq!(report.packages[0].license, None);
}

#[test]
fn packages_indexes_and_pins_are_judged() {
    let policy = "[packages]\nbanned=['old<2']\napproved=['own']\n[indexes]\nallowed=['https://a.test']\n[pinning]\nrequire='hash'\nlevel='deny'";
    let mut elsewhere = package("elsewhere", "1", "MIT");
    elsewhere.origin = Some("https://a.test.evil/simple".into());
    elsewhere.hashed = true;
    let mut fine = package("fine", "1", "MIT");
    fine.origin = Some("https://a.test/simple".into());
    fine.hashed = true;
    let mut own = package("own", "1", "GPL-3.0-only");
    own.hashed = true;
    let report = run(policy, vec![elsewhere, fine, package("old", "1.9", "MIT"), package("old2", "1.9", "MIT"), own]);
    let found: Vec<_> = report.packages.iter().map(codes).collect();
    assert_eq!(
        found,
        [vec!["index-not-allowed"], vec![], vec!["not-pinned", "package-banned"], vec!["not-pinned"], vec![]]
    );
    assert_eq!(report.packages[4].verdict, Class::Approved);
}

#[test]
fn packages_behind_are_named() {
    let policy = Policy::parse("[behind]\nmajor=1\nlevel='warn'").unwrap();
    let newest = |version: &str| Newest { version: version.into(), day: Some(20_000), day_in_use: Some(19_000) };
    let newest = [("a".to_owned(), newest("3.0")), ("b".to_owned(), newest("1.9"))].into_iter().collect();
    let set =
        PackageSet { packages: vec![package("a", "1.5", "MIT"), package("b", "1.5", "MIT")], ..PackageSet::default() };
    let report = check(set, Context { policy: &policy, now: NOW, advisories: None, newest: Some(&newest) });
    assert_eq!(report.packages.iter().map(codes).collect::<Vec<_>>(), [vec!["behind"], vec![]]);
    assert!(report.packages[0].findings[0].message.contains("2 major versions ahead"));
}

const RECORD: &str = r#"{"id": "ID", "aliases": ["CVE-2025-1"], "summary": "bad", "published": "PUBLISHEDT00:00:00Z", SEVERITY
 "affected": [{"package": {"ecosystem": "PyPI", "name": "Vul_n"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}]}]}"#;

fn advisory(id: &str, published: &str, severity: &str) -> String {
    RECORD.replace("ID", id).replace("PUBLISHED", published).replace("SEVERITY", severity)
}

fn judge(dir: &std::path::Path, records: &[(&str, String)], policy: &str, version: &str) -> Report {
    let (export, index) = (dir.join("export"), dir.join("index"));
    OsFileSystem.create_dir_all(&export).unwrap();
    for (name, record) in records {
        OsFileSystem.replace(&export.join(name), record.as_bytes()).unwrap();
    }
    compile(&OsFileSystem, &export, &index, NOW).unwrap();
    let policy = Policy::parse(policy).unwrap();
    let advisories = Advisories::open(&OsFileSystem, &index, ["vul-n", "other"].into_iter());
    let set = PackageSet { packages: vec![package("vul-n", version, "MIT")], ..PackageSet::default() };
    check(set, Context { policy: &policy, now: NOW, advisories: Some(&advisories), newest: None })
}

#[test]
fn advisories_are_found_once_with_severity_and_deadline() {
    let medium = r#""severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N"}],"#;
    for (records, version, found) in [
        (vec![("a.json", advisory("GHSA-1", "2025-12-30", medium))], "1.0", vec![("warn", "medium")]),
        (
            vec![("a.json", advisory("GHSA-1", "2025-06-01", medium))],
            "1.0",
            vec![("deny", "past the deadline of 90 days")],
        ),
        (vec![("a.json", advisory("GHSA-1", "2025-12-30", ""))], "1.0", vec![("deny", "severity unknown")]),
        (vec![("a.json", advisory("GHSA-1", "2025-12-30", medium))], "2.0", vec![]),
        (
            vec![
                ("a.json", advisory("PYSEC-1", "2025-12-30", "")),
                ("b.json", advisory("GHSA-1", "2025-12-30", medium)),
            ],
            "1.0",
            vec![("warn", "GHSA-1")],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let report = judge(dir.path(), &records, "", version);
        let findings = &report.packages[0].findings;
        assert_eq!(findings.len(), found.len(), "{findings:?}");
        for (finding, (level, text)) in findings.iter().zip(found) {
            assert_eq!(finding.level.word(), level, "{}", finding.message);
            assert!(finding.message.contains(text), "{}", finding.message);
            assert_eq!(finding.fix.as_deref(), Some("upgrade to 2.0 or later"));
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let ignore = "[advisories]\nignore=[{id='CVE-2025-1', reason='not reachable', expires='2026-06-01'}]";
    let report = judge(dir.path(), &[("a.json", advisory("GHSA-1", "2025-12-30", ""))], ignore, "1.0");
    assert_eq!(report.packages[0].findings[0].level.word(), "allow");
}

#[test]
fn advisories_that_could_not_be_looked_up_fail_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let report = judge(dir.path(), &[("a.json", "{broken".into())], "", "1.0");
    assert!(report.fails_at(weir_deps::finding::Level::Deny));
    assert!(report.findings[0].message.contains("a.json"), "{}", report.findings[0].message);
    let policy = Policy::default();
    let index = dir.path().join("index");
    let good = OsFileSystem.read(&index).unwrap();
    for cut in [0, 3, 15, 20, good.len() - 1] {
        OsFileSystem.replace(&index, &good[..cut]).unwrap();
        let found = Advisories::open(&OsFileSystem, &index, std::iter::empty());
        assert_eq!(found.problems(&policy).len(), 1, "{cut}");
    }
    let missing = Advisories::open(&OsFileSystem, &dir.path().join("nothing"), std::iter::empty());
    assert_eq!(missing.problems(&policy).len(), 1);
}
