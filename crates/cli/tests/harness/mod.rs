//! Drives the real binary: servers that are started, asked and killed, commands with a bound on their time, and readers
//! of Delta tables that are not ours.
//!
//! Whatever a test needs and does not find is a failure with the command that brings it: nothing is skipped.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "these tests work on real processes, a real disk and the real clock")]

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weir_bench::http::{Answer, Connection, escape};
use weir_bench::process::{Server, free_address};

/// Longest time for one answer or one command.
const PATIENCE: Duration = Duration::from_secs(180);

/// A running `weir serve`.
pub(crate) struct Weir {
    server: Option<Server>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    log: PathBuf,
}

impl Weir {
    /// Starts a server on `data`; panics with its log when it does not come up.
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_at(data, free_address().unwrap())
    }

    /// As [`Weir::start`], at a given address.
    pub(crate) fn start_at(data: &Path, address: SocketAddr) -> Self {
        Self::start_with(data, address, &[])
    }

    /// As [`Weir::start_at`], with further arguments.
    pub(crate) fn start_with(data: &Path, address: SocketAddr, arguments: &[&OsStr]) -> Self {
        Self::start_in(data, address, arguments, &[])
    }

    /// As [`Weir::start_with`], with more in the environment.
    pub(crate) fn start_in(
        data: &Path,
        address: SocketAddr,
        arguments: &[&OsStr],
        environment: &[(String, String)],
    ) -> Self {
        let mut started = Self::spawn(data, address, arguments, environment).unwrap();
        let ready = |address| {
            let answer = Connection::open(address, Duration::from_secs(5)).and_then(|mut one| one.get("/ready"));
            answer.is_ok_and(|answer| answer.status == 200)
        };
        let server = started.server.as_mut().unwrap();
        if let Err(error) = server.wait_until(PATIENCE, || ready(address)) {
            panic!("{error}\n{}", started.log());
        }
        started
    }

    fn spawn(
        data: &Path,
        address: SocketAddr,
        arguments: &[&OsStr],
        environment: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let mut command = weir();
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.arg("serve").arg("--data").arg(data).arg("--http").arg(address.to_string()).args(arguments);
        let log = data.with_extension("log");
        Ok(Self { server: Some(Server::start(command, &log)?), address, log })
    }

    /// Its largest resident memory so far, bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.server.as_ref().unwrap().usage().unwrap().peak_bytes
    }

    /// Its resident memory now without the pages of its code, bytes.
    pub(crate) fn anonymous_bytes(&self) -> u64 {
        self.server.as_ref().unwrap().usage().unwrap().anonymous_bytes
    }

    /// A page as JSON, whatever its status.
    pub(crate) fn page(&self, path: &str) -> Value {
        let answer = self.connect().get(path).unwrap();
        serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("{path}: {}", answer.text()))
    }

    /// A number of `/metrics` by its name and labels.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let page = self.connect().get("/metrics").unwrap().text();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }

    /// What it printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A connection.
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address, PATIENCE).unwrap()
    }

    /// Rows of a statement, one object each.
    pub(crate) fn sql(&self, database: &str, statement: &str) -> Vec<Value> {
        let text = self.sql_text(database, statement);
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{statement}: {text}"))
    }

    /// Asks in SQL; the JSON as the server wrote it.
    pub(crate) fn sql_text(&self, database: &str, statement: &str) -> String {
        let answer = self.ask(database, statement);
        assert_eq!(answer.status, 200, "{statement}: {}", answer.text());
        String::from_utf8(answer.body).unwrap()
    }

    /// Rows of a statement, which is asked again while the store is too slow to answer it.
    pub(crate) fn sql_when_well(&self, database: &str, statement: &str) -> Vec<Value> {
        let answer = when_well(statement, || self.ask(database, statement));
        serde_json::from_slice(&answer.body).unwrap()
    }

    fn ask(&self, database: &str, statement: &str) -> Answer {
        let body = json!({ "db": database, "q": statement, "format": "json" }).to_string();
        let headers = "Content-Type: application/json\r\n";
        self.connect().send("POST", "/api/v3/query_sql", headers, body.as_bytes()).unwrap()
    }

    /// Posts lines.
    pub(crate) fn write(&self, database: &str, lines: &str) -> Answer {
        post_lines(&mut self.connect(), database, lines).unwrap()
    }

    /// Posts lines that must all be taken.
    pub(crate) fn write_all(&self, database: &str, lines: &str) {
        let answer = self.write(database, lines);
        assert_eq!(answer.status, 204, "{}", answer.text());
    }

    /// Returns when everything buffered is committed.
    pub(crate) fn flush(&self) {
        let answer = self.connect().post("/api/v1/flush", b"").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// The same on a store that is slow or was away: asks again until it is done.
    pub(crate) fn flush_when_well(&self) {
        when_well("flush", || self.connect().post("/api/v1/flush", b"").unwrap());
    }

    /// Merges the files of a table until nothing overlaps.
    pub(crate) fn compact(&self, database: &str, table: &str) {
        let answer = post_compact(&mut self.connect(), database, table).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.server.take().unwrap().kill().unwrap();
    }

    /// `SIGTERM`; how it ended, and what it printed.
    pub(crate) fn end(mut self) -> (std::process::ExitStatus, String) {
        let ended = self.server.take().unwrap().end(PATIENCE).unwrap();
        (ended.unwrap_or_else(|| panic!("the server did not stop\n{}", self.log())), self.log())
    }

    /// `SIGTERM`; it must end by itself with code 0.
    pub(crate) fn stop(mut self) {
        let ended = self.server.take().unwrap().stop(PATIENCE).unwrap();
        assert!(ended, "the server did not stop in order\n{}", self.log());
    }
}

