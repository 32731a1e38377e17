//! Metadata from an index that is slow, wrong, hostile or gone.

use std::time::Duration;

use weir_base::{OsRandom, SystemClock};
use weir_deps::finding::{Code, Level};
use weir_deps::index::http::{Http, HttpOptions};
use weir_deps::index::{Fetch, fill};
use weir_deps::package::{Artifact, Package, PackageSet};
use weir_deps::store::{MemoryStore, NoStore, Store};
use weir_limits::Retry;

use crate::mock::{Answer, Mock};

const METADATA: &str = "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\nLicense: MIT\nRequires-Dist: idna\n\nText\n";
const WHEEL: &str = "/files/pkg-1.0-py3-none-any.whl";

fn page(hash: Option<&str>) -> Vec<u8> {
    let marked = hash.map_or("false".into(), |hash| format!("{{\"sha256\": \"{hash}\"}}"));
    format!(
        "{{\"files\": [{{\"filename\": \"pkg-1.0-py3-none-any.whl\", \"url\": \"{WHEEL}\", \"hashes\": {{}}, \"core-metadata\": {marked}}}]}}"
    )
    .into_bytes()
}

fn package() -> Package {
    Package { name: "pkg".into(), version: "1.0".into(), file: "uv.lock".into(), line: 3, ..Package::default() }
}

/// Fetches one package and gives its licence field, or the message of its finding.
fn fetch(mock: &Mock, store: &dyn Store, package: Package) -> Result<String, String> {
    let (clock, random) = (SystemClock::default(), OsRandom);
    let retry =
        Retry { pause_first: Duration::from_millis(5), pause_max: Duration::from_millis(20), ..Retry::default() };
    let options = HttpOptions {
        requests_per_second: 1000,
        request_timeout: Duration::from_millis(500),
        deadline: Duration::from_secs(5),
        retry,
        authorities: None,
    };
    let http = Http::new(options, &clock, &random).unwrap();
    let index = mock.url("/simple/");
    let mut set = PackageSet { packages: vec![package], ..PackageSet::default() };
    let fetch =
        Fetch { index: Some(&index), http: Some(&http), store, missing: Level::Deny, newest: false, texts: true };
    fill(&mut set, &fetch);
    let package = set.packages.remove(0);
    match (package.metadata, package.problems.first()) {
        (Some(metadata), None) => Ok(metadata.license.unwrap_or_default()),
        (None, Some(finding)) => {
            assert_eq!((finding.code, finding.level, finding.line), (Code::DataMissing, Level::Deny, Some(3)));
            assert!(!finding.message.contains("secret"), "{}", finding.message);
            Err(finding.message.clone())
        }
        other => panic!("neither metadata nor one finding: {other:?}"),
    }
}

pub(crate) fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut body, mut list) = (Vec::new(), Vec::new());
    for (name, bytes) in files {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let (offset, len) = (body.len() as u32, bytes.len() as u32);
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend(len.to_le_bytes());
        common.extend(len.to_le_bytes());
        common.extend((name.len() as u32).to_le_bytes());
        body.extend([&b"PK\x03\x04"[..], &common, name.as_bytes(), bytes].concat());
        list.extend([&b"PK\x01\x02\x14\x00"[..], &common, &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat());
    }
    let (count, at) = (files.len() as u16, body.len() as u32);
    body.extend(&list);
    body.extend(b"PK\x05\x06\0\0\0\0");
    body.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    body.extend([(list.len() as u32).to_le_bytes(), at.to_le_bytes()].concat());
    body.extend([0, 0]);
    body
}

#[test]
fn metadata_files_are_tried_though_not_advertised() {
    let mock = Mock::start();
    mock.on("/simple/pkg/", Answer::File("application/vnd.pypi.simple.v1+json", page(None)))
        .on(&format!("{WHEEL}.metadata"), Answer::File("text/plain", METADATA.into()));
    assert_eq!(fetch(&mock, &NoStore, package()), Ok("MIT".into()));
    assert_eq!(mock.requests().len(), 2);
}

