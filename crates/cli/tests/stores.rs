//! The real server with its tables in a real object store: kills, and a network between them that fails in every way.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Weir, folder, run_well};
use serde_json::json;
use weir_bench::http::Connection;
use weir_bench::process::free_address;
use weir_sim::{ObjectServer, Protocol, Proxy, ProxyFault};

const BATCH_ROWS: u64 = 2_000;
/// Longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rows `from..`, each with a time of its own, of one series.
fn batch(from: u64) -> String {
    (from..from + BATCH_ROWS).map(|row| format!("t,host=h{} v={row}i {row}000\n", row % 5)).collect()
}

fn start(data: &Path, config: &Path, environment: &[(String, String)]) -> Weir {
    Weir::start_in(data, free_address().unwrap(), &["--config".as_ref(), config.as_os_str()], environment)
}

/// Settings with a store, small and impatient enough for a test, and `more` in the section `[engine]`.
fn settings(folder: &Path, location: &str, options: &[(String, String)], more: &str) -> PathBuf {
    let options: String = options.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
    let path = folder.join("weir.toml");
    // The server's own rows would be among those that are counted here.
    let server = "[server]\nown_metrics_every_s = 86400";
    let text = format!("{server}\n[engine]\nstore = \"{location}/tables\"\n{more}\n[store]\n{options}");
    std::fs::write(&path, text).unwrap();
    path
}

/// Rows and distinct keys in the files, as a reader that merges nothing finds them: what is there twice shows.
fn rows_in_files(server: &ObjectServer) -> (u64, u64) {
    // The answer is all that is wanted: threads of the reader may still run when the interpreter ends, and abort it then.
    const SCRIPT: &str = "import json, os, sys\nfrom deltalake import DeltaTable\n\
        table = DeltaTable(sys.argv[1], storage_options=json.loads(sys.argv[2])).to_pyarrow_table(columns=['time', 'host'])\n\
        keys = set(zip(table['time'].to_pylist(), table['host'].to_pylist()))\n\
        print(json.dumps([table.num_rows, len(keys)]), flush=True)\n\
        os._exit(0)";
    let options: serde_json::Map<_, _> =
        server.options.iter().map(|(name, value)| (name.to_ascii_uppercase(), json!(value))).collect();
    let mut command = Command::new(harness::python());
    command.args(["-c", SCRIPT]).arg(format!("{}/tables/d/t", server.location)).arg(json!(options).to_string());
    serde_json::from_str(&run_well(&mut command, b"")).unwrap()
}

fn check_rows(server: &Weir, rows: u64) {
    let found = server.sql_when_well("d", "select count(*) as n, count(distinct time) as keys, sum(v) as s from t");
    assert_eq!(found, [json!({ "n": rows, "keys": rows, "s": rows * (rows - 1) / 2 })]);
}

/// E1: what is in the store and what is only in the log, through three kills.
fn survives_kills(objects: &ObjectServer, config: &Path, environment: &[(String, String)], data: &Path) {
    let mut rows = 0;
    for _ in 0..3 {
        let server = start(data, config, environment);
        for _ in 0..2 {
            server.write_all("d", &batch(rows));
            rows += BATCH_ROWS;
            check_rows(&server, rows);
            if rows.is_multiple_of(4 * BATCH_ROWS) || rows == BATCH_ROWS {
                server.flush_when_well();
            }
        }
        server.kill();
    }
    let server = start(data, config, environment);
    check_rows(&server, rows);
    server.flush_when_well();
    check_rows(&server, rows);
    assert_eq!(rows_in_files(objects), (rows, rows));
    server.compact("d", "t");
    check_rows(&server, rows);
    assert_eq!(rows_in_files(objects), (rows, rows));
    assert!(server.metric("weir_store_tries_total") > 0.0);
    server.stop();
}

/// Credentials and endpoint come from the environment, as on a machine in the cloud.
#[test]
fn a_server_with_its_store_on_s3_survives_kills() {
    let (folder, objects) = (folder(), ObjectServer::start(Protocol::S3));
    let config = settings(folder.path(), &objects.location, &[], "");
    let environment: Vec<_> =
        objects.options.iter().map(|(name, value)| (name.to_ascii_uppercase(), value.clone())).collect();
    survives_kills(&objects, &config, &environment, &folder.path().join("data"));
}

