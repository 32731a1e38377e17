//! Two servers on one store write, flush and merge the same table at the same time.

#![allow(clippy::disallowed_methods, reason = "the shared folder is a real one")]

mod harness;

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use harness::{Weir, compare_with_readers, folder, post_compact};
use serde_json::json;
use weir_bench::process::free_address;

const ROUNDS: u64 = 25;
const ROWS: u64 = 40;

/// E1, E2, E3: nothing is lost or doubled, rows that both write are one, and each sees the other's after its flush.
#[test]
fn two_servers_on_one_store_lose_and_double_nothing() {
    let folder = folder();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let arguments: [&OsStr; 2] = [OsStr::new("--store"), store.as_os_str()];
    let servers =
        ["a", "b"].map(|name| Weir::start_with(&folder.path().join(name), free_address().unwrap(), &arguments));
    let writing = AtomicBool::new(true);
    thread::scope(|scope| {
        for server in &servers {
            let writing = &writing;
            scope.spawn(move || {
                let mut connection = server.connect();
                while writing.load(Ordering::Relaxed) {
                    let answer = post_compact(&mut connection, "d", "t").unwrap();
                    // 404 before the first write; 409 when the other server's commit came first: nothing was done then.
                    assert!([200, 404, 409].contains(&answer.status), "{}: {}", answer.status, answer.text());
                    thread::sleep(Duration::from_millis(30));
                }
            });
        }
        let writers: Vec<_> = ["a", "b"]
            .into_iter()
            .zip(&servers)
            .map(|(name, server)| {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        server.write_all("d", &lines(name, round));
                        server.flush();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        writing.store(false, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a writer failed");
    });
    // Half of each server's rows are its own, the other half both write, each its own field.
    let expected = json!({ "n": 3 * ROUNDS * ROWS / 2, "a": ROUNDS * ROWS, "b": ROUNDS * ROWS, "s": sum_of_fields() });
    let statement =
        "select count(*) as n, count(a) as a, count(b) as b, sum(coalesce(a, 0) + coalesce(b, 0)) as s from t";
    for server in &servers {
        assert_eq!(server.sql("d", statement)[0], expected);
    }
    servers[0].compact("d", "t");
    for server in &servers {
        assert_eq!(server.sql("d", statement)[0], expected);
    }
    let found = compare_with_readers(&servers[0], &store.join("d"), "d", &["t"]);
    for reader in ["deltalake", "polars", "duckdb"] {
        assert_eq!(found["t"][reader], expected["n"], "{reader}");
    }
    servers.into_iter().for_each(Weir::stop);
}

fn lines(server: &str, round: u64) -> String {
    let mut lines = String::new();
    for row in 0..ROWS {
        let host = if row < ROWS / 2 { "both" } else { server };
        lines.push_str(&format!("t,host={host} {server}={row}i {}\n", round * ROWS + row));
    }
    lines
}

fn sum_of_fields() -> u64 {
    2 * ROUNDS * (0..ROWS).sum::<u64>()
}