/// Asks until it is answered 200, while the answer is 503.
fn when_well(what: &str, ask: impl Fn() -> Answer) -> Answer {
    let begin = std::time::Instant::now();
    loop {
        let answer = ask();
        if answer.status == 200 {
            return answer;
        }
        assert!(answer.status == 503 && begin.elapsed() < PATIENCE, "{what}: {}: {}", answer.status, answer.text());
        std::thread::sleep(std::time::Duration::from_secs(answer.retry_after_seconds.unwrap_or(1)));
    }
}

/// Posts lines; nanoseconds, durable.
pub(crate) fn post_lines(connection: &mut Connection, database: &str, lines: &str) -> anyhow::Result<Answer> {
    connection.post(&format!("/api/v3/write_lp?db={}&precision=nanosecond", escape(database)), lines.as_bytes())
}

/// Asks for a compaction of one table.
pub(crate) fn post_compact(connection: &mut Connection, database: &str, table: &str) -> anyhow::Result<Answer> {
    connection.post(&format!("/api/v1/compact?db={}&table={}", escape(database), escape(table)), b"")
}

/// The binary, away from the settings of whoever runs the tests.
pub(crate) fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.env_remove("WEIR_DATA").env_remove("WEIR_TOKEN").env_remove("SSL_CERT_FILE").env("NO_COLOR", "1");
    command
}

/// Runs a command with `input`, bounded in time.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("cannot start");
    let mut stdin = child.stdin.take().unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    thread::scope(|scope| {
        // A command that fails early closes its input; that is for the test to judge by its exit code.
        scope.spawn(move || stdin.write_all(input).is_ok());
        let out = scope.spawn(move || read_all(&mut stdout));
        let err = scope.spawn(move || read_all(&mut stderr));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                child.kill().unwrap();
                panic!("a command ran longer than {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(5));
        };
        Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
    })
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).unwrap();
    all
}

/// Runs a command that must end with code 0, and returns what it printed.
pub(crate) fn run_well(command: &mut Command, input: &[u8]) -> String {
    let output = run(command, input);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}\n{stderr}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// `weir sql` on a folder; rows as objects.
pub(crate) fn sql_on_folder(data: &Path, database: &str, statement: &str) -> Vec<Value> {
    let mut command = weir();
    command.args(["sql", "--format", "json", "--db", database, "--data"]).arg(data).arg(statement);
    let text = run_well(&mut command, b"");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{statement}: {text}"))
}