#[test]
fn a_server_with_its_store_on_azure_survives_kills() {
    let (folder, objects) = (folder(), ObjectServer::start(Protocol::Azure));
    let config = settings(folder.path(), &objects.location, &objects.options, "");
    survives_kills(&objects, &config, &[], &folder.path().join("data"));
}

#[test]
fn a_server_with_its_store_on_google_cloud_storage_survives_kills() {
    let (folder, objects) = (folder(), ObjectServer::start(Protocol::Google));
    let config = settings(folder.path(), &objects.location, &objects.options, "");
    survives_kills(&objects, &config, &[], &folder.path().join("data"));
}

const BUFFER_BYTES_MAX: u64 = 4 << 20;

/// A server, a store, and a proxy between them.
struct Outage {
    folder: tempfile::TempDir,
    objects: ObjectServer,
    proxy: Proxy,
    rows: u64,
}

impl Outage {
    fn new() -> Self {
        let objects = ObjectServer::start(Protocol::S3);
        let proxy = Proxy::start(objects.address);
        Self { folder: folder(), objects, proxy, rows: 0 }
    }

    fn start(&self) -> Weir {
        let more = format!(
            "buffer_bytes_max = \"{} MiB\"\nflush_bytes = \"256 KiB\"\nflush_bytes_min = \"128 KiB\"\nflush_age_s = 1\n\
             flush_backoff_ms = 10\nflush_backoff_max_ms = 200\nstore_connect_timeout_ms = 2000\n\
             store_request_timeout_ms = 700\nstore_transfer_timeout_ms = 2000\nstore_breaker_open_ms = 100\n",
            BUFFER_BYTES_MAX >> 20
        );
        let options = self.objects.options_through(self.proxy.address());
        let config = settings(self.folder.path(), &self.objects.location, &options, &more);
        start(&self.folder.path().join("data"), &config, &[])
    }

