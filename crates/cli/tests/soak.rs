//! The soak: a real server at twice its capacity, on a store that fails in every way, for as long as it is told.
//!
//! More clients than may write at once write without a pause and send again what is refused, each remembering exactly what was
//! acknowledged; others ask and look at the server's health. Between server and store is a proxy that changes what it does at random,
//! from a seed. At the end the store is well again, everything is flushed, and another server on the same store, which has nothing but
//! the files, must find each client's rows exactly. `cargo xtask soak` runs it for ten minutes, a plain test run for a few seconds.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]
#![allow(clippy::print_stdout, reason = "a long run tells how it goes")]

mod harness;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use harness::{Dice, Weir, folder, post_lines};
use serde_json::{Value, json};
use weir_bench::process::free_address;
use weir_sim::{ObjectServer, Protocol, Proxy, ProxyFault};

/// What a plain test run takes.
const SECONDS: u64 = 12;
/// Longest wait for what must come once the store is well.
const PATIENCE: Duration = Duration::from_secs(180);

const WRITES_MAX: usize = 4;
const CLIENTS: usize = 2 * WRITES_MAX;
const ASKERS: usize = 4;
const BATCH_ROWS: u64 = 100;

const MIB: u64 = 1 << 20;
const BUFFER_BYTES_MAX: u64 = 4 * MIB;
const TEXT_BYTES_TOTAL_MAX: u64 = 16 * MIB;
const QUERY_BYTES_MAX: u64 = 64 * MIB;
const FOOTER_BYTES_MAX: u64 = 2 * MIB;
const COLUMN_BYTES_MAX: u64 = 16 * MIB;
/// What the limits allow besides what an idle server takes, and room for what none of them counts: files and answers on their way, a merge of
/// `compact_rows`, stacks, the log's frames, what the allocator has not given back yet.
const GROWTH_BYTES_MAX: u64 =
    BUFFER_BYTES_MAX + TEXT_BYTES_TOTAL_MAX + QUERY_BYTES_MAX + FOOTER_BYTES_MAX + COLUMN_BYTES_MAX + 96 * MIB;
/// From here on a run tells whether memory is flat: its second half may not need more than its first, but for what comes and goes.
const FLAT_AFTER: Duration = Duration::from_secs(60);
const FLAT_WITHIN_BYTES: u64 = 40 * MIB;

/// A number from the environment, as `cargo xtask soak` sets it.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn start(folder: &Path, name: &str, objects: &ObjectServer, through: &Proxy) -> Weir {
    let options = objects.options_through(through.address()).into_iter();
    let options: String = options.map(|(name, value)| format!("{name} = \"{value}\"\n")).collect();
    let settings = format!(
        "[server]\nown_metrics_every_s = 1\nname = \"{name}\"\n\
         [limits]\nwrites_max = {WRITES_MAX}\nwrite_wait_s = 1\ntext_bytes_total_max = \"{} MiB\"\n\
         [engine]\nstore = \"{}/tables\"\nbuffer_bytes_max = \"{} MiB\"\nflush_bytes = \"512 KiB\"\nflush_bytes_min = \"256 KiB\"\n\
         flush_age_s = 1\nflush_backoff_ms = 10\nflush_backoff_max_ms = 500\nwal_bytes_max = \"64 MiB\"\ncompact_rows = 500_000\n\
         store_connect_timeout_ms = 5000\nstore_request_timeout_ms = 5000\nstore_transfer_timeout_ms = 15000\n\
         store_breaker_open_ms = 200\n\
         [query]\nquery_memory_bytes_max = \"{} MiB\"\nquery_running_max = 2\nquery_waiting_max = 1\nquery_wait_s = 1\n\
         query_footer_bytes_max = \"{} MiB\"\nquery_column_bytes_max = \"{} MiB\"\n[store]\n{options}",
        TEXT_BYTES_TOTAL_MAX / MIB,
        objects.location,
        BUFFER_BYTES_MAX / MIB,
        QUERY_BYTES_MAX / MIB,
        FOOTER_BYTES_MAX / MIB,
        COLUMN_BYTES_MAX / MIB,
    );
    let config = folder.join(format!("{name}.toml"));
    std::fs::write(&config, settings).unwrap();
    let arguments = ["--config".as_ref(), config.as_os_str()];
    Weir::start_with(&folder.join(name), free_address().unwrap(), &arguments)
}

/// What everybody shares.
#[derive(Default)]
struct Course {
    over: AtomicBool,
    /// Batches that were acknowledged, by client.
    taken: [AtomicU64; CLIENTS],
    refused: AtomicU64,
    answers: AtomicU64,
    questions_refused: AtomicU64,
    looks: AtomicU64,
}

/// Batch `number` of a client: its next rows, and one row that each of its batches overwrites.
fn batch(client: usize, number: u64) -> String {
    let rows = number * BATCH_ROWS..(number + 1) * BATCH_ROWS;
    let rows = rows.map(|row| format!("t,client=c{client} v={row}i,w={row}.5 {row}000\n"));
    rows.chain([format!("last,client=c{client} v={number}i 0\n")]).collect()
}

