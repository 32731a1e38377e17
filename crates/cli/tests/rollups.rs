//! Rollups through the real binary: made and used on a folder, kept up to date by a server, across restarts and kills.

#![allow(clippy::disallowed_methods, reason = "these tests work on real files and processes")]

mod harness;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use harness::{Weir, folder, run, run_well, weir};
use serde_json::Value;

/// What the server may take to bring a rollup up to date; it looks every second.
const REFRESHED_WITHIN: Duration = Duration::from_secs(120);
const HOURLY: &str = "CREATE ROLLUP hourly AS SELECT host, time_bucket('1 hour', time) AS time, count(*), avg(v), max(v), last(v, time) \
     FROM m GROUP BY host, time_bucket('1 hour', time)";
const BY_DAY: &str = "SELECT time_bucket('1 day', time) AS day, host, count(*) AS n, avg(v) AS v, last(v, time) AS last FROM m GROUP BY day, host ORDER BY day, host";

/// Two days of a row every ten minutes on two hosts: `v` is the number of the row in its day.
fn two_days() -> String {
    let mut lines = String::new();
    for step in 0..288 {
        for host in ["a", "b"] {
            writeln!(lines, "m,host={host} v={} {}", step % 144, step * 600_000_000_000_i64).unwrap();
        }
    }
    lines
}

fn ask(data: &Path, statement: &str) -> Vec<Value> {
    let mut command = weir();
    command.args(["sql", "--db", "d", "--format", "json", statement]).env("WEIR_DATA", data);
    serde_json::from_str(&run_well(&mut command, b"")).unwrap()
}

/// The answer by day, as `day host n avg last`.
fn by_day(rows: &[Value]) -> Vec<String> {
    let text = |row: &Value| {
        let day = row["day"].as_str().unwrap();
        format!("{} {} {} {} {}", &day[..10], row["host"].as_str().unwrap(), row["n"], row["v"], row["last"])
    };
    rows.iter().map(text).collect()
}

