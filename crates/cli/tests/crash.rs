//! A real server is killed again and again while it takes the real data set, flushes and merges files.
//!
//! The fault: `SIGKILL` of the whole process at a moment that a seed chooses among acknowledgements, with writes, flushes
//! and a compaction running. What the system's page cache holds survives; a lost power is the simulator's to play.

mod harness;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use harness::{Dice, Weir, by_client, check_nab, folder, nab, post_compact, post_lines};
use weir_bench::http::Connection;
use weir_bench::process::free_address;

const ROUNDS: usize = 20;
const CLIENTS: usize = 4;
const LINES_PER_BATCH: usize = 400;

/// One client's batches, and how many of them were acknowledged, from the front.
struct Queue {
    batches: Vec<Vec<&'static str>>,
    acknowledged: usize,
}

/// E1, E3, E4: whatever was acknowledged is there after every kill, once, and the readers of others agree.
#[test]
fn twenty_kills_during_the_load_lose_and_double_nothing() {
    let folder = folder();
    let data = folder.path().join("data");
    let address = free_address().unwrap();
    let queues: Vec<Mutex<Queue>> = by_client(nab(), CLIENTS)
        .into_iter()
        .map(|lines| {
            let batches = lines.chunks(LINES_PER_BATCH).map(<[&str]>::to_vec).collect();
            Mutex::new(Queue { batches, acknowledged: 0 })
        })
        .collect();
    let batches_total: usize = queues.iter().map(|queue| queue.lock().unwrap().batches.len()).sum();
    let mut dice = Dice(20);
    for round in 1..=ROUNDS {
        let server = Weir::start_at(&data, address);
        check_acknowledged(&server, &queues);
        // The kills are spread over the load; the last comes when most of it is in.
        let kill_at = batches_total * round / (ROUNDS + 1);
        kill_during_load(server, &queues, kill_at, Duration::from_millis(dice.below(30)));
    }
    let server = Weir::start_at(&data, address);
    check_acknowledged(&server, &queues);
    load(address, &queues, usize::MAX);
    check_nab(|statement| server.sql("nab", statement));
    server.flush();
    for (table, _) in harness::NAB_ROWS {
        server.compact("nab", table);
    }
    check_nab(|statement| server.sql("nab", statement));
    let found = harness::compare_with_readers(
        &server,
        &harness::tables_folder(&data, "nab"),
        "nab",
        &harness::NAB_ROWS.map(|(table, _)| table),
    );
    for (table, rows) in harness::NAB_ROWS {
        for reader in ["deltalake", "polars", "duckdb"] {
            assert_eq!(found[table][reader], rows, "{table} by {reader}");
        }
    }
    server.stop();
}

/// Loads with flushes and compactions running until `kill_at` batches are acknowledged, then kills a little later.
fn kill_during_load(server: Weir, queues: &[Mutex<Queue>], kill_at: usize, after: Duration) {
    let address = server.address;
    let stopping = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| disturb(address, &stopping, |connection, _| connection.post("/api/v1/flush", b"")));
        scope.spawn(|| {
            disturb(address, &stopping, |connection, turn| {
                let table = harness::NAB_ROWS[turn % harness::NAB_ROWS.len()].0;
                post_compact(connection, "nab", table)
            });
        });
        let loader = scope.spawn(|| load(address, queues, kill_at + CLIENTS));
        while acknowledged(queues) < kill_at && !loader.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(after);
        server.kill();
        stopping.store(true, Ordering::Relaxed);
    });
}

fn acknowledged(queues: &[Mutex<Queue>]) -> usize {
    queues.iter().map(|queue| queue.lock().unwrap().acknowledged).sum()
}

/// Repeats a request until told to stop or the server is gone.
fn disturb(
    address: SocketAddr,
    stopping: &AtomicBool,
    request: impl Fn(&mut Connection, usize) -> anyhow::Result<weir_bench::http::Answer>,
) {
    let Ok(mut connection) = Connection::open(address, Duration::from_secs(60)) else { return };
    for turn in 0.. {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(answer) = request(&mut connection, turn) else { return };
        // A table that nothing was written to yet is not there to be merged.
        assert!(answer.status == 200 || answer.status == 404, "{}: {}", answer.status, answer.text());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Sends what is not acknowledged, each client its own in order, until `batches_max` are acknowledged in all or the server
/// is gone.
fn load(address: SocketAddr, queues: &[Mutex<Queue>], batches_max: usize) {
    let done = AtomicUsize::new(acknowledged(queues));
    thread::scope(|scope| {
        for queue in queues {
            let done = &done;
            scope.spawn(move || {
                let Ok(mut connection) = Connection::open(address, Duration::from_secs(120)) else { return };
                while done.load(Ordering::Relaxed) < batches_max {
                    let body = {
                        let queue = queue.lock().unwrap();
                        let Some(batch) = queue.batches.get(queue.acknowledged) else { return };
                        batch.join("\n")
                    };
                    let Ok(answer) = post_lines(&mut connection, "nab", &body) else { return };
                    assert_eq!(answer.status, 204, "{}", answer.text());
                    queue.lock().unwrap().acknowledged += 1;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
}

/// Every acknowledged row is there, once; of those not acknowledged, at most the one batch per client on its way is.
fn check_acknowledged(server: &Weir, queues: &[Mutex<Queue>]) {
    let mut least = std::collections::HashSet::new();
    let mut most = std::collections::HashSet::new();
    for queue in queues {
        let queue = queue.lock().unwrap();
        least.extend(queue.batches[..queue.acknowledged].iter().flatten().map(|line| harness::key_of(line)));
        let sent = (queue.acknowledged + 1).min(queue.batches.len());
        most.extend(queue.batches[..sent].iter().flatten().map(|line| harness::key_of(line)));
    }
    let mut rows = 0;
    for (table, _) in harness::NAB_ROWS {
        if !least.iter().any(|(series, _)| series.split(',').next() == Some(table)) {
            continue;
        }
        rows += server.sql("nab", &format!("select count(*) as n from {table}"))[0]["n"].as_u64().unwrap() as usize;
    }
    assert!(rows >= least.len(), "{rows} rows, but {} were acknowledged", least.len());
    assert!(rows <= most.len(), "{rows} rows, but only {} were ever sent", most.len());
}

/// E1: `no_sync` skips the sync, not the write: the end of the process loses nothing.
#[test]
fn what_was_acknowledged_without_a_sync_survives_a_kill() {
    let folder = folder();
    let data = folder.path().join("data");
    for round in 1..=3_u64 {
        let server = Weir::start(&data);
        let mut connection = server.connect();
        for row in 0..50 {
            let line = format!("t,round=r{round} f={row}i {row}");
            let path = "/api/v3/write_lp?db=d&precision=nanosecond&no_sync=true";
            let answer = connection.post(path, line.as_bytes()).unwrap();
            assert_eq!(answer.status, 204, "{}", answer.text());
        }
        server.kill();
        let server = Weir::start(&data);
        let found = server.sql("d", "select count(*) as n, sum(f) as s from t");
        assert_eq!(found, [serde_json::json!({ "n": 50 * round, "s": 1_225 * round })]);
        server.kill();
    }
}