#[test]
fn a_wheel_is_read_in_ranges_and_its_texts_settle_a_family() {
    let mock = Mock::start();
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/texts/nest-asyncio2.txt");
    let license = weir_base::FileSystem::read(&weir_base::OsFileSystem, text.as_ref()).unwrap();
    let metadata = METADATA.replace("MIT", "BSD");
    let filler = vec![7u8; 300 << 10];
    let wheel = zip(&[
        ("pkg/data.bin", &filler),
        ("pkg-1.0.dist-info/METADATA", metadata.as_bytes()),
        ("pkg-1.0.dist-info/licenses/LICENSE", &license),
    ]);
    mock.on(
        "/simple/pkg/",
        Answer::File("text/html", format!("<a href=\"{WHEEL}\">pkg-1.0-py3-none-any.whl</a>").into()),
    )
    .on(WHEEL, Answer::File("application/zip", wheel));
    assert_eq!(fetch(&mock, &NoStore, package()), Ok("BSD".into()));
    assert_eq!(mock.requests().iter().filter(|path| *path == WHEEL).count(), 1, "the tail was enough");
}

#[test]
fn the_document_of_the_version_is_the_last_resort_and_never_another_version() {
    let mock = Mock::start();
    let document = |version: &str| {
        format!("{{\"info\": {{\"name\": \"Pkg\", \"version\": \"{version}\", \"license\": \"MIT\"}}}}").into_bytes()
    };
    mock.on("/pypi/pkg/json", Answer::File("application/json", document("2.0")));
    let error = fetch(&mock, &NoStore, package()).unwrap_err();
    assert!(error.contains("no metadata of pkg 1.0"), "{error}");
    mock.on("/pypi/pkg/1.0/json", Answer::File("application/json", document("1.0")));
    assert_eq!(fetch(&mock, &NoStore, package()), Ok("MIT".into()));
}

#[test]
fn an_index_that_is_busy_is_asked_again() {
    let mock = Mock::start();
    let good = Answer::File("text/plain", METADATA.into());
    let listed =
        Artifact { name: "pkg-1.0-py3-none-any.whl".into(), url: Some(mock.url(WHEEL)), ..Artifact::default() };
    let package = Package { artifacts: vec![listed], ..package() };
    mock.on(
        &format!("{WHEEL}.metadata"),
        Answer::Then(vec![Answer::Status(429, "retry-after: 0\r\n"), Answer::Status(503, ""), good]),
    );
    assert_eq!(fetch(&mock, &NoStore, package), Ok("MIT".into()));
    assert_eq!(mock.requests().len(), 3);
}

/// S2: a wait that the deadline does not allow is not begun.
#[test]
fn a_retry_after_past_the_deadline_ends_at_once() {
    let mock = Mock::start();
    mock.on("/simple/pkg/", Answer::Status(429, "retry-after: 3600\r\n"));
    let error = fetch(&mock, &NoStore, package()).unwrap_err();
    assert!(error.contains("429"), "{error}");
    assert_eq!(mock.requests().len(), 1);
}