fn explained(rows: &[Value]) -> String {
    rows.iter().map(|row| row["plan"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
}

/// Settings with which the server looks after rollups every second.
fn settings(data: &Path) {
    std::fs::write(data.join("weir.toml"), "[engine]\nrollups_every_s = 1\n").unwrap();
}

/// Waits until the server says of the rollup what is wanted.
fn wait_for(server: &Weir, state: &str) {
    let start = Instant::now();
    loop {
        let shown = server.sql("d", "SHOW ROLLUPS");
        if shown[0]["state"] == state {
            return;
        }
        assert!(start.elapsed() < REFRESHED_WITHIN, "{shown:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_rollup_on_a_folder_is_made_filled_used_and_dropped() {
    let data = folder();
    let mut command = weir();
    command.args(["write", "--db", "d", "-"]).env("WEIR_DATA", data.path());
    run_well(&mut command, two_days().as_bytes());
    assert_eq!(ask(data.path(), HOURLY)[0]["state"], "created");
    let shown = ask(data.path(), "SHOW ROLLUPS");
    assert_eq!(
        (&shown[0]["rollup"], &shown[0]["table"], &shown[0]["every"]),
        (&"hourly".into(), &"m".into(), &"3600 s".into())
    );
    assert_eq!(shown[0]["state"], "not summed up yet");
    // Two hosts, two days of 24 hours.
    let refreshed = ask(data.path(), "REFRESH ROLLUP hourly");
    assert_eq!((&refreshed[0]["state"], &refreshed[0]["rows"]), (&"refreshed".into(), &96.into()));
    assert_eq!(ask(data.path(), "REFRESH ROLLUP hourly")[0]["state"], "nothing to do");
    assert_eq!(ask(data.path(), "SHOW ROLLUPS")[0]["state"], "right");
    // The average of 0 to 143 is 71.5.
    let expected = [
        "1970-01-01 a 144 71.5 143.0",
        "1970-01-01 b 144 71.5 143.0",
        "1970-01-02 a 144 71.5 143.0",
        "1970-01-02 b 144 71.5 143.0",
    ];
    assert_eq!(by_day(&ask(data.path(), BY_DAY)), expected);
    let plan = explained(&ask(data.path(), &format!("EXPLAIN {BY_DAY}")));
    assert!(
        plan.contains("weir_rollup-hourly") && plan.contains("d.m: rollup hourly answers 1 spans of time, the table 0"),
        "{plan}"
    );
    // It is not in the way of anything: no table of that name, and it goes and comes back like one.
    assert_eq!(ask(data.path(), "SHOW TABLES").len(), 1);
    let dropped = ask(data.path(), "DROP ROLLUP hourly");
    assert!(ask(data.path(), "SHOW ROLLUPS").is_empty());
    assert_eq!(by_day(&ask(data.path(), BY_DAY)), expected);
    let operation = dropped[0]["operation"].as_str().unwrap();
    ask(data.path(), &format!("UNDO OPERATION '{operation}'"));
    assert_eq!(ask(data.path(), "SHOW ROLLUPS")[0]["state"], "right");
    let mut off = weir();
    std::fs::write(data.path().join("weir.toml"), "[query]\nquery_rollups = false\n").unwrap();
    off.args(["sql", "--db", "d", "--format", "json", &format!("EXPLAIN {BY_DAY}")]).env("WEIR_DATA", data.path());
    let plan: Vec<Value> = serde_json::from_str(&run_well(&mut off, b"")).unwrap();
    assert!(!explained(&plan).contains("rollup"));
}

/// Late rows, deletes and their undo reach the rollup by themselves, and the answers are right all the while.
#[test]
fn a_server_keeps_its_rollups_up_to_date_across_a_kill() {
    let data = folder();
    settings(data.path());
    let server = Weir::start(data.path());
    server.write_all("d", &two_days());
    server.flush();
    server.sql("d", HOURLY);
    wait_for(&server, "right");
    // A late row counts at once, from the buffer (the average becomes 10440 / 145); once it is in a file, the rollup has it.
    server.write_all("d", "m,host=a v=144 1\n");
    assert_eq!(by_day(&server.sql("d", BY_DAY))[0], "1970-01-01 a 145 72.0 143.0");
    assert_eq!(server.sql("d", "SHOW ROLLUPS")[0]["state"], "right but for what was written since");
    server.kill();
    let server = Weir::start(data.path());
    assert_eq!(by_day(&server.sql("d", BY_DAY))[0], "1970-01-01 a 145 72.0 143.0");
    server.flush();
    wait_for(&server, "right");
    assert_eq!(by_day(&server.sql("d", BY_DAY))[0], "1970-01-01 a 145 72.0 143.0");
    let deleted = server.sql("d", "DELETE FROM m WHERE host = 'b' AND time >= '1970-01-02'");
    assert_eq!(by_day(&server.sql("d", BY_DAY)).len(), 3);
    wait_for(&server, "right");
    assert_eq!(by_day(&server.sql("d", BY_DAY)).len(), 3);
    let plan = explained(&server.sql("d", &format!("EXPLAIN {BY_DAY}")));
    assert!(plan.contains("rollup hourly answers 1 spans of time, the table 0"), "{plan}");
    server.sql("d", &format!("UNDO OPERATION '{}'", deleted[0]["operation"].as_str().unwrap()));
    assert_eq!(by_day(&server.sql("d", BY_DAY)).len(), 4);
    wait_for(&server, "right");
    assert_eq!(by_day(&server.sql("d", BY_DAY))[3], "1970-01-02 b 144 71.5 143.0");
    server.stop();
}

#[test]
fn what_is_wrong_with_a_rollup_is_told() {
    let data = folder();
    let mut command = weir();
    command.args(["write", "--db", "d", "-"]).env("WEIR_DATA", data.path());
    run_well(&mut command, two_days().as_bytes());
    ask(data.path(), HOURLY);
    for (sql, told, code) in [
        ("CREATE ROLLUP h AS SELECT host FROM m", "a rollup is SELECT tags", 2),
        (HOURLY, "there is a rollup 'hourly' already", 4),
        (
            "CREATE ROLLUP h ON other AS SELECT time_bucket('1 hour', time), count(*) FROM m GROUP BY 1",
            "another table",
            2,
        ),
        ("REFRESH ROLLUP none", "there is no rollup 'none'", 3),
        ("DROP TABLE \"weir_rollup-hourly\"", "DROP ROLLUP hourly", 2),
        ("DELETE FROM \"weir_rollup-hourly\" WHERE true", "DROP ROLLUP hourly", 2),
    ] {
        let mut command = weir();
        command.args(["sql", "--db", "d", sql]).env("WEIR_DATA", data.path());
        let output = run(&mut command, b"");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(told), "{sql}: {stderr}");
        assert_eq!(output.status.code(), Some(code), "{sql}: {stderr}");
    }
    let again = HOURLY.replace("ROLLUP", "ROLLUP IF NOT EXISTS");
    assert_eq!(ask(data.path(), &again)[0]["state"], "there already");
}

/// A table keeps its rows for a month, its rollup for good: what was summed up is there after the rows went, across a restart.
#[test]
fn a_rollup_keeps_what_its_table_lets_go_of() {
    let data = folder();
    let config = "[engine]\nretention_every_s = 1\nrollups_every_s = 3600\n[retention]\nd = '30d'\n";
    std::fs::write(data.path().join("weir.toml"), config).unwrap();
    let day = 86_400_000_000_000_u128;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let old = now / day * day - 40 * day;
    // Made and filled before the rows are there, so that nothing is summed up but by the retention itself.
    let mut made = weir();
    made.args(["write", "--db", "d", "-"]).env("WEIR_DATA", data.path());
    run_well(&mut made, format!("m,host=a v=1 {now}\n").as_bytes());
    ask(data.path(), &HOURLY.replace("hourly AS", "hourly RETENTION 'forever' AS"));
    assert_eq!(ask(data.path(), "SHOW ROLLUPS")[0]["retention"], "forever");
    let mut late = weir();
    late.args(["write", "--db", "d", "-"]).env("WEIR_DATA", data.path());
    run_well(&mut late, format!("m,host=a v=7 {old}\nm,host=a v=8 {}\n", old + 1).as_bytes());
    let server = Weir::start(data.path());
    let start = Instant::now();
    while server.sql("d", "SELECT count(*) AS n FROM m WHERE v >= 0")[0]["n"] != 1 {
        assert!(start.elapsed() < REFRESHED_WITHIN, "the rows never went");
        std::thread::sleep(Duration::from_millis(50));
    }
    let sums = "SELECT time_bucket('1 day', time) AS day, count(*) AS n, avg(v) AS v FROM m GROUP BY day ORDER BY day";
    let shown = server.sql("d", sums);
    assert_eq!((shown.len(), &shown[0]["n"], &shown[0]["v"]), (2, &2.into(), &7.5.into()), "{shown:?}");
    server.kill();
    let server = Weir::start(data.path());
    assert_eq!(server.sql("d", sums)[0]["v"], 7.5);
    server.sql("d", "REFRESH ROLLUP hourly");
    assert_eq!(server.sql("d", sums)[0]["v"], 7.5);
    server.stop();
}
