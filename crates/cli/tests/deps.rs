//! `weir deps` as pipelines use it: the real binary over environments and lock files, with a local index, Redis, and other
//! processes beside it.

#![allow(clippy::disallowed_methods, reason = "the tests lay out folders and look at files that the program wrote")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weir_bench::index::{Index, Release};
use weir_bench::packages;

/// A data folder, and commands that use it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// An environment of made-up packages and those of `more`.
    fn env(&self, name: &str, count: usize, more: &[Release]) -> String {
        let env = self.path(name);
        packages::install(&packages::made_up(count), &env).unwrap();
        packages::install(more, &env).unwrap();
        env.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(arguments).env("WEIR_DATA", self.path("data")).env("HOME", self.dir.path());
        for name in ["PIP_INDEX_URL", "PIP_CERT", "PIP_CONFIG_FILE", "VIRTUAL_ENV", "WEIR_REDIS", "XDG_CONFIG_HOME"] {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path());
        command
    }

    fn weir(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn deps(&self, arguments: &[&str]) -> Output {
        self.weir(&[&["deps"], arguments].concat())
    }

    /// The answer in JSON of a check that must end with `code`.
    fn check(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.deps(&[&["check", "--format", "json"], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(&output)))
    }

    fn stat(&self) -> Value {
        serde_json::from_slice(&self.deps(&["stat", "--format", "json"]).stdout).unwrap()
    }
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A release that declares its licence by an expression.
fn licensed(name: &str, version: &str, license: &str) -> Release {
    let metadata =
        format!("Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {license}\n\n");
    Release { name: name.into(), version: version.into(), metadata, text: None }
}

fn lock_of(releases: &[Release]) -> String {
    releases.iter().map(|one| format!("{}=={}\n", one.name, one.version)).collect()
}

#[test]
fn exit_codes_say_what_happened() {
    let place = Place::new();
    let clean = place.env("clean", 10, &[]);
    let gpl = place.env("gpl", 3, &[licensed("copyleft", "1.0", "GPL-3.0-only")]);
    let mpl = place.env("mpl", 3, &[licensed("weak", "1.0", "MPL-2.0")]);
    let broken = place.put("broken.toml", "profile = 'nonsense'");
    let readme = place.put("README.md", "# nothing");
    for (arguments, code) in [
        (vec!["--env", &clean], 0),
        (vec!["--env", &gpl], 1),
        (vec!["--env", &mpl], 0),
        (vec!["--env", &mpl, "--fail-on", "warn"], 1),
        (vec!["--env", "nowhere"], 3),
        (vec!["--lock", "nowhere.lock"], 3),
        (vec!["--lock", &readme], 2),
        (vec!["--env", &clean, "--policy", &broken], 2),
        (vec!["--env", &clean, "--policy", "nowhere.toml"], 3),
        (vec!["--env", &clean, "--lock", &readme], 2),
        (vec!["--env", &clean, "--format", "nonsense"], 2),
        (vec!["--env", &clean, "--advisories", "nowhere"], 1),
    ] {
        let output = place.deps(&[&["check"], &arguments[..]].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
    }
    let answer = place.check(1, &["--env", &gpl]);
    assert_eq!(answer["summary"]["packages"], 4);
    let package = &answer["packages"][0];
    for key in ["name", "version", "license", "rung", "confidence", "verdict", "findings"] {
        assert!(package.get(key).is_some(), "{key}");
    }
    assert_eq!((&package["name"], &package["verdict"]), (&Value::from("copyleft"), &Value::from("prohibited")));
}

/// Validators that are not ours read what the binary writes.
#[test]
fn every_form_of_the_answer_is_valid() {
    let place = Place::new();
    let odd = licensed("odd", "1.0", "LicenseRef-Odd AND (GPL-2.0-only WITH Classpath-exception-2.0 OR MPL-2.0)");
    let env = place.env("env", 20, &[odd]);
    let python =
        std::env::var("WEIR_TEST_PYTHON").expect("this test needs WEIR_TEST_PYTHON; `cargo xtask python` makes one");
    for format in
        ["sarif", "cyclonedx", "spdx", "junit", "html", "json", "markdown", "github", "table", "notice", "lines"]
    {
        let file = place.path(if format == "spdx" { "bill.spdx.json" } else { format });
        let file = file.to_str().unwrap();
        let output = place.deps(&["check", "--env", &env, "--format", format, "--output", file]);
        assert_eq!(output.status.code(), Some(1), "{format}: {}", told(&output));
        assert!(output.stdout.is_empty() && std::fs::metadata(file).unwrap().len() > 100, "{format}");
        if ["sarif", "cyclonedx", "spdx", "junit", "html"].contains(&format) {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deps/tests/validate.py");
            let valid = Command::new(&python).args([script, format, file]).output().unwrap();
            assert!(valid.status.success(), "{format}: {}", told(&valid));
        }
    }
    for format in ["cyclonedx", "spdx"] {
        let bill = place.path(&format!("again-{format}.json"));
        let bill = bill.to_str().unwrap();
        assert!(place.deps(&["sbom", "--env", &env, "--format", format, "--output", bill]).status.success());
        let again = place.check(1, &["--lock", bill, "--offline"]);
        assert_eq!(again["summary"]["packages"], 21, "{format}");
        assert_eq!(
            again["packages"][0]["license"],
            "LicenseRef-Odd AND (GPL-2.0-only WITH Classpath-exception-2.0 OR MPL-2.0)"
        );
    }
}

#[test]
fn people_can_ask_about_packages_and_policies() {
    let place = Place::new();
    let mut top = licensed("top", "1.0", "MIT");
    top.metadata = top.metadata.replace("\n\n", "\nRequires-Dist: middle\n\n");
    let mut middle = licensed("middle", "2.0", "ISC");
    middle.metadata = middle.metadata.replace("\n\n", "\nRequires-Dist: copyleft>=1\n\n");
    let env = place.env("env", 1, &[top, middle, licensed("copyleft", "1.0", "GPL-3.0-or-later")]);
    let explained = text(&place.deps(&["explain", "Copy_Left".replace('_', "").as_str(), "--env", &env]));
    assert!(explained.contains("top -> middle -> copyleft") && explained.contains("License-Expression"), "{explained}");
    assert_eq!(place.deps(&["explain", "nobody", "--env", &env]).status.code(), Some(3));
    let listed: Vec<Value> =
        serde_json::from_slice(&place.deps(&["list", "--format", "pip-licenses-json", "--env", &env]).stdout).unwrap();
    assert_eq!(listed.len(), 4);
    assert_eq!(listed[0], serde_json::json!({"License": "GPL-3.0-or-later", "Name": "copyleft", "Version": "1.0"}));
    let policy = place.path("weir-deps.toml");
    assert!(place.deps(&["init"]).status.success() && policy.exists());
    assert_eq!(place.deps(&["init"]).status.code(), Some(4), "it is never overwritten");
    assert_eq!(place.deps(&["check", "--env", &env]).status.code(), Some(1), "the written policy is the default");
    let lax = place.put("lax.toml", "[licenses]\napproved = ['GPL-3.0-or-later']\n");
    let output = place.deps(&["check", "--env", &env, "--shadow", &lax, "--timings"]);
    assert_eq!(output.status.code(), Some(1), "only the first policy decides");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("copyleft 1.0: prohibited (deny), in the shadow approved (allow)"), "{words}");
    for stage in ["policy", "cache", "read", "judge", "report", "total"] {
        assert!(words.contains(&format!(" {stage} ")), "{stage}: {words}");
    }
    assert_eq!(
        place.deps(&["check", "--env", &env, "--policy", &lax, "--shadow", "weir-deps.toml"]).status.code(),
        Some(0)
    );
    let notice = text(&place.deps(&["notice", "--env", &env]));
    assert!(notice.contains("GNU GENERAL PUBLIC LICENSE"), "{notice}");
}

#[test]
fn differences_name_what_changed() {
    let place = Place::new();
    let before = place.env("before", 2, &[licensed("moved", "1.0", "MIT"), licensed("gone", "1.0", "MIT")]);
    let after = place.env("after", 2, &[licensed("moved", "1.1", "AGPL-3.0-only"), licensed("fresh", "1.0", "MIT")]);
    let output = place.deps(&["diff", &before, "--env", &after, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let changes: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let found: Vec<(&str, &str, bool)> = changes
        .iter()
        .map(|one| {
            let word = |key: &str| one[key].as_str().unwrap();
            (word("name"), word("change"), one["license_changed"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(found, [("fresh", "added", false), ("gone", "removed", false), ("moved", "upgraded", true)]);
    let stored = place.path("stored.json");
    let stored = stored.to_str().unwrap();
    place.deps(&["check", "--env", &before, "--format", "json", "--output", stored]);
    let by_file = place.deps(&["diff", stored, "--env", &after, "--format", "json"]);
    assert_eq!(by_file.stdout, output.stdout);
    assert_eq!(place.deps(&["diff", &before, "--env", &before]).status.code(), Some(0));
    assert_eq!(place.deps(&["diff", "last", "--env", &after]).status.code(), Some(3), "nothing is recorded of it");
    place.check(0, &["--env", &before, "--project", "app"]);
    let by_run = place.deps(&["diff", "last", "--project", "app", "--env", &after, "--format", "json"]);
    assert_eq!(by_run.stdout, output.stdout);
}

#[test]
fn a_lock_file_is_fetched_once_and_a_change_fetches_only_what_changed() {
    let place = Place::new();
    let mut releases = packages::of_lock(include_str!("../../../bench/deps/airflow.txt"));
    assert!(releases.len() > 500);
    let mut index = Index::start(&releases, Duration::ZERO).unwrap();
    let lock = place.put("requirements.txt", &lock_of(&releases));
    let arguments = |index: &Index| {
        ["--lock".to_owned(), lock.clone(), "--index".into(), index.url(), "--rate".into(), "100000".into()]
    };
    let check = |index: &Index| {
        let arguments = arguments(index);
        let answer = place.check(0, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(answer["summary"]["approved"], releases.len());
        answer
    };
    let cold = check(&index);
    assert!(index.take_requests().len() >= 2 * releases.len());
    assert_eq!(place.stat()["last_run"]["hits"], 0);
    let warm = check(&index);
    assert_eq!((index.take_requests().len(), &warm["packages"]), (0, &cold["packages"]));
    assert_eq!(place.stat()["last_run"]["hit_ratio"], 1.0);
    let offline = place.check(0, &["--lock", &lock, "--offline"]);
    assert_eq!(offline["packages"], cold["packages"]);
    releases[100] = packages::release(&releases[100].name, "99.0", 0, &[]);
    index = Index::start(&releases, Duration::ZERO).unwrap();
    place.put("requirements.txt", &lock_of(&releases));
    let output = place.check(1, &["--lock", &lock, "--offline"]);
    let missing: Vec<&Value> =
        output["packages"].as_array().unwrap().iter().filter(|one| one["verdict"] != "approved").collect();
    assert_eq!((missing.len(), &missing[0]["license"]), (1, &Value::Null), "what it lacks is not clean");
    let arguments = arguments(&index);
    place.check(0, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let asked = index.take_requests();
    assert!(
        asked.len() <= 3 && asked.iter().all(|path| path.contains(&releases[100].name) || path.contains("99.0")),
        "{asked:?}"
    );
}

/// C1: nothing at hand is a finding that fails, and no secret of the address is told.
#[test]
fn data_that_cannot_be_had_fails_and_tells_no_secret() {
    let place = Place::new();
    let lock = place.put("requirements.txt", "alpha==1.0\nbeta==2.0\n");
    let index = Index::start(&[licensed("alpha", "1.0", "MIT")], Duration::ZERO).unwrap();
    let url = index.url().replace("http://", "http://someone:hunter2@");
    let output = place.deps(&["check", "--lock", &lock, "--index", &url]);
    assert_eq!(output.status.code(), Some(1));
    let words = told(&output);
    assert!(words.contains("data-missing") && words.contains("beta") && !words.contains("hunter2"), "{words}");
    assert_eq!(place.deps(&["warm", "--lock", &lock, "--index", &url]).status.code(), Some(5));
    let stored = format!("{:?}", std::fs::read_dir(place.path("data/deps/runs")).unwrap().count());
    assert_eq!(stored, "1");
    drop(index);
    let gone = place.deps(&["check", "--no-cache", "--lock", &lock, "--index", &url, "--deadline-seconds", "2"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(told(&gone).contains("data-missing") && !told(&gone).contains("hunter2"), "{}", told(&gone));
}

#[test]
fn two_processes_share_one_cache() {
    let place = Place::new();
    let releases = packages::made_up(120);
    let index = Index::start(&releases, Duration::from_millis(5)).unwrap();
    let lock = place.put("requirements.txt", &lock_of(&releases));
    let url = index.url();
    let start = || {
        let mut command = place.command(&["deps", "check", "--format", "json", "--lock", &lock, "--index", &url]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let running: Vec<Child> = (0..3).map(|_| start()).collect();
    for child in running {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", told(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["summary"]["approved"], 120);
    }
    index.take_requests();
    assert_eq!(place.check(0, &["--lock", &lock, "--index", &url])["cache"]["hits"], 120);
    assert_eq!(index.take_requests().len(), 0);
}

/// A Redis of the test's own, on a socket in its folder.
struct Redis {
    child: Child,
    socket: PathBuf,
}

impl Redis {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir)
            .stdout(Stdio::null())
            .spawn()
            .expect("this test needs redis-server; `cargo xtask test components` installs it");
        let started = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, socket }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// C1: what one machine fetched another has from Redis, and without Redis answers are the same.
#[test]
fn redis_on_and_off() {
    let place = Place::new();
    let releases = packages::made_up(60);
    let index = Index::start(&releases, Duration::ZERO).unwrap();
    let lock = place.put("requirements.txt", &lock_of(&releases));
    let (url, redis) = (index.url(), Redis::start(place.dir.path()));
    let remote = redis.url();
    let folder = |name: &str| place.path(name).display().to_string();
    let online = ["--lock", &lock, "--index", &url, "--redis", &remote, "--cache-dir"];
    let first = place.check(0, &[&online[..], &[&folder("one")]].concat());
    index.take_requests();
    let other = place.check(0, &["--lock", &lock, "--offline", "--redis", &remote, "--cache-dir", &folder("two")]);
    assert_eq!((&other["packages"], &other["cache"]["hits"]), (&first["packages"], &Value::from(60)));
    drop(redis);
    let without = place.check(0, &[&online[..], &[&folder("three")]].concat());
    assert_eq!(without["packages"], first["packages"]);
    assert!(!index.take_requests().is_empty());
    let warm = place.check(0, &[&online[..], &[&folder("three")]].concat());
    assert_eq!((&warm["packages"], index.take_requests().len()), (&first["packages"], 0));
}

#[test]
fn warming_in_the_background_makes_offline_checks_whole() {
    let place = Place::new();
    let releases = packages::made_up(50);
    let index = Index::start(&releases, Duration::from_millis(10)).unwrap();
    let lock = place.put("requirements.txt", &lock_of(&releases));
    let output = place.deps(&["warm", "--background", "--lock", &lock, "--index", &index.url()]);
    assert!(output.status.success() && told(&output).contains("warm.log"), "{}", told(&output));
    let started = Instant::now();
    while place.deps(&["check", "--offline", "--lock", &lock, "--record", "off"]).status.code() != Some(0) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{:?}",
            std::fs::read_to_string(place.path("data/deps/warm.log"))
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn when_a_licence_entered_is_a_query() {
    let place = Place::new();
    let ask = |sql: &str| {
        let output = place.weir(&["sql", "--db", "weir", "--format", "json", sql]);
        assert!(output.status.success(), "{}", told(&output));
        serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap()
    };
    let env = place.env("env", 3, &[licensed("moved", "1.0", "MIT")]);
    let first = place.check(0, &["--env", &env, "--project", "app"]);
    assert_eq!(place.stat()["runs_not_in_database"], 1);
    let rows = ask("SELECT source, packages, approved FROM deps_runs");
    assert_eq!(rows, [serde_json::json!({"source": "app", "packages": 4, "approved": 4})]);
    assert_eq!(place.stat()["runs_not_in_database"], 0);
    packages::install(&[licensed("moved", "1.1", "GPL-3.0-only")], Path::new(&env)).unwrap();
    std::fs::remove_dir_all(place.path("env/lib/python3.12/site-packages/moved-1.0.dist-info")).unwrap();
    let second = place.check(1, &["--env", &env, "--project", "app", "--record", "now"]);
    assert!(first["time"].as_i64() < second["time"].as_i64());
    let changed =
        second["packages"][0]["findings"].as_array().unwrap().iter().any(|one| one["code"] == "license-changed");
    assert!(changed, "{second}");
    let entered =
        ask("SELECT DISTINCT version, license, time FROM deps_findings WHERE package = 'moved' ORDER BY time");
    let found: Vec<(&str, &str)> =
        entered.iter().map(|row| (row["version"].as_str().unwrap(), row["license"].as_str().unwrap())).collect();
    assert_eq!(found, [("1.0", "MIT"), ("1.1", "GPL-3.0-only")]);
    assert_eq!(ask("SELECT count(*) AS n FROM deps_runs"), [serde_json::json!({"n": 2})]);
}

/// Takes one request and gives its body.
fn one_request(listener: TcpListener) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n").unwrap();
        String::from_utf8(body).unwrap()
    })
}

#[test]
fn alerts_reach_log_exit_code_and_webhook() {
    let place = Place::new();
    let env = place.env("env", 2, &[licensed("moved", "1.0", "MIT")]);
    let log = place.path("alerts.jsonl");
    let log_file = log.to_str().unwrap();
    let quiet = place.deps(&["check", "--env", &env, "--alert-log", log_file, "--fail-on-alert"]);
    assert!(quiet.status.success() && !log.exists(), "{}", told(&quiet));
    packages::install(&[licensed("moved", "1.0", "MPL-2.0")], Path::new(&env)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let webhook = format!("http://{}/hook", listener.local_addr().unwrap());
    let posted = one_request(listener);
    let alerted =
        place.deps(&["health", "--env", &env, "--alert-log", log_file, "--webhook", &webhook, "--fail-on-alert"]);
    assert_eq!(alerted.status.code(), Some(1), "{}", told(&alerted));
    let document: Value = serde_json::from_str(&posted.join().unwrap()).unwrap();
    assert_eq!(
        (&document["alerts"][0]["kind"], &document["alerts"][0]["package"]),
        (&"license-changed".into(), &"moved".into())
    );
    assert_eq!(serde_json::from_str::<Value>(std::fs::read_to_string(&log).unwrap().trim()).unwrap(), document);
    assert_eq!(place.deps(&["check", "--env", &env]).status.code(), Some(0), "alerts alone fail nothing unasked");
    packages::install(&[licensed("moved", "1.0", "GPL-3.0-only")], Path::new(&env)).unwrap();
    let denied = place.deps(&["check", "--env", &env]);
    assert!(told(&denied).contains("license-denied: moved 1.0"), "{}", told(&denied));
    // An index that fails, and a cache that is gone.
    let lock = place.put("requirements.txt", &lock_of(&packages::made_up(40)));
    let index = Index::start(&packages::made_up(40), Duration::ZERO).unwrap();
    let url = index.url();
    assert!(place.deps(&["check", "--lock", &lock, "--index", &url]).status.success());
    std::fs::remove_dir_all(place.path("data/cache")).unwrap();
    let missed = place.deps(&["check", "--lock", &lock, "--index", &url]);
    assert!(missed.status.success() && told(&missed).contains("hit-ratio-low"), "{}", told(&missed));
    let failing = place.deps(&["health", "--no-cache", "--offline", "--lock", &lock]);
    assert_eq!(failing.status.code(), Some(1));
    assert!(told(&failing).contains("index-failing: the data of 40 packages could not be had"), "{}", told(&failing));
    let sound = place.deps(&["health", "--lock", &lock, "--index", &url]);
    assert_eq!(sound.status.code(), Some(0), "{}", told(&sound));
}

#[test]
fn newer_data_is_brought_from_files() {
    let place = Place::new();
    let env = place.env("env", 1, &[licensed("vulnerable", "1.0", "MIT"), licensed("new", "1.0", "Weir-Brandnew-1.0")]);
    assert_eq!(place.check(1, &["--env", &env])["packages"][0]["license"], Value::Null);
    let list =
        place.put("licenses.json", r#"{"licenseListVersion": "99", "licenses": [{"licenseId": "Weir-Brandnew-1.0"}]}"#);
    assert!(place.deps(&["update", &list]).status.success());
    let policy = place.put("own.toml", "[licenses]\napproved = ['Weir-Brandnew-1.0']\n");
    let answer = place.check(0, &["--env", &env, "--policy", &policy]);
    assert_eq!(answer["packages"][0]["license"], "Weir-Brandnew-1.0");
    place.put(
        "export/record.json",
        r#"{"id": "GHSA-1", "summary": "bad", "published": "2020-01-01T00:00:00Z", "affected": [{"package": {"ecosystem": "PyPI",
            "name": "Vulnerable"}, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}]}]}"#,
    );
    place.put(
        "export/PYSEC-1.yaml",
        "id: PYSEC-1\ndetails: |-\n  worse: quoted\n  text\naffected:\n- package:\n    name: vulnerable\n    ecosystem: PyPI\n  ranges:\n  \
         - type: ECOSYSTEM\n    events:\n    - introduced: '0'\n    - fixed: '1.2'\n  versions: ['0.9', '1.0']\npublished: '2020-01-01T00:00:00Z'\n",
    );
    assert!(place.deps(&["update", place.path("export").to_str().unwrap()]).status.success());
    let answer = place.check(1, &["--env", &env, "--policy", &policy]);
    let found: Vec<&str> = answer["packages"][2]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["message"].as_str().unwrap())
        .collect();
    assert!(
        found.iter().any(|one| one.contains("GHSA-1")) && found.iter().any(|one| one.contains("PYSEC-1")),
        "{found:?}"
    );
    place.put("export/broken.json", "{");
    assert_eq!(place.deps(&["update", place.path("export").to_str().unwrap()]).status.code(), Some(5));
}

#[test]
fn certificates_are_verified() {
    let place = Place::new();
    let release = licensed("alpha", "1.0", "MIT");
    place.put(
        "www/simple/alpha/index.html",
        "<a href=\"../../alpha-1.0-py3-none-any.whl\">alpha-1.0-py3-none-any.whl</a>",
    );
    place.put("www/alpha-1.0-py3-none-any.whl.metadata", &release.metadata);
    let lock = place.put("requirements.txt", &lock_of(&[release]));
    let tls = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls");
    let mut server = Command::new("python3")
        .arg(tls.join("server.py"))
        .arg(tls.join("server.pem"))
        .arg(place.path("www"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let url = format!("https://localhost:{}/simple/", port.trim());
    let refused = place.deps(&["check", "--lock", &lock, "--index", &url, "--deadline-seconds", "5"]);
    let trusted =
        place.deps(&["check", "--lock", &lock, "--index", &url, "--cert", tls.join("ca.pem").to_str().unwrap()]);
    drop(server.stdin.take());
    server.wait().unwrap();
    assert!(refused.status.code() == Some(1) && told(&refused).contains("certificate"), "{}", told(&refused));
    assert!(trusted.status.success(), "{}", told(&trusted));
}