/// A name in double quotes, as SQL keeps its case.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Compares every table in `folder`, that of one database, with what `server` answers, through readers that are not ours.
///
/// # Returns
/// Rows by table and reader.
pub(crate) fn compare_with_readers(
    server: &Weir,
    folder: &Path,
    database: &str,
    tables: &[&str],
) -> BTreeMap<String, Value> {
    // The server's own text: reading a float here and printing it again could change its last digit.
    let rows =
        |table| server.sql_text(database, &format!("select cast(time as bigint) as _ns, * from {}", quoted(table)));
    let answers: Vec<String> = tables.iter().map(|table| format!("{}: {}", json!(table), rows(table))).collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(format!("{{{}}}", answers.join(",")).as_bytes()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compare.py");
    let mut command = Command::new(python());
    command.arg(script).arg(folder).arg(file.path());
    serde_json::from_str(&run_well(&mut command, b"")).unwrap()
}

/// The folder of a database's tables where the store is private.
pub(crate) fn tables_folder(data: &Path, database: &str) -> PathBuf {
    data.join("tables").join(database)
}

/// The interpreter with foreign readers: of `cargo xtask test`, or the one that `cargo xtask python` made.
pub(crate) fn python() -> PathBuf {
    if let Some(interpreter) = std::env::var_os("WEIR_TEST_PYTHON") {
        return PathBuf::from(interpreter);
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_weir"));
    let made = binary.parent().and_then(Path::parent).map(|target| target.join("test-python/bin/python"));
    made.filter(|interpreter| interpreter.exists())
        .expect("this test needs WEIR_TEST_PYTHON; `cargo xtask python` makes one")
}

/// A folder for one test; what is in it is removed with it.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// The lines of the real data set, read once.
pub(crate) fn nab() -> &'static [String] {
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    LINES.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nab.lp.gz");
        let file = std::fs::read(path).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file.as_slice()).read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    })
}

/// What the data set holds: rows by table.
pub(crate) const NAB_ROWS: [(&str, u64); 10] = [
    ("ad_exchange", 4_804),
    ("ec2_cpu_utilization", 32_256),
    ("ec2_disk_write_bytes", 8_751),
    ("ec2_network_in", 9_994),
    ("elb_request_count", 4_032),
    ("grok_asg_anomaly", 4_621),
    ("known_cause", 69_538),
    ("rds_cpu_utilization", 8_064),
    ("traffic", 10_789),
    ("tweet_volume", 158_631),
];

/// Checks rows and sums of the data set through whatever answers SQL.
pub(crate) fn check_nab(sql: impl Fn(&str) -> Vec<Value>) {
    let counts: Vec<String> =
        NAB_ROWS.iter().map(|(table, _)| format!("select '{table}' as t, count(*) as n from {table}")).collect();
    let mut found: Vec<(String, u64)> = sql(&counts.join(" union all "))
        .iter()
        .map(|row| (row["t"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap()))
        .collect();
    found.sort();
    let expected: Vec<(String, u64)> = NAB_ROWS.iter().map(|(table, rows)| ((*table).to_owned(), *rows)).collect();
    assert_eq!(found, expected);
    assert_eq!(found.iter().map(|(_, rows)| rows).sum::<u64>(), 311_480);
    assert_eq!(sql("select sum(count) as s from tweet_volume"), [json!({ "s": 3_224_439 })]);
    let sum = sql("select sum(value) as s from ec2_cpu_utilization")[0]["s"].as_f64().unwrap();
    assert!((sum - 775_057.915_3).abs() < 1e-3, "{sum}");
}

/// Measurement and tags of a plain line: what makes a series.
pub(crate) fn series_of(line: &str) -> &str {
    line.split(' ').next().unwrap()
}

/// Series and time of a plain line: what makes a row.
pub(crate) fn key_of(line: &str) -> (&str, &str) {
    (series_of(line), line.rsplit(' ').next().unwrap())
}

/// Distinct rows in lines.
pub(crate) fn distinct_keys<'a>(lines: impl IntoIterator<Item = &'a String>) -> usize {
    lines.into_iter().map(|line| key_of(line)).collect::<HashSet<_>>().len()
}

/// Lines by client, so that all lines of a series go through one client in their order: the last write is then known.
pub(crate) fn by_client(lines: &'static [String], clients: usize) -> Vec<Vec<&'static str>> {
    let mut parts = vec![Vec::new(); clients];
    for line in lines {
        let hash = series_of(line)
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        parts[(hash >> 32) as usize % clients].push(line.as_str());
    }
    parts
}

/// Splitmix64 from a seed: a failure can be run again.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