/// Writes batch after batch until it is over, each until it is acknowledged.
fn write(server: &Weir, client: usize, course: &Course) {
    let mut connection = server.connect();
    let (mut number, mut over_since) = (0, None);
    while !course.over.load(Ordering::Acquire) {
        let lines = batch(client, number);
        loop {
            // A connection that was idle for too long, as on a machine that stood still, is gone: the lines are sent again.
            let Ok(answer) = post_lines(&mut connection, "d", &lines) else {
                connection = server.connect();
                continue;
            };
            if answer.status == 204 {
                number += 1;
                course.taken[client].store(number, Ordering::Release);
                break;
            }
            let again = answer.retry_after_seconds.filter(|_| [429, 503].contains(&answer.status));
            let again = again.unwrap_or_else(|| panic!("{}: {}", answer.status, answer.text()));
            course.refused.fetch_add(1, Ordering::AcqRel);
            if course.over.load(Ordering::Acquire) {
                let since = *over_since.get_or_insert_with(Instant::now);
                assert!(since.elapsed() < PATIENCE, "still refused: {}", answer.text());
            }
            thread::sleep(Duration::from_secs(again));
        }
    }
}

const NEWEST: &str = "select client, v from last order by client";
const SUMS: &str = "select client, count(*) as n, sum(v) as s, max(v) as top from t group by client order by client";

/// What a client's rows must be when `batches` of them are there.
fn expected(client: usize, batches: u64) -> Value {
    let rows = batches * BATCH_ROWS;
    json!({ "client": format!("c{client}"), "n": rows, "s": rows * (rows - 1) / 2, "top": rows - 1 })
}

/// Asks the same until it is over.
fn ask(server: &Weir, course: &Course, question: &str, check: impl Fn(&[u64], &[Value])) {
    let body = json!({ "db": "d", "q": question, "format": "json" }).to_string();
    let mut connection = server.connect();
    while !course.over.load(Ordering::Acquire) {
        let before: Vec<u64> = course.taken.iter().map(|taken| taken.load(Ordering::Acquire)).collect();
        let answer =
            connection.send("POST", "/api/v3/query_sql", "Content-Type: application/json\r\n", body.as_bytes());
        // An answer that the store breaks off after its head ends early.
        let Ok(answer) = answer else {
            connection = server.connect();
            continue;
        };
        if answer.status == 200 {
            check(&before, &serde_json::from_slice::<Vec<Value>>(&answer.body).unwrap());
            course.answers.fetch_add(1, Ordering::AcqRel);
            continue;
        }
        assert!([404, 408, 503].contains(&answer.status), "{}: {}", answer.status, answer.text());
        assert!(answer.status != 404 || before.iter().all(|taken| *taken == 0), "{}", answer.text());
        course.questions_refused.fetch_add(1, Ordering::AcqRel);
        thread::sleep(Duration::from_secs(answer.retry_after_seconds.unwrap_or(0)));
    }
}

/// Every answer holds whole batches, all that were acknowledged before it was asked (E2).
fn check_sums(before: &[u64], found: &[Value]) {
    for (client, taken) in before.iter().enumerate() {
        let row = found.iter().find(|row| row["client"] == format!("c{client}"));
        let batches = row.map_or(0, |row| row["n"].as_u64().unwrap() / BATCH_ROWS);
        assert!(batches >= *taken, "{batches} of {taken} acknowledged batches: {found:?}");
        assert!(row.is_none_or(|row| *row == expected(client, batches)), "{row:?}");
    }
}

/// The row that each batch overwrites is never older than what was acknowledged (E3).
fn check_newest(before: &[u64], found: &[Value]) {
    for (client, taken) in before.iter().enumerate().filter(|(_, taken)| **taken > 0) {
        let row = found.iter().find(|row| row["client"] == format!("c{client}"));
        let newest = row.and_then(|row| row["v"].as_u64());
        assert!(newest.is_some_and(|newest| newest + 1 >= *taken), "{newest:?} after {taken} batches");
    }
}

/// Q2: health is answered all the time, whatever happens.
fn look(server: &Weir, course: &Course) {
    let mut connection = server.connect();
    while !course.over.load(Ordering::Acquire) {
        for page in ["/health", "/ready", "/ping", "/metrics"] {
            match connection.get(page) {
                Ok(answer) => assert!([200, 204, 503].contains(&answer.status), "{page}: {}", answer.text()),
                Err(_) => connection = server.connect(),
            }
        }
        course.looks.fetch_add(1, Ordering::AcqRel);
        thread::sleep(Duration::from_millis(50));
    }
}

