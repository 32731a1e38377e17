//! The write-ahead log off the request path: a gate holds every sync of the real server's disk, and everything that does not
//! need the disk goes on.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Weir, folder, post_lines, run_well};
use serde_json::json;
use weir_bench::process::free_address;

/// Longest wait for a state that must come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Writes that a server takes in at once in this test; the rest wait for their turn and are refused.
const WRITES_MAX: usize = 8;
const CLIENTS: usize = 24;

/// Holds each sync while the file `$WEIR_TEST_GATE` exists, and says by `$WEIR_TEST_GATE.held` that it does.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void hold(void) {
    const char *gate = getenv("WEIR_TEST_GATE");
    char held[4096];
    snprintf(held, sizeof held, "%s.held", gate);
    while (access(gate, F_OK) == 0) {
        int fd = open(held, O_CREAT | O_WRONLY, 0600);
        if (fd >= 0) close(fd);
        usleep(1000);
    }
}
int fdatasync(int fd) { hold(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
int fsync(int fd) { hold(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
"#;

/// The gate as a library to preload.
fn build_gate(folder: &Path) -> String {
    let (source, library) = (folder.join("gate.c"), folder.join("gate.so"));
    std::fs::write(&source, SOURCE).unwrap();
    run_well(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl"), b"");
    library.to_str().unwrap().to_owned()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come");
        thread::sleep(Duration::from_millis(2));
    }
}

/// J2, Q2, S1: while a sync hangs no write is acknowledged and none is visible, health checks and queries are answered, and what
/// waits is bounded; when it ends, everything that was acknowledged is there.
#[test]
fn while_a_sync_hangs_health_answers_and_nothing_is_acknowledged() {
    let folder = folder();
    let gate = folder.path().join("gate");
    let (library, held) = (build_gate(folder.path()), folder.path().join("gate.held"));
    let environment =
        [("LD_PRELOAD".to_owned(), library), ("WEIR_TEST_GATE".to_owned(), gate.to_str().unwrap().to_owned())];
    let config = folder.path().join("small.toml");
    std::fs::write(&config, format!("[limits]\nwrites_max = {WRITES_MAX}\nwrite_wait_s = 1\n")).unwrap();
    let arguments = ["--config".as_ref(), config.as_os_str()];
    let server = Weir::start_in(&folder.path().join("data"), free_address().unwrap(), &arguments, &environment);
    server.write_all("d", "t v=0i 1\n");
    std::fs::write(&gate, b"").unwrap();
    let (acknowledged, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (server, acknowledged, refused) = (&server, &acknowledged, &refused);
            scope.spawn(move || {
                let line = format!("t v=1i {}\n", client + 2);
                let answer = post_lines(&mut server.connect(), "d", &line).unwrap();
                match answer.status {
                    204 => acknowledged.fetch_add(1, Ordering::AcqRel),
                    503 if answer.retry_after_seconds.is_some() => refused.fetch_add(1, Ordering::AcqRel),
                    status => panic!("{status}: {}", answer.text()),
                }
            });
        }
        wait_for("a sync", || held.exists());
        // Those past the limit are refused while the gate is shut, so nothing piles up behind it.
        wait_for("a refusal of each write past the limit", || refused.load(Ordering::Acquire) == CLIENTS - WRITES_MAX);
        for _ in 0..50 {
            for page in ["/health", "/ready", "/ping", "/metrics"] {
                let answer = server.connect().get(page).unwrap();
                assert!(answer.status < 300, "{page}: {}", answer.text());
            }
            let rows = server.sql("d", "select count(*) as n from t");
            assert_eq!(rows, [json!({ "n": 1 })], "a row is visible that is not durable");
            assert_eq!(acknowledged.load(Ordering::Acquire), 0, "a write was acknowledged before its sync");
        }
        std::fs::remove_file(&gate).unwrap();
    });
    assert_eq!(acknowledged.load(Ordering::Acquire), WRITES_MAX);
    assert_eq!(server.sql("d", "select count(*) as n from t"), [json!({ "n": 1 + WRITES_MAX })]);
    server.stop();
}