    /// Sends the next rows again until they are taken; what is refused must say when to come back.
    fn write_on(&mut self, connection: &mut Connection) {
        let begin = Instant::now();
        loop {
            let answer = harness::post_lines(connection, "d", &batch(self.rows)).unwrap();
            if answer.status == 204 {
                self.rows += BATCH_ROWS;
                return;
            }
            assert!(
                answer.status == 503 && answer.retry_after_seconds.is_some(),
                "{}: {}",
                answer.status,
                answer.text()
            );
            assert!(begin.elapsed() < PATIENCE, "still refused: {}", answer.text());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes until the server refuses; returns how many batches it took.
    fn write_until_refused(&mut self, connection: &mut Connection) -> u64 {
        let begin = Instant::now();
        for taken in 0.. {
            let answer = harness::post_lines(connection, "d", &batch(self.rows)).unwrap();
            match answer.status {
                204 => self.rows += BATCH_ROWS,
                _ => {
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    assert!(answer.retry_after_seconds.is_some(), "{}", answer.text());
                    assert!(answer.text().contains("buffer"), "{}", answer.text());
                    return taken;
                }
            }
            assert!(begin.elapsed() < PATIENCE, "never refused");
        }
        unreachable!("a server that takes everything was found before")
    }
}

/// Waits until the server's pages show that the store does not answer.
fn wait_until_shown(server: &Weir, fault: ProxyFault) {
    let begin = Instant::now();
    loop {
        let ready = server.page("/ready");
        let warned = ready["warnings"].as_array().unwrap().iter().find(|part| part["component"] == "store").cloned();
        if let Some(warned) = warned {
            assert!(
                warned["reason"].as_str().is_some_and(|reason| reason.contains("flushes in a row failed")),
                "{warned}"
            );
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "{fault:?}: /ready does not show the store: {ready}");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(server.metric("weir_component_state{component=\"store\"}") >= 1.0, "{fault:?}");
    assert!(server.metric("weir_engine_flushes_failed_in_a_row") >= 1.0, "{fault:?}");
}

/// E1, E4, S1: under each fault the server takes writes up to its limit and then refuses; when the store is back, everything
/// acknowledged is in its files once.
#[test]
fn ingest_goes_on_while_the_store_fails_and_everything_is_flushed_once() {
    let mut outage = Outage::new();
    let server = outage.start();
    let mut connection = server.connect();
    outage.write_on(&mut connection);
    server.flush_when_well();
    for fault in ProxyFault::ALL {
        outage.proxy.set(fault);
        let taken = outage.write_until_refused(&mut connection);
        assert!(taken > 5, "{fault:?}: only {taken} batches before the limit");
        if fault != ProxyFault::WrongLength {
            wait_until_shown(&server, fault);
        }
        assert!(server.metric("weir_buffer_peak_bytes") <= BUFFER_BYTES_MAX as f64, "{fault:?}");
        assert!(server.metric("weir_store_failures_total") > 0.0, "{fault:?}");
        assert_eq!(server.connect().get("/ping").unwrap().status, 204, "{fault:?}");
        outage.proxy.set(ProxyFault::None);
        outage.write_on(&mut connection);
    }
    server.flush_when_well();
    check_rows(&server, outage.rows);
    assert_eq!(
        rows_in_files(&outage.objects),
        (outage.rows, outage.rows),
        "as a reader that merges nothing finds them"
    );
    assert_eq!(server.metric("weir_buffer_rows"), 0.0);
    let begin = Instant::now();
    while server.page("/ready") != json!({ "ready": true, "reasons": [], "warnings": [] }) {
        assert!(begin.elapsed() < PATIENCE, "{}", server.page("/ready"));
        thread::sleep(Duration::from_millis(50));
    }
    server.stop();
}

/// E3: while the first write of a table is still making the table's place in the store, there is no such table.
#[test]
fn a_table_is_there_with_its_first_rows_and_not_before() {
    let outage = Outage::new();
    let server = outage.start();
    outage.proxy.set_for("/tables/d/t/", ProxyFault::Hang);
    let before = outage.proxy.faulted();
    thread::scope(|scope| {
        let (server, proxy) = (&server, &outage.proxy);
        let writing = scope.spawn(move || {
            let mut connection = server.connect();
            while harness::post_lines(&mut connection, "d", &batch(0)).unwrap().status != 204 {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let begin = Instant::now();
        while proxy.faulted() == before {
            assert!(begin.elapsed() < PATIENCE && !writing.is_finished(), "the table's log is not written");
            thread::sleep(Duration::from_millis(5));
        }
        let body = json!({ "db": "d", "q": "select v from t" }).to_string();
        let asked =
            server.connect().send("POST", "/api/v3/query_sql", "Content-Type: application/json\r\n", body.as_bytes());
        let answer = asked.unwrap();
        assert_eq!(answer.status, 404, "{}", answer.text());
        proxy.set(ProxyFault::None);
    });
    check_rows(&server, BATCH_ROWS);
    server.stop();
}

/// E1: killed while commits happen and their answers are lost; the next start knows what is there.
#[test]
fn a_kill_while_answers_are_lost_neither_loses_nor_doubles() {
    let mut outage = Outage::new();
    for fault in [ProxyFault::AnswerLost, ProxyFault::Hang, ProxyFault::Half] {
        let server = outage.start();
        let mut connection = server.connect();
        outage.write_on(&mut connection);
        server.flush_when_well();
        outage.proxy.set(fault);
        let before = outage.proxy.faulted();
        outage.write_until_refused(&mut connection);
        let begin = Instant::now();
        while outage.proxy.faulted() < before + 3 {
            assert!(begin.elapsed() < PATIENCE, "{fault:?}: nothing was tried");
            thread::sleep(Duration::from_millis(10));
        }
        server.kill();
        outage.proxy.set(ProxyFault::None);
    }
    let server = outage.start();
    check_rows(&server, outage.rows);
    server.flush_when_well();
    check_rows(&server, outage.rows);
    assert_eq!(rows_in_files(&outage.objects), (outage.rows, outage.rows));
    server.stop();
}
