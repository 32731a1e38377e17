//! The server's own measurements in database `weir`, through the real binary.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Weir, folder, run_well};
use serde_json::{Value, json};
use weir_bench::process::free_address;

/// Longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// While the file `$WEIR_TEST_BREAK` exists, the process cannot read what the kernel knows of it.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static int broken(const char *path) {
    return strcmp(path, "/proc/self/stat") == 0 && access(getenv("WEIR_TEST_BREAK"), F_OK) == 0;
}
#define OPEN(name) \
int name(const char *path, int flags, ...) { \
    va_list more; \
    va_start(more, flags); \
    int mode = va_arg(more, int); \
    va_end(more); \
    if (broken(path)) { errno = EIO; return -1; } \
    return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
}
OPEN(open)
OPEN(open64)
"#;

fn build_breaker(folder: &Path) -> String {
    let (source, library) = (folder.join("break.c"), folder.join("break.so"));
    std::fs::write(&source, SOURCE).unwrap();
    run_well(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl"), b"");
    library.to_str().unwrap().to_owned()
}

/// Rows of a statement on database `weir`; none while what it asks for is not there yet.
fn own(server: &Weir, statement: &str) -> Vec<Value> {
    let body = json!({ "db": "weir", "q": statement, "format": "json" }).to_string();
    let headers = "Content-Type: application/json\r\n";
    let answer = server.connect().send("POST", "/api/v3/query_sql", headers, body.as_bytes()).unwrap();
    assert!([200, 400, 404].contains(&answer.status), "{}: {}", answer.status, answer.text());
    if answer.status == 200 { serde_json::from_slice(&answer.body).unwrap() } else { Vec::new() }
}

fn wait_for(server: &Weir, statement: &str, expected: &Value) {
    let begin = Instant::now();
    loop {
        let found = own(server, statement);
        if found.first() == Some(expected) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{statement}: {found:?}\n{}", server.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// M1, S1: what the server measures is in SQL as it is on its page; a collector that fails leaves no number behind, and no other
/// number out; samples do not breed samples.
#[test]
fn own_measurements_are_rows_and_a_failed_collector_leaves_none_m1() {
    let folder = folder();
    let breaking = folder.path().join("break");
    let environment =
        [("LD_PRELOAD", build_breaker(folder.path())), ("WEIR_TEST_BREAK", breaking.display().to_string())]
            .map(|(name, value)| (name.to_owned(), value));
    let config = folder.path().join("weir.toml");
    std::fs::write(&config, "[server]\nown_metrics_every_s = 1\nname = \"here, there\"\n").unwrap();
    let arguments = ["--config".as_ref(), config.as_os_str()];
    let server = Weir::start_in(&folder.path().join("data"), free_address().unwrap(), &arguments, &environment);
    server.write_all("d", "t v=1i 1\nt v=2i 2\nt v=3i 3\n");
    assert_eq!(server.write("d", "t v=4i 4\nnonsense\n").status, 400);

    let newest = "from server where server = 'here, there' order by time desc limit 1";
    let written = format!("select write_rows_total as taken, write_lines_refused_total as refused {newest}");
    wait_for(&server, &written, &json!({ "taken": 4.0, "refused": 1.0 }));
    let requests = "select count from server_http_request_seconds where route = '/api/v3/write_lp' and status = '204' \
                    order by time desc limit 1";
    wait_for(&server, requests, &json!({ "count": 1.0 }));
    let parts = "select component, value from server_component_state order by time desc, component limit 3";
    let states = own(&server, parts);
    let state = |name: &str| json!({ "component": name, "value": 0.0 });
    assert_eq!(states, ["buffer", "store", "wal"].map(state));

    std::fs::write(&breaking, b"").unwrap();
    let absent = format!("select process_threads as threads, write_rows_total as taken {newest}");
    wait_for(&server, &absent, &json!({ "threads": null, "taken": 4.0 }));
    let begin = Instant::now();
    while !server.page("/health").to_string().contains("collector 'process' failed") {
        assert!(begin.elapsed() < PATIENCE, "{}", server.page("/health"));
        thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_file(&breaking).unwrap();
    wait_for(&server, &format!("select process_threads > 0 as there {newest}"), &json!({ "there": true }));
    let never = "select count(*) as n from server where process_threads = 0 or process_resident_memory_bytes = 0";
    assert_eq!(own(&server, never), [json!({ "n": 0 })]);

    let bounds = own(&server, "select count(*) as n, count(distinct time) as times from server");
    assert_eq!(bounds[0]["n"], bounds[0]["times"], "one row for each sample");
    assert!(server.metric("weir_own_samples_total") >= bounds[0]["n"].as_f64().unwrap());
    assert_eq!(server.metric("weir_write_rows_total"), 4.0, "only what clients wrote");
    server.stop();
}