#[test]
fn broken_answers_are_findings() {
    let wrong_hash = page(Some(&"0".repeat(64)));
    let other = METADATA.replace("Name: pkg", "Name: other");
    let hostile = zip(&[("../../evil", b"x"), ("pkg-1.0.dist-info/METADATA", METADATA.as_bytes())]);
    type Case = (&'static str, Vec<(String, Answer)>, &'static str);
    let cases: Vec<Case> = vec![
        (
            "wrong hash",
            vec![
                ("/simple/pkg/".into(), Answer::File("application/json", wrong_hash)),
                (format!("{WHEEL}.metadata"), Answer::File("text/plain", METADATA.into())),
            ],
            "another hash",
        ),
        (
            "other package",
            vec![(format!("{WHEEL}.metadata"), Answer::File("text/plain", other.into()))],
            "another package",
        ),
        ("truncated", vec![(format!("{WHEEL}.metadata"), Answer::Truncated(METADATA.into()))], "broke off"),
        ("slow", vec![(format!("{WHEEL}.metadata"), Answer::Slow(Duration::from_secs(2)))], "timed out"),
        ("huge", vec![(format!("{WHEEL}.metadata"), Answer::Endless)], "larger than"),
        ("hostile archive", vec![(WHEEL.into(), Answer::File("application/zip", hostile))], "leads outside"),
        ("no ranges, no document", vec![(WHEEL.into(), Answer::NoRanges(vec![0; 100_000]))], "no metadata of pkg"),
        ("no archive", vec![(WHEEL.into(), Answer::File("application/zip", vec![0; 100_000]))], "no end record"),
        ("refused", vec![("/simple/pkg/".into(), Answer::Status(403, ""))], "403"),
        (
            "page is not JSON",
            vec![("/simple/pkg/".into(), Answer::File("application/json", b"{".to_vec()))],
            "not JSON",
        ),
        ("gone", vec![("/simple/pkg/".into(), Answer::Status(404, ""))], "no metadata of pkg"),
    ];
    for (what, answers, expected) in cases {
        let mock = Mock::start();
        mock.on("/simple/pkg/", Answer::File("application/json", page(None)));
        for (path, answer) in answers {
            mock.on(&path, answer);
        }
        let error = fetch(&mock, &NoStore, package()).expect_err(what);
        assert!(error.contains(expected), "{what}: {error}");
    }
}

#[test]
fn the_store_answers_the_second_time_and_offline() {
    let mock = Mock::start();
    mock.on("/simple/pkg/", Answer::File("application/json", page(None)))
        .on(&format!("{WHEEL}.metadata"), Answer::File("text/plain", METADATA.into()));
    let store = MemoryStore::new(SystemClock::default(), 1 << 20);
    assert_eq!(fetch(&mock, &store, package()), Ok("MIT".into()));
    let asked = mock.requests().len();
    assert_eq!(fetch(&mock, &store, package()), Ok("MIT".into()));
    assert_eq!(mock.requests().len(), asked);
    for (store, found) in [(&store as &dyn Store, true), (&NoStore, false)] {
        let mut set = PackageSet { packages: vec![package()], ..PackageSet::default() };
        let offline = Fetch { index: None, http: None, store, missing: Level::Deny, newest: false, texts: false };
        fill(&mut set, &offline);
        assert_eq!(set.packages[0].metadata.is_some(), found);
        assert_eq!(set.packages[0].problems.is_empty(), found);
    }
}

/// C1: with Weir's cache, without it, and with its folder gone, answers are the same.
#[test]
fn the_cache_changes_no_answer() {
    let mock = Mock::start();
    mock.on("/simple/pkg/", Answer::File("application/json", page(None)))
        .on(&format!("{WHEEL}.metadata"), Answer::File("text/plain", METADATA.into()));
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let cache = weir_cache::Cache::open(weir_cache::CacheOptions::new(dir.path().join("cache"), "deps")).unwrap();
        weir_deps::store::CacheStore::new(cache)
    };
    assert_eq!(fetch(&mock, &NoStore, package()), Ok("MIT".into()));
    assert_eq!(fetch(&mock, &open(), package()), Ok("MIT".into()));
    let asked = mock.requests().len();
    assert_eq!(fetch(&mock, &open(), package()), Ok("MIT".into()));
    assert_eq!(mock.requests().len(), asked, "the second process found it on the disk");
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    assert_eq!(fetch(&mock, &open(), package()), Ok("MIT".into()));
}

#[test]
fn connections_are_used_again() {
    let mock = Mock::start();
    mock.on("/simple/pkg/", Answer::File("application/json", page(None)))
        .on(&format!("{WHEEL}.metadata"), Answer::File("text/plain", METADATA.into()));
    fetch(&mock, &NoStore, package()).unwrap();
    assert_eq!((mock.connections(), mock.requests().len()), (1, 2));
}
