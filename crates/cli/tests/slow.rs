//! Slow queries in the log of the real binary: what is told of one, in which words, and that fast ones are not told.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::path::Path;

use harness::{Weir, folder};
use serde_json::{Value, json};
use weir_bench::process::free_address;

const STATEMENT: &str = "select k, sum(v) as s from t group by k order by k";

fn start(data: &Path, settings: &str) -> Weir {
    std::fs::create_dir_all(data).unwrap();
    std::fs::write(data.join("weir.toml"), settings).unwrap();
    // Errors, warnings and nothing else: the request's id must be on them all the same.
    let arguments = ["--log", "json", "--log-level", "warn"].map(std::ffi::OsStr::new);
    Weir::start_with(data, free_address().unwrap(), &arguments)
}

fn ask(server: &Weir, sql: &str, request_id: &str) -> (u16, String) {
    let body = json!({"db": "d", "q": sql, "format": "csv"}).to_string();
    let headers = format!("Content-Type: application/json\r\nWeir-Request-Id: {request_id}\r\n");
    let answer = server.connect().send("POST", "/api/v3/query_sql", &headers, body.as_bytes()).unwrap();
    (answer.status, answer.text())
}

fn told(log: &str) -> Vec<Value> {
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["message"] == "a slow query").collect()
}

fn slow_count(server: &Weir) -> u64 {
    let page = server.connect().get("/metrics").unwrap().text();
    let line = page.lines().find(|line| line.starts_with("weir_queries_slow_total ")).expect("the metric");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn write_rows(server: &Weir) {
    let lines: String = (0..2000).map(|row| format!("t,k=k{} v={row}i {row}\n", row % 3)).collect();
    server.write_all("d", &lines);
    server.flush();
}

#[test]
fn a_slow_query_is_told_with_its_request_its_numbers_and_its_plan() {
    let folder = folder();
    let data = folder.path().join("data");
    // Everything is slow that takes a millisecond, and a first query plans longer than that.
    let server = start(&data, "[query]\nquery_slow_ms = 1\n");
    write_rows(&server);
    assert_eq!(ask(&server, STATEMENT, "my-request.1").0, 200);
    let endless = "select count(*) from generate_series(1, 4000000000) a, generate_series(1, 4000000000) b where a.value + b.value < 0";
    let failing = format!("select {} from no_such_table where x = '{}'", endless.len(), "\u{e9}".repeat(4000));
    let (status, _) = ask(&server, &failing, "my-request.2");
    assert_eq!(status, 404);
    run_and_cancel(&server, endless);
    let count = slow_count(&server);
    server.stop();
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    let events = told(&log);
    assert!(count >= 2 && events.len() as u64 >= count, "{count} {log}");
    let of = |request: &str| events.iter().find(|event| event["span"]["id"] == request);
    let event = of("my-request.1").unwrap_or_else(|| panic!("{log}"));
    assert_eq!(
        (&event["database"], &event["sql"], &event["outcome"]),
        (&json!("d"), &json!(STATEMENT), &json!("done"))
    );
    assert_eq!((&event["rows"], &event["level"]), (&json!(3), &json!("WARN")), "{event}");
    assert!(event["query_id"].as_str().unwrap().len() == 36, "{event}");
    assert!(event["elapsed_ms"].as_u64().unwrap() >= 1 && event["bytes_read"].as_u64().unwrap() > 0, "{event}");
    assert!(event["memory_peak_bytes"].as_u64().unwrap() > 0, "{event}");
    let plan = event["plan"].as_str().unwrap();
    assert!(plan.contains("AggregateExec") && plan.contains("output_rows="), "{plan}");
    assert!(event["scans"].as_str().unwrap().contains("1 of 1 files"), "{event}");
    let cancelled = events.iter().find(|event| event["sql"] == endless).unwrap_or_else(|| panic!("{log}"));
    assert_eq!(cancelled["outcome"], "the query was cancelled");
    // The one that failed may have been faster than a millisecond; told, it is cut, and has no plan.
    if let Some(event) = of("my-request.2") {
        assert!(event["sql"].as_str().unwrap().len() < 5000 && event["plan"].is_null(), "{event}");
    }
}

/// Starts a statement, waits until it runs, and stops it.
fn run_and_cancel(server: &Weir, statement: &str) {
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask(server, statement, "endless"));
        let id = loop {
            let listed: Value = serde_json::from_str(&server.connect().get("/api/v1/queries").unwrap().text()).unwrap();
            if let Some(query) = listed.as_array().unwrap().iter().find(|query| query["state"] == "running") {
                break query["id"].as_str().unwrap().to_owned();
            }
        };
        std::thread::sleep(std::time::Duration::from_millis(5));
        let path = format!("/api/v1/queries/{id}");
        assert_eq!(server.connect().send("DELETE", &path, "", b"").unwrap().status, 204);
        assert_eq!(asked.join().unwrap().0, 409);
    });
}

#[test]
fn a_fast_query_is_not_told() {
    let folder = folder();
    let data = folder.path().join("data");
    let server = start(&data, "[query]\nquery_slow_ms = 3_600_000\n");
    write_rows(&server);
    assert_eq!(ask(&server, STATEMENT, "fast").0, 200);
    assert_eq!(slow_count(&server), 0);
    server.stop();
    let log = std::fs::read_to_string(data.with_extension("log")).unwrap();
    assert!(told(&log).is_empty(), "{log}");
}