/// Changes what the proxy does until the time is over; returns the largest resident memory, code left out, of the first half and of the second.
fn trouble(server: &Weir, proxy: &Proxy, dice: &mut Dice, length: Duration, course: &Course) -> [u64; 2] {
    let (begin, mut peaks, mut told) = (Instant::now(), [0, 0], 0);
    while begin.elapsed() < length {
        // Half of the time it is well, else hardly anything is ever flushed.
        let kind = dice.below(2 * ProxyFault::ALL.len() as u64) as usize;
        proxy.set(ProxyFault::ALL.get(kind).copied().unwrap_or(ProxyFault::None));
        let until = Instant::now() + Duration::from_millis(200 + dice.below(1800));
        while Instant::now() < until {
            let half = usize::from(begin.elapsed() > length / 2);
            peaks[half] = peaks[half].max(server.anonymous_bytes());
            thread::sleep(Duration::from_millis(50));
        }
        if begin.elapsed().as_secs() / 30 > told {
            told = begin.elapsed().as_secs() / 30;
            tell(&format!("{:4} s", told * 30), course, server);
        }
    }
    proxy.set(ProxyFault::None);
    peaks
}

fn tell(when: &str, course: &Course, server: &Weir) {
    let read = |number: &AtomicU64| number.load(Ordering::Acquire);
    let rows: u64 = course.taken.iter().map(|taken| read(taken) * BATCH_ROWS).sum();
    let mebibytes = |name| server.metric(name) as u64 / MIB;
    println!(
        "soak: {when}: {rows} rows acknowledged, {} writes refused, {} questions answered and {} refused, {} looks at health, {} MiB \
         (buffer {}, queries {}, footers {}, columns {})",
        read(&course.refused),
        read(&course.answers),
        read(&course.questions_refused),
        read(&course.looks),
        server.anonymous_bytes() / MIB,
        mebibytes("weir_buffer_bytes"),
        mebibytes("weir_query_memory_bytes"),
        mebibytes("weir_query_footer_bytes"),
        mebibytes("weir_query_column_bytes"),
    );
}

/// E1, E2, E3, E4, Q2, S1, S2 at once, for a while.
#[test]
fn a_server_past_its_capacity_on_a_failing_store_keeps_every_promise() {
    let (length, seed) = (Duration::from_secs(setting("WEIR_SOAK_SECONDS", SECONDS)), setting("WEIR_SOAK_SEED", 1));
    println!("soak: {length:?}, WEIR_SOAK_SEED={seed}");
    let (folder, objects) = (folder(), ObjectServer::start(Protocol::S3));
    let proxy = Proxy::start(objects.address);
    let server = start(folder.path(), "first", &objects, &proxy);
    let told = Told(&server);
    let (idle, course) = (server.anonymous_bytes(), Course::default());
    let peaks = thread::scope(|scope| {
        let (server, course) = (&server, &course);
        let _over = Over(&course.over);
        for client in 0..CLIENTS {
            scope.spawn(move || write(server, client, course));
        }
        for _ in 0..ASKERS / 2 {
            scope.spawn(move || ask(server, course, SUMS, check_sums));
            scope.spawn(move || ask(server, course, NEWEST, check_newest));
        }
        scope.spawn(move || look(server, course));
        trouble(server, &proxy, &mut Dice(seed), length, course)
    });
    tell("end", &course, &server);
    println!(
        "soak: memory: idle {} MiB, first half {} MiB, second half {} MiB",
        idle / MIB,
        peaks[0] / MIB,
        peaks[1] / MIB
    );
    assert!(course.refused.load(Ordering::Acquire) > 0, "never past its capacity");
    assert!(proxy.faulted() > 0 && course.answers.load(Ordering::Acquire) > 0);
    let bound = idle + GROWTH_BYTES_MAX;
    assert!(peaks.into_iter().all(|peak| peak <= bound), "{peaks:?} of {bound} bytes that the limits allow");
    if length >= FLAT_AFTER {
        assert!(peaks[1] <= peaks[0] + FLAT_WITHIN_BYTES, "memory grows: {peaks:?} bytes");
    }

    server.flush_when_well();
    let begin = Instant::now();
    while server.page("/ready") != json!({ "ready": true, "reasons": [], "warnings": [] }) {
        assert!(begin.elapsed() < PATIENCE, "{}", server.page("/ready"));
        thread::sleep(Duration::from_millis(50));
    }
    let taken: Vec<u64> = course.taken.iter().map(|taken| taken.load(Ordering::Acquire)).collect();
    let rows: Vec<Value> = taken.iter().enumerate().map(|(client, batches)| expected(client, *batches)).collect();
    let newest = |(client, batches): (usize, &u64)| json!({ "client": format!("c{client}"), "v": batches - 1 });
    let newest: Vec<Value> = taken.iter().enumerate().map(newest).collect();
    // The second has no log of these rows: it finds what is in the files.
    let other = start(folder.path(), "second", &objects, &proxy);
    for one in [&server, &other] {
        assert_eq!(one.sql_when_well("d", SUMS), rows);
        assert_eq!(one.sql_when_well("d", NEWEST), newest);
    }
    other.stop();
    drop(told);
    server.stop();
}

/// Shows what the server said last when a test fails.
struct Told<'a>(&'a Weir);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.0.log();
            let lines: Vec<&str> = log.lines().collect();
            println!("soak: the server's log ends with\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Says that it is over, also when what it watches over panics: nobody waits for ever then.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
